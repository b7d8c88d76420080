"""Depth as supervision: scale-free, weighted, felt by the splat, and not there unless asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.guidance.difix import DifixConfig, DifixGuidance
from difix3d_ns.guidance.schedule import plan_rounds
from difix3d_ns.ns.batches import to_batch
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.splats.losses.log_depth import depth_loss
from difix3d_ns.views.pool import Pool
from difix3d_ns.views.view import TrainView
from tests.stand_ins import DeepFixer
from tests.unit.short_rounds import short_rounds, train_through
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene
from tests.unit.tiny_splat import tiny_camera, tiny_model


def _maps(seed: int = 0) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    depth, alpha, target, trust = (torch.rand(6, 8, 1, generator=random) + 0.1 for _ in range(4))
    return depth, alpha.clamp(max=1), target, trust.clamp(max=1)


class TestLoss:
    @pytest.mark.parametrize("unit", [1e-3, 1e3])
    def test_the_unit_of_length_does_not_matter(self, unit: float) -> None:
        depth, alpha, target, trust = _maps()
        scaled = depth_loss(depth * unit, alpha, target * unit, trust)
        assert scaled.item() == pytest.approx(depth_loss(depth, alpha, target, trust).item(), rel=1e-5)

    def test_too_near_and_too_far_by_one_factor_weigh_the_same(self) -> None:
        _, alpha, target, trust = _maps()
        near, far = (depth_loss(target * f, alpha, target, trust).item() for f in (1 / 1.3, 1.3))
        assert near == pytest.approx(far, rel=1e-5) and far > 0

    def test_a_percent_wrong_counts_for_what_it_is(self) -> None:
        ones = torch.ones(4, 5, 1)
        loss = depth_loss(1.2 * ones, ones, ones, ones).item()
        assert loss == pytest.approx(torch.tensor(1.2).log().item() - 0.005, rel=1e-4)

    @pytest.mark.parametrize("silent", ["no confidence", "nothing drawn", "not known"])
    def test_pixels_that_teach_nothing(self, silent: str) -> None:
        depth, alpha, target, trust = _maps()
        {"no confidence": trust, "nothing drawn": alpha, "not known": target}[silent][2:4] = 0
        depth.requires_grad_()
        depth_loss(depth, alpha, target, trust).backward()
        assert (depth.grad[2:4] == 0).all() and (depth.grad[:2] != 0).all()
        assert depth.grad.isfinite().all()

    def test_opacity_is_not_rewarded_for_fading(self) -> None:
        depth, alpha, target, trust = _maps()
        alpha.requires_grad_()
        depth.requires_grad_()
        depth_loss(depth, alpha, target, trust).backward()
        assert alpha.grad is None

    def test_no_depth_at_all_is_finite(self) -> None:
        depth = torch.zeros(3, 3, 1, requires_grad=True)
        ones = torch.ones(3, 3, 1)
        loss = depth_loss(depth, ones, ones, ones)
        loss.backward()
        assert loss.isfinite() and depth.grad.isfinite().all()


class TestModel:
    def test_depth_only_where_wanted(self) -> None:
        model = tiny_model().train()
        assert model.get_outputs(tiny_camera())["depth"] is None
        with model.depth_in_training(True):
            assert model.get_outputs(tiny_camera())["depth"].shape == (30, 40, 1)
        with pytest.raises(ZeroDivisionError), model.depth_in_training(True):
            raise ZeroDivisionError
        with model.depth_in_training(False):
            assert model.get_outputs(tiny_camera())["depth"] is None

    def test_the_splat_moves_to_the_depth_it_is_shown(self) -> None:
        """Of one that is 8 % too far away, most is gone after a few steps."""
        model = tiny_model(count=200).train()
        target = self._depth(model, tiny_camera())
        with torch.no_grad():
            ray = model.means - torch.tensor([0.0, 0.0, 3.0])
            model.gauss_params["means"].data += 0.08 * ray
        optimizer = torch.optim.Adam([model.gauss_params["means"]], lr=0.01)
        before = self._error(model, target)
        for _ in range(40):
            with model.depth_in_training(True):
                outputs = model.get_outputs(tiny_camera())
            trust = torch.ones_like(target)
            loss = depth_loss(outputs["depth"], outputs["accumulation"], target, trust)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert before > 0.05
        assert self._error(model, target) < before / 3

    def _depth(self, model: SplatModel, camera: Any) -> torch.Tensor:
        outputs = model.eval().get_outputs_for_camera(camera)
        model.train()
        return torch.where(outputs["accumulation"] > 0.3, outputs["depth"], 0)

    def _error(self, model: SplatModel, target: torch.Tensor) -> float:
        depth = self._depth(model, tiny_camera())
        both = (target > 0) & (depth > 0)
        return float((depth[both] / target[both]).log().abs().mean())


def _losses(depth_weight: float, depth: torch.Tensor | None, trust: torch.Tensor | None = None) -> dict[str, float]:
    """Losses of a step on one made view of half the weight."""
    torch.manual_seed(0)  # the background is random
    model = tiny_model(count=100).train()
    pose = torch.eye(4)
    pose[:3, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    pose[2, 3] = 3.0
    camera = Pinhole(pose, torch.tensor([[40.0, 0, 20], [0, 40.0, 15], [0, 0, 1]]), 40, 30)
    guidance = DifixGuidance(DifixConfig(probability=1.0, depth_weight=depth_weight))
    guidance._first_view, guidance.pool = 0, Pool(1)
    guidance.schedule = replace(plan_rounds(100, 0, lambda step: True), full_weight=0.5, ramp_steps=1)
    weight = 1.0 if trust is None else trust
    image, sure = torch.full((30, 40, 3), 0.5), torch.ones(30, 40, 1)
    guidance.pool.put(TrainView("target/000@1", camera, image, confidence=sure, depth=depth, depth_weight=weight))
    view = guidance.next_view(3, torch.Generator().manual_seed(0))
    assert view is not None
    cameras, batch = to_batch(view)
    with model.depth_in_training(view.depth is not None):
        outputs = model.get_outputs(cameras)
    base = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
    return {name: float(loss.detach()) for name, loss in guidance.losses(outputs, view, base).items()}


class TestTraining:
    NEAR = torch.full((30, 40, 1), 1.5)

    def test_off_changes_nothing(self) -> None:
        assert _losses(0.0, self.NEAR) == _losses(0.0, None) == _losses(0.3, None)
        assert "depth_loss" not in _losses(0.0, self.NEAR)

    def test_the_weights_multiply(self) -> None:
        one, three = (_losses(w, self.NEAR)["depth_loss"] for w in (0.1, 0.3))
        assert one > 0 and three == pytest.approx(3 * one)
        half = _losses(0.1, self.NEAR, torch.full((30, 40, 1), 0.5))["depth_loss"]
        assert half == pytest.approx(one / 2, rel=1e-3)

    def test_rounds_keep_depth_only_if_it_is_used(self, tmp_path: Path) -> None:
        for weight in (0.0, 0.1):
            rounds, splat = short_rounds(tmp_path / str(weight), depth_weight=weight)
            rounds._fixing._fixer = DeepFixer()
            train_through(rounds, splat)
            views = [rounds.pool.get(key) for key in rounds.pool]
            assert len(views) == 4
            for view in views:
                assert (view.depth is not None) == (weight > 0)
                if view.depth is not None and isinstance(view.depth_weight, torch.Tensor):
                    assert view.depth.mean() == pytest.approx(2.0) and view.depth_weight.mean() == pytest.approx(1)


@pytest.mark.slow
def test_resumed_training_is_taught_the_same_depth(tmp_path: Path) -> None:
    def config(name: str) -> Any:
        made = short_config(tmp_path / "scene", steps=100, rounds=2, name=name)
        guidance = made.pipeline.guidance
        made.steps_per_save, guidance.targets.count, guidance.depth_weight = 50, 3, 0.5
        guidance.fixer.name, made.pipeline.model.max_gs_num = "embedded", 200
        return made

    write_scene(tmp_path / "scene")
    whole = train(config("whole"))
    pool = whole.pipeline.guidance.pool
    assert all((pool.get(key).depth > 0).any() for key in pool) and len(pool) > 0
    half = config("half")
    half.load_checkpoint = whole.checkpoint_dir / "step-000000050.ckpt"
    resumed = train(half)
    for name, parameter in whole.pipeline.model.gauss_params.items():
        assert torch.allclose(parameter, resumed.pipeline.model.gauss_params[name], atol=1e-5), name
