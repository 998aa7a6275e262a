"""Decoding at any size or place, and every place a picture can go to."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from functaconv.conversion import encode
from functaconv.errors import InputError, OutputExistsError, UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.rendering import (
    FORMATS,
    Picture,
    View,
    arrays,
    ends_of,
    region_of,
    render,
    selection_of,
    size_of,
)
from functaconv.signals.grid import Grid
from functaconv.training import fit_base
from tests.conftest import TINY, png, tar

SIDE = 12
SUMS = 2e-5
"""items are decoded in batches, points in chunks of other lengths: float32 sums come in another order"""


@pytest.fixture(scope="module")
def store(base_file: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Functaset:
    """70 RGB images of 12 x 12 with a global latent."""
    return open_functaset(encode(base_file, str(images), tmp_path_factory.mktemp("store") / "a.zarr").path)


@pytest.fixture(scope="module")
def spatial(spatial_base_file: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Functaset:
    """The same with 2 x 3 sites."""
    return open_functaset(encode(spatial_base_file, str(images), tmp_path_factory.mktemp("store") / "s.zarr").path)


@pytest.fixture(scope="module", params=["global", "spatial"])
def any_store(request: pytest.FixtureRequest, store: Functaset, spatial: Functaset) -> Functaset:
    return store if request.param == "global" else spatial


def array_of(functaset: Functaset, item: int, view: View | None = None) -> np.ndarray:
    [(_, array)] = arrays(functaset, [item], view=view)
    return array


# what is asked for


def test_sizes_are_read() -> None:
    for text, shape in (("64x48", (64, 48)), ("512", (512,)), ("4x5x6", (4, 5, 6)), ("8X9", (8, 9))):
        assert size_of(text) == shape


def test_what_is_no_size_is_a_usage_error() -> None:
    for text in ["", "x", "3x", "0x3", "-1x3", "1.5x2", "1x2x3x4", "99999999"]:
        with pytest.raises(UsageError, match="cannot read the size"):
            size_of(text)


def test_regions_are_read_and_may_leave_the_unit_square() -> None:
    assert region_of("-0.5:1.5,1:2") == ((-0.5, 1.5), (1.0, 2.0))
    assert region_of("0:1") == ((0.0, 1.0),)


def test_what_is_no_region_is_a_usage_error() -> None:
    for text in ["", "0:1,", "1:0,0:1", "0:0,0:1", "0:nan,0:1", "0:inf,0:1", "0-1", "0:1:2,0:1"]:
        with pytest.raises(UsageError, match="cannot read the region"):
            region_of(text)


def test_items_are_selected_half_open() -> None:
    for texts, items in [
        (["3"], [3]),
        (["-1"], [9]),
        (["2:5"], [2, 3, 4]),
        ([":2", "8:"], [0, 1, 8, 9]),
        (["-2:"], [8, 9]),
        (["5:5"], []),
        (["7:99"], [7, 8, 9]),
        (["3", "3"], [3, 3]),
    ]:
        assert selection_of(texts, 10) == items


@pytest.mark.parametrize("text", ["10", "-11"])
def test_an_item_out_of_range_is_an_error_that_tells_the_range(text: str) -> None:
    with pytest.raises(InputError, match=rf"no item {text}: the functaset has 10") as caught:
        selection_of([text], 10)
    assert caught.value.hint == "0 to 9"


# what is decoded


def test_native_size_is_what_was_encoded(any_store: Functaset) -> None:
    decoded = list(arrays(any_store))
    assert [key for key, _ in decoded] == any_store.keys.tolist()
    for (_, array), key, mse in list(zip(decoded, any_store.keys, any_store.mse, strict=True))[:5]:
        assert (array.shape, array.dtype) == ((SIDE, SIDE, 3), np.float32)
        with Image.open(io.BytesIO(png(int(key.removeprefix("image")), (SIDE, SIDE)))) as image:
            original = np.asarray(image) / 255
        assert np.square(array - original).mean() == pytest.approx(float(mse), rel=1e-3)


def test_three_times_the_size_has_the_native_points_in_the_middle_of_each_nine(any_store: Functaset) -> None:
    native, large = array_of(any_store, 5), array_of(any_store, 5, View(scale=3))
    assert large.shape == (3 * SIDE, 3 * SIDE, 3)
    np.testing.assert_allclose(large[1::3, 1::3], native, atol=SUMS)


@pytest.mark.parametrize(("text", "box"), [("0.25:0.75,0.5:1", np.s_[3:9, 6:12]), ("0:0.5,0:0.25", np.s_[:6, :3])])
def test_a_region_is_a_part_of_the_whole(text: str, box: tuple[slice, slice], any_store: Functaset) -> None:
    part = array_of(any_store, 2, View(region=region_of(text)))
    np.testing.assert_allclose(part, array_of(any_store, 2)[box], atol=SUMS)


def test_a_region_may_leave_the_unit_square_and_agrees_where_it_does_not(any_store: Functaset) -> None:
    wide = array_of(any_store, 2, View(region=((-0.5, 1.5), (-0.25, 1.25))))
    assert wide.shape == (24, 18, 3)
    assert np.isfinite(wide).all()
    np.testing.assert_allclose(wide[6:18, 3:15], array_of(any_store, 2), atol=SUMS)


def test_a_size_is_the_size_of_the_region(store: Functaset) -> None:
    view = View(size=(5, 7), region=((0.25, 0.75), (0.0, 1.0)))
    assert array_of(store, 0, view).shape == (5, 7, 3)
    assert array_of(store, 0, View(scale=0.01)).shape == (1, 1, 3)


def test_axes_that_the_items_do_not_have_are_a_usage_error(store: Functaset) -> None:
    for view in (View(size=(4, 4, 4)), View(size=(4,)), View(region=((0.0, 1.0),))):
        with pytest.raises(UsageError, match="the items have 2 axes"):
            array_of(store, 0, view)


def test_an_item_of_more_values_than_fit_is_refused_with_what_to_do(store: Functaset) -> None:
    with pytest.raises(UsageError, match="7000x7000 points of 3 channels are too much for one item") as caught:
        array_of(store, 0, View(size=(7000, 7000)))
    assert "--scale" in str(caught.value.hint)


def test_a_large_picture_is_decoded_in_pieces_of_rows(store: Functaset) -> None:
    halves = [
        array_of(store, 0, View(size=(550, 1000), region=(rows, (0.0, 1.0)))) for rows in ((0.0, 0.5), (0.5, 1.0))
    ]
    large = array_of(store, 0, View(size=(1100, 1000)))
    np.testing.assert_allclose(large, np.concatenate(halves), atol=1e-5)


def test_items_of_different_sizes_keep_their_order(base_file: Path, tmp_path: Path) -> None:
    shapes = [(12, 12), (10, 14), (12, 12), (10, 14), (14, 10)]
    shard = tar(tmp_path / "mixed.tar", {f"{n}.png": png(n, shape) for n, shape in enumerate(shapes)})
    mixed = open_functaset(encode(base_file, str(shard), tmp_path / "mixed.zarr").path)
    decoded = list(arrays(mixed, [4, 0, 1, 2, 3]))
    assert [key for key, _ in decoded] == ["4", "0", "1", "2", "3"]
    assert [array.shape[:2] for _, array in decoded] == [shapes[n] for n in (4, 0, 1, 2, 3)]


def test_arrays_come_in_their_own_units_and_with_their_own_axes(
    array_shards: Callable[..., Path], tmp_path: Path
) -> None:
    shards = array_shards(10, (6, 8, 9))
    settings = {**TINY, "training": {"steps": 3}}
    base = fit_base(str(shards), tmp_path / "base.safetensors", settings=settings).path
    cubes = open_functaset(encode(base, str(shards), tmp_path / "cubes.zarr").path)
    array = array_of(cubes, 0, View(scale=2))
    assert array.shape == (12, 16, 18, 1)
    # -20 to 30, and not 0 to 1
    assert np.abs(array).max() > 2
    with pytest.raises(UsageError, match="png holds images"):
        render(cubes, tmp_path / "out", format="png")
    assert render(cubes, tmp_path / "out").files[0].endswith("array0000.npy")


# tiles


@pytest.fixture(scope="module")
def tiled(base_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Functaset:
    """Two images in tiles and one that is small enough."""
    folder = tmp_path_factory.mktemp("tiled")
    shapes = {"large": (30, 20), "small": (12, 12), "a#0": (13, 25)}
    shard = tar(folder / "in.tar", {f"{key}.png": png(n, shape) for n, (key, shape) in enumerate(shapes.items())})
    return open_functaset(encode(base_file, str(shard), folder / "tiled.zarr", tile=12).path)


def test_tiles_are_rendered_as_the_images_they_were_cut_from(tiled: Functaset) -> None:
    assert len(tiled) == 3 * 2 + 1 + 2 * 3
    shapes = {key: array.shape for key, array in arrays(tiled)}
    assert shapes == {"large": (30, 20, 3), "small": (12, 12, 3), "a#0": (13, 25, 3)}


def test_a_point_is_the_weighted_mean_of_the_tiles_that_see_it(tiled: Functaset) -> None:
    """With the weights of FORMAT.md."""
    joined = dict(arrays(tiled))
    assert tiled.tiles is not None
    sums, weights = ({key: np.zeros(array.shape) for key, array in joined.items()} for _ in range(2))
    for row, (key, array) in enumerate(_as_if_not_tiled(tiled)):
        origin, whole = tiled.tiles[row, :2].tolist(), tiled.tiles[row, 2:].tolist()
        name = key.rpartition("#")[0] if tuple(whole) != array.shape[:2] else key
        box = tuple(slice(start, start + size) for start, size in zip(origin, array.shape[:2], strict=True))
        weight = np.ones((1, 1, 1))
        for axis, overlap in enumerate(tiled.layout.overlap):
            size, share = array.shape[axis], np.ones(array.shape[axis])
            for end, is_outer in ((0, origin[axis] == 0), (size, origin[axis] + size == whole[axis])):
                if not is_outer:
                    distance = np.abs(np.arange(size) + 0.5 - end)
                    share *= np.sin(np.pi / 2 * np.minimum(1, distance / overlap)) ** 2
            weight = weight * share.reshape(-1, 1, 1) if axis == 0 else weight * share[:, None]
        sums[name][box] += weight * array
        weights[name][box] += weight
    for key, array in joined.items():
        np.testing.assert_allclose(array, sums[key] / weights[key], atol=SUMS, err_msg=key)
    # all of these are blended somewhere, but for the one that is no larger than a tile
    assert {key for key, found in weights.items() if (found != 1).any()} == {"large", "a#0"}


def test_tiles_are_continuous_at_any_resolution(tiled: Functaset) -> None:
    steps = []
    for scale in (8, 80):
        line = array_of(tiled, 0, View(size=(1, 20 * scale), region=((0.45, 0.46), (0, 1))))[0]
        steps.append(np.abs(np.diff(line, axis=0)).max())
    assert 0 < steps[1] < 0.12 * steps[0]


def _as_if_not_tiled(tiled: Functaset) -> list[tuple[str, np.ndarray]]:
    """Each row decoded on a grid of its own."""
    import torch

    from functaconv.checkpoint import base_from_bytes
    from functaconv.signals.grid import Grid

    base = base_from_bytes(tiled.base_bytes(), "base").base
    found = []
    for row, (key, shape) in enumerate(zip(tiled.keys, tiled.shapes, strict=True)):
        latent = torch.from_numpy(tiled.latents(slice(row, row + 1))).reshape(1, -1, base.latent)
        decoded = base.normalizer.values(base.decode(latent, Grid(tuple(shape.tolist())).coords()))
        found.append((str(key), decoded.numpy().reshape(*shape, 3)))
    return found


def test_regions_and_scales_of_tiled_images_are_those_of_the_whole(tiled: Functaset) -> None:
    native = array_of(tiled, 0)
    np.testing.assert_allclose(array_of(tiled, 0, View(scale=3))[1::3, 1::3], native, atol=SUMS)
    part = array_of(tiled, 0, View(region=((0.2, 0.8), (0.25, 0.75))))
    np.testing.assert_allclose(part, native[6:24, 5:15], atol=SUMS)
    assert np.isfinite(array_of(tiled, 0, View(region=((-0.5, 1.5), (-0.5, 1.5))))).all()


def test_a_tile_is_not_an_item(tiled: Functaset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a tile") as caught:
        render(tiled, tmp_path / "out.png", keys=["large#0,0"])
    assert caught.value.hint == "render the whole: --key large"
    assert render(tiled, tmp_path / "out", keys=["large", "a#0"]).count == 2


# where it goes


def test_several_items_go_to_a_directory_under_their_keys(store: Functaset, tmp_path: Path) -> None:
    made = render(store, tmp_path / "new" / "pictures", items=["1:3"])
    names = [f"{key}.png" for key in store.keys[1:3]]
    assert made.count == 2
    assert sorted(path.name for path in (tmp_path / "new" / "pictures").iterdir()) == sorted(names)
    assert made.files == tuple(str(tmp_path / "new" / "pictures" / name) for name in names)


def test_an_empty_directory_will_do_and_another_will_not(store: Functaset, tmp_path: Path) -> None:
    render(store, tmp_path, items=[0])
    with pytest.raises(OutputExistsError, match="not an empty directory"):
        render(store, tmp_path, items=[1])
    assert len(list(tmp_path.iterdir())) == 1


def test_one_item_goes_to_a_file_whose_suffix_is_the_format(store: Functaset, tmp_path: Path) -> None:
    for suffix in ("png", "npy", "npz", "PNG"):
        path = tmp_path / suffix / f"one.{suffix}"
        assert render(store, path, items=[3]).files == (str(path),)
    np.testing.assert_array_equal(np.load(tmp_path / "npy" / "one.npy"), array_of(store, 3))
    with np.load(tmp_path / "npz" / "one.npz") as content:
        np.testing.assert_array_equal(content["array"], array_of(store, 3))


def test_a_file_or_a_tar_that_exists_is_left_alone(store: Functaset, tmp_path: Path) -> None:
    for name in ("one.png", "one.tar"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(OutputExistsError, match="exists"):
            render(store, tmp_path / name, items=[0])
        assert (tmp_path / name).read_bytes() == b"mine"


def test_overwrite_replaces_files_of_the_same_names(store: Functaset, tmp_path: Path) -> None:
    for name in ("one.npy", "all.tar", "folder"):
        render(store, tmp_path / name, items=[0], format="npy")
    (tmp_path / "folder" / "mine.txt").write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="not an empty directory") as caught:
        render(store, tmp_path / "folder", items=[0], format="npy")
    assert "--overwrite" in str(caught.value.hint)
    view = View(scale=2)
    for name in ("one.npy", "all.tar", "folder"):
        render(store, tmp_path / name, items=[0], format="npy", view=view, overwrite=True)
    assert np.load(tmp_path / "one.npy").shape == (24, 24, 3)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["image0000.npy", "mine.txt"]
    assert np.load(tmp_path / "folder" / "image0000.npy").shape == (24, 24, 3)
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert archive.getnames() == ["image0000.npy"]


def test_overwrite_replaces_neither_a_folder_by_a_file_nor_what_is_in_a_store(store: Functaset, tmp_path: Path) -> None:
    (tmp_path / "one.npy").mkdir()
    with pytest.raises(OutputExistsError, match=r"one\.npy exists"):
        render(store, tmp_path / "one.npy", items=[0], overwrite=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "zarr.json").write_bytes(b"{}")
    with pytest.raises(OutputExistsError, match="is a store of arrays"):
        render(store, tmp_path / "store", items=[0], format="npy", overwrite=True)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["zarr.json"]


def test_many_items_do_not_go_to_one_file(store: Functaset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names one file, and 70 items"):
        render(store, tmp_path / "one.png")


def test_a_tar_holds_the_files_of_the_directory(store: Functaset, tmp_path: Path) -> None:
    render(store, tmp_path / "folder", items=["0:5"], format="npy")
    render(store, tmp_path / "all.tar", items=["0:5"], format="npy")
    with tarfile.open(tmp_path / "all.tar") as archive:
        content = {member.name: archive.extractfile(member) for member in archive}
        assert {name: file.read() for name, file in content.items() if file} == {
            path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()
        }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.tar", "folder"]


def test_stdout_gets_one_item_as_it_is_and_several_as_a_tar(store: Functaset) -> None:
    one, several = io.BytesIO(), io.BytesIO()
    render(store, "-", items=[0], stdout=one)
    assert one.getvalue().startswith(b"\x89PNG")
    render(store, "-", items=["0:3"], stdout=several)
    with tarfile.open(fileobj=io.BytesIO(several.getvalue())) as archive:
        assert archive.getnames() == [f"{key}.png" for key in store.keys[:3]]


@pytest.mark.parametrize("view", [View(size=(4, 4, 4)), View(size=(99999, 99999))])
def test_a_view_that_makes_no_sense_leaves_nothing_behind(view: View, store: Functaset, tmp_path: Path) -> None:
    for name in ("folder", "all.tar", "one.png"):
        with pytest.raises(UsageError):
            render(store, tmp_path / name, items=[0], view=view)
    assert not list(tmp_path.iterdir())


def test_png_is_clipped_and_npy_is_not(store: Functaset) -> None:
    array = np.linspace(-0.5, 1.5, 48, dtype=np.float32).reshape(4, 4, 3)
    colour, gray = (Picture("a", values, Grid((4, 4)), 0) for values in (array, array[..., :1]))
    np.testing.assert_array_equal(np.load(io.BytesIO(FORMATS["npy"].to_bytes(colour, store))), array)
    with Image.open(io.BytesIO(FORMATS["png"].to_bytes(colour, store))) as image:
        np.testing.assert_array_equal(np.asarray(image), np.rint(255 * array.clip(0, 1)).astype(np.uint8))
    with Image.open(io.BytesIO(FORMATS["png"].to_bytes(gray, store))) as image:
        assert image.mode == "L"


def test_the_same_item_twice_is_two_files(store: Functaset, tmp_path: Path) -> None:
    made = render(store, tmp_path / "out", items=[4, "4:5"])
    key = store.keys[4]
    assert [Path(file).name for file in made.files] == [f"{key}.png", f"{key}_2.png"]


def test_items_are_found_by_key_and_an_unknown_one_gets_the_nearest(store: Functaset, tmp_path: Path) -> None:
    key = str(store.keys[7])
    render(store, tmp_path / "one.npy", keys=[key])
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), array_of(store, 7))
    with pytest.raises(InputError, match="no item with key") as caught:
        render(store, tmp_path / "other.npy", keys=[key[:-1]])
    assert str(caught.value.hint).startswith(f"near it: {key[:-2]}")


# between two items


def test_a_strip_begins_with_one_item_and_ends_with_the_other(any_store: Functaset, tmp_path: Path) -> None:
    key = str(any_store.keys[3])
    rendered = render(any_store, tmp_path / "way.png", between=(1, key), frames=5, view=View(scale=2.0))
    assert (rendered.count, rendered.files) == (5, (str(tmp_path / "way.png"),))
    strip = np.asarray(Image.open(tmp_path / "way.png")) / 255
    assert strip.shape == (2 * SIDE, 5 * 2 * SIDE, 3)
    for place, item in ((0, 1), (-2 * SIDE, 3)):
        expected = array_of(any_store, item, View(scale=2.0)).clip(0, 1)
        frame = strip[:, place:] if place else strip[:, : 2 * SIDE]
        assert np.abs(frame - expected).max() < 1 / 255


def test_an_animation_has_as_many_frames_as_asked_for(any_store: Functaset, tmp_path: Path) -> None:
    render(any_store, tmp_path / "way.gif", between=(0, 5), frames=7)
    with Image.open(tmp_path / "way.gif") as animation:
        assert animation.n_frames == 7  # type: ignore[attr-defined]


def test_ways_that_lead_nowhere_are_usage_errors(any_store: Functaset, tmp_path: Path) -> None:
    for options in ({"between": (0, 99)}, {"between": (0, 1), "items": [0]}, {"between": (0, 1), "frames": 1}):
        with pytest.raises(UsageError):
            render(any_store, tmp_path / "way.png", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="names no picture"):
        render(any_store, tmp_path / "way.npy", between=(0, 1))
    with pytest.raises(InputError, match="no item with key"):
        render(any_store, tmp_path / "way.png", between=(0, "nobody"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="cannot read the items"):
        ends_of("7")
