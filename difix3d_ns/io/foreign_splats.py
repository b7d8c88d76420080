"""Splats in .ply files of any program: whole, or compressed as PlayCanvas and SuperSplat do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_ALWAYS = ("x", "y", "z", "opacity", *(f"scale_{axis}" for axis in range(3)), *(f"rot_{axis}" for axis in range(4)))
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_RGB = ("red", "green", "blue")
_REST = "f_rest_"
_MAX_DEGREE = 4
SH_C0 = 0.5 / math.sqrt(math.pi)
"""of the harmonic of degree 0"""
_CHUNK = 256  # Gaussians of a compressed file that share bounds
_ROOT = math.sqrt(2)  # over all but the largest component of a quaternion: each is at most 1 / sqrt(2)
_REST_RANGE = 8.0  # of harmonics with 8 bits, around 0
_LAYOUT = "a splat has x, y, z, f_dc_0 to f_dc_2, opacity, scale_0 to scale_2 and rot_0 to rot_3"


def read_foreign_splat(file: Path) -> dict[str, np.ndarray]:
    """Read Gaussians as INRIA's code, nerfstudio, gsplat, Postshot, SuperSplat and PlayCanvas write them.

    Properties count by their names, in any order; normals and others are left out. Numbers may be text, or binary of
    either byte order.

    Args:
        file: a .ply. Compressed ones are of PlayCanvas' layout (chunks of 256 with bounds, four packed words for each
            Gaussian): https://blog.playcanvas.com/compressing-gaussian-splats. Those of SuperSplat before version 2
            have no bounds of colours.

    Returns:
        splatfacto's parameters by name, float32: means [N, 3], scales [N, 3] (logarithms), quats [N, 4] (w first),
        features_dc [N, 3], features_rest [N, K, 3], opacities [N, 1] (logits).

    Raises:
        ValueError: it is no splat; the message says what is missing.
        OSError: it cannot be read.
    """
    from plyfile import PlyData, PlyParseError

    try:
        elements = {element.name: element for element in PlyData.read(str(file))}
        if "vertex" not in elements:
            raise ValueError(f"it has no element vertex; {_LAYOUT}")
        vertices = elements["vertex"].data
        if "packed_position" in (vertices.dtype.names or ()):
            if "chunk" not in elements:
                raise ValueError("it is compressed, and its element chunk is missing")
            sh = elements["sh"].data if "sh" in elements else None
            return _unpacked(vertices, elements["chunk"].data, sh)
        return _whole(vertices)
    except (PlyParseError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no whole .ply file ({error})") from error


def _whole(vertices: np.ndarray) -> dict[str, np.ndarray]:
    names = vertices.dtype.names or ()
    missing = [name for name in _ALWAYS if name not in names]
    if not {*_DC} <= {*names} and not {*_RGB} <= {*names}:
        missing.append("f_dc_0")
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}; {_LAYOUT}")
    if {*_DC} <= {*names}:
        colours = _columns(vertices, _DC)
    else:  # of 8 or 16 bits, or in [0, 1]
        kind = vertices.dtype[_RGB[0]]
        colours = _columns(vertices, _RGB) / (np.iinfo(kind).max if kind.kind in "iu" else 1.0)
        colours = (colours - 0.5) / SH_C0
    return {
        "means": _columns(vertices, ("x", "y", "z")),
        "scales": _columns(vertices, _ALWAYS[4:7]),
        "quats": _columns(vertices, _ALWAYS[7:]),
        "features_dc": colours.astype(np.float32),
        "features_rest": _rest(vertices),
        "opacities": _columns(vertices, ("opacity",)),
    }


def _unpacked(vertices: np.ndarray, chunks: np.ndarray, sh: np.ndarray | None) -> dict[str, np.ndarray]:
    count = len(vertices)
    if len(chunks) * _CHUNK < count:
        raise ValueError(f"it is compressed, and has {len(chunks)} chunks of {_CHUNK} for {count} Gaussians")
    own = np.arange(count) // _CHUNK

    def between(values: np.ndarray, ends: Sequence[str]) -> np.ndarray:  # [N, 3] in [0, 1] -> in the bounds of chunks
        low, high = (_columns(chunks, [f"{end}_{name}" for name in ends])[own] for end in ("min", "max"))
        return (low + values * (high - low)).astype(np.float32)

    def split(name: str, bits: Sequence[int]) -> np.ndarray:  # [N] words -> [N, len(bits)] in [0, 1], top bits first
        words, left, parts = vertices[name].astype(np.uint32), 32, []
        for width in bits:
            left -= width
            parts.append(((words >> np.uint32(left)) & np.uint32(2**width - 1)) / (2**width - 1))
        return np.stack(parts, axis=-1)

    colours = split("packed_color", (8, 8, 8, 8))
    bounded = "min_r" in (chunks.dtype.names or ())
    rgb = between(colours[:, :3], ("r", "g", "b")) if bounded else colours[:, :3]
    alpha = colours[:, 3:].clip(0.5 / 255, 1 - 0.5 / 255)  # 0 and 1 have no logit
    rest = np.zeros((count, 0, 3), np.float32)
    if sh is not None:
        rest = ((_rest(sh) + 0.5) / 256 - 0.5) * _REST_RANGE
    return {
        "means": between(split("packed_position", (11, 10, 11)), ("x", "y", "z")),
        "scales": between(split("packed_scale", (11, 10, 11)), ("scale_x", "scale_y", "scale_z")),
        "quats": _quaternions(split("packed_rotation", (2, 10, 10, 10))),
        "features_dc": ((rgb - 0.5) / SH_C0).astype(np.float32),
        "features_rest": rest.astype(np.float32),
        "opacities": np.log(alpha / (1 - alpha)).astype(np.float32),
    }


def _quaternions(parts: np.ndarray) -> np.ndarray:
    """Unit quaternions [N, 4], w first, of which the largest component is left out: its place, then the others."""
    largest = np.rint(parts[:, 0] * 3).astype(int)
    others = (parts[:, 1:] - 0.5) * _ROOT
    found = np.empty((len(parts), 4))
    places = np.arange(4)[None]
    rows = np.arange(len(parts))
    found[places != largest[:, None]] = others.reshape(-1)
    found[rows, largest] = np.sqrt(np.maximum(0.0, 1 - (others**2).sum(1)))
    return found.astype(np.float32)


def _rest(vertices: np.ndarray) -> np.ndarray:
    """Harmonics above degree 0, [N, K, 3]; files have all of red, then green, then blue."""
    names = sorted((n for n in vertices.dtype.names or () if n.startswith(_REST)), key=lambda n: int(n[len(_REST) :]))
    allowed = [3 * ((degree + 1) ** 2 - 1) for degree in range(_MAX_DEGREE + 1)]
    if len(names) not in allowed:
        counts = ", ".join(map(str, allowed))
        raise ValueError(f"it has {len(names)} of f_rest_*, and harmonics of degree 0 to {_MAX_DEGREE} are {counts}")
    if not names:
        return np.zeros((len(vertices), 0, 3), np.float32)
    return np.ascontiguousarray(_columns(vertices, names).reshape(len(vertices), 3, -1).transpose(0, 2, 1))


def _columns(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Properties [N, C] as float32."""
    if missing := [name for name in names if name not in (rows.dtype.names or ())]:
        raise ValueError(f"it has no {', '.join(missing)}")
    return np.stack([np.asarray(rows[name], np.float32) for name in names], axis=-1)
