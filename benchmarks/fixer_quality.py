"""What the fixer is worth, link by link, on reconstructions it was not trained on.

    python -m difix3d_ns.curation.pairs ../shared/data/fountain --output pairs --steps 1000 --long-side 480 \
        --max-gaussians 30000 --kinds full
    python benchmarks/fixer_quality.py pairs [--weights FILE_OR_FOLDER]

Prints a Markdown table: PSNR / SSIM / FLIP of the render, the naive blend, the fixer, and the fixer without diffusion.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from difix3d_ns.fixers.embedded import load
from difix3d_ns.training.validate import validate


def main(pairs: Path, weights: str | None = None, kind: str = "full") -> None:
    """Compare on all samples below a folder of pairs.

    Args:
        pairs: folder that ``python -m difix3d_ns.curation.pairs`` wrote.
        weights: of the fixer (unset: the package's own).
        kind: reconstructions to look at.
    """
    chain = load(weights).chain.float()
    header = False
    for scene in sorted(folder for folder in pairs.iterdir() if folder.is_dir()):
        files = sorted((scene / kind).glob("*.npz"))
        if not files:
            continue
        rows = validate(chain, files)
        if not header:
            print("| scene (views) | " + " | ".join(rows) + " |\n|---|" + "---|" * len(rows))
            header = True
        cells = (f"{row['psnr']:.2f} / {row['ssim']:.3f} / {row['flip']:.3f}" for row in rows.values())
        print(f"| {scene.name} ({len(files)}) | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
