"""Transfers to a device, pretended."""

from __future__ import annotations

import pytest
import torch

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.io.transfers import sent
from difix3d_ns.priors.base import FixRequest, FixResult
from tests.pretended_cuda import CUDA, counting, pretended_cuda
from tests.unit.known_scenes import camera_at, photograph

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("device", ["cuda", torch.device("cuda"), CUDA])
def test_a_tensor_is_sent_without_a_wait(device: torch.device | str) -> None:
    values = torch.rand(3, 2)
    with pretended_cuda(), counting() as traffic:
        there = sent(values, device)
        again = sent(there, device)
        assert (traffic["h2d"], traffic["waits"]) == (1, 0)
        assert there.is_cuda and again is there and torch.equal(there.cpu(), values)


def test_a_tensor_stays_where_nothing_else_is_asked() -> None:
    values = torch.rand(2)
    assert sent(values, "cpu") is values


def test_gradients_come_back() -> None:
    values = torch.rand(4, requires_grad=True)
    with pretended_cuda():
        (3 * sent(values, "cuda")).sum().backward()
    assert torch.equal(values.grad, torch.full((4,), 3.0))


def test_a_request_and_a_result_move_without_waits() -> None:
    photo, _ = photograph(camera_at(0.0, width=12, height=8))
    request = FixRequest(photo.image, [photo, PosedImage(photo.image)], photo.camera, photo.depth, photo.alpha, seed=3)
    with pretended_cuda(), counting() as traffic:
        there = request.to("cuda")
        assert (traffic["h2d"], traffic["waits"]) == (7, 0)
        maps = [part for view in (there, *there.references) for part in (view.image, view.depth, view.alpha)]
        assert [None if part is None else part.is_cuda for part in maps] == 7 * [True] + 2 * [None]
        assert there.camera is request.camera and there.references[0].camera is photo.camera and there.seed == 3
        back = FixResult(there.image, there.alpha).to("cpu")
        assert torch.equal(back.image, photo.image) and not back.confidence.is_cuda and back.depth is None
