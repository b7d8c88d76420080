"""Writes the benchmark's figures into README.md and pages of docs, from what is on record in benchmarks/results.

python docs/quality.py [--check]
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from difix3d_ns.evaluation.bench.bench_page import (
    dates,
    distinct,
    gain_text,
    introduction,
    markdown,
    ratio_text,
    sections,
)
from difix3d_ns.evaluation.bench.bench_recipe import Recipe, load_recipe
from difix3d_ns.evaluation.bench.results import (
    Compared,
    Scores,
    compare,
    gather,
    mean_over_scenes,
    results,
)
from difix3d_ns.evaluation.bench.rows import Row, current_rows, read_rows

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "results"
ORDER = ("fox", "castle", "fountain", "sceaux", "fern", "mary_rose", "lund_door")
"""real captures of the benchmark"""
HARMFUL = (("difix3d", "plain"), ("difix3d", "sparse"), ("fix-only", "plain"), ("difix3d+", "difix3d"))
NOTICED = {"psnr": 0.05, "ssim": 0.005, "flip": 0.002}
"""Metrics that are shown, and how much of each a loss must be to be worth a line."""
HEADLINES = ("plain", "plain-tuned", "difix3d", "difix3d+")


def known(name: str) -> tuple[Recipe, list[Row], Scores]:
    """A recipe, its rows on record, and their scores."""
    recipe = load_recipe(name)
    rows = current_rows(read_rows(RECORD / f"bench-{name}.jsonl"), recipe)
    if name == "default":
        rows = [row for row in rows if row["scene"] in (*ORDER, None)]  # others may have been tried as well
    rank = {scene: number for number, scene in enumerate(ORDER)}
    rows.sort(key=lambda row: (rank.get(row["scene"], len(rank)), row["scene"] or "", row["seed"] or 0))
    return recipe, rows, gather(recipe, rows)


def headline() -> str:
    """The README's table: means over the scenes that count."""
    recipe, rows, scores = known("default")
    counted = [scene for scene in ORDER if scene not in recipe.trained_on]
    scenes = [scene for scene in counted if all(scores.of_scene(name, scene) for name in HEADLINES)]
    rows = [row for row in rows if row["scene"] in scenes]
    if not scenes:
        return "Not measured yet."
    scores = gather(recipe, rows)
    lines = ["| | PSNR | SSIM | FLIP |", "|---|---:|---:|---:|"]
    names = {
        "plain": "splatfacto",
        "plain-tuned": f"its best variant for these scenes (`{scores.chosen['plain-tuned']}`)",
        "difix3d": "difix3d",
        "difix3d+": "difix3d, enhanced",
    }
    for name in HEADLINES:
        psnr, ssim, flip = (mean_over_scenes(scores, name, metric) for metric in NOTICED)
        lines.append(f"| {names[name]} | {psnr:.2f} | {ssim:.3f} | {flip:.3f} |")
    over = _entries(recipe, scores)
    plain, tuned = over["difix3d", "plain"], over["difix3d", "plain-tuned"]
    seeds = sorted({len(scores.shared_seeds(scene)) for scene in scenes})
    by_scene = sorted((gains["psnr"].mean, scene) for scene, gains in tuned.scenes.items())
    (least, worst), (most, best) = by_scene[0], by_scene[-1]
    without = over.get(("difix3d", "sparse"))
    lacking = [f"{', '.join(missing)} not measured yet"] if (missing := [s for s in counted if s not in scenes]) else []
    lacking += [f"`{name}` is incomplete" for names in scores.left_out.values() for name in names]
    return (
        f"Held-out views of {len(scenes)} real captures ({', '.join(scenes)}), on none of which the fixer was trained, "
        f"means over scenes, {' to '.join(map(str, seeds))} seed{'s' * (seeds[-1] > 1)} each: "
        f"**{gain_text('psnr', plain.mean['psnr'])} dB** PSNR over splatfacto with the same settings, "
        f"**{gain_text('psnr', tuned.mean['psnr'])} dB** over its best variant, "
        f"in {ratio_text(plain.seconds_ratio)} times the training time. "
        f"Over that variant {worst} gains least ({least:+.2f} dB), {best} most ({most:+.2f} dB)."
        + (
            f" Of the gain over splatfacto, pseudo-views bring {gain_text('psnr', without.mean['psnr'])} dB and "
            f"{gain_text('ssim', without.mean['ssim'])} SSIM; the rest is denser initial points by the photos' "
            "depth, and a free view in front of the cameras."
            if without is not None
            else ""
        )
        + (f" Incomplete: {'; '.join(dict.fromkeys(lacking))}." if lacking else "")
        + "\n\n"
        + "\n".join(lines)
        + f"\n\n`difix3d bench`, {dates(rows)}, {_distinct(rows, 'hardware')}, {recipe.steps:,} steps; "
        "[all scenes and what brings it](docs/quality.md)."
    )


def table() -> str:
    """All scenes and differences."""
    return _all_figures("default", "difix3d bench captures/* --output DIR")


def enlarged(name: str) -> str:
    """All figures of a recipe whose truth is larger than the photos."""
    if not (RECORD / f"bench-{name}.jsonl").is_file():
        return "Not measured yet."
    return _all_figures(name, f"difix3d bench enlarged/* --output DIR --recipe {name}")


def _all_figures(name: str, command: str) -> str:
    recipe, rows, scores = known(name)
    if not rows:
        return "Not measured yet."
    found = sections(scores, _compared(recipe, scores))
    return "\n\n".join(["### All figures", introduction(scores, rows, command), markdown(found, level=3)])


def ablation() -> str:
    """One row for each thing that was changed."""
    recipe, rows, scores = known("ablation")
    if not rows:
        return "Not measured yet."
    scenes = scores.scenes
    lines = [
        "| row | " + " | ".join(scenes) + " | PSNR | SSIM | FLIP | seconds | | flags |",
        "|---|" + "---:|" * (len(scenes) + 4) + "---|---|",
    ]
    for (method, against), entry in _entries(recipe, scores).items():
        name = method if against == "difix3d" else f"{method} over {against}"
        mean = entry.mean
        cells = [gain_text("psnr", entry.scenes.get(scene, {}).get("psnr")) for scene in scenes]
        cells += [gain_text(metric, mean[metric]) for metric in NOTICED]
        cells.append("-" if entry.seconds_ratio is None else f"x {ratio_text(entry.seconds_ratio)}")
        verdicts = list(entry.verdicts)
        if abs(mean["psnr"].mean) < recipe.undecided:
            verdicts.insert(0, "undecided")
        flags = " ".join(f"--{key} {value}" for key, value in (recipe.methods[method].flags or {}).items())
        lines.append(
            f"| {name} | " + " | ".join(cells) + f" | {'; '.join(verdicts)} | {f'`{flags}`' if flags else ''} |"
        )
    missing = [name for name in recipe.methods if not scores.rows(name)]
    return (
        f"{_origin(rows, recipe)}\n\n"
        + "\n".join(lines)
        + (f"\n\nNot measured yet: {', '.join(f'`{name}`' for name in missing)}." if missing else "")
    )


def hard() -> str:
    """Scenes on which one would expect fixing to hurt."""
    recipe, rows, scores = known("hard")
    if not rows:
        return "Not measured yet."
    shown = list(recipe.methods)
    pairs = [("difix3d", "plain"), ("difix3d", "no-pseudo-views"), ("difix3d+", "difix3d")]
    entries = _entries(recipe, scores)
    lines = [
        "| scene | " + " | ".join([*shown, *(f"{method} over {against}" for method, against in pairs)]) + " |",
        "|---|" + "---:|" * (len(shown) + len(pairs)),
    ]
    for scene, measured in results(scores).items():
        means = [measured.get(name, {}).get("psnr") for name in shown]
        cells = ["-" if mean is None else f"{mean:.2f}" for mean in means]
        for pair in pairs:
            gains = entries[pair].scenes.get(scene) if pair in entries else None
            texts = [gain_text(metric, gains.get(metric)) for metric in NOTICED] if gains else ["-"]
            cells.append(", ".join(texts))
        lines.append(f"| {scene} | " + " | ".join(cells) + " |")
    return f"{_origin(rows, recipe)} PSNR, dB; differences are of PSNR, SSIM, FLIP.\n\n" + "\n".join(lines)


def exported() -> str:
    """What files hold of a training, on the mean of the scenes."""
    recipe, rows, scores = known("exported")
    if not rows:
        return "Not measured yet."
    endings = {name: method.exported or "" for name, method in recipe.methods.items()}
    lines = ["| row | file | PSNR | SSIM | FLIP |", "|---|---|---:|---:|---:|"]
    for name in recipe.methods:
        psnr, ssim, flip = (mean_over_scenes(scores, name, metric) for metric in NOTICED)
        file = f"`{endings[name]}`" if endings[name] else "-"
        lines.append(f"| `{name}` | {file} | {psnr:.2f} | {ssim:.3f} | {flip:.3f} |")
    lost = []
    for (name, _), entry in _entries(recipe, scores).items():
        each = ", ".join(f"{scene} {gains['psnr'].mean:+.3f}" for scene, gains in entry.scenes.items())
        lost.append(f"`{endings[name]}` {each}")
    return (
        f"{_origin(rows, recipe)} Means over {', '.join(scores.scenes)}.\n\n"
        + "\n".join(lines)
        + f"\n\nPSNR over the training's own render, dB: {'; '.join(lost)}."
    )


def harm() -> str:
    """Where fixing costs something on real captures."""
    recipe, rows, scores = known("default")
    entries = _entries(recipe, scores)
    lines = []
    for pair in HARMFUL:
        for scene, gains in entries[pair].scenes.items() if pair in entries else ():
            lost = [metric for metric, least in NOTICED.items() if metric in gains and gains[metric].mean < -least]
            if lost:
                losses = ", ".join(f"{metric.upper()} {gain_text(metric, gains[metric])}" for metric in lost)
                lines.append(f"- **{scene}**: `{pair[0]}` over `{pair[1]}`: {losses}")
    return "\n".join(lines) or ("None on record." if rows else "Not measured yet.")


def kills() -> str:
    """What became of trainings that were killed."""
    lines = ["| method | killed | same bits | at, share of the time | went on at step |", "|---|---:|---:|---|---|"]
    for method, rows in _by_method("kill").items():
        same = sum(row["passed"] for row in rows)
        shares = ", ".join(f"{row['share']:.2f}" for row in rows)
        steps = ", ".join("start" if row["went_on_at"] is None else str(row["went_on_at"]) for row in rows)
        lines.append(f"| `{method}` | {len(rows)} | {same} | {shares} | {steps} |")
    return _reliability("kill", lines)


def full_disks() -> str:
    """What became of trainings whose disk was full."""
    lines = [
        "| method | disk, MB | ended with | whole checkpoints | went on at step | same bits |",
        "|---|---:|---:|---:|---|---|",
    ]
    for method, rows in _by_method("disk").items():
        for row in rows:
            start = "start" if row["went_on_at"] is None else str(row["went_on_at"])
            same = "yes" if row["passed"] else f"no: {row['difference'] or row['message']}"
            size = f"{row['disk_bytes'] / 1e6:.1f}"
            lines.append(f"| `{method}` | {size} | {row['status']} | {len(row['kept'])} | {start} | {same} |")
    return _reliability("disk", lines)


def bad_inputs() -> str:
    """Messages that bad inputs got, one item each: a phone has no room for a table of them."""
    rows = _trials("inputs")
    lines = []
    for row in rows:
        verdict = "" if row["passed"] else " **(failed)**"
        message = row["message"] if len(row["message"]) <= 240 else row["message"][:240].rsplit(" ", 1)[0] + " ..."
        if row["status"] and not message.startswith(("Error", "Parsing", "Unrecognized")):
            message = f"Error: {message}"
        lines.append(f"- **{row['name']}**{verdict}: `{message.replace('`', '')}`")
    passed = sum(row["passed"] for row in rows)
    return _reliability("inputs", [f"{passed} of {len(rows)} passed.", "", *lines])


def viewers() -> str:
    """What two tabs cost a training."""
    lines = ["| tabs | seconds | steps lost | frames, while training | after it | memory before, after |"]
    lines.append("|---:|---:|---:|---|---|---|")
    for row in _trials("viewers"):
        frames = [" + ".join(map(str, row[key])) for key in ("frames", "frames_after")]
        memory = f"{row['mib_before']:.0f}, {row['mib_after']:.0f} MiB"
        lost = f"{row['lost']} of {row['steps']}"
        lines.append(f"| {row['tabs']} | {row['on_for']:g} | {lost} | {' | '.join(frames)} | {memory} |")
    return _reliability("viewers", lines)


def _trials(part: str) -> list[Row]:
    """Rows of a part of benchmarks/reliability.py; of trials that were repeated the last."""
    path = RECORD / "reliability.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    keys = ("method", "seed", "number", "name")
    return list({tuple(row.get(key) for key in keys): row for row in rows if row["part"] == part}.values())


def _by_method(part: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in _trials(part):
        found.setdefault(row["method"], []).append(row)
    return found


def _reliability(part: str, lines: Sequence[str]) -> str:
    """A part's table below when, where and by which commands it was made."""
    rows = _trials(part)
    if not rows:
        return "Not run yet."
    words = "\n".join(dict.fromkeys(row["command"] for row in rows))
    origin = f"{dates(rows)}, {_distinct(rows, 'hardware')}, commit {_distinct(rows, 'commit')}:"
    return "\n".join([origin, "", "```bash", words, "```", "", *lines])


BLOCKS: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"headline": headline},
    ROOT / "docs" / "quality.md": {
        "table": table,
        "ablation": ablation,
        "hard": hard,
        "exported": exported,
        "harm": harm,
    },
    ROOT / "docs" / "3dsr.md": {
        name: functools.partial(enlarged, name) for name in ("3dsr", "3dsr-own-size", "3dsr-ablation")
    },
    ROOT / "docs" / "reliability.md": {
        "kills": kills,
        "disk": full_disks,
        "inputs": bad_inputs,
        "viewers": viewers,
    },
}
"""Page -> name of a block -> what belongs there, between <!-- bench:NAME --> and <!-- /bench -->."""


def filled(path: Path) -> str:
    """The page with its blocks as they should be."""
    text = path.read_text(encoding="utf-8")
    for name, make in BLOCKS[path].items():
        block = rf"(<!-- bench:{name} -->\n).*?(<!-- /bench -->)"
        made = make()
        text, count = re.subn(block, lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text, flags=re.S)
        assert count == 1, f"{path} has {count} blocks {name}"
    return text


def _compared(recipe: Recipe, scores: Scores) -> list[Compared]:
    return [entry for comparison in recipe.compare if (entry := compare(scores, comparison)) is not None]


def _entries(recipe: Recipe, scores: Scores) -> dict[tuple[str, str], Compared]:
    return {entry.methods: entry for entry in _compared(recipe, scores)}


def _origin(rows: Sequence[Row], recipe: Recipe) -> str:
    rows = [row for row in rows if row["scene"] is not None]
    seeds = sorted({row["seed"] for row in rows})
    return (
        f"{dates(rows)}, {_distinct(rows, 'hardware')}, commit {_distinct(rows, 'commit')}, {recipe.steps:,} steps, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}."
    )


def _distinct(rows: Sequence[Row], key: str) -> str:
    return distinct(row[key] for row in rows)


def main() -> None:
    """Write the pages, or with --check say which are out of date."""
    for path in BLOCKS:
        text = filled(path)
        if "--check" in sys.argv[1:]:
            if path.read_text(encoding="utf-8") != text:
                sys.exit(f"{path} is out of date: run `make docs`")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
