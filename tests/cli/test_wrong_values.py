"""Values that no command takes: exit code 2 and one line that names the option, or exit code 1 where files decide."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_assft.cli import annotate, compare, convert, demo, extend, plan, predict, report, round, run, score
from nnunet_assft.runtime.ranges import RANGES

MAIN = {
    "annotate": annotate,
    "compare": compare,
    "convert": convert,
    "demo": demo,
    "extend": extend,
    "plan": plan,
    "predict": predict,
    "report": report,
    "round": round,
    "run": run,
    "score": score,
}
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """(exit code, last line of stderr) of a command."""

    def run_command(name: str, *arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            MAIN[name].main(list(arguments))
        lines = capsys.readouterr().err.strip().splitlines()
        return int(exit_.value.code or 0), lines[-1] if lines else ""

    return run_command


# command -> what it needs besides the option, and its options that are numbers
PLANNING = ["--rounds", "--epochs", "--iterations_per_epoch", "--initial_lr", "-np"]
NUMBERS = {
    "plan": ("-d 901", [*PLANNING, "--seed"]),
    "run": ("-d 901", [*PLANNING, "--seed"]),
    "compare": ("-d 901", [*PLANNING, "--seeds", "--test_folds"]),
    "round": ("-d 901", ["-r"]),
    "extend": ("-d 901", ["--rounds", "-np"]),
    "predict": ("-d 901 -i a -o b", ["-r", "-step_size", "-npp", "-nps", "-num_parts", "-part_id"]),
    "score": ("-i a -o b -r 1 -R 1", ["-r", "-R", "-np"]),
    "convert": ("check -d 901", ["-np"]),
    "demo": ("", ["--seed"]),
    "annotate": ("export -d 901 -o a", ["--double_read"]),
}


@pytest.mark.parametrize(
    ("command", "option"), [(name, option) for name, (_, all_) in NUMBERS.items() for option in all_]
)
def test_numbers_out_of_range(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, call: Call, command: str, option: str
) -> None:
    monkeypatch.chdir(blobs)
    for text in ("", "x", "nan", "-1", "1e99", "٣", "1_0"):
        needed = NUMBERS[command][0].split()
        given = [f"{option}={text}"] if option.startswith("--") else [option, text]
        code, line = call(command, *needed, *given)
        assert code == 2
        assert line.startswith(f"nnUNetv2_assft_{command}")
        expected = f"error: argument {option}: {text!r}; expected {RANGES[option.lstrip('-')]}"
        assert line.endswith(expected) or (text == "-1" and "argument" in line)  # which argparse may take for an option
    assert sorted(os.listdir(blobs)) == ["dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs"]


def test_an_error_nobody_foresaw_says_on_which_case(
    planned: object, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("x\ny")

    monkeypatch.setattr("nnunet_assft.active.training.training_set.write_training_label", fail)
    code, line = call("round", "-d", "901", "-r", "0", "-device", "cpu")
    first = json.loads(next(Path(os.environ["nnUNet_results"]).rglob("experiment.json")).read_text())["permutation"][0]
    assert code == 1
    assert line == (
        f"nnUNetv2_assft_round: error: round 0: supervised training set {first}: "
        "ZeroDivisionError: x y (--verbose shows where)"
    )
