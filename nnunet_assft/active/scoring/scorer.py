"""Sliding-window inference with nnU-Net's predictor on preprocessed images, with results on the network grid.

nnU-Net's sliding window blends the logits; `voxel_statistics` computes their softmax block by block. Mirroring is off
by default, so that each case passes through the network once.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from nnunet_assft.active.options import MEAN, STD
from nnunet_assft.active.scoring.case_record import CaseRecord
from nnunet_assft.active.scoring.original_grid import OriginalGrid
from nnunet_assft.active.scoring.sliding_window import InfiniteLogitsError, NoRoomError, SlidingWindowPredictor
from nnunet_assft.active.scoring.voxel_statistics import head_gradient
from nnunet_assft.errors import AssftError
from nnunet_assft.network.interface import build_network, encoder_of, is_slow_alone, last_layer
from nnunet_assft.runtime.precision import autocast, compiles, lay_out


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
        lay_out(self.network.to(device).eval(), device)
        self.float64_device = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        with redirect_stdout(io.StringIO()):  # nnU-Net prints lines about the CPU and about compiling each time
            self.predictor = SlidingWindowPredictor(use_mirroring=False, device=device, allow_tqdm=False)
            self.predictor.manual_initialization(
                self.network, self.plans_manager, self.configuration, [dict(weights)], dataset_json, "", (0, 1, 2)
            )
        self.predictor.in_batches = device.type == "cpu" and is_slow_alone(self.network, self.configuration.patch_size)
        self.predictor.network = self.network  # not compiled as a whole, because that ignores later hooks
        if compiles(device):
            for part in self._parts():
                part.forward = torch.compile(part.forward)  # hooks of the part itself are called outside of it

    def _parts(self) -> tuple[Any, ...]:
        return encoder_of(self.network), self.network.decoder

    @torch.inference_mode()
    def embed(self, case: str, image: np.ndarray) -> CaseRecord:
        """Return a record with the embedding alone. Only the encoder is run, on the windows that `logits` uses."""
        padded, _ = self.predictor.padded(torch.from_numpy(image))
        device, encoder = self.predictor.device, encoder_of(self.network)
        with self.bottleneck() as windows, autocast(device):
            for window in self.predictor.windows(padded):
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

        decoder = self._parts()[1]
        compiled = decoder.__dict__.pop("forward", None)  # which would pass over the hook of a layer
        try:
            with self._collect(last_layer(self.network), gradient) as windows:
                yield windows
        finally:
            if compiled is not None:
                decoder.forward = compiled

    @contextmanager
    def _collect(self, module: torch.nn.Module, value: Callable[..., torch.Tensor]) -> Iterator[WindowMean]:
        windows = WindowMean()
        hook = module.register_forward_hook(lambda *call: windows.values.append(value(*call)))
        self.predictor.collected.append(windows.values)
        try:
            yield windows
        finally:
            self.predictor.collected.pop()
            hook.remove()


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
    """Raise the same error if the logits are infinite, and let an error about too little memory name the case."""
    try:
        yield
    except InfiniteLogitsError as error:
        raise _not_finite(case) from error
    except NoRoomError as error:
        raise AssftError(f"Case {case}: {error}") from error


def _not_finite(case: str) -> AssftError:
    return AssftError(
        f"The network output for case {case} is not finite. If the training has diverged (see progress.png), "
        "plan a new experiment with a lower --initial_lr. If the pre-trained encoder causes it, check its file."
    )
