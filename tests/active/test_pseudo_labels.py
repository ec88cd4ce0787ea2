"""Pseudo-labels in the raw dataset: geometry of the image, provenance, and a dataset.json that nnU-Net reads."""

import errno
import hashlib
import json
import os
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_assft.active import pseudo_labels
from nnunet_assft.active.context import open_context
from nnunet_assft.active.finished import read_provenance
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.pseudo_labels import write_pseudo_labels
from nnunet_assft.active.scoring import prediction
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.state import Experiment
from nnunet_assft.cluster.engines import Engine
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.runtime import staged
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.volumes.raw_dataset import find_dataset
from nnunet_assft.volumes.segmentations import write_segmentation
from tests.conftest import CPU, blob_case, built_once, copy_template, plan_experiment, write_dataset

HUMAN = ("case_02", "case_04")
SELECTED = {
    "case_05": {"confidence": 90.5, "distance": 0.25, "reliability": 67.875, "rank": 1},
    "case_00": {"confidence": 80.0, "distance": 0.5, "reliability": 40.0, "rank": 2},
}


def write_oblique(folder) -> None:
    """case_00 anew: other spacing, a border of zeros, and axes that are neither identity nor right-angled to it."""
    image, label = blob_case(20, (14, 30, 28))
    cosine, sine = np.cos(0.3), np.sin(0.3)
    for array, file in ((image, "imagesTr/case_00_0000.nii.gz"), (label, "labelsTr/case_00.nii.gz")):
        volume = sitk.GetImageFromArray(np.pad(array, ((2, 3), (4, 0), (0, 5))))
        volume.SetSpacing((1.3, 1.2, 1.7))
        volume.SetOrigin((-120.5, 33.25, 400.0))
        volume.SetDirection((-cosine, sine, 0, -sine, -cosine, 0, 0, 0, 1))
        sitk.WriteImage(volume, str(folder / file))


@pytest.fixture(scope="session")
def oblique_template(tmp_path_factory):
    """Pseudo-labels for round 2, written by the network before round 0."""

    def build(root):
        write_oblique(write_dataset(root / "nnUNet_raw"))
        experiment = plan_experiment(901, preset="tiny", epochs=1, iterations_per_epoch=1)
        context = open_context(experiment, CPU)
        stale = context.paths.pseudo_label_folder(2) / "pseudo_labels" / "case_07.nii.gz"
        stale.parent.mkdir(parents=True)
        stale.write_bytes(b"of an attempt with another model")
        write_pseudo_labels(context, 2, experiment.initial_model, HUMAN, SELECTED)

    return built_once(tmp_path_factory, "oblique", build)


@pytest.fixture
def blobs(oblique_template, nnunet_folders):
    """The raw dataset of a copy of what `oblique_template` holds."""
    copy_template(oblique_template, nnunet_folders)
    return nnunet_folders / "nnUNet_raw" / "Dataset901_Blobs"


@pytest.fixture
def written(blobs):
    """(context, scorer, files) of the pseudo-labels of round 2."""
    experiment = Experiment.load(ExperimentPaths("Dataset901_Blobs", "assft"))
    context = open_context(experiment, CPU)
    files = {case: context.pseudo_label(2, case) for case in SELECTED}
    return context, open_scorer(context, experiment.initial_model), files


def checksums(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_files_are_where_nnunets_raw_folder_has_room_for_them(written, blobs):
    _, _, files = written
    folder = blobs / "assft" / "assft" / "round_02"
    assert files == {case: folder / "pseudo_labels" / f"{case}.nii.gz" for case in SELECTED}
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert found == ["dataset.json", "provenance.json", "pseudo_labels/case_00.nii.gz", "pseudo_labels/case_05.nii.gz"]


def test_a_pseudo_label_is_the_prediction_in_the_geometry_of_its_image(written, blobs):
    context, scorer, files = written
    for case, file in files.items():
        image, label = sitk.ReadImage(str(blobs / "imagesTr" / f"{case}_0000.nii.gz")), sitk.ReadImage(str(file))
        assert label.GetSize() == image.GetSize()
        assert label.GetSpacing() == pytest.approx(image.GetSpacing())
        assert label.GetOrigin() == pytest.approx(image.GetOrigin())
        assert label.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
        logits = scorer.logits(context.image(case))
        segmentation = scorer.segmentation(logits, context.properties(case))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(label), segmentation)
        assert len(np.unique(segmentation)) > 1


@pytest.mark.slow
def test_another_process_writes_the_same_files(written, monkeypatch):
    context, _, files = written
    monkeypatch.setattr(staged, "START", 0.0)
    monkeypatch.setattr(prediction, "idle_cores", lambda device: 1)
    write_pseudo_labels(context, 3, context.experiment.initial_model, HUMAN, SELECTED)
    for case, file in files.items():
        assert context.pseudo_label(3, case).read_bytes() == file.read_bytes()
    cases = [read_provenance(context.paths.pseudo_label_folder(r))["cases"] for r in (2, 3)]
    assert cases[0] == cases[1]


def test_of_an_interrupted_call_only_whole_files_of_the_same_model_are_kept(written, monkeypatch):
    context, _, files = written
    model, before = context.experiment.initial_model, {case: file.read_bytes() for case, file in files.items()}
    provenance = context.paths.pseudo_label_folder(2) / "provenance.json"
    content = provenance.read_bytes()
    computed = []
    original = pseudo_labels._pseudo_label

    def counted(context, found):
        computed.append(found.case)
        return original(context, found)

    monkeypatch.setattr(pseudo_labels, "_pseudo_label", counted)

    def again(made_by):
        computed.clear()
        provenance.unlink(missing_ok=True)
        write_pseudo_labels(context, 2, made_by, HUMAN, SELECTED)
        assert {case: file.read_bytes() for case, file in files.items()} == before
        return sorted(computed)

    assert again(model) == []
    assert provenance.read_bytes() == content
    files["case_05"].write_bytes(before["case_05"][:-1])
    assert again(model) == ["case_05"]
    files["case_00"].write_bytes(before["case_05"])  # a sound file of another case
    assert again(model) == ["case_00"]
    monkeypatch.setattr(prediction, "load_weights", lambda file, sha256: load_weights(file))
    assert again(replace(model, weights_sha256="another")) == ["case_00", "case_05"]


def test_cases_are_divided_by_the_size_of_their_preprocessed_images(written):
    context, _, _ = written
    size = replace(context, engine=Engine("local")).cases.size
    assert size("case_05") == (context.image_folder / "case_05.b2nd").stat().st_size > 0


def test_labelsTr_is_never_touched(written, blobs):  # noqa: N802 - nnU-Net's name
    context, _, _ = written
    before = checksums(blobs / "labelsTr")
    write_pseudo_labels(context, 3, context.experiment.initial_model, HUMAN, SELECTED)
    assert checksums(blobs / "labelsTr") == before


def test_provenance_says_what_made_each_label(written):
    context, _, files = written
    provenance = read_provenance(context.paths.pseudo_label_folder(2))
    assert {key: value for key, value in provenance.items() if key != "cases"} == {
        "experiment": "assft",
        "round": 2,
        "model": asdict(context.experiment.initial_model),
        "mirroring": False,
        "largest_component": False,
        "ignore_margin": 0.0,
        "dataset_json_sha256": sha256_file(context.paths.pseudo_label_folder(2) / "dataset.json"),
    }
    assert list(provenance["cases"]) == ["case_05", "case_00"]  # best first
    for case, entry in provenance["cases"].items():
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(files[case])))
        assert {key: entry[key] for key in SELECTED[case]} == SELECTED[case]
        assert entry["voxels"] == [int((label == value).sum()) for value in range(3)]
        assert entry["sha256"] == hashlib.sha256(files[case].read_bytes()).hexdigest()


def expected_training_set(blobs):
    labels = {case: blobs / "labelsTr" / f"{case}.nii.gz" for case in HUMAN}
    labels |= {case: blobs / "assft" / "assft" / "round_02" / "pseudo_labels" / f"{case}.nii.gz" for case in SELECTED}
    return {
        case: {"images": [str(blobs / "imagesTr" / f"{case}_0000.nii.gz")], "label": str(label)}
        for case, label in sorted(labels.items())
    }


def test_stock_nnunet_reads_the_training_set_from_any_folder(written, blobs, nnunet_folders):
    context, _, _ = written
    made = context.paths.pseudo_label_folder(2)
    elsewhere = nnunet_folders / "nnUNet_raw" / "Dataset950_BlobsRound2"
    elsewhere.mkdir()
    shutil.copy(made / "dataset.json", elsewhere)
    for folder in (made, elsewhere):
        assert get_filenames_of_train_images_and_targets(str(folder)) == expected_training_set(blobs)
    content = json.loads((elsewhere / "dataset.json").read_text())
    assert content["numTraining"] == 4
    assert content["labels"] == {"background": 0, "ball": 1, "box": 2}


def test_the_training_set_is_a_dataset_of_ours_too(written, blobs, nnunet_folders):
    context, _, files = written
    elsewhere = nnunet_folders / "nnUNet_raw" / "Dataset950_BlobsRound2"
    elsewhere.mkdir()
    shutil.copy(context.paths.pseudo_label_folder(2) / "dataset.json", elsewhere)
    dataset = find_dataset(950)
    assert list(dataset.images) == sorted({*HUMAN, *SELECTED})
    assert dataset.label_file("case_05") == files["case_05"]
    assert dataset.label_file("case_02") == blobs / "labelsTr" / "case_02.nii.gz"


def test_nnunet_finds_no_fault_with_the_training_set(written):
    context, _, files = written
    folder = str(context.paths.pseudo_label_folder(2))
    verify_dataset_integrity(folder, num_processes=1)
    broken = sitk.ReadImage(str(files["case_05"]))
    sitk.WriteImage(broken[1:], str(files["case_05"]))
    with pytest.raises(RuntimeError, match="Some images have errors"):  # the check above does look
        verify_dataset_integrity(folder, num_processes=1)


def test_beside_raw_data_that_can_only_be_read_they_lie_with_the_results(blobs, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("nnunet_assft.active.experiment.is_writable", lambda folder: folder != blobs)
        planned = plan_experiment(901, "b", preset="tiny", epochs=1, iterations_per_epoch=1)
    experiment = Experiment.load(ExperimentPaths(blobs.name, "b"))
    assert experiment == planned == plan_experiment(901, "b", preset="tiny", epochs=1, iterations_per_epoch=1)
    before = sorted(blobs.rglob("*"))
    context = open_context(experiment, CPU)
    write_pseudo_labels(context, 2, experiment.initial_model, HUMAN, SELECTED)
    assert sorted(blobs.rglob("*")) == before
    folder = experiment.paths.pseudo_label_folder(2)
    assert folder == experiment.paths.results / "pseudo_labels" / "round_02"
    files = {case: folder / "pseudo_labels" / f"{case}.nii.gz" for case in SELECTED}
    assert all(file.is_file() for file in files.values())
    assert sorted(json.loads((folder / "provenance.json").read_text())["cases"]) == sorted(SELECTED)
    listed = json.loads((folder / "dataset.json").read_text())["dataset"]
    assert listed["case_05"]["label"].startswith("$nnUNet_results/Dataset901_Blobs/assft/b/pseudo_labels/")
    pairs = get_filenames_of_train_images_and_targets(str(folder))
    assert {case: pair["label"] for case, pair in pairs.items() if case in SELECTED} == {
        case: str(file) for case, file in files.items()
    }


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_file_that_a_full_disk_cut_short_is_not_taken_for_whole(written, monkeypatch, keep):
    """ITK returns as if nothing had happened."""
    context, _, files = written
    case, file = next(iter(files.items()))
    whole = file.read_bytes()
    writer = type(context.dataset.reader)
    write_seg = writer.write_seg

    def cut_short(self, seg, output_fname, properties):
        write_seg(self, seg, output_fname, properties)
        with open(output_fname, "r+b") as written_file:
            written_file.truncate(int(keep * os.path.getsize(output_fname)))

    monkeypatch.setattr(writer, "write_seg", cut_short)
    segmentation = np.ones(context.properties(case)["shape_before_cropping"], np.uint8)
    with pytest.raises(OSError, match="truncated while it was written") as error:
        write_segmentation(context.dataset.reader, segmentation, file, context.properties(case))
    assert error.value.errno == errno.ENOSPC
    assert file.read_bytes() == whole
    assert sorted(p.name for p in file.parent.iterdir()) == sorted(f.name for f in files.values())
