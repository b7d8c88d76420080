"""A CUDA device where there is none: tensors that say ``cuda:0``, compute on the CPU and obey CUDA's rules.

Values are real, so all control flow runs. Rules kept: operands of one device (but for indices and scalars on the CPU),
generators of the device, no ``.numpy()``, only host memory is pinned, and gsplat's kernels take float32 on the device.
Kernels, copies and waits are counted by the line of the package that caused them.

Not seen: kernels that lack a dtype, rounding, streams, real memory, real time, several GPUs, threads that were started
before. A process that pretends should end with it: libraries remember that CUDA is there (accelerate does).
"""

from __future__ import annotations

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tests import pretended_gsplat

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
META = torch.device("meta")
"""what C++ sees of the device: its autograd engine then needs no driver"""
GIB = 2**30

Kind = Literal["kernels", "waits", "h2d", "d2h", "rasterizations"]
KINDS: tuple[Kind, ...] = ("kernels", "waits", "h2d", "d2h", "rasterizations")
"""Waits: the host stands still until the device is done, as for a value, for a result's size or for a blocking copy.
h2d, d2h: copies to the device and back."""


# ------------------------------------------------------------------------------------------------------------ Counting


class Traffic:
    """Counts between host and device, by kind and by line of the package, else of nerfstudio or gsplat."""

    def __init__(self) -> None:
        self.lines: dict[Kind, Counter[str]] = {kind: Counter() for kind in KINDS}

    def __getitem__(self, kind: Kind) -> int:
        return self.lines[kind].total()

    def note(self, kind: Kind, line: str) -> None:
        self.lines[kind][line] += 1

    def table(self, rows: int = 12) -> str:
        """Return each kind's total and its first lines."""
        lines = []
        for kind, places in self.lines.items():
            worst = "; ".join(f"{place} {count}" for place, count in places.most_common(rows))
            lines.append(f"{kind}: {places.total()}" + (f" ({worst})" if worst else ""))
        return "\n".join(lines)


_TRANSFERS = "io/transfers.py"
"""what sends for others: the line that calls it is counted"""
_counted: list[Traffic] = []  # of the process: autograd calls from threads of its own


def _note(kind: Kind) -> None:
    if _counted:
        line = _line()
        for traffic in _counted:
            traffic.note(kind, line)


def _line() -> str:
    frame, outside = sys._getframe(1), ""
    while frame is not None:
        _, package, path = frame.f_code.co_filename.rpartition("difix3d_ns/")
        if package and path != _TRANSFERS:
            return f"{path}:{frame.f_lineno}"
        _, library, path = frame.f_code.co_filename.rpartition("site-packages/")
        if library and not outside and path.startswith(("nerfstudio", "gsplat", "torch/optim")):
            outside = f"[{path}:{frame.f_lineno}]"
        frame = frame.f_back  # type: ignore[assignment]
    return outside or "elsewhere"


@contextmanager
def counting() -> Iterator[Traffic]:
    """Count what happens inside; may be nested."""
    traffic = Traffic()
    _counted.append(traffic)
    try:
        yield traffic
    finally:
        _counted.remove(traffic)


@contextmanager
def _uncounted() -> Iterator[None]:
    kept, _counted[:] = list(_counted), []
    try:
        yield
    finally:
        _counted[:] = kept


# ------------------------------------------------------------------------------------------------------------- Tensors


class PretendedTensor(Tensor):
    """A tensor on the pretended device; ``there`` has its values, on the CPU."""

    there: Tensor

    @staticmethod
    def __new__(cls, there: Tensor, requires_grad: bool = False) -> PretendedTensor:
        assert not isinstance(there, PretendedTensor)
        strided = there.layout == torch.strided
        made = Tensor._make_wrapper_subclass(
            cls,
            there.shape,
            strides=there.stride() if strided else None,
            storage_offset=there.storage_offset() if strided else 0,
            dtype=there.dtype,
            layout=there.layout,
            device=META,
            requires_grad=requires_grad,
        )
        made.there = there
        return made

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def numpy(self, *args: object, **kwargs: object) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *args: object, **kwargs: object) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        return self.there.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(
        self, data: Any, *, dtype: torch.dtype | None = None, device: Any = None, requires_grad: bool = False
    ) -> Tensor:
        made = torch.tensor(data, dtype=dtype or self.dtype)
        return (made if _is_host(device) else made.to(META)).requires_grad_(requires_grad)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return PretendedTensor(self.there.detach())

    @data.setter
    def data(self, value: Tensor) -> None:
        assert isinstance(value, PretendedTensor), "data of a tensor on the device cannot be on the host"
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.there = value.there

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copied: Tensor = PretendedTensor(self.there.detach().clone(), self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
            memo[id(self)] = copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().there.__reduce_ex__(protocol)  # type: ignore[attr-defined]

    def __repr__(self, *args: object, **kwargs: object) -> str:  # type: ignore[override]
        return f"{self.there!r} on {CUDA}"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _Call(func, tuple(args), dict(kwargs or {})).run()


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _is_host(device: Any) -> bool:
    return device is not None and not _is_device(device)


# --------------------------------------------------------------------------------------------------------------- Rules

_COPIES = (aten.copy_.default, aten._to_copy.default)
_ANY_DEVICE = {*_COPIES, aten.set_.source_Tensor, aten.is_same_size.default}
_INDEXED = {
    *(aten.index.Tensor, aten._unsafe_index.Tensor),
    *(aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default),
}
"""their indices may be on the host, and are copied then"""
_NO_SCALARS = {"cat", "stack", "_fused_adam_", "_fused_adamw_"}
"""what takes no scalar of the host among tensors of the device"""
_WAITING = {
    *(aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default),  # a value
    *(aten.nonzero.default, aten.masked_select.default, aten.repeat_interleave.Tensor),  # a size
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default),
    *(aten._linalg_check_errors.default, aten._linalg_eigh.default, aten._linalg_svd.default),  # whether it succeeded
}
_NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_unsafe_view", "_reshape_alias", "lift_fresh", "is_same_size", "set_"),
    *("_local_scalar_dense", "copy_", "_to_copy"),  # counted as what they are
}


@functools.cache
def _name_of(func: Any) -> str:
    """An operation's name without namespace and overload; reading a schema is slow."""
    return func._schema.name.rpartition("::")[2]


@functools.cache
def _mutates(func: Any) -> bool:
    return func._schema.is_mutable


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield operands of an operation, of which some are lists of them, and none of those has lists again."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """What an operation takes or returns, each tensor changed."""
    if isinstance(value, (list, tuple)):
        return type(value)([change(part) for part in value])
    return change(value)


def _values(value: Any) -> Any:
    return value.there if isinstance(value, PretendedTensor) else value


class _Call:
    """One operation in which the device has a part, or none: then it is left alone."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.flat = [*_flat(args), *_flat(kwargs.values())]
        self.ours = [value for value in self.flat if isinstance(value, PretendedTensor)]
        self.device = kwargs.get("device")

    def run(self) -> Any:
        if not self.ours and not _is_device(self.device):
            return self.func(*self.args, **self.kwargs)
        self._check()
        if _counted:
            self._count()
        return self._execute()

    # ---------------------------------------------------------------- what CUDA refuses

    def _check(self) -> None:
        generator = next((value for value in self.flat if isinstance(value, torch.Generator)), None)
        if generator is not None and not _is_host(self.device):
            raise RuntimeError(
                f"Expected a 'cuda' device type for generator but found '{generator.device.type}' ({self.func})"
            )
        hosts = [value for value in self.flat if isinstance(value, Tensor) and not isinstance(value, PretendedTensor)]
        if not self.ours or not hosts or self.func in _ANY_DEVICE:
            return
        wrong = [value for value in hosts if value.dim() or _name_of(self.func) in _NO_SCALARS]
        if self.func in _INDEXED:
            indices = [value for value in self.args[1] if value is not None]
            wrong = [value for value in wrong if all(value is not index for index in indices)]
            if not isinstance(self.args[0], PretendedTensor):
                raise RuntimeError(
                    f"indices should be either on cpu or on the same device as the indexed ({self.func})"
                )
        elif _mutates(self.func) and any(self.args[0] is value for value in hosts):
            wrong.append(self.args[0])
        if wrong:
            shapes = [tuple(value.shape) for value in (*self.ours, *hosts)]
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({self.func}, shapes {shapes})"
            )

    # ---------------------------------------------------------------- what it costs

    def _count(self) -> None:
        if self.func in _COPIES:
            self._count_copy()
        elif not self.func.is_view and _name_of(self.func) not in _NO_KERNEL:
            _note("kernels")
        if self.func in _WAITING:
            _note("waits")
        if self.func in _INDEXED:
            indices = [index for index in self.args[1] if index is not None]
            for index in indices:
                if not isinstance(index, PretendedTensor):
                    _note("h2d")
                    _note("waits")
            scalar = len(self.args) > 2 and not isinstance(self.args[2], PretendedTensor)  # a masked_fill
            if any(index.dtype == torch.bool for index in indices) and not scalar:
                _note("waits")

    def _count_copy(self) -> None:
        if self.func is aten.copy_.default:
            target, source = self.args[:2]
            to_host = not isinstance(target, PretendedTensor)
            waits = not (len(self.args) > 2 and self.args[2])
        else:
            source = self.args[0]
            to_host = _is_host(self.device)
            waits = not self.kwargs.get("non_blocking")
        from_host = not isinstance(source, PretendedTensor)
        if not from_host and not to_host:
            _note("kernels")
            return
        if from_host and self.func is aten.copy_.default and source.dim() == 0 and source.numel() == 1:
            _note("kernels")  # a fill
            return
        _note("d2h" if to_host else "h2d")
        if waits or (from_host and not is_pinned(source)):
            _note("waits")

    # ---------------------------------------------------------------- what it does

    def _execute(self) -> Any:
        args = [_each(_values, value) for value in self.args]
        kwargs = {name: _each(_values, value) for name, value in self.kwargs.items()}
        if self.device is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        result = self.func(*args, **kwargs)
        if self.func is aten.copy_.default:
            return self.args[0]
        mutable = _mutates(self.func)
        known = {id(value.there): value for value in self.ours} if mutable else {}
        if mutable and self.ours:
            self._follow_shape(self.ours[0])

        def placed(value: Any) -> Any:
            if not isinstance(value, Tensor) or isinstance(value, PretendedTensor) or _is_host(self.device):
                return value
            return known[id(value)] if id(value) in known else PretendedTensor(value)

        return _each(placed, result)

    def _follow_shape(self, changed: PretendedTensor) -> None:
        """Give the tensor the shape that an operation in place has given to its values."""
        if changed.there.shape != changed.shape:
            with no_dispatch():
                self.func(*self.args, **self.kwargs)
            assert changed.there.shape == changed.shape, self.func


class _Operations(TorchDispatchMode):
    """Catches operations without a tensor of the device: those that create one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled under the pretence, and shielding each call from it is slow

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _Call(func, tuple(args), dict(kwargs or {})).run()


# -------------------------------------------------------------------------------------------------------- Python's side

_pinned: dict[int, Tensor] = {}  # by address; kept until the pretence ends: what is freed may be given out again


def is_pinned(tensor: Tensor) -> bool:
    """Whether a tensor of the host lies in memory that was pinned under the pretence."""
    return tensor.untyped_storage().data_ptr() in _pinned


def _pin(tensor: Tensor) -> Tensor:
    if isinstance(tensor, PretendedTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    if not is_pinned(tensor):
        tensor = tensor.detach().clone()
        _pinned[tensor.untyped_storage().data_ptr()] = tensor
    return tensor


class _Names(TorchFunctionMode):
    """Translates names of the device in calls from Python, and what Python does for tensors of CUDA alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = list(args), dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        if func is Tensor.cuda:
            return args[0].to(META, non_blocking=kwargs.get("non_blocking", False))
        if func is Tensor.pin_memory:
            return _pin(args[0])
        if func is Tensor.is_pinned:
            return not isinstance(args[0], PretendedTensor) and is_pinned(args[0])
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], PretendedTensor):
            args[1:] = self._indexing(args[0], *args[1:])
        if func is Tensor.to:
            args = [META if isinstance(value, str) and value.startswith("cuda") else value for value in args]
        args = [META if isinstance(value, torch.device) and value.type == "cuda" else value for value in args]
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            if func in (torch.tensor, torch.as_tensor, torch.asarray):
                if isinstance(args[0], PretendedTensor):
                    return args[0]
                grad = kwargs.pop("requires_grad", False)
                return func(*args, **{**kwargs, "device": "cpu"}).to(META).requires_grad_(grad)
            kwargs["device"] = META
        pins = kwargs.pop("pin_memory", False)
        result = func(*args, **kwargs)
        return _pin(result) if pins else result

    @staticmethod
    def _indexing(tensor: Tensor, index: Any, *values: Any) -> list[Any]:
        """An index without lists, which C++ would put on its own device, and a number as a scalar of the host."""

        def placed(part: Any) -> Any:
            if not isinstance(part, list):
                return part
            kind = torch.bool if part and isinstance(part[0], bool) else torch.long
            return torch.tensor(part, dtype=kind).to(META)

        index = tuple(map(placed, index)) if isinstance(index, tuple) else placed(index)
        numbers = [torch.tensor(v, dtype=tensor.dtype) if isinstance(v, (bool, int, float)) else v for v in values]
        return [index, *numbers]


# ------------------------------------------------------------------------------------------------------------- Pretence


@dataclass
class PretendedCuda:
    """Properties of the pretended device, which may be changed while it is there."""

    free: int = 14 * GIB  # bytes, as torch.cuda.mem_get_info has them
    total: int = 16 * GIB
    bf16: bool = True
    emptied: int = field(default=0, init=False)  # times that its cache was emptied

    def _functions(self) -> dict[str, Callable[..., Any]]:
        """What stands for functions of ``torch.cuda``."""

        def always(value: Any) -> Callable[..., Any]:
            return lambda *args, **kwargs: value

        def empty_cache() -> None:
            self.emptied += 1

        properties = SimpleNamespace(
            name="pretended", major=9, minor=0, total_memory=self.total, multi_processor_count=132
        )
        return {
            **dict.fromkeys(("is_available", "is_initialized"), always(True)),
            **dict.fromkeys(("_lazy_init", "init", "set_device", "manual_seed", "manual_seed_all"), always(None)),
            **dict.fromkeys(("reset_peak_memory_stats", "set_rng_state_all"), always(None)),
            **dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated"), always(0)),
            "device_count": always(1),
            "current_device": always(0),
            "get_device_name": always(properties.name),
            "get_device_capability": always((properties.major, properties.minor)),
            "get_device_properties": always(properties),
            "is_bf16_supported": lambda *args, **kwargs: self.bf16,
            "synchronize": lambda *args, **kwargs: _note("waits"),
            "mem_get_info": lambda *args, **kwargs: (self.free, self.total),
            "empty_cache": empty_cache,
            "get_rng_state": lambda device="cuda": torch.get_rng_state(),
            "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
            "get_rng_state_all": lambda: [torch.get_rng_state()],
        }


@contextmanager
def pretended_cuda(**properties: Any) -> Iterator[PretendedCuda]:
    """Pretend a CUDA device inside, in this thread and in those that are started meanwhile.

    Args:
        properties: of ``PretendedCuda``.
    """
    device = PretendedCuda(**properties)
    replaced: list[tuple[Any, str, Any]] = [(torch.cuda, name, f) for name, f in device._functions().items()]
    replaced += [
        (torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda *args: None),
        (torch.accelerator, "current_accelerator", lambda *args, **kwargs: torch.device("cuda")),
        (threading.Thread, "start", _pretending(threading.Thread.start)),
    ]
    replaced += [
        (owner, name, _kernels_of_gsplat(function)) for owner, name, function in pretended_gsplat.replacements()
    ]
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # C++ cannot swap what is in a parameter
    try:
        with ExitStack() as stack:
            stack.enter_context(pretended_gsplat.compiled())
            for owner, name, function in replaced:
                stack.enter_context(mock.patch.object(owner, name, function))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(_Operations())
            stack.enter_context(_Names())
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        _pinned.clear()


def _pretending(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """What starts a thread, for one that pretends as well: torch's modes are of a thread."""

    @functools.wraps(start)
    def begin(thread: threading.Thread) -> None:
        run = thread.run

        def pretend() -> None:
            with _Operations(), _Names():
                run()

        thread.run = pretend  # type: ignore[method-assign]
        start(thread)

    return begin


def _kernels_of_gsplat(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of gsplat that computes on the CPU, for tensors of the device, with gsplat's demands on them."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        if not all(isinstance(value, PretendedTensor) for value in tensors):
            raise RuntimeError(f"{function.__name__}: all tensors must be CUDA tensors")
        if any(value.dtype == torch.float64 or value.dtype == torch.float16 for value in tensors):
            raise RuntimeError(f"{function.__name__}: gsplat's kernels are float32")
        _note("rasterizations" if function.__name__.startswith("rasteriz") else "kernels")
        with _uncounted():
            args, kwargs = _crossed((args, kwargs), "cpu")
            result = function(*args, **kwargs)
            if function is pretended_gsplat.rasterization:
                result[2]["means2d"] = _ScreenPositions(result[2]["means2d"])
            return _crossed(result, META)

    return call


def _crossed(values: Any, device: Any) -> Any:
    return tree_map(lambda value: _Crossing.apply(value, device) if isinstance(value, Tensor) else value, values)


class _Crossing(torch.autograd.Function):
    """A tensor's way into a kernel of gsplat or out of it, and its gradient's back: no copy in truth."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, device: Any) -> Tensor:
        ctx.home = META if isinstance(values, PretendedTensor) else "cpu"
        return values.to(device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        with _uncounted():
            return gradient.to(ctx.home), None


class _ScreenPositions:
    """What strategies of densification read of ``info["means2d"]``; its gradients arise on the CPU."""

    def __init__(self, means2d: Tensor) -> None:
        self._means2d = means2d
        self.shape = means2d.shape

    def retain_grad(self) -> None:
        self._means2d.retain_grad()

    @property
    def grad(self) -> Tensor:
        assert self._means2d.grad is not None
        return PretendedTensor(self._means2d.grad)

    @property
    def absgrad(self) -> Tensor:
        return PretendedTensor(self._means2d.absgrad)  # type: ignore[attr-defined]


@contextmanager
def out_of_memory(owner: object, name: str, *calls: int) -> Iterator[None]:
    """Let some calls of a function raise ``torch.cuda.OutOfMemoryError``, with or without a pretended device.

    Args:
        owner: module, class or object that has the function.
        name: its name there.
        calls: which of its calls, counted from 1.
    """
    original, number = getattr(owner, name), 0

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal number
        number += 1
        if number in calls:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory (pretended, in call {number} of {name})")
        return original(*args, **kwargs)

    with mock.patch.object(owner, name, call):
        yield
    assert number >= max(calls), f"{name} was called {number} times only"
