"""The context that every step of a round needs: experiment, raw dataset, plans and compute device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from nnunet_assft.active.experiment import image_folder, prepare
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment, Model
from nnunet_assft.active.training.initial_network import restore_initial_network
from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.errors import DamagedFileError
from nnunet_assft.planning.contract import normalised_as_trained
from nnunet_assft.planning.preprocessing import (
    forget,
    load_image,
    load_properties,
    preprocess,
    preprocess_images,
    whole_files,
)
from nnunet_assft.runtime.cases import Executor
from nnunet_assft.runtime.files import bytes_of
from nnunet_assft.volumes.accepted_geometry import is_accepted
from nnunet_assft.volumes.labels import find_misfit, misplaced, read_label
from nnunet_assft.volumes.raw_dataset import RawDataset

Read = TypeVar("Read")


@dataclass(frozen=True)
class Context:
    """An experiment together with its dataset, its plans and the device on which its rounds run."""

    experiment: Experiment
    dataset: RawDataset
    plans: dict[str, Any]
    images_sha256: Mapping[str, str]  # of the image files of every case
    device: torch.device
    engine: Engine = HERE

    @property
    def cases(self) -> Executor:
        """The executor for the cases of a step. Large cases are those with a large preprocessed image."""
        folder = self.image_folder
        return self.engine.cases(self.paths.jobs, lambda case: bytes_of([folder / f"{case}.b2nd"]))

    @property
    def trainings(self) -> Executor:
        """The executor for trainings."""
        return self.engine.trainings(self.paths.jobs)

    @property
    def paths(self) -> ExperimentPaths:
        return self.experiment.paths

    @property
    def image_folder(self) -> Path:
        """The folder of the preprocessed images of the pool and the test cases."""
        return image_folder(self.paths, self.plans)

    def image(self, case: str) -> np.ndarray:
        """Return the preprocessed image, (channels, z, y, x) float32."""
        return self._sound(load_image, case)

    def prior_image(self, case: str) -> np.ndarray:
        """Return the image as the encoder before adaptation was trained to see it, (channels, z, y, x) float32: with
        the normalisation of its training, and with the spacing and the crop of `image`."""
        report = self.experiment.encoder_report or {}
        plans = normalised_as_trained(self.plans, report.get("contract", {}))
        if plans == self.plans:
            return self.image(case)
        if case not in self.images_sha256:
            raise DamagedFileError(f"Case {case} was withdrawn, so its image is not read again.")
        return preprocess(self.dataset.images_of(case), plans, self.dataset.dataset_json)[0]

    def properties(self, case: str) -> dict[str, Any]:
        """Return the properties with which nnU-Net resamples a prediction of this case to the grid of its image."""
        return self._sound(load_properties, case)

    def whole_files(self, case: str) -> dict[str, str]:
        """Return name -> checksum of the preprocessed files of a case, all of which are sound."""
        return self._sound(whole_files, case)

    def _sound(self, read: Callable[[Path, str], Read], case: str) -> Read:
        """Read something of a case from the preprocessed images; if it is damaged, preprocess the image again first."""
        try:
            return read(self.image_folder, case)
        except DamagedFileError as error:
            if case not in self.images_sha256:
                raise DamagedFileError(f"{error} But case {case} was withdrawn, so it is not read again.") from error
            tqdm.write(str(error))
        forget(self.image_folder, case)
        images = {case: self.dataset.images_of(case)}
        preprocess_images(images, self.images_sha256, self.plans, self.dataset.dataset_json, self.image_folder)
        return read(self.image_folder, case)

    def checkpoint(self, model: Model) -> Path:
        """Return the checkpoint of a model. That of the initial network is made again if it is damaged; any other one
        has to be compared with the checksum of its weights when it is loaded."""
        if model == self.experiment.initial_model:
            restore_initial_network(self.experiment, self.dataset)
        return self.paths.result(model.checkpoint)

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


def open_context(experiment: Experiment, device: torch.device, engine: Engine = HERE) -> Context:
    """Open the dataset and the plans of an experiment. See `prepare` for what is checked, and made again if need be."""
    dataset = experiment.raw_dataset()
    return Context(experiment, dataset, *prepare(experiment, dataset, engine), device, engine)
