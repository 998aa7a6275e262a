"""Which device, how much memory it has free, and how exactly it multiplies."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from functaconv.errors import MissingExtraError, UsageError

PRECISIONS = ("auto", "float32", "tf32", "float16", "bfloat16")
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def device_of(name: str) -> torch.device:
    """`auto` (a GPU when there is one), `cpu`, `cuda` or `cuda:N`.

    A process that torchrun started has its own GPU, unless it is told which one.
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
    local = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID", "")
    if name == "cuda" and local.isdecimal():
        # where each process sees one GPU only, or there are more processes than GPUs, numbers begin again
        name = f"cuda:{int(local) % torch.cuda.device_count()}"
        # what says nothing of a device, such as pinned memory, goes there as well
        torch.cuda.set_device(name)
    return torch.device(name)


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        # not Linux: half of what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


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


def sweep_dtype_of(precision: str) -> torch.dtype | None:
    """In which type Jacobians are computed; None for that of the parameters. All else stays float32: rounding in a
    Jacobian slows a fit a little, rounding in a residual would stay in the result.
    """
    return HALF.get(precision)


@contextmanager
def matmul_precision(name: str, device: torch.device) -> Iterator[None]:
    """How float32 matrices are multiplied meanwhile."""
    name = precision_of(name, device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
