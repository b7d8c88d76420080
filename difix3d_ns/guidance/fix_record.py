"""Record of a render that a fixer repaired: before, after, the best photograph, the confidence."""

from __future__ import annotations

from collections.abc import Sequence

from difix3d_ns.guidance.fixing import FixedView
from difix3d_ns.views.records import About, ViewRecord, panels_of

BEFORE, AFTER, REFERENCE, CONFIDENCE = "Before", "Fixed", "Reference", "Confidence"
_PAIRS = ((BEFORE, AFTER), (AFTER, REFERENCE), (BEFORE, CONFIDENCE), (AFTER, CONFIDENCE))

ABOUT_FIXES = About(
    "Views nobody photographed, repaired",
    "The splat is rendered from poses between and beyond the photos. The fixer repairs each render with the photos "
    "that see the same surfaces, and says per pixel how far to trust it (white: fully, black: nothing is taught). "
    "Training learns from the result.",
    "Pseudo-views",
)


def record_fix(key: str, number: int, target: int, step: int, view: FixedView, names: Sequence[str]) -> ViewRecord:
    """Measure a repair and keep small pictures of it.

    Args:
        key: of the view.
        number: of the round whose pose it is made at.
        target: position in the list of targets.
        step: of training.
        view: as it was repaired.
        names: of all photographs.

    Returns:
        A record with the numbers "change", the mean absolute difference of after and before, and "confidence", its
        mean, both in [0, 1].
    """
    request, result = view.request, view.result
    pictures = {BEFORE: request.image, AFTER: result.image}
    if request.references:
        pictures[REFERENCE] = request.references[0].image
    return ViewRecord(
        key=key,
        group=fix_group(number),
        order=number,
        title=f"View {target}",
        step=step,
        seconds=view.seconds,
        pairs=tuple(pair for pair in _PAIRS if request.references or REFERENCE not in pair),
        numbers={
            "change": float((result.image - request.image).abs().mean()),
            "confidence": float(result.confidence.mean()),
        },
        references=tuple(names[index] for index in view.references),
        panels=panels_of({**pictures, CONFIDENCE: result.confidence}),
    )


def fix_group(number: int) -> str:
    """Return the group of the views made at the poses of round ``number``."""
    return f"Round {number}"
