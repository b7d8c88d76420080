"""Commands that make something of nothing: demos and procedural captures."""

from __future__ import annotations

from pathlib import Path


def demo(output: Path = Path("demo"), seed: int = 0, steps: int | None = None) -> None:
    """Make a procedural scene, train it with and without pseudo-views, and compare.

    Args:
        output: folder for scene, trainings, results.json, comparison.png, close_ups.png and report.html.
        seed: seed of the scene.
        steps: training steps (unset: the defaults of the device).
    """
    from difix3d_ns.apps.demo import run_demo

    run_demo(output, seed, steps)


def demo_3dsr(
    output: Path = Path("demo-3dsr"), seed: int = 0, steps: int | None = None, upscaler: str | None = None
) -> None:
    """Make a procedural scene, train on photos of 120 px with and without 3DSR, and compare at 480 px.

    Args:
        output: folder for scene, trainings, results.json, comparison.png and report.html.
        seed: seed of the scene.
        steps: steps of each training (unset: those of 3dsr-splatfacto on the device).
        upscaler: upscaler of 3DSR, by its name in difix3d upscale (unset: the embedded one).
    """
    from difix3d_ns.apps.demo_3dsr import run_demo_3dsr

    run_demo_3dsr(output, seed, steps, upscaler)


def demo_object(output: Path = Path("demo-object"), seed: int = 0, steps: int | None = None) -> None:
    """Make one photo of a procedural object into 3D, and compare it with what cameras all around the object see.

    Args:
        output: folder for the photo and what image-to-3d makes of it, results.json and comparison.png.
        seed: seed of the object.
        steps: training steps (unset: the default of the device).
    """
    from difix3d_ns.apps.demo_object import run_demo_object

    run_demo_object(output, seed, steps)


def demo_scene(output: Path, seed: int = 0) -> None:
    """Write a small procedural scene with known truth, ready for ns-train.

    Args:
        output: folder to write.
        seed: seed of the scene.
    """
    from difix3d_ns.data.procedural import demo_scene as write

    write(output, seed=seed)
    print(f"Train on it: ns-train difix3d-splatfacto --data {output}")


def photos(output: Path, seed: int = 0, count: int = 24) -> None:
    """Write unposed photos of a procedural scene, to try difix3d pose on.

    Args:
        output: folder to write.
        seed: seed of the scene.
        count: number of photos.
    """
    from difix3d_ns.data.procedural import photographs as write

    write(output, seed=seed, count=count)
    print(f"Pose them: difix3d pose {output} --output SCENE")
