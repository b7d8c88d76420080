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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
Prior = TypeVar("Prior")


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


@functools.lru_cache(maxsize=4)
def load_fixer(
    name: str = "embedded",
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> Fixer:
    """Load a fixer, once per process; it may be called from several threads, one of which it serves at a time.

    Loading leaves torch's random generators as they were.

    Args:
        name: one of ``available_fixers()``, or a module with a ``load`` like theirs, as "package.module".
        weights: a file, a folder or a hub id, as the fixer understands it; None for its own.
        device: where its networks live.
        dtype: their precision; None for the fastest that the device handles well (see ``fast_dtype``).
        compile: compile the networks with ``torch.compile`` for each size of pictures that comes.

    Raises:
        ValueError: no such fixer, or it cannot be compiled.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    module = _module(name, Fixer)
    options: dict[str, Any] = {"weights": weights, "device": torch.device(device), "dtype": dtype}
    if compile:
        if "compile" not in inspect.signature(module.load).parameters:
            raise ValueError(
                f"the fixer {name!r} cannot be compiled; leave out --compile or --pipeline.guidance.fixer.compile"
            )
        options["compile"] = True
    return _OneAtATime(_load(module, options))


@functools.lru_cache(maxsize=4)
def load_upscaler(
    name: str = "residual",
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> Upscaler:
    """Load an upscaler, once per process.

    Loading leaves torch's random generators as they were.

    Args:
        name: one of ``available_priors(Upscaler)``, or a module with a ``load`` like theirs, as "package.module".
        weights, device, dtype: as of ``load_fixer``.
        options: further arguments of its ``load`` by name, such as ("eta", 1.0).

    Raises:
        ValueError: no such upscaler, or it has no such option.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    upscaler: Upscaler = _load_with(Upscaler, name, weights, device, dtype, options)
    return upscaler


@functools.lru_cache(maxsize=4)
def load_view_generator(
    name: str = "epipolar-views",
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> ViewGenerator:
    """Load a generator of views, once per process.

    Loading leaves torch's random generators as they were.

    Args:
        name: one of ``available_priors(ViewGenerator)``, or a module with a ``load`` like theirs, as "package.module".
        weights, device, dtype: as of ``load_fixer``.
        options: further arguments of its ``load`` by name.

    Raises:
        ValueError: no such generator, or it has no such option.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    generator: ViewGenerator = _load_with(ViewGenerator, name, weights, device, dtype, options)
    return generator


@functools.lru_cache(maxsize=2)
def load_orbit_generator(
    name: str = "photo-volume",
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> OrbitGenerator:
    """Load a generator of orbits, once per process.

    Loading leaves torch's random generators as they were.

    Args:
        name: one of ``available_priors(OrbitGenerator)``, or a module with a ``load`` like theirs, as "package.module".
        weights, device, dtype: as of ``load_fixer``.
        options: further arguments of its ``load`` by name.

    Raises:
        ValueError: no such generator, or it has no such option.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    generator: OrbitGenerator = _load_with(OrbitGenerator, name, weights, device, dtype, options)
    return generator


@functools.lru_cache(maxsize=2)
def load_orbit_refiner(
    name: str = "hi3d",
    weights: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> OrbitRefiner:
    """Load a refiner of orbits, once per process.

    Loading leaves torch's random generators as they were.

    Args:
        name: one of ``available_priors(OrbitRefiner)``, or a module with a ``load`` like theirs, as "package.module".
        weights, device, dtype: as of ``load_fixer``.
        options: further arguments of its ``load`` by name.

    Raises:
        ValueError: no such refiner, or it has no such option.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    refiner: OrbitRefiner = _load_with(OrbitRefiner, name, weights, device, dtype, options)
    return refiner


def _load_with(
    capability: type,
    name: str,
    weights: str | None,
    device: str,
    dtype: torch.dtype | None,
    options: tuple[tuple[str, Any], ...],
) -> Any:
    """Load a prior with options; see ``load_upscaler``."""
    module = _module(name, capability)
    known = inspect.signature(module.load).parameters
    if unknown := [option for option, _ in options if option not in known]:
        raise ValueError(f"the {_kind(capability)} {name!r} has no option {', '.join(unknown)}; leave it out")
    return _load(module, {"weights": weights, "device": torch.device(device), "dtype": dtype, **dict(options)})


@functools.lru_cache(maxsize=2)
def load_depth(
    name: str = "multiview", weights: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None
) -> Depth:
    """Load a prior of depth, once per process.

    Loading leaves torch's random generators as they were.

    Args:
        name: one of ``available_priors(Depth)``, or a module with a ``load`` like theirs, as "package.module".
        weights, device, dtype: as of ``load_fixer``.

    Raises:
        ValueError: no such prior.
        FileNotFoundError, RuntimeError: the weights cannot be read; the message names them.
    """
    module = _module(name, Depth)
    depth: Depth = _load(module, {"weights": weights, "device": torch.device(device), "dtype": dtype})
    return depth


def _load(module: Any, arguments: dict[str, Any]) -> Any:
    drawn_on = [arguments["device"]] if arguments["device"].type == "cuda" else []  # of several devices, one
    with torch.random.fork_rng(drawn_on):  # a network is initialised at random before it is loaded
        return module.load(**arguments)


class _OneAtATime:
    """A fixer whose callers wait for each other: training and a viewer share one, with its caches and its memory.

    One without these attributes has an unknown number of trained references, and teaches only what they show.
    """

    def __init__(self, fixer: Fixer) -> None:
        self._fixer = fixer
        self.trained_references: int | None = getattr(fixer, "trained_references", None)
        self.generative: bool = getattr(fixer, "generative", False)
        self._lock = threading.Lock()

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        with self._lock:
            return self._fixer.fix(requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fixer, name)


def _module(name: str, capability: type) -> Any:
    kind = _kind(capability)
    if "." in name:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"the {kind} {name!r} cannot be imported ({error}); is its folder on PYTHONPATH?"
            ) from error
        if not callable(getattr(module, "load", None)):
            raise ValueError(f"the {kind} {name!r} has no function load(weights, device, dtype)")
        return module
    if name not in (known := available_priors(capability)):
        raise ValueError(
            f"unknown {kind} {name!r}; --pipeline.guidance.{kind.replace(' ', '-')}.name takes one of "
            f"{', '.join(known)}, or package.module of yours"
        )
    return importlib.import_module(f"difix3d_ns.priors.{name.replace('-', '_')}")


def _kind(capability: type) -> str:
    """Name of a capability for people."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", capability.__name__).lower()


def check_prior_name(capability: type, name: str, flag_prefix: str) -> None:
    """Refuse a name that no prior has; nothing is imported.

    Args:
        capability: a protocol of ``base``.
        name: as given.
        flag_prefix: beginning of its flag: ``--pipeline.guidance.fixer``.

    Raises:
        UserError: naming the flag, and the nearest name there is.
    """
    kind, known = _kind(capability), available_priors(capability)
    if "." not in name and name not in known:
        near = difflib.get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]}? There are " if near else "there are "
        raise UserError(
            f"{flag_prefix}.name {name}: no {kind} has this name; {meant}{', '.join(known)}, or package.module of yours"
        )


class _Selected(Protocol):
    """Part that all configurations of priors have."""

    name: str
    weights: str | None
    dtype: Any


def load_selected(
    load: Callable[..., Prior],
    capability: type,
    selected: _Selected,
    device: torch.device,
    flag_prefix: str,
    options: tuple[tuple[str, Any], ...] = (),
) -> Prior:
    """Load what flags select, once per process.

    Args:
        load: function of this module.
        capability: the protocol of ``base`` that it gives.
        selected: name, weights and the name of a precision.
        device: where its networks live.
        flag_prefix: as of ``check_prior_name``.
        options: as of ``load``.

    Raises:
        UserError: name, weights or options are unusable; it names the flags.
    """
    dtype = getattr(torch, selected.dtype) if selected.dtype else None
    try:
        return load(selected.name, selected.weights, str(device), dtype, options)
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"the {_kind(capability)} {selected.name!r} cannot be loaded ({flag_prefix}.name, {flag_prefix}.weights): "
            f"{error}"
        ) from error


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
