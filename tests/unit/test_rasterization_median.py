"""Median depth: the kernel and the binned algorithm against the oracle."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from difix3d_ns.rasterization import compositing, median_depth, rasterization
from difix3d_ns.rasterization.median import binned_median_depth, depth_bins
from difix3d_ns.rasterization.projection import project
from tests import pretended_gsplat
from tests.unit import compositing_oracle as oracle

WIDTH, HEIGHT = 53, 38


def scene(n: int = 400):
    g = torch.Generator().manual_seed(4)
    z = 2 + 4 * torch.rand(n, generator=g)
    xy = (torch.rand(n, 2, generator=g) * 1.4 - 0.7) * z[:, None]
    gaussians = (
        torch.cat([xy, z[:, None]], -1),
        torch.randn(n, 4, generator=g),
        torch.exp(0.5 * torch.randn(n, 3, generator=g) - 2.2),
        0.05 + 0.9 * torch.rand(n, generator=g),
    )
    views = torch.eye(4).repeat(2, 1, 1)
    views[1, :3, 3] = torch.tensor([0.3, -0.1, 0.4])
    Ks = torch.tensor([[40.0, 0.0, 26.0], [0.0, 40.0, 19.5], [0.0, 0.0, 1.0]]).repeat(2, 1, 1)
    return gaussians, views, Ks


def expected(gaussians, views, Ks):
    radii, means2d, depths, conics, _ = project(*gaussians[:3], None, views, Ks, WIDTH, HEIGHT)
    return [
        oracle.median_depth(
            means2d[c].double(),
            conics[c].double(),
            gaussians[3].double(),
            depths[c].double(),
            radii[c],
            WIDTH,
            HEIGHT,
        )
        for c in range(len(views))
    ], depths


def test_kernel_equals_oracle():
    gaussians, views, Ks = scene()
    depth, alpha = median_depth(*gaussians, views, Ks, WIDTH, HEIGHT)
    assert depth.shape == alpha.shape == (2, HEIGHT, WIDTH, 1)
    wanted, _ = expected(gaussians, views, Ks)
    for c, (wanted_depth, wanted_alpha) in enumerate(wanted):
        assert 0.2 < (wanted_depth > 0).double().mean() < 1.0  # some pixels never become opaque
        differs = (depth[c] - wanted_depth).abs() > 1e-4
        assert differs.double().mean() < 1e-3  # transmittance on 0.5 to the last bit
        assert (alpha[c] - wanted_alpha).abs().max() < 4e-3


@pytest.mark.parametrize("bins", [16, 40, 128])
def test_binned_algorithm_is_right_within_a_bin(bins):
    """The algorithm that CUDA runs on gsplat's kernels, here on our own behind the same calls."""
    gaussians, views, Ks = scene()
    depth, alpha = binned_median_depth(pretended_gsplat, *gaussians, views, Ks, WIDTH, HEIGHT, bins=bins)
    wanted, depths = expected(gaussians, views, Ks)
    exact, exact_alpha = median_depth(*gaussians, views, Ks, WIDTH, HEIGHT)
    torch.testing.assert_close(alpha, exact_alpha, rtol=0, atol=1e-5)
    radii = project(*gaussians[:3], None, views, Ks, WIDTH, HEIGHT)[0]
    for c, (wanted_depth, _) in enumerate(wanted):
        wanted_depth = wanted_depth.float()
        seen = depths[c][radii[c] > 0]
        edges = torch.cat([seen.min()[None], depth_bins(seen, bins), seen.max()[None]])
        right = torch.searchsorted(edges, wanted_depth.contiguous()).clamp(1, bins)
        width = edges[right] - edges[right - 1]
        hit = wanted_depth > 0
        wrong = (depth[c] - wanted_depth).abs() > width + 1e-4
        assert (wrong & hit).double().sum() <= 1e-3 * hit.sum()
        assert ((depth[c] > 0) != hit).double().mean() < 1e-3
        assert ((depth[c] - exact[c]).abs() > width + 1e-4)[hit].double().mean() < 1e-3


def test_two_layers():
    """A faint sheet before an opaque one: the median is the opaque one's depth, where the mean lies between."""
    means = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 5.0]])
    gaussians = (means, torch.tensor([[1.0, 0, 0, 0]] * 2), torch.full((2, 3), 3.0), torch.tensor([0.4, 0.95]))
    K = torch.tensor([[[20.0, 0.0, 4.0], [0.0, 20.0, 4.0], [0.0, 0.0, 1.0]]])
    view = torch.eye(4)[None]
    depth, alpha = median_depth(*gaussians, view, K, 8, 8)
    assert (depth == 5.0).all()
    assert alpha.min() > 0.9
    mean, _, _ = rasterization(*gaussians, means, view, K, 8, 8, render_mode="ED")
    assert 3.0 < mean.mean() < 4.5
    depth, _ = median_depth(*gaussians[:3], torch.tensor([0.3, 0.2]), view, K, 8, 8)
    assert (depth == 0).all()  # never opaque enough


def test_empty_scene_has_no_depth():
    gaussians, views, Ks = scene(0)
    for depth, alpha in (
        median_depth(*gaussians, views, Ks, 9, 5),
        binned_median_depth(pretended_gsplat, *gaussians, views, Ks, 9, 5),
    ):
        assert depth.shape == alpha.shape == (2, 5, 9, 1)
        assert (depth == 0).all()
        assert (alpha == 0).all()


def test_what_is_near_needs_no_further_bins():
    """An opaque wall before the rest: one projection, one sort, and the first chunk of bins alone is composited."""
    gaussians, views, Ks = scene()
    means, _, scales, opacities = (part.clone() for part in gaussians)
    means[:200, 2], scales[:200], opacities[:200] = 1.0, 1.0, 0.99
    calls: Counter[str] = Counter()

    def counted(name):
        def call(*args, **kwargs):
            calls[name] += 1
            return getattr(pretended_gsplat, name)(*args, **kwargs)

        return call

    names = ("fully_fused_projection", "isect_tiles", "isect_offset_encode", "rasterize_to_pixels")
    kernels = SimpleNamespace(**{name: counted(name) for name in names})
    walled = (means, gaussians[1], scales, opacities, views[:1], Ks[:1])
    depth, _ = binned_median_depth(kernels, *walled, WIDTH, HEIGHT)
    assert calls == {"fully_fused_projection": 1, "isect_tiles": 1, "isect_offset_encode": 1, "rasterize_to_pixels": 1}
    assert ((depth > 0) & (depth < 1.5)).all()
    calls.clear()
    binned_median_depth(kernels, *gaussians, views[:1], Ks[:1], WIDTH, HEIGHT)
    assert calls["isect_tiles"] == 1 and 1 < calls["rasterize_to_pixels"] <= 8


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_binned_depth_of_blurred_gaussians(mode):
    gaussians, views, Ks = scene()
    gaussians = (*gaussians[:2], 0.02 * gaussians[2], gaussians[3])  # below a pixel: compensation matters
    exact, alpha = median_depth(*gaussians, views, Ks, WIDTH, HEIGHT, rasterize_mode=mode)
    blurred = binned_median_depth(pretended_gsplat, *gaussians, views, Ks, WIDTH, HEIGHT, antialiased=mode != "classic")
    torch.testing.assert_close(blurred[1], alpha, rtol=0, atol=1e-5)
    assert ((blurred[0] > 0) != (exact > 0)).double().mean() < 1e-3


@pytest.mark.parametrize("inside", [False, True])
def test_the_kernel_is_found_in_numbas_cache_again(inside):
    """What it closes over is part of its key there: another kernel would be another one in each process."""
    cells = compositing.median_kernel(inside).py_func.__closure__ or ()
    assert all(isinstance(cell.cell_contents, bool) for cell in cells)
