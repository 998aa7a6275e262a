"""GRIB files, written here with ecCodes, read back as items."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.data.grids import FieldChoice
from functaconv.errors import InputError
from tests.data.grids.conftest import grib, read, values


def message(raw: np.ndarray, sample: str = "regular_ll_sfc_grib2", **keys: Any) -> bytes:
    """One field on a grid of 1 degree from 10 N, 20 E, or as `keys` say."""
    import eccodes

    rows, columns = raw.shape
    handle = eccodes.codes_new_from_samples(sample, eccodes.CODES_PRODUCT_GRIB)
    grid = {
        "Ni": columns,
        "Nj": rows,
        "latitudeOfFirstGridPointInDegrees": 10,
        "latitudeOfLastGridPointInDegrees": 11 - rows,
        "longitudeOfFirstGridPointInDegrees": 20,
        "longitudeOfLastGridPointInDegrees": 19 + columns,
        "iDirectionIncrementInDegrees": 1,
        "jDirectionIncrementInDegrees": 1,
        "dataDate": 20220501,
        "dataTime": 0,
    }
    for key, value in {**grid, **keys}.items():
        eccodes.codes_set(handle, key, value)
    missing = np.isnan(raw)
    if missing.any():
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", 9999)
    eccodes.codes_set(handle, "bitsPerValue", 24)
    flat = np.where(missing, 9999, raw)
    eccodes.codes_set_values(handle, (flat.T if keys.get("jPointsAreConsecutive") else flat).ravel())
    content: bytes = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return content


def pressure(level: int) -> dict[str, Any]:
    return {"typeOfLevel": "isobaricInhPa", "level": level}


@pytest.fixture
def grib_file(tmp_path: Path) -> Iterator[Any]:
    """Writes messages, and afterwards looks whether reading left anything beside the file."""

    def write(*messages: bytes) -> Path:
        path = tmp_path / "a.grib"
        path.write_bytes(b"".join(messages))
        return path

    yield write
    assert [path.name for path in tmp_path.iterdir()] == ["a.grib"]


@grib
@pytest.mark.parametrize("sample", ["regular_ll_sfc_grib1", "regular_ll_sfc_grib2"])
def test_messages_are_items_with_missing_values_as_nan(grib_file: Any, sample: str) -> None:
    raw = values(0, 3, 4, 5)
    raw[1, 2, 3] = np.nan
    path = grib_file(*(message(field, sample, dataTime=100 * hour) for hour, field in enumerate(raw)))
    items = read(path)
    assert list(items) == ["a_2022-05-01T00", "a_2022-05-01T01", "a_2022-05-01T02"]
    for number, (array, attributes) in enumerate(items.values()):
        # 24 bits over a range of about 50
        np.testing.assert_allclose(array, raw[number], atol=1e-4)
        assert attributes["n_missing"] == (number == 1)
        assert attributes["time"] == f"2022-05-01T0{number}:00:00"
        assert attributes["latitude"] == [10, 9, 8, 7]
        assert attributes["longitude"] == [20, 21, 22, 23, 24]
        assert attributes["units"] == "K"
        assert "Temperature" in attributes["long_name"].title()
        assert not {"reference_time", "step", "member"} & attributes.keys()


@grib
def test_levels_and_members_that_are_not_in_a_grib_file_are_not_made_up(grib_file: Any) -> None:
    def ensemble(member: int, level: int, name: str = "t") -> bytes:
        return message(
            np.full((2, 3), 10.0 * member + level),
            productDefinitionTemplateNumber=1,
            number=member,
            numberOfForecastsInEnsemble=3,
            shortName=name,
            **pressure(level),
        )

    items = read(grib_file(ensemble(0, 500), ensemble(1, 500), ensemble(1, 850)))
    assert list(items) == ["a_2022-05-01T00_500_m0", "a_2022-05-01T00_500_m1", "a_2022-05-01T00_850_m1"]
    array, attributes = items["a_2022-05-01T00_850_m1"]
    assert (array == 860).all()
    assert (attributes["level"], attributes["level_name"], attributes["level_units"]) == (850, "isobaricInhPa", "hPa")
    assert attributes["member"] == 1
    chosen = read(grib_file(ensemble(0, 500), ensemble(1, 850), ensemble(2, 700)), FieldChoice(levels=(850, 500)))
    assert list(chosen) == ["a_2022-05-01T00_500_m0", "a_2022-05-01T00_850_m1"]
    with pytest.raises(InputError, match="no level 300"):
        read(grib_file(ensemble(0, 500)), FieldChoice(levels=(300,)))


@grib
def test_the_control_forecast_of_an_ensemble_is_a_member_with_or_without_a_number(grib_file: Any) -> None:
    perturbed = message(np.ones((2, 2)), productDefinitionTemplateNumber=1, number=4)
    items = read(grib_file(message(np.zeros((2, 2))), perturbed))
    assert list(items) == ["a_2022-05-01T00_control", "a_2022-05-01T00_m4"]
    assert [attributes.get("member") for _, attributes in items.values()] == [None, 4]
    zero = message(np.zeros((2, 2)), productDefinitionTemplateNumber=1, number=0)
    assert list(read(grib_file(zero, perturbed))) == ["a_2022-05-01T00_m0", "a_2022-05-01T00_m4"]


@grib
def test_grib_forecasts_have_reference_time_and_step(grib_file: Any) -> None:
    path = grib_file(*(message(np.ones((2, 2)), dataTime=time, stepRange=str(step)) for time in (0, 600)
                       for step in (0, 6, 30)))  # fmt: skip
    items = read(path)
    assert list(items) == ["a_2022-05-01T00_step0", "a_2022-05-01T06_step6", "a_2022-05-02T06_step30",
                           "a_2022-05-01T06_step0", "a_2022-05-01T12_step6", "a_2022-05-02T12_step30"]  # fmt: skip
    attributes = items["a_2022-05-02T12_step30"][1]
    assert (attributes["time"], attributes["reference_time"]) == ("2022-05-02T12:00:00", "2022-05-01T06:00:00")
    assert (attributes["step"], attributes["step_units"]) == (30, "hours")


@grib
def test_grib_variables_become_channels(grib_file: Any) -> None:
    def both(time: int) -> Iterator[bytes]:
        yield message(np.full((2, 3), time), shortName="2t", dataTime=time)
        yield message(np.full((2, 3), -time), shortName="10u", dataTime=time)

    path = grib_file(*both(100), *both(200))
    items = read(path)
    assert list(items) == ["a_2022-05-01T01", "a_2022-05-01T02"]
    array, attributes = items["a_2022-05-01T02"]
    assert array.shape == (2, 3, 2)
    np.testing.assert_array_equal(array[0, 0], [200, -200])
    assert attributes["variable"] == ["t2m", "u10"]
    assert attributes["units"] == ["K", "m s**-1"]
    assert (attributes["level"], attributes["level_name"]) == ([2, 10], "heightAboveGround")
    assert list(read(path, FieldChoice(variables=("u10",)))) == list(items)
    with pytest.raises(InputError, match="no variable 'u100'") as caught:
        read(path, FieldChoice(variables=("u100",)))
    assert caught.value.hint == "variables are: t2m (2 messages); u10 (2 messages)"


@grib
def test_grib_variables_that_do_not_share_their_places_ask_for_a_choice(grib_file: Any) -> None:
    fields = [message(np.ones((2, 2)), shortName="2t", dataTime=time) for time in (0, 100)]
    path = grib_file(*fields, message(np.ones((2, 2)), shortName="10u"))
    with pytest.raises(InputError, match=r"t2m \(2 messages\) and u10 \(1\) differ in 1 times") as caught:
        read(path)
    assert caught.value.hint == "choose variables that share them: --variable t2m, or --variable u10"
    assert len(read(path, FieldChoice(variables=("t2m",)))) == 2
    small, large = np.ones((2, 2)), np.ones((2, 3))
    path = grib_file(*(message(small, shortName=name) for name in ("2t", "2d")), message(large, shortName="10u"))
    with pytest.raises(InputError, match="different grids") as caught:
        read(path)
    assert caught.value.hint == "choose variables of one grid: --variable t2m --variable d2m, or --variable u10"
    assert len(read(path, FieldChoice(variables=("u10",)))) == 1
    ((array, _),) = read(path, FieldChoice(variables=("t2m", "d2m"))).values()
    assert array.shape == (2, 2, 2)


def accumulated(raw: np.ndarray, step: int, kind: str = "accum") -> bytes:
    return message(raw, productDefinitionTemplateNumber=8, shortName="t", stepType=kind, startStep=0, endStep=step)


@grib
def test_one_name_of_two_step_types_is_two_variables(grib_file: Any) -> None:
    instant = [message(np.full((2, 2), step), shortName="t", stepRange=str(step)) for step in (0, 6, 12)]
    path = grib_file(*instant, *(accumulated(np.full((2, 2), 10 * step), step) for step in (6, 12)))
    with pytest.raises(InputError, match=r"t@instant \(3 messages\) and t@accum \(2\) differ") as caught:
        read(path)
    assert caught.value.hint == "choose variables that share them: --variable t@instant, or --variable t@accum"
    items = read(path, FieldChoice(variables=("t@accum",)))
    assert [float(array[0, 0]) for array, _ in items.values()] == [60, 120]
    assert {attributes["variable"] for _, attributes in items.values()} == {"t"}
    items = read(grib_file(*instant[1:], *(accumulated(np.full((2, 2), 10 * step), step) for step in (6, 12))))
    assert [array[0, 0].tolist() for array, _ in items.values()] == [[6, 60], [12, 120]]
    assert {tuple(attributes["variable"]) for _, attributes in items.values()} == {("t@instant", "t@accum")}


@grib
def test_what_an_accumulation_begins_with_is_no_other_variable(grib_file: Any) -> None:
    start = message(np.zeros((2, 2)), shortName="t", stepRange="0")
    items = read(grib_file(start, *(accumulated(np.full((2, 2), step), step) for step in (6, 12))))
    assert [float(array[0, 0]) for array, _ in items.values()] == [0, 6, 12]


@grib
def test_one_name_on_two_kinds_of_level_is_two_variables(grib_file: Any) -> None:
    path = grib_file(message(np.ones((2, 2)), shortName="t", **pressure(500)), message(np.zeros((2, 2)), shortName="t"))
    ((array, attributes),) = read(path, FieldChoice(variables=("t@surface",))).values()
    assert (array == 0).all()
    assert attributes["variable"] == "t"
    with pytest.raises(InputError, match="no variable 't'") as caught:
        read(path, FieldChoice(variables=("t",)))
    assert "t@isobaricInhPa" in str(caught.value.hint)


@grib
def test_messages_that_are_there_twice_are_an_error(grib_file: Any) -> None:
    path = grib_file(*[message(np.ones((2, 2)))] * 2)
    with pytest.raises(InputError, match=r"t at 2022-05-01T00:00:00 .* is there more than once"):
        read(path)


@grib
@pytest.mark.parametrize("by_columns", [0, 1])
@pytest.mark.parametrize(
    ("keys", "latitude", "longitude"),
    [
        ({}, [10, 9, 8], [20, 21, 22, 23]),
        (
            {"longitudeOfFirstGridPointInDegrees": 358, "longitudeOfLastGridPointInDegrees": 1},
            [10, 9, 8],
            [358, 359, 360, 361],
        ),
        (
            {
                "jScansPositively": 1,
                "latitudeOfFirstGridPointInDegrees": 8,
                "latitudeOfLastGridPointInDegrees": 10,
                "iScansNegatively": 1,
                "longitudeOfFirstGridPointInDegrees": 23,
                "longitudeOfLastGridPointInDegrees": 20,
            },
            [8, 9, 10],
            [23, 22, 21, 20],
        ),
    ],
)
def test_grids_are_read_in_the_order_they_are_scanned(
    grib_file: Any, by_columns: int, keys: dict[str, Any], latitude: list[float], longitude: list[float]
) -> None:
    raw = values(6, 3, 4)
    ((array, attributes),) = read(grib_file(message(raw, jPointsAreConsecutive=by_columns, **keys))).values()
    np.testing.assert_allclose(array, raw, atol=1e-4)
    assert attributes["latitude"] == latitude
    assert attributes["longitude"] == longitude


@grib
def test_rows_to_and_fro_are_an_error(grib_file: Any) -> None:
    with pytest.raises(InputError, match="to and fro"):
        read(grib_file(message(values(0, 2, 3), alternativeRowScanning=1)))


@grib
@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ("rotated_ll_sfc_grib2", "rotated pole: latitude has 2 axes"),
        ("reduced_gg_pl_48_grib2", "reduced Gaussian grid: rows have different lengths"),
        ("sh_ml_grib2", "spherical harmonics"),
        ("polar_stereographic_sfc_grib2", "grid of type polar_stereographic: latitude has 2 axes"),
    ],
)
def test_other_grids_ask_to_be_regridded(grib_file: Any, sample: str, reason: str) -> None:
    import eccodes

    handle = eccodes.codes_new_from_samples(sample, eccodes.CODES_PRODUCT_GRIB)
    path = grib_file(eccodes.codes_get_message(handle))
    eccodes.codes_release(handle)
    for choice in (FieldChoice(), FieldChoice(variables=("t",))):
        with pytest.raises(InputError, match=reason) as caught:
            read(path, choice)
        assert "regrid" in str(caught.value.hint)


@grib
def test_several_fields_in_one_message_are_all_read(tmp_path: Path) -> None:
    import eccodes

    together = eccodes.codes_grib_multi_new()
    for number, name in enumerate(("10u", "10v")):
        handle = eccodes.codes_new_from_message(message(np.full((2, 3), 1.0 + number), shortName=name))
        eccodes.codes_grib_multi_append(handle, 4, together)
        eccodes.codes_release(handle)
    with (tmp_path / "a.grib").open("wb") as stream:
        eccodes.codes_grib_multi_write(together, stream)
    eccodes.codes_grib_multi_release(together)
    with (tmp_path / "a.grib").open("ab") as stream:
        for number, name in enumerate(("10u", "10v")):
            stream.write(message(np.full((2, 3), 3.0 + number), shortName=name, dataTime=100))
    first, second = (array for array, _ in read(tmp_path / "a.grib").values())
    np.testing.assert_array_equal(first[1, 1], [1, 2])
    np.testing.assert_array_equal(second[1, 1], [3, 4])


@grib
def test_a_truncated_grib_file_is_an_error_wherever_it_ends(tmp_path: Path) -> None:
    fields = [message(values(0, 3, 4), dataTime=time) for time in (0, 100)]
    # a heading of four letters is the least that can be told from nothing
    for end in range(4, len(fields[1]), 3):
        (tmp_path / "a.grib").write_bytes(fields[0] + fields[1][:end])
        with pytest.raises(InputError, match="cannot read message 2"):
            read(tmp_path / "a.grib")


@grib
@pytest.mark.parametrize("sample", ["regular_ll_sfc_grib1", "regular_ll_sfc_grib2"])
def test_a_grid_too_large_for_memory_is_refused_by_its_header(
    grib_file: Any, monkeypatch: pytest.MonkeyPatch, sample: str
) -> None:
    import eccodes

    large = bytearray(message(values(0, 4, 5), sample))
    # rows and columns as 16 or 32 bits, after the shape of the earth in GRIB2
    at = bytes(large).index(b"\0\5\0\4" if sample.endswith("1") else b"\0\0\0\5\0\0\0\4")
    large[at : at + 4 if sample.endswith("1") else at + 8] = (
        b"\x3e\x80\x3e\x80" if sample.endswith("1") else b"\0\0\x3e\x80\0\0\x3e\x80"
    )

    def refuse(*_: Any) -> None:
        raise AssertionError("a value was decoded")

    monkeypatch.setattr(eccodes, "codes_get_array", refuse)
    monkeypatch.setattr(eccodes, "codes_get_values", refuse)
    with pytest.raises(InputError, match="16000 x 16000 values needs 1024000000 bytes, expected at most 268435456"):
        read(grib_file(bytes(large)))


@grib
def test_a_message_of_more_values_than_places_is_refused_by_its_header(grib_file: Any) -> None:
    content = message(values(0, 4, 5))
    # section 5: its length, its number, and how many values are packed
    at = content.index(b"\5\0\0\0\x14") + 1
    for key, place in (("numberOfDataPoints", content.index(b"\3\0\0\0\0\x14") + 2), ("numberOfValues", at)):
        large = content[:place] + b"\x70\0\0\0" + content[place + 4 :]
        with pytest.raises(InputError, match=f"{key} is more than the 20 points of the grid"):
            read(grib_file(large))
