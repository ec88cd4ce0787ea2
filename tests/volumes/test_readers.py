"""One reader for all files of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.readers import choose_reader, reader_named

NIFTI: dict[str, Any] = {"file_ending": ".nii.gz"}


def save(file: Path, *, skewed: bool = False) -> tuple[Path]:
    """ITK refuses a file whose axes are not at right angles, nibabel does not."""
    affine = np.eye(4)
    affine[0, 1] = 0.2 if skewed else 0.0
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.float32), affine), file)
    return (file,)


def chosen(folder: Path, kinds: str, content: dict[str, Any] = NIFTI) -> str:
    """kinds: one letter per case; s skewed, d damaged, and a good image otherwise."""
    images = {}
    for i, kind in enumerate(kinds):
        images[f"case_{i}"] = save(folder / f"case_{i}_0000.nii.gz", skewed=kind == "s")
        if kind == "d":
            images[f"case_{i}"][0].write_bytes(b"damaged")
    return type(choose_reader(content, images)).__name__


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        ("gggg", "SimpleITKIO"),  # nnU-Net's first one for this ending
        ("sggg", "SimpleITKIO"),  # the first file does not decide
        ("dggg", "SimpleITKIO"),
        ("ssss", "NibabelIO"),  # the next one, because the first can read none of them
        ("dsss", "NibabelIO"),
        ("dddd", "SimpleITKIO"),  # the damage is reported when all images are checked
    ],
)
def test_the_first_reader_that_can_read_one_of_the_first_cases(
    tmp_path: Path, kinds: str, name: str, capfd: pytest.CaptureFixture[str]
):
    assert chosen(tmp_path, kinds) == name
    assert "Traceback" not in capfd.readouterr().err


def test_dataset_json_may_name_the_reader(tmp_path: Path):
    assert chosen(tmp_path, "gg", {**NIFTI, "overwrite_image_reader_writer": "NibabelIO"}) == "NibabelIO"
    assert chosen(tmp_path, "gg", {**NIFTI, "overwrite_image_reader_writer": "None"}) == "SimpleITKIO"


def test_a_reader_that_the_installed_nnunet_does_not_have():
    with pytest.raises(AssftError, match="The installed nnU-Net has no reader OtherIO"):
        reader_named("OtherIO")
