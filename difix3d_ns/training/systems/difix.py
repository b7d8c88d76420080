"""Fine-tuning Difix (Wu et al., CVPR 2025): whole UNet, low-rank changes of the decoder, skip convolutions."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_json, write_tensors
from difix3d_ns.priors.base import Fixer
from difix3d_ns.priors.blend import BlendFixer
from difix3d_ns.priors.difix import DifixFixer, fit
from difix3d_ns.priors.networks.difix_net import DifixNet
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.none import IdentityFixer
from difix3d_ns.priors.published import hub
from difix3d_ns.priors.published.folder import WEIGHTS, read_json, read_network
from difix3d_ns.priors.published.lora import ALPHA
from difix3d_ns.priors.published.prompt import write_prompt
from difix3d_ns.training.crops import common_size, corner, to_bytes, to_unit
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import LimitReferences, Make, repairs


class LowRank(nn.Module):
    """A weight that learns W + (alpha / rank) B A (Hu et al., LoRA, 2021), zero at the start.

    Args:
        weight: [out, ...] of a linear layer or a convolution.
        rank: of the change.
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight[0].numel()) / rank)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))
        self.scale = ALPHA / rank

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + self.scale * (self.up @ self.down).view(weight.shape)


class Prepared(NamedTuple):
    """A sample as it is kept: bytes per channel and pixel."""

    picture: Tensor  # [3, H, W] uint8, the render
    references: Tensor  # [K, 3, H, W] uint8, resized with their aspect kept and padded
    shown: Tensor  # [K, 2] rows and columns of the references that are not padding
    truth: Tensor  # [3, H, W] uint8


class Batch(NamedTuple):
    """Crops."""

    views: Tensor  # [B, 1 + K, 3, h, w] in [-1, 1], the render first
    shown: Tensor  # [B, 1 + K, 2] rows and columns that are not padding
    truth: Tensor  # [B, 3, h, w] in [0, 1]


class Difix:
    """``DifixNet`` as a ``System``.

    The recipe's ``network``: {"rank": of the decoder's changes, "references": photographs shown,
    "gradient_checkpointing": whether the UNet computes twice to need less memory}.
    """

    variants = ("identity", "blend", "fixed_without_references", "fixed")

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        known = {"rank": 4, "references": 1, "gradient_checkpointing": False}
        if unknown := sorted(set(recipe.network) - set(known)):
            raise UserError(f"recipe: network: unknown {', '.join(unknown)}; known are {', '.join(known)}")
        self._options: dict[str, Any] = {**known, **recipe.network}
        self._folder = Path()

    def build(self) -> DifixNet:
        """The network of the weights to start from: published Difix, SD-Turbo, or a folder of either kind."""
        start = self._recipe.start
        if start is None:
            raise UserError(
                "this recipe starts from weights that are not in the package: give --start nvidia/difix_ref or "
                "--start stabilityai/sd-turbo (each downloads 5 GB; read their licences), or a local copy"
            )
        try:
            if hub.is_hub_id(start):
                self._folder = hub.download(start)
                network = read_network(self._folder, lambda: hub.download(start, hub.TEXT), new_skips=True)
            else:
                self._folder = Path(start).expanduser()
                network = read_network(self._folder, new_skips=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"--start {start}: {error}") from error
        network = network.float()
        for layer in [part for part in network.vae.decoder.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]:
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, self._options["rank"]))
        if self._options["gradient_checkpointing"]:
            network.unet.enable_gradient_checkpointing()
        return network

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """unet: all of it; lora: the decoder's changes; skips: the skip convolutions."""
        assert isinstance(module, DifixNet)
        low_rank = [part for part in module.vae.decoder.modules() if isinstance(part, LowRank)]
        return {
            "unet": list(module.unet.parameters()),
            "lora": [parameter for part in low_rank for parameter in part.parameters()],
            "skips": list(module.skips.parameters()),
        }

    def prepare(self, sample: Sample) -> Prepared:
        """Reduce to bytes; the first references at the size of the render."""
        picture = to_bytes(sample.request.image.permute(2, 0, 1))
        height, width = picture.shape[-2:]
        references, shown = [], []
        for reference in sample.request.references[: self._options["references"]]:
            fitted, size = fit(reference.image.permute(2, 0, 1)[None], (height, width))
            references.append(to_bytes(fitted[0]))
            shown.append(size)
        empty = torch.zeros(0, 3, height, width, dtype=torch.uint8)
        return Prepared(
            picture,
            torch.stack(references) if references else empty,
            torch.tensor(shown).view(-1, 2),
            to_bytes(sample.truth.permute(2, 0, 1)),
        )

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """Pictures reduced until they just cover the crop, and cut, all views alike; some without references."""
        count = min(len(sample.references) for sample in prepared)
        if float(torch.rand(1, generator=generator)) < self._recipe.reference_dropout:
            count = 0
        wanted = self._recipe.crop_of(phase)
        reduced = [_cover(sample, wanted) for sample in prepared]
        size = common_size(wanted, [sample.truth for sample in reduced])
        parts = [_crop(sample, count, size, generator) for sample in reduced]
        return Batch(*(torch.stack(tensors) for tensors in zip(*parts, strict=True)))

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """Loss of the decoded picture. The encoder learns nothing, so nothing of it is kept for gradients."""
        assert isinstance(module, DifixNet)
        count, height, width = batch.views.shape[1], *batch.views.shape[-2:]
        with torch.no_grad():
            latents, kept = module.encode(module.pad(batch.views.flatten(0, 1)))
        rows, columns = latents.shape[-2:]
        filled = -(-batch.shown.cpu() // module.multiple)
        masks = module.masks(filled, (rows, columns))
        if masks is not None:
            masks = {tokens: mask.to(latents.device) for tokens, mask in masks.items()}
        clean = module.denoise(latents.unflatten(0, (-1, count)), masks)
        picture = module.decode(clean, [skip[::count] for skip in kept])[..., :height, :width]
        return compare(picture.float() / 2 + 0.5, batch.truth)

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Repairs of samples by ``fixers``."""
        return repairs(self.fixers(module))

    def fixers(self, module: nn.Module) -> Mapping[str, Fixer]:
        """Fixers in the precision the device is fast in, with the decoder's changes merged."""
        assert isinstance(module, DifixNet)
        device = next(module.parameters()).device
        fixed = DifixFixer(_merged(module).to(fast_dtype(device.type)), batch=1)
        return {
            "identity": IdentityFixer(),
            "blend": BlendFixer(),
            "fixed_without_references": LimitReferences(fixed, 0),
            "fixed": LimitReferences(fixed, self._options["references"]),
        }

    def save(self, module: nn.Module, folder: Path) -> None:
        """``unet/``, ``vae/``, ``scheduler/`` and the prompt, float32: a small learning rate changes few digits."""
        assert isinstance(module, DifixNet)
        merged = _merged(module).cpu()
        skips = {
            f"decoder.skip_conv_{int(k.split('.')[0]) + 1}.weight": v for k, v in merged.skips.state_dict().items()
        }
        vae = merged.vae.state_dict() | skips
        for name, tensors in (("unet", merged.unet.state_dict()), ("vae", vae)):
            config = read_json(self._folder / name / "config.json")
            if name == "vae":
                config = {**config, "gamma": merged.autoencoder.gamma, "ignore_skip": False}
                config.pop("lora_rank", None)
            write_json(folder / name / "config.json", config)
            tensors = {key: value.contiguous() for key, value in tensors.items()}
            write_tensors(folder / name / WEIGHTS, tensors)
        file = "scheduler/scheduler_config.json"
        write_json(folder / file, json.loads((self._folder / file).read_text(encoding="utf-8")))
        write_prompt(folder, merged.prompt)
        write_json(folder / hub.FACTS, {"trained_references": self._options["references"], "format": 1})


def create(recipe: Recipe) -> Difix:
    """The system ``difix``."""
    return Difix(recipe)


def _cover(sample: Prepared, wanted: tuple[int, int]) -> Prepared:
    """The sample at the smallest size, but not enlarged, that covers the crop; pictures as floats in [0, 1]."""
    height, width = sample.picture.shape[-2:]
    scale = min(1.0, max(wanted[0] / height, wanted[1] / width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))

    def resize(pictures: Tensor) -> Tensor:
        pictures = to_unit(pictures)
        if size == (height, width) or not len(pictures):
            return pictures[..., : size[0], : size[1]]
        return F.interpolate(pictures, size, mode="bilinear", antialias=True, align_corners=False)

    shown = (sample.shown * torch.tensor([size[0] / height, size[1] / width])).round().long()
    return Prepared(resize(sample.picture[None])[0], resize(sample.references), shown, resize(sample.truth[None])[0])


def _crop(sample: Prepared, count: int, size: tuple[int, int], generator: Generator) -> Batch:
    """A crop of one sample, without the dimension of the batch."""
    top, left = corner(sample.truth.shape[-2:], size, generator)
    views = torch.cat([sample.picture[None], sample.references[:count]]) * 2 - 1
    window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    limit = torch.tensor(size)
    shown = (sample.shown[:count] - torch.tensor([top, left])).clamp_min(1).minimum(limit)
    return Batch(views[window], torch.cat([limit[None], shown]), sample.truth[window])


def _merged(module: DifixNet) -> DifixNet:
    """A copy whose decoder has plain weights."""
    merged = copy.deepcopy(module).requires_grad_(False)
    decoder = merged.vae.decoder
    changed = [name for name, part in decoder.named_modules() if parametrize.is_parametrized(part, "weight")]
    for name in changed:
        parent, _, last = name.rpartition(".")
        setattr(decoder.get_submodule(parent), last, _plain(decoder.get_submodule(name)))
    return merged


def _plain(layer: Any) -> nn.Module:
    """Torch's own way of taking a parametrization out would take it out of the layer's copies as well."""
    bias = layer.bias is not None
    with torch.device("meta"):
        plain: nn.Module
        if isinstance(layer, nn.Linear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias)
        else:
            where = (layer.stride, layer.padding, layer.dilation, layer.groups, bias, layer.padding_mode)
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, *where)
    state = {"weight": layer.weight.detach()} | ({"bias": layer.bias.detach()} if bias else {})
    plain.load_state_dict(state, assign=True)
    return plain.requires_grad_(False)
