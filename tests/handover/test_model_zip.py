"""The zip file of a model: what is in it, and what is not."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.handover.model_zip import require_zip, write_model_zip
from tests.conftest import Trained

FOLDER = "Dataset901_Blobs/nnUNetTrainer__nnUNetASSFTPlans__3d_fullres"


def test_the_same_model_gives_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    files = tmp_path / "a.zip", tmp_path / "b.zip"
    for file in files:
        write_model_zip(trained.experiment, trained.rounds[1], file)
    assert files[0].read_bytes() == files[1].read_bytes()
    content = files[0].read_bytes()  # which is not compressed
    for private in (str(tmp_path), str(Path.home()), "case_0"):
        assert private.encode() not in content
    with zipfile.ZipFile(files[0]) as archive:
        assert archive.namelist() == [
            f"{FOLDER}/plans.json",
            f"{FOLDER}/dataset.json",
            f"{FOLDER}/fold_1/checkpoint_final.pth",
            f"{FOLDER}/fold_1/MODEL_CARD.md",
            f"{FOLDER}/fold_1/model_card.json",
        ]
        card = json.loads(archive.read(f"{FOLDER}/fold_1/model_card.json"))
        for name, sha256 in card["files"].items():
            assert hashlib.sha256(archive.read(f"{FOLDER}/{name}")).hexdigest() == sha256
        assert list(card["files"]) == ["plans.json", "dataset.json", "fold_1/checkpoint_final.pth"]


def test_a_file_that_is_no_zip_is_not_replaced(trained: Trained, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"precious")
    with pytest.raises(AssftError, match=r"scan\.nii\.gz exists and is no zip file\. Choose another name\."):
        require_zip(scan)
    write_model_zip(trained.experiment, trained.rounds[0], tmp_path / "old.zip")
    require_zip(tmp_path / "old.zip")


def test_a_damaged_model_is_not_handed_over(trained: Trained, tmp_path: Path) -> None:
    done = trained.rounds[1]
    other = trained.experiment.paths.result(trained.rounds[0].model.checkpoint)
    checkpoint = trained.experiment.paths.result(done.model.checkpoint)
    checkpoint.unlink()
    checkpoint.write_bytes(other.read_bytes())
    with pytest.raises(AssftError, match="its weights do not match their checksum"):
        write_model_zip(trained.experiment, done, tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()
