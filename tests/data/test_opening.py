"""Files of others are what their names say, and nothing that lies elsewhere is read through them."""

import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioIOError

from fusion.data import FolderDataset
from fusion.data.folder.formats import open_container
from fusion.data.opening import hdf5_dataset, open_npz, open_raster
from fusion.yaml_loader import load_yaml

PROFILE = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "float32", "crs": "EPSG:32632"}
PROFILE["transform"] = rasterio.transform.from_origin(0, 40, 10, 10)


def tif(path: Path, value: float = 1.0) -> Path:
    with rasterio.open(path, "w", **PROFILE) as file:
        file.write(np.full((1, 4, 4), value, np.float32))
    return path


def vrt(source: str) -> str:
    return (
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def relative(text: str) -> str:
    """The sources lie beside the mosaic."""
    return text.replace("<SourceFilename>", '<SourceFilename relativeToVRT="1">')


@pytest.fixture
def server():
    """A web server that counts the requests it gets."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.jp2", "a"])
def test_a_list_of_addresses_by_the_name_of_an_image_is_not_followed(tmp_path, server, name):
    address, asked = server
    (tmp_path / name).write_text(vrt(f"/vsicurl/{address}/secret.tif"))
    with pytest.raises(RasterioIOError):
        open_raster(tmp_path / name)
    assert asked == []


@pytest.mark.parametrize("prefix", ["/vsicurl/", ""])
def test_a_mosaic_of_data_on_a_network_is_refused_before_it_is_opened(tmp_path, server, prefix):
    address, asked = server
    (tmp_path / "a.vrt").write_text(vrt(f"{prefix}{address}/secret.tif"))
    with pytest.raises(ValueError, match=rf"a.vrt: names data on a network, {prefix}{address}/secret.tif; download"):
        open_raster(tmp_path / "a.vrt")
    assert asked == []


@pytest.mark.parametrize(
    "source",
    [
        "&#47;vsicurl/{address}/a.tif",
        "/vsizip//vsicurl/{address}/a.zip/a.tif",
        "/vsigzip//vsicurl_streaming/{address}/a.gz",
        'NETCDF:"/vsicurl/{address}/a.nc":s2',
        "&lt;VRTDataset&gt;&lt;SourceFilename&gt;/vsicurl/{address}/a.tif&lt;/SourceFilename&gt;&lt;/VRTDataset&gt;",
        "inner.vrt",
        "inner.tif",
        "{folder}/inner.vrt",
        "vrt://inner.vrt",
    ],
)
def test_a_network_behind_a_mosaic_is_refused_before_anything_is_opened(tmp_path, server, source):
    address, asked = server
    for name in ("inner.vrt", "inner.tif"):
        (tmp_path / name).write_text(vrt("further.vrt"))
    (tmp_path / "further.vrt").write_text(vrt(f"/vsicurl/{address}/secret.tif"))
    (tmp_path / "a.vrt").write_text(relative(vrt(source.format(address=address, folder=tmp_path))))
    with pytest.raises(ValueError, match=r"a.vrt: names data on a network"):
        open_raster(tmp_path / "a.vrt")
    assert asked == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/vsizip/a.zip/a.tif", "names data in an archive, /vsizip/a.zip/a.tif; unpack it"),
        ("WMS:service=x", "names data by the driver WMS of GDAL"),
        ("PG:host=x", "names data by the driver PG of GDAL"),
        ("wms.tif", "names wms.tif, a text that may name data elsewhere"),
        ("a.vrt", "mosaics lie in each other more than 8 deep"),
        ("pipe.tif", "is a pipe, a file is wanted"),
    ],
)
def test_what_a_mosaic_may_not_name(tmp_path, source, message):
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "wms.tif").write_text("<GDAL_WMS><Service name='TMS'/></GDAL_WMS>")
    (tmp_path / "a.vrt").write_text(relative(vrt(source)))
    with pytest.raises(ValueError, match=message):
        open_raster(tmp_path / "a.vrt")


@pytest.mark.parametrize("content", ["", "<VRTDataset>", "<!DOCTYPE x [<!ENTITY a 'b'>]><VRTDataset/>", "text"])
def test_a_mosaic_that_is_no_xml_names_itself(tmp_path, content):
    (tmp_path / "a.vrt").write_text(content)
    with pytest.raises(ValueError, match=r"a.vrt"):
        open_raster(tmp_path / "a.vrt")


def test_a_mosaic_of_mosaics_beside_it_is_read(tmp_path):
    tif(tmp_path / "part.tif", 3.0)
    (tmp_path / "inner.vrt").write_text(relative(vrt("part.tif")))
    (tmp_path / "a.vrt").write_text(relative(vrt("inner.vrt")))
    with open_raster(tmp_path / "a.vrt") as file:
        assert (file.read() == 3).all()


def test_a_mosaic_of_files_is_read(tmp_path):
    tif(tmp_path / "part.tif", 3.0)
    (tmp_path / "a.vrt").write_text(vrt(str(tmp_path / "part.tif")))
    with open_raster(tmp_path / "a.vrt") as file:
        assert (file.read() == 3).all()


def test_tiles_of_a_folder_with_a_disguised_list_are_refused_with_its_name(tmp_path, server):
    address, asked = server
    (tmp_path / "a_2020-04-10.tif").write_text(vrt(f"/vsicurl/{address}/secret.tif"))
    s2 = {"files": "{scene}_{date}.tif", "bands": ["B04"], "resolution": 10, "unit": "reflectance"}
    with pytest.raises(ValueError, match=r"a_2020-04-10\.tif"):
        FolderDataset({"files": "{scene}_{date}.tif", "tile": 40, "patch": 10, "modalities": {"s2": s2}}, tmp_path)
    assert asked == []


@pytest.fixture
def linked(tmp_path) -> Path:
    """An HDF5 file whose data lie in others, near and far."""
    (tmp_path / "data").mkdir()
    for place in (tmp_path / "far.h5", tmp_path / "data" / "near.h5"):
        with h5py.File(place, "w") as file:
            file["values"] = np.arange(6.0).reshape(2, 3)
    np.arange(6.0).tofile(tmp_path / "far.bin")
    with h5py.File(tmp_path / "data" / "a.h5", "w") as file:
        file["own"] = np.arange(6.0)
        file["near"] = h5py.ExternalLink("near.h5", "values")
        file["far"] = h5py.ExternalLink("../far.h5", "values")
        file["absolute"] = h5py.ExternalLink(str(tmp_path / "far.h5"), "/")
        file.create_dataset("raw", (6,), "f8", external=[(str(tmp_path / "far.bin"), 0, 48)])
        layout = h5py.VirtualLayout((2, 3), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "far.h5"), "values", (2, 3))
        file.create_virtual_dataset("virtual", layout)
    return tmp_path / "data" / "a.h5"


@pytest.mark.parametrize("name", ["far", "absolute/values", "raw", "virtual"])
def test_data_of_hdf5_that_lie_outside_the_folder_are_refused(linked, name):
    with (
        h5py.File(linked, "r") as file,
        pytest.raises(ValueError, match=rf"a.h5: '{name}' lies in another file, .*far.* outside its folder"),
    ):
        hdf5_dataset(file, name)


@pytest.mark.parametrize("ask", ["variable", "attributes", "dimensions"])
def test_nothing_is_asked_of_data_that_lie_outside(linked, ask):
    container = open_container(linked)
    with pytest.raises(ValueError, match="lies in another file"):
        getattr(container, ask)("far")
    container.close()


@pytest.mark.parametrize(("name", "first"), [("own", 0.0), ("near", 0.0), ("/own", 0.0)])
def test_data_of_hdf5_within_the_folder_are_read(linked, name, first):
    with h5py.File(linked, "r") as file:
        assert hdf5_dataset(file, name)[()].flat[0] == first
        with pytest.raises(KeyError):
            hdf5_dataset(file, "missing")


@pytest.mark.parametrize("ask", ["far", "absolute/values", "soft", "near_to_far", "around"])
def test_a_link_to_a_file_elsewhere_is_refused_before_it_is_followed(linked, ask, monkeypatch):
    with h5py.File(linked, "r+") as file:
        file["soft"] = h5py.SoftLink("/far")
        file["near_to_far"] = h5py.ExternalLink("near.h5", "onwards")
        file["around"] = h5py.SoftLink("/around")
    with h5py.File(linked.with_name("near.h5"), "r+") as file:
        file["onwards"] = h5py.ExternalLink("../far.h5", "values")
    container, opened = open_container(linked), []
    monkeypatch.setattr(
        h5py, "File", lambda path, *how, real=h5py.File: opened.append(Path(path).name) or real(path, *how)
    )
    with pytest.raises(ValueError, match=r"lies in another file|is a link to a link, 8 times"):
        ask in container  # noqa: B015
    assert "far.h5" not in opened
    container.close()


def test_what_a_link_within_the_folder_leads_to_is_there(linked):
    with h5py.File(linked, "r+") as file:
        file["soft"] = h5py.SoftLink("/near")
        file["nowhere"] = h5py.SoftLink("/no/such")
    container = open_container(linked)
    assert [name in container for name in ("soft", "near", "own", "nowhere", "own/x", "missing")] == [True] * 3 + [
        False
    ] * 3
    container.close()


@pytest.mark.parametrize("kind", ["link", "raw", "virtual"])
def test_a_netcdf_of_values_elsewhere_is_refused(tmp_path, kind):
    (tmp_path / "data").mkdir()
    np.arange(6.0).tofile(tmp_path / "far.bin")
    with h5py.File(tmp_path / "data" / "a.nc", "w") as file:
        if kind == "link":
            file["s2"] = h5py.ExternalLink("../far.h5", "values")
        elif kind == "raw":
            file.create_dataset("s2", (6,), "f8", external=[(str(tmp_path / "far.bin"), 0, 48)])
        else:
            layout = h5py.VirtualLayout((2, 3), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "far.h5"), "values", (2, 3))
            file.create_virtual_dataset("s2", layout)
    with pytest.raises(ValueError, match=r"a.nc: 's2' lies in another file, .*far"):
        open_container(tmp_path / "data" / "a.nc")


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("values.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (75, 1 << 20)})
        for _ in range(300):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 2e6
    with pytest.raises(ValueError, match=r"values.npy would take 0.3 GiB unpacked, \d+ times its \d+ bytes"):
        open_npz(path)


def test_an_array_larger_than_memory_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", values=np.random.default_rng(0).normal(size=1000))
    monkeypatch.setattr("fusion.data.opening.available_memory", lambda: 10_000)
    with pytest.raises(ValueError, match=r"would take 0.0 GiB unpacked, 0.0 GiB of memory are free; save it as .npy"):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".tif", ".npz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, suffix):
    pipe = tmp_path / f"a{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="is a pipe, a file is wanted"):
        (open_raster if suffix == ".tif" else open_npz)(pipe)
    with pytest.raises(ValueError, match="is a pipe, a file is wanted"):
        load_yaml(pipe)
