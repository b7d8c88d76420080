"""Means, spreads, the best of several methods and paired differences, from finished jobs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from difix3d_ns.evaluation.bench.bench_page import markdown_page, show_pictures
from difix3d_ns.evaluation.bench.bench_recipe import Comparison, Gap, Method, Recipe
from difix3d_ns.evaluation.bench.job import Job, Scene
from difix3d_ns.evaluation.bench.paired_gains import Gain
from difix3d_ns.evaluation.bench.results import (
    Scores,
    compare,
    gather,
    mean_and_spread,
    mean_over_scenes,
    results,
)
from difix3d_ns.evaluation.bench.rows import Row
from difix3d_ns.evaluation.measures import corrected_psnr
from difix3d_ns.metrics.psnr import psnr
from tests.unit.bench_states import finish

RECIPE = Recipe(
    {
        "plain": Method("plain", {}, checkpoints=2),
        "early": Method("early", of="plain", earlier=True),
        "dropout": Method("dropout", {}),
        "tuned": Method("tuned", best_of=("plain", "early", "dropout")),
        "ours": Method("ours", {}),
        "ours+": Method("ours+", of="ours", enhanced=True),
    },
    seeds=(0, 1),
    steps=100,
    trained_on=("seen",),
)
PSNR = {
    # scene -> part -> by seed
    "fox": {"plain": (20, 21), "early@50": (19, 19), "dropout": (22, 22), "ours": (22, 24), "ours+": (23, 25)},
    "fern": {"plain": (26, 26), "early@50": (27, 27), "dropout": (25.5, 25.5), "ours": (26, 26), "ours+": (26, 26)},
    "seen": {"plain": (10, 10), "early@50": (90, 90), "dropout": (10, 10), "ours": (50, 50), "ours+": (50, 50)},
}


def _rows(folder: Path, psnr: dict[str, dict[str, tuple[float, ...]]] = PSNR, **others: Any) -> list[Row]:
    rows = []
    for scene, parts in psnr.items():
        (folder / scene).mkdir(exist_ok=True)
        for training in RECIPE.trainings():
            names = [name for name in parts if RECIPE.methods[name.partition("@")[0]].training == training]
            for seed in range(max((len(parts[name]) for name in names), default=0)):
                job = Job(Scene(folder / scene, scene), training, seed)
                rows += finish(job, RECIPE, folder, {name: parts[name][seed] for name in names}, **others)
    return rows


def _scores(folder: Path, psnr: dict[str, dict[str, tuple[float, ...]]] = PSNR, **others: Any) -> Scores:
    return gather(RECIPE, _rows(folder, psnr, **others))


def _text(scores: Scores, rows: list[Row]) -> str:
    return markdown_page(scores, [], rows, "difix3d bench")


def test_a_further_seed_of_one_method_does_not_move_the_mean_over_scenes(tmp_path: Path) -> None:
    more = PSNR | {"fox": PSNR["fox"] | {"ours": (22, 24, 90), "ours+": (23, 25, 91)}}
    scores = _scores(tmp_path, psnr=more)
    assert [scores.shared_seeds(scene) for scene in ("fox", "fern")] == [[0, 1], [0, 1]]
    assert mean_over_scenes(scores, "ours", "psnr") == (23 + 26) / 2
    assert results(scores)["fox"]["ours"]["psnr"] == pytest.approx((22 + 24 + 90) / 3)
    assert "of each the seeds that all methods have" in _text(scores, [])


def test_a_scene_without_a_shared_seed_still_counts(tmp_path: Path) -> None:
    scores = _scores(tmp_path)
    del scores.parts["plain"]["fern", 0], scores.parts["ours"]["fern", 1]
    assert scores.shared_seeds("fern") == [0, 1]
    assert mean_over_scenes(scores, "ours", "psnr") == (23 + 26) / 2


def test_means_and_spreads_over_seeds(tmp_path: Path) -> None:
    table = results(_scores(tmp_path))
    assert list(table) == ["fox", "fern", "seen"]
    assert table["fox"]["plain"]["psnr"] == 20.5
    assert table["fox"]["plain"]["psnr_std"] == pytest.approx(math.sqrt(0.5))
    assert table["fox"]["plain"]["lpips_vgg"] is None and table["fox"]["plain"]["lpips_vgg_std"] is None
    assert table["fox"]["plain"]["gaussians"] == 1000
    keys = {"psnr", "ssim", "flip", "lpips_alex", "lpips_vgg", "fid", "seconds", "gaussians", "peak_mb"}
    assert all(set(row) == keys | {f"{key}_std" for key in keys} for rows in table.values() for row in rows.values())


def test_a_metric_that_one_seed_lacks_is_not_made_up() -> None:
    assert mean_and_spread([1.0, None]) == (None, None)
    assert mean_and_spread([]) == (None, None)
    assert mean_and_spread([2.0]) == (2.0, None)  # a single seed has no spread


def test_the_best_variant_is_one_for_all_scenes_that_count(tmp_path: Path) -> None:
    scores = _scores(tmp_path)
    # by scene it would be dropout (22) and early (27): means are 23.25, 23 and 23.75
    assert scores.chosen == {"early": "early@50", "tuned": "dropout"}
    assert scores.counted == ["fox", "fern"]
    table = results(scores)
    for scene in scores.scenes:
        assert table[scene]["tuned"] == table[scene]["dropout"]
        assert table[scene]["early"]["psnr"] == PSNR[scene]["early@50"][0]


def test_a_variant_that_lacks_a_scene_cannot_be_chosen(tmp_path: Path) -> None:
    short = PSNR | {"fern": {name: seeds for name, seeds in PSNR["fern"].items() if name != "dropout"}}
    scores = gather(RECIPE, _rows(tmp_path, short))
    assert scores.chosen["tuned"] == "plain"
    assert scores.left_out == {"tuned": ["dropout"]}
    assert "`tuned` was chosen without `dropout`" in _text(scores, _rows(tmp_path, short))


@pytest.mark.slow
def test_a_further_seed_of_one_variant_leaves_none_out(tmp_path: Path) -> None:
    more = PSNR | {"fox": PSNR["fox"] | {"plain": (20, 21, 90), "early@50": (19, 19, 90)}}
    scores = _scores(tmp_path, psnr=more)
    assert scores.chosen == {"early": "early@50", "tuned": "dropout"} and not scores.left_out
    assert "3 seeds of" not in _text(_scores(tmp_path), [])
    fox = _text(scores, []).partition("## fox")[2].partition("##")[0]
    assert "2 seeds, 3 of `plain`, `early`." in fox


def test_variants_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    scores = _scores(tmp_path)
    for key in (("fox", 0), ("fern", 0)):
        del scores.parts["dropout"][key]
    for name in ("plain", "early@50"):
        del scores.parts[name]["fox", 1]
    again = gather(RECIPE, [row for rows in scores.parts.values() for row in rows.values()])
    assert again.left_out == {"tuned": ["dropout"]} and again.chosen["tuned"] == "plain"


def test_paired_differences(tmp_path: Path) -> None:
    scores = _scores(tmp_path)
    found = compare(scores, Comparison("ours", "plain", {"psnr": 0.8, "ssim": 0.02, "lpips_vgg": 0}))
    assert found is not None
    assert found.scenes["fox"]["psnr"].mean == 2.5  # (22 - 20 + 24 - 21) / 2
    assert found.scenes["fox"]["psnr"].error == pytest.approx(0.5)  # of 2 and 3
    assert found.scenes["fern"]["psnr"].mean == 0
    assert found.scenes["seen"]["psnr"].mean == 40  # listed, not counted
    assert found.mean["psnr"].mean == 1.25
    assert found.mean["psnr"].error == pytest.approx(1.25)  # of 2.5 and 0
    assert found.mean["psnr"].count == 2
    assert found.seconds_ratio == Gain(1.0, 0.0, 2)
    assert found.verdicts == [
        "psnr +0.8: met, within its standard error",
        "ssim +0.02: missed",
        "lpips_vgg +0: not measured",
    ]


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (1.3, "psnr +1.3: missed, within its standard error, within 0.3 dB: needs 3 seeds"),
        (1.2, "psnr +1.2: met, within its standard error, within 0.3 dB: needs 3 seeds"),
        (0.9, "psnr +0.9: met, within its standard error"),
        (-0.1, "psnr -0.1: met"),
        (2.6, "psnr +2.6: missed"),
    ],
)
def test_two_seeds_decide_nothing_near_a_bar(bar: float, verdict: str, tmp_path: Path) -> None:
    found = compare(_scores(tmp_path), Comparison("ours", "plain", {"psnr": bar}))
    assert found is not None and found.verdicts == [verdict]


def test_less_flip_is_a_gain_and_the_worst_scene_is_named(tmp_path: Path) -> None:
    parts = {scene: {name: seeds for name, seeds in p.items() if name != "ours"} for scene, p in PSNR.items()}
    rows = _rows(tmp_path, parts)
    worse = {scene: {"ours": (seeds["plain"][0] - 1, seeds["plain"][1] - 0.5)} for scene, seeds in PSNR.items()}
    rows += _rows(tmp_path, {"fern": worse["fern"]}, flip=0.15, seconds=20.0)
    rows += [row for row in _rows(tmp_path, {"fox": PSNR["fox"]}, flip=0.26) if row["method"] == "ours"]
    scores = gather(RECIPE, [row for row in rows if row["method"] != "ours+"])
    found = compare(scores, Comparison("ours", "plain", {"flip": 0.0}, worst=-0.1, time=1.25))
    assert found is not None
    assert found.scenes["fern"]["flip"].mean == pytest.approx(0.05)
    assert found.scenes["fern"]["psnr"].mean == pytest.approx(-0.75)
    assert found.scenes["fern"]["psnr"].error == pytest.approx(0.25)
    assert found.verdicts[0] == "flip +0: missed, within its standard error"  # 0.05 better and 0.06 worse
    assert found.verdicts[1] == "no scene below -0.1 dB beyond its standard error: missed on fern"
    assert found.seconds_ratio == Gain(1.5, 0.5, 2)  # 1 and 2
    assert found.verdicts[2] == "at most 1.25x the time: missed, within its standard error"


SHARED = {
    "box-0": {"plain": (20, 20), "dropout": (24, 24), "ours": (21, 22), "ours+": (0, 0)},
    "box-1": {"plain": (20, 20), "dropout": (22, 22), "ours": (21, 21), "ours+": (0, 0)},
    "castle": {"plain": (20, 20), "dropout": (20.1, 20.1), "ours": (21, 21), "ours+": (0, 0)},
    "fox": {"plain": (20, 20), "dropout": (21, 21), "ours": (20, 20), "ours+": (0, 0)},
}
GAP = Gap("dropout", "plain")


def test_gains_as_shares_of_a_gap(tmp_path: Path) -> None:
    scores = _scores(tmp_path, SHARED)
    found = compare(scores, Comparison("ours", "plain", {"psnr": 0}, share_of=GAP, shares={"psnr": 0.3, "flip": 0.3}))
    assert found is not None and found.shares is not None
    shares = found.shares
    assert {scene: each["psnr"] for scene, each in shares.scenes.items()} == pytest.approx(
        {"box-0": 1.5 / 4, "box-1": 0.5, "castle": 10, "fox": 0}
    )
    assert shares.undecided == ["castle"] and shares.gaps["castle"] == pytest.approx(0.1)
    assert shares.mean["psnr"].mean == pytest.approx((0.375 + 0.5 + 0) / 3)
    assert shares.mean["psnr"].error == pytest.approx(0.1502, abs=1e-4)
    assert "flip" not in shares.mean  # the gap is nothing there: no share of it
    assert found.counted == ["box-0", "box-1", "fox"] and found.mean["psnr"].count == 3
    assert found.verdicts == [
        "psnr +0: met",
        "psnr 30% of the gap: missed, within its standard error",
        "flip 30% of the gap: not measured",
    ]
    text = markdown_page(scores, [found], [], "difix3d bench")
    assert "As shares of what dropout gains over plain: Not counted, the gap is too small: castle." in text
    assert "| scene | gap, dB | PSNR |" in text and "| box-0 | +4.00 | 38% |" in text
    assert "| castle (not counted) | +0.10 | 1000% |" in text and "| **mean** |  | **29% ± 15%** |" in text


def test_a_bar_may_be_for_some_scenes(tmp_path: Path) -> None:
    scores = _scores(tmp_path, SHARED)
    comparison = Comparison("ours", "plain", share_of=GAP, shares={"psnr": 0.3}, scenes=("box-*",))
    found = compare(scores, comparison)
    assert found is not None and found.shares is not None and found.counted == ["box-0", "box-1"]
    assert found.verdicts == ["psnr 30% of the gap: met"] and found.mean["psnr"].mean == pytest.approx(1.25)
    assert found.shares.mean["psnr"] == Gain(0.4375, pytest.approx(0.0625), 2)
    assert list(found.scenes) == list(found.shares.scenes) == ["box-0", "box-1"]
    assert "### ours over plain: box-*" in markdown_page(scores, [found], [], "difix3d bench")
    assert compare(scores, Comparison("ours", "plain", scenes=("sphere",))) is None
    assert compare(scores, Comparison("ours", "plain", scenes=("castle",), share_of=GAP)) is None  # too small a gap


def test_detail_has_columns_where_it_was_measured(tmp_path: Path) -> None:
    rows = _rows(tmp_path, high_pass=0.5, low_psnr=41.0)
    rows = [row | {"metrics": row["metrics"] | {"high_pass": 0.7}} if row["method"] == "ours" else row for row in rows]
    scores = gather(RECIPE, rows)
    assert results(scores)["fox"]["ours"]["high_pass"] == pytest.approx(0.7)
    found = compare(scores, Comparison("ours", "plain", {"high_pass": 0.1}))
    assert found is not None and found.verdicts == ["high_pass +0.1: met"]
    assert found.mean["high_pass"].mean == pytest.approx(0.2) and found.mean["low_psnr"].mean == 0
    assert "| detail, correlation ↑ | PSNR to the small photo ↑ |" in _text(scores, rows)


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert compare(gather(RECIPE, []), Comparison("ours", "plain")) is None
    assert results(gather(RECIPE, [])) == {}


def test_the_page_tells_what_was_chosen_where_from_and_what_is_undecided(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    scores = gather(RECIPE, rows)
    found = [compare(scores, Comparison(*pair)) for pair in (("ours", "tuned"), ("plain", "plain"))]
    compared = [entry for entry in found if entry is not None]
    text = markdown_page(scores, compared, rows, "difix3d bench fox fern seen")
    assert "`difix3d bench fox fern seen`" in text
    assert "2026-11-21, 2 CPU cores, commit 0123456789; 100 steps, seeds 0, 1, pictures 480x320." in text
    assert "- `tuned` is `dropout`: the best mean PSNR on held-out views over 2 scenes" in text
    assert "Not counted, weights in the package were trained on them: seen." in text
    assert "## seen (not counted)" in text
    fox = text[text.index("## fox") : text.index("## fern")]
    assert "| plain | 20.50 ± 0.71 | 0.800 ± 0.000 | 0.200 ± 0.000 | 10 ± 0 | 1,000 ± 0 | 900 ± 0 |" in fox
    assert "LPIPS" not in fox  # nobody has any
    assert "| ours+ | **24.00 ± 1.41** |" in fox
    assert "### ours over tuned (dropout)" in text
    assert "| fox | +1.00 ± 1.00 | +0.000 ± 0.000 | +0.000 ± 0.000 |" in text
    assert "| **mean over 2** | **+0.75 ± 0.25** |" in text
    assert text.count("PSNR is undecided: within 0.15 dB") == 1


def test_no_column_is_no_picture(tmp_path: Path) -> None:
    """All methods of the pictures have failed, others have not."""
    assert show_pictures(_scores(tmp_path), tmp_path, []) == {}


def test_colour_correction_forgives_exposure_and_nothing_else() -> None:
    truth = torch.rand(24, 32, 3, generator=torch.Generator().manual_seed(0))
    darker = 0.7 * truth + 0.02
    assert corrected_psnr(darker, truth) > 60 > 20 > psnr(darker, truth)
    grey = truth.mean(-1, keepdim=True).expand(-1, -1, 3).contiguous()
    for shown, there in ((0.8 * grey, grey), (grey * 0 + 0.3, truth), (grey * 0, truth)):
        assert corrected_psnr(shown, there) >= psnr(shown, there)
    moved = truth.roll(1, 0)
    assert corrected_psnr(moved, truth) < 15
