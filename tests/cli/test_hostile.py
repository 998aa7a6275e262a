"""Inputs that mean harm: nothing of them runs, nothing is written beside the target, memory stays small, and what is
good beside them is converted.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from functaconv.checkpoint import read_base
from functaconv.data.decoders import decode
from functaconv.data.items import Record
from functaconv.errors import ItemError
from functaconv.functaset.opening import open_functaset
from functaconv.rendering import render
from tests import hostile
from tests.cli.conftest import World
from tests.conftest import npy, png

GIB = 1 << 30
SHAPE = (12, 12)


def harmful(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Name of a member -> its content, and a part of the reason why its record is not converted."""
    return {
        "pickled.npy": (hostile.pickled_npy(canary), "type object"),
        "pickles.npz": (hostile.zipped({"a.npy": hostile.pickled_npy(canary)}), "type object"),
        "postscript.jpg": (hostile.eps(canary), "found PostScript"),
        "bomb.npz": (hostile.bzip2_npz(64 << 20), "numpy never writes"),
        "claims.npz": (hostile.zeros_npz(1 << 20, claimed=600 << 20), "expands to 629145600 bytes"),
        "lies.npz": (hostile.zeros_npz(1 << 20, claimed=4096), "Bad CRC-32"),
        "members.npz": (hostile.many_members_zip(100_000), "more than 10000 files"),
        "huge.png": (hostile.png(50_000, 50_000, data=b"x"), "50000 x 50000 pixels"),
        "vast.tif": (hostile.tiff_image(1_000_000, 1_000_000), "1000000 x 1000000 pixels"),
        "strips.tif": (hostile.tiff_image(8, 8, t279=(4, 1 << 26, 8)), "67108864 numbers in tag 279"),
        "tiles.tif": (hostile.tiff_image(8, 8, t322=(4, 1, 40_000), t323=(4, 1, 40_000)), "40000 x 40000 pixels"),
        "wide.webp": (hostile.webp(1 << 24, 1 << 24), "281474976710656 pixels"),
        "scans.jpg": (hostile.scanned_jpeg(8000, 2000), "scans of 64000000 pixels"),
        "values.npy": (hostile.npy(f"({10**12},)"), "1000000000000"),
        "header.npy": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "a header of 4294967295 bytes"),
        "nested.npy": (hostile.npy("(" * 4000), "expected a complete array"),
        "minus.npy": (hostile.npy("-" * 9000 + "1"), "npy: "),
        "voxels.binvox": (hostile.binvox("1000000 1000000 1000000"), "1000000000000000000 voxels"),
    }


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[str], Path]:
    """A shard of harm with good items in between; why which records fail, keys of the good ones, what must not be."""
    folder = tmp_path_factory.mktemp("poisoned")
    canary = folder / "canary"
    members: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    for number, (name, (content, reason)) in enumerate(harmful(canary).items()):
        members[f"good{number:02d}.png"] = png(number, SHAPE)
        members[name] = content
        reasons[name.partition(".")[0]] = reason
    members |= {
        "code.pkl": hostile.payload(canary), "code.pth": hostile.torch_file(canary),
        "code.pt": hostile.torch_file(canary), "code.pyd.gz": hostile.payload(canary),
        "code.yaml": b"!!python/object/apply:os.system ['touch canary']", "code.py": b"import os",
    }  # fmt: skip
    for name, text in {"deep": hostile.deep_json(100_000), "long": b"[" + b"[]," * 300_000 + b"1]"}.items():
        members |= {f"{name}.npy": npy(np.zeros(SHAPE)), f"{name}.json": text}
        reasons[name] = "json: expected valid JSON" if name == "deep" else "characters to be stored"
    escaping = ["../../x", "/abs/y", "a/../../z", "back\\slash", "C:/v", "-rf"]
    members |= {f"{key}.png": png(50 + number, SHAPE) for number, key in enumerate(escaping)}
    good = [name[:-4] for name in members if name.startswith("good")] + escaping
    return hostile.shard(folder / "poisoned.tar", members), reasons, good, canary


@pytest.fixture(scope="module")
def encoded(
    poisoned: tuple[Path, dict[str, str], list[str], Path], base_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, dict[str, Any]]:
    """What `encode` makes of it in a process of its own, the most memory that took, and the files beside."""
    shard, _, _, _ = poisoned
    folder = tmp_path_factory.mktemp("a") / "b" / "c"
    folder.mkdir(parents=True)
    out = folder / "out.zarr"
    before = listing(out)
    options = ["--max-error-rate", "1", "--device", "cpu", "--json", "-q"]
    command = [sys.executable, "-m", "functaconv", "encode", str(base_file), str(shard), str(out), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors.decode()
    assert listing(out) == before
    return out, usage.ru_maxrss << 10, json.loads(said)


def listing(target: Path) -> set[str]:
    """All that lies around the target, three folders up, and not in it."""
    top = target.parents[2]
    found = (path for path in top.rglob("*") if target not in (path, *path.parents))
    return {str(path) for path in found} | {str(path) for path in top.parent.iterdir()}


def test_good_items_are_converted_and_the_others_listed_with_reasons(
    poisoned: tuple[Path, dict[str, str], list[str], Path], encoded: tuple[Path, int, dict[str, Any]]
) -> None:
    (_, reasons, good, _), (out, _, report) = poisoned, encoded
    functaset = open_functaset(out)
    assert sorted(functaset.keys.tolist()) == sorted(good)
    found = {failure.key: failure.reason for failure in functaset.failures}
    assert found.keys() == reasons.keys()
    for key, reason in reasons.items():
        assert reason in found[key], key
        assert len(found[key]) < 500, key
    assert (report["count"], report["failed"]) == (len(good), len(reasons))


def test_nothing_runs_and_memory_stays_small(
    poisoned: tuple[Path, dict[str, str], list[str], Path], encoded: tuple[Path, int, dict[str, Any]]
) -> None:
    assert not poisoned[3].exists()
    assert encoded[1] < 2 * GIB


@pytest.mark.parametrize("name", ["images", "images.tar"])
def test_rendered_items_stay_in_the_target_whatever_their_keys(
    encoded: tuple[Path, int, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    target = tmp_path / "a" / "b" / name
    target.parent.mkdir(parents=True)
    before = listing(target)
    rendered = render(encoded[0], target, device="cpu")
    assert listing(target) == before
    assert rendered.count == len(open_functaset(encoded[0]))
    if target.is_dir():
        assert len([file for file in target.iterdir() if file.is_file()]) == rendered.count
    else:
        assert not any("/" in file or file.startswith(".") for file in rendered.files)


@pytest.mark.slow
def test_bombs_as_large_as_is_allowed_are_expanded_one_at_a_time(base_file: Path, tmp_path: Path) -> None:
    """Seven of them, of a quarter and half a GiB each, and eight threads."""
    bomb = hostile.zeros_npz(512 << 20)
    voxels = hostile.binvox("640 640 640", b"\0\xff" * (640**3 // 255) + b"\0" + bytes([640**3 % 255]))
    members = {f"{n}.npz": bomb for n in range(5)} | {f"{n}.binvox": voxels for n in range(5, 7)}
    shard = hostile.shard(tmp_path / "bombs.tar", {"good.png": png(0, SHAPE), **members})
    assert memory_of_encoding(base_file, shard, tmp_path) < 2 * GIB
    assert open_functaset(tmp_path / "out").keys.tolist() == ["good"]


@pytest.mark.slow
def test_images_as_large_as_is_allowed_do_not_fill_the_memory(base_file: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((11_500, 11_500, 3), np.uint8)).save(buffer, "PNG")
    members = {f"{n}.png": buffer.getvalue() for n in range(4)}
    shard = hostile.shard(tmp_path / "large.tar", {"good.png": png(0, SHAPE), **members})
    assert memory_of_encoding(base_file, shard, tmp_path, resize=16) < 2 * GIB
    assert len(open_functaset(tmp_path / "out")) == 5


def memory_of_encoding(base: Path, shard: Path, folder: Path, resize: int | None = None) -> int:
    """Bytes at the most, of a process of its own with eight threads."""
    arguments = f"{str(base)!r}, {str(shard)!r}, 'out', device='cpu', workers=8, max_error_rate=1"
    if resize is not None:
        arguments += f", resize={resize}"
    program = f"from functaconv.conversion import encode; encode({arguments})"
    with subprocess.Popen([sys.executable, "-c", program], cwd=folder) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss << 10


def test_text_of_any_length_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ItemError, match="json: 1048577 bytes, expected at most 1048576"):
        decode(Record(0, 0, "key", {"npy": npy(np.zeros(SHAPE)), "json": b" " * ((1 << 20) + 1)}))
    with pytest.raises(ItemError, match="json: expected valid JSON"):
        decode(Record(0, 0, "key", {"npy": npy(np.zeros(SHAPE)), "json": b'{"variable": "\\ud800"}'}))


def hostile_bases(base: bytes) -> Iterator[tuple[str, bytes]]:
    """Bases that are to be refused."""
    length = int.from_bytes(base[:8], "little")
    header, data = json.loads(base[8 : 8 + length]), base[8 + length :]
    said = json.loads(header["__metadata__"]["functaconv"])

    def with_entry(**changes: Any) -> bytes:
        return hostile.packed({**header, "start": {**header["start"], **changes}}, data)

    def with_said(**changes: Any) -> bytes:
        return hostile.packed({**header, "__metadata__": {"functaconv": json.dumps({**said, **changes})}}, data)

    start = header["start"]["data_offsets"]
    yield "length of 2^63", (2**63).to_bytes(8, "little") + base[8:]
    yield "length of the file", len(base).to_bytes(8, "little") + base[8:]
    yield "deep header", hostile.packed(hostile.deep_json(100_000))
    yield "wide header", hostile.packed(b"[" + b"[]," * 3_000_000 + b"1]")
    yield "deep description", hostile.packed({"__metadata__": {"functaconv": hostile.deep_json(50_000).decode()}})
    yield "no tensors", hostile.packed({"__metadata__": header["__metadata__"]})
    yield (
        "missing tensor",
        hostile.packed({name: entry for name, entry in header.items() if name != "latent_std"}, data),
    )
    yield (
        "another tensor",
        hostile.packed({**header, "more": {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}}, data),
    )
    yield "shape of 10^12", with_entry(shape=[1, 1, 10**12])
    yield "negative shape", with_entry(shape=[1, 1, -8])
    yield "offsets of 10^12", with_entry(data_offsets=[start[0], 10**12])
    yield "offsets backwards", with_entry(data_offsets=start[::-1])
    yield "overlapping", with_entry(data_offsets=[start[0] - 4, start[1] - 4])
    yield "negative offsets", with_entry(data_offsets=[-32, 0])
    for dtype in ("F64", "F16", "BF16", "I64", "BOOL", "object", ""):
        yield f"type {dtype}", with_entry(dtype=dtype)
    yield "followed by more", base + bytes(4096)
    for name, changes in {
        "10^9 layers": {"network": {**said["recipe"]["network"], "depth": 10**9}},
        "most layers": {"network": {**said["recipe"]["network"], "depth": 100, "width": 3276}},
        "10^9 wide": {"network": {**said["recipe"]["network"], "width": 10**9}},
        "10^9 numbers": {"latent": {**said["recipe"]["latent"], "numbers": 10**9}},
        "most sites": {"latent": {**said["recipe"]["latent"], "numbers": 1, "sites": [1024, 1024], "kernel": 3}},
        "negative": {"latent": {**said["recipe"]["latent"], "numbers": -8}},
        "deep": {"name": [[[["x"]]]]},
    }.items():
        yield name, with_said(recipe={**said["recipe"], **changes})
    yield "channels", with_said(axes={**said["axes"], "channels": 10**9})
    yield "axes", with_said(axes={**said["axes"], "dims": 10**9})
    yield "item size", with_said(axes={**said["axes"], "itemsize": 10**300})
    yield "variables", with_said(axes={**said["axes"], "variables": ["a"], "units": [""]})
    yield "offset", with_said(offset=[0.0] * 10**6)
    yield "endless offset", with_said(offset=[float("inf")] * 3)
    yield "levels", with_said(levels={str(number): [[0.0], [1.0]] for number in range(10_000)})
    for shapes in ("abc", [["a"]], [[0, 1]], [[2**40, 1]], [[1, 2, 3]], 5):
        yield f"shapes {shapes!r}", with_said(training={"shapes": shapes})


def write_bases(base: bytes, folder: Path) -> None:
    for name, content in hostile_bases(base):
        (folder / f"{name.replace('/', ' ')}.safetensors").write_bytes(content)
    (folder / "endless.safetensors").symlink_to("/dev/zero")
    (folder / "random.safetensors").symlink_to("/dev/urandom")
    # large, and nothing but a hole
    for name, content in (("hole", base[:9]), ("tail", base)):
        with (folder / f"{name}.safetensors").open("wb") as file:
            file.write(content)
            file.truncate(1 << 40)


def write_stores(store: Path, folder: Path) -> None:
    """Functasets of which one file is hostile."""
    arrays = b",".join(b'"a%d":{}' % number for number in range(300_000))
    hostile_files: dict[str, tuple[str, bytes | None]] = {
        "wide": ("zarr.json", b'{"attributes": {}, "consolidated_metadata": {"metadata": {' + arrays + b"}}}"),
        "deep": ("zarr.json", hostile.deep_json(100_000)),
        "holes": ("zarr.json", None),
        "report": ("report.json", None),
        "failed": ("failed.jsonl", None),
        "base": ("base.safetensors", None),
        "line": ("failed.jsonl", b"x" * (17 << 20)),
        "listed": ("failed.jsonl", b'{"shard":"","record":0,"key":"","reason":""}\n' * 100_000 + b"["),
    }
    for name, (file, content) in hostile_files.items():
        shutil.copytree(store, folder / name)
        with (folder / name / file).open("wb") as stream:
            stream.write(content or b"{")
            if content is None:
                # terabytes of nothing
                stream.truncate(1 << 42)


def test_hostile_bases_and_functasets_are_refused_in_little_time_and_memory(
    base_file: Path, world: World, tmp_path: Path
) -> None:
    """In a process that may take half a GiB more than it has."""
    write_bases(base_file.read_bytes(), tmp_path)
    write_stores(world.store, tmp_path)
    found = limited(sorted(tmp_path.iterdir()), base_file, world.store)
    assert len(found) == len(list(hostile_bases(base_file.read_bytes()))) + 4 + 8
    for name, (code, errors, seconds) in found.items():
        assert code in (4, 65), (name, code, errors)
        assert "hint: " in errors, (name, errors)
        assert seconds < 8, name


def limited(paths: list[Path], *sound: Path) -> dict[str, tuple[int, str, float]]:
    """How `inspect --verify` ends on each, what it says and the seconds of a CPU it takes, with half a GiB to spare."""
    program = """
import contextlib, io, json, resource, sys, time
from pathlib import Path
from functaconv.cli.app import run
# what is loaded once is not counted
for path in sys.argv[1:3]:
    assert run(["inspect", path, "--verify"]) == 0
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 29),) * 2)
found = {}
for path in sys.argv[3:]:
    errors, started = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = run(["inspect", path, "--verify"])
    found[Path(path).name] = code, errors.getvalue(), time.process_time() - started
print(json.dumps(found), file=sys.stderr)
"""
    command = [sys.executable, "-c", program, *map(str, (*sound, *paths))]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[int, str, float]] = json.loads(done.stderr.splitlines()[-1])
    return found


def test_a_base_may_come_through_a_pipe(base_file: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", str(base_file), str(pipe)]):
        assert read_base(pipe).content == base_file.read_bytes()
