"""The folder beside an unfinished base that holds the state of its training: safetensors, with plain values as JSON."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes
from torch import Tensor

from functaconv.checkpoint import is_base, read_base
from functaconv.documents import differences, parse_json
from functaconv.engines.ranks import trainers
from functaconv.errors import InputError, OutputExistsError
from functaconv.files import locked, replace_bytes
from functaconv.training.distributed import Group

_ANEW = "--overwrite starts the training anew"


@dataclass(frozen=True)
class TrainingState:
    """All that a training run needs to go on: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class _Required(dict[str, Any]):
    """An edited state may lack an entry."""

    def __missing__(self, name: str) -> Any:
        raise InputError(f"the training state lacks {name!r}", hint=_ANEW)


@contextmanager
def restoring() -> Iterator[None]:
    """A run takes back what a state holds; an InputError where that is not what a run leaves."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the training state is not one of this training: {error}", hint=_ANEW) from None


def read_state(path: Path, *, with_tensors: bool = True) -> TrainingState:
    """The training state in a file; an InputError for what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            values = parse_json((file.metadata() or {})["functaconv"].encode())
            names = file.keys() if with_tensors else ()
            return TrainingState(_Required({name: file.get_tensor(name) for name in names}), _Required(values))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot read the training state {path}: {error}", hint=_ANEW) from None


class TrainingFolder:
    """`BASE.training`: the state, the closed form and the log of a training that is not finished."""

    def __init__(self, output: Path) -> None:
        self.output, self.path = output, output.with_name(output.name + ".training")
        self.closed_form, self.log = self.path / "closed-form.safetensors", self.path / "log.jsonl"
        self._state = self.path / "state.safetensors"

    def read(self, identity: Mapping[str, Any]) -> TrainingState | None:
        """The state to go on from; OutputExistsError where it is that of other settings."""
        if not self._state.exists():
            return None
        saved = read_state(self._state)
        if changes := differences(saved.values["identity"], identity):
            raise OutputExistsError(
                f"an unfinished training in {self.path} has other settings: {'; '.join(changes)}",
                hint="use the same settings to go on, another name, or --overwrite",
            )
        return saved

    def write(self, state: TrainingState) -> None:
        """Replace the state in one step."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        replace_bytes(self._state, save_bytes(tensors, {"functaconv": json.dumps(dict(state.values))}))

    def _values(self) -> Mapping[str, Any]:
        return read_state(self._state, with_tensors=False).values

    def is_begun(self, identity: Mapping[str, Any]) -> bool:
        """An unfinished training with these settings is to take the place of what is at `output`."""
        if not self._state.exists():
            return False
        return not differences(self._values()["identity"], identity)

    def is_of_this_run(self) -> bool:
        """What is at `output`, or was begun there, was made by these ranks, before torchrun started them again."""
        run = trainers().run
        if run is None:
            return False
        try:
            if self._state.exists():
                return bool(self._values().get("run") == run)
            return is_base(self.output) and bool(read_base(self.output).description.training.get("run") == run)
        except InputError:
            # damaged, and to be overwritten
            return False

    def clear(self) -> None:
        """Remove what is ours, and the folder if nothing else is in it."""
        for file in (*self.path.glob(".state.safetensors.*.tmp"), self._state, self.closed_form, self.log):
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    @contextmanager
    def claimed(self, group: Group) -> Iterator[None]:
        """No other run may use the folder meanwhile."""
        with ExitStack() as lock:

            def claim() -> None:
                lock.enter_context(locked(self.output))
                self.path.mkdir(parents=True, exist_ok=True)

            group.first(claim)
            try:
                yield
            finally:
                if group.is_first:
                    # it is not empty where a state is saved
                    with suppress(OSError):
                        self.path.rmdir()
