"""What made embeddings, and of what, in words that other programs know.

The fields are those of the ``geoemb:`` convention for Zarr, version 1, a proposal
(https://github.com/geo-embeddings/embeddings-zarr-convention): in the attributes of a Zarr as they are, in the tags of
a GeoTIFF as ``GEOEMB_TYPE`` and so on, since GDAL takes a colon in the name of a tag for its end. The convention wants
the model and the data as URIs. Of a model that was trained here no address is known;
``urn:eo-fusion:model:SYSTEM:FINGERPRINT`` names it by the hash of its weights, and ``urn:eo-fusion:modality:NAME`` a
sensor of the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...data import Modality
from ..codec import Dtype

__all__ = ["GEOEMB", "About", "licence_beside"]

GEOEMB = {
    "schema_url": "https://raw.githubusercontent.com/geo-embeddings/embeddings-zarr-convention/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention/blob/v1/README.md",
    "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    "name": "geoemb:",
    "description": "Geoembeddings convention for geospatial embedding arrays with model provenance",
}
_MAPPING = "https://developers.google.com/earth-engine/guides/aef_on_gcs_readme"


@dataclass(frozen=True)
class About:
    """What made a map.

    Attributes:
        tags: version, system, fingerprint and modalities, as :func:`fusion.embed.map.describe` gives them.
        modalities: that were embedded.
        patch_scale: how many patches of the model a patch of the map has per side.
        first, last: ISO dates of the earliest and the latest image that was used; None where no series has dates.
        licence: of the model; None where unknown.
    """

    tags: Mapping[str, str]
    modalities: Sequence[Modality]
    patch_scale: int = 1
    first: str | None = None
    last: str | None = None
    licence: str | None = None

    def fields(self, dim: int, dtype: Dtype) -> dict[str, Any]:
        """The fields of ``geoemb:``, without the prefix, of D = ``dim`` dimensions."""
        finest = max(self.modalities, key=lambda m: m.patch_size)
        side = finest.patch_size * self.patch_scale
        system, model = quote(self.tags["FUSION_SYSTEM"]), self.tags["FUSION_MODEL"]
        found: dict[str, Any] = {
            "type": "pixel" if side == 1 else "chip",
            "dimensions": dim,
            "model": f"urn:eo-fusion:model:{system}:{model}",
            "source_data": [f"urn:eo-fusion:modality:{quote(m.name)}" for m in self.modalities],
            "data_type": dtype,
            "gsd": finest.resolution,  # of the pixels in which the side of a chip is counted
            "build_version": f"eo-fusion {self.tags['FUSION_VERSION']}",
        }
        if side > 1:
            found["chip_layout"] = {"layout_type": "regular_grid", "chip_size": [side, side], "stride": [side, side]}
        if dtype == "int8":
            found["quantization"] = {
                "method": "signed_square_root",
                "original_dtype": "float32",
                "quantized_dtype": "int8",
                "link": _MAPPING,
            }
        return found

    def as_tags(self, dim: int, dtype: Dtype) -> dict[str, str]:
        """Of a GeoTIFF."""
        fields = self.fields(dim, dtype).items()
        known = {f"GEOEMB_{name.upper()}": v if isinstance(v, str) else json.dumps(v) for name, v in fields}
        return self.own_tags() | known

    def own_tags(self) -> dict[str, str]:
        """What the convention has no field for."""
        more = {"FUSION_FIRST_DATE": self.first, "FUSION_LAST_DATE": self.last, "FUSION_LICENCE": self.licence}
        return dict(self.tags) | {name: value for name, value in more.items() if value is not None}

    def as_attributes(self, dim: int, dtype: Dtype) -> dict[str, Any]:
        """Of a Zarr."""
        fields = self.fields(dim, dtype).items()
        return {"zarr_conventions": [GEOEMB], **{f"geoemb:{name}": value for name, value in fields}}


def licence_beside(run: Path) -> str | None:
    """What the card of a shared model (``README.md`` with a ``license`` in its front matter) says; None if nothing."""
    card = (run if run.is_dir() else run.parent) / "README.md"
    try:
        lines = card.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines or lines[0] != "---":
        return None
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if line == "---":
            break
        if name == "license":
            return value.strip() if value.strip() not in ("", "other", "unknown") else None
    return None
