"""The page about a benchmark: what was compared, tables, paired differences, pictures; as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from difix3d_ns.evaluation.bench.gap_shares import Shares
from difix3d_ns.evaluation.bench.kept_pictures import TRUTH, kept_views, read_pictures
from difix3d_ns.evaluation.bench.paired_gains import COMPARED, Gain
from difix3d_ns.evaluation.bench.quoted_rows import quoted_sources, quoted_table
from difix3d_ns.evaluation.bench.results import Compared, Scores, mean_over_scenes, results
from difix3d_ns.evaluation.bench.rows import Row
from difix3d_ns.evaluation.comparison import write_comparison
from difix3d_ns.evaluation.report import Figure, Section, gallery, long_side_for, page, picture, slider
from difix3d_ns.evaluation.table import METRICS, Cell, Table, metric_table
from difix3d_ns.geometry.spacing import evenly_spaced

PICTURE_BYTES = 8e6
"""bytes of all pictures of the page"""
HEADLINES = 3
"""differences at its top"""


def markdown_page(scores: Scores, compared: Sequence[Compared], rows: Sequence[Row], command: str) -> str:
    """The page in Markdown (see ``html_page``)."""
    title = f"# Benchmark: {scores.recipe.kind} {scores.recipe.name}"
    return "\n\n".join([title, introduction(scores, rows, command), markdown(sections(scores, compared))]) + "\n"


def html_page(
    scores: Scores, compared: Sequence[Compared], rows: Sequence[Row], command: str, galleries: Mapping[str, Markup]
) -> str:
    """The page in HTML, without network.

    Args:
        scores: of the rows.
        compared: paired differences; the first are the numbers at the top.
        rows: for where they come from.
        command: that makes them again.
        galleries: pictures by scene.
    """
    figures = []
    for entry in compared[:HEADLINES]:
        count = len(entry.counted)
        gain, name = entry.mean["psnr"], " over ".join(entry.methods)
        note = f"PSNR{'' if gain.error is None else f' ± {gain.error:.2f}'}, {count} scene{'s' if count > 1 else ''}"
        figures.append(Figure(f"{gain.mean:+.2f} dB", name, note))
    first, *others = sections(scores, compared, galleries) or [Section("", [])]
    choices, warnings = ([line.replace("`", "") for line in lines] for lines in _choices(scores))
    parts = [Section(first.title, [*first.parts, *choices], first.short), *others]
    return page(
        f"Benchmark: {scores.recipe.kind} {scores.recipe.name}",
        parts,
        command,
        figures,
        warnings,
        _origin(scores, rows),
    )


def introduction(scores: Scores, rows: Sequence[Row], command: str) -> str:
    """Command, origin, and what the best of several methods is, in Markdown."""
    choices = "\n".join(f"- {line}" for lines in _choices(scores) for line in lines)
    return "\n\n".join(text for text in (f"`{command}`", _origin(scores, rows), choices) if text)


def sections(
    scores: Scores, compared: Sequence[Compared], galleries: Mapping[str, Markup] | None = None
) -> list[Section]:
    """Means, scenes with their pictures, and paired differences."""
    counted, found = scores.counted, []
    if (beside := quoted_table(scores.recipe, scores)) is not None:
        sources = "\n".join(f"- {line}" for line in quoted_sources(scores.recipe))
        found.append(Section("Published, and ours", [beside, sources, *scores.recipe.remarks], "Published"))
    listed = [scene for scene in scores.scenes if scene not in counted]
    if len(counted) > 1:
        text = f"{', '.join(counted)}; of each the seeds that all methods have."
        if listed:
            text += f" Not counted, weights in the package were trained on them: {', '.join(listed)}."
        found.append(Section(f"Mean over {len(counted)} scenes", [text, _means(scores)]))
    for scene, methods in results(scores).items():
        title = f"{scene} (not counted)" if scene in listed else scene
        pictures = (galleries or {}).get(scene, "")
        found.append(Section(title, [_seeds(scores, scene), metric_table(methods), pictures], scene))
    if compared:
        text = (
            "Gains of the first over the second on the same scene with the same seed, ± standard error: of a scene "
            "over its seeds, of the mean over scenes. Of FLIP and LPIPS, less is a gain."
        )
        differences = [_differences(entry, scores) for entry in compared]
        found.append(Section("Paired differences", [text, *differences], "Differences"))
    return found


def markdown(parts: Sequence[Section], level: int = 2) -> str:
    """Sections in Markdown, without pictures, their headings of this level."""
    blocks = []
    for section in parts:
        blocks.append("#" * level + f" {section.title}")
        for part in section.parts:
            if isinstance(part, Section):
                blocks.append(markdown([part], level + 1))
            elif not isinstance(part, Markup):
                blocks.append(part.markdown() if isinstance(part, Table) else part)
    return "\n\n".join(block for block in blocks if block)


def show_pictures(scores: Scores, output: Path, methods: Sequence[str]) -> dict[str, Markup]:
    """Write ``comparison/SCENE.png`` and return galleries by scene, of views evenly spaced over the held-out ones.

    Args:
        scores: whose rows have kept pictures; of each scene the lowest seed is shown.
        output: folder of the benchmark.
        methods: columns.
    """
    views = {scene: _views(scores, output, methods, scene) for scene in scores.scenes}
    count = sum(len(view) for shown in views.values() for view in shown)
    galleries = {}
    for scene, shown in views.items():
        if shown:
            rows = [list(read_pictures(view.values())) for view in shown]
            write_comparison(output / "comparison" / f"{scene}.png", rows, list(shown[0]))
            galleries[scene] = _gallery(shown, count)
    return galleries


def _views(scores: Scores, output: Path, methods: Sequence[str], scene: str) -> list[dict[str, Path]]:
    """Method -> picture, the truth last, of views evenly spaced; empty where a method has no pictures."""
    if not methods:
        return []
    rows = {name: {row["seed"]: row for row in scores.of_scene(name, scene)} for name in methods}
    for seed in sorted(set.intersection(*map(set, rows.values()))):
        kept = {name: kept_views(output, found[seed]) for name, found in rows.items()}
        columns = {name: list(pictures) for name, pictures in kept.items()}
        columns[TRUTH] = list(kept[methods[0]].values())
        views = [dict(zip(columns, paths, strict=True)) for paths in zip(*columns.values(), strict=False)]
        if views:
            return [views[place] for place in evenly_spaced(len(views), scores.recipe.pictures, ends=False)]
    return []


def _gallery(views: Sequence[Mapping[str, Path]], count: int) -> Markup:
    """Sliders of one scene's views; the first two methods are compared first."""
    names = [name for name in views[0] if name != TRUTH]
    sliders = []
    for view in views:
        images = read_pictures([view[name] for name in (*names, TRUTH)])
        pictures = dict(zip((*names, TRUTH.capitalize()), images, strict=True))
        height, width = pictures[names[0]].shape[:2]
        side = long_side_for(count, width, height, PICTURE_BYTES)
        shown = {name: picture(values, side) for name, values in pictures.items()}
        sliders.append(slider(shown, f"Held-out view {int(view[TRUTH].stem) + 1}"))
    pairs = [(names[0], name) for name in names[1:]]
    return gallery(sliders, [*pairs, *((name, TRUTH.capitalize()) for name in names)])


def distinct(values: Iterable[object]) -> str:
    """Different values, in their order."""
    return ", ".join(dict.fromkeys(str(value) for value in values)) or "nothing yet"


def dates(rows: Sequence[Row]) -> str:
    """Return the dates of the first and the last run."""
    found = sorted({str(row["date"]) for row in rows})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}" if found else "-"


def _origin(scores: Scores, rows: Iterable[Row]) -> str:
    """Sentences on when, where and with which code the rows were made, and on how to read them."""
    rows = [row for row in rows if row["scene"] is not None]
    steps = f"{scores.recipe.steps:,}" if scores.recipe.steps else "default"
    hardware, commits = (distinct(row[key] for row in rows) for key in ("hardware", "commit"))
    seeds = distinct(sorted({row["seed"] for row in rows}))
    sizes = distinct("x".join(map(str, row["size"])) for row in rows)
    trained = distinct("x".join(map(str, row["trained_size"])) for row in rows if "trained_size" in row)
    if any("trained_size" in row for row in rows):
        sizes += f", trained on at {trained}"
    fid = " FID is of all held-out pictures that the means are of: the few of one scene say nothing."
    return (
        f"{dates(rows)}, {hardware}, commit {commits}; {steps} steps, seeds {seeds}, pictures {sizes}. "
        "Means over seeds ± standard deviation. Seconds are the whole training, of enhanced pictures with enhancing "
        f"all held-out views; peak MB is the training process.{fid if scores.fid else ''}"
    )


def _choices(scores: Scores) -> tuple[list[str], list[str]]:
    """Sentences on the best of several methods, and on those that could not be considered."""
    scenes = f"{len(scores.counted)} scene{'s' if len(scores.counted) > 1 else ''}"
    return [
        f"`{method}` is `{part}`: the best mean PSNR on held-out views over {scenes}, one choice for all."
        for method, part in scores.chosen.items()
    ], [
        f"`{method}` was chosen without {', '.join(f'`{part}`' for part in parts)}: lacking scenes or seeds."
        for method, parts in scores.left_out.items()
    ]


def _seeds(scores: Scores, scene: str) -> str:
    """A sentence on the number of seeds: that of most methods, then others."""
    by_count: dict[int, list[str]] = {}
    for method in scores.recipe.methods:
        if count := len(scores.of_scene(method, scene)):
            by_count.setdefault(count, []).append(f"`{method}`")
    usual = max(by_count, key=lambda count: len(by_count[count]))
    others = [f"{count} of {', '.join(names)}" for count, names in sorted(by_count.items()) if count != usual]
    return ", ".join([f"{usual} seed{'s' * (usual > 1)}", *others]) + "."


def _means(scores: Scores) -> Table:
    rows, missing = {}, {}
    for method in scores.recipe.methods:
        missing[method] = sum(not scores.of_scene(method, scene) for scene in scores.counted)
        if missing[method] < len(scores.counted):
            rows[method] = {metric: mean_over_scenes(scores, method, metric) for metric in METRICS}
    return metric_table(rows, missing)


def _differences(entry: Compared, scores: Scores) -> Section:
    parts = [(name, scores.chosen.get(name, name)) for name in entry.methods]
    columns = [metric for metric in COMPARED if metric in entry.mean]
    rows = [
        [Cell(scene), *(Cell(gain_text(metric, gains.get(metric))) for metric in columns)]
        for scene, gains in entry.scenes.items()
    ]
    if len(entry.scenes) > 1:
        mean = [f"mean over {len(entry.counted)}", *(gain_text(metric, entry.mean[metric]) for metric in columns)]
        rows.append([Cell(text, good=True) for text in mean])
    verdicts = list(entry.verdicts)
    if abs(entry.mean["psnr"].mean) < scores.recipe.undecided:
        verdicts.insert(0, f"PSNR is undecided: within {scores.recipe.undecided:g} dB")
    if entry.seconds_ratio is not None:
        verdicts.append(f"{ratio_text(entry.seconds_ratio)} times the seconds")
    title = " over ".join(name if part == name else f"{name} ({part})" for name, part in parts)
    title += f": {', '.join(entry.patterns)}" if entry.patterns else ""
    table = Table(["scene", *(METRICS[metric].heading.rpartition(" ")[0] for metric in columns)], rows)
    shares = [] if entry.shares is None else _shares(entry.shares, columns)
    return Section(title, [table, *shares, "; ".join(verdicts) + "." if verdicts else ""])


def _shares(shares: Shares, columns: Sequence[str]) -> list[Table | str]:
    """A sentence on a gap, and a table of the shares of it."""
    better, base = shares.gap
    rows = []
    for scene, found in shares.scenes.items():
        name = f"{scene} (not counted)" if scene in shares.undecided else scene
        values = [f"{found[metric]:.0%}" if metric in found else "-" for metric in columns]
        rows.append([Cell(text) for text in (name, f"{shares.gaps[scene]:+.2f}", *values)])
    if shares.mean:
        mean = ["mean", "", *(_percent(shares.mean.get(metric)) for metric in columns)]
        rows.append([Cell(text, good=bool(text)) for text in mean])
    headings = ["scene", "gap, dB", *(METRICS[metric].heading.rpartition(" ")[0] for metric in columns)]
    small = ", ".join(shares.undecided)
    note = f" Not counted, the gap is too small: {small}." if small else ""
    return [f"As shares of what {better} gains over {base}:{note}", Table(headings, rows)]


def _percent(share: Gain | None) -> str:
    """A mean share with its standard error; a dash where there is none."""
    if share is None:
        return "-"
    return f"{share.mean:.0%}" + ("" if share.error is None else f" ± {share.error:.0%}")


def ratio_text(ratio: Gain) -> str:
    """A ratio of seconds, with its standard error."""
    return f"{ratio.mean:.2f}" + ("" if ratio.error is None else f" ± {ratio.error:.2f}")


def gain_text(metric: str, gain: Gain | None) -> str:
    """A gain with its standard error, in the metric's digits; a dash where there is none."""
    if gain is None:
        return "-"
    digits = METRICS[metric].digits
    error = "" if gain.error is None else f" ± {gain.error:.{digits}f}"
    return f"{gain.mean:+.{digits}f}{error}"
