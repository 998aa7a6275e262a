"""A GPU that is not there: tensors that say they are on CUDA, hold CPU data, and are watched.

Under `pretended_gpu` everything that is moved to, or made on, a CUDA device becomes a `Pretended` tensor. An operation
on tensors of different devices is an error, as it would be on a GPU. Operations are counted, and so are the moments at
which the host would wait for the device: where a value is read, where the size of a result depends on values, and
where memory is copied that is not pinned. Backward passes and optimisers are watched as well.

What it cannot show: what CUDA's own libraries do (a Cholesky factorisation of MAGMA's waits in secret), and speed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.bincount, aten._unique2,
    aten.unique_dim, aten.unique_consecutive, aten.linalg_eigh, aten._linalg_eigh, aten._linalg_svd,
}  # fmt: skip
"""operations that end only when the device has come so far"""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""operations that wait where an index is a mask"""


class Counter:
    """What happened on the device since `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.operations = 0
        self.waits: list[str] = []

    def wait(self, what: str) -> None:
        self.waits.append(what)


COUNTER = Counter()
_group = torch._C._group_tensors_by_device_and_dtype


class MixedDevicesError(RuntimeError):
    """An operation on tensors of different devices."""


class Pretended(Tensor):
    """A tensor on the device."""

    plain: Tensor

    @staticmethod
    def of(plain: Tensor) -> "Pretended":
        found: Pretended = Tensor._make_subclass(Pretended, plain)
        found.plain = plain
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretended":
        found = Pretended.of(self.plain.detach().clone()).requires_grad_(self.requires_grad)
        # whether it is a parameter of a module
        found._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = found
        return found

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return GPU
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        ours = [each for each in tensors if isinstance(each, Pretended)]
        operation = func.overloadpacket
        for each in tensors:
            # a number may come from the host
            if isinstance(each, Pretended):
                continue
            if operation is aten.copy_:
                COUNTER.wait(f"copy of {tuple(each.shape)}")
            elif each.dim() or operation in INDEXING:
                raise MixedDevicesError(f"{func}: a tensor of shape {tuple(each.shape)} is on the CPU")
        COUNTER.operations += 1
        if operation in WAITS or (operation in INDEXING and any(_is_mask(each) for each in tree_leaves(args[1]))):
            COUNTER.wait(str(func))
        known = {id(each.plain): each for each in ours}
        found = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))

        def wrapped(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            # what is changed in place stays the tensor that it is
            return known[id(each)] if id(each) in known else Pretended.of(each)

        return tree_map(wrapped, found)


class _Moves(TorchFunctionMode):
    """Tensors on their way to the device and back."""

    def __init__(self) -> None:
        super().__init__()
        self._pinned: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.backward:
            # steps may be recomputed in it: these are to be watched as well
            with self:
                return torch.autograd.backward(args[0], kwargs.get("gradient"))
        if func in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], Pretended):
            COUNTER.wait(func.__name__)
            return func(args[0].plain)
        if func is Tensor.pin_memory:
            return self._pin(args[0])
        if func is Tensor.is_pinned:
            return self._is_pinned(args[0])
        if func in (Tensor.cuda, Tensor.cpu):
            args, func = (args[0], GPU if func is Tensor.cuda else torch.device("cpu"), *args[1:]), Tensor.to
        if func is Tensor.to:
            return self._to(args[0], args[1:], kwargs)
        if _is_gpu(kwargs.get("device")):
            made = func(*args, **(kwargs | {"device": "cpu"}))
            if func in (torch.tensor, torch.as_tensor) and not isinstance(made, Pretended):
                COUNTER.wait(f"{func.__name__} of values of the host")
            return made if isinstance(made, Pretended) else Pretended.of(made)
        return func(*args, **kwargs)

    def _to(self, tensor: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        given = (*args, *kwargs.values())
        places = [each for each in given if isinstance(each, (str, torch.device, Tensor))]
        if not places:
            return Tensor.to(tensor, *args, **kwargs)
        (place,) = places
        is_there = _is_gpu(place.device if isinstance(place, Tensor) else place)
        dtypes = [each for each in given if isinstance(each, torch.dtype)]
        dtype = place.dtype if isinstance(place, Tensor) else dtypes[0] if dtypes else tensor.dtype
        # after device and dtype, and not the dtype
        is_patient = not kwargs.get("non_blocking", any(each is True for each in args))
        if is_there and not isinstance(tensor, Pretended):
            if is_patient or not self._is_pinned(tensor):
                COUNTER.wait(f"copy of {tuple(tensor.shape)} to the device")
            tensor = _Upload.apply(tensor)
        elif not is_there and isinstance(tensor, Pretended):
            COUNTER.wait(f"copy of {tuple(tensor.shape)} from the device")
            tensor = _Download.apply(tensor)
        return tensor if tensor.dtype == dtype else Tensor.to(tensor, dtype)

    def _pin(self, tensor: Tensor) -> Tensor:
        if self._is_pinned(tensor):
            return tensor
        pinned = tensor.clone()
        # kept, so that no other tensor comes to lie where it is
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned
        return pinned

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.numel() == 0 or tensor.untyped_storage().data_ptr() in self._pinned


class _Upload(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return Pretended.of(tensor.detach().clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _plain(gradient)


class _Download(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return _plain(tensor).clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return Pretended.of(gradient)


def _plain(each: Any) -> Any:
    return each.plain if isinstance(each, Pretended) else each


def _is_mask(each: Any) -> bool:
    return isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8)


def _is_gpu(place: Any) -> bool:
    return place is not None and torch.device(place).type == "cuda"


def _grouped(lists: Sequence[Sequence[Tensor]], *args: Any) -> dict[Any, Any]:
    """As torch's function in C++, which sees through the pretence."""
    found = _group(lists, *args)
    return {(GPU if isinstance(own[0][0], Pretended) else device, dtype): (own, *rest)
            for (device, dtype), (own, *rest) in found.items()}  # fmt: skip


def _checkpoint(moves: _Moves, step: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    """As torch's: its backward pass would run the step again without the pretence."""

    def watched(*args: Any) -> Tensor:
        if torch._C._len_torch_function_stack():
            return step(*args)
        with torch._C._EnableTorchFunction(), moves:
            return step(*args)

    return checkpoint(watched, *args, **options, determinism_check="none")


@contextmanager
def pretended_gpu() -> Iterator[Counter]:
    """What is moved to CUDA meanwhile is `Pretended` to be there."""
    COUNTER.reset()
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    # a module's parameters become other tensors, as a parameter on the CPU cannot be made to hold a Pretended one
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            _Moves() as moves,
            mock.patch("torch._C._group_tensors_by_device_and_dtype", _grouped),
            mock.patch("functaconv.solvers.fit.checkpoint", partial(_checkpoint, moves)),
        ):
            yield COUNTER
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
