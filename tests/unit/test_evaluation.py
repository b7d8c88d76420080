"""Metrics, tables and side-by-side pictures."""

from __future__ import annotations

import copy
import io
import itertools
import math
import os
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from difix3d_ns.enhance.enhancer_config import EnhancerConfig
from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.comparison import close_ups, write_comparison
from difix3d_ns.evaluation.runs import evaluate
from difix3d_ns.evaluation.table import metric_table
from difix3d_ns.methods.difix3d import difix3d_splatfacto
from difix3d_ns.metrics.image import image_metrics, mean_metrics


@pytest.mark.slow
def test_no_environment_variable_changes_a_measurement(tmp_path, monkeypatch):
    config = copy.deepcopy(difix3d_splatfacto.config)
    seen = []

    def eval_setup(path, test_mode, update_config_callback):
        seen.append(update_config_callback(config))
        raise UserError("no pipeline in this test")

    monkeypatch.setitem(sys.modules, "nerfstudio.utils.eval_utils", SimpleNamespace(eval_setup=eval_setup))
    monkeypatch.setenv("DIFIX3D_ENHANCE", "off")
    before = dict(os.environ)
    for strength, weights, expected in ((None, None, (0.5, "own")), (0.0, "other", (0.0, "other"))):
        config.pipeline.enhancer = EnhancerConfig(mode="rgb", weights="own")
        with pytest.raises(UserError, match="no pipeline"):
            evaluate(tmp_path / "config.yml", True, strength, 30, weights)
        enhancer = seen.pop().pipeline.enhancer
        assert (enhancer.strength, enhancer.weights) == expected
        assert enhancer.mode == "key" and not enhancer.from_environment and config.load_step == 30
    assert dict(os.environ) == before


def picture(height=40, width=56) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, (x * 9).sin() * 0.5 + 0.5], -1)


def test_equal_pictures_are_perfect():
    metrics = image_metrics(picture(), picture())
    assert metrics["psnr"] == pytest.approx(100)
    assert metrics["ssim"] == pytest.approx(1, abs=1e-6)
    assert metrics["flip"] == pytest.approx(0, abs=1e-6)
    assert all(type(value) is float for value in metrics.values())


def test_psnr_of_a_known_error():
    truth = torch.full((16, 16, 3), 0.5)
    assert image_metrics(truth + 0.1, truth)["psnr"] == pytest.approx(20, abs=1e-4)
    assert image_metrics(truth + 0.9, truth)["psnr"] == pytest.approx(-20 * math.log10(0.5), abs=1e-4)  # clamped to 1


def test_more_noise_is_worse_in_every_metric():
    noise = torch.randn(40, 56, 3, generator=torch.Generator().manual_seed(0))
    results = [image_metrics(picture() + s * noise, picture()) for s in (0.01, 0.05, 0.2)]
    for better, worse in itertools.pairwise(results):
        assert better["psnr"] > worse["psnr"]
        assert better["ssim"] > worse["ssim"]
        assert better["flip"] < worse["flip"]
    assert 0 < results[-1]["flip"] < 1


def test_ssim_is_that_of_splatfacto():
    from pytorch_msssim import SSIM

    a, b = picture(), (picture() * 0.8 + 0.1)
    theirs = SSIM(data_range=1.0, size_average=True, channel=3)(a.permute(2, 0, 1)[None], b.permute(2, 0, 1)[None])
    assert image_metrics(a, b)["ssim"] == pytest.approx(float(theirs), abs=1e-6)


def test_any_device_dtype_and_stride_are_taken():
    a = picture().double().permute(1, 0, 2).requires_grad_()
    assert image_metrics(a, a)["psnr"] == pytest.approx(100)


def test_pictures_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="one size"):
        image_metrics(picture(40, 50), picture(50, 40))
    with pytest.raises(ValueError, match="11 pixels"):
        image_metrics(picture(8, 50), picture(8, 50))
    broken = picture()
    broken[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        image_metrics(broken, picture())


def test_means_over_pictures():
    assert mean_metrics([{"psnr": 20.0, "ssim": 0.5}, {"psnr": 30.0, "ssim": 0.7}]) == pytest.approx(
        {"psnr": 25.0, "ssim": 0.6}
    )
    for wrong in ([], [{"psnr": 1.0}, {"ssim": 1.0}]):
        with pytest.raises(ValueError, match="same metrics"):
            mean_metrics(wrong)


RESULTS = {
    "plain": {"psnr": 22.481, "ssim": 0.801, "flip": 0.211, "seconds": 300.0},
    "difix3d": {"psnr": 23.4, "ssim": 0.82, "flip": 0.199, "seconds": 420.0},
    "difix3d+": {"psnr": 23.4, "ssim": 0.81, "flip": None, "seconds": 421.0},
}


def test_markdown_marks_the_best_of_every_column():
    lines = metric_table(RESULTS).markdown().splitlines()
    assert lines[0] == "| method | PSNR ↑ | SSIM ↑ | FLIP ↓ | seconds ↓ |"
    assert lines[1] == "|---|---:|---:|---:|---:|"
    assert lines[2] == "| plain | 22.48 | 0.801 | 0.211 | 300 |"  # nobody wins by being fast
    assert lines[3] == "| difix3d | **23.40** | **0.820** | **0.199** | 420 |"
    assert lines[4] == "| difix3d+ | **23.40** | 0.810 | - | 421 |"
    assert "**" not in metric_table({"plain": RESULTS["plain"]}).markdown()


def test_a_row_that_lacks_scenes_says_so_and_wins_nothing():
    rows = {"a|b": {"psnr": 20.0, "psnr_std": 0.5, "own": 1.0}, "short": {"psnr": 30.0}, "c": {"psnr": 19.0}}
    lines = metric_table(rows, {"a|b": 0, "short": 2}).markdown().splitlines()
    assert lines[0] == "| method | PSNR ↑ | own |"
    assert lines[2:] == [
        "| a\\|b | **20.00 ± 0.50** | 1.000 |",
        "| short (2 scenes missing) | 30.00 | - |",
        "| c | 19.00 | - |",
    ]


def test_the_terminal_table_holds_every_value():
    out = io.StringIO()
    Console(file=out, width=100).print(metric_table(RESULTS | {"[demo]": {}}).terminal())
    text = out.getvalue()
    for expected in ("difix3d+", "22.48", "0.820", "421", "FLIP ↓", "[demo]"):
        assert expected in text
    assert re.search(r"difix3d\+.*23\.40.*0\.810.* - .*421", text)


def test_a_sheet_of_pictures_with_captions(tmp_path):
    colours = [torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), torch.tensor([0, 0, 1.0])]
    landscape = [c.expand(20, 60, 3) for c in colours]
    portrait = [c.expand(50, 30, 3) for c in colours]
    path = tmp_path / "new" / "sheet.png"
    write_comparison(path, [landscape, portrait], ["plain", "fixed", "truth"])
    sheet = np.asarray(Image.open(path)).astype(int)
    assert sheet.shape[1] == 3 * 60 + 2 * 4
    header = sheet.shape[0] - 20 - 50 - 4
    assert header > 11
    for c in range(3):
        left = c * 64
        assert (sheet[header : header + 20, left : left + 60] == (colours[c] * 255).int().numpy()).all()
        below = sheet[header + 24 :, left + 15 : left + 45]
        assert (below == (colours[c] * 255).int().numpy()).all()
        assert (sheet[:header, left : left + 60] < 128).any()  # letters


def test_a_sheet_can_be_made_smaller_and_values_are_rounded(tmp_path):
    write_comparison(tmp_path / "a.png", [[torch.full((40, 80, 3), 0.5019)] * 2], ["a", "b"], width=40)
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape[1] == 84
    assert (sheet[-20:, :40] == 128).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "at least one"), ([[picture()]], "row 0"), ([[picture(), picture(41)]], "row 0 differ")],
)
def test_a_sheet_that_makes_no_sense_is_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_comparison(tmp_path / "a.png", rows, ["a", "b"])


def test_close_ups_are_where_the_difference_is() -> None:
    truth = torch.rand(80, 120, 3, generator=torch.Generator().manual_seed(0))
    rows = []
    for strength in (0.1, 0.5):
        plain, ours = truth.clone(), truth.clone()
        plain[40:60, 70:100] += strength
        ours[:10, :10] += 0.9  # where ours is worse
        rows.append([plain, truth, ours, truth])
    (cut,) = close_ups(rows, count=1)
    assert cut[0].shape == (22, 34, 3)
    off = (cut[0] - cut[-1]).abs().mean(-1)
    assert float((off > 0.4).float().mean()) > 0.7  # of the view with the larger difference, around it
    assert not (cut[2] - cut[3]).any()
