"""Arrays that hold many items along an axis: each is an item with its label, in any order of bytes."""

import io
from pathlib import Path

import numpy as np
import pytest

from functaconv.errors import InputError, UsageError
from functaconv.packing import pack, plan
from tests.archives import records_of

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4), dtype=np.uint8)
LABELS = np.arange(12) % 3


def items(target: Path) -> dict[str, tuple[np.ndarray, int | None]]:
    """Array and label by key, as numpy and tarfile read them."""
    found = records_of(target)
    return {key: (np.load(io.BytesIO(it["npy"])), int(it["cls"]) if "cls" in it else None) for key, it in found.items()}


def check(target: Path, parts: np.ndarray, labels: np.ndarray | None, name: str) -> None:
    found = items(target)
    assert list(found) == [f"{name}_{number:02d}" for number in range(len(parts))]
    for number, (array, label) in enumerate(found.values()):
        np.testing.assert_array_equal(array, parts[number])
        assert array.dtype == parts.dtype
        assert label == (None if labels is None else labels[number])


@pytest.mark.parametrize(
    ("order", "axis", "dtype"),
    [
        ("C", 0, "uint8"),
        ("F", 1, "uint8"),
        ("F", 0, ">f4"),
        ("C", 2, ">f4"),
        ("C", 1, "float64"),
        ("F", 2, "bool"),
    ],
)
def test_each_place_on_the_axis_is_an_item(tmp_path: Path, order: str, axis: int, dtype: str) -> None:
    array = np.moveaxis(IMAGES, 0, axis).astype(dtype)
    np.save(tmp_path / "X.npy", np.asarray(array, order=order))  # type: ignore[call-overload]
    for name, source in (("file", tmp_path / "X.npy"), ("folder", tmp_path)):
        assert plan(source, split_axis=axis).items == 12
        summary = pack(source, tmp_path.parent / f"{tmp_path.name}-{name}", split_axis=axis)
        assert (summary.count, summary.failed, summary.ignored) == (12, 0, {})
        check(tmp_path.parent / f"{tmp_path.name}-{name}", np.moveaxis(array, axis, 0), None, "X")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "X_train.npy", IMAGES)
    np.save(tmp_path / "data" / "y_train.npy", LABELS)
    return tmp_path / "data"


def test_labels_are_a_file_of_the_folder_or_beside_the_array(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a", split_axis=0, labels="y_train.npy")
    check(tmp_path / "a", IMAGES, LABELS, "X_train")
    pack(folder / "X_train.npy", tmp_path / "b", split_axis=0, labels="y_train.npy")
    check(tmp_path / "b", IMAGES, LABELS, "X_train")
    (folder / "y_train.npy").rename(tmp_path / "y.npy")
    pack(folder, tmp_path / "c", split_axis=0, labels=str(tmp_path / "y.npy"))
    check(tmp_path / "c", IMAGES, LABELS, "X_train")


def test_without_the_option_labels_are_no_item_but_counted(folder: Path, tmp_path: Path) -> None:
    summary = pack(folder, tmp_path / "shards", split_axis=0)
    assert (summary.count, summary.failed) == (12, 0)
    assert summary.ignored == {"y_train.npy with a number for each item": 1}
    check(tmp_path / "shards", IMAGES, None, "X_train")


def test_a_column_of_labels_counts_as_a_list(folder: Path, tmp_path: Path) -> None:
    np.save(folder / "y_train.npy", LABELS[:, None].astype(np.float64))
    pack(folder, tmp_path / "shards", split_axis=0, labels="y_train.npy")
    check(tmp_path / "shards", IMAGES, LABELS, "X_train")


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_of_an_npz_are_cut_with_labels_beside_them(tmp_path: Path, compressed: bool) -> None:
    save = np.savez_compressed if compressed else np.savez
    (tmp_path / "data").mkdir()
    source = tmp_path / "data" / "mnist.npz"
    save(source, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:5], y_test=LABELS[:5])
    with pytest.raises(InputError, match=r"4 arrays \(x_train \(12, 5, 4\).*expected one to cut"):
        pack(source, tmp_path / "none", split_axis=0)
    with pytest.raises(InputError, match="4 arrays") as caught:
        pack(source, tmp_path / "none")
    assert str(caught.value.hint).startswith("--field npz:NAME chooses an array; --split-axis 0")
    summary = pack(source, tmp_path / "train", field="npz:x_train", split_axis=0, labels="npz:y_train")
    assert (summary.count, summary.ignored) == (12, {"further arrays of npz files": 2})
    check(tmp_path / "train", IMAGES, LABELS, "mnist")
    summary = pack(source.parent, tmp_path / "test", field="npz:x_test", split_axis=0)
    assert summary.ignored == {"npz:y_test with a number for each item": 1, "further arrays of npz files": 2}
    assert len(items(tmp_path / "test")) == 5


def test_the_only_array_of_several_axes_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    pack(tmp_path / "a.npz", tmp_path / "shards", split_axis=0, labels="npz:labels")
    check(tmp_path / "shards", IMAGES, LABELS, "a")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (LABELS[:5], r"shape \(5,\), expected 12 numbers for X_train\.npy"),
        (np.eye(12)[:, :3], r"shape \(12, 3\), expected 12 numbers"),
        (LABELS + 0.5, "that are no classes"),
        (LABELS - 2, "that are no classes"),
        (np.array(["cat"] * 12), "values of type <U3"),
    ],
)
def test_labels_that_do_not_fit_are_an_error(folder: Path, tmp_path: Path, labels: np.ndarray, reason: str) -> None:
    np.save(folder / "y_train.npy", labels)
    with pytest.raises(InputError, match=reason):
        pack(folder, tmp_path / "shards", split_axis=0, labels="y_train.npy")
    assert not (tmp_path / "shards").exists()


def test_requests_that_make_no_sense_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        pack(folder, tmp_path / "shards", labels="y_train.npy")
    assert caught.value.hint == "add --split-axis 0"
    with pytest.raises(UsageError, match="an axis -1"):
        pack(folder, tmp_path / "shards", split_axis=-1)
    with pytest.raises(InputError, match=r"no file of labels: y\.npy") as error:
        pack(folder, tmp_path / "shards", split_axis=0, labels="y.npy")
    assert "y_train.npy" in str(error.value.hint)
    with pytest.raises(InputError, match=r"shape \(12, 5, 4\) has no axis 3"):
        pack(folder / "X_train.npy", tmp_path / "shards", split_axis=3)
    (folder / "X_train.npy").write_bytes((folder / "X_train.npy").read_bytes()[:-1])
    with pytest.raises(InputError, match="needs 240 bytes, found 239"):
        pack(folder / "X_train.npy", tmp_path / "shards", split_axis=0)


def test_parts_without_a_finite_value_are_failures(tmp_path: Path) -> None:
    array = IMAGES.astype(np.float32)
    array[3] = np.nan
    np.save(tmp_path / "X.npy", array)
    summary = pack(tmp_path / "X.npy", tmp_path / "shards", split_axis=0)
    assert (summary.count, summary.failed) == (11, 1)
    assert summary.failures[0].key == "X_03"
    assert "no finite value" in summary.failures[0].reason


@pytest.mark.parametrize(
    ("shapes", "hint"),
    [
        (
            {"X_train": (12, 5, 4), "y_train": (12,)},
            "X_train.npy is one item of shape (12, 5, 4); if it holds 12: --split-axis 0 --labels y_train.npy",
        ),
        ({"X": (12, 5, 4)}, "X.npy is one item of shape (12, 5, 4); if it holds 12: --split-axis 0"),
        (
            {"X": (12, 5), "y": (12,)},
            "X.npy is one item of shape (12, 5); if it holds 12: --split-axis 0 --labels y.npy",
        ),
        (
            {"a": (12, 5, 4), "b": (12, 5, 4)},
            "a.npy is one item of shape (12, 5, 4) (and 1 more like it); if it holds 12: --split-axis 0",
        ),
        ({"volume": (8, 8, 8)}, None),
        ({"image": (12, 5)}, None),
        ({"series": (12,)}, None),
    ],
)
def test_an_array_whose_first_axis_looks_like_items_is_told(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], hint: str | None
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, shape in shapes.items():
        np.save(folder / f"{name}.npy", np.ones(shape))
    assert pack(folder, tmp_path / "shards", seed=None).notes == (() if hint is None else (hint,))
