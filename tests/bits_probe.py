"""What one checkout computes, bit for bit: ``python bits_probe.py ORDER.json``, run by ``same_bits.py``.

It is run with the Python and the package of either checkout, so it imports nothing else from the tests. What differs
between versions of the package is in the section "Versions", nowhere else.
"""

from __future__ import annotations

import gc
import hashlib
import json
import random
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml

Rows = list[tuple[str, str]]
"""Labels and values in order"""
Told = dict[str, Rows]
"""Rows by what they are of"""

STEPS = 220
BASE = "default"
"""the training whose checkpoint ``resumed`` goes on from"""
SAVED_AT = 168
"""step of that checkpoint; the second round starts at step 165 and takes a step for each of its 8 views"""
DEPTH_WEIGHT = "0.1"

# ---------------------------------------------------------------------------------------------------------- Versions

PACKAGE = "difix3d_ns"
_SPEC = find_spec(PACKAGE)
assert _SPEC is not None and _SPEC.origin is not None
FOLDER = Path(_SPEC.origin).parent
NEW = (FOLDER / "guidance").is_dir()
"""after the move of modules, classes and flags"""
METHOD = "difix3d-splatfacto"

_NEW_FLAGS = {
    "--pipeline.rounds": "--pipeline.guidance.rounds",
    "--pipeline.targets.count": "--pipeline.guidance.targets.count",
    "--pipeline.depth-weight": "--pipeline.guidance.depth-weight",
    "--pipeline.fixer.name": "--pipeline.guidance.fixer.name",
    "--pipeline.model.densification": "--pipeline.model.strategy",
    "--pipeline.model.max-gaussians": "--pipeline.model.max-gs-num",
}


def flags_of_version(flags: Sequence[str]) -> list[str]:
    """Flags by their old names, as this checkout calls them."""
    return [_NEW_FLAGS.get(flag, flag) for flag in flags] if NEW else list(flags)


def plain_flags() -> list[str]:
    """All helps off."""
    off = flags_of_version(["--pipeline.rounds", "0"])
    return [*off, "--pipeline.sparse-helps", "False"] if NEW else off


def pool_of(pipeline: Any) -> Any | None:
    if NEW:
        return getattr(pipeline.guidance, "pool", None)
    return pipeline.rounds.pool if pipeline.rounds is not None else None


def pool_views(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Key ``target/003@2`` (target 3 of round 2) and unpacked view of all entries, in the pool's order."""
    pool = pool_of(pipeline)
    if pool is None:
        return
    for key in pool:
        if NEW:
            yield str(key), pool.get(key)
        else:
            entry = pool.entry(key)
            yield f"target/{entry.target:03d}@{entry.round}", pool.get(key)


def map_of(view: Any, name: str) -> torch.Tensor | None:
    """A map of a view of the pool, by its old name."""
    if NEW and name == "depth_confidence":
        known = view.depth is not None and isinstance(view.depth_weight, torch.Tensor)
        return view.depth_weight if known else None
    return getattr(view, name)


def queue_of(pipeline: Any) -> list[Any]:
    """Views the present round still has to make."""
    if NEW:
        return list(pipeline.guidance.queue.tasks)
    return list(pipeline.rounds.progress.queue) if pipeline.rounds is not None else []


def pool_generator(pipeline: Any) -> torch.Generator | None:
    return getattr(pipeline, "view_generator", None) if NEW else pipeline.datamanager.pseudo_random


def reference_choice() -> tuple[Any, str]:
    """Class and method that choose references, as positions in the training dataset."""
    if NEW:
        from difix3d_ns.ns.reference_views import ReferenceViews

        return ReferenceViews, "select"
    from difix3d_ns.photographs import Photographs

    return Photographs, "choose_indices"


def write_demo_scene(folder: Path, **options: int) -> Path:
    if NEW:
        from difix3d_ns.data.procedural import demo_scene
    else:
        from difix3d_ns.curation.procedural import demo_scene
    return demo_scene(folder, **options)


def curate(scene: str, output: Path, **options: Any) -> None:
    if NEW:
        from difix3d_ns.data.curate import curate as make
        from difix3d_ns.data.options import CurationOptions
    else:
        from difix3d_ns.curation.curate import curate as make
        from difix3d_ns.curation.options import CurationOptions
    make([scene], output, CurationOptions(**options))


def train_fixer(recipe: Path, output: Path, shards: Path) -> dict[str, Any]:
    if NEW:
        from difix3d_ns.training.prior_recipe import load_recipe
        from difix3d_ns.training.train import train

        return train(load_recipe(str(recipe)), output, shards, device="cpu")
    from difix3d_ns.training.train_fixer import train_fixer

    return train_fixer(recipe, output, shards, device="cpu")


def smoke_recipe() -> Path:
    """The recipe of a fixer's training that is over in a minute."""
    found = [path for path in sorted(FOLDER.parent.glob("configs/*/smoke.yaml")) if "phases:" in path.read_text()]
    assert len(found) == 1, f"{len(found)} recipes smoke.yaml with phases in {FOLDER.parent / 'configs'}"
    return found[0]


# ------------------------------------------------------------------------------------------------------------ Values


def checksum(value: Any) -> str:
    """Of a tensor's or array's type, shape and bytes, or of bytes."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray):
        head = f"{value.dtype.str} {value.shape} ".encode()
        return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).hexdigest()
    return hashlib.sha256(value).hexdigest()


def plain(value: Any) -> str:
    """A number with all its bits, or a short text."""
    if isinstance(value, torch.Tensor):
        return float(value).hex() if value.numel() == 1 else checksum(value)
    return value.hex() if isinstance(value, float) else str(value)


def leaves(value: Any, label: str = "") -> Iterator[tuple[str, str]]:
    """All that is in nested mappings and lists."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{label}/{key}" if label else str(key))
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from leaves(one, f"{label}/{index}")
    else:
        yield label, plain(value)


def generators(pipeline: Any) -> Rows:
    """All that was drawn from, where training ended."""
    _, words, *rest = np.random.get_state()
    rows = [
        ("torch", checksum(torch.get_rng_state())),
        ("numpy", checksum(np.asarray(words).tobytes() + repr(rest).encode())),
        ("python", checksum(repr(random.getstate()).encode())),
    ]
    if (of_pool := pool_generator(pipeline)) is not None:
        rows.append(("pool", checksum(of_pool.get_state())))
    manager = pipeline.datamanager
    rows.append(("photographs", checksum(repr(manager.random_generator.getstate()).encode())))
    return [*rows, ("photographs not yet seen", str(list(manager.train_unseen_cameras)))]


def pool_rows(pipeline: Any) -> Rows:
    rows: Rows = []
    for key, view in pool_views(pipeline):
        for name in ("image", "confidence", "depth", "depth_confidence"):
            values = map_of(view, name)
            rows.append((f"{key} {name}", checksum(values) if values is not None else "none"))
    return rows


def parameter_rows(trainer: Any) -> tuple[Rows, Rows]:
    """Parameters and Adam's moments, by group of the optimizers."""
    parameters: Rows = []
    moments: Rows = []
    for group, optimizer in trainer.optimizers.optimizers.items():
        # not of trainer.optimizers.parameters: those that densification replaced stay there
        members = [parameter for one in optimizer.param_groups for parameter in one["params"]]
        for index, parameter in enumerate(members):
            parameters.append((f"{group}/{index}", checksum(parameter)))
            state = optimizer.state[parameter]
            moments += [(f"{group}/{index} {name}", plain(value)) for name, value in sorted(state.items())]
    return parameters, moments


def files(folder: Path, pattern: str = "**/*") -> Rows:
    """Names and contents of all files, pictures unpacked."""
    from PIL import Image

    rows = []
    for path in sorted(folder.glob(pattern)):
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                rows.append((str(path.relative_to(folder)), checksum(np.array(picture))))
        elif path.is_file():
            rows.append((str(path.relative_to(folder)), checksum(path.read_bytes())))
    return rows


def _wrapped(function: Callable[..., Any], look: Callable[[Any], None]) -> Callable[..., Any]:
    def watched(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        look(result)
        return result

    return watched


# ------------------------------------------------------------------------------------------------------------- Cases

TRAININGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    BASE: ("--steps-per-save", str(SAVED_AT)),
    "depth-weight": ("--pipeline.depth-weight", DEPTH_WEIGHT),
    "mcmc": ("--pipeline.model.densification", "mcmc"),
    "exposures": ("--pipeline.model.exposure", "True"),
    "blend": ("--pipeline.fixer.name", "blend"),
    "resumed": (),
}
"""Their flags by old names; what ``plain`` and ``resumed`` need is only known where they run"""
EVALUATED = (BASE, "blend")
"""by ns-eval, with the enhancer on"""


class Probe:
    """Runs cases in one checkout.

    Args:
        scene: all trainings are of; another process may still be writing it.
        output: folder for what they write.
        steps: of a training; fewer only to compile the kernels.
    """

    def __init__(self, scene: Path, output: Path, steps: int = STEPS) -> None:
        self._scene, self._output, self._steps = scene, output, steps

    def run(self, case: str) -> Told:
        """What a case gave."""
        _seed()
        if case in TRAININGS:
            _wait_for(self._scene)
            return self._training(case)
        return {"demo-scene": self._demo_scene, "curate": self._curate, "train-fixer": self._train_fixer}[case]()

    def _training(self, case: str) -> Told:
        from nerfstudio.engine.trainer import Trainer

        losses: Rows = []
        chosen: Rows = []
        told: Told = {}

        def train(trainer: Any) -> None:
            pipeline = trainer.pipeline
            if case == "resumed":
                _check_middle_of_round(trainer)
            get_losses = pipeline.get_train_loss_dict

            def watched(step: int) -> Any:
                result = get_losses(step=step)
                losses.extend((f"step {step} {name}", plain(result[1][name])) for name in sorted(result[1]))
                return result

            pipeline.get_train_loss_dict = watched
            original(trainer)
            told["losses"] = losses
            told["references"] = list(chosen)
            told["pool"] = pool_rows(pipeline)
            told["generators"] = generators(pipeline)
            told["parameters"], told["moments"] = parameter_rows(trainer)

        def choose(indices: Any) -> None:
            chosen.append((f"view {len(chosen)}", str([int(index) for index in indices])))

        original = Trainer.train
        owner, name = reference_choice()
        with (
            mock.patch.object(Trainer, "train", train),
            mock.patch.object(owner, name, _wrapped(getattr(owner, name), choose)),
        ):
            self._ns_train(case)
            if case in EVALUATED:
                chosen.clear()
                told["ns-eval"] = self._evaluate(case)
                told["references in ns-eval"] = chosen
        _check_case(case, told)
        return told

    def _ns_train(self, case: str) -> None:
        from nerfstudio.scripts.train import entrypoint

        flags = [*TRAININGS[case], "--pipeline.targets.count", "4", "--pipeline.model.max-gaussians", "5000"]
        flags = flags_of_version(flags) + (plain_flags() if case == "plain" else [])
        if case == "resumed":
            base = self._run_folder(BASE) / "nerfstudio_models"
            flags += ["--load-dir", str(base), "--load-step", str(SAVED_AT)]
        arguments = [
            *("ns-train", METHOD, "--data", str(self._scene), "--output-dir", str(self._output)),
            *("--experiment-name", case, "--timestamp", "run", "--vis", "tensorboard"),
            *("--max-num-iterations", str(self._steps), "--machine.device-type", "cpu", *flags),
        ]
        with mock.patch.object(sys, "argv", arguments):
            entrypoint()

    def _run_folder(self, case: str) -> Path:
        return self._output / case / METHOD / "run"

    def _evaluate(self, case: str) -> Rows:
        from nerfstudio.scripts.eval import ComputePSNR

        _seed()
        path = self._output / f"{case}_eval.json"
        ComputePSNR(load_config=self._run_folder(case) / "config.yml", output_path=path).main()
        results = json.loads(path.read_text())["results"]
        return [row for row in leaves(results) if "per_sec" not in row[0] and "fps" not in row[0]]

    def _demo_scene(self) -> Told:
        folder = self._output / "demo"
        return {"files": files(write_demo_scene(folder, width=96, height=64, train_views=2, test_views=2))}

    def _curate(self) -> Told:
        import tarfile

        output = self._output / "shards"
        options = {"long_side": 96, "steps": 20, "max_gaussians": 600, "references": 2, "samples": 3}
        curate("procedural-seed:3", output, **options, split="train")
        rows: Rows = []
        for path in sorted(output.glob("*/*/*.tar")):
            with tarfile.open(path) as shard:
                for member in shard:
                    file = shard.extractfile(member)
                    assert file is not None
                    rows.append((f"{path.relative_to(output)} {member.name}", checksum(file.read())))
        return {"shards": rows, "lists of shards": files(output, "*/*/*.json")}

    def _train_fixer(self) -> Told:
        from accelerate import Accelerator

        content = yaml.safe_load(smoke_recipe().read_text())
        content |= {"scenes": [], "watch_samples": 3, "validation_samples": 3}
        for phase, steps in zip(content["phases"], (12, 8), strict=True):
            phase["steps"] = steps
        shards = self._output / "shards of fixer"
        shards.mkdir()
        for split in ("train", "validation"):
            (shards / split).symlink_to(self._output / "shards" / "train")
        recipe = self._output / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(content, sort_keys=False))  # sums depend on the order of losses
        losses: Rows = []

        def backward(accelerator: Any, loss: torch.Tensor, **named: Any) -> None:
            losses.append((f"step {len(losses)}", plain(loss)))
            original(accelerator, loss, **named)

        original = Accelerator.backward
        with mock.patch.object(Accelerator, "backward", backward):
            metrics = train_fixer(recipe, self._output / "fixer", shards)
        weights: Rows = []
        from safetensors.torch import load_file

        for path in sorted((self._output / "fixer").glob("*.safetensors")):
            weights += [(f"{path.name} {key}", checksum(value)) for key, value in sorted(load_file(path).items())]
        return {"losses": losses, "weights": weights, "metrics": list(leaves(metrics))}


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def _wait_for(folder: Path, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not folder.exists():
        if time.monotonic() > end:
            raise RuntimeError(f"{folder} was not made")
        time.sleep(0.1)


def _check_middle_of_round(trainer: Any) -> None:
    if trainer._start_step != SAVED_AT + 1:
        raise RuntimeError(f"resumed at step {trainer._start_step}, not {SAVED_AT + 1}")
    left, made = len(queue_of(trainer.pipeline)), sum(1 for _ in pool_views(trainer.pipeline))
    if not left or not made:
        raise RuntimeError(f"the checkpoint of step {SAVED_AT} is not within a round: {left} left, {made} made")
    print(f"resumed with {left} views left in the queue and {made} in the pool")


def _check_case(case: str, told: Told) -> None:
    """What makes a case worth comparing."""
    if case == "depth-weight" and not (
        any(label.endswith(" depth") and value != "none" for label, value in told["pool"])
        and any("depth_loss" in label for label, _ in told["losses"])
    ):
        raise RuntimeError("no depth in pool or losses")
    if case == "exposures" and not any(label.startswith("exposure") for label, _ in told["parameters"]):
        raise RuntimeError("no exposures among the parameters")
    if case in EVALUATED and not any(label.startswith("enhanced_") for label, _ in told["ns-eval"]):
        raise RuntimeError("ns-eval measured no enhanced pictures")


def compiled_here() -> list[str]:
    """Kernels of the package that numba compiled in this process although it has a cache."""
    from numba.core.dispatcher import Dispatcher

    kernels = [one for one in gc.get_objects() if isinstance(one, Dispatcher)]
    ours = [one for one in kernels if one.py_func.__module__.startswith(PACKAGE)]
    return sorted(f"{one.py_func.__module__}.{one.py_func.__name__}" for one in ours if one.stats.cache_misses)


def make_scene(folder: Path) -> None:
    """The scene of all trainings, evaluation pictures first; written by one of the checkouts."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    write_demo_scene(part, seed=3, width=128, height=96, train_views=6, test_views=3)
    path = part / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"].sort(key=lambda frame: frame["file_path"] not in content["test_filenames"])
    path.write_text(json.dumps(content))
    part.rename(folder)


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    output = Path(order["output"])
    output.mkdir(parents=True, exist_ok=True)
    assert FOLDER.parent.resolve() == Path(order["checkout"]), f"{PACKAGE} was imported from {FOLDER.parent}"
    if order["makes_scene"] and not Path(order["scene"]).exists():
        make_scene(Path(order["scene"]))
    probe = Probe(Path(order["scene"]), output, order["steps"])
    told: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for case in order["cases"]:
        started = time.monotonic()
        try:
            told[case] = probe.run(case)
        except (Exception, SystemExit) as error:  # the other cases are worth comparing all the same
            traceback.print_exc()
            failed[case] = f"{type(error).__name__}: {error}"
        print(f"=== {case}: {time.monotonic() - started:.1f} s", flush=True)
    answer = {"told": told, "failed": failed, "compiled": compiled_here()}
    Path(order["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
