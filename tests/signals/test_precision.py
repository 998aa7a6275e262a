"""On which device, and in which type Jacobians are computed."""

from pathlib import Path

import pytest
import torch

from functaconv.checkpoint import read_base
from functaconv.conversion import encode
from functaconv.errors import UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.signals import device as devices
from functaconv.training import Watcher, fit_base
from functaconv.training import choice as learning

CPU = torch.device("cpu")


class Heard(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def announce(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without units for half precision."""
    for module in (devices, learning):
        monkeypatch.setattr(module, "half_is_fast", lambda _: False)


@pytest.mark.usefixtures("slow")
def test_without_units_half_precision_is_refused_in_words(
    images: Path, tmp_path: Path, tiny: dict[str, dict[str, object]]
) -> None:
    heard = Heard()
    path = fit_base(
        str(images), tmp_path / "base", settings=tiny, device="cpu", precision="bfloat16", watcher=heard
    ).path
    assert any("no units for bfloat16" in line for line in heard.lines)
    assert read_base(path).description.training["precision"] == "float32"
    encode(path, str(images), tmp_path / "store", device="cpu", precision="bfloat16")
    assert open_functaset(tmp_path / "store").attributes.settings["precision"] == "float32"


def test_the_base_says_what_its_items_are_encoded_with(
    images: Path, tmp_path: Path, tiny: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (devices, learning):
        monkeypatch.setattr(module, "half_is_fast", lambda _: True)
    wide = {**tiny, "network": {**tiny["network"], "width": 64}, "training": {"steps": 3, "batch_size": 4}}
    path = fit_base(str(images), tmp_path / "base", settings=wide, device="cpu").path
    assert read_base(path).description.training["precision"] == "bfloat16"
    encode(path, str(images), tmp_path / "store", device="cpu")
    assert open_functaset(tmp_path / "store").attributes.settings["precision"] == "bfloat16"
    monkeypatch.setattr(devices, "half_is_fast", lambda _: False)
    encode(path, str(images), tmp_path / "slow", device="cpu")
    assert open_functaset(tmp_path / "slow").attributes.settings["precision"] == "float32"


def test_the_measurement_is_made_once() -> None:
    assert devices.half_is_fast("bfloat16") is devices.half_is_fast("bfloat16")
    assert devices.usable_precision("float32", CPU) == devices.usable_precision("auto", CPU) == "float32"


def test_a_host_program_may_have_set_its_own_precision() -> None:
    settings = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [setting.fp32_precision for setting in settings]
    try:
        for precision in ("tf32", "none"):
            # since torch 2.9 torch.get_float32_matmul_precision may raise after this
            torch.backends.cuda.matmul.fp32_precision = precision
            with devices.matmul_precision("float32", CPU):
                assert [setting.fp32_precision for setting in settings] == ["ieee", "ieee"]
            with devices.matmul_precision("tf32", torch.device("cuda")):
                assert [setting.fp32_precision for setting in settings] == ["tf32", "tf32"]
            assert [setting.fp32_precision for setting in settings] == [precision, before[1]]
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@pytest.mark.parametrize(
    ("environment", "name", "gpus", "expected"),
    [
        ({}, "auto", 4, "cuda"),
        ({"LOCAL_RANK": "3"}, "auto", 4, "cuda:3"),
        ({"SLURM_LOCALID": "3"}, "cuda", 1, "cuda:0"),
        ({"SLURM_LOCALID": "3"}, "cuda:2", 4, "cuda:2"),
        ({"LOCAL_RANK": "3"}, "auto", 0, "cpu"),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "cuda:2", 4, None),
        # the launcher shows each rank its own
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "cuda:0", 1, "cuda:0"),
    ],
)
def test_a_rank_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str, gpus: int, expected: str | None
) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for variable in ("LOCAL_RANK", "SLURM_LOCALID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    if expected is None:
        with pytest.raises(UsageError, match="all ranks on one GPU"):
            devices.device_of(name)
        return
    assert devices.device_of(name) == torch.device(expected)
    assert chosen == ([expected] if environment and ":" not in name and gpus else [])
