"""Exposures of photographs: learnt, without a gauge of their own, kept in checkpoints, and never shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.errors import UserError
from difix3d_ns.ns import presets
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.splats.exposure import Exposures
from tests.unit.short_training import console_output, short_config, train
from tests.unit.tiny_scene import look_at, write_scene
from tests.unit.tiny_splat import tiny_camera, tiny_model

GAINS = torch.tensor([[0.7, 0.75, 0.8], [1.3, 1.2, 1.25], [0.85, 0.9, 1.0], [1.2, 1.05, 1.0], [0.95, 1.1, 0.95]])
GAINS = GAINS / GAINS.mean(0)


class TestAffine:
    def test_nothing_changes_at_first(self) -> None:
        rgb = torch.rand(4, 5, 3)
        assert torch.allclose(Exposures(3)(rgb, 1), rgb)
        assert Exposures(3).deviation() == 0

    def test_their_mean_is_no_change_whatever_is_learnt(self) -> None:
        exposures = Exposures(7)
        exposures.residual.data.normal_()
        assert torch.allclose(exposures.affine().mean(0), torch.eye(3, 4), atol=1e-6)
        before = exposures.affine().detach()
        exposures.residual.data += torch.randn(3, 4)
        assert torch.allclose(exposures.affine(), before, atol=1e-5)

    def test_matrix_and_offset(self) -> None:
        exposures = Exposures(2)
        exposures.residual.data[0, 0, 1] = 0.5  # red gets a quarter of green: the other photograph has minus that
        exposures.residual.data[1, 2, 3] = -0.2
        rgb = torch.tensor([[[0.2, 0.4, 0.6]]])
        assert torch.allclose(exposures(rgb, 0), torch.tensor([[[0.3, 0.4, 0.7]]]))
        assert torch.allclose(exposures(rgb, 1), torch.tensor([[[0.1, 0.4, 0.5]]]))

    def test_what_is_too_bright_is_white(self) -> None:
        exposures = Exposures(2)
        exposures.residual.data[0, :, :3] = 4 * torch.eye(3)
        assert (exposures(torch.full((1, 1, 3), 0.9), 0) == 1).all()


def _photograph(camera: Cameras, index: int) -> Cameras:
    camera.metadata = {"cam_idx": index}
    return camera


class TestModel:
    def test_photographs_in_training_alone(self) -> None:
        model = tiny_model(exposure=True, background_color="black").train()
        plain = model.get_outputs(tiny_camera())["rgb"].detach()  # no index: a pseudo-view
        assert torch.allclose(model.get_outputs(_photograph(tiny_camera(), 1))["rgb"], plain, atol=1e-6)
        model.exposures.residual.data[1, :, :3] = -0.9 * torch.eye(3)
        assert torch.equal(model.get_outputs(tiny_camera())["rgb"], plain)
        darker = model.get_outputs(_photograph(tiny_camera(), 1))["rgb"]
        assert torch.allclose(darker, 0.4 * plain, atol=1e-6)  # the others are lighter by as much
        model.eval()
        shown = model.get_outputs_for_camera(_photograph(tiny_camera(), 1))["rgb"]
        assert torch.allclose(shown, plain, atol=1e-6)

    def test_the_pull_is_for_photographs_in_training(self) -> None:
        model = tiny_model(exposure=True).train()
        model.exposures.residual.data[0] = 0.3
        picture = {"image": torch.rand(30, 40, 3)}
        for training, batch, expected in (
            (True, picture | {"image_idx": 0}, True),
            (True, picture, False),
            (False, picture | {"image_idx": 0}, False),
        ):
            model.train(training)
            assert ("exposure_reg" in model.get_loss_dict(model.get_outputs(tiny_camera()), batch)) == expected

    def test_off_by_default(self) -> None:
        model = tiny_model().train()
        assert model.exposures is None and "exposure" not in model.get_param_groups()
        assert not [key for key in model.state_dict() if "exposure" in key]

    def test_checkpoints_without_leave_them_as_they_are(self) -> None:
        trained, model = tiny_model(seed=1), tiny_model(exposure=True)
        model.exposures.residual.data.fill_(0.5)
        model.load_state_dict(trained.state_dict())
        assert (model.exposures.residual == 0.5).all() and torch.equal(model.means, trained.means)


def _around(angle: float) -> Cameras:
    a = torch.deg2rad(torch.tensor(angle))
    pose = torch.tensor(look_at((2.5 * float(a.cos()), 2.5 * float(a.sin()), 0.5)), dtype=torch.float32)[:3]
    return Cameras(pose[None], 40.0, 40.0, 20.0, 15.0, 40, 30, camera_type=CameraType.PERSPECTIVE)


def _world(exposure: bool) -> SplatModel:
    """Some hundred small and opaque Gaussians of all colours but dark ones, which tell nothing about gains."""
    model = tiny_model(count=300, background_color="black", exposure=exposure, sh_degree_interval=1)
    model.gauss_params["opacities"].data[:] = 2.0
    model.gauss_params["scales"].data[:] = math.log(0.08)
    model.gauss_params["features_dc"].data.mul_(0.7).add_(0.5)
    return model


@pytest.fixture(scope="module")
def captured() -> list[torch.Tensor]:
    """Pictures before the gains, the last of them held out."""
    world = _world(exposure=False).eval()
    return [world.get_outputs_for_camera(_around(24.0 * i))["rgb"] * 0.6 for i in (0, 1, 2, 3, 4, 2.5)]


def _learn(photographs: list[torch.Tensor], exposure: bool) -> SplatModel:
    """Colours and exposures of a splat whose geometry is known."""
    model = _world(exposure)
    model.gauss_params["features_dc"].data.zero_()
    if exposure:
        model.exposures = Exposures(len(photographs))
    model.train()
    model.step = 5
    rates = {"features_dc": 0.02, "features_rest": 0.002, "exposure": 0.01}
    optimizers = [
        torch.optim.Adam(p, lr=rates[n], eps=1e-15) for n, p in model.get_param_groups().items() if n in rates
    ]
    for step in range(250):
        index = step % len(photographs)
        outputs = model.get_outputs(_photograph(_around(24.0 * index), index))
        losses = model.get_loss_dict(outputs, {"image": photographs[index], "image_idx": index})
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(losses.values()).backward()
        for optimizer in optimizers:
            optimizer.step()
    return model.eval()


@pytest.mark.slow
def test_known_gains_are_found_and_unseen_pictures_are_better(captured: list[torch.Tensor]) -> None:
    *seen, unseen = captured
    photographs = [picture * gain for picture, gain in zip(seen, GAINS, strict=True)]
    models = {exposure: _learn(photographs, exposure) for exposure in (False, True)}
    found = models[True].exposures.affine().detach()
    colours = torch.stack([picture.mean((0, 1)) for picture in seen])[..., None]  # [5, 3, 1]
    gains = ((found[:, :, :3] @ colours + found[:, :, 3:]) / colours).squeeze(-1)
    assert (gains - GAINS).abs().mean() < 0.03 < 0.1 < (GAINS - 1).abs().mean()
    errors = {
        exposure: float((model.get_outputs_for_camera(_around(60.0))["rgb"] - unseen).square().mean())
        for exposure, model in models.items()
    }
    assert errors[True] < 0.5 * errors[False]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


class TestTraining:
    @pytest.mark.slow
    def test_exposures_are_trained_and_resumed_exactly(self, scene: Path) -> None:
        def config(name: str) -> Any:
            made = short_config(scene, 12, name=name)
            made.pipeline.model.exposure = True
            made.steps_per_save = 6
            return made

        whole = train(config("whole"))
        half = config("half")
        half.load_checkpoint = whole.checkpoint_dir / "step-000000006.ckpt"
        resumed = train(half)
        assert resumed._start_step == 7
        learnt = [trainer.pipeline.model.exposures.residual for trainer in (whole, resumed)]
        assert learnt[0].abs().max() > 1e-3
        assert torch.equal(*learnt)
        states = [trainer.optimizers.optimizers["exposure"].state_dict()["state"][0] for trainer in (whole, resumed)]
        assert states[0]["step"] == 12 and torch.equal(states[0]["exp_avg"], states[1]["exp_avg"])

    def test_the_flag_must_be_given_again(self, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folders = {}
        for exposure in (False, True):
            config = short_config(scene, 2, name=f"first{exposure}")
            config.pipeline.model.exposure = exposure
            train(config)
            folders[exposure] = config.get_checkpoint_dir()
        more = short_config(scene, 3, name="without")
        more.load_dir = folders[True]
        with pytest.raises(UserError, match=r"--pipeline\.model\.exposure True"):
            train(more)
        more = short_config(scene, 3, name="with")
        more.load_dir, more.pipeline.model.exposure = folders[False], True
        trainer = train(more)
        assert "holds no exposures of the photos" in console_output(capsys)
        assert trainer.pipeline.model.exposures.residual.abs().max() > 0

    def test_not_together_with_the_bilateral_grid(self, scene: Path) -> None:
        config = short_config(scene)
        config.pipeline.model.exposure = config.pipeline.model.use_bilateral_grid = True
        with pytest.raises(UserError, match="leave one out"):
            presets.check(config)
