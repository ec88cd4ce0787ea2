"""One forward pass per case: voxel sums and embedding together, in network space, from the preprocessed image.

nnU-Net's sliding window blends the logits; the softmax is taken from them block by block and reduced to sums at once.
Nothing of its size is stored or resampled. Mirroring is off: one pass means one pass.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_assft.active.metrics import VoxelSums
from nnunet_assft.errors import AssftError
from nnunet_assft.files import atomic_path
from nnunet_assft.planning.planner import CONFIGURATION

VOXELS_PER_BLOCK = 2**18  # a block of C x 2^18 float32 stays near the processor's caches


@dataclass(frozen=True)
class CaseRecord:
    """What is kept of one case under one model: a few kB, never a softmax.

    embedding: (d,) float64, mean over the sliding windows of the global average of the bottleneck. sums: None where only
    the encoder ran.
    """

    case: str
    embedding: np.ndarray
    sums: VoxelSums | None

    def save(self, file: Path, made_from: Mapping[str, Any]) -> None:
        """made_from: model checksum and settings, so that a record of another model is never taken for this one."""
        meta = {"case": self.case, "made_from": dict(made_from), "sums": asdict(self.sums) if self.sums else None}
        buffer = io.BytesIO()
        np.savez(buffer, embedding=self.embedding, meta=np.array(json.dumps(meta)))
        with atomic_path(file) as partial:
            partial.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, file: Path, made_from: Mapping[str, Any]) -> CaseRecord | None:
        """None if there is no whole record, or one made from something else."""
        try:
            with np.load(file) as content:
                meta = json.loads(str(content["meta"]))
                embedding = content["embedding"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        if meta["made_from"] != dict(made_from):
            return None
        sums = meta["sums"] and VoxelSums(**{**meta["sums"], "class_voxels": tuple(meta["sums"]["class_voxels"])})
        return cls(meta["case"], embedding, sums)


class Scorer:
    """A network with nnU-Net's sliding window around it.

    weights: state dict of the segmentation network. device: where the forward pass runs.
    """

    def __init__(
        self, plans: dict[str, Any], dataset_json: dict[str, Any], weights: Mapping[str, torch.Tensor], device: torch.device
    ) -> None:
        self.plans_manager = PlansManager(plans)
        self.configuration = self.plans_manager.get_configuration(CONFIGURATION)
        self.label_manager = self.plans_manager.get_label_manager(dataset_json)
        with redirect_stdout(io.StringIO()):  # it prints a line about the CPU each time
            self.predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
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
        self.predictor.manual_initialization(
            self.network, self.plans_manager, self.configuration, [dict(weights)], dataset_json, "", (0, 1, 2)
        )

    def record(self, case: str, image: np.ndarray, tau: float) -> CaseRecord:
        """Sums at temperature tau (Eq. 7) and embedding of one case. image: (channels, z, y, x), preprocessed."""
        with self._pooled_bottleneck() as windows:
            logits = self.predictor.predict_sliding_window_return_logits(torch.from_numpy(image))
        sums = voxel_sums_of_logits(logits, tau)
        embedding = torch.stack(windows).mean(dim=0).numpy()
        _check_finite(case, embedding, np.array([sums.entropy_sum, sums.top1_sum, sums.margin_sum]))
        return CaseRecord(case, embedding, sums)

    @torch.inference_mode()
    def embed(self, case: str, image: np.ndarray) -> CaseRecord:
        """The embedding alone: the same windows through the encoder only."""
        patch_size = self.configuration.patch_size
        padded, _ = pad_nd_image(torch.from_numpy(image), patch_size, "constant", {"value": 0}, True, None)
        device = self.predictor.device
        with self._pooled_bottleneck() as windows, torch.autocast(device.type, enabled=device.type == "cuda"):
            for window in self.predictor._internal_get_sliding_window_slicers(padded.shape[1:]):
                self.network.encoder(padded[window][None].to(device))
        embedding = torch.stack(windows).mean(dim=0).numpy()
        _check_finite(case, embedding)
        return CaseRecord(case, embedding, None)

    def segment(self, image: np.ndarray, properties: dict[str, Any], *, mirroring: bool) -> np.ndarray:
        """Argmax prediction on the original grid, (z, y, x), as nnU-Net's own prediction exports it."""
        self.predictor.use_mirroring = mirroring
        try:
            logits = self.predictor.predict_sliding_window_return_logits(torch.from_numpy(image)).cpu()
        finally:
            self.predictor.use_mirroring = False
        segmentation: np.ndarray = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, self.plans_manager, self.configuration, self.label_manager, properties, num_threads_torch=torch.get_num_threads()
        )
        return segmentation

    @contextmanager
    def _pooled_bottleneck(self) -> Iterator[list[torch.Tensor]]:
        """Collects the global average of the encoder's last output, one (d,) float64 per window."""
        windows: list[torch.Tensor] = []

        def pool(module: torch.nn.Module, inputs: Any, levels: list[torch.Tensor]) -> None:
            windows.append(levels[-1][0].double().mean(dim=(1, 2, 3)).cpu())

        hook = self.network.encoder.register_forward_hook(pool)
        try:
            yield windows
        finally:
            hook.remove()


def _check_finite(case: str, *values: np.ndarray) -> None:
    if not all(np.isfinite(v).all() for v in values):
        raise AssftError(f"The network's output for case {case} is not finite. If its training has diverged (see progress.png), "
                         "lower --initial_lr and plan a new experiment; if it is the pretrained encoder, check its file.")  # fmt: skip


@torch.inference_mode()
def voxel_sums_of_logits(logits: torch.Tensor, tau: float) -> VoxelSums:
    """`metrics.voxel_sums` of the softmax of these logits, (C, z, y, x), without ever holding that softmax.

    Blocks are reduced in float32 and added up in float64. A tie between background and a structure is background.
    """
    flat = logits.reshape(logits.shape[0], -1)
    n_classes = flat.shape[0]
    total = torch.zeros(6, dtype=torch.float64)
    counts = torch.zeros(2, dtype=torch.int64)
    class_voxels = torch.zeros(n_classes, dtype=torch.int64)
    for block in flat.split(VOXELS_PER_BLOCK, dim=1):
        z = block.float()
        p = torch.softmax(z, dim=0)
        entropy = torch.logsumexp(z, dim=0) - (p * z).sum(dim=0)
        p_background = p[0]
        p_max, label = p[1:].max(dim=0)  # Eq. 8
        mask = p_background / tau < p_max  # Eqs. 6 and 9
        foreground = p_background < p_max  # Eq. 19, which is also Eq. 9 at tau = 1
        top1 = torch.maximum(p_background, p_max)
        p[1:].scatter_(0, label[None], -1.0)
        runner_up = p[1:].max(dim=0).values if n_classes > 2 else torch.full_like(top1, -1.0)
        top2 = torch.maximum(torch.minimum(p_background, p_max), runner_up)
        margin = top1 - top2
        rows = (entropy, top1, margin, entropy * mask, entropy * foreground, margin * foreground)
        total += torch.stack([row.sum(dtype=torch.float64) for row in rows]).cpu()
        counts += torch.stack([mask.sum(), foreground.sum()]).cpu()
        class_voxels += torch.bincount((label + 1) * foreground, minlength=n_classes).cpu()
    entropy_sum, top1_sum, margin_sum, masked, masked_tau1, foreground_margin = total.tolist()
    return VoxelSums(
        voxels=flat.shape[1],
        entropy_sum=entropy_sum,
        top1_sum=top1_sum,
        margin_sum=margin_sum,
        masked_entropy_sum=masked,
        mask_voxels=int(counts[0]),
        masked_entropy_sum_tau1=masked_tau1,
        mask_voxels_tau1=int(counts[1]),
        foreground_margin_sum=foreground_margin,
        foreground_voxels=int(counts[1]),
        class_voxels=tuple(class_voxels.tolist()),
    )
