"""What importing the method costs every ns-command."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numba", "diffusers", "transformers", "open3d", "safetensors", "lpips", "flip_evaluator")


def _modules(statements: str) -> set[str]:
    code = f"import sys\n{statements}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_the_method_adds_nothing_heavy() -> None:
    upstream = _modules(
        "import nerfstudio.models.splatfacto, nerfstudio.engine.trainer, nerfstudio.plugins.types\n"
        "import nerfstudio.data.datamanagers.full_images_datamanager, nerfstudio.viewer.viewer_elements"
    )
    ours = _modules("import difix3d_ns.methods.difix3d")
    heavy = {name for name in ours - upstream if name.split(".")[0] in HEAVY}
    assert heavy == set()
    assert "difix3d_ns.methods.difix3d" in ours
    assert not {name for name in ours if name.startswith("gsplat.cuda._backend")}


@pytest.mark.slow
def test_every_module_of_the_glue_leaves_the_cuda_build_alone() -> None:
    ours = _modules(
        "import difix3d_ns.methods.difix3d, difix3d_ns.splats.strategies.mcmc, difix3d_ns.guidance.difix\n"
        "import difix3d_ns.apps.fix_images, difix3d_ns.cli\n"
        "import difix3d_ns.rasterization.rasterize, difix3d_ns.rasterization.median"
    )
    assert not {name for name in ours if name.startswith("gsplat.cuda._backend")}
    assert "open3d" not in ours


def test_the_command_line_starts_without_what_commands_need() -> None:
    ours = _modules("import difix3d_ns.cli")
    assert "difix3d_ns.cli.splats" in ours
    assert not {name.split(".")[0] for name in ours} & {*HEAVY, "torch", "nerfstudio", "numpy", "PIL", "cv2"}
