"""Learning a base: that it learns, and that nothing stops it from ending where it would have ended."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from functaconv.checkpoint import read_base
from functaconv.conversion import encode
from functaconv.documents import merged
from functaconv.errors import FunctaconvError, InputError, OutputExistsError, StoppedError, UsageError
from functaconv.files import replace_bytes
from functaconv.recipe import TrainingRecipe
from functaconv.training import Progress, Trained, Watcher, fit_base, learner
from functaconv.training.pace import Pace
from functaconv.training.state import TrainingFolder, TrainingState, read_state

from ..conftest import png, tar

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def few(image_shards: Callable[..., Path]) -> Path:
    """20 images of which one is held out: epochs of two whole batches and a short one of 3."""
    return image_shards(20, seed=2)


class Notes(Watcher):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.lines: list[Progress] = []

    def announce(self, message: str) -> None:
        self.messages.append(message)

    def report(self, progress: Progress) -> None:
        self.lines.append(progress)


both_solvers = pytest.mark.parametrize("solver", ["gradient", "gauss-newton"], indirect=True)


@pytest.fixture
def solver(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "gauss-newton"))


@pytest.fixture
def train(tiny: Settings, solver: str) -> Callable[..., Trained]:
    """A short run; keyword arguments that are sections of a recipe are settings."""

    def run(shards: Path, output: Path, **options: Any) -> Trained:
        given = {
            name: options.pop(name) for name in ("network", "latent", "solver", "training", "data") if name in options
        }
        settings = merged(merged(tiny, {"training": {"steps": 9}, "solver": {"kind": solver}}), given)
        return fit_base(str(shards), output, settings=settings, device="cpu", **options)

    return run


def same(first: Path, second: Path) -> bool:
    one, two = load(first.read_bytes()), load(second.read_bytes())
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("solver", "latent"),
    [("gradient", {"numbers": 8}), ("gauss-newton", {"numbers": 4, "sites": [2, 3]})],
    indirect=["solver"],
)
def test_a_short_run_is_better_than_no_run(
    images: Path, tmp_path: Path, train: Callable[..., Trained], latent: Settings, solver: str
) -> None:
    still = {"steps": 1, "rate": 1e-9, "solver_rate": 1e-9, "matrix_rate": 1e-9}
    untrained = train(images, tmp_path / "a", latent=latent, training=still)
    trained = train(images, tmp_path / "b", latent=latent, training={"steps": 40})
    # Gauss-Newton makes much of random features already
    assert trained.psnr > untrained.psnr + (2 if solver == "gradient" else 0.5)
    assert (trained.updates, trained.items, trained.validation_items, trained.unusable) == (40, 68, 2, 0)
    json.dumps(trained.to_json(), allow_nan=False)


VARIANTS = {
    "plain": {},
    "points": {"training": {"inner_points": 40, "outer_points": 60}},
    "cells": {"latent": {"sites": [3, 3], "numbers": 2}, "training": {"inner_points": 50}},
    "learned": {"latent": {"learned_start": True}, "network": {"modulation": "film"}, "training": {"recompute": "yes"}},
    "corrected": {
        "latent": {"sites": [2, 2], "numbers": 3, "interpolation": "window", "map_width": 4},
        "network": {"kind": "fourier"}, "solver": {"chord": True},
    },
}  # fmt: skip


# 3, 6 and 9 are the ends of epochs; 9 is the end of the run
@pytest.mark.parametrize(
    ("solver", "variant", "at"),
    [
        ("gauss-newton", "plain", 3),
        ("gradient", "points", 4),
        ("gauss-newton", "cells", 8),
        ("gradient", "learned", 9),
        ("gauss-newton", "corrected", 4),
    ],
    indirect=["solver"],
)
def test_a_run_that_was_stopped_and_then_broke_ends_as_one_that_was_not(
    few: Path, tmp_path: Path, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch, variant: str, at: int
) -> None:
    def power_cut() -> None:
        raise RuntimeError("power cut")

    options = VARIANTS[variant]
    with monkeypatch.context() as patch:
        stop_at(patch, at, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError, match=f"{at} updates are saved") as caught:
            train(few, tmp_path / "stopped", **options)
    assert caught.value.exit_code == 75
    assert not (tmp_path / "stopped").exists()
    if at < 8:
        with monkeypatch.context() as patch:
            stop_at(patch, at + 2, power_cut)
            with pytest.raises(RuntimeError, match="power cut"):
                train(few, tmp_path / "stopped", **options)
    notes = Notes()
    assert train(few, tmp_path / "stopped", watcher=notes, **options).updates == 9
    assert any(f"going on after {at} updates" in message for message in notes.messages)
    train(few, tmp_path / "whole", **options)
    assert same(tmp_path / "stopped", tmp_path / "whole")
    assert not (tmp_path / "stopped.training").exists()


def test_a_run_that_breaks_at_its_end_ends_as_one_that_does_not(
    few: Path, tmp_path: Path, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training state holds the basis in which the base learns, never the exported one."""

    def power_cut(path: Path, content: bytes) -> None:
        if path == tmp_path / "broken":
            raise RuntimeError("power cut")
        replace_bytes(path, content)

    with monkeypatch.context() as patch:
        stop_at(patch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(few, tmp_path / "broken")
    with monkeypatch.context() as patch:
        patch.setattr("functaconv.training.run.replace_bytes", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(few, tmp_path / "broken")
    train(few, tmp_path / "broken")
    train(few, tmp_path / "whole")
    assert same(tmp_path / "broken", tmp_path / "whole")


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int, how: Callable[[], None]) -> None:
    """Do something in the middle of an update."""
    plain = learner.Learner.update

    def update(learning: Any, *given: Any) -> Any:
        if learning.updates == number - 1:
            how()
        return plain(learning, *given)

    monkeypatch.setattr(learner.Learner, "update", update)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_watcher_may_be_where_the_signal_comes(
    few: Path, tmp_path: Path, train: Callable[..., Trained], number: int, code: int
) -> None:
    class Killer(Watcher):
        def announce(self, message: str) -> None:
            # the last word of it
            if message.startswith("closed form:"):
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError) as caught:
        train(few, tmp_path / "base", watcher=Killer())
    assert caught.value.exit_code == code
    assert "again" in str(caught.value.hint)
    assert signal.getsignal(number) == before
    assert train(few, tmp_path / "base").updates == 9


@pytest.mark.parametrize("changes", [{"updates": None}, {"shapes": 3}, {"position": {}}], ids=str)
def test_a_state_that_was_edited_is_refused(
    few: Path,
    tmp_path: Path,
    train: Callable[..., Trained],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    stop_at(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError):
        train(few, tmp_path / "base")
    state = read_state(tmp_path / "base.training" / "state.safetensors")
    TrainingFolder(tmp_path / "base").write(TrainingState(state.tensors, {**state.values, **changes}))
    with pytest.raises(InputError, match="not one of this training"):
        train(few, tmp_path / "base")


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_with_the_difference(
    few: Path,
    images: Path,
    tmp_path: Path,
    train: Callable[..., Trained],
    monkeypatch: pytest.MonkeyPatch,
    finished: bool,
) -> None:
    output = tmp_path / "base"
    if not finished:
        stop_at(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(few, output)
        monkeypatch.undo()
    else:
        train(few, output)
    with pytest.raises(OutputExistsError, match=r"training\.rate: found 0\.002, asked for 0\.001") as caught:
        train(few, output, training={"rate": 1e-3})
    assert caught.value.exit_code == 73
    with pytest.raises(OutputExistsError, match="data"):
        train(images, output)
    assert train(few, output, training={"rate": 1e-3}, overwrite=True).updates == 9


@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_of_two_runs_on_one_output_the_second_is_told_who_has_it(
    few: Path, tmp_path: Path, train: Callable[..., Trained], options: dict[str, bool]
) -> None:
    refused: list[BaseException] = []

    class Second(Watcher):
        def report(self, _: Progress) -> None:
            if not refused:
                with pytest.raises(OutputExistsError, match=f"base is being written .*pid {os.getpid()} on") as caught:
                    train(few, tmp_path / "base", **options)
                refused.append(caught.value)

    assert train(few, tmp_path / "base", watcher=Second()).updates == 9
    assert len(refused) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["base"]


def test_a_run_that_torchrun_starts_again_overwrites_once(
    few: Path, tmp_path: Path, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what it has learned so far nor its base is taken for that of an earlier run."""
    world = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "job"}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    train(few, tmp_path / "base", training={"seed": 9})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    with monkeypatch.context() as patch:
        stop_at(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(few, tmp_path / "base", overwrite=True)
    notes = Notes()
    assert train(few, tmp_path / "base", overwrite=True, watcher=notes).updates == 9
    assert any(message.startswith("going on after 4 updates") for message in notes.messages)
    assert train(few, tmp_path / "base", overwrite=True).was_finished
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a third")
    assert not train(few, tmp_path / "base", overwrite=True).was_finished
    folder = tmp_path / "base.training"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"no state")
    assert train(few, tmp_path / "base", overwrite=True).updates == 9
    assert not folder.exists()


def test_what_is_not_a_base_is_not_overwritten(few: Path, tmp_path: Path, train: Callable[..., Trained]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not a base"):
        train(few, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "base.training").mkdir()
    (tmp_path / "base.training" / "thesis.txt").write_text("mine")
    train(few, tmp_path / "base")
    assert (tmp_path / "base.training" / "thesis.txt").read_text() == "mine"


def spoil(monkeypatch: pytest.MonkeyPatch, calls: Callable[[int], bool]) -> None:
    """Gradients that are not finite in some updates, by number."""
    plain, made = torch.nn.utils.clip_grad_norm_, 0

    def norm(parameters: list[torch.Tensor], *rest: Any, **options: Any) -> torch.Tensor:
        nonlocal made
        made += 1
        if calls(made):
            parameters[0].grad.fill_(math.nan)
        return plain(parameters, *rest, **options)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", norm)


@both_solvers
def test_an_update_that_is_not_finite_is_left_out(
    few: Path, tmp_path: Path, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda call: call in (1, 4, 5))
    train(few, tmp_path / "base")
    stored = read_base(tmp_path / "base")
    assert stored.description.training["skipped"] == 3
    assert math.isfinite(stored.description.training["psnr"])


def test_several_in_a_row_take_the_run_back_to_its_last_good_state(
    few: Path, tmp_path: Path, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five without a finite gradient, before the first good state is renewed, nothing is learned."""
    spoil(monkeypatch, lambda call: 4 <= call <= 8)
    notes = Notes()
    train(few, tmp_path / "base", watcher=notes, training={"steps": 8, "ema": 0.0})
    assert any("back to the last good state at half the rate" in message for message in notes.messages)
    monkeypatch.undo()
    settings = {"steps": 1, "rate": 1e-12, "solver_rate": 1e-12, "matrix_rate": 1e-12}
    train(few, tmp_path / "still", training=settings)
    one, two = (load((tmp_path / name).read_bytes()) for name in ("base", "still"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


def test_a_run_that_cannot_be_saved_says_that_it_diverged(
    few: Path, tmp_path: Path, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda _: True)
    with pytest.raises(FunctaconvError, match="diverged") as caught:
        train(few, tmp_path / "base", training={"steps": 100})
    assert "rate" in str(caught.value.hint)
    assert not (tmp_path / "base").exists()


@both_solvers
def test_images_of_mixed_sizes_train(
    image_shards: Callable[..., Path], tmp_path: Path, train: Callable[..., Trained]
) -> None:
    train(image_shards(14, shapes=[(12, 12), (7, 10), (16, 5)]), tmp_path / "base")
    assert read_base(tmp_path / "base").description.training["shapes"] == [[7, 10], [12, 12], [16, 5]]


def test_many_sizes_are_said_and_learned_from_in_groups(
    image_shards: Callable[..., Path], tmp_path: Path, train: Callable[..., Trained]
) -> None:
    many = [(5 + number % 9, 5 + number // 9) for number in range(70)]
    notes = Notes()
    trained = train(image_shards(70, shapes=many), tmp_path / "many", watcher=notes)
    said = [message for message in notes.messages if " sizes among 64 items: few can be learned" in message]
    assert len(said) == 1
    assert "--resize, --crop or --tile" in said[0]
    assert trained.updates == 9
    train(image_shards(70, shapes=many[:2]), tmp_path / "two", watcher=(notes := Notes()))
    assert not any(" sizes among " in message for message in notes.messages)


def test_threads_change_nothing(few: Path, tmp_path: Path, train: Callable[..., Trained]) -> None:
    for workers in (0, 4):
        train(few, tmp_path / str(workers), workers=workers)
    assert same(tmp_path / "0", tmp_path / "4")


@pytest.mark.parametrize("shape", [(60,), (9, 10), (5, 6, 7)], ids=str)
def test_arrays_train_in_units_of_their_range(
    array_shards: Callable[..., Path], tmp_path: Path, train: Callable[..., Trained], shape: tuple[int, ...]
) -> None:
    trained = train(array_shards(12, shape), tmp_path / "base")
    base = read_base(tmp_path / "base").base
    assert base.axes.dims == len(shape)
    assert base.normalizer.offset[0] >= -20
    assert 5 < base.normalizer.scale[0] < 50
    assert trained.psnr > 5


@pytest.mark.parametrize("count", [1, 2])
def test_a_handful_of_items_is_enough(
    image_shards: Callable[..., Path], tmp_path: Path, train: Callable[..., Trained], count: int
) -> None:
    trained = train(image_shards(count), tmp_path / "base")
    assert (trained.updates, trained.items, trained.validation_items) == (9, max(1, count - 1), 1)


def test_items_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path, train: Callable[..., Trained]) -> None:
    members = {f"{n}.png": b"no image" if n % 4 == 1 else png(n, (8, 8)) for n in range(12)}
    shard, notes = tar(tmp_path / "a.tar", members), Notes()
    trained = train(shard, tmp_path / "base", validation=str(tar(tmp_path / "b.tar", {"v.png": png(99, (8, 8))})),
                    watcher=notes)  # fmt: skip
    assert (trained.items, trained.unusable, trained.validation_items) == (9, 3, 1)
    assert sum("left out" in message for message in notes.messages) == 3


def test_few_items_that_are_left_out_are_told_one_by_one(tmp_path: Path, train: Callable[..., Trained]) -> None:
    members = {f"{n:03d}.png": b"no image" if n % 2 else png(n, (8, 8)) for n in range(60)}
    notes = Notes()
    trained = train(tar(tmp_path / "a.tar", members), tmp_path / "base", watcher=notes)
    told = [message for message in notes.messages if "left out" in message]
    assert len(told) == 10
    assert told[-1].endswith("what else is left out is only counted")
    assert trained.unusable + trained.items + trained.validation_items >= 50


def test_what_of_the_first_records_is_not_used_is_said(tmp_path: Path, train: Callable[..., Trained]) -> None:
    members: dict[str, bytes] = {}
    for number in range(20):
        members |= {f"{number}.jpg": png(number, (8, 8)), f"{number}.png": png(number, (8, 8), 1), f"{number}.md": b""}
    notes = Notes()
    shard = tar(tmp_path / "a.tar", members)
    train(shard, tmp_path / "base", watcher=notes)
    (told,) = [message for message in notes.messages if message.startswith("not used of the first 20 records")]
    assert "20 png beside jpg (--field png takes them instead); " in told
    assert "20 .md" in told
    assert read_base(tmp_path / "base").base.axes.channels == 3
    train(shard, tmp_path / "masks", data={"field": "png"})
    assert read_base(tmp_path / "masks").base.axes.channels == 1
    nothing = tar(tmp_path / "b.tar", {"README": b"1", "a.cls": b"1", "._b.png": b""})
    with pytest.raises(InputError, match=r"no usable item .*not read: 1 labels and captions apart.*1 \(no suffix\)"):
        train(nothing, tmp_path / "none")


def test_a_run_without_a_usable_validation_item_still_has_a_report(
    few: Path, tmp_path: Path, train: Callable[..., Trained]
) -> None:
    bad = tar(tmp_path / "bad.tar", {"v.png": b"no image"})
    for _ in ("made", "finished"):
        trained = train(few, tmp_path / "base", validation=str(bad))
        assert trained.validation_items == 0
        assert json.loads(json.dumps(trained.to_json(), allow_nan=False))["validation_psnr"] is None


def test_minutes_end_a_run(few: Path, tmp_path: Path, tiny: Settings) -> None:
    training = {**tiny["training"], "minutes": 0.01}
    del training["steps"]
    trained = fit_base(str(few), tmp_path / "base", settings={**tiny, "training": training}, device="cpu")
    assert trained.updates > 1
    # one update and the last validation may come on top
    # so much of it as was set aside for the last validation may be left
    assert 0.3 <= trained.seconds < 5


def test_the_log_has_a_line_per_report(few: Path, tmp_path: Path, train: Callable[..., Trained]) -> None:
    notes = Notes()
    train(few, tmp_path / "base", log=tmp_path / "log.jsonl", watcher=notes)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == len(notes.lines) >= 1
    assert lines[-1]["update"] == 9
    assert lines[-1]["validation_psnr"] == notes.lines[-1].validation_psnr


def test_the_best_of_all_validations_is_written(few: Path, tmp_path: Path, train: Callable[..., Trained]) -> None:
    training = {
        "steps": 150,
        "minutes": 1.0,
        "rate": 0.03,
        "matrix_rate": 0.03,
        "schedule": "constant",
        "ema": 0.0,
        "clip": 0.0,
    }
    trained = train(few, tmp_path / "base", log=tmp_path / "log.jsonl", training=training)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [line["validation_psnr"] for line in lines if line["validation_psnr"] is not None]
    assert len(found) > 2
    assert max(found) > found[-1]
    assert trained.learned == pytest.approx(max(found), abs=1e-6)


def test_the_old_base_stays_until_the_new_one_takes_its_place(
    few: Path, tmp_path: Path, train: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, other = tmp_path / "base", {"training": {"steps": 7}}
    train(few, base)
    before = base.read_bytes()
    with monkeypatch.context() as patch:
        stop_at(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError):
            train(few, base, overwrite=True, **other)
    assert base.read_bytes() == before
    notes = Notes()
    train(few, base, watcher=notes, **other)
    assert any("going on after 3 updates" in message for message in notes.messages)
    train(few, tmp_path / "undisturbed", **other)
    assert same(base, tmp_path / "undisturbed")
    assert train(few, base, **other).was_finished


def test_images_are_read_as_encode_reads_them(
    image_shards: Callable[..., Path], tmp_path: Path, train: Callable[..., Trained]
) -> None:
    mixed, data = image_shards(12, shapes=[(30, 40), (36, 48)]), {"resize": 24, "crop": [24, 28], "tile": 12}
    trained = train(mixed, tmp_path / "base", data=data, validation=str(mixed))
    stored = read_base(trained.path)
    assert (trained.items, trained.validation_items) == (12, 12)
    # 24 x 28 is cut into 2 x 3 tiles
    assert {tuple(shape) for shape in stored.description.training["shapes"]} == {(12, 9), (12, 10)}
    assert (stored.recipe.data.resize, stored.recipe.data.crop, stored.recipe.data.tile) == (24, (24, 28), 12)
    encoded = encode(trained.path, str(mixed), tmp_path / "out", resize=stored.recipe.data.resize,
                     crop=stored.recipe.data.crop, tile=12,
                     bits="float32", device="cpu")  # fmt: skip
    # of whole images; where tiles overlap they are blended, which takes away some of their errors
    assert trained.psnr - 0.01 < encoded.report["psnr"]["mean"] < trained.psnr + 1
    assert encoded.report["count"] == 12


def test_only_images_are_cut(array_shards: Callable[..., Path], tmp_path: Path, train: Callable[..., Trained]) -> None:
    with pytest.raises(UsageError, match="for images, not for arrays"):
        train(array_shards(3, (8, 9)), tmp_path / "base", data={"tile": 8})


def test_a_budget_for_few_updates_is_said_once() -> None:
    for minutes, each, steps, said in [
        (1, 0.5, None, ["2 updates/s", "about 116 ", "--minutes 5"]),
        (100, 60, None, ["0.017 updates/s", "about 96 ", "--minutes 504"]),
        (1, 0.1, None, []),
        (1, 0.5, 100, []),
        (None, 0.5, 100, []),
    ]:
        notes = Notes()
        pace = Pace(TrainingRecipe(minutes=minutes, steps=steps), notes.announce)
        # the first update compiles, allocates, reads
        seconds = 5 * each
        for update in range(1, 60):
            pace.note(5 * each if update == 1 else each, updates=update, left=60 * (minutes or 0) - seconds)
            seconds += each
        assert len(notes.messages) == bool(said)
        assert all(part in notes.messages[0] for part in said)
