"""The steps that optimisers really took: the same for all arms in every round."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.comparison.arms import Comparison, StrategyArm
from nnunet_assft.comparison.spec import read_comparison
from nnunet_assft.comparison.standard_nnunet import finished_job
from nnunet_assft.runtime.files import read_json
from tests.comparison.conftest import compare

# in the processes of standard nnU-Net, whose working directory is the folder of the round
COUNTER = """
import atexit, pathlib
from torch.optim.optimizer import register_optimizer_step_post_hook
steps = []
register_optimizer_step_post_hook(lambda *_: steps.append(1))
atexit.register(lambda: steps and pathlib.Path("steps.txt").write_text(str(len(steps))))
"""


def steps_of_a_strategy(experiment: Experiment, r: int) -> int:
    """The sum over the stages that led to the network of round r, of the steps that AdamW has counted in each."""
    model, steps = Round.load(experiment.paths, r).model, 0
    while model.checkpoint != experiment.initial_model.checkpoint:
        file = experiment.paths.results_of_dataset / model.checkpoint
        state = torch.load(file, map_location="cpu", weights_only=False)["optimizer_state"]["state"]
        (of_stage,) = {int(parameter["step"]) for parameter in state.values()}
        steps += of_stage
        model = type(model)("", read_json(file.parent / "stage.json")["start_from"], "")
    return steps


def steps_of_standard_nnunet(comparison: Comparison, arm_id: str, r: int) -> int:
    folder = comparison.folder / arm_id / "seed_0" / f"round_{r:02d}"
    job = finished_job(folder)
    assert job is not None
    before = 0 if job.from_scratch else steps_of_standard_nnunet(comparison, arm_id, r - 1)
    return before + int((folder / "steps.txt").read_text())


@pytest.mark.slow
def test_every_arm_has_had_the_same_steps_in_every_round(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counter").mkdir()
    (tmp_path / "counter" / "sitecustomize.py").write_text(COUNTER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "counter"))
    arms = ["--strategies", "random", "assft", "random+none"]
    references = ["--references", "nnunet", "nnunet_finetuned@assft", "upper_bound"]
    assert compare("--rounds", "1", *arms, *references) == 0
    file = next(blobs.parents[1].rglob("comparison.json"))
    comparison, _ = read_comparison(file)
    expected = {0: 1 * 2, 1: (1 + 2 * 2) * 2}  # 1 epoch in round 0, 2 per stage; 2 iterations
    runs = pd.read_csv(comparison.folder / "runs.csv").set_index(["arm", "round"])["steps"]
    for arm in comparison.arms:
        for r in arm.rounds(1):
            if isinstance(arm, StrategyArm):
                found = steps_of_a_strategy(arm.experiment(comparison, 0), r)
            elif arm.is_bound:
                found = steps_of_a_strategy(arm.experiment(comparison, 0), 1)
            else:
                found = steps_of_standard_nnunet(comparison, arm.id, r)
            fewer = r * 2 * 2 if arm.id == "random+none" else 0
            assert found == expected[r] - fewer == runs[arm.id, r], (arm.id, r)
