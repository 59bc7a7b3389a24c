"""Arrays that xarray reads when they are needed, of which a chunk cannot be: its ground is NaN and named, no other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import fusion

from .ground import CLASSES, S2, encoder, optical, saved, tuned

CHUNK = 24, 28  # rows and columns of pixels


def store(folder: Path, zarr_format: int) -> xr.DataArray:
    """The ground in chunks of which the one in the middle is damaged."""
    cube, path = optical(72, 84).rename("reflectance"), folder / "cube.zarr"
    encoding = {"reflectance": {"chunks": (6, 4, *CHUNK)}}
    cube.drop_vars("band").to_dataset().to_zarr(path, encoding=encoding, zarr_format=zarr_format, consolidated=False)
    chunk = path / "reflectance" / ("0.0.1.1" if zarr_format == 2 else "c/0/0/1/1")
    chunk.write_bytes(bytes(40) + chunk.read_bytes()[40:])
    return xr.open_zarr(path, chunks=None, consolidated=False).reflectance.assign_coords(band=cube.band)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = encoder(S2)
    return saved(tmp_path_factory.mktemp("run"), model, tuned(model, "multiclass", CLASSES))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("block", [None, 6])
def test_a_chunk_that_cannot_be_decoded_costs_its_own_ground(zarr_format, block, run, tmp_path):
    damaged = store(tmp_path, zarr_format)
    whole = fusion.load(run).embed(optical(72, 84), block=block)
    with pytest.warns(UserWarning, match="no data, for their files cannot be read") as told:
        found = fusion.load(run).embed(damaged, block=block)
    (line,) = {str(w.message) for w in told if "no data" in str(w.message)}  # once, whatever the parts
    assert re.search(r"s2: cannot be read, the file is damaged .*decompression.*rows \d+ to \d+ and columns \d+", line)
    gone = np.isnan(found.values).all(axis=0)  # of patches of two pixels
    assert gone[13:23, 15:27].all()
    rows, columns = np.nonzero(gone)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) >= (9, 20, 11, 24)
    assert rows.max() < 24 + 3
    assert columns.max() < 28 + 3
    distant = np.ones(gone.shape, bool)
    distant[9:27, 11:31] = False
    np.testing.assert_allclose(found.values[:, distant], whole.values[:, distant], rtol=1e-4, atol=1e-5)


def test_predictions_say_no_data_there(run, tmp_path):
    with pytest.warns(UserWarning, match="no data, for their files cannot be read"):
        found = fusion.load(run).predict(store(tmp_path, 2))
    assert 0 < int((found["class"] == 255).sum()) < found["class"].size / 2


def test_the_file_is_named_where_xarray_has_kept_it(run, tmp_path):
    path = tmp_path / "cube.nc"
    encoding = {"reflectance": {"chunksizes": (6, 4, *CHUNK), "zlib": True, "fletcher32": True}}
    cube = optical(72, 84)
    cube.drop_vars("band").to_dataset(name="reflectance").to_netcdf(path, engine="h5netcdf", encoding=encoding)
    import h5py

    with h5py.File(path) as file:
        offset = file["reflectance"].id.get_chunk_info_by_coord((0, 0, *CHUNK)).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 200] = bytes(200)
    path.write_bytes(bytes(content))
    with xr.open_dataset(path, engine="h5netcdf", cache=False) as dataset:
        given = dataset.assign_coords(band=cube.band)
        with pytest.warns(UserWarning, match=re.escape(f"{path}: cannot be read, the file is damaged")):
            found = fusion.load(run).embed(given.reflectance.assign_attrs(crs="EPSG:32631"))
    assert 0 < np.isnan(found.values).mean() < 0.5
