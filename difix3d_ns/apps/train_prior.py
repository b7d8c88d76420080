"""``difix3d train-prior``, which ``accelerate launch -m difix3d_ns.apps.train_prior`` runs on several processes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from difix3d_ns.errors import UserError
from difix3d_ns.io import recipes

_RECIPE = f"a recipe of configs/prior by name ({', '.join(recipes.shipped('prior'))}) or the path of a YAML file."


def train_prior(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=_RECIPE)],
    output: Path,
    shards: Path | None = None,
    start: str | None = None,
    max_time: float | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    perceptual_weights: tuple[Path, ...] = (),
    fetch_weights: bool = False,
) -> None:
    """Train a prior.

    Started again with the same output, an interrupted training goes on where it stopped. On several processes:
    accelerate launch -m difix3d_ns.apps.train_prior RECIPE --output DIR.

    Args:
        recipe: a recipe of configs/prior by name, or the path of a YAML file.
        output: folder for weights, metrics.json, MODEL_CARD.md, curves and what resuming needs.
        shards: folder that curate wrote (unset: samples are made from the recipe's scenes).
        start: weights to start from: a folder, or for a recipe of Difix also a hub id such as stabilityai/sd-turbo,
            which downloads (unset: the recipe's).
        max_time: end after so many minutes of training (unset: the recipe's).
        device: cpu or cuda (unset: cuda if there is one).
        perceptual_weights: weight file of VGG16, for the losses lpips and gram, with the file name used in torch's hub
            folder (unset: the one there).
        fetch_weights: download it if it is missing (528 MiB).
    """
    from difix3d_ns.metrics.perceptual import PerceptualWeights, check_files
    from difix3d_ns.ns.capture_reader import read_dataset
    from difix3d_ns.training.prior_recipe import load_recipe
    from difix3d_ns.training.train import train

    loaded = load_recipe(recipe)
    loaded = replace(loaded, start=start or loaded.start, max_time=max_time or loaded.max_time)
    check_files(perceptual_weights, "--perceptual-weights")
    weights = PerceptualWeights(perceptual_weights, fetch_weights)
    train(loaded, output, shards, device, read_dataset, weights=weights)


def main() -> None:
    """Entry point of ``accelerate launch -m``."""
    try:
        tyro.cli(train_prior)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
