"""The matching networks of the alignment: depth hypotheses and visibility, taught by true depth and by pictures."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from difix3d_ns.data.shards import Sample
from difix3d_ns.errors import UserError
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.atomic import write_json, write_tensors
from difix3d_ns.priors.alignment.aligned_references import MAX_REFERENCES, Aligned, align, select_references
from difix3d_ns.priors.alignment.aligner import Aligner, Corrected, Stage, padded
from difix3d_ns.priors.alignment.matcher import COARSE, FINE, reference_weight
from difix3d_ns.priors.alignment.sampling import sample_reference
from difix3d_ns.priors.base import Fixer, FixRequest, FixResult, finite
from difix3d_ns.priors.blend import BlendFixer, visible_in_any
from difix3d_ns.priors.none import IdentityFixer
from difix3d_ns.training.crops import colour_jitter, corner, integer, to_bytes, to_unit
from difix3d_ns.training.losses import Loss
from difix3d_ns.training.prior_recipe import Phase, Recipe
from difix3d_ns.training.validate import Make, repairs

_HOLES = 0.25  # of the crops get places where the splat has nothing
_HOLE_SIDES = (16, 72)  # pixels
_GAIN_JITTER = 0.04  # standard deviation of the gains that matching the exposure leaves over
_REFERENCES = 4  # references kept of a sample
_MAX_ERROR = 0.3  # colour error beyond which all hypotheses are equally wrong
_MAX_SHIFT_ERROR = 0.15  # colour error beyond which a shift cannot help
_SAME_COLOUR = 0.06
_MAX_DEPTH_ERROR = 0.05  # log depth: farther off, a reference shows something else
_MAX_SURFACE_ERROR = 0.02  # log depth: a reference truly shows the surface
_MAX_DISTANCE = {COARSE: 0.03, FINE: 0.006}  # log depth: farther from all hypotheses, there is no right one
_SOFTNESS = {COARSE: 0.01, FINE: 0.004}  # log depth: how much better the nearest hypothesis is than its neighbours


class Picture(NamedTuple):
    """A view of the scene."""

    image: Tensor  # [H, W, 3] uint8; float32 in a batch, as the others
    depth: Tensor  # [H, W, 1] float16, of the splat
    alpha: Tensor  # [H, W, 1] uint8
    mask: Tensor  # [H, W, 1] uint8
    true_depth: Tensor  # [H, W, 1] float16, 0 where there is nothing; [0] if not known
    camera_to_world: Tensor  # [4, 4]
    intrinsics: Tensor  # [3, 3]

    def reference(self) -> PosedImage:
        """The view for the aligner."""
        return PosedImage(self.image, self.camera(), self.depth, self.alpha, self.mask)

    def camera(self) -> Pinhole:
        """The camera it was taken with."""
        return Pinhole(self.camera_to_world, self.intrinsics, self.image.shape[1], self.image.shape[0])


class Prepared(NamedTuple):
    """A render, the photograph taken there, and photographs that show the same."""

    render: Picture
    truth: Tensor  # [H, W, 3] uint8
    references: tuple[Picture, ...]  # at the exposure of the render, the most useful first


class AlignedBlend(Fixer):
    """The render and what the aligner makes of its references, mixed by visibility alone."""

    trained_references = MAX_REFERENCES
    generative = False

    def __init__(self, aligner: Aligner):
        self._aligner = aligner

    @torch.no_grad()
    def fix(self, requests: Sequence[FixRequest]) -> list[FixResult]:
        """Repair a batch (contract of ``Fixer``)."""
        return [self._fix(finite(request)) for request in requests]

    def _fix(self, request: FixRequest) -> FixResult:
        known = (request.camera, request.image, request.depth, request.alpha)
        found: Aligned = align(self._aligner, *known, request.references)
        image = request.image.float().permute(2, 0, 1)
        total = found.visibility.sum(0)
        mixed = (image + (found.visibility * found.warps).sum(0)) / (1 + total)
        confidence = visible_in_any(found.visibility)
        return FixResult(
            mixed.permute(1, 2, 0), confidence.permute(1, 2, 0), found.depth, found.matched.permute(1, 2, 0)
        )


class Align:
    """``Aligner`` as a ``System``."""

    variants = ("identity", "blend", "aligned_blend")

    def __init__(self, recipe: Recipe):
        self._recipe = recipe

    def build(self) -> Aligner:
        """The aligner of the recipe, or that of the weights to start from."""
        if self._recipe.start is not None:
            return load_aligner(self._recipe.start)
        try:
            return Aligner(**self._recipe.network.get("align", {}))
        except TypeError as error:
            raise UserError(f"recipe: network.align is no configuration of the aligner: {error}") from error

    def parts(self, module: nn.Module) -> dict[str, Iterable[nn.Parameter]]:
        """match: the networks that match depth; shift: the residual shift; see: visibility."""
        assert isinstance(module, Aligner)
        matching = (module.encoder, module.coarse, module.fine)
        return {
            "match": [parameter for network in matching for parameter in network.parameters()],
            "shift": list(module.shift.parameters()),
            "see": list(module.see.parameters()),
        }

    def prepare(self, sample: Sample) -> Prepared:
        """Choose references and match their exposure."""
        request = sample.request
        assert request.camera is not None and request.depth is not None and request.alpha is not None
        chosen = select_references(
            request.camera, request.image, request.depth, request.alpha, request.references, _REFERENCES
        )
        render = PosedImage(request.image, request.camera, request.depth, request.alpha)
        truths = sample.reference_true_depths
        return Prepared(
            _picture(render, None if truths is None else sample.true_depth),  # occlusion needs the truth of both
            to_bytes(sample.truth),
            tuple(
                _picture(reference, None if truths is None else truths[number])
                for number, reference in zip(chosen.indices, chosen.references, strict=True)
            ),
        )

    def draw(self, prepared: Sequence[Prepared], phase: Phase, generator: Generator) -> tuple[Prepared, ...]:
        """Crops of the render, with common colour jitter, holes and references left out; references stay whole."""
        return tuple(_crop(sample, self._recipe.crop_of(phase), generator) for sample in prepared)

    def loss(self, module: nn.Module, batch: tuple[Prepared, ...], phase: Phase, compare: Loss) -> Tensor:
        """Mean ``alignment_loss``; the recipe's losses of pictures have no part in it."""
        losses = [alignment_loss(module, sample) for sample in batch if sample.references]
        if not losses:
            losses = [0 * torch.stack([parameter.sum() for parameter in module.parameters()]).sum()]
        return torch.stack(losses).sum() / len(batch)

    def pictures(self, module: nn.Module) -> Mapping[str, Make]:
        """Repairs of samples by ``fixers``."""
        return repairs(self.fixers(module))

    def fixers(self, module: nn.Module) -> Mapping[str, Fixer]:
        """The aligner without a network that fuses."""
        assert isinstance(module, Aligner)
        aligner = copy.deepcopy(module).eval().requires_grad_(False)
        return {"identity": IdentityFixer(), "blend": BlendFixer(), "aligned_blend": AlignedBlend(aligner)}

    def save(self, module: nn.Module, folder: Path) -> None:
        """``weights.safetensors`` (float32) and its JSON."""
        tensors = {f"align.{key}": value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
        write_json(folder / "weights.json", {"align": self._recipe.network.get("align", {}), **self._recipe.extra})
        write_tensors(folder / "weights.safetensors", tensors)


def load_aligner(weights: str | Path) -> Aligner:
    """The aligner in weights that training the system ``align`` or ``embedded`` wrote.

    Args:
        weights: their folder, or the ``.safetensors`` file with its JSON beside it.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = _file(weights)
    try:
        aligner = Aligner(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["align"])
        tensors = {key.removeprefix("align."): value.float() for key, value in load_file(path).items()}
        aligner.load_state_dict({key: tensors[key] for key in aligner.state_dict()})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} (with its .json) holds no aligner: {error!r}; train one: difix3d train-prior align"
        ) from error
    return aligner


def holds_aligner_alone(weights: str | Path) -> bool:
    """Return whether weights were written by the system ``align``."""
    with safe_open(_file(weights), "pt") as file:
        return all(key.startswith("align.") for key in file.keys())  # noqa: SIM118  # no dictionary


def _file(weights: str | Path) -> Path:
    path = Path(weights).expanduser()
    return path / "weights.safetensors" if path.is_dir() else path


def alignment_loss(aligner: nn.Module, sample: Prepared) -> Tensor:
    """Error of the likely hypotheses of depth and of visibility.

    Four terms: the expected colour error of the references against the true picture under the probabilities of the
    hypotheses; where true depth is known and a reference truly shows the surface, the cross-entropy against the
    nearest hypotheses; the colour error that is left after the shift; and for visibility the binary cross-entropy
    against "is the colour of this reference right, and does it truly show the surface".
    """
    render = sample.render.reference()
    assert render.camera is not None
    references = [picture.reference() for picture in sample.references]
    out: Corrected = aligner(render.camera, render.image, render.depth, render.alpha, references)
    assert render.depth is not None and render.alpha is not None
    truth = padded(replace(render, image=sample.truth))
    picture = truth.image.permute(2, 0, 1)
    total = picture.new_zeros(())
    for stage, level in zip(out.stages, (COARSE, FINE), strict=True):
        small = F.avg_pool2d(picture[None], level)[0]
        total = total + 2 * _expected_error(stage, small)
        if sample.render.true_depth.numel():
            true, seen = _truly_seen(sample, truth.pose, level)
            total = total + 0.1 * _cross_entropy(stage, true, seen.amax(0), level)
    # From here on at the fine level, which came last.
    right = out.inside > 0
    if sample.render.true_depth.numel():
        depth = out.stages[1].best.detach().clamp_min(1e-9)
        near = (depth.log() - true.clamp_min(1e-9).log()).abs() < _MAX_DEPTH_ERROR
        right = right & (seen.bool() & near).where(true > 0, True)
    error = (out.features[:, :3] - small).abs().mean(1)
    total = total + 2 * (error.clamp(max=_MAX_SHIFT_ERROR) * right).sum() / right.sum().clamp_min(1)
    smooth = F.avg_pool2d(error.detach()[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    useful = torch.exp(-((smooth / _SAME_COLOUR) ** 2)) * right
    return total + 0.5 * F.binary_cross_entropy_with_logits(out.logits, useful)


def _expected_error(stage: Stage, truth: Tensor) -> Tensor:
    weights = torch.stack([reference_weight(found.inside, found.mismatch) for found in stage.found])
    errors = torch.stack([(found.features[:, :3] - truth).abs().mean(1) for found in stage.found]).clamp(max=_MAX_ERROR)
    total = weights.sum(0)
    error = ((weights * errors).sum(0) / total.clamp_min(1e-3)).where(total > 0.02, _MAX_ERROR)
    return (stage.scores.softmax(0) * error.detach()).sum(0).mean()


def _truly_seen(sample: Prepared, camera: Pinhole, level: int) -> tuple[Tensor, Tensor]:
    """True depth [h, w] at a level of the volume, and [K, h, w] 1 where a reference shows that surface."""
    height, width = camera.height // level, camera.width // level
    deep = sample.render.true_depth
    deep = F.pad(deep[..., 0], (0, camera.width - deep.shape[1], 0, camera.height - deep.shape[0]))
    true = resized(deep[..., None], height, width, "nearest")[..., 0]
    nothing, everything = true.new_zeros(1, 1, 1), true.new_ones(1, 1)
    seen = []
    for picture in sample.references:
        found = sample_reference(true[None], camera, nothing, everything, picture.true_depth[..., 0], picture.camera())
        seen.append(found.inside[0] * (found.mismatch[0].abs() < _MAX_SURFACE_ERROR))
    return true, torch.stack(seen) * (true > 0)


def _cross_entropy(stage: Stage, true: Tensor, seen: Tensor, level: int) -> Tensor:
    distance = (stage.depths.clamp_min(1e-9).log() - true.clamp_min(1e-9).log()).abs()
    taught = seen * (distance.amin(0) < _MAX_DISTANCE[level])
    target = torch.softmax(-distance / _SOFTNESS[level], 0)
    entropy = -(target * stage.scores.log_softmax(0)).sum(0)
    return (entropy * taught).sum() / taught.sum().clamp_min(1)


def _picture(view: PosedImage, true_depth: Tensor | None) -> Picture:
    assert view.camera is not None and view.depth is not None and view.alpha is not None
    mask = torch.ones_like(view.image[..., :1]) if view.mask is None else view.mask
    return Picture(
        to_bytes(view.image),
        view.depth.half(),
        to_bytes(view.alpha),
        to_bytes(mask),
        torch.zeros(0, dtype=torch.float16) if true_depth is None else true_depth.half(),
        view.camera.camera_to_world.float(),
        view.camera.intrinsics.float(),
    )


def _crop(sample: Prepared, size: tuple[int, int], generator: Generator) -> Prepared:
    def chance() -> float:
        return float(torch.rand(1, generator=generator))

    render = sample.render
    height, width = (min(side, whole) for side, whole in zip(size, render.image.shape[:2], strict=True))
    top, left = corner(render.image.shape[:2], (height, width), generator)
    gain, colours = colour_jitter(generator)
    intrinsics = render.intrinsics.clone()
    intrinsics[:2, 2] -= torch.tensor([left, top], dtype=intrinsics.dtype)

    def cut(maps: Tensor) -> Tensor:
        return maps[top : top + height, left : left + width]

    def colour(pictures: Tensor) -> Tensor:
        return to_unit(pictures)[..., colours] * gain

    hole = torch.zeros(height, width, 1)
    if chance() < _HOLES:
        for _ in range(1 + integer(3, generator)):
            down, right = (_HOLE_SIDES[0] + integer(_HOLE_SIDES[1] - _HOLE_SIDES[0], generator) for _ in range(2))
            row, column = integer(height, generator), integer(width, generator)
            hole[row : row + down, column : column + right] = 1
    background = torch.rand(3, generator=generator)
    count = len(sample.references)
    shown = min(count, (1, 2, 3, 3, 3, 3)[integer(6, generator)])
    numbers = sorted(torch.randperm(count, generator=generator)[:shown].tolist()) if chance() < 0.3 else range(shown)
    references = []
    for number in numbers:
        reference = sample.references[number]
        jitter = 1 + _GAIN_JITTER * torch.randn(3, generator=generator)
        kept = torch.ones_like(reference.depth, dtype=torch.float32)
        if hole.any() and chance() < 0.5:  # what the splat lacks here it lacks there as well
            rows, columns = reference.depth.shape[:2]
            top_edge, left_edge = integer(rows // 2, generator), integer(columns // 2, generator)
            kept[top_edge : top_edge + rows * 2 // 3, left_edge : left_edge + columns * 2 // 3] = 0
        references.append(
            reference._replace(
                image=(colour(reference.image) * jitter).clamp(0, 1),
                depth=reference.depth.float() * kept,
                alpha=to_unit(reference.alpha) * kept,
                mask=to_unit(reference.mask),
                true_depth=reference.true_depth.float(),
            )
        )
    target = render._replace(
        image=torch.lerp(colour(cut(render.image)), background, hole),
        depth=cut(render.depth).float() * (1 - hole),
        alpha=to_unit(cut(render.alpha)) * (1 - hole),
        mask=to_unit(cut(render.mask)),
        true_depth=cut(render.true_depth).float() if render.true_depth.numel() else render.true_depth.float(),
        intrinsics=intrinsics,
    )
    return Prepared(target, colour(cut(sample.truth)), tuple(references))


def create(recipe: Recipe) -> Align:
    """The system ``align``."""
    return Align(recipe)
