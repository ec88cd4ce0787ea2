"""The context that every step of a round needs: experiment, raw dataset, plans and compute device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.planner import CONFIGURATION
from nnunet_assft.planning.preprocessing import load_image, load_properties
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.text import some
from nnunet_assft.volumes.accepted_geometry import is_accepted
from nnunet_assft.volumes.labels import find_misfit, misplaced, read_label
from nnunet_assft.volumes.raw_dataset import RawDataset


@dataclass(frozen=True)
class Context:
    """An experiment together with its dataset, its plans and the device on which its rounds run."""

    experiment: Experiment
    dataset: RawDataset
    plans: dict[str, Any]
    device: torch.device

    @property
    def paths(self) -> ExperimentPaths:
        return self.experiment.paths

    @property
    def image_folder(self) -> Path:
        """The folder of the preprocessed images of the pool and the test cases."""
        return self.paths.preprocessed / str(self.plans["configurations"][CONFIGURATION]["data_identifier"])

    def image(self, case: str) -> np.ndarray:
        """Return the preprocessed image, (channels, z, y, x) float32."""
        return load_image(self.image_folder, case)

    def properties(self, case: str) -> dict[str, Any]:
        """Return the properties with which nnU-Net resamples a prediction of this case to the grid of its image."""
        return load_properties(self.image_folder, case)

    def pseudo_label(self, r: int, case: str) -> Path:
        """Return the file of the pseudo-label that a case gets in round r."""
        return self.paths.pseudo_label_folder(r) / "pseudo_labels" / f"{case}{self.dataset.file_ending}"

    def checked_label(self, case: str, label_file: Path) -> np.ndarray:
        """Read and check a label, and return it as (1, z, y, x) int16 on the axes of nnU-Net's reader.

        Call this only for a case whose label may be seen. Raises `AssftError` for a label that cannot be used, and for
        one whose geometry does not match its image, unless the user has accepted it with --accept_geometry.
        """
        misfit = find_misfit(self.dataset, case, label_file)
        if misfit and not (misfit.same_shape and is_accepted(self.paths.accepted_geometry_file, case, misfit.reason)):
            raise misplaced(case, label_file, misfit)
        return read_label(self.dataset, case, label_file)


def open_context(experiment: Experiment, device: torch.device) -> Context:
    """Open the dataset and the plans of an experiment.

    Raises `AssftError` if a raw image of the pool, or a preprocessed image, is missing.
    """
    dataset = experiment.raw_dataset()
    missing = [case for case in experiment.pool if case not in dataset.images]
    if missing:
        raise AssftError(
            f"{dataset.folder / 'imagesTr'} lacks {len(missing)} cases that the experiment was planned with: "
            f"{some(missing)}. Put them back and run the same command again."
        )
    context = Context(experiment, dataset, read_json(experiment.paths.plans), device)
    cases = (*experiment.pool, *experiment.test)
    missing = [case for case in cases if not (context.image_folder / f"{case}.pkl").is_file()]
    if missing:
        raise AssftError(
            f"{context.image_folder} lacks {len(missing)} preprocessed cases: {some(missing)}. "
            f"Run {experiment.command('plan')} with the options of the experiment to preprocess them again."
        )
    return context
