"""What scripts rely on: the names of commands and options, the streams, the environment, the exit codes."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from functaconv.checkpoint import read_base
from functaconv.cli.app import app
from tests.cli.conftest import SMALL, Invoke, World
from tests.conftest import png, tar

OPTIONS = {
    "pack": "resize crop field resolution variable start stop stride level items-per-shard seed dry-run overwrite",
    "fit-base": "preset recipe set latent solver steps minutes batch-size seed device precision val field channels "
    "resize crop tile log workers allow-pipe overwrite",
    "encode": "steps solver batch-size bits device precision field resize crop tile keep min-gain max-error-rate "
    "min-psnr limit workers allow-pipe retry-failed engine gpus-per-task dry-run overwrite",
    "render": "item key size scale region like mask no-mask format",
    "report": "against html csv baseline train min-psnr allow-pipe",
    "inspect": "verify allow-pipe",
    "recipes": "toml settings",
    "demo": "minutes",
}
SHARED = ["--json", "-q", "--quiet", "-v", "--verbose"]


def options_of(command: str) -> set[str]:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}


def test_the_commands_are_those_of_the_contract_in_the_order_of_the_work(invoke: Invoke) -> None:
    listed = re.findall(r"^  ([a-z][a-z-]+) ", invoke("--help").output.split("Commands:")[1], re.MULTILINE)
    assert listed == list(OPTIONS)


def test_a_command_has_the_options_of_the_contract() -> None:
    for command in OPTIONS:
        assert {f"--{name}" for name in OPTIONS[command].split()} | set(SHARED) <= options_of(command)


def test_help_goes_to_stdout(invoke: Invoke) -> None:
    for command in OPTIONS:
        for flag in ("--help", "-h"):
            ran = invoke(command, flag)
            assert (ran.code, ran.errors) == (0, "")
            assert ran.output.startswith(f"Usage: functaconv {command} ")
            assert all(f"--{name}" in ran.output for name in OPTIONS[command].split())


def test_without_a_command_the_help_is_shown_and_the_code_is_that_of_usage(invoke: Invoke) -> None:
    ran = invoke()
    assert (ran.code, ran.output) == (2, "")
    assert ran.errors.startswith("Usage: functaconv ")
    assert "hint:" not in ran.errors


def test_no_help_imports_torch() -> None:
    code = (
        "import sys; from functaconv.cli.app import run; "
        f"codes = [run([name, '--help']) for name in {list(OPTIONS)}]; "
        "sys.exit(any(codes) or bool({'torch', 'numpy', 'zarr', 'PIL', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_version_is_told(invoke: Invoke) -> None:
    assert re.fullmatch(r"functaconv \d+\.\d+\.\d+\S*\n", invoke("--version").output)


def commands(world: World, folder: Path) -> dict[str, list[object]]:
    """Each command once, doing something quick."""
    return {
        "pack": ["pack", world.images, folder / "shards"],
        "fit-base": ["fit-base", world.shards, folder / "base.safetensors", "--steps", 1, *SMALL],
        "encode": ["encode", world.base, world.shards, folder / "out.zarr"],
        "encode --dry-run": ["encode", world.base, world.shards, folder / "out.zarr", "--dry-run"],
        "render": ["render", world.store, folder / "pictures", "--item", "0:2"],
        "report": ["report", world.store],
        "report --against": ["report", world.store, "--against", world.shards],
        "inspect": ["inspect", world.store, "--verify"],
        "inspect base": ["inspect", world.base],
        "inspect shards": ["inspect", world.shards],
    }


NAMES = list(commands(World(*[Path()] * 4), Path()))


@pytest.mark.parametrize("name", NAMES)
def test_json_is_one_object_and_all_there_is_on_stdout(
    name: str, world: World, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    ran = invoke(*commands(world, tmp_path)[name], "--json")
    assert ran.code == 0
    assert ran.json
    assert "{" not in ran.errors


def test_quiet_says_nothing_on_stderr(world: World, tmp_path: Path, invoke: Invoke) -> None:
    for name in ("pack", "fit-base", "encode", "render", "report", "inspect"):
        ran = invoke(*commands(world, tmp_path)[name], "-q")
        assert (ran.code, ran.errors) == (0, ""), name


def test_results_for_people_go_to_stdout_and_remarks_to_stderr(world: World, tmp_path: Path, invoke: Invoke) -> None:
    ran = invoke(*commands(world, tmp_path)["fit-base"])
    assert "validation" in ran.output
    assert "recipe 'images'" in ran.errors
    assert "recipe 'images'" not in ran.output


def test_long_lines_are_never_wrapped(
    tmp_path: Path, world: World, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    key = "a-name-much-longer-than-a-terminal-is-wide" * 2
    tar(tmp_path / "long.tar", {f"{key}.png": png(1, (16, 16))})
    assert invoke("encode", world.base, tmp_path / "long.tar", tmp_path / "long.zarr", "--json").json["count"] == 1
    assert any(line.endswith(key) for line in invoke("report", tmp_path / "long.zarr").output.splitlines())
    assert f"error: {tmp_path / key}: " in invoke("report", tmp_path / key).errors


def test_a_terminal_gets_a_bar_in_colours_unless_it_wants_none(
    world: World, tmp_path: Path, environment: Mapping[str, str]
) -> None:
    program = """
import os, sys
from functaconv.cli.app import run
for name in ("coloured", "plain"):
    if run(["encode", sys.argv[1], sys.argv[2], f"{sys.argv[3]}/{name}.zarr", "--json", "--batch-size", "8"]):
        sys.exit(name)
    sys.stderr.write("NEXT")
    os.environ["NO_COLOR"] = "1"
"""
    terminal, stderr = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", program, world.base, world.shards, tmp_path],
        env={**environment, "TERM": "xterm-256color"}, stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip
    os.close(stderr)
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            # Linux answers so when the other end is closed
            piece = b""
        if not piece:
            break
        seen += piece
    os.close(terminal)
    output = done.communicate(timeout=60)[0]
    assert done.returncode == 0
    assert [json.loads(line)["count"] for line in output.splitlines()] == [40, 40]
    in_colours, plain, _ = seen.split(b"NEXT")
    assert b"items" in in_colours
    assert b"items" in plain
    # set foreground or background
    colours = re.compile(rb"\x1b\[[\d;]*[34]\d[;m]")
    assert (bool(colours.search(in_colours)), bool(colours.search(plain))) == (True, False)


def test_the_environment_sets_options_and_flags_win(
    world: World, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = ["encode", world.base, world.shards, tmp_path / "out.zarr", "--dry-run", "--json"]
    assert invoke(*planned).json["bytes_per_item"] == 16
    monkeypatch.setenv("FUNCTACONV_ENCODE_BITS", "8")
    assert invoke(*planned).json["bytes_per_item"] == 8
    assert invoke(*planned, "--bits", "float32").json["bytes_per_item"] == 32
    monkeypatch.setenv("FUNCTACONV_INSPECT_JSON", "1")
    assert invoke("inspect", world.store).json["kind"] == "functaset"
    monkeypatch.setenv("FUNCTACONV_RENDER_FORMAT", "npz")
    monkeypatch.setenv("FUNCTACONV_RENDER_ITEM", "0:2")
    assert invoke("render", world.store, tmp_path / "arrays").code == 0
    assert [path.suffix for path in (tmp_path / "arrays").iterdir()] == [".npz"] * 2


def test_flags_win_over_the_environment_over_the_recipe_over_the_preset(
    world: World, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[training]\nsteps = 2\n[network]\nwidth = 16\ndepth = 3\n[latent]\nnumbers = 4\n")
    monkeypatch.setenv("FUNCTACONV_FIT_BASE_STEPS", "1")
    told = invoke("fit-base", world.shards, tmp_path / "one", "--recipe", recipe, "--json").json
    assert (told["updates"], told["latent"]["numbers"]) == (1, 4)
    told = invoke("fit-base", world.shards, tmp_path / "two", "--recipe", recipe, "--json", "--steps", 3).json
    assert told["updates"] == 3


def test_a_preset_and_a_budget_on_the_command_line_win_over_those_of_the_recipe(
    world: World, tmp_path: Path, invoke: Invoke
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('preset = "functa-cifar10"\n[training]\nminutes = 60\n[latent]\nnumbers = 4\n')
    given = ("--recipe", recipe, "--json", "--preset", "images", "--steps", 2, *SMALL[:4])
    told = invoke("fit-base", world.shards, tmp_path / "base", *given).json
    assert (told["recipe"], told["updates"], told["latent"]["numbers"]) == ("images", 2, 4)
    assert "minutes" not in read_base(tmp_path / "base").recipe.settings()["training"]


def test_1_an_internal_error_is_told_without_a_traceback_unless_verbose(
    world: World, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("functaconv.inspection.inspect", broken)
    ran = invoke("inspect", world.store)
    assert ran.code == 1
    assert ran.errors.splitlines()[0] == "error: internal error: ZeroDivisionError: division by zero"
    assert "Traceback" not in ran.errors
    assert "Traceback" in invoke("inspect", world.store, "-v").errors


def test_2_usage(world: World, tmp_path: Path, invoke: Invoke) -> None:
    assert invoke("encode", world.base, world.shards, tmp_path / "out.zarr", "--bits", "7").code == 2


def test_3_too_many_failed_and_the_rest_is_there(world: World, tmp_path: Path, invoke: Invoke) -> None:
    images = {f"{n}.png": png(n, (16, 16)) for n in range(3)}
    tar(tmp_path / "mixed.tar", {**images, "3.png": b"no image"})
    command = ["encode", world.base, tmp_path / "mixed.tar", tmp_path / "out.zarr", "--json"]
    for _ in ("converted", "found finished"):
        ran = invoke(*command)
        assert ran.code == 3
        assert (ran.json["count"], ran.json["failed"]) == (3, 1)
        assert "1 of 4 items failed" in ran.errors
    assert invoke(*command, "--max-error-rate", "0.25").code == 0


def test_4_worse_than_asked_for_or_damaged(world: World, tmp_path: Path, invoke: Invoke) -> None:
    assert invoke("report", world.store, "--min-psnr", 99).code == 4
    assert invoke("encode", world.base, world.shards, tmp_path / "out.zarr", "--min-psnr", 99, "--json").json["count"]
    rows = max((tmp_path / "out.zarr" / "latent" / "c").rglob("*"), key=lambda path: path.is_file())
    content = bytearray(rows.read_bytes())
    content[len(content) // 3] ^= 1
    rows.write_bytes(content)
    ran = invoke("inspect", tmp_path / "out.zarr", "--verify", "--json")
    assert ran.code == 4
    assert ran.json["problems"]


def test_65_a_damaged_shard_whatever_the_error_rate_and_its_good_items_are_kept(
    world: World, tmp_path: Path, invoke: Invoke
) -> None:
    whole = (world.shards / "shard-000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    command = ["encode", world.base, tmp_path / "cut.tar", tmp_path / "out.zarr", "--max-error-rate", 1, "--json"]
    ran = invoke(*command)
    assert ran.code == 65
    assert 0 < ran.json["count"] < 8
    assert "cut.tar: cut short" in ran.errors


def test_69_a_device_that_is_not_there(world: World, tmp_path: Path, invoke: Invoke) -> None:
    ran = invoke("encode", world.base, world.shards, tmp_path / "out.zarr", "--device", "cuda:99")
    assert ran.code == 69
    assert "--device cpu" in ran.errors


@pytest.mark.parametrize(
    ("module", "extra", "command"),
    [("sklearn.datasets", "demo", ["demo", "new"]), ("jinja2", "report", ["report", "{store}", "--html", "page.html"])],
)
def test_69_a_missing_extra_is_named(
    module: str,
    extra: str,
    command: list[str],
    world: World,
    tmp_path: Path,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    ran = invoke(*(argument.format(store=world.store) for argument in command))
    assert ran.code == 69
    assert f"functaconv[{extra}]" in ran.errors
    assert not list(tmp_path.iterdir())


def test_73_an_output_with_other_settings_is_left_alone_and_the_difference_told(
    world: World, tmp_path: Path, invoke: Invoke
) -> None:
    before = (world.store / "zarr.json").read_bytes(), world.base.read_bytes()
    ran = invoke("encode", world.base, world.shards, world.store, "--bits", 8)
    assert ran.code == 73
    assert "bits: found 'float16', asked for '8'" in ran.errors
    ran = invoke("fit-base", world.shards, world.base, "--steps", 4, *SMALL)
    assert ran.code == 73
    assert "training.steps: found 3, asked for 4" in ran.errors
    assert before == ((world.store / "zarr.json").read_bytes(), world.base.read_bytes())


def test_a_finished_output_with_the_same_settings_is_nothing_to_do(world: World, invoke: Invoke) -> None:
    before = (world.store / "zarr.json").stat().st_mtime_ns, world.base.stat().st_mtime_ns
    for command in (
        ["encode", world.base, world.shards, world.store],
        ["fit-base", world.shards, world.base, "--steps", 3, *SMALL],
    ):
        ran = invoke(*command)
        assert ran.code == 0
        assert "nothing to do" in ran.errors
    assert before == ((world.store / "zarr.json").stat().st_mtime_ns, world.base.stat().st_mtime_ns)
