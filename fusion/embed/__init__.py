"""Maps on disk, of embeddings and of predictions: GeoTIFF and Zarr where the data is georeferenced, NPZ where not."""

from .codec import DECODE_FORMULA, NODATA, QuantizationError, decode, encode, unit
from .cube import EmbeddedCube, embed_cube
from .cube_probe import CubeBlocks, CubeProbe
from .device import choose_device
from .estimate import Estimate
from .formats.opening import open_embeddings
from .map import EmbeddingMap, embed_map, fingerprint
from .predict import PredictedMap, Predictor, estimate_map, predict_map
from .raster import Embeddings, read_embeddings
from .seams import Seams
from .store import stack_geotiffs

__all__ = [
    "DECODE_FORMULA",
    "NODATA",
    "CubeBlocks",
    "CubeProbe",
    "EmbeddedCube",
    "EmbeddingMap",
    "Embeddings",
    "Estimate",
    "PredictedMap",
    "Predictor",
    "QuantizationError",
    "Seams",
    "choose_device",
    "decode",
    "embed_cube",
    "embed_map",
    "encode",
    "estimate_map",
    "fingerprint",
    "open_embeddings",
    "predict_map",
    "read_embeddings",
    "stack_geotiffs",
    "unit",
]
