"""Two trainings of one scene in one video, with a line between them that moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path
from rich.console import Console

from difix3d_ns.apps.export_splat import load_pipeline
from difix3d_ns.apps.opened_splats import full_size
from difix3d_ns.apps.video_files import RATE, VIDEO, check_video, even, labelled, video_writer
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.io.file_names import distinct_names
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.metrics.image import image_metrics, mean_metrics
from difix3d_ns.ns.cameras import to_cameras, to_pinhole
from difix3d_ns.ns.splat_frame import SplatFrame

_STOPS = 8  # photos that the camera passes, at most
_SWING = 0.4  # of the width, to either side of the middle
_SWINGS = 2  # of the line, there and back
_SAME_PLACE = 1e-3  # of the cameras' spread, by which a photo's positions may differ


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two trainings."""

    video: Path
    names: tuple[str, str]
    metrics: tuple[dict[str, float], dict[str, float]] | None  # means over the held-out photos; None: there are none
    enhanced: bool = False  # whether they are of enhanced pictures

    def describe(self) -> str:
        """Format it for people."""
        lines = [f"Left of the line: {self.names[0]}; right: {self.names[1]}"]
        if self.metrics is not None:
            of = "held-out photos, enhanced" if self.enhanced else "held-out photos, as rendered"
            for name, row in zip(self.names, self.metrics, strict=True):
                values = f"PSNR {row['psnr']:.2f} dB, SSIM {row['ssim']:.3f}, FLIP {row['flip']:.3f}"
                lines.append(f"{name}, {of}: {values}")
        return "\n".join([*lines, f"Watch: {self.video}"])


def compare(
    first: Path, second: Path, output: Path, output_name: str = "rgb", seconds: float = 8.0, force: bool = False
) -> Comparison:
    """Render two trainings from a path between the photos of the first, into a video whose line moves.

    Args:
        first, second: their config.yml; of the same scene, whatever coordinates they have trained in.
        output: an ``.mp4`` file.
        output_name: what is shown: rgb, enhanced or another output.
        seconds: of the video.
        force: overwrite a file that is there.

    Raises:
        UserError: a training cannot be loaded, they are of different scenes, or the output cannot be written.
    """
    check_video(output, (VIDEO,), seconds, force)
    sides = [_loaded(config, output_name) for config in (first, second)]
    _check_one_scene(sides, first, second)
    names = (_name(first), _name(second))
    count = max(2, round(seconds * RATE))
    frame = _frame(sides[0])
    path = [frame.original_pose(pose) for pose in _path(sides[0], count)]
    sizes = [full_size(side, to_pinhole(side.datamanager.train_dataset.cameras[:1])) for side in sides]
    largest = even(max(sizes, key=lambda camera: camera.width * camera.height))
    with (
        progress_bar(Console(stderr=True), counted=True) as bar,
        video_writer(output, largest.height, largest.width, RATE) as write,
    ):
        task = bar.add_task("Rendering", total=count)
        for pose, place in zip(path, _places(count), strict=True):
            pictures = [_rendered(side, pose, largest, output_name) for side in sides]
            left, right = (labelled(*each) for each in zip(pictures, names, (False, True), strict=True))
            write(wiped(left, right, place))
            bar.advance(task)
    enhanced = output_name == "enhanced"
    measured = [_metrics(config, enhanced) for config in (first, second)]
    both = None if measured[0] is None or measured[1] is None else (measured[0], measured[1])
    return Comparison(output, names, both, enhanced)


def wiped(left: np.ndarray, right: np.ndarray, share: float) -> np.ndarray:
    """Put the left part of one picture and the right part of another together, with a line between.

    Args:
        left, right: [H, W, 3] uint8.
        share: of the width that is of the first, from 0 to 1.
    """
    edge = round(share * left.shape[1])
    picture = np.concatenate([left[:, :edge], right[:, edge:]], axis=1)
    picture[:, max(0, edge - 1) : edge + 1] = 255
    return picture


def _places(count: int) -> list[float]:
    """Places of the line in each frame, as shares of the width."""
    return [0.5 + _SWING * math.sin(2 * math.pi * _SWINGS * index / count) for index in range(count)]


def _loaded(config: Path, output_name: str) -> Any:
    pipeline = load_pipeline(config)
    names = getattr(pipeline.model, "output_names", None)
    if names is None:
        raise UserError(f"{config} is of another package: open it first with difix3d enhance {config} --data SCENE")
    if output_name not in names:
        raise UserError(f"--output-name {output_name}: {config} has {', '.join(names)}")
    return pipeline


def _frame(pipeline: Any) -> SplatFrame:
    return SplatFrame.of(pipeline.datamanager.train_dataparser_outputs)


def _check_one_scene(sides: Sequence[Any], first: Path, second: Path) -> None:
    """Refuse trainings whose photos of one name were taken elsewhere, in the captures' own coordinates."""
    places = [_positions(side) for side in sides]
    shared = sorted(set(places[0]) & set(places[1]))
    apart = [float(np.linalg.norm(places[0][name] - places[1][name])) for name in shared]
    spread = np.ptp([*places[0].values()], axis=0).max() if places[0] else 0.0
    if not shared or max(apart) > _SAME_PLACE * spread + 1e-9:
        what = "their photos have other poses" if shared else "they have no photo in common"
        raise UserError(f"{first} and {second} are not of one scene: {what}")


def _positions(pipeline: Any) -> dict[str, np.ndarray]:
    """Original positions [3] of all photos by their names."""
    manager, found = pipeline.datamanager, {}
    for dataset in (manager.train_dataset, manager.eval_dataset):
        if not dataset:
            continue
        frame = SplatFrame.of(dataset._dataparser_outputs)
        for path, pose in zip(dataset.image_filenames, dataset.cameras.camera_to_worlds, strict=True):
            found[str(path)] = frame.original_pose(pose.double().cpu().numpy())[:, 3]
    return dict(zip(distinct_names([Path(path) for path in found]), found.values(), strict=True))


def _path(pipeline: Any, count: int) -> list[np.ndarray]:
    """Camera-to-world [3, 4] of ``count`` frames on the way past some of the photos."""
    cameras = pipeline.datamanager.train_dataset.cameras
    stops = cameras[torch.tensor(evenly_spaced(len(cameras), _STOPS))]
    if len(stops) < 2:
        return [cameras.camera_to_worlds[0].double().numpy()] * count
    steps = -(-count // (len(stops) - 1))
    poses = get_interpolated_camera_path(stops, steps, order_poses=True).camera_to_worlds
    return [pose.double().numpy() for pose in poses[evenly_spaced(len(poses), count)]]


@torch.no_grad()
def _rendered(pipeline: Any, pose: np.ndarray, size: Pinhole, output_name: str) -> np.ndarray:
    """Picture [H, W, 3] uint8 from a pose in original coordinates."""
    camera = to_cameras(size)
    camera.camera_to_worlds = torch.from_numpy(_frame(pipeline).pose_of(pose)).float()[None]
    picture = pipeline.model.get_outputs_for_camera(camera.to(pipeline.device))[output_name]
    if picture.shape[-1] != 3:
        raise UserError(f"--output-name {output_name} is no picture: give rgb or enhanced")
    pixels: np.ndarray = (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return pixels


def _metrics(config: Path, enhanced: bool) -> dict[str, float] | None:
    """Mean metrics of the held-out photos; None if there are none."""
    views = evaluate(config, enhance=enhanced).views
    return mean_metrics([image_metrics(view.picture(enhanced), view.truth) for view in views]) if views else None


def _name(config: Path) -> str:
    """Method and time of a training."""
    folder = config.resolve().parent
    return f"{folder.parent.name} {folder.name}"
