"""Inputs that mean harm: nothing of them runs, nothing is written beside the target, memory stays small, and what is
good beside them is converted.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from functaconv.data.decoders import decode
from functaconv.data.items import Record
from functaconv.errors import ItemError
from functaconv.functaset.reader import open_functaset
from functaconv.rendering import render

from . import hostile
from .conftest import npy, png

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
        "texts.png": (hostile.png(8, 8, chunks=hostile.png_chunk(b"tEXt", b"a\0b") * 1_000_000), "chunks in"),
        "vast.tif": (hostile.tiff_image(1_000_000, 1_000_000), "1000000 x 1000000 pixels"),
        "strips.tif": (hostile.tiff_image(8, 8, t279=(4, 1 << 26, 8)), "67108864 numbers in tag 279"),
        "tiles.tif": (hostile.tiff_image(8, 8, t322=(4, 1, 40_000), t323=(4, 1, 40_000)), "tiles of 40000 x 40000"),
        "wide.webp": (hostile.webp(1 << 24, 1 << 24), "16777216 x 16777216 pixels"),
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
        reasons[name] = "json: expected valid JSON"
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
    """A dozen of them, of a quarter and half a GiB each, and eight threads."""
    bomb = hostile.zeros_npz(512 << 20)
    voxels = hostile.binvox("640 640 640", b"\0\xff" * (640**3 // 255) + b"\0" + bytes([640**3 % 255]))
    members = {f"{n}.npz": bomb for n in range(6)} | {f"{n}.binvox": voxels for n in range(6, 12)}
    shard = hostile.shard(tmp_path / "bombs.tar", {"good.png": png(0, SHAPE), **members})
    assert memory_of_encoding(base_file, shard, tmp_path) < 2 * GIB
    assert open_functaset(tmp_path / "out").keys.tolist() == ["good"]


@pytest.mark.slow
@pytest.mark.parametrize(("resize", "items"), [(None, 1), (16, 7)])
def test_images_as_large_as_is_allowed_do_not_fill_the_memory(
    base_file: Path, tmp_path: Path, resize: int | None, items: int
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((11_500, 11_500, 3), np.uint8)).save(buffer, "PNG")
    members = {f"{n}.png": buffer.getvalue() for n in range(6)}
    shard = hostile.shard(tmp_path / "large.tar", {"good.png": png(0, SHAPE), **members})
    assert memory_of_encoding(base_file, shard, tmp_path, resize) < 2 * GIB
    functaset = open_functaset(tmp_path / "out")
    assert len(functaset) == items
    assert all("--tile cuts it, --resize makes it smaller" in failure.reason for failure in functaset.failures)


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


@pytest.mark.parametrize("content", [b"", b"(", b"GIF89a", hostile.deep_json(100)])
def test_a_member_of_any_suffix_is_refused_in_words(content: bytes) -> None:
    for suffix in ("png", "jpg", "tif", "webp", "bmp", "npy", "npz", "binvox"):
        with pytest.raises(ItemError, match=f"{suffix}: "):
            decode(Record(0, 0, "key", {suffix: content}))


def test_text_of_any_length_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ItemError, match="json: 1048577 bytes, expected at most 1048576"):
        decode(Record(0, 0, "key", {"npy": npy(np.zeros(SHAPE)), "json": b" " * ((1 << 20) + 1)}))
    with pytest.raises(ItemError, match="json: expected valid JSON"):
        decode(Record(0, 0, "key", {"npy": npy(np.zeros(SHAPE)), "json": b'{"variable": "\\ud800"}'}))
