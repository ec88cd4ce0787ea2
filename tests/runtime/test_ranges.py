"""The values of options: one table, for the command line, for Python and for a file that somebody has edited."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction

import pytest

from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.ranges import RANGES, check, parse_budget
from nnunet_assft.runtime.sealed import read_sealed, write_sealed

NO_NUMBERS = ["", " ", "x", "nan", "inf", "-inf", "1_0", "٣", "３", "1 2", "0x10", "--1"]
# option -> the least and the largest value, and one that is just too small and one that is just too large
LIMITS = {
    "rounds": ("1", "1000", "0", "1001"),
    "epochs": ("1", "1000000", "0", "1000001"),
    "one_shot_epochs": ("1", "1000000", "0", "1000001"),
    "iterations_per_epoch": ("1", "1000000", "0", "1000001"),
    "initial_lr": ("1e-300", "1", "0", "1.0001"),
    "seed": ("0", "4294967295", "-1", "4294967296"),
    "spacing": ("0.002", "1000", "0.001", "1000.1"),
    "patch_size": ("1", "4096", "0", "4097"),
    "batch_size": ("1", "10000", "0", "10001"),
    "seeds": ("0", "4294967295", "-1", "4294967296"),
    "test_folds": ("1", "1000", "0", "1001"),
    "n": ("1", "1000000", "0", "1000001"),
    "r": ("0", "1000", "-1", "1001"),
    "R": ("1", "1000", "0", "1001"),
    "np": ("1", "1024", "0", "1025"),
    "npp": ("0", "1024", "-5", "1025"),
    "nps": ("0", "1024", "-1", "1025"),
    "parts": ("1", "1000000", "0", "1000001"),
    "gpus": ("1", "1024", "0", "1025"),
    "num_parts": ("1", "1000000", "0", "1000001"),
    "part_id": ("0", "999999", "-1", "1000000"),
    "step_size": ("1e-300", "1.0", "0", "5"),
    "double_read": ("0", "1", "-0.1", "1.1"),
    "minutes": ("0", "1e300", "-1", "1e999"),
    "tolerance_mm": ("0", "1e300", "-1", "1e999"),
}


def test_every_option_has_its_limits_here() -> None:
    assert set(LIMITS) == set(RANGES)


@pytest.mark.parametrize("option", LIMITS)
def test_texts(option: str) -> None:
    least, largest, too_small, too_large = LIMITS[option]
    values = RANGES[option]
    assert values.parse(least) == float(least)
    assert values.parse(largest) == float(largest)
    assert isinstance(values.parse(largest), int if values.whole else float)
    for text in [too_small, too_large, *NO_NUMBERS, *(["1.0", "1.5", "1e3", "9" * 5000] if values.whole else [])]:
        with pytest.raises(ValueError, match=r"; expected a (whole )?number"):
            values.parse(text)


@pytest.mark.parametrize(
    "option", [name for name in LIMITS if name in {row.name for row in dataclasses.fields(Settings)}]
)
def test_settings_are_checked_whoever_makes_them(option: str) -> None:
    least, largest, too_small, too_large = (json.loads(text) for text in LIMITS[option])
    of_each_axis = option in ("spacing", "patch_size")

    def settings(value: object) -> Settings:
        return Settings(**{option: (least, value, least) if of_each_axis else value})

    for value in (least, largest):
        assert getattr(settings(value), option) == ((least, value, least) if of_each_axis else value)
    for value in (too_small, too_large, math.nan, math.inf, "1", True, [1]):
        with pytest.raises(AssftError, match=rf"^--{option} .*: expected a (whole )?number"):
            settings(value)


@pytest.mark.parametrize("edges", [1, (1, 1), [1, 1, 1, 1], "111"])
def test_there_is_one_edge_per_axis(edges: object) -> None:
    with pytest.raises(AssftError, match=r"--patch_size has [124] values?; expected 3, for z, y and x"):
        Settings(patch_size=edges)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("rounds", 0, "--rounds 0: expected a whole number from 1 to 1000)."),
        ("seed", None, "seed is None; expected a whole number"),
        ("seed", -1, "--seed -1: expected a whole number from 0 to 4294967295)."),
        ("initial_lr", -1, "--initial_lr -1: expected a number above 0 and at most 1)."),
        ("budget", "", "--budget ''; expected a number of cases"),
        ("encoder", "", "--encoder is empty"),
        ("test_split", "", "--test_split is empty"),
    ],
)
def test_an_experiment_file_that_was_edited(planned: Experiment, setting: str, value: object, expected: str) -> None:
    content = read_sealed(planned.paths.experiment_file)
    content["settings"][setting] = value
    write_sealed(planned.paths.experiment_file, content)
    with pytest.raises(AssftError) as refused:
        Experiment.load(planned.paths)
    assert expected in str(refused.value)


def test_the_option_is_named() -> None:
    check("step_size", 0.5)
    with pytest.raises(AssftError, match=r"^--step_size 2: expected a number above 0 and at most 1\.$"):
        check("step_size", 2)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("5", 5),
        (5, 5),
        ("5%", Fraction(1, 20)),
        ("0.05", Fraction(1, 20)),
        (0.5, Fraction(1, 2)),
        ("100%", 1),
        ("1e-3", Fraction(1, 1000)),
    ],
)
def test_budgets(spec: object, expected: int | Fraction) -> None:
    assert parse_budget(spec) == expected


@pytest.mark.parametrize(
    "spec", [*NO_NUMBERS, "0", "-1", "0%", "101%", "1.5", "5%%", "%", "٥%", "1e-999999999", "9" * 5000, None, True]
)
def test_no_budgets(spec: object) -> None:
    with pytest.raises(ValueError, match="; expected a number of cases"):
        parse_budget(spec)
