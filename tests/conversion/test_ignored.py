"""What shards hold that is not converted is counted by kind, whatever becomes of the processes that count it."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from functaconv.data.ignored import APPLE_DOUBLE, CUT_JSON, FRAMES, HIDDEN, LABELS, LINKS, NO_LABELS, NO_SUFFIX
from functaconv.errors import InputError, StoppedError
from functaconv.functaset.opening import open_functaset
from functaconv.inspection import inspect
from tests.conftest import npy, png, tar
from tests.conversion.test_encode import Killer, run
from tests.conversion.test_many_processes import at_the_same_time, rank


def animation() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((12, 12, 3), code, np.uint8)) for code in (0, 100, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


MEMBERS = {".DS_Store": b"1", "._00.png": b"2", "README": b"3"}
for _number in range(13):
    MEMBERS |= {f"{_number:02d}.jpg": png(_number, (12, 12)), f"{_number:02d}.png": png(_number, (12, 12), 1)}
    MEMBERS |= {f"{_number:02d}.cls": b"cat" if _number == 5 else b"1", f"._{_number + 1:02d}.jpg": b"4"}
MEMBERS |= {"03.json": b'{"text": "cut', "model.pkl": b"5", "lonely.cls": b"6", "moving.gif": animation()}
MEMBERS |= {"ill.png": b"no image", "ill.md": b"7", "z": b"8"}
IGNORED = {
    HIDDEN: 1, APPLE_DOUBLE: 14, NO_SUFFIX: 2, "png beside jpg": 13, "suffix .jpg for PNG data": 13, NO_LABELS: 1,
    CUT_JSON: 1, ".pkl": 1, LABELS: 1, FRAMES: 2, ".md": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, of which the second holds nothing that is converted but one image."""
    folder = tmp_path_factory.mktemp("shards")
    tar(folder / "a.tar", MEMBERS)
    tar(folder / "b.tar", {"._x.jpg": b"", "LICENSE": b"", "one.png": png(99, (12, 12)), "one.cls": b"0"})
    tar(folder / "c.tar", {"LICENSE": b"", "._y": b""})
    return folder


TOTAL = {**IGNORED, APPLE_DOUBLE: 16, NO_SUFFIX: 4}


def test_everything_that_is_not_converted_is_in_the_report(base_file: Path, shards: Path, tmp_path: Path) -> None:
    encoded = run(base_file, shards, tmp_path / "out.zarr", max_error_rate=1)
    assert (encoded.report["count"], encoded.report["failed"]) == (15, 1)
    assert encoded.report["ignored"] == TOTAL
    functaset = open_functaset(tmp_path / "out.zarr")
    assert functaset.report["ignored"] == functaset.attributes.summary.ignored == TOTAL
    labels = dict(zip(functaset.keys.tolist(), functaset.labels.tolist(), strict=True))
    assert (labels["04"], labels["05"], labels["one"]) == (1, -1, 0)
    found = inspect(tmp_path / "out.zarr", verify=True)
    assert (found.problems, found.facts["ignored"]) == ([], TOTAL)


@pytest.mark.parametrize("batches", [1, 3])
def test_a_kill_changes_no_count(base_file: Path, shards: Path, tmp_path: Path, batches: int) -> None:
    with pytest.raises(StoppedError):
        run(base_file, shards, tmp_path / "out.zarr", watcher=Killer(batches))
    assert run(base_file, shards, tmp_path / "out.zarr", max_error_rate=1).report["ignored"] == TOTAL


def test_ranks_count_once_what_they_share(base_file: Path, shards: Path, tmp_path: Path) -> None:
    def one(number: int) -> object:
        return run(base_file, shards, tmp_path / "out.zarr", ranks=rank(number), max_error_rate=1)

    found = at_the_same_time([lambda number=number: one(number) for number in range(2)])  # type: ignore[misc]
    assert [encoded.report["ignored"] for encoded in found] == [TOTAL] * 2


def test_what_is_done_anew_is_counted_anew(base_file: Path, shards: Path, tmp_path: Path) -> None:
    run(base_file, shards, tmp_path / "out.zarr", max_error_rate=1)
    again = run(base_file, shards, tmp_path / "out.zarr", max_error_rate=1, retry_failed=True)
    assert again.report["ignored"] == TOTAL


def test_a_stream_has_the_same_counts(base_file: Path, shards: Path, tmp_path: Path) -> None:
    # of which labels that lie apart cannot be joined
    zipped = tmp_path / "a.tar.gz"
    zipped.write_bytes(gzip.compress((shards / "a.tar").read_bytes()))
    encoded = run(base_file, zipped, tmp_path / "out.zarr", max_error_rate=1)
    assert encoded.report["ignored"] == {**{k: v for k, v in IGNORED.items() if k != CUT_JSON}, LABELS: 2}


@pytest.mark.parametrize("is_stream", [False, True])
def test_labels_after_all_images_are_joined_or_counted(base_file: Path, tmp_path: Path, is_stream: bool) -> None:
    images = {f"{number:02d}.png": png(number, (12, 12)) for number in range(9)}
    shard = tar(tmp_path / "a.tar", images | {f"{number:02d}.cls": f"{number}".encode() for number in range(9)})
    if is_stream:
        shard.write_bytes(gzip.compress(shard.read_bytes()))
    encoded = run(base_file, shard, tmp_path / "out.zarr")
    functaset = open_functaset(encoded.path)
    assert functaset.labels.tolist() == [-1] * 9 if is_stream else list(range(9))
    assert encoded.report["ignored"] == ({LABELS: 9} if is_stream else {})
    assert (encoded.report["count"], encoded.report["failed"]) == (9, 0)


def test_a_hard_link_is_converted_and_a_symbolic_one_counted(base_file: Path, tmp_path: Path) -> None:
    content = png(0, (12, 12))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        for name, kind in (("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            archive.addfile(info)
    encoded = run(base_file, tmp_path / "a.tar", tmp_path / "out.zarr")
    functaset = open_functaset(encoded.path)
    assert functaset.keys.tolist() == ["a", "b"]
    np.testing.assert_array_equal(*functaset.latents())
    assert encoded.report["ignored"] == {LINKS: 1}


@pytest.mark.parametrize("is_piped", [False, True])
def test_shards_of_which_nothing_is_left_say_what_they_hold(base_file: Path, tmp_path: Path, is_piped: bool) -> None:
    shard = tar(tmp_path / "a.tar", {"a.cls": b"1", "b.pkl": b"2", "._c.png": b"3", "README": b"4"})
    stdin = io.BytesIO(shard.read_bytes())
    with pytest.raises(InputError, match="there is no usable item in") as caught:
        run(base_file, "-" if is_piped else shard, tmp_path / "out.zarr", stdin=stdin)
    for part in ("1 labels and captions apart from their items (put", "1 .pkl", "1 ._ files of macOS", "1 (no suffix)"):
        assert part in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()


def test_arrays_that_are_no_images_still_fail_with_a_caption_that_is_cut(base_file: Path, tmp_path: Path) -> None:
    shard = tar(tmp_path / "a.tar", {"a.png": png(0, (12, 12)), "b.npy": npy(np.zeros((12, 12, 3))), "b.json": b"{"})
    encoded = run(base_file, shard, tmp_path / "out.zarr", max_error_rate=1)
    assert encoded.report["failed"] == 1
    assert encoded.report["ignored"] == {}
