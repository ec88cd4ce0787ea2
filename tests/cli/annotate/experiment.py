"""An experiment that waits for human labels in round 1, with an untrained network as its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.csv_files import write_csv
from nnunet_assft.runtime.files import read_json
from tests.conftest import blob_case, plan_experiment, set_folders, write_dataset, write_volume

DATASET = "Dataset901_Blobs"
KIDNEYS = {"background": 0, "kidney_right": 1, "kidney_left": 2}  # the box lies to the left of the ball
SETTINGS = {"rounds": 2, "budget": "2", "preset": "tiny", "epochs": 1, "iterations_per_epoch": 1, "initial_lr": 1e-3}
QUERIED = ["case_03", "case_01", "case_06"]
TOP_FILES = {
    "labels.ctbl",
    "labels_itksnap.txt",
    "worklist.csv",
    "worklist.html",
    "times.csv",
    "README.txt",
    "export.json",
}

Call = Callable[..., tuple[int, str, list[str]]]


def plan_round_1(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    reader: str | None = None,
    store: Callable[[sitk.Image], sitk.Image] | None = None,
) -> Experiment:
    """reader: of nnU-Net, for all files. store: how an image or label is stored."""
    set_folders(root, monkeypatch)
    folder = write_dataset(root / "nnUNet_raw")
    content = json.loads((folder / "dataset.json").read_text()) | {"labels": KIDNEYS}
    for file in (folder / "labelsTr").iterdir():
        file.unlink()
    for case in ("case_00", "case_02"):  # labelled already
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", blob_case(int(case[-2:]))[1])
    if reader:
        content["overwrite_image_reader_writer"] = reader
    for file in folder.rglob("*.nii.gz") if store else ():
        sitk.WriteImage(store(sitk.ReadImage(str(file))), str(file))
    (folder / "dataset.json").write_text(json.dumps(content))
    experiment = plan_experiment(901, annotator="human", **SETTINGS)
    done = Round(
        round=0,
        labelled=("case_00", "case_02"),
        unlabelled=tuple(c for c in experiment.pool if c not in ("case_00", "case_02")),
        queried=("case_00", "case_02"),
        excluded=(),
        pseudo_labelled=(),
        reliability={},
        test=experiment.test,
        model=replace(experiment.initial_model, stage="supervised"),
        dice={"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}},
    )
    done.save(experiment.paths)
    cached(experiment.paths.step_file(1, "query"), {}, lambda: {"queried": QUERIED, "excluded": []})
    scores = [{"case": case, "query_rank": i + 1, "q": 2 - i / 2, "dkd": 0.5} for i, case in enumerate(QUERIED)]
    write_csv(experiment.paths.scores_file(1), scores)
    return experiment


def the_experiment() -> Experiment:
    return Experiment.load(ExperimentPaths(DATASET, "assft"))


def truth(case: str) -> np.ndarray:
    return blob_case(int(case[-2:]))[1]


def image_of(root: Path, case: str) -> sitk.Image:
    return sitk.ReadImage(str(root / f"nnUNet_raw/{DATASET}/imagesTr/{case}_0000.nii.gz"))


def label_file(root: Path, case: str) -> Path:
    return root / f"nnUNet_raw/{DATASET}/labelsTr/{case}.nii.gz"


def label_of(root: Path, case: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(label_file(root, case))))


def record_of(root: Path, case: str) -> dict:
    return read_json(root / f"nnUNet_results/{DATASET}/assft/assft/annotations/{case}.json")
