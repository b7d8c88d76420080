"""Full-size networks at random on a CUDA device, without any of gsplat's kernels: python networks.py OUT [CHECK...]

``fixer``: milliseconds a picture of the Difix architecture, by precision, memory format, references and compilation.
``fine_tuning``: the official recipe's steps an hour, from a folder as stabilityai/sd-turbo has it, and their memory.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.fixer import REFERENCES, SCHEDULER, UNET, VAE, full_size, randomise, time_ours
from difix3d_ns.io.atomic import write_json, write_tensors
from difix3d_ns.priors.difix import DifixFixer
from difix3d_ns.priors.networks.difix_net import DifixNet
from difix3d_ns.priors.published.folder import WEIGHTS
from difix3d_ns.priors.published.prompt import write_prompt
from difix3d_ns.training.prior_recipe import load_recipe
from difix3d_ns.training.train import train
from difix3d_ns.training.training_loop import CHECKPOINT
from tests.gpu.run.checks import Checks
from tests.unit.training_samples import write_shards

SIZE = (576, 1024)  # height, width: what Difix was trained at

check = Checks()


@check
def fixer(size: tuple[int, int] = SIZE, batches: Sequence[int] = (1, 4), repeats: int = 10) -> dict[str, str]:
    """Milliseconds a picture: eager by precision and memory format, then the default compiled."""
    results = {}
    cases = [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float16, True), (torch.float16, False)]
    network = full_size("cuda")
    for (dtype, last), compiled in [*((case, False) for case in cases), (cases[0], True)]:
        arranged = torch.channels_last if last else torch.contiguous_format
        ours = DifixFixer(network.to(dtype).to(memory_format=arranged), compile=compiled)
        for reference, batch in itertools.product(REFERENCES, batches):
            timing = time_ours(ours, size, reference, batch, repeats, "cuda")
            name = f"{str(dtype).removeprefix('torch.')}, channels {'last' if last else 'first'}"
            name += f"{', compiled' if compiled else ''}, reference {reference}, batch {batch}"
            results[name] = f"{1000 * timing.seconds:.1f} ms, peak {timing.memory:.2f} GiB"
            print(f"{name}: {results[name]}", flush=True)
    return results


@check
def fine_tuning(steps: int = 60, size: tuple[int, int] = SIZE, device: str = "cuda") -> dict[str, Any]:
    """Steps an hour of configs/prior/difix-finetune.yaml, checkpoints not counted.

    Its losses that need VGG16's weights are left out: they are another network, not another arithmetic.
    """
    recipe = load_recipe("difix-finetune")
    phases = [replace(phase, steps=10 * steps) for phase in recipe.phases]  # the end is not reached: it only saves
    with _workspace() as folder:
        start = write_sd_turbo_shaped(folder / "start", device=device)
        shards = write_shards(folder / "shards", train=8, validation=2, references=1, size=size)
        recipe = replace(
            recipe,
            start=str(start),
            phases=tuple(phases),
            crop=size,
            losses={"l2": 1.0, "ms-ssim": 0.5},
            decides="none",
            workers=0,
        )
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        train(recipe, folder / "out", shards, device=device, stop_after=steps)  # type: ignore[arg-type]
        whole = time.perf_counter() - began
        state = torch.load(folder / "out" / CHECKPOINT, map_location="cpu", weights_only=True, mmap=True)["state"]
    per_step = state["elapsed"] / state["step"]
    return {
        "steps": state["step"],
        "pictures a step": recipe.batch * recipe.accumulate,
        "seconds a step": round(per_step, 3),
        "steps an hour": round(3600 / per_step),
        "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
        "seconds with reading and saving": round(whole, 1),
    }


@contextmanager
def _workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def write_sd_turbo_shaped(
    folder: Path, unet: Mapping[str, Any] = UNET, vae: Mapping[str, Any] = VAE, device: str = "cpu"
) -> Path:
    """Write random weights in the layout and shapes of stabilityai/sd-turbo, float16, with the prompt's embedding."""
    with torch.device("meta"):
        network = DifixNet(dict(unet), dict(vae), SCHEDULER, torch.zeros(77, unet["cross_attention_dim"]))
    network = network.to_empty(device=device)
    randomise(network)
    for name, config, part in (("unet", unet, network.unet), ("vae", vae, network.vae)):
        tensors = {key: value.half().contiguous() for key, value in part.state_dict().items()}
        write_json(folder / name / "config.json", dict(config))
        write_tensors(folder / name / WEIGHTS, tensors)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_prompt(folder, network.prompt.cpu())
    return folder


if __name__ == "__main__":
    check.run(Path(sys.argv[1]) / "networks.json", sys.argv[2:])
