"""Where a row of results comes from."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def provenance(dtype: str = "float32, latents stored as float16") -> dict[str, Any]:
    """Commit, type, device and versions."""
    return {"commit": commit(), "dtype": dtype, **machine()}


def commit() -> str:
    root = Path(__file__).parents[2]
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()


def machine() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "python": platform.python_version(), "torch": torch.__version__}
