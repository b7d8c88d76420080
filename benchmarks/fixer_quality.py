"""What the fixer is worth, link by link, on reconstructions it was not trained on.

    difix3d curate ../shared/data/fountain --output shards --split validation --strategies sparse --steps 1000 \
        --long-side 480 --max-gaussians 30000
    python benchmarks/fixer_quality.py shards [--weights FILE_OR_FOLDER] [--unit full]

Prints a Markdown table: PSNR / SSIM / FLIP of the render, the naive blend, the fixer, and the fixer without its parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from difix3d_ns.curation.shards import find_shards, read_shards
from difix3d_ns.fixers.embedded import load
from difix3d_ns.training.recipe import Recipe
from difix3d_ns.training.systems.embedded import Embedded
from difix3d_ns.training.validate import measure, summarise


def main(shards: Annotated[Path, tyro.conf.Positional], weights: str | None = None, unit: str = "full") -> None:
    """Compare on all validation samples of a folder.

    Args:
        shards: folder that difix3d curate wrote.
        weights: of the fixer (unset: the package's own).
        unit: reconstructions to look at: full, half_a, underfit_50, ...
    """
    chain = load(weights).chain.float()
    system = Embedded(Recipe(system="embedded", network={}, phases=(), losses={}))
    links = system.links
    print("| scene (views) | " + " | ".join(links) + " |\n|---|" + "---|" * len(links))
    for shard in find_shards(shards, "validation"):
        if shard.stem != unit:
            continue
        found = summarise(measure(list(read_shards([shard])), system.fixers(chain)))
        cells = (f"{row['psnr']:.2f} / {row['ssim']:.3f} / {row['flip']:.3f}" for row in map(found.get, links) if row)
        print(f"| {shard.parent.name} ({found['samples']}) | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
