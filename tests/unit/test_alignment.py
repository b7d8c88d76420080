"""The shipped alignment against procedural truth that no weight was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from difix3d_ns.data.capture import Capture, procedural_capture
from difix3d_ns.data.reconstruct import Schedule, Splat, reconstruct
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.warp import project, unproject, visibility, warp_references
from difix3d_ns.priors.alignment.aligned_references import Aligned, align, select_references
from difix3d_ns.priors.alignment.aligner import Aligner
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.embedded import load

pytestmark = pytest.mark.slow

SEED = 1004  # training never sees seeds from 1000 on


@dataclass(frozen=True)
class Scene:
    """A sparse reconstruction of a scene whose geometry is known."""

    capture: Capture
    splat: Splat

    def view(self, index: int) -> FixRequest:
        """A held-out view as a fixer is asked."""
        camera = self.capture.cameras[index]
        image, depth, alpha = self.splat.render(camera)
        references = [
            PosedImage(self.capture.images[i], self.capture.cameras[i], *self.splat.render(self.capture.cameras[i])[1:])
            for i in self.capture.train
        ]
        return FixRequest(image, references, camera, depth, alpha)

    def truth(self, index: int) -> Tensor:
        """[H, W, 1] exact depth, 0 for sky."""
        assert self.capture.depths is not None
        return self.capture.depths[index]


@pytest.fixture(scope="module")
def scene() -> Scene:
    capture = procedural_capture(SEED, 256)
    splat = reconstruct(capture, capture.train, Schedule(steps=350, max_gaussians=9000))[1.0]
    return Scene(capture, splat)


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return load().chain.align


@torch.no_grad()
def aligned(aligner: Aligner, request: FixRequest) -> Aligned:
    return align(aligner, request.camera, request.image, request.depth, request.alpha, request.references)


def log_error(depth: Tensor, truth: Tensor) -> Tensor:
    return (depth.clamp_min(1e-9).log() - truth.clamp_min(1e-9).log()).abs()


def chosen(request: FixRequest, scene: Scene) -> list[int]:
    """Views of the capture that ``align`` used, in its order."""
    known = (request.camera, request.image, request.depth, request.alpha)
    return [scene.capture.train[k] for k in select_references(*known, request.references).indices]


def truly_visible(scene: Scene, index: int, other: int) -> Tensor:
    """[H, W, 1] bool."""
    depth, there = scene.truth(index), scene.truth(other)
    points = unproject(depth, scene.capture.cameras[index])
    seen = visibility(
        points, (depth > 0).float(), scene.capture.cameras[other], there, torch.ones_like(there), tolerance=0.02
    )
    return seen > 0.5


def test_corrected_depth_is_closer_to_the_truth(scene: Scene, aligner: Aligner):
    before, after = [], []
    for index in scene.capture.test:
        request, truth = scene.view(index), scene.truth(index)
        solid = (truth > 0) & (request.alpha > 0.5)
        before.append(log_error(request.depth, truth)[solid])
        after.append(log_error(aligned(aligner, request).depth, truth)[solid])
    splat, corrected = torch.cat(before), torch.cat(after)
    # the splat it starts from is trained again on each machine: 0.79 to 0.83, and 0.049 to 0.053
    assert corrected.median() < 0.85 * splat.median()
    assert (corrected < 0.01).float().mean() > (splat < 0.01).float().mean() + 0.04
    assert (corrected < 0.05).float().mean() > (splat < 0.05).float().mean()


def test_warps_are_right_to_less_than_a_pixel_where_visible(scene: Scene, aligner: Aligner):
    errors = []
    for index in scene.capture.test:
        request, truth = scene.view(index), scene.truth(index)
        found = aligned(aligner, request)
        for k, other in enumerate(chosen(request, scene)):
            camera = scene.capture.cameras[other]
            there = project(unproject(found.depth, request.camera), camera)[0]
            right = project(unproject(truth, request.camera), camera)[0]
            sure = (found.visibility[k, 0] > 0.7) & truly_visible(scene, index, other)[..., 0]
            errors.append((there - right).norm(dim=-1)[sure])
    assert torch.cat(errors).median() < 0.7


def test_visibility_is_precise_and_nothing_comes_from_behind_an_occluder(scene: Scene, aligner: Aligner):
    counts = {name: torch.zeros(6) for name in ("aligned", "by the splat's depth")}
    for index in scene.capture.test:
        request, picture = scene.view(index), scene.capture.images[index].permute(2, 0, 1)
        found = aligned(aligner, request)
        known = (request.camera, request.image, request.depth, request.alpha)
        references = [request.references[k] for k in select_references(*known, request.references).indices]
        naive = warp_references(request.camera, request.depth, request.alpha, references)
        solid = scene.truth(index)[..., 0] > 0
        for k, other in enumerate(chosen(request, scene)):
            true = truly_visible(scene, index, other)[..., 0] & solid
            for name, seen, warp in (
                ("aligned", found.visibility[k, 0], found.warps[k]),
                ("by the splat's depth", naive.visibility[k, ..., 0], naive.images[k].permute(2, 0, 1)),
            ):
                leaked = (seen > 0.5) & solid & ~true
                wrong = leaked & ((warp - picture).abs().mean(0) > 0.1)
                row = (seen * true, seen * solid, true, leaked, wrong, solid & ~true)
                counts[name] += torch.tensor([float(part.sum()) for part in row])
    hits, claims, visible, leaked, wrong, hidden = counts["aligned"]
    assert hits / claims > 0.9  # precision
    assert hits / visible > 0.55  # recall: "visible" also asks for the right colour at the depth that was found
    assert leaked / hidden < 0.6 * counts["by the splat's depth"][3] / hidden
    assert wrong / hidden < 0.06  # what is taken from occluders mostly has the right colour all the same


def test_holes_are_filled_from_the_photographs(scene: Scene, aligner: Aligner):
    """Gaussians taken away in a cone that the view looks into: photographs still show what was there."""
    before, after, deep = [], [], []
    for index in scene.capture.test[::4]:
        whole = scene.view(index)
        camera = whole.camera
        centres, z = project(scene.splat.means, camera)
        size = torch.tensor([camera.width, camera.height])
        kept = ((centres / size - 0.5).norm(dim=1) > 0.12) | (z <= 0)
        parts = (getattr(scene.splat, name)[kept] for name in ("means", "quats", "scales", "opacities", "harmonics"))
        request = replace(scene, splat=Splat(*parts, scene.splat.background)).view(index)
        hole = ((request.alpha < 0.3) & (whole.alpha > 0.7))[..., 0]
        (fixed,) = load(dtype=torch.float32).fix([request])
        before.append((request.image - scene.capture.images[index])[hole])
        after.append((fixed.image - scene.capture.images[index])[hole])
        deep.append(log_error(fixed.depth, scene.truth(index))[hole])
    spoiled, repaired = torch.cat(before), torch.cat(after)
    assert len(spoiled) > 500
    assert repaired.square().mean() < 0.5 * spoiled.square().mean()
    assert (torch.cat(deep) < 0.05).float().mean() > 0.7


def test_identity_without_references_or_geometry(scene: Scene, aligner: Aligner):
    request = scene.view(scene.capture.test[0])
    blind = [replace(reference, alpha=torch.zeros_like(reference.alpha)) for reference in request.references]
    for references in ((), blind):
        found = aligned(aligner, replace(request, references=references))
        assert len(found.warps) == 0
        assert torch.equal(found.depth, request.depth)
        assert found.matched.max() == 0
    unposed = replace(request, camera=None)
    assert len(aligned(aligner, unposed).warps) == 0
    (result,) = load().fix([replace(request, references=())])
    assert torch.equal(result.image, request.image.clamp(0, 1))
    assert result.confidence.max() == 0


def test_exposure_of_references_does_not_matter(scene: Scene, aligner: Aligner):
    request = scene.view(scene.capture.test[1])
    gains = [torch.tensor(gain) for gain in ((1.2, 1.0, 0.9), (0.8, 0.85, 0.9))]
    changed = [
        replace(reference, image=(reference.image * gains[k % 2]).clamp(0, 1))
        for k, reference in enumerate(request.references)
    ]
    plain, other = aligned(aligner, request), aligned(aligner, replace(request, references=changed))
    assert log_error(other.depth, plain.depth).median() < 0.005
    sure = (plain.visibility > 0.5).expand_as(plain.warps)
    assert (other.warps - plain.warps)[sure].abs().mean() < 0.03
