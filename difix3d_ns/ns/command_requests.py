"""Requests of nerfstudio's own commands that a splat cannot serve, refused before anything is loaded or rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from difix3d_ns.errors import UserError

_RAYS = "does not work with a splat: it reads the rays of a radiance field"
_POINTS = (
    "For the splat itself: `difix3d export CONFIG --output splat.ply`; for points of its photos: `difix3d depth SCENE "
    "--output FOLDER`"
)
_MESH = "For a mesh with the photos' colours: `difix3d mesh CONFIG --output mesh.glb`"
_REFUSED = {
    "ExportPointCloud": f"ns-export pointcloud {_RAYS}. {_POINTS}",
    "ExportTSDFMesh": f"ns-export tsdf {_RAYS}. {_MESH}",
    "ExportPoissonMesh": f"ns-export poisson {_RAYS}. {_MESH}",
    "ExportMarchingCubesMesh": f"ns-export marching-cubes needs a signed distance, which a splat lacks. {_MESH}",
    "SpiralRender": (
        "ns-render spiral does not work with methods that train on whole photos. For a video between the photos: "
        "`ns-render interpolate --pose-source train`; for a path of your own from the viewer: `ns-render camera-path`"
    ),
}
"""by the class of the command"""
_EXPORTS = {
    "ExportPointCloud": "pointcloud",
    "ExportTSDFMesh": "tsdf",
    "ExportPoissonMesh": "poisson",
    "ExportMarchingCubesMesh": "marching-cubes",
    "ExportGaussianSplat": "gaussian-splat",
}
"""names of ns-export's commands, which read what a training has and its opened copy has not: rays, or Gaussians"""
ALL = "all"
RGBA = "rgba"


def check_request(command: Any, source: Path | None = None) -> None:
    """Raise a UserError if a command of nerfstudio cannot do what it was asked with a splat, or an opened training.

    Args:
        command: an instance of a class of ``nerfstudio.scripts.exporter`` or ``render``; of others nothing is known.
        source: config.yml of the training that was opened with the enhancer; None of a splat.
    """
    name = _EXPORTS.get(type(command).__name__)
    if source is not None and name is not None:
        raise UserError(
            f"ns-export {name} needs the training itself, not what difix3d enhance has made of it: give --load-config "
            f"{source}"
        )
    if (refused := _REFUSED.get(type(command).__name__)) is not None:
        raise UserError(refused)
    if getattr(command, "render_nearest_camera", False):
        raise UserError(
            "--render-nearest-camera needs the rays of a radiance field, which a splat has not: leave it out"
        )
    names = getattr(command, "rendered_output_names", None) or ()
    if RGBA in names:
        if len(names) > 1 and type(command).__name__ != "DatasetRender":
            raise UserError("rgba stands beside no other output in a picture: name it alone in --rendered-output-names")
        if getattr(command, "output_format", "images") == "video":
            raise UserError("rgba: a video has no transparency; add --output-format images --image-format png")
        if command.image_format != "png":
            raise UserError("rgba: JPEG has no transparency; add --image-format png")


def complete_names(command: Any, outputs: tuple[str, ...]) -> None:
    """Put the names of all outputs in the place of ``all``, and check the others.

    Args:
        command: an instance of a class of ``nerfstudio.scripts.render``; of others nothing is known.
        outputs: what the model renders.

    Raises:
        UserError: an unknown name.
    """
    names = getattr(command, "rendered_output_names", None)
    if names is None:
        return
    if ALL in names:
        command.rendered_output_names = names = [
            *outputs,
            *(name for name in dict.fromkeys(names) if name not in (ALL, *outputs)),
        ]
    known = [*outputs, RGBA]
    if type(command).__name__ == "DatasetRender":
        known += ["gt-rgb", *(f"raw-{name}" for name in (*outputs, "gt-rgb"))]
        unknown = [name for name in names if name not in known and not name.startswith(("gt-", "raw-gt-"))]
    else:
        unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"--rendered-output-names {' '.join(unknown)}: this training has {', '.join(known)}; {ALL} stands for "
            f"{', '.join(outputs)}"
        )
