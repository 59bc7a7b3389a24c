"""An embedding for every pixel and date of a cube, a block of ground at a time.

Every frame's window is encoded once and serves all dates whose context it belongs to. What a pixel becomes depends on
its own window alone, so where blocks meet there is nothing to see: a block only reads half a window more on each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusion.context import ContextFusion, SensorAutoencoder
from fusion.context.samples import context_frames, nearest_frames
from fusion.data.cubes import Cube
from fusion.data.given import flags, tile_numbers

__all__ = ["BlockEncoder"]

_WINDOWS = 1024  # encoded at a time: keeps activations in the processor's cache and memory bounded


@dataclass
class _Frames:
    """One sensor over one block of N pixels: what is needed to make a code of any pixel at any date."""

    model: SensorAutoencoder
    days: np.ndarray  # (T,) since 1970-01-01
    valid: np.ndarray  # (N, T): at least one band was observed
    windows: Tensor  # (T, C, h, w, W, W), a view
    observed: Tensor  # the same
    codes: Tensor  # (T, N, code), zero where not yet made

    def summarise(self, chosen: np.ndarray) -> Tensor:
        """Bottlenecks (n, b) of the contexts ``chosen`` (N, frames) of the pixels that have one."""
        rows = np.flatnonzero((chosen >= 0).any(axis=1))
        parts = []
        for start in range(0, len(rows), _WINDOWS):
            pixels = rows[start : start + _WINDOWS]
            date = torch.from_numpy(chosen[pixels])  # (n, frames)
            valid = date >= 0
            codes = self.codes[date.clamp_min(0), torch.from_numpy(pixels)[:, None]]  # (n, frames, code)
            days = torch.from_numpy(self.days)[date.clamp_min(0)]
            parts.append(self.model.summarise(codes * valid[..., None], days, valid))
        return torch.cat(parts) if parts else torch.zeros(0, self.model.config.bottleneck)


class BlockEncoder:
    """Embeds blocks of a cube with a fused model.

    Args:
        model: of stage 2; its first sensor is the reference, whose dates are embedded.
        cube: with the model's sensors, in its bands and units; one that is absent has no token.
        dates: positions of the reference's dates to embed, ascending; None for all.
        longest_gap: days between a date and another sensor's nearest one, beyond which that sensor has no token.
        pixels: (H, W) bool of the cube, those to embed; the others are no data. None for all.

    Attributes:
        dates: (dates,) datetime64[D] that are embedded.
        sensors: names of the model's sensors that the cube has.

    Raises:
        ValueError: the cube lacks the reference, or a sensor's bands or unit are not the model's.
    """

    def __init__(
        self,
        model: ContextFusion,
        cube: Cube,
        *,
        dates: Sequence[int] | np.ndarray | None = None,
        longest_gap: int = 7,
        pixels: np.ndarray | None = None,
    ) -> None:
        reference = model.config.reference.modality.name
        if reference not in cube.sensors:
            raise ValueError(
                f"cube {cube.name!r} lacks the sensor {reference!r} whose dates are to be embedded; it has "
                f"{', '.join(cube.sensors)}"
            )
        self.sensors = [name for name in model.sensors if name in cube.sensors]
        for name in self.sensors:
            wanted, given = model.sensor(name).config.modality, cube.sensors[name].modality
            for what in ("bands", "unit"):
                if getattr(wanted, what) != getattr(given, what):
                    raise ValueError(
                        f"cube {cube.name!r}, sensor {name!r}: {what} {getattr(given, what)!r}, but the model was "
                        f"trained with {getattr(wanted, what)!r}"
                    )
        self.model, self.cube, self.reference, self.longest_gap = model.eval(), cube, reference, longest_gap
        self.pixels = np.ones(cube.shape, dtype=bool) if pixels is None else flags(pixels)
        every = cube.sensors[reference].dates
        what = f"cube {cube.name!r}, sensor {reference!r}"
        self.dates = every if dates is None else every[tile_numbers(dates, len(every), what, "dates")]

    @property
    def dim(self) -> int:
        return self.model.config.embedding

    @torch.inference_mode()
    def __call__(self, rows: slice, columns: slice) -> np.ndarray:
        """(dates, E, h, w) float32 of one block; NaN where the reference did not see the pixel on the date."""
        return self._gather(rows, columns, {None: self.dim})[None]

    @torch.inference_mode()
    def codes(self, rows: slice, columns: slice) -> dict[str, np.ndarray]:
        """Every sensor's own codes of one block beside the fused ones: (dates, b, h, w) float32 by sensor name, and
        the embedding as ``"fused"``. NaN where a sensor has no date near enough."""
        sizes: dict[str | None, int] = {None: self.dim} | {
            n: self.model.sensor(n).config.bottleneck for n in self.sensors
        }
        found = self._gather(rows, columns, sizes)
        return {name or "fused": array for name, array in found.items()}

    def _gather(self, rows: slice, columns: slice, sizes: dict[str | None, int]) -> dict[str | None, np.ndarray]:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        pixels = height * width
        out = {n: np.full((len(self.dates), pixels, size), np.nan, np.float32) for n, size in sizes.items()}
        frames = {name: self._read(name, rows, columns) for name in self.sensors}
        wanted = self.pixels[rows, columns].ravel()
        days = self.dates.astype(np.int64)
        contexts = [self._contexts(frames, day, wanted) for day in days]
        for name in self.sensors:
            self._encode(frames[name], [context[name] for context in contexts])
        for t, context in enumerate(contexts):
            codes, valid = {}, {}
            for name, chosen in context.items():
                valid[name] = torch.from_numpy((chosen >= 0).any(axis=1))
                codes[name] = torch.zeros(pixels, self.model.sensor(name).config.bottleneck)
                codes[name][valid[name]] = frames[name].summarise(chosen)
                if name in out:
                    out[name][t] = np.where(valid[name][:, None], codes[name], np.nan)
            embedded = valid[self.reference]
            gaps = {name: self._gaps(frames[name], context[name], days[t]) for name in context}
            for start in range(0, pixels, _WINDOWS):
                here = embedded[start : start + _WINDOWS].nonzero().flatten() + start
                if len(here):
                    parts = [{n: v[here] for n, v in p.items()} for p in (codes, gaps, valid)]
                    out[None][t, here] = self.model.fuse(*parts)
        return {n: v.transpose(0, 2, 1).reshape(len(self.dates), -1, height, width) for n, v in out.items()}

    def _read(self, name: str, rows: slice, columns: slice) -> _Frames:
        model, series = self.model.sensor(name), self.cube.sensors[name]
        window = model.config.window
        values, observed = series.read(rows, columns, margin=window // 2)
        r = window // 2
        valid = np.any(observed[..., r : observed.shape[-2] - r, r : observed.shape[-1] - r], axis=1)  # (T, h, w)
        windows, known = (
            torch.from_numpy(part).unfold(2, window, 1).unfold(3, window, 1) for part in (values, observed)
        )
        times, pixels = len(valid), valid[0].size
        codes = torch.zeros(times, pixels, model.config.code)
        return _Frames(model, series.epoch_days, valid.reshape(times, -1).T, windows, known, codes)

    def _contexts(self, frames: dict[str, _Frames], day: int, wanted: np.ndarray) -> dict[str, np.ndarray]:
        """By sensor (N, frames) positions of dates, -1 where there is none; none at all for pixels that are not
        ``wanted`` (N,), or that the reference did not see on ``day``."""
        wanted = wanted & frames[self.reference].valid[:, np.searchsorted(frames[self.reference].days, day)]
        contexts = {}
        for name, sensor in frames.items():
            config = sensor.model.config
            most = 0 if name == self.reference else self.longest_gap
            middle = np.where(wanted, nearest_frames(sensor.valid, sensor.days, int(day), most), -1)
            contexts[name] = context_frames(
                sensor.valid, sensor.days, middle, config.frames, config.span, config.spacing
            )
        return contexts

    def _encode(self, sensor: _Frames, contexts: list[np.ndarray]) -> None:
        """Makes the codes of the frames that some context asks for."""
        asked = np.zeros(sensor.valid.shape, dtype=bool)  # (N, T)
        for chosen in contexts:
            pixel, slot = np.nonzero(chosen >= 0)
            asked[pixel, chosen[pixel, slot]] = True
        width = sensor.windows.shape[3]
        for date in np.flatnonzero(asked.any(axis=0)):
            pixels = torch.from_numpy(np.flatnonzero(asked[:, date]))
            for some in pixels.split(_WINDOWS):
                row, column = some // width, some % width
                values = sensor.windows[date][:, row, column].transpose(0, 1)  # (n, C, W, W)
                observed = sensor.observed[date][:, row, column].transpose(0, 1)
                sensor.codes[date, some] = sensor.model.encode_frames(sensor.model.normalise(values, observed))

    def _gaps(self, sensor: _Frames, chosen: np.ndarray, day: int) -> Tensor:
        middle = chosen[:, chosen.shape[1] // 2]
        return torch.from_numpy(np.where(middle >= 0, sensor.days[np.maximum(middle, 0)] - day, 0))
