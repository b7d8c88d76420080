"""Training checkpoints of the official code (``model_N.pkl``), turned into a folder of JSON and safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import remove_unfinished, replacing, write_json, write_tensors
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.conversion import check_output, read_pickle
from difix3d_ns.priors.published.folder import (
    WEIGHTS,
    UnfitWeightsError,
    check_folder,
    read_json,
    read_network,
    read_part,
)
from difix3d_ns.priors.published.lora import ADAPTER, merge_lora, missing_halves
from difix3d_ns.priors.published.prompt import prompt_embedding, write_prompt

_PARTS = ("state_dict_unet", "state_dict_vae")


def convert(checkpoint: Path, base: str, output: Path, dtype: torch.dtype | None = None, references: int = 1) -> Path:
    """Convert a checkpoint to a folder that ``--weights`` takes; nothing is written into ``base``.

    Args:
        checkpoint: of the official training. Read by ``torch.load(weights_only=True)``: nothing in it can run.
        base: what was trained from, stabilityai/sd-turbo, as a folder or a hub id: its autoencoder, configurations and
            text encoder are used, its UNet is not. A folder of Difix weights does as well.
        output: folder to write; must not exist or be empty.
        dtype: of the weights written (None: as they are; those that adapters were merged into are float32).
        references: photographs that the model was shown beside each picture in training, which no checkpoint says.

    Returns:
        ``output``.

    Raises:
        UserError: something is missing, damaged or in the way.
    """
    if references < 0:
        raise UserError(f"--references {references}: at least 0 is needed")
    check_output(output)
    states, adapted = _read(checkpoint)
    try:
        folder = hub.download(base, hub.BASE) if hub.is_hub_id(base) else Path(base).expanduser()
        check_folder(folder)
        configs = {part: read_json(folder / part / "config.json") for part in ("unet", "vae")}
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
        plain = _base_of(read_part(folder / "vae"))
        fetch = (lambda: hub.download(base, hub.TEXT)) if hub.is_hub_id(base) else (lambda: None)
        prompt = prompt_embedding(folder, fetch, keep=False)
    except (OSError, RuntimeError) as error:
        raise UserError(f"--base {base}: {error}") from error
    trained = states["state_dict_vae"]
    layers = [layer for layer in adapted if f"{layer}.weight" in plain or layer.startswith("decoder.skip_conv_")]
    adapters = {f"{layer}.lora_{half}.{ADAPTER}.weight" for layer in layers for half in "AB"}
    if lacking := sorted({*missing_halves(plain | trained), *(adapters - trained.keys())}):
        raise _incomplete(checkpoint, base, UnfitWeightsError(Path("vae"), lacking))
    configs["vae"] = {**configs["vae"], "gamma": 1.0, "ignore_skip": False}
    try:
        vae = merge_lora(plain | trained)
        remove_unfinished(output.parent, output.suffix, output.stem)
        with Console(stderr=True).status("Merging and writing the weights"), replacing(output) as part:
            for name, state in (("unet", states["state_dict_unet"]), ("vae", vae)):
                write_json(part / name / "config.json", configs[name])
                tensors = {key: value.to(dtype or value.dtype).contiguous() for key, value in state.items()}
                write_tensors(part / name / WEIGHTS, tensors)
            write_json(part / "scheduler" / "scheduler_config.json", scheduler)
            write_prompt(part, prompt)
            facts = {"checkpoint": checkpoint.name, "base": base, "trained_references": references, "format": 1}
            write_json(part / hub.FACTS, facts)
            read_network(part)  # it has to fit before it gets its name
    except UnfitWeightsError as error:
        if not error.incomplete:
            raise UserError(f"{checkpoint} does not fit --base {base}: {error.details}") from error
        raise _incomplete(checkpoint, base, error) from error
    except RuntimeError as error:
        raise UserError(f"{checkpoint} does not fit --base {base}: {error}") from error
    return output


def _incomplete(checkpoint: Path, base: str, error: UnfitWeightsError) -> UserError:
    part = error.place.name
    if part == "vae" and not all(".lora_" in name or name.startswith("decoder.skip_conv_") for name in error.missing):
        return UserError(f"--base {base}: vae/ is incomplete; {error.details}. Copy or download it again")
    return UserError(
        f"{checkpoint} is a partial checkpoint; in state_dict_{part} {error.details}. Copy it again, or take another "
        "one of the training"
    )


def _read(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Tensors of both parts, and the names of the layers that have adapters, if it says so."""
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such file; a checkpoint model_N.pkl of the official training is expected")
    content = read_pickle(checkpoint)  # the optimizer's state is twice as large as the weights, and not wanted
    if not isinstance(content, Mapping):
        raise UserError(f"{checkpoint} is no checkpoint of the official training: it holds no dictionary")
    missing = [name for name in _PARTS if not isinstance(content.get(name), Mapping)]
    if missing:
        what = "a partial" if len(missing) < len(_PARTS) else "no"
        raise UserError(
            f"{checkpoint} is {what} checkpoint of the official training: {', '.join(missing)} missing "
            f"(found {', '.join(sorted(map(str, content))) or 'nothing'})"
        )
    layers = content.get("vae_lora_target_modules")
    adapted = [layer for layer in layers if isinstance(layer, str)] if isinstance(layers, list | tuple | set) else []
    return {name: {str(key): value for key, value in content[name].items()} for name in _PARTS}, adapted


def _base_of(vae: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Autoencoder before it was trained: a Difix folder's adapters and skips are left out."""
    return {
        key.replace(".base_layer.", "."): value
        for key, value in vae.items()
        if ".lora_" not in key and not key.startswith("decoder.skip_conv_")
    }
