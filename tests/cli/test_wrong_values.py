"""Values that no command takes: exit code 2 and one line that names the option, or exit code 1 where files decide."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_assft.cli import annotate, compare, convert, demo, plan, predict, report, round, run, score
from nnunet_assft.runtime.ranges import RANGES
from tests.conftest import Trained

MAIN = {
    "annotate": annotate,
    "compare": compare,
    "convert": convert,
    "demo": demo,
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


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("plan", ["--budget", ""], "argument --budget: ''; expected a number of cases (2) or a fraction"),
        ("plan", ["--budget", "0"], "argument --budget: '0'; expected a number of cases"),
        ("plan", ["--budget", "٥%"], "argument --budget: '٥%'; expected a number of cases"),
        ("plan", ["--budget", "many"], "argument --budget: 'many'; expected a number of cases"),
        ("plan", ["--test_split", ""], "argument --test_split: ''; expected the name of a file or folder"),
        ("plan", ["--encoder", ""], "argument --encoder: ''; expected the name of a file or folder"),
        ("compare", ["--seeds", "0", "1", "0", "1"], "argument --seeds: seeds 0, 1 given twice; give each seed once"),
        ("compare", ["--seeds", "-1"], "argument --seeds: '-1'; expected a whole number from 0 to 4294967295"),
        ("predict", ["-i", "a", "-o", ""], "argument -o: ''; expected the name of a file or folder"),
        ("predict", ["-i", "", "-o", "b"], "argument -i: ''; expected the name of a file or folder"),
        (
            "predict",
            ["-i", "a", "-o", "b", "-num_parts", "2", "-part_id", "2"],
            "argument -part_id: 2; expected 0 to 1",
        ),
        ("report", ["-o", ""], "argument -o: ''; expected the name of a file or folder"),
    ],
)
def test_other_values(call: Call, command: str, arguments: list[str], expected: str) -> None:
    code, line = call(command, "-d", "901", *arguments)
    assert code == 2
    assert line.startswith(f"nnUNetv2_assft_{command}: error: {expected}")


@pytest.mark.parametrize(("r", "n"), [("0", "3"), ("4", "3")])
def test_a_round_to_score_is_one_of_them(call: Call, r: str, n: str) -> None:
    code, line = call("score", "-i", "a", "-o", "b.csv", "-r", r, "-R", n)
    assert (code, line) == (
        2,
        f"nnUNetv2_assft_score: error: argument -r: {r}; expected a round from 1 to the {n} of -R",
    )


@pytest.mark.parametrize(
    "values", [("nan", "nan"), ("5", "1"), ("-1", "1"), ("0", "inf"), ("voxel", "1"), ("1", ""), ("٣", "4")]
)
def test_tolerances(blobs: Path, call: Call, values: tuple[str, str]) -> None:
    code, line = call("convert", "check", "-d", "901", "--tolerance_mm", *values)
    assert code == 2
    assert line.startswith(
        f"nnUNetv2_assft_convert: error: argument --tolerance_mm: {values[0]} {values[1]}; expected two"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe\x00", "is not a text in UTF-8"),
        (b"[" * 100_000, "contains [ (U+005B)"),
        (b"", "names no case; expected ids such as case_00, one per line."),
        (b"case_77", "names 1 cases that are not in imagesTr (case_77)"),
        (None, "neither a file nor a fraction. Give a fraction (0.2) or a file of case ids."),
    ],
)
def test_files_of_test_cases(blobs: Path, tmp_path: Path, call: Call, content: bytes | None, expected: str) -> None:
    file = tmp_path / "test_cases"
    if content is not None:
        file.write_bytes(content)
    code, line = call("plan", "-d", "901", "--test_split", str(file))
    assert code == 1
    assert line.startswith(f"nnUNetv2_assft_plan: error: --test_split {file}")
    assert expected in line


# Output paths ---------------------------------------------------------------------------------------------------------

OUTPUTS = {
    "predict": (["-d", "901", "-i", "nnUNet_raw/Dataset901_Blobs/imagesTs", "-device", "cpu"], "folder"),
    "score": (["-i", "a", "-r", "1", "-R", "1"], "file"),
    "report": (["-d", "901"], "file"),
    "demo": ([], "folder"),
    "annotate": (["export", "-d", "901"], "folder"),
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_outputs_that_cannot_be_written(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, call: Call, command: str
) -> None:
    monkeypatch.chdir(trained.root)
    arguments, kind = OUTPUTS[command]
    Path("file").touch()
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    Path("nowhere").symlink_to("gone")
    before = sorted(os.listdir())
    wrong = {
        "loop": "cannot be used (Too many levels of symbolic links)",
        "nowhere": "is a symbolic link to gone, which does not exist",
        "file/x": "cannot be used (Not a directory)",
        "/proc/x": "cannot be written to (no file or folder can be made in /proc)",
    }
    if kind == "folder":
        wrong["file"] = "is a file; expected a folder"
    else:
        wrong["folder"] = "is a folder; expected the name of a file"
    for output, expected in wrong.items():
        code, line = call(command, *arguments, "-o", output)
        assert code == 1, line
        assert line.startswith(f"nnUNetv2_assft_{command}: error: -o ")
        if not (kind == "file" and output == "/proc/x"):
            assert expected in line
    assert sorted(os.listdir()) == before


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
