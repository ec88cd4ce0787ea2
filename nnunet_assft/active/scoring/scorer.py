"""One forward pass per case: voxel sums and embedding together, in network space, from the preprocessed image.

nnU-Net's sliding window blends the logits; the softmax is taken from them block by block and reduced to sums at once.
Nothing of its size is stored or resampled. Mirroring is off: one pass means one pass. Only a strategy that asks for
statistics of several predictions (STATISTICS) pays for more passes.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.active.scoring.views import MIRRORINGS, intensity_views
from nnunet_assft.active.scoring.voxel_statistics import (
    SoftmaxMoments,
    class_entropies,
    entropy_histogram,
    head_gradient,
    voxel_sums_of_logits,
)
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.planner import CONFIGURATION
from nnunet_assft.runtime.files import atomic_path


@dataclass(frozen=True)
class Request:
    """What is computed of each case; a record remembers it, so that it is never taken for an answer to another one.

    tau, second: see `metrics.voxel_sums`. statistics: names of STATISTICS, ascending; the rest is for those that use it.
    """

    tau: float
    second: str = "order"
    statistics: tuple[str, ...] = ()
    badge_loss: str = "ce"
    ugtst_entropy: str = "mean"
    seed: tuple[int, ...] = (0,)  # of random views


@dataclass(frozen=True)
class CaseRecord:
    """What is kept of one case under one model: a few kB, never a softmax.

    embedding: (d,) float64, mean over the sliding windows of the global average of the bottleneck. sums: None where only
    the encoder ran. statistics: what STATISTICS gave, by name; numbers and small arrays.
    """

    case: str
    embedding: np.ndarray
    sums: VoxelSums | None
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, file: Path, made_from: Mapping[str, Any]) -> None:
        """made_from: model checksum and settings, so that a record of another model is never taken for this one."""
        meta = {"case": self.case, "made_from": dict(made_from), "sums": asdict(self.sums) if self.sums else None}
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"embedding": self.embedding, "meta": np.array(json.dumps(meta)), **self.statistics}
        np.savez(buffer, **arrays)
        with atomic_path(file) as partial:
            partial.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, file: Path, made_from: Mapping[str, Any]) -> CaseRecord | None:
        """None if there is no whole record, or one made from something else."""
        try:
            with np.load(file) as content:
                meta = json.loads(str(content["meta"]))
                arrays = {name: content[name] for name in content.files if name != "meta"}
                embedding = arrays.pop("embedding")
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        if meta.get("made_from") != json.loads(json.dumps(dict(made_from))):
            return None
        sums = meta["sums"] and VoxelSums(**{**meta["sums"], "class_voxels": tuple(meta["sums"]["class_voxels"])})
        return cls(meta["case"], embedding, sums, arrays)


class Scorer:
    """A network with nnU-Net's sliding window around it.

    weights: state dict of the segmentation network. device: where the forward pass runs.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        dataset_json: dict[str, Any],
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> None:
        self.plans_manager = PlansManager(plans)
        self.configuration = self.plans_manager.get_configuration(CONFIGURATION)
        self.label_manager = self.plans_manager.get_label_manager(dataset_json)
        with redirect_stdout(io.StringIO()):  # it prints a line about the CPU each time
            self.predictor = _Predictor(use_mirroring=False, device=device, allow_tqdm=False)
        self.network = get_network_from_plans(
            self.configuration.network_arch_class_name,
            self.configuration.network_arch_init_kwargs,
            self.configuration.network_arch_init_kwargs_req_import,
            determine_num_input_channels(self.plans_manager, self.configuration, dataset_json),
            self.label_manager.num_segmentation_heads,
            allow_init=False,
            deep_supervision=False,
        )
        self.network.load_state_dict(weights)
        self.network.to(device).eval()
        self.predictor.in_batches = device.type == "cpu" and _is_slow_alone(self.network, self.configuration.patch_size)
        self.float64_device = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        self.predictor.manual_initialization(
            self.network, self.plans_manager, self.configuration, [dict(weights)], dataset_json, "", (0, 1, 2)
        )

    def record(self, case: str, image: np.ndarray, request: Request, committee: Sequence[Scorer] = ()) -> CaseRecord:
        """Sums, embedding and the requested statistics of one case. image: (channels, z, y, x), preprocessed.

        committee: other networks, for the statistic that compares them.
        """
        with ExitStack() as stack:
            bottleneck = stack.enter_context(self.bottleneck())
            gradients = (
                stack.enter_context(self.head_gradients(request.badge_loss))
                if "gradients" in request.statistics
                else None
            )
            logits = self.logits(image)
        embedding = bottleneck.mean()
        sums = voxel_sums_of_logits(logits, request.tau, second=request.second, device=self.float64_device)
        done = _Pass(self, image, request, committee, logits, gradients.mean() if gradients else None)
        statistics = {name: np.asarray(STATISTICS[name](done), dtype=np.float64) for name in request.statistics}
        _check_finite(
            case, embedding, np.array([sums.entropy_sum, sums.top1_sum, sums.margin_sum]), *statistics.values()
        )
        return CaseRecord(case, embedding, sums, statistics)

    @torch.inference_mode()
    def embed(self, case: str, image: np.ndarray) -> CaseRecord:
        """The embedding alone: the same windows through the encoder only."""
        patch_size = self.configuration.patch_size
        padded, _ = pad_nd_image(torch.from_numpy(image), patch_size, "constant", {"value": 0}, True, None)
        device = self.predictor.device
        with self.bottleneck() as windows, torch.autocast(device.type, enabled=device.type == "cuda"):
            for window in self.predictor._internal_get_sliding_window_slicers(padded.shape[1:]):
                self.network.encoder(self.predictor.batch_of(padded[window][None].to(device)))
        embedding = windows.mean()
        _check_finite(case, embedding)
        return CaseRecord(case, embedding, None)

    def logits(self, image: np.ndarray, *, mirroring: bool = False) -> torch.Tensor:
        """nnU-Net's blended sliding-window logits, (C, z, y, x), on the network grid."""
        self.predictor.use_mirroring = mirroring
        try:
            logits: torch.Tensor = self.predictor.predict_sliding_window_return_logits(torch.from_numpy(image))
        finally:
            self.predictor.use_mirroring = False
        return logits

    def segmentation(self, logits: torch.Tensor, properties: dict[str, Any]) -> np.ndarray:
        """Argmax on the original grid, (z, y, x), as nnU-Net's own prediction exports it."""
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
        """A volume of the network grid, (z, y, x), resampled as logits are; `outside` of the crop to the nonzero region."""
        spacing = [properties["spacing"][axis] for axis in self.plans_manager.transpose_forward]
        shape = properties["shape_after_cropping_and_before_resampling"]
        cropped = self.configuration.resampling_fn_probabilities(
            volume[None].cpu(), shape, self.configuration.spacing, spacing
        )
        whole = np.full(properties["shape_before_cropping"], outside, dtype=np.float32)
        whole = insert_crop_into_image(whole, np.asarray(cropped)[0], properties["bbox_used_for_cropping"])
        return whole.transpose(self.plans_manager.transpose_backward)

    @contextmanager
    def bottleneck(self) -> Iterator[_WindowMean]:
        """Collects the global average of the encoder's last output, (d,), of every window."""

        def pool(module: torch.nn.Module, inputs: Any, levels: list[torch.Tensor]) -> torch.Tensor:
            return levels[-1][0].to(self.float64_device).double().mean(dim=(1, 2, 3))

        with self._collect(self.network.encoder, pool) as windows:
            yield windows

    @contextmanager
    def head_gradients(self, loss: str) -> Iterator[_WindowMean]:
        """Collects the gradient of the loss at the segmentation layer, (C, F), of every window."""

        def gradient(module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
            features, logits = inputs[0][0].to(self.float64_device), logits[0].to(self.float64_device)
            return head_gradient(features, logits, with_dice=loss == "ce+dice")

        with self._collect(self.network.decoder.heads[-1], gradient) as windows:
            yield windows

    @contextmanager
    def _collect(self, module: torch.nn.Module, value: Callable[..., torch.Tensor]) -> Iterator[_WindowMean]:
        windows = _WindowMean()
        hook = module.register_forward_hook(lambda *call: windows.values.append(value(*call)))
        self.predictor.before_windows.append(windows.values.clear)
        try:
            yield windows
        finally:
            self.predictor.before_windows.remove(windows.values.clear)
            hook.remove()


class _Predictor(nnUNetPredictor):
    """nnU-Net goes through the windows once more if the device's memory did not suffice; what was collected starts anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before_windows: list[Callable[[], None]] = []
        self.in_batches = False  # see `_is_slow_alone`

    def batch_of(self, window: torch.Tensor) -> torch.Tensor:
        """(n, channels, z, y, x), the window first, then whatever makes it a batch. window: (1, channels, z, y, x)."""
        return window.expand(2, *window.shape[1:]) if self.in_batches else window

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        """nnU-Net's, but for the order: all mirror images of the window go through the network at once."""
        if not self.in_batches:
            logits: torch.Tensor = super()._internal_maybe_mirror_and_predict(x)
            return logits
        if not self.use_mirroring:
            return torch.as_tensor(self.network(self.batch_of(x))[:1])
        axes_of: list[list[int]] = [[], *([axis + 1 for axis in axes] for axes in MIRRORINGS)]  # behind the batch axis
        views = self.network(torch.cat([x.flip(axes) for axes in axes_of]))
        return torch.stack([view[None].flip(axes) for view, axes in zip(views, axes_of, strict=True)]).mean(dim=0)

    def _internal_predict_sliding_window_return_logits(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        for call in self.before_windows:
            call()
        logits: torch.Tensor = super()._internal_predict_sliding_window_return_logits(*args, **kwargs)
        return logits


def _is_slow_alone(network: Any, patch_size: Sequence[int]) -> bool:
    """Whether torch would take its slow loop for the first convolutions of a single window on a CPU.

    It leaves images of at most 20480 elements, not counting the last axis, to that loop, unless they come as a batch: a batch
    of two takes a third of the time of one. This concerns narrow networks only, such as the preset `tiny`.
    """
    return int(network.encoder.conv_init.out_channels) * math.prod(patch_size[:2]) <= 20480


class _WindowMean:
    """One small tensor per window, left on its device until their mean is asked for."""

    def __init__(self) -> None:
        self.values: list[torch.Tensor] = []

    def mean(self) -> np.ndarray:
        """In float64, equal weights."""
        mean: np.ndarray = torch.stack(self.values).mean(dim=0).cpu().numpy()
        return mean


# Statistics that only some strategies need ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pass:
    """One case after its forward pass: what a statistic may use."""

    scorer: Scorer
    image: np.ndarray
    request: Request
    committee: Sequence[Scorer]
    logits: torch.Tensor
    gradient: np.ndarray | None  # (C, F), if it was asked for

    @property
    def device(self) -> torch.device:
        return self.scorer.float64_device


def _mirror_spread(done: _Pass) -> float:
    """Mean over voxels and classes of the SD over the 8 mirrored predictions of one network."""
    moments = SoftmaxMoments(spread=True)
    moments.add(done.logits, device=done.device)
    for axes in MIRRORINGS:
        moments.add(done.scorer.logits(np.ascontiguousarray(np.flip(done.image, axes))).flip(axes), device=done.device)
    return moments.mean_spread()


def _committee_spread(done: _Pass) -> float:
    """The same over the predictions of the networks of a committee."""
    moments = SoftmaxMoments(spread=True)
    for member in done.committee:
        moments.add(member.logits(done.image), device=done.device)
    return moments.mean_spread()


def _peak_entropy(done: _Pass) -> float:
    """Mean of the voxel entropies above the first peak of their histogram (GAUA of UGTST), in bits."""
    if done.request.ugtst_entropy == "single":
        return entropy_histogram(done.logits, device=done.device).mean_above_first_peak()
    moments = SoftmaxMoments(spread=False)
    for view in intensity_views(done.image, done.request.seed):
        moments.add(done.scorer.logits(view), device=done.device)
    return moments.entropies().mean_above_first_peak()


# name, as in QueryPool -> what it is of one case
STATISTICS: dict[str, Callable[[_Pass], Any]] = {
    "class_entropies": lambda done: class_entropies(done.logits, device=done.device),
    "committee_spread": _committee_spread,
    "gradients": lambda done: done.gradient,
    "mirror_spread": _mirror_spread,
    "peak_entropy": _peak_entropy,
}


def _check_finite(case: str, *values: np.ndarray) -> None:
    if not all(np.isfinite(v).all() for v in values):
        raise AssftError(
            f"The network's output for case {case} is not finite. If its training has diverged (see progress.png), "
            "lower --initial_lr and plan a new experiment; if it is the pretrained encoder, check its file."
        )
