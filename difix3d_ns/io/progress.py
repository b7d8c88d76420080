"""The one kind of progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def counted_down(description: str, console: Console | None) -> Iterator[Callable[[int], None]]:
    """Show a bar for work in steps, and yield what is called with the number of steps left before each."""
    with progress_bar(console) as bar:
        task = bar.add_task(description, total=None)

        def on_step(left: int) -> None:
            total = bar.tasks[task].total or left
            bar.update(task, total=total, completed=total - left)

        yield on_step
        bar.update(task, completed=bar.tasks[task].total)
