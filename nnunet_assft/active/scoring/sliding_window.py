"""nnU-Net's sliding window, gone through once per pass whatever happens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from nnunet_assft.active.scoring.views import MIRRORINGS
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.precision import autocast, lay_out
from nnunet_assft.volumes.headers import require_memory

CPU = torch.device("cpu")
Window = tuple[slice, slice, slice, slice]


class InfiniteLogitsError(Exception):
    """The logits of a case are infinite, at the latest in the float16 of their sums. No `RuntimeError`, after which
    nnU-Net would try again."""


class NoRoomError(AssftError):
    """What is computed for a case does not fit into the memory of this machine."""


class SlidingWindowPredictor(nnUNetPredictor):
    """nnU-Net's predictor, with the same logits, but with another pass over the windows of an image.

    It decides before the first window whether the logits live in the memory of the GPU or of the computer, if they fit
    there, and moves them if the memory of the GPU is exhausted nevertheless. nnU-Net would start again. It looks for
    infinities class by class, because `torch.isinf` copies what it is given. `collected` are lists to which hooks of
    the network append one value per window; a window that is computed again counts once. It also duplicates a window
    where a batch of two is faster.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.collected: list[list[torch.Tensor]] = []
        self.in_batches = False  # see `is_slow_alone`

    @torch.inference_mode()
    def predict_sliding_window_return_logits(self, input_image: torch.Tensor) -> torch.Tensor:
        """Return the blended logits, (C, z, y, x) in float16, of an image, (channels, z, y, x).

        Raises `InfiniteLogitsError`, and `NoRoomError` before the first window.
        """
        lay_out(self.network.to(self.device).eval(), self.device)
        image, inside = self.padded(input_image)
        home = self.device if self._fits(image.shape) else CPU
        if home == CPU:
            require_room(bytes_of_logits(image.shape, self.label_manager.num_segmentation_heads), image.shape)
        with autocast(self.device):
            logits = self._blended(image, home)
        if any(bool(torch.isinf(of_class).any()) for of_class in logits):
            raise InfiniteLogitsError
        unpadded = (slice(None), *inside[1:])
        return logits[unpadded]

    def padded(self, image: torch.Tensor) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """Return the image padded to the size of a window, and where the image is in it."""
        patch_size = self.configuration_manager.patch_size
        found: tuple[torch.Tensor, tuple[slice, ...]] = pad_nd_image(
            image, patch_size, "constant", {"value": 0}, True, None
        )
        return found

    def windows(self, image: torch.Tensor) -> list[Window]:
        """Return where the windows of a padded image are."""
        slicers: list[Window] = self._internal_get_sliding_window_slicers(image.shape[1:])
        return slicers

    def batch_of(self, window: torch.Tensor) -> torch.Tensor:
        """Return the window, (1, channels, z, y, x), duplicated where a batch of two is faster."""
        return window.expand(2, *window.shape[1:]) if self.in_batches else window

    def _fits(self, shape: Sequence[int]) -> bool:
        if self.device.type != "cuda":
            return False
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + unused
        patch_size, classes = self.configuration_manager.patch_size, self.label_manager.num_segmentation_heads
        return bytes_of_pass(shape, patch_size, classes) <= free

    def _blended(self, image: torch.Tensor, home: torch.device) -> torch.Tensor:
        classes, patch_size = self.label_manager.num_segmentation_heads, tuple(self.configuration_manager.patch_size)
        image = image.to(home)
        logits = torch.zeros((classes, *image.shape[1:]), dtype=torch.half, device=home)
        weights = torch.zeros(image.shape[1:], dtype=torch.half, device=home)
        gaussian = compute_gaussian(patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=home)
        for window in self.windows(image):
            n_collected = [len(values) for values in self.collected]
            try:
                prediction = self._predict(image[window])
            except torch.OutOfMemoryError:
                if logits.device == CPU:
                    raise
                for values, n in zip(self.collected, n_collected, strict=True):
                    del values[n:]
                image, logits, weights, gaussian = image.cpu(), logits.cpu(), weights.cpu(), gaussian.cpu()
                torch.cuda.empty_cache()
                prediction = self._predict(image[window])
            prediction = prediction.to(logits.device)
            prediction *= gaussian
            logits[window] += prediction
            weights[window[1:]] += gaussian
        return torch.div(logits, weights, out=logits)

    def _predict(self, window: torch.Tensor) -> torch.Tensor:
        on_device = window[None].contiguous().to(self.device)
        prediction: torch.Tensor = self._internal_maybe_mirror_and_predict(on_device)[0]
        return prediction

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of a window, as nnU-Net does, but with all its mirror images in one forward pass."""
        if not self.in_batches:
            logits: torch.Tensor = super()._internal_maybe_mirror_and_predict(x)
            return logits
        if not self.use_mirroring:
            return torch.as_tensor(self.network(self.batch_of(x))[:1])
        axes_of: list[list[int]] = [[], *([axis + 1 for axis in axes] for axes in MIRRORINGS)]  # axis 0: batch
        views = self.network(torch.cat([x.flip(axes) for axes in axes_of]))
        return torch.stack([view[None].flip(axes) for view, axes in zip(views, axes_of, strict=True)]).mean(dim=0)


def bytes_of_pass(shape: Sequence[int], patch_size: Sequence[int], classes: int) -> int:
    """Return how much memory a pass over the windows of an image takes at its peak, if everything is on the GPU.

    shape: (channels, z, y, x) of the image. Per voxel: the image in float32, the logits and the sum of the weights in
    float16, and three bytes when infinities are looked for in one class, as `torch.isinf` compares a copy without
    signs. Per voxel of a window: 1 kB for the activations of the network, which is generous for 32 features at full
    resolution.
    """
    padded = [shape[0], *(max(n, patch) for n, patch in zip(shape[1:], patch_size, strict=True))]
    return 4 * math.prod(padded) + bytes_of_logits(padded, classes) + 1024 * math.prod(patch_size)


def bytes_of_logits(shape: Sequence[int], classes: int) -> int:
    """Return how much of that is taken by what a pass makes of an image that has the size of a window or more, and what
    it takes to look for infinities. shape: (channels, z, y, x)."""
    return math.prod(shape[1:]) * (2 * classes + 2 + 3)


def require_room(needed: int, shape: Sequence[int]) -> None:
    """Raise `NoRoomError` if the memory of the computer has fewer free bytes than an image of this shape needs,
    (channels, z, y, x). The system would end the process without a word."""
    try:
        require_memory(needed, f"the predictions for its {' x '.join(map(str, shape[1:]))} voxels need")
    except ValueError as error:
        remedy = "Use a machine with more memory, or fewer --parts on this one, and run the same command again."
        raise NoRoomError(f"{error}. {remedy}") from error
