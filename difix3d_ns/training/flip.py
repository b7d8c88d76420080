"""FLIP that can be differentiated (Andersson et al., FLIP: A Difference Evaluator for Alternating Images, 2020)."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

_PER_DEGREE = 0.7 * 3840 / 0.7 * math.pi / 180  # pixels, of the paper's default: 0.7 m before a screen 0.7 m wide
_SENSITIVITY = ((0, 1.0, 0.0047), (1, 1.0, 0.0053), (2, 34.1, 0.04), (2, 13.5, 0.025))
"""Gaussians of the contrast sensitivity: channel of YCxCz, height a, width b (table 1)."""
_FEATURE = 0.5 * 0.082 * _PER_DEGREE  # standard deviation in pixels of the edge and point detectors
_COLOUR, _KNEE, _SHARE, _FEATURES = 0.7, 0.4, 0.95, 0.5  # q_c, p_c, p_t, q_f
_EPS = 1e-6  # keeps roots differentiable where pictures agree


def flip(picture: Tensor, truth: Tensor) -> Tensor:
    """Mean LDR-FLIP at 67 pixels per degree.

    Args:
        picture, truth: [B, 3, H, W] in [0, 1], sRGB.

    Returns:
        A number in [0, 1]; agrees with NVIDIA's evaluator to about 1e-5.
    """
    opponents = [_to_opponents(_to_linear(p)) for p in (picture, truth)]
    first, second = (_perceived(p) for p in opponents)
    colour = _redistribute(_hyab(first - second).clamp_min(_EPS) ** _COLOUR)
    bright = [(p[:, :1] + 16) / 116 for p in opponents]
    features = torch.stack([_difference(bright[0], bright[1], derivative) for derivative in (1, 2)]).amax(0)
    features = (features / math.sqrt(2)).clamp_min(_EPS) ** _FEATURES
    return (colour.clamp_min(_EPS) ** (1 - features)).mean()


def _to_linear(picture: Tensor) -> Tensor:
    return torch.where(picture > 0.04045, ((picture.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, picture / 12.92)


@functools.cache
def _matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    """Linear sRGB -> XYZ relative to the white D65, and back."""
    primaries = torch.tensor([[0.64, 0.33, 0.03], [0.30, 0.60, 0.10], [0.15, 0.06, 0.79]], dtype=torch.float64).T
    white = torch.tensor([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290], dtype=torch.float64)
    forward = primaries * torch.linalg.solve(primaries, white) / white[:, None]
    return forward.float().to(device), torch.linalg.inv(forward).float().to(device)


def _mix(matrix: Tensor, picture: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, picture)


def _to_opponents(linear: Tensor) -> Tensor:
    """YCxCz."""
    x, y, z = _mix(_matrices(linear.device)[0], linear).split(1, 1)
    return torch.cat([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _perceived(opponents: Tensor) -> Tensor:
    """CIELab with Hunt's adjustment of what is left after the eye's contrast sensitivity."""
    radius = math.ceil(3 * math.sqrt(0.04 / (2 * math.pi**2)) * _PER_DEGREE)
    places = torch.arange(-radius, radius + 1, device=opponents.device) / _PER_DEGREE
    filtered = [torch.zeros_like(opponents[:, :1]) for _ in range(3)]
    weight = [0.0, 0.0, 0.0]
    for channel, height, width in _SENSITIVITY:
        kernel = torch.exp(-(math.pi**2) * places**2 / width)
        share = height * math.sqrt(math.pi / width) * float(kernel.sum()) ** 2
        kernel = kernel / kernel.sum()
        filtered[channel] = filtered[channel] + share * _convolve(opponents[:, channel : channel + 1], kernel, kernel)
        weight[channel] += share
    y, red_green, blue_yellow = (values / total for values, total in zip(filtered, weight, strict=True))
    y = (y + 16) / 116
    relative = torch.cat([y + red_green / 500, y, y - blue_yellow / 200], 1)
    return _to_lab(_mix(_matrices(y.device)[1], relative).clamp(0, 1))


def _to_lab(linear: Tensor) -> Tensor:
    """CIELab whose a and b shrink with the lightness (Hunt 1952)."""
    relative = _mix(_matrices(linear.device)[0], linear)
    edge = 6 / 29
    root = torch.where(relative > edge**3, relative.clamp_min(edge**3) ** (1 / 3), relative / (3 * edge**2) + 4 / 29)
    x, y, z = root.split(1, 1)
    lightness = 116 * y - 16
    return torch.cat([lightness, 5 * lightness * (x - y), 2 * lightness * (y - z)], 1)


def _hyab(difference: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W] (Abasi et al. 2020)."""
    return difference[:, :1].abs() + (difference[:, 1:].square().sum(1, keepdim=True) + _EPS**2).sqrt()


def _redistribute(error: Tensor) -> Tensor:
    """Map errors to [0, 1]: those below a share of the largest one get most of the range."""
    green, blue = torch.eye(3, device=error.device)[1:, :, None, None]
    largest = float(_hyab(_to_lab(green[None]) - _to_lab(blue[None]))) ** _COLOUR
    knee = _KNEE * largest
    return torch.where(error < knee, _SHARE / knee * error, _SHARE + (error - knee) / (largest - knee) * (1 - _SHARE))


def _difference(first: Tensor, second: Tensor, derivative: int) -> Tensor:
    """Difference of edges (first derivative) or points (second), [B, 1, H, W]."""
    radius = math.ceil(3 * _FEATURE)
    places = torch.arange(-radius, radius + 1, device=first.device, dtype=first.dtype)
    smooth = torch.exp(-(places**2) / (2 * _FEATURE**2))
    change = smooth * (-places if derivative == 1 else places**2 / _FEATURE**2 - 1)
    # Positive and negative weights sum to 1 and -1.
    change = torch.where(change > 0, change / change.clamp_min(0).sum(), -change / change.clamp_max(0).sum())
    smooth = smooth / smooth.sum()
    sizes = [
        (_convolve(p, change, smooth).square() + _convolve(p, smooth, change).square() + _EPS**2).sqrt()
        for p in (first, second)
    ]
    return (sizes[0] - sizes[1]).abs()


def _convolve(plane: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """[B, 1, H, W] with a separable kernel, edges repeated."""
    radius = len(across) // 2
    plane = F.pad(plane, (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(
        F.conv2d(plane, across.to(plane.dtype)[None, None, None]), down.to(plane.dtype)[None, None, :, None]
    )
