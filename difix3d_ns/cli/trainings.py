"""Commands that compare trainings: report, video, benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from difix3d_ns.errors import UserError
from difix3d_ns.io import recipes

_PROTOCOL = (
    f"a paper's protocol instead of a recipe: {', '.join(recipes.shipped('protocol'))}, or the path of a YAML file. It "
    "sets split, masks, sizes, metrics and methods, and prints the published rows."
)


def report(
    training: Annotated[Path, tyro.conf.Positional],
    output: Path | None = None,
    perceptual_weights: tuple[Path, ...] = (),
    fetch_weights: bool = False,
) -> None:
    """Write a page about a training, finished or not: pictures to compare, curves, metrics, time, settings.

    It is one HTML file that opens without a network. Nothing else is written.

    Args:
        training: its folder (outputs/SCENE/METHOD/TIME), its config.yml, or a folder above exactly one.
        output: the page (unset: report.html in the training's folder).
        perceptual_weights: weight files of LPIPS, with the file names used in torch's hub folder (unset: those there).
        fetch_weights: download the weights of LPIPS (AlexNet 233 MiB, VGG16 528 MiB) if they are missing.
    """
    from difix3d_ns.evaluation.report import write_report
    from difix3d_ns.metrics.perceptual import PerceptualWeights, check_files

    check_files(perceptual_weights, "--perceptual-weights")
    page = write_report(training, output, perceptual=PerceptualWeights(perceptual_weights, fetch_weights))
    print(f"Open in a browser: {page}")


def compare(
    first: Annotated[Path, tyro.conf.Positional],
    second: Annotated[Path, tyro.conf.Positional],
    output: Path,
    output_name: str = "rgb",
    seconds: float = 8.0,
    force: bool = False,
) -> None:
    """Show two trainings of one scene in a video, on either side of a line that moves, and measure both.

    Args:
        first: config.yml of a training, shown at the left.
        second: config.yml of another.
        output: an .mp4 file.
        output_name: what is shown: rgb, enhanced or another output.
        seconds: length of the video.
        force: overwrite an existing file.
    """
    from difix3d_ns.apps.compare_trainings import compare as write

    print(write(first, second, output, output_name, seconds, force).describe())


def bench(
    data: Annotated[tuple[Path, ...], tyro.conf.Positional] = (),
    output: Path | None = None,
    seeds: tuple[int, ...] = (),
    methods: tuple[str, ...] = (),
    recipe: str | None = None,
    protocol: Annotated[str | None, tyro.conf.arg(help=_PROTOCOL)] = None,
    executor: Literal["local", "ray"] = "local",
    address: str | None = None,
    changed: Literal["refuse", "redo", "keep"] = "refuse",
    record: Path | None = None,
    fill: tuple[str, ...] = (),
    perceptual_weights: tuple[Path, ...] = (),
    fetch_weights: bool = False,
) -> None:
    """Compare methods on held-out views of captures: plain splatfacto, its variants, and pseudo-views.

    Started again it goes on where it stopped. LPIPS and FID need weights that are not part of the package; without
    them they stay empty, and --fill lpips fid OUTPUT computes them later, without training.

    Args:
        data: scenes with evaluation views; with --protocol the folder of its data set.
        output: folder for results.json, table.md, report.html, pictures and all trainings.
        seeds: seeds of the trainings (unset: the recipe's).
        methods: methods of the recipe (unset: all).
        recipe: a recipe of configs/bench by name (default, ablation, smoke) or the path of a YAML file (unset:
            default).
        protocol: a paper's protocol instead of a recipe.
        executor: local, or ray to run the scenes on a cluster (pip install 'difix3d-ns[ray]').
        address: address of a Ray cluster (unset: one is started on this machine).
        changed: what to do with finished runs whose recipe, scene or code has changed since: refuse to go on, redo
            them, or keep those of which only the code has changed.
        record: folder in which the rows of every finished run are kept (unset: benchmarks/results of the checkout).
        fill: lpips, fid or both, and the folder of a finished benchmark, whose pictures they are computed from. Give
            the --recipe or --protocol it was made with.
        perceptual_weights: weight files of LPIPS and FID, with the file names used in torch's hub folder (unset: those
            there).
        fetch_weights: download the weights of LPIPS (AlexNet 233 MiB, VGG16 528 MiB) and FID (Inception 91 MiB) that
            are missing.
    """
    from difix3d_ns.evaluation.bench.bench_run import bench as run
    from difix3d_ns.evaluation.bench.perceptual_columns import FILLED
    from difix3d_ns.metrics.perceptual import PerceptualWeights, check_files

    check_files(perceptual_weights, "--perceptual-weights")
    columns = [name for name in FILLED if name in fill]
    folders = [Path(word) for word in fill if word not in columns] + ([output] if output else [])
    if fill and (data or not columns or len(folders) != 1):
        raise UserError("--fill takes lpips, fid or both, then one folder: difix3d bench --fill lpips fid OUTPUT")
    if not folders:
        raise UserError("--output is missing: difix3d bench SCENE... --output DIR")
    if recipe is not None and protocol is not None:
        raise UserError(f"--protocol {protocol} brings methods and settings of its own: leave --recipe out")
    weights = PerceptualWeights(perceptual_weights, fetch_weights)
    run(
        data,
        folders[0],
        seeds,
        methods,
        recipe or "default",
        executor,
        address,
        changed,
        record,
        weights,
        columns,
        protocol=protocol,
    )
