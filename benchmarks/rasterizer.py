"""Time the CPU compositor, forward plus backward, against a naive numba one on the same projected Gaussians.

    python benchmarks/rasterizer.py [--baseline PATH] [--json FILE]

Binning and sorting count for both. The two take turns in one process, so that a busy machine hits both alike; each
figure is the median of 20 turns after a warm-up. Images and alphas must agree to 5e-3 (a Gaussian may fall on either
side of the 1/255 cut, and the naive one stops at tiles beyond 3 sigma). The exit status is 1 when they do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

# the baseline lies outside the project: keep its compiled kernels away from there
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "difix3d_ns_benchmark_numba"))
sys.dont_write_bytecode = True

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from difix3d_ns.rasterization.compositor import Composite  # noqa: E402
from difix3d_ns.rasterization.projection import project  # noqa: E402

CASES = {"20k_480x270": (20_000, 480, 270), "50k_480x270": (50_000, 480, 270), "100k_960x540": (100_000, 960, 540)}
COVERAGE = 30.0  # Gaussians with alpha >= 1/255 at a mean pixel
TOLERANCE = 5e-3


def scene(n: int, width: int, height: int) -> dict[str, Tensor]:
    """Projected random Gaussians filling a 60 degree frustum, sized so that COVERAGE of them cover a mean pixel."""
    g = torch.Generator().manual_seed(0)
    focal = 0.5 * width / math.tan(math.radians(30.0))
    z = 2.0 + 4.0 * torch.rand(n, generator=g)
    x = (torch.rand(n, generator=g) - 0.5) * width / focal * z
    y = (torch.rand(n, generator=g) - 0.5) * height / focal * z
    means = torch.stack([x, y, z], -1)
    quats = torch.randn(n, 4, generator=g)
    log_scales = 0.5 * torch.randn(n, 3, generator=g)
    opacities = 0.05 + 0.9 * torch.rand(n, generator=g)
    colors = torch.rand(n, 3, generator=g)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])

    def projected(mean_log_scale: float) -> tuple:
        scales = torch.exp(log_scales + mean_log_scale)
        outputs = project(means, quats, scales, None, torch.eye(4)[None], K[None], width, height)
        return tuple(x[0] for x in outputs)

    low, high = -8.0, 0.0
    for _ in range(25):  # coverage grows with the scale
        middle = (low + high) / 2
        radii, _, _, conics, _ = projected(middle)
        a, b, c = conics[radii > 0].unbind(-1)
        areas = 2 * math.pi * torch.log(255 * opacities[radii > 0]) / (a * c - b * b).sqrt()
        low, high = (middle, high) if areas.sum() / (width * height) < COVERAGE else (low, middle)
    radii, means2d, depths, conics, _ = projected(low)
    return {
        "means2d": means2d,
        "conics": conics,
        "colors": colors,
        "opacities": opacities,
        "depths": depths,
        "radii": radii,
        "grad_image": torch.randn(height, width, 3, generator=g),
        "grad_alpha": torch.randn(height, width, 1, generator=g),
    }


def load_baseline(path: Path):
    """The yardstick's module, by path: it is no part of the project."""
    if not path.is_file():
        sys.exit(f"no baseline at {path}: name one with --baseline")
    spec = importlib.util.spec_from_file_location("naive_rasterizer", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # numba's cached kernels look their module up by name
    spec.loader.exec_module(module)
    return module.Raster


def turn(render, data: dict[str, Tensor]) -> tuple[float, Tensor, Tensor, list[Tensor]]:
    """One forward plus backward: milliseconds, image, alpha and gradients (absgrad second)."""
    leaves = [data[k].clone().requires_grad_() for k in ("means2d", "conics", "colors", "opacities")]
    start = time.perf_counter()
    image, alpha, means2d = render(*leaves)
    torch.autograd.backward([image, alpha], [data["grad_image"], data["grad_alpha"]])
    elapsed = 1e3 * (time.perf_counter() - start)
    grads = [leaf.grad for leaf in leaves]
    return elapsed, image.detach(), alpha.detach(), [grads[0], means2d.absgrad[0], *grads[1:]]


def run_case(name: str, baseline, turns: int) -> dict:
    n, width, height = CASES[name]
    data = scene(n, width, height)

    def naive(means2d, conics, colors, opacities):
        batched = means2d[None]
        image, alpha = baseline.apply(
            batched, conics[None], colors, opacities, data["depths"], data["radii"], width, height
        )
        return image, alpha, batched

    def ours(means2d, conics, colors, opacities):
        batched = means2d[None]
        image, alpha = Composite.apply(
            batched[0], conics, colors, opacities, data["depths"], data["radii"], [0, n], width, height, batched
        )
        return image[0], alpha[0], batched

    times: dict[str, list[float]] = {"naive": [], "ours": []}
    results = {}
    for index in range(turns + 2):
        for label, render in (("naive", naive), ("ours", ours)):
            elapsed, *results[label] = turn(render, data)
            if index >= 2:
                times[label].append(elapsed)
    differences = [(x - y).abs().max().item() for x, y in zip(results["naive"][:2], results["ours"][:2], strict=True)]
    gradients = [
        ((x - y).norm() / x.norm()).item() for x, y in zip(results["naive"][2], results["ours"][2], strict=True)
    ]
    naive_ms, ours_ms = statistics.median(times["naive"]), statistics.median(times["ours"])
    return {
        "name": name,
        "naive_ms": round(naive_ms, 3),
        "ours_ms": round(ours_ms, 3),
        "speedup": round(naive_ms / ours_ms, 3),
        "max_difference": max(differences),
        "gradient_difference": max(gradients),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "baselines" / "naive_rasterizer.py"
    parser.add_argument(
        "--baseline", type=Path, default=default, help="file that defines Raster (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    baseline = load_baseline(options.baseline)
    print(f"{'case':14}{'naive ms':>10}{'ours ms':>10}{'speed-up':>10}{'image diff':>12}{'grad diff':>12}")
    cases = []
    for name in CASES:
        case = run_case(name, baseline, options.turns)
        cases.append(case)
        print(
            f"{name:14}{case['naive_ms']:10.1f}{case['ours_ms']:10.1f}{case['speedup']:10.2f}"
            f"{case['max_difference']:12.2e}{case['gradient_difference']:12.2e}",
            flush=True,
        )
    print(f"geometric mean {statistics.geometric_mean(c['speedup'] for c in cases):.2f}")
    if options.json:
        options.json.write_text(json.dumps({"cases": cases}, indent=2) + "\n")
    return int(any(case["max_difference"] > TOLERANCE for case in cases))


if __name__ == "__main__":
    sys.exit(main())
