"""Encoding: what is stored is what was measured, and a stop anywhere leaves no trace."""

import gzip
import io
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from functaconv.checkpoint import base_from_bytes, base_of, read_base
from functaconv.conversion import Encoded, Watcher, dry_run, encode
from functaconv.data.decoders.transform import ImageTransform
from functaconv.data.expansion import expand_shards
from functaconv.data.shards import read_records
from functaconv.documents import merged
from functaconv.errors import (
    ChangedInputError,
    InputError,
    ItemError,
    OutputExistsError,
    StoppedError,
    UsageError,
)
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.functaset.verify import verify
from functaconv.metrics import psnr
from functaconv.modalities.reading import Reading
from functaconv.rendering import arrays
from functaconv.signals.grid import Grid
from functaconv.summary import Items
from functaconv.training import fit_base
from tests.conftest import npy, png
from tests.conftest import tar as tar_of
from tests.oracle import mse_of


@pytest.fixture(scope="module")
def shards(image_shards: Callable[..., Path]) -> Path:
    """Two shards of 20 and 18 images, of two blocks each."""
    return image_shards(38, items_per_shard=20, seed=4)


@pytest.fixture(scope="module")
def whole(base_file: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an encoding makes that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole") / "whole.zarr"
    run(base_file, shards, path)
    return stored_tree(path)


def run(base: Path, shards: Path | str, output: Path, **options: Any) -> Encoded:
    return encode(base, str(shards), output, device="cpu", **{"workers": 2, "batch_size": 64, **options})


def stored_tree(path: Path) -> dict[str, bytes]:
    """Every file that must not depend on how often an encoding was stopped."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name not in ("report.json", "zarr.json"))
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def measured(functaset: Functaset, shards: Path, **reading: Any) -> Iterator[tuple[float, float]]:
    """PSNR of each row: decoded at native size and compared with the original, and as stored."""
    base = base_from_bytes(functaset.base_bytes(), "base").base
    latents = torch.from_numpy(functaset.latents()).reshape(len(functaset), -1, base.latent)
    read = Reading(base.axes, **reading)
    records = (record for name in expand_shards([str(shards)]) for record in read_records(name))
    tiles = [tile for record in records for tile in read.tiles(record)]
    assert [tile.signal.key for tile in tiles] == functaset.keys.tolist()
    for row, tile in enumerate(tiles):
        features = base.decode(latents[row : row + 1], Grid(tile.signal.shape).coords())
        values = base.normalizer.values(features)[0].numpy().reshape(tile.signal.values.shape)
        scale = np.array(base.normalizer.scale)
        original = tile.signal.values / (tile.signal.peak or 1)
        yield float(psnr(mse_of(values / scale, original / scale, valid=tile.signal.valid))), functaset.psnr[row]


def assert_measured_is_stored(path: Path, shards: Path, **reading: Any) -> None:
    functaset = open_functaset(path)
    assert len(functaset)
    for found, stored in measured(functaset, shards, **reading):
        assert found == pytest.approx(stored, abs=0.01)


@pytest.mark.parametrize(("kind", "bits"), [("global", "float16"), ("spatial", "8"), ("spatial", "float32")])
def test_the_stored_psnr_is_that_of_the_decoded_items(
    base_file: Path, spatial_base_file: Path, shards: Path, tmp_path: Path, bits: Any, kind: str
) -> None:
    base = base_file if kind == "global" else spatial_base_file
    encoded = run(base, shards, tmp_path / "out.zarr", bits=bits)
    assert encoded.complaint is None
    functaset = open_functaset(encoded.path)
    assert functaset.latents().shape == ((38, 8) if kind == "global" else (38, 2, 3, 4))
    stored = functaset.stored("latent")
    assert stored is not None
    assert stored.dtype == {"float16": "float16", "float32": "float32", "8": "uint8"}[bits]
    assert functaset.keys.tolist() == [f"image{n:04d}" for n in range(38)]
    assert functaset.shards.tolist() == [0] * 20 + [1] * 18
    assert_measured_is_stored(encoded.path, shards)
    assert encoded.report["psnr"]["mean"] == pytest.approx(functaset.psnr.mean(), abs=1e-3)
    assert encoded.report == functaset.report
    assert (encoded.report["count"], encoded.report["failed"], functaset.failures) == (38, 0, [])


def test_quantising_costs_little(base_file: Path, shards: Path, tmp_path: Path) -> None:
    exact, half, codes = (
        run(base_file, shards, tmp_path / bits, bits=bits).report["psnr"]["mean"]
        for bits in ("float32", "float16", "8")
    )
    assert half == pytest.approx(exact, abs=0.01)
    assert exact - 1 < codes < exact + 0.01


def test_latents_do_not_depend_on_the_batch_size(base_file: Path, shards: Path, tmp_path: Path) -> None:
    latents = []
    for size in (3, 7, 64):
        run(base_file, shards, tmp_path / str(size), bits="float32", batch_size=size)
        latents.append(open_functaset(tmp_path / str(size)).latents())
    for other in latents[:2]:
        # float32 sums in another order
        assert np.linalg.norm(other - latents[2]) <= 1e-4 * np.linalg.norm(latents[2])


class Killer(Watcher):
    """Sends a signal after some batches."""

    def __init__(self, batches: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = batches, number

    def report(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


# blocks of 16 and 4, then 16 and 2, a batch each; the fourth is the last of all
@pytest.mark.parametrize(
    ("batches", "number", "code"),
    [(1, signal.SIGTERM, 75), (2, signal.SIGINT, 130), (3, signal.SIGTERM, 75), (4, signal.SIGINT, 130)],
)
def test_an_encoding_that_was_stopped_ends_as_one_that_was_not(
    base_file: Path, shards: Path, whole: dict[str, bytes], tmp_path: Path, batches: int, number: int, code: int
) -> None:
    with pytest.raises(StoppedError, match="are saved") as caught:
        run(base_file, shards, tmp_path / "stopped", watcher=Killer(batches, number))
    assert caught.value.exit_code == code
    with pytest.raises(InputError, match="unfinished"):
        open_functaset(tmp_path / "stopped")
    # another batch size or number of workers is not another functaset
    run(base_file, shards, tmp_path / "stopped", batch_size=32, workers=1)
    assert stored_tree(tmp_path / "stopped") == whole


def test_an_encoding_that_broke_at_any_file_ends_as_one_that_did_not(
    base_file: Path, shards: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file, the arrays' included, appears by a rename: fail at the first, at the last, and at some between."""
    done, broken, path = 0, -1, tmp_path / "out.zarr"

    def failing(rename: Any) -> Any:
        def rename_or_fail(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            if done == broken:
                raise RuntimeError("power cut")
            done += 1
            return rename(*arguments, **options)

        return rename_or_fail

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    run(base_file, shards, path)
    total = done
    # four blocks, ten arrays
    assert total > 30
    for at in (*range(4), *range(6, total - 4, 20), *range(total - 4, total)):
        shutil.rmtree(path)
        done, broken = 0, at
        with pytest.raises(RuntimeError, match="power cut"):
            run(base_file, shards, path)
        broken = -1
        run(base_file, shards, path)
        assert stored_tree(path) == whole, at


def test_other_settings_are_refused(base_file: Path, shards: Path, tmp_path: Path) -> None:
    run(base_file, shards, tmp_path / "out")
    others: dict[str, Any] = {"bits": "8", "steps": 5, "keep": 3, "min_gain": 0.5, "limit": 3, "tile": 8}
    for name, value in others.items():
        with pytest.raises(OutputExistsError, match=name) as caught:
            run(base_file, shards, tmp_path / "out", **{name: value})
        assert caught.value.exit_code == 73
    assert run(base_file, shards, tmp_path / "out", overwrite=True, bits="8").complaint is None


def test_a_pipe_is_read_once_and_not_gone_on_with(base_file: Path, shards: Path, tmp_path: Path) -> None:
    first = sorted(shards.glob("*.tar"))[0]

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    for options in ({}, {"overwrite": True}):
        encoded = run(base_file, "-", tmp_path / "out", stdin=Pipe(first.read_bytes()), **options)
        assert encoded.complaint is None
    run(base_file, first, tmp_path / "file")
    assert stored_tree(tmp_path / "out") == stored_tree(tmp_path / "file")
    with pytest.raises(OutputExistsError, match="cannot be resumed"):
        run(base_file, "-", tmp_path / "out", stdin=Pipe(first.read_bytes()))
    with pytest.raises(StoppedError):
        run(base_file, "-", tmp_path / "stopped", stdin=Pipe(first.read_bytes()), watcher=Killer(1))
    with pytest.raises(OutputExistsError, match="cannot be resumed"):
        run(base_file, "-", tmp_path / "stopped", stdin=Pipe(first.read_bytes()))
    assert run(base_file, "-", tmp_path / "stopped", stdin=Pipe(first.read_bytes()), overwrite=True).complaint is None


def test_large_images_are_cut_into_tiles(base_file: Path, image_shards: Callable[..., Path], tmp_path: Path) -> None:
    large = image_shards(4, shapes=[(20, 30), (12, 12)])
    encoded = run(base_file, large, tmp_path / "out", tile=12)
    functaset = open_functaset(encoded.path)
    assert (encoded.report["count"], encoded.report["rows"], len(functaset)) == (4, 14, 14)
    assert functaset.keys[:7].tolist() == [*(f"image0000#{row},{c}" for row in (0, 1) for c in (0, 1, 2)), "image0001"]
    assert functaset.tiles is not None
    assert functaset.layout.overlap == (2, 2)
    assert (functaset.tiles[4].tolist(), functaset.shapes[4].tolist()) == ([9, 9, 20, 30], [11, 12])
    # of the whole item, as it is rendered: with the functaset, and in all rows of the item
    index = Items.of(functaset.keys, functaset.shapes, functaset.tiles)
    read = Reading(base_of(functaset).axes)
    originals = [read.signal(record) for name in expand_shards([str(large)]) for record in read_records(name)]
    for number, (key, array) in enumerate(arrays(functaset)):
        original = originals[number]
        assert original is not None
        assert original.key == key
        found = float(psnr(mse_of(array, original.values / 255)))
        own = functaset.psnr[index.first[number] : index.first[number] + index.rows[number]]
        assert found == pytest.approx(own[0], abs=0.01)
        assert len(set(own)) == 1


def test_tiles_are_gone_on_with_as_whole_items_are(
    base_file: Path, image_shards: Callable[..., Path], tmp_path: Path
) -> None:
    large = image_shards(18, shapes=[(20, 30)])
    run(base_file, large, tmp_path / "whole", tile=12)
    planned = dry_run(base_file, str(large), tmp_path / "stopped", tile=12)
    # how many tiles there will be is in the images
    assert (planned["records"], planned["bytes_per_tile"], planned["bytes"]) == (18, 16, None)
    with pytest.raises(StoppedError, match="are saved"):
        run(base_file, large, tmp_path / "stopped", tile=12, watcher=Killer(1))
    assert dry_run(base_file, str(large), tmp_path / "stopped", tile=12)["already_done"] == 16
    with pytest.raises(OutputExistsError, match="overlap"):
        run(base_file, large, tmp_path / "stopped")
    run(base_file, large, tmp_path / "stopped", tile=12, workers=1)
    assert stored_tree(tmp_path / "stopped") == stored_tree(tmp_path / "whole")
    assert verify(tmp_path / "stopped") == []


@pytest.mark.parametrize("kind", ["sizes", "gray"])
def test_images_of_other_sizes_or_without_colour_are_encoded(
    base_file: Path, image_shards: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    options = {"shapes": [(12, 12), (9, 14), (14, 9)]} if kind == "sizes" else {"channels": 1}
    images = image_shards(23, **options)
    encoded = run(base_file, images, tmp_path / "out", batch_size=4)
    assert encoded.report["count"] == 23
    assert_measured_is_stored(encoded.path, images)


@pytest.mark.parametrize("shape", [(40,), (9, 10), (5, 6, 4)], ids=str)
def test_arrays_are_encoded_with_their_missing_values(
    array_shards: Callable[..., Path], shards_of: Callable[..., Path], tmp_path: Path, tiny: Any, shape: tuple[int, ...]
) -> None:
    settings = merged(tiny, {"training": {"steps": 5}, "data": {"channel_axis": "none"}})
    base = fit_base(str(array_shards(8, shape)), tmp_path / "base", settings=settings, device="cpu").path
    arrays = [np.linspace(-15, 25, int(np.prod(shape)), dtype=np.float32).reshape(shape) for _ in range(3)]
    arrays[1].flat[::3] = np.nan
    gappy = shards_of({f"{n}.npy": npy(array) for n, array in enumerate(arrays)})
    encoded = run(base, gappy, tmp_path / "out")
    functaset = open_functaset(encoded.path)
    assert functaset.attributes.axes == (("position",), ("row", "column"), ("depth", "row", "column"))[len(shape) - 1]
    assert functaset.shapes.tolist() == [list(shape)] * 3
    assert_measured_is_stored(encoded.path, gappy)


@pytest.mark.parametrize("limit", [1, 16, 22, 100])
def test_a_limit_counts_records_over_all_shards(base_file: Path, shards: Path, tmp_path: Path, limit: int) -> None:
    with pytest.raises(StoppedError):
        run(base_file, shards, tmp_path / "out", limit=limit, watcher=Killer(1))
    run(base_file, shards, tmp_path / "out", limit=limit)
    assert open_functaset(tmp_path / "out").keys.tolist() == [f"image{n:04d}" for n in range(min(38, limit))]


def test_images_that_are_resized_are_measured_as_resized(base_file: Path, shards: Path, tmp_path: Path) -> None:
    encoded = run(base_file, shards, tmp_path / "out", resize=(9, 8))
    assert open_functaset(encoded.path).shapes[0].tolist() == [9, 8]
    assert_measured_is_stored(encoded.path, shards, transform=ImageTransform(resize=(9, 8)))


def test_a_plan_says_what_would_be_done(base_file: Path, shards: Path, tmp_path: Path) -> None:
    planned = dry_run(base_file, str(shards), tmp_path / "out", bits="8")
    assert planned == {
        "shards": 2, "records": 38, "already_done": 0, "numbers_per_item": 8, "bytes_per_item": 8, "bytes": 38 * 8
    }  # fmt: skip
    assert not (tmp_path / "out").exists()
    with pytest.raises(StoppedError):
        run(base_file, shards, tmp_path / "out", watcher=Killer(1))
    assert dry_run(base_file, str(shards), tmp_path / "out")["already_done"] == 16
    run(base_file, shards, tmp_path / "out")
    assert dry_run(base_file, str(shards), tmp_path / "out")["already_done"] == 38


def test_labels_and_attributes_travel_along(base_file: Path, tmp_path: Path) -> None:
    shard = tar_of(
        tmp_path / "a.tar",
        {"0.png": png(0, (8, 8)), "0.cls": b"7", "0.json": b'{"a": [1]}', "1.png": png(1, (8, 8)), "1.txt": b"words"},
    )
    run(base_file, shard, tmp_path / "out")
    functaset = open_functaset(tmp_path / "out")
    assert functaset.labels.tolist() == [7, -1]
    assert [functaset.meta(row) for row in (0, 1)] == [{"a": [1]}, {"text": "words"}]
    json.dumps(functaset.report, allow_nan=False)


def test_what_is_too_large_to_be_fitted_is_a_failed_item(base_file: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4100, 4100)).save(buffer, "PNG", compress_level=1)
    shard = tar_of(tmp_path / "x.tar", {"small.png": png(0, (12, 12)), "large.png": buffer.getvalue()})
    whole = run(base_file, shard, tmp_path / "whole", max_error_rate=1)
    (failure,) = open_functaset(whole.path).failures
    assert failure.reason.startswith(
        "16810000 points (50430000 values) to be fitted together, expected at most 16777216 (67108864); --tile"
    )
    cut = run(base_file, shard, tmp_path / "cut", tile=8, max_error_rate=1)
    (failure,) = open_functaset(cut.path).failures
    assert failure.reason.startswith("too many tiles (")


def test_a_block_ends_with_the_item_that_fills_it(base_file: Path, tmp_path: Path) -> None:
    """By all bytes of its records, in a shard that is entered anywhere and in one that is read through."""
    members: dict[str, bytes] = {}
    for number in range(5):
        members |= {f"{number}.png": png(number, (12, 12)), f"{number}.raw": bytes(9 << 20)}
    shard = tar_of(tmp_path / "x.tar", members)
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(gzip.compress(shard.read_bytes(), 1))
    for name in (shard, packed):
        output, sizes = tmp_path / f"{name.name}.zarr", list[int]()

        class Listening(Watcher):
            def report(self, *_: Any, output: Path = output, sizes: list[int] = sizes) -> None:
                sizes.append(len(list(output.glob("_parts/*.npz"))))

        run(base_file, name, output, watcher=Listening())
        # three blocks, of two items, two and one
        assert sizes == [0, 1, 2]
    assert stored_tree(tmp_path / "x.tar.gz.zarr") == stored_tree(tmp_path / "x.tar.zarr")


def noise(seed: int) -> bytes:
    """An image that no compression makes small."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_fewer_numbers_are_a_functaset_of_their_own(base_file: Path, shards: Path, tmp_path: Path) -> None:
    assert dry_run(base_file, str(shards), tmp_path / "out", keep=3)["numbers_per_item"] == 3
    with pytest.raises(StoppedError):
        run(base_file, shards, tmp_path / "out", keep=3, watcher=Killer(1))
    encoded = run(base_file, shards, tmp_path / "out", keep=3)
    functaset = open_functaset(encoded.path)
    assert encoded.report["latent"] == {"sites": [], "numbers": 3}
    assert functaset.latents().shape == (38, 3)
    assert verify(encoded.path) == []
    assert_measured_is_stored(encoded.path, shards)
    assert (tmp_path / "out" / "base.safetensors").read_bytes() == read_base(base_file).truncated(3).content
    # more numbers, fewer errors; all of them are what is made without asking
    quality = [run(base_file, shards, tmp_path / str(keep), keep=keep).report["psnr"]["mean"] for keep in (1, 3, 8)]
    assert quality[0] < quality[1] < quality[2]
    assert run(base_file, shards, tmp_path / "8").was_finished


@pytest.mark.parametrize("kind", ["gauss-newton", "gradient"])
def test_an_item_is_done_when_a_step_brings_too_little(
    base_file: Path, gradient_base_file: Path, shards: Path, tmp_path: Path, kind: str
) -> None:
    base = base_file if kind == "gauss-newton" else gradient_base_file
    # however much the first step brings, after it all items are done
    one, done, two = (
        run(base, shards, tmp_path / name, **options).report["psnr"]["mean"]
        for name, options in (
            ("one", {"steps": 1, "min_gain": 0}),
            ("done", {"steps": 4, "min_gain": 1000}),
            ("more", {"steps": 4, "min_gain": 0}),
        )
    )
    assert done == pytest.approx(one, abs=1e-3)
    assert two > one
    assert open_functaset(tmp_path / "done").attributes.settings["min_gain"] == 1000


def test_what_failed_is_tried_again_and_nothing_else(
    base_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a finished functaset, by blocks: what is sound comes from the store, to the byte."""
    members = {f"{n:02d}.png": png(n, (8, 8)) for n in range(35)} | {f"{n:02d}.txt": b"a text" for n in (3, 31)}
    shard = tar_of(tmp_path / "a.tar", dict(sorted(members.items())))
    sound = tmp_path / "sound.zarr"
    run(base_file, shard, sound)
    plain, seen, ill = Reading.tiles, list[str](), {"12", "33"}

    def tiles(self: Reading, record: Any, ignored: Any) -> Any:
        seen.append(record.key)
        if record.key in ill:
            raise ItemError("not today")
        return plain(self, record, ignored)

    monkeypatch.setattr(Reading, "tiles", tiles)
    output = tmp_path / "out.zarr"
    assert run(base_file, shard, output, max_error_rate=1.0).report["failed"] == 2
    assert stored_tree(output) != stored_tree(sound)
    ill.clear()
    seen.clear()
    found = run(base_file, shard, output, retry_failed=True)
    # blocks of sixteen
    assert sorted(seen) == [f"{n:02d}" for n in (*range(16), *range(32, 35))]
    assert (found.report["failed"], found.report["count"]) == (0, 35)
    assert stored_tree(output) == stored_tree(sound)
    assert verify(output) == []
    seen.clear()
    assert run(base_file, shard, output, retry_failed=True).was_finished
    assert seen == []


def test_a_retry_that_is_killed_loses_nothing(base_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = tar_of(tmp_path / "a.tar", {f"{n:02d}.png": png(n, (8, 8)) if n != 12 else b"no image" for n in range(25)})
    output = tmp_path / "out.zarr"
    run(base_file, shard, output, max_error_rate=1.0)
    before = stored_tree(output)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            run(base_file, shard, output, retry_failed=True)
    assert stored_tree(output) == before
    with pytest.raises(StoppedError):
        run(base_file, shard, output, retry_failed=True, watcher=Killer(1))
    assert run(base_file, shard, output, max_error_rate=1.0).report["failed"] == 1
    assert stored_tree(output) == before


def test_keys_that_occur_twice_are_told(base_file: Path, tmp_path: Path) -> None:
    """Within a shard, and in two shards."""
    shards, said = tmp_path / "shards", list[str]()
    shards.mkdir()
    for name, keys in (("a", "xyx"), ("b", "yz")):
        with tarfile.open(shards / f"{name}.tar", "w") as archive:
            for number, key in enumerate(keys):
                content = png(number, (8, 8))
                member = tarfile.TarInfo(f"{key}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    class Listening(Watcher):
        def announce(self, message: str) -> None:
            said.append(message)

    encoded = run(base_file, shards, tmp_path / "out.zarr", watcher=Listening())
    assert any("2 of 5 items have the key of an earlier one" in message for message in said)
    assert open_functaset(encoded.path).attributes.summary.duplicate_keys == 2
    run(base_file, shards / "b.tar", tmp_path / "b.zarr", watcher=Listening())
    assert sum("have the key" in message for message in said) == 1


def test_a_damaged_shard_that_was_mended_is_converted_again(
    base_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, the records after the damage too; the other shards are left as they are."""
    shards, output = tmp_path / "shards", tmp_path / "out.zarr"
    shards.mkdir()
    for name in "abc":
        tar_of(shards / f"{name}.tar", {f"{name}{n:02d}.png": png(n, (8, 8)) for n in range(25)})
    run(base_file, shards, tmp_path / "sound.zarr")
    content = (shards / "b.tar").read_bytes()
    (shards / "b.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(StoppedError):
        run(base_file, shards, output, watcher=Killer(4))
    with pytest.raises(UsageError, match="not finished"):
        run(base_file, shards, output, retry_failed=True)
    assert "damaged" in str(run(base_file, shards, output).complaint)
    (shards / "b.tar").write_bytes(content)
    with pytest.raises(ChangedInputError):
        run(base_file, shards, output)
    seen, plain = set[str](), Reading.tiles

    def tiles(self: Reading, record: Any, ignored: Any) -> Any:
        seen.add(record.key)
        return plain(self, record, ignored)

    monkeypatch.setattr(Reading, "tiles", tiles)
    assert run(base_file, shards, output, retry_failed=True).complaint is None
    assert {f"b{n:02d}" for n in range(25)} <= seen
    assert not any(key.startswith("a") for key in seen)
    assert stored_tree(output) == stored_tree(tmp_path / "sound.zarr")
    assert verify(output) == []
