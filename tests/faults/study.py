"""What becomes of a small experiment whose commands are killed, and whose files are damaged, at random points.

`python -m tests.faults.study --kills 1000 --damages 1000 --seed 0` prints the table of outcomes. The tests run a small
part of it.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

os.environ.update(nnUNet_def_n_proc="1", nnUNet_n_proc_DA="0", OMP_NUM_THREADS="1", BLOSC_NTHREADS="1")

import numpy as np
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment, finished_rounds
from nnunet_assft.cli.run import main
from nnunet_assft.runtime.files import sha256_file
from nnunet_assft.runtime.partial import PARTIAL
from nnunet_assft.verification import verify
from tests.conftest import TINY, write_dataset
from tests.faults.harness import FAULTS, Ended, run

DATASET = "Dataset901_Blobs"
PATHS = ExperimentPaths(DATASET, "assft")
OPTIONS = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
GOOD = ("equal", "equal, verified", "equal, not needed", "injected", "named")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
FOR_PEOPLE = ("log.txt", "training_log_*.txt", "progress.png", "debug.json")  # nobody reads them back
CACHES = {"records", "steps"}  # folders whose files, as those that are not complete, are made again if they are needed
DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes | None]] = {
    "truncated": lambda content, rng: content[: int(rng.integers(len(content)))] if content else None,
    "emptied": lambda content, rng: b"",
    "bit flipped": lambda content, rng: _flipped(content, rng),
    "deleted": lambda content, rng: None,
}


def _flipped(content: bytes, rng: np.random.Generator) -> bytes | None:
    if not content:
        return None
    i = int(rng.integers(len(content)))
    return content[:i] + bytes([content[i] ^ (1 << int(rng.integers(8)))]) + content[i + 1 :]


def command() -> None:
    """The command that is typed again and again."""
    torch.set_num_threads(1)
    LocalLogger.plot_progress_png = lambda *_: None  # a third of the time of these small trainings
    main(["-d", "901", *OPTIONS, "-device", "cpu"])


@dataclass
class Study:
    """A raw dataset in a folder, the decisions of an experiment that nothing disturbed, and the outcomes so far."""

    root: Path
    expected: dict[str, Any] = field(default_factory=dict)
    writes: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """Write the dataset and run the experiment without any fault."""
        os.environ.update({name: str(self.root / name) for name in FOLDERS})
        for name in FOLDERS:
            (self.root / name).mkdir()
        write_dataset(self.root / "nnUNet_raw")
        shutil.copytree(self.root / "nnUNet_raw", self.root / "sound_raw")
        ended = run(command, self.root)
        assert ended.code == 0, ended.error
        self.expected, self.writes = decisions(), ended.writes
        self.start_again()

    def start_again(self) -> None:
        """Forget the experiment."""
        for name in FOLDERS:
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir()
        shutil.copytree(self.root / "sound_raw", self.root / "nnUNet_raw", dirs_exist_ok=True)

    def note(self, fault: str, outcome: str, line: str) -> None:
        self.outcomes[fault, outcome] += 1
        if outcome not in GOOD:
            self.lines.append(f"{fault}: {outcome}: {line}")

    # Faults while the command runs ------------------------------------------------------------------------------------

    def interrupt(self, n: int, rng: np.random.Generator, fault: str) -> None:
        """Let the command meet a fault n times, at random writes, and finish it each time that its rounds are done."""
        for _ in range(n):
            at = int(rng.integers(1, max(2, self.writes // 4)))
            ended = run(command, self.root, fault, at)
            if ended.error == "HANGS" or ended.error.startswith("CRASHED") or "RAISED" in ended.error:
                self.note(fault, "ended otherwise", f"at write {at}: {ended.error[-300:]}")
            elif ended.code == 0:  # finished before the fault
                self.finish(fault, at)
                continue
            elif fault != "kill" and not ended.error:
                self.note(fault, "without a line", f"at write {at}")
            else:
                self.outcomes[fault, "injected"] += 1
            if rng.random() < 0.1:
                self.finish(fault, at)
        self.finish(fault, 0)

    def finish(self, fault: str, at: int) -> None:
        """Let the command end undisturbed, and compare the decisions."""
        ended = run(command, self.root)
        if ended.code != 0:
            self.note(fault, "lost", f"at write {at}: {ended.error[-300:]}")
        else:
            self.note(fault, "equal" if decisions() == self.expected else "silently wrong", f"at write {at}")
        self.start_again()

    # Damage between two commands --------------------------------------------------------------------------------------

    def damage(self, n: int, rng: np.random.Generator) -> None:
        """Damage n files, one at a time, at random points of the experiment, and type the command again each time."""
        for _ in range(n):
            if rng.random() < 0.5:  # in the middle of the experiment
                run(command, self.root, "kill", int(rng.integers(self.writes // 10, self.writes)))
            else:
                run(command, self.root)
            files = sorted(path for path in _files(self.root))
            file = files[int(rng.integers(len(files)))]
            kind = list(DAMAGES)[int(rng.integers(len(DAMAGES)))]
            self._damage(file, kind, rng)
            if rng.random() < 0.1:
                self.start_again()

    def _damage(self, file: Path, kind: str, rng: np.random.Generator) -> None:
        sound = file.read_bytes()
        damaged = DAMAGES[kind](sound, rng)
        if damaged is None or rng.random() < 0.5:
            file.unlink()  # so that hard links of the file stay sound
        if damaged is not None:
            file.write_bytes(damaged)
        planned = PATHS.experiment_file.is_file()
        ended, line = run(command, self.root), str(file.relative_to(self.root))
        if (
            ended.code == 0
            and not planned
            and damaged is None
            and f"their file: {file.name.split('.')[0]}." in ended.out
        ):
            self.note(kind, "named", line)  # nothing knew yet that it had been a test case
            self.start_again()
            return
        if ended.code == 0:
            wrong = decisions() != self.expected
            if not wrong and _content(file) == damaged:  # nothing has read it, so somebody must be able to ask
                findings = verify(Experiment.load(PATHS)).findings
                known = any(name in finding for name in self._names(file) for finding in findings)
                was_cache = any(part in CACHES or part.startswith(PARTIAL) for part in file.parts)
                not_needed = (damaged is None and was_cache) or _is_hidden(file)
                not_needed |= _same_content(file, sound, damaged)
                not_needed |= PATHS.stages in file.parents and not file.parent.is_dir()  # its round is over
                self.note(
                    kind, "equal, verified" if known else "equal, not needed" if not_needed else "not noticed", line
                )
                self.start_again()
                return
            self.note(kind, "silently wrong" if wrong else "equal", line)
            if wrong:
                self.start_again()
            return
        named = file.name in ended.error or file.name.split(".")[0].removesuffix("_0000") in ended.error
        self.note(kind, "named" if named and _is_clear(ended) else "not named", f"{line}: {ended.error[-300:]}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sound)  # from a backup
        again = run(command, self.root)
        if again.code != 0 or decisions() != self.expected:
            self.note(kind, "lost", f"{line}: {again.error[-300:]}")
            self.start_again()

    def _names(self, file: Path) -> list[str]:
        """Return the paths of a file, which may have several hard links."""
        return [str(path) for path in _files(self.root) if file.is_file() and path.samefile(file)] or [str(file)]


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _same_content(file: Path, sound: bytes, damaged: bytes | None) -> bool:
    """Whether a compressed file holds what it held. Some bits of an archive, such as those of times, have no effect."""
    try:
        if file.suffix == ".gz":
            return gzip.decompress(sound) == gzip.decompress(damaged or b"")
        with np.load(BytesIO(sound)) as one, np.load(BytesIO(damaged or b"")) as other:
            return one.files == other.files and all(np.array_equal(one[name], other[name]) for name in one.files)
    except Exception:  # not compressed, or damaged where it matters
        return False


def _is_hidden(label: Path) -> bool:
    """Whether a file is a label that the experiment has not asked for, which no command may read."""
    case, done = label.name.split(".")[0], finished_rounds(Experiment.load(PATHS))
    return label.parent.name == "labelsTr" and case not in done[-1].labelled


def _is_clear(ended: Ended) -> bool:
    last = ended.error.splitlines()[-1] if ended.error else ""
    return ended.code == 1 and "error: " in last and "--verbose shows where" not in last and "RAISED" not in ended.error


def _files(root: Path) -> Iterator[Path]:
    for name in FOLDERS:
        for path in (root / name).rglob("*"):
            for_people = any(path.match(pattern) for pattern in FOR_PEOPLE)
            if path.is_file() and not path.name.startswith(".") and not for_people:
                yield path


def decisions() -> dict[str, Any]:
    """Everything that the experiment has decided and written for others."""
    experiment = Experiment.load(PATHS)
    tables = [*PATHS.results.glob("*_round_*.csv"), PATHS.splits_file]
    labels = [*PATHS.raw.glob("assft/*/round_*/pseudo_labels/*"), *PATHS.results.glob("test_round_*/*.nii.gz")]
    return {
        "experiment": asdict(experiment),
        "rounds": [asdict(done) for done in finished_rounds(experiment)],
        "files": {file.name + file.parent.name: sha256_file(file) for file in (*tables, *labels)},
    }


def table(outcomes: Counter[tuple[str, str]]) -> str:
    """The outcomes, one line per fault."""
    columns = sorted({outcome for _, outcome in outcomes})
    faults = sorted({fault for fault, _ in outcomes})
    head = f"{'':<18}" + "".join(f"{column:>17}" for column in columns)
    return "\n".join([head, *(f"{f:<18}" + "".join(f"{outcomes[f, c]:>17}" for c in columns) for f in faults)])


def run_study(kills: int, errors: int, damages: int, seed: int) -> Study:
    """Run all three kinds of faults, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder))
        study.prepare()
        rng = np.random.default_rng(seed)
        study.interrupt(kills, rng, "kill")
        for fault in list(FAULTS)[1:]:
            study.interrupt(errors, rng, fault)
        study.damage(damages, rng)
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("kills", "errors", "damages", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    arguments = parser.parse_args()
    found = run_study(arguments.kills, arguments.errors, arguments.damages, arguments.seed)
    print(table(found.outcomes))
    print("\n".join(found.lines))
    sys.exit(bool(found.lines))
