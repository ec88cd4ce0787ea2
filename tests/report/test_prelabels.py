"""The report on a real experiment, with --prelabel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.annotation.preview import preview
from nnunet_assft.cli.report import main
from nnunet_assft.report.material import gather
from tests.conftest import plan_experiment


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_prelabel_segments_the_queried_cases_with_the_model_before_the_query(blobs: Path, tmp_path: Path) -> None:
    experiment = plan_experiment(
        "Dataset901_Blobs", rounds=1, budget="2", preset="tiny", epochs=1, iterations_per_epoch=1, initial_lr=1e-3
    )
    rounds = [run_round(experiment, r, torch.device("cpu")) for r in (0, 1)]
    with pytest.raises(SystemExit) as exit_:
        main(["-d", "901", "-o", str(tmp_path / "r.html"), "--prelabel", "-device", "cpu"])
    assert exit_.value.code == 0
    context = open_context(experiment, torch.device("cpu"))
    scorer = open_scorer(context, rounds[0].model)
    for case in rounds[1].queried:
        seen = preview(scorer, context.image(case), context.properties(case), 3.0)
        written = sitk.ReadImage(str(experiment.paths.previews(1) / f"{case}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), seen.segmentation.array)
        steps = sitk.GetArrayFromImage(sitk.ReadImage(str(experiment.paths.entropies(1) / f"{case}.nii.gz")))
        np.testing.assert_allclose(steps / 250 * np.log(3), seen.entropy.array, atol=0.0025)  # half of a step
        assert written.GetOrigin() == sitk.ReadImage(str(context.dataset.images[case][0])).GetOrigin()
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    cases = json.loads(html.split('id="viewer_cases">')[1].split("</script>")[0])
    assert [list(case["layers"]) for case in cases] == [["pre-segmentation", "label"]] * 2 + [["label"]]
    assert "add --prelabel to compute" not in html
    stages = gather("901", None, None).training.epochs  # what nnU-Net itself put into its checkpoints
    assert list(stages["stage"]) == ["supervised", "supervised", "semi"]
    assert np.isfinite(stages[["train_loss", "val_loss"]].to_numpy()).all()

    # in two parts, each case is segmented by another process, into the same bytes
    alone = contents(experiment.paths.previews(1))
    shutil.rmtree(experiment.paths.previews(1))
    in_parts = ["--engine", "local", "--parts", "2"]
    with pytest.raises(SystemExit) as exit_:
        main(["-d", "901", "-o", str(tmp_path / "r.html"), "--prelabel", "-device", "cpu", *in_parts])
    assert exit_.value.code == 0
    assert contents(experiment.paths.previews(1)) == alone
