"""Folders to shards: every file is packed or listed with a reason, and the same folder gives the same bytes."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import functaconv.packing as packing
from functaconv.data.decoders import decode
from functaconv.data.decoders.transform import ImageTransform
from functaconv.data.expansion import expand_shards
from functaconv.data.items import Record
from functaconv.data.shards import read_records
from functaconv.errors import FunctaconvError, InputError, OutputExistsError, UsageError
from functaconv.packing import pack


def image(seed: int, shape: tuple[int, ...] = (8, 6, 3)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(7):
        path = folder / ("cat" if number < 3 else "dog") / f"img.{number:04d}.{'JPEG' if number % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number).save(path)
    (folder / "dog" / "cut.png").write_bytes((folder / "cat" / "img.0000.png").read_bytes()[:60])
    (folder / "dog" / "notes.txt").write_text("")
    return folder


def records(target: Path) -> list[Record]:
    return [record for shard in expand_shards([str(target)]) for record in read_records(shard)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_file_is_packed_or_listed(source: Path, tmp_path: Path) -> None:
    summary = pack(str(source), str(tmp_path / "out"), items_per_shard=3)
    assert (summary.count, summary.failed) == (7, 1)
    assert summary.ignored == {".txt": 1}
    assert summary.classes == ("cat", "dog")
    assert summary.shards == ("shard-000000.tar", "shard-000001.tar", "shard-000002.tar")
    assert sorted(contents(tmp_path / "out")) == ["classes.txt", "failed.jsonl", "pack.json", *summary.shards]
    assert summary.bytes == sum((tmp_path / "out" / name).stat().st_size for name in summary.shards)
    (line,) = (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    failure = json.loads(line)
    assert (failure["path"], failure["key"]) == ("dog/cut.png", "dog/cut")
    assert "expected a complete PNG image" in failure["reason"]
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"
    assert json.loads((tmp_path / "out" / "pack.json").read_text())["count"] == 7


def test_bytes_are_copied_and_labels_added(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out")
    found = {record.key: record for record in records(tmp_path / "out")}
    assert sorted(found) == [f"{'cat' if number < 3 else 'dog'}/img_{number:04d}" for number in range(7)]
    for number in range(7):
        record = found[f"{'cat' if number < 3 else 'dog'}/img_{number:04d}"]
        suffix = "jpeg" if number % 2 else "png"
        (path,) = source.rglob(f"img.{number:04d}.*")
        assert record.fields[suffix] == path.read_bytes()
        assert decode(record).label == int(number >= 3)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_same_folder_gives_the_same_bytes(source: Path, tmp_path: Path, seed: int | None) -> None:
    moved = tmp_path / "elsewhere"
    # another place, other times, another order on disk
    shutil.copytree(source, moved, copy_function=shutil.copyfile)
    transform = ImageTransform(resize=4)
    pack(source, tmp_path / "a", seed=seed, transform=transform, items_per_shard=3)
    pack(moved, tmp_path / "b", seed=seed, transform=transform, items_per_shard=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_tars_are_ustar_without_times_or_owners(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out")
    shard = tmp_path / "out" / "shard-000000.tar"
    with tarfile.open(shard) as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in archive} == {(0, 0, 0, "", 0o644)}
    assert shard.read_bytes()[257:263] == b"ustar\0"


def test_the_seed_decides_the_order(source: Path, tmp_path: Path) -> None:
    orders = []
    for seed in (None, 0, 1):
        pack(source, tmp_path / f"{seed}", seed=seed)
        orders.append([record.key for record in records(tmp_path / f"{seed}")])
    assert orders[0] == sorted(orders[0])
    assert sorted(orders[1]) == sorted(orders[2]) == orders[0]
    assert orders[0] != orders[1] != orders[2]


def test_a_transform_changes_only_images_that_need_it(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    image(0, (8, 8, 3)).save(folder / "right.jpg")
    image(1, (16, 8, 3)).save(folder / "large.jpg")
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).save(folder / "deep.png")
    Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)).save(folder / "float.tif")
    image(2, (4, 4, 3)).save(folder / "small.png")
    # an array under the name of an image
    np.save(folder / "array.npy", np.zeros((16, 16)))
    (folder / "array.npy").rename(folder / "array.png")
    summary = pack(folder, tmp_path / "out", transform=ImageTransform(crop=8))
    found = {record.key: record for record in records(tmp_path / "out")}
    assert found["right"].fields == {"jpg": (folder / "right.jpg").read_bytes()}
    assert list(found["large"].fields) == ["png"]
    assert {key: decode(record).array.shape for key, record in found.items()} == {
        "right": (8, 8, 3),
        "large": (8, 8, 3),
        "deep": (8, 8, 1),
        "float": (8, 8, 1),
    }
    assert decode(found["deep"]).peak == 65535
    assert decode(found["float"]).peak == 1.0
    assert {failure.key: failure.reason.partition(":")[0] for failure in summary.failures} == {
        "array": "png",
        "small": "image of 4 x 4 (height x width) is smaller than the crop 8 x 8",
    }


def test_arrays_are_packed_like_images(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((3, 4)))
    np.savez(folder / "b.npz", x=np.ones(3), y=np.ones(4))
    everything = pack(folder, tmp_path / "all")
    assert everything.count == 1
    assert "npz:NAME" in everything.failures[0].reason
    named = pack(folder, tmp_path / "named", field="npz:y")
    assert (named.count, named.failed, named.ignored) == (1, 0, {"npy beside npz": 1})


def test_one_tar_goes_to_a_stream(source: Path) -> None:
    buffer = io.BytesIO()
    summary = pack(source, buffer)
    assert summary.bytes == len(buffer.getvalue())
    assert summary.shards == ()
    assert len(summary.failures) == summary.failed == 1
    buffer.seek(0)
    assert len(list(read_records("-", stream=buffer))) == summary.count == 7


def test_labels_can_be_left_out_or_insisted_on(source: Path, tmp_path: Path) -> None:
    assert pack(source, tmp_path / "out", labels=False).classes == ()
    assert all("cls" not in record.fields for record in records(tmp_path / "out"))
    image(0).save(source / "top.png")
    assert pack(source, tmp_path / "auto").classes == ()
    with pytest.raises(InputError, match="no classes"):
        pack(source, tmp_path / "insist", labels=True)


def test_a_stopped_pack_leaves_nothing_that_looks_whole(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = packing.reading.decode
    calls = []

    def stopped(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > 5:
            assert any(name.startswith(".shard-000000") for name in os.listdir(tmp_path / "out"))  # noqa: PTH208
            raise KeyboardInterrupt
        return whole(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packing.reading, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "out", items_per_shard=2, workers=0)
    assert contents(tmp_path / "out") == {}
    monkeypatch.undo()
    # as a killed one leaves it
    (tmp_path / "out" / ".shard-000007.tar.part").write_bytes(b"half")
    pack(source, tmp_path / "out")
    assert ".shard-000007.tar.part" not in contents(tmp_path / "out")


def test_a_target_is_replaced_only_when_asked_and_only_what_is_ours(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    pack(source, target, items_per_shard=2)
    before = contents(target)
    with pytest.raises(OutputExistsError, match="not empty"):
        pack(source, target)
    assert contents(target) == before
    (target / "mine.txt").write_text("keep")
    (source / "dog" / "cut.png").unlink()
    summary = pack(source, target, overwrite=True)
    assert sorted(contents(target)) == ["classes.txt", "mine.txt", "pack.json", *summary.shards]
    (target / "other.tar").write_bytes(b"")
    with pytest.raises(OutputExistsError, match=r"did not write \(other.tar\)"):
        pack(source, target, overwrite=True)


def test_a_target_inside_the_source_is_not_packed(source: Path) -> None:
    first = pack(source, source / "shards")
    again = pack(source, source / "shards", overwrite=True)
    assert first == again


def test_what_cannot_be_packed_stops_at_once_with_a_reason(source: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    only_text = tmp_path / "text"
    only_text.mkdir()
    (only_text / "a.doc").write_text("OFF")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_text("")
    file = source / "cat" / "img.0000.png"
    target = tmp_path / "out"
    cases: list[tuple[Path, Path, type[FunctaconvError], str]] = [
        (tmp_path / "missing", target, InputError, "no such folder"),
        (file, target, InputError, "neither a folder"),
        (empty, target, InputError, "found no files at all"),
        (only_text, target, InputError, r"found 1 \.doc"),
        (broken, target, InputError, "none of the 1 files .* empty file"),
        (source, file, OutputExistsError, "is a file"),
        (source, source, FunctaconvError, "same folder"),
    ]
    for folder, out, error, reason in cases:
        with pytest.raises(error, match=reason):
            pack(folder, out)
        assert not target.exists()
    with pytest.raises(UsageError, match="items per shard"):
        pack(source, target, items_per_shard=0)
    with pytest.raises(UsageError, match="not a field"):
        pack(source, target, field="pkl")


@pytest.mark.realdata
def test_real_images_are_packed_or_listed_with_a_reason(tmp_path: Path, test_data: Path) -> None:
    folder = test_data / "raw" / "images"
    summary = pack(folder, tmp_path / "out")
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    assert summary.count + summary.failed == files
    assert summary.ignored == {"images of 16 bits a colour that become 8": 1}
    assert len(records(tmp_path / "out")) == summary.count
    names = {Path(failure.path).name for failure in summary.failures}
    assert names == {"broken_data_stream.png", "truncated_image.png", "truncated_jpeg.jpg"}
    arrays = []
    for record in records(tmp_path / "out"):
        if decode(record).kind == "array":
            arrays.append(record.key)
            continue
        item = decode(record, transform=ImageTransform(resize=32, crop=32), channels=3)
        assert item.array.shape == (32, 32, 3)
    assert arrays == ["odd/10ct_32bit_128"]


def test_what_is_no_file_is_a_failure_and_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    elsewhere = tmp_path / "good.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    (folder / "good.png").symlink_to(elsewhere)
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("pipe.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    summary = pack(folder, tmp_path / "shards")
    assert summary.count == 1
    reasons = {failure.path: failure.reason for failure in summary.failures}
    assert reasons.keys() == {"pipe.png", "link.png", "endless.png"}
    assert all("not a regular file" in reason for reason in reasons.values())
    os.mkfifo(tmp_path / "pipe.grib")
    grids = tmp_path / "grids"
    grids.mkdir()
    (grids / "endless.nc").symlink_to("/dev/zero")
    (grids / "pipe.grib").symlink_to(tmp_path / "pipe.grib")
    with pytest.raises(InputError, match=r"none of the 2 files.*not a regular file.*not a regular file"):
        pack(grids, tmp_path / "grid-shards")
