"""Prediction of images that do not belong to the dataset, with nnU-Net's own predictor and exporter.

Every image passes the check of `volumes.images` in the process that preprocesses it, so that it is read only once. An
image that cannot be used does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.state import Experiment, Model
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.planning.preprocessing import preprocess
from nnunet_assft.runtime.cases import each_case, here, in_processes
from nnunet_assft.runtime.files import write_json
from nnunet_assft.runtime.text import reason
from nnunet_assft.volumes.whole_files import whole_file


@dataclass(frozen=True)
class Processes:
    """Numbers of processes for preprocessing and for export. 0: the work is done in this process."""

    preprocessing: int = 0
    export: int = 0


@dataclass(frozen=True)
class _Job:
    files: tuple[Path, ...]
    plans: dict[str, Any]
    dataset_json: dict[str, Any]


def open_predictor(
    experiment: Experiment, model: Model, device: torch.device, step_size: float, *, use_mirroring: bool
) -> nnUNetPredictor:
    """Return nnU-Net's own predictor with the network of a stage. step_size: of the sliding window, in patches.

    Plans and weights are compared with their checksums. Raises `DamagedFileError` if they do not match.
    """
    weights = load_weights(experiment.paths.result(model.checkpoint), model.weights_sha256)
    plans, dataset_json = read_plans(experiment), experiment.raw_dataset().dataset_json
    loaded = Scorer(plans, dataset_json, weights, device)
    with redirect_stdout(StringIO()):  # nnU-Net prints a line about the CPU each time
        predictor = nnUNetPredictor(tile_step_size=step_size, use_mirroring=use_mirroring, device=device)
    predictor.manual_initialization(
        loaded.network, loaded.plans_manager, loaded.configuration, [dict(weights)], dataset_json, "", (0, 1, 2)
    )
    return predictor


# five parameters and what is told to the caller while cases are predicted
def predict_images(
    predictor: nnUNetPredictor,
    cases: Mapping[str, tuple[Path, ...]],
    folder: Path,
    processes: Processes,
    *,
    save_probabilities: bool = False,
    refused: Callable[[str, AssftError], object],
) -> None:
    """Write CASE with the file ending of the dataset to `folder` for every image that can be used.

    predictor: with the model loaded. cases: case -> its files, one per channel. save_probabilities: also write the
    softmax as CASE.npz. refused: called with each case that is not predicted, and the reason. Raises an `AssftError` if
    a process that writes segmentations is killed.
    """
    plans, dataset_json = predictor.plans_manager.plans, predictor.dataset_json
    for name, content in (("dataset.json", dataset_json), ("plans.json", plans)):  # for nnU-Net's postprocessing
        write_json(folder / name, content)
    jobs = {case: _Job(files, plans, dataset_json) for case, files in cases.items()}
    executor = in_processes(processes.preprocessing, never_here=True) if processes.preprocessing else here

    def preprocessed() -> Iterator[dict[str, Any]]:
        for case, result in each_case(_prepare, jobs, desc="preprocessing", executor=executor):
            if isinstance(result, AssftError):
                refused(case, result)
            else:
                data, properties = result
                yield {
                    "data": torch.from_numpy(data),
                    "data_properties": properties,
                    "ofile": str(folder / case),
                }

    if not processes.export:
        for item in tqdm(preprocessed(), total=len(cases), desc="predicting", unit="case", leave=False):
            _predict_here(predictor, item, save_probabilities=save_probabilities)
        return
    try:
        predictor.predict_from_data_iterator(preprocessed(), save_probabilities, processes.export)
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        raise AssftError(
            "A process that writes segmentations was killed, most likely because the memory was exhausted. Use a "
            "smaller -nps, and --continue_prediction to keep the segmentations that exist."
        ) from error


def is_predicted(folder: Path, case: str, file_ending: str, *, probabilities: bool) -> bool:
    """Whether the segmentation of a case was written completely. probabilities: and its softmax as well."""
    try:
        with whole_file(folder / f"{case}{file_ending}"):
            pass
    except Exception:  # nnU-Net leaves half a file when it is killed, which may raise any exception
        return False
    return not probabilities or is_zipfile(folder / f"{case}.npz")


def _prepare(job: _Job) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        data, _, properties = preprocess(job.files, job.plans, job.dataset_json)
    except AssftError:
        raise
    except Exception as error:  # one image must not stop the others
        raise AssftError(f"it cannot be preprocessed ({reason(error)})") from error
    return data, properties


def _predict_here(predictor: nnUNetPredictor, item: dict[str, Any], *, save_probabilities: bool) -> None:
    logits = predictor.predict_logits_from_preprocessed_data(item["data"]).cpu()
    export_prediction_from_logits(
        logits,
        item["data_properties"],
        predictor.configuration_manager,
        predictor.plans_manager,
        predictor.dataset_json,
        item["ofile"],
        save_probabilities,
    )
