"""ASSFTPlanner: nnU-Net's planner with the CT-FM network, the paper's patch sizes and its normalisation."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from nnunet_assft.errors import AssftError
from nnunet_assft.network.presets import PRESETS
from nnunet_assft.nnunet_names import known_to
from nnunet_assft.planning.choices import NORMALIZATIONS
from nnunet_assft.runtime.files import read_json, sha256_of, write_json

CONFIGURATION = "3d_fullres"
DIVISOR = 16  # five levels, four of them halve the patch
BATCH_SIZE = 2


@known_to(default_experiment_planner)
class ASSFTPlanner(ExperimentPlanner):
    """Plans `3d_fullres` only. Patch: `domain_patch_size`, else nnU-Net's own logic rounded to multiples of 16.

    The attributes below are set by `plan_from_images`; with their defaults the class also works as any nnU-Net planner.
    """

    domain_patch_size: tuple[int, int, int] | None = None
    preset: str = "ctfm"
    normalization: str = "percentile"

    # nnU-Net builds planners with these parameters
    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = "nnUNetASSFTPlans",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )

    def get_plans_for_configuration(self, spacing: Any, median_shape: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        plan = super().get_plans_for_configuration(spacing, median_shape, *args, **kwargs)
        if len(spacing) == 3:
            n_channels = len(plan["normalization_schemes"])
            plan.update(
                batch_size=BATCH_SIZE,
                batch_dice=False,
                patch_size=list(self.domain_patch_size or (_nearest_multiple(edge) for edge in plan["patch_size"])),
                normalization_schemes=[NORMALIZATIONS[self.normalization]] * n_channels,
                use_mask_for_norm=[False] * n_channels,
                architecture=network_plan(self.preset),
            )
        return plan

    def plan_experiment(self) -> dict[str, Any]:
        plans = super().plan_experiment()
        if CONFIGURATION not in plans["configurations"]:
            raise AssftError(f"{self.dataset_name} holds 2D images; ASSFT needs 3D volumes.")
        fullres = plans["configurations"][CONFIGURATION]
        fullres["batch_dice"] = False  # the stock planner sets it by whether a low resolution stage exists
        # everything that preprocessing depends on, so that experiments which agree on it share one folder of images
        recipe = {
            key: value
            for key, value in fullres.items()
            if key.startswith(("spacing", "normal", "use_mask", "resampling"))
        }
        recipe["patch_size"] = fullres["patch_size"]  # decides the chunks of the compressed files
        recipe["reader"], recipe["transpose"] = plans["image_reader_writer"], plans["transpose_forward"]
        fullres["data_identifier"] = f"assft_pool_{sha256_of(recipe)[:8]}"
        plans["configurations"] = {CONFIGURATION: fullres}
        self.plans = plans
        return plans


def network_plan(preset: str) -> dict[str, Any]:
    """The `architecture` entry of the plans for a preset of `nnunet_assft.network`."""
    return {
        "network_class_name": "nnunet_assft.network.CTFMSegmentationNet",
        "arch_kwargs": dict(PRESETS[preset]),
        "_kw_requires_import": [],
    }


# everything that the plans depend on
def plan_from_images(
    dataset_name: str,
    fingerprint: dict[str, Any],
    *,
    plans_name: str,
    domain_patch_size: tuple[int, int, int] | None,
    preset: str,
    normalization: str,
) -> dict[str, Any]:
    """The plans for a fingerprint of images alone. Nothing in nnUNet_preprocessed is read or written.

    nnU-Net's planner needs its fingerprint file and writes beside it. It is given a scratch folder in place of
    nnUNet_preprocessed, so a stock fingerprint, which has seen every label, is neither used nor overwritten.
    """
    with scratch_preprocessed_folder() as scratch, redirect_stdout(StringIO()):
        write_json(scratch / dataset_name / "dataset_fingerprint.json", fingerprint)
        planner = ASSFTPlanner(dataset_name, plans_name=plans_name)
        planner.domain_patch_size, planner.preset, planner.normalization = domain_patch_size, preset, normalization
        planner.plan_experiment()
        planner.save_plans(planner.plans)  # turns every number into one that JSON can hold
        plans: dict[str, Any] = read_json(scratch / dataset_name / f"{plans_name}.json")
    return {**plans, "configurations": {CONFIGURATION: plans["configurations"][CONFIGURATION]}}


@contextmanager
def scratch_preprocessed_folder() -> Iterator[Path]:
    """Let nnU-Net's preprocessed folder be an empty one, so that a planner neither reads nor writes the real one."""
    before = {key: os.environ.get(key) for key in ("nnUNet_preprocessed", "nnUNet_n_proc_DA")}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["nnUNet_preprocessed"] = scratch
        if before["nnUNet_n_proc_DA"] == "0":  # no workers for training; the planner takes it for a number of threads
            os.environ["nnUNet_n_proc_DA"] = "1"
        try:
            yield Path(scratch)
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


def _nearest_multiple(edge: int) -> int:
    return max(DIVISOR, DIVISOR * int(edge / DIVISOR + 0.5))
