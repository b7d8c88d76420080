"""Records of fixes: what is kept, what survives, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from difix3d_ns.views.records import LONG_SIDE, FixRecord, FixRecords, record_fix


def _record(round: int = 1, target: int = 0, size: tuple[int, int] = (40, 60), seed: int = 0) -> FixRecord:
    smooth = torch.linspace(0.1, 0.9, size[1]).expand(size[0], -1)[..., None].expand(-1, -1, 3)
    confidence = torch.full((*size, 1), 0.25)
    reference = torch.full((90, 30, 3), 0.5)
    return record_fix(round, target, 7 + seed, ("b/1.png", "a.png"), 0.5, smooth, smooth + 0.05, confidence, reference)


def test_numbers_and_pictures() -> None:
    record = _record()
    assert record.change == pytest.approx(0.05, abs=1e-6)
    assert record.mean_confidence == 0.25
    assert record.before.shape == record.after.shape == record.reference.shape == record.confidence.shape == (40, 60, 3)
    assert np.abs(record.after.astype(int) - record.before - 12.75).max() <= 1
    lit = record.reference.any(-1)
    assert lit.all(0).nonzero()[0].tolist() == list(range(23, 36))  # a portrait, whole and in the middle


def test_large_views_are_recorded_small() -> None:
    assert _record(size=(700, 2 * LONG_SIDE)).before.shape == (350, LONG_SIDE, 3)


def test_a_view_without_reference() -> None:
    picture = torch.rand(30, 40, 3)
    record = record_fix(1, 0, 0, (), 0.1, picture, picture, torch.ones(30, 40, 1))
    assert record.change == 0 and not record.reference.any()


def test_written_and_read(tmp_path: Path) -> None:
    records = FixRecords(tmp_path / "fixes")
    for record in (_record(2, 0), _record(1, 1), _record(1, 0)):
        records.write(record)
    found = records.read()
    assert [(r.round, r.target) for r in found] == [(1, 0), (1, 1), (2, 0)]
    assert found[0].references == ("b/1.png", "a.png") and found[0].step == 7
    for name in ("before", "after", "reference", "confidence"):
        wanted = getattr(_record(), name).astype(int)
        assert np.abs(getattr(found[0], name).astype(int) - wanted).mean() < 3, name  # JPEG


def test_repaired_again_replaces(tmp_path: Path) -> None:
    records = FixRecords(tmp_path)
    records.write(_record(seed=0))
    records.write(_record(seed=5))
    assert [record.step for record in records.read()] == [12]


def test_damaged_and_foreign_files_are_left_out(tmp_path: Path) -> None:
    records = FixRecords(tmp_path)
    records.write(_record())
    whole = (tmp_path / "round-01_target-000.jpg").read_bytes()
    (tmp_path / "round-01_target-001.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "round-01_target-002.jpg").write_bytes(b"")
    from PIL import Image

    Image.new("RGB", (40, 10)).save(tmp_path / "round-01_target-003.jpg")
    assert [record.target for record in records.read()] == [0]


def test_what_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "fixes").write_text("a file where the folder should be")
    FixRecords(tmp_path / "fixes").write(_record())
    assert FixRecords(tmp_path / "fixes").read() == []


def test_a_resumed_training_takes_over_what_was_before_it(tmp_path: Path) -> None:
    before, own = FixRecords(tmp_path / "before"), FixRecords(tmp_path / "own")
    for target, seed in ((0, 0), (1, 5), (2, 9)):
        before.write(_record(1, target, seed=seed))  # of steps 7, 12 and 16
    own.adopt(before.folder, 13)
    own.adopt(tmp_path / "nowhere", 13)
    assert [record.target for record in own.read()] == [0, 1] and len(before.read()) == 3
    before.adopt(before.folder, 12)  # resumed in the same folder
    assert [record.target for record in before.read()] == [0]


def test_the_latest_and_the_references(tmp_path: Path) -> None:
    records = FixRecords(tmp_path)
    for target, seed in ((0, 9), (1, 5), (2, 7)):
        records.write(_record(1, target, seed=seed))
    (tmp_path / "round-01_target-009.jpg").write_bytes(b"")
    assert [record.target for record in records.latest(2)] == [2, 0]
    assert records.references() == {f"target/{target:03d}@1": ("b/1.png", "a.png") for target in range(3)}
