"""Messages, curves and records of made views, whatever makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from difix3d_ns.guidance.tracking import ViewTracker
from difix3d_ns.io.run import Tracker
from difix3d_ns.views.records import LATEST, ViewRecord, ViewRecords, panels_of


class Lists(Tracker):
    """Everything in lists."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.images: list[tuple[str, tuple[int, ...], int]] = []
        self.scalars: list[tuple[str, float, int]] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    def image(self, name: str, picture: torch.Tensor, step: int) -> None:
        self.images.append((name, tuple(picture.shape), step))

    def scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))


def _record(key: str, order: int, step: int, agreement: float) -> ViewRecord:
    panels = panels_of({"Low": torch.zeros(20, 30, 3), "Upscaled": torch.ones(20, 30, 3)})
    return ViewRecord(
        key=key,
        group=f"Round {order}",
        order=order,
        title=f"{key}.png",
        step=step,
        seconds=0.25,
        numbers={"agreement": agreement, "level": "666"},
        panels=panels,
    )


def test_a_round(tmp_path: Path) -> None:
    seen = Lists()
    tracking = ViewTracker(seen, ViewRecords(tmp_path), "Upscaled photos", "upscaled")
    for order in (1, 2):
        tracking.begin(f"Round {order} begins")
        for number in range(2):
            tracking.made(_record(f"photo/{number}", order, 10 * order + number, order + number))
            tracking.progress(f"Round {order}", 1 - number)
        tracking.end(f"Round {order}", 10 * order + 1, 2)
    assert seen.lines[:4] == [
        "Round 1 begins",
        "Round 1: 1 upscaled, 1 to go, 0.25 s per view",
        "Round 1: 2 upscaled, 0 to go, 0.25 s per view",
        "Round 1 done in 0 s: pool of 2",
    ]
    assert seen.scalars == [
        ("Upscaled photos/pool", 2, 11),
        ("Upscaled photos/mean agreement", 1.5, 11),
        ("Upscaled photos/pool", 2, 21),
        ("Upscaled photos/mean agreement", 2.5, 21),
    ]
    assert seen.images[0] == ("Upscaled photos/Low, Upscaled: photo/0.png", (10, 30, 3), 10)
    assert len(tracking.latest) == 4 and [head.step for head in tracking.round] == [20, 21]
    assert {key: head.group for key, head in tracking.heads.items()} == dict.fromkeys(("photo/0", "photo/1"), "Round 2")
    assert len(ViewRecords(tmp_path).heads()) == 4


def test_a_round_without_a_view_has_no_means(tmp_path: Path) -> None:
    seen = Lists()
    tracking = ViewTracker(seen, ViewRecords(tmp_path), "Views")
    tracking.begin("Begins")
    tracking.end("Round 1", 5, 0)
    assert seen.scalars == [("Views/pool", 0, 5)]


@pytest.mark.parametrize("same_folder", [False, True])
def test_what_was_made_before_is_recalled(tmp_path: Path, same_folder: bool) -> None:
    earlier = ViewRecords(tmp_path / "earlier")
    for order in (1, 2, 3):
        for number in range(LATEST):
            earlier.write(_record(f"photo/{number:02d}", order, 100 * order + number, 0.5))
    folder = earlier.folder if same_folder else tmp_path / "now"
    tracking = ViewTracker(Lists(), ViewRecords(folder), "Views")
    tracking.recall(earlier.folder, 205)  # in the middle of the second round
    assert [tracking.heads[f"photo/{number:02d}"].order for number in (4, 5)] == [2, 1]
    assert [record.step for record in tracking.latest] == [*range(105, 112), *range(200, 205)]
