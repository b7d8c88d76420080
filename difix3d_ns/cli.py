"""The ``difix3d`` command."""

from __future__ import annotations

import difflib
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import difix3d_ns
from difix3d_ns.apps.train_prior import train_prior
from difix3d_ns.data.options import CurationOptions
from difix3d_ns.errors import UserError
from difix3d_ns.io import recipes
from difix3d_ns.io.consoles import replace_unprintable

_CURATION = CurationOptions()
_PROTOCOL = (
    f"a paper's protocol instead of a recipe: {', '.join(recipes.shipped('protocol'))}, or the path of a YAML file. It "
    "sets split, masks, sizes, metrics and methods, and prints the published rows."
)


def demo(output: Path = Path("demo"), seed: int = 0, steps: int | None = None) -> None:
    """Make a procedural scene, train it with and without pseudo-views, and compare.

    Args:
        output: folder for scene, trainings, results.json, comparison.png, close_ups.png and report.html.
        seed: seed of the scene.
        steps: training steps (unset: the defaults of the device).
    """
    from difix3d_ns.apps.demo import run_demo

    run_demo(output, seed, steps)


def demo_3dsr(
    output: Path = Path("demo-3dsr"), seed: int = 0, steps: int | None = None, upscaler: str | None = None
) -> None:
    """Make a procedural scene, train on photos of 120 px with and without 3DSR, and compare at 480 px.

    Args:
        output: folder for scene, trainings, results.json, comparison.png and report.html.
        seed: seed of the scene.
        steps: steps of each training (unset: those of 3dsr-splatfacto on the device).
        upscaler: upscaler of 3DSR, by its name in difix3d upscale (unset: the embedded one).
    """
    from difix3d_ns.apps.demo_3dsr import run_demo_3dsr

    run_demo_3dsr(output, seed, steps, upscaler)


def demo_object(output: Path = Path("demo-object"), seed: int = 0, steps: int | None = None) -> None:
    """Make one photo of a procedural object into 3D, and compare it with what cameras all around the object see.

    Args:
        output: folder for the photo and what image-to-3d makes of it, results.json and comparison.png.
        seed: seed of the object.
        steps: training steps (unset: the default of the device).
    """
    from difix3d_ns.apps.demo_object import run_demo_object

    run_demo_object(output, seed, steps)


def demo_scene(output: Path, seed: int = 0) -> None:
    """Write a small procedural scene with known truth, ready for ns-train.

    Args:
        output: folder to write.
        seed: seed of the scene.
    """
    from difix3d_ns.data.procedural import demo_scene as write

    write(output, seed=seed)
    print(f"Train on it: ns-train difix3d-splatfacto --data {output}")


def photos(output: Path, seed: int = 0, count: int = 24) -> None:
    """Write unposed photos of a procedural scene, to try difix3d pose on.

    Args:
        output: folder to write.
        seed: seed of the scene.
        count: number of photos.
    """
    from difix3d_ns.data.procedural import photographs as write

    write(output, seed=seed, count=count)
    print(f"Pose them: difix3d pose {output} --output SCENE")


def pose(
    photos: Annotated[Path, tyro.conf.Positional],
    output: Path,
    lens: Literal["perspective", "fisheye", "pinhole"] = "perspective",
    matching: Literal["exhaustive", "sequential"] | None = None,
    frames: int = 120,
    long_side: int = 1600,
    force: bool = False,
    masks: Path | None = None,
    gps: Literal["auto", "no"] = "auto",
) -> None:
    """Find out where photos were taken: from a folder of photos or a video to a scene that ns-train reads.

    Uses COLMAP's Python package; nothing else has to be installed. Started again it goes on where it stopped. From ten
    photos on, every eighth is held out for evaluation.

    Args:
        photos: folder of photos, or a video.
        output: folder to write: images/, transforms.json, sparse_pc.ply, and COLMAP's files and masks in colmap/.
        lens: perspective with some distortion, fisheye, or pinhole for undistorted pictures.
        matching: exhaustive compares each photo with each other, sequential with its neighbours by name (unset:
            exhaustive up to 120 photos, sequential above and for a video).
        frames: number of frames taken of a video, at most: evenly along the camera's way, the sharpest ones.
        long_side: size at which features are searched: pixels of the long side, at most.
        force: start over and overwrite an existing scene.
        masks: folder of masks, named as the photos, or one picture that is the mask of all photos or frames of a
            video; what is black in a mask is neither matched nor trained on.
        gps: auto gives the scene metres, north and up by the photos' GPS positions, if they are exact enough; no keeps
            COLMAP's scale and axes.
    """
    from difix3d_ns.apps.pose_photos import pose as place

    print(place(photos, output, lens, matching, frames, long_side, force, masks, gps).describe())
    print(f"Train on it: ns-train difix3d-splatfacto --data {output}")


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


def depth(
    scene: Annotated[Path, tyro.conf.Positional],
    output: Path,
    prior: str = "multiview",
    weights: str | None = None,
    long_side: int = 960,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Estimate the depth of a scene's training photos from all of them.

    Writes a scene that trains with it, in the original coordinates: undistorted photos in images/, depth in depths/,
    its confidence in confidence/ (.npy), and transforms.json; and to look at, coloured depth in pictures/ and
    points.ply. Held-out photos get no depth and are not opened.

    Args:
        scene: folder that ns-train reads.
        output: folder to write.
        prior: multiview (embedded), single-view (published weights that you name), or package.module of yours.
        weights: a file or folder of weights, or a hub id (unset: the prior's own).
        long_side: size of photos and maps: pixels of the long side, at most.
        device: cpu or cuda (unset: cuda if there is one).
        force: overwrite an existing scene.
    """
    from difix3d_ns.apps.depth_maps import write_depths

    files = write_depths(scene, output, prior, weights, long_side, device, force)
    print(f"Depth of {len(files)} photos is in {output}. Train with it: ns-train sparse-splatfacto --data {output}")


def convert(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    output: Path,
    base: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    references: int = 1,
    kind: Literal["hi3d-stage1", "hi3d-stage2", "sv3d-u"] | None = None,
) -> None:
    """Turn pickles into a folder of weights that is safe to load.

    They are a training checkpoint of the official Difix code, a checkpoint of a video model of orbits (--kind), or a
    folder whose parts are .bin files, such as a published upscaler. Nothing in them is run. The folder written holds
    JSON and safetensors and is what --weights takes.

    Args:
        checkpoint: model_N.pkl; or first_stage.pt or second_stage.pt of Hi3D, or sv3d_u.safetensors; or a folder with
            .bin files, or its hub id, which downloads, for example CompVis/ldm-super-resolution-4x-openimages.
        output: folder to write.
        base: what the checkpoint was trained from, as a folder or a hub id (which downloads). Of model_N.pkl:
            stabilityai/sd-turbo, or Difix weights. With --kind: stabilityai/stable-video-diffusion-img2vid-xt, whose
            image encoder is copied (unset: to be added by hand).
        dtype: precision of the weights written: float32, bfloat16 or float16 (unset: as they are, with --kind float16).
        references: photos the model was shown beside each picture in training, which no checkpoint says: 0 if it was
            trained without, as nvidia/difix was; references are ignored then.
        kind: video model of orbits that the checkpoint holds.
    """
    import torch

    from difix3d_ns.priors.published.checkpoint import convert as write
    from difix3d_ns.priors.published.hub import PICKLES, is_hub_id
    from difix3d_ns.priors.published.pickled_folder import convert_folder

    precision = getattr(torch, dtype) if dtype else None
    if kind is not None:
        from difix3d_ns.priors.published.video_checkpoint import convert_video
        from difix3d_ns.priors.published.video_folder import BASE, ENCODER

        convert_video(checkpoint, kind, output, base, precision)
        if base is None:
            print(f"Left out: {ENCODER}/. Copy that folder of {BASE} to {output / ENCODER}, or convert with --base")
        if kind == "hi3d-stage2":
            flags = "--pipeline.guidance.orbit-refiner"
            print(f"Use it: ns-train hi3d-splatfacto {flags}.name hi3d-video {flags}.weights {output} --data SCENE")
        else:
            from difix3d_ns.geometry.object_frame import FRAMES
            from difix3d_ns.priors.published.video_kinds import KINDS

            flags, count = "--pipeline.datamanager.photo", KINDS[kind].frames
            named = f"{flags}.generator.name orbit-video {flags}.generator.weights {output} {flags}.elevation DEGREES"
            frames = "" if count == FRAMES else f" {flags}.frames {count}"
            print(f"Use it: ns-train hi3d-splatfacto {named}{frames} --data PHOTO.png")
        return
    if checkpoint.is_dir() or (is_hub_id(str(checkpoint)) and checkpoint.suffix not in PICKLES):
        convert_folder(str(checkpoint), output, precision)
        print(f"Use it: --weights {output}, or in a training as the weights of an upscaler or a fixer")
        return
    if base is None:
        raise UserError(f"{checkpoint}: give --base, what it was trained from; stabilityai/sd-turbo for official ones")
    write(checkpoint, base, output, precision, references)
    print(f"Use it: difix3d fix PICTURES --output FOLDER --weights {output}")


def curate(
    scenes: Annotated[tuple[str, ...], tyro.conf.Positional],
    output: Path,
    options: Annotated[CurationOptions, tyro.conf.arg(name="")] = _CURATION,
    first_seed: int = 0,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> None:
    """Make samples (degraded render, photo, references, depth, cameras) that a fixer is trained on.

    Started again it goes on where it stopped; several processes may work on one output.

    Args:
        scenes: procedural:N for N generated scenes, procedural-seed:S for one, folders with transforms.json or a
            COLMAP model, DATAPARSER:FOLDER with the name of another of nerfstudio's dataparsers, or meshes:FOLDER for
            orbits of its .glb, .gltf, .obj and .ply files (with --strategies orbit; meshes@30:FOLDER at 30 degrees).
        output: folder for shards.
        options: samples to make.
        first_seed: first seed of procedural:N.
        executor: local, or ray to run the scenes on a cluster (pip install 'difix3d-ns[ray]').
        address: address of a Ray cluster (unset: one is started on this machine).
    """
    from difix3d_ns.data.curate import curate as make
    from difix3d_ns.ns.capture_reader import read_dataset

    make(scenes, output, options, first_seed, executor, address, read=read_dataset)
    print(f"Samples are in {output}; in the official layout: difix3d export-pairs {output} --output FOLDER")


def export_pairs(shards: Annotated[Path, tyro.conf.Positional], output: Path) -> None:
    """Write samples as PNG files and the data.json that the official Difix code trains on.

    Args:
        shards: folder that curate wrote.
        output: folder to write.
    """
    from difix3d_ns.data.official import export_pairs as export

    counts = export(shards, output)
    print(f"{output / 'data.json'}: {counts['train']} training and {counts['test']} test samples")


def bench(
    data: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    output: Path | None = None,
    seeds: tuple[int, ...] = (),
    methods: tuple[str, ...] = (),
    recipe: str | None = None,
    protocol: Annotated[str | None, tyro.conf.arg(help=_PROTOCOL)] = None,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    changed: Literal["refuse", "redo", "keep"] = "refuse",
    record: Path | None = None,
    fill: tuple[str, ...] = (),
    perceptual_weights: tuple[Path, ...] = (),
    fetch_weights: bool = False,
) -> None:
    """Compare methods on held-out views of captures: plain splatfacto, its variants, and pseudo-views.

    Started again it goes on where it stopped. LPIPS and FID need weights that are not part of the package; without
    them they stay empty, and --fill lpips fid OUTPUT computes them later, without training.

    Args:
        data: scenes with evaluation views; with --protocol the folder of its data set.
        output: folder for results.json, table.md, report.html, pictures and all trainings.
        seeds: seeds of the trainings (unset: the recipe's).
        methods: methods of the recipe (unset: all).
        recipe: a recipe of configs/bench by name (default, ablation, smoke) or the path of a YAML file (unset:
            default).
        protocol: a paper's protocol instead of a recipe.
        executor: local, or ray to run the scenes on a cluster (pip install 'difix3d-ns[ray]').
        address: address of a Ray cluster (unset: one is started on this machine).
        changed: what to do with finished runs whose recipe, scene or code has changed since: refuse to go on, redo
            them, or keep those of which only the code has changed.
        record: folder in which the rows of every finished run are kept (unset: benchmarks/results of the checkout).
        fill: lpips, fid or both, and the folder of a finished benchmark, whose pictures they are computed from. Give
            the --recipe or --protocol it was made with.
        perceptual_weights: weight files of LPIPS and FID, with the file names used in torch's hub folder (unset: those
            there).
        fetch_weights: download the weights of LPIPS (AlexNet 233 MiB, VGG16 528 MiB) and FID (Inception 91 MiB) that
            are missing.
    """
    from difix3d_ns.evaluation.bench.bench_run import bench as run
    from difix3d_ns.evaluation.bench.perceptual_columns import FILLED
    from difix3d_ns.metrics.perceptual import PerceptualWeights, check_files

    check_files(perceptual_weights, "--perceptual-weights")
    columns = [name for name in FILLED if name in fill]
    folders = [Path(word) for word in fill if word not in columns] + ([output] if output else [])
    if fill and (data or not columns or len(folders) != 1):
        raise UserError("--fill takes lpips, fid or both, then one folder: difix3d bench --fill lpips fid OUTPUT")
    if not folders:
        raise UserError("--output is missing: difix3d bench SCENE... --output DIR")
    if recipe is not None and protocol is not None:
        raise UserError(f"--protocol {protocol} brings methods and settings of its own: leave --recipe out")
    weights = PerceptualWeights(perceptual_weights, fetch_weights)
    run(
        data,
        folders[0],
        seeds,
        methods,
        recipe or "default",
        executor,
        address,
        changed,
        record,
        weights,
        columns,
        protocol=protocol,
    )


def report(
    training: Annotated[Path, tyro.conf.Positional],
    output: Path | None = None,
    perceptual_weights: tuple[Path, ...] = (),
    fetch_weights: bool = False,
) -> None:
    """Write a page about a training, finished or not: pictures to compare, curves, metrics, time, settings.

    It is one HTML file that opens without a network. Nothing else is written.

    Args:
        training: its folder (outputs/SCENE/METHOD/TIME), its config.yml, or a folder above exactly one.
        output: the page (unset: report.html in the training's folder).
        perceptual_weights: weight files of LPIPS, with the file names used in torch's hub folder (unset: those there).
        fetch_weights: download the weights of LPIPS (AlexNet 233 MiB, VGG16 528 MiB) if they are missing.
    """
    from difix3d_ns.evaluation.report import write_report
    from difix3d_ns.metrics.perceptual import PerceptualWeights, check_files

    check_files(perceptual_weights, "--perceptual-weights")
    page = write_report(training, output, perceptual=PerceptualWeights(perceptual_weights, fetch_weights))
    print(f"Open in a browser: {page}")


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


def compare(
    first: Annotated[Path, tyro.conf.Positional],
    second: Annotated[Path, tyro.conf.Positional],
    output: Path,
    output_name: str = "rgb",
    seconds: float = 8.0,
    force: bool = False,
) -> None:
    """Show two trainings of one scene in a video, on either side of a line that moves, and measure both.

    Args:
        first: config.yml of a training, shown at the left.
        second: config.yml of another.
        output: an .mp4 file.
        output_name: what is shown: rgb, enhanced or another output.
        seconds: length of the video.
        force: overwrite an existing file.
    """
    from difix3d_ns.apps.compare_trainings import compare as write

    print(write(first, second, output, output_name, seconds, force).describe())


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


def enhance(
    splat: Annotated[Path, tyro.conf.Positional],
    data: Path,
    output: Path = Path("outputs"),
    transform: Path | None = None,
    fixer: str | None = None,
    weights: str | None = None,
) -> None:
    """Open an existing splat beside its photos, to look at it, render and measure it with the enhancer.

    Nothing is trained.

    Args:
        splat: a .ply of any program, whose coordinates are found by what it shows at three photos; or a checkpoint, the
            config.yml or the folder of a training by splatfacto.
        data: the scene with the photos that the splat shows, as ns-train reads it.
        output: folder of trainings.
        transform: coordinates of a .ply, if they cannot be found: splat_frame.json or dataparser_transforms.json.
        fixer: fixer of the enhancer (unset: embedded).
        weights: weights of the fixer (unset: its own).
    """
    from difix3d_ns.apps.enhance_splat import open_splat

    config = open_splat(splat, data, output, transform, fixer, weights)
    print(f"Look at it: ns-viewer --load-config {config}")
    print(f"Measure it: ns-eval --load-config {config} --output-path results.json")
    print(f"Render it: ns-render dataset --load-config {config} --rendered-output-names rgb enhanced")


def doctor(data: Path | None = None, output: Path = Path("outputs"), weights: str = "embedded") -> None:
    """Try what training and the commands around it need; exit with 1 if training would fail.

    Args:
        data: a scene, to estimate the GPU memory that its pictures need.
        output: folder that trainings will be written to, for the free space of its disk.
        weights: fixer to try: embedded, a file or folder of weights.
    """
    from difix3d_ns.apps.doctor import doctor as examine

    if not examine(data, output, weights):
        sys.exit(1)


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


if __name__ == "__main__":
    main()
