"""Photographs that help each other: what one is certain of, the others are given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.geometry.resize import resized
from difix3d_ns.priors.multiview import _confirming, _helped, load
from tests.unit.known_scenes import camera_at, photograph
from tests.unit.tiny_depth import write_depth

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_depth(tmp_path_factory.mktemp("multiview")))


def photographs() -> list[PosedImage]:
    return [photograph(camera_at(0.3 * number, width=96, height=64))[0] for number in range(3)]


def test_certain_depth_of_others_arrives_where_it_belongs(weights: str) -> None:
    views = photographs()
    prior = load(weights)
    state = dict(prior.start([replace(view, depth=None, alpha=None) for view in views]))
    for number, view in enumerate(views):
        assert view.depth is not None
        state[f"first/{number}"] = resized(view.depth, 32, 48, "nearest-exact")
        state[f"first_uncertainty/{number}"] = torch.full((32, 48, 1), 0.001)
    helped, truth = _helped(state, 1), views[1].depth
    assert truth is not None
    known = helped > 0
    assert 0.03 < float(known.float().mean()) < 0.2  # a sixteenth of the pixels of each of two
    off = (helped / truth)[known].log().abs()
    assert float(off.median()) < 0.01 and float((off < 0.05).float().mean()) > 0.85  # some are hidden here

    for number in range(3):
        state[f"first_uncertainty/{number}"] = torch.full((32, 48, 1), 0.1)
    assert not _helped(state, 1).any()  # nobody is certain


def test_what_a_photograph_has_is_kept(weights: str) -> None:
    views = photographs()
    prior = load(weights)
    state = dict(prior.start(views))
    for number in range(3):
        state[f"first/{number}"] = torch.full((32, 48, 1), 9.0)
        state[f"first_uncertainty/{number}"] = torch.full((32, 48, 1), 0.001)
    own = state["hints/1"] > 0
    assert own.any() and torch.equal(_helped(state, 1)[own], state["hints/1"][own])


def test_others_confirm_what_they_found_in_the_same_place(weights: str) -> None:
    views = photographs()
    state = dict(load(weights).start(views))
    for number, view in enumerate(views):
        assert view.depth is not None
        state[f"depth/{number}"] = view.depth
    assert float((_confirming(state, 1) == 2).float().mean()) > 0.7  # not beside the card, nor outside
    state["depth/0"] = 1.1 * state["depth/0"]
    count = _confirming(state, 1)
    assert float((count == 1).float().mean()) > 0.7 and float((count == 2).float().mean()) < 0.05
    state["depth/2"] = 0 * state["depth/2"]
    assert float((_confirming(state, 1) == 0).float().mean()) > 0.95


def test_the_more_certain_of_both_passes_counts(weights: str) -> None:
    views = photographs()
    prior = load(weights)
    state = dict(prior.start(views))
    for _ in views:
        state = dict(prior.step(state))
    left, right = torch.full((32, 48, 1), 1e-6), torch.full((32, 48, 1), torch.inf)
    known = torch.arange(48).view(1, -1, 1) < 24
    state["first/0"] = torch.full((32, 48, 1), 3.0)
    state["first_uncertainty/0"] = torch.where(known, left, right)
    found = prior.step(state)
    assert (found["depth/0"][:, :48] == 3).all() and not (found["depth/0"][:, 48:] == 3).any()
