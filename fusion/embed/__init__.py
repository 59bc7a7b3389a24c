"""Dense embeddings on disk: GeoTIFF where the data is georeferenced, NPZ where it is not."""

from .codec import DECODE_FORMULA, NODATA, QuantizationError, decode, encode, unit
from .map import EmbeddingMap, embed_map, fingerprint
from .raster import Embeddings, read_embeddings
from .seams import Seams

__all__ = [
    "DECODE_FORMULA",
    "NODATA",
    "EmbeddingMap",
    "Embeddings",
    "QuantizationError",
    "Seams",
    "decode",
    "embed_map",
    "encode",
    "fingerprint",
    "read_embeddings",
    "unit",
]
