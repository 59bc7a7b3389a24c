"""Which files PASTIS-HD has, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .modality import Modality
from .pastis_metadata import FOLDS

__all__ = [
    "CROPS",
    "GRID",
    "METADATA",
    "SOURCES",
    "TARGETS",
    "VOID",
    "check_options",
    "find_metadata",
    "patches_with",
]

CROPS = (
    "Meadow", "Soft winter wheat", "Corn", "Winter barley", "Winter rapeseed", "Spring barley", "Sunflower",
    "Grapevine", "Beet", "Winter triticale", "Winter durum wheat", "Fruits/vegetables/flowers", "Potatoes",
    "Leguminous fodder", "Soybeans", "Orchard", "Mixed cereal", "Sorghum",
)  # fmt: skip
VOID = 19
GRID = 32  # patches of 40 m per side
METADATA = "metadata.geojson"
TARGETS = "ANNOTATIONS/TARGET_{}.npy"


@dataclass(frozen=True)
class Source:
    """A modality, the pattern of its files, and its part of the names of files and dates."""

    modality: Modality
    files: str
    part: str = ""

    @property
    def pixels(self) -> int:
        """Per side of a whole patch."""
        return GRID * self.modality.patch_size


_S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_S1 = ("VV", "VH", "VV-VH")
SOURCES = {
    "spot": Source(
        Modality("spot", "image", ("R", "G", "B"), 1.0, 40, "8 bit"),
        "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019/SPOT6_RVB_1M00_2019_{}.tif",
    ),
    "s2": Source(Modality("s2", "series", _S2, 10.0, 4, "reflectance x 10000"), "DATA_S2/S2_{}.npy", "S2"),
    "s1-asc": Source(Modality("s1-asc", "series", _S1, 10.0, 4, "dB"), "DATA_S1A/S1A_{}.npy", "S1A"),
    "s1-des": Source(Modality("s1-des", "series", _S1, 10.0, 4, "dB"), "DATA_S1D/S1D_{}.npy", "S1D"),
}


def find_metadata(folder: Path) -> Path:
    """``metadata.geojson`` of the folder.

    Raises:
        ValueError: there is none; the message says what was found, and which folder has it.
    """
    path = folder / METADATA
    if path.is_file():
        return path
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the one with {METADATA} of PASTIS-HD (--data)")
    inside = sorted(child for child in folder.iterdir() if (child / METADATA).is_file())
    right = [folder.resolve().parent] if (folder.resolve().parent / METADATA).is_file() else inside
    found = ", ".join(sorted(child.name for child in folder.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"{folder}: no {METADATA} here, found {found}; "
        + (f"give {right[0]}, which has it" if right else "give the folder of PASTIS-HD (--data), or copy the file")
    )


def patches_with(folder: Path, files: str) -> set[str]:
    """Names of the patches that have a file of this pattern."""
    inside, _, name = files.rpartition("/")
    before, after = name.split("{}")
    there = (folder / inside).glob(f"{before}*{after}")
    return {path.name[len(before) : len(path.name) - len(after)] for path in there}


def check_options(modalities: Sequence[str], labels: str | None, test_fold: int, cut: int) -> None:
    """
    Raises:
        ValueError: an option of the reader that it does not have; the message says which there are.
    """
    unknown = [name for name in modalities if name not in SOURCES]
    if isinstance(modalities, str) or unknown or not modalities:
        raise ValueError(f"PastisDataset: modalities {unknown or modalities} unknown; it has {', '.join(SOURCES)}")
    if labels not in ("classes", "map", None):
        raise ValueError(f"PastisDataset: labels are 'classes', 'map' or None, not {labels!r}")
    if test_fold not in FOLDS:
        raise ValueError(f"PastisDataset: test_fold is 1, 2, 3, 4 or 5, not {test_fold!r}")
    if not isinstance(cut, int) or cut < 1 or GRID % cut:
        raise ValueError(f"PastisDataset: cut is 1, 2, 4, 8, 16 or 32, which divide a side of {GRID}, not {cut}")
