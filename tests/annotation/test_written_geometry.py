"""Every segmentation lies on its image, voxel by voxel, whoever writes it, whatever the reader and the stored
orientation.

The network's answer is 1 where the image is brighter than its median. What is written is compared with the raw image
file as nibabel reads it, without any code of ours in between.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.annotation import open_request
from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.pseudo_labels import write_pseudo_labels
from nnunet_assft.active.scoring.prediction import predict_test_cases
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.state import finished_rounds
from nnunet_assft.annotation.export import ExportOptions, export_work
from nnunet_assft.annotation.import_labels import Consent, import_labels
from nnunet_assft.annotation.minutes import Times
from nnunet_assft.report.prelabels import write_prelabels
from tests.cli.annotate.experiment import QUERIED, plan_round_1

CPU = torch.device("cpu")
READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient")
UNLABELLED = ["case_04", "case_05"]


def stored_as(axes: str) -> Callable[[sitk.Image], sitk.Image]:
    return lambda image: sitk.DICOMOrient(image, axes)


def oblique(image: sitk.Image) -> sitk.Image:
    """Turned by 20 and 10 degrees, the first voxel axis from front to back."""
    image = sitk.DICOMOrient(image, "PIR")
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), np.radians(20), 0, np.radians(10)).GetMatrix(), (3, 3))
    image.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel())
    return image


STORED = {"RAS": stored_as("RAS"), "LPS": stored_as("LPS"), "PIR": stored_as("PIR"), "oblique": oblique}


def brighter_than_the_median(self: Scorer, image: np.ndarray, *, mirroring: bool = False) -> torch.Tensor:
    x = torch.from_numpy(image[0] - np.median(image[0]))
    return torch.stack([torch.zeros_like(x), x, torch.full_like(x, -50)])


@pytest.fixture(params=[(reader, stored) for reader in READERS for stored in STORED], ids=" ".join)
def context(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    reader, stored = request.param
    monkeypatch.setattr(Scorer, "logits", brighter_than_the_median)
    return open_context(plan_round_1(tmp_path, monkeypatch, reader=reader, store=STORED[stored]), CPU)


def assert_on_image(file: Path, context: Context, case: str) -> np.ndarray:
    """Returns the voxels of the image."""
    image, written = nibabel.load(context.dataset.images_of(case)[0]), nibabel.load(file)
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-4)
    grey = image.get_fdata()
    np.testing.assert_array_equal(np.asarray(written.dataobj), grey > np.median(grey))
    return grey


def test_all_who_write_segmentations_write_them_onto_the_image(context: Context, tmp_path: Path) -> None:
    model, rounds, work = context.experiment.initial_model, finished_rounds(context.experiment), tmp_path / "work"
    # annotate export
    export_work(context, work, ExportOptions(uncertainty=True))
    for case in QUERIED:
        grey = assert_on_image(work / f"prelabels/{case}.nii.gz", context, case)
        entropy = nibabel.load(work / f"uncertainty/{case}.nii.gz").get_fdata()
        assert np.corrcoef(entropy.ravel(), abs(grey - np.median(grey)).ravel())[0, 1] < -0.8  # largest at the median
    # annotate import
    for case in open_request(context.experiment).cases:
        shutil.copy(work / f"prelabels/{case}.nii.gz", work / "annotations")
    report = import_labels(context, work, Consent(), Times())
    assert sum("it is the pre-segmentation, unchanged" in line for line in report.doubtful) == len(QUERIED)
    import_labels(context, work, Consent(all_warnings=True), Times())
    for case in QUERIED:
        assert_on_image(context.dataset.label_file(case), context, case)
        context.checked_label(case, context.dataset.label_file(case))
    # report --prelabel
    shutil.rmtree(context.paths.previews(1))
    queried = SimpleNamespace(round=1, queried=QUERIED, labelled=QUERIED, model=model)
    write_prelabels(
        SimpleNamespace(experiment=context.experiment, dataset=context.dataset, rounds=[*rounds, queried]), CPU
    )
    for case in QUERIED:
        assert_on_image(context.paths.previews(1) / f"{case}.nii.gz", context, case)
    # test predictions
    for case, file in predict_test_cases(context, model, context.experiment.test, tmp_path / "test", "test").items():
        assert_on_image(file, context, case)
    # pseudo-labels
    write_pseudo_labels(context, 1, model, ["case_00"], {case: {"rank": i} for i, case in enumerate(UNLABELLED)})
    for case in UNLABELLED:
        assert_on_image(context.pseudo_label(1, case), context, case)
