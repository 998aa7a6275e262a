"""Damaged, lost, edited and hostile bases, functasets and shards, seen from outside: `inspect --verify` finds them, and
what would use them ends with an error that names the file and says what to do.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zstandard

from functaconv.cli.app import run
from functaconv.conversion import Watcher, encode
from functaconv.errors import InputError, StoppedError
from functaconv.functaset.opening import open_functaset
from functaconv.training.state import read_state
from tests.cli.conftest import Invoke, Ran, World
from tests.conftest import png, tar
from tests.hostile import deep_json, packed
from tests.roots import read_root, write_root

DAMAGED, UNREADABLE, REFUSED = 4, 65, 73
COUNT, FAILED = 9, 3
KEYS = [f"image{number}" for number in range(COUNT)]
CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images, and three members that are none."""
    images = {f"{key}.png": png(number, (16, 16)) for number, key in enumerate(KEYS)}
    bad = {f"bad{number}.png": b"no image" for number in range(FAILED)}
    return tar(tmp_path_factory.mktemp("damage") / "in.tar", {**images, **bad})


@pytest.fixture(scope="module")
def sealed(world: World, shard: Path) -> Path:
    path = shard.parent / "out.zarr"
    assert run(["encode", str(world.base), str(shard), str(path), *CPU, "--max-error-rate", "1", "-q"]) == 0
    return path


@pytest.fixture
def store(sealed: Path, tmp_path: Path) -> Path:
    """A functaset to be damaged."""
    return shutil.copytree(sealed, tmp_path / "out.zarr")


@pytest.fixture
def verify(invoke: Invoke) -> Callable[[Path], dict[str, Any]]:
    """What `inspect --verify` finds. What cannot even be described has its error as the only problem."""

    def call(path: Path) -> dict[str, Any]:
        ran = invoke("inspect", path, "--verify", "--json")
        if ran.code == UNREADABLE:
            assert_helpful(ran)
            return {"problems": [ran.errors]}
        found = ran.json
        assert ran.code == (DAMAGED if found["problems"] else 0), ran.errors
        if found["problems"]:
            assert_helpful(ran)
        return found

    return call


Verify = Callable[[Path], dict[str, Any]]


def assert_helpful(ran: Ran) -> None:
    """One error and one hint, and nothing of how the program is made."""
    starts = [line.partition(":")[0] for line in ran.errors.splitlines()]
    assert (starts.count("error"), starts.count("hint")) == (1, 1), ran.errors
    assert "Traceback" not in ran.errors
    assert "internal error" not in ran.errors


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << place % 8
    file.write_bytes(content)


def test_a_sound_functaset_verifies(sealed: Path, tmp_path: Path, verify: Verify) -> None:
    (tmp_path / "link").symlink_to(sealed)
    for path in (sealed, tmp_path / "link"):
        assert verify(path)["problems"] == []


def test_one_flipped_bit_of_any_file_is_found(store: Path, verify: Verify) -> None:
    for file in sorted(path for path in store.rglob("*") if path.is_file()):
        name, sound = file.relative_to(store), file.read_bytes()
        for place in {len(sound) // 7, len(sound) - 1} - ({len(sound) - 1} if file.suffix else set()):
            flip(file, place)
            found = verify(store)
            assert any(name.parts[0] in problem for problem in found["problems"]), (name, place, found["problems"])
            file.write_bytes(sound)
    assert verify(store)["problems"] == []


def replace(file: Path, how: str, outside: Path) -> None:
    """Put something else in the place of a file, which is moved outside."""
    file.rename(outside)
    match how:
        case "empty":
            file.touch()
        case "cut":
            file.write_bytes(outside.read_bytes()[:-1])
        case "folder":
            file.mkdir()
        case "link":
            file.symlink_to(outside)
        case "endless":
            file.symlink_to("/dev/zero")
        case "itself":
            file.symlink_to(file)
        case "pipe":
            os.mkfifo(file)


# every way and every file
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("latent/c/0/0", "missing"),
        ("latent/c/0/0", "cut"),
        ("latent/c/0/0", "link"),
        ("key/c/0", "empty"),
        ("key/c/0", "pipe"),
        ("psnr/c/0", "folder"),
        ("latent_std/c/0", "missing"),
        ("label/c/0", "endless"),
        ("zarr.json", "missing"),
        ("zarr.json", "cut"),
        ("zarr.json", "endless"),
        ("zarr.json", "link"),
        ("report.json", "missing"),
        ("report.json", "link"),
        ("report.json", "cut"),
        ("failed.jsonl", "itself"),
        ("failed.jsonl", "cut"),
        ("failed.jsonl", "pipe"),
        ("base.safetensors", "empty"),
        ("base.safetensors", "cut"),
        ("base.safetensors", "link"),
        ("base.safetensors", "endless"),
    ],
)
def test_a_file_that_is_not_what_it_was_is_found(store: Path, verify: Verify, name: str, how: str) -> None:
    replace(store / name, how, store.parent / "outside")
    problems = verify(store)["problems"]
    assert problems
    if name != "zarr.json":
        assert any(name.partition("/")[0] in problem for problem in problems), problems


@pytest.mark.parametrize(("name", "is_lost"), [("latent", False), ("latent", True), ("shape", False), ("mse", True)])
def test_damaged_numbers_are_never_used(store: Path, invoke: Invoke, tmp_path: Path, name: str, is_lost: bool) -> None:
    (file,) = (path for path in (store / name / "c").rglob("*") if path.is_file())
    if is_lost:
        file.unlink()
    else:
        flip(file, 9)
    command = ("report", store) if name == "mse" else ("render", store, tmp_path / "images", *CPU)
    ran = invoke(*command)
    assert ran.code == UNREADABLE, ran.errors
    assert f"{name}: " in ran.errors
    assert_helpful(ran)


def test_numbers_that_are_not_finite_are_found(store: Path, verify: Verify) -> None:
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    for name, rows in (("latent", slice(3, 6)), ("mse", slice(8, 9))):
        array = group[name]
        assert isinstance(array, zarr.Array)
        array.with_config({"write_empty_chunks": True})[rows] = np.nan
    problems = verify(store)["problems"]
    assert "latent: NaN or infinite in 3 rows, the first is row 3" in problems
    assert "mse: NaN or infinite in 1 rows, the first is row 8" in problems


def test_another_base_is_found_and_not_used(store: Path, verify: Verify, invoke: Invoke, tmp_path: Path) -> None:
    content = (store / "base.safetensors").read_bytes()
    (store / "base.safetensors").write_bytes(content.replace(b"gauss-newton", b"gradient    ", 1))
    assert "base.safetensors: found sha256" in verify(store)["problems"][0]
    ran = invoke("render", store, tmp_path / "images", *CPU)
    assert ran.code == UNREADABLE
    assert "base.safetensors: found sha256" in ran.errors


def attributes(root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = root["attributes"]["functaconv"]
    return found


def array(root: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = root["consolidated_metadata"]["metadata"][name]
    return found


def claim(root: dict[str, Any], count: int) -> None:
    """Everything speaks of so many items."""
    attributes(root)["summary"].update(count=count, items=count)
    for name, described in root["consolidated_metadata"]["metadata"].items():
        if not name.startswith("latent_"):
            described["shape"][0] = count


Change = Callable[[dict[str, Any]], object]
EDITED: list[Change] = [
    lambda root: attributes(root)["summary"].update(count=COUNT - 1),
    lambda root: attributes(root)["summary"].update(failed=0),
    lambda root: attributes(root)["summary"].update(psnr_mean=99.0),
    lambda root: attributes(root)["summary"].update(bytes_per_item=1.0),
    lambda root: attributes(root).update(latent=3),
    lambda root: attributes(root).update(canonical=False),
    lambda root: attributes(root)["normaliser"].update(scale=[2.0, 1.0, 1.0]),
    lambda root: attributes(root).update(base_sha256="0" * 64),
    lambda root: attributes(root)["solver"].update(steps=99),
    # sizes that cannot be, of the wrong kind, and codecs that are none of ours
    lambda root: claim(root, 10**12),
    lambda root: attributes(root)["summary"].update(count=10**12),
    lambda root: attributes(root).update(latent=10**12),
    lambda root: attributes(root).update(sites=[2**20, 2**20]),
    lambda root: attributes(root)["summary"].update(count=-1),
    lambda root: attributes(root)["summary"].update(count="9"),
    lambda root: attributes(root)["summary"].update(count=True),
    lambda root: attributes(root)["normaliser"].pop("offset"),
    lambda root: attributes(root)["normaliser"].update(offset="abc"),
    lambda root: attributes(root)["normaliser"].update(scale=[float("inf")] * 3),
    lambda root: attributes(root)["normaliser"].update(scale=[0.0] * 3),
    lambda root: attributes(root)["normaliser"].update(itemsize=10**300),
    lambda root: array(root, "label").update(shape=[-1]),
    lambda root: array(root, "label").update(shape=[9.5]),
    lambda root: array(root, "label").update(shape=[1] * 1000),
    lambda root: array(root, "label").update(data_type="object"),
    lambda root: array(root, "key").update(codecs=[{"name": "pickle"}]),
    lambda root: array(root, "label")["codecs"][0]["configuration"].update(chunk_shape=[0]),
    lambda root: array(root, "label")["codecs"][0]["configuration"].update(codecs=[{"name": "crc32c"}] * 1000),
    lambda root: array(root, "label")["chunk_grid"]["configuration"].update(chunk_shape=[10**12]),
    lambda root: array(root, "label").update(storage_transformers=[{"name": "x"}]),
    lambda root: root["consolidated_metadata"]["metadata"].update({"../secret": {}, "a/" * 9: {}}),
    lambda root: root.update(consolidated_metadata={"metadata": {}}),
    lambda root: root.update(consolidated_metadata={"metadata": [1]}),
    lambda root: root.pop("consolidated_metadata"),
]


def test_an_edited_description_is_found(store: Path, verify: Verify) -> None:
    content = (store / "zarr.json").read_bytes()
    for number, change in enumerate(EDITED):
        root = read_root(store)
        change(root)
        write_root(store, root)
        assert verify(store)["problems"], number
        (store / "zarr.json").write_bytes(content)


def test_an_edited_report_is_found(store: Path, verify: Verify) -> None:
    content = (store / "report.json").read_bytes()
    for change in [
        lambda report: report.update(count=8),
        lambda report: report["psnr"].update(mean=99.0),
        lambda report: report["psnr"].update(p95=float("nan")),
        lambda report: report.update(psnr=None),
        lambda report: report.update(bytes=None),
        lambda report: report.clear(),
    ]:
        report = json.loads(content)
        change(report)
        (store / "report.json").write_text(json.dumps(report))
        assert any("report.json" in problem for problem in verify(store)["problems"])


def test_a_list_of_failures_that_is_another_is_found(store: Path, verify: Verify) -> None:
    for content in [b"", b"{", b"[]\n" * 3, deep_json(100_000), b"x" * (17 << 20)]:
        (store / "failed.jsonl").write_bytes(content)
        assert any("failed.jsonl" in problem for problem in verify(store)["problems"])


class StopsAtOnce(Watcher):
    """As Ctrl-C does, after the first block."""

    def report(self, *_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def stopped(world: World, shard: Path) -> Path:
    """An encoding that was stopped, with one finished block."""
    path = shard.parent / "stopped.zarr"
    two = [shard, sorted(world.shards.glob("*.tar"))[0]]
    with pytest.raises(StoppedError):
        encode(world.base, [str(name) for name in two], path, device="cpu", max_error_rate=1, watcher=StopsAtOnce())
    return path


@pytest.fixture
def begun(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "begun.zarr")


@pytest.fixture
def go_on(world: World, shard: Path, begun: Path, invoke: Invoke) -> Callable[[], Ran]:
    second = sorted(world.shards.glob("*.tar"))[0]
    return lambda: invoke("encode", world.base, shard, second, begun, *CPU, "--max-error-rate", "1")


def block_of(begun: Path) -> Path:
    (block,) = (begun / "_parts").glob("*.npz")
    return block


def test_what_was_stopped_is_finished(begun: Path, invoke: Invoke, go_on: Callable[[], Ran]) -> None:
    ran = invoke("inspect", begun)
    assert ran.code == UNREADABLE
    assert "encode was interrupted: run it again to finish it" in ran.errors
    assert go_on().code == 0
    assert open_functaset(begun).attributes.count == COUNT + 8


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "x",
        lambda settings: {**settings, "format": "x"},
        lambda settings: {**settings, "version": 1},
        lambda settings: {name: value for name, value in settings.items() if name != "budgets"},
        lambda settings: {**settings, "budgets": {"batch_size": -1, "chunk": 4}},
        lambda settings: {**settings, "budgets": {"batch_size": 10**30, "chunk": 4}},
    ],
)
def test_edited_settings_are_refused(begun: Path, go_on: Callable[[], Ran], change: Callable[[Any], Any]) -> None:
    file = begun / "_parts/settings.json"
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))))
    ran = go_on()
    assert ran.code in (UNREADABLE, REFUSED), ran.errors
    assert_helpful(ran)


def with_facts(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A block whose facts are others."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    facts = json.loads(np.load(io.BytesIO(members["facts.npy"])).tobytes())
    change(facts)
    buffer, changed = io.BytesIO(), io.BytesIO()
    np.save(buffer, np.frombuffer(json.dumps(facts).encode(), np.uint8))
    with zipfile.ZipFile(changed, "w") as archive:
        for name, member in {**members, "facts.npy": buffer.getvalue()}.items():
            archive.writestr(name, member)
    return changed.getvalue()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda content: content[:-9],
        flipped,
        lambda content: with_facts(content, lambda facts: facts.pop("stop")),
        lambda content: with_facts(content, lambda facts: facts.update(start=-1)),
        lambda content: with_facts(content, lambda facts: facts.update(stop=10**30)),
        lambda content: with_facts(content, lambda facts: facts.update(rows=7)),
        lambda content: with_facts(content, lambda facts: facts.update(source="x")),
        lambda content: with_facts(content, lambda facts: facts.update(failures=[1])),
    ],
)
def test_a_damaged_block_is_to_be_deleted(
    begun: Path, go_on: Callable[[], Ran], change: Callable[[bytes], bytes]
) -> None:
    block = block_of(begun)
    block.write_bytes(change(block.read_bytes()))
    ran = go_on()
    assert ran.code == UNREADABLE, ran.errors
    assert f"delete {block}" in ran.errors
    assert_helpful(ran)
    block.unlink()
    assert go_on().code == 0


@pytest.mark.parametrize(
    ("name", "how"), [("settings.json", "link"), ("settings.json", "endless"), ("", "pipe"), ("", "endless")]
)
def test_links_and_devices_in_what_was_begun_are_not_followed(
    begun: Path, go_on: Callable[[], Ran], name: str, how: str
) -> None:
    replace(begun / "_parts" / name if name else block_of(begun), how, begun.parent / "outside")
    ran = go_on()
    assert ran.code in (UNREADABLE, REFUSED), ran.errors
    assert_helpful(ran)


def test_a_link_in_the_place_of_an_array_is_not_written_through(begun: Path, go_on: Callable[[], Ran]) -> None:
    outside = begun.parent / "outside"
    outside.mkdir()
    (begun / "mse").symlink_to(outside)
    assert go_on().code == 0
    assert list(outside.iterdir()) == []


STATES: dict[str, bytes] = {
    "nothing": b"",
    "a length only": b"\xff" * 8,
    "a deep header": packed(deep_json(100_000)),
    "a deep description": packed({"__metadata__": {"functaconv": deep_json(50_000).decode()}}),
    "2^40 numbers": packed(
        {"__metadata__": {"functaconv": "{}"}, "a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}
    ),
}


@pytest.mark.parametrize("content", STATES.values(), ids=STATES.keys())
def test_a_damaged_training_state_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="cannot read the training state"):
        read_state(tmp_path / "state.safetensors")


def end_of(shard: bytes, number: int) -> int:
    """Where the header of a member begins."""
    with tarfile.open(fileobj=io.BytesIO(shard)) as archive:
        return archive.getmembers()[number].offset


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


CUTS: dict[str, tuple[str, Callable[[bytes], bytes], int | None]] = {
    "at 0": ("tar", lambda _: b"", None),
    "in a header": ("tar", lambda shard: shard[: end_of(shard, 8) + 100], 8),
    "in a body": ("tar", lambda shard: shard[: end_of(shard, 7) + 700], 7),
    "at the end marker": ("tar", lambda shard: shard.rstrip(b"\0") + bytes(-len(shard.rstrip(b"\0")) % 512 + 512), 9),
    "gzip": ("tar.gz", lambda shard: halved(gzip.compress(shard)), 1),
    "bzip2": ("tar.bz2", lambda shard: halved(bz2.compress(shard)), None),
    "xz": ("tar.xz", lambda shard: halved(lzma.compress(shard)), None),
    "zstd": ("tar.zst", lambda shard: halved(zstandard.compress(shard)), None),
}


@pytest.mark.parametrize(("kind", "cut", "kept"), CUTS.values(), ids=CUTS.keys())
def test_a_shard_that_is_cut_keeps_its_good_items_and_is_told_each_time(
    world: World,
    shard: Path,
    tmp_path: Path,
    invoke: Invoke,
    verify: Verify,
    kind: str,
    cut: Callable[[bytes], bytes],
    kept: int | None,
) -> None:
    path, out = tmp_path / f"a.{kind}", tmp_path / "out.zarr"
    path.write_bytes(cut(shard.read_bytes()))
    # it is told again, not forgotten, when nothing is left to do
    for _ in range(2):
        ran = invoke("encode", world.base, path, out, *CPU, "--max-error-rate", "1")
        assert ran.code == UNREADABLE, ran.errors
        assert_helpful(ran)
    assert any(path.name in problem for problem in verify(path)["problems"])
    if kept is None:
        return
    functaset = open_functaset(out)
    # what cannot be known to be complete is not taken for so
    assert kept - 1 <= len(functaset) <= COUNT
    assert functaset.keys.tolist() == KEYS[: len(functaset)]
    assert "damaged shard" in functaset.failures[-1].reason


def test_garbage_is_no_tar(world: World, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "a.tar").write_bytes(np.random.default_rng(0).bytes(1 << 14))
    ran = invoke("encode", world.base, tmp_path / "a.tar", tmp_path / "out.zarr")
    assert ran.code == UNREADABLE
    assert "not a tar archive" in ran.errors


def test_bad_items_are_listed_and_too_many_are_an_error(world: World, tmp_path: Path, invoke: Invoke) -> None:
    members = {f"{n}.png": png(n, (16, 16)) for n in range(6)}
    ill = bytearray(members["1.png"])
    ill[len(ill) // 2] ^= 0x10
    members |= {"1.png": bytes(ill), "3.png": members["3.png"][:60], "words.txt": b"ignored", "5.png": b"no image"}
    tar(tmp_path / "a.tar", members)
    for rate, code in (("1.0", 0), ("0.01", 3)):
        ran = invoke("encode", world.base, tmp_path / "a.tar", tmp_path / f"{rate}.zarr", "--max-error-rate", rate)
        assert ran.code == code, ran.errors
        found = open_functaset(tmp_path / f"{rate}.zarr")
        assert found.keys.tolist() == ["0", "2", "4"]
        assert [(failure.record, failure.key) for failure in found.failures] == [(1, "1"), (3, "3"), (5, "5")]
        assert all(failure.reason for failure in found.failures)
