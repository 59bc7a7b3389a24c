"""What is said of a file that cannot be read is the true cause, as the libraries themselves report it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pytest
import rasterio
import xarray
import zarr

from fusion.data.files import read_json, reading
from fusion.data.npy import open_array

UNKNOWN_FILTER = 32001  # Blosc, which h5py has not


def tiff(path: Path) -> Path:
    shape = {"height": 64, "width": 64, "count": 1, "dtype": "uint8", "transform": rasterio.Affine(1, 0, 5, 0, -1, 5)}
    with rasterio.open(path, "w", driver="GTiff", **shape) as image:
        image.write(np.ones((1, 64, 64), np.uint8))
    return path


def hdf5(path: Path, number: int, chunk: bytes) -> Path:
    """One chunk, as it would lie in a file after this filter."""
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4, 4))
        plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((4, 4))
        h5py.h5d.create(file.id, b"s2", h5py.h5t.NATIVE_INT32, space, plan).write_direct_chunk((0, 0), chunk, 0)
    return path


def by_rasterio(path: Path) -> None:
    with reading(path), rasterio.open(path) as image:
        image.read()


def by_h5py(path: Path) -> None:
    with reading(path), h5py.File(path) as file:
        file["s2"][...]


READERS = [by_rasterio, by_h5py, open_array, read_json]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "pointer of Git LFS .* `git lfs pull`",
        ),
        (b"../../.git/annex/objects/aa/bb/MD5E-s3--00.tif", "pointer of git-annex .* `git annex get`"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page and not the file"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a server's error message"),
        (b"", r"it is empty \(0 bytes\); copy or download it again"),
    ],
)
def test_a_file_that_is_something_else_is_called_so(
    tmp_path: Path, read: Callable[[Path], object], content: bytes, told: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.bin: .*{told}"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_missing_and_a_folder_a_folder(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ValueError, match=r"a\.bin: no such file\. Check the folder"):
        read(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=f"{tmp_path.name}: is a folder, a file is wanted"):
        read(tmp_path)


@contextmanager
def few_files() -> Iterator[None]:
    """No further file can be opened."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("read", READERS)
def test_too_many_open_files_are_no_damage(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tiff(tmp_path / "a.tif")
    with (
        few_files(),
        pytest.raises(ValueError, match=r"a\.tif: .*too many files are open.*limit is 3.*ulimit -n") as told,
    ):
        read(path)
    assert "damaged" not in str(told.value)


@pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")
@pytest.mark.parametrize("read", READERS)
def test_a_forbidden_file_is_no_damage(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tiff(tmp_path / "a.tif")
    path.chmod(0)
    superuser = os.geteuid() == 0  # whom no right concerns
    try:
        if superuser:
            os.seteuid(65534)
        with pytest.raises(ValueError, match=r"a\.tif: cannot be read, permission denied: .*chmod"):
            read(path)
    finally:
        if superuser:
            os.seteuid(0)


def test_a_filter_that_is_not_installed_is_named_and_a_damaged_chunk_is_damage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.h5: is compressed by a filter .*pip install hdf5plugin"):
        by_h5py(hdf5(tmp_path / "a.h5", UNKNOWN_FILTER, b"abc" * 9))
    with pytest.raises(ValueError, match=r"b\.h5: cannot be read, the file is damaged or incomplete"):
        by_h5py(hdf5(tmp_path / "b.h5", h5py.h5z.FILTER_DEFLATE, b"abc" * 9))


@pytest.mark.parametrize(("form", "name"), [(2, ".zarray"), (3, "zarr.json")])
def test_a_codec_that_is_not_installed_is_named(tmp_path: Path, form: int, name: str) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(4,), dtype="i4", zarr_format=form)[:] = 1
    text = (path / name).read_text()
    (path / name).write_text(text.replace('"zstd"', '"jetraw"'))
    with pytest.raises(ValueError, match=r"a\.zarr: is compressed by the codec jetraw, .*pip install"), reading(path):
        zarr.open_array(path, mode="r")[:]


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.grib"
    with (
        pytest.raises(ValueError, match=r"a\.grib: needs eccodes_missing, .*pip install eccodes_missing"),
        reading(path),
    ):
        import eccodes_missing.reader  # noqa: F401


def test_xarray_that_recognises_nothing_is_told_what_the_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    path.write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(ValueError, match=r"a\.nc: is a web page"), reading(path):
        xarray.open_dataset(path)
    path.write_bytes(b"\x00\x01\x02\x03" * 99)
    unknown = r"a\.nc: no installed package reads this kind of file: pip install netCDF4"
    with pytest.raises(ValueError, match=unknown), reading(path):
        xarray.open_dataset(path)


def test_a_damaged_store_of_zarr_is_damaged_and_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(64,), dtype="i4", zarr_format=2, compressors=numcodecs.Zlib())[:] = 7
    (path / "0").write_bytes(b"x" * 20)
    with pytest.raises(ValueError, match=r"a\.zarr: cannot be read, the file is damaged or incomplete"), reading(path):
        zarr.open_array(path, mode="r")[:]


def test_what_says_itself_what_is_wrong_is_not_reworded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^3 bands wanted$"), reading(tmp_path / "a.tif"):
        raise ValueError("3 bands wanted")
    with pytest.raises(KeyError), reading(tmp_path / "a.tif"):
        raise KeyError("s2")


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(
        ValueError, match=r"a\.tif: cannot be read, the file is damaged or incomplete: copy or download"
    ):
        by_rasterio(path)


def test_json_that_is_half_copied_or_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2')
    with pytest.raises(ValueError, match=r"a\.json: is not JSON .*half copied; copy or download it again"):
        read_json(path)
    path.write_bytes('{"a": "Châtaignier"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json: is not text in UTF-8 .*save it as UTF-8"):
        read_json(path)
