"""A training's splat as one file that viewers open."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.geometry.warp import in_view
from difix3d_ns.io.atomic import replacing
from difix3d_ns.ns.config_paths import find_again
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.splats.placing import placed

Frame = Literal["training", "capture"]
ENDINGS = (".compressed.ply", ".ply", ".spz")
_MIN_OPACITY = 1 / 255
"""below, a Gaussian changes no picture of 8 bits"""
_MARGIN = 0.25  # of the picture, around it: what lies beyond is seen by views between the photos
_MAX_LOST = 0.1  # of a Gaussian's size
_SPZ_BITS, _SPZ_FRACTION = 23, 16  # of a position in fixed point, without its sign; of its fraction, at most


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
    frame: Frame = "training",
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

    _check(output, crop, force)
    pipeline = load_pipeline(read_training(config).path)
    gaussians = {name: values.detach().cpu() for name, values in pipeline.model.gauss_params.items()}
    finite = torch.stack([values.flatten(1).isfinite().all(1) for values in gaussians.values()]).all(0)
    kept, left_out = finite, {"that are no numbers": int((~finite).sum())}
    if not keep_all:
        for reason, needless in _needless(pipeline, gaussians).items():
            left_out[reason] = int((kept & needless).sum())
            kept = kept & ~needless
    gaussians = {name: values[kept] for name, values in gaussians.items()}
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
        with replacing(output) as part:
            _write(part, output, gaussians)
        if frame == "training":
            place.write(output.with_name(f"{_stem(output)}_frame.json"))
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error
    return Exported(output, len(gaussians["means"]), left_out, output.stat().st_size / 1e6)


def _check(output: Path, crop: tuple[float, ...], force: bool) -> None:
    if not output.name.lower().endswith(ENDINGS):
        raise UserError(f"--output {output}: the name must end in one of {', '.join(ENDINGS)}")
    if output.exists() and not force:
        raise UserError(f"--output {output} exists already; --force overwrites")
    if crop and (len(crop) != 6 or any(low >= high for low, high in zip(crop[:3], crop[3:], strict=True))):
        raise UserError(f"--crop {' '.join(f'{value:g}' for value in crop)}: least x y z, then greatest x y z")


def _check_digits(gaussians: dict[str, Tensor], output: Path) -> None:
    """Refuse coordinates so large that float32 would move Gaussians by a part of their size."""
    lost = (gaussians["means"] - gaussians["means"].float().double()).abs().amax()
    if lost > _MAX_LOST * gaussians["scales"].double().exp().median():
        raise UserError(
            f"--frame capture: the capture's coordinates are so large that {output.suffix} would lose "
            f"{float(lost):.2g} of them; give --frame training, which writes the way back beside it"
        )


def load_pipeline(config: Path) -> Any:
    """Load a finished training."""
    from nerfstudio.utils.eval_utils import eval_setup

    _, pipeline, _, _ = eval_setup(config, test_mode="test", update_config_callback=lambda one: find_again(one, config))
    return pipeline


def _needless(pipeline: Any, gaussians: dict[str, Tensor]) -> dict[str, Tensor]:
    """Find what viewers show and we do not, or what nobody has seen, [N] bool by reason."""
    means, scene = gaussians["means"], pipeline.scene
    shown = torch.zeros(len(means), dtype=torch.bool)
    for camera in scene.unoptimized_cameras():
        shown |= in_view(means, camera, _MARGIN)[0]
    return {
        "that float in front of the cameras": pipeline.free.floating(means),
        "that cannot be seen": gaussians["opacities"].sigmoid()[:, 0] < _MIN_OPACITY,
        "that no photo shows": ~shown,
    }


def _stem(path: Path) -> str:
    return next(path.name[: -len(ending)] for ending in ENDINGS if path.name.lower().endswith(ending))


def _write(part: Path, output: Path, gaussians: dict[str, Tensor]) -> None:
    import gsply

    def array(name: str) -> np.ndarray:
        return np.ascontiguousarray(gaussians[name].float().numpy())

    means, quats = array("means"), array("quats")
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    colours, opacities = (array("features_dc"), array("features_rest")), array("opacities")[:, 0]
    compressed = output.name.lower().endswith(ENDINGS[0])
    ply = part.with_name(f"{part.stem}.{'compressed' if compressed else 'whole'}.ply")
    try:
        gsply.plywrite(ply, means, array("scales"), quats, opacities, *colours)
        if output.suffix.lower() != ".spz":
            shutil.copyfile(ply, part)
            return
        whole = max(1, int(np.ceil(np.log2(np.abs(means).max() + 1))))
        if whole >= _SPZ_BITS:
            raise UserError(f"--output {output}: .spz has no digits for coordinates so large; give --frame training")
        gsply.write_spz(part, gsply.plyread(ply), fractional_bits=min(_SPZ_FRACTION, _SPZ_BITS - whole))
    finally:
        ply.unlink(missing_ok=True)
