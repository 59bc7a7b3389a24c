"""A trained model as a transformer of scikit-learn: arrays, tiles or cubes in, a vector each out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast, get_args

import numpy as np

from ..arrays import ArrayModel, load
from ..arrays.names import positions
from ..data import ArrayTiles, Modality, Tile, TileDataset
from ..data.given import calendar_dates, january_before, numbers, words
from ..embed.raster import band_names
from ..evaluation import extract
from ..training.vectors import Pool, pools_of
from .given import of_modality

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError("fusion.adapters.sklearn needs scikit-learn: pip install scikit-learn") from error

__all__ = ["Embedder"]


class Embedder(TransformerMixin, BaseEstimator):
    """Embeddings of a frozen model as features, for pipelines and searches of scikit-learn.

    ::

        model = make_pipeline(Embedder("runs/mine", dates=dates), StandardScaler(), LogisticRegression())
        cross_val_score(model, values, classes)  # values (N, T, C, H, W), the pixels of a tile each

    ``X`` may be an array (N, T, C, H, W) of series or (N, C, H, W) of images, in the units of the training, NaN where
    not observed; a mapping of such arrays by modality; a list of N samples, each an array or a mapping without the axis
    N; a :class:`~fusion.data.TileDataset` or a list of its tiles; or a list of cubes of xarray, of any size from a tile
    on, whose embedding is the mean over their patches. All but mappings can be cut by cross-validation.

    Nothing is learned: ``fit`` checks that data and model fit. An estimator that is copied or pickled holds ``run`` and
    loads the model anew.

    Args:
        run: run folder, checkpoint, or model of the Hugging Face Hub, as :func:`fusion.load` takes it; or what that
            returned, which is then copied with the estimator.
        pool: what stands for a tile: ``"mean"`` of its patches, ``"summary"``, ``"both"``, ``"tokens"``, ``"seasons"``
            or ``"months"``, see :func:`fusion.evaluation.extract`.
        modalities: use only these; None for all that ``X`` has.
        dates: of arrays, the T dates of a series (datetime64 or text), the same for all samples; or a mapping of these
            by modality.
        bands: of arrays, names of the C bands in their order; or a mapping of these by modality. None for the model's.
        batch_size: tiles at a time.
        device: as for :func:`fusion.load`.

    Attributes:
        n_features_out_: width of a row of the result.
        modalities_: names of those that were found in ``X``.
    """

    def __init__(
        self,
        run: str | Path | ArrayModel,
        *,
        pool: Pool = "mean",
        modalities: Sequence[str] | None = None,
        dates: Any = None,
        bands: Any = None,
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        self.run = run
        self.pool = pool
        self.modalities = modalities
        self.dates = dates
        self.bands = bands
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Any, y: Any = None) -> Self:
        """Embeds the first sample, to see that it can be done.

        Raises:
            ValueError: a context-aware model, a pool that the model does not have, or data that do not fit it.
        """
        model = self._model()
        if model.system == "context":
            raise ValueError(f"Embedder: {model} embeds pixels on dates, not tiles; use fusion.load(run).embed(cube)")
        if self.pool not in get_args(Pool) or self.pool not in pools_of(model.encoder):
            raise ValueError(f"Embedder: pool is one of {', '.join(pools_of(model.encoder))}, not {self.pool!r}")
        first = self._embedded(_first(X))
        self.n_features_out_ = first.shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """(N, D) float32.

        Raises:
            ValueError: data that do not fit the model, or give no finite vector.
        """
        check_is_fitted(self, "n_features_out_")
        return self._embedded(X)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """(D,) names of the columns, as in rasters of embeddings; ``input_features`` are not looked at."""
        check_is_fitted(self, "n_features_out_")
        return np.array(band_names(self.n_features_out_), dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_loaded"}

    def _model(self) -> ArrayModel:
        if isinstance(self.run, ArrayModel):
            return self.run
        if "_loaded" not in self.__dict__:
            self._loaded = load(self.run, self.device)
        return self._loaded

    def _embedded(self, X: Any) -> np.ndarray:
        model = self._model()
        if _cubes(X):
            return self._of_cubes(model, X)
        tiles = self._tiles(model, X)
        known = [m.name for m in tiles.modalities]
        names = known if self.modalities is None else [n for n in words(self.modalities, "Embedder: modalities")]
        self.modalities_ = tuple(names)
        return extract(model.encoder, tiles, names, pool=self.pool, batch_size=self.batch_size).x

    def _of_cubes(self, model: ArrayModel, cubes: Sequence[Any]) -> np.ndarray:
        if self.pool != "mean":
            raise ValueError(f"Embedder: of cubes the mean over patches is taken, not pool={self.pool!r}")
        rows = []
        for cube in cubes:
            if self.modalities is not None and isinstance(cube, Mapping) and not hasattr(cube, "data_vars"):
                cube = {name: cube[name] for name in self.modalities}
            found = model.embed(cube, batch_size=self.batch_size).values  # (D, y, x), NaN where nothing was observed
            rows.append(np.nanmean(found.reshape(len(found), -1), axis=1))
        self.modalities_ = tuple(m.name for m in model.modalities)
        return np.stack(rows).astype(np.float32)

    def _tiles(self, model: ArrayModel, X: Any) -> TileDataset:
        if isinstance(X, TileDataset):
            return X
        config = model.encoder.config
        if isinstance(X, list | tuple) and X and isinstance(X[0], Tile):
            return _Tiles(cast(Sequence[Tile], X), config.modalities, config.grid)
        values = _by_modality(X, model.modalities)
        chosen = [m for m in model.modalities if m.name in values and m.name in (self.modalities or values)]
        ordered = {m.name: self._in_order(m, values[m.name]) for m in chosen}
        dates = {m.name: self._dates(m) for m in chosen if m.kind == "series"}
        origin = january_before(np.concatenate(list(dates.values()))) if dates else None
        days = {name: (own - origin).astype(np.int64) for name, own in dates.items()}
        return ArrayTiles(chosen, ordered, days, grid=config.grid, origin=origin)

    def _in_order(self, modality: Modality, values: Any) -> np.ndarray:
        """With the bands in the order of the model."""
        array = numbers(values, f"Embedder: {modality.name!r}")
        given = of_modality(self.bands, modality.name)
        if given is None:
            return array
        axis = array.ndim - 3 if array.ndim > 3 else array.ndim - 1  # single pixels may have no axes of space
        found = positions(modality.bands, words(given, "Embedder: bands"))
        if None in found or array.shape[axis] != len(given):
            raise ValueError(
                f"Embedder: {modality.name} wants {', '.join(modality.bands)}; {', '.join(given)} are named for values "
                f"{array.shape}"
            )
        return np.take(array, cast("list[int]", found), axis)

    def _dates(self, modality: Modality) -> np.ndarray:
        """(T,) datetime64[D]."""
        given = of_modality(self.dates, modality.name)
        if given is None:
            raise ValueError(
                f"Embedder: {modality.name} is a series, whose dates are not known; give Embedder(..., dates=[...]), "
                "or tiles with days of their own (fusion.data.ArrayTiles)"
            )
        return calendar_dates(given, f"Embedder: dates of {modality.name}")


class _Tiles(TileDataset):
    """Tiles in memory, as cross-validation takes them from a data set."""

    def __init__(self, tiles: Sequence[Tile], modalities: Sequence[Modality], grid: tuple[int, int]) -> None:
        known = [m for m in modalities if any(m.name in tile.values for tile in tiles)]
        super().__init__([tile.name for tile in tiles], known, grid)
        self._tiles = list(tiles)

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        return self._tiles[row]


def _xarray(x: Any) -> bool:
    return hasattr(x, "dims") and hasattr(x, "coords")


def _cubes(X: Any) -> bool:
    """Whether ``X`` is a list of cubes of xarray, or of mappings of these by modality."""
    if not isinstance(X, list | tuple) or not X:
        return False
    first = X[0]
    return _xarray(first) or (isinstance(first, Mapping) and any(_xarray(part) for part in first.values()))


def _first(X: Any) -> Any:
    """The first sample alone."""
    if isinstance(X, TileDataset):
        return X.subset([0])
    if isinstance(X, Mapping):
        return {name: array[:1] for name, array in X.items()}
    return X[:1]


def _by_modality(X: Any, modalities: Sequence[Modality]) -> dict[str, Any]:
    """Arrays with an axis of samples, by modality."""
    if isinstance(X, list | tuple) and X and isinstance(X[0], Mapping):
        X = {name: np.stack([numbers(sample[name], f"Embedder: {name!r}") for sample in X]) for name in X[0]}
    if not isinstance(X, Mapping):
        if len(modalities) > 1:
            raise ValueError(
                f"Embedder: the model has {', '.join(m.name for m in modalities)}; give a mapping, e.g. "
                f"{{{modalities[0].name!r}: X}}, or a list of mappings"
            )
        return {modalities[0].name: np.stack(X) if isinstance(X, list | tuple) else X}
    known = [m.name for m in modalities]
    strange = [str(name) for name in X if name not in known]
    if strange or not X:
        raise ValueError(f"Embedder: arrays of {', '.join(strange) or 'nothing'}; the model has {', '.join(known)}")
    return dict(X)
