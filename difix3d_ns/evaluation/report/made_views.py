"""Gallery of the views that training made, with what they were made of."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from difix3d_ns.evaluation.report.original_photos import OriginalPhotos
from difix3d_ns.evaluation.report.page_pictures import long_side_for, picture, pixels
from difix3d_ns.evaluation.report.parts import Section, fold, gallery, slider
from difix3d_ns.evaluation.report.training import Training
from difix3d_ns.io.durations import duration
from difix3d_ns.views.folders import DEPTHS_FOLDER, POOL_FOLDER
from difix3d_ns.views.records import RecordHead, ViewRecord, ViewRecords, describe_numbers, mean_numbers

_BUDGET = 3.5e6  # bytes of all pictures here
_EACH = 0.625  # of a detailed picture: of four panels of a repair, two are coarse or smooth
_QUALITY = 76
TRUTH = "Truth"
ABOUT_TRUTH = "The truth is the photo's larger original, which training never saw."


def made_views_section(training: Training) -> Section:
    """Section of made views, their panels behind sliders; groups one below the other, the latest open."""
    if not training.made:
        about = training.records.about
        return Section(about.title, [_why_none(training)], about.short)
    return _section(training.records, training.made, OriginalPhotos(training))


def depths_section(training: Training) -> Section:
    """Section of the depth of photographs, if training used any."""
    records = ViewRecords(training.folder / DEPTHS_FOLDER)
    heads = records.heads()
    return _section(records, heads) if heads else Section("", [])


def _section(folder: ViewRecords, heads: Sequence[RecordHead], originals: OriginalPhotos | None = None) -> Section:
    about = folder.about
    records = [record for head in _chosen(heads, about.most) if (record := folder.open(head)) is not None]
    shown_truth = ""
    if originals is not None:
        with_truth = [_with_truth(record, originals) for record in records]
        shown_truth = ABOUT_TRUTH if with_truth != records else ""
        records = with_truth
    groups: dict[str, list[RecordHead]] = {}
    for head in reversed(sorted(heads, key=lambda head: head.order)):
        groups.setdefault(head.group, []).insert(0, head)
    panels = sum(len(record.panels) for record in records)
    height, width = next(iter(records[0].panels.values())).shape[:2] if records else (1, 1)
    side = long_side_for(round(_EACH * panels), width, height, _BUDGET)
    some = f"{len(records)} of {len(heads)} are shown, evenly spaced." if len(records) < len(heads) else ""
    return Section(
        about.title,
        [
            " ".join(filter(None, (about.text, shown_truth, some, "A double click, or + and -, magnifies."))),
            *(
                fold(
                    _summary(group, members),
                    [_gallery([record for record in records if record.group == group], side)],
                    place == 0,
                )
                for place, (group, members) in enumerate(groups.items())
            ),
        ],
        about.short,
    )


def _with_truth(record: ViewRecord, originals: OriginalPhotos) -> ViewRecord:
    """Add the larger original of an upscaled photo, where there is one, and pairs with it."""
    height, width = next(iter(record.panels.values())).shape[:2]
    truth = originals.picture(record.key, height, width)
    if truth is None:
        return record
    left, right = record.pairs[0] if record.pairs else list(record.panels)[:1] * 2
    pairs = (*record.pairs, *((name, TRUTH) for name in dict.fromkeys((right, left))))
    return replace(record, panels={**record.panels, TRUTH: pixels(truth)}, pairs=pairs)


def _chosen(heads: Sequence[RecordHead], most: int) -> list[RecordHead]:
    """Choose views evenly, the same ones in each group, so that groups can be compared."""
    keys = list(dict.fromkeys(head.key for head in heads))
    count = max(1, min(len(keys), most * len(keys) // len(heads)))
    step = len(keys) / count
    chosen = {keys[int(place * step)] for place in range(count)}
    return [head for head in heads if head.key in chosen]


def _why_none(training: Training) -> str:
    """A sentence; empty where nothing on disk says that there could be any."""
    if any(name.endswith("/pool") for name in training.curves):
        return "No pictures of made views were kept."
    return "No view has been made yet." if (training.folder / POOL_FOLDER).is_dir() else ""


def _summary(group: str, heads: Sequence[RecordHead]) -> str:
    seconds = statistics.fmean(head.seconds for head in heads)
    count, numbers = f"{len(heads)} {'view' if len(heads) == 1 else 'views'}", describe_numbers(mean_numbers(heads))
    return f"{group}: {count}, " + (f"{numbers} on average, " if numbers else "") + f"{duration(seconds)} each"


def _gallery(records: Sequence[ViewRecord], side: int) -> Markup:
    comparable = [record for record in records if len(record.panels) > 1]
    if not comparable:
        return Markup("")
    height, width = next(iter(comparable[0].panels.values())).shape[:2]
    pairs = list(dict.fromkeys(pair for record in comparable for pair in record.pairs))
    return gallery([_slider(record, side) for record in comparable], pairs, columns=3 if width >= height else 5)


def _slider(record: ViewRecord, side: int) -> Markup:
    first = record.pairs[0] if record.pairs else ()  # the first two are shown first
    names = [name for name in dict.fromkeys((*first, *record.panels)) if name in record.panels]
    return slider(
        {name: picture(record.panels[name], side, _QUALITY) for name in names},
        f"{record.title}, step {record.step:,}",
        record.describe(),
        f"with {', '.join(record.references)}" if record.references else "",
    )
