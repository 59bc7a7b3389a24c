"""``fusion COMMAND``: reads the command line and presets, runs a command of :mod:`fusion.commands`.

Nothing here or at the top of a command's module may import torch: ``--help`` must come at once.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from argparse import Action
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
from jsonargparse import ActionConfigFile, ArgumentParser

__all__ = ["main"]

PRESETS = Path(__file__).parent / "presets"
# Exit codes: 0 done, 1 done and the answer is no, 2 could not be done, 130 interrupted.
_CANNOT, _INTERRUPTED = 2, 130


class Parser(ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        command = self.prog.replace("[options] ", "")
        self.exit(_CANNOT, f"{command}: {message}\n`{command} --help` lists the options\n")


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
        for name in self.positional:
            parser.add_argument(name, type=str, help=told[name])
        parser.add_function_arguments(self.function, as_group=False, skip=set(self.positional))
        return parser


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "doctor": Command("doctor:doctor"),
    "build": Command("build:build"),
    "demo": Command("experiment:demo"),
    "data": {"check": Command("check:check", "data")},
    "pretrain": Command("pretrain:pretrain", configurable=True),
    "probe": Command("probe:probe", "run", configurable=True),
    "finetune": Command("finetune:finetune", "run", configurable=True),
    "evaluate": Command("finetune:evaluate", "run", configurable=True),
    "embed": Command("embed:embed", "run", configurable=True),
    "experiment": Command("experiment:experiment", "name"),
    "report": Command("report:report", "run"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code. Errors of the package are told in words, without a traceback."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    path, values = [parsed.command], parsed[parsed.command]
    command = COMMANDS[parsed.command]
    if isinstance(command, dict):
        path.append(values.subcommand)
        command, values = command[values.subcommand], values[values.subcommand]
    given = {k: v for k, v in values.as_dict().items() if k not in ("config", "preset")}
    try:
        return command.function(**given) or 0
    except KeyboardInterrupt as why:
        print(f"\nfusion {' '.join(path)}: {why or 'interrupted'}", file=sys.stderr)
        return _INTERRUPTED
    except (ValueError, TypeError, RuntimeError, KeyError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("FUSION_VERBOSE") == "1":
            traceback.print_exc()
        print(f"fusion {' '.join(path)}: {_in_words(error)}", file=sys.stderr)
        return _CANNOT


def _in_words(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name!r} is not installed: pip install 'eo-fusion[train]'"
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str(KeyError) would quote it
    return str(error) or type(error).__name__


def _parser() -> Parser:
    parser = Parser(prog="fusion", description="Representations, maps and scores from multimodal Earth observation.")
    _add(parser, COMMANDS, "command")
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
