"""Sliding-window inference with nnU-Net's predictor on preprocessed images, with results on the network grid.

nnU-Net's sliding window blends the logits; `voxel_statistics` computes their softmax block by block. Mirroring is off
by default, so that each case passes through the network once.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from nnunet_assft.active.options import MEAN, STD
from nnunet_assft.active.scoring.case_record import CaseRecord
from nnunet_assft.active.scoring.original_grid import OriginalGrid
from nnunet_assft.active.scoring.views import MIRRORINGS
from nnunet_assft.active.scoring.voxel_statistics import head_gradient
from nnunet_assft.errors import AssftError
from nnunet_assft.network.interface import build_network, encoder_of, is_slow_alone, last_layer


class Scorer(OriginalGrid):
    """A segmentation network in nnU-Net's sliding-window predictor, and the way from its grid to that of an image.

    plans, dataset_json: those of the experiment. weights: state dict of the segmentation network. device: device of the
    forward passes. embedding: the option of this name, see `pooled`.
    """

    # five parameters: the network, where it runs, and what is taken from it
    def __init__(
        self,
        plans: dict[str, Any],
        dataset_json: dict[str, Any],
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        embedding: str = MEAN,
    ) -> None:
        super().__init__(plans, dataset_json)
        self.embedding = embedding
        self.network = build_network(
            self.configuration.configuration["architecture"],
            determine_num_input_channels(self.plans_manager, self.configuration, dataset_json),
            self.label_manager.num_segmentation_heads,
        )
        self.network.load_state_dict(weights)
        self.network.to(device).eval()
        self.float64_device = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        with redirect_stdout(io.StringIO()):  # nnU-Net prints lines about the CPU and about compiling each time
            self.predictor = _Predictor(use_mirroring=False, device=device, allow_tqdm=False)
            self.predictor.manual_initialization(
                self.network, self.plans_manager, self.configuration, [dict(weights)], dataset_json, "", (0, 1, 2)
            )
        self.predictor.in_batches = device.type == "cpu" and is_slow_alone(self.network, self.configuration.patch_size)
        self.predictor.network = self.network  # not compiled, also with nnUNet_compile=t: that ignores later hooks

    @torch.inference_mode()
    def embed(self, case: str, image: np.ndarray) -> CaseRecord:
        """Return a record with the embedding alone. Only the encoder is run, on the windows that `logits` uses."""
        patch_size = self.configuration.patch_size
        padded, _ = pad_nd_image(torch.from_numpy(image), patch_size, "constant", {"value": 0}, True, None)
        device, encoder = self.predictor.device, encoder_of(self.network)
        with self.bottleneck() as windows, torch.autocast(device.type, enabled=device.type == "cuda"):
            for window in self.predictor._internal_get_sliding_window_slicers(padded.shape[1:]):
                encoder(self.predictor.batch_of(padded[window][None].to(device)))
        embedding = windows.mean()
        check_finite(case, embedding)
        return CaseRecord(case, embedding, None)

    def logits(self, image: np.ndarray, *, mirroring: bool = False) -> torch.Tensor:
        """Return nnU-Net's blended sliding-window logits, (C, z, y, x), on the network grid."""
        self.predictor.use_mirroring = mirroring
        try:
            logits: torch.Tensor = self.predictor.predict_sliding_window_return_logits(torch.from_numpy(image))
        finally:
            self.predictor.use_mirroring = False
        return logits

    @contextmanager
    def bottleneck(self) -> Iterator[WindowMean]:
        """Collect the embedding of every window, (d,): the encoder's last output, pooled over space."""

        def pool(module: torch.nn.Module, inputs: Any, levels: list[torch.Tensor]) -> torch.Tensor:
            return pooled(levels[-1][0].to(self.float64_device).double(), self.embedding)

        with self._collect(encoder_of(self.network), pool) as windows:
            yield windows

    @contextmanager
    def head_gradients(self) -> Iterator[WindowMean]:
        """Collect the gradient of the loss at the segmentation layer, (C, F), of every window."""

        def gradient(module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
            features, logits = inputs[0][0].to(self.float64_device), logits[0].to(self.float64_device)
            return head_gradient(features, logits)

        with self._collect(last_layer(self.network), gradient) as windows:
            yield windows

    @contextmanager
    def _collect(self, module: torch.nn.Module, value: Callable[..., torch.Tensor]) -> Iterator[WindowMean]:
        windows = WindowMean()
        hook = module.register_forward_hook(lambda *call: windows.values.append(value(*call)))
        self.predictor.before_windows.append(windows.values.clear)
        try:
            yield windows
        finally:
            self.predictor.before_windows.remove(windows.values.clear)
            hook.remove()


class _Predictor(nnUNetPredictor):
    """nnU-Net's predictor with three changes.

    It decides before the first window whether the logits of a case fit into the memory of the GPU. nnU-Net would try,
    and start again when the memory is exhausted, perhaps at the last window. It calls `before_windows` before each pass
    over the windows, as values collected in a pass that is started again must be dropped. It also duplicates a window
    where a batch of two is faster.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before_windows: list[Callable[[], None]] = []
        self.in_batches = False  # see `is_slow_alone`

    def predict_sliding_window_return_logits(self, input_image: torch.Tensor) -> torch.Tensor:
        """Return the logits of an image, see `Scorer.logits`."""
        if self.device.type == "cuda":
            unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            free = torch.cuda.mem_get_info(self.device)[0] + unused
            patch_size, classes = self.configuration_manager.patch_size, self.label_manager.num_segmentation_heads
            self.perform_everything_on_device = bytes_of_pass(input_image.shape, patch_size, classes) <= free
        logits: torch.Tensor = super().predict_sliding_window_return_logits(input_image)
        return logits

    def batch_of(self, window: torch.Tensor) -> torch.Tensor:
        """Return the window, (1, channels, z, y, x), duplicated where a batch of two is faster."""
        return window.expand(2, *window.shape[1:]) if self.in_batches else window

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

    def _internal_predict_sliding_window_return_logits(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        for call in self.before_windows:
            call()
        logits: torch.Tensor = super()._internal_predict_sliding_window_return_logits(*args, **kwargs)
        return logits


def bytes_of_pass(shape: Sequence[int], patch_size: Sequence[int], classes: int) -> int:
    """Return how much memory a pass over the windows of an image takes at its peak, if everything is on the GPU.

    shape: (channels, z, y, x) of the image. Per voxel: the image in float32, the logits and the sum of the weights in
    float16, and three bytes for each logit when nnU-Net looks for infinities, as `torch.isinf` compares a copy without
    signs. Per voxel of a window: 1 kB for the activations of the network, which is generous for 32 features at full
    resolution.
    """
    voxels = math.prod(max(n, patch) for n, patch in zip(shape[1:], patch_size, strict=True))
    return voxels * (4 * shape[0] + 2 * classes + 2 + 3 * classes) + 1024 * math.prod(patch_size)


def pooled(features: torch.Tensor, embedding: str) -> torch.Tensor:
    """Return the mean of each feature map over space, its population SD, or all means and then all SDs, (d,).

    features: (F, z, y, x).
    """
    space = (1, 2, 3)
    if embedding == MEAN:
        return features.mean(dim=space)
    deviations = features.std(dim=space, correction=0)
    return deviations if embedding == STD else torch.cat([features.mean(dim=space), deviations])


class WindowMean:
    """Collects one small tensor per window. The tensors stay on their device until `mean` is called."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    def mean(self) -> np.ndarray:
        """Return the mean over the windows, with equal weights, in the precision of the values."""
        mean: np.ndarray = torch.stack(self.values).mean(dim=0).cpu().numpy()
        return mean


def check_finite(case: str, *values: np.ndarray) -> None:
    """Raise `AssftError`, which names the case, if one of the values is NaN or infinite."""
    if not all(np.isfinite(v).all() for v in values):
        raise _not_finite(case)


@contextmanager
def finite_logits(case: str) -> Iterator[None]:
    """Raise the same error where nnU-Net finds logits that are infinite, at the latest in the float16 of its sums."""
    try:
        yield
    except RuntimeError as error:
        if "Encountered inf" in str(error):
            raise _not_finite(case) from error
        raise


def _not_finite(case: str) -> AssftError:
    return AssftError(
        f"The network output for case {case} is not finite. If the training has diverged (see progress.png), "
        "plan a new experiment with a lower --initial_lr. If the pre-trained encoder causes it, check its file."
    )
