"""Requests of nerfstudio's commands that a splat cannot serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nerfstudio.utils.eval_utils as nerfstudios
import pytest
import torch

from difix3d_ns.errors import UserError
from difix3d_ns.ns.command_requests import check_request, complete_names
from difix3d_ns.ns.model import SplatModel
from difix3d_ns.ns.patches.eval_setup import find_trainings_again
from tests.unit.short_training import short_config, train
from tests.unit.tiny_scene import write_scene

OUTPUTS = ("rgb", "depth", "enhanced")


@dataclass
class _Command:
    """As nerfstudio's: ``main`` loads a training."""

    load_config: Path = Path()
    rendered_output_names: list[str] | None = field(default_factory=lambda: ["rgb"])
    output_format: str = "images"
    image_format: str = "jpeg"
    render_nearest_camera: bool = False

    def main(self) -> Any:
        return nerfstudios.eval_setup(self.load_config)


class DatasetRender(_Command):
    pass


class ExportTSDFMesh(_Command):
    pass


@pytest.mark.parametrize(
    ("kind", "alternative"),
    [
        ("ExportPointCloud", "difix3d export"),
        ("ExportTSDFMesh", "difix3d mesh CONFIG"),
        ("ExportPoissonMesh", "difix3d mesh CONFIG"),
        ("ExportMarchingCubesMesh", "difix3d mesh CONFIG"),
        ("SpiralRender", "ns-render interpolate"),
    ],
)
def test_commands_for_rays_name_the_one_that_does(kind: str, alternative: str) -> None:
    with pytest.raises(UserError, match=alternative):
        check_request(type(kind, (_Command,), {})())


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"rendered_output_names": ["rgba"], "output_format": "video"}, "--output-format images --image-format png"),
        ({"rendered_output_names": ["rgba"]}, "--image-format png"),
        ({"rendered_output_names": ["rgb", "rgba"], "image_format": "png"}, "name it alone"),
        ({"render_nearest_camera": True}, "leave it out"),
    ],
)
def test_impossible_settings_name_a_remedy(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        check_request(_Command(**settings))


def test_possible_requests_pass() -> None:
    check_request(None)  # a command that is not an object
    check_request(_Command(rendered_output_names=["rgba"], image_format="png"))
    check_request(_Command(rendered_output_names=None))


def test_all_names_every_output_once() -> None:
    command = _Command(rendered_output_names=["all", "rgb", "rgba"])
    complete_names(command, OUTPUTS)
    assert command.rendered_output_names == ["rgb", "depth", "enhanced", "rgba"]


def test_an_unknown_name_lists_the_known_ones_once() -> None:
    with pytest.raises(UserError, match="--rendered-output-names foo") as error:
        complete_names(_Command(rendered_output_names=["rgb", "foo"]), OUTPUTS)
    assert str(error.value).split(";")[0].count("depth") == 1
    with pytest.raises(UserError, match="gt-rgb"):
        complete_names(_Command(rendered_output_names=["gt-rgb"]), OUTPUTS)
    dataset = DatasetRender(rendered_output_names=["gt-rgb", "raw-depth"])
    complete_names(dataset, OUTPUTS)
    assert dataset.rendered_output_names == ["gt-rgb", "raw-depth"]
    complete_names(DatasetRender(rendered_output_names=None), OUTPUTS)


def test_a_command_of_nerfstudio_is_refused_before_the_training_is_loaded(tmp_path: Path) -> None:
    find_trainings_again()
    train(short_config(write_scene(tmp_path / "scene"), steps=2))
    config = next(tmp_path.rglob("config.yml"))
    for checkpoint in config.parent.rglob("*.ckpt"):
        checkpoint.unlink()
    with pytest.raises(UserError, match="ns-export tsdf"):
        ExportTSDFMesh(config).main()
    with pytest.raises(UserError, match="no checkpoint"):
        _Command(config).main()


def test_an_rgba_picture_is_free_of_its_background() -> None:
    colour = torch.tensor([0.8, 0.2, 0.4]).expand(4, 5, 3)
    alpha = torch.linspace(0, 1, 20).reshape(4, 5, 1)
    background = torch.tensor([0.0, 1.0, 0.5])
    outputs = {"rgb": alpha * colour + (1 - alpha) * background, "accumulation": alpha, "background": background}
    made = SplatModel.get_rgba_image(SimpleNamespace(), outputs)  # type: ignore[arg-type]
    assert made.shape == (4, 5, 4)
    torch.testing.assert_close(made[..., 3:], alpha)
    torch.testing.assert_close(made[alpha[..., 0] > 0.01][:, :3], colour[alpha[..., 0] > 0.01])
