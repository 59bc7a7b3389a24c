"""What is said where a disk is full while a map is made."""

import errno

import pytest
from rasterio._err import CPLE_BaseError

from fusion.embed.formats.optimised import copy_optimised
from fusion.embed.formats.temporary import explained
from fusion.embed.room import tells_a_full_disk


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the quota is used up"), (errno.EFBIG, "the file size limit")],
)
def test_a_full_disk_is_told_with_the_map_and_what_to_do(tmp_path, number, told):
    @tells_a_full_disk
    def make(model, data, out):
        raise OSError(number, "whatever the system calls it")

    with pytest.raises(RuntimeError, match=rf"cannot write .*map\.tif: {told} .*make room, then run the same command"):
        make(None, data=None, out=tmp_path / "new" / "map.tif")


def test_other_errors_pass(tmp_path):
    @tells_a_full_disk
    def make(model, data, out):
        raise PermissionError(errno.EACCES, "not yours")

    with pytest.raises(PermissionError, match="not yours"):
        make(None, None, tmp_path / "map.tif")


def test_no_number_of_an_error_is_told(tmp_path):
    told = r"^writing .*map\.tif failed: No space left; nothing was replaced$"
    with pytest.raises(RuntimeError, match=told), explained(tmp_path / "map.tif"):
        raise OSError(errno.ENOSPC, "No space left")


def test_errors_of_gdal_while_it_copies_are_of_the_system(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise CPLE_BaseError(1, 1, "TIFFReadDirectory: failed")

    monkeypatch.setattr("rasterio.shutil.copy", fail)
    with pytest.raises(OSError, match="TIFFReadDirectory"):
        copy_optimised(tmp_path / "a.tif", tmp_path / "b.tif")
