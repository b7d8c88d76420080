"""Commands that make priors: samples to train on, training (apps/train_prior.py), weights of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from difix3d_ns.data.options import CurationOptions
from difix3d_ns.errors import UserError

_CURATION = CurationOptions()


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
