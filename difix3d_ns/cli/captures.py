"""Commands on photos: where they were taken, and their depth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def pose(
    photos: Annotated[Path, tyro.conf.Positional],
    output: Path,
    lens: Literal["perspective", "fisheye", "pinhole"] = "perspective",
    matching: Literal["exhaustive", "sequential"] | None = None,
    frames: int = 120,
    long_side: int = 1600,
    force: bool = False,
    masks: Path | None = None,
    gps: Literal["auto", "no"] = "auto",
) -> None:
    """Find out where photos were taken: from a folder of photos or a video to a scene that ns-train reads.

    Uses COLMAP's Python package; nothing else has to be installed. Started again it goes on where it stopped. From ten
    photos on, every eighth is held out for evaluation.

    Args:
        photos: folder of photos, or a video.
        output: folder to write: images/, transforms.json, sparse_pc.ply, and COLMAP's files and masks in colmap/.
        lens: perspective with some distortion, fisheye, or pinhole for undistorted pictures.
        matching: exhaustive compares each photo with each other, sequential with its neighbours by name (unset:
            exhaustive up to 120 photos, sequential above and for a video).
        frames: number of frames taken of a video, at most: evenly along the camera's way, the sharpest ones.
        long_side: size at which features are searched: pixels of the long side, at most.
        force: start over and overwrite an existing scene.
        masks: folder of masks, named as the photos; one picture that is the mask of all photos or frames; or for a
            video, a video or a folder of masks, one for each frame; what is black in a mask is neither matched nor
            trained on.
        gps: auto gives the scene metres, north and up by the photos' GPS positions, if they are exact enough; no keeps
            COLMAP's scale and axes.
    """
    from difix3d_ns.apps.pose_photos import pose as place

    print(place(photos, output, lens, matching, frames, long_side, force, masks, gps).describe())
    print(f"Train on it: ns-train difix3d-splatfacto --data {output}")


def depth(
    scene: Annotated[Path, tyro.conf.Positional],
    output: Path,
    prior: str = "multiview",
    weights: str | None = None,
    long_side: int = 960,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Estimate the depth of a scene's training photos from all of them.

    Writes a scene that trains with it, in the original coordinates: undistorted photos in images/, depth in depths/,
    its confidence in confidence/ (.npy), and transforms.json; and to look at, coloured depth in pictures/ and
    points.ply. Held-out photos get no depth and are not opened.

    Args:
        scene: folder that ns-train reads.
        output: folder to write.
        prior: multiview (embedded), single-view (published weights that you name), or package.module of yours.
        weights: a file or folder of weights, or a hub id (unset: the prior's own).
        long_side: size of photos and maps: pixels of the long side, at most.
        device: cpu or cuda (unset: cuda if there is one).
        force: overwrite an existing scene.
    """
    from difix3d_ns.apps.depth_maps import write_depths

    files = write_depths(scene, output, prior, weights, long_side, device, force)
    print(f"Depth of {len(files)} photos is in {output}. Train with it: ns-train sparse-splatfacto --data {output}")
