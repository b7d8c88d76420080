"""A benchmark's results in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from difix3d_ns.evaluation.bench.job import State
from difix3d_ns.evaluation.bench.results import (
    COMPARED,
    LOWER_IS_BETTER,
    METRICS,
    Compared,
    Gain,
    Scores,
    mean_and_spread,
    results,
)

_DIGITS = {"psnr": 2, "ssim": 3, "flip": 3, "lpips": 3, "fid": 1, "seconds": 0, "gaussians": 0, "peak_mb": 0}
_HEADINGS = {
    "psnr": "PSNR ↑",
    "ssim": "SSIM ↑",
    "flip": "FLIP ↓",
    "lpips": "LPIPS ↓",
    "fid": "FID ↓",
    "seconds": "seconds ↓",
    "gaussians": "Gaussians",
    "peak_mb": "peak MB",
}
_NO_CONTEST = frozenset({"gaussians", "peak_mb", "seconds"})  # less is nicer, but nobody wins by it


def page(scores: Scores, compared: Sequence[Compared], states: Sequence[State], command: str) -> str:
    """The whole page.

    Args:
        scores: of all finished jobs.
        compared: paired differences.
        states: of the jobs, for where they come from.
        command: that makes it again.
    """
    recipe = scores.recipe
    steps = f"{recipe.steps:,}" if recipe.steps else "default"
    parts = [f"# Benchmark: recipe {recipe.name}", _origin(states, command, steps), _choices(scores)]
    counted, listed = scores.counted, [scene for scene in scores.scenes if scene not in scores.counted]
    if len(counted) > 1:
        told = f"## Mean over {len(counted)} scenes\n\n{', '.join(counted)}."
        if listed:
            told += f" Not counted, weights in the package were trained on them: {', '.join(listed)}."
        parts += [told, _means(scores)]
    table = results(scores)
    for scene, methods in table.items():
        note = " (not counted)" if scene in listed else ""
        parts += [f"## {scene}{note}", _table(methods, {})]
    if compared:
        parts.append(
            "## Paired differences\n\nGains of the first over the second on the same scene with the same seed, "
            "± standard error: of a scene over its seeds, of the mean over scenes. Of FLIP and LPIPS, less is a gain."
        )
        parts += [_differences(entry, scores) for entry in compared]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(states: Sequence[State], command: str, steps: str) -> str:
    def each(values: Iterable[object]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values)) or "nothing yet"

    dates = sorted({str(state["date"]) for state in states})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "-"
    return (
        f"`{command}`\n\n"
        f"{when}, {each(state['hardware'] for state in states)}, commit {each(state['commit'] for state in states)}; "
        f"{steps} steps, seeds {each(sorted({state['seed'] for state in states}))}, pictures "
        f"{each('x'.join(map(str, state['size'])) for state in states if 'size' in state)}. "
        "Means over seeds ± standard deviation. Seconds are the whole training, of enhanced pictures with enhancing "
        "all held-out views; peak MB is the training process."
    )


def _choices(scores: Scores) -> str:
    lines = [
        f"- `{method}` is `{part}`: the best mean PSNR on held-out views over {len(scores.counted)} "
        f"scene{'s' if len(scores.counted) > 1 else ''}, one choice for all."
        for method, part in scores.chosen.items()
    ]
    lines += [
        f"- `{method}` was chosen without {', '.join(f'`{part}`' for part in parts)}: lacking scenes or seeds."
        for method, parts in scores.left_out.items()
    ]
    return "\n".join(lines)


def _means(scores: Scores) -> str:
    rows: dict[str, dict[str, float | None]] = {}
    missing: dict[str, int] = {}
    for method in scores.recipe.methods:
        entry: dict[str, float | None] = {}
        for metric in METRICS:
            of_scenes = [
                mean_and_spread([seed[metric] for seed in seeds])[0]
                for scene in scores.counted
                if (seeds := scores.of_scene(method, scene))
            ]
            entry[metric] = mean_and_spread(of_scenes)[0]
            missing[method] = len(scores.counted) - len(of_scenes)
        if missing[method] < len(scores.counted):
            rows[method] = entry
    return _table(rows, missing)


def _table(rows: Mapping[str, Mapping[str, float | None]], missing: Mapping[str, int]) -> str:
    """Methods in rows; ``missing`` scenes make a row incomparable, which is told beside its name."""
    columns = [metric for metric in METRICS if any(row.get(metric) is not None for row in rows.values())]
    best = {metric: _best(rows, missing, metric) for metric in columns}
    lines = [
        "| method | " + " | ".join(_HEADINGS[metric] for metric in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for method, row in rows.items():
        cells = []
        for metric in columns:
            cell = _number(metric, row.get(metric))
            if cell in best[metric] and not missing.get(method):
                cell = f"**{cell}**"
            spread = row.get(f"{metric}_std")
            cells.append(cell if spread is None else f"{cell} ± {_number(metric, spread)}")
        name = f"{method} ({missing[method]} scenes missing)" if missing.get(method) else method
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _best(rows: Mapping[str, Mapping[str, float | None]], missing: Mapping[str, int], metric: str) -> set[str]:
    values = [value for name, row in rows.items() if not missing.get(name) and (value := row.get(metric)) is not None]
    if metric in _NO_CONTEST or len({_number(metric, value) for value in values}) < 2:
        return set()
    return {_number(metric, (min if metric in LOWER_IS_BETTER else max)(values))}


def _differences(entry: Compared, scores: Scores) -> str:
    names = [scores.chosen.get(name, name) for name in entry.comparison.needs]
    aliases = [
        f"{name} ({part})" if part != name else name for name, part in zip(entry.comparison.needs, names, strict=True)
    ]
    columns = [metric for metric in COMPARED if metric in entry.whole]
    lines = [
        f"### {aliases[0]} over {aliases[1]}\n",
        "| scene | " + " | ".join(_HEADINGS[metric].split()[0] for metric in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for scene, gains in entry.scenes.items():
        lines.append(f"| {scene} | " + " | ".join(_gain(metric, gains.get(metric)) for metric in columns) + " |")
    counted = len([scene for scene in scores.counted if scene in entry.scenes])
    if len(entry.scenes) > 1:
        cells = [f"**{_gain(metric, entry.whole[metric])}**" for metric in columns]
        lines.append(f"| **mean over {counted}** | " + " | ".join(cells) + " |")
    told = list(entry.verdicts)
    if abs(entry.whole["psnr"].mean) < scores.recipe.undecided:
        told.insert(0, f"PSNR is undecided: within {scores.recipe.undecided:g} dB")
    if entry.seconds is not None:
        told.append(f"{entry.seconds:.2f} times the seconds")
    return "\n".join(lines) + ("\n\n" + "; ".join(told) + "." if told else "")


def _gain(metric: str, gain: Gain | None) -> str:
    if gain is None:
        return "-"
    digits = _DIGITS[metric]
    error = "" if gain.error is None else f" ± {gain.error:.{digits}f}"
    return f"{gain.mean:+.{digits}f}{error}"


def _number(metric: str, value: float | None) -> str:
    return "-" if value is None else f"{value:,.{_DIGITS[metric]}f}"
