"""LPIPS and FID of a benchmark, computed from its kept pictures: after its trainings, or any time later."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.progress import Progress

from difix3d_ns.errors import UserError
from difix3d_ns.evaluation.bench.bench_recipe import Recipe
from difix3d_ns.evaluation.bench.kept_pictures import kept_mask, kept_views, read_pictures
from difix3d_ns.evaluation.bench.provenance import commit
from difix3d_ns.evaluation.bench.results import Scores, gather
from difix3d_ns.evaluation.bench.rows import FID_ROWS, add_rows, finished_rows, read_rows, row_files
from difix3d_ns.io.progress import progress_bar
from difix3d_ns.metrics.perceptual import FID, NETS, LazyLPIPS, PerceptualWeights

FILLED = ("lpips", "fid")
Notify = Callable[[str], object]  # takes a sentence for people


def fill_columns(
    output: Path,
    recipe: Recipe,
    columns: Collection[str],
    weights: PerceptualWeights,
    notify: Notify,
    console: Console | None = None,
) -> None:
    """Compute what is missing of these columns of an output.

    Args:
        output: folder of the benchmark.
        recipe: whose rows count.
        columns: lpips, fid or both.
        weights: of the networks; the column of one that has none stays empty.
        notify: takes a sentence for each network without weights, and one for rows without pictures.
        console: for progress.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = finished_rows(recipe, output)
    if bare := sum(row["scene"] is not None and not kept_views(output, row) for row in rows):
        notify(f"{bare} rows have no kept pictures any more: their LPIPS and FID stay empty")
    with progress_bar(console, counted=True) as progress:
        if "lpips" in columns:
            distances = [LazyLPIPS(net, notify, weights) for net in NETS]
            if recipe.scoring.lpips_unscaled:
                distances += [LazyLPIPS(net, notify, weights, unscaled=True) for net in NETS]
            _fill_lpips(output, distances, progress, device)
        if "fid" in columns:
            _fill_fid(output, gather(recipe, rows), weights, notify, progress, device)


def _fill_lpips(output: Path, distances: Iterable[LazyLPIPS], progress: Progress, device: str) -> None:
    """Add the mean LPIPS over its pictures to each row that lacks it."""
    for distance in distances:
        lacking = [
            (file, row)
            for file in row_files(output)
            for row in read_rows(file)
            if row["metrics"].get(distance.column) is None
        ]
        if not lacking or distance.load() is None:
            continue
        for file, row in progress.track(lacking, description=distance.column):
            values = []
            for pair in kept_views(output, row).items():
                picture, truth = (one.to(device) for one in read_pictures(pair))
                values.append(distance.measure(picture, truth, kept_mask(pair[1])))
            if values and not any(map(math.isnan, values)):
                add_rows(file, [row | {"metrics": {distance.column: fmean(values)}}])


def _fill_fid(
    output: Path, scores: Scores, weights: PerceptualWeights, notify: Notify, progress: Progress, device: str
) -> None:
    """Add a row with the FID of each method that lacks it, over all pictures that its means over scenes are of.

    FID compares distributions, of which the few pictures of one scene say nothing.
    """
    lacking = [name for name in scores.recipe.methods if name not in scores.fid]
    rows_of = {scores.chosen.get(name, name): scores.pooled(name) for name in lacking}
    kept = {part: [kept_views(output, row) for row in rows] for part, rows in rows_of.items()}
    complete = [part for part, views in kept.items() if all(views) and sum(map(len, views)) > 1]
    try:
        distance = FID(weights, device=device) if complete else None
    except UserError as error:
        notify(f"fid is left out: {error}")
        return
    for part in progress.track(complete, description="fid"):
        assert distance is not None
        pairs = {picture: truth for views in kept[part] for picture, truth in views.items()}
        runs = [row["run"] for row in rows_of[part]]
        row = {
            "run": f"{hashlib.sha256(' '.join(runs).encode()).hexdigest()[:32]}/{part}",
            "runs": runs,
            "scene": None,
            "seed": None,
            "method": part,
            "evaluation": rows_of[part][0]["evaluation"],
            "metrics": {"fid": distance(read_pictures(pairs), read_pictures(pairs.values()))},
            "pictures": len(pairs),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
        }
        add_rows(output / FID_ROWS, [row])
