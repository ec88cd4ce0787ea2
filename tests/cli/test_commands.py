"""The commands as a user runs them: help, exit codes, one line per error."""

import argparse
import dataclasses
import errno
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_assft import __version__
from nnunet_assft.active.options import Options, table
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment, Model, Round, finished_rounds
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.cli import (
    annotate,
    compare,
    convert,
    demo,
    export,
    extend,
    plan,
    predict,
    pretrain,
    report,
    round,
    run,
    score,
    status,
    umbrella,
)
from nnunet_assft.cli.common import make_parser, parse
from nnunet_assft.cli.options import settings_of
from nnunet_assft.cli.printing import print_round
from nnunet_assft.network import ENCODERS, PRESETS, build_network
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.runtime import files
from tests.conftest import SHAPE, blob_case, write_volume
from tests.network.nnunet_model import save

COMMANDS = {
    "convert": convert,
    "plan": plan,
    "round": round,
    "extend": extend,
    "run": run,
    "annotate": annotate,
    "compare": compare,
    "status": status,
    "score": score,
    "predict": predict,
    "pretrain": pretrain,
    "report": report,
    "export": export,
    "demo": demo,
}
PROGRESS = re.compile(r"\d+%\||\d+(case|step) \[")
SMALL = ("--preset", "tiny", "--epochs", "1", "--iterations_per_epoch", "1")


@pytest.fixture
def call(capsys):
    """(exit code, stdout, lines of stderr that are no progress bar) of a command line such as `plan -d 901`."""

    def run_command(line: str, *more: str) -> tuple[int, str, list[str]]:
        name, *arguments = line.split()
        with pytest.raises(SystemExit) as exit_:
            COMMANDS[name].main([*arguments, *more])
        out, err = capsys.readouterr()
        lines = [part.strip() for part in err.replace("\r", "\n").split("\n")]
        lines = [part for part in lines if part and not PROGRESS.search(part)]
        return int(exit_.value.code or 0), out, lines

    return run_command


def the_error(result: tuple[int, str, list[str]], command: str) -> str:
    """The one line on stderr of a command that failed with exit code 1."""
    code, _, lines = result
    assert code == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"nnUNetv2_assft_{command}: error: ")
    return lines[0]


# Help ----------------------------------------------------------------------------------------------------------------

HELP = """
import sys
from importlib import import_module
for name in sys.argv[1:]:
    print(f"### {name}", flush=True)
    try:
        import_module(f"nnunet_assft.cli.{name}").main(["-h"])
    except SystemExit as exit_:
        assert not exit_.code, exit_.code
heavy = {"torch", "nnunetv2", "SimpleITK", "numpy", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_is_quick_and_fits_a_screen():
    command = [sys.executable, "-c", HELP, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "110"})
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("### ")[1:]
    assert len(texts) == len(COMMANDS)
    for name, text in zip(COMMANDS, texts, strict=True):
        lines = text.splitlines()[1:]
        assert lines[0].startswith(f"usage: nnUNetv2_assft_{name} ")
        assert len(lines) <= 40, name
        assert max(map(len, lines)) <= 120, name


def test_help_of_plan_names_every_domain():
    text = " ".join(plan.parser().format_help().split())
    assert f"{', '.join(DOMAINS)} (default: auto)" in text


def test_the_defaults_of_the_options_are_those_of_the_settings():
    assert settings_of(parse(plan.parser(), ["-d", "901"])) == Settings()


@pytest.mark.parametrize(
    "name",
    [row.name for row in dataclasses.fields(Settings) if row.name != "one_shot_epochs"],  # of the upper bound
)
def test_every_setting_has_an_option_of_plan(name):
    assert name in vars(parse(plan.parser(), ["-d", "901"]))


def test_settings_are_what_the_options_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = (
        "-d 901 --strategy random --seed 3 --rounds 4 --budget 5% --domain amos_ct --preset tiny --encoder weights.pth "
        "--encoder_format ct_fm "
        "--normalization ctfm --annotator human --labelled existing --test_split 0.1 --epochs 7 "
        "--iterations_per_epoch 9 --initial_lr 0.01 --deep_supervision --option tau_c=1.5 --option pd_weights=reversed"
    )
    assert settings_of(parse(plan.parser(), line.split())) == Settings(
        strategy="random",
        seed=3,
        rounds=4,
        budget="5%",
        domain="amos_ct",
        preset="tiny",
        encoder=str(tmp_path / "weights.pth"),
        encoder_format="ct_fm",
        normalization="ctfm",
        annotator="human",
        labelled="existing",
        test_split="0.1",
        epochs=7,
        iterations_per_epoch=9,
        initial_lr=0.01,
        deep_supervision=True,
        options=Options(tau_c=1.5, pd_weights="reversed"),
    )


def test_what_was_typed_is_known_even_with_its_default_value():
    parser = make_parser("test", "a test")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--option", action="append")
    parser.add_argument("--list", action="version", version="rows")  # leaves no value behind
    typed = parse(parser, ["-d", "1", "--epochs", "5", "--fast", "--option", "a", "--option", "b"])
    assert typed == argparse.Namespace(
        d="1",
        e="assft",
        epochs=5,
        seeds=[0, 1],
        fast=True,
        option=["a", "b"],
        verbose=False,
        typed={"d", "epochs", "fast", "option"},
    )
    assert parse(parser, ["-d", "1"]).typed == {"d"}
    assert parse(parser, ["-d", "1"]).option is None  # no list is shared between two calls


def test_strategies_are_listed_without_a_dataset(call):
    assert "see --list_strategies" in plan.parser().format_help()
    code, out, lines = call("plan --list_strategies")
    assert (code, lines) == (0, [])
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == list(STRATEGIES)
    for row in STRATEGIES.values():
        assert f" {row.description}\n" in out
        assert f" needs {', '.join(sorted(row.needs))}. Source: {row.source}\n" in out
        assert f" costs {row.extra_cost}\n" in out or not row.extra_cost
    assert max(map(len, out.splitlines())) <= 140


def test_options_are_listed_without_a_dataset(call):
    assert "see --list_options" in plan.parser().format_help()
    code, out, lines = call("plan --list_options")
    assert (code, lines) == (0, [])
    for name, values, meaning in table():
        assert f"{name:<18} {meaning}\n{'':<18} {values}\n" in out
    for name, row in SELECTIONS.items():
        assert f"  {name:<16} {row.description}. Source: {row.source}\n" in out
    assert max(map(len, out.splitlines())) <= 140


def test_options_that_deviate_are_recorded_and_shown(blobs, call):
    line = "plan -d 901 --preset tiny --option pd_weights=reversed --option tau_c=1.5 --option first_case=medoid"
    code, out, _ = call(line)
    assert code == 0
    changed = "deviations from the method: first_case=medoid, pd_weights=reversed, tau_c=1.5"
    assert changed in out
    assert "first case the medoid, computed in round 0" in out
    assert Experiment.load(ExperimentPaths(blobs.name, "assft")).options == Options(
        pd_weights="reversed", tau_c=1.5, first_case="medoid"
    )
    assert changed in call("status -d 901")[1]
    expected = "--option confidence=two: expected one of sum, foreground_mean."
    assert expected in the_error(call("plan -d 901 --option confidence=two"), "plan")


def test_help_of_plan_shows_defaults():
    text = " ".join(plan.parser().format_help().split())
    for default in ("(default: assft)", "(default: 0)", "(default: oracle)", "(default: 250)", "(default: 0.0001)"):
        assert default in text


def test_console_scripts_resolve():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    scripts = dict(project["scripts"])
    assert scripts.pop("nnUNetv2_assft") == "nnunet_assft.cli.umbrella:main"
    assert set(scripts) == {f"nnUNetv2_assft_{name}" for name in COMMANDS}
    for script, target in scripts.items():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert importlib.import_module(module).parser().prog == script


def test_status_starts_without_torch(trained):
    """Its import takes several seconds, and status is typed often."""
    code = """if True:
        import sys
        from nnunet_assft.cli.status import main
        try:
            main(["-d", "901"])
        finally:
            print([name for name in ("torch", "scipy.stats") if name in sys.modules])
    """
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Stopping advice" in printed
    assert printed.splitlines()[-1] == "[]"


# All commands in one -------------------------------------------------------------------------------------------------


def test_the_command_without_a_name_lists_all_commands_and_runs_the_one_that_is_named(capsys):
    assert set(umbrella.COMMANDS) == set(COMMANDS)
    umbrella.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[4:]] == list(umbrella.COMMANDS)
    assert lines[8] == "  run       Plan if necessary, then run all remaining rounds"
    umbrella.main(["--version"])
    assert capsys.readouterr().out.startswith("nnunet_assft ")
    with pytest.raises(SystemExit) as exit_:
        umbrella.main(["raport", "-d", "901"])
    assert exit_.value.code == 2
    assert "there is no command 'raport'. Did you mean report?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        umbrella.main(["status", "-d", "901", "--nothing"])
    assert exit_.value.code == 2
    assert "nnUNetv2_assft_status: error: unrecognized arguments: --nothing" in capsys.readouterr().err


def test_the_demo_says_how_the_other_commands_find_its_folders(tmp_path):
    export, report = demo.next_commands(tmp_path / "my demo").splitlines()
    done = subprocess.run(["bash", "-c", f'{export}; printf %s "$nnUNet_results"'], capture_output=True, text=True)
    assert done.stdout == str(tmp_path / "my demo" / "nnUNet_results")
    assert report.split() == ["nnUNetv2_assft_report", "-d", "900"]


@pytest.mark.parametrize("is_activated", [True, False])
def test_the_next_command_of_the_demo_is_found_without_an_activated_environment(tmp_path, monkeypatch, is_activated):
    scripts = tmp_path / "my venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "nnUNetv2_assft_report").write_text("#!/bin/sh\necho found\n")
    (scripts / "nnUNetv2_assft_report").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", f"{scripts}:/usr/bin:/bin" if is_activated else "/usr/bin:/bin")
    typed = demo.next_commands(tmp_path)
    assert ("PATH=" in typed) is not is_activated
    assert subprocess.run(["bash", "-c", typed], capture_output=True, text=True).stdout == "found\n"


# Errors are one line and exit code 1 ---------------------------------------------------------------------------------

NEED_A_DATASET = [
    "plan -d 901",
    "run -d 901",
    "round -d 901 -r 0",
    "annotate status -d 901",
    "status -d 901",
    "predict -d 901 -i a -o b",
    "report -d 901",
]


@pytest.mark.parametrize("line", NEED_A_DATASET)
@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_environment_variable_that_is_not_set(nnunet_folders, monkeypatch, call, line, variable):
    monkeypatch.delenv(variable)
    error = the_error(call(line), line.split()[0])
    assert f"The environment variable {variable} is not set" in error


@pytest.mark.parametrize(
    "line", [*NEED_A_DATASET, "compare -d 901", "report -d 901 --compare", "annotate export -d 901 -o w"]
)
def test_a_name_of_an_experiment_that_is_no_name(blobs, call, line):
    option = "--compare" if line.endswith("--compare") else "-e"
    before = sorted(path for path in blobs.parents[1].rglob("*"))
    for name in ("", "-x", "../x", "a\nb", "x" * 300):
        error = the_error(call(line.removesuffix(" --compare"), f"{option}={name}"), line.split()[0])
        assert "The experiment name " in error
        assert "consists of letters from a to z or A to Z, digits, _ and -" in error
    assert sorted(path for path in blobs.parents[1].rglob("*")) == before, "nothing was written"


@pytest.mark.parametrize("line", NEED_A_DATASET)
def test_an_unknown_dataset(blobs, call, line):
    error = the_error(call(line.replace("901", "77")), line.split()[0])
    assert "Dataset 77 was not found" in error
    assert "existing datasets: Dataset901_Blobs" in error


def test_a_dataset_name_that_is_not_there(blobs, call):
    assert "Dataset077_Nothing has no dataset.json" in the_error(call("plan -d Dataset077_Nothing"), "plan")


@pytest.mark.parametrize("line", NEED_A_DATASET[2:])
def test_an_unknown_experiment_says_how_to_make_it(blobs, call, line):
    error = the_error(call(f"{line} -e pilot"), line.split()[0])
    assert "has no experiment 'pilot'" in error
    assert error.endswith("Run nnUNetv2_assft_plan -d 901 -e pilot to create it.")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--strategy best", f"--strategy 'best' does not exist; the choices are {', '.join(STRATEGIES)}."),
        ("--preset huge", f"--preset 'huge' does not exist; the choices are {', '.join(PRESETS)}."),
        ("--test_split 1.5", "--test_split 1.5: expected a fraction between 0 and 1"),
    ],
)
def test_plan_names_the_option_that_is_wrong(blobs, call, options, expected):
    assert expected in the_error(call(f"plan -d 901 {options}"), "plan")


@pytest.mark.parametrize(
    "options", ["--domain moon", "--rounds 0", "--budget 0", "--annotator ghost", "--epochs x", "--strat assft"]
)
def test_wrong_usage_is_exit_code_2(blobs, call, options):
    code, _, lines = call(f"plan -d 901 {options}")
    assert code == 2
    assert lines[0].startswith("usage: nnUNetv2_assft_plan")


def test_status_without_a_dataset_lists_the_experiments(nnunet_folders, call):
    assert call("status")[:2] == (0, "There is no experiment yet. nnUNetv2_assft_plan -d 218 makes one.\n")
    for name in ("assft", "pilot"):
        folder = nnunet_folders / "nnUNet_results/Dataset901_Blobs/assft" / name
        folder.mkdir(parents=True)
        (folder / "experiment.json").touch()
    (folder / "round_00.json").touch()
    assert call("status")[1].splitlines() == [
        "Dataset901_Blobs, experiment 'assft': 0 finished rounds. nnUNetv2_assft_status -d 901",
        "Dataset901_Blobs, experiment 'pilot': 1 finished round. nnUNetv2_assft_status -d 901 -e pilot",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plan -d 901 --bugdet 3", "unrecognized arguments: --bugdet 3. Did you mean --budget?"),
        ("round -d 901 --device cpu", "unrecognized arguments: --device cpu. Did you mean -device?"),
        ("plan -d 901 -device cpu", "argument -device: this command has none; those that train or predict have it"),
        ("annotate import -d 901 work --minuts 3", "unrecognized arguments: --minuts 3. Did you mean --minutes?"),
        ("round -d 901 --xyz", "unrecognized arguments: --xyz"),
    ],
)
def test_a_mistyped_option_is_told_what_may_be_meant(nnunet_folders, call, line, expected):
    code, _, lines = call(line)
    assert code == 2
    assert lines[-1].endswith(f"error: {expected}")


def test_every_command_tells_its_version(call):
    assert call("status --version")[:2] == (0, f"nnunet_assft {__version__}\n")


def test_a_mistyped_experiment_is_told_which_there_are(planned, call):
    expected = "The dataset has the experiment assft; -e chooses one. Run nnUNetv2_assft_plan -d 901 -e asft to create"
    assert expected in the_error(call("status -d 901 -e asft"), "status")


def test_run_takes_what_is_not_typed_from_the_plan(planned, call):
    """An experiment of annotators needs no --annotator again, and another number of rounds is refused by name."""
    assert "rounds was 2, now 3" in the_error(call("run -d 901 --rounds 3 -device cpu"), "run")


def test_after_the_last_unlabelled_case_no_round_is_next(trained, call):
    paths, pool = trained.experiment.paths, trained.experiment.pool
    dataclasses.replace(trained.rounds[1], labelled=pool, unlabelled=(), pseudo_labelled=()).save(paths)
    paths.round_file(2).unlink()
    code, out, _ = call("round -d 901 -r 1 -device cpu")
    assert code == 0
    assert out.startswith("round 1: ")
    assert "Next" not in out


def test_a_case_that_takes_the_place_of_withdrawn_labels_is_not_called_labelled_at_the_start(planned, call, capsys):
    dataclasses.replace(planned, labelled_at_start=("case_00",)).save()
    assert call("extend -d 901 --withdraw case_00")[0] == 0
    experiment = Experiment.load(planned.paths)
    (drawn,) = experiment.start
    done = Round(
        round=0,
        labelled=(drawn,),
        unlabelled=(),
        queried=(drawn,),
        excluded=(),
        pseudo_labelled=(),
        reliability={},
        test=(),
        model=planned.initial_model,
        dice={"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}},
    )
    print_round(experiment, done)
    assert capsys.readouterr().out.startswith(f"round 0: queried {drawn}; 1 labelled")
    options = "--rounds 2 --budget 2 --preset tiny --epochs 2 --iterations_per_epoch 2 --initial_lr 1e-3"
    assert f"rounds 1 to 2 query 2 cases each; first case {drawn}\n" in call(f"plan -d 901 {options}")[1]


def test_the_round_that_is_not_typed_is_the_next_one(trained, call):
    code, out, _ = call("round -d 901 -device cpu")
    assert code == 0
    assert out.startswith("round 2: ")


@pytest.mark.parametrize(
    ("r", "expected"),
    [
        (
            "1",
            "Round 1 starts from round 0, which is not finished; 0 of 3 rounds are. "
            "Run nnUNetv2_assft_round -d 901 -r 0",
        ),
        ("3", "Round 3 does not exist: experiment 'assft' has rounds 0 to 2. Choose one of them with -r."),
    ],
)
def test_a_round_that_cannot_run(planned, call, r, expected):
    assert the_error(call(f"round -d 901 -r {r}"), "round").endswith(expected)


@pytest.mark.parametrize("line", ["predict -d 901 -i a -o b", "export -d 901 -o a.zip"])
@pytest.mark.parametrize("r", ["", " -r 0"])
def test_a_round_that_is_not_finished_has_no_model(planned, call, line, r):
    expected = "Round 0 of experiment 'assft' is not finished; 0 of 3 rounds are. Run nnUNetv2_assft_status -d 901"
    assert expected in the_error(call(line + r), line.split()[0])


@pytest.mark.parametrize("line", ["round -d 901 -r 0", "run -d 901", "run -d 901 -e new"])
def test_a_gpu_that_is_not_there(planned, call, monkeypatch, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = the_error(call(f"{line} -device cuda"), line.split()[0])
    assert "-device cuda, but torch finds no CUDA device" in error
    assert not ExperimentPaths("Dataset901_Blobs", "new").experiment_file.exists()  # nothing was planned


def test_verbose_shows_the_traceback(blobs, call):
    code, _, lines = call("plan -d 901 --strategy best --verbose")
    assert code == 1
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("nnUNetv2_assft_plan: error: --strategy 'best'")


def test_an_option_with_a_newline_is_one_line(planned, call):
    error = the_error(call("round -d 901 -r 0", "--accept_geometry", "case\n\x1b[2Jx"), "round")
    assert "--accept_geometry names case\\n\\x1b[2Jx; the experiment has no such case" in error


def test_an_error_nobody_thought_of_is_one_line_too(blobs, call, monkeypatch):
    def fails(*_, **__):
        raise KeyError("a\nb")

    monkeypatch.setattr("nnunet_assft.active.experiment.create_experiment", fails)
    error = the_error(call("plan -d 901"), "plan")
    assert "KeyError: " in error
    assert error.endswith("(--verbose shows where)")


def test_ctrl_c_is_130(blobs, call, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nnunet_assft.active.experiment.create_experiment", interrupted)
    code, _, lines = call("plan -d 901")
    assert (code, lines) == (130, ["nnUNetv2_assft_plan: interrupted; run the same command again to continue"])


# A full disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".pth", ".b2nd"])
def test_a_full_disk_is_said_and_the_same_command_goes_on(blobs, call, monkeypatch, suffix):
    """The disk is full from the first file with this ending on: fingerprint or plans, initial network, an image."""
    replace = files.os.replace

    def full(source, target):
        if str(target).endswith(suffix):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        error = the_error(call("plan -d 901", *SMALL), "plan")
    assert "is full. Free some space and run the same command again; nothing is lost." in error
    assert not list(blobs.parents[1].rglob("experiment.json"))
    code, out, _ = call("plan -d 901", *SMALL)
    assert code == 0
    assert "Next: nnUNetv2_assft_round -d 901 -r 0" in out


def test_a_disk_that_fills_up_in_a_round_is_said(planned, call, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(files.os, "replace", full)
    assert "is full. Free some space" in the_error(call("round -d 901 -r 0 -device cpu"), "round")


# Changes after planning ----------------------------------------------------------------------------------------------


def test_changes_are_printed_and_shown_by_status(planned, call):
    image, label = blob_case(12)
    write_volume(planned.paths.raw / "imagesTr/case_12_0000.nii.gz", image)
    write_volume(planned.paths.raw / "labelsTr/case_12.nii.gz", label)
    assert "-e. nnUNetv2_assft_extend -d 901 adds new images." in the_error(
        call("plan -d 901 --preset tiny --rounds 2 --budget 2 --epochs 2 --iterations_per_epoch 2"), "plan"
    )
    new = "new in imagesTr, not in the pool: case_12. nnUNetv2_assft_extend -d 901 adds what is new."
    assert new in call("status -d 901")[1].splitlines()
    code, out, _ = call("extend -d 901 --rounds 3 --budget 1 --withdraw case_02")
    assert code == 0
    first, *lines = out.splitlines()
    assert first.startswith("changed on 20")
    change = "case case_12 joined the pool in round 0; case case_02 withdrawn from round 0 on; R = 3 and N_B = 1 from"
    assert change in first
    assert lines == [
        "case_02: the plans were made from its image",
        "No later round uses these cases. None of their files was deleted.",
        "8 cases in the pool, 3 test cases; 3 rounds of 1 case",
        "Next: nnUNetv2_assft_round -d 901 -r 0",
    ]
    shown = call("status -d 901")[1].splitlines()
    assert shown[0].endswith("3 rounds of 1 case, pool of 8, seed 0")
    assert shown[2] == first
    assert not any(line.startswith("new in imagesTr") for line in shown)  # nor is the withdrawn case
    _, again, _ = call("extend -d 901 --rounds 3 --withdraw case_02")
    assert again.splitlines()[0].startswith("Nothing was changed: there is no new image in imagesTr")
    assert again.splitlines()[1:] == lines


def test_images_that_come_after_the_last_query_need_another_round(trained, call):
    write_volume(trained.experiment.paths.raw / "imagesTr/case_12_0000.nii.gz", blob_case(12)[0])
    write_volume(trained.experiment.paths.raw / "labelsTr/case_12.nii.gz", blob_case(12)[1])
    assert call("extend -d 901")[1].splitlines()[1] == (
        "No round is left that could query or pseudo-label the new images; nnUNetv2_assft_extend -d 901 --rounds 3 "
        "adds one."
    )
    assert "No round is left" not in call("extend -d 901 --rounds 3")[1]


# Waiting is exit code 3 ----------------------------------------------------------------------------------------------


def test_a_missing_annotation_is_waited_for(blobs, call, tmp_path):
    for file in (blobs / "labelsTr").iterdir():
        file.unlink()
    _, out, _ = call("plan -d 901 --annotator human --rounds 1 --budget 1", *SMALL)
    first = out.split("first case ")[1].split()[0]
    code, _, lines = call("round -d 901 -r 0 -device cpu")
    assert code == 3
    assert len(lines) == 1
    assert lines[0].startswith(f"nnUNetv2_assft_round: waiting for the annotation of 1 of 1 cases: {first}. ")
    assert "Run nnUNetv2_assft_annotate export -d 901 -o WORK to write a work folder" in lines[0]
    assert "nnUNetv2_assft_round -d 901 -r 0" in lines[0]
    _, out, _ = call("status -d 901")
    assert out.endswith(
        f"waiting for the annotation of: {first}\n"
        "Next: nnUNetv2_assft_annotate export -d 901 -o WORK, then nnUNetv2_assft_annotate import -d 901 WORK\n"
    )
    assert call("annotate export -d 901 --annotators anna -o", str(tmp_path / "work"))[0] == 0
    assert f"waiting for the annotation of: {first} (anna)\n" in call("status -d 901")[1]


def test_labels_at_hand_are_checked_and_trained_on(blobs, call):
    for file in (blobs / "labelsTr").iterdir():
        if file.name not in ("case_03.nii.gz", "case_05.nii.gz"):
            file.unlink()
    write_volume(blobs / "labelsTr/case_05.nii.gz", np.zeros(SHAPE, np.uint8))
    line = "plan -d 901 --annotator human --rounds 1 --budget 1"
    doubt = "Your consent is needed for 1 label of the 2 to start with (case_05: it is empty: no structure has a voxel)"
    assert doubt in the_error(call(line, *SMALL), "plan")
    assert "has no experiment" in the_error(call("status -d 901"), "status")
    code, out, _ = call(line, *SMALL, "--accept", "case_05")
    assert code == 0
    assert "rounds 1 to 1 query 1 case each; round 0 trains on 2 labelled cases: case_03, case_05 (labels in lab" in out
    assert "\naccepted: case_05: it is empty: no structure has a voxel\n" in out
    assert call(line, *SMALL)[1] == out  # again, without the consent that is recorded
    _, out, _ = call("round -d 901 -r 0 -device cpu")
    assert out.startswith("round 0: trained on the 2 cases labelled at the start; 2 labelled, 6 unlabelled, 0 pseudo")


# What is printed when all goes well ----------------------------------------------------------------------------------


def test_half_a_test_case_is_named(blobs, call):
    (blobs / "labelsTs" / "case_09.nii.gz").rename(blobs / "labelsTs" / "case_30.nii.gz")
    out = call("plan -d 901", *SMALL)[1]
    assert "2 test cases (imagesTs)" in out
    assert "Not test cases, because imagesTs or labelsTs lacks their file: case_09, case_30. If that is" in out


def test_plan_says_what_it_decided_and_what_comes_next(blobs, call):
    (blobs / "imagesTr" / "case_20_0000.nii").touch()
    code, out, lines = call("plan -d 901 -e pilot --budget 2 --rounds 4 --strategy random", *SMALL)
    assert (code, lines) == (0, [])
    assert "Dataset901_Blobs, experiment 'pilot': random, domain generic, preset tiny" in out
    assert "pre-trained encoder: none" in out
    assert "8 cases in the pool, 3 test cases (imagesTs)" in out
    assert "Files that do not end with .nii.gz are left out: 'imagesTr/case_20_0000.nii'. Convert them if" in out
    assert "rounds 1 to 4 query 2 cases each; first case case_0" in out
    assert "The budget of all rounds exceeds the pool" in out  # 1 + 4 * 2 > 8
    assert out.endswith("Next: nnUNetv2_assft_round -d 901 -e pilot -r 0\n")


@pytest.mark.parametrize(
    ("preset", "line"),
    [
        ("ctfm", ""),
        (
            "resenc_l",
            "The patch of the domain, 48 x 160 x 224, becomes 64 x 160 x 224, the nearest that the network can take: "
            "its axes are multiples of 32 x 32 x 32.\n",
        ),
    ],
)
def test_plan_says_if_the_network_cannot_take_the_patch_of_the_domain(capsys, preset, line):
    network = PRESETS[preset]
    planned = {"patch_size": network.nearest_patch((48, 160, 224)), "architecture": network.architecture}
    plan._print_change_of_patch(Settings(domain="amos_mri"), planned)
    assert capsys.readouterr().out == line


def test_plan_says_as_what_an_encoder_was_recognised(blobs, call, tmp_path):
    network = build_network(PRESETS["resenc_tiny"].architecture, 1, 2, initialise=True)
    configuration = {"spacing": [1, 1, 1], "normalization_schemes": ["ZScoreNormalization"]}
    pretraining = {"pretrain_plan": {"configurations": {"onemmiso": configuration}}}
    content = {"network_weights": network.state_dict(), "nnssl_adaptation_plan": pretraining}
    torch.save(content, tmp_path / "mae.pth")
    code, out, _ = call("plan -d 901 --preset resenc_tiny --encoder", str(tmp_path / "mae.pth"))
    assert code == 0
    assert "pre-trained encoder: mae.pth, recognised as nnssl (licence: that of the checkpoint, CC BY" in out
    assert "layout of the file: torch, network_weights, prefix 'encoder.'\n" in out
    assert "as the weights were trained: normalization PercentileZScoreNormalization (ZScoreNormalization)\n" in out
    assert "planned as the weights were trained: --normalization zscore\n" in out
    _, out, _ = call(
        "plan -d 901 -e second --encoder_format nnunet --preset resenc_tiny --encoder", str(tmp_path / "mae.pth")
    )
    assert "pre-trained encoder: mae.pth, read as nnunet (licence: that of the model)\n" in out
    code, _, lines = call("plan -d 901 -e other --preset tiny --encoder", str(tmp_path / "mae.pth"))
    assert code == 1
    assert "Use one of the presets resenc_l, resenc_m, resenc_tiny." in lines[-1]


def test_an_encoder_chooses_the_preset_if_none_is_typed(blobs, call, tmp_path):
    for preset in ("resenc_tiny", "tiny"):
        network = build_network(PRESETS[preset].architecture, 1, 2, initialise=True)
        torch.save({"state_dict": network.state_dict()}, tmp_path / f"{preset}.pth")
        line = f"plan -d 901 -e {preset} --encoder"
        code, out, lines = call(line, str(tmp_path / f"{preset}.pth"))
        assert (code, lines) == (0, [])
        assert f"domain generic, preset {preset}\n" in out
        assert f"The preset is {preset} because it takes this encoder.\n" in out
        assert call(line, str(tmp_path / f"{preset}.pth"))[1] == out  # again
    code, out, _ = call("plan -d 901 -e large --preset resenc_tiny --encoder", str(tmp_path / "resenc_tiny.pth"))
    assert "because it takes" not in out
    assert call("plan -d 901 -e large --encoder", str(tmp_path / "resenc_tiny.pth"))[0] == 0
    of_two = build_network(PRESETS["resenc_tiny"].architecture, 2, 2, initialise=True)  # blobs have one channel
    torch.save({"state_dict": of_two.state_dict()}, tmp_path / "two.pth")
    code, _, lines = call("plan -d 901 -e two --encoder", str(tmp_path / "two.pth"))
    assert code == 1
    assert "The weights were trained with 2 input channels, and the dataset has 1. Use weights with" in lines[-1]
    (tmp_path / "nothing.pth").write_bytes((tmp_path / "tiny.pth").read_bytes()[:-100])
    code, _, lines = call("plan -d 901 -e none --encoder", str(tmp_path / "nothing.pth"))
    assert code == 1
    assert "cannot be read as a torch file" in lines[-1]


def test_plan_names_the_other_presets_of_an_encoder(capsys):
    for preset, line in {
        "resenc_l": "The preset is resenc_l because it takes this encoder. Others that take it: --preset resenc_m.\n",
        "plain": "The preset is plain because it takes this encoder.\n",
    }.items():
        plan._print_choice_of_preset(Settings(preset=preset, encoder="file.pth"))
        assert capsys.readouterr().out == line


def test_plan_and_status_say_from_which_model_the_network_starts(blobs, call, tmp_path):
    def of_blobs(content):
        content["init_args"]["dataset_json"]["labels"] = {"background": 0, "box": 1, "cone": 2}

    save(tmp_path / "model", of_blobs)
    code, out, _ = call("plan -d 901 --start", str(tmp_path / "model"))
    assert code == 0
    assert "domain generic, the PlainConvUNet of the model that training started from\n" in out
    line = "start: the model model; rows of its last layer: 2 kept (background, box), 1 new (ball)\n"
    assert line in out
    assert (
        "planned here, and in brackets as the weights were trained: spacing 1 x 1 x 1 mm (1.5 x 1 x 1 mm); "
        "normalization PercentileZScoreNormalization (CTNormalization); channels MRI (CT)\n"
    ) in out
    assert line in call("status -d 901")[1]
    # there is no --normalization for CTNormalization
    assert "planned as the weights were trained: --spacing 1.5 1 1\n" in out
    code, out, _ = call("plan -d 901 -e other --spacing 1.5 1 1 --patch_size 20 32 32 --start", str(tmp_path / "model"))
    assert code == 0
    assert "as the weights were trained: patch" in out
    assert "spacing 1" not in out


def test_the_tables_of_networks_and_encoders(call):
    code, out, lines = call("plan --list_encoders")
    assert (code, lines) == (0, [])
    assert [line.split()[0] for line in out.splitlines() if re.match(r"  \w", line)] == [*PRESETS, *ENCODERS]
    assert "Licence: weights Apache-2.0, code MIT\n" in out
    assert "Presets: resenc_l, resenc_m, resenc_tiny\n" in out
    # nobody has given this package a released file
    assert out.count("Tested on: files of this layout with random weights, no released one\n") == 6
    assert out.count("Tested on: ") == len(ENCODERS)


def test_status_before_the_first_round(planned, call):
    code, out, _ = call("status -d 901")
    assert code == 0
    assert "Dataset901_Blobs, experiment 'assft': assft, 2 rounds of 2 cases, pool of 8, seed 0" in out
    assert out.endswith("Next: nnUNetv2_assft_round -d 901 -r 0\n")


def test_status_advises_on_stopping_from_the_second_round_on(planned, call):
    def finish(r: int, dice_of: dict[str, float]) -> None:
        mean, per_case = (0.5 if dice_of else None), {case: {"ball": dice} for case, dice in dice_of.items()}
        dice = {"mean": mean, "sd": None, "n_cases": len(dice_of), "per_structure": {}, "per_case": per_case}
        model = Model("supervised", "", "")
        Round(r, (), planned.pool, (), (), (), {}, planned.test, model, dice).save(planned.paths)

    for r in (0, 1):
        assert "Stopping advice" not in call("status -d 901")[1]
        finish(r, dict.fromkeys(planned.test, 0.5))
    line = call("status -d 901")[1].splitlines()[-2]
    same = "+0.0000 (95 % interval +0.0000 to +0.0000)"
    assert line.startswith(
        f"Stopping advice: From round 0 to 1 the mean Dice of 3 test cases changed by {same}: not more than"
    )
    assert line.endswith("keep other cases for the final evidence.")
    for r in (0, 1):
        finish(r, {})
    assert call("status -d 901")[1].splitlines()[-2:] == [
        "Stopping advice: No advice is possible: no test case has a label.",
        "Next: nnUNetv2_assft_round -d 901 -r 2",
    ]


def test_the_folder_for_stock_commands_holds_one_module(call, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    code, out, _ = call("status --ext_trainer_path")
    assert code == 0
    assert sorted(file.name for file in Path(out.strip()).glob("*.py")) == ["__init__.py", "assft_ext_trainer.py"]


@pytest.mark.slow
def test_run_finishes_what_is_left(trained, call):
    paths = trained.experiment.paths
    paths.round_file(2).unlink()
    for stage in ("supervised", "semi"):
        shutil.rmtree(paths.checkpoint(2, stage).parent)
        paths.step_file(2, stage).unlink()
    code, out, lines = call("run -d 901 -device cpu")
    assert (code, lines) == (0, [])
    assert [line.split(":")[0] for line in out.splitlines()] == ["round 0", "round 1", "round 2"]
    assert finished_rounds(trained.experiment) == trained.rounds  # with the same weights
    code, out, _ = call("status -d 901")
    assert "nnUNetTrainerASSFTSupervised__nnUNetASSFTPlans__3d_fullres/fold_0" in out
    assert "nnUNetTrainerASSFT__nnUNetASSFTPlans__3d_fullres/fold_2" in out
    assert out.endswith("All rounds are done.\n")
    assert "seed was 0, now 1" in the_error(call("run -d 901 --seed 1"), "run")


@pytest.mark.slow
def test_predict_is_the_prediction_of_the_evaluation(trained, call, tmp_path):
    paths = trained.experiment.paths
    images, segmentations = str(paths.raw / "imagesTs"), tmp_path / "segmentations"
    for part in (0, 1):
        options = f"-npp 0 -nps 0 -device cpu -num_parts 2 -part_id {part}"
        assert call(f"predict -d 901 {options}", "-i", images, "-o", str(segmentations))[0] == 0
    for case in trained.experiment.test:
        file = f"{case}.nii.gz"
        assert (segmentations / file).read_bytes() == (paths.test_predictions(2) / file).read_bytes()


def test_predict_says_which_images_it_cannot_take(trained, call, tmp_path):
    folder, output = tmp_path / "empty", tmp_path / "b"
    folder.mkdir()
    assert "holds no image named CASE_0000.nii.gz" in the_error(
        call(f"predict -d 901 -i {folder} -o {output}"), "predict"
    )
    (folder / "._scan_7_0000.nii.gz").touch()
    (folder / "scan_7.nii.gz").touch()
    (folder / "scan_8_0000.nii.gz").touch()
    (folder / "scan_8_0001.nii.gz").touch()
    (folder / "scan_9_0000.nii").touch()
    code, out, (scan_7, scan_8, scan_9, error) = call(f"predict -d 901 -i {folder} -o {output}")
    assert (code, out) == (1, "")
    assert "scan_7.nii.gz is not predicted: it has no channel number; expected a name such as CASE_0000" in scan_7
    assert "scan_8 is not predicted: it has 2 image files; expected 1, one per channel (MRI)" in scan_8
    assert scan_9 == "nnUNetv2_assft_predict: scan_9_0000.nii is left out, because it does not end with .nii.gz."
    assert error == "nnUNetv2_assft_predict: error: 2 of 2 cases could not be predicted. The lines above say why."
