"""GPS positions of photos, and the way from COLMAP's coordinates to metres by them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags

from difix3d_ns.io.images import open_picture, picture_errors

MIN_PLACED = 3
MAX_TILT = math.radians(3)
"""standard deviation of the direction of up, as the positions' deviations explain it: above, they are not used"""
_MAX_APART = 0.5  # of the positions' extent across their main direction: what deviates more is left out
_MIN_ACROSS = 0.02  # of the extent along the main direction: below, the positions are in one line
_MIN_AGREEING = 0.5  # of the photos
_SEED = 0


@dataclass(frozen=True)
class GpsAlignment:
    """Coordinates in metres (x east, y north, z up) about an origin, or the reason why there are none."""

    transform: Any = None
    """pycolmap.Sim3d from COLMAP's coordinates; None if the positions do not suffice"""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """latitude and longitude in degrees, altitude in metres"""
    message: str = ""
    """for people"""


def read_position(photo: Path) -> tuple[float, float, float] | None:
    """Read latitude and longitude in degrees (WGS84) and altitude in metres from EXIF; None without all three."""
    with open_picture(photo, decode=False) as picture, picture_errors(photo):
        tags = picture.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    gps = ExifTags.GPS
    try:
        latitude = _degrees(tags[gps.GPSLatitude], str(tags[gps.GPSLatitudeRef]) == "S")
        longitude = _degrees(tags[gps.GPSLongitude], str(tags[gps.GPSLongitudeRef]) == "W")
        altitude = float(tags[gps.GPSAltitude]) * (-1 if tags.get(gps.GPSAltitudeRef) in (1, b"\x01") else 1)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    found = (latitude, longitude, altitude)
    known = all(map(math.isfinite, found)) and (latitude, longitude) != (0, 0)  # which cameras without a fix write
    return found if known else None


def _degrees(parts: Sequence[Any], negative: bool) -> float:
    degrees, minutes, seconds = map(float, parts)
    return (degrees + minutes / 60 + seconds / 3600) * (-1 if negative else 1)


def align(
    pycolmap: Any, centres: Mapping[str, np.ndarray], positions: Mapping[str, Sequence[float]]
) -> GpsAlignment | None:
    """Find metres, north and up.

    Args:
        pycolmap: the module.
        centres: [3] of the placed photos' cameras by name, in COLMAP's coordinates.
        positions: latitude, longitude, altitude of photos by name, as ``read_position`` has them.

    Returns:
        None if no placed photo has a position.
    """
    names = [name for name in centres if name in positions]
    if not names:
        return None
    if len(names) < MIN_PLACED:
        return _refused(f"of {len(names)} placed photos alone; at least {MIN_PLACED} are needed")
    known = np.array([positions[name] for name in names], float)
    latitude, longitude, altitude = map(float, np.median(known, axis=0))
    origin = (latitude, longitude, altitude)
    metres = pycolmap.GPSTransform().ellipsoid_to_enu(known, *origin)
    extent = np.linalg.svd(metres - metres.mean(0), compute_uv=False) / math.sqrt(len(names))
    if extent[1] <= _MIN_ACROSS * extent[0]:
        return _refused("in one line, which leaves open where up is; take some photos from beside it")
    options = pycolmap.RANSACOptions(max_error=_MAX_APART * extent[1], random_seed=_SEED)
    own = np.array([centres[name] for name in names])
    found = pycolmap.estimate_sim3d_robust(own, metres, options)
    agreeing = np.zeros(len(names), bool) if found is None else np.asarray(found["inlier_mask"])
    count = int(agreeing.sum())
    if count < max(MIN_PLACED, _MIN_AGREEING * len(names)):
        return _refused(f"too inexact: those of {len(names)} photos disagree with where COLMAP places them")
    transform = pycolmap.estimate_sim3d(own[agreeing], metres[agreeing])
    apart = np.linalg.norm(transform * own[agreeing] - metres[agreeing], axis=1)
    residual = math.sqrt(float((apart**2).mean()))
    tilt = residual / (extent[1] * math.sqrt(count))
    if tilt > MAX_TILT:
        return _refused(
            f"too inexact: they deviate by {residual:.2g} m where the photos were taken within {2 * extent[1]:.2g} m"
        )
    others = f", without {len(names) - count} that disagree" if count < len(names) else ""
    return GpsAlignment(
        transform,
        origin,
        f"Metres and up are by the GPS positions of {count} photos{others}; they deviate by {residual:.2g} m "
        f"(root mean square), which leaves up open by {math.degrees(tilt):.1f} degrees. --gps no leaves them out.",
    )


def _refused(reason: str) -> GpsAlignment:
    return GpsAlignment(message=f"Not used, the GPS positions are {reason}. Scale and up are COLMAP's.")
