"""Labels that are points or polygons with a value, as a YAML describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["PlacedLabels", "TableLabels", "Value", "VectorLabels"]

Value = str | float


@dataclass(frozen=True, kw_only=True)
class PlacedLabels:
    """What labels of a vector file and of a table have in common. They are drawn onto pixels of ``resolution``.

    Attributes:
        field: attribute or column that holds the value.
        kind: ``classes`` or ``quantity``; None: text and whole numbers are classes, fractions are refused, and with
            ``reduction: mean`` numbers are a quantity.
        classes: names in the order of the model, which must be all the values there are; or name: value or values,
            where values that are not listed are no label. Empty: the values, sorted.
        reduction: as of maps of labels; ``none`` leaves them as they are drawn.
        resolution: metres per pixel; None: that of the first modality with pixels.
        nodata: numbers that are no label.
        crs: of the coordinates, where the file does not say it.
        min_labelled: a tile with a smaller labelled share has no label; by default one pixel is enough.
        min_share: of the labelled pixels, for ``any``.
    """

    field: str
    kind: Literal["classes", "quantity"] | None = None
    classes: tuple[str, ...] | Mapping[str, tuple[Value, ...]] = ()
    reduction: Literal["mean", "majority", "any", "none"] = "none"
    resolution: float | None = None
    nodata: tuple[float, ...] | None = None
    crs: str | int | None = None
    min_labelled: float = 0.0
    min_share: float = 0.07

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "majority", "any", "none"):
            raise ValueError(f"reduction is mean, majority, any or none, not {self.reduction!r}")
        if self.kind not in (None, "classes", "quantity"):
            raise ValueError(f"kind is classes or quantity, not {self.kind!r}")
        if self.quantity and (self.classes or self.reduction in ("majority", "any")):
            what = "classes" if self.classes else f"reduction: {self.reduction}"
            raise ValueError(f"a quantity has no {what}; leave it out, or leave out kind: quantity or reduction: mean")
        if self.kind == "classes" and self.reduction == "mean":
            raise ValueError("the mean of classes means nothing; take reduction: majority, any or none")
        if not isinstance(self.classes, Mapping) and len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes {', '.join(self.classes)}: every name once")

    @property
    def file(self) -> str:
        """As the description has it."""
        raise NotImplementedError

    @property
    def quantity(self) -> bool:
        return self.kind == "quantity" or self.reduction == "mean"


@dataclass(frozen=True, kw_only=True)
class VectorLabels(PlacedLabels):
    """
    Attributes:
        vector: the file, in the folder unless its path is absolute.
        layer: of a file with several.
        all_touched: a polygon labels every pixel that it touches; False: those whose centre lies in it.
    """

    vector: str
    layer: str | None = None
    all_touched: bool = False

    @property
    def file(self) -> str:
        return self.vector


@dataclass(frozen=True, kw_only=True)
class TableLabels(PlacedLabels):
    """Points, a row each.

    Attributes:
        table: the file, in the folder unless its path is absolute.
        x, y: columns of the coordinates; None: x and y, lon and lat, or longitude and latitude, whichever there are.
        crs: None: EPSG:4326 of columns that are called longitude and latitude.
    """

    table: str
    x: str | None = None
    y: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.x is None) != (self.y is None):
            raise ValueError(f"{'x' if self.x is None else 'y'} is missing: give both columns, or neither")

    @property
    def file(self) -> str:
        return self.table
