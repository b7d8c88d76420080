"""One training of a benchmark and its evaluations, with their rows on disk."""

from __future__ import annotations

import functools
import json
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation import runs
from difix3d_ns.evaluation.bench import provenance
from difix3d_ns.evaluation.bench.bench_recipe import Method, Recipe, flag_words
from difix3d_ns.evaluation.bench.kept_pictures import keep_pictures
from difix3d_ns.evaluation.bench.rows import Row, add_rows, flags_by_name, read_rows
from difix3d_ns.evaluation.evaluation_masks import read_masks
from difix3d_ns.evaluation.measures import agreements, colour_corrected, counted, detail_metrics
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.checkpoints import checkpoint_steps
from difix3d_ns.metrics.image import mean_metrics
from difix3d_ns.metrics.perceptual import NETS, column
from difix3d_ns.metrics.scoring import score

Changed = Literal["refuse", "redo", "keep"]

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
    """Training of a benchmark, by scene, method and seed."""

    scene: Scene
    training: str  # the method that is trained
    seed: int

    def __str__(self) -> str:
        return f"{self.scene.name}, {self.training}, seed {self.seed}"

    def folder(self, output: Path) -> Path:
        """Folder of the training, its log and its rows."""
        return output / "runs" / self.scene.name / self.training / f"seed-{self.seed}"

    def rows(self, output: Path) -> Path:
        """File of the rows of its evaluations."""
        return self.folder(output) / "rows.jsonl"

    def trained(self, output: Path) -> Row | None:
        """Fields that all rows of a finished training share, with its seconds and memory; None before it has ended.

        Raises:
            UserError: the file is damaged, or of an earlier version.
        """
        path = self.folder(output) / "training.json"
        if path.with_name("job.json").is_file():
            raise UserError(f"{path.parent} was made by an earlier version of the benchmark; give another --output")
        if not path.is_file():
            return None
        try:
            shared = json.loads(path.read_text(encoding="utf-8"))
            flags_by_name(shared["flags"]), shared["run"], shared["ns_method"], shared["code"], shared["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): delete {path.parent} and start again") from error
        return shared

    def missing(self, output: Path, recipe: Recipe) -> list[Method]:
        """Methods that have not evaluated it yet."""
        rows = read_rows(self.rows(output)) if self.trained(output) else []
        known = [row["evaluation"] for row in rows]
        return [method for method in recipe.evaluations(self.training) if method.evaluation not in known]

    def differences(self, output: Path, recipe: Recipe) -> list[str]:
        """Reasons why it would now be made otherwise than it was; none as well where there is no training."""
        made = self.trained(output)
        if made is None:
            return []
        now = self.identity(recipe)
        old, new = ({"ns_method": it["ns_method"], **flags_by_name(it["flags"])} for it in (made, now))
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        changes = [f"{name} {old.get(name, 'unset')}, now {new.get(name, 'unset')}" for name in names]
        found = [f"recipe: {'; '.join(changes)}"] if changes else []
        if made["data"] != now["data"]:
            found.append("scene: its files have changed")
        if made["code"] != now["code"]:
            found.append(f"code: {made['commit']}, now {provenance.commit()}")
        return found

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        """Scene, flags and code that the numbers depend on."""
        flags, ns_method = recipe.training_flags(self.training, self.seed), recipe.methods[self.training].ns_method
        # a prior of somebody else's is named by its module
        priors = [value for name, value in flags_by_name(flags).items() if name.endswith(".name") and "." in value]
        code = provenance.code_digest(*priors, *provenance.method_modules(ns_method))
        return {"data": provenance.data_digest(self.scene.path), "ns_method": ns_method, "flags": flags, "code": code}


def run_job(job: Job, recipe: Recipe, output: Path, changed: Changed = "refuse") -> str:
    """Train and evaluate, as far as that is not done, and return what failed, empty if nothing.

    Whatever goes wrong with one training, the others can go on. The message names scene, method and log.

    Args:
        job: which.
        recipe: with its steps filled in.
        output: folder of the benchmark.
        changed: what becomes of a training made otherwise (see ``bench``).

    Raises:
        CodeChanged: since this process began, and that is not to be kept.
    """
    if changed != "keep" and provenance.code_digest() != provenance.LOADED:
        raise CodeChanged(
            f"{job}: the code has changed while the benchmark ran; start again, in a checkout that nobody works in "
            "(or with --changed keep)"
        )
    folder = job.folder(output)
    log = folder / "log.txt"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock")):  # released when its owner dies, however that happens
            reasons = [] if changed == "keep" else job.differences(output, recipe)
            if reasons and changed == "refuse":
                raise UserError(f"made meanwhile by another benchmark ({'; '.join(reasons)}); give another --output")
            trained = None if reasons else job.trained(output)
            if trained is None:
                shutil.rmtree(folder, ignore_errors=True)  # of a training made otherwise, or interrupted
                trained = _train(job, recipe, folder, log)
            if methods := job.missing(output, recipe):
                with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
                    _evaluate(job, recipe, output, trained, methods)
    except Exception as error:
        if log.parent.is_dir() and not isinstance(error, UserError):
            with log.open("a", encoding="utf-8") as file:
                file.write(traceback.format_exc())
        reason = " ".join(str(error).split()) or type(error).__name__
        cause = _last_error(log)
        cause = f" ({cause})" if cause and cause not in reason else ""
        return f"{job}: {reason}{cause}" + ("" if str(log) in reason else f"; see {log}")
    return ""


def row_of(trained: Row, recipe: Recipe, method: Method, metrics: Mapping[str, Any], step: int | None = None) -> Row:
    """The row of an evaluation of a training.

    Args:
        trained: fields that all rows of the training share.
        recipe: that the method is of.
        method: which evaluated.
        metrics: means over held-out views, and seconds.
        step: of an earlier checkpoint; None for the last.
    """
    name = method.name if step is None else f"{method.name}@{step}"
    shared = {key: value for key, value in trained.items() if key not in ("seconds", "peak_mb")}
    flags = f"--{recipe.kind} {recipe.name} --methods {method.name} --seeds {trained['seed']}"
    data = "FOLDER" if recipe.kind == "protocol" else trained["scene"]
    return {
        **shared,
        "run": f"{trained['run']}/{name}",
        "command": f"difix3d bench {data} --output DIR {flags}",
        "method": name,
        "evaluation": method.evaluation,
        "metrics": {**metrics, "peak_mb": trained["peak_mb"]},
    }


def _train(job: Job, recipe: Recipe, folder: Path, log: Path) -> Row:
    folder.mkdir(parents=True)
    _warm_up(job, recipe, folder, log)
    identity, made_with = job.identity(recipe), provenance.commit()
    done = runs.train(job.scene.path, folder, "training", identity["flags"], log=log, method=identity["ns_method"])
    trained = {
        "run": uuid.uuid4().hex,
        "scene": job.scene.name,
        "seed": job.seed,
        **identity,
        "commit": made_with,
        "date": time.strftime("%Y-%m-%d"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),  # when it ended
        "hardware": provenance.hardware(),
        "software": provenance.software(),
        "seconds": done.seconds,
        "peak_mb": done.peak_mb,
    }
    write_json(folder / "training.json", trained)
    return trained


def _warm_up(job: Job, recipe: Recipe, folder: Path, log: Path) -> None:
    """Compile what is compiled at the first use, once per process: no training's seconds shall hold it."""
    if _warm.is_set():
        return
    # the method that has no prior: what there is to compile is the same, and no guidance has work in it
    shared = {name: value for name, value in recipe.flags.items() if not name.startswith("pipeline.guidance.")}
    shared |= {"max-num-iterations": 10, "pipeline.initial-points.stereo": 0, "pipeline.floaters.min-depth": 0.0}
    runs.train(job.scene.path, folder, "warm-up", flag_words(shared), log=log, method="sparse-splatfacto")
    shutil.rmtree(folder / "warm-up")
    _warm.set()


def _evaluate(job: Job, recipe: Recipe, output: Path, trained: Row, methods: Sequence[Method]) -> None:
    config = runs.config_of(job.folder(output), "training", trained["ns_method"])
    earlier_steps = sorted(checkpoint_steps(config.parent / "nerfstudio_models")[1:])
    enhanced = next((method for method in methods if method.enhanced), None)
    after_rounds, scoring = agreements(config.parent), recipe.scoring
    shown: dict[str, Any] = {"long_side": recipe.long_side}
    if scoring.reduced > 1:
        shown["reduced"] = scoring.reduced
    evaluate = functools.lru_cache(maxsize=1)(functools.partial(runs.evaluate, config, **shown))  # they are large
    requests = {}
    for method in methods:
        # the render is the same beside an enhanced picture of any strength: one evaluation serves both
        own = method.enhanced or method.exported is not None or method.earlier
        source = method if own else enhanced or method
        requests[method.name] = {"enhance": source.enhanced, "strength": source.strength, "exported": source.exported}
    in_turn = list(requests.values())
    for method in sorted(
        methods, key=lambda one: in_turn.index(requests[one.name])
    ):  # those that share one are neighbours
        rows = []
        for step in earlier_steps if method.earlier else [None]:
            found = evaluate(step=step, **requests[method.name])
            if problems := [view.problem for view in found.views if view.problem]:
                raise UserError(f"the enhancer failed: {problems[0]}")
            seconds = trained["seconds"] + (found.seconds if method.enhanced else 0.0)
            masks = read_masks(job.scene.path, found.views) if scoring.masks else None
            views = counted(found.views, masks)
            used = [None if masks is None else masks[view.name] for view in views]
            pictures = [view.picture(method.enhanced) for view in views]
            truths = [view.truth for view in views]
            scored = zip(pictures, truths, used, strict=True)
            metrics: dict[str, Any] = {
                **mean_metrics([score(picture, truth, scoring, mask) for picture, truth, mask in scored]),
                **(colour_corrected(pictures, truths) if masks is None else {}),
                **{column(net): None for net in NETS},  # filled in from the pictures
                "seconds": seconds if step is None else None,  # stopping at an earlier checkpoint was not measured
                "gaussians": found.gaussians,
            }
            if recipe.long_side is not None:
                each = [detail_metrics(p, t, recipe.factor) for p, t in zip(pictures, truths, strict=True)]
                metrics |= mean_metrics(each)
                metrics["agreement"] = after_rounds[-1] if after_rounds else None
            row = row_of(trained, recipe, method, metrics, step)
            sizes: dict[str, Any] = {"size": [truths[0].shape[1], truths[0].shape[0]]}
            if recipe.long_side is not None:
                sizes["trained_size"] = list(found.trained_size)
                sizes["agreements"] = after_rounds
            rows.append(row | sizes)
            keep_pictures(output, row, pictures, truths, used)
        add_rows(job.rows(output), rows)  # all checkpoints of a method, or none


def _last_error(log: Path) -> str:
    """The last line of a log that names an error."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.startswith("Error:")), "")
