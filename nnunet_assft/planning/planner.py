"""nnU-Net's planner with the network of a preset, and the patch sizes and the normalisation of the paper."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunet_assft.errors import AssftError
from nnunet_assft.network.presets import PRESETS, Preset
from nnunet_assft.nnunet_names import CONFIGURATION, known_to
from nnunet_assft.planning.choices import NORMALIZATIONS
from nnunet_assft.runtime.files import read_json, sha256_of, write_json
from nnunet_assft.runtime.text import reason
from nnunet_assft.volumes.raw_dataset import RawDataset

BATCH_SIZE = 2


@known_to(default_experiment_planner)
class ASSFTPlanner(ExperimentPlanner):
    """Planner of the configuration `3d_fullres` alone.

    The patch size is `wanted_patch_size`, or that of the preset, or nnU-Net's own choice, rounded to what the network
    can take. The reader of the plans is `reader`, or nnU-Net's own choice. `plan_from_images` sets the attributes
    below; with their defaults, the class can be used like any nnU-Net planner.
    """

    wanted_patch_size: tuple[int, ...] | None = None
    preset: Preset = PRESETS["ctfm"]
    normalization: str = "percentile"
    reader: type[BaseReaderWriter] | None = None

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

    def determine_reader_writer(self) -> type[BaseReaderWriter]:
        """Return the reader that the plans record."""
        reader: type[BaseReaderWriter] = self.reader or super().determine_reader_writer()
        return reader

    def get_plans_for_configuration(self, spacing: Any, median_shape: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return nnU-Net's plan of a configuration; a 3D one gets our network, patch, batch and normalisation."""
        plan = super().get_plans_for_configuration(spacing, median_shape, *args, **kwargs)
        if len(spacing) == 3:
            n_channels, preset = len(plan["normalization_schemes"]), self.preset
            plan.update(
                batch_size=BATCH_SIZE,
                batch_dice=False,
                patch_size=preset.nearest_patch(self.wanted_patch_size or preset.patch_size or plan["patch_size"]),
                normalization_schemes=[NORMALIZATIONS[self.normalization]] * n_channels,
                use_mask_for_norm=[False] * n_channels,
                architecture=preset.architecture,
            )
        return plan

    def plan_experiment(self) -> dict[str, Any]:
        """Return the plans. Raises `AssftError` for a dataset of 2D images."""
        plans = super().plan_experiment()
        if CONFIGURATION not in plans["configurations"]:
            raise AssftError(f"{self.dataset_name} holds 2D images; expected 3D volumes. Use a dataset of volumes.")
        fullres = plans["configurations"][CONFIGURATION]
        fullres["batch_dice"] = False  # the stock planner sets it if there is a low-resolution configuration
        # everything that preprocessing depends on: experiments that agree on it share one folder of images
        recipe = {
            key: value
            for key, value in fullres.items()
            if key.startswith(("spacing", "normal", "use_mask", "resampling"))
        }
        recipe["patch_size"] = fullres["patch_size"]  # determines the chunks of the compressed files
        recipe["reader"], recipe["transpose"] = plans["image_reader_writer"], plans["transpose_forward"]
        fullres["data_identifier"] = f"assft_pool_{sha256_of(recipe)[:8]}"
        plans["configurations"] = {CONFIGURATION: fullres}
        self.plans = plans
        return plans


# seven parameters: everything that the plans depend on
def plan_from_images(
    dataset: RawDataset,
    fingerprint: dict[str, Any],
    *,
    plans_name: str,
    spacing: tuple[float, ...] | None,
    patch_size: tuple[int, ...] | None,
    preset: Preset,
    normalization: str,
) -> dict[str, Any]:
    """Return the plans for a fingerprint that was computed from images alone.

    The plans record the reader of the dataset. spacing: mm along the axes of the images as they are read, None for
    nnU-Net's own choice. patch_size: voxels (z, y, x), None for that of the preset, or nnU-Net's own choice. preset:
    the network. normalization: name in NORMALIZATIONS.
    """
    with scratch_folders(dataset, fingerprint) as preprocessed, redirect_stdout(StringIO()):
        floats = spacing and [float(edge) for edge in spacing]
        planner = ASSFTPlanner(
            dataset.name, preset.memory_gb, plans_name=plans_name, overwrite_target_spacing=floats or None
        )
        planner.wanted_patch_size, planner.preset, planner.normalization = patch_size, preset, normalization
        planner.reader = type(dataset.reader)
        try:
            with np.errstate(all="ignore"):
                planner.plan_experiment()
        except (ArithmeticError, AssertionError, LookupError, ValueError) as error:
            raise AssftError(
                f"nnU-Net finds no network for these images: {reason(error)}. Correct --spacing, --patch_size or the "
                "spacing in the headers of the images."
            ) from error
        planner.save_plans(planner.plans)  # converts all numbers to JSON types
        plans: dict[str, Any] = read_json(preprocessed / f"{plans_name}.json")
    return {**plans, "configurations": {CONFIGURATION: plans["configurations"][CONFIGURATION]}}


@contextmanager
def scratch_folders(dataset: RawDataset, fingerprint: dict[str, Any]) -> Iterator[Path]:
    """Set nnUNet_raw and nnUNet_preprocessed to temporary folders for one of nnU-Net's planners.

    The raw dataset in it names the images, so that nnU-Net does not list imagesTr, which it does in twelve processes
    and stops at any file that it does not know. The preprocessed one, which is returned, holds the fingerprint, so that
    a stock fingerprint, for which every label was read, is neither used nor overwritten.
    """
    before = {key: os.environ.get(key) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_n_proc_DA")}
    cases = {
        case: {"images": [str(file) for file in files], "label": str(dataset.label_file(case))}
        for case, files in dataset.images.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed"):
            os.environ[name] = str(Path(scratch, name))
        write_json(
            Path(scratch, "nnUNet_raw", dataset.name, "dataset.json"), {**dataset.dataset_json, "dataset": cases}
        )
        preprocessed = Path(scratch, "nnUNet_preprocessed", dataset.name)
        write_json(preprocessed / "dataset_fingerprint.json", fingerprint)
        if before["nnUNet_n_proc_DA"] == "0":  # means no workers in training, but the planner needs a number of threads
            os.environ["nnUNet_n_proc_DA"] = "1"
        try:
            yield preprocessed
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
