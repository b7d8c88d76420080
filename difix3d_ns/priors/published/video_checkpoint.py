"""Official checkpoints of Hi3D and SV3D-u, turned into folders of JSON and safetensors in diffusers' layout."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import remove_unfinished, replacing, stream_tensors, write_json
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.conversion import check_output, read_pickle
from difix3d_ns.priors.published.folder import WEIGHTS
from difix3d_ns.priors.published.video_folder import ENCODER, build, check_encoder
from difix3d_ns.priors.published.video_kinds import KINDS, MAX_SIGMA, MIN_SIGMA, SCALE, KindName
from difix3d_ns.priors.published.video_names import autoencoder_name, unet_name

_UNET = "model.diffusion_model."
_FIRST_STAGE = "first_stage_model."
_HEAD = 64  # channels of an attention head
_SPARE = 2**26  # bytes beside the weights
_NAMED = 3  # tensors in a message
_OTHERS = {1280: "sv3d_p, whose cameras vary from frame to frame, which the network in diffusers can't do"}
"""length of the vector -> model that can't be converted"""
_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "timestep_type": "continuous",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": True,
    "sigma_min": MIN_SIGMA,
    "sigma_max": MAX_SIGMA,
}


@dataclass(frozen=True)
class _Checkpoint:
    """Tensors that are read when they are asked for."""

    file: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@dataclass(frozen=True)
class _Part:
    """A network of the folder: what becomes of which tensors."""

    folder: str
    config: dict[str, Any]
    sources: dict[str, str]  # name in diffusers -> in the checkpoint
    shapes: dict[str, tuple[int, ...]]  # by name in diffusers


def convert_video(
    checkpoint: Path,
    kind: KindName,
    output: Path,
    base: str | None = None,
    dtype: torch.dtype | None = None,
    console: Console | None = None,
) -> Path:
    """Convert a checkpoint to a folder with unet/, vae/ and scheduler/, and image_encoder/ where it is known.

    One tensor at a time is in memory, where the file's format allows.

    Args:
        checkpoint: .safetensors; or a pickle, as DeepSpeed and Lightning write them, in which nothing is run.
        kind: what it is.
        output: folder to write; must not exist or be empty.
        base: Stable Video Diffusion as a folder or a hub id, which downloads: its image_encoder/ is copied. None: that
            folder is added by hand.
        dtype: of the weights written; None for float16.
        console: where the progress is shown.

    Returns:
        ``output``.

    Raises:
        UserError: something is missing, damaged, of another kind or in the way, or the disk is full.
    """
    check_output(output)
    dtype = dtype or torch.float16
    source = _open(checkpoint)
    parts = [_unet(source, kind), _autoencoder(source)]
    encoder = None if base is None else _encoder(base)
    total = sum(math.prod(shape) * dtype.itemsize for part in parts for shape in part.shapes.values())
    copied = 0 if encoder is None else sum(file.stat().st_size for file in encoder.iterdir())
    _check_space(output, total + copied)
    remove_unfinished(output.parent, output.suffix, output.stem)
    try:
        with progress_bar(console or Console(stderr=True)) as bar, replacing(output) as written:
            task = bar.add_task(f"Converting {checkpoint.name}", total=total)
            for part in parts:
                write_json(written / part.folder / "config.json", part.config)
                stream_tensors(
                    written / part.folder / WEIGHTS,
                    dtype,
                    part.shapes,
                    partial(_read, source, part, dtype),
                    lambda size: bar.advance(task, size),
                )
            write_json(written / "scheduler" / "scheduler_config.json", _SCHEDULER)
            if encoder is not None:
                shutil.copytree(encoder, written / ENCODER)
            write_json(written / hub.FACTS, {"checkpoint": checkpoint.name, "kind": kind, "format": 1})
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror or error}") from error
    return output


def _open(file: Path) -> _Checkpoint:
    if not file.is_file():
        raise UserError(f"{file}: no such file; a checkpoint (.pt, .ckpt or .safetensors) is expected")
    if file.suffix == ".safetensors":
        try:
            opened = safe_open(file, "pt")
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged or half copied ({error}); copy or download it again") from error
        return _Checkpoint(file, shapes, opened.get_tensor)
    content = read_pickle(file)
    for key in ("module", "state_dict"):  # of DeepSpeed, of Lightning
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{file} holds no weights: neither module nor state_dict nor tensors by name are in it")
    tensors = {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    return _Checkpoint(file, {name: tuple(value.shape) for name, value in tensors.items()}, tensors.__getitem__)


def _unet(source: _Checkpoint, kind: KindName) -> _Part:
    """The UNet, of the sizes its tensors have; UserError if it is not of a kind."""
    shapes = {name.removeprefix(_UNET): s for name, s in source.shapes.items() if name.startswith(_UNET)}
    if not shapes:
        found = sorted({name.split(".")[0] for name in source.shapes})[:6]
        raise UserError(
            f"{source.file} is no checkpoint of a video model: no tensor's name begins with {_UNET} (found "
            f"{', '.join(found) or 'nothing'})"
        )
    _check_kind(source.file, shapes, kind)
    widths = [
        shapes.get(f"input_blocks.{1 + 3 * level}.0.in_layers.2.weight", (320 * 2 ** min(level, 2),))[0]
        for level in range(4)
    ]
    cross = shapes.get("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (widths[0], 1024))[1]
    described = KINDS[kind]
    config = {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "sample_size": described.side // 8,
        "in_channels": described.channels,
        "out_channels": 4,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "num_attention_heads": [max(1, width // _HEAD) for width in widths],
        "cross_attention_dim": cross,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": described.vector,
        "num_frames": described.frames,
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
    }
    return _fitted(source, "unet", config, {f"{_UNET}{name}": unet_name(name) for name in shapes})


def _check_kind(file: Path, shapes: Mapping[str, tuple[int, ...]], kind: KindName) -> None:
    first, label = shapes.get("input_blocks.0.0.weight"), shapes.get("label_emb.0.0.weight")
    missing = [n for n, s in (("input_blocks.0.0.weight", first), ("label_emb.0.0.weight", label)) if s is None]
    if first is None or label is None:
        raise UserError(f"{file} is incomplete: {', '.join(missing)} missing. Copy or download it again")
    found, wanted = (first[1], label[1]), (KINDS[kind].channels, KINDS[kind].vector)
    if found == wanted:
        return
    alike = [name for name, known in KINDS.items() if (known.channels, known.vector) == found]
    remedy = f"it looks like {alike[0]}: give --kind {alike[0]}" if alike else "no known kind has this"
    if found[1] in _OTHERS:
        remedy = f"it looks like {_OTHERS[found[1]]}"
    raise UserError(
        f"{file} is not of --kind {kind}: its UNet takes {found[0]} channels and a vector of {found[1]} numbers, not "
        f"{wanted[0]} and {wanted[1]}; {remedy}"
    )


def _autoencoder(source: _Checkpoint) -> _Part:
    """The autoencoder of single pictures: the first stage, or that of the condition, if this one knows of time."""
    prefix = _autoencoder_prefix(source)
    names = [name.removeprefix(prefix) for name in source.shapes if name.startswith(prefix)]
    names = [name for name in names if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))]
    blocks = {int(m[1]) for name in names if (m := re.match(r"encoder\.down\.(\d+)\.", name))}
    levels = len(blocks)
    widths = [
        source.shapes.get(f"{prefix}encoder.down.{level}.block.0.conv1.weight", (128 * min(2**level, 4),))[0]
        for level in range(levels)
    ]
    config = {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "scaling_factor": SCALE,
        "force_upcast": True,
        "use_quant_conv": "quant_conv.weight" in names,
        "use_post_quant_conv": "post_quant_conv.weight" in names,
    }
    return _fitted(source, "vae", config, {f"{prefix}{name}": autoencoder_name(name, levels) for name in names})


def _autoencoder_prefix(source: _Checkpoint) -> str:
    first = "encoder.conv_in.weight"
    prefixes = sorted(
        (name.removesuffix(first) for name in source.shapes if name.endswith(first)),
        key=lambda prefix: (prefix != _FIRST_STAGE, prefix),
    )
    for prefix in prefixes:
        decoder = [name for name in source.shapes if name.startswith(f"{prefix}decoder.")]
        if decoder and not any(".time_stack." in name or ".time_mix" in name for name in decoder):
            return prefix
    raise UserError(
        f"{source.file} holds no whole autoencoder of single pictures: neither {_FIRST_STAGE}encoder with its decoder "
        "nor that of the condition is there. Copy or download it again, or take the variant with the image decoder"
    )


def _fitted(source: _Checkpoint, folder: str, config: dict[str, Any], renamed: Mapping[str, str | None]) -> _Part:
    """Compare names and shapes with the network of a configuration, which takes no memory."""
    expected = {name: tuple(value.shape) for name, value in build(folder, config).state_dict().items()}
    sources = {new: old for old, new in renamed.items() if new is not None and new in expected}
    if missing := [name for name in expected if name not in sources]:
        raise UserError(
            f"{source.file} is incomplete: of {len(expected)} tensors of {folder}/ {len(missing)} are missing: "
            f"{_listed(missing)}. Copy or download it again"
        )
    if unknown := [old for old, new in renamed.items() if new not in expected]:
        raise UserError(f"{source.file} does not fit: {len(unknown)} tensors are not known: {_listed(unknown)}")
    # An autoencoder's attention is written as convolutions of one pixel in some versions.
    if misshapen := [
        sources[name]
        for name, shape in expected.items()
        if source.shapes[sources[name]] not in (shape, (*shape, 1), (*shape, 1, 1))
    ]:
        raise UserError(f"{source.file} does not fit: {len(misshapen)} have other shapes: {_listed(misshapen)}")
    return _Part(folder, config, sources, expected)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _read(source: _Checkpoint, part: _Part, dtype: torch.dtype, new_name: str) -> Tensor:
    name = part.sources[new_name]
    try:
        values = source.read(name).to(dtype).reshape(part.shapes[new_name])
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{source.file}: {name} can't be read ({error}); copy or download it again") from error
    if not bool(values.isfinite().all()):
        precision = str(dtype).removeprefix("torch.")
        raise UserError(f"{source.file}: {name} is not finite in {precision}; give --dtype bfloat16, or another copy")
    return values


def _encoder(base: str) -> Path:
    """Folder of the image encoder of Stable Video Diffusion."""
    try:
        folder = hub.download(base, hub.IMAGE_ENCODER) if hub.is_hub_id(base) else Path(base).expanduser()
        return check_encoder(folder)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--base {base}: {error}") from error


def _check_space(output: Path, needed: int) -> None:
    there = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < needed + _SPARE:
        raise UserError(
            f"--output {output}: {free / 2**30:.1f} GiB are free on its disk, and the weights take "
            f"{needed / 2**30:.1f} GiB; make room, or give another disk"
        )
