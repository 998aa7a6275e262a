"""What is not converted is told at the end of a command, in a short table that says what to do."""

from pathlib import Path

from tests.cli.conftest import SIDE, Invoke, World
from tests.conftest import png, tar


def test_encode_tells_it_in_a_short_table(world: World, tmp_path: Path, invoke: Invoke) -> None:
    members: dict[str, bytes] = {"._00.png": b"", "notes.md": b"", "model.pkl": b""}
    for number in range(5):
        members |= {f"{number}.jpg": png(number, (SIDE, SIDE)), f"{number}.png": png(number, (SIDE, SIDE), 1)}
    shard = tar(tmp_path / "a.tar", members)
    ran = invoke("encode", world.base, shard, tmp_path / "out.zarr", "--device", "cpu")
    assert ran.code == 0
    _, _, told = ran.output.partition("\nignored")
    assert [line.strip() for line in told.splitlines()[:5]] == [
        "5 png beside jpg (--field png takes them instead)",
        "5 suffix .jpg for PNG data",
        "1 .md",
        "1 .pkl",
        "1 ._ files of macOS",
    ]
    ran = invoke("encode", world.base, shard, tmp_path / "again.zarr", "--device", "cpu", "--json")
    assert ran.json["ignored"] == {
        "png beside jpg": 5, "suffix .jpg for PNG data": 5, "._ files of macOS": 1, ".md": 1, ".pkl": 1,
    }  # fmt: skip
    assert invoke("report", tmp_path / "again.zarr", "--json").json["ignored"] == ran.json["ignored"]


def test_encode_tells_it_when_nothing_is_left(world: World, tmp_path: Path, invoke: Invoke) -> None:
    shard = tar(tmp_path / "a.tar", {"a.cls": b"1"})
    ran = invoke("encode", world.base, shard, tmp_path / "out.zarr", "--device", "cpu")
    assert ran.code == 65
    assert "1 labels and captions apart from their items (put a record's members side by side" in ran.errors
