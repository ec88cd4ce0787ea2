"""The nnU-Net trainers of a round. Everything but a few hooks is nnU-Net's own training.

A trainer reads everything it needs from two places: `plans["assft"]`, the settings of the experiment, and the stage
file beside its training set (such as `round_03_semi.json`), with the cases, the weights to start from and the number of
epochs. Stock `nnUNetv2_train` can therefore run a stage just as our own commands do. The fold is the round, see
`folds`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.network.interface import layers_of_deep_supervision
from nnunet_assft.nnunet_names import known_to
from nnunet_assft.planning import normalization  # noqa: F401 - the plans of these trainers name its schemes
from nnunet_assft.runtime.files import atomic_path, inside
from nnunet_assft.runtime.precision import lay_out, nnunet_autocast, precision_of, scales_gradients
from nnunet_assft.runtime.seeding import seed_generators
from nnunet_assft.runtime.text import count
from nnunet_assft.trainers.folds import training_set_of_fold
from nnunet_assft.trainers.marginal_loss import MarginalLoss
from nnunet_assft.trainers.stage_file import read_stage_file

STAGES = ("supervised", "semi", "member")  # the index of a stage is part of its seed
ROTATION = (-math.radians(30), math.radians(30))
MIRROR_AXES = (0, 1, 2)
MAX_NOISE_VARIANCE = 0.1
SECONDS_BETWEEN_PLOTS = 60


def draw_noise_sd(*_: Any) -> float:
    """Draw the standard deviation of Gaussian noise whose variance is uniform in [0, 0.1] (paper, section 4.2).

    batchgeneratorsv2 uses its `noise_variance` as a standard deviation, so this returns the square root.
    """
    return math.sqrt(np.random.uniform(0, MAX_NOISE_VARIANCE))  # noqa: NPY002 - seeded per epoch


def patch_to_cut(patch_size: Sequence[int]) -> np.ndarray:
    """Return the size of the patch that is cut out, (z, y, x), so that it can be rotated and scaled before the patch of
    the network is cut out of it. nnU-Net uses the same range of scales; a patch that is scaled further is padded."""
    size: np.ndarray = get_patch_size(patch_size, ROTATION, ROTATION, ROTATION, (0.85, 1.25))
    return size


def spatial_augmentation(
    patch_size: np.ndarray | Sequence[int], rotation: Any = ROTATION, mirror_axes: tuple[int, ...] = MIRROR_AXES
) -> list[BasicTransform]:
    """Return rotation, scaling and mirroring as in the paper (section 4.2). What comes from outside of the patch that
    was cut out is 0 in the image and -1 in the segmentation."""
    return [
        SpatialTransform(
            patch_size,
            patch_center_dist_from_border=0,
            random_crop=False,
            p_rotation=0.2,
            rotation=rotation,
            p_scaling=0.2,
            scaling=(0.7, 1.4),
            p_synchronize_scaling_across_axes=1,
            border_mode_seg="constant",
            padding_value_seg=-1,
        ),
        MirrorTransform(allowed_axes=mirror_axes),  # with probability 0.5 per axis
    ]


def intensity_augmentation() -> list[BasicTransform]:
    """Return noise and brightness as in the paper (section 4.2)."""
    return [
        RandomTransform(
            GaussianNoiseTransform(noise_variance=draw_noise_sd, p_per_channel=1, synchronize_channels=True),
            apply_probability=0.15,
        ),
        RandomTransform(
            MultiplicativeBrightnessTransform(
                multiplier_range=(0.75, 1.25), synchronize_channels=False, p_per_channel=1
            ),
            apply_probability=0.15,
        ),
    ]


@known_to(nnunet_trainer_module)
class nnUNetTrainerASSFT(nnUNetTrainer):
    """Trainer of the semi-supervised stage, on the labelled and the pseudo-labelled cases of round `fold`.

    It overrides build_network_architecture, initialize, configure_optimizers, the two augmentation hooks, do_split,
    on_train_epoch_start, on_epoch_end, save_checkpoint and load_checkpoint, and, if a label of the stage lacks a
    structure, the loss.
    """

    stage = "semi"

    # nnU-Net builds trainers by these names and with these defaults
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        plans.setdefault("continue_training", False)  # nnUNetv2_train adds this key, other callers may not
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type != "cuda":  # with several processes, nnU-Net takes CUDA for granted
            self.device = device
        if not scales_gradients(self.device):
            self.grad_scaler = None
        settings = self.plans_manager.plans.get("assft")
        if settings is None:
            raise AssftError(
                f"The plans {self.plans_manager.plans_name} do not belong to an experiment. Use -p nnUNetASSFTPlans, "
                "or -p nnUNetASSFTPlans_NAME for the experiment NAME."
            )
        if not isinstance(fold, int):
            raise AssftError(
                f"Fold {fold!r} does not exist: the fold of {type(self).__name__} is the number of the round. Give a "
                "number."
            )
        base = Path(str(nnUNet_preprocessed), self.plans_manager.dataset_name, "assft", settings["experiment"])
        self.preprocessed_dataset_folder_base = str(base)
        training_set = base / training_set_of_fold(self.stage, fold)
        self.preprocessed_dataset_folder = str(training_set)
        self.stage_file = training_set.with_suffix(".json")
        if not self.stage_file.is_file():
            raise AssftError(
                f"{self.stage_file} does not exist: fold {fold} has no training set yet. "
                "Run nnUNetv2_assft_status to see the next command."
            )
        self.stage_plan: dict[str, Any] = read_stage_file(self.stage_file)
        self.initial_lr = settings["initial_lr"]
        self.weight_decay = settings["weight_decay"]
        self.enable_deep_supervision = settings["deep_supervision"]
        self.num_iterations_per_epoch = settings["iterations_per_epoch"]
        self.num_val_iterations_per_epoch = max(1, settings["iterations_per_epoch"] // 5)  # nnU-Net's ratio of 250 : 50
        self.num_epochs = self.stage_plan["epochs"]
        self.save_every = 1  # so that an interrupted training loses one epoch at most
        self.after_epoch: Callable[[nnUNetTrainerASSFT], None] | None = None  # for a caller that shows progress
        self.logger.plot_progress_png = self._plot_seldom(self.logger.plot_progress_png)

    # weights

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network, and freeze the last layers of coarser levels if there is no deep supervision.

        These layers get no gradient then, which DDP has to know.
        """
        network = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        for layer in () if enable_deep_supervision else layers_of_deep_supervision(network):
            layer.requires_grad_(False)
        return network

    def initialize(self) -> None:
        """Initialise as nnU-Net does, with a new optimiser, then load the weights that the stage file names."""
        super().initialize()
        start = inside(Path(str(nnUNet_results), self.plans_manager.dataset_name), self.stage_plan["start_from"])
        weights = load_weights(start, self.stage_plan["start_sha256"])
        self._bare_network().load_state_dict(weights, strict=True)
        if self.device.type == "cpu" and not self.is_ddp:  # which must not be told of another layout afterwards
            self.network.to(memory_format=torch.channels_last_3d)  # a third faster on a CPU
        compiled = ", compiled" if hasattr(self._wrapped_network(), "_orig_mod") else ""
        self.precision = precision_of(self.device) + compiled  # nnU-Net writes it into debug.json
        self.print_to_log_file(f"Starting from the weights of {start}. Precision: {self.precision}")

    def _wrapped_network(self) -> nn.Module:
        network: nn.Module = self.network.module if self.is_ddp else self.network
        return network

    def _bare_network(self) -> nn.Module:
        network = self._wrapped_network()
        return getattr(network, "_orig_mod", network)  # torch.compile wraps the network

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load a checkpoint as nnU-Net does, but only a whole one that holds no more than tensors and numbers."""
        if isinstance(filename_or_checkpoint, str):
            load_weights(Path(filename_or_checkpoint))  # nnU-Net itself would run code from the file
        super().load_checkpoint(filename_or_checkpoint)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint atomically. No `checkpoint_best` is written, for the reason given in `do_split`."""
        if os.path.basename(filename) == "checkpoint_best.pth":
            return
        if self.local_rank == 0 and not self.disable_checkpointing:
            with atomic_path(Path(filename)) as partial:
                super().save_checkpoint(str(partial))

    # data

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the training cases, which are all cases of the stage, and the validation cases.

        Every labelled case is needed for training, and test cases must not be seen, so nnU-Net's online validation runs
        on the training cases with human labels. The "pseudo Dice" in the log is therefore that of training cases, and
        the final checkpoint is the model. A case that is listed twice is drawn twice as often. Cases that lack a
        structure do not serve for validation, unless there are no others.
        """
        cases = self.stage_plan["cases"]
        self.print_to_log_file(
            f"Training on {len(cases)} cases; the validation loss and the pseudo Dice are those of training cases."
        )
        drawn_from = sorted(case for case, entry in cases.items() for _ in range(entry.get("copies", 1)))
        human = sorted(case for case, entry in cases.items() if entry["kind"] == "human")
        return drawn_from, [case for case in human if "not_annotated" not in cases[case]] or human

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802
        self,
    ) -> tuple[tuple[float, float], bool, np.ndarray, tuple[int, int, int]]:
        """Rotate about all three axes regardless of anisotropy, and mirror all axes, also at test time."""
        self.inference_allowed_mirroring_axes = MIRROR_AXES
        return ROTATION, False, patch_to_cut(self.configuration_manager.patch_size), MIRROR_AXES

    # nnU-Net passes all of these parameters
    @staticmethod
    def get_training_transforms(
        patch_size: np.ndarray | tuple[int, ...],
        rotation_for_DA: Any,  # noqa: N803
        deep_supervision_scales: list | tuple | None,
        mirror_axes: tuple[int, ...],
        do_dummy_2d_data_aug: bool,
        use_mask_for_norm: list[bool] | None = None,
        is_cascaded: bool = False,
        foreground_labels: tuple[int, ...] | list[int] | None = None,
        regions: list | None = None,
        ignore_label: int | None = None,
    ) -> BasicTransform:
        """Return the augmentation of the paper (section 4.2), with its order and its probabilities."""
        transforms = [
            *spatial_augmentation(patch_size, rotation_for_DA, mirror_axes),
            *intensity_augmentation(),
            RemoveLabelTansform(-1, 0),
        ]
        if deep_supervision_scales is not None:
            transforms.append(DownsampleSegForDSTransform(ds_scales=deep_supervision_scales))
        return ComposeTransforms(transforms)

    # optimisation

    def _build_loss(self) -> nn.Module:
        """Return nnU-Net's loss, which is the marginal loss if a label of the stage lacks a structure."""
        loss: nn.Module = super()._build_loss()
        not_annotated = {
            case: [self.dataset_json["labels"][name] for name in entry["not_annotated"]]
            for case, entry in self.stage_plan["cases"].items()
            if "not_annotated" in entry
        }
        if not not_annotated:
            return loss
        cases = count(len(not_annotated), "case")
        self.print_to_log_file(f"Marginal loss: what is not annotated in {cases} is a part of the background.")
        return MarginalLoss(loss, not_annotated, self.label_manager.num_segmentation_heads)

    def train_step(self, batch: dict) -> dict:
        """Tell the loss which cases the batch has, and train as nnU-Net does."""
        self._tell_loss(batch)
        with nnunet_autocast():
            result: dict = super().train_step(batch)
        return result

    def validation_step(self, batch: dict) -> dict:
        """Tell the loss which cases the batch has, and validate as nnU-Net does."""
        self._tell_loss(batch)
        with nnunet_autocast():
            result: dict = super().validation_step(batch)
        return result

    def _tell_loss(self, batch: dict) -> None:
        if isinstance(self.loss, MarginalLoss):
            self.loss.batch = list(batch["keys"])

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return AdamW and nnU-Net's polynomial learning rate schedule over the epochs of the stage."""
        lay_out(self.network, self.device)  # before it is distributed, after which its layout has to stay
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def on_train_epoch_start(self) -> None:
        """Seed the generators of this process by (seed, fold, stage, epoch, process), so that a resumed training draws
        the same numbers if it makes its batches itself (`nnUNet_n_proc_DA=0`)."""
        seed = self.plans_manager.plans["assft"]["seed"]
        seed_generators([seed, self.fold, STAGES.index(self.stage), self.current_epoch, self.local_rank])
        super().on_train_epoch_start()

    def on_epoch_end(self) -> None:
        """Call `after_epoch` at the end of every epoch."""
        super().on_epoch_end()
        if self.after_epoch is not None:
            self.after_epoch(self)

    def _plot_seldom(self, plot: Callable[[str], None]) -> Callable[[str], None]:
        """Return a function that plots at most once a minute and after the last epoch, as a plot takes a second."""
        drawn = time.monotonic()

        def plot_if_due(folder: str) -> None:
            nonlocal drawn
            if self.current_epoch + 1 == self.num_epochs or time.monotonic() - drawn > SECONDS_BETWEEN_PLOTS:
                plot(folder)
                drawn = time.monotonic()

        return plot_if_due


@known_to(nnunet_trainer_module)
class nnUNetTrainerASSFTSupervised(nnUNetTrainerASSFT):
    """Trainer of the supervised stage, on the labelled cases of round `fold`. Round 0 is the one-shot stage."""

    stage = "supervised"


@known_to(nnunet_trainer_module)
class nnUNetTrainerASSFTCommittee(nnUNetTrainerASSFT):
    """Trainer of a committee member: the supervised stage of round `fold // 10` with its own sample and seed."""

    stage = "member"
