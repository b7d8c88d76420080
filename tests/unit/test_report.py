"""The report: what it reads from a training's folder, and the page it makes of that."""

from __future__ import annotations

import base64
import copy
import io
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
from markupsafe import Markup
from PIL import Image
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from difix3d_ns.data.procedural.textures import bricks
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.curves import read_curves
from difix3d_ns.evaluation.report import (
    Curve,
    Figure,
    Section,
    chart,
    error_map,
    fold,
    gallery,
    long_side_for,
    page,
    picture,
    results_table,
    slider,
    write_report,
)
from difix3d_ns.evaluation.report.flags import settings
from difix3d_ns.evaluation.report.training import loss_by_kind, read_training
from difix3d_ns.evaluation.runs import HeldOutView
from difix3d_ns.geometry.orbits import look_at_point
from difix3d_ns.geometry.resize import resized
from difix3d_ns.io.durations import duration
from difix3d_ns.meshing.mesh_files import frame_file, write_mesh
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.methods.threedsr import threedsr_splatfacto
from difix3d_ns.metrics.image import image_metrics
from difix3d_ns.metrics.perceptual import PerceptualWeights
from difix3d_ns.ns import presets
from difix3d_ns.ns.cameras import to_pinhole
from difix3d_ns.ns.earlier_versions import refuse_earlier
from difix3d_ns.ns.splat_frame import SplatFrame
from difix3d_ns.ns.trainer import GuidedTrainerConfig
from difix3d_ns.views.folders import RECORDS_FOLDER
from tests.unit.fabricated_run import (
    HEIGHT,
    WIDTH,
    plain_picture,
    text_of,
    views,
    write_config,
    write_curves,
    write_fixes,
    write_upscaled,
)
from tests.unit.tiny_scene import write_scene


def decoded(address: str) -> np.ndarray:
    kind, content = address.split(",", 1)
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training without a checkpoint: its folder."""
    folder = tmp_path / "outputs" / "scene" / "difix3d-splatfacto" / "run"
    write_config(folder, max_num_iterations=200)
    return folder


# pictures


def test_a_picture_keeps_its_colours_and_can_be_made_smaller() -> None:
    values = torch.linspace(0, 1, 90).expand(60, 90).unsqueeze(-1).expand(-1, -1, 3)
    whole, small = picture(values, quality=95), picture(values, 45)
    assert (whole.width, whole.height) == (90, 60)
    assert (small.width, small.height) == (45, 30)
    assert np.abs(decoded(whole.address) / 255 - values.numpy()).max() < 0.05
    assert decoded(small.address).shape == (30, 45, 3)


def test_a_picture_takes_bytes_and_what_is_not_finite() -> None:
    values = torch.full((20, 20, 3), math.nan)
    assert decoded(picture(values).address).max() == 0
    assert decoded(picture(np.full((20, 20, 3), 200, np.uint8)).address).mean() == pytest.approx(200, abs=2)


def test_pictures_fit_the_budget_even_if_they_are_rich_in_detail() -> None:
    texture = bricks(np.random.default_rng(0))
    fine = np.asarray(Image.fromarray((texture.clip(0, 1) * 255).astype(np.uint8)).resize((720, 480)))
    budget = 1e6
    for count in (3, 12):
        side = long_side_for(count, 720, 480, budget)
        assert 0.2 * budget < count * len(picture(fine, side).address) < 1.5 * budget
    assert long_side_for(1, 720, 480, budget) == 720  # never enlarged
    assert long_side_for(10**6, 720, 480, budget) == 240


def test_error_maps_are_black_where_nothing_differs_and_mean_flip() -> None:
    from matplotlib import colormaps

    truth = torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(0))
    changed = truth.clone()
    changed[:, 25:] = 1 - changed[:, 25:]
    colours = error_map(changed, truth)
    assert colours.shape == (40, 50, 3)
    assert colours[:, :15].max() < 0.03
    assert colours[:, 35:].mean() > 0.2
    table = np.asarray(colormaps["magma"].colors)  # type: ignore[attr-defined]
    levels = np.linalg.norm(colours[:, :, None] - table, axis=-1).argmin(-1) / 255
    assert levels.mean() == pytest.approx(image_metrics(changed, truth)["flip"], abs=0.01)


# parts


def test_plain_text_is_escaped_everywhere() -> None:
    evil = "<script>alert(1)</script>\"'"
    pictures = {evil: picture(plain_picture((1, 0, 0))), "b": picture(plain_picture((0, 1, 0)))}
    views = gallery([slider(pictures, evil, evil, evil)], [(evil, "b"), ("b", evil)])
    drawn = chart(evil, [Curve(evil, np.arange(2), np.ones(2))], note=evil)
    parts = [evil, views, results_table({evil: {"psnr": 1.0}}), fold(evil, [evil]), drawn]
    html = page(evil, [Section(evil, parts)], evil, [Figure(evil, evil, evil)], [evil], evil)
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;") > 20


def test_sections_without_content_are_left_out_with_their_links() -> None:
    html = page("t", [Section("One", ["said"]), Section("Empty", ["", Markup("")]), Section("Two", ["said"], "Second")])
    assert "Empty" not in html
    assert re.findall(r'<a href="(#[^"]+)">([^<]+)', html) == [("#section-1", "One"), ("#section-2", "Second")]


def test_a_slider_shows_its_first_two_pictures() -> None:
    pictures = {name: picture(plain_picture((0.5, 0.5, 0.5))) for name in ("a", "b", "c")}
    html = slider(pictures, "view", "1 dB")
    shown = re.findall(r'data-name="(\w)" decoding="async" draggable="false"( class="left"| hidden|)>', html)
    assert shown == [("a", ' class="left"'), ("b", ""), ("c", " hidden")]
    with pytest.raises(ValueError, match="at least two"):
        slider({"a": pictures["a"]})


def test_galleries_on_one_page_choose_apart() -> None:
    pictures = {name: picture(plain_picture((0.5, 0.5, 0.5))) for name in ("a", "b")}
    pairs = [("a", "b"), ("b", "a")]
    names = [set(re.findall(r'name="(gallery-\d+)"', gallery([slider(pictures)], pairs))) for _ in range(2)]
    assert len(names[0]) == len(names[1]) == 1
    assert names[0] != names[1]


def test_the_table_of_methods_marks_what_is_best() -> None:
    html = results_table({"plain": {"psnr": 20.0, "flip": 0.2}, "ours": {"psnr": 21.0, "flip": 0.1, "lpips_vgg": 0.3}})
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in re.findall(r"<tr>(.*?)</tr>", html, flags=re.S)]
    assert rows[0] == ["method", "PSNR ↑", "FLIP ↓", "LPIPS (VGG) ↓"]
    assert rows[1:] == [["plain", "20.00", "0.200", "-"], ["ours", "21.00", "0.100", "0.300"]]
    assert re.findall(r'class="good">([^<]*)', html) == ["21.00", "0.100"]


# charts


def test_a_chart_says_where_curves_begin_and_end() -> None:
    html = chart(
        "PSNR", [Curve("a", np.array([0, 10]), np.array([20.0, 25.5])), Curve("none", np.array([]), np.array([]))]
    )
    assert "PSNR. a: 20 to 25.5." in html
    assert "none" not in html
    assert chart("x", [Curve("a", np.array([1, 2]), np.array([math.nan, math.inf]))]) == ""


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    steps = np.arange(30_000)
    html = chart("Loss", [Curve("a", steps, np.exp(-steps / 3000))])
    assert len(html) < 40_000
    data = re.search(r'data-curves="\[\[(.*?)\]\]', html)
    assert data is not None
    assert data[1].split("], [")[-1].startswith("29999,") or data[1].split("],[")[-1].startswith("29999,")


def test_a_chart_of_one_point_or_of_equal_values_can_be_drawn() -> None:
    for values in ([3.0], [0.0, 0.0], [-5.0, -5.0]):
        html = chart("x", [Curve("a", np.arange(len(values)), np.array(values))], marks=[0, 1])
        numbers = re.findall(r'c[xy]="([^"]+)"', html)
        assert numbers
        assert all(math.isfinite(float(number)) for number in numbers)


# reading


def test_curves_are_read_and_the_loss_is_told_apart(run: Path) -> None:
    write_curves(run)
    curves, seconds = read_curves(run)
    assert list(curves["Train Loss"].steps) == list(range(0, 100, 10))
    photos, pseudo = loss_by_kind(curves)
    assert (photos.name, pseudo.name) == ("photos", "pseudo-views")
    assert set(photos.values) == {1.0}
    assert pseudo.values == pytest.approx([0.1, 0.1, 0.1])
    assert list(pseudo.steps) == [20, 50, 80]
    assert seconds is not None and seconds >= 0


def test_a_resumed_training_goes_on_and_its_pause_does_not_count(run: Path) -> None:
    write_curves(run, steps=60)
    begun = read_curves(run)[1]
    time.sleep(1.1)  # of the files' names, and the pause
    write_curves(run, steps=100, first=40)
    curves, seconds = read_curves(run)
    assert list(curves["Train Loss"].steps) == list(range(0, 100, 10))
    assert begun is not None and seconds is not None and begun <= seconds < 1.0


def test_a_training_that_began_anew_forgets_what_was_before(run: Path) -> None:
    write_curves(run, steps=200)
    time.sleep(1.1)
    write_curves(run, steps=60)
    assert list(read_curves(run)[0]["Train Loss"].steps) == list(range(0, 60, 10))


def test_an_event_file_in_the_middle_of_a_write_is_read_as_far_as_it_goes(run: Path) -> None:
    write_curves(run)
    (file,) = run.glob("events.out.tfevents.*")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    steps = read_curves(run)[0]["Train Loss"].steps
    assert 0 < len(steps) < 10
    for nothing in (b"", b"garbage" * 99):
        file.write_bytes(nothing)
        assert read_curves(run) == ({}, None)
    assert "No curve has been written yet" in text_of(write_report(run).read_text())


def test_without_event_files_there_are_no_curves(run: Path) -> None:
    assert read_curves(run) == ({}, None)


@pytest.mark.parametrize("below", [".", "config.yml", "../../..", "../.."])
def test_a_training_is_found_from_its_folder_file_or_above(run: Path, below: str) -> None:
    assert read_training(run / below).folder.resolve() == run


def test_what_is_no_single_training_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_training(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.yml"):
        read_training(tmp_path / "empty")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"a\.txt is no config\.yml"):
        read_training(tmp_path / "a.txt")
    write_config(run.with_name("second"))
    with pytest.raises(UserError, match="2 trainings") as caught:
        read_training(tmp_path)
    assert str(run) in str(caught.value) and str(run.with_name("second")) in str(caught.value)


def test_a_config_that_is_half_written_or_of_another_method_is_told(run: Path) -> None:
    content = (run / "config.yml").read_text()
    (run / "config.yml").write_text(content[: len(content) // 3])
    with pytest.raises(UserError, match=r"config\.yml"):
        read_training(run)
    (run / "config.yml").write_text("a: 1\n")
    with pytest.raises(UserError, match="no training"):
        read_training(run)
    (run / "config.yml").write_text(
        "!!python/object:nerfstudio.engine.trainer.TrainerConfig\nmethod_name: splatfacto\n"
    )
    with pytest.raises(UserError, match="of the method splatfacto"):
        read_training(run)


@pytest.mark.parametrize(
    "gone", ["difix3d_ns.trainer.Difix3DTrainerConfig", "difix3d_ns.ns.trainer.Difix3DTrainerConfig"]
)
def test_a_training_of_an_earlier_version_is_refused_in_one_sentence(gone: str, run: Path) -> None:
    """The class that was given up is named at the top, or below one that is still there."""
    content = (run / "config.yml").read_text()
    now = "difix3d_ns.ns.trainer.GuidedTrainerConfig"
    assert content.startswith(f"!!python/object:{now}\n")
    below = content.replace("difix3d_ns.ns.pipeline.GuidedPipelineConfig", "difix3d_ns.pipeline.Difix3DPipelineConfig")
    for text in (content.replace(now, gone), below):
        (run / "config.yml").write_text(text)
        with pytest.raises(UserError) as caught:
            read_training(run)
        assert str(caught.value) == (
            f"{run / 'config.yml'} was written by an earlier version of difix3d_ns, whose trainings this one "
            "cannot open: train again"
        )


def test_only_what_this_package_had_once_is_of_an_earlier_version(run: Path) -> None:
    for other in ("somebody.trainer.Config", "difix3d_nsx.trainer.Config", "nerfstudio.engine.trainer.Nothing"):
        (run / "config.yml").write_text(f"!!python/object:{other}\nmethod_name: mine\n")
        with pytest.raises(UserError, match="cannot be read"):
            read_training(run)
    refuse_earlier(ValueError("cannot find module 'difix3d_ns.trainer' (No module named 'difix3d_ns.trainer')"))
    refuse_earlier(yaml.YAMLError("cannot find module 'difix3d_ns.ns.trainer' (No module named 'gsplat')"))
    with pytest.raises(UserError, match=r"^this config\.yml was written by an earlier version"):
        refuse_earlier(yaml.YAMLError("cannot find module 'difix3d_ns.trainer' (No module named 'difix3d_ns.trainer')"))


def fitted(folder: Path, images: int | None = 6, **changes: Any) -> GuidedTrainerConfig:
    """The config of a training as it is saved, with everything filled in."""
    write_config(folder, **changes)
    config = read_training(folder).config
    config.machine.device_type = "cpu"
    presets.fit(config, replace(config.run(), images=images))
    return config


def changed(config: GuidedTrainerConfig, images: int | None = 6) -> dict[str, tuple[str, str]]:
    """Flag -> (value, default) of what is shown first."""
    rows = settings(config, images)
    assert [row.default is not None for row in rows] == sorted((row.default is not None for row in rows), reverse=True)
    return {row.flag: (row.value, row.default) for row in rows if row.default is not None}


def test_settings_that_were_given_come_first_and_fitted_ones_are_defaults(run: Path) -> None:
    config = fitted(run, pipeline__guidance__weight=0.5, pipeline__guidance__rounds=4)
    found = changed(config)
    assert found["--pipeline.guidance.weight"] == ("0.5", "1")
    assert found["--pipeline.guidance.rounds"] == ("4", "2")
    assert set(found) - {"--machine.device-type"} == {
        *("--data", "--experiment-name", "--pipeline.guidance.weight", "--pipeline.guidance.rounds")
    }
    values = {row.flag: row.value for row in settings(config, 6)}
    assert values["--max-num-iterations"] == "2000"
    assert values["--pipeline.floaters.min-depth"] == "0.5"
    assert "--optimizers.means.optimizer.lr" in values
    assert not any("_target" in flag or "None" in flag or "environment" in flag for flag in values)


def test_a_length_that_was_given_differs_and_what_follows_from_it_does_not(run: Path) -> None:
    found = changed(fitted(run, max_num_iterations=500))
    assert found["--max-num-iterations"] == ("500", "2000")
    assert not [flag for flag in found if "steps" in flag or "model" in flag or "optimizers" in flag]


def test_settings_that_follow_from_the_number_of_photographs(run: Path) -> None:
    flag = "--pipeline.floaters.min-depth"
    assert flag not in changed(fitted(run, images=6), 6)
    assert flag not in changed(fitted(run, images=100), 100)
    assert changed(fitted(run, images=100), 6)[flag] == ("0", "0.5")
    assert flag not in changed(fitted(run, images=6), None)  # nobody can tell
    off = changed(fitted(run, pipeline__sparse_helps=False))
    assert off["--pipeline.sparse-helps"] == ("False", "True")
    assert off["--pipeline.initial-points.stereo"] == ("0", "12000")


def test_weights_that_were_given_differ_though_a_resumed_training_keeps_them(run: Path) -> None:
    given = {"pipeline__guidance__fixer__weights": "mine", "pipeline__guidance__fixer__references": 2}
    found = changed(fitted(run, pipeline__depth__weights="depth", **given))
    assert found["--pipeline.guidance.fixer.weights"] == ("mine", "unset")
    assert found["--pipeline.guidance.fixer.references"] == ("2", "unset")
    assert found["--pipeline.depth.weights"] == ("depth", "unset")


def test_what_is_no_flag_is_no_setting() -> None:
    listed = {
        row.flag
        for method in (difix3d_splatfacto, threedsr_splatfacto)
        for row in settings(copy.deepcopy(method.config), 6)
    }
    assert "--pipeline.guidance.targets.count" in listed and "--pipeline.guidance.low-stage" in listed
    assert not {flag for flag in listed if re.search("by-coverage|by-default|steps-before", flag)}


def test_every_method_is_compared_with_its_own_defaults(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"method": "sparse-splatfacto", "pipeline__model__gaussian_dropout": 0.1}
    for registered in (True, False):
        if not registered:  # then with those of its classes
            monkeypatch.setattr("difix3d_ns.evaluation.report.flags.discover_methods", lambda: ({}, {}))
        found = changed(fitted(run, **given))
        assert found["--pipeline.model.gaussian-dropout"] == ("0.1", "0")
        told = [flag for flag in found if re.search("guidance|optimizers|iterations|refine|min-depth|stereo", flag)]
        assert told == [] and "--method-name" not in found
    found = changed(fitted(run, pipeline__guidance__weight=0.5))
    assert found["--pipeline.guidance.weight"] == ("0.5", "1") and "--pipeline.guidance.rounds" not in found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.123, "0.12 s"),
        (9.99, "10 s"),
        (59, "59 s"),
        (59.7, "1 min 00 s"),
        (268, "4 min 28 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


# the whole page


def test_a_training_that_just_began_says_what_is_not_there_yet(run: Path) -> None:
    text = text_of(write_report(run).read_text())
    assert "not finished: it is at step 0 of 200" in text
    assert "No checkpoint has been saved yet" in text
    assert "Pseudo-views" not in text and "repaired" not in text
    assert "There are no curves" in text and "--vis viewer+tensorboard" in text
    assert "--max-num-iterations" in text


def test_a_pool_that_holds_nothing_yet_is_told(run: Path) -> None:
    (run / "pseudo_views").mkdir()
    assert "No view has been made yet" in text_of(write_report(run).read_text())


def test_a_method_without_a_prior_has_no_section_of_made_views(tmp_path: Path) -> None:
    run = tmp_path / "sparse-splatfacto" / "run"
    write_config(run, "sparse-splatfacto", max_num_iterations=200)
    with SummaryWriter(str(run)) as writer:
        for step in range(0, 100, 10):
            writer.add_scalar("Train Loss", 1.0, step)
            writer.add_scalar("Train Metrics Dict/psnr", 20.0, step)
    text = text_of(write_report(run, views=views()).read_text())
    assert "sparse-splatfacto, 91 steps" in text or "sparse-splatfacto, 90 steps" in text
    for said in ("seudo-view", "rounds", "repaired", "made", "--pipeline.guidance"):
        assert said not in text, said
    assert "2 photos were kept out" in text and "enhanced" in text and "PSNR in training" in text


def test_a_training_in_the_middle_shows_what_there_is(run: Path) -> None:
    write_curves(run)
    write_fixes(run, rounds=1, targets=3)
    sorted((run / RECORDS_FOLDER).glob("*.jpg"))[1].write_bytes(b"half a pict")  # being written
    text = text_of(write_report(run).read_text())
    assert "it is at step 90 of 200" in text
    assert "Round 1: 2 views" in text and "confidence 75 % on average" in text
    assert "with frame_00001.jpg, frame_00004.jpg" in text
    assert "Loss photos pseudo-views" in text
    assert "There are no curves" not in text


def test_records_of_another_system_are_shown_in_its_own_words(run: Path) -> None:
    write_upscaled(run, rounds=3, photos=10)  # 12 pictures at most: the same 4 photos in every round
    html = write_report(run).read_text()
    text = text_of(html)
    assert "Photos, sharper than they were taken" in text and "Each is made from a photo." in text
    assert "12 of 30 are shown" in text
    groups = [
        f"Round {3 - i}, level {333 + 333 * i}: 10 views, agreement {1.25 - 0.5 * i:g} on average" for i in range(3)
    ]
    places = [text.index(group) for group in groups]
    assert places == sorted(places)  # the last one first
    captions = re.findall(r"<figcaption><span>(frame_\d+\.jpg), step", html)
    assert len(captions) == 12 and captions[:4] == captions[4:8] == captions[8:] and len(set(captions)) == 4
    assert re.findall(r'data-left="([^"]+)" data-right="([^"]+)" checked', html)[:3] == [("Low", "Upscaled")] * 3
    assert "10 agreement 1.25" in text  # of the last round alone
    assert "Round 1, level 999: making its 10 views once 10 s" in text
    for said in ("seudo-view", "repaired", "Reference", "Fixed"):
        assert said not in text.partition("Settings")[0], said


@pytest.mark.parametrize("gone", [False, True])
def test_upscaled_photos_are_shown_beside_their_larger_originals(gone: bool, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", 4, (82, 60))
    run = tmp_path / "3dsr-splatfacto" / "run"
    changes = {"pipeline__datamanager__camera_res_scale_factor": 0.5, "pipeline__guidance__factor": 1.5}
    write_config(run, "3dsr-splatfacto", data=scene, **changes)
    write_upscaled(run, rounds=1, photos=2, size=(45, 60))  # of 41 x 30 px, of which a column is cropped
    if gone:
        scene.rename(tmp_path / "moved")
    html = write_report(run, views=[]).read_text()
    pairs = re.findall(r'data-left="([^"]+)" data-right="([^"]+)"', html)
    own = [("Low", "Upscaled"), ("Upscaled", "Confidence")]
    assert pairs == own + ([] if gone else [("Upscaled", "Truth"), ("Low", "Truth")])
    assert ("which training never saw" in text_of(html)) is not gone
    dataset = read_training(run).dataset
    found = re.findall(r'src="([^"]+)"[^>]*data-name="Truth"', html)
    assert len(found) == (0 if gone else 2)
    for index, address in enumerate(found):
        with Image.open(dataset.image_filenames[index]) as file:
            expected = np.asarray(file.convert("RGB").resize((62, 45), Image.Resampling.BICUBIC))[:, :60]
        assert np.abs(decoded(address).astype(int) - expected).mean() < 12  # of WebP
        assert decoded(address).shape == expected.shape


def test_curves_of_made_views_are_drawn_whatever_they_are_called(run: Path) -> None:
    with SummaryWriter(str(run)) as writer:
        for name, step, value in (("pool", 40, 4), ("mean agreement", 40, 0.5), ("mean agreement", 80, 0.75)):
            writer.add_scalar(f"Upscaled photos/{name}", value, step)
        for step, value in ((40, 0.25), (80, 0.5)):
            writer.add_scalar("Upscaled photos/likeness", value, step)
    text = text_of(write_report(run).read_text())
    assert "Pool, upscaled photos" in text and "Mean agreement of upscaled photos" in text
    assert text.count("Likeness of upscaled photos") == 1
    assert "Dashed lines: a round has ended." in text


def test_only_the_page_is_written(run: Path, tmp_path: Path) -> None:
    write_curves(run)
    write_fixes(run)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")}
    target = tmp_path / "new" / "page.html"
    assert write_report(run, target, views()) == target
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")} == before
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    write_report(run, views=views())
    assert {path.name for path in run.iterdir()} - {path.name for path in before} == {"report.html"}


def test_a_page_that_cannot_be_written_is_told(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        write_report(run, tmp_path / "file" / "page.html", views())


def test_metrics_of_every_view_and_their_mean(run: Path) -> None:
    html = write_report(run, views=views(3)).read_text()
    red, green = (image_metrics(plain_picture(c), plain_picture((0, 0, 1)))["psnr"] for c in ((1, 0, 0), (0, 1, 0)))
    text = text_of(html)
    assert "3 photos were kept out" in text
    assert text.count(f"{red:.2f} → {green:.2f} dB") == 3
    assert re.search(rf"mean {red:.2f} {green:.2f}", text)
    assert "Enhancing a further view, median 0.5 s" in text
    assert html.count('data-name="Error of enhanced"') == 3


@pytest.mark.slow
def test_lpips_is_in_the_table_where_its_weights_are(run: Path, perceptual_weights: Path) -> None:
    text = text_of(write_report(run, views=views(2), perceptual=PerceptualWeights()).read_text())
    assert "PSNR ↑ SSIM ↑ FLIP ↓ LPIPS (AlexNet) ↓ LPIPS (VGG) ↓ enhancer" in text
    assert "view " + "render enhanced " * 5 + "seconds" in text


def test_weights_of_lpips_that_are_missing_are_named(run: Path, no_weights: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=60)
    text = text_of(write_report(run, views=views(2), console=console, perceptual=PerceptualWeights()).read_text())
    assert "LPIPS" not in text and "FLIP" in text
    for column in ("lpips_alex", "lpips_vgg"):
        assert out.getvalue().count(f"{column} is left out: the weights {no_weights}") == 1


def test_views_without_the_enhancer_are_shown_with_the_reason(run: Path) -> None:
    html = write_report(run, views=views(2, enhanced=False, problem="weights are <missing>")).read_text()
    text = text_of(html)
    assert "The enhancer failed on 2 of 2 views: weights are &lt;missing&gt;" in text
    assert "Render | Truth" in text and "Render | Enhanced" not in text
    assert "Enhanced" not in re.findall(r'data-name="([^"]+)"', html)
    assert "raw render" in text


def _large(seed: int = 0) -> HeldOutView:
    """A view at twice the size of training, whose render is closer to the truth than its photo enlarged."""
    truth = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed))
    low = resized(truth, HEIGHT // 2, WIDTH // 2)
    enlarged = resized(low, HEIGHT, WIDTH, "bicubic").clamp(0, 1)
    return HeldOutView(truth, (truth + enlarged) / 2, None, f"{seed}.jpg", low=low, enlarged=enlarged)


@pytest.mark.parametrize("enhanced", [False, True])
def test_views_above_the_size_of_training_are_shown_beside_their_photos(run: Path, enhanced: bool) -> None:
    shown = [replace(view, enhanced=view.render if enhanced else None) for view in (_large(0), _large(1))]
    html = write_report(run, views=shown).read_text()
    text = text_of(html)
    assert "Training had photos of 32 x 24 pixels; render and truth have 64 x 48" in text
    pairs = re.findall(r'data-left="([^"]+)" data-right="([^"]+)"( checked)?', html)
    assert pairs[:2] == [("Bicubic", "Render", " checked"), ("Small photo", "Render", "")]
    for name in ("Small photo", "Bicubic", "Render", "Truth", *(["Enhanced"] if enhanced else [])):
        assert html.count(f'data-name="{name}"') == 2, name
    assert html.count('pixelated" data-name="Small photo"') == html.count("image-rendering: pixelated") == 2
    metrics = [image_metrics(view.enlarged, view.truth)["psnr"] for view in shown]
    assert f"bicubic {metrics[0]:.2f}; " in text
    assert "bicubic render enhanced bicubic render enhanced" in text
    assert f"mean {sum(metrics) / 2:.2f} " in text


def test_of_many_large_views_a_few_are_shown_well(run: Path) -> None:
    html = write_report(run, views=[_large(seed) for seed in range(14)]).read_text()
    assert html.count('data-name="Small photo"') == 12 and "12 of them are shown" in html
    assert len(re.findall(r'<th scope="row">\d+\.jpg', html)) == 14


def test_plain_training_is_set_beside(run: Path) -> None:
    results = {"plain": {"psnr": 1.0}, "difix3d": {"psnr": 2.0}}
    html = write_report(run, None, views(), views(), results, "Demo").read_text()
    assert "<title>Demo</title>" in html
    assert re.findall(r'data-left="([^"]+)" data-right="([^"]+)" checked', html)[0] == ("Plain", "Enhanced")
    assert "difix3d 2.00" in text_of(html)


def test_scenes_without_held_out_views_and_tiny_pictures_have_a_page(run: Path) -> None:
    assert "No photo was held out" in text_of(write_report(run, views=[]).read_text())
    tiny = [HeldOutView(*(plain_picture(c, 8, 8) for c in ((1, 0, 0), (0, 1, 0), (0, 0, 1))), "a.jpg")]
    assert "too small for metrics" in text_of(write_report(run, views=tiny).read_text())


def test_what_a_guidance_does_is_told_in_a_line(run: Path) -> None:
    write_config(run, pipeline__guidance__rounds=0, pipeline__sparse_helps=False)
    assert "no rounds, no helps for sparse captures" in text_of(write_report(run, views=views()).read_text())
    write_config(run, pipeline__guidance__rounds=3)
    text = text_of(write_report(run, views=views()).read_text())
    assert "3 rounds" in text and "no helps" not in text


def test_the_page_names_no_address_outside(run: Path) -> None:
    write_curves(run)
    write_fixes(run)
    html = write_report(run, views=views()).read_text()
    without_pictures = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", html)
    assert re.findall(r"(?:https?:)?//[a-z0-9-]+\.", without_pictures, flags=re.I) == []
    assert re.findall(r"@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")|<script [^>]*src", without_pictures) == []


def test_portraits_stand_in_more_columns(run: Path) -> None:
    columns = {}
    for name, size in {"landscape": (48, 64), "portrait": (64, 48)}.items():
        view = HeldOutView(*(plain_picture(c, *size) for c in ((1, 0, 0), (0, 1, 0), (0, 0, 1))), "a.jpg")
        found = re.search(r"--columns: (\d)", write_report(run, views=[view]).read_text())
        assert found is not None
        columns[name] = int(found[1])
    assert columns["portrait"] > columns["landscape"]


def test_the_page_says_when_training_began(run: Path) -> None:
    write_config(run.with_name("2026-11-21_090503"))
    text = text_of(write_report(run.with_name("2026-11-21_090503")).read_text())
    assert "begun 2026-11-21 at 09:05" in text
    assert "begun" not in text_of(write_report(run).read_text())


def _write_ball(path: Path) -> None:
    """A green ball on the origin, whose lower half no photo shows."""
    ball = trimesh.creation.icosphere(3, 0.4)
    counts = np.where(np.asarray(ball.vertices)[:, 2] < 0, 0, 6)
    write_mesh(path, ball, np.tile(np.array([[20, 200, 20]], np.uint8), (len(counts), 1)), counts)


def _picture_rows(html: str) -> list[list[np.ndarray]]:
    found = re.findall(r'<figure class="pictures">(.*?)</figure>', html, flags=re.S)
    return [[decoded(address) for address in re.findall(r'src="(data:[^"]+)"', each)] for each in found]


def _shares(pictures: list[np.ndarray], channel: int) -> list[float]:
    """Share of each picture in which a channel is the strongest by far."""
    rest = [each for each in range(3) if each != channel]
    return [float((picture[..., channel] > picture[..., rest].max(-1).astype(int) + 40).mean()) for picture in pictures]


@pytest.mark.parametrize("ending", ["glb", "ply"])
def test_the_mesh_is_shown_and_coloured_by_the_photos_that_show_it(run: Path, ending: str) -> None:
    assert "Mesh" not in text_of(write_report(run, views=views()).read_text())
    _write_ball(run / f"mesh.{ending}")
    html = write_report(run, views=views()).read_text()
    text = text_of(html)
    assert f"mesh.{ending} Faces 1,280 Surface that no photo shows 4" in text
    share = re.search(r"no photo shows (\d+\.\d)%", text)
    assert share is not None and 42 < float(share[1]) < 50
    shown, counted = _picture_rows(html)
    assert len(shown) == len(counted) == 5
    assert min(_shares(shown, 1)) > 0.1 and max(_shares(shown, 0)) < 0.01
    red, blue = _shares(counted, 0), _shares(counted, 2)
    assert min(red) > 0.02 and min(blue) > 0.05 and max(_shares(counted, 1)) < 0.01  # from somewhat above


def test_a_mesh_that_has_no_counts_or_cannot_be_read_is_told(run: Path) -> None:
    _write_ball(run / "mesh.obj")
    html = write_report(run, views=views()).read_text()
    assert len(_picture_rows(html)) == 1 and "Surface that no photo shows" not in text_of(html)
    (run / "mesh.glb").write_bytes(b"nothing")
    html = write_report(run, views=views()).read_text()
    assert (
        not _picture_rows(html)
        and "The mesh is not shown: " in text_of(html)
        and "mesh.glb is no mesh" in text_of(html)
    )


def test_the_mesh_is_seen_from_where_photos_are_taken(run: Path, tmp_path: Path) -> None:
    """Of photos on one side, that side alone: the other half of the ball is red."""
    write_config(run, data=write_scene(tmp_path / "scene", count=5))
    training = read_training(run)
    assert training.dataset is not None
    cameras = [to_pinhole(training.dataset.cameras[index : index + 1]) for index in range(len(training.dataset))]
    towards = torch.stack([camera.position for camera in cameras]).mean(0).numpy()
    ball = trimesh.creation.icosphere(3, 0.3)
    ball.apply_translation(look_at_point(cameras).numpy())
    counts = np.where(np.asarray(ball.vertex_normals) @ towards > -0.2, 6, 0)
    write_mesh(run / "mesh.glb", ball, np.zeros((len(counts), 3), np.uint8), counts)
    SplatFrame.of(training.dataset._dataparser_outputs).write(frame_file(run / "mesh.glb"))
    _, counted = _picture_rows(write_report(run, views=views()).read_text())
    assert [picture.shape for picture in counted] == [(30, 40, 3)] * 5  # as the photos are
    assert min(_shares(counted, 2)) > 0.03 and max(_shares(counted, 0)) < 0.05
