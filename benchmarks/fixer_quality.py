"""What the fixer is worth, link by link, on reconstructions it was not trained on.

    difix3d curate captures/fountain --output pairs --strategies sparse underfit --steps 1000 --long-side 480 \
        --max-gaussians 30000 --split validation
    python benchmarks/fixer_quality.py pairs [--weights FILE_OR_FOLDER]

Prints Markdown tables: per scene, PSNR / SSIM / FLIP of the render, the naive blend, the fixer and the fixer without
some of its links, and the PSNR of an oracle that picks, per window of 9 x 9 pixels, the best of the render and the
aligned references; then the error of the fixer by decile of its confidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from difix3d_ns.data.shards import Sample, find_shards, read_shards
from difix3d_ns.metrics.image import image_metrics, mean_metrics
from difix3d_ns.priors.alignment.aligned_references import align
from difix3d_ns.priors.alignment.plane_alignment import features_of, request_on_a_plane
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult
from difix3d_ns.priors.blend import BlendFixer
from difix3d_ns.priors.embedded import EmbeddedFixer, load
from difix3d_ns.priors.none import IdentityFixer
from difix3d_ns.training.validate import LimitReferences, ShownOtherwise

_WINDOW = 9  # pixels


class WithoutCameras(ShownOtherwise):
    """A fixer that is shown references aligned by matched features, as ``difix3d fix --reference`` shows them."""

    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``)."""
        count = self._fixer.default_references
        return self._fixer.fix(
            [
                request_on_a_plane(
                    request.image, features_of(request.image), [features_of(r.image) for r in request.references], count
                )
                for request in requests
            ]
        )


def main(shards: Path, weights: str | None = None, kinds: tuple[str, ...] = ("full",)) -> None:
    """Compare on all unseen samples below a folder of shards.

    Args:
        shards: folder that ``difix3d curate`` wrote.
        weights: of the fixer (unset: the package's own).
        kinds: reconstructions to look at, as the second part of the samples' keys: full, full_25, half_a, ...
    """
    fixed = load(weights)
    fixers: dict[str, Fixer] = {
        "render": IdentityFixer(),
        "naive blend": BlendFixer(),
        "fixed": fixed,
        "without diffusion": EmbeddedFixer(fixed.chain, diffusion=False),
        "without cameras": WithoutCameras(fixed),
        "without references": LimitReferences(fixed, 0),
    }
    print("| scene | views | " + " | ".join(fixers) + " | oracle |\n|---|---|" + "---|" * (len(fixers) + 1))
    rows: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    errors: list[Tensor] = []
    for sample in read_shards(find_shards(shards, "validation")):
        scene, kind, _ = sample.key.split("/")
        if kind not in kinds:
            continue
        for name, fixer in fixers.items():
            result = fixer.fix([sample.request])[0]
            rows[scene][name].append(image_metrics(result.image, sample.truth))
            if fixer is fixed:
                error = (result.image - sample.truth).abs().mean(-1)
                errors.append(torch.stack([result.confidence[..., 0].flatten(), error.flatten()]))
        rows[scene]["oracle"].append(_oracle(fixed, sample))
    every: dict[str, list] = defaultdict(list)
    for scene, found in sorted(rows.items()):
        means = {name: mean_metrics(found[name]) for name in fixers}
        oracle = sum(found["oracle"]) / len(found["oracle"])
        print(_row(scene, len(found["oracle"]), means, oracle), flush=True)
        for name, mean in means.items():
            every[name].append(mean)
        every["oracle"].append(oracle)
    means = {name: mean_metrics(every[name]) for name in fixers}
    print(_row("mean of scenes", len(rows), means, sum(every["oracle"]) / len(rows)))
    print("\n| decile of confidence | mean absolute error |\n|---|---|")
    for number, (low, high, error) in enumerate(_deciles(torch.cat(errors, 1)), 1):
        print(f"| {number} ({low:.2f} to {high:.2f}) | {error:.4f} |")


def _row(scene: str, views: int, means: dict[str, dict[str, float]], oracle: float) -> str:
    cells = [f"{m['psnr']:.2f} / {m['ssim']:.3f} / {m['flip']:.3f}" for m in means.values()]
    return f"| {scene} | {views} | " + " | ".join(cells) + f" | {oracle:.2f} |"


def _oracle(fixed: EmbeddedFixer, sample: Sample) -> float:
    """PSNR in dB when the truth chooses."""
    request = sample.request
    known = (request.camera, request.image, request.depth, request.alpha)
    with torch.no_grad():
        found = align(fixed.chain.align, *known, request.references)
    image, truth = (picture.permute(2, 0, 1)[None] for picture in (request.image, sample.truth))
    warps = torch.where(found.visibility > 0, found.warps, image)
    pictures = torch.cat([image, warps])
    errors = (pictures - truth).square().mean(1, keepdim=True)
    local = F.avg_pool2d(errors, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    best = errors.gather(0, local.argmin(0, keepdim=True))
    return float(-10 * best.mean().log10())


def _deciles(pairs: Tensor) -> Sequence[tuple[float, float, float]]:
    """Lowest and highest confidence and mean error of ten equal parts of the pixels, least confident first."""
    order = pairs[0].argsort(stable=True)
    return [
        (float(pairs[0, part].min()), float(pairs[0, part].max()), float(pairs[1, part].mean()))
        for part in order.chunk(10)
    ]


if __name__ == "__main__":
    tyro.cli(main)
