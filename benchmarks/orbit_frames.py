"""What could be learnt from frames around a finished splat: `python -m benchmarks.orbit_frames 8100 CONFIG`.

CONFIG is a training on a scene of `python -m benchmarks.orbit_scenes` with the object of that seed. The splat is seen
from the held-out cameras, and its renders are enlarged, refined, refined and given detail, or have photos blended in,
as `hi3d-splatfacto` does. Only where such a frame is nearer to the truth than the splat's own render may it teach.
Figures are of the pixels inside of the object, also by how well the photos show what is there, by exact depth: near to
straight on (within 45 degrees of the normal), obliquely, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.orbit_quality import refined
from difix3d_ns.apps.export_splat import load_pipeline
from difix3d_ns.data.capture import Capture
from difix3d_ns.data.orbit_samples import orbit_capture
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.priors.base import FixRequest, OrbitFrame
from difix3d_ns.priors.registry import load_fixer, load_orbit_refiner
from difix3d_ns.training.depth_losses import surfaces_seen_at

_FACTOR = 2
_PHOTOS = 3  # shown to a fixer
_NEAR = 0.7  # cosine of the angle to the normal


def places_seen(capture: Capture, place: int) -> dict[str, Tensor]:
    """Masks [H, W] of a held-out view's pixels inside of the object: all, seen near, obliquely, and not at all."""
    assert capture.depths is not None
    camera, depth = capture.cameras[place], capture.depths[place]
    points = unproject(depth, camera)
    across, down = torch.gradient(points, dim=1)[0], torch.gradient(points, dim=0)[0]
    normals = F.normalize(torch.linalg.cross(across, down), dim=-1)
    best = torch.full(depth.shape[:2], -1.0)
    for photo in capture.train:
        other = capture.cameras[photo]
        seen = surfaces_seen_at(depth[..., 0], camera, capture.depths[photo], other)
        cosine = (normals * F.normalize(points - other.position, dim=-1)).sum(-1).abs()
        best = torch.where(seen, torch.maximum(best, cosine), best)
    inside = depth[..., 0] > 0
    near, unseen = inside & (best > _NEAR), inside & (best < 0)
    return {"inside": inside, "near": near, "obliquely": inside & ~near & ~unseen, "unseen": unseen}


@torch.no_grad()
def frames_of(config: Path) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Frames at the held-out cameras of a training, by row, and the background [3] they stand before."""
    pipeline = load_pipeline(config)
    references = ReferenceViews(pipeline.scene, pipeline.renderer)
    dataset = pipeline.datamanager.eval_dataset
    cameras = [to_pinhole(dataset.cameras[number : number + 1]) for number in range(len(dataset))]
    renders = [pipeline.renderer.render(camera, depth=True) for camera in cameras]
    low = [camera.resized(camera.width // _FACTOR, camera.height // _FACTOR) for camera in cameras]
    small = [resampled(render.image, one.height, one.width) for render, one in zip(renders, low, strict=True)]
    frames = [
        OrbitFrame(image, camera, render.depth.where(render.alpha > 0.5, 0.0))
        for image, camera, render in zip(small, low, renders, strict=True)
    ]
    photos = []
    for camera, render in zip(cameras, renders, strict=True):
        photos.append([references.view(index) for index in references.select(camera, render, _PHOTOS)])

    def fixed(name: str, images: Sequence[Tensor]) -> list[Tensor]:
        fixer, made = load_fixer(name), []
        for image, views, camera, render in zip(images, photos, cameras, renders, strict=True):
            request = FixRequest(image, views, camera, render.depth, render.alpha)
            made.append(torch.lerp(image, fixer.fix([request])[0].image, render.alpha))
        return made

    own, better = [render.image for render in renders], refined(load_orbit_refiner(), frames)
    rows = {
        "splat": own,
        "enlarged": [resampled(image, one.height, one.width) for image, one in zip(small, cameras, strict=True)],
        "refined": better,
        "refined, then detail": fixed("detail", better),
        "refined, then photos": fixed("aligned-blend", better),
        "with photos": fixed("aligned-blend", own),
    }
    return rows, pipeline.model.background_color


def main(
    seed: Annotated[int, tyro.conf.Positional],
    config: Annotated[Path, tyro.conf.Positional],
    photos: int = 6,
    long_side: int = 320,
    record: Path | None = None,
) -> None:
    """Print a table of PSNR.

    Args:
        seed: of the object.
        config: config.yml or folder of the training.
        photos: of the scene.
        long_side: of the scene's held-out views, in pixels.
        record: file to add a line to for each row.
    """
    torch.set_num_threads(1)
    capture = orbit_capture(seed, long_side, photos=photos, grounded=False)
    assert capture.masks is not None
    rows, background = frames_of(config)
    seen = [places_seen(capture, place) for place in capture.test]
    truths = [capture.images[place] + (1 - capture.masks[place]) * (background - 1) for place in capture.test]
    table = Table("PSNR", *seen[0])
    for name, pictures in rows.items():
        errors = [(p - t).square().mean(-1) for p, t in zip(pictures, truths, strict=True)]
        found = {}
        for key in seen[0]:
            each = torch.cat([error[masks[key]] for error, masks in zip(errors, seen, strict=True)])
            found[key] = float(-10 * each.mean().log10())
        table.add_row(name, *(f"{value:.2f}" for value in found.values()))
        if record is not None:
            facts = {"object": seed, "row": name, "photos": photos, "side": long_side, "commit": commit()}
            with open(record, "a", encoding="utf-8") as file:
                print(json.dumps({**facts, "date": str(date.today()), **found}), file=file)
    shares = [float(torch.stack([masks[key].float().mean() for masks in seen]).mean()) for key in seen[0]]
    table.add_row("share of pixels", *(f"{share:.1%}" for share in shares))
    Console(width=110).print(table)


if __name__ == "__main__":
    tyro.cli(main)
