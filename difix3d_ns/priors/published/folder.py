"""Folders of weights in diffusers' layout: ``unet/``, ``vae/``, ``scheduler/`` and the prompt's embedding.

Read are JSON and safetensors. Names of classes, ``.py`` files and pickles in a folder mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from difix3d_ns.priors.networks.difix_net import DifixNet
from difix3d_ns.priors.networks.skip_vae import skip_convolutions
from difix3d_ns.priors.published.hub import FACTS, PICKLES
from difix3d_ns.priors.published.lora import ADAPTER, merge_lora, missing_halves
from difix3d_ns.priors.published.prompt import prompt_embedding

WEIGHTS = "diffusion_pytorch_model.safetensors"
_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""parts of the attention among pixels as diffusers named them before 0.18, and since"""


class UnfitWeightsError(RuntimeError):
    """Weights that do not fit a network; the message names the tensors.

    Args:
        place: where they were read.
        missing, unknown, misshapen: names of tensors.
    """

    def __init__(
        self, place: Path, missing: Sequence[str], unknown: Sequence[str] = (), misshapen: Sequence[str] = ()
    ) -> None:
        self.place, self.missing = place, missing
        self.incomplete = not unknown and not misshapen
        """whether nothing but missing tensors is wrong"""
        problems = (
            ("missing", missing),
            ("not known", unknown),
            ("of another shape than config.json says", misshapen),
        )
        self.details = "; ".join(
            f"{len(keys)} {problem}: {', '.join(sorted(keys)[:6])}{', ...' if len(keys) > 6 else ''}"
            for problem, keys in problems
            if keys
        )
        what = "are incomplete" if self.incomplete else "do not fit the architecture of config.json"
        super().__init__(f"{place}: the weights {what}; {self.details}")


def read_network(folder: Path, fetch_encoder: Callable[[], object] = lambda: None, new_skips: bool = False) -> DifixNet:
    """Read the network of a folder, on the CPU, in the precision of its files.

    Args:
        folder: with everything but, possibly, the text encoder.
        fetch_encoder: see ``prompt_embedding``.
        new_skips: an autoencoder without skips, such as SD-Turbo's, gets untrained ones.

    Raises:
        FileNotFoundError: a file is missing.
        RuntimeError: a file is damaged; or ``UnfitWeightsError``.
    """
    check_folder(folder)
    unet_config, vae_config = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    unet, vae = read_tensors(folder / "unet"), read_part(folder / "vae")
    lacking = missing_halves(vae)
    vae = merge_lora(vae)
    if lacking:  # they are named, not the halves that are left
        vae = {key: value for key, value in vae.items() if f".{ADAPTER}." not in key}
    prompt = prompt_embedding(folder, fetch_encoder)
    width = unet_config.get("cross_attention_dim")
    if prompt.dim() != 2 or prompt.shape[1] != width:
        raise RuntimeError(f"{folder}: the prompt's embedding is {list(prompt.shape)}, the UNet wants [n, {width}]")
    try:
        with torch.device("meta"):  # no time and memory for random weights
            network = DifixNet(unet_config, vae_config, scheduler, prompt)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise RuntimeError(f"{folder}: unet/, vae/ or scheduler/ has an unusable configuration: {error}") from error
    fill(network.unet, unet, folder / "unet")
    vae, skips = split_skips(vae)
    if new_skips and not skips:
        skips = skip_convolutions(network.vae.config.block_out_channels).state_dict()
    if network.autoencoder.gamma or skips:
        fill(network.skips, skips, folder / "vae", "decoder.skip_conv_")
    else:
        network.skips = network.autoencoder.skips = nn.ModuleList()  # never used with ignore_skip
    fill(network.vae, vae, folder / "vae", lacking=lacking)
    return network


def trained_references(folder: Path) -> int:
    """Number of photographs the model was shown in training: one, unless the folder knows better.

    What ``difix3d convert`` and ``difix3d train-prior`` write says so. Of the two published models, nvidia/difix has
    diffusers' plain UNet, which mixes no views, in its index and was trained without; copies may have no index.
    """
    try:
        known = json.loads((folder / FACTS).read_text(encoding="utf-8")).get("trained_references")
        if isinstance(known, int) and known >= 0:
            return known
    except (OSError, ValueError, AttributeError):
        pass
    try:
        unet = json.loads((folder / "model_index.json").read_text(encoding="utf-8")).get("unet")
    except (OSError, ValueError, AttributeError):
        return 1
    return 0 if isinstance(unet, list) and unet[:1] == ["diffusers"] else 1


def check_folder(folder: Path) -> None:
    """Raise a FileNotFoundError with a remedy if a folder holds no Difix weights."""
    if folder.is_file():
        remedy = (
            "convert it: difix3d convert FILE --base stabilityai/sd-turbo --output DIR"
            if folder.suffix in PICKLES
            else "give the folder that has unet/, vae/ and scheduler/"
        )
        raise FileNotFoundError(f"{folder} is a file, not a folder of Difix weights; {remedy}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / "unet").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds no Difix weights: unet/ is missing (found {found}). Give the folder that has unet/, vae/ "
            "and scheduler/, a copy of nvidia/difix_ref for example"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError, RuntimeError: missing or damaged.
    """
    try:
        content = json.loads(_existing(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RuntimeError(f"{file} is damaged or half downloaded: {error}") from error
    if not isinstance(content, dict):
        raise RuntimeError(f"{file} is no configuration: a JSON object is expected")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights of one part.

    Its ``diffusion_pytorch_model.safetensors``, or another precision's if that is alone.

    Raises:
        FileNotFoundError, RuntimeError: missing or damaged.
    """
    file = folder / WEIGHTS
    others = sorted(folder.glob("diffusion_pytorch_model.*.safetensors"))
    if not file.is_file() and len(others) == 1:
        file = others[0]
    try:
        return load_file(_existing(file))
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        with file.open("rb") as opened:
            pointer = opened.read(64).startswith(b"version https://git-lfs")
        remedy = "it is a Git LFS pointer: run git lfs pull there" if pointer else "download it again"
        raise RuntimeError(f"{file} is damaged or half downloaded ({error}); {remedy}") from error


def read_part(folder: Path) -> dict[str, Tensor]:
    """Read the weights of one part (see ``read_tensors``), the attention of an autoencoder named as today."""
    tensors = {}
    for key, value in read_tensors(folder).items():
        parts = [old for old in _ATTENTION if ".attentions." in key and old in key]
        tensors[key.replace(parts[0], _ATTENTION[parts[0]]) if parts else key] = value
    return tensors


def split_skips(vae: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split weights into plain autoencoder and skip convolutions, these with ``DifixNet``'s names."""
    prefix = "decoder.skip_conv_"
    skips = {}
    for key, value in vae.items():
        number, _, name = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and number.isdigit():
            skips[f"{int(number) - 1}.{name}"] = value
    return {key: value for key, value in vae.items() if not key.startswith(prefix)}, skips


def fill(
    module: nn.Module, state: Mapping[str, Tensor], place: Path, prefix: str = "", lacking: Sequence[str] = ()
) -> None:
    """Load weights strictly.

    Raises:
        UnfitWeightsError: tensors are missing, surplus or misshapen.
    """
    expected = module.state_dict()
    misshapen = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    problems = [
        [f"{prefix}{_official(key) if prefix else key}" for key in sorted(keys)]
        for keys in ((expected.keys() - state.keys()).union(lacking), state.keys() - expected.keys(), misshapen)
    ]
    if any(problems):
        raise UnfitWeightsError(place, *problems)
    module.load_state_dict(state, strict=True, assign=True)


def _official(key: str) -> str:
    number, _, name = key.partition(".")
    return f"{int(number) + 1}.{name}"


def _existing(file: Path) -> Path:
    if not file.is_file():
        pickled = sorted(path.name for path in file.parent.glob("*") if path.suffix in PICKLES)
        hint = (
            f"; {', '.join(pickled)} there is a pickle, which is never read as it is: "
            f"difix3d convert {file.parent.parent} --output DIR makes safetensors of it"
            if pickled
            else ""
        )
        raise FileNotFoundError(f"{file} is missing: not a complete folder of weights{hint}")
    return file
