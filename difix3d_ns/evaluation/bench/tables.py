"""A benchmark's results in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from difix3d_ns.evaluation.bench.job import State
from difix3d_ns.evaluation.bench.results import (
    COMPARED,
    LOWER_IS_BETTER,
    METRICS,
    Compared,
    Gain,
    Scores,
    mean_over_scenes,
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


@dataclass(frozen=True)
class Table:
    """Rows of (text, whether it is the best of its column); the first column is text."""

    headings: list[str]
    rows: list[list[tuple[str, bool]]]

    def markdown(self) -> str:
        """In GitHub's Markdown, the best in bold."""
        lines = [_row(self.headings), "|---|" + "---:|" * (len(self.headings) - 1)]
        lines += [_row(f"**{text}**" if best else text for text, best in row) for row in self.rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class Part:
    """A stretch of the page."""

    title: str
    before: str = ""
    table: Table | None = None
    after: str = ""
    scene: str = ""  # of which it is
    level: int = 2  # of its heading

    def markdown(self) -> str:
        """With its heading."""
        texts = [
            "#" * self.level + f" {self.title}",
            self.before,
            self.table.markdown() if self.table else "",
            self.after,
        ]
        return "\n\n".join(text for text in texts if text)


def page(parts: Sequence[Part]) -> str:
    """All of it in Markdown."""
    return "\n\n".join(part.markdown() for part in parts) + "\n"


def document(scores: Scores, compared: Sequence[Compared], states: Sequence[State], command: str) -> list[Part]:
    """What there is to tell.

    Args:
        scores: of all finished jobs.
        compared: paired differences.
        states: of the jobs, for where they come from.
        command: that makes it again.
    """
    recipe = scores.recipe
    steps = f"{recipe.steps:,}" if recipe.steps else "default"
    origin = _origin(states, f"`{command}`", steps)
    parts = [Part(f"Benchmark: recipe {recipe.name}", origin, after=_choices(scores), level=1)]
    counted, listed = scores.counted, [scene for scene in scores.scenes if scene not in scores.counted]
    if len(counted) > 1:
        told = f"{', '.join(counted)}; of each the seeds that all methods have."
        if listed:
            told += f" Not counted, weights in the package were trained on them: {', '.join(listed)}."
        parts.append(Part(f"Mean over {len(counted)} scenes", told, _means(scores)))
    for scene, methods in results(scores).items():
        note = " (not counted)" if scene in listed else ""
        parts.append(Part(f"{scene}{note}", _seeds_told(scores, scene), _table(methods, {}), scene=scene))
    if compared:
        told = (
            "Gains of the first over the second on the same scene with the same seed, ± standard error: of a scene "
            "over its seeds, of the mean over scenes. Of FLIP and LPIPS, less is a gain."
        )
        parts.append(Part("Paired differences", told))
        parts += [_differences(entry, scores) for entry in compared]
    return parts


def _seeds_told(scores: Scores, scene: str) -> str:
    counts = {method: len(scores.of_scene(method, scene)) for method in scores.recipe.methods}
    by_count: dict[int, list[str]] = {}
    for method, count in counts.items():
        if count:
            by_count.setdefault(count, []).append(f"`{method}`")
    usual = max(by_count, key=lambda count: len(by_count[count]))
    told = [f"{count} of {', '.join(names)}" for count, names in sorted(by_count.items()) if count != usual]
    return ", ".join([f"{usual} seed{'s' * (usual > 1)}", *told]) + "."


def each(values: Iterable[object]) -> str:
    """Different values, in their order."""
    return ", ".join(dict.fromkeys(str(value) for value in values)) or "nothing yet"


def dates(states: Sequence[State]) -> str:
    """From the first to the last run."""
    found = sorted({str(state["date"]) for state in states})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}" if found else "-"


def _origin(states: Sequence[State], command: str, steps: str) -> str:
    return (
        f"{command}\n\n"
        f"{dates(states)}, {each(state['hardware'] for state in states)}, commit "
        f"{each(state['commit'] for state in states)}; "
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


def _means(scores: Scores) -> Table:
    rows: dict[str, dict[str, float | None]] = {}
    missing: dict[str, int] = {}
    for method in scores.recipe.methods:
        lacking = [scene for scene in scores.counted if not scores.of_scene(method, scene)]
        missing[method] = len(lacking)
        if len(lacking) < len(scores.counted):
            rows[method] = {metric: mean_over_scenes(scores, method, metric) for metric in METRICS}
    return _table(rows, missing)


def _table(rows: Mapping[str, Mapping[str, float | None]], missing: Mapping[str, int]) -> Table:
    """Methods in rows; ``missing`` scenes make a row incomparable, which is told beside its name."""
    columns = [metric for metric in METRICS if any(row.get(metric) is not None for row in rows.values())]
    best = {metric: _best(rows, missing, metric) for metric in columns}
    lines = []
    for method, row in rows.items():
        cells = [(f"{method} ({missing[method]} scenes missing)" if missing.get(method) else method, False)]
        for metric in columns:
            cell, spread = _number(metric, row.get(metric)), row.get(f"{metric}_std")
            text = cell if spread is None else f"{cell} ± {_number(metric, spread)}"
            cells.append((text, cell in best[metric] and not missing.get(method)))
        lines.append(cells)
    return Table(["method", *(_HEADINGS[metric] for metric in columns)], lines)


def _best(rows: Mapping[str, Mapping[str, float | None]], missing: Mapping[str, int], metric: str) -> set[str]:
    values = [value for name, row in rows.items() if not missing.get(name) and (value := row.get(metric)) is not None]
    if metric in _NO_CONTEST or len({_number(metric, value) for value in values}) < 2:
        return set()
    return {_number(metric, (min if metric in LOWER_IS_BETTER else max)(values))}


def _differences(entry: Compared, scores: Scores) -> Part:
    parts = [(name, scores.chosen.get(name, name)) for name in entry.comparison.needs]
    names = [name if part == name else f"{name} ({part})" for name, part in parts]
    columns = [metric for metric in COMPARED if metric in entry.whole]
    rows = [
        [(scene, False), *((gain_told(metric, gains.get(metric)), False) for metric in columns)]
        for scene, gains in entry.scenes.items()
    ]
    if len(entry.scenes) > 1:
        counted = len([scene for scene in scores.counted if scene in entry.scenes])
        mean = [(gain_told(metric, entry.whole[metric]), True) for metric in columns]
        rows.append([(f"mean over {counted}", True), *mean])
    told = list(entry.verdicts)
    if abs(entry.whole["psnr"].mean) < scores.recipe.undecided:
        told.insert(0, f"PSNR is undecided: within {scores.recipe.undecided:g} dB")
    if entry.seconds is not None:
        told.append(f"{times_told(entry.seconds)} times the seconds")
    table = Table(["scene", *(_HEADINGS[metric].split()[0] for metric in columns)], rows)
    return Part(f"{names[0]} over {names[1]}", table=table, after="; ".join(told) + "." if told else "", level=3)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def times_told(ratio: Gain) -> str:
    """How many times the seconds, with its standard error."""
    return f"{ratio.mean:.2f}" + ("" if ratio.error is None else f" ± {ratio.error:.2f}")


def gain_told(metric: str, gain: Gain | None) -> str:
    """With its standard error, in the metric's digits."""
    if gain is None:
        return "-"
    digits = _DIGITS[metric]
    error = "" if gain.error is None else f" ± {gain.error:.{digits}f}"
    return f"{gain.mean:+.{digits}f}{error}"


def _number(metric: str, value: float | None) -> str:
    return "-" if value is None else f"{value:,.{_DIGITS[metric]}f}"
