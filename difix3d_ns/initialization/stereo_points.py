"""Initial points found by stereo among the training photographs, beside those that came with the scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from difix3d_ns.io.config_fields import check_at_least, fill_unset
from difix3d_ns.io.run import Run
from difix3d_ns.views.coverage import spare_share
from difix3d_ns.views.protocols import PointCloud, Scene

CPU_POINTS = 12_000
CUDA_POINTS = 50_000
"""Not measured; with more Gaussians in all, denser points cost less."""
MIN_POINTS = 1000
"""fewer, found by stereo alone, cover a scene worse than splatfacto's random ones"""


@dataclass
class InitialPointsConfig:
    """Settings of the points that training starts from, beside those that came with the scene."""

    stereo: int | None = None
    """points added before training, found by stereo among the training photos (unset: 12000 on a CPU, 50000 with CUDA,
    none where points of ``depth`` are there, the scene's own points are dense or photos many; 0 = none)"""
    depth: int | None = None
    """points added before training from the depth of training photos, measured or estimated
    (unset: 12000 on a CPU, 50000 with CUDA; 0 = none)"""
    stereo_by_default: bool = field(default=False, init=False, compare=False)
    """whether the number of stereo was unset; no flag"""

    def fit(self, run: Run) -> None:
        """Fill in the numbers of points by device."""
        self.stereo_by_default |= self.stereo is None
        count = CPU_POINTS if run.on_cpu else CUDA_POINTS
        fill_unset(self, stereo=count, depth=count)

    def check(self, flag: str) -> None:
        """Raise a UserError that names the flag if a number is negative."""
        check_at_least(self, flag, {"stereo": 0, "depth": 0})


def stereo_room(
    config: InitialPointsConfig, given: int, max_gs_num: int | None, photographs: int, steps: int
) -> tuple[int, str]:
    """Number of points that stereo may add, and why none: it takes minutes, which must bring something.

    Args:
        config: with its number filled in.
        given: number of points of the scene.
        max_gs_num: most Gaussians there may be, half of which are left to densification; 0 or None: no bound.
        photographs: of the scene.
        steps: of training.

    Returns:
        The number, and a message where it is 0 although stereo was not switched off.
    """
    wanted = config.stereo or 0
    if not wanted:
        return 0, ""
    room = min(wanted, max_gs_num // 2 - given) if max_gs_num else wanted
    if room <= 0:
        return 0, (
            f"No stereo: the scene's own {given} points leave no room for more among {max_gs_num} Gaussians "
            "(--pipeline.model.max-gs-num)."
        )
    reason = ""
    if config.stereo_by_default and given >= room:
        reason = f"the scene's own {given} points are dense already"
    elif config.stereo_by_default and given >= MIN_POINTS and not spare_share(photographs, steps):
        reason = f"{photographs} photos find out about depth in training, from the scene's own {given} points"
    if reason:
        return 0, f"No stereo: {reason} (--pipeline.initial-points.stereo {wanted} adds up to {room} all the same)."
    return room, ""


def stereo_cloud(scene: Scene, given: Tensor | None, count: int, log: Callable[[str], None]) -> PointCloud | None:
    """Find points on what photographs show of each other.

    Args:
        scene: whose photographs.
        given: [P, 3] world points it came with; None: training would start from random ones.
        count: maximum number of points.
        log: prints what was found.

    Returns:
        The points; None if training starts better without them.
    """
    from rich.progress import track

    from difix3d_ns.geometry.stereo import LONG_SIDE, stereo_depths, stereo_points

    views = [scene.photo(index).within(LONG_SIDE) for index in range(len(scene))]

    def progress(indices: Sequence[int]) -> Sequence[int]:
        return track(list(indices), "Stereo among photos")  # type: ignore[return-value]

    depths = stereo_depths(views, given, progress)  # type: ignore[arg-type]
    positions, colours = stereo_points(views, depths, count)
    if given is None and len(positions) < MIN_POINTS:
        log(f"Stereo found only {len(positions)} points: training starts from random ones.")
        return None
    log(
        f"{len(positions)} initial points added to {0 if given is None else len(given)} by stereo "
        "(--pipeline.initial-points.stereo)"
    )
    return PointCloud(positions, colours) if len(positions) else None
