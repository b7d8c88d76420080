"""Median depth on CUDA, by gsplat, against the CPU kernel."""

import pytest
import torch

from difix3d_ns.rasterization import median_depth
from difix3d_ns.rasterization.median import depth_bins
from difix3d_ns.rasterization.projection import project

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("bins", [32, 128])
def test_cuda_agrees_with_cpu_within_a_bin(bins):
    g = torch.Generator().manual_seed(4)
    n, width, height = 2000, 160, 120
    z = 2 + 4 * torch.rand(n, generator=g)
    means = torch.cat([(torch.rand(n, 2, generator=g) * 1.4 - 0.7) * z[:, None], z[:, None]], -1)
    scales = torch.exp(0.5 * torch.randn(n, 3, generator=g) - 2.6)
    opacities = 0.05 + 0.9 * torch.rand(n, generator=g)
    K = torch.tensor([[[120.0, 0.0, 80.0], [0.0, 120.0, 60.0], [0.0, 0.0, 1.0]]])
    gaussians = (means, torch.randn(n, 4, generator=g), scales, opacities, torch.eye(4)[None], K)
    exact, exact_alpha = median_depth(*gaussians, width, height)
    depth, alpha = (x.cpu() for x in median_depth(*(x.cuda() for x in gaussians), width, height, bins=bins))
    # gsplat drops what lies beyond 3 sigma and outside a tile: alpha up to 0.0106 of single Gaussians
    assert (alpha - exact_alpha).abs().max() < 0.03
    seen = project(*gaussians[:3], None, *gaussians[4:], width, height)[0][0] > 0
    edges = torch.cat([z[seen].min()[None], depth_bins(z[seen], bins), z[seen].max()[None]])
    right = torch.searchsorted(edges, exact).clamp(1, bins)
    width_of_bin = edges[right] - edges[right - 1]
    hit = exact > 0
    assert ((depth - exact).abs() > width_of_bin + 1e-4)[hit].double().mean() < 0.02  # weight sums near 0.5
