"""Labels that come back: what is refused, what needs consent, what is recorded, and any kill."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.annotation import labels_to_come, open_request
from nnunet_assft.annotation.records import annotation_minutes
from nnunet_assft.cli.annotate import main as annotate_main
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.volumes.labels import find_misfit
from tests.annotation.annotators import REFUSED, WARNED, Scene, save_itksnap, save_slicer, segments_of
from tests.cli.annotate.experiment import (
    DATASET,
    KIDNEYS,
    QUERIED,
    SETTINGS,
    Call,
    image_of,
    label_file,
    label_of,
    record_of,
    the_experiment,
    truth,
)
from tests.conftest import plan_experiment, write_volume
from tests.kills import before_replace, is_killed

CPU = torch.device("cpu")


def spoiled_scene(root: Path, folder: Path, case: str = "case_03") -> Scene:
    prelabel = root / f"nnUNet_results/Dataset901_Blobs/assft/assft/prelabels_round_01/{case}.nii.gz"
    prelabel_array = sitk.GetArrayFromImage(sitk.ReadImage(str(prelabel))) if prelabel.is_file() else truth(case)
    folder.mkdir(parents=True, exist_ok=True)
    return Scene(folder, case, image_of(root, case), truth(case), KIDNEYS, prelabel_array)


def test_every_bad_return_is_refused_with_its_own_message_and_the_good_one_beside_it_taken(
    root: Path, call: Call
) -> None:
    messages = set()
    for kind, (spoil, expected) in REFUSED.items():
        folder = root / "back" / kind
        spoil(spoiled_scene(root, folder))
        save_itksnap(folder / "case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
        code, out, lines = call("import", folder)
        assert code == 1, kind
        assert len(lines) == 1, (kind, lines)
        assert lines[0].startswith("nnUNetv2_assft_annotate: error: case_03"), kind
        assert re.search(expected, lines[0]), (kind, lines[0])
        assert "case_01: the label" in out
        assert "Missing labels: case_03, case_06" in out
        assert not label_file(root, "case_03").exists()
        messages.add(lines[0].split("): ", 1)[1])
    assert len(messages) == len(REFUSED)
    np.testing.assert_array_equal(label_of(root, "case_01"), truth("case_01"))


def test_every_doubtful_return_is_taken_with_consent_only(root: Path, work: Path, call: Call) -> None:
    for kind, (spoil, expected) in WARNED.items():
        folder = root / "back" / kind
        spoil(spoiled_scene(root, folder))
        code, out, lines = call("import", folder)
        assert code == 1, kind
        assert all(line.startswith("nnUNetv2_assft_annotate: warning: case_03 (") for line in lines), lines
        assert any(re.search(expected, line) for line in lines), (kind, lines)
        assert not label_file(root, "case_03").exists()
        code, out, lines = call("import", folder, "--accept", "case_03")
        assert (code, lines) == (0, []), kind
        assert re.search(expected, out)
        assert any(re.search(expected, warning) for warning in record_of(root, "case_03")["readings"][0]["accepted"])
        label_file(root, "case_03").unlink()


def test_a_label_whose_header_alone_is_wrong_is_taken_as_it_is_stored_with_consent(root: Path, call: Call) -> None:
    scene = spoiled_scene(root, root / "back")
    scene.nifti(truth("case_03"), scene.moved(shift=(0, 0, 40), degrees=180))
    code, _, lines = call("import", root / "back")
    assert code == 1
    assert "it is shifted by" in lines[0]
    assert "If only its header is wrong, --accept_geometry CASE takes its voxels as they are." in lines[0]
    code, _, lines = call("import", root / "back", "--accept_geometry", "case_03")
    assert (code, lines) == (0, [])
    np.testing.assert_array_equal(label_of(root, "case_03"), truth("case_03"))
    (note,) = record_of(root, "case_03")["readings"][0]["notes"]
    assert note.startswith("its voxels were taken as they are stored, although it is shifted by ")
    assert sitk.ReadImage(str(label_file(root, "case_03"))).GetOrigin() == image_of(root, "case_03").GetOrigin()


def test_what_cannot_be_taken_is_named_and_the_rest_is_taken(root: Path, call: Call) -> None:
    """Files of other cases, formats and kinds, one of which would block whoever opens it, and a name with an escape
    sequence for the terminal."""
    back = root / "back"
    save_itksnap(back / "case_03_0000.nii.gz", truth("case_03"), image_of(root, "case_03"))
    save_itksnap(back / "case_01.mha", truth("case_01"), image_of(root, "case_01"))
    os.mkfifo(back / "case_06.nii.gz")
    (back / "case_06.dcm").touch()
    (back / "x\n\x1b[2Jy.nrrd").touch()
    code, out, lines = call("import", back)
    assert (code, len(lines)) == (1, 4)
    assert "case_06.dcm: it is DICOM; expected a file that ends with .seg.nrrd, .nrrd, " in lines[1]
    assert "case_06.nii.gz: it is a named pipe (FIFO) and is not opened" in lines[2]
    assert lines[0].endswith("Did you mean case_03? Then rename it.")
    assert r"error: x\n\x1b[2Jy (" in lines[3]
    assert "case_01: the label imported" in out
    np.testing.assert_array_equal(label_of(root, "case_01"), truth("case_01"))


@pytest.mark.parametrize(
    "place", ["../../outside/case_03.nii.gz", "labelsTr/../../other/case_03.nii.gz", "/tmp/x.nii.gz"]
)
def test_nothing_is_written_outside_of_the_dataset(root: Path, call: Call, place: str) -> None:
    """Its dataset.json lists the files of the cases, and one label in another place."""
    folder = root / "nnUNet_raw/Dataset901_Blobs"
    content = json.loads((folder / "dataset.json").read_text())
    content["dataset"] = {
        f"case_{i:02d}": {"images": [f"imagesTr/case_{i:02d}_0000.nii.gz"], "label": f"labelsTr/case_{i:02d}.nii.gz"}
        for i in range(8)
    }
    content["dataset"]["case_03"]["label"] = place
    (folder / "dataset.json").write_text(json.dumps(content))
    save_itksnap(root / "back/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    for what in (["import", root / "back"], ["export", "-o", root / "work"]):
        code, _, lines = call(*what)
        assert (code, len(lines)) == (1, 1)
        assert "says that the label of case case_03 is " in lines[0]
    assert not (folder / place).exists()
    assert not list((root / "work").iterdir())


READING = {
    "annotator": None,
    "minutes": None,
    "source_sha256": "0",
    "label_sha256": "0",
    "volumes_ml": {},
    "left_mm": {},
}
DAMAGED = ["", "{", "null", "[]", "3", '"text"', "{}", "\xff"]


@pytest.mark.parametrize(
    "content",
    [
        *DAMAGED,
        *(
            json.dumps({"readings": readings})
            for readings in (None, 3, "ab", [None], [{}], [{**READING, "minutes": "x"}])
        ),
    ],
)
def test_a_damaged_record_is_named_with_what_to_do(root: Path, call: Call, content: str) -> None:
    file = root / "nnUNet_results/Dataset901_Blobs/assft/assft/annotations/case_03.json"
    file.parent.mkdir()
    file.write_bytes(content.encode("latin1"))
    code, _, lines = call("status")
    assert (code, len(lines)) == (1, 1)
    assert f"{file} is damaged" in lines[0]
    assert lines[0].endswith("Delete it, and import the label again to write it anew.")
    with pytest.raises(AssftError, match="is damaged"):
        annotation_minutes(file.parent)


def test_an_import_past_damaged_files(root: Path, call: Call) -> None:
    """A damaged record stops the label of its case only."""
    results = root / "nnUNet_results/Dataset901_Blobs/assft/assft"
    (results / "annotations").mkdir()
    (results / "annotations/case_03.json").write_text("[]")
    for case in ("case_03", "case_01", "case_06"):
        save_itksnap(root / f"back/{case}.nii.gz", truth(case), image_of(root, case))
    (results / "prelabels_round_01").mkdir()
    (results / "prelabels_round_01/case_01.nii.gz").write_bytes(b"half")
    (results / "prelabels_round_01/case_01.json").write_text("{}")
    code, out, lines = call("import", root / "back")
    assert code == 1
    assert [line.split(" (")[0] for line in lines] == ["nnUNetv2_assft_annotate: error: case_03"]
    assert "case_03.json is damaged" in lines[0]
    assert "case_01: the label imported" in out  # compared with no pre-segmentation
    assert "case_06: the label imported" in out


@pytest.mark.parametrize(
    "content", [*DAMAGED[:2], "[]", "null", '{"case_03": null}', '{"case_03": ["../../up"]}', '{"case_03": [3]}']
)
def test_a_damaged_assignment_is_named_with_what_to_do(root: Path, content: str) -> None:
    file = the_experiment().paths.annotators_file(1)
    file.write_text(content)
    with pytest.raises(AssftError, match=r"readers_round_01.json is damaged .* run annotate export with the same"):
        open_request(the_experiment())


@pytest.mark.parametrize("content", [*DAMAGED, '{"result": {"queried": null}}', '{"result": {"queried": ["../x"]}}'])
def test_a_damaged_query_is_named_with_what_to_do(root: Path, content: str) -> None:
    file = the_experiment().paths.step_file(1, "query")
    file.write_bytes(content.encode("latin1"))
    with pytest.raises(
        AssftError, match=r"query.json is damaged .* nnUNetv2_assft_round -d 901 -r 1, which queries the"
    ):
        open_request(the_experiment())


def test_left_and_right_swapped(root: Path, call: Call) -> None:
    swapped = np.array([0, 2, 1], np.uint8)[truth("case_03")]
    save_itksnap(root / "back/case_03.nii.gz", swapped, image_of(root, "case_03"))
    code, _, lines = call("import", root / "back")
    assert code == 1
    assert any("kidney_left and kidney_right seem to be swapped" in line for line in lines)


def test_labels_of_slicer_and_itksnap_arrive_with_name_and_minutes(root: Path, call: Call) -> None:
    back = root / "back"
    save_slicer(back / "case_03.seg.nrrd", segments_of(truth("case_03"), KIDNEYS), image_of(root, "case_03"))
    save_itksnap(back / "case_01.nii.gz", truth("case_01"), image_of(root, "case_01"))
    (back / "case_01.nii.gz").rename(back / "case_01.NII.GZ")
    (back / "notes.txt").write_text("not a label")
    (root / "times.csv").write_text("case,annotator,minutes\ncase_03,anna,31.5\n")
    code, out, lines = call("import", back, "--times", root / "times.csv", "--minutes", "7")
    assert (code, lines) == (0, [])
    for case in ("case_03", "case_01"):
        np.testing.assert_array_equal(label_of(root, case), truth(case))
        assert sitk.ReadImage(str(label_file(root, case))).GetOrigin() == image_of(root, case).GetOrigin()
    record = record_of(root, "case_03")
    (entry,) = record["readings"]
    assert (record["round"], entry["annotator"], entry["minutes"], entry["file"]) == (
        1,
        "anna",
        31.5,
        "case_03.seg.nrrd",
    )
    assert entry["label_sha256"] == sha256_file(label_file(root, "case_03"))
    assert entry["volumes_ml"] == pytest.approx(
        {"kidney_right": (truth("case_03") == 1).sum() / 1000, "kidney_left": 0.12}
    )  # 4 x 6 x 5
    assert record_of(root, "case_01")["readings"][0]["minutes"] == 7
    _, out, _ = call("status")
    assert "case_03  anna  31.5  imported" in out
    assert "case_06  -  -  missing" in out
    assert "38.5 minutes so far" in out


def test_name_and_minutes_of_a_later_import_are_said_of_new_labels_only(root: Path, call: Call) -> None:
    """The table says it of those that are in already, too; and what nobody said can be said later."""

    def recorded() -> dict[str, list[tuple[str | None, float | None]]]:
        return {
            case: [(entry["annotator"], entry["minutes"]) for entry in record_of(root, case)["readings"]]
            for case in cases
        }

    cases = []
    for case, options in (
        ("case_03", "--annotator_name anna --minutes 12"),
        ("case_01", ""),
        ("case_06", "--annotator_name bert --minutes 30"),
    ):
        cases.append(case)
        save_itksnap(root / f"back/{case}.nii.gz", truth(case), image_of(root, case))
        assert call("import", root / "back", *options.split())[0] == 0
        if case == "case_01":
            assert recorded() == {"case_03": [("anna", 12)], "case_01": [(None, None)]}
    assert recorded() == {"case_03": [("anna", 12)], "case_01": [("bert", 30)], "case_06": [("bert", 30)]}
    (root / "times.csv").write_text("case,annotator,minutes\ncase_03,carl,15\ncase_06,bert,25\n")
    code, _, _ = call("import", root / "back", "--times", root / "times.csv", "--minutes", "99")
    assert code == 0
    assert recorded() == {"case_03": [("carl", 15)], "case_01": [("bert", 30)], "case_06": [("bert", 25)]}


def test_a_label_that_is_there_is_replaced_on_request_only_and_the_old_one_kept(root: Path, call: Call) -> None:
    first, second = truth("case_03"), truth("case_03")
    second[0, 0, :5] = 1
    save_itksnap(root / "a/case_03.nii.gz", first, image_of(root, "case_03"))
    save_itksnap(root / "b/case_03.nii.gz", second, image_of(root, "case_03"))
    call("import", root / "a")
    code, _, lines = call("import", root / "b")
    assert code == 1
    assert "there is already a label that differs in 5 voxels" in lines[0]
    np.testing.assert_array_equal(label_of(root, "case_03"), first)
    code, out, _ = call("import", root / "b", "--replace")
    assert code == 0
    np.testing.assert_array_equal(label_of(root, "case_03"), second)
    (kept,) = record_of(root, "case_03")["replaced"]
    old = root / "nnUNet_results/Dataset901_Blobs/assft/assft/annotations/replaced" / kept
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(old))), first)
    assert len(list((root / "nnUNet_raw/Dataset901_Blobs/labelsTr").iterdir())) == 3
    code, out, _ = call("import", root / "b")
    assert (code, "has been imported already" in out) == (0, True)


def test_a_label_that_is_there_with_these_voxels_in_another_place_is_not_the_same(root: Path, call: Call) -> None:
    """Somebody has copied a label with a wrong header into labelsTr, and the annotator's own file is right."""
    save_itksnap(root / "back/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    moved = sitk.ReadImage(str(root / "back/case_03.nii.gz"))
    moved.SetOrigin((100.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(label_file(root, "case_03")))
    code, _, lines = call("import", root / "back")
    assert (code, len(lines)) == (1, 1)
    assert "there is already a label that does not lie on its image" in lines[0]
    assert call("import", root / "back", "--replace")[0] == 0
    assert find_misfit(the_experiment().raw_dataset(), "case_03", label_file(root, "case_03")) is None
    np.testing.assert_array_equal(label_of(root, "case_03"), truth("case_03"))


def test_a_label_that_is_replaced_keeps_what_was_recorded_of_it_or_the_command_says_so(root: Path, call: Call) -> None:
    def replaced(voxels: int, *options: str) -> tuple[str, tuple[object, ...]]:
        """The line about the import of a label with another number of voxels, and the record after it."""
        label = truth("case_03")
        label[0, 0, :voxels] = 1
        save_itksnap(root / "back/case_03.nii.gz", label, image_of(root, "case_03"))
        code, out, _ = call("import", root / "back", "--replace", *options)
        assert code == 0
        (entry,) = record_of(root, "case_03")["readings"]
        return out.splitlines()[0], (entry["annotator"], entry["minutes"], entry["decision"])

    (root / "times.csv").write_text("case,annotator,minutes,decision\ncase_03,anna,12,fix\n")
    assert replaced(1, "--times", str(root / "times.csv"))[1] == ("anna", 12, "fix")
    line, record = replaced(2)
    assert record == ("anna", 12, "fix")
    assert line.startswith("case_03: the label by anna imported")
    assert "recorded" not in line
    assert replaced(3, "--minutes", "20")[1] == ("anna", 20, "fix")
    line, record = replaced(4, "--annotator_name", "bert")
    assert record == ("bert", None, None)
    assert "what was recorded of the label by anna is replaced: 20 minutes, the decision fix" in line


def test_a_work_folder_of_another_dataset_is_refused_and_one_of_another_experiment_taken(
    root: Path, work: Path, call: Call
) -> None:
    """Two datasets may have the same images, with the same ids, and other structures with the same numbers."""
    save_itksnap(work / "annotations/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    stamp = read_sealed(work / "export.json")
    write_sealed(work / "export.json", {**stamp, "dataset": "Dataset902_Tumours"})
    code, _, (line,) = call("import", work)
    assert (code, label_file(root, "case_03").exists()) == (1, False)
    assert f"{work} is a work folder of Dataset902_Tumours, not of {DATASET}. Give that dataset with -d" in line
    write_sealed(work / "export.json", {**stamp, "experiment": "random"})
    assert call("import", work)[0] == 0
    np.testing.assert_array_equal(label_of(root, "case_03"), truth("case_03"))


def test_a_label_of_an_earlier_round_needs_replace(root: Path, call: Call) -> None:
    save_itksnap(root / "a/case_02.nii.gz", truth("case_02") * 0 + (truth("case_02") == 1), image_of(root, "case_02"))
    code, _, lines = call("import", root / "a")
    assert code == 1
    said = "nobody is asked for this case; expected case_01, case_03, case_06."
    assert lines[0].endswith(f"{said} Add --replace to replace its label.")
    code, _, _ = call("import", root / "a", "--replace")
    assert code == 0
    assert record_of(root, "case_02")["round"] == 0
    # a case that has no label, such as one that came too late for a round that went on without it
    save_itksnap(root / "b/case_04.nii.gz", truth("case_04"), image_of(root, "case_04"))
    code, _, lines = call("import", root / "b")
    assert code == 1
    assert lines[0].endswith(said)


def test_labels_of_cases_nobody_asked_for_are_never_read(root: Path, call: Call) -> None:
    """Files that no reader could read, in place of the labels of all other cases."""
    for case in ("case_04", "case_05", "case_07"):
        label_file(root, case).write_bytes(b"nobody may open this")
    assert call("export", "-o", root / "work", "-device", "cpu")[0] == 0
    save_itksnap(root / "work/annotations/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    assert call("import", root / "work")[0] == 0
    assert call("status")[0] == 0


@pytest.mark.parametrize("replace", [False, True])
def test_an_import_killed_again_and_again_completes_and_never_leaves_half_a_label(root: Path, replace: bool) -> None:
    """With labels there before: the old one, the new one and the record are renamed; else the last two."""
    old = {case: np.roll(truth(case), 1, axis=0) for case in QUERIED}
    for case in QUERIED:
        save_itksnap(root / f"back/{case}.nii.gz", truth(case), image_of(root, case))
        if replace:
            save_itksnap(label_file(root, case), old[case], image_of(root, case))
    arguments = [
        "import",
        "-d",
        "901",
        str(root / "back"),
        "--annotator_name",
        "anna",
        "--minutes",
        "3",
        *["--replace"][:replace],
    ]
    kills = 0
    while is_killed(partial(before_replace, 1 + kills), partial(annotate_main, arguments)):
        kills += 1
        assert kills < 20
        for case in QUERIED:
            if label_file(root, case).is_file():
                assert any((label_of(root, case) == whole).all() for whole in (truth(case), old[case]))
    assert kills >= 3
    assert labels_to_come(the_experiment(), 1) == []
    for case in QUERIED:
        np.testing.assert_array_equal(label_of(root, case), truth(case))
        (entry,) = record_of(root, case)["readings"]
        assert (entry["annotator"], entry["minutes"]) == ("anna", 3)
        for name in record_of(root, case)["replaced"]:
            kept = sitk.ReadImage(str(the_experiment().paths.annotations / "replaced" / name))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(kept), old[case])
        assert len(record_of(root, case)["replaced"]) == replace
        assert entry["label_sha256"] == sha256_file(label_file(root, case))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "holds no label; expected files named CASE.seg.nrrd or"),
        (["back", "--accept", "case_99"], "--accept names case_99; the dataset has no such case"),
        (["back", "--accept_geometry", "case_99"], "--accept_geometry names case_99; the experiment has no such case"),
        (["back", "--minutes", "long"], "--minutes: minutes 'long'; expected a number"),
        (["back", "--times", "no.csv"], "--times no.csv cannot be read"),
        (["back", "--times", "bad.csv"], "bad.csv has 'id', 'time'; expected the columns case, annotator, minutes"),
        (["back", "--times", "twice.csv"], "twice.csv, line 3: case_03 is listed twice"),
        (["back", "--times", "negative.csv"], "line 2: minutes '-4'; expected a number"),
    ],
)
def test_wrong_arguments_of_import(
    arguments: list[str], message: str, root: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    save_itksnap(root / "back/case_03.nii.gz", truth("case_03"), image_of(root, "case_03"))
    (root / "empty").mkdir()
    (root / "bad.csv").write_text("id,time\n")
    (root / "twice.csv").write_text("case,annotator,minutes\ncase_03,a,1\ncase_03,a,2\n")
    (root / "negative.csv").write_text("case,annotator,minutes\ncase_03,a,-4\n")
    code, _, lines = call("import", *arguments)
    assert (code, len(lines)) == (1, 1)
    assert message in lines[0]
    assert not label_file(root, "case_03").exists()


def test_nothing_is_asked_of_a_human_by_an_oracle(root: Path, call: Call) -> None:
    for i in range(8):
        write_volume(label_file(root, f"case_{i:02d}"), truth(f"case_{i:02d}"))
    plan_experiment(901, name="bench", **SETTINGS)
    code, _, lines = call("export", "-e", "bench", "-o", root / "work")
    assert code == 1
    assert "Experiment 'bench' was planned with --annotator oracle" in lines[0]


# Structures that nobody drew ------------------------------------------------------------------------------------------


def not_annotated(root: Path) -> dict[str, list[str]]:
    file = root / "nnUNet_raw/Dataset901_Blobs/not_annotated.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def give_back(root: Path, case: str, missing: int = 0) -> np.ndarray:
    label = np.where(truth(case) == missing, 0, truth(case))
    save_itksnap(root / f"back/{case}.nii.gz", label, image_of(root, case))
    return label


def test_a_structure_that_nobody_drew_is_recorded_and_left_out_of_the_gate(root: Path, call: Call) -> None:
    label = give_back(root, "case_03", missing=2)
    code, _, lines = call("import", root / "back", "--not_annotated", "kidney_lft")
    assert (code, len(lines)) == (1, 1)
    assert "--not_annotated: 'kidney_lft' is not a structure; expected kidney_right, kidney_left." in lines[0]
    assert not label_file(root, "case_03").exists()
    code, out, lines = call("import", root / "back", "--not_annotated", "kidney_left")
    assert (code, lines) == (0, [])  # not: kidney_left is missing
    assert "case_03: the label imported, kidney_right" in out
    assert "(not annotated: kidney_left)" in out
    np.testing.assert_array_equal(label_of(root, "case_03"), label)
    (reading,) = record_of(root, "case_03")["readings"]
    assert reading["not_annotated"] == ["kidney_left"]
    assert list(reading["volumes_ml"]) == ["kidney_right"]
    assert not_annotated(root) == {"case_03": ["kidney_left"]}


def test_what_is_recorded_holds_until_another_import_says_otherwise(root: Path, call: Call) -> None:
    give_back(root, "case_03", missing=2)
    call("import", root / "back", "--not_annotated", "kidney_left")
    code, out, lines = call("import", root / "back")
    assert (code, lines) == (0, [])
    assert "case_03: the label has been imported already" in out
    give_back(root, "case_03")  # now somebody has drawn both
    code, _, lines = call("import", root / "back", "--replace")
    assert code == 1
    assert "kidney_left is not annotated, so its 120 voxels are not used; if somebody drew it, import the" in lines[0]
    assert not_annotated(root) == {"case_03": ["kidney_left"]}
    code, _, lines = call("import", root / "back", "--replace", "--not_annotated")
    assert (code, lines) == (0, [])
    assert not_annotated(root) == {}
    assert record_of(root, "case_03")["readings"][0]["not_annotated"] == []
    code, out, lines = call("import", root / "back", "--not_annotated", "kidney_right", "--accept", "case_03")
    assert (code, lines) == (0, [])  # the label stays, what is known about it changes
    assert not_annotated(root) == {"case_03": ["kidney_right"]}
    np.testing.assert_array_equal(label_of(root, "case_03"), truth("case_03"))


def test_status_and_export_name_what_is_annotated_least(root: Path, call: Call) -> None:
    assert "not all have every structure annotated" not in call("status")[1]
    give_back(root, "case_03", missing=2)
    give_back(root, "case_01", missing=2)
    call("import", root / "back", "--not_annotated", "kidney_left")
    expected = "Of 4 labelled cases, not all have every structure annotated: kidney_left in 2."
    assert expected in call("status")[1]
    code, out, _ = call("export", "-o", root / "work", "--no_prelabel", "-device", "cpu")
    assert code == 0
    assert expected in out
    assert f"{expected} Draw above all what is rare." in (root / "work/README.txt").read_text()


def test_the_agreement_leaves_out_what_one_of_two_did_not_draw(root: Path, call: Call) -> None:
    call("export", "-o", root / "work", "--annotators", "anna", "ben", "--double_read", "1", "--no_prelabel")
    for name, missing in (("anna", 0), ("ben", 2)):
        label = np.where(truth("case_03") == missing, 0, truth("case_03"))
        save_itksnap(root / f"work/annotations/{name}/case_03.nii.gz", label, image_of(root, "case_03"))
    first = open_request(the_experiment()).annotators["case_03"][0]
    for name, options in (("anna", []), ("ben", ["--not_annotated", "kidney_left"])):
        code, out, lines = call("import", root / "work/annotations" / name, *options, "--annotator_name", name)
        assert (code, lines) == (0, []), lines
    assert "kidney_right 1.000  kidney_left -" in out
    assert not_annotated(root) == ({"case_03": ["kidney_left"]} if first == "ben" else {})


def test_killed_at_any_write_no_label_is_ever_taken_for_a_complete_one(root: Path) -> None:
    give_back(root, "case_03", missing=2)
    arguments = ["import", "-d", "901", str(root / "back"), "--not_annotated", "kidney_left"]
    kills = 0
    while is_killed(partial(before_replace, 1 + kills), partial(annotate_main, arguments)):
        assert label_file(root, "case_03").exists() <= (not_annotated(root) == {"case_03": ["kidney_left"]})
        kills += 1
    assert kills >= 3  # the list, the label and its record
    assert record_of(root, "case_03")["readings"][0]["not_annotated"] == ["kidney_left"]
    # another label, which lacks the other structure, replaces it: together, they lack every structure
    give_back(root, "case_03", missing=1)
    arguments[-1:] = ["kidney_right", "--replace"]
    kills = 0
    while is_killed(partial(before_replace, 1 + kills), partial(annotate_main, arguments)):
        lacks = not_annotated(root)["case_03"]
        is_new = label_file(root, "case_03").exists() and not (label_of(root, "case_03") == 1).any()
        assert (
            lacks == ["kidney_right"]
            if is_new
            else not label_file(root, "case_03").exists() or lacks == ["kidney_left"]
        )
        kills += 1
    assert kills >= 3
    assert not_annotated(root) == {"case_03": ["kidney_right"]}
