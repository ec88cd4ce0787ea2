"""A part of the study of faults, another one every day."""

from __future__ import annotations

from datetime import date

import pytest

from tests.faults.study import run_study, table


@pytest.mark.slow
def test_a_small_experiment_survives_faults(capsys: pytest.CaptureFixture[str]) -> None:
    seed = date.today().toordinal()
    study = run_study(kills=3, errors=1, damages=3, seed=seed)
    print(f"python -m tests.faults.study --kills 3 --errors 1 --damages 3 --seed {seed}\n{table(study.outcomes)}")
    assert study.lines == []
    assert sum(study.outcomes.values()) >= 3 + 2 + 3
