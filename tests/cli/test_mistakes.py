"""What new users do wrong: two lines say what is the matter and what to do, and nothing is broken by it."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from functaconv.functaset.opening import open_functaset
from tests.cli.conftest import SMALL, Invoke, Ran, World
from tests.conftest import npy, png, tar

Wrong = Callable[..., Ran]


@pytest.fixture
def place(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Names to fill into commands: the world, and a folder of things that are not what they should be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("years of work")
    (tmp_path / "random").write_bytes(np.random.default_rng(0).bytes(4000))
    (tmp_path / "zero.tar").touch()
    tar(tmp_path / "bare.tar", {})
    tar(tmp_path / "text.tar", {"a.txt": b"a", "b.txt": b"b"})
    return {name: getattr(world, name) for name in ("images", "shards", "base", "store")}


@pytest.fixture
def wrong(place: dict[str, Path], invoke: Invoke) -> Wrong:
    """Runs what must fail: with an error, a hint, and no traceback."""

    def call(line: str, code: int) -> Ran:
        ran = invoke(*(part.format(**place) for part in line.split()))
        assert ran.code == code, ran.errors
        errors = [line for line in ran.errors.splitlines() if line.startswith("error: ")]
        hints = [line for line in ran.errors.splitlines() if line.startswith("hint: ")]
        assert (len(errors), len(hints)) == (1, 1), ran.errors
        assert "Traceback" not in ran.errors
        assert "internal error" not in ran.errors
        return ran

    return call


COMMANDS = ("fit", "encode", "render", "report", "inspect", "pack", "demo")

USAGE = [
    ("fit-base {shards} new --preset functa-cifar", "did you mean 'functa-cifar10'?"),
    ("fit-base {shards} new --set network.widht=3", "did you mean 'network.width'?"),
    ("fit-base {shards} new --set network.width", "--set training.rate=1e-4"),
    ("fit-base {shards} new --set network.width=wide", "network.width"),
    ("fit-base {shards} new --steps 0", "'--steps'"),
    ("fit-base {shards} new --steps few", "'--steps'"),
    ("fit-base {shards} new --minutes nan", "'--minutes'"),
    ("fit-base {shards} new --latent nonsense", "8x8x16 for 8 x 8 sites"),
    ("fit-base {shards} new --latent 0", "8x8x16 for 8 x 8 sites"),
    ("fit-base {shards} new --latent 999999999", "latent.numbers"),
    ("fit-base {shards} new --device gpu", "one of auto, cpu, cuda"),
    ("fit-base {shards} new --precision bfloat24", "one of auto, float32, tf32"),
    ("fit-base {shards} new --stepz 3", "--steps"),
    ("fit-base {shards} new --tile 4", "'--tile'"),
    ("fit-base {shards} new --crop large", "64x48"),
    ("fit-base {shards} new --set data.tile=4", "data.tile"),
    ("fit-base {shards}", "fit-base --help"),
    ("render {store} new --item", "render --help"),
    ("fitbase {shards} new", "Did you mean 'fit-base'?"),
    ("encode {base} {shards} new --bits 7", "float16, float32"),
    ("encode {base} {shards} new --limit 0", "'--limit'"),
    ("encode {base} {shards} new --tile 4", "'--tile'"),
    ("encode {base} {shards} new --resize large", "64x48"),
    ("encode {base} {shards} new --keep 0", "'--keep'"),
    ("encode {base} {shards} new --keep 9", "1 to 8, the numbers of a site"),
    ("encode {base} {shards} new --min-gain -1", "0 dB or more"),
    ("encode {base} {shards} new --min-gain nan", "0 dB or more"),
    ("encode {base} {shards} new --solver gradient", "learned for the solver 'gauss-newton', not 'gradient'"),
    ("encode {base} {shards},{shards} new", "given more than once"),
    ("encode {base} {shards}", "encode --help"),
    ("render {store} new --size 8x8x8", "--size takes HxW for images"),
    ("render {store} new --size large", "--size 256x256"),
    ("render {store} new --size 99999x99999", "--region"),
    ("render {store} new --scale 0", "--scale"),
    ("render {store} new --scale 2 --size 8x8", "contradict"),
    ("render {store} new --region nonsense", "--region 0.25:0.75,0:1"),
    ("render {store} new --region 1:0,0:1", "--region 0.25:0.75,0:1"),
    ("render {store} new --region 0:1", "--region y0:y1,x0:x1"),
    ("render {store} new --item first", "START:STOP"),
    ("render {store} new --format jpg", "did you mean"),
    ("render {store} new.jpg --item 0", "did you mean"),
    ("render {store} new.png", "40 items"),
    ("report {store} --baseline pcaa", "pca"),
    ("report {store} --baseline pca", "--train"),
    ("pack {images} {images}", "the same folder"),
    ("pack {images} new --crop 3xx", "64x48"),
    ("demo new --minutes -1", "'--minutes'"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_request_that_makes_no_sense(command: str, wrong: Wrong, tmp_path: Path) -> None:
    for line, words in USAGE:
        if line.startswith(command):
            assert words in wrong(line, 2).errors, line
            assert not list(tmp_path.glob("new*")), line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fit-base {shards} new --latent 4x4x4x8", "the latent has 3 site axes, the items have 2"),
        ("fit-base {shards} new --solver newton", "known: gauss-newton, gradient"),
    ],
)
def test_a_recipe_that_does_not_fit_the_items(line: str, words: str, wrong: Wrong) -> None:
    assert words in wrong(line, 2).errors


INPUT = [
    ("fit-base none.tar new", "no such shard"),
    ("fit-base none-*.tar new", "no file matches"),
    ("fit-base {images} new", "functaconv pack"),
    ("fit-base empty new", "no tar shards"),
    ("fit-base zero.tar new", "an empty file"),
    ("fit-base bare.tar new", "no usable item"),
    ("fit-base text.tar new", "png, jpg"),
    ("fit-base random new", "damaged"),
    ("fit-base - new", "write the tar to a file"),
    ("fit-base {shards} new --val none.tar", "no such shard"),
    ("encode none {shards} new", "functaconv fit-base"),
    ("encode {store} {shards} new", "is a directory, not a base"),
    ("encode random {shards} new", "random is not a base"),
    ("encode zero.tar {shards} new", "zero.tar is not a base"),
    ("encode {base} {images} new", "functaconv pack"),
    ("encode {base} none.tar new", "no such shard"),
    ("encode {base} none.tar new --dry-run", "no such shard"),
    ("encode {base} zero.tar new", "an empty file"),
    ("render none new", "functaset"),
    ("render {base} new", "functaset"),
    ("render {store} new --item 40", "0 to 39"),
    ("render {store} new --item -41", "0 to 39"),
    ("render {store} new --item 50:60", "no item to render"),
    ("render {store} new --key cat/00", "near it: cat/0"),
    ("render {store} new --key something-else-entirely", "report --csv"),
    ("report none", "functaset"),
    ("report {base}", "functaset"),
    ("report {store} --against none.tar", "no such shard"),
    ("inspect none", "expected a base, a functaset, or shards"),
    ("pack none new", "no such folder"),
    ("pack random new", "neither a folder"),
    ("pack empty new", "expected tif"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_input_that_is_not_there_or_something_else(command: str, wrong: Wrong) -> None:
    for line, words in INPUT:
        if line.startswith(command):
            assert words in wrong(line, 65).errors, line


@pytest.mark.parametrize("shards", ["bare.tar", "text.tar"])
def test_shards_without_an_item_are_no_input_for_encode(shards: str, wrong: Wrong) -> None:
    wrong(f"encode {{base}} {shards} new", 65)


OUTPUT = [
    "fit-base {shards} foreign",
    "fit-base {shards} random",
    "fit-base {shards} foreign --overwrite",
    "encode {base} {shards} foreign",
    "encode {base} {shards} foreign --overwrite",
    "encode {base} {shards} random",
    "encode {base} {shards} random --overwrite",
    "render {store} foreign",
    "render {store} random --item 0",
    "pack {images} foreign",
    "demo foreign",
    "demo random",
]


def test_an_output_that_is_not_ours_is_never_replaced(wrong: Wrong, tmp_path: Path) -> None:
    before = (tmp_path / "random").read_bytes()
    for line in OUTPUT:
        wrong(line, 73)
        assert (tmp_path / "foreign" / "thesis.txt").read_text() == "years of work", line
        assert (tmp_path / "random").read_bytes() == before, line


@pytest.mark.parametrize("line", ["pack {images} random", "pack {images} random --overwrite"])
def test_pack_replaces_no_file(line: str, place: dict[str, Path], invoke: Invoke, tmp_path: Path) -> None:
    before = (tmp_path / "random").read_bytes()
    ran = invoke(*(part.format(**place) for part in line.split()))
    assert (ran.code, ran.errors) == (73, "error: random is a file, expected a new or empty directory\n")
    assert (tmp_path / "random").read_bytes() == before


@pytest.mark.parametrize("victim", ["random", "bare.tar"])
def test_fit_base_overwrites_no_file_that_is_not_a_base(victim: str, wrong: Wrong, tmp_path: Path) -> None:
    before = (tmp_path / victim).read_bytes()
    wrong(f"fit-base {{shards}} {victim} --overwrite --steps 1 {' '.join(SMALL)}", 73)
    assert (tmp_path / victim).read_bytes() == before


# a file where a folder should be stops root as well
def test_an_output_that_cannot_be_written(wrong: Wrong) -> None:
    for line in [
        f"fit-base {{shards}} random/new --steps 1 {' '.join(SMALL)}",
        "encode {base} {shards} random/new",
        "render {store} random/new",
        "render {store} random/new.png --item 0",
        "render {store} random/new.tar",
        "report {store} --csv random/new.csv",
        "pack {images} random/new",
    ]:
        assert "random" in wrong(line, 73).errors


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("line", ["encode {base} {shards} empty/new", "render {store} empty/new"])
def test_a_directory_that_may_not_be_written_to(line: str, wrong: Wrong, tmp_path: Path) -> None:
    (tmp_path / "empty").chmod(0o500)
    assert "Permission denied" in wrong(line, 73).errors


def test_the_difference_to_a_functaset_of_all_numbers_is_shown(wrong: Wrong) -> None:
    errors = wrong("encode {base} {shards} {store} --keep 4", 73).errors
    assert "layout.latent: found 8, asked for 4" in errors
    assert "settings.keep: found None, asked for 4" in errors


def test_arrays_are_no_input_for_a_base_of_images(world: World, tmp_path: Path, invoke: Invoke) -> None:
    arrays = {f"{n}.npy": npy(np.zeros((16, 16, n), np.float32)) for n in (2, 5)}
    tar(tmp_path / "arrays.tar", arrays)
    ran = invoke("encode", world.base, tmp_path / "arrays.tar", tmp_path / "out.zarr", "--json")
    assert ran.code == 65
    assert "this is an array, the base was made for images" in ran.errors
    assert "hint: " in ran.errors
    assert not (tmp_path / "out.zarr").exists()


def test_a_few_arrays_among_images_are_failed_items(world: World, tmp_path: Path, invoke: Invoke) -> None:
    images = {f"{n}.png": png(n, (16, 16), 3) for n in range(4)}
    mixed = tar(tmp_path / "mixed.tar", {"a.npy": npy(np.zeros((16, 16, 3), np.float32)), **images})
    assert invoke("encode", world.base, mixed, tmp_path / "out.zarr", "--max-error-rate", 1).code == 0
    reasons = [failure.reason for failure in open_functaset(tmp_path / "out.zarr").failures]
    assert reasons == ["this is an array, the base was made for images"]


def test_arrays_with_other_channels_than_the_base_are_refused(tmp_path: Path, invoke: Invoke) -> None:
    def shard(name: str, channels: int) -> Path:
        arrays = {f"{n}.npy": npy(np.random.default_rng(n).random((12, 12, channels))) for n in range(4)}
        return tar(tmp_path / name, arrays)

    two, three, base = shard("two.tar", 2), shard("three.tar", 3), tmp_path / "base.safetensors"
    channels = ("--set", "data.channel_axis=last")
    assert invoke("fit-base", two, base, "--steps", 1, *SMALL, *channels).code == 0
    assert invoke("encode", base, two, tmp_path / "good.zarr").code == 0
    ran = invoke("encode", base, three, tmp_path / "bad.zarr")
    assert ran.code == 65
    assert "2 channels" in ran.errors
    assert "hint: " in ran.errors


def test_colour_is_converted_for_a_gray_base_only_when_asked(world: World, tmp_path: Path, invoke: Invoke) -> None:
    gray = tar(tmp_path / "gray.tar", {f"{n}.png": png(n, (16, 16), 1) for n in range(4)})
    base = tmp_path / "gray.safetensors"
    assert invoke("fit-base", gray, base, "--steps", 1, *SMALL).code == 0
    ran = invoke("encode", base, world.shards, tmp_path / "out.zarr")
    assert ran.code == 65
    assert "colour" in ran.errors
    assert "--channels 1" in ran.errors
    ran = invoke("encode", base, world.shards, tmp_path / "out.zarr", "--channels", 1, "--json")
    assert (ran.code, ran.json["count"], ran.json["failed"]) == (0, 40, 0)
    assert ran.json["bytes"]["raw_per_item"] == 16 * 16
