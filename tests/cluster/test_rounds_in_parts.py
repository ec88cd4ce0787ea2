"""A round whose cases and trainings are worked on by other processes is the round of one process, byte for byte."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from nnunet_assft.active.context import open_context
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.scoring.records import request_of, score
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.training import stages
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.cluster.engines import Engine
from nnunet_assft.cluster.executors import InParts
from nnunet_assft.cluster.launchers import Local
from nnunet_assft.network.checkpoints import load_weights, weights_sha256
from nnunet_assft.runtime.cases import each_case
from nnunet_assft.runtime.files import sha256_file
from tests.cluster import work
from tests.cluster.work import has_slurm
from tests.conftest import CPU

ENGINES = [
    Engine("local", parts=2),
    pytest.param(
        Engine("slurm", parts=3, slurm={"time": "5", "mem": "3000"}),
        marks=pytest.mark.skipif(not has_slurm(), reason="there is no SLURM here"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_decisions_and_files_are_those_of_one_process(
    engine: Engine, planned: Experiment, trained_template: Path
) -> None:
    for r in (0, 1):
        run_round(planned, r, CPU, engine=engine)
    paths = planned.paths
    assert list(paths.jobs.iterdir()) == []
    root, expected = paths.results.parents[2], trained_template
    files = [paths.round_file(0), paths.round_file(1), *paths.results.glob("records/*/*.npz")]
    files += paths.raw.glob("assft/*/*/pseudo_labels/*.nii.gz")
    files += [*paths.results.glob("test_round_*/*.nii.gz"), *paths.results.glob("*_round_*.csv")]
    assert len(files) > 30
    different = [file for file in files if sha256_file(file) != sha256_file(expected / file.relative_to(root.parent))]
    assert different == []


@pytest.mark.slow
def test_a_training_that_is_told_to_end_goes_on_after_its_last_epoch(
    planned: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both signals of SLURM, one after the other, in an epoch of two steps. Its weights are those of one that was
    never interrupted."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    context = open_context(planned, CPU)
    labels = {case: context.dataset.label_file(case) for case in planned.pool[:2]}
    stage = Stage(0, "supervised", labels, {}, planned.initial_model, epochs=4)
    whole = stages.train_stage(context, stage)
    fold = planned.paths.result(whole.checkpoint).parent
    shutil.rmtree(fold)
    train = partial(stages._train_alone, context, stage, write_training_set(context, stage))
    run = partial(work.train_until_told_to_end, tmp_path / "epochs", train)
    executor = InParts(tmp_path / "jobs", Local(), 1)
    list(each_case(run, {"supervised": fold}, desc="training", executor=executor, raises=True))
    assert (tmp_path / "epochs").read_text().split() == ["0", "1", "2"]
    assert weights_sha256(load_weights(fold / "checkpoint_final.pth")) == whole.weights_sha256


@pytest.mark.slow
def test_seven_parts_score_as_one_process(planned: Experiment) -> None:
    context = open_context(planned, CPU, Engine("local", parts=7))
    records = score(context, planned.initial_model, planned.pool, request_of(context, 1), "seven")
    alone = score(open_context(planned, CPU), planned.initial_model, planned.pool, request_of(context, 1), "one")
    assert len(records) == len(alone) == 8
    files = {name: sorted(planned.paths.records(name).glob("*.npz")) for name in ("seven", "one")}
    assert len(files["seven"]) == 8
    assert [file.read_bytes() for file in files["seven"]] == [file.read_bytes() for file in files["one"]]
