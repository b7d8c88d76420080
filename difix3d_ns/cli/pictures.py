"""Commands on pictures and videos, without a splat of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def fix(
    inputs: Annotated[list[Path], tyro.conf.Positional],
    output: Path,
    reference: tuple[Path, ...] = (),
    scene: Path | None = None,
    config: Path | None = None,
    weights: str = "embedded",
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    force: bool = False,
    nearest: int | None = None,
    compile: bool = False,
) -> None:
    """Repair pictures, or a video, with photos of the same things.

    Photos without cameras (--reference) are aligned by their features. Known cameras (--scene) gain more, and the splat
    that the pictures are renders of (--config) gains most. Started again, an interrupted
    folder goes on where it stopped.

    Args:
        inputs: pictures or folders of pictures, or one video.
        output: a picture for one picture, an .mp4 for a video, else a folder; names are kept.
        reference: photos of the same things, or folders of them, of which those nearest by name are compared.
        scene: folder that ns-train reads, with the cameras of pictures that are named after its photos.
        config: config.yml of a training, with cameras and splat of pictures that are named after its photos.
        weights: embedded, a folder of weights, or a hub id such as nvidia/difix_ref (which downloads 5 GB).
        device: cpu or cuda (unset: cuda if there is one).
        dtype: float32, bfloat16 or float16 (unset: the fastest the device handles well).
        force: overwrite existing pictures.
        nearest: number of photos that are used of a folder of references (unset: the weights' own number, at least 1).
        compile: compile the networks for each size of pictures first, which is faster for many pictures on cuda.
    """
    import torch

    from difix3d_ns.apps.fix_images import Sources, fix_pictures
    from difix3d_ns.apps.fix_video import fix_video, is_video

    precision = getattr(torch, dtype) if dtype else None
    sources = Sources(reference, scene, config, nearest)
    if any(is_video(path) for path in inputs):
        fix_video(inputs, output, sources, weights, device, precision, force, compile)
    else:
        fix_pictures(inputs, output, sources, weights, device, precision, force, compile)


def upscale(
    inputs: Annotated[list[Path], tyro.conf.Positional],
    output: Path,
    factor: Literal["4", "3", "2", "1.5"] = "4",
    upscaler: str = "residual",
    weights: str | None = None,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    force: bool = False,
    seed: int = 0,
) -> None:
    """Enlarge pictures, without a splat.

    Started again, an interrupted folder goes on where it stopped. Each picture is enlarged by itself: in 3DSR a splat
    makes the results of several photos agree between the rounds of a diffusion model; here the embedded one makes one
    round, which is best without a splat, and others go on from their own results. Alpha is enlarged with the picture.
    At a factor of 1.5 an odd last row or column is cut off. Nothing is ever squashed.

    Args:
        inputs: pictures or folders of pictures.
        output: a picture for one picture, else a folder; names are kept.
        factor: how many times longer the sides become.
        upscaler: residual (embedded), latent (published weights), realesrgan, backprojection, bicubic, or
            package.module of an upscaler of yours.
        weights: a file or folder of weights, or for latent a hub id, which downloads (unset: the upscaler's own).
        device: cpu or cuda (unset: cuda if there is one).
        dtype: float32, bfloat16 or float16 (unset: the fastest the device handles well).
        force: overwrite existing pictures.
        seed: seed of a diffusion model's noise.
    """
    import torch

    from difix3d_ns.apps.upscale_images import upscale_pictures

    precision = getattr(torch, dtype) if dtype else None
    upscale_pictures(inputs, output, float(factor), upscaler, weights, device, precision, force, seed)
