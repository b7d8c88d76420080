"""How much an enhanced video flickers: each frame carried into the next by the splat's depth, and compared.

    python benchmarks/flicker.py                                  # makes and trains the demo scene in flicker/
    python benchmarks/flicker.py --config outputs/fountain/METHOD/TIME/config.yml

Frames lie between the training cameras, as ``ns-render interpolate --pose-source train`` lays them. Frame t is warped
to frame t + 1 by the median depth, and compared where both show the same surface. Prints two Markdown tables: that
error, in levels of 255, and the PSNR of held-out photographs that are reached by a few such steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path
from nerfstudio.utils.eval_utils import eval_setup
from rich.progress import track
from torch import Tensor

from difix3d_ns.data.procedural import demo_scene, demo_world
from difix3d_ns.data.procedural.bounding_volumes import BoundingVolumes
from difix3d_ns.data.procedural.ray_caster import render, to_photograph
from difix3d_ns.enhance.temporal import BLEND
from difix3d_ns.evaluation.runs import config_of, train
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.poses import assemble, camera_spacing, pose_distances, slerp, stack_poses, with_poses
from difix3d_ns.geometry.warp import warp_references
from difix3d_ns.ns.cameras import to_cameras, to_pinhole

_SAME_SURFACE = 0.01  # relative depth error
_ARRIVAL = 8  # frames before a held-out photograph


@dataclass(frozen=True)
class _Frame:
    """What the splat shows."""

    camera: Pinhole
    image: Tensor  # [H, W, 3] in [0, 1]
    depth: Tensor  # [H, W, 1]
    alpha: Tensor  # [H, W, 1]


@dataclass(frozen=True)
class _Flicker:
    """Of one video."""

    errors: list[float]  # levels of 255, of each frame against the one before
    psnr: float  # dB, mean over pairs

    @property
    def jumps(self) -> list[tuple[float, int]]:
        """Changes of the error and the frames they come with, the largest first: what happens all at once is seen."""
        changes = [abs(b - a) for a, b in pairwise(self.errors)]
        return sorted(((change, frame) for frame, change in enumerate(changes, 2)), reverse=True)


class _Video:
    """A finished training, and ways to enhance frames of it."""

    def __init__(self, config: Path) -> None:
        self.pipeline: Any = eval_setup(config, test_mode="test")[1]
        assert self.pipeline.datamanager.cached_train is not None  # undistorting fixes the intrinsics
        self.model = self.pipeline.model
        self.enhancer = self.pipeline.enhancer
        self.strength = self.enhancer.settings.strength
        self.enhancer.settings = replace(self.enhancer.settings, strength=1.0)

    def path(self, steps: int, long_side: int) -> list[Pinhole]:
        """Cameras between all training cameras, the nearest ones next to each other."""
        cameras = self.pipeline.datamanager.train_dataset.cameras
        path = get_interpolated_camera_path(cameras, steps, order_poses=True)
        poses = path.camera_to_worlds
        moved = [i for i in range(len(path)) if i == 0 or not torch.equal(poses[i], poses[i - 1])]
        return [to_pinhole(path[i : i + 1]).within(long_side) for i in moved]  # it stands still at the photographs

    @torch.no_grad()
    def frame(self, camera: Pinhole) -> _Frame:
        """The splat from one camera."""
        outputs = self.model.get_outputs_for_camera(to_cameras(camera))
        depth, alpha = self.model.median_depth(camera)
        return _Frame(camera, outputs["rgb"].clone(), depth, alpha)

    def enhanced(self, frames: Sequence[_Frame], share: bool, blend: float, label: str = "") -> list[Tensor]:
        """At full strength; each frame alone unless ``share``."""
        self.enhancer.temporal_filter.forget()
        self.enhancer.temporal_filter.blend = blend
        pictures = []
        for frame in track(frames, label, disable=not label):
            if not share:
                self.enhancer.temporal_filter.forget()
            pictures.append(self.enhancer.enhance(frame.camera, frame.image, self))
        return pictures

    def in_metres(self, camera: Pinhole) -> Pinhole:
        """A camera in the coordinates of transforms.json."""
        parsed = self.pipeline.datamanager.train_dataparser_outputs
        applied = torch.eye(4, dtype=torch.float64)
        applied[:3] = parsed.dataparser_transform
        pose = camera.camera_to_world.double().clone()
        pose[:3, 3] /= parsed.dataparser_scale
        return with_poses([camera], (applied.inverse() @ pose)[None])[0]


_WAYS: dict[str, tuple[bool, float]] = {
    "enhanced, each frame alone": (False, 0.0),
    "enhanced, reused references": (True, 0.0),
    "enhanced, reused references, previous change blended in (the default)": (True, BLEND),
}


def main(
    config: Path | None = None, output: Path = Path("flicker"), steps: int = 15, long_side: int = 480, seed: int = 0
) -> None:
    """Measure on a finished training.

    Args:
        config: its config.yml (unset: the demo scene, trained with defaults, with the truth as the floor).
        output: where the demo scene and its training are put, and found again.
        steps: frames from one training camera to the next.
        long_side: of the frames, pixels.
        seed: of the demo scene.
    """
    demo = config is None
    if config is None:
        config = config_of(output / "outputs", "demo")
        if not config.exists():
            config = train(demo_scene(output / "scene", seed), output / "outputs", "demo").config
    video = _Video(config)
    frames = [video.frame(camera) for camera in track(video.path(steps, long_side), "Rendering")]
    raw = [frame.image for frame in frames]
    truth = _truth(video, [frame.camera for frame in frames], seed) if demo else None
    full = {name: video.enhanced(frames, *way, label=name) for name, way in _WAYS.items()}
    print(f"\n{len(frames)} frames of {frames[0].camera.width} x {frames[0].camera.height}\n")
    print("| | strength | mean | worst pair | jump | PSNR of neighbours | PSNR against truth |\n" + "|---" * 7 + "|")
    print(_row("render", "", _flicker(raw, frames), raw, truth))
    for strength in (video.strength, 1.0):
        for name, pictures in full.items():
            shown = [torch.lerp(a, b, strength).clamp(0, 1) for a, b in zip(raw, pictures, strict=True)]
            print(_row(name, f"{strength:g}", _flicker(shown, frames), shown, truth))
    if truth is not None:
        print(_row("truth, by the splat's depth: the floor", "", _flicker(truth, frames), truth, None))
    print(
        "\nLargest jumps at full strength, each frame alone (frames are counted from 0, cameras are "
        f"{steps - 1} apart):"
    )
    print(", ".join(f"{jump:.2f} at {frame}" for jump, frame in _flicker(next(iter(full.values())), frames).jumps[:16]))
    _print_arrivals(video, steps, long_side)


def _row(name: str, strength: str, found: _Flicker, pictures: Sequence[Tensor], truth: Sequence[Tensor] | None) -> str:
    close = f"{_mean_psnr(pictures, truth):.2f}" if truth is not None else ""
    mean, worst, jump = sum(found.errors) / len(found.errors), max(found.errors), found.jumps[0][0]
    numbers = f"{mean:.2f} | {worst:.2f} | {jump:.2f} | {found.psnr:.2f}"
    return f"| {name} | {strength} | {numbers} | {close} |"


def _flicker(pictures: Sequence[Tensor], frames: Sequence[_Frame]) -> _Flicker:
    """Errors of each picture against the one before, where both show the same surface."""
    errors, levels = [], []
    for before, after, old, new in zip(frames, frames[1:], pictures, pictures[1:], strict=False):
        reference = PosedImage(old, before.camera, before.depth, before.alpha)
        warps = warp_references(after.camera, after.depth, after.alpha, [reference], _SAME_SURFACE)
        seen = warps.visibility[0].expand_as(new)
        difference = warps.images[0] - new
        errors.append(float(255 * (difference.abs() * seen).sum() / seen.sum()))
        levels.append(float(-10 * ((difference.square() * seen).sum() / seen.sum()).log10()))
    return _Flicker(errors, sum(levels) / len(levels))


def _mean_psnr(pictures: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    return sum(-10 * float((a - b).square().mean().log10()) for a, b in zip(pictures, truth, strict=True)) / len(truth)


def _truth(video: _Video, cameras: Sequence[Pinhole], seed: int) -> list[Tensor]:
    """The demo scene itself, at the exposure of its photographs, without noise."""
    world = demo_world(seed)
    volumes = BoundingVolumes.build(world.scene)

    def light(camera: Pinhole) -> Tensor:
        return render(world.scene, video.in_metres(camera), 2, volumes)[0]

    first = light(to_pinhole(video.pipeline.datamanager.train_dataset.cameras[:1]))
    exposure = 0.2 / float(first.mean(-1).median())  # as photograph_world meters
    return [to_photograph(light(camera), exposure) for camera in track(cameras, "Truth")]


def _print_arrivals(video: _Video, steps: int, long_side: int) -> None:
    """PSNR at held-out photographs after a few frames on the way from the nearest training camera."""
    data = video.pipeline.datamanager
    known = stack_poses([to_pinhole(data.train_dataset.cameras[i : i + 1]) for i in range(len(data.train_dataset))])
    found: dict[str, list[float]] = {}

    def note(name: str, strength: str, picture: Tensor, photograph: Tensor) -> None:
        found.setdefault(f"| {name} | {strength} |", []).append(_mean_psnr([picture], [photograph]))

    for camera, batch in track(list(data.fixed_indices_eval_dataloader), "Held-out photographs"):
        goal = to_pinhole(camera)
        photograph = batch["image"][..., :3].float() / (255 if batch["image"].dtype == torch.uint8 else 1)
        way = _way(goal.within(long_side), known, steps)
        frames = [video.frame(place) for place in way]
        photograph = torch.nn.functional.interpolate(
            photograph.permute(2, 0, 1)[None], frames[-1].image.shape[:2], mode="area"
        )[0].permute(1, 2, 0)
        note("render", "", frames[-1].image, photograph)
        for name, how in _WAYS.items():
            picture = video.enhanced(frames, *how)[-1]
            for strength in (video.strength, 1.0):
                note(name, f"{strength:g}", torch.lerp(frames[-1].image, picture, strength).clamp(0, 1), photograph)
    print("\n| | strength | PSNR of held-out photographs |\n|---|---|---|")
    for name, values in found.items():
        print(f"{name} {sum(values) / len(values):.2f} |")


def _way(goal: Pinhole, known: Tensor, steps: int) -> list[Pinhole]:
    """The last frames on the way from the nearest of the ``known`` poses [N, 4, 4] to a camera."""
    own = stack_poses([goal])
    near = known[pose_distances(own, known, camera_spacing(known))[0].argmin()]
    share = torch.arange(_ARRIVAL - 1, -1, -1, dtype=torch.float64) / steps
    many: Callable[[Tensor], Tensor] = lambda pose: pose[None, :3, :3].expand(_ARRIVAL, -1, -1)  # noqa: E731
    positions = torch.lerp(own[0, :3, 3], near[:3, 3], share[:, None])
    return with_poses([goal] * _ARRIVAL, assemble(slerp(many(own[0]), many(near), share), positions))


if __name__ == "__main__":
    tyro.cli(main)
