"""How an encoding goes through its input: when shards are opened, how they are cut, what is made again."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functaconv.conversion import EncodeOptions, Watcher
from functaconv.conversion.work import Work
from functaconv.errors import ChangedInputError, StoppedError, UsageError
from functaconv.functaset.attributes import Budgets
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.unfinished import existing_at
from functaconv.modalities.reading import Reading
from tests.conftest import png, tar
from tests.conversion.test_encode import Killer, run, shards, stored_tree
from tests.conversion.test_many_processes import Listening, rank
from tests.data.servers import Answer, Script, serving

__all__ = ["shards"]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the records that are decoded, as they come."""
    found: list[str] = []
    plain = Reading.tiles

    def noting(self: Reading, record: Any, ignored: Any) -> Any:
        found.append(record.key)
        return plain(self, record, ignored)

    monkeypatch.setattr(Reading, "tiles", noting)
    return found


def images(path: Path, count: int, first: int = 0, bad: tuple[int, ...] = ()) -> Path:
    members = {f"{n:02d}.png": b"no image" if n in bad else png(n, (8, 8)) for n in range(first, first + count)}
    return tar(path, members)


def test_shards_afar_are_opened_when_their_turn_comes(base_file: Path, tmp_path: Path) -> None:
    """Two requests before the first item: one to see whether the base is for such items, one for the items."""
    content, asked = images(tmp_path / "a.tar", 3).read_bytes(), list[int]()
    with serving(Script(content)) as script:

        class First(Watcher):
            def report(self, *_: Any) -> None:
                asked.append(len(script.asked))

        names = [f"{script.url}/{number}.tar" for number in range(12)]
        run(base_file, ",".join(names), tmp_path / "out", watcher=First())
        # the next shard is opened while one is fitted
        assert asked[0] <= 3
        assert len(script.asked) == 13
        # what is finished is not asked for again
        assert run(base_file, ",".join(names), tmp_path / "out").was_finished
        assert len(script.asked) == 13
    functaset = open_functaset(tmp_path / "out")
    assert len(functaset) == 36
    assert [source["etag"] for source in functaset.attributes.input] == ['"a"'] * 12


def test_a_shard_afar_that_became_another_is_not_gone_on_with(base_file: Path, tmp_path: Path) -> None:
    content = images(tmp_path / "a.tar", 25).read_bytes()
    with serving(Script(content)) as script:
        with pytest.raises(StoppedError):
            run(base_file, f"{script.url}/a.tar", tmp_path / "out", watcher=Killer(1))
        script.answers[:] = [Answer(etag='"b"')]
        with pytest.raises(ChangedInputError, match="changed input"):
            run(base_file, f"{script.url}/a.tar", tmp_path / "out")
        script.answers[:] = [Answer()]
        assert run(base_file, f"{script.url}/a.tar", tmp_path / "out").report["count"] == 25


@pytest.mark.parametrize("batches", [1, 2])
def test_a_compressed_shard_is_gone_on_with_behind_its_last_block(
    base_file: Path, shards: Path, tmp_path: Path, decoded: list[str], batches: int
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for shard in shards.glob("*.tar"):
        (packed / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes()))
    run(base_file, shards, tmp_path / "plain")
    names = str(packed / "*.tar.gz")
    with pytest.raises(StoppedError):
        run(base_file, names, tmp_path / "out", watcher=Killer(batches))
    decoded.clear()
    run(base_file, names, tmp_path / "out")
    assert sorted(decoded) == [f"image{n:04d}" for n in range((16, 20)[batches - 1], 38)]
    assert stored_tree(tmp_path / "out") == stored_tree(tmp_path / "plain")


def test_a_block_of_a_compressed_shard_is_made_alone(base_file: Path, tmp_path: Path, decoded: list[str]) -> None:
    content = images(tmp_path / "a.tar", 35, bad=(14,)).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content))
    output = tmp_path / "out"
    run(base_file, tmp_path / "a.tar.gz", output, max_error_rate=1)
    before = stored_tree(output)
    decoded.clear()
    run(base_file, tmp_path / "a.tar.gz", output, max_error_rate=1, retry_failed=True)
    assert sorted(decoded) == [f"{n:02d}" for n in range(16)]
    assert stored_tree(output) == before


def test_ranks_share_shards_that_are_read_through(base_file: Path, tmp_path: Path) -> None:
    for number in range(3):
        content = images(tmp_path / "a.tar", 12, 12 * number).read_bytes()
        (tmp_path / f"{number}.tar.gz").write_bytes(gzip.compress(content))
    names = str(tmp_path / "*.tar.gz")
    run(base_file, names, tmp_path / "alone")
    with pytest.raises(StoppedError):
        run(base_file, names, tmp_path / "out", ranks=rank(1), watcher=Killer(1))
    # its own is the second one
    assert [path.name for path in (tmp_path / "out/_parts").glob("*.npz")] == ["000001-000000.last.npz"]
    run(base_file, names, tmp_path / "out", ranks=rank(0))
    assert stored_tree(tmp_path / "out") == stored_tree(tmp_path / "alone")
    with pytest.raises(UsageError, match="--limit with several processes"):
        run(base_file, names, tmp_path / "limited", ranks=rank(0), limit=20)
    run(base_file, names, tmp_path / "limited", limit=20, overwrite=True)
    assert open_functaset(tmp_path / "limited").keys.tolist() == [f"{n:02d}" for n in range(20)]


def test_shards_of_one_name_in_two_folders_are_not_mixed_up(
    base_file: Path, tmp_path: Path, decoded: list[str]
) -> None:
    """As `pack` calls them; what failed in one is not made again in the other, nor is that one's damage the other's."""
    train, val = images(tmp_path / "train/s.tar", 12), images(tmp_path / "val/s.tar", 20, 12, bad=(15,))
    content = train.read_bytes()
    train.write_bytes(content[: len(content) // 2])
    names, output = f"{train.parent},{val.parent}", tmp_path / "out"
    assert "damaged" in str(run(base_file, names, output, max_error_rate=1).complaint)
    train.write_bytes(content)
    decoded.clear()
    assert run(base_file, names, output, max_error_rate=1, retry_failed=True).report["failed"] == 1
    # all of the mended shard, and of the other one only the block with the failure
    assert sorted(decoded) == [f"{n:02d}" for n in range(28)]
    failures = open_functaset(output).failures
    assert [(failure.input, failure.shard, failure.record) for failure in failures] == [(1, str(val), 3)]
    # the one that was not damaged must be what it was
    val.write_bytes(images(tmp_path / "other.tar", 12, 30).read_bytes())
    with pytest.raises(ChangedInputError):
        run(base_file, names, output, max_error_rate=1, retry_failed=True)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ([(8 + n % 10, 8 + n // 10) for n in range(40)], ["16 sizes among 16 items"]),
        ([(12, 12), (9, 14), (14, 9)], []),
    ],
    ids=["many", "few"],
)
def test_many_sizes_are_told_once(
    base_file: Path,
    image_shards: Callable[..., Path],
    tmp_path: Path,
    shapes: list[tuple[int, int]],
    told: list[str],
) -> None:
    listening = Listening()
    mixed = image_shards(40, shapes=shapes, items_per_shard=20)
    assert run(base_file, mixed, tmp_path / "out", watcher=listening).report["count"] == 40
    found = [message for message in listening.heard if "sizes among" in message]
    assert [message.removeprefix("warning: ").partition(":")[0] for message in found] == told
    assert all("--resize, --crop or --tile makes them alike" in message for message in found)


def test_budgets_come_from_recipe_and_kind_of_device_alone(
    base_file: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(*_: Any) -> Any:
        raise AssertionError("whatever is free at the moment")

    monkeypatch.setattr("torch.cuda.mem_get_info", free)
    budgets = [
        Work.of(base_file, str(shards), EncodeOptions(device="cpu", batch_size=size)).budgets for size in (None, 3)
    ]
    assert budgets[0].batch_size == 1
    assert budgets[1] == Budgets(batch_size=3, chunk=budgets[0].chunk)
    gpu = Work.of(base_file, str(shards), EncodeOptions(engine="ray", gpus_per_task=0.5))
    assert gpu.budgets.batch_size == 16


def test_tasks_of_ray_run_where_the_options_say_not_where_this_process_would(
    base_file: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    work = Work.of(base_file, str(shards), EncodeOptions(engine="ray"))
    assert work.options.device == work.stored.base.device.type == "cpu"
    assert work.budgets == Work.of(base_file, str(shards), EncodeOptions(device="cpu")).budgets
    # the driver has no GPU to hold
    work = Work.of(base_file, str(shards), EncodeOptions(engine="ray", gpus_per_task=1))
    assert (work.options.device, work.stored.base.device.type) == ("cuda", "cpu")
    for options in (
        EncodeOptions(device="cpu", engine="ray", gpus_per_task=1),
        EncodeOptions(device="cuda", engine="ray"),
    ):
        with pytest.raises(UsageError, match="tasks of Ray"):
            Work.of(base_file, str(shards), options)


def test_who_joins_a_run_computes_as_it_began(base_file: Path, shards: Path, tmp_path: Path) -> None:
    """On another kind of device the usual budgets are others."""
    output = tmp_path / "out"
    with pytest.raises(StoppedError):
        run(base_file, shards, output, batch_size=3, watcher=Killer(3))
    settings = json.loads((output / "_parts/settings.json").read_bytes())
    assert settings["budgets"] == existing_at(output).budgets.model_dump()  # type: ignore[union-attr]
    assert settings["budgets"]["batch_size"] == 3
    run(base_file, shards, output, batch_size=None)
    run(base_file, shards, tmp_path / "whole", batch_size=3)
    assert stored_tree(output) == stored_tree(tmp_path / "whole")
    assert open_functaset(output).attributes.budgets == existing_at(output).budgets
