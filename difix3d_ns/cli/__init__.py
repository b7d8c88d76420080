"""The ``difix3d`` command."""

from __future__ import annotations

import difflib
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

import difix3d_ns
from difix3d_ns.apps.train_prior import train_prior
from difix3d_ns.cli.captures import depth, pose
from difix3d_ns.cli.demos import demo, demo_3dsr, demo_object, demo_scene, photos
from difix3d_ns.cli.machine import doctor
from difix3d_ns.cli.pictures import fix, upscale
from difix3d_ns.cli.prior_training import convert, curate, export_pairs
from difix3d_ns.cli.splats import enhance, export, image_to_3d, mesh, turntable
from difix3d_ns.cli.trainings import bench, compare, report
from difix3d_ns.errors import UserError
from difix3d_ns.io.consoles import replace_unprintable

COMMANDS: dict[str, Callable[..., Any]] = {
    "doctor": doctor,
    "demo": demo,
    "demo-3dsr": demo_3dsr,
    "demo-object": demo_object,
    "demo-scene": demo_scene,
    "photos": photos,
    "pose": pose,
    "fix": fix,
    "upscale": upscale,
    "depth": depth,
    "convert": convert,
    "curate": curate,
    "export-pairs": export_pairs,
    "train-prior": train_prior,
    "report": report,
    "export": export,
    "mesh": mesh,
    "compare": compare,
    "turntable": turntable,
    "image-to-3d": image_to_3d,
    "enhance": enhance,
    "bench": bench,
}


_GO_ON = {"pose", "fix", "upscale", "curate", "train-prior", "bench"}
"""commands that go on where they stopped"""


class _Terminated(BaseException):
    """SIGTERM came."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def main() -> None:
    """Entry point."""
    replace_unprintable()
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "--version":
        print(f"difix3d {difix3d_ns.__version__}")
        return
    if command and command[0] != "-" and command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"Error: difix3d has no command {command}: {meant}", file=sys.stderr)
        sys.exit(2)
    # of what nerfstudio imports, which nobody who runs a command can change
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"nerfstudio\.")
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="difix3d", description="Diffusion-fixed Gaussian splatting for nerfstudio."
        )
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        known = error.filename is not None and error.strerror
        print(f"Error: {f'{error.filename}: {error.strerror}' if known else error}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, _Terminated) as end:
        from difix3d_ns.io.video_frames import is_video

        goes_on = command in _GO_ON and not any(is_video(Path(word)) for word in sys.argv[2:])  # a video begins again
        kept = ": what is finished is kept, and the same command goes on from there" if goes_on else ""
        print(f"Interrupted{kept}.", file=sys.stderr)
        sys.exit(128 + (signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
