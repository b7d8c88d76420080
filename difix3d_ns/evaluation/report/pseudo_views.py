"""Gallery of pseudo-views before and after the fix."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from markupsafe import Markup

from difix3d_ns.evaluation.report.page_pictures import Picture, long_side_for, picture
from difix3d_ns.evaluation.report.parts import Section, fold, gallery, slider
from difix3d_ns.evaluation.report.training import Training, duration
from difix3d_ns.views.folders import POOL_FOLDER
from difix3d_ns.views.records import FixRecord

BEFORE, AFTER, REFERENCE, CONFIDENCE = "Before", "Fixed", "Reference", "Confidence"

_BUDGET = 3.5e6  # bytes of all pictures here
_EACH = 5  # times half a picture: of four, two are coarse or smooth
_MAX_VIEWS = 96  # views shown
_PAIRS = [(BEFORE, AFTER), (AFTER, REFERENCE), (BEFORE, CONFIDENCE), (AFTER, CONFIDENCE)]


def fixes_section(training: Training) -> Section:
    """Section of pseudo-views before and after the fix; rounds one below the other, the latest open."""
    title = "Views nobody photographed, repaired"
    fixes = training.fixes
    if not fixes:
        return Section(title, [_why_none(training)], "Pseudo-views")
    step = max(1.0, len(fixes) / _MAX_VIEWS)
    shown = [fixes[int(i * step)] for i in range(min(_MAX_VIEWS, len(fixes)))]
    height, width = shown[0].before.shape[:2]
    side = long_side_for(_EACH * len(shown) // 2, width, height, _BUDGET)
    rounds = sorted({fix.round for fix in shown}, reverse=True)
    return Section(
        title,
        [
            "The splat is rendered from poses between and beyond the photos. The fixer repairs each render with "
            "the photos that see the same surfaces, and says per pixel how far to trust it (white: fully, black: "
            "nothing is taught). Training learns from the result."
            + (f" {len(shown)} of {len(fixes)} are shown, evenly spaced." if len(shown) < len(fixes) else ""),
            *(
                fold(
                    _round_summary(number, of_round),
                    [_gallery([f for f in shown if f.round == number], side)],
                    number == rounds[0],
                )
                for number in rounds
                if (of_round := [fix for fix in fixes if fix.round == number])
            ),
        ],
        "Pseudo-views",
    )


def _why_none(training: Training) -> str:
    """A sentence; empty where nothing on disk says that there could be any."""
    if any(name.startswith("Pseudo-views/") for name in training.curves):
        return "No pictures of repaired views were kept."
    return "No view has been repaired yet." if (training.folder / POOL_FOLDER).is_dir() else ""


def _round_summary(number: int, fixes: Sequence[FixRecord]) -> str:
    change, confidence, seconds = (
        statistics.fmean(getattr(fix, name) for fix in fixes) for name in ("change", "mean_confidence", "seconds")
    )
    return (
        f"Round {number}: {len(fixes)} {'view' if len(fixes) == 1 else 'views'}, changed by {change:.1%} on average, "
        f"trusted at {confidence:.0%}, {duration(seconds)} each"
    )


def _gallery(fixes: Sequence[FixRecord], side: int) -> Markup:
    height, width = fixes[0].before.shape[:2]
    return gallery([_slider(fix, side) for fix in fixes], _PAIRS, columns=3 if width >= height else 5)


def _slider(fix: FixRecord, side: int) -> Markup:
    pictures: dict[str, Picture] = {
        BEFORE: picture(fix.before, side, 78),
        AFTER: picture(fix.after, side, 78),
        CONFIDENCE: picture(fix.confidence, side, 60),
    }
    if fix.references:
        pictures[REFERENCE] = picture(fix.reference, side, 72)
    return slider(
        pictures,
        f"View {fix.target}, step {fix.step:,}",
        f"change {fix.change:.1%}, confidence {fix.mean_confidence:.0%}",
        f"with {', '.join(fix.references)}" if fix.references else "without a photo",
    )
