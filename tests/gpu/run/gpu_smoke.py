"""First checks on a CUDA device, each alone, with seconds and peak memory: python gpu_smoke.py OUT [CHECK...]"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.gpu.run.checks import Checks, milliseconds

Size = tuple[int, int]  # width, height

check = Checks()


def splats(count: int, width: int, height: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Means, quaternions, scales, opacities, view matrix [1, 4, 4] and intrinsics [1, 3, 3]; all before the camera."""
    g = torch.Generator().manual_seed(seed)
    z = 2 + 4 * torch.rand(count, generator=g)
    means = torch.cat([(torch.rand(count, 2, generator=g) * 1.8 - 0.9) * z[:, None], z[:, None]], -1)
    size = -1.2 - 0.33 * torch.log(torch.tensor(float(count)))
    scales = torch.exp(0.4 * torch.randn(count, 3, generator=g) + size)
    quats, opacities = torch.randn(count, 4, generator=g), 0.05 + 0.9 * torch.rand(count, generator=g)
    return means, quats, scales, opacities, torch.eye(4)[None], intrinsics(width, height)[None]


def intrinsics(width: int, height: int) -> Tensor:  # [3, 3]
    return torch.tensor([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])


def request(width: int, height: int, device: str, count: int = 20_000, seed: int = 1) -> Any:
    """What a fixer is asked: a smooth picture, and itself from three places beside it as references."""
    from difix3d_ns.geometry.pinhole import Pinhole
    from difix3d_ns.geometry.posed_image import PosedImage
    from difix3d_ns.priors.base import FixRequest
    from difix3d_ns.rasterization import median_depth

    parts = tuple(part.to(device) for part in splats(count, width, height))
    colours = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    picture = F.interpolate(colours, (height, width), mode="bilinear")[0].permute(1, 2, 0).contiguous().to(device)

    def view(aside: float) -> tuple[Pinhole, Tensor, Tensor]:
        pose = torch.eye(4)
        pose[0, 3] = aside
        camera = Pinhole(pose, intrinsics(width, height), width, height)
        matrix = camera.world_to_camera[None].to(device)
        depth, alpha = median_depth(*parts[:4], matrix, parts[5], width, height)
        return camera, depth[0], alpha[0]

    references = [PosedImage(picture, *view(0.05 * i)) for i in (1, 2, 3)]
    return FixRequest(picture, references, *view(0.0))


@check
def backend() -> str:
    """Compiles gsplat, which takes minutes on a fresh machine."""
    from gsplat.cuda._backend import _C

    assert _C is not None, "gsplat has no kernels"
    p = torch.cuda.get_device_properties(0)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return f"{p.name} sm{p.major}{p.minor}, torch {torch.__version__}, bf16 {bf16}"


@check
def rasterizers_agree() -> list[float]:
    """Relative differences of gsplat's picture, opacity and gradients from ours."""
    from gsplat import rasterization as theirs

    from difix3d_ns.rasterization import rasterization as ours

    parts = splats(3000, 160, 120)
    colours = torch.randn(3000, 4, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    found = {}
    for device, rasterize in (("cpu", ours), ("cuda", theirs)):
        leaves = [part.to(device).clone().requires_grad_() for part in (*parts[:4], colours)]
        settings = {"sh_degree": 1, "packed": False, "render_mode": "RGB+ED", "absgrad": True, "near_plane": 0.5}
        image, alpha, info = rasterize(*leaves, *(part.to(device) for part in parts[4:]), 160, 120, **settings)
        info["means2d"].retain_grad()
        image[..., :3].square().mean().backward()
        results = [image[..., :3], alpha, *(leaf.grad for leaf in leaves), info["means2d"].absgrad]
        found[device] = [result.detach().cpu() for result in results]
        missing = {"radii", "means2d", "width", "height", "n_cameras", "gaussian_ids"} - set(info)
        assert not missing, missing
    pairs = zip(found["cuda"], found["cpu"], strict=True)
    return [round(float((a - b).norm() / b.norm().clamp_min(1e-12)), 5) for a, b in pairs]


@check
def median_depth(
    counts: Sequence[int] = (100_000, 1_000_000, 3_000_000), width: int = 1600, height: int = 1064
) -> dict[str, Any]:
    """Against the CPU's, then time and memory by number of Gaussians."""
    from difix3d_ns.rasterization import median_depth as median

    result: dict[str, Any] = {}
    parts = splats(2000, 160, 120)
    exact, alpha = median(*parts, 160, 120)
    there = tuple(part.cuda() for part in parts)
    depth, opacity = (value.cpu() for value in median(*there, 160, 120))
    result["alpha differs"] = float((opacity - alpha).abs().max())
    both = (exact > 0) & (depth > 0)
    relative = ((depth - exact).abs() / exact)[both]
    result["rel. depth p50, p99"] = [round(float(relative.quantile(q)), 5) for q in (0.5, 0.99)]
    result["hit differs"] = float(((exact > 0) != (depth > 0)).float().mean())
    behind = (there[0] * torch.tensor([1, 1, -1.0], device="cuda"), *there[1:])
    result["all behind"] = float(median(*behind, 160, 120)[0].abs().max())
    for count in counts:
        torch.cuda.reset_peak_memory_stats()
        many = tuple(part.cuda() for part in splats(count, width, height))
        base = torch.cuda.memory_allocated()
        result[f"{count} at {width}x{height}, ms"] = milliseconds(lambda many=many: median(*many, width, height), 3)
        result[f"{count}, extra MiB"] = round((torch.cuda.max_memory_allocated() - base) / 2**20)
    return result


@check
def embedded_fixer(
    sizes: Sequence[Size] = ((480, 320), (960, 640), (1600, 1064), (1920, 1080), (3840, 2160)),
) -> dict[str, Any]:
    """CUDA against CPU, time and memory by size, and that attention is not the quadratic one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from difix3d_ns.priors.embedded import load

    result: dict[str, Any] = {}
    asked = request(320, 240, "cpu")
    (exact,) = load(None, "cpu", torch.float32).fix([asked])
    for dtype in (torch.float32, None):
        (fixed,) = load(None, "cuda", dtype).fix([asked.to("cuda")])
        assert fixed.image.is_cuda and fixed.image.dtype == torch.float32
        difference = (fixed.image.cpu() - exact.image).abs()
        result[f"{dtype}: picture mean, max"] = [float(difference.mean()), float(difference.max())]
    fixer = load(None, "cuda")
    try:
        fixer.fix([asked])
        result["request on the CPU"] = "works"
    except RuntimeError as error:
        result["request on the CPU"] = f"FAILS: {error}"[:120]
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
        fixer.fix([request(480, 320, "cuda")])
    for width, height in sizes:
        one = request(width, height, "cuda")
        for count in (1, 4):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
            took = milliseconds(lambda batch=[one] * count: fixer.fix(batch), 3)
            extra = (torch.cuda.max_memory_allocated() - base) / 2**30
            result[f"{width}x{height} x{count}"] = f"{took} ms, {extra:.2f} GiB"
    return result


@check
def stereo(width: int = 480, height: int = 320) -> str:
    from difix3d_ns.geometry.posed_image import PosedImage
    from difix3d_ns.geometry.stereo import stereo_depths

    asked = request(width, height, "cuda")
    views = [PosedImage(asked.image, asked.references[0].camera)]
    views += [PosedImage(reference.image, reference.camera) for reference in asked.references]
    points = splats(3000, width, height)[0].cuda()
    began = time.perf_counter()
    stereo_depths(views, points)
    torch.cuda.synchronize()
    return f"{(time.perf_counter() - began) / len(views):.2f} s a photograph"


@check
def pool_step(sizes: Sequence[Size] = ((960, 640), (1600, 1064), (1920, 1080)), count: int = 112) -> dict[str, str]:
    """What a step on a made view does before its first kernel."""
    from difix3d_ns.geometry.pinhole import Pinhole
    from difix3d_ns.ns.batches import to_batch
    from difix3d_ns.views.pool import Pool
    from difix3d_ns.views.view import TrainView

    result = {}
    for width, height in sizes:
        with tempfile.TemporaryDirectory() as folder:
            pool, generator = Pool(256, Path(folder), device="cuda"), torch.Generator().manual_seed(0)
            for i in range(count):
                pose = torch.eye(4)
                pose[0, 3] = i * 0.1
                camera = Pinhole(pose, intrinsics(width, height), width, height)
                image, trust = torch.rand(height, width, 3), torch.rand(height, width, 1)
                pool.put(TrainView(f"target/{i:03d}@1", camera, image, confidence=trust))

            def draw(pool: Pool = pool, generator: torch.Generator = generator) -> tuple[Tensor, Tensor]:
                view = pool.sample(generator)
                to_batch(view)
                return view.image, view.confidence

            first = milliseconds(draw, 30)
            for _ in range(8 * count):
                draw()
            result[f"{width}x{height}"] = (
                f"{first} ms, then {milliseconds(draw, 30)}; {len(pool._held)} of {count} in RAM, "
                f"{len(pool._there)} on the device"
            )
    return result


if __name__ == "__main__":
    check.run(Path(sys.argv[1]) / "smoke.json", sys.argv[2:])
