"""One training of a benchmark and all looks at it, with its state on disk."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.bench_recipe import Method, Recipe, Value
from difix3d_ns.evaluation.bench.kept_pictures import keep_pictures
from difix3d_ns.evaluation.bench.provenance import (
    LOADED,
    code_digest,
    commit,
    data_digest,
    hardware,
    method_modules,
    software,
)
from difix3d_ns.evaluation.runs import DEFAULT_METHOD
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.checkpoints import checkpoint_steps

Changed = Literal["refuse", "redo", "keep"]
State = dict[str, Any]
"""What is on disk of a job; ``parts`` holds the metrics of every look by its name."""

_warm = threading.Event()


class CodeChanged(UserError):
    """Somebody works on the code that is being measured."""


@dataclass(frozen=True)
class Scene:
    """A capture to train on."""

    path: Path
    name: str  # of its folder; unique in a benchmark


@dataclass(frozen=True)
class Job:
    """One training."""

    scene: Scene
    training: str  # the method that is trained
    seed: int

    def __str__(self) -> str:
        return f"{self.scene.name}, {self.training}, seed {self.seed}"

    def folder(self, output: Path) -> Path:
        """Where all of it is."""
        return output / "runs" / self.scene.name / self.training / f"seed-{self.seed}"

    def log(self, output: Path) -> Path:
        """What training and evaluation said."""
        return self.folder(output) / "log.txt"

    def ns_method(self, recipe: Recipe) -> str:
        """What ns-train is given."""
        return recipe.methods[self.training].ns_method

    def flags(self, recipe: Recipe) -> list[str]:
        """Of its ns-train, beyond scene and output."""
        method = recipe.methods.get(self.training)
        assert method is not None and method.flags is not None and recipe.steps is not None
        between = recipe.steps // method.checkpoints if method.checkpoints > 1 else recipe.steps
        shared: dict[str, Value] = {
            "max-num-iterations": recipe.steps,
            "steps-per-save": max(1, between),
            "save-only-latest-checkpoint": False,
            "machine.seed": self.seed,
            "pipeline.datamanager.train-cameras-sampling-seed": 42 + self.seed,
        }
        return [
            word for name, value in {**shared, **recipe.flags, **method.flags}.items() for word in _flag(name, value)
        ]

    def state(self, output: Path) -> State | None:
        """What is there of it; None before its training has ended.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder(output) / "job.json"
        if not path.is_file():
            return None
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            state["identity"]["flags"], state["parts"], state["id"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): delete {path.parent} and start again") from error
        return state

    def differences(self, output: Path, recipe: Recipe) -> list[str]:
        """What its state on disk was made with and is not so any more; empty as well where there is none."""
        state = self.state(output)
        if state is None:
            return []
        before, now = state["identity"], self.identity(recipe)
        found = []
        if _ns_method(before) != now["ns_method"]:
            found.append(f"recipe: ns_method {_ns_method(before)}, now {now['ns_method']}")
        if before["flags"] != now["flags"]:
            found.append(_flags_told(before["flags"], now["flags"]))
        if before["data"] != now["data"]:
            found.append("scene: its files have changed")
        if before["code"] != now["code"]:
            found.append(f"code: {state['commit']}, now {commit()}")
        return found

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        """What its numbers depend on."""
        flags = self.flags(recipe)
        method = self.ns_method(recipe)
        # a prior of somebody else's is named by its module
        priors = [value for name, value in _by_name(flags).items() if name.endswith(".name") and "." in value]
        code = code_digest(*priors, *method_modules(method))
        return {"data": data_digest(self.scene.path), "ns_method": method, "flags": flags, "code": code}


def missing_parts(job: Job, recipe: Recipe, state: State | None) -> list[Method]:
    """Methods that have not been looked at yet."""
    looks = recipe.looks(job.training)
    if state is None:
        return looks
    seen = {part["look"]["method"]: part["look"] for part in state["parts"].values()}
    return [method for method in looks if seen.get(method.name) != look_identity(method)]


def run_job(job: Job, recipe: Recipe, output: Path, changed: Changed = "refuse") -> State:
    """Train and look, as far as that is not done.

    Args:
        job: which.
        recipe: with its steps filled in.
        output: of the benchmark.
        changed: what becomes of a state made otherwise (see ``bench``).

    Returns:
        Its state, as on disk.

    Raises:
        CodeChanged: since this process began, and that is not to be kept.
        UserError: something failed; the message names scene, method and log.
    """
    if changed != "keep" and code_digest() != LOADED:
        raise CodeChanged(
            f"{job}: the code has changed while the benchmark ran; start again, in a checkout that nobody works in "
            "(or with --changed keep)"
        )
    folder, log = job.folder(output), job.log(output)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock")):  # released when its owner dies, however that happens
            if changed == "redo" and job.differences(output, recipe):
                shutil.rmtree(folder)
            state = job.state(output)
            if state is not None and changed == "refuse" and (reasons := job.differences(output, recipe)):
                raise UserError(f"made meanwhile by another benchmark ({'; '.join(reasons)}); give another --output")
            if state is None:
                state = _train(job, recipe, output)
            if missing := missing_parts(job, recipe, state):
                _look(job, recipe, output, state, missing)
            return state
    except Exception as error:  # whatever went wrong with one training, the others go on
        if log.parent.is_dir() and not isinstance(error, UserError):
            with log.open("a", encoding="utf-8") as file:
                file.write(traceback.format_exc())
        reason = " ".join(str(error).split()) or type(error).__name__
        told = _last_error(log)
        told = f" ({told})" if told and told not in reason else ""
        raise UserError(f"{job}: {reason}{told}" + ("" if str(log) in reason else f"; see {log}")) from error


def _train(job: Job, recipe: Recipe, output: Path) -> State:
    from difix3d_ns.evaluation.runs import train

    folder = job.folder(output)
    shutil.rmtree(folder, ignore_errors=True)  # of a training that was interrupted
    folder.mkdir(parents=True)
    _warm_up(job, recipe, output)
    identity, made_with = job.identity(recipe), commit()
    made = {"log": job.log(output), "method": identity["ns_method"]}
    done = train(job.scene.path, folder, "training", identity["flags"], **made)
    state: State = {
        "id": uuid.uuid4().hex,
        "scene": job.scene.name,
        "training": job.training,
        "seed": job.seed,
        "identity": identity,
        "commit": made_with,
        "date": time.strftime("%Y-%m-%d"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),  # when it ended
        "hardware": hardware(),
        "software": software(),
        "seconds": done.seconds,
        "peak_mb": done.peak_mb,
        "parts": {},
    }
    write_json(folder / "job.json", state)
    return state


def _warm_up(job: Job, recipe: Recipe, output: Path) -> None:
    """Compile what is compiled at the first use, once per process: no training's seconds shall hold it."""
    from difix3d_ns.evaluation.runs import train

    if _warm.is_set():
        return
    # the method that has no prior: what there is to compile is the same, and no guidance has work in it
    shared = {name: value for name, value in recipe.flags.items() if not name.startswith("pipeline.guidance.")}
    shared |= {"max-num-iterations": 10, "pipeline.initial-points.stereo": 0, "pipeline.floaters.min-depth": 0.0}
    flags = [word for name, value in shared.items() for word in _flag(name, value)]
    train(job.scene.path, job.folder(output), "warm-up", flags, log=job.log(output), method="sparse-splatfacto")
    shutil.rmtree(job.folder(output) / "warm-up")
    _warm.set()


def _look(job: Job, recipe: Recipe, output: Path, state: State, methods: Sequence[Method]) -> None:
    from difix3d_ns.evaluation.runs import HeldOutView, config_of, look

    folder = job.folder(output)
    lowest = min(int(path.name.removeprefix("seed-")) for path in folder.parent.glob("seed-*") if path.is_dir())
    config = config_of(folder, "training", job.ns_method(recipe))
    steps = checkpoint_steps(config.parent / "nerfstudio_models")
    with ExitStack() as stack:
        file = stack.enter_context(job.log(output).open("a", encoding="utf-8"))
        stack.enter_context(redirect_stdout(file))
        stack.enter_context(redirect_stderr(file))

        def keep(name: str, method: Method, views: list[HeldOutView], pictures: list[Tensor], rest: State) -> None:
            truths = [view.truth for view in views]
            metrics = _metrics(pictures, truths) | {"peak_mb": state["peak_mb"], **rest}
            state["size"] = [truths[0].shape[1], truths[0].shape[0]]
            state["parts"][name] = {"look": look_identity(method), "metrics": metrics}
            if job.seed == lowest:
                keep_pictures(output / "pictures" / job.scene.name, name, pictures, truths, recipe.pictures)

        for method in (m for m in methods if m.earlier):
            for step in sorted(steps[1:]):
                seen = look(config, enhance=False, step=step)
                renders = [view.render for view in seen.views]
                # what stopping there would have taken was not measured
                early: State = {"seconds": None, "gaussians": seen.gaussians}
                keep(f"{method.name}@{step}", method, seen.views, renders, early)
        plain = [method for method in methods if not method.earlier and not method.enhanced]
        fixed = [method for method in methods if not method.earlier and method.enhanced]
        strengths: list[float | None] = list(dict.fromkeys(method.strength for method in fixed))
        for strength in strengths or ([None] if plain else []):
            seen = look(config, enhance=bool(fixed), strength=strength)
            if problems := [view.problem for view in seen.views if view.problem]:
                raise UserError(f"the enhancer failed: {problems[0]}")
            rest: State = {"seconds": state["seconds"], "gaussians": seen.gaussians}
            for method in plain:
                keep(method.name, method, seen.views, [view.render for view in seen.views], rest)
            plain = []  # every strength would show the same
            rest["seconds"] += seen.seconds
            for method in (method for method in fixed if method.strength == strength):
                pictures = [view.enhanced for view in seen.views if view.enhanced is not None]
                keep(method.name, method, seen.views, pictures, rest)
    write_json(folder / "job.json", state)


def _metrics(pictures: Sequence[Tensor], truths: Sequence[Tensor]) -> dict[str, float | None]:
    from difix3d_ns.metrics.image import image_metrics, mean_metrics
    from difix3d_ns.metrics.perceptual import FID, LazyLPIPS, MissingWeights

    pairs = list(zip(pictures, truths, strict=True))
    means: dict[str, float | None] = {**mean_metrics([image_metrics(p, t) for p, t in pairs])}
    lpips = LazyLPIPS("alex", lambda _: None)
    distances = [lpips.measure(p, t) for p, t in pairs]
    means["lpips"] = None if any(map(math.isnan, distances)) else sum(distances) / len(distances)
    try:
        means["fid"] = FID()(pictures, truths) if len(pairs) > 1 else None
    except MissingWeights:
        means["fid"] = None
    return means


def look_identity(method: Method) -> dict[str, Any]:
    """What the numbers of a look depend on, beside its training."""
    return {
        "method": method.name,
        "enhanced": method.enhanced,
        "strength": method.strength,
        "earlier": method.earlier,
    }


def made_by(state: State, job: Job, recipe: Recipe) -> bool:
    """Whether a state is of the training that the recipe would make now."""
    made = state["identity"]
    return _ns_method(made) == job.ns_method(recipe) and made["flags"] == job.flags(recipe)


def _ns_method(identity: dict[str, Any]) -> str:
    return str(identity.get("ns_method", DEFAULT_METHOD))


def _flag(name: str, value: Value) -> tuple[str, str]:
    return f"--{name}", str(value)


def _by_name(flags: Sequence[str]) -> dict[str, str]:
    return dict(zip(flags[::2], flags[1::2], strict=True))


def _flags_told(before: Sequence[str], now: Sequence[str]) -> str:
    old, new = _by_name(before), _by_name(now)
    names: Iterable[str] = dict.fromkeys([*old, *new])
    changes = [f"{name} {old.get(name, 'unset')}, now {new.get(name, 'unset')}" for name in names]
    return "recipe: " + "; ".join(c for c, name in zip(changes, names, strict=True) if old.get(name) != new.get(name))


def _last_error(log: Path) -> str:
    """The last line of a log that tells of a mistake."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.startswith("Error:")), "")
