"""Which files FLAIR #2 has, and which of them belong together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .files import one_message, read_json, reading

__all__ = ["CENTROIDS", "Area", "Image", "find_images"]

PARTS = ("train", "test")
CENTROIDS = "flair-2_centroids_sp_to_patch.json"
_FOLDER = re.compile(r"flair(?:[-_]2)?(?:[-_]toy)?[-_](aerial|sen|labels)[-_](train|test)")
_LAYOUT = "flair_aerial_train, flair_sen_train, flair_labels_train, flair_2_aerial_test and so on"


@dataclass(frozen=True)
class Area:
    """The Sentinel-2 series of one area, which all its images share; ``masks`` may be missing."""

    data: Path
    masks: Path
    products: Path

    def dates(self) -> np.ndarray:
        """(L,) datetime64[D], of the product names.

        Raises:
            ValueError: a line that is no product name.
        """
        with reading(self.products):
            lines = [line.strip() for line in self.products.read_text().splitlines() if line.strip()]
        dates = []
        for line in lines:
            text = line[11:19]
            try:
                dates.append(np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}", "D"))
            except ValueError as error:
                raise ValueError(
                    f"{self.products}: {line!r} has no date YYYYMMDD as characters 11 to 18; product names such as "
                    "S2A_MSIL2A_20210117T104351_... wanted"
                ) from error
        return np.array(dates, dtype="datetime64[D]")


@dataclass(frozen=True)
class Image:
    """One aerial image, its mask, and where it lies in the series of its area; None for what is not wanted."""

    name: str
    part: str
    domain: str
    aerial: Path | None
    mask: Path | None
    area: Area | None
    centroid: tuple[int, int] | None


def find_images(folder: Path, aerial: bool, series: bool, masks: bool, clouds: bool) -> list[Image]:
    """Every image of the training and the test folders, in the order of domain, area and number.

    Args:
        aerial, series, masks: which files are wanted.
        clouds: whether a series needs its snow and cloud probabilities.

    Raises:
        ValueError: another layout, or files that are missing, all of which are named.
    """
    folders = _folders(folder)
    wanted = {"aerial": aerial, "sen": series, "labels": masks}
    centroids = _centroids(folder) if series else {}
    images: list[Image] = []
    missing: list[str] = []
    for part in PARTS:
        there = {kind: folders[kind, part] for kind in wanted if (kind, part) in folders}
        if not any(wanted[kind] for kind in there):
            continue
        lacking = [kind for kind, is_wanted in wanted.items() if is_wanted and kind not in there]
        if lacking or not {"aerial", "labels"} & set(there):
            raise ValueError(
                f"{folder}: {', '.join(p.name for p in there.values())} is here, but not {part}'s folder of "
                f"{' and '.join(lacking or ['aerial or labels'])}; copy it, or leave the modality or the labels out"
            )
        found = {
            "aerial": _numbered(there.get("aerial"), "img/IMG"),
            "labels": _numbered(there.get("labels"), "msk/MSK"),
        }
        listing = [kind for kind in ("aerial", "labels") if wanted[kind]] or [k for k in found if k in there][:1]
        areas: dict[str, Area] = {}
        for domain, area, number in sorted({key for kind in listing for key in found[kind]}):
            key, where = (domain, area, number), f"{domain}/{area}"
            for kind, pattern in (("aerial", "img/IMG_{}.tif"), ("labels", "msk/MSK_{}.tif")):
                if wanted[kind] and key not in found[kind]:
                    missing.append(str(there[kind] / where / pattern.format(number)))
            if series and f"IMG_{number}.tif" not in centroids:
                missing.append(f"IMG_{number}.tif in {CENTROIDS}")
            if series and where not in areas:
                areas[where] = _area(there["sen"] / where / "sen")
            images.append(
                Image(
                    f"{domain}_{area}_IMG_{number}",
                    part,
                    domain,
                    found["aerial"].get(key),
                    found["labels"].get(key),
                    areas.get(where),
                    centroids.get(f"IMG_{number}.tif"),
                )
            )
        missing += _missing_series(areas, clouds)
    if missing:
        raise ValueError(
            one_message(missing, f"{folder}: {len(missing)} files are missing; copy them, or take their partners away")
        )
    if not images:
        raise ValueError(f"{folder}: no IMG_<number>.tif or MSK_<number>.tif as D004_2021/Z1_NN/img/IMG_000001.tif")
    return images


def _folders(folder: Path) -> dict[tuple[str, str], Path]:
    """By kind (aerial, sen, labels) and part (train, test)."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the one that holds flair_aerial_train (--data)")
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        match = _FOLDER.fullmatch(path.name)
        if match:
            key = (match[1], match[2])
            if key in found:
                raise ValueError(f"{folder}: both {found[key].name} and {path.name} are here; keep one of them")
            found[key] = path
    if found:
        return found
    names = sorted(p.name for p in folder.iterdir())
    if {"data", "aux-data"} & set(names):
        raise ValueError(
            f"{folder}: a newer layout ({', '.join(names[:6])}); understood is that of FLAIR #2 as first published: "
            f"{_LAYOUT}, and {CENTROIDS}"
        )
    near = [p for p in [*folder.iterdir(), folder.resolve().parent] if p.is_dir() and any(p.glob("flair*aerial*"))]
    raise ValueError(
        f"{folder}: no {_LAYOUT} here, found {', '.join(names[:8]) or 'nothing'}; "
        + (f"give {near[0]}, which has them" if near else "give the folder of FLAIR #2 (--data)")
    )


def _numbered(folder: Path | None, pattern: str) -> dict[tuple[str, str, str], Path]:
    """Files by domain, area and trailing number."""
    if folder is None:
        return {}
    found = {}
    for path in folder.glob(f"*/*/{pattern}_*.tif"):
        domain, area = path.parts[-4:-2]
        found[domain, area, path.stem.rpartition("_")[2]] = path
    return found


def _centroids(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [folder / name for name in (CENTROIDS, CENTROIDS.replace("-2", "_2"))]
    path = next((p for p in paths if p.is_file()), paths[0])
    table = read_json(path)
    try:
        return {name: (round(row), round(column)) for name, (row, column) in table.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {{'IMG_000001.tif': [row, column], ...}} wanted ({error})") from error


def _area(folder: Path) -> Area:
    """The series in a folder; names that no file has where there is none."""
    data = sorted(folder.glob("*_data.npy"))
    if len(data) > 1:
        raise ValueError(f"{folder}: {len(data)} series, {data[0].name}, {data[1].name}, ...; one wanted")
    stem = data[0].name.removesuffix("_data.npy") if data else "SEN2_sp_<area>"
    return Area(*(folder / f"{stem}_{end}" for end in ("data.npy", "masks.npy", "products.txt")))


def _missing_series(areas: dict[str, Area], clouds: bool) -> list[str]:
    wanted = [(area.data, area.products, *([area.masks] if clouds else [])) for area in areas.values()]
    return [str(path) for paths in wanted for path in paths if not path.is_file()]
