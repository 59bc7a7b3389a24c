"""The READMEs say what is so: their Python runs, their tables are the measured ones, their links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "benchmarks" / "README.md", *(REPOSITORY / "docs").glob("*.md")]
EXCHANGED = re.findall(r"^- (from .*?)\s*(?:#.*)?\n\+ (from .*)", (REPOSITORY / "README.md").read_text(), re.M)
BLOCKS = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "README.md").read_text(), re.S | re.M)


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "<README>", "exec"), {})


def test_lines_that_are_exchanged_are_found() -> None:
    assert len(EXCHANGED) == (REPOSITORY / "README.md").read_text().count("\n+ from ") >= 5


@pytest.mark.parametrize(("theirs", "ours"), EXCHANGED, ids=lambda line: line.split()[1])
def test_stand_ins_are_imported_by_the_names_of_the_originals(theirs: str, ours: str) -> None:
    names: dict[str, object] = {}
    exec(ours, names)
    wanted = [name.strip() for name in theirs.partition(" import ")[2].split(",")]
    assert [name for name in wanted if not callable(names.get(name))] == []


def test_tables_are_those_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for document in tables.DOCUMENTS:
        text = document.read_text()
        assert tables.rewrite(text) == text, f"{document.name}: run `python benchmarks/tables.py`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"
