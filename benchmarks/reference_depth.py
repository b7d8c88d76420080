"""What better depth of references and of views would be worth to the fixer, on pictures alone.

python benchmarks/reference_depth.py 1001 1004

Splats of procedural scenes, half-finished and finished, are rendered at held-out poses and repaired: with the splat's
own depth of photographs and view, as it is done; with estimated depth of the photographs where it is certain; with
the view's depth by these; with exact depth of the photographs; and with exact depth of photographs and view.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
import tyro
from rich.console import Console
from torch import Tensor

from difix3d_ns.data.capture import Capture, procedural_capture
from difix3d_ns.data.reconstruct import Schedule, Splat, reconstruct
from difix3d_ns.geometry.point_depth import point_depth
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.initialization.estimated_depths import estimate_depths, photo_depth
from difix3d_ns.metrics.psnr import psnr
from difix3d_ns.priors.base import Fixer, FixRequest
from difix3d_ns.priors.registry import load_depth, load_fixer

_POINTS = 1500  # of each photograph, by estimated depth
_CERTAIN = 0.25  # confidence from which on estimated depth replaces the splat's


def estimated(capture: Capture) -> tuple[Capture, list[Tensor]]:
    """A capture with points by the estimated depth of its training photographs; that depth, 0 where it is doubtful."""
    photographs = [PosedImage(capture.images[index], capture.cameras[index]) for index in capture.train]
    found = [photo_depth(one) for one in estimate_depths(photographs, capture.points, load_depth("multiview"))]
    points, colours = [capture.points], [capture.colours]
    generator = torch.Generator().manual_seed(0)
    for photograph, depth in zip(photographs, found, strict=True):
        chance = depth.confidence.flatten()
        chosen = torch.multinomial(chance, min(_POINTS, int(chance.count_nonzero())), generator=generator)
        points.append(unproject(depth.depth, photograph.pose).view(-1, 3)[chosen].float())
        colours.append(photograph.image.reshape(-1, 3)[chosen])
    denser = replace(capture, points=torch.cat(points), colours=torch.cat(colours))
    return denser, [depth.depth.where(depth.confidence > _CERTAIN, 0.0) for depth in found]


def rows(capture: Capture, splat: Splat, depths: list[Tensor], fixer: Fixer) -> dict[str, float]:
    """Mean PSNR of held-out views by the depth that the fixer is given."""
    assert capture.depths is not None
    own, known, exact = [], [], []
    surfaces = torch.cat(
        [
            unproject(depth, capture.cameras[index])[depth[..., 0] > 0]
            for index, depth in zip(capture.train, depths, strict=True)
        ]
    )
    for index, depth in zip(capture.train, depths, strict=True):
        _, rendered, alpha = splat.render(capture.cameras[index])
        photograph = PosedImage(capture.images[index], capture.cameras[index], rendered, alpha)
        truth = capture.depths[index]
        own.append(photograph)
        known.append(replace(photograph, depth=depth.where(depth > 0, rendered)))
        exact.append(replace(photograph, depth=truth, alpha=(truth > 0).float()))
    found: dict[str, list[float]] = {}
    for index in capture.test:
        camera, truth, surface = capture.cameras[index], capture.images[index], capture.depths[index]
        image, depth, alpha = splat.render(camera)
        found.setdefault("render", []).append(psnr(image, truth))
        shown = point_depth(surfaces, camera).to(depth)
        for name, references, view in (
            ("fixed", own, (depth, alpha)),
            ("estimated references", known, (depth, alpha)),
            ("view by estimated depth", own, (shown.where(shown > 0, depth), alpha.where(shown == 0, 1.0))),
            ("exact references", exact, (depth, alpha)),
            ("exact references and view", exact, (surface, (surface > 0).float())),
        ):
            (result,) = fixer.fix([FixRequest(image, references, camera, *view, 0)])
            found.setdefault(name, []).append(psnr(result.image.clamp(0, 1), truth))
    return {name: sum(values) / len(values) for name, values in found.items()}


def main(
    seeds: Annotated[tuple[int, ...], tyro.conf.Positional], steps: tuple[int, ...] = (400, 1000), long_side: int = 320
) -> None:
    """Print PSNR for each scene and number of training steps.

    Args:
        seeds: of procedural scenes.
        steps: of the splats that are repaired.
        long_side: of the pictures, in pixels.
    """
    console, fixer = Console(), load_fixer("embedded")
    for seed in seeds:
        capture, depths = estimated(procedural_capture(seed, long_side))
        for count in steps:
            splat = reconstruct(capture, capture.train, Schedule(count, max_gaussians=20_000))[1.0]
            measured = rows(capture, splat, depths, fixer)
            console.print(seed, count, " ".join(f"{name} {value:.2f}" for name, value in measured.items()))


if __name__ == "__main__":
    tyro.cli(main)
