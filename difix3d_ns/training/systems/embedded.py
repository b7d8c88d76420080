"""The embedded chain on aligned references: its blend first, then the diffusion model and its gate."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.io.atomic import write_json, write_tensors
from difix3d_ns.priors.alignment.aligned_references import MAX_REFERENCES, align
from difix3d_ns.priors.alignment.aligner import Aligner
from difix3d_ns.priors.base import Fixer
from difix3d_ns.priors.blend import BlendFixer
from difix3d_ns.priors.embedded import WEIGHTS, EmbeddedFixer, load
from difix3d_ns.priors.networks.precision import fast_dtype
from difix3d_ns.priors.networks.stages import EmbeddedChain
from difix3d_ns.priors.none import IdentityFixer
from difix3d_ns.training.crops import Crop, common_size, integer, to_bytes, to_unit
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.systems.align import holds_aligner_alone, load_aligner
from difix3d_ns.training.validate import LimitReferences, Make, repairs


class Prepared(NamedTuple):
    """A sample warped once at full size: 27 bytes per pixel."""

    image: Tensor  # [3, H, W] float16 in [0, 1], the render
    alpha: Tensor  # [1, H, W] uint8
    warps: Tensor  # [MAX_REFERENCES, 3, H, W] uint8; empty places are black and not visible
    visibility: Tensor  # [MAX_REFERENCES, 1, H, W] uint8
    truth: Tensor  # [3, H, W] uint8


class Batch(NamedTuple):
    """Aligned crops."""

    image: Tensor  # [B, 3, h, w] in [0, 1], the render
    alpha: Tensor  # [B, 1, h, w]
    warps: Tensor  # [B, K, 3, h, w], K <= MAX_REFERENCES
    visibility: Tensor  # [B, K, 1, h, w]
    truth: Tensor  # [B, 3, h, w]


class Embedded:
    """``EmbeddedChain`` as a ``System``."""

    variants = ("identity", "blend", "fixed_without_references", "fixed_without_diffusion", "fixed")

    def __init__(self, recipe: Recipe):
        self._recipe = recipe

    @cached_property
    def _aligner(self) -> Aligner:
        """The aligner of the weights to start from, or of the package: it does not learn here."""
        try:
            return load_aligner(self._recipe.start or WEIGHTS).requires_grad_(False)
        except UserError as error:
            raise UserError(f"--start {self._recipe.start}: {error}" if self._recipe.start else str(error)) from error

    def build(self) -> EmbeddedChain:
        """The chain, new or of the weights to start from; an aligner alone will do."""
        try:
            chain = EmbeddedChain(self._recipe.network)
            chain.align.load_state_dict(self._aligner.state_dict())
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"recipe: network is no configuration of the embedded fixer: {error!r}") from error
        if self._recipe.start is not None and not holds_aligner_alone(self._recipe.start):
            try:
                chain.load_state_dict(load(self._recipe.start, dtype=torch.float32).chain.state_dict())
            except (OSError, RuntimeError) as error:
                raise UserError(f"--start {self._recipe.start} does not fit the recipe's network: {error}") from error
        return chain.to(memory_format=torch.channels_last)

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """The networks of the chain by their names."""
        return {name: list(child.parameters()) for name, child in module.named_children()}

    def prepare(self, sample: Sample) -> Prepared:
        """Choose and align the references."""
        request = sample.request
        known = (request.camera, request.image, request.depth, request.alpha)
        with torch.no_grad():
            aligned = align(self._aligner, *known, request.references)
        pad = (0, 0, 0, 0, 0, 0, 0, MAX_REFERENCES - len(aligned.warps))
        alpha = torch.ones_like(request.image[..., :1]) if request.alpha is None else request.alpha
        return Prepared(
            request.image.permute(2, 0, 1).half().contiguous(),
            to_bytes(alpha.permute(2, 0, 1)),
            to_bytes(nn.functional.pad(aligned.warps, pad)),
            to_bytes(nn.functional.pad(aligned.visibility, pad)),
            to_bytes(sample.truth.permute(2, 0, 1)),
        )

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> Batch:
        """Random crops with common colour jitter, mirrored and turned, some references left out."""
        size = common_size(self._recipe.crop_of(phase), [sample.image for sample in prepared])
        parts = [self._crop(sample, size, generator) for sample in prepared]
        batch = Batch(*(torch.stack(tensors) for tensors in zip(*parts, strict=True)))
        # Now and then only the first references: a request with fewer references has fewer views.
        views = (*[MAX_REFERENCES] * 5, 2, 1)[integer(7, generator)]
        return batch._replace(warps=batch.warps[:, :views], visibility=batch.visibility[:, :views])

    def _crop(self, sample: Prepared, size: tuple[int, int], generator: Generator) -> Batch:
        crop = Crop.draw(sample.image.shape[-2:], size, generator)
        kept = (torch.rand(MAX_REFERENCES, generator=generator) >= self._recipe.reference_dropout).view(-1, 1, 1, 1)
        visibility = to_unit(crop.cut(sample.visibility)) * kept
        return Batch(
            crop.colour(sample.image),
            to_unit(crop.cut(sample.alpha)),
            crop.colour(sample.warps) * (visibility > 0),
            visibility,
            crop.colour(sample.truth),
        )

    def loss(self, module: nn.Module, batch: Batch, phase: Phase, compare: Loss) -> Tensor:
        """Loss of the result and, where the diffusion model ran, of its own picture (its gate starts shut)."""
        diffusion = bool({"difix", "gate"} & set(phase.modules))
        out = module(batch.image, batch.alpha, batch.warps, batch.visibility, diffusion=diffusion)
        loss = compare(out.image, batch.truth)
        return loss if out.decoded is None else loss + 0.5 * compare(out.decoded, batch.truth)

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Repairs of samples by ``fixers``."""
        return repairs(self.fixers(module))

    def fixers(self, module: nn.Module) -> Mapping[str, Fixer]:
        """Fixers in the precision the device is fast in."""
        assert isinstance(module, EmbeddedChain)
        device = next(module.parameters()).device
        chain = copy.deepcopy(module).cast_networks(fast_dtype(device.type))
        fixed = EmbeddedFixer(chain)
        return {
            "identity": IdentityFixer(),
            "blend": BlendFixer(),
            "fixed_without_references": LimitReferences(fixed, 0),
            "fixed_without_diffusion": EmbeddedFixer(chain, diffusion=False),
            "fixed": fixed,
        }

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float16: half the size, and finer than the precision it runs in) and its JSON."""
        tensors = {
            key: value.detach().cpu().to(torch.float32 if key.startswith("align.") else torch.float16).contiguous()
            for key, value in module.state_dict().items()
        }
        write_json(folder / "weights.json", {**self._recipe.network, **self._recipe.extra})
        write_tensors(folder / "weights.safetensors", tensors)


def create(recipe: Recipe) -> Embedded:
    """The system ``embedded``."""
    return Embedded(recipe)
