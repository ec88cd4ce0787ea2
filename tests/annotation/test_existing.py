"""Labels that are there before the first round: what is refused, what needs consent, and what is not said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_assft.annotation.existing import check_existing
from nnunet_assft.annotation.import_labels import Consent
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import here
from nnunet_assft.volumes.raw_dataset import find_dataset
from tests.cluster.work import LeftBehind
from tests.conftest import blob_case, write_volume

CASES = ("case_00", "case_01", "case_02", "case_03")


def check(consent: Consent | None = None) -> dict[str, list[str]]:
    return check_existing(consent or Consent(), find_dataset(901), CASES, here)


def put(blobs: Path, case: str, label: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    write_volume(blobs / f"labelsTr/{case}.nii.gz", label, spacing)


def test_usual_labels_pass_without_a_word(blobs: Path) -> None:
    assert check() == {}


def test_every_label_that_cannot_be_used_is_named_once(blobs: Path) -> None:
    label = blob_case(1)[1]
    put(blobs, "case_01", np.where(label == 1, 7, label))
    put(blobs, "case_03", blob_case(3)[1], spacing=(1.0, 1.0, 2.0))
    with pytest.raises(AssftError, match=r"^2 labels of the 4 to start with cannot be used") as caught:
        check(Consent(all_warnings=True))
    assert "case case_01 has values that dataset.json does not define: 7 (" in str(caught.value)
    assert "case case_03 does not lie on its image" in str(caught.value)
    put(blobs, "case_01", label)
    assert check(Consent(geometry=["case_03"])) == {}


def test_a_label_that_was_replaced_after_the_command_was_killed_is_looked_at_again(blobs: Path) -> None:
    dataset, executor = find_dataset(901), LeftBehind()
    assert dataset.reader  # is found once, and pickled with the dataset
    assert check_existing(Consent(), dataset, CASES, executor) == {}
    label = blob_case(1)[1]
    put(blobs, "case_01", np.where(label == 1, 7, label))
    with pytest.raises(AssftError, match=r"case case_01 has values that dataset\.json does not define: 7"):
        check_existing(Consent(), dataset, CASES, executor)
    assert executor.computed == ["case_01"]
    (blobs / "labelsTr/case_02.nii.gz").unlink()
    with pytest.raises(AssftError, match=r"2 labels of the 4 to start with .*The label of case case_02 is missing"):
        check_existing(Consent(), dataset, CASES, executor)


def test_doubtful_labels_need_consent_which_is_returned(blobs: Path) -> None:
    put(blobs, "case_01", np.zeros_like(blob_case(1)[1]))
    large = blob_case(3)[1]
    large[large == 2] = 0
    large[1:8, 1:11, 1:13] = 2  # 7 x 10 x 12 mm, the boxes of the others have 4 x 6 x 5
    put(blobs, "case_03", large)
    with pytest.raises(AssftError, match="Your consent is needed for 2 labels of the 4 to start with") as caught:
        check()
    assert "case_01: it is empty: no structure has a voxel" in str(caught.value)
    assert "case_03: box has 0.84 ml; the 2 labels so far have 0.12 to 0.12 ml" in str(caught.value)
    with pytest.raises(AssftError, match=r"Your consent is needed for 1 label of the 4 to start with \(case_03"):
        check(Consent(cases=["case_01"]))
    accepted = check(Consent(all_warnings=True))
    assert list(accepted) == ["case_01", "case_03"]
    with pytest.raises(AssftError, match=r"--accept names case_07; expected cases to start with \(case_00"):
        check(Consent(cases=["case_07"]))


def test_with_a_reader_that_measures_nothing_position_and_values_are_checked(
    blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_assft.annotation.existing.PLAIN_READERS", ())
    put(blobs, "case_01", np.zeros_like(blob_case(1)[1]))
    assert check() == {}
    put(blobs, "case_01", np.full_like(blob_case(1)[1], 9))
    with pytest.raises(AssftError, match="1 label of the 4 to start with cannot be used"):
        check()


def test_a_structure_that_nobody_drew_is_no_finding(blobs: Path) -> None:
    """Its volume is not compared, and a label that has nothing else is empty."""
    label = blob_case(1)[1]
    put(blobs, "case_01", np.where(label == 1, 0, label))
    (blobs / "not_annotated.json").write_text('{"case_01": ["ball"]}')
    assert check() == {}
    put(blobs, "case_01", np.zeros_like(label))
    with pytest.raises(AssftError, match="case_01: it is empty"):
        check()
    put(blobs, "case_01", label)
    with pytest.raises(AssftError, match=r"case_01: ball is not annotated, so its \d+ voxels are not used"):
        check()
    assert list(check(Consent(cases=["case_01"]))) == ["case_01"]
