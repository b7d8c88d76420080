"""The model: lazy outputs, a budget of Gaussians, dropout, loading, and no CUDA."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox

from difix3d_ns.enhance.enhancer_config import EnhanceMode
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.io.run import Run
from difix3d_ns.ns.model import Outputs, SplatModel
from difix3d_ns.ns.patches.splatfacto_cpu import keep_on_cpu
from difix3d_ns.splats.strategies.capped import CappedStrategy
from tests.unit.tiny_splat import tiny_camera, tiny_model


class TestOutputs:
    def test_nothing_is_computed_until_asked_for(self) -> None:
        calls: list[str] = []

        def compute() -> torch.Tensor:
            calls.append("enhanced")
            return torch.ones(2)

        outputs = Outputs({"rgb": torch.zeros(2)}, {"enhanced": compute}, tiny_camera(), torch.zeros(2))
        assert "enhanced" in outputs
        assert list(outputs) == list(outputs.keys()) == ["rgb", "enhanced"]
        assert len(outputs) == 2
        assert outputs["rgb"].sum() == 0 and outputs.get("depth") is None
        assert calls == []
        assert outputs["enhanced"].sum() == 2 and outputs.get("enhanced") is outputs["enhanced"]
        assert calls == ["enhanced"]

    @pytest.mark.parametrize("read", [lambda o: dict(o.items())["e"], lambda o: list(o.values())[-1], lambda o: o["e"]])
    def test_every_way_of_reading_computes(self, read: Any) -> None:
        outputs = Outputs({"rgb": torch.zeros(2)}, {"e": lambda: torch.ones(3)}, tiny_camera(), torch.zeros(2))
        assert torch.equal(read(outputs), torch.ones(3))

    def test_lazy_key_may_replace_a_ready_one(self) -> None:
        outputs = Outputs({"rgb": torch.zeros(1)}, {"rgb": lambda: torch.ones(1)}, tiny_camera(), torch.zeros(1))
        assert outputs["rgb"].item() == 1 and len(outputs) == 1

    def test_a_failure_can_be_asked_for_again(self) -> None:
        def fail() -> torch.Tensor:
            raise RuntimeError("no weights")

        outputs = Outputs({}, {"enhanced": fail}, tiny_camera(), torch.zeros(2))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no weights"):
                outputs["enhanced"]


class TestEnhance:
    def _outputs(self, enhance: EnhanceMode) -> dict[str, Any]:
        model = tiny_model().eval()
        del model.optimizers  # it is not being trained
        model.enhancer = lambda camera, image: image * 0 + 0.5
        model.enhance = enhance
        return model.get_outputs_for_camera(tiny_camera())

    def test_key(self) -> None:
        outputs = self._outputs("key")
        assert (outputs["enhanced"] == 0.5).all() and not (outputs["rgb"] == 0.5).all() and "raw" not in outputs

    def test_rgb(self) -> None:
        outputs = self._outputs("rgb")
        assert (outputs["rgb"] == 0.5).all() and not (outputs["raw"] == 0.5).all() and "enhanced" not in outputs

    def test_off(self) -> None:
        outputs = self._outputs("off")
        assert "enhanced" not in outputs and "raw" not in outputs

    @pytest.mark.parametrize("enhance", ["key", "rgb"])
    def test_a_cropped_view_is_not_enhanced(self, enhance: EnhanceMode) -> None:
        """Photographs show what was cropped away as well."""
        model = tiny_model().eval()
        del model.optimizers  # it is not being trained
        model.enhancer = lambda camera, image: image * 0 + 0.5
        model.enhance = enhance
        box = OrientedBox.from_params((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
        outputs = model.get_outputs_for_camera(tiny_camera(), obb_box=box)
        raw, enhanced = ("rgb", "enhanced") if enhance == "key" else ("raw", "rgb")
        assert torch.equal(outputs[enhanced], outputs[raw])
        assert (model.get_outputs_for_camera(tiny_camera())[enhanced] == 0.5).all()

    def test_not_while_training(self) -> None:
        model = tiny_model().train()
        model.enhancer = lambda camera, image: image * 0 + 0.5
        assert type(model.get_outputs(tiny_camera())) is dict
        outputs = model.eval().get_outputs_for_camera(tiny_camera())  # evaluation between two steps
        assert torch.equal(outputs["enhanced"], outputs["rgb"])


class TestBackground:
    """The colour chosen in the viewer is seen there and nowhere else."""

    RED = torch.tensor([1.0, 0.0, 0.0])

    def _in_the_viewer(self, model: SplatModel, render: Any) -> Any:
        """As one of the viewer's threads renders, which sets the background first."""
        results: list[Any] = []

        def work() -> None:
            model.set_background(self.RED)
            results.append(render())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return results[0]

    def _far_away(self, model: SplatModel) -> SplatModel:
        model.gauss_params["means"].data[:] = 1000.0
        return model.eval()

    @pytest.mark.parametrize("cropped", [False, True])
    def test_only_the_viewers_pictures_have_it(self, cropped: bool) -> None:
        model = self._far_away(tiny_model())
        box = OrientedBox(torch.eye(3), torch.zeros(3), torch.ones(3)) if cropped else None

        def render() -> torch.Tensor:
            return model.get_outputs_for_camera(tiny_camera(), obb_box=box)["rgb"]

        before = render()
        assert torch.equal(self._in_the_viewer(model, render), self.RED.expand(30, 40, 3))
        assert torch.equal(render(), before) and not torch.equal(before, self.RED.expand(30, 40, 3))

    @pytest.mark.slow
    def test_nor_do_the_metrics_of_pictures_with_alpha_change(self) -> None:
        model = self._far_away(tiny_model())
        picture = torch.rand(30, 40, 4, generator=torch.Generator().manual_seed(0))
        scores = []
        for _ in range(2):
            outputs = model.get_outputs_for_camera(tiny_camera())
            scores.append(model.get_image_metrics_and_images(outputs, {"image": picture})[0])
            self._in_the_viewer(model, lambda: model.get_outputs_for_camera(tiny_camera()))
        assert scores[0] == scores[1]
        assert not torch.equal(model.background_color, self.RED)  # what pictures of references are laid upon


class TestCappedStrategy:
    def _grown(self, cap: int | None, radii: bool = False) -> tuple[int, torch.Tensor]:
        n = 20
        params = torch.nn.ParameterDict(
            {
                "means": torch.arange(n * 3.0).reshape(n, 3),
                "scales": torch.full((n, 3), -9.0),
                "quats": torch.ones(n, 4),
                "opacities": torch.zeros(n, 1),
            }
        )
        params = torch.nn.ParameterDict({k: torch.nn.Parameter(v.data) for k, v in params.items()})
        optimizers = {k: torch.optim.Adam([v]) for k, v in params.items()}
        strategy = CappedStrategy(max_gs_num=cap, grow_grad2d=0.5, refine_scale2d_stop_iter=100, verbose=False)
        state = {
            "grad2d": torch.arange(n, dtype=torch.float32) * 2,
            "count": torch.full((n,), 2.0),
            "radii": torch.full((n,), 0.2) if radii else torch.zeros(n),
            "scene_scale": 1.0,
        }
        strategy._grow_gs(params, optimizers, state, step=5)
        for name, parameter in params.items():
            assert optimizers[name].param_groups[0]["params"][0] is parameter
        return len(params["means"]), params["means"].detach()[n:, 0] / 3

    def test_without_a_cap_all_candidates_grow(self) -> None:
        assert self._grown(None)[0] == 39

    @pytest.mark.parametrize("cap", [5, 20, 23, 38, 39, 100])
    def test_never_above_the_cap(self, cap: int) -> None:
        count, _ = self._grown(cap)
        assert count == max(20, min(39, cap))

    @pytest.mark.parametrize("cap", [5, 20, 23])
    def test_nor_by_what_is_large_on_screen(self, cap: int) -> None:
        assert self._grown(cap, radii=True)[0] <= max(20, cap)

    def test_the_largest_gradients_grow(self) -> None:
        _, grown = self._grown(23)
        assert sorted(grown.tolist()) == [17, 18, 19]


class TestGaussianDropout:
    def test_off_in_evaluation(self) -> None:
        model = tiny_model(gaussian_dropout=0.5).eval()
        assert model.opacities is model.gauss_params["opacities"]

    def test_off_by_default(self) -> None:
        model = tiny_model().train()
        assert model.opacities is model.gauss_params["opacities"]

    def test_some_are_left_out_and_the_rest_make_up_for_it(self) -> None:
        model = tiny_model(count=4000, gaussian_dropout=0.25).train()
        torch.manual_seed(0)
        opacities = torch.sigmoid(model.opacities)
        dropped = opacities < 1e-5
        assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
        assert opacities[~dropped].mean().item() == pytest.approx(0.1 / 0.75, rel=1e-3)
        opacities.sum().backward()
        gradient = model.gauss_params["opacities"].grad
        assert torch.isfinite(gradient).all() and (gradient[~dropped] > 0).all()

    def test_evaluation_pictures_do_not_change(self) -> None:
        plain, dropped = tiny_model(), tiny_model(gaussian_dropout=0.5)
        dropped.load_state_dict(plain.state_dict())
        images = [m.eval().get_outputs_for_camera(tiny_camera())["rgb"] for m in (plain, dropped)]
        assert torch.equal(*images)


class TestLoading:
    def test_the_optimizers_parameters_are_kept(self) -> None:
        trained, model = tiny_model(count=50, seed=1), tiny_model(count=30)
        parameters = dict(model.gauss_params)
        optimizer = torch.optim.SGD(list(parameters.values()), lr=0.1)
        model.load_state_dict(trained.state_dict())
        assert all(model.gauss_params[name] is parameter for name, parameter in parameters.items())
        assert torch.equal(model.means, trained.means)
        before = model.means.detach().clone()
        model.means.sum().backward()
        optimizer.step()
        assert not torch.equal(model.means, before)

    def test_plain_splatfactos_state(self) -> None:
        trained, model = tiny_model(count=50, seed=1), tiny_model(count=30)
        state = dict(trained.state_dict())
        state["lpips.net.lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
        state["lpips.net.scaling_layer.shift"] = torch.zeros(1, 3, 1, 1)
        model.load_state_dict(state, strict=True)
        assert model.num_points == 50
        assert "lpips.net.scaling_layer.shift" in state  # the caller's is not touched

    def test_names_of_the_first_splatfacto(self) -> None:
        trained, model = tiny_model(count=50, seed=1), tiny_model(count=30)
        state = {key.removeprefix("gauss_params."): value for key, value in trained.state_dict().items()}
        model.load_state_dict(state)
        assert torch.equal(model.gauss_params["features_rest"], trained.gauss_params["features_rest"])

    def test_all_degrees_of_harmonics_are_on_after_loading(self) -> None:
        model = tiny_model(sh_degree_interval=1000)
        model.load_state_dict(tiny_model().state_dict())
        assert model.step // 1000 >= model.config.sh_degree

    def test_checkpoints_hold_no_networks(self) -> None:
        assert not [key for key in tiny_model().state_dict() if key.startswith(("lpips", "enhancer"))]


class TestOnACpu:
    def test_seed_colours_are_used(self) -> None:
        model = tiny_model(count=5)
        rgb = model.colors.clamp(0, 1)
        random = torch.Generator().manual_seed(0)  # the draws of _model
        torch.randn(5, 3, generator=random)
        expected = torch.randint(0, 256, (5, 3), generator=random) / 255
        assert torch.allclose(rgb, expected, atol=1e-5)

    def test_points_without_colours(self) -> None:
        assert torch.isfinite(tiny_model(colours=False).get_outputs(tiny_camera())["rgb"]).all()

    @pytest.mark.slow
    def test_a_step_reaches_every_parameter(self) -> None:
        model = tiny_model(sh_degree_interval=1).train()
        model.step = 5
        outputs = model.get_outputs(tiny_camera())
        losses = model.get_loss_dict(outputs, {"image": torch.rand(30, 40, 3)})
        sum(losses.values()).backward()
        for name, parameter in model.gauss_params.items():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert not any(name.startswith("gsplat.cuda._backend") for name in sys.modules)

    def test_mcmc_begins_small_and_half_opaque(self) -> None:
        default, mcmc = tiny_model(), tiny_model(strategy="mcmc")
        assert torch.allclose(torch.sigmoid(mcmc.gauss_params["opacities"]), torch.tensor(0.5))
        ratio = torch.exp(mcmc.gauss_params["scales"] - default.gauss_params["scales"])
        assert torch.allclose(ratio, torch.tensor(0.1))
        mcmc.load_state_dict(default.state_dict())  # what is trained already stays as it is
        assert torch.equal(mcmc.gauss_params["scales"], default.gauss_params["scales"])

    def test_mcmc_adds_its_two_losses_in_training_only(self) -> None:
        batch = {"image": torch.rand(30, 40, 3)}
        both = {"mcmc_opacity", "mcmc_scale"}
        for strategy, given, expected in (
            ("default", {}, set()),
            ("default", {"mcmc_opacity_reg": 0.01}, both),
            ("mcmc", {}, both),
            ("mcmc", {"mcmc_opacity_reg": 0.0, "mcmc_scale_reg": 0.0}, set()),
        ):
            model = tiny_model(strategy=strategy, max_gs_num=100, **given).train()
            model.config.fit(Run(100))
            assert model.strategy.absgrad is (strategy == "default")
            losses = model.get_loss_dict(model.get_outputs(tiny_camera()), batch)
            assert {key for key in losses if key.startswith("mcmc")} == expected
            model.eval()
            losses = model.get_loss_dict(model.get_outputs(tiny_camera()), batch)
            assert not [key for key in losses if key.startswith("mcmc")]

    @pytest.mark.parametrize("strategy", ["default", "mcmc"])
    def test_densification_runs_and_keeps_the_cap(self, strategy: str) -> None:
        model = tiny_model(count=40, strategy=strategy, max_gs_num=45, densify_grad_thresh=1e-9).train()
        model.optimizers = {n: torch.optim.Adam([p], lr=1e-3) for n, p in model.gauss_params.items()}
        batch = {"image": torch.rand(30, 40, 3)}
        for step in range(26):
            model.step_cb(SimpleNamespace(optimizers=model.optimizers), step)
            sum(model.get_loss_dict(model.get_outputs(tiny_camera()), batch).values()).backward()
            for optimizer in model.optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
            model.step_post_backward(step)
        assert model.num_points == 45

    def test_median_depth(self) -> None:
        model = tiny_model().eval()
        pose = torch.eye(4)
        pose[2, 3] = -3.0
        k = torch.tensor([[40.0, 0, 20], [0, 40.0, 15], [0, 0, 1]])
        depth, alpha = model.median_depth(Pinhole(pose, k, 40, 30))
        assert depth.shape == alpha.shape == (30, 40, 1)
        assert not depth.requires_grad
        assert (depth[alpha < 0.4] == 0).all()

    def test_cameras_keep_their_intrinsics_on_the_cpu(self) -> None:
        camera = tiny_camera()
        kept = keep_on_cpu(camera)
        expected = camera.get_intrinsics_matrices()
        intrinsics = kept.get_intrinsics_matrices().cuda()
        assert type(intrinsics) is torch.Tensor and intrinsics.device.type == "cpu"
        assert torch.equal(intrinsics, expected)
        kept.rescale_output_resolution(0.5)
        assert torch.equal(kept.get_intrinsics_matrices().cuda()[0, 0, 0], expected[0, 0, 0] / 2)

    def test_rendering_leaves_the_camera_as_it_was(self) -> None:
        model = tiny_model(num_downscales=2).train()
        model.step = 0
        camera = tiny_camera()
        outputs = model.get_outputs(camera)
        assert outputs["rgb"].shape == (7, 10, 3) or outputs["rgb"].shape == (8, 10, 3)
        assert (int(camera.width), int(camera.height), float(camera.fx)) == (40, 30, 40.0)


def _measured(model: SplatModel, training: bool = False) -> dict[str, float]:
    if not training:
        vars(model).pop("optimizers", None)
    outputs = model.get_outputs_for_camera(tiny_camera(80, 60))
    return model.get_image_metrics_and_images(outputs, {"image": torch.rand(60, 80, 3)})[0]


class TestLpips:
    @pytest.mark.slow
    def test_columns_name_their_network(self, perceptual_weights: Path) -> None:
        model = tiny_model(color_corrected_metrics=True).eval()
        assert {"lpips_alex", "cc_lpips_alex"} == {key for key in _measured(model, training=True) if "lpips" in key}
        metrics = _measured(model)
        assert {"lpips_alex", "cc_lpips_alex", "lpips_vgg"} == {key for key in metrics if "lpips" in key}
        assert 0 < metrics["lpips_alex"] != metrics["lpips_vgg"] > 0

    @pytest.mark.slow
    def test_the_enhanced_picture_is_measured(self, perceptual_weights: Path) -> None:
        model = tiny_model().eval()
        model.enhancer = lambda camera, image: image * 0.5
        metrics = _measured(model)
        for column in ("lpips_alex", "lpips_vgg"):
            assert 0 < metrics[f"enhanced_{column}"] != metrics[column]

    def test_a_missing_metric_is_absent_and_said_once_on_a_machine(
        self, no_weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = tiny_model().eval()
        metrics = [_measured(model) for _ in range(2)][-1]
        assert {"psnr", "ssim", "flip"} == set(metrics)
        said = " ".join(capsys.readouterr().out.split())
        assert said.count("lpips_alex is left out") == said.count("lpips_vgg is left out") == 1
        assert [path.name for path in no_weights.rglob("*") if path.suffix] == []  # no weights came
        _measured(tiny_model().eval())  # as the next command would
        assert "is left out" not in capsys.readouterr().out

    @pytest.mark.slow
    def test_networks_stay_out_of_checkpoints(self, perceptual_weights: Path) -> None:
        model = tiny_model().eval()
        before = set(model.state_dict())
        _measured(model)
        assert set(model.state_dict()) == before and not [key for key in before if "lpips" in key]
