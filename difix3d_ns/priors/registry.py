"""Priors, usable alone: ``from difix3d_ns.priors.registry import load_fixer, load_upscaler``.

A prior is one file in this folder with a function ``load(weights, device, dtype) -> Fixer``, or another protocol of
``base``, or a class whose name ends so, as ``BlendFixer``: that annotation states the capability. The file's name
is the prior's name (dashes for underscores). One of another package is named as it is imported: ``mine.sharpen``.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from difix3d_ns.errors import UserError
from difix3d_ns.io.sources import parse
from difix3d_ns.priors.base import (
    Depth,
    Fixer,
    FixRequest,
    FixResult,
    OrbitGenerator,
    OrbitRefiner,
    Upscaler,
    ViewGenerator,
)
from difix3d_ns.priors.published.hub import PICKLES, is_hub_id

_FOLDER = Path(__file__).parent
DEFAULTS: dict[type, str] = {
    Fixer: "embedded",
    Upscaler: "residual",
    ViewGenerator: "epipolar-views",
    OrbitGenerator: "photo-volume",
    OrbitRefiner: "hi3d",
    Depth: "multiview",
}
"""names of the priors that are used where nobody names one, by capability; all of them are in the package"""


def available_priors(capability: type) -> tuple[str, ...]:
    """Names of the files of this folder whose ``load`` gives such a prior; none of them is imported.

    Args:
        capability: a protocol of ``base``.
    """
    files = (file for file in _FOLDER.glob("*.py") if _returned_by_load(file).endswith(capability.__name__))
    return tuple(sorted(file.stem.replace("_", "-") for file in files))


def available_fixers() -> tuple[str, ...]:
    """Names ``load_fixer`` accepts."""
    return available_priors(Fixer)


@functools.cache
def _returned_by_load(file: Path) -> str:
    """Name of the return annotation of a file's ``load``, empty without one; the file is read, not run."""
    for node in parse(file.read_bytes(), file.name).body:
        if isinstance(node, ast.FunctionDef) and node.name == "load" and node.returns is not None:
            return ast.unparse(node.returns).strip("'\"").rpartition(".")[2]
    return ""


@functools.lru_cache(maxsize=8)
def load_prior(
    capability: type,
    name: str,
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> Any:
    """Load a prior, once per process. A fixer may be called from several threads, one of which it serves at a time.

    Loading leaves torch's random generators as they were.

    Args:
        capability: a protocol of ``base``.
        name: one of ``available_priors(capability)``, or a module with a ``load`` like theirs, as "package.module".
        weights: a file, a folder or a hub id, as the prior understands it; None for its own.
        device: where its networks live.
        dtype: their precision; None for the prior's own, most often the fastest that the device handles well (see
            ``fast_dtype``).
        options: further arguments of its ``load`` by name, such as ("eta", 1.0).

    Raises:
        ValueError: no such prior, or it has no such option.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    module = _module(capability, name)
    known = inspect.signature(module.load).parameters
    if unknown := [option for option, _ in options if option not in known]:
        raise ValueError(f"the {kind(capability)} {name!r} has no option {', '.join(unknown)}; leave it out")
    where = torch.device(device)
    drawn_on = [where] if where.type == "cuda" else []  # of several devices, one
    with torch.random.fork_rng(drawn_on):  # a network is initialised at random before it is loaded
        prior = module.load(weights=weights, device=where, dtype=dtype, **dict(options))
    if capability is Fixer:
        return _OneAtATime(prior)
    return prior if capability in type(prior).__mro__ else _Completed(prior, capability)


def load_fixer(
    name: str = DEFAULTS[Fixer],
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> Fixer:
    """Load a fixer; see ``load_prior``. ``compile``: its networks, for each size of pictures that comes."""
    return load_prior(Fixer, name, weights, device, dtype, (("compile", True),) if compile else ())


def load_upscaler(
    name: str = DEFAULTS[Upscaler],
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> Upscaler:
    """Load an upscaler; see ``load_prior``."""
    return load_prior(Upscaler, name, weights, device, dtype, options)


def load_view_generator(
    name: str = DEFAULTS[ViewGenerator],
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> ViewGenerator:
    """Load a generator of views; see ``load_prior``."""
    return load_prior(ViewGenerator, name, weights, device, dtype, options)


def load_orbit_generator(
    name: str = DEFAULTS[OrbitGenerator],
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> OrbitGenerator:
    """Load a generator of orbits; see ``load_prior``."""
    return load_prior(OrbitGenerator, name, weights, device, dtype, options)


def load_orbit_refiner(
    name: str = DEFAULTS[OrbitRefiner],
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> OrbitRefiner:
    """Load a refiner of orbits; see ``load_prior``."""
    return load_prior(OrbitRefiner, name, weights, device, dtype, options)


def load_depth(
    name: str = DEFAULTS[Depth], weights: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None
) -> Depth:
    """Load a prior of depth; see ``load_prior``."""
    return load_prior(Depth, name, weights, device, dtype)


class _Completed:
    """A prior of another package with the members that it leaves out, as its protocol has them."""

    def __init__(self, prior: Any, capability: type) -> None:
        self._prior, self._capability = prior, capability

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._prior, name)
        except AttributeError:
            default = inspect.getattr_static(self._capability, name, None)
            if name.startswith("_") or default is None or getattr(default, "__isabstractmethod__", False):
                raise
            return default.__get__(self)


class _OneAtATime(_Completed):
    """A fixer whose callers wait for each other: training and a viewer share one, with its caches and its memory."""

    def __init__(self, fixer: Fixer) -> None:
        super().__init__(fixer, Fixer)
        self._lock = threading.Lock()

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        with self._lock:
            return self._prior.fix(requests)


def _module(capability: type, name: str) -> Any:
    noun = kind(capability)
    if "." in name:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"the {noun} {name!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
            ) from error
        if not callable(getattr(module, "load", None)):
            raise ValueError(f"the {noun} {name!r} has no function load(weights, device, dtype)")
        return module
    if unknown := _unknown(capability, name):
        raise ValueError(f"{name!r}: {unknown}")
    return importlib.import_module(f"difix3d_ns.priors.{name.replace('-', '_')}")


def _unknown(capability: type, name: str) -> str:
    """Say that no prior has a name, and the nearest name there is; empty where one has it. Nothing is imported."""
    known = available_priors(capability)
    if "." in name or name in known:
        return ""
    near = difflib.get_close_matches(name, known, 1)
    meant = f"did you mean {near[0]}? There are " if near else "there are "
    return f"no {kind(capability)} has this name; {meant}{', '.join(known)}, or package.module of yours"


def kind(capability: type) -> str:
    """Name of a capability for people."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", capability.__name__).lower()
    return f"{words} prior" if capability is Depth else words


def check_prior_name(capability: type, name: str, flag: str) -> None:
    """Refuse a name that no prior has; nothing is imported.

    Args:
        capability: a protocol of ``base``.
        name: as given.
        flag: that gives it: ``--pipeline.guidance.fixer.name``.

    Raises:
        UserError: naming the flag, and the nearest name there is.
    """
    if unknown := _unknown(capability, name):
        raise UserError(f"{flag} {name}: {unknown}")


def load_selected(
    capability: type,
    flags: Sequence[str],
    name: str,
    weights: str | None,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> Any:
    """Load what flags select, once per process.

    Args:
        capability, name, weights, device, dtype, options: as of ``load_prior``.
        flags: that give the name (the first) and whatever else a failure may be due to.

    Raises:
        UserError: name, weights or options are unusable; it names the flags.
    """
    check_prior_name(capability, name, flags[0])
    try:
        return load_prior(capability, name, weights, str(device), dtype, options)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"the {kind(capability)} {name!r} cannot be loaded ({', '.join(flags)}): {error}") from error


def fixer_of(weights: str) -> tuple[str, str | None]:
    """Name and weights for ``load_fixer`` from one word: a fixer's name, a file, a folder or a hub id.

    Raises:
        FileNotFoundError: a folder without weights.
    """
    if weights in available_fixers():
        return weights, None
    path = Path(weights).expanduser()
    if is_hub_id(weights) or (path / "unet").is_dir() or path.suffix in PICKLES:
        return "difix", weights
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{path} holds no weights: neither unet/, vae/ and scheduler/ (published Difix, or from difix3d convert) "
            "nor weights.safetensors (from difix3d train-prior)"
        )
    return _fixer_of_file(path), weights


def _fixer_of_file(path: Path) -> str:
    """Fixer whose weights a file or folder of ``difix3d train-prior`` holds: its JSON names one of the package's."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path.with_suffix(".json")]
    for file in files:
        try:
            name = json.loads(file.read_text(encoding="utf-8")).get("fixer")
        except (OSError, ValueError, AttributeError):
            continue  # the fixer says what is wrong with it
        if name in available_fixers():
            return str(name)
    return "embedded"
