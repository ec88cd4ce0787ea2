"""The paths of all files and folders of an experiment."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.runtime.files import inside
from nnunet_assft.trainers.folds import TRAINERS, fold_of, training_set_of
from nnunet_assft.volumes.names import EXPERIMENT

ENTROPY = "entropy"  # the folder of entropy maps, beside the segmentations by the same model


@dataclass(frozen=True)
class ExperimentPaths:
    """The paths of one experiment.

    dataset: its folder name, such as `Dataset218_NAME`. experiment: its name. pseudo_labels_with_results: whether
    pseudo-labels lie with the results, because the raw dataset can only be read; `Experiment.paths` knows it. Raises
    `AssftError` for a name that no experiment or comparison can have, because it would become a part of paths.
    """

    dataset: str
    experiment: str
    pseudo_labels_with_results: bool = False

    def __post_init__(self) -> None:
        EXPERIMENT.check(self.experiment)

    def command(self, name: str, *arguments: str) -> str:
        """Return a command line for this experiment, for messages: `nnUNetv2_assft_round -d 218 -r 3`."""
        named = [] if self.experiment == "assft" else ["-e", self.experiment]
        words = ["-d", str(int(self.dataset[7:10])), *named, *arguments]
        return f"nnUNetv2_assft_{name} {shlex.join(words)}"

    # nnUNet_raw -----------------------------------------------------------------------------------------------------

    @property
    def raw(self) -> Path:
        return Path(str(nnUNet_raw), self.dataset)

    def pseudo_label_folder(self, r: int) -> Path:
        """The folder of pseudo_labels/CASE.nii.gz, provenance.json and dataset.json of round r."""
        in_raw, in_results = self.raw / "assft" / self.experiment, self.results / "pseudo_labels"
        return (in_results if self.pseudo_labels_with_results else in_raw) / f"round_{r:02d}"

    @property
    def jobs(self) -> Path:
        """The folder of the steps that are being worked on in parts."""
        return self.results / "jobs"

    # nnUNet_preprocessed --------------------------------------------------------------------------------------------

    @property
    def preprocessed(self) -> Path:
        return Path(str(nnUNet_preprocessed), self.dataset)

    @property
    def plans_name(self) -> str:
        return "nnUNetASSFTPlans" if self.experiment == "assft" else f"nnUNetASSFTPlans_{self.experiment}"

    @property
    def plans(self) -> Path:
        return self.preprocessed / f"{self.plans_name}.json"

    @property
    def plans_files(self) -> tuple[Path, Path]:
        """The plans beside the results, and their copy where nnU-Net looks for it."""
        return self.results / "plans.json", self.plans

    @property
    def fingerprint_files(self) -> tuple[Path, Path]:
        """The fingerprint beside the results, and its copy where nnU-Net looks for it."""
        return self.results / "dataset_fingerprint.json", self.stages / "dataset_fingerprint.json"

    @property
    def fingerprint_cases(self) -> Path:
        return self.preprocessed / "assft_fingerprint"

    @property
    def stages(self) -> Path:
        """The preprocessed dataset of the trainers: training sets, stage files, fingerprint and reference labels."""
        return self.preprocessed / "assft" / self.experiment

    def training_set(self, r: int, stage: str) -> Path:
        return self.stages / training_set_of(r, stage)

    def stage_file(self, r: int, stage: str) -> Path:
        return self.stages / f"{training_set_of(r, stage)}.json"

    # nnUNet_results -------------------------------------------------------------------------------------------------

    @property
    def results_of_dataset(self) -> Path:
        return Path(str(nnUNet_results), self.dataset)

    def relative(self, file: Path) -> str:
        """Return a path relative to the results of the dataset, so that the results can be moved as a whole."""
        return file.relative_to(self.results_of_dataset).as_posix()

    def result(self, relative: str) -> Path:
        """Return the path that `relative` has made relative. Raises `AssftError` if it leads out of the results."""
        return inside(self.results_of_dataset, relative)

    @property
    def results(self) -> Path:
        return self.results_of_dataset / "assft" / self.experiment

    @property
    def experiment_file(self) -> Path:
        return self.results / "experiment.json"

    @property
    def history_file(self) -> Path:
        """What was changed after the experiment was planned."""
        return self.results / "history.json"

    @property
    def initial_network(self) -> Path:
        """E^(p) and D^(0): the network that round 0 starts from."""
        return self.results / "initial_network.pth"

    @property
    def splits_file(self) -> Path:
        return self.results / "splits.json"

    @property
    def lock_file(self) -> Path:
        return self.results / ".lock"

    @property
    def log_file(self) -> Path:
        return self.results / "log.txt"

    def round_file(self, r: int) -> Path:
        return self.results / f"round_{r:02d}.json"

    def step_file(self, r: int, step: str) -> Path:
        return self.results / "steps" / f"round_{r:02d}_{step}.json"

    def scores_file(self, r: int) -> Path:
        return self.results / f"scores_round_{r:02d}.csv"

    def selection_file(self, r: int) -> Path:
        return self.results / f"selection_round_{r:02d}.csv"

    def pseudo_label_quality(self, r: int) -> Path:
        return self.results / f"pseudo_label_quality_round_{r:02d}.csv"

    def records(self, name: str) -> Path:
        return self.results / "records" / name

    @property
    def accepted_geometry_file(self) -> Path:
        """The record of labels that are used although their header does not match the geometry of their image."""
        return self.results / "accepted_geometry.json"

    @property
    def annotations(self) -> Path:
        """The folder of one CASE.json per imported label; second readings and replaced labels are in subfolders."""
        return self.results / "annotations"

    def annotation_file(self, case: str) -> Path:
        return self.annotations / f"{case}.json"

    def second_reading(self, annotator: str, case: str, file_ending: str) -> Path:
        return self.annotations / "second_readings" / annotator / f"{case}{file_ending}"

    def annotators_file(self, r: int | None) -> Path:
        """The assignment of the queried cases of round r to annotators; if r is None, the test cases that annotators
        are asked for, each with its annotators."""
        return self.results / f"readers_{_suffix(r)}.json"

    def agreement_file(self, r: int | None) -> Path:
        return self.results / f"agreement_{_suffix(r)}.csv"

    def previews(self, r: int) -> Path:
        """The folder of the pre-segmentations of the queried cases by the previous model, with a CASE.json each."""
        return self.results / f"prelabels_round_{r:02d}"

    def entropies(self, r: int) -> Path:
        """The folder of the entropy maps of the same cases by the same model."""
        return self.previews(r) / ENTROPY

    def second_look(self, r: int) -> Path:
        """The folder of the pseudo-labels of round r that annotators look at again, with a CASE.json each."""
        return self.results / f"second_look_round_{r:02d}"

    def second_look_file(self, r: int) -> Path:
        """The cases of that folder, the most doubtful first."""
        return self.results / f"second_look_round_{r:02d}.json"

    def test_predictions(self, r: int) -> Path:
        return self.results / f"test_round_{r:02d}"

    def model_folder(self, stage: str) -> Path:
        """The nnU-Net model folder of a stage, which `nnUNetv2_predict_from_modelfolder -m` accepts."""
        return self.results_of_dataset / f"{TRAINERS[stage]}__{self.plans_name}__{CONFIGURATION}"

    def checkpoint(self, r: int, stage: str) -> Path:
        return self.model_folder(stage) / f"fold_{fold_of(r, stage)}" / "checkpoint_final.pth"

    def trained_on(self, r: int, stage: str) -> Path:
        """The copy of the stage file beside the checkpoint, which is kept if nnUNet_preprocessed is deleted."""
        return self.checkpoint(r, stage).with_name("stage.json")

    def training_lock(self, r: int, stage: str) -> Path:
        """The lock that the process holds which trains a stage."""
        fold = self.checkpoint(r, stage).parent
        return fold.with_name(f".{fold.name}.lock")

    @property
    def taken_from(self) -> Path:
        """The record of the experiment that has trained round 0, if that was another one."""
        return self.checkpoint(0, "supervised").with_name("taken_from.json")


def _suffix(r: int | None) -> str:
    return "test" if r is None else f"round_{r:02d}"


def experiments_in_results() -> list[ExperimentPaths]:
    """Return the paths of all experiments in nnUNet_results, in the order of their datasets and names. A folder whose
    name no experiment can have, such as `assft.bak`, is none."""
    files = sorted(Path(str(nnUNet_results)).glob("Dataset[0-9][0-9][0-9]_*/assft/*/experiment.json"))
    places = [(file.parents[2].name, file.parent.name) for file in files]
    return [ExperimentPaths(dataset, name) for dataset, name in places if EXPERIMENT.fault(name) is None]
