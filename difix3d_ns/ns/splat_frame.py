"""The way between a capture's own coordinates and those of its splat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from difix3d_ns.io.atomic import write_json


@dataclass(frozen=True)
class SplatFrame:
    """Place of a splat in the coordinates that its capture came with, all in float64."""

    transform: np.ndarray  # [3, 4] from original coordinates, before scaling
    scale: float  # applied last

    @classmethod
    def of(cls, outputs: DataparserOutputs) -> SplatFrame:
        """Return the frame that a dataparser has chosen."""
        return cls(outputs.dataparser_transform.detach().cpu().double().numpy()[:3], float(outputs.dataparser_scale))

    @property
    def offset(self) -> np.ndarray:  # [3]
        """Original coordinates of the splat's origin; small numbers stay once they are subtracted."""
        return -np.linalg.solve(self.transform[:, :3], self.transform[:, 3])

    @property
    def to_original(self) -> np.ndarray:  # [4, 4]
        """Matrix from the splat's coordinates to original ones."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.linalg.inv(self.transform[:, :3]) / self.scale
        matrix[:3, 3] = self.offset
        return matrix

    def original_pose(self, pose: np.ndarray) -> np.ndarray:
        """Return a camera-to-world [3, 4] of the splat's in original coordinates; the camera's axes stay the same."""
        placed = self.to_original[:3] @ np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
        placed[:, :3] *= self.scale
        return placed

    def pose_of(self, original: np.ndarray) -> np.ndarray:
        """Return a camera-to-world [3, 4] of original coordinates in the splat's; the camera's axes stay the same."""
        placed = self.transform @ np.vstack([original, [0.0, 0.0, 0.0, 1.0]])
        placed[:, 3] *= self.scale
        return placed

    def as_json(self) -> dict[str, Any]:
        """Return the contents of the file beside a splat."""
        return {
            "about": (
                "original = splat_to_original @ [x, y, z, 1] for a point of the splat; "
                "splat = scale * (transform @ [x, y, z, 1]) for a point in original coordinates, in float64; "
                "offset: original coordinates of the splat's origin"
            ),
            "offset": self.offset.tolist(),
            "scale": self.scale,
            "transform": self.transform.tolist(),
            "splat_to_original": self.to_original.tolist(),
        }

    def write(self, path: Path) -> None:
        """Write the file beside a splat."""
        write_json(path, self.as_json())
