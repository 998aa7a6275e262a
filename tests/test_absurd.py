"""Recipes, bases and stores that speak of sizes that cannot be: refused at once, in words, before memory is taken."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functaconv.checkpoint import read_base, read_state
from functaconv.errors import InputError, UsageError
from functaconv.functaset.reader import Functaset, open_functaset
from functaconv.functaset.schema import Layout
from functaconv.functaset.verify import verify
from functaconv.inspection import inspect
from functaconv.recipe import Recipe
from functaconv.settings import from_toml

from . import hostile
from .fuzzing.stores import make_store
from .roots import read_root, write_root

ABSURD: dict[str, dict[str, Any]] = {
    "layers": {"network": {"depth": 10**9}},
    "width": {"network": {"width": 10**9}},
    "parameters": {"network": {"width": 8192, "depth": 100}},
    "frequencies": {"network": {"width": 8192, "frequencies": 10**9}},
    "negative width": {"network": {"width": -1}},
    "numbers": {"latent": {"numbers": 10**9}},
    "sites": {"latent": {"sites": [10**9, 10**9]}},
    "all sites": {"latent": {"sites": [1024, 1024, 1024]}},
    "neighbours": {"latent": {"sites": [256, 256, 64], "kernel": 3, "numbers": 1}},
    "weights": {"network": {"width": 4096, "depth": 10, "modulation": "film"}, "latent": {"numbers": 65536}},
    "a matrix": {"solver": {"kind": "gauss-newton"}, "latent": {"numbers": 65536}, "network": {"width": 2}},
    "matrices": {
        "solver": {"kind": "gauss-newton"},
        "latent": {"numbers": 256, "sites": [16, 16], "interpolation": "linear"},
    },
    "negative sites": {"latent": {"sites": [-1, 4]}},
    "steps": {"solver": {"steps": 10**9}},
    "no number": {"network": {"w0_first": float("nan")}},
}


@pytest.mark.parametrize("settings", ABSURD.values(), ids=ABSURD.keys())
def test_an_absurd_recipe_is_refused_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the recipe is not valid") as caught:
        Recipe().changed(settings)
    assert caught.value.hint


@pytest.mark.parametrize(
    "content",
    ["a = " + "[" * 5000, "a = " + "9" * 5000, "a = 1\n" * 300_000, "\udcff"],
    ids=["deep", "digits", "long", "text"],
)
def test_a_recipe_file_that_makes_no_sense_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "recipe.toml").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="recipe"):
        from_toml(tmp_path / "recipe.toml")


Change = Callable[[dict[str, Any]], object]


def attributes(root: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = root["attributes"]["functaconv"]
    return found


def described(root: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = root["consolidated_metadata"]["metadata"][name]
    return found


def inner(root: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = described(root, name)["codecs"][0]["configuration"]
    return found


def claim(root: dict[str, Any], count: int) -> None:
    """Everything speaks of so many items, in chunks as they would be."""
    attributes(root)["summary"].update(count=count, items=count)
    for name, array in root["consolidated_metadata"]["metadata"].items():
        if not name.startswith("latent_"):
            array["shape"][0] = count


ROOTS: dict[str, Change] = {
    "10^12 items": lambda root: claim(root, 10**12),
    "10^12 latents": lambda root: attributes(root).update(latent=10**12),
    "10^12 sites": lambda root: attributes(root).update(sites=[2**20, 2**20]),
    "negative count": lambda root: attributes(root)["summary"].update(count=-1),
    "a count of text": lambda root: attributes(root)["summary"].update(count="9"),
    "a count of truth": lambda root: attributes(root)["summary"].update(count=True),
    "no normaliser": lambda root: attributes(root)["normaliser"].pop("offset"),
    "a normaliser of text": lambda root: attributes(root)["normaliser"].update(offset="abc"),
    "endless normaliser": lambda root: attributes(root)["normaliser"].update(scale=[float("inf")] * 3),
    "normaliser of nothing": lambda root: attributes(root)["normaliser"].update(scale=[0.0] * 3),
    "absurd item size": lambda root: attributes(root)["normaliser"].update(itemsize=10**300),
    "damage of another kind": lambda root: attributes(root)["summary"].update(damaged=5),
    "negative shape": lambda root: described(root, "label").update(shape=[-1]),
    "fractional shape": lambda root: described(root, "label").update(shape=[9.5]),
    "shape of truth": lambda root: described(root, "label").update(shape=[True]),
    "shape of many axes": lambda root: described(root, "label").update(shape=[1] * 1000),
    "objects": lambda root: described(root, "label").update(data_type="object"),
    "pickled objects": lambda root: described(root, "key").update(codecs=[{"name": "pickle"}]),
    "another codec": lambda root: described(root, "label").update(
        codecs=[{"name": "gzip", "configuration": {"level": 5}}]
    ),
    "another compressor": lambda root: inner(root, "label")["codecs"][1]["configuration"].update(cname="lz4"),
    "no checksums": lambda root: inner(root, "label")["codecs"].pop(),
    "codecs of codecs": lambda root: inner(root, "label").update(codecs=[{"name": "crc32c"}] * 1000),
    "no chunks": lambda root: inner(root, "label").update(chunk_shape=[0]),
    "chunks of 10^12": lambda root: (
        inner(root, "label").update(chunk_shape=[10**12]),
        described(root, "label")["chunk_grid"]["configuration"].update(chunk_shape=[10**12]),
    ),
    "many chunks in a shard": lambda root: described(root, "label")["chunk_grid"]["configuration"].update(
        chunk_shape=[10**12]
    ),
    "index in front": lambda root: inner(root, "label").update(index_location="start"),
    "chunks elsewhere": lambda root: described(root, "label").update(chunk_key_encoding={"name": "v2"}),
    "another storage": lambda root: described(root, "label").update(storage_transformers=[{"name": "x"}]),
    "no arrays": lambda root: root.update(consolidated_metadata={"metadata": {}}),
    "arrays of another kind": lambda root: root.update(consolidated_metadata={"metadata": [1]}),
    "nothing about arrays": lambda root: root.pop("consolidated_metadata"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout = Layout(axes=("row", "column"), sites=(2, 3), latent=4, bits="float16")
    return make_store(tmp_path_factory.mktemp("sound") / "out.zarr", layout)


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """A functaset to be tampered with."""
    return shutil.copytree(sound, tmp_path / "out.zarr")


@pytest.mark.parametrize("change", ROOTS.values(), ids=ROOTS.keys())
def test_an_absurd_description_is_refused_at_once(store: Path, change: Change) -> None:
    root = read_root(store)
    change(root)
    write_root(store, root)
    with pytest.raises(InputError) as caught:
        open_functaset(store)
    assert caught.value.hint


@pytest.mark.parametrize("count", [10**9, 10**12])
def test_rows_that_are_not_there_are_not_affected(store: Path, count: int) -> None:
    root = read_root(store)
    attributes(root)["summary"].update(count=count)
    write_root(store, root)
    tracemalloc.start()
    found = inspect(store, verify=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.facts["affected"]["rows"] == 9
    assert peak < 1 << 26


def test_names_that_lead_out_of_a_store_are_not_followed(store: Path) -> None:
    root = json.loads((store / "zarr.json").read_bytes())
    secret = store.parent / "secret"
    (secret / "label").mkdir(parents=True)
    (secret / "zarr.json").write_text("{")
    root["consolidated_metadata"]["metadata"] |= {"../secret": {}, str(secret): {}, "a/" * 9: {}, "x" * 999: {}}
    (store / "zarr.json").write_text(json.dumps(root))
    assert len(open_functaset(store)) > 0
    problems = verify(store)
    assert len(problems) == 4
    assert all("which is no array of ours" in problem for problem in problems)


@pytest.mark.parametrize("name", ["zarr.json", "failed.jsonl", "report.json", "base.safetensors", "label/c/0", "label"])
@pytest.mark.parametrize("how", ["out", "endless", "pipe", "itself"])
def test_links_and_devices_in_a_store_are_not_followed(store: Path, name: str, how: str) -> None:
    place = store / name
    outside = store.parent / "outside"
    place.rename(outside)
    if how == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to({"out": outside, "endless": "/dev/zero", "itself": place}[how])
    with pytest.raises(InputError, match=name.partition("/")[0]) as caught:
        read_all(store)
    assert caught.value.hint


def read_all(store: Path) -> Functaset:
    functaset = open_functaset(store)
    functaset.latents()
    _ = functaset.labels, functaset.keys, functaset.failures, functaset.report, functaset.base_bytes()
    return functaset


def test_a_store_may_itself_be_a_link(store: Path) -> None:
    link = store.parent / "link.zarr"
    link.symlink_to(store)
    assert np.array_equal(read_all(link).latents(), open_functaset(store).latents())


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
    yield "wide header", hostile.packed(b"[" + b"[]," * 10_000_000 + b"1]")
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


def test_hostile_bases_are_refused_in_little_time_and_memory(base_file: Path, tmp_path: Path) -> None:
    """In a process that may take half a GiB more than it has."""
    base = base_file.read_bytes()
    for number, (_, content) in enumerate(hostile_bases(base)):
        (tmp_path / f"{number:03d}.safetensors").write_bytes(content)
    (tmp_path / "endless.safetensors").symlink_to("/dev/zero")
    (tmp_path / "random.safetensors").symlink_to("/dev/urandom")
    # large, and nothing but a hole
    with (tmp_path / "hole.safetensors").open("wb") as file:
        file.write(base[:9])
        file.truncate(1 << 40)
    with (tmp_path / "tail.safetensors").open("wb") as file:
        file.write(base)
        file.truncate(1 << 40)
    names = [name for name, _ in hostile_bases(base)]
    found = limited(
        "from functaconv.checkpoint import read_base", "read_base(file)", sorted(tmp_path.glob("*.safetensors"))
    )
    assert len(found) == len(names) + 4
    for file, (outcome, seconds) in found.items():
        name = names[int(file[:3])] if file[:3].isdecimal() else file
        assert outcome.startswith("InputError: "), (name, outcome)
        assert "without a hint" not in outcome, (name, outcome)
        assert seconds < 5, name


def limited(prepare: str, run: str, files: list[Path]) -> dict[str, tuple[str, float]]:
    """What became of each file, and in how many seconds, in a process with half a GiB to spare."""
    program = f"""
import json, resource, sys, time
from pathlib import Path
{prepare}
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 29),) * 2)
found = {{}}
for file in sys.argv[1:]:
    started = time.monotonic()
    try:
        {run}
        outcome = "accepted"
    except Exception as error:
        hint = getattr(error, "hint", None)
        outcome = f"{{type(error).__name__}}: {{error!s:.200}}" + ("" if hint else " (without a hint)")
    found[Path(file).name] = outcome, time.monotonic() - started
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, files)], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[str, float]] = json.loads(done.stdout)
    return found


def test_hostile_companions_are_refused_in_little_memory(sound: Path, tmp_path: Path) -> None:
    arrays = b",".join(b'"a%d":{}' % number for number in range(10**6))
    stores = {
        "wide": {"zarr.json": b'{"attributes": {}, "consolidated_metadata": {"metadata": {' + arrays + b"}}}"},
        "deep": {"zarr.json": hostile.deep_json(100_000)},
        "holes": {"zarr.json": None},
        "report": {"report.json": None},
        "failed": {"failed.jsonl": None},
        "base": {"base.safetensors": None},
        "line": {"failed.jsonl": b"x" * (17 << 20)},
        "listed": {"failed.jsonl": b'{"shard":"","record":0,"key":"","reason":""}\n' * 100_000 + b"["},
    }  # fmt: skip
    for name, files in stores.items():
        path = tmp_path / name
        shutil.copytree(sound, path)
        for file, content in files.items():
            with (path / file).open("wb") as stream:
                stream.write(content or b"{")
                if content is None:
                    # terabytes of nothing
                    stream.truncate(1 << 42)
    prepare = "from functaconv.functaset import open_functaset"
    run = "store = open_functaset(file); store.failures, store.report, store.base_bytes()"
    for name, (outcome, seconds) in limited(prepare, run, [tmp_path / name for name in stores]).items():
        assert outcome.startswith("InputError: "), (name, outcome)
        assert "without a hint" not in outcome, name
        assert seconds < 10, name


STATES: dict[str, Any] = {
    "a list": [],
    "identity of text": {"identity": "x"},
    "endless seconds": {"seconds": float("inf")},
    "negative seconds": {"seconds": -1},
    "updates of text": {"updates": "many"},
    "a position of numbers": {"position": [1, 2]},
    "shapes of text": {"shapes": "abc"},
    "a scale of text": {"scale": "abc"},
    "another geometry": {"geometry": {"kind": "cube"}},
    "no levels": {"levels": {"500": [[0.0]]}},
}


@pytest.mark.parametrize("values", STATES.values(), ids=STATES.keys())
def test_a_training_state_that_makes_no_sense_is_an_input_error(tmp_path: Path, values: Any) -> None:
    (tmp_path / "state").write_bytes(hostile.packed({"__metadata__": {"functaconv": json.dumps(values)}}))
    with pytest.raises(InputError, match="cannot read the training state") as caught:
        read_state(tmp_path / "state")
    assert "--overwrite" in str(caught.value.hint)


def test_what_a_training_state_lacks_is_an_input_error_where_it_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(hostile.packed({"__metadata__": {"functaconv": "{}"}}))
    state = read_state(tmp_path / "state")
    for look in (lambda: state.values["identity"], lambda: state.tensors["base.start"]):
        with pytest.raises(InputError, match="the training state lacks"):
            look()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little"),
        hostile.packed(hostile.deep_json(100_000)),
        hostile.packed({"__metadata__": {"functaconv": hostile.deep_json(50_000).decode()}}),
        hostile.packed(
            {"__metadata__": {"functaconv": "{}"}, "a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}
        ),
        hostile.packed(
            {"__metadata__": {"functaconv": "{}"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
        ),
    ],
)
def test_a_training_state_that_is_damaged_is_told_of_by_inspect(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "base.safetensors.training"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="cannot read the training state"):
        inspect(folder)
    assert len(inspect(folder, verify=True).problems) == 1


def test_a_training_state_of_odd_values_can_be_inspected(tmp_path: Path) -> None:
    folder = tmp_path / "base.safetensors.training"
    folder.mkdir()
    values = {"identity": {"recipe": [1]}, "shapes": []}
    (folder / "state.safetensors").write_bytes(hostile.packed({"__metadata__": {"functaconv": json.dumps(values)}}))
    (folder / "log.jsonl").write_bytes(b'{"validation_psnr": 3.5}\n' + hostile.deep_json(5000) + b"\n[]\n{")
    assert inspect(folder, verify=True).facts["psnr"] == 3.5


def test_a_base_may_come_through_a_pipe(base_file: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", str(base_file), str(pipe)]):
        assert read_base(pipe).content == base_file.read_bytes()
