"""Nothing floats in front of cameras, and stereo points are there from the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from difix3d_ns.data.procedural import demo_scene
from difix3d_ns.ns.trainer import GuidedTrainer
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene")


@pytest.mark.parametrize("strategy", ["default", "mcmc"])
@pytest.mark.parametrize("min_depth", [0.5, 0.0])
def test_what_floats_in_front_of_a_camera_is_removed(scene: Path, strategy: str, min_depth: float) -> None:
    config = short_config(scene, steps=6, rounds=1)
    config.pipeline.floaters.min_depth = min_depth
    config.pipeline.initial_points.stereo = 0
    config.pipeline.model.refine_every = 2
    config.pipeline.model.warmup_length = 100  # nothing else removes Gaussians
    config.pipeline.model.strategy = strategy  # type: ignore[assignment]
    config.pipeline.model.max_gs_num = 200
    config.save_config()
    trainer = GuidedTrainer(config)
    trainer.setup()
    model = trainer.pipeline.model
    before = len(model.means)
    camera = trainer.pipeline.scene.cameras()[0]
    with torch.no_grad():
        model.means[:3] = camera.position + 0.1 * camera.forward
        model.means[3] = camera.position - 0.1 * camera.forward  # behind it, and seen by others: no business of this
    trainer.train()
    gone = before - len(model.means)
    assert gone >= 3 if min_depth else gone == 0
    for name, parameter in model.gauss_params.items():
        moments = trainer.optimizers.optimizers[name].state[parameter]
        assert moments["exp_avg"].shape == parameter.shape, name


@pytest.mark.parametrize("on", [False, True])
def test_what_is_nearer_than_photographs_look_is_not_drawn(scene: Path, on: bool) -> None:
    from difix3d_ns.ns.cameras import to_cameras
    from difix3d_ns.splats.floaters import nearest_depths

    config = short_config(scene, rounds=1)
    config.pipeline.floaters.near_plane = on
    config.pipeline.initial_points.stereo = 0
    trainer = GuidedTrainer(config)
    trainer.setup()
    model, photographs = trainer.pipeline.model.eval(), trainer.pipeline.scene
    camera = photographs.unoptimized_cameras()[0]
    points = trainer.pipeline.datamanager.train_dataparser_outputs.metadata["points3D_xyz"]
    nearest = min(depth for depth in nearest_depths(points, photographs.unoptimized_cameras()) if depth > 0)
    assert model.near_plane == pytest.approx(0.5 * nearest if on else 0.01)

    def looks(depth: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Opacity, and median depth, with one large opaque Gaussian there and nothing else."""
        with torch.no_grad():
            model.gauss_params["opacities"][:] = -20.0
            model.gauss_params["opacities"][0] = 20.0
            model.means[0] = camera.position + depth * camera.forward
            model.gauss_params["scales"][0] = torch.tensor(depth).log()
            drawn = model.get_outputs(to_cameras(camera))["accumulation"]
            return drawn, model.median_depth(camera)[0]

    for seen in looks(0.6 * nearest):
        assert float(seen.max()) > 0.1
    for seen in looks(0.4 * nearest):
        assert (float(seen.max()) < 0.01) == on


@pytest.mark.slow
def test_stereo_points_are_added_to_a_new_training_alone(tmp_path: Path) -> None:
    scene = demo_scene(tmp_path / "scene", seed=3, width=128, height=96, train_views=4, test_views=1)
    config = short_config(scene, steps=4, rounds=1)
    config.pipeline.initial_points.stereo, config.pipeline.depth.name = 300, "none"
    new = train(config)
    given = len(new.pipeline.datamanager.train_dataparser_outputs.metadata["points3D_xyz"])
    assert len(new.pipeline.model.means) == given + 300
    resumed = short_config(scene, steps=6, rounds=1, name="resumed")
    resumed.pipeline.initial_points.stereo = 300  # that no depth is estimated is taken over
    resumed.load_dir = new.checkpoint_dir
    assert len(train(resumed).pipeline.model.means) == given + 300
    plain = short_config(scene, steps=2, rounds=0, name="plain")
    assert len(train(plain).pipeline.model.means) == given
    assert plain.pipeline.initial_points.stereo == 0
