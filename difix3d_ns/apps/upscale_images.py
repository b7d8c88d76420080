"""Enlargement of picture files without a scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from difix3d_ns.apps.picture_tasks import (
    FinishedPictures,
    Outcome,
    PictureTask,
    left_to_do,
    picture_tasks,
    usable_device,
    work_through,
)
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.resampling import resampled
from difix3d_ns.guidance.enlargement_factor import FACTORS
from difix3d_ns.io.images import Picture, read_picture, write_picture
from difix3d_ns.priors.base import Upscaler
from difix3d_ns.priors.registry import load_selected
from difix3d_ns.priors.single_photo import upscale_alone

RECORD = ".difix3d_upscale.json"
"""in a folder of results: which of them are finished, and with which settings"""


def upscale_pictures(
    inputs: Sequence[Path],
    output: Path,
    factor: float = 4,
    upscaler: str = "residual",
    weights: str | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    seed: int = 0,
) -> list[Path]:
    """Enlarge picture files; those of an earlier run that was interrupted are not made again.

    A prior of several rounds goes through all of them with its own results in place of a splat's renders.

    Args:
        inputs: pictures or folders of pictures.
        output: a file if there is a single file in ``inputs``, else a folder (same names).
        factor: sides of the results over those of the pictures, one of ``FACTORS``. A row or column that has no whole
            number of pixels at 1.5 times its size is cut off.
        upscaler, weights: as ``load_prior`` takes them.
        device: None for CUDA where there is one.
        dtype: None for the fastest the device handles well.
        force: overwrite what is there.
        seed: of all random draws.

    Returns:
        The files written.

    Raises:
        UserError: nothing was begun, since an input is missing, two would get one name, or something would be
            overwritten; or, at the end, some pictures failed.
    """
    if factor not in FACTORS:
        raise UserError(f"--factor {factor:g}: one of {', '.join(f'{known:g}' for known in FACTORS)} is needed")
    tasks = picture_tasks(inputs, output)
    settings: dict[str, object] = {"factor": factor, "upscaler": upscaler, "weights": weights, "seed": seed}
    single = len(tasks) == 1 and inputs[0].is_file()
    record = None if single else FinishedPictures(output / RECORD, settings)
    left = left_to_do(tasks, output, record, force)
    where = usable_device(device)
    prior = load_selected(Upscaler, ("--upscaler", "--weights"), upscaler, weights, where, dtype)

    def work(chunk: list[PictureTask], say: Callable[[str], None]) -> list[Outcome[PictureTask]]:
        return [(task, _upscale(task, prior, factor, seed, say)) for task in chunk]

    return work_through(tasks, left, record, "Upscaling", work)


def enlarge(picture: Picture, upscaler: Upscaler, factor: float, seed: int, say: Callable[[str], None]) -> Picture:
    """Enlarge a picture with its alpha; all else it has stays.

    Args:
        picture: of any size; cut off at the end to a size whose ``factor``-fold is whole.
        upscaler: which goes through the rounds that serve a picture by itself.
        factor: of the sides.
        seed: of all random draws.
        say: told the round.

    Raises:
        ValueError: nothing is left after cutting, or the result is larger than Pillow reads.
    """
    height, width = (_divisible(side, factor) for side in picture.image.shape[:2])
    size = round(height * factor), round(width * factor)
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > 2 * Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{size[1]} x {size[0]} px are more than Pillow would read again; choose a smaller --factor")
    alpha = None if picture.alpha is None else picture.alpha[:height, :width]
    low = _without_holes(picture.image, picture.alpha)[:height, :width]

    rounds = upscaler.rounds_alone

    def on_round(number: int) -> None:
        if rounds > 1:
            say(f", round {number + 1}/{rounds}")

    high = upscale_alone(upscaler, low, size, seed, rounds, on_round=on_round)
    if alpha is not None:
        alpha = resampled(alpha, *size)
    return replace(picture, image=high.cpu(), alpha=alpha)


def _divisible(side: int, factor: float) -> int:
    while side and not float(side * factor).is_integer():
        side -= 1
    if side == 0:
        raise ValueError(f"a side of one pixel cannot be enlarged by {factor:g}; choose a whole --factor")
    return side


def _without_holes(image: Tensor, alpha: Tensor | None) -> Tensor:
    """Replace colours that nobody sees by the nearest that somebody does, which the edges are mixed with."""
    if alpha is None or not bool((hidden := alpha[..., 0] <= 0).any()) or bool(hidden.all()):
        return image
    rows, columns = torch.from_numpy(distance_transform_edt(hidden, return_distances=False, return_indices=True))
    return image[rows.long(), columns.long()]


def _upscale(task: PictureTask, upscaler: Upscaler, factor: float, seed: int, say: Callable[[str], None]) -> str | None:
    """Enlarge one file; returns what went wrong, if something did."""
    name = task.source.name
    try:
        picture = read_picture(task.source)
        result = enlarge(picture, upscaler, factor, seed, lambda words: say(name + words))
    except torch.cuda.OutOfMemoryError:
        return f"--device: memory does not suffice for {factor:g} times its size; choose a smaller --factor, or cpu"
    except (UserError, RuntimeError, ValueError, MemoryError) as error:
        return str(error) or f"memory does not suffice for {factor:g} times its size; choose a smaller --factor"
    try:
        write_picture(task.target, result)
    except OSError as error:
        return f"--output: {task.target} cannot be written: {error}"
    return None
