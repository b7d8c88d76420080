"""Trainings of other methods, opened with the enhancer as they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig

from difix3d_ns.apps.enhance_splat import open_splat
from difix3d_ns.apps.export_splat import load_pipeline
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.report.training import read_training
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.geometry.warp import unproject
from difix3d_ns.io import checkpoints
from difix3d_ns.ns.cameras import to_cameras
from difix3d_ns.ns.command_requests import check_request
from difix3d_ns.ns.opened_model import NEEDED
from difix3d_ns.ns.opened_pipeline import OpenedPipeline
from difix3d_ns.ns.patches.splatfacto_metrics import light_metrics
from tests.unit.tiny_scene import write_scene

pytestmark = pytest.mark.usefixtures("one_thread")


def _unlisted(meta: dict[str, Any]) -> None:
    """Leave the split to who reads the scene."""
    for name in ("train_filenames", "val_filenames", "test_filenames"):
        del meta[name]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yml of a nerfacto that learned for a moment, in torch's implementation of its encodings."""
    import torchmetrics.functional  # noqa: F401

    folder = tmp_path_factory.mktemp("nerfacto")
    scene = write_scene(folder / "scene", count=12, size=(24, 18), change=_unlisted)
    config = copy.deepcopy(method_configs["nerfacto"])
    manager = VanillaDataManagerConfig(data=scene, dataparser=config.pipeline.datamanager.dataparser)
    manager.images_on_gpu, manager.train_num_rays_per_batch = False, 128
    config.pipeline.datamanager, config.data = manager, scene
    model: Any = config.pipeline.model
    model.implementation, model.num_levels, model.log2_hashmap_size = "torch", 2, 10
    model.num_nerf_samples_per_ray, model.num_proposal_samples_per_ray = 12, (24, 16)
    for network in model.proposal_net_args_list:
        network |= {"num_levels": 2, "log2_hashmap_size": 8}
    config.output_dir, config.experiment_name, config.timestamp = folder / "outputs", "scene", "run"
    config.machine.device_type, config.vis = "cpu", "tensorboard"
    torch.manual_seed(0)
    with light_metrics():  # its weights of LPIPS would be fetched
        pipeline = config.pipeline.setup(device="cpu", test_mode="val")
    optimizer = torch.optim.Adam([p for group in pipeline.get_param_groups().values() for p in group], 1e-2)
    for step in range(15):
        optimizer.zero_grad()
        losses = pipeline.get_train_loss_dict(step)[1]
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
    config.save_config()
    checkpoints.save({"step": 14, "pipeline": pipeline.state_dict()}, config.get_checkpoint_dir(), 14)
    return Path(config.get_base_dir()) / "config.yml"


@pytest.fixture(scope="module")
def opened(training: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_splat(training.parent, output=tmp_path_factory.mktemp("opened"), fixer="blend")


@pytest.fixture(scope="module")
def pipeline(opened: Path) -> OpenedPipeline:
    found = load_pipeline(opened)
    assert isinstance(found, OpenedPipeline)
    return found


def test_its_renders_are_as_they_were_and_are_enhanced(training: Path, opened: Path, pipeline: OpenedPipeline) -> None:
    assert opened.parent.parent.name == "nerfacto"
    camera = to_cameras(pipeline.scene.unoptimized_camera(2))
    outputs = pipeline.model.get_outputs_for_camera(camera)
    theirs = pipeline.model.trained.get_outputs_for_camera(camera)
    saved = checkpoints.load_newest(training.parent / "nerfstudio_models")[1]["pipeline"]
    name, values = next((name, values) for name, values in saved.items() if "mlp_head" in name)
    assert torch.equal(pipeline.model.trained.state_dict()[name.removeprefix("_model.")], values)
    assert {*NEEDED, "expected_depth", "enhanced"} <= {*outputs} and {*outputs} == {*pipeline.model.output_names}
    assert torch.equal(outputs["rgb"], theirs["rgb"])
    enhanced, photo = outputs["enhanced"], pipeline.scene.photo(2).image
    # of a photograph's own place the photographs show more than a model that learned for a moment
    assert (enhanced - photo).square().mean() < 0.7 * (outputs["rgb"] - photo).square().mean()
    assert "enhanced" in pipeline.model.get_outputs_for_camera(camera, obb_box=None)


def test_photos_are_read_as_they_were_when_it_was_trained(training: Path, pipeline: OpenedPipeline) -> None:
    """Nerfstudio holds out a tenth here, where our methods hold out every eighth."""
    theirs = yaml.load(training.read_text(), Loader=yaml.Loader).pipeline.datamanager.dataparser
    for split, dataset in (("train", pipeline.datamanager.train_dataset), ("test", pipeline.datamanager.eval_dataset)):
        expected = theirs.setup().get_dataparser_outputs(split)
        assert list(dataset.image_filenames) == list(expected.image_filenames)
        assert torch.equal(dataset.cameras.camera_to_worlds, expected.cameras.camera_to_worlds)
    assert len(pipeline.datamanager.train_dataset) == 11


def test_depth_is_along_z(pipeline: OpenedPipeline) -> None:
    camera = pipeline.scene.unoptimized_camera(0)
    depth, alpha = pipeline.model.median_depth(camera)
    distance = pipeline.model.trained.get_outputs_for_camera(to_cameras(camera))["depth"]
    there = (depth > 0)[..., 0]
    assert depth.shape == alpha.shape == (18, 24, 1) and there.float().mean() > 0.5
    found = (unproject(depth, camera) - camera.position).norm(dim=-1)
    torch.testing.assert_close(found[there].float(), distance[..., 0][there], rtol=1e-3, atol=1e-3)
    pipeline.train()
    again = pipeline.model.median_depth(camera)[0]  # nothing is drawn at random
    assert torch.equal(again, depth)


def test_it_is_measured_with_the_enhancer(opened: Path, pipeline: OpenedPipeline) -> None:
    metrics = pipeline.get_average_eval_image_metrics()
    assert {"psnr", "ssim", "flip", "enhanced_psnr", "enhanced_ssim", "enhanced_flip"} <= {*metrics}
    assert metrics["enhanced_psnr"] != metrics["psnr"]
    (view,) = evaluate(opened, enhance=True).views  # as difix3d compare does
    assert view.enhanced is not None and view.truth.shape == view.render.shape == (18, 24, 3)


def test_what_it_cannot_do_is_said(training: Path, opened: Path, pipeline: OpenedPipeline) -> None:
    command = type("ExportPointCloud", (), {})()
    with pytest.raises(UserError, match=r"ns-export pointcloud needs the training itself.*nerfacto/run/config\.yml"):
        check_request(command, pipeline.config.source)
    with pytest.raises(UserError, match=r"nerfacto opened with the enhancer, which has no Gaussians"):
        read_training(opened)  # as export, mesh and report do
    with pytest.raises(UserError, match="this method renders rgb, and the enhancer needs accumulation, depth as well"):
        pipeline.model._check({"rgb": torch.zeros(1)})
    with pytest.raises(UserError, match=r"--transform .*: a training knows its coordinates"):
        open_splat(training, transform=Path("frame.json"))
    state = checkpoints.load_newest(training.parent / "nerfstudio_models")[1]["pipeline"]
    smaller = {name: values[:1] if "embedding_appearance" in name else values for name, values in state.items()}
    with pytest.raises(UserError, match=r"does not fit its config\.yml: .*If the photos of --data are others"):
        pipeline.load_pipeline(smaller, 14)
