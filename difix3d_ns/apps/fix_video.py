"""Repair of a video by photos of the same things, its frames kept steady."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from difix3d_ns.apps.fix_images import Sources, load_named_fixer, views_of
from difix3d_ns.apps.picture_tasks import pictures_of, usable_device
from difix3d_ns.apps.picture_views import MAX_CANDIDATES, NothingShared
from difix3d_ns.apps.video_files import VIDEO, video_writer
from difix3d_ns.errors import UserError, first_line
from difix3d_ns.geometry.spacing import evenly_spaced
from difix3d_ns.io.images import read_picture
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.io.video_frames import VIDEOS, check_ffmpeg, is_video, read_frames, video_length, video_rate
from difix3d_ns.priors.alignment.plane_alignment import flow_between, pixel_grid, sampled

BLEND = 0.5
"""share of the change of the frame before that is blended in where it shows the same"""
_CUT = 0.5  # of a frame must be found again in the next: else a new scene begins


def fix_video(
    inputs: Sequence[Path],
    output: Path,
    sources: Sources,
    weights: str,
    device: str | None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    compile: bool = False,
) -> Path:
    """Repair the frames of a video, and blend each change with that of the frame before, moved by optical flow.

    Frames that no photo shows, and those that cannot be repaired, stay as they are.

    Args:
        inputs: the video, alone.
        output: an ``.mp4`` file; sound is not copied.
        sources: photographs; frames have no names by which cameras could be found.
        weights, device, dtype, force, compile: as of ``fix_pictures``.

    Returns:
        The file written.

    Raises:
        UserError: nothing was begun, the video or the output cannot be used, or no frame can be repaired.
    """
    sources.check()
    video = inputs[0]
    if len(inputs) > 1 or not is_video(video):
        raise UserError(f"one video at a time ({', '.join(sorted(VIDEOS))}), without pictures beside it")
    if sources.scene is not None or sources.config is not None:
        raise UserError("frames of a video have no cameras in --scene or --config: give photos by --reference")
    if output.is_dir():
        output = output / f"{video.stem}{VIDEO}"
    if output.suffix.lower() != VIDEO:
        raise UserError(f"--output {output}: a video is written as {VIDEO}")
    if output.exists() and (not force or output.samefile(video)):
        raise UserError(f"--output {output} exists already; --force overwrites, but never the video itself")
    check_ffmpeg()
    where = usable_device(device)
    fixer = load_named_fixer(weights, where, dtype, compile)
    count = MAX_CANDIDATES if fixer.aligns else sources.nearest or fixer.default_references
    sources = replace(sources, references=_candidates(sources.references, count))
    for path in sources.references:
        read_picture(path)  # one that cannot be read is reported before the work begins
    views = views_of(sources, fixer, weights, where, [video])
    first = next(read_frames(video), None)
    if first is None:
        raise UserError(f"{video} cannot be read as a video: convert it, for example with ffmpeg -i {video} frames.mp4")
    height, width = (side // 2 * 2 for side in first[1].shape[:2])  # players want even sides
    steady, frames, unseen, failed = SteadyChange(), 0, 0, 0
    console = Console(stderr=True)
    with progress_bar(console, counted=True) as bar, video_writer(output, height, width, video_rate(video)) as write:
        task = bar.add_task("Fixing frames", total=video_length(video) or None)
        for _, frame in read_frames(video):
            picture = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            image = torch.from_numpy(picture).to(where).float() / 255
            frames += 1
            try:
                change = fixer.fix([views.request(video, image)])[0].image - image
                image = (image + steady.follow(picture, change)).clamp(0, 1)
            except NothingShared:
                steady.forget()
                unseen += 1
            except (RuntimeError, ValueError, cv2.error, np.linalg.LinAlgError) as error:
                if frames == unseen + 1:  # the first that was tried: others would fare no better
                    raise UserError(_failure(video, frames, error)) from error
                steady.forget()
                failed += 1
            write((image[:height, :width] * 255).round().byte().cpu().numpy())
            bar.advance(task)
        if unseen == frames:
            raise UserError(f"no frame of {video} shows what a reference photo shows: give photos taken from nearer by")
    if unseen:
        console.print(f"{unseen} frames show nothing that a reference photo shows: they are as they were")
    if failed:
        console.print(f"{failed} frames could not be repaired: they are as they were")
    return output


def _failure(video: Path, number: int, error: Exception) -> str:
    reason = first_line(error)
    remedy = (
        f": make the video smaller (ffmpeg -i {video} -vf scale=iw/2:-2 smaller.mp4), or give --device cpu"
        if isinstance(error, torch.cuda.OutOfMemoryError)
        else ""
    )
    return f"frame {number} of {video} cannot be repaired ({reason}){remedy}"


class SteadyChange:
    """Change that a fixer makes to a row of frames, without flicker: it moves with the picture, jumps are halved."""

    def __init__(self, blend: float = BLEND) -> None:
        self._blend = blend
        self._before: tuple[np.ndarray, Tensor] | None = None

    def forget(self) -> None:
        """Begin again with the next frame."""
        self._before = None

    def follow(self, picture: np.ndarray, change: Tensor) -> Tensor:
        """Steady the change of the next frame.

        Args:
            picture: [H, W, 3] uint8, before it was fixed.
            change: [H, W, 3] fixed less before.

        Returns:
            [H, W, 3].
        """
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        if self._before is not None:
            flow, trusted = flow_between(grey, self._before[0])
            if trusted.mean() > _CUT:
                places = pixel_grid(*grey.shape) + flow
                moved = sampled(self._before[1].cpu().numpy(), places)
                share = torch.from_numpy(self._blend * trusted.astype(np.float32))[..., None].to(change)
                change = torch.lerp(change, torch.from_numpy(moved).to(change), share)
        self._before = (grey, change)
        return change


def _candidates(references: Sequence[Path], count: int) -> tuple[Path, ...]:
    """Photographs that frames are compared with: of each folder at most ``count``, evenly spaced."""
    found: list[Path] = []
    for path in references:
        files = pictures_of(path) if path.is_dir() else [path]
        found += [files[index] for index in evenly_spaced(len(files), count)]
    return tuple(found)
