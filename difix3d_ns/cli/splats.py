"""Commands on splats: view, export, mesh, film; and one from a single photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from difix3d_ns.errors import UserError


def enhance(
    source: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    output: Path = Path("outputs"),
    transform: Path | None = None,
    fixer: str | None = None,
    weights: str | None = None,
) -> None:
    """Open an existing splat or training beside its photos, to look at it, render and measure it with the enhancer.

    Nothing is trained.

    Args:
        source: a .ply or .spz of any program, whose coordinates are found by what it shows at three photos; or a
            checkpoint, the config.yml or the folder of a training by splatfacto, nerfacto or another method of
            nerfstudio.
        data: the scene with the photos that it shows, as ns-train reads it (unset: the training's; a .ply or .spz needs
            it).
        output: folder of trainings.
        transform: coordinates of a .ply, if they cannot be found: splat_frame.json or dataparser_transforms.json.
        fixer: fixer of the enhancer (unset: embedded).
        weights: weights of the fixer (unset: its own).
    """
    from difix3d_ns.apps.enhance_splat import open_splat

    config = open_splat(source, data, output, transform, fixer, weights)
    print(f"Look at it: ns-viewer --load-config {config}")
    print(f"Measure it: ns-eval --load-config {config} --output-path results.json")
    print(f"Render it: ns-render dataset --load-config {config} --rendered-output-names rgb enhanced")


def export(
    config: Annotated[Path, tyro.conf.Positional],
    output: Path,
    frame: Literal["training", "capture"] = "training",
    crop: tuple[float, float, float, float, float, float] | None = None,
    keep_all: bool = False,
    force: bool = False,
) -> None:
    """Write a training's splat as one file that other viewers open.

    Leaves out what floats in front of the cameras, what cannot be seen and what no photo shows.

    Args:
        config: config.yml of the training, or its folder.
        output: file. splat.ply opens everywhere, splat.compressed.ply takes a quarter of the disk (PlayCanvas,
            SuperSplat), splat.spz a sixth.
        frame: coordinates: training, with the way back in a file beside it; or capture, those of your own poses.
        crop: smallest x, y, z and largest x, y, z of what is written, in these coordinates.
        keep_all: leave nothing out.
        force: overwrite an existing file.
    """
    from difix3d_ns.apps.export_splat import export as write

    print(write(config, output, frame, crop or (), keep_all, force).describe())


def mesh(
    splat: Annotated[Path, tyro.conf.Positional],
    output: Path | None = None,
    data: Path | None = None,
    between: int = 16,
    voxels: int | None = None,
    simplify: int | None = None,
    texture: int | None = None,
    colours: Literal["photos", "count"] = "photos",
    frame: Literal["training", "capture"] = "training",
    crop: tuple[float, float, float, float, float, float] | None = None,
    obb_center: tuple[float, float, float] | None = None,
    obb_rotation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    obb_scale: tuple[float, float, float] | None = None,
    seen_by: int | None = None,
    close_holes: bool = False,
    smoothing: int = 5,
    force: bool = False,
) -> None:
    """Make a mesh of a splat, with the photos' colours.

    Meshes what three photos see, and around an object also what none sees: its share is printed, and each vertex has
    the number of photos that show it. Holes stay open. Takes minutes on a CPU, which it uses on every machine.

    Args:
        splat: config.yml of a training by any of our methods, its folder, or a .ply of any program.
        output: file: mesh.glb (Blender, web), mesh.obj (with .mtl and .png beside it) or mesh.ply (MeshLab, colours of
            vertices). Unset: mesh.glb in the training's folder, where the viewer finds it.
        data: the scene with the photos that a .ply shows, as ns-train reads it.
        between: cameras between the photos from which the splat's depth is used as well.
        voxels: number of voxels along the longest side of the box; each takes 22 bytes of memory (unset: as fine as
            the photos' pixels, 64 to 384).
        simplify: number of faces, at most (unset: all, or 20,000 with a texture).
        texture: side of the texture in pixels, 0 for colours of vertices alone (unset: 2048 in a .glb or .obj).
        colours: as in the photos; or count, by how many photos show a face: red for none, yellow for one, blue for
            five and more.
        frame: coordinates: training (z up, in a .glb y up), with the way back in a file beside it, or capture, those of
            your own poses.
        crop: smallest x, y, z and largest x, y, z of what is meshed, in the coordinates of --frame.
        obb_center: center of a box in training coordinates, as the viewer's Export tab writes it.
        obb_rotation: rotation of that box.
        obb_scale: size of that box.
        seen_by: leave out faces that fewer photos show (unset: 0 around an object, 2 elsewhere).
        close_holes: close holes, with flat patches.
        smoothing: steps of smoothing, 0 for none.
        force: overwrite an existing file.
    """
    from difix3d_ns.apps.mesh_splat import box_of, turned_box
    from difix3d_ns.apps.mesh_splat import mesh as write
    from difix3d_ns.meshing.splat_mesh import MeshOptions

    box, turn = (box_of(crop) if crop else None), None
    if (obb_center is None) != (obb_scale is None):
        raise UserError("--obb-center and --obb-scale belong together; the viewer's Export tab writes both")
    if obb_center is not None and obb_scale is not None:
        if crop:
            raise UserError("--crop and --obb-center both say what is meshed; leave one out")
        box, turn = turned_box(obb_center, obb_rotation, obb_scale)
    options = MeshOptions(between, voxels, box, turn, seen_by, simplify, smoothing, close_holes)
    print(write(splat, output, data, options, frame, colours, texture, force).describe())


def turntable(
    source: Annotated[Path, tyro.conf.Positional],
    output: Path,
    show: tuple[Literal["rgb", "enhanced", "mesh"], ...] = (),
    mesh: Path | None = None,
    seconds: float = 6.0,
    frames: int | None = None,
    long_side: int | None = None,
    data: Path | None = None,
    force: bool = False,
) -> None:
    """Write a video of a camera that goes once around an object, by the ring of its photos, or around a mesh.

    Where the photos stand on one side of it alone, the camera goes there and back.

    Args:
        source: config.yml of a training, its folder, a .ply of any program, or a mesh (.glb, .obj, .ply).
        output: an .mp4 or .gif file; a .gif needs no ffmpeg.
        show: what is shown side by side (unset: rgb; of a mesh, itself).
        mesh: file of the mesh (unset: mesh.glb, .obj or .ply in the training's folder).
        seconds: of the video.
        frames: of the video (unset: 24 a second, 20 in a .gif).
        long_side: of each picture, in pixels (unset: the photos', in a .gif 480 at most; of a mesh 800, in a .gif 480).
        data: the scene with the photos that a splat's .ply shows.
        force: overwrite a file that is there.
    """
    from difix3d_ns.apps.turntable import turntable as write

    print(write(source, output, show, mesh, seconds, frames, long_side, data, force).describe())


def image_to_3d(
    photo: Annotated[Path | None, tyro.conf.Positional] = None,
    output: Path = Path("object"),
    elevation: float | None = None,
    cut: tuple[int, int, int, int] | None = None,
    steps: int | None = None,
    prompt: str | None = None,
    text_weights: str | None = None,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Make a splat, a mesh, a video around it and a page from one photo of an object.

    The embedded generator carries over what the photo shows; the shape and colours of the other sides are the guess of
    a small network that knows procedural solids alone. Started again, a finished training is kept.

    Args:
        photo: picture of one object, with alpha or before a background of one colour, or with --cut.
        output: folder to write.
        elevation: degrees that the camera looks down on the object: 0 at eye level, 30 from above as at something on a
            table, negative from below. Has to be given.
        cut: left, top, right and bottom in pixels: a box that holds all of the object, which is cut out within.
        steps: training steps (unset: the default of the device).
        prompt: text of which the picture is made, in place of a photo; with --text-weights.
        text_weights: a text-to-image pipeline of diffusers: a folder, or a hub id, which downloads.
        seed: seed of the picture made of a text.
        force: make everything again.
    """
    from difix3d_ns.apps.image_to_3d import image_to_3d as make

    make(photo, output, elevation, cut, steps, prompt, text_weights, seed, force)
