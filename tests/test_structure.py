"""The layers that docs/architecture.md promises are those of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "structure.py"


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(structure: ModuleType) -> dict[str, set[str]]:
    return structure.imports(structure.modules())


def test_no_module_imports_itself_through_others(structure, found):
    assert structure.circle(found) == []


def test_no_package_imports_one_above_it(structure, found):
    assert structure.upward(structure.between_packages(found)) == []


def test_every_package_has_its_layer(structure, found):
    packages = set(structure.between_packages(found)) - {"fusion", "__main__", "presets"}
    assert packages == set(structure.LEVEL)


def test_experiments_do_not_import_each_other(structure, found):
    """An experiment is a module, or a package of its own, right below ``fusion.experiments``."""

    def experiment(module: str) -> str:
        return ".".join(module.split(".")[:3])

    for module, targets in found.items():
        if module.startswith("fusion.experiments."):
            others = {t for t in targets if t.startswith("fusion.experiments.")}
            assert {experiment(t) for t in others} <= {experiment(module)}, module


def test_the_page_has_the_table_of_the_code(structure, found):
    page = structure.PAGE.read_text()
    assert structure.rewritten(page, structure.between_packages(found)) == page, "run docs/structure.py --write"


def test_circles_and_imports_upwards_are_seen(structure):
    assert structure.circle({"a.b": {"a.c"}, "a.c": {"a.b"}}) != []
    table = {"data": {"workflow"}, "omnisat": {"context"}, "commands": {"experiments"}, "workflow": {"data"}}
    assert structure.upward(table) == [
        "commands imports experiments",
        "data imports workflow",
        "omnisat imports context",
    ]


def test_names_that_moved_are_still_where_they_were():
    import fusion.data
    import fusion.experiments
    import fusion.kernels
    import fusion.tokenizers
    import fusion.workflow

    assert fusion.kernels.PatchTokenizer is fusion.tokenizers.PatchTokenizer
    assert fusion.experiments.open_data is fusion.data.open_data
    assert fusion.experiments.run_experiment is fusion.workflow.run_experiment
    assert fusion.data.CubeDataset is fusion.data.FolderDataset
    for package in (fusion.kernels, fusion.experiments):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018
