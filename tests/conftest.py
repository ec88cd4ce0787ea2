"""Shared by all tests: one thread, no worker processes, a raw dataset small enough to train on in seconds, experiments.

Planning takes about a second and the three rounds of an experiment about six, so they are made once per run of the
tests and copied, which takes a tenth of a second:

* `blobs`: a raw dataset, nothing planned.
* `planned`: the experiment of `blobs` with the settings `TINY`, before its first round.
* `trained`: the same experiment after its rounds 0, 1 and 2, and the `Round` of each.

Each test gets a copy of its own in `tmp_path`, which it may change as it likes, with one exception: a checkpoint (.pth)
is a hard link, so a test replaces it as a whole or deletes it and never writes into it. Where a test needs other
settings, `plan_experiment` in a copy finds the images preprocessed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(nnUNet_def_n_proc="1", nnUNet_n_proc_DA="0", OMP_NUM_THREADS="1")  # read when nnU-Net is imported
os.environ["BLOSC_NTHREADS"] = "1"  # a process with threads of blosc2 must not fork, and `tests.kills` forks

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunet_assft.active.experiment import create_experiment
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.runtime.files import link_or_copy, signature
from nnunet_assft.runtime.locks import only_process

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_plots_of_the_training() -> Iterator[None]:
    """nnU-Net's progress.png is 30 x 54 inches; drawing it took a third of the time of these small trainings."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
        yield


def save_by_spreadsheet(file: Path) -> None:
    """Save a CSV file as a spreadsheet with European settings does, after somebody has renamed its columns."""
    header, _, rest = file.read_text(encoding="utf-8").partition("\n")
    columns = ";".join(name.title() for name in header.split(","))
    file.write_bytes(f"{columns}\r\n{rest.replace(',', ';')}".encode("utf-8-sig"))


# A raw dataset --------------------------------------------------------------------------------------------------------

SHAPE = (18, 26, 24)  # z, y, x
LABELS = {"background": 0, "ball": 1, "box": 2}


def blob_case(seed: int, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball (1) and a dark box (2) in noise; image float32, label uint8."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    centre = [n * f for n, f in zip(shape, rng.uniform(0.35, 0.5, 3), strict=True)]
    label = np.zeros(shape, np.uint8)
    label[sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < rng.uniform(4, 6) ** 2] = 1
    z, y, x = (int(n * 0.6) for n in shape)
    label[z : z + 4, y : y + 6, x : x + 5] = 2
    image = rng.normal(100, 12, shape) + 60 * (label == 1) - 50 * (label == 2)
    return image.astype(np.float32), label


def write_volume(file: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    """array: (z, y, x); spacing: (x, y, z) in mm."""
    file.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(spacing)
    volume.SetOrigin((-3.0, 5.0, 7.5))
    sitk.WriteImage(volume, str(file))


def write_dataset(
    raw: Path,
    *,
    name: str = "Dataset901_Blobs",
    n_pool: int = 8,
    n_test: int = 3,
    label_of: Callable[[str, np.ndarray], np.ndarray] = lambda case, label: label,
) -> Path:
    """An nnU-Net raw dataset of blobs; `label_of(case, label)` may replace labels."""
    folder = raw / name
    for i in range(n_pool + n_test):
        case, kind = f"case_{i:02d}", "Tr" if i < n_pool else "Ts"
        image, label = blob_case(i)
        write_volume(folder / f"images{kind}" / f"{case}_0000.nii.gz", image)
        write_volume(folder / f"labels{kind}" / f"{case}.nii.gz", label_of(case, label))
    content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": n_pool, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def set_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's three folders below root, made if they are not there."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(root / name))


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's three folders below tmp_path, empty."""
    set_folders(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def blobs(nnunet_folders: Path) -> Path:
    """A raw dataset of eight pool and three test cases: Dataset901_Blobs."""
    return write_dataset(nnunet_folders / "nnUNet_raw")


# Experiments ----------------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")
TINY = {"rounds": 2, "budget": "2", "preset": "tiny", "epochs": 2, "iterations_per_epoch": 2, "initial_lr": 1e-3}


class Trained(NamedTuple):
    """An experiment whose rounds are finished. root: of nnU-Net's three folders."""

    root: Path
    experiment: Experiment
    rounds: list[Round]


def plan_experiment(dataset: str | int, name: str = "assft", **settings: Any) -> Experiment:
    """An experiment of a raw dataset, planned with these settings."""
    return create_experiment(dataset, name, Settings(**settings))


def run_all(experiment: Experiment) -> list[Round]:
    """Every round of an experiment, on the CPU."""
    return [run_round(experiment, r, CPU) for r in range(experiment.n_rounds + 1)]


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that is built by the first process that asks for it, and shared by all processes of a run of the tests.

    build: called with the folder, in which nnU-Net's three folders exist and are set. Nothing may change it afterwards.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with only_process(folder.with_suffix(".lock"), name, patience=600):
        if not folder.is_dir():
            partial = folder.with_name(f"partial_{name}")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that failed to build it
            with pytest.MonkeyPatch.context() as monkeypatch:
                set_folders(partial, monkeypatch)
                build(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def planned_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `planned` copies."""

    def build(root: Path) -> None:
        write_dataset(root / "nnUNet_raw")
        plan_experiment("Dataset901_Blobs", **TINY)

    return built_once(tmp_path_factory, "planned", build)


def copy_template(template: Path, root: Path) -> None:
    """root: a folder that exists. Checkpoints are hard links, which nothing of ours writes into; all else is copied."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".pth"):
            link_or_copy(Path(source), Path(target))
        else:
            shutil.copy2(source, target)

    shutil.copytree(template, root, copy_function=copy, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def trained_template(tmp_path_factory: pytest.TempPathFactory, planned_template: Path) -> Iterator[Path]:
    """What `trained` copies."""

    def build(root: Path) -> None:
        copy_template(planned_template, root)
        run_all(Experiment.load(ExperimentPaths("Dataset901_Blobs", "assft")))

    folder = built_once(tmp_path_factory, "trained", build)
    checkpoints = sorted(folder.rglob("*.pth"))
    before = signature(checkpoints)
    yield folder
    assert signature(checkpoints) == before, "a test has written into a checkpoint that other tests share"


@pytest.fixture
def planned(planned_template: Path, nnunet_folders: Path) -> Experiment:
    """`blobs` with an experiment before its first round: `assft`, with the settings `TINY`. A test may change it."""
    copy_template(planned_template, nnunet_folders)
    return Experiment.load(ExperimentPaths("Dataset901_Blobs", "assft"))


@pytest.fixture
def trained(trained_template: Path, nnunet_folders: Path) -> Trained:
    """The experiment of `planned` with rounds 0, 1 and 2 finished. A copy that a test may change."""
    copy_template(trained_template, nnunet_folders)
    experiment = Experiment.load(ExperimentPaths("Dataset901_Blobs", "assft"))
    return Trained(nnunet_folders, experiment, finished_rounds(experiment))


def start_round_again(experiment: Experiment, r: int) -> None:
    paths = experiment.paths
    for file in (paths.round_file(r), *(paths.results / "steps").glob(f"round_{r:02d}_*")):
        file.unlink()
    for stage in ("supervised", "semi"):
        shutil.rmtree(paths.checkpoint(r, stage).parent)


# Real images ----------------------------------------------------------------------------------------------------------

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_hippocampus = pytest.mark.skipif(
    not (SHARED_DATA / "hippocampus").is_dir(), reason="the hippocampus images are not beside the repository"
)
