"""The state of a training run on disk: safetensors with its plain values as JSON, written whole or not at all."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes
from torch import Tensor

from functaconv.documents import parse_json
from functaconv.errors import InputError
from functaconv.files import replace_bytes
from functaconv.functaset.files import problems
from functaconv.modalities.sphere import Globe
from functaconv.signals.normalizer import PerChannel

_ANEW = "--overwrite starts the training anew"


@dataclass(frozen=True)
class TrainingState:
    """All that a training run needs to go on: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def write_state(path: Path, state: TrainingState) -> None:
    """Replace the training state in a file, in one step."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    replace_bytes(path, save_bytes(tensors, {"functaconv": json.dumps(dict(state.values))}))


class _StateValues(BaseModel):
    """The values of a training state that are used, validated where they are present."""

    identity: dict[str, Any] = {}
    updates: int = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    validated_at: int = 0
    position: dict[str, Any] = {}
    shapes: list[list[int]] = []
    offset: PerChannel = (0.0,)
    scale: PerChannel = (1.0,)
    levels: dict[str, tuple[PerChannel, PerChannel]] = {}
    geometry: Globe | None = None


class _Required(dict[str, Any]):
    """A state by an older functaconv, or an edited one, may lack an entry."""

    def __missing__(self, name: str) -> Any:
        raise InputError(f"the training state lacks {name!r}", hint=_ANEW)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, whose tensors are read when they are asked for; an InputError for what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = problems(error) if isinstance(error, ValidationError) else error
        raise InputError(f"cannot read the training state {path}: {reason}", hint=_ANEW) from None


def read_values(path: Path) -> Mapping[str, Any]:
    """The plain values of the state in a file; no tensor is read."""
    with _opened(path) as file:
        values = parse_json((file.metadata() or {})["functaconv"].encode())
        _StateValues.model_validate(values)
        return _Required(values)


def read_state(path: Path) -> TrainingState:
    """The training state in a file."""
    values = read_values(path)
    with _opened(path) as file:
        return TrainingState(_Required({name: file.get_tensor(name) for name in file.keys()}), values)  # noqa: SIM118
