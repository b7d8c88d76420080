"""Force applied to nerfstudio, torch and Python, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """What is forced, and why."""

    module: str  # of this folder
    what: str
    why: str
    version: str  # that needs it
    test: str  # that holds it


PATCHES = (
    Patch(
        "splatfacto_cpu",
        "splatfacto's rasterizer, camera matrix and `.cuda()` of intrinsics",
        "splatfacto runs on CUDA alone and has a fixed near plane",
        "nerfstudio 1.1.5",
        "tests/unit/test_glue_model.py",
    ),
    Patch(
        "lpips",
        "torchmetrics' LPIPS while splatfacto is built",
        "its constructor downloads weights that most runs never use",
        "nerfstudio 1.1.5",
        "tests/unit/test_glue_model.py",
    ),
    Patch(
        "torch_load",
        "numpy scalars are safe for `torch.load`",
        "nerfstudio's checkpoints hold two of them (nerfstudio #3683)",
        "torch 2.6",
        "tests/unit/test_glue_checkpoints.py",
    ),
    Patch(
        "excepthook",
        "`sys.excepthook`",
        "ns-commands have no place where a user's mistake could be told without a traceback",
        "nerfstudio 1.1.5",
        "tests/unit/test_patches.py",
    ),
    Patch(
        "ffmpeg",
        "`install_checks.check_ffmpeg_installed`",
        "its message names a page to read, not what to type",
        "nerfstudio 1.1.5",
        "tests/unit/test_patches.py",
    ),
    Patch(
        "event_writers",
        "nerfstudio's event writers and `threading.excepthook`, once a training is set up",
        "a full disk ends the curves, not the training",
        "nerfstudio 1.1.5",
        "tests/integration/test_disk.py",
    ),
    Patch(
        "camera_path",
        "`render_panel.CameraPath`",
        "the path being edited in the Render tab cannot be reached",
        "nerfstudio 1.1.5",
        "tests/unit/test_viewer_scene.py",
    ),
    Patch(
        "viewer_tabs",
        "`RenderStateMachine._render_img`",
        "an enhanced picture comes later than the render, and each tab waits for its own",
        "nerfstudio 1.1.5",
        "tests/unit/test_viewer_live.py",
    ),
    Patch(
        "output_choice",
        "callbacks of two elements of nerfstudio's control panel, once a viewer is open",
        "the plugin's switches follow nerfstudio's own",
        "nerfstudio 1.1.5",
        "tests/viewer/test_browser.py",
    ),
)


def apply() -> None:
    """Apply all patches that need nothing but an import; twice is harmless."""
    from difix3d_ns.ns.patches import camera_path, excepthook, ffmpeg, splatfacto_cpu, torch_load, viewer_tabs

    for patch in (splatfacto_cpu, torch_load, excepthook, ffmpeg, camera_path, viewer_tabs):
        patch.apply()
