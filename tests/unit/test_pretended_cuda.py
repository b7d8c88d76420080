"""The pretended device obeys CUDA's rules, counts what costs time, and runs out of memory on demand."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import gsplat
import pytest
import torch

from difix3d_ns.rasterization import rasterization
from tests.pretended_cuda import KINDS, PretendedCuda, counting, out_of_memory, pretended_cuda

CUDA = "cuda"


@pytest.fixture
def device() -> Iterator[PretendedCuda]:
    with pretended_cuda() as device:
        yield device


def test_it_is_there_and_gone_again() -> None:
    before = torch.cuda.is_available(), torch.cuda.device_count()
    with pretended_cuda():
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        assert (torch.ones(2, device=CUDA) * 2).tolist() == [2, 2]
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == before


WAYS: dict[str, Callable[[], torch.Tensor]] = {
    "created": lambda: torch.zeros(3, device=CUDA),
    "of a list": lambda: torch.tensor([1, 2], device=torch.device("cuda", 0)),
    "moved": lambda: torch.ones(3).to("cuda:0"),
    "by .cuda()": lambda: torch.ones(3).cuda(),
    "like another": lambda: torch.zeros_like(torch.ones(3).cuda()),
    "like another's": lambda: torch.ones(3).cuda().new_tensor([1.0]),
    "to another": lambda: torch.ones(3).to(torch.ones((), device=CUDA)),
    "of a module": lambda: torch.nn.Linear(2, 2).to(CUDA).weight,
    "copied": lambda: copy.deepcopy(torch.ones(3).cuda()),
}


@pytest.mark.parametrize("way", WAYS)
def test_tensors_say_where_they_are(way: str, device: PretendedCuda) -> None:
    there = WAYS[way]()
    assert there.is_cuda and there.device == torch.device("cuda:0") and not there.is_cpu
    assert there.cpu().device.type == "cpu" and not there.cpu().is_cuda


FORBIDDEN: dict[str, tuple[Callable[[torch.Tensor], object], type[Exception], str]] = {
    "another device": (lambda x: x + torch.ones(3), RuntimeError, "same device"),
    "in place": (lambda x: torch.ones(3).add_(x), RuntimeError, "same device"),
    "a weight": (lambda x: torch.nn.Linear(3, 3)(x), RuntimeError, "same device"),
    "a scalar in a stack": (lambda x: torch.stack([x[0], torch.tensor(1.0)]), RuntimeError, "same device"),
    "an index of the device": (lambda x: torch.ones(3)[x.long()], RuntimeError, "indices"),
    "a generator of the host": (
        lambda x: torch.rand(3, device=CUDA, generator=torch.Generator()),
        RuntimeError,
        "generator",
    ),
    "numpy": (lambda x: x.numpy(), TypeError, r"Tensor\.cpu\(\)"),
    "pinned": (lambda x: x.pin_memory(), RuntimeError, "only dense CPU"),
    "gsplat on the host": (lambda x: gsplat.rasterization(*[torch.ones(1)] * 7, 8, 8), RuntimeError, "CUDA tensors"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_cuda_refuses_is_refused(what: str, device: PretendedCuda) -> None:
    attempt, error, words = FORBIDDEN[what]
    with pytest.raises(error, match=words):
        attempt(torch.ones(3, device=CUDA))


def test_what_cuda_allows_is_allowed(device: PretendedCuda) -> None:
    there = torch.arange(4.0, device=CUDA)
    there[there > 2] = 0.0
    there[[0, 1]] = 5
    there[torch.tensor([2])] += torch.tensor(1.0)  # an index and a scalar of the host
    assert there.tolist() == [5, 5, 3, 0]
    assert torch.where(there > 3, torch.tensor(1.0), there).sum() == 5
    there.unsqueeze_(0).t_()
    assert there.shape == (4, 1)


def test_threads_that_start_meanwhile_pretend_too(device: PretendedCuda) -> None:
    made: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: made.append(torch.ones(3, device=CUDA) + torch.zeros(3).cuda()))
    thread.start()
    thread.join()
    assert made[0].is_cuda and made[0].tolist() == [1, 1, 1]


def test_gradients_flow_through_both_devices(device: PretendedCuda) -> None:
    here = torch.tensor([1.0, 2.0], requires_grad=True)
    there = torch.nn.Parameter(torch.tensor([3.0, 4.0]).cuda())
    optimizer = torch.optim.Adam([there], lr=0.5, fused=True)
    ((here.cuda() * there).cpu() ** 2).sum().backward()
    assert here.grad is not None and here.grad.tolist() == [18, 64] and not here.grad.is_cuda
    assert there.grad is not None and there.grad.is_cuda and there.grad.tolist() == [6, 32]
    optimizer.step()
    assert there.tolist() == pytest.approx([2.5, 3.5])


COSTS: dict[str, tuple[Callable[[torch.Tensor], object], dict[str, int]]] = {
    "a kernel": (lambda x: x + 1, {"kernels": 1}),
    "a view": (lambda x: x[1:][None], {}),
    "a value": (lambda x: float(x[0]), {"waits": 1}),
    "a size": (lambda x: x.nonzero(), {"kernels": 1, "waits": 1}),
    "a mask's size": (lambda x: x[x > 1], {"kernels": 2, "waits": 1}),
    "a mask filled": (lambda x: x.__setitem__(x > 1, 0.0), {"kernels": 2}),
    "to the device": (lambda x: torch.ones(3).to(CUDA), {"h2d": 1, "waits": 1}),
    "back": (lambda x: x.cpu(), {"d2h": 1, "waits": 1}),
    "pageable": (lambda x: torch.ones(3).to(CUDA, non_blocking=True), {"h2d": 1, "waits": 1}),
    "pinned": (lambda x: torch.ones(3).pin_memory().to(CUDA, non_blocking=True), {"h2d": 1}),
    "an index": (lambda x: x[torch.tensor([0, 2])], {"kernels": 1, "h2d": 1, "waits": 1}),
    "synchronized": (lambda x: torch.cuda.synchronize(), {"waits": 1}),
}


@pytest.mark.parametrize("what", COSTS)
def test_costs(what: str, device: PretendedCuda) -> None:
    there = torch.arange(3.0, device=CUDA)
    call, expected = COSTS[what]
    with counting() as traffic:
        call(there)
    assert {kind: traffic[kind] for kind in KINDS if traffic[kind]} == expected


def test_an_inverse_waits_to_know_that_it_exists(device: PretendedCuda) -> None:
    there = torch.eye(3, device=CUDA)
    with counting() as traffic:
        torch.linalg.inv(there)
    assert traffic["waits"] == 1 and not traffic["d2h"]


def test_costs_are_counted_where_they_arise(device: PretendedCuda) -> None:
    from difix3d_ns.splats.losses.log_depth import depth_loss

    there = torch.ones(4, 4, 1, device=CUDA)
    with counting() as traffic:
        depth_loss(there, there, there, there)
    places = traffic.lines["kernels"]
    assert places and all(place.startswith("splats/losses/log_depth.py:") for place in places)
    assert f"kernels: {traffic['kernels']} (" in traffic.table()


def test_pinned_memory_is_the_hosts(device: PretendedCuda) -> None:
    pinned = torch.ones(4, 3).pin_memory()
    assert pinned.is_pinned() and pinned[1:].is_pinned() and pinned.device.type == "cpu"
    assert torch.zeros(3, pin_memory=True).is_pinned()
    assert not torch.ones(3).is_pinned() and not pinned.cuda().is_pinned()


def test_a_device_is_called_what_it_was_called(device: PretendedCuda) -> None:
    assert torch.device(torch.device(CUDA)) == torch.device(CUDA)


def test_memory_is_what_it_is_set_to(device: PretendedCuda) -> None:
    device.free = 5
    assert torch.cuda.mem_get_info() == (5, device.total)
    torch.cuda.empty_cache()
    assert device.emptied == 1


def test_memory_runs_out_in_the_calls_that_are_named() -> None:
    allocator = SimpleNamespace(get=lambda size: size)
    with out_of_memory(allocator, "get", 2, 3):
        assert allocator.get(7) == 7
        for _ in range(2):
            with pytest.raises(torch.cuda.OutOfMemoryError):
                allocator.get(7)
        assert allocator.get(size=7) == 7
    with pytest.raises(AssertionError, match="1 times only"), out_of_memory(allocator, "get", 2):
        allocator.get(1)


def test_gsplats_four_calls_are_its_one(device: PretendedCuda) -> None:
    """The pieces of a rasterization give what the whole gives."""
    random = torch.Generator().manual_seed(0)
    count, width, height = 300, 64, 48
    z = 2 + 3 * torch.rand(count, 1, generator=random)
    means = torch.cat([(torch.rand(count, 2, generator=random) - 0.5) * z, z], 1)
    scales = 0.05 + 0.1 * torch.rand(count, 3, generator=random)
    quats, opacities = torch.randn(count, 4, generator=random), torch.rand(count, generator=random)
    colours = torch.rand(count, 5, generator=random)
    view, intrinsics = torch.eye(4)[None], torch.tensor([[[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]])
    arguments = (means, quats, scales, opacities, colours, view, intrinsics)
    image, alpha, _ = rasterization(*arguments, width, height, packed=False)

    there = [value.cuda() for value in arguments]
    whole, _, _ = gsplat.rasterization(*there, width, height, packed=False)
    projected = gsplat.fully_fused_projection(there[0], None, *there[1:3], *there[5:], width, height)
    radii, means2d, depths, conics, compensations = projected
    _, intersections, flat = gsplat.isect_tiles(means2d, radii, depths, 16, 4, 3)
    offsets = gsplat.isect_offset_encode(intersections, 1, 4, 3)
    pieces, opacity = gsplat.rasterize_to_pixels(
        means2d, conics, there[4][None], there[3][None], width, height, 16, offsets, flat
    )
    assert whole.is_cuda and pieces.is_cuda and compensations is None
    torch.testing.assert_close(whole.cpu(), image, rtol=0, atol=0)
    torch.testing.assert_close(pieces.cpu(), image, rtol=0, atol=1e-6)
    torch.testing.assert_close(opacity.cpu(), alpha, rtol=0, atol=1e-6)
