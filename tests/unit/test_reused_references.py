"""References of neighbouring frames: kept while they serve, exchanged one by one, in a steady order."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.ns.reference_views import ReferenceViews
from difix3d_ns.ns.training_scene import TrainingScene
from difix3d_ns.views.protocols import Render
from difix3d_ns.views.references import choose_references
from difix3d_ns.views.reused_references import reuse_references
from tests.stand_ins import FlatRenderer, ModelOfScene
from tests.unit.known_scenes import straight, wall_reference
from tests.unit.tiny_scene import datamanager, write_scene

WALL = [wall_reference(straight(x)) for x in (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)]


def _choose(x: float, previous: list[int], count: int = 3, candidates: list[PosedImage] = WALL) -> list[int]:
    view = wall_reference(straight(x))
    return reuse_references(view.camera, view.depth, view.alpha, candidates, count, previous)


def _differing(first: list[int], second: list[int]) -> int:
    return sum(a != b for a, b in zip(first, second, strict=True))


def _changes(chosen: list[list[int]]) -> int:
    return sum(a != b for a, b in itertools.pairwise(chosen))


@pytest.mark.parametrize("x", [-2.4, -0.3, 0.5, 2.9])
def test_without_a_frame_before_it_is_the_plain_choice(x: float) -> None:
    view = wall_reference(straight(x))
    assert _choose(x, []) == choose_references(view.camera, view.depth, view.alpha, WALL, 3)


def test_a_shaking_camera_keeps_its_references() -> None:
    """Halfway between two photographs the plain choice goes to and fro."""
    way = [0.5 + 0.04 * (-1) ** i for i in range(12)]
    alone = [_choose(x, []) for x in way]
    shared = [alone[0]]
    for x in way[1:]:
        shared.append(_choose(x, shared[-1]))
    assert _changes(alone) == 11
    assert _changes(shared) == 0


def test_along_a_way_they_change_one_by_one() -> None:
    way = torch.linspace(-3, 3, 61).tolist()
    alone = [_choose(x, []) for x in way]
    shared = [alone[0]]
    for x in way[1:]:
        shared.append(_choose(x, shared[-1]))
    # one is replaced where it stands, or two neighbours change places
    assert max(_differing(a, b) for a, b in itertools.pairwise(alone)) == 3
    assert max(_differing(a, b) for a, b in itertools.pairwise(shared)) == 2
    # and it gets there: the photograph taken from the end shows most
    assert shared[-1] == alone[-1] == [6, 5, 4]


def test_what_shows_nothing_any_more_is_dropped() -> None:
    hidden = wall_reference(straight(0.1), y=-1.0)  # something else stands in front
    candidates = [hidden, *WALL]
    chosen = _choose(0.0, [0, 4, 5], candidates=candidates)
    assert 0 not in chosen and {4, 5} <= set(chosen)


def test_a_newcomer_takes_the_place_of_the_one_it_replaces() -> None:
    view = wall_reference(straight(0.0))
    far, left, right = (wall_reference(straight(x)) for x in (9.0, -0.5, 0.5))
    candidates = [left, far, right]
    assert reuse_references(view.camera, view.depth, view.alpha, candidates, 2, [0, 1]) == [0, 2]


def test_the_order_turns_only_when_another_one_clearly_shows_more() -> None:
    assert _choose(0.55, [3, 4], count=2) == [3, 4]  # 4 is the nearer one by a little
    assert _choose(0.55, [4, 3], count=2) == [4, 3]
    near, far = wall_reference(straight(0.0)), wall_reference(straight(4.0))
    assert _choose(0.0, [1, 0], count=2, candidates=[near, far]) == [0, 1]


def test_no_candidates_too_many_and_repeated_ones() -> None:
    assert _choose(0.0, [], candidates=[]) == []
    assert _choose(0.0, [3], count=0) == []
    assert sorted(_choose(0.0, [3, 3, 2], count=99)) == list(range(7))
    assert len(_choose(0.0, [0, 1, 2, 3, 4], count=2)) == 2
    with pytest.raises(IndexError):
        _choose(0.0, [7])


def test_where_nothing_is_to_be_seen_the_nearest_are_chosen() -> None:
    view = wall_reference(straight(0.1))
    empty = torch.zeros_like(view.depth)
    assert reuse_references(view.camera, empty, empty, WALL, 2, [0, 6]) == [3, 4]


def test_photographs_know_former_ones_by_their_place_in_the_dataset(tmp_path: Path) -> None:
    scene = TrainingScene(datamanager(write_scene(tmp_path / "scene", count=9)), ModelOfScene(8))
    references = ReferenceViews(scene, FlatRenderer(), nearest=4)
    view = scene.cameras()[6]
    render = Render(torch.full((30, 40, 3), 0.5), torch.ones(30, 40, 1), torch.full((30, 40, 1), 2.0))
    assert references.select(view, render, 1) == [6]
    assert references.select(view, render, 1, keep=[0]) == [6]  # too far away to be looked at
    assert references.select(view, render, 1, keep=[4]) == [6]  # shows clearly less
    alone = references.select(view, render, 4)
    assert references.select(view, render, 4, keep=alone) == alone
    assert sorted(references.select(view, render, 4, keep=[7, 1])) == [4, 5, 6, 7]
