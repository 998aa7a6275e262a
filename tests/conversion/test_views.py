"""Augmented views: rows of their own that depend on seed, key and number, and that nothing else counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from functaconv.conversion import dry_run, encode
from functaconv.errors import FunctaconvError, UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.functaset.verify import problems_of
from functaconv.modalities import MODALITIES
from functaconv.rendering import arrays, render
from functaconv.reporting import report
from functaconv.signals.signal import Signal
from functaconv.signals.views import Views, parse_augment
from tests.conftest import png, tar

HOW = "flip,crop:2"
VIEWS = 4


@pytest.fixture(scope="module")
def encoded(base_file: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Functaset]:
    """70 images with one row each, and with four."""
    folder = tmp_path_factory.mktemp("stores")
    plain = encode(base_file, str(images), folder / "plain.zarr")
    views = encode(base_file, str(images), folder / "views.zarr", views=VIEWS, augment=HOW)
    return {"plain": open_functaset(plain.path), "views": open_functaset(views.path)}


def test_rows_come_record_by_record_the_item_itself_first(encoded: dict[str, Functaset]) -> None:
    plain, views = encoded["plain"], encoded["views"]
    assert len(views) == VIEWS * len(plain)
    assert views.views is not None
    assert views.views.tolist() == list(range(VIEWS)) * len(plain)
    assert views.keys.tolist() == np.repeat(plain.keys, VIEWS).tolist()
    assert np.array_equal(views.measure("record"), np.repeat(plain.measure("record"), VIEWS))
    own = views.latents(views.views == 0)
    assert np.allclose(own, plain.latents(), atol=1e-3)
    others = views.latents(views.views == 1)
    assert np.abs(others - own).max() > 0.01
    assert not problems_of(views)


def test_count_report_and_render_mean_the_items_themselves(
    encoded: dict[str, Functaset], images: Path, tmp_path: Path
) -> None:
    plain, views = encoded["plain"], encoded["views"]
    assert views.report["count"] == plain.report["count"] == 70
    assert views.report["rows"] == VIEWS * 70
    assert views.report["psnr"]["mean"] == pytest.approx(plain.report["psnr"]["mean"], abs=1e-3)
    assert views.report["bytes"]["raw_per_item"] == plain.report["bytes"]["raw_per_item"]
    assert views.attributes.summary.duplicate_keys == 0
    result = report(views, against=str(images))
    assert result.complaint is None
    assert (len(result.items), result.summary["against"]["items"]) == (70, 70)
    assert [key for key, _ in arrays(views)] == plain.keys.tolist()
    for (_, one), (_, other) in zip(arrays(views, [0, 69]), arrays(plain, [0, 69]), strict=True):
        assert np.allclose(one, other, atol=1e-2)
    assert render(views, tmp_path / "all").count == 70


def test_a_view_depends_on_nothing_but_seed_key_and_number(
    base_file: Path, encoded: dict[str, Functaset], tmp_path: Path
) -> None:
    keys = ["b", "a"]
    both = tar(tmp_path / "both.tar", {f"{key}.png": png(number, (12, 12)) for number, key in enumerate(keys)})
    alone = tar(tmp_path / "alone.tar", {"a.png": png(1, (12, 12))})
    more = open_functaset(encode(base_file, str(both), tmp_path / "b.zarr", views=6, augment=HOW, bits="float32").path)
    one = open_functaset(encode(base_file, str(alone), tmp_path / "a.zarr", views=3, augment=HOW, bits="float32").path)
    assert np.allclose(more.latents(slice(6, 9)), one.latents(), atol=1e-5)


def test_views_are_the_items_mirrored_and_shifted() -> None:
    values = np.arange(5 * 6, dtype=np.float32).reshape(5, 6, 1)
    valid = values > 3
    views = list(Views(40, parse_augment("flip,crop:1"), 0, -2).of(Signal("key", values, valid=valid)))
    assert np.array_equal(views[0].values, values)
    padded = np.pad(values, [(1, 1), (1, 1), (0, 0)], mode="reflect")
    possible = [
        part for array in (padded, np.pad(values[:, ::-1], [(1, 1), (1, 1), (0, 0)], mode="reflect"))
        for row in range(3) for column in range(3) for part in [array[row : row + 5, column : column + 6]]
    ]  # fmt: skip
    seen = set()
    for view in views[1:]:
        matches = [number for number, array in enumerate(possible) if np.array_equal(array, view.values)]
        assert matches
        assert np.array_equal(view.valid, view.values > 3)
        seen.add(matches[0])
    assert len(seen) > 9
    others = list(Views(40, parse_augment("flip,crop:1"), 1, -2).of(Signal("key", values)))
    assert any(not np.array_equal(one.values, other.values) for one, other in zip(views, others, strict=True))


def test_voxels_are_mirrored_left_to_right_not_upside_down() -> None:
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4, 1)
    mirrored = {"voxels": values[::-1], "array": values[:, :, ::-1]}
    for name, expected in mirrored.items():
        made = Views(20, parse_augment("flip"), 0, MODALITIES[name].mirrored_axis).of(Signal("key", values))
        seen = {view.values.tobytes() for view in made}
        assert seen == {values.tobytes(), np.ascontiguousarray(expected).tobytes()}


def test_the_torch_dataset_draws_one_view_per_epoch(encoded: dict[str, Functaset]) -> None:
    views = encoded["views"]
    dataset = views.torch_dataset()
    assert len(dataset) == 70
    torch.manual_seed(0)
    seen = [set[int]() for _ in range(70)]
    every = views.latents().reshape(70, VIEWS, -1)
    for _ in range(8):
        loader: DataLoader[tuple[torch.Tensor, int]] = DataLoader(dataset, batch_size=16)
        for item, latent in enumerate(latent for latents, _ in loader for latent in latents.numpy()):
            distances = np.abs(every[item] - latent.reshape(1, -1)).max(-1)
            assert distances.min() == 0
            seen[item].add(int(distances.argmin()))
    assert np.mean([len(one) for one in seen]) > 2.5


def test_what_fails_fails_with_all_its_views_and_limit_counts_records(base_file: Path, tmp_path: Path) -> None:
    members = {"a.png": png(0, (12, 12)), "b.png": b"\x89PNG\r\n\x1a\nno", "c.png": png(2, (12, 12)),
               "d.png": png(3, (12, 12))}  # fmt: skip
    shard = tar(tmp_path / "some.tar", members)
    store = open_functaset(encode(base_file, str(shard), tmp_path / "a.zarr", views=3, augment="flip", limit=3).path)
    assert store.keys.tolist() == ["a"] * 3 + ["c"] * 3
    assert store.views is not None
    assert store.views.tolist() == [0, 1, 2] * 2
    assert (store.report["count"], store.report["failed"]) == (2, 1)


def test_views_are_part_of_the_settings(encoded: dict[str, Functaset], base_file: Path, images: Path) -> None:
    path = encoded["views"].path
    assert encode(base_file, str(images), path, views=VIEWS, augment=HOW).was_finished
    with pytest.raises(FunctaconvError, match="augment"):
        encode(base_file, str(images), path, views=VIEWS, augment="flip")
    plain = dry_run(base_file, str(images), path.parent / "dry.zarr")
    with_views = dry_run(base_file, str(images), path.parent / "dry.zarr", views=VIEWS, augment=HOW)
    assert with_views["bytes_per_item"] == VIEWS * plain["bytes_per_item"]


@pytest.mark.parametrize("options", [{"views": 2}, {"augment": "flip"}, {"views": 0}, {"views": 2, "augment": "turn"},
                                     {"views": 2, "augment": "crop"}, {"views": 2, "augment": "flip:3"},
                                     {"views": 2, "augment": "flip", "tile": 8}])  # fmt: skip
def test_views_that_make_no_sense_are_usage_errors(
    options: dict, base_file: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        encode(base_file, str(images), tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()
