"""Frames of a video for posing: evenly along the camera's way, the sharpest of its neighbours each, none blurred."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage.measure import blur_effect

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import replacing

VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mts", ".mpg", ".mpeg", ".3gp", ".wmv"})
"""of files that are taken for videos"""
_SIDE = 320  # pixels of the long side, at which motion and sharpness are measured
_CORNERS = 300
_MIN_MOTION = 2e-4  # of the long side per frame: the sensor's noise moves corners as much
_MAX_BLUR = 0.1
"""of a frame above the median of all chosen ones, from 0 to 1 (``skimage.measure.blur_effect``): a picture is smeared
over several pixels there, and sharp ones of one scene differ by half as much"""
_CUT = 0.5  # of the long side: no corner was found again
_QUALITY = 95


def is_video(path: Path) -> bool:
    """Return whether a path is a file that is taken for a video."""
    return path.is_file() and path.suffix.lower() in VIDEOS


def check_ffmpeg() -> None:
    """Raise a UserError if videos cannot be written."""
    if shutil.which("ffmpeg") is None:
        raise UserError("videos are written by ffmpeg, which is missing: apt-get install ffmpeg (macOS: brew install)")


def choose_frames(sharpness: np.ndarray, motion: np.ndarray, count: int) -> list[int]:
    """Choose frames: the camera's way is cut into equal parts, and the sharpest frame of each is taken.

    Args:
        sharpness: [N] of the frames, in any unit.
        motion: [N] way of the picture since the frame before, in shares of its long side.
        count: how many, at most.

    Returns:
        Their numbers, in order.
    """
    way = np.cumsum(np.where(motion < _MIN_MOTION, 0.0, motion))
    if way[-1] <= 0:
        return [int(sharpness.argmax())]
    parts = np.minimum((way / way[-1] * count).astype(int), count - 1)
    members = (np.flatnonzero(parts == part) for part in range(count))
    return [int(inside[sharpness[inside].argmax()]) for inside in members if len(inside)]


def write_frames(
    video: Path,
    folder: Path,
    count: int,
    on_frame: Callable[[int, int], None],
    masks: Callable[[], Iterator[np.ndarray]] | None = None,
    mask_of: Callable[[str], Path] | None = None,
) -> list[Path]:
    """Write the chosen frames of a video as JPEG files; where all frames of a stretch are blurred, none of it.

    Args:
        video: any that OpenCV reads; it is read twice.
        folder: made if need be.
        count: how many, at most.
        on_frame: called with the number of frames read, and of all that will be (0 if that is not known).
        masks: gives what is used of each frame from the first on, [H, W] bool, of frames' shape at any size; None: all.
            By these pixels frames are chosen: what moves with the camera is sharp and stands still in every frame.
        mask_of: the .png file for the mask of a chosen frame, by the frame's name; 0 where it is not used, at its size.

    Returns:
        The files, in order.

    Raises:
        UserError: it cannot be read.
    """
    total = 2 * video_length(video)
    sharpness, motion = [], []
    before: np.ndarray | None = None
    for number, frame, used in _with_masks(video, masks):
        grey = _small(frame, used)
        sharpness.append(float(cv2.Laplacian(grey, cv2.CV_32F).var()))
        motion.append(0.0 if before is None else _motion(before, grey))
        before = grey
        on_frame(number + 1, total)
    if not sharpness:
        raise UserError(f"{video} cannot be read as a video: convert it, for example with ffmpeg -i {video} frames.mp4")
    chosen = choose_frames(np.array(sharpness), np.array(motion), count)
    files = {number: folder / f"frame_{place + 1:05d}.jpg" for place, number in enumerate(chosen)}
    blur: dict[Path, float] = {}
    for number, frame, used in _with_masks(video, masks):
        if number in files:
            if used is not None and mask_of is not None:
                _write_mask(used, frame, mask_of(files[number].name))
            blur[files[number]] = float(blur_effect(_small(frame, used)))
            with replacing(files[number]) as part:
                Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).save(part, quality=_QUALITY, subsampling=0)
        on_frame(len(sharpness) + number + 1, total)
    allowed = float(np.median(list(blur.values()))) + _MAX_BLUR
    for file, found in blur.items():
        if found > allowed:
            file.unlink()
            if masks is not None and mask_of is not None:
                mask_of(file.name).unlink()
    return [file for file, found in blur.items() if found <= allowed]


def _with_masks(
    video: Path, masks: Callable[[], Iterator[np.ndarray]] | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Numbers, frames, and what is used of each."""
    each = None if masks is None else masks()
    for number, frame in read_frames(video):
        used = None if each is None else next(each, None)
        if each is not None and used is None:
            raise UserError(f"{video} has more frames than there are masks: frame {number + 1} has none (--masks)")
        yield number, frame, used


def _write_mask(used: np.ndarray, frame: np.ndarray, file: Path) -> None:
    mask = Image.fromarray(used.astype(np.uint8) * 255).resize(
        (frame.shape[1], frame.shape[0]), Image.Resampling.NEAREST
    )
    with replacing(file) as part:
        mask.save(part)


def video_length(video: Path) -> int:
    """Frames of a video as its head says; 0 if it does not."""
    file = cv2.VideoCapture(str(video))
    count = int(file.get(cv2.CAP_PROP_FRAME_COUNT))
    file.release()
    return max(0, count)


def video_rate(video: Path) -> float:
    """Frames per second of a video; 30 where its head does not say."""
    file = cv2.VideoCapture(str(video))
    rate = float(file.get(cv2.CAP_PROP_FPS))
    file.release()
    return rate if rate > 0 else 30.0


def read_frames(video: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and frames [H, W, 3] uint8 (blue first), upright."""
    file = cv2.VideoCapture(str(video))
    try:
        number = 0
        while True:
            found, frame = file.read()
            if not found:
                return
            yield number, frame
            number += 1
    finally:
        file.release()


def _small(frame: np.ndarray, used: np.ndarray | None) -> np.ndarray:
    """A frame in grey at which it is measured, smooth where it is not used."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    scale = min(1.0, _SIDE / max(grey.shape))
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if used is None:
        return grey
    covered = cv2.resize((~used).astype(np.uint8) * 255, grey.shape[::-1], interpolation=cv2.INTER_AREA)
    covered = cv2.dilate(covered, np.ones((5, 5), np.uint8))  # what is covered shines into pixels beside it
    return cv2.inpaint(grey, (covered > 0).astype(np.uint8), 3, cv2.INPAINT_TELEA)


def _motion(before: np.ndarray, after: np.ndarray) -> float:
    """Median way of corners between two frames, in shares of the long side."""
    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 5)
    if corners is None:
        return 0.0
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)  # type: ignore[call-overload]
    ways = np.linalg.norm(found - corners, axis=-1)[status[:, 0] == 1]
    return float(np.median(ways)) / max(before.shape) if len(ways) else _CUT
