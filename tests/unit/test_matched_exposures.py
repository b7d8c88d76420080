"""Exposures that photographs agree on before a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from difix3d_ns.data.capture import Capture, procedural_capture
from difix3d_ns.data.procedural.dataset import View, write_views
from difix3d_ns.geometry.pinhole import Pinhole
from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.initialization.matched_exposures import MIN_SPREAD, match_exposures
from difix3d_ns.views.protocols import PhotoDepth
from tests.unit.short_training import console_output, short_config, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def capture() -> Capture:
    return procedural_capture(1000, 192)


@dataclass
class StillScene:
    """Photographs, some with depth."""

    photos: Sequence[PosedImage]
    depths: Sequence[PhotoDepth | None]

    def __len__(self) -> int:
        return len(self.photos)

    def photo(self, index: int) -> PosedImage:
        return self.photos[index]

    def depth(self, index: int) -> PhotoDepth | None:
        return self.depths[index]


def scene_of(capture: Capture, images: Sequence[Tensor], known: Sequence[bool] | None = None) -> StillScene:
    assert capture.depths is not None
    cameras: list[Pinhole] = [capture.cameras[index] for index in capture.train]
    depths = [capture.depths[index] for index in capture.train]
    return StillScene(
        [PosedImage(image, camera) for image, camera in zip(images, cameras, strict=True)],
        [
            PhotoDepth(depth, (depth > 0).float()) if known is None or known[number] else None
            for number, depth in enumerate(depths)
        ],
    )


def photos(capture: Capture) -> list[Tensor]:
    return [capture.images[index] for index in capture.train]


def test_photographs_of_one_exposure_stay_as_they_are(capture: Capture) -> None:
    found = match_exposures(scene_of(capture, photos(capture)))  # type: ignore[arg-type]
    assert found is not None and found.spread < MIN_SPREAD / 2
    assert torch.allclose(found.affine.mean(0), torch.eye(3, 4), atol=1e-5)


@pytest.mark.parametrize("stops", [0.3, 1.0])
def test_gains_are_found(capture: Capture, stops: float) -> None:
    images = photos(capture)
    gains = 2 ** (stops * torch.randn(len(images), 3, generator=torch.Generator().manual_seed(0)))
    gains = 0.9 * gains / gains.max()  # nothing is clipped
    found = match_exposures(scene_of(capture, [image * gain for image, gain in zip(images, gains, strict=True)]))
    assert found is not None and found.spread > MIN_SPREAD
    slopes = found.affine.diagonal(dim1=1, dim2=2)
    assert (slopes > 0).all() and torch.allclose(found.affine.mean(0), torch.eye(3, 4), atol=1e-5)
    ratios = (slopes[:, None] / slopes[None]) / (gains[:, None] / gains[None])  # of any two photographs
    assert float(ratios.log().abs().mean()) < 0.1 * stops


def test_a_photograph_without_depth_keeps_its_colours(capture: Capture) -> None:
    images = photos(capture)
    images[0] = 0.5 * images[0]
    found = match_exposures(scene_of(capture, images, [number > 0 for number in range(len(images))]))
    assert found is not None and found.spread < MIN_SPREAD / 2
    assert torch.allclose(found.affine[0], torch.eye(3, 4), atol=0.02)
    assert match_exposures(scene_of(capture, images, [False] * len(images))) is None


@pytest.mark.parametrize("learned", [True, False])
def test_training_starts_from_them_or_says_that_they_differ(
    capture: Capture, learned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture.depths is not None
    views = [
        View(capture.cameras[index], capture.images[index] * 0.6 ** (number % 2), capture.depths[index], True)
        for number, index in enumerate(capture.train[:5])
    ]
    data = write_views(
        [*views, replace(views[0], training=False)], tmp_path / "scene", np.random.default_rng(0), depths=True
    )
    meta = json.loads((data / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["depth_file_path"] = frame["file_path"].replace("images/", "depths/").replace(".jpg", ".npy")
    meta["depth_unit_scale_factor"] = 1.0
    (data / "transforms.json").write_text(json.dumps(meta))

    config = short_config(data)
    config.pipeline.sparse_helps, config.pipeline.initial_points.stereo = True, 0
    config.pipeline.model.exposure = learned

    exposures = train(config).pipeline.model.exposures
    said = console_output(capsys)
    assert "Exposure differs between photos: the same surface by" in said
    assert (" Give " in said) != learned  # the line is broken there
    assert (exposures is not None) == learned
    if exposures is not None:
        gains = exposures.affine().detach().diagonal(dim1=1, dim2=2)
        assert float(gains[1::2].mean() / gains[::2].mean()) == pytest.approx(0.6, abs=0.04)
