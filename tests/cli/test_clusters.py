"""Real commands under the conditions of clusters: disks without locks or links, data that may only be read, several
commands in the same second, and commands that are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.training.shared_start import taken_from
from tests.conftest import Trained, set_folders, write_dataset

NAME = "Dataset901_Blobs"
SMALL = ["--preset", "tiny", "--rounds", "1", "--budget", "1", "--epochs", "1", "--iterations_per_epoch", "1"]
NOBODY = 65534
REPOSITORY = str(Path(__file__).parents[2])
# makes flock fail with the error LOCKS, and hard links with EPERM
LIBRARY = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { errno = atoi(getenv("LOCKS")); return -1; }
int link(const char *a, const char *b) { errno = EPERM; return -1; }
int linkat(int x, const char *a, int y, const char *b, int flags) { errno = EPERM; return -1; }
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="these conditions are made with means of Linux"),
]


def start(command: str, *arguments: str, before: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    """Start a command, as its script in `bin` does, in a session of its own. before: words in front of it."""
    script = Path(os.environ["nnUNet_raw"]).parent / f"{command}.py"
    if not script.exists():  # a command that has just been started may be reading it
        script.write_text(f"from nnunet_assft.cli.{command} import main\nif __name__ == '__main__':\n    main()\n")
    words = [*before, sys.executable, str(script), *arguments]
    environment = {**os.environ, "PYTHONPATH": REPOSITORY, **variables}
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a command, and everything that it printed."""
    output = process.communicate(timeout=300)[0]
    return process.returncode, output


def finish(command: str, *arguments: str, before: tuple[str, ...] = (), **variables: str) -> str:
    """The output of a command that succeeds."""
    code, output = ended(start(command, *arguments, before=before, **variables))
    assert code == 0, output
    return output


# Disks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def poor_disk(tmp_path: Path) -> dict[str, str]:
    """Variables under which a command finds no locks and no hard links."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = tmp_path / "poor.c", tmp_path / "poor.so"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library), "LOCKS": "37"}  # ENOLCK


def test_a_disk_without_locks_and_hard_links_and_an_experiment_that_is_moved(
    blobs: Path, tmp_path: Path, poor_disk: dict[str, str]
) -> None:
    output = finish("plan", "-d", "901", *SMALL, **poor_disk)
    assert output.count("offers no file locks. A file that names the running process is used instead.") == 1
    assert output.count("has no hard links; symbolic links are used instead.") == 1
    finish("round", "-d", "901", "-r", "0", "-device", "cpu", **poor_disk)
    links = [file for file in (tmp_path / "nnUNet_preprocessed").rglob("*") if file.is_symlink()]
    assert links
    assert not any(os.path.isabs(os.readlink(link)) for link in links)
    moved = {}
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        moved[name] = str(tmp_path / "elsewhere" / name)
        shutil.move(tmp_path / name, moved[name])
    assert "round 1: queried" in finish("round", "-d", "901", "-r", "1", "-device", "cpu", **poor_disk, **moved)


@pytest.fixture
def nobody() -> tuple[str, ...]:
    """The words that run a command as a user who owns nothing."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv")
    words = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    trial = [*words, sys.executable, "-c", "import nnunet_assft, torch"]
    if subprocess.run(trial, env={**os.environ, "PYTHONPATH": REPOSITORY}, capture_output=True, check=False).returncode:
        pytest.skip("another user cannot read this environment")
    return words


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can read, which those of pytest are not; nnU-Net's three folders are below it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        set_folders(Path(folder), monkeypatch)
        yield Path(folder)


def test_raw_data_that_may_only_be_read(public: Path, nobody: tuple[str, ...]) -> None:
    raw, results = write_dataset(public / "nnUNet_raw"), public / "nnUNet_results"
    for folder in (public / "nnUNet_preprocessed", results):
        os.chown(folder, NOBODY, NOBODY)
    home = {"HOME": str(results), "MPLCONFIGDIR": str(results)}
    before = sorted(raw.rglob("*"))
    output = finish("plan", "-d", "901", *SMALL, before=nobody, **home)
    folder = results / NAME / "assft/assft/pseudo_labels"
    assert f"{raw} can only be read, so pseudo-labels will be written to {folder}." in output
    for r in ("0", "1"):
        finish("round", "-d", "901", "-r", r, "-device", "cpu", before=nobody, **home)
    assert sorted(raw.rglob("*")) == before
    assert json.loads((folder / "round_01/provenance.json").read_text())["cases"]
    os.chown(results / NAME, 0, 0)
    code, output = ended(start("plan", "-d", "901", "-e", "b", *SMALL, before=nobody, **home))
    assert code == 1
    assert output.splitlines()[-1].startswith("nnUNetv2_assft_plan: error: nnUNet_results: the folder ")
    assert "cannot be written to (Permission denied)" in output


# Several commands at once ---------------------------------------------------------------------------------------------


def test_four_plans_in_the_same_second(blobs: Path) -> None:
    names = ("a", "b", "c", "c")
    processes = [start("plan", "-d", "901", "-e", name, *SMALL) for name in names]
    results = [ended(process) for process in processes]
    assert [code for code, _ in results[:2]] == [0, 0], results[:2]
    assert 0 in [code for code, _ in results[2:]], results[2:]
    for code, output in results[2:]:  # the same experiment twice: the second came later, or was told who is at work
        if code:
            line = output.strip().splitlines()[-1]
            pids = [process.pid for process in processes[2:]]
            assert any(line.startswith(f"nnUNetv2_assft_plan: error: Process {pid} on ") for pid in pids), line
            assert f"is working on experiment 'c' of {NAME}. Wait for it to finish" in line
    plans = [ExperimentPaths(NAME, name) for name in ("a", "b", "c")]
    assert len({paths.initial_network.read_bytes() for paths in plans}) == 1  # the same seed
    assert not list(Path(os.environ["nnUNet_preprocessed"]).rglob(".partial*"))


def test_four_strategies_in_the_same_second(blobs: Path) -> None:
    """Their images are preprocessed once, one of them trains round 0, and every one finishes it."""
    names = ("assft", "random", "entropy", "coreset")
    planned = [start("plan", "-d", "901", "-e", name, "--strategy", name, *SMALL) for name in names]
    assert [code for code, _ in map(ended, planned)] == [0] * 4
    (folder,) = Path(os.environ["nnUNet_preprocessed"]).glob("*/assft_pool_*")
    before = {file: file.stat().st_mtime_ns for file in folder.glob("case_*")}
    assert len(before) == 11 * 3
    times = sorted(file.stat().st_mtime_ns for file in folder.glob("checksums/case_*"))
    assert len(times) == 11
    rounds = [start("round", "-d", "901", "-e", name, "-r", "0", "-device", "cpu") for name in names]
    results = [ended(process) for process in rounds]
    assert [code for code, _ in results] == [0] * 4, results
    assert {file: file.stat().st_mtime_ns for file in folder.glob("case_*")} == before
    paths = [ExperimentPaths(NAME, name) for name in names]
    origins = [origin["experiment"] for each in paths if (origin := taken_from(each))]
    assert len(origins) == 3
    assert len(set(origins)) == 1  # who trained it
    assert set(names) - set(origins) == {each.experiment for each in paths if each.taken_from.is_file()}
    assert len({each.checkpoint(0, "supervised").read_bytes() for each in paths}) == 1
    assert sum("Round 0 is that of experiment" in output for _, output in results) == 3


HANGS = """
import sys, time
from pathlib import Path
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunet_assft.cli.round import main

def step(self, batch):
    Path(sys.argv[-1]).touch()
    time.sleep(600)

nnUNetTrainer.train_step = step
main(sys.argv[1:-1])
"""


def test_who_waits_for_round_0_says_so_and_trains_it_if_the_other_one_is_killed(blobs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finish("plan", "-d", "901", "-e", name, *SMALL)
    arguments, begun = ["-d", "901", "-r", "0", "-device", "cpu", "-e"], tmp_path / "begun"
    environment = {**os.environ, "PYTHONPATH": REPOSITORY}
    with subprocess.Popen([sys.executable, "-c", HANGS, *arguments, "a", str(begun)], env=environment) as first:
        try:
            wait_until(begun.is_file, 120)
            second = start("round", *arguments, "b")
            assert second.stdout is not None
            line = next(line for line in second.stdout if "Waiting" in line)
        finally:
            first.send_signal(signal.SIGKILL)
    assert f"Process {first.pid} on " in line
    assert f"is working on round 0, which experiment 'b' of {NAME} can take over. Waiting for it to finish." in line
    code, output = ended(second)
    assert code == 0, output
    assert taken_from(ExperimentPaths(NAME, "b")) is None
    finish("round", *arguments, "a")
    assert taken_from(ExperimentPaths(NAME, "a")) is not None


@pytest.mark.parametrize("command", ["round", "compare"])
def test_the_same_command_twice_in_the_same_second(blobs: Path, command: str) -> None:
    if command == "round":
        finish("plan", "-d", "901", *SMALL)
        arguments, work = ["-r", "0"], f"experiment 'assft' of {NAME}"
    else:
        arms = ["--strategies", "random", "--references", "none", "--seeds", "0"]
        arguments, work = [*arms, *SMALL], "of Dataset901_Blobs"
    processes = [start(command, "-d", "901", "-device", "cpu", *arguments) for _ in range(2)]
    results = [ended(process) for process in processes]
    assert 0 in [code for code, _ in results], results
    for code, output in results:
        if code:
            line = output.strip().splitlines()[-1]
            assert any(
                line.startswith(f"nnUNetv2_assft_{command}: error: Process {process.pid} on ") for process in processes
            )
            assert work in line


def test_two_seeds_of_a_comparison_at_the_same_time(blobs: Path) -> None:
    options = ["-d", "901", "-device", "cpu", "--strategies", "random", "--references", "none", *SMALL]
    finish("compare", *options, "--seeds", "0", "--estimate")  # plans the dataset
    results = [ended(process) for process in [start("compare", *options, "--seeds", seed) for seed in ("0", "1")]]
    assert [code for code, _ in results] == [0, 0], results
    folder = Path(os.environ["nnUNet_results"], NAME, "assft_compare", "compare")
    assert json.loads((folder / "comparison.json").read_text())["seeds"] == [0, 1]
    rows = (folder / "results.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1] for row in rows} == {"0", "1"}
    assert "seeds 0, 1" in finish("compare", "-d", "901", "--collect")


# Killed ---------------------------------------------------------------------------------------------------------------


def members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
@pytest.mark.parametrize("command", ["plan", "predict"])
def test_no_process_outlives_its_command(trained: Trained, tmp_path: Path, command: str, how: signal.Signals) -> None:
    if command == "plan":
        arguments = ["-d", "902", "-np", "2", *SMALL]
        write_dataset(tmp_path / "nnUNet_raw", name="Dataset902_Blobs", n_pool=40)
    else:
        images = str(trained.experiment.paths.raw / "imagesTr")
        arguments = ["-d", "901", "-i", images, "-o", str(tmp_path / "out"), "-npp", "2", "-nps", "2", "-device", "cpu"]
    with start(command, *arguments) as process:
        wait_until(lambda: len(members(process.pid)) >= 3 or process.poll() is not None, 200)
        assert process.poll() is None
        process.send_signal(how)
        process.wait()
        wait_until(lambda: not members(process.pid), 60)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.2)
