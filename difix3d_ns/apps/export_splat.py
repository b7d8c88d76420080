"""A training's splat as one file that viewers open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.splat_files import ENDINGS, without_ending, write_splat
from difix3d_ns.ns.config_paths import find_again
from difix3d_ns.ns.finished_splat import finished_gaussians
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.splats.placing import placed

Coordinates = Literal["training", "capture"]
_MAX_LOST = 0.1  # of a Gaussian's size


@dataclass(frozen=True)
class Exported:
    """The file that was written."""

    file: Path
    gaussians: int
    left_out: dict[str, int]  # reason -> number
    megabytes: float

    def describe(self) -> str:
        """Return it for people."""
        left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        return f"{self.file}: {self.gaussians} Gaussians, {self.megabytes:.1f} MB" + (
            f"; left out: {left}" if left else ""
        )


def export(
    config: Path,
    output: Path,
    frame: Coordinates = "training",
    crop: tuple[float, ...] = (),
    keep_all: bool = False,
    force: bool = False,
) -> Exported:
    """Write the splat of a training.

    Args:
        config: config.yml of the training, its folder, or a folder above exactly one.
        output: file; its ending is one of ``ENDINGS``.
        frame: coordinates: of training, which a JSON file beside leads back from, or those the capture came with.
        crop: least x, y, z and greatest x, y, z of what is written, in these coordinates; empty: all.
        keep_all: write as well what floats, what is invisible and what no photo shows.
        force: overwrite a file that is there.

    Raises:
        UserError: the flags are no good, there is no such training, or nothing is left.
    """
    from difix3d_ns.evaluation.report.training import read_training

    check_output(output, ENDINGS, force)
    if crop:
        check_crop(crop)
    pipeline = load_pipeline(read_training(config).path)
    gaussians, left_out = finished_gaussians(pipeline, keep_all)
    place = SplatFrame.of(pipeline.datamanager.train_dataparser_outputs)
    if frame == "capture":
        gaussians = placed(gaussians, torch.from_numpy(place.to_original))
        _check_digits(gaussians, output)
    if crop:
        low, high = torch.tensor(crop[:3]).double(), torch.tensor(crop[3:]).double()
        inside = ((gaussians["means"] >= low) & (gaussians["means"] <= high)).all(1)
        left_out["outside of the crop"] = int((~inside).sum())
        gaussians = {name: values[inside] for name, values in gaussians.items()}
    if not len(gaussians["means"]):
        raise UserError(
            f"nothing is left to write to {output}"
            + (": --crop takes all away; its numbers are in the coordinates of --frame " + frame if crop else "")
        )
    try:
        write_splat(output, gaussians)
        if frame == "training":
            place.write(output.with_name(f"{without_ending(output)}_frame.json"))
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error
    return Exported(output, len(gaussians["means"]), left_out, output.stat().st_size / 1e6)


def check_output(output: Path, endings: Sequence[str], force: bool) -> None:
    """Raise a UserError if a file is not to be written: its ending is none of these, or it is there already."""
    if not output.name.lower().endswith(tuple(endings)):
        raise UserError(f"--output {output}: the name must end in one of {', '.join(endings)}")
    if output.exists() and not force:
        raise UserError(f"--output {output} exists already; --force overwrites")


def check_crop(crop: Sequence[float]) -> None:
    """Raise a UserError if --crop is no box."""
    if len(crop) != 6 or any(low >= high for low, high in zip(crop[:3], crop[3:], strict=True)):
        raise UserError(f"--crop {' '.join(f'{value:g}' for value in crop)}: least x y z, then greatest x y z")


def _check_digits(gaussians: dict[str, Tensor], output: Path) -> None:
    """Refuse coordinates so large that float32 would move Gaussians by a part of their size."""
    lost = (gaussians["means"] - gaussians["means"].float().double()).abs().amax()
    if lost > _MAX_LOST * gaussians["scales"].double().exp().median():
        raise UserError(
            f"--frame capture: the capture's coordinates are so large that {output.suffix} would lose "
            f"{float(lost):.2g} of them; give --frame training, which writes the way back beside it"
        )


def load_pipeline(config: Path, device: str | None = None) -> Any:
    """Load a finished training.

    Args:
        config: its config.yml.
        device: of the splat and of its photos; None for CUDA where there is one.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    def with_device(trainer: Any) -> Any:
        pipeline = find_again(trainer, config).pipeline
        if device is not None:  # eval_setup asks for none
            target = pipeline._target
            pipeline._target = lambda *args, **kwargs: target(*args, **{**kwargs, "device": torch.device(device)})
        return trainer

    _, pipeline, _, _ = eval_setup(config, test_mode="test", update_config_callback=with_device)
    return pipeline
