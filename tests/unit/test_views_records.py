"""Records of made views: what is kept, what survives, what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.guidance.fix_record import AFTER, BEFORE, CONFIDENCE, REFERENCE, record_fix
from difix3d_ns.guidance.fixing import FixedView
from difix3d_ns.priors.base import FixRequest, FixResult
from difix3d_ns.views.records import (
    LONG_SIDE,
    UNKNOWN,
    About,
    ViewRecord,
    ViewRecords,
    describe_numbers,
    mean_numbers,
    newest,
    panels_of,
)

ABOUT = About("Photos, sharper", "How they are made.", "Upscaled photos", 24)


def _record(key: str = "photo/0000", order: int = 1, step: int = 7, **changes: Any) -> ViewRecord:
    low, high = torch.full((20, 30, 3), 0.2), torch.full((20, 30, 3), 0.8)
    values: dict[str, Any] = {
        "key": key,
        "group": f"Round {order}",
        "order": order,
        "title": key,
        "step": step,
        "seconds": 0.5,
        "pairs": (("low", "upscaled"),),
        "numbers": {"agreement": 0.25, "prior": "bicubic"},
        "references": ("b/1.png", "a.png"),
        "panels": panels_of({"low": low, "upscaled": high, "confidence": torch.full((20, 30, 1), 0.5)}),
    }
    return ViewRecord(**values | changes)


def _fix(size: tuple[int, int], references: bool = True) -> ViewRecord:
    smooth = torch.linspace(0.1, 0.9, size[1]).expand(size[0], -1)[..., None].expand(-1, -1, 3)
    photo: Any = [type("Photo", (), {"image": torch.full((90, 30, 3), 0.5)})] * references
    result = FixResult(smooth + 0.05, torch.full((*size, 1), 0.25))
    view = FixedView(FixRequest(smooth, photo), result, (1,) * references, 0.5)
    return record_fix("target/003@2", 2, 3, 7, view, ["a.png", "b/1.png"])


def test_numbers_and_pictures_of_a_repair() -> None:
    record = _fix((40, 60))
    assert record.numbers["change"] == pytest.approx(0.05, abs=1e-6) and record.numbers["confidence"] == 0.25
    assert (record.group, record.title, record.references) == ("Round 2", "View 3", ("b/1.png",))
    assert {panel.shape for panel in record.panels.values()} == {(40, 60, 3)}
    assert np.abs(record.panels[AFTER].astype(int) - record.panels[BEFORE] - 12.75).max() <= 1
    assert set(np.unique(record.panels[CONFIDENCE])) == {64}
    lit = record.panels[REFERENCE].any(-1)
    assert lit.all(0).nonzero()[0].tolist() == list(range(23, 36))  # a portrait, whole and in the middle


def test_a_repair_without_reference() -> None:
    record = _fix((30, 40), references=False)
    assert list(record.panels) == [BEFORE, AFTER, CONFIDENCE] and record.references == ()
    assert not any(REFERENCE in pair for pair in record.pairs)


def test_large_views_are_recorded_small() -> None:
    assert _fix((700, 2 * LONG_SIDE)).panels[BEFORE].shape == (350, LONG_SIDE, 3)
    assert panels_of({"a": torch.zeros(700, 1400, 3)}, long_side=1400)["a"].shape == (700, 1400, 3)


def test_written_and_read(tmp_path: Path) -> None:
    records = ViewRecords(tmp_path / "records", ABOUT)
    wanted = [_record("photo/0000", 1), _record("photo/0001", 1), _record("photo/0000", 2), _record("photo/0000", 10)]
    for record in reversed(wanted):
        records.write(record)
    heads = ViewRecords(records.folder).heads()
    assert heads == [record.head for record in wanted]
    for head, record in zip(heads, wanted, strict=True):
        found = records.open(head)
        assert found is not None and found.head == head and list(found.panels) == list(record.panels)
        for name, panel in record.panels.items():
            assert np.abs(found.panels[name].astype(int) - panel).mean() < 3, name  # JPEG


def test_words_are_kept_beside_them(tmp_path: Path) -> None:
    records = ViewRecords(tmp_path / "records", ABOUT)
    assert not records.folder.exists() and ViewRecords(records.folder).about == UNKNOWN
    records.write(_record())
    assert ViewRecords(records.folder).about == ABOUT
    (records.folder / "about.json").write_text('{"title": "half')
    assert ViewRecords(records.folder).about == UNKNOWN and records.about == ABOUT


def test_made_again_in_its_group_replaces_and_in_another_does_not(tmp_path: Path) -> None:
    records = ViewRecords(tmp_path)
    for order, step in ((1, 7), (1, 12), (2, 20)):
        records.write(_record(order=order, step=step))
    assert [(head.order, head.step) for head in records.heads()] == [(1, 12), (2, 20)]
    assert newest(records.heads())["photo/0000"].order == 2


def test_names_of_files_are_safe_and_unique(tmp_path: Path) -> None:
    records = ViewRecords(tmp_path)
    keys = ["a/b", "a_b", "A/B", "../../b", "b" * 400, "b" * 401, 'x:*?"<>|', "Fotos/Größe.png"]
    for key in keys:
        records.write(_record(key))
        records.write(_record(key, group="Round 1, level 666"))
    assert sorted(head.key for head in records.heads()) == sorted(2 * keys)
    names = [path.name for path in tmp_path.iterdir()]
    assert len({name.lower() for name in names}) == 2 * len(keys) and max(map(len, names)) < 120
    assert all(name.isascii() and not set(name) & set(' /\\:*?"<>|') for name in names)


def test_damaged_and_foreign_files_are_left_out(tmp_path: Path) -> None:
    records = ViewRecords(tmp_path)
    records.write(_record())
    (file,) = tmp_path.iterdir()
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (40, 10)).save(tmp_path / "plain.jpg")
    earlier = {"round": 1, "target": 0, "step": 3, "references": [], "change": 0.1, "mean_confidence": 1, "seconds": 1}
    for number, comment in enumerate((earlier, [], 3, None, {"panels": 3}, {"panels": ["a"]})):
        picture = Image.new("RGB", (40, 10))
        picture.save(tmp_path / f"round-01_target-{number:03d}.jpg", comment=json.dumps(comment).encode())
    (head,) = records.heads()
    assert head.key == "photo/0000" and len(records.latest(5)) == 1
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert records.open(head) is None and records.latest(5) == []


def test_what_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file where the folder should be")
    ViewRecords(tmp_path / "records", ABOUT).write(_record())
    assert ViewRecords(tmp_path / "records").heads() == []


def test_a_resumed_training_takes_over_what_was_before_it(tmp_path: Path) -> None:
    before, own = ViewRecords(tmp_path / "before", ABOUT), ViewRecords(tmp_path / "own")
    for key, order, step in (("a", 1, 7), ("b", 1, 12), ("a", 2, 16)):
        before.write(_record(key, order, step))
    own.adopt(before.folder, 13)
    own.adopt(tmp_path / "nowhere", 13)
    assert [head.key for head in own.heads()] == ["a", "b"] and len(before.heads()) == 3
    assert own.about == ABOUT
    before.adopt(before.folder, 12)  # resumed in the same folder
    assert [head.key for head in before.heads()] == ["a"]


def test_one_that_cannot_be_read_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, own, copy = ViewRecords(tmp_path / "before", ABOUT), ViewRecords(tmp_path / "own"), shutil.copy2
    for key in ("a", "b", "c"):
        before.write(_record(key))
    unreadable = before._path(before.heads()[0])

    def copied(source: Path, target: Path) -> None:
        if source == unreadable:
            raise PermissionError(13, "Permission denied", str(source))
        copy(source, target)

    monkeypatch.setattr(shutil, "copy2", copied)
    own.adopt(before.folder, 100)
    assert [head.key for head in own.heads()] == ["b", "c"]


def test_the_latest(tmp_path: Path) -> None:
    records = ViewRecords(tmp_path)
    for key, step in (("a", 9), ("b", 5), ("c", 7)):
        records.write(_record(key, step=step))
    assert [record.key for record in records.latest(2)] == ["c", "a"]


def test_numbers_for_people() -> None:
    assert describe_numbers({"agreement": 0.25, "prior": "bicubic", "change": 0.05123}) == (
        "agreement 0.25, prior bicubic, change 5.1 %"
    )
    heads = [_record(numbers={"a": 1.0, "text": "x"}).head, _record(numbers={"a": 2.0, "b": 5.0}).head]
    assert mean_numbers(heads) == {"a": 1.5, "b": 5.0}
