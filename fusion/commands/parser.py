"""The command line: which commands there are, and what each takes, from the signature of its function.

Nothing here or at the top of a command's module may import torch: ``--help`` must come at once.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from argparse import Action
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import docstring_parser
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_loader

from fusion.settings import former_names, with_new_names
from fusion.yaml_loader import load_yaml

__all__ = ["COMMANDS", "parse"]

PRESETS = Path(__file__).parent.parent / "presets"
MODE = "fusion"  # of jsonargparse's parsers, beside its own "yaml"


def _value(text: str) -> Any:
    """What an option's text or a file of options says, by the rules of every other YAML here."""
    value = load_yaml(text)
    # A pattern such as `{scene}`, or a name that ends in a colon, is text and no mapping to nothing.
    empty = isinstance(value, dict) and bool(value) and all(part is None for part in value.values())
    return text if empty and "\n" not in text.strip() else value


set_loader(MODE, _value, (ValueError,))


class Parser(ArgumentParser):
    """Says in one line what is wrong with a command line, and understands options by their former names too.

    Attributes:
        former: the new name of an option by its former name, see :func:`fusion.settings.renamed`.
        switches: options that are true or false; ``--fresh`` alone is ``--fresh true``.
    """

    former: Mapping[str, str] = MappingProxyType({})
    switches: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"parser_mode": MODE, **settings})
        # argparse takes -1e-3 for an option that is unknown, and says that the one before lacks its argument.
        self._negative_number_matcher = re.compile(r"-(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\Z")

    def parse_args(self, *args: Any, **settings: Any) -> Any:
        if args and args[0] is not None:
            args = (_joined(self._switched_on(self._options(args[0]))), *args[1:])
        return super().parse_args(*args, **settings)

    def parse_string(self, content: str, *more: Any, **settings: Any) -> Namespace:
        return super().parse_string(self._keys(content), *more, **settings)  # a file of --config or --preset

    def _options(self, arguments: Sequence[str]) -> list[str]:
        """``--former``, ``--former=value``, ``--former.key`` and ``--former+`` with the new name."""
        parts = [re.fullmatch(r"--(\w+)((?:[=.+].*)?)", argument, re.S) for argument in arguments]
        new = self._new_names([part[1] for part in parts if part], "options")
        return [
            f"--{new[part[1]]}{part[2]}" if part else argument for part, argument in zip(parts, arguments, strict=True)
        ]

    def _switched_on(self, arguments: Sequence[str]) -> list[str]:
        """With ``true`` after every switch that no value follows."""
        out: list[str] = []
        for argument, after in zip_longest(arguments, arguments[1:], fillvalue=""):
            out.append(argument)
            if argument in self.switches and after.lower() not in ("true", "false", "yes", "no", "1", "0", "null"):
                out.append("true")
        return out

    def _keys(self, content: str) -> str:
        """The text of a YAML with the new names of its keys; all else stays as it is written."""
        try:
            tree = yaml.compose(content)
        except yaml.YAMLError:  # which jsonargparse tells
            return content
        if not self.former or not isinstance(tree, yaml.MappingNode):
            return content
        keys = [key for key, _ in tree.value if isinstance(key, yaml.ScalarNode)]
        new = self._new_names([key.value for key in keys], "configuration")
        for key in keys:
            key.value = new[key.value]
        return yaml.serialize(tree)

    def _new_names(self, names: Sequence[str], where: str) -> dict[str, str]:
        try:
            with_new_names(dict.fromkeys(names), self.former, where)
        except TypeError as error:
            self.error(str(error), error)
        return {name: self.former.get(name, name) for name in names}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        command = self.prog.replace("[options] ", "")
        self.exit(2, f"{command}: {message}\n`{command} --help` lists the options\n")


class PresetAction(Action):
    """``--preset NAME`` is ``--config`` with a file that ships with the package."""

    def __call__(self, parser: Any, config: Any, name: Any, option: str | None = None) -> None:
        path = PRESETS / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))
            parser.error(f"no preset {name!r}; there are {known}")
        ActionConfigFile.apply_config(parser, config, "config", str(path))


class Command:
    """A subcommand and the function behind it; ``positional`` names arguments given without ``--``."""

    def __init__(self, where: str, *positional: str, configurable: bool = False) -> None:
        self.where, self.positional, self.configurable = where, positional, configurable

    @property
    def function(self) -> Callable[..., int | None]:
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(f"fusion.commands.{module}"), name)

    def parser(self) -> Parser:
        documented = inspect.getdoc(self.function) or ""
        parser = Parser(description=" ".join(documented.partition("\n\nArgs:")[0].split()))
        if self.configurable:
            parser.add_argument("--config", action="config", help="YAML file with values for the options below")
            parser.add_argument("--preset", action=PresetAction, metavar="NAME", help="values that ship with fusion")
        told = {parameter.arg_name: parameter.description for parameter in docstring_parser.parse(documented).params}
        parser.former = former_names(self.function)
        takes = inspect.signature(self.function).parameters
        parser.switches = frozenset(f"--{k}" for k, p in takes.items() if p.annotation in ("bool", "bool | None"))
        for name in self.positional:
            several = "+" if str(takes[name].annotation).startswith("list") else None
            parser.add_argument(name, type=str, nargs=several, help=told[name])
        parser.add_function_arguments(self.function, as_group=False, skip=set(self.positional))
        return parser


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "doctor": Command("doctor:doctor"),
    "build": Command("build:build"),
    "demo": Command("experiment:demo"),
    "data": {"check": Command("check:check", "data"), "describe": Command("describe:describe", "path")},
    "pretrain": Command("pretrain:pretrain", configurable=True),
    "probe": Command("probe:probe", "run", configurable=True),
    "finetune": Command("finetune:finetune", "run", configurable=True),
    "evaluate": Command("finetune:evaluate", "run", configurable=True),
    "embed": Command("embed:embed", "run", configurable=True),
    "predict": Command("predict:predict", "run", configurable=True),
    "export": Command("export:export", "run"),
    "generate": Command("generate:generate", "run", configurable=True),
    "counterfactual": Command("counterfactual:counterfactual", "run", configurable=True),
    "sensitivity": Command("sensitivity:sensitivity", "run", configurable=True),
    "tokenize": Command("tokenize:tokenize", "files"),
    "experiment": Command("experiment:experiment", "name"),
    "report": Command("report:report", "run"),
    "table": Command("table:table", "runs"),
}


def parse(arguments: Sequence[str] | None) -> tuple[str, Callable[..., int | None], dict[str, Any]]:
    """Name and function of the command that the arguments ask for, and what to give it.

    Raises:
        SystemExit: with 0 after ``--help``, with 2 after two lines about what is wrong.
    """
    parser = Parser(prog="fusion", description="Representations, maps and scores from multimodal Earth observation.")
    _add(parser, COMMANDS, "command")
    parsed = parser.parse_args(arguments)
    path, values, command = [parsed.command], parsed[parsed.command], COMMANDS[parsed.command]
    if isinstance(command, dict):
        path.append(values.subcommand)
        command, values = command[values.subcommand], values[values.subcommand]
    given = {k: v for k, v in values.as_dict().items() if k not in ("config", "preset")}
    return " ".join(path), command.function, given


def _joined(arguments: Sequence[str]) -> list[str]:
    """``--model.a.b 1 --model.a.c 2`` as ``--model.a {"b": 1, "c": 2}``: jsonargparse reads one level of keys, and
    leaves the values of a second one as text."""
    left: list[str] = []
    trees: dict[str, dict[str, Any]] = {}
    rest = iter(arguments)
    for argument in rest:
        found = re.fullmatch(r"(--\w+\.\w[\w-]*)((?:\.\w[\w-]*)*)(?:=(.*))?", argument, re.S)
        if found is None or not (found[2] or found[1] in trees):
            left.append(argument)
            continue
        option, value = found[1], _value(next(rest, "") if found[3] is None else found[3])
        if option not in trees:
            trees[option] = {}
            if option in left:  # given as a whole before
                place = left.index(option)
                whole = _value(left[place + 1]) if place + 1 < len(left) else None
                trees[option] = whole if isinstance(whole, dict) else {}
                del left[place : place + 2]
            left += [option, ""]
        tree, keys = trees[option], found[2].split(".")[1:]
        for key in keys[:-1]:
            tree = tree.setdefault(key, {})
        tree.update({keys[-1]: value} if keys else value if isinstance(value, dict) else {})
    for option, tree in trees.items():
        left[left.index(option) + 1] = json.dumps(tree)
    return left


def _add(parser: Parser, commands: dict[str, Any], dest: str) -> None:
    subparsers = parser.add_subcommands(dest=dest, title="commands", metavar="COMMAND")
    for name, command in commands.items():
        if isinstance(command, dict):
            group = Parser(description=f"{' or '.join(command)}: see fusion {name} {next(iter(command))} --help")
            subparsers.add_subcommand(name, group, help=group.description)
            _add(group, command, "subcommand")
        else:
            own = command.parser()
            subparsers.add_subcommand(name, own, help=re.split(r"[.;:] ?", own.description)[0])
