"""Pretend-CUDA: tensors that say they live on cuda:0, compute for real on the CPU, and obey CUDA's device rules.

Counts kernels, host<->device copies and synchronisations by the line of difix3d_ns that caused them.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
META = torch.device("meta")  # what C++ sees: its autograd engine then needs no driver
STATS: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
ODD: collections.Counter = collections.Counter()
COUNT = {"on": False}


def where() -> str:
    frame = sys._getframe(1)
    best = None
    while frame is not None:
        name = frame.f_code.co_filename
        if "difix3d_ns" in name:
            return f"{name.split('difix3d_ns/')[-1]}:{frame.f_lineno}"
        if best is None and ("nerfstudio" in name or "gsplat" in name):
            best = f"[{name.split('site-packages/')[-1]}:{frame.f_lineno}]"
        frame = frame.f_back
    return best or "?"


def note(kind: str) -> None:
    if COUNT["on"]:
        STATS[kind][where()] += 1


class P(torch.Tensor):
    elem: torch.Tensor
    __slots__ = ["elem"]

    @staticmethod
    def __new__(cls, elem, requires_grad=False):
        assert not isinstance(elem, P)
        r = torch.Tensor._make_wrapper_subclass(
            cls,
            elem.shape,
            strides=elem.stride() if elem.layout == torch.strided else None,
            storage_offset=elem.storage_offset() if elem.layout == torch.strided else 0,
            dtype=elem.dtype,
            layout=elem.layout,
            device=META,
            requires_grad=requires_grad,
        )
        r.elem = elem
        return r

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def numpy(self, *a, **k):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *a, **k):
        return self.numpy()

    def data_ptr(self):
        return self.elem.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    def get_device(self):
        return 0

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        new = P(self.elem.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=self.requires_grad)
        memo[id(self)] = new
        return new

    def pin_memory(self, *a):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def new_tensor(self, data, dtype=None, device=None, requires_grad=False):
        t = torch.tensor(data, dtype=dtype or self.dtype)
        return t if device is not None and torch.device(device).type == "cpu" else t.to(META)

    @property
    def data(self):
        return P(self.elem.detach())

    @data.setter
    def data(self, value):
        assert isinstance(value, P), "a CPU tensor was assigned to the data of a CUDA one"
        torch.Tensor.data.__set__(self, value)
        self.elem = value.elem

    def __repr__(self, *a, **k):
        return f"P({self.elem})"

    def __reduce_ex__(self, proto):
        return self.detach().elem.__reduce_ex__(proto)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def is_cuda(device) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _swap(x):
    if isinstance(x, torch.device) and x.type == "cuda":
        return META
    return x


class Names(TorchFunctionMode):
    """device="cuda" -> what stands for it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], P):

            def fix(i):
                if isinstance(i, list):
                    return torch.tensor(i, dtype=torch.long if not i or not isinstance(i[0], bool) else torch.bool).to(
                        META
                    )
                return i

            index = tuple(fix(i) for i in args[1]) if isinstance(args[1], tuple) else fix(args[1])
            args = (args[0], index, *args[2:])
        if func is torch.Tensor.cuda:
            return args[0].to(META)
        if func is torch.Tensor.to:
            args = tuple(META if isinstance(a, str) and a.startswith("cuda") else _swap(a) for a in args)
        if "device" in kwargs and kwargs["device"] is not None:
            if torch.device(kwargs["device"]).type == "cuda":
                if func in (torch.tensor, torch.as_tensor, torch.asarray):
                    grad = kwargs.pop("requires_grad", False)
                    kwargs["device"] = "cpu"
                    if isinstance(args[0], P):
                        return args[0]
                    return func(*args, **kwargs).to(META).requires_grad_(grad)
                kwargs["device"] = META
        else:
            args = tuple(_swap(a) for a in args)
        return func(*args, **kwargs)


CROSS = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor, aten.is_same_size.default}
INDEXED = {
    aten.index.Tensor: 1,
    aten.index_put_.default: 1,
    aten.index_put.default: 1,
    aten._index_put_impl_.default: 1,
    aten._unsafe_index.Tensor: 1,
}
SYNC = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.linalg_inv_ex.default,
    aten.linalg_solve_ex.default,
    aten.is_nonzero.default,
}
FREE = {
    "view",
    "_unsafe_view",
    "expand",
    "permute",
    "transpose",
    "t",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
    "as_strided",
    "unbind",
    "split",
    "split_with_sizes",
    "chunk",
    "diagonal",
    "unfold",
    "_reshape_alias",
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "lift_fresh",
    "view_as_real",
    "narrow",
    "is_same_size",
    "sym_size",
    "new_empty_strided",
}


def dispatch(func, args, kwargs):
    flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    ps = [x for x in tensors if isinstance(x, P)]
    plain = [x for x in tensors if not isinstance(x, P)]
    device = kwargs.get("device")
    gen = next((x for x in flat if isinstance(x, torch.Generator)), None)
    target_cuda = is_cuda(device) or (device is None and bool(ps))
    if gen is not None and target_cuda and gen.device.type != "cuda":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found '{gen.device.type}' in {func}")
    if not ps and not is_cuda(device):
        return func(*args, **kwargs)
    if ps and plain and func not in CROSS:
        bad = [t for t in plain if t.dim() > 0]
        if func in INDEXED:
            indices = {id(i) for i in args[1] if i is not None}
            bad_idx = [t for t in bad if id(t) in indices]
            bad = [t for t in bad if id(t) not in indices]
            if not isinstance(args[0], P) and any(isinstance(i, P) for i in args[1] if i is not None):
                raise RuntimeError(
                    f"indices should be either on cpu or on the same device as the indexed tensor (cpu): {func}"
                )
            if bad_idx:
                note("h2d")
        if bad:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({func})"
                f" shapes {[tuple(t.shape) for t in tensors]}"
            )
        if plain and func not in INDEXED:
            ODD[(str(func), where())] += 1
    name = func._schema.name.split("::")[-1]
    if name not in FREE:
        note("kernels")
    if func in SYNC:
        note("syncs")
    if func in INDEXED and any(isinstance(i, P) and i.dtype == torch.bool for i in args[1] if i is not None):
        note("syncs")
    if func is aten._to_copy.default:
        if ps and device is not None and not is_cuda(device):
            note("d2h")
        elif not ps:
            note("h2d")
    if func is aten.copy_.default:
        if isinstance(args[0], P) and not isinstance(args[1], P) and args[1].dim() > 0:
            note("h2d")
        if not isinstance(args[0], P) and isinstance(args[1], P):
            note("d2h")
    uargs, ukw = tree_map(lambda x: x.elem if isinstance(x, P) else x, (args, kwargs))
    if "device" in ukw:
        ukw["device"] = torch.device("cpu")
    if ukw.get("pin_memory"):
        ukw["pin_memory"] = False
    out = func(*uargs, **ukw)
    to_cpu = device is not None and not is_cuda(device)

    def wrap(x):
        if isinstance(x, torch.Tensor) and not isinstance(x, P):
            if func is aten.copy_.default:
                return x
            return x if to_cpu else P(x)
        return x

    if func is aten.copy_.default:
        return args[0]
    if func in (aten._local_scalar_dense.default, aten.equal.default):
        return out
    mutates = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
    if mutates:
        if func._schema.name.endswith("_") or "out" not in kwargs:
            first = args[0]
            if isinstance(first, P) and isinstance(out, torch.Tensor):
                if first.elem.shape != first.shape:
                    from torch.utils._mode_utils import no_dispatch

                    with no_dispatch():
                        func(*args, **kwargs)
                    assert first.elem.shape == first.shape, func
                return first
            if out is None:
                return None
            if isinstance(first, (list, tuple)):
                return out if out is None else first
        return tree_map(wrap, out)
    return tree_map(wrap, out)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def cuda(x):
    return P(x.detach().clone())


class _Means2d:
    """What splatfacto and gsplat's strategies do with info["means2d"]."""

    def __init__(self, cpu):
        self._cpu = cpu

    def retain_grad(self):
        self._cpu.retain_grad()

    @property
    def absgrad(self):
        return P(self._cpu.absgrad)

    @property
    def grad(self):
        return P(self._cpu.grad)

    @property
    def shape(self):
        return self._cpu.shape


CALLS = collections.Counter()


def fake_gsplat(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **kw):
    """gsplat.rasterization's own asserts, then our CPU rasteriser."""
    from difix3d_ns.rasterization import rasterization

    for name, t in dict(
        means=means, quats=quats, scales=scales, opacities=opacities, colors=colors, viewmats=viewmats, Ks=Ks
    ).items():
        if not isinstance(t, P):
            raise RuntimeError(f"{name} must be a CUDA tensor")
        if t.dtype != torch.float32:
            raise RuntimeError(f"{name} has {t.dtype}: gsplat's kernels are float32")
    channels = colors.shape[-1]
    CALLS[
        (
            "rasterize",
            channels if kw.get("sh_degree") is None else "sh",
            kw.get("render_mode", "RGB"),
            tuple(means.shape),
        )
    ] += 1
    known = {
        "near_plane",
        "far_plane",
        "radius_clip",
        "eps2d",
        "sh_degree",
        "packed",
        "tile_size",
        "backgrounds",
        "render_mode",
        "sparse_grad",
        "absgrad",
        "rasterize_mode",
        "channel_chunk",
        "distributed",
        "camera_model",
        "covars",
    }
    assert set(kw) <= known, set(kw) - known
    note("gsplat")
    on = COUNT["on"]
    COUNT["on"] = False
    try:
        cpu = [t.to("cpu") for t in (means, quats, scales, opacities, colors, viewmats, Ks)]
        image, alpha, info = rasterization(*cpu, width, height, **kw)
        info = {k: (P(v.detach()) if isinstance(v, torch.Tensor) and k != "means2d" else v) for k, v in info.items()}
        info["means2d"] = _Means2d(info["means2d"])
        return image.to(META), alpha.to(META), info
    finally:
        COUNT["on"] = on


def rasterizers():
    """(module, name) of gsplat's rasterizer wherever the plugin finds it."""
    import gsplat

    from difix3d_ns.ns.patches import splatfacto_cpu

    return [(gsplat, "rasterization"), (splatfacto_cpu, "_cuda_rasterization")]


def synchronize(*args, **kwargs):
    note("syncs")


def nothing(*args, **kwargs):
    return None


def same(value):
    return lambda *args, **kwargs: value


@contextlib.contextmanager
def pretend(bf16=True):
    """A CUDA device for all that runs inside."""
    functions = {
        "_lazy_init": nothing,
        "is_available": same(True),
        "is_initialized": same(True),
        "device_count": same(1),
        "current_device": same(0),
        "get_device_name": same("pretend"),
        "is_bf16_supported": same(bf16),
        "synchronize": synchronize,
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state_all": nothing,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
        "empty_cache": nothing,
        "memory_allocated": same(0),
        "memory_reserved": same(0),
        "max_memory_allocated": same(0),
        "reset_peak_memory_stats": nothing,
        "mem_get_info": same((2**33, 2**34)),
    }
    places = [
        *((torch.cuda, name, function) for name, function in functions.items()),
        (torch.optim.Optimizer, "_accelerator_graph_capture_health_check", nothing),
        (torch.accelerator, "current_accelerator", same(torch.device("cuda"))),
        *((module, name, fake_gsplat) for module, name in rasterizers()),
    ]
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with contextlib.ExitStack() as stack:
            for owner, name, function in places:
                stack.enter_context(mock.patch.object(owner, name, function))
            stack.enter_context(Mode())
            stack.enter_context(Names())
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


@contextlib.contextmanager
def counting():
    STATS.clear()
    COUNT["on"] = True
    try:
        yield STATS
    finally:
        COUNT["on"] = False


def table(n=12):
    for kind in ("kernels", "syncs", "h2d", "d2h", "gsplat"):
        c = STATS.get(kind)
        if c:
            print(f"  {kind}: {sum(c.values())}", "; ".join(f"{w} {k}" for w, k in c.most_common(n)))
