"""The model card beside trained weights, written from the run's own records."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import difix3d_ns
from difix3d_ns.data.shards import find_shards, read_sidecar
from difix3d_ns.io.atomic import write_text
from difix3d_ns.training.prior_recipe import Recipe


def write_card(
    path: Path, recipe: Recipe, metrics: Mapping[str, Any], shards: Path, history: Mapping[str, Sequence[Any]]
) -> None:
    """Write ``MODEL_CARD.md``: data, licences and credits, recipe and commit, seeds, metrics per scene, limits.

    Args:
        path: of the card.
        recipe: that was run; licences, credits and limits come from its ``extra``.
        metrics: content of ``metrics.json``.
        shards: what was trained and validated on.
        history: of the run.
    """
    parts = [
        f"# Prior weights: {recipe.name}",
        _training(recipe, history),
        "## Data\n\n" + _data(recipe, shards),
        "## Measured on unseen scenes\n\n" + (_tables(metrics) if metrics else "Nothing: trained without validation."),
        "## Limits\n\n" + _list(recipe.extra.get("limits")),
    ]
    text = "\n\n".join(parts) + "\n"
    write_text(path, text)


def commit() -> str:
    """The git commit this package runs from, with "+ changes" if files differ; "unknown" outside of a checkout."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return "unknown"
    try:
        output = [
            subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return output[0].strip() + (" + changes" if output[1].strip() else "")


def _training(recipe: Recipe, history: Mapping[str, Sequence[Any]]) -> str:
    steps = {number: 0 for number in range(len(recipe.phases))}
    for row in [*history["losses"], *history["validations"]]:
        steps[row["phase"]] = max(steps[row["phase"]], row["step"])
    phases = ", then ".join(
        f"{' and '.join(phase.modules)} ({steps[number] or phase.steps} of {phase.steps} steps)"
        for number, phase in enumerate(recipe.phases)
    )
    losses = ", ".join(f"{name} {entry}" for name, entry in recipe.losses.items())
    decided = "the last averaged weights" if recipe.decides == "none" else _best(recipe, history)
    return (
        f"Made by `difix3d train-prior` with the recipe `{recipe.name}`, system `{recipe.system}`, seed {recipe.seed}; "
        f"difix3d-ns {difix3d_ns.__version__}, commit {commit()}, torch {torch.__version__}.\n\n"
        f"- Started from: {recipe.start or 'random weights'}\n"
        f"- Trained: {phases}\n"
        f"- Time limit: {f'{recipe.max_time:g} minutes' if recipe.max_time else 'none'}\n"
        f"- Losses: {losses}\n"
        f"- Chosen: {decided}\n"
        f"- Licence of the weights: {recipe.extra.get('license', 'not stated in the recipe')}"
    )


def _best(recipe: Recipe, history: Mapping[str, Sequence[Any]]) -> str:
    row = [row for row in history["validations"] if row["best"]][-1]
    place = f"phase {row['phase'] + 1}, step {row['step']}"
    return (
        f"by {recipe.decides} of `{row['watch']}` on some of the unseen samples: {row[recipe.decides]:.4f} at {place}"
    )


def _data(recipe: Recipe, shards: Path) -> str:
    rows = []
    for split in ("train", "validation") if recipe.decides != "none" else ("train",):
        scenes: dict[str, list[dict[str, Any]]] = {}
        for shard in find_shards(shards, "train" if split == "train" else "validation"):
            scenes.setdefault(shard.parent.name, []).append(read_sidecar(shard.with_suffix(".json")))
        for scene, sidecars in scenes.items():
            seeds = {str(one.get("provenance", {}).get("seed", "-")) for one in sidecars}
            count = sum(len(one["keys"]) for one in sidecars)
            rows.append(f"| {scene} | {split} | {count} | {', '.join(sorted(seeds))} |")
    table = "| scene | split | samples | seed of the reconstructions |\n|---|---|---|---|\n" + "\n".join(rows)
    return f"{table}\n\nLicences and credits:\n\n{_list(recipe.extra.get('data'))}"


def _tables(metrics: Mapping[str, Any]) -> str:
    """PSNR / SSIM / FLIP of each variant: over all samples, by scene and by strategy."""
    groups = [("all", metrics), *metrics["scenes"].items(), *metrics["strategies"].items()]
    variants = [name for name in metrics if name not in ("samples", "scenes", "strategies")]
    lines = [f"PSNR / SSIM / FLIP, means over {metrics['samples']} samples; first scenes, then strategies.", ""]
    lines += [f"| | {' | '.join(variants)} |", "|---|" + "---|" * len(variants)]
    for name, group in groups:
        cells = (f"{m['psnr']:.2f} / {m['ssim']:.3f} / {m['flip']:.3f}" for m in (group[name] for name in variants))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _list(entries: Any) -> str:
    if not entries:
        return "Not stated in the recipe."
    return "\n".join(f"- {entry}" for entry in ([entries] if isinstance(entries, str) else entries))
