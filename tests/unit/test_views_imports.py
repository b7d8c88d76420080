"""Pseudo-views know neither nerfstudio nor diffusion nor a rasterizer."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

from difix3d_ns import views

FOREIGN = (
    "nerfstudio",
    "diffusers",
    "gsplat",
    "difix3d_ns.priors.registry",
    "difix3d_ns.rasterization",
    "difix3d_ns.training",
)


@pytest.mark.slow
def test_no_module_pulls_in_its_users():
    modules = [f"difix3d_ns.views.{module.name}" for module in pkgutil.iter_modules(views.__path__)]
    assert len(modules) >= 6
    script = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert set(modules) <= set(loaded)
    assert [name for name in loaded if name.startswith(FOREIGN)] == []
