"""Several annotators, rounds that go on with a part of their labels, and the whole way on real images."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.annotation import labels_to_come, open_request
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.state import finished_rounds
from nnunet_assft.cli.round import main as round_main
from nnunet_assft.errors import AssftError, WaitingForAnnotation
from nnunet_assft.evaluation.dice import mean_of
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.files import read_json
from nnunet_assft.runtime.sealed import write_sealed
from tests.annotation.annotators import REFUSED, WARNED, Scene, save_itksnap
from tests.cli.annotate.experiment import (
    QUERIED,
    SETTINGS,
    Call,
    image_of,
    label_of,
    record_of,
    the_experiment,
    truth,
)
from tests.conftest import SHARED_DATA, needs_hippocampus, plan_experiment, write_dataset

CPU = torch.device("cpu")


def test_two_readers_agree_by_dice_and_the_first_one_counts(root: Path, call: Call) -> None:
    work = root / "work"
    code, out, _ = call("export", "-o", work, "--annotators", "anna", "bert", "--double_read", "0.3", "-device", "cpu")
    assert code == 0
    assert "the label of the one named first" in out
    assert open_request(the_experiment()).annotators == {
        "case_03": ("anna",),
        "case_01": ("anna", "bert"),
        "case_06": ("bert",),
    }
    first = truth("case_01")
    second = np.where((first == 2) & (np.indices(first.shape)[0] % 2 == 0), 0, first)  # every other slice of the box
    save_itksnap(work / "annotations/bert/case_01.nii.gz", second, image_of(root, "case_01"))
    code, out, _ = call("import", work)
    assert code == 0
    assert "second reading by bert imported" in out
    assert "Missing labels: case_03, case_01, case_06" in out  # bert's reading is not the label
    save_itksnap(work / "annotations/anna/case_01.nii.gz", first, image_of(root, "case_01"))
    code, out, _ = call("import", work)
    assert code == 0
    np.testing.assert_array_equal(label_of(root, "case_01"), first)
    with open(root / "nnUNet_results/Dataset901_Blobs/assft/assft/agreement_round_01.csv") as file:
        (row,) = csv.DictReader(file)
    # the box has four slices, two of them are left: 2 * 2 / (4 + 2)
    assert (row["reader_1"], row["reader_2"], float(row["dice_kidney_right"])) == ("anna", "bert", 1.0)
    assert float(row["dice_kidney_left"]) == pytest.approx(2 / 3)
    assert float(row["mean_dice"]) == pytest.approx(mean_of([1.0, 2 / 3]))
    assert re.search(r"case_01  anna bert  kidney_right 1.000  kidney_left 0.667  mean 0.833", out)
    assert [entry["annotator"] for entry in record_of(root, "case_01")["readings"]] == ["bert", "anna"]
    reading = the_experiment().paths.second_reading("bert", "case_01", ".nii.gz")
    reading.write_bytes(b"damaged since")
    code, out, lines = call("import", work, "--annotator_name", "anna")
    assert (code, len(lines)) == (1, 2)
    assert "case_01: the label by anna has been imported already" in out
    assert f"there is already a label that cannot be read ({reading})" in lines[0]
    assert f"The label of case case_01, {reading}, cannot be used" in lines[1]


def test_a_second_reading_that_comes_after_its_round_is_compared_too(root: Path, call: Call) -> None:
    work, experiment = root / "work", the_experiment()
    write_sealed(experiment.paths.annotators_file(1), {"case_03": ["anna", "bert"]})
    for name in ("anna", "bert"):
        save_itksnap(work / f"{name}/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    (work / "bert").rename(root / "late")
    assert call("import", work)[0] == 0
    labelled = ("case_00", "case_02", "case_03")
    unlabelled = tuple(case for case in experiment.pool if case not in labelled)
    first = finished_rounds(experiment)[0]
    replace(first, round=1, labelled=labelled, unlabelled=unlabelled, queried=("case_03",)).save(experiment.paths)
    cached(experiment.paths.step_file(2, "query"), {}, lambda: {"queried": ["case_01"], "excluded": []})
    (root / "late").rename(work / "bert")
    code, _, lines = call("import", work)
    assert (code, len(lines)) == (1, 2)
    assert all("Add --replace to replace its label or to add a second reading." in line for line in lines)
    code, out, lines = call("import", work, "--replace")
    assert (code, lines) == (0, [])
    assert "case_03: the label by anna has been imported already" in out
    assert "case_03: second reading by bert imported" in out
    assert "case_03  anna bert  kidney_right 1.000" in out
    assert experiment.paths.agreement_file(1).is_file()


def test_whose_label_it_is_must_be_clear(root: Path, call: Call) -> None:
    call("export", "-o", root / "work", "--annotators", "anna", "bert", "--double_read", "0.3", "-device", "cpu")
    back = root / "back"
    save_itksnap(back / "case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
    save_itksnap(back / "carl" / "case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    save_itksnap(back / "anna" / "case_06.nii.gz", truth("case_06"), image_of(root, "case_06"))
    code, _, lines = call("import", back)
    assert code == 1
    assert "annotated by anna and bert. Put it into a folder with the name of its annotator" in lines[0]
    assert any("the folder carl is not named after an annotator; expected anna, bert" in line for line in lines)
    assert any("it is annotated by bert, not by anna" in line for line in lines)
    shutil.rmtree(back / "carl")
    shutil.rmtree(back / "anna")
    code, out, _ = call("import", back, "--annotator_name", "bert")
    assert (code, "second reading by bert" in out) == (0, True)


def test_sharing_out_anew_is_possible_until_the_first_label(root: Path, call: Call) -> None:
    export = partial(call, "export", "-o", root / "work", "-device", "cpu", "--annotators")
    export("anna", "bert")
    assert export("bert", "anna")[0] == 0
    save_itksnap(root / "work/annotations/bert/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    assert call("import", root / "work")[0] == 0
    code, _, lines = export("anna", "bert")
    assert code == 1
    assert "were assigned to other annotators, who have already returned labels" in lines[0]
    assert call("export", "-o", root / "work", "-device", "cpu")[0] == 0
    assert open_request(the_experiment()).annotators["case_03"] == ("bert",)


# Partial rounds


def test_a_partial_round_counts_the_labelled_cases_and_gives_the_others_back(
    nnunet_folders: Path,
) -> None:
    folder = write_dataset(nnunet_folders / "nnUNet_raw", n_pool=6, n_test=1)
    truth_folder = nnunet_folders / "truth"
    shutil.move(folder / "labelsTr", truth_folder)
    experiment = plan_experiment(901, annotator="human", **SETTINGS)
    (first,) = open_request(experiment).cases
    (folder / "labelsTr").mkdir()
    shutil.copy(truth_folder / f"{first}.nii.gz", folder / "labelsTr")
    run_round(experiment, 0, CPU)
    with pytest.raises(WaitingForAnnotation, match="A round cannot proceed without any label"):
        run_round(experiment, 1, CPU, proceed_with_partial=True)
    taken, left = open_request(experiment).cases
    shutil.copy(truth_folder / f"{taken}.nii.gz", folder / "labelsTr")
    with pytest.raises(
        WaitingForAnnotation, match=f"annotation of 1 of 2 cases: {left}.*annotate export -d 901 -o WORK"
    ):
        run_round(experiment, 1, CPU)
    with pytest.raises(SystemExit) as exit_:
        round_main(["-d", "901", "-r", "1", "--proceed_with_partial", "-device", "cpu"])
    assert not exit_.value.code
    done = finished_rounds(experiment)[1]
    assert done.queried == (taken,)
    assert done.labelled == tuple(sorted((first, taken)))
    assert left in done.unlabelled
    decision = read_json(experiment.paths.step_file(1, "annotate"))["result"]
    assert decision == {"annotated": [taken], "given_back": [left]}
    # the decision stands: the label that comes too late changes nothing, also if the round was cut off
    shutil.copy(truth_folder / f"{left}.nii.gz", folder / "labelsTr")
    experiment.paths.round_file(1).unlink()
    assert open_request(experiment).cases == (taken,)
    assert run_round(experiment, 1, CPU) == done
    with pytest.raises(WaitingForAnnotation):
        run_round(experiment, 2, CPU)
    assert set(open_request(experiment).cases) <= set(
        done.unlabelled
    )  # the case that was given back can be asked for again


def test_a_decision_holds_for_its_query_only(root: Path) -> None:
    experiment = the_experiment()
    cached(
        experiment.paths.step_file(1, "annotate"),
        {"queried": ["case_99"]},
        lambda: {"annotated": [], "given_back": ["case_99"]},
    )
    assert open_request(experiment).cases == tuple(QUERIED)


def test_nothing_is_asked_for_before_the_query(root: Path) -> None:
    experiment = the_experiment()
    experiment.paths.step_file(1, "query").unlink()
    with pytest.raises(
        AssftError, match=r"Round 1 has not queried its cases yet. Run nnUNetv2_assft_round -d 901 -r 1"
    ):
        open_request(experiment)


# Real images


@pytest.mark.slow
@needs_hippocampus
def test_the_round_trip_on_real_images(nnunet_folders: Path, call: Call) -> None:
    """Slicer's annotator returns every other case, ITK-SNAP's the others; each kind of bad return is tried first."""
    source, folder = SHARED_DATA / "hippocampus", nnunet_folders / "nnUNet_raw/Dataset901_Hippocampus"
    (folder / "imagesTr").mkdir(parents=True)
    cases = [file.name.removesuffix(".nii.gz") for file in sorted((source / "imagesTr").glob("*.nii.gz"))[:10]]
    for case in cases:
        shutil.copy(source / f"imagesTr/{case}.nii.gz", folder / f"imagesTr/{case}_0000.nii.gz")
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))  # no labelsTr at all
    experiment = plan_experiment(901, annotator="human", **SETTINGS)
    tried: dict[str, str] = {}

    def scene(case: str, back: Path) -> Scene:
        back.mkdir(parents=True, exist_ok=True)
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(source / f"labelsTr/{case}.nii.gz"))).astype(np.uint8)
        prelabel = experiment.paths.previews(1) / f"{case}.nii.gz"
        return Scene(
            back,
            case,
            sitk.ReadImage(str(source / f"imagesTr/{case}.nii.gz")),
            label,
            labels,
            sitk.GetArrayFromImage(sitk.ReadImage(str(prelabel))) if prelabel.is_file() else label,
        )

    for r in range(3):
        with pytest.raises(WaitingForAnnotation) as waiting:
            run_round(experiment, r, CPU)
        work = nnunet_folders / f"work_{r}"
        code, out, _ = call("export", "-o", work, "-device", "cpu")
        assert code == 0
        assert ("No model has been trained yet" in out) == (r == 0)
        asked = open_request(experiment).cases
        assert all(case in str(waiting.value) for case in asked)
        if r == 2:
            for kind, (spoil, expected) in {**REFUSED, **WARNED}.items():
                back = nnunet_folders / "back" / kind
                bad = scene(asked[0], back)
                if kind == "unchanged":
                    shutil.copy(work / f"prelabels/{asked[0]}.nii.gz", back)
                else:
                    spoil(bad)
                code, _, lines = call("import", back)
                assert code == 1, kind
                said = next((line for line in lines if re.search(expected, line)), None)
                assert said, (kind, lines)
                tried[kind] = said
                assert labels_to_come(experiment, r) == list(asked)
        for i, case in enumerate(asked):
            good = scene(case, work / "annotations")
            if i % 2:
                save_itksnap(good.folder / f"{case}.nii.gz", good.label, good.image)
            else:
                good.slicer()
        code, out, lines = call("import", work, "--annotator_name", "anna", "--minutes", "20", "--accept_warnings")
        assert (code, lines) == (0, [])
        for case in asked:
            mine = sitk.ReadImage(str(folder / f"labelsTr/{case}.nii.gz"))
            original = sitk.ReadImage(str(source / f"labelsTr/{case}.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(original))
            assert mine.GetOrigin() == pytest.approx(original.GetOrigin())
        done = run_round(experiment, r, CPU)
        assert done.queried == asked
    assert len(tried) >= 15
    assert len({re.sub(r"\(.*?\): ", "", line) for line in tried.values()}) == len(tried)
    print("\n".join(f"| {kind} | {line.split('): ', 1)[-1]} |" for kind, line in tried.items()))
