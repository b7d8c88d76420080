"""Depth that a capture brings: maps of LiDAR and other sensors, and how far they are to be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from difix3d_ns.errors import UserError

DEFAULT_UNIT = 1e-3
"""metres per unit of a depth file, nerfstudio's ``--depth-unit-scale-factor``: integers are millimetres"""
_MAX_METRES = 100.0
"""median above which numbers with a fraction are no metres: no sensor measures so far, and 0.1 m is 100 mm"""
_LEVELS = 2
"""ARKit's highest level of confidence"""
_EXR = "OPENCV_IO_ENABLE_OPENEXR"


def read_depth(path: Path, unit: float = DEFAULT_UNIT) -> np.ndarray:
    """Read a depth map: PNG or TIFF of 16 bits, float TIFF, EXR or PFM, ``.npy``, ``.npz`` with one array.

    Integers are in ``unit``, as Polycam, Stray Scanner and others write them (16-bit PNG, millimetres). Numbers with a
    fraction are metres, as Record3D's EXR are, unless a unit is given or their median says that they are in it:
    nerfstudio takes them in its unit, too.

    Args:
        path: of the file.
        unit: metres per unit.

    Returns:
        [H, W] float32 metres along z, 0 where it is not known.

    Raises:
        UserError: the file cannot be read as depth.
    """
    values = _read(path, "depth", "depth_file_path")
    if values.dtype == np.uint8:
        raise UserError(f"{path} has 8 bits, too few for depth: write 16-bit PNG (integers) or .npy (metres)")
    depth = values.astype(np.float64)
    depth[~(np.isfinite(depth) & (depth > 0))] = 0
    known = depth[depth > 0]
    whole = values.dtype.kind in "iu"
    if whole or unit != DEFAULT_UNIT or (len(known) and np.median(known) > _MAX_METRES):
        depth *= unit
    return depth.astype(np.float32)


def read_confidence(path: Path) -> np.ndarray:
    """Read how far a sensor trusts its depth, pixel by pixel.

    ARKit has three levels, 0 low, 1 medium, 2 high (``ARConfidenceLevel`` in its header ``ARDepthData.h``). Stray
    Scanner writes them as they are, and so does Record3D (github.com/marek-simonik/record3d, issue 81). Polycam writes
    0, 127, 255 and advises leaving out what is low (README of github.com/PolyCam/polyform). So whole numbers up to 2
    are levels, others shares of the highest number of their type.

    Args:
        path: a picture of one channel, ``.npy`` or ``.npz``.

    Returns:
        [H, W] float32 in [0, 1]: 0 low, about 0.5 medium, 1 high.

    Raises:
        UserError: the file cannot be read as confidence.
    """
    values = _read(path, "depth confidence", "depth_confidence_path")
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    top = float(np.nanmax(values, initial=0))
    if values.dtype.kind in "iu":
        scale = float(_LEVELS) if top <= _LEVELS else 255.0 if top <= 255 else 65535.0
    else:
        scale = float(_LEVELS) if 1 < top <= _LEVELS else 1.0
    return np.nan_to_num(values.astype(np.float32) / scale, nan=0.0).clip(0, 1)


def confidence_of(depth: Path) -> Path | None:
    """Find the confidence of a depth map: a file of the same name in the folder ``confidence`` beside its folder.

    Polycam and Stray Scanner write ``depth/NAME.png`` and ``confidence/NAME.png``; nerfstudio's ns-process-data copies
    the depth of a Polycam capture, but not its confidence.

    Args:
        depth: path of the depth map.

    Returns:
        The file; None if there is none.
    """
    folder = depth.parent.parent / "confidence"
    for suffix in dict.fromkeys((".png", depth.suffix, ".npy")):
        if (found := folder / f"{depth.stem}{suffix}").is_file():
            return found
    return None


def _read(path: Path, kind: str, key: str) -> np.ndarray:
    """Numbers [H, W] of a file."""
    remedy = f"correct it, or remove the frame's `{key}` from transforms.json"
    if not path.is_file():
        raise UserError(f"{path} ({kind} of a photo) does not exist: {remedy}")
    try:
        values = _array(path) if path.suffix.lower() in (".npy", ".npz") else _picture(path)
    except (OSError, ValueError, EOFError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as {kind}: {reason}; {remedy}") from error
    if values.ndim == 3 and values.shape[2] in (3, 4):  # OpenCV's order: the last colour is red, which Record3D uses
        if values.dtype.kind in "iu" and (values[..., :3] != values[..., :1]).any():
            raise UserError(f"{path} is a picture in colour, no {kind}: {remedy}")
        values = values[..., 2]
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(2 if values.shape[2] == 1 else 0)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise UserError(f"{path} holds {values.dtype} {list(values.shape)}, no {kind} [height, width]: {remedy}")
    return values


def _array(path: Path) -> np.ndarray:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        if len(content.files) != 1:
            raise ValueError(f"it holds the arrays {', '.join(content.files) or '(none)'} where one is expected")
        array: np.ndarray = content[content.files[0]]
    return array


def _picture(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".exr" and not os.environ.get(_EXR):
        raise ValueError(f"OpenCV reads EXR only if {_EXR}=1 is set in the environment: set it before the command")
    import cv2

    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    try:  # from memory: OpenCV's own reading fails on names beyond ASCII on some systems
        values = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if len(content) else None
    except cv2.error as error:
        raise ValueError(str(error)) from error
    if values is None:
        raise ValueError("no picture that OpenCV reads")
    return np.asarray(values)
