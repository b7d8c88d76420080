"""Silhouettes by masks and by plain backgrounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.errors import UserError
from difix3d_ns.io.cut_outs import before_plain_background, with_silhouette
from difix3d_ns.ns.datamanager import SceneDatamanager
from difix3d_ns.ns.training_scene import TrainingScene
from tests.stand_ins import ModelOfScene
from tests.unit.tiny_scene import datamanager, write_scene


def disc(noise: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """A dark disc with a bright hole before grey, and the disc with the hole."""
    rows, columns = np.mgrid[:40, :60]
    distance = np.hypot(rows - 20, columns - 30)
    inside = distance < 12
    picture = np.where(inside[..., None], (40, 60, 90), 200) + np.random.default_rng(0).normal(0, noise, (40, 60, 3))
    picture[distance < 4] = 200  # as bright as the background, but not connected with it
    return picture.clip(0, 255).astype(np.uint8), inside


def test_what_stands_before_a_plain_background() -> None:
    picture, inside = disc()
    found = before_plain_background(picture)
    assert found is not None and (found[..., 0] == inside).mean() > 0.995
    assert found[20, 30, 0]  # the hole is no background


def test_a_border_of_many_colours_is_no_plain_background() -> None:
    assert before_plain_background(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)) is None


def test_a_silhouette_becomes_alpha() -> None:
    picture, inside = disc()
    made = with_silhouette(picture, inside[..., None])
    assert made.shape == (40, 60, 4) and (made[..., 3] == 255 * inside).all() and (made[..., :3] == picture).all()
    again = with_silhouette(np.dstack([picture, np.full((40, 60), 100, np.uint8)]), inside[..., None])
    assert set(np.unique(again[..., 3])) == {0, 100}


def _manager(folder: Path, cut_out: str, masks: bool) -> SceneDatamanager:
    scene = write_scene(folder / "scene", masks=masks)
    if cut_out == "plain":
        for path in (scene / "images").glob("*.png"):
            Image.fromarray(disc()[0]).resize((40, 30)).save(path)
    manager = datamanager(scene)
    for dataset in (manager.train_dataset, manager.eval_dataset):
        dataset.cut_out = cut_out  # type: ignore[assignment]
    return manager


@pytest.mark.parametrize("cut_out", ["no", "masks"])
def test_masks_mean_ignore_unless_they_cut_out(cut_out: str, tmp_path: Path) -> None:
    """A capture whose masks hide passers-by is not carved."""
    scene = TrainingScene(_manager(tmp_path, cut_out, masks=True), ModelOfScene(5))
    used, alpha = scene.used(0), scene.alpha(0)
    if cut_out == "no":
        assert alpha is None and used is not None and 0 < float(used.mean()) < 1
    else:
        assert used is None and alpha is not None and set(alpha.unique().tolist()) == {0.0, 1.0}


def test_a_plain_background_is_cut_out(tmp_path: Path) -> None:
    scene = TrainingScene(_manager(tmp_path, "plain", masks=False), ModelOfScene(5))
    alpha = scene.alpha(0)
    assert alpha is not None and 0.1 < float(alpha.mean()) < 0.4
    behind = scene.photo(0).image[(alpha < 0.5)[..., 0]]
    torch.testing.assert_close(behind, torch.tensor([1.0, 0, 0]).expand_as(behind), atol=0.02, rtol=0)


def test_none_to_cut_out_is_told_with_a_remedy(tmp_path: Path) -> None:
    manager = _manager(tmp_path, "no", masks=False)
    manager.train_dataset.cut_out = "plain"
    with pytest.raises(UserError, match=r"no plain background.*--pipeline\.datamanager\.cut-out masks"):
        manager.train_dataset.get_numpy_image(0)


def test_a_photo_without_a_mask_is_named(tmp_path: Path) -> None:
    manager = _manager(tmp_path, "no", masks=False)
    manager.train_dataset.cut_out = "masks"
    with pytest.raises(UserError, match=r"has no mask: add one \(mask_path in transforms\.json\)"):
        manager.train_dataset.get_numpy_image(0)
