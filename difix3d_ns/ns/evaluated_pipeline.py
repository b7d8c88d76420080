"""Base of our pipelines, which say so where no photo is held out."""

from __future__ import annotations

from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from difix3d_ns.ns.datamanager import SceneDatamanager
from difix3d_ns.ns.held_out_photos import none_held_out


class EvaluatedPipeline(VanillaPipeline):
    """Pipeline whose evaluation needs held-out photos."""

    datamanager: SceneDatamanager

    def get_average_eval_image_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Mean metrics of the held-out photos.

        Raises:
            UserError: none is held out.
        """
        if len(self.datamanager.eval_dataset) == 0:
            raise none_held_out("so there is nothing to evaluate")
        metrics: dict[str, Any] = super().get_average_eval_image_metrics(*args, **kwargs)
        return metrics
