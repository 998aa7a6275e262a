"""Which device, and how exactly it multiplies."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from functaconv.errors import MissingExtraError, UsageError

PRECISIONS = ("auto", "float32", "tf32", "float16", "bfloat16")
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""in which type Jacobians are computed, by precision; with any other in that of the parameters. All else stays float32:
rounding in a Jacobian slows a fit a little, rounding in a residual would stay in the result
"""


def device_of(name: str) -> torch.device:
    """`auto` (a GPU when there is one), `cpu`, `cuda` or `cuda:N`.

    A process that torchrun or srun started has its own GPU. All of a machine's ranks on the one that `cuda:N` names
    would be slower than one rank, and with NCCL none would begin: that is refused where there are other GPUs.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise UsageError(f"there is no device {name!r}", hint="one of auto, cpu, cuda, cuda:0, ...")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise MissingExtraError(
            f"device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices",
            hint="use --device cpu, or install a torch built for CUDA",
        )
    # of torchrun, or else of srun
    beside = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
    if kind == "cuda" and number and beside != "1" and torch.cuda.device_count() > 1:
        raise UsageError(f"--device {name} would put all ranks on one GPU", hint="--device cuda gives each its own")
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID", "")
    if name == "cuda" and local.isdecimal():
        # where each process sees one GPU only, or there are more processes than GPUs, numbers begin again
        name = f"cuda:{int(local) % torch.cuda.device_count()}"
        # what says nothing of a device, such as pinned memory, goes there as well
        torch.cuda.set_device(name)
    return torch.device(name)


def precision_of(name: str, device: torch.device) -> str:
    """The precision that a name stands for; `auto` is full float32 on every device."""
    if name not in PRECISIONS:
        raise UsageError(f"there is no precision {name!r}", hint=f"one of {', '.join(PRECISIONS)}")
    if name == "tf32" and device.type != "cuda":
        raise UsageError("tf32 is a mode of CUDA devices", hint="leave --precision out, or use --device cuda")
    return "float32" if name == "auto" else name


def usable_precision(name: str, device: torch.device) -> str:
    """The precision, or float32 where this machine has no units for it: there half precision takes thirty times as
    long.
    """
    name = precision_of(name, device)
    return "float32" if name in HALF and device.type == "cpu" and not half_is_fast(name) else name


def said_of_precision(asked: str, used: str) -> str:
    """What a user wants to know where another precision is used than was asked for; empty where not."""
    if asked not in HALF or asked == used:
        return ""
    return f"this processor has no units for {asked}, which would be slow: {used} is used"


@cache
def half_is_fast(name: str) -> bool:
    """The CPU multiplies matrices of this type sooner than those of float32, by a measurement of a few milliseconds."""

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        matrix @ matrix
        took = []
        for _ in range(5):
            begun = time.perf_counter()
            matrix @ matrix
            took.append(time.perf_counter() - begun)
        return min(took)

    return seconds(HALF[name]) < seconds(torch.float32)


@contextmanager
def matmul_precision(name: str, device: torch.device) -> Iterator[None]:
    """How float32 matrices are multiplied, and convolved, meanwhile."""
    name = precision_of(name, device)
    # not torch.get_float32_matmul_precision: it raises in a program that has set these
    cuda, cpu = torch.backends.cuda, torch.backends.mkldnn
    settings = cuda.matmul, torch.backends.cudnn.conv, cpu.matmul, cpu.conv  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if name == "tf32" else "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
