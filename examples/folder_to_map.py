"""From a folder of your own to a georeferenced map: describe it, pretrain, probe the labels, embed.

    python examples/folder_to_map.py [DIR]

DIR holds fusion.yaml and the files it describes (docs/data.md). Without DIR, a folder of two small scenes is written.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from fusion.data import fit_statistics, open_data
from fusion.embed import embed_map
from fusion.evaluation import extract, linear_probe
from fusion.omnisat import OmniSatConfig, OmniSatPretraining
from fusion.training import fit, load_model

DESCRIPTION = """\
files: "{scene}.npz"      # one file a place
tile: 80                  # metres
patch: 20
modalities:
  s2:
    variable: s2          # (dates, bands, rows, columns)
    bands: [B02, B04, B08]
    resolution: 10
    dates: dates
    unit: reflectance x 10000
labels: {variable: crop, resolution: 10, reduction: majority, classes: {wheat: 1, maize: 2}}
georeference: {epsg: 32631, bounds: bounds}
splits: {train: {columns: [0, 0.75]}, test: {columns: [0.75, 1]}}
"""


def write_folder(folder: Path) -> Path:
    """Two scenes of 320 m; maize (2) is green in summer, wheat (1) in spring."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(("north", "south")):
        crop = np.kron(rng.integers(1, 3, (4, 4)), np.ones((8, 8), int))  # fields of 80 m, 32 x 32 pixels
        months = np.arange(4, 10)
        green = np.exp(-(((months[:, None, None] - np.where(crop == 1, 5, 8)) / 1.5) ** 2))  # (dates, rows, columns)
        s2 = np.stack([900 - 300 * green, 1200 - 800 * green, 1500 + 2500 * green], axis=1) + rng.normal(
            0, 60, (6, 3, 32, 32)
        )
        top = 5_600_000 - 1000 * number
        np.savez(
            folder / f"{scene}.npz",
            s2=s2.clip(1).astype(np.uint16),
            dates=np.array([f"2021-{month:02d}-15" for month in months]),
            crop=crop,
            bounds=np.array([500_000, top - 320, 500_320, top]),
        )
    (folder / "fusion.yaml").write_text(DESCRIPTION)
    return folder


def main(folder: Path | None = None, out: Path = Path("runs/folder_to_map"), epochs: int = 20) -> list[Path]:
    tiles = open_data((folder or write_folder(out / "data")) / "fusion.yaml")
    train, test = tiles.split("train"), tiles.split("test")
    torch.manual_seed(0)
    config = OmniSatConfig.preset("tiny", fit_statistics(train), tiles.grid)
    model = load_model(fit(OmniSatPretraining(config, lr=1e-3), train, None, out / "run", epochs=epochs, batch_size=8))
    score = linear_probe(extract(model, train), extract(model, test)).scores
    print(f"{len(train)} labelled tiles, {len(test)} held out: macro F1 {score['macro_f1']:.2f}")
    maps = embed_map(model, tiles, out / "embeddings.tif")  # one file where scenes share a grid, else a folder of them
    print(*maps, sep="\n")
    return [written.path for written in maps]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
