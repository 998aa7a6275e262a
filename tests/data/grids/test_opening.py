"""What a source is: by its name, by its first bytes, and what is said of others."""

import sys
from pathlib import Path

import pytest

from functaconv.data.grids import is_fields
from functaconv.errors import InputError, MissingExtraError
from tests.data.grids.conftest import era5, netcdf, read, stored


def test_a_name_tells_whether_it_holds_fields() -> None:
    for name, expected in [
        ("a.nc", True),
        ("a.b.NC4", True),
        ("a.grib2", True),
        ("a.grb", True),
        ("a.tar", False),
        ("a", False),
        ("gs://bucket/a.zarr", True),
        ("gs://gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3", True),
        ("https://example.org/a.zarr/?token=b", True),
        ("https://example.org/a.nc", True),
        ("https://example.org/a.tar", False),
    ]:
        assert is_fields(name) is expected


def test_a_directory_is_a_zarr_store_by_its_name_or_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    assert is_fields(tmp_path / "a.zarr")
    assert not is_fields(tmp_path)
    for mark in ("zarr.json", ".zgroup", ".zmetadata"):
        folder = tmp_path / mark.strip(".")
        folder.mkdir()
        (folder / mark).write_text("{}")
        assert is_fields(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html><html>404</html>", "HTML, SVG or XML"),
        (b"\n\n <html>", "HTML, SVG or XML"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x1f\x8brest", "gzip"),
        (b'{"error": 1}', "JSON"),
        (b"", "nothing"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"whatever", "unknown data"),
    ],
)
def test_other_data_under_the_name_of_a_field_says_what_it_is(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.nc").write_bytes(content)
    with pytest.raises(InputError, match=f"expected NetCDF or GRIB, found {found}") as caught:
        read(tmp_path / "a.nc")
    assert caught.value.hint


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "a.nc")


@netcdf
def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(era5(), tmp_path / "a.nc")
    for module in ("netCDF4", "xarray"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingExtraError, match=f"NetCDF needs the package {module}") as caught:
                read(path)
            assert caught.value.hint == "pip install 'functaconv[era5]'"
    (tmp_path / "a.grib").write_bytes(b"GRIB\0\0\0\2")
    monkeypatch.setitem(sys.modules, "eccodes", None)
    with pytest.raises(MissingExtraError, match="GRIB needs the package eccodes") as caught:
        read(tmp_path / "a.grib")
    assert caught.value.hint == "pip install 'functaconv[grib]'"


def test_files_are_not_read_from_urls() -> None:
    with pytest.raises(InputError, match="only zarr stores are read from a URL") as caught:
        read("https://user:secret@example.org/a.nc")
    assert caught.value.hint == "download the file first"
    assert "secret" not in str(caught.value)
