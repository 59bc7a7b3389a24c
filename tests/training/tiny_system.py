"""A tiny system and data set with the contracts of the real ones: fast enough to train dozens of times in tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn

from fusion.data import Modality, Tile, TileBatch, TileDataset

S2 = Modality("s2", "series", ("B03", "B04", "B08"), 10.0, 1, "reflectance x 10000")
VHR = Modality("vhr", "image", ("R", "G", "B"), 2.5, 4, "8 bit")


class Meadows(TileDataset):
    """Two or three classes that differ in brightness and season; the label is known, views are seeded."""

    def __init__(self, tiles: int = 24, task: str = "multiclass", classes: int = 2) -> None:
        kinds = torch.arange(tiles) % classes
        labels = {
            "multiclass": kinds,
            "multilabel": nn.functional.one_hot(kinds, classes).float(),
            "regression": kinds[:, None].float() * 100 + torch.arange(tiles)[:, None] / tiles,
        }[task]
        names = [f"class{k}" for k in range(classes)] if task != "regression" else ["biomass"]
        super().__init__([f"tile{i}" for i in range(tiles)], (S2, VHR), (2, 2), task=task, classes=names, labels=labels)
        self.kinds = kinds

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        noise = np.random.default_rng(row)
        dates = 4 if rng is None else int(rng.integers(3, 5))
        days = torch.arange(dates) * 90 + 10
        season = torch.cos((days / 365 - 0.25 * int(self.kinds[row])) * 2 * torch.pi)
        level = 2000 + 400 * int(self.kinds[row]) + 800 * season  # (L,)
        s2 = level[:, None, None, None] + 100 * torch.from_numpy(noise.normal(size=(dates, 3, 2, 2)))
        vhr = 100 + 20 * int(self.kinds[row]) + 5 * torch.from_numpy(noise.normal(size=(3, 8, 8)))
        values = {"s2": s2.float(), "vhr": vhr.float()}
        return Tile(self._names[row], {m.name: values[m.name] for m in self.modalities}, {"s2": days})


class Encoding(NamedTuple):
    summary: Tensor  # (B, D)
    patches: Tensor  # (B, P, D)


@dataclass
class TinyConfig:
    modalities: tuple[Modality, ...] = (S2, VHR)
    grid: tuple[int, int] = (2, 2)
    dim: int = 8

    def to_dict(self) -> dict:
        return asdict(self) | {"modalities": [m.to_dict() for m in self.modalities], "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, fields: dict) -> TinyConfig:
        modalities = tuple(Modality.from_dict(m) for m in fields["modalities"])
        return cls(**fields | {"modalities": modalities, "grid": tuple(fields["grid"])})


class TinyModel(nn.Module):
    """Mean over dates, one linear layer per modality, summed; batch statistics and dropout as in real encoders."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        sizes = {m.name: m.channels * m.patch_size**2 for m in config.modalities}
        self.encoders = nn.ModuleDict({name: nn.Linear(size, config.dim) for name, size in sizes.items()})
        self.norm = nn.BatchNorm1d(config.dim)
        self.dropout = nn.Dropout(0.2)

    def forward(self, batch: TileBatch) -> Encoding:
        total = 0.0
        for modality in self.config.modalities:
            name, side = modality.name, modality.patch_size
            if name not in batch.values:
                continue
            x = batch.values[name] / 1000
            if modality.kind == "series":
                seen = batch.valid[name][:, :, None, None, None]
                x = (x * seen).sum(1) / seen.sum(1).clamp(min=1)  # (B, C, H, W)
            x = x.unfold(2, side, side).unfold(3, side, side).flatten(4).permute(0, 2, 3, 1, 4)
            total = total + self.encoders[name](x.flatten(1, 2).flatten(2))  # (B, P, D)
        patches = self.dropout(self.norm(total.transpose(1, 2)).transpose(1, 2))
        return Encoding(patches.mean(1), patches)


class TinyTraining(LightningModule):
    """Predicts the label from the summary; logs what the contract asks for."""

    def __init__(self, config: TinyConfig | None = None, lr: float = 1e-2, explode_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["config"])
        self.model = TinyModel(config or TinyConfig())
        self.classify = nn.Linear(self.model.config.dim, 3)
        self.losses: list[float] = []

    def training_step(self, batch: TileBatch, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.classify(self.model(batch).summary), batch.labels)
        if self._trainer is not None:
            self.losses.append(float(loss.detach()))
            if self.trainer.global_step == self.hparams.explode_at:
                loss = loss * float("nan")
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: TileBatch, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self.classify(self.model(batch).summary), batch.labels)
        self.log("val/loss", loss + 0 * torch.rand(()), prog_bar=True, batch_size=len(batch))

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.2, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}


class TinyFinetuning(LightningModule):
    """A linear head on the summary, as the fine-tuning modules of the systems have it."""

    def __init__(
        self, model: TinyModel, task: str, classes: tuple[str, ...], freeze: bool = False, lr: float = 1e-2, **_: object
    ) -> None:
        super().__init__()
        self.save_hyperparameters("task", "classes", "freeze", "lr")
        self.model, self.task, self.classes = model, task, tuple(classes)
        self.head = nn.Linear(model.config.dim, len(classes))
        model.requires_grad_(not freeze)

    def forward(self, batch: TileBatch) -> Tensor:
        return self.head(self.model(batch).summary)

    def _loss(self, batch: TileBatch) -> Tensor:
        if self.task == "multilabel":
            return nn.functional.binary_cross_entropy_with_logits(self(batch), batch.labels)
        if self.task == "regression":
            return nn.functional.mse_loss(self(batch), batch.labels)
        return nn.functional.cross_entropy(self(batch), batch.labels)

    def training_step(self, batch: TileBatch, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: TileBatch, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch), batch_size=len(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=self.hparams.lr)
