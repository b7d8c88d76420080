"""The one kind of progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress_bar(console: Console | None, counted: bool = False) -> Progress:
    """Bars with a description and the time so far and left.

    Args:
        console: where they are shown; None for the default one.
        counted: show "3/10" rather than "30 %".
    """
    done = MofNCompleteColumn() if counted else TextColumn("{task.percentage:>3.0f} %")
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), BarColumn(), done, *times, console=console)
