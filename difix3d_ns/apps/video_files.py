"""Videos that commands write: .mp4 by ffmpeg, .gif by Pillow, whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mediapy
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from difix3d_ns.apps.export_splat import check_output
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.atomic import replacing
from difix3d_ns.io.video_frames import check_ffmpeg

VIDEO, ANIMATION = ".mp4", ".gif"
RATE = 24  # frames per second
ANIMATION_RATE, MAX_ANIMATION_RATE = 20, 50
"""frames per second: a .gif counts in hundredths of a second, and players slow down frames of a single one"""
_MAX_SECONDS = 600
_QUALITY = 18  # x264's, constant: lower is better

Writer = Callable[[np.ndarray], None]
"""takes the next frame, [H, W, 3] uint8"""


def check_video(output: Path, endings: Sequence[str], seconds: float, force: bool) -> None:
    """Raise a UserError if a video is not to be written: see ``check_output``; its length; ffmpeg is missing."""
    check_output(output, endings, force)
    if not 0 < seconds <= _MAX_SECONDS:
        raise UserError(f"--seconds {seconds:g}: more than 0 and at most {_MAX_SECONDS} are needed")
    if output.suffix.lower() == VIDEO:
        try:
            check_ffmpeg()
        except UserError as error:
            other = f"; --output {output.with_suffix(ANIMATION)} is written without it"
            raise UserError(f"{error}{other if ANIMATION in endings else ''}") from error


def even(camera: Pinhole) -> Pinhole:
    """Return a camera with even sides, as players want them."""
    return camera.resized(max(2, camera.width // 2 * 2), max(2, camera.height // 2 * 2))


def labelled(picture: np.ndarray, name: str, at_right: bool = False) -> np.ndarray:
    """Return a picture [H, W, 3] uint8 with a name in an upper corner."""
    image = Image.fromarray(picture)
    draw, margin = ImageDraw.Draw(image), max(4, image.width // 60)
    font = ImageFont.load_default(max(11, image.width // 36))
    place = (image.width - margin if at_right else margin, margin)
    draw.text(place, name, "white", font, "ra" if at_right else "la", stroke_width=2, stroke_fill="black")
    return np.asarray(image)


@contextlib.contextmanager
def video_writer(output: Path, height: int, width: int, rate: float) -> Iterator[Writer]:
    """Write a video, which is there at the end of the block and not after an error.

    Args:
        output: its ending, ``VIDEO`` or ``ANIMATION``, is its format. An animation plays again and again.
        height, width: of a frame, even.
        rate: frames per second.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(output) as part:
        if output.suffix.lower() == VIDEO:
            ended: BaseException | None = None
            try:
                with mediapy.VideoWriter(part, (height, width), fps=rate, crf=_QUALITY) as writer:
                    try:
                        yield writer.add_image
                    except BaseException as error:
                        ended = error
                        raise
            except RuntimeError as error:
                if ended is None or error is ended:
                    raise
                raise ended from None  # an interrupt ended ffmpeg as well, which is said where the video is closed
            return
        frames: list[Image.Image] = []
        yield lambda frame: frames.append(Image.fromarray(frame).quantize())
        hundredths = round(100 / rate)
        frames[0].save(part, save_all=True, append_images=frames[1:], duration=10 * hundredths, loop=0)
