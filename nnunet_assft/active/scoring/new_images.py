"""Prediction of images that do not belong to the dataset, with nnU-Net's own predictor and exporter.

Every image passes the check of `volumes.images` in the process that preprocesses it, so that it is read only once. An
image that cannot be used does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tqdm import tqdm

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.scoring.original_grid import bytes_to_export
from nnunet_assft.active.scoring.scorer import Scorer, finite_logits
from nnunet_assft.active.scoring.sliding_window import SlidingWindowPredictor
from nnunet_assft.active.state import Experiment, Model
from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.planning.preprocessing import preprocess
from nnunet_assft.runtime.cases import Once, each_case
from nnunet_assft.runtime.files import bytes_of, sha256_of, signature, write_json
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.staged import Staged
from nnunet_assft.runtime.text import reason
from nnunet_assft.volumes.whole_files import whole_file


@dataclass(frozen=True)
class PredictionOptions:
    """Options in nnU-Net's terms.

    step_size: of the sliding window, in patches. save_probabilities: also write the softmax as CASE.npz.
    preprocessing, export: numbers of processes; 0: none.
    """

    step_size: float = 0.5
    use_mirroring: bool = True
    save_probabilities: bool = False
    preprocessing: int = 0
    export: int = 0


@dataclass(frozen=True)
class Prediction:
    """With which network new images are predicted, where, and how. folder: of the segmentations."""

    experiment: Experiment
    model: Model
    device: torch.device
    folder: Path
    options: PredictionOptions

    def open(self) -> SlidingWindowPredictor:
        """Return nnU-Net's predictor with the network. Plans and weights are compared with their checksums; raises
        `DamagedFileError` if they do not match."""
        weights = load_weights(self.experiment.paths.result(self.model.checkpoint), self.model.weights_sha256)
        plans, dataset_json = read_plans(self.experiment), self.experiment.raw_dataset().dataset_json
        loaded = Scorer(plans, dataset_json, weights, self.device)
        with redirect_stdout(StringIO()):  # nnU-Net prints a line about the CPU each time
            predictor = SlidingWindowPredictor(
                tile_step_size=self.options.step_size,
                use_mirroring=self.options.use_mirroring,
                device=self.device,
                allow_tqdm=False,
            )
        predictor.manual_initialization(
            loaded.network, loaded.plans_manager, loaded.configuration, [dict(weights)], dataset_json, "", (0, 1, 2)
        )
        return predictor


def predict_images(
    how: Prediction,
    cases: Mapping[str, tuple[Path, ...]],
    refused: Callable[[str, AssftError], object],
    engine: Engine = HERE,
) -> None:
    """Write CASE with the file ending of the dataset to the folder for every image that can be used.

    cases: case -> its files, one per channel. refused: called with each case that is not predicted, and the reason.
    engine: where the cases are worked on. Raises `DamagedFileError` if the network cannot be used, and `AssftError` if
    another call with an engine is at work on the folder, since the parts of both would be the same.
    """
    load_weights(how.experiment.paths.result(how.model.checkpoint), how.model.weights_sha256)  # an error of no case
    plans, dataset_json = read_plans(how.experiment), how.experiment.raw_dataset().dataset_json
    for name, content in (("dataset.json", dataset_json), ("plans.json", plans)):  # for nnU-Net's postprocessing
        write_json(how.folder / name, content)
    function = Staged(
        read=partial(_preprocess, plans, dataset_json),
        compute=partial(_predict, Once(how.open)),
        write=partial(_export, plans, dataset_json, how.options.save_probabilities),
        readers=how.options.preprocessing,
        writers=partial(int, how.options.export),
        bytes_to_write=_bytes_to_export,
    )
    folder = how.folder.absolute()  # parts work in other folders
    jobs = {
        case: (folder / case, [file.absolute() for file in files], signature(filter(Path.is_file, files)))
        for case, files in cases.items()
    }
    desc = f"predicting {folder.name} {sha256_of(str(folder))[:6]}"  # two commands may predict at the same time
    executor = engine.cases(how.experiment.paths.jobs, lambda case: bytes_of(cases[case]))
    alone = _only_call(folder) if engine != HERE else nullcontext()
    with alone, tqdm(total=len(cases), desc="predicting", unit="case", leave=False) as bar:
        for case, result in each_case(function, jobs, desc=desc, executor=executor):
            if isinstance(result, AssftError):
                refused(case, result)
            bar.update()


@contextmanager
def _only_call(folder: Path) -> Iterator[None]:
    lock = folder / ".predict.lock"
    with only_process(lock, f"predictions into {folder}"):
        yield
        lock.unlink(missing_ok=True)


def is_predicted(folder: Path, case: str, file_ending: str, *, probabilities: bool) -> bool:
    """Whether the segmentation of a case was written completely. probabilities: and its softmax as well."""
    try:
        with whole_file(folder / f"{case}{file_ending}"):
            pass
    except Exception:  # nnU-Net leaves half a file when it is killed, which may raise any exception
        return False
    return not probabilities or is_zipfile(folder / f"{case}.npz")


# The steps of a prediction: file without ending, and what the step before has made ------------------------------------

_Preprocessed = tuple[Path, np.ndarray, dict[str, Any]]


def _preprocess(
    plans: dict[str, Any], dataset_json: dict[str, Any], job: tuple[Path, Sequence[Path], object]
) -> _Preprocessed:
    """job: the file to write, without its ending; the images; and their state, by which an executor tells what it found
    of images that were replaced since."""
    file, images, _ = job
    try:
        data, _, properties = preprocess(tuple(images), plans, dataset_json)
    except AssftError:
        raise
    except Exception as error:  # one image must not stop the others
        raise AssftError(f"it cannot be preprocessed ({reason(error)})") from error
    return file, data, properties


def _predict(predictor: Once[SlidingWindowPredictor], found: _Preprocessed) -> _Preprocessed:
    file, data, properties = found
    with finite_logits(file.name):
        logits = predictor().predict_logits_from_preprocessed_data(torch.from_numpy(data))
    return file, logits.cpu().numpy(), properties


def _export(
    plans: dict[str, Any], dataset_json: dict[str, Any], save_probabilities: bool, found: _Preprocessed
) -> None:
    file, logits, properties = found
    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    export_prediction_from_logits(
        torch.from_numpy(logits), properties, configuration, manager, dataset_json, str(file), save_probabilities
    )


def _bytes_to_export(found: _Preprocessed) -> int:
    return bytes_to_export(*found[1:])
