"""Labels whose header places them elsewhere: refused wherever a label is first read, and used with consent only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.annotation import annotate
from nnunet_assft.active.context import Context, open_context
from nnunet_assft.cli.plan import main as plan_main
from nnunet_assft.cli.round import main as round_main
from nnunet_assft.cli.status import main as status_main
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.accepted_geometry import AcceptedGeometry, accept_geometry
from tests.conftest import blob_case, plan_experiment

PLAN = {"rounds": 1, "budget": "2", "preset": "tiny", "epochs": 1, "iterations_per_epoch": 1}


@pytest.fixture
def context(blobs: Path) -> Context:
    """Round 0 has chosen its case; the labels of the pool are in labelsTr."""
    return open_context(plan_experiment(901, **PLAN), torch.device("cpu"))


def move(file: Path, mm: float = 40) -> None:
    label = sitk.ReadImage(str(file))
    x, y, z = label.GetOrigin()
    label.SetOrigin((x, y, z + mm))
    sitk.WriteImage(label, str(file))


def run(main: Callable[[list[str]], None], *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["-d", "901", *arguments])
    return int(exit_.value.code or 0), *capsys.readouterr()


def test_a_round_refuses_a_label_that_lies_elsewhere_until_somebody_agrees(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    case = context.experiment.permutation[0]
    move(context.dataset.label_file(case))
    reason = "it is shifted by 40 mm (x +0, y +0, z +40)"
    code, _, error = run(round_main, "-r", "0", "-device", "cpu", capsys=capsys)
    assert code == 1
    assert f"The label of case {case} does not lie on its image: {reason}. Fix " in error
    assert f"--accept_geometry {case} takes its voxels" in error
    assert not context.paths.accepted_geometry_file.exists()

    options = [word for name, value in PLAN.items() for word in (f"--{name}", str(value))]
    assert run(plan_main, *options, "--accept_geometry", case, capsys=capsys)[0] == 0
    assert annotate(context, 0, [case]) == [case]
    np.testing.assert_array_equal(
        context.checked_label(case, context.dataset.label_file(case))[0], blob_case(int(case[-2:]))[1]
    )
    assert AcceptedGeometry.load(context.paths.accepted_geometry_file) == AcceptedGeometry((case,), {case: reason})
    _, out, _ = run(status_main, capsys=capsys)
    assert f"geometry accepted (--accept_geometry): {case}\n  {case}: {reason}\n" in out


def test_test_labels_are_checked_too_and_all_stands_for_every_case(context: Context) -> None:
    case = context.experiment.test[0]
    file = context.dataset.label_file(case)
    move(file)
    with pytest.raises(AssftError, match="it is shifted by 40 mm"):
        context.checked_label(case, file)
    accept_geometry(context.paths.accepted_geometry_file, ["all"], context.experiment.pool)
    assert context.checked_label(case, file).shape == (1, 18, 26, 24)


def test_consent_is_to_the_header_only_and_adds_up(context: Context) -> None:
    first, second, *_ = context.experiment.pool
    accept_geometry(context.paths.accepted_geometry_file, [second], context.experiment.pool)
    accept_geometry(context.paths.accepted_geometry_file, [first], context.experiment.pool)
    assert AcceptedGeometry.load(context.paths.accepted_geometry_file).cases == (first, second)
    assert (
        AcceptedGeometry.load(context.paths.accepted_geometry_file).found == {}
    )  # nothing was wrong with any label so far
    file = context.dataset.label_file(first)
    sitk.WriteImage(sitk.ReadImage(str(file))[1:, :, :], str(file))
    with pytest.raises(AssftError, match=r"it has 23 x 26 x 18 voxels, its image 24 x 26 x 18") as caught:
        context.checked_label(first, file)
    assert "--accept_geometry" not in str(caught.value)


def test_a_name_that_is_no_case_is_refused(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(round_main, "-r", "0", "--accept_geometry", "case_99", capsys=capsys)
    assert code == 1
    assert "--accept_geometry names case_99; the experiment has no such case" in error
