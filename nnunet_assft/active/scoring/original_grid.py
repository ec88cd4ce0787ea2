"""What a network predicts, brought from its grid to that of the image, as nnU-Net's own prediction does.

No network is needed for it, so processes do it that have none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_assft.nnunet_names import CONFIGURATION


class OriginalGrid:
    """The way from the grid of the network to the grid of an image. plans, dataset_json: those of the experiment."""

    def __init__(self, plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
        self.plans_manager = PlansManager(plans)
        self.configuration = self.plans_manager.get_configuration(CONFIGURATION)
        self.label_manager = self.plans_manager.get_label_manager(dataset_json)

    def segmentation(self, logits: torch.Tensor, properties: dict[str, Any]) -> np.ndarray:
        """Return the argmax of the logits, (C, z, y, x), on the original grid, (z, y, x), as nnU-Net exports it."""
        segmentation: np.ndarray = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.cpu(),
            self.plans_manager,
            self.configuration,
            self.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        return segmentation

    def to_original_grid(self, volume: torch.Tensor, properties: dict[str, Any], *, outside: float) -> np.ndarray:
        """Resample a volume of the network grid, (z, y, x), to the original grid, as logits are.

        outside: the value of the voxels outside nnU-Net's crop to the nonzero region.
        """
        spacing = [properties["spacing"][axis] for axis in self.plans_manager.transpose_forward]
        shape = properties["shape_after_cropping_and_before_resampling"]
        cropped = self.configuration.resampling_fn_probabilities(
            volume[None].cpu(), shape, self.configuration.spacing, spacing
        )
        whole = np.full(properties["shape_before_cropping"], outside, dtype=np.float32)
        whole = insert_crop_into_image(whole, np.asarray(cropped)[0], properties["bbox_used_for_cropping"])
        return whole.transpose(self.plans_manager.transpose_backward)


def bytes_to_export(logits: np.ndarray, properties: dict[str, Any]) -> int:
    """Return how much memory it takes to bring the logits of a case, (C, z, y, x), to the original grid in another
    process: a copy of them, and twice all channels on the original grid in float32."""
    return logits.nbytes + 2 * 4 * len(logits) * math.prod(properties["shape_before_cropping"])
