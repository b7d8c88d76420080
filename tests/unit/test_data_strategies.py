"""Strategies: a splat that learns, and what each way of making bad renders sees and is held against."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from difix3d_ns.data.capture import procedural_capture
from difix3d_ns.data.cycle import seen_from_beside
from difix3d_ns.data.options import STRATEGIES
from difix3d_ns.data.reconstruct import Schedule, _similarity, reconstruct
from difix3d_ns.data.samples import MIN_PSNR, UnitSamples
from difix3d_ns.data.strategies import Plan, Unit, make_units, plans, steps_of

pytestmark = pytest.mark.slow

SCHEDULE = Schedule(80, max_gaussians=800)


@pytest.fixture(scope="module")
def capture():
    return procedural_capture(3, 64)


@pytest.fixture(scope="module")
def units(capture):
    """Those of the splat from all views: full, under-trained and cycle."""
    return {unit.name: unit for unit in make_units(capture, plans(capture, STRATEGIES)[0], SCHEDULE, seed=0)}


def samples(capture, unit: Unit, references: int = 3, most: int = 100):
    found = UnitSamples(capture, unit, references, most, {"scene": capture.name})
    return found, list(found)


def position(pinhole) -> tuple[float, ...]:
    return tuple(pinhole.position.tolist())


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(-10 * (first - second).square().mean().log10())


def test_similarity_tells_good_from_bad():
    image = torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(0))
    noisy = (image + 0.2 * torch.randn(40, 50, 3, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert _similarity(image, image) == pytest.approx(1, abs=1e-5)
    assert _similarity(image, noisy) < 0.9
    assert _similarity(image, 1 - image) < 0


def test_reconstruction_learns_keeps_to_its_cap_and_repeats(capture):
    steps, short = [], Schedule(40, max_gaussians=800)
    first = reconstruct(capture, capture.train, short, snapshots=(0.25,), on_step=lambda: steps.append(1))
    assert len(steps) == 40
    again = reconstruct(capture, capture.train, short)
    assert torch.equal(first[1.0].means, again[1.0].means)
    other = reconstruct(capture, capture.train, Schedule(4, max_gaussians=800), seed=1)
    assert not torch.equal(
        reconstruct(capture, capture.train, Schedule(4, max_gaussians=800))[1.0].means, other[1.0].means
    )
    scores = {
        share: psnr(splat.render(capture.cameras[capture.train[0]])[0], capture.images[capture.train[0]])
        for share, splat in first.items()
    }
    assert scores[1.0] > scores[0.25] + 1
    assert len(capture.points) < len(first[1.0].means) or len(capture.points) > 800
    assert len(first[1.0].means) <= max(800, len(capture.points))


def test_a_mask_keeps_what_is_behind_it_out_of_a_splat(capture):
    spoiled = [image.clone() for image in capture.images]
    masks = [torch.ones_like(image[..., :1]) for image in capture.images]
    for image, mask in zip(spoiled, masks, strict=True):
        image[:, :24] = torch.tensor([1.0, 0.0, 1.0])
        mask[:, :24] = 0
    masked = replace(capture, images=spoiled, masks=masks)
    view = capture.train[2]
    clean, bare = replace(masked, images=capture.images), replace(masked, masks=None)
    schedule = Schedule(15, max_gaussians=800)
    splats = [reconstruct(scene, capture.train, schedule)[1.0] for scene in (masked, clean, bare)]
    assert torch.equal(splats[0].harmonics, splats[1].harmonics)  # whatever is behind the mask
    assert not torch.equal(splats[0].harmonics, splats[2].harmonics)
    unit = Unit("full", "sparse", splats[0], [view], capture.train, 15)
    (sample,) = samples(masked, unit)[1]
    assert torch.equal(sample.truth[:, :24], sample.request.image[:, :24])  # nobody knows: nothing to change
    assert torch.equal(sample.truth[:, 24:], spoiled[view][:, 24:])
    assert all(reference.mask[:, :24].max() == 0 for reference in sample.request.references)


def test_plans_hold_out_what_they_do_not_train_on(capture):
    found = {name: plan for plan in plans(capture, STRATEGIES) for name in plan.units}
    names = {"full", "full_25", "full_50", "full_75", "half_a", "half_b", "third", "quarter"}
    assert set(found) == names | {"cycle", "cross_a", "cross_b"}
    total, views = len(capture.train) + len(capture.test), len(capture.train)
    for name, plan in found.items():
        assert not {*plan.views} & {*plan.held_out}
        assert {*plan.views} <= {*capture.train}
        if not name.startswith("cross"):
            assert len(plan.views) + len(plan.held_out) == total
    sizes = {name: len(found[name].views) for name in ("full", "half_a", "third", "quarter")}
    assert sizes == {
        "full": views,
        "half_a": -(-views // 2),
        "third": -(-(views - 1) // 3),
        "quarter": -(-(views - 1) // 4),
    }
    assert sorted(found["half_a"].views + found["half_b"].views) == capture.train
    assert {n for p in plans(capture, ("cross",)) for n in p.units} == {"cross_a", "cross_b"}
    assert [set(p.units) for p in plans(capture, ("cycle",))] == [{"cycle"}]


def test_few_views_still_give_halves(capture):
    few = replace(capture, train=capture.train[:5], test=capture.test[:3])
    found = {name: plan.views for plan in plans(few, ("sparse",)) for name in plan.units}
    assert found == {"full": few.train, "half_a": few.train[:-1], "half_b": few.train[1:]}


def test_cross_reference_looks_from_one_side_at_the_other(capture):
    first, second = plans(capture, ("cross",))
    assert sorted(first.views + second.views) == capture.train
    assert abs(len(first.views) - len(second.views)) <= 1
    assert sorted(first.views + first.held_out) != sorted(first.views + second.held_out)
    positions = torch.stack([camera.position for camera in capture.cameras])
    axis = positions[first.views].mean(0) - positions[second.views].mean(0)
    along = positions @ axis
    assert along[first.views].min() > along[first.held_out].max()  # a plane lies between them
    assert along[second.views].max() < along[second.held_out].min()


def test_cross_reference_prefers_physical_cameras(capture):
    devices = [index % 2 for index in range(len(capture.cameras))]
    for view, device in zip(capture.train, [0, 0, 0, 1, 1, 1] * 5, strict=False):
        devices[view] = device
    found = {name: p for p in plans(replace(capture, devices=devices), ("cross",)) for name in p.units}
    assert set(found) == {"cross_camera0", "cross_camera1"}
    for device, plan in enumerate(found.values()):
        assert {devices[view] for view in plan.views} == {device}
        assert {devices[view] for view in plan.held_out} == {1 - device}


def test_underfit_splats_are_worse_the_earlier_they_stop(capture, units):
    scores = [
        sum(psnr(units[name].splat.render(capture.cameras[i])[0], capture.images[i]) for i in capture.test)
        for name in ("full_25", "full_50", "full")
    ]
    assert scores[0] < scores[1] < scores[2]
    assert [units[f"full_{share}"].steps for share in (25, 50, 75)] == [20, 40, 60]
    assert {units[f"full_{share}"].strategy for share in (25, 50, 75)} == {"underfit"}
    plan = plans(capture, STRATEGIES)[0]
    assert steps_of(plan, SCHEDULE) == 80 + 56


def test_the_cycle_goes_beside_the_path_and_comes_back(capture, units):
    beside = seen_from_beside(capture, units["full"].splat, capture.train, seed=0)
    originals = [capture.cameras[view] for view in capture.train]
    moves = torch.stack([b.position - a.position for a, b in zip(originals, beside.cameras, strict=True)])
    neighbours = torch.stack([a.position - b.position for a, b in zip(originals[1:], originals, strict=False)])
    gap = neighbours.norm(dim=1).median()
    assert (moves.norm(dim=1) > 0.1 * gap).all() and (moves.norm(dim=1) < 1.5 * gap).all()
    for original, camera in zip(originals, beside.cameras, strict=True):
        assert torch.equal(original.intrinsics, camera.intrinsics)
        move = (camera.position - original.position) @ original.camera_to_world[:3, :3]
        assert abs(move[2]) < 1e-4 * move.norm()  # aside, not nearer
        assert original.forward @ camera.forward > 0.9
    for camera, image in zip(beside.cameras, beside.images, strict=True):
        assert torch.equal(image, units["full"].splat.render(camera)[0])
    assert position(seen_from_beside(capture, units["full"].splat, capture.train, seed=5).cameras[0]) != position(
        beside.cameras[0]
    )

    found, made = samples(capture, units["cycle"])
    assert [int(sample.key[-4:]) for sample in made] == [v for v in capture.train if found.scores[v] >= MIN_PSNR]
    assert len(made) >= 4
    for sample in made:
        view = int(sample.key[-4:])
        assert torch.equal(sample.request.camera.camera_to_world, capture.cameras[view].camera_to_world)
        assert torch.equal(sample.truth, capture.images[view])  # the photograph, not the first splat's render
        first, _, _ = units["full"].splat.render(capture.cameras[view])
        assert psnr(sample.request.image, sample.truth) < psnr(first, sample.truth)


def test_samples_show_other_photographs_as_this_splat_sees_them(capture, units):
    for name in ("full", "cycle"):
        found, made = samples(capture, units[name])
        assert made
        assert found.kept == [found.scores[int(sample.key[-4:])] for sample in made]
        for sample in made:
            shown = [position(reference.camera) for reference in sample.request.references]
            assert len(set(shown)) == len(shown) == 3
            assert position(sample.request.camera) not in shown
            for k, reference in enumerate(sample.request.references):
                view = next(i for i in capture.train if position(capture.cameras[i]) == shown[k])
                assert torch.equal(reference.image, capture.images[view])
                _, depth, alpha = units[name].splat.render(reference.camera)
                assert torch.equal(reference.depth, depth) and torch.equal(reference.alpha, alpha)
                assert torch.equal(sample.reference_true_depths[k], capture.depths[view])
            assert torch.equal(sample.true_depth, capture.depths[int(sample.key[-4:])])


def test_worthless_renders_are_dropped_and_samples_limited(capture, units):
    empty = replace(units["full"].splat, opacities=torch.zeros_like(units["full"].splat.opacities))
    inverted = replace(capture, images=[1 - image for image in capture.images])
    found, made = samples(inverted, units["full"]._replace(splat=empty))
    assert len(found.scores) == len(capture.test)
    assert len(made) == sum(score >= MIN_PSNR for score in found.scores.values()) < len(capture.test)
    assert len(samples(capture, units["full"], most=3)[0].poses) == 3
    assert samples(capture, units["full"]._replace(poses=[]))[1] == []


def test_one_plan_makes_only_the_units_it_is_asked_for(capture, units):
    plan = Plan(capture.train, capture.test, {"full_50": "underfit"}, 1.0)
    (unit,) = make_units(capture, plan, SCHEDULE, seed=0)
    assert unit.name == "full_50"
    assert torch.equal(unit.splat.means, units["full_50"].splat.means)  # whatever else is made with it
