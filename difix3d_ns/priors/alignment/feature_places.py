"""Places in a photograph of what a picture shows, between matched features: of solid things, without cameras."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from difix3d_ns.priors.alignment.plane_alignment import MIN_MATCHES, Features, matched_points

_OFF = 2.0  # pixels that a match may lie off its epipolar line
_CELL = 8  # pixels of the picture between places that are interpolated
_NEIGHBOURS = 12
_SMOOTHING = 1.0  # of the interpolation: a match is not exact
_REACH = 0.06  # of the picture's longer side, from a match, up to which a place is known


def places_between_matches(picture: Features, reference: Features) -> tuple[np.ndarray, np.ndarray] | None:
    """Find where a photograph shows what a picture shows.

    Args:
        picture, reference: of ``features_of``; of two views of solid things that did not move.

    Returns:
        Pixels [H, W, 2] of the photograph, and whether a match is near, bool [H, W]; None where fewer than
        ``MIN_MATCHES`` agree with one epipolar geometry.
    """
    here, there = matched_points(picture, reference)
    if len(here) < MIN_MATCHES:
        return None
    try:
        _, agrees = cv2.findFundamentalMat(here, there, cv2.USAC_MAGSAC, _OFF, 0.999, 2000)
    except cv2.error:  # no geometry explains any of them
        return None
    if agrees is None or int(agrees.sum()) < MIN_MATCHES:
        return None
    here, chosen = np.unique(here[agrees.ravel() > 0], axis=0, return_index=True)
    there = there[agrees.ravel() > 0][chosen]
    if len(here) < MIN_MATCHES:
        return None
    height, width = picture.grey.shape
    size = (max(2, -(-width // _CELL)), max(2, -(-height // _CELL)))
    columns, rows = ((np.arange(count) + 0.5) * side / count for count, side in zip(size, (width, height), strict=True))
    cells = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    between = RBFInterpolator(here, there, neighbors=min(_NEIGHBOURS, len(here)), smoothing=_SMOOTHING, kernel="linear")
    distance, _ = cKDTree(here).query(cells)
    shape = (size[1], size[0])
    places = cv2.resize(between(cells).reshape(*shape, 2).astype(np.float32), (width, height))
    near = cv2.resize(distance.reshape(shape).astype(np.float32), (width, height)) < _REACH * max(height, width)
    return places, near
