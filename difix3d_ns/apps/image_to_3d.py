"""From one photo, or a text, to a splat, a mesh, a video around it and a page about them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from difix3d_ns.apps.mesh_splat import mesh as write_mesh
from difix3d_ns.apps.turntable import turntable
from difix3d_ns.apps.video_files import ANIMATION, VIDEO
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report import write_report
from difix3d_ns.evaluation.runs import config_of, train
from difix3d_ns.io.atomic import write_json
from difix3d_ns.io.cut_objects import read_object
from difix3d_ns.io.cut_outs import within_box
from difix3d_ns.io.durations import duration
from difix3d_ns.io.images import Picture, read_picture, write_picture
from difix3d_ns.ns.dataparsers.photo_orbit import HOW_TO_JUDGE, check_elevation
from difix3d_ns.priors.published.text_to_picture import picture_of

METHOD = "hi3d-splatfacto"
MAX_SIDE = 1024
"""pixels of the square picture that is kept of a photo"""
STEPS_PER_SECOND = 11.0
"""of training on one core, at frames of 256 pixels"""
_BESIDES = 100.0  # seconds on one core: frames, refiner, mesh, video
_CPU_STEPS = 2000  # where nobody says how many
CUT_OUT, IN_BOX, DRAWN = "object-cut-out.png", "object-in-box.png", "object-drawn.png"
"""what is made of the photo, by names that photos do not have: the object cut out of it, the same with the alpha of a
box, and the picture of a text"""
_FLAG = "--pipeline.datamanager.photo"


@dataclass(frozen=True)
class Made:
    """Files made of a photo."""

    config: Path  # of the training
    mesh: Path
    video: Path
    page: Path


def image_to_3d(
    photo: Path | None,
    output: Path,
    elevation: float | None,
    cut: tuple[int, int, int, int] | None = None,
    steps: int | None = None,
    prompt: str | None = None,
    text_weights: str | None = None,
    seed: int = 0,
    force: bool = False,
) -> Made:
    """Make a splat, a mesh, a video and a page of one photo.

    Args:
        photo: picture file; None: made from ``prompt``.
        output: folder. Started again, what is finished there is kept.
        elevation: degrees that the camera looks down.
        cut: left, top, right, bottom in pixels: a box within which the object is cut out.
        steps: of training; None: the method's own.
        prompt: text of which the picture is made.
        text_weights: text-to-image pipeline, a folder or a hub id.
        seed: of the picture of a text.
        force: make everything again.

    Raises:
        UserError: flags that do not fit each other, a picture that cannot be used or would be written over, or a step
            that failed.
    """
    console = Console()
    if (photo is None) == (prompt is None):
        raise UserError("give either a photo or --prompt TEXT, the text of which a picture is made")
    if (prompt is None) != (text_weights is None):
        raise UserError("--prompt and --text-weights belong together: the text, and the pipeline that draws it")
    if elevation is None:
        raise UserError(f"--elevation is missing, the degrees that the camera looks down on the object: {HOW_TO_JUDGE}")
    check_elevation(elevation, "--elevation")
    kept, done = output / CUT_OUT, output / "training.json"
    mesh, page = output / "mesh.glb", output / "report.html"
    video = output / f"around{VIDEO if shutil.which('ffmpeg') else ANIMATION}"
    if photo is not None:
        _check_kept(photo, (kept, video) if cut is None else (kept, output / IN_BOX, video))
    if force:
        done.unlink(missing_ok=True)
    console.rule("1/4  the object, cut out")
    if photo is None:
        assert prompt is not None and text_weights is not None
        photo = _drawn(output / DRAWN, prompt, text_weights, seed, force)
    cut_out(photo, kept, cut)
    facts = {"photo": hashlib.sha256(kept.read_bytes()).hexdigest(), "elevation": elevation, "steps": steps}
    config = config_of(output / "outputs", "object", METHOD)
    console.rule("2/4  frames around it, and a splat")
    if _kept(done, facts) and config.is_file():
        console.print(f"[dim]kept: {config}", highlight=False)
    else:
        if not torch.cuda.is_available():
            seconds = (steps or _CPU_STEPS) / STEPS_PER_SECOND + _BESIDES
            console.print(f"All of it takes about {duration(seconds)} on a CPU, most of it here.", highlight=False)
        done.unlink(missing_ok=True)  # of the training that is removed
        shutil.rmtree(config.parent, ignore_errors=True)
        flags = [f"{_FLAG}.elevation", f"{elevation:g}"]
        flags += [] if steps is None else ["--max-num-iterations", str(steps)]
        train(kept, output / "outputs", "object", flags, method=METHOD)
        write_json(done, facts)
    console.rule("3/4  mesh and video")
    console.print(write_mesh(config, mesh, force=True).describe(), highlight=False)
    console.print(turntable(config, video, ("rgb", "mesh"), mesh, force=True).describe(), highlight=False)
    console.rule("4/4  page")
    page = write_report(config, page, console=console)
    for what, path in (("Mesh", mesh), ("Video", video), ("Open in a browser", page)):
        console.print(f"{what}: [bold]{path}[/bold]", highlight=False, soft_wrap=True)
    console.print(f"Look at it: ns-viewer --load-config {config}", highlight=False, soft_wrap=True)
    return Made(config, mesh, video, page)


def cut_out(photo: Path, output: Path, box: tuple[int, int, int, int] | None = None) -> None:
    """Write the one object of a photo, centred and before nothing.

    Args:
        photo: picture file.
        output: PNG with alpha; with a box there is ``IN_BOX`` beside it too.
        box: within which the object is found by GrabCut; None: by alpha, or before a plain background.

    Raises:
        UserError: see ``read_object``; or nothing is found in the box.
    """
    if box is not None:
        picture = read_picture(photo)
        numbers = " ".join(str(number) for number in box)
        try:
            found = within_box((picture.image * 255).round().byte().numpy(), box)
        except ValueError as error:
            raise UserError(f"--cut {numbers}: {error}; give LEFT TOP RIGHT BOTTOM in pixels") from error
        if not found.any():
            raise UserError(f"--cut {numbers}: nothing in it differs from what is around; give another box")
        alpha = torch.from_numpy(found.astype(np.float32))
        photo = output.with_name(IN_BOX)
        write_picture(photo, Picture(picture.image, alpha))
    image = read_object(photo, MAX_SIDE).image
    write_picture(output, Picture(image[..., :3], image[..., 3:]))


def _check_kept(photo: Path, written: Sequence[Path]) -> None:
    """Raise a UserError if a file that is written is the photo."""
    for path in written:
        if path.exists() and photo.exists() and path.samefile(photo):
            raise UserError(f"{photo} would be written over: give another --output, or a copy of it by another name")


def _drawn(picture: Path, prompt: str, weights: str, seed: int, force: bool) -> Path:
    """Draw the picture of a text, unless it is there."""
    facts = {"prompt": prompt, "text_weights": weights, "seed": seed}
    done = picture.with_suffix(".json")
    if force or not (picture.is_file() and _kept(done, facts)):
        done.unlink(missing_ok=True)
        write_picture(picture, picture_of(prompt, weights, _device(), seed))
        write_json(done, facts)
    return picture


def _kept(done: Path, facts: dict[str, object]) -> bool:
    try:
        return bool(json.loads(done.read_text(encoding="utf-8")) == facts)
    except (OSError, ValueError):
        return False


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
