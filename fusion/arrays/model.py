"""A trained model that takes and returns arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import __version__
from ..data import Modality
from ..embed.device import require_cpu
from ..embed.map import fingerprint
from ..embed.precision import Precision
from ..embed.raster import band_names
from ..embed.sheets import NO_CLASS
from ..training.checkpoints import Header, load_finetuned, load_model, read_header
from . import hub
from .given import Given, sort_by_modality
from .placed import Placed
from .plan import Options, Plan, plan_cube, plan_tiles
from .results import as_array, as_predictions

if TYPE_CHECKING:
    import xarray

    from ..export import Exported

__all__ = ["ArrayModel", "load"]


def load(
    run: str | Path, device: str = "auto", *, precision: Precision = "auto", compile_model: bool = False
) -> ArrayModel:
    """A trained model of any system, for arrays.

    ::

        model = fusion.load("runs/mine")
        embedding = model.embed(cube)  # xarray in, xarray out; lazy where the cube is of Dask
        crops = model.predict(cube)  # of a fine-tuned model, or of a saved probe

    Args:
        run: run folder or checkpoint; or a model of the Hugging Face Hub, ``"org/name"`` or ``"org/name@revision"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ... A context-aware model runs on the CPU.
        precision: ``"float32"``, ``"bfloat16"``, or ``"auto"``: bfloat16 on GPUs that calculate in it, and on
            processors that do if, of many tiles, a trial on some says that it is faster and differs by 2 % at most.
        compile_model: by ``torch.compile``, which takes about a minute when the first tiles come; not a context-aware
            model.

    Raises:
        FileNotFoundError, ValueError: as :func:`fusion.training.load_model`; a model of a single sensor, the first
            stage of the context-aware system.
    """
    path = hub.fetched(run)
    header = read_header(path)
    if header.system == "context-sensor":
        raise ValueError(f"{run} is the autoencoder of one sensor; load the model of both stages that was made of it")
    head: Any = load_finetuned(path) if header.finetuned else None
    encoder = load_model(path) if head is None else head.model
    if header.system == "context":
        require_cpu(run, device, precision, compile_model)
        device = "cpu"
    return ArrayModel(Placed(encoder, head, device, precision, compile_model), header, str(run))


class ArrayModel:
    """What :func:`fusion.load` returns. It can be sent to other processes.

    Attributes:
        modalities: what the model was trained on: names, bands in order, units, resolution.
        task, classes: of a fine-tuned model or a probe; None and () of a bare encoder.
    """

    def __init__(self, placed: Placed, header: Header, source: str) -> None:
        self._placed, self._header, self._source = placed, header, source
        self.modalities: tuple[Modality, ...] = tuple(placed.encoder.config.modalities)
        self.task: str | None = None if placed.head is None else placed.head.task
        self.classes: tuple[str, ...] = () if placed.head is None else tuple(placed.head.classes)

    @property
    def encoder(self) -> Any:
        """The network itself, in evaluation mode, on its device."""
        return self._placed.encoder

    @property
    def system(self) -> str:
        """``"omnisat"``, ``"token-fusion"``, ``"context"``, ..."""
        return self._header.system

    def __repr__(self) -> str:
        told = "; ".join(f"{m.name} ({' '.join(m.bands)}, {m.resolution:g} m, {m.unit})" for m in self.modalities)
        head = f", {self.task} of {', '.join(self.classes)}" if self.task else ""
        return f"<{self._header.system} of {self._source}: {told}{head}>"

    def embed(
        self,
        x: Any,
        *,
        dates: Any = None,
        bands: Any = None,
        transform: Any = None,
        crs: str | None = None,
        overlap: float | None = None,
        patch_scale: int = 1,
        max_dates: int | None = None,
        max_cloud: float = 0.5,
        longest_gap: int = 7,
        temporal_window: int = 3,
        batch_size: int | None = None,
        block: int | None = None,
        check: bool = True,
    ) -> xarray.DataArray:
        """The embedding of every patch, or of a context-aware model of every pixel and date.

        Bands are found by name, in any order: B2, B02 and blue are one. What attributes say of missing values and
        packing is applied, as of files; NaN is missing. Modalities may be missing, and have other pixels, if they cover
        the same ground.

        Args:
            x: DataArray (time, band, y, x), with axes in any order and of any of their usual names; or Dataset with a
                variable a band, or with variables called like modalities; or a mapping of these, or of NumPy arrays or
                tensors (T, C, H, W), images (C, H, W), by modality. In the units that the model was trained in.
            dates, bands, transform, crs: of plain arrays, one for all or by modality: T dates, C names of bands (by
                default the model's, in its order), (a, b, c, d, e, f) from column and row to x and y, and
                ``"EPSG:32631"`` or the like.
            overlap: share of a tile's side by which tiles overlap, 0.25 by default; where they do, they are averaged,
                so that no border is seen.
            patch_scale: embed patches of so many of the model's patches per side (OmniSat).
            max_dates: of each series at most so many dates, evenly over its span.
            max_cloud: largest share of missing pixels of a tile on a date that is used.
            longest_gap: days between a date of the reference sensor and another sensor's nearest (context-aware).
            temporal_window: acquisitions in the mean over dates that smooths backscatter in dB (context-aware).
            batch_size: tiles at a time; by default about 2,000 patches.
            block: rows and columns of the result that are a task of Dask each, or that are computed at a time. By
                default about a chunk of the input, from 256 to 512 pixels.
            check: compare some values with the range of the training; False reads nothing before it is computed, and
                ``"auto"`` is float32 on a processor.

        Returns:
            (feature, y, x), or (time, feature, y, x) of a context-aware model, float32, NaN where nothing was observed,
            with CRS and coordinates. A row is a patch, of a context-aware model a pixel; ground at the lower and right
            border that is less than a patch is left out. Of Dask where an input is.

        Raises:
            ValueError: arrays that do not fit the model, in words that say what was given and how to mend it.
        """
        given = sort_by_modality(x, self.modalities, dates=dates, bands=bands, transform=transform, crs=crs)
        options = Options(
            overlap, patch_scale, max_dates, max_cloud, longest_gap, temporal_window, batch_size, block, check
        )
        if self._header.system != "context":
            plan = plan_tiles(self._placed, given, options, kind="embedding")
            found = self._as_array(plan, ("feature",), "embedding")
        else:
            plan = plan_cube(self._placed, given, options, kind="embedding")
            found = self._as_array(plan, ("time", "feature"), "embedding")
            reference = self._placed.encoder.config.reference.modality.name
            found = found.assign_coords(time=_times(given[reference]))
        return found.assign_coords(feature=list(band_names(found.sizes["feature"])))

    def predict(
        self,
        x: Any,
        *,
        dates: Any = None,
        bands: Any = None,
        transform: Any = None,
        crs: str | None = None,
        overlap: float | None = None,
        max_dates: int | None = None,
        max_cloud: float = 0.5,
        temporal_window: int = 3,
        batch_size: int | None = None,
        block: int | None = None,
        check: bool = True,
    ) -> xarray.Dataset:
        """What a fine-tuned model, or a saved probe, says of every pixel; of every tile, if its labels are of tiles.

        Args:
            overlap: share of a tile's side by which tiles overlap: 0.25 by default for a model of maps, 0 for one of
                whole tiles, of which a row of the result is then a tile (a patch, where tiles do overlap).
            x, ...: as :meth:`embed` takes them.

        Returns:
            of exclusive classes ``class`` (y, x), bytes, the number in ``classes``, 255 for no data, with
            ``flag_meanings``, and ``probability`` (label, y, x), float32; of several classes at once the same with a
            ``class`` (label, y, x) of 0 and 1; of quantities a variable by the name of each, in its unit, with
            ``_lower`` and ``_upper`` if the model has intervals.

        Raises:
            ValueError: a bare encoder; arrays as for :meth:`embed`; more than 255 classes.
        """
        head = self._placed.head
        if head is None:
            raise ValueError(f"{self._source} is an encoder without a head; fine-tune it, or save a probe of it, first")
        if len(self.classes) > NO_CLASS:
            raise ValueError(f"{self._source}: {len(self.classes)} classes; bytes hold {NO_CLASS}")
        given = sort_by_modality(x, self._of_head(), dates=dates, bands=bands, transform=transform, crs=crs)
        longest_gap = getattr(head, "longest_gap", 0)  # a probe has its own
        options = Options(overlap, 1, max_dates, max_cloud, longest_gap, temporal_window, batch_size, block, check)
        if getattr(head, "of_cubes", False):
            plan = plan_cube(self._placed, given, options, kind="prediction")
        else:
            plan = plan_tiles(self._placed, given, options, kind="prediction")
        kind = "probability" if self.task != "regression" else "value"
        found = self._as_array(plan, ("label",), kind).assign_coords(label=list(self.classes))
        return as_predictions(found, self.task or "", self.classes, head.intervals)

    def save_pretrained(self, folder: str | Path, *, licence: str = "", training_data: str = "") -> Path:
        """Writes the model as a folder that :func:`fusion.load` takes: ``best.safetensors`` with weights, configuration
        and head, ``config.json`` to read, and ``README.md``, a card with bands, units, sensors, scores and limits.

        Args:
            licence: of the weights, as the Hugging Face Hub writes it, e.g. ``"cc-by-4.0"``.
            training_data: what it was trained on, in words.
        """
        about = {"licence": licence, "training_data": training_data}
        return hub.save(folder, self._placed.encoder, self._placed.head, self._header, **about)

    def push_to_hub(self, repository: str, *, private: bool = False, licence: str = "", training_data: str = "") -> str:
        """Uploads what :meth:`save_pretrained` writes to the Hugging Face Hub (``pip install huggingface_hub``, and
        ``hf auth login``); returns the address.

        Args:
            repository: ``"org/name"``, made if need be.

        Raises:
            ValueError: huggingface_hub is not installed, or another name.
        """
        about = {"licence": licence, "training_data": training_data}
        encoder, head = self._placed.encoder, self._placed.head
        return hub.push(repository, encoder, head, self._header, private=private, **about)

    def export(
        self,
        path: str | Path,
        *,
        output: Literal["embedding", "prediction"] | None = None,
        modalities: Sequence[str] = (),
        patch_scale: int = 1,
        aot: bool = False,
    ) -> Exported:
        """Writes the model as a graph that PyTorch runs without this package, ``program(values, days, valid)``; see
        :func:`fusion.export.export_model` for what goes in and comes out.

        Args:
            path: ends in ``.pt2``.
            output: by default the prediction of a model that has a head, else the embedding of patches.
            modalities: export a model of these alone.
            patch_scale: embed patches of so many of the model's patches per side (OmniSat).
            aot: compile it for this machine and the model's device (AOTInductor).

        Raises:
            ValueError, RuntimeError: as there.
        """
        from ..export import export_model  # torch.export takes a second to import

        encoder, head = self._placed.encoder, self._placed.head
        options: dict[str, Any] = {"output": output, "modalities": modalities, "patch_scale": patch_scale, "aot": aot}
        return export_model(path, encoder, head, **options)

    def _of_head(self) -> list[Modality]:
        """The modalities that a probe was made with; all of them for what does not name any."""
        wanted = getattr(self._placed.head, "modalities", ())
        return [m for m in self.modalities if not wanted or m.name in wanted]

    def _as_array(self, plan: Plan, axes: tuple[str, ...], name: str) -> xarray.DataArray:
        found = as_array(plan.values(), axes, plan.finest, plan.place, plan.cell, name)
        used = "; ".join(f"{n} ({' '.join(one.modality.bands)})" for n, one in plan.given.items())
        about = {"model": fingerprint(self._placed.encoder), "system": self._header.system, "modalities": used}
        return found.assign_attrs(about | {"eo-fusion": __version__})


def _times(one: Given) -> Any:
    """As they were given, ascending; days, where two acquisitions are of one."""
    days = np.unique(one.dates)
    if len(days) < len(one.dates):
        return days.astype("datetime64[ns]")
    times = one.dataset[one.dimension("time")].values
    return times[np.argsort(one.dates)]
