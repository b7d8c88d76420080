"""The Difix fixer on a CUDA device; skipped without one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from difix3d_ns.geometry.posed_image import PosedImage
from difix3d_ns.priors.base import FixRequest
from difix3d_ns.priors.difix import load as load_difix
from difix3d_ns.priors.networks.tiling import Tiling
from tests.unit.known_scenes import picture, requests_of
from tests.unit.official_difix import Official

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def official() -> Official:
    return Official()


@pytest.fixture(scope="module")
def folder(official: Official, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(official.write(tmp_path_factory.mktemp("difix_ref")))


@pytest.mark.parametrize("references", [0, 1, 3])
def test_float32_agrees_with_the_official_arithmetic(official: Official, folder: str, references: int):
    requests = requests_of(97, 131, references, batch=4)
    for request, result in zip(requests, load_difix(folder, "cuda", torch.float32).fix(requests), strict=True):
        expected = official.repair(request.image, [reference.image for reference in request.references]).float()
        torch.testing.assert_close(result.image, expected, atol=2e-3, rtol=0)  # convolutions in TF32


@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("compile", [False, True])
def test_half_precision_and_compiled(folder: str, dtype: torch.dtype | None, compile: bool):
    exact = load_difix(folder, "cuda", torch.float32)
    fast = load_difix(folder, "cuda", dtype, compile=compile)
    assert next(fast.network.parameters()).dtype == (dtype or torch.bfloat16)
    requests = requests_of(97, 131, 3, batch=2)
    for a, b in zip(exact.fix(requests), fast.fix(requests), strict=True):
        assert (a.image - b.image).abs().mean() < 5e-3
    if compile:
        assert fast._parts is not fast._eager, "torch.compile fell back"


def test_tiles_equal_the_whole_and_save_memory(folder: str):
    network = load_difix(folder, "cuda").network
    view = (picture(512, 768, 0).permute(2, 0, 1)[None] * 2 - 1).to("cuda", torch.bfloat16)
    peaks, results = [], []
    for tiling in (None, Tiling(2**14, offload_device=torch.device("cpu"))):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            latent, kept = network.encode(view, tiling=tiling)
            results.append(network.decode(latent, kept, tiling).float() / 2)
        peaks.append(torch.cuda.max_memory_allocated())
    assert (results[0] - results[1]).abs().max() < 2e-2
    assert peaks[1] < 0.7 * peaks[0]


def test_out_of_memory_for_real(folder: str, capsys: pytest.CaptureFixture[str]):
    """With hardly any memory left, the second attempt in pieces succeeds."""
    fixer = load_difix(folder, "cuda")
    request = FixRequest(picture(1024, 1536, 0).cuda(), [PosedImage(picture(1024, 1536, 1).cuda())])
    (expected,) = fixer.fix([request])
    fixer._latents.clear()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    fixer._room = lambda: 2**30  # type: ignore[method-assign]  # it would not even try otherwise
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 150 * 2**20) / total)
    try:
        (result,) = fixer.fix([request])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "again in smaller pieces" in " ".join(capsys.readouterr().err.split())
    assert (result.image - expected.image).abs().max() < 2e-2


def test_benchmark(tmp_path: Path):
    """At an eighth of the sides; the whole is run by hand."""
    command = [sys.executable, "benchmarks/fixer.py", "--shrink", "8", "--repeats", "2", "--output", tmp_path / "t.md"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    rows = re.findall(r"^\| \d+x\d+ .*", (tmp_path / "t.md").read_text(), flags=re.M)
    assert len(rows) == 12
