"""Standard nnU-Net in a comparison is nnU-Net's own, to the last plan; a job that was cut off continues."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_assft.active.context import open_context
from nnunet_assft.active.state import Round
from nnunet_assft.comparison import standard_nnunet
from nnunet_assft.comparison.arms import Comparison, StandardNnunet, arm_of
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.runtime.files import read_json, write_json
from tests.comparison.conftest import DATASET, comparison_of
from tests.conftest import Trained

CPU = torch.device("cpu")
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def job_of(comparison: Comparison, arm_id: str = "nnunet", r: int = 1) -> standard_nnunet.Job:
    arm = arm_of(arm_id)
    return arm.job(comparison, open_context(arm.experiment(comparison, 0), CPU), r)


def set_folders_of(job: standard_nnunet.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process of the job."""
    for name in FOLDERS:
        monkeypatch.setenv(name, str(Path(job.folder) / name))


@pytest.mark.slow
def test_standard_nnunet_is_stock(
    finished: Comparison, trained_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans and fingerprint are those that nnU-Net's own commands make of a dataset of just these cases; so is the
    trainer, but for the length of its training.
    """
    job = job_of(finished)
    labelled = Round.load(arm_of("nnunet").experiment(finished, 0).paths, 1).labelled
    assert set(job.images) == set(job.labels) == set(labelled)
    assert len(labelled) == 3

    raw = tmp_path / "nnUNet_raw" / DATASET  # an ordinary dataset of the labelled cases, as a user would have it
    source = trained_root / "nnUNet_raw" / DATASET
    for case in labelled:
        for kind, name in (("images", f"{case}_0000"), ("labels", case)):
            (raw / f"{kind}Tr").mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / f"{kind}Tr" / f"{name}.nii.gz", raw / f"{kind}Tr")
    (raw / "dataset.json").write_text(json.dumps(read_json(source / "dataset.json") | {"numTraining": 3}))
    environment = os.environ | {name: str(tmp_path / name) for name in FOLDERS} | {"nnUNet_n_proc_DA": "1"}
    for command in ("nnUNetv2_extract_fingerprint -d 901 -np 1", "nnUNetv2_plan_experiment -d 901"):
        name, *options = command.split()
        executable = Path(sys.executable).with_name(name)
        subprocess.run([executable, *options], env=environment, check=True, capture_output=True)
    for file in ("nnUNetPlans.json", "dataset_fingerprint.json"):
        assert read_json(job.preprocessed / file) == read_json(tmp_path / "nnUNet_preprocessed" / DATASET / file)

    assert torch.load(job.checkpoint, map_location="cpu", weights_only=False)["trainer_name"] == "nnUNetTrainer"
    set_folders_of(job, monkeypatch)
    ours, from_scratch = standard_nnunet.make_trainer(job)
    assert from_scratch
    plans, dataset_json = (read_json(job.preprocessed / f"{name}.json") for name in ("nnUNetPlans", "dataset"))
    stock = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", "all", dataset_json, CPU)
    assert type(ours) is nnUNetTrainer
    different = {
        name
        for name, value in vars(stock).items()
        if isinstance(value, int | float | str | bool | tuple | list | None) and getattr(ours, name) != value
    }
    assert different <= {"num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "log_file"}
    assert (ours.num_epochs, ours.num_iterations_per_epoch) == (1 + 2 * 2, 2)


@pytest.mark.slow
def test_fine_tuned_nnunet_starts_from_the_round_before(
    finished: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(finished)
    assert job_of(finished, "nnunet_finetuned").start is None
    set_folders_of(job, monkeypatch)
    before = load_weights(job.checkpoint)
    tuned, from_scratch = standard_nnunet.make_trainer(replace(job, start=str(job.checkpoint), start_epochs=7))
    weights = tuned.network.state_dict()
    assert before.keys() == weights.keys()
    assert all(torch.equal(before[name], weights[name]) for name in before)  # the segmentation layers too
    assert any("seg_layers" in name for name in before)
    assert (from_scratch, tuned.num_epochs) == (False, 7)
    other = {name: torch.zeros(3) if name.endswith("bias") else value for name, value in before.items()}
    torch.save({"network_weights": other}, tmp_path / "other.pth")
    start = {"start": str(tmp_path / "other.pth"), "start_epochs": 7}
    stock, from_scratch = standard_nnunet.make_trainer(replace(job, **start))
    assert (from_scratch, stock.num_epochs) == (True, job.epochs)  # as many steps as all rounds together


@pytest.mark.slow
def test_a_job_that_was_cut_off_continues(copied: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net was killed while it wrote its last checkpoint; and the user stands in a folder with a package of our
    name.
    """
    (tmp_path / "nnunet_assft").mkdir()
    (tmp_path / "nnunet_assft" / "__init__.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    job = job_of(copied)
    trained = job.checkpoint.stat().st_mtime_ns
    predictions = standard_nnunet.run_job(job)
    assert job.checkpoint.stat().st_mtime_ns == trained  # a folder that was moved is the same job
    weights = load_weights(job.checkpoint)
    for file in (*predictions.values(), Path(job.folder) / "done.json", Path(job.folder) / "trained.json"):
        file.unlink()
    for name in ("checkpoint_final.pth", "checkpoint_latest.pth"):
        (job.fold / name).write_bytes(job.checkpoint.read_bytes()[:5000])
    plans = (job.preprocessed / "nnUNetPlans.json").stat().st_mtime_ns
    assert all(file.is_file() for file in standard_nnunet.run_job(job).values())
    assert (job.preprocessed / "nnUNetPlans.json").stat().st_mtime_ns == plans
    again = load_weights(job.checkpoint)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.slow
def test_a_resumed_training_has_the_same_weights(
    finished: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off after the second of three epochs; nnU-Net writes its latest checkpoint after each of them here."""
    source, weights = job_of(finished), []
    stops_at = iter((None, 2, None))
    for folder in ("whole", "resumed", "resumed"):
        job = replace(source, folder=str(tmp_path / folder), epochs=3)
        if not Path(job.folder).exists():
            for name in ("nnUNet_raw", "nnUNet_preprocessed"):
                shutil.copytree(Path(source.folder) / name, Path(job.folder) / name)
        run_training(job, next(stops_at), monkeypatch)
        if job.checkpoint.is_file():
            weights.append(load_weights(job.checkpoint))
    first, second = weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def run_training(job: standard_nnunet.Job, stop_at: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in a process of its own, which is killed at the start of an epoch if that is given."""
    script = (
        "import json, os, sys, signal\n"
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as T\n"
        "from nnunet_assft.comparison import standard_nnunet as s\n"
        "start, stop = T.on_train_epoch_start, json.loads(sys.argv[2])\n"
        "def stops(self):\n"
        "    if self.current_epoch == stop:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    start(self)\n"
        "T.on_train_epoch_start = stops\n"
        "s.train(s.Job(**json.loads(sys.argv[1])))\n"
    )
    set_folders_of(job, monkeypatch)
    command = [sys.executable, "-c", script, json.dumps(asdict(job)), json.dumps(stop_at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if stop_at is None else -signal.SIGKILL), done.stderr[-2000:]


class Trainer:
    """Two epochs of one step, each of which ends as in nnU-Net's trainer."""

    num_epochs, num_iterations_per_epoch, current_epoch, save_every = 2, 1, 0, 50

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self) -> None:
        pass

    def train_step(self, batch: dict[str, int]) -> dict[str, int]:
        return batch

    def save_checkpoint(self, filename: str) -> None:
        Path(filename).write_text("")
        assert not (self.folder / "checkpoint_latest.pth").exists()  # until it is complete

    def on_epoch_end(self) -> None:
        if (self.current_epoch + 1) % self.save_every == 0:
            self.save_checkpoint(str(self.folder / "checkpoint_latest.pth"))
        self.current_epoch += 1

    def run_training(self) -> None:
        self.on_train_epoch_start()
        self.train_step({})
        self.on_epoch_end()


def test_a_training_saves_and_says_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, said = small_job(tmp_path / "round_01"), list[str]()
    job.fold.mkdir(parents=True)
    monkeypatch.setattr(standard_nnunet, "make_trainer", lambda job: (Trainer(job.fold), True))
    monkeypatch.setattr(standard_nnunet, "say_progress", said.append)
    monkeypatch.setattr(standard_nnunet, "cached", lambda file, inputs, compute, outputs: compute())
    standard_nnunet.train(job)
    assert (job.fold / "checkpoint_latest.pth").exists()
    assert said == ["standard nnU-Net, round 01: training, 1 epoch of 2"]


def small_job(folder: Path, **changes: object) -> standard_nnunet.Job:
    job = standard_nnunet.Job(
        folder=str(folder),
        dataset=DATASET,
        dataset_json={"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}, "file_ending": ".nii.gz"},
        images={"a": [str(folder.parent / "gone.nii.gz")]},
        labels={},
        test_images={"t": ["t.nii.gz"]},
        epochs=1,
        iterations_per_epoch=1,
        seed=0,
        device="cpu",
    )
    return replace(job, **changes)


def test_the_precision_of_all_arms_is_that_of_standard_nnunet_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [small_job(tmp_path / "job", device=device) for device in ("cuda", "cpu")]
    own = [job.identity() for job in jobs]
    monkeypatch.setenv("nnUNet_assft_autocast", "bf16")
    assert [job.identity() for job in jobs] == [{**own[0], "autocast": "bf16"}, own[1]]
    trainer = SimpleNamespace(grad_scaler="nnU-Net's own")
    monkeypatch.setattr(standard_nnunet, "get_trainer_from_args", lambda *_: trainer)
    assert standard_nnunet._trainer_for(jobs[0], 1, False).grad_scaler is None
    ran = []
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asdict(jobs[0]))))
    monkeypatch.setattr(standard_nnunet, "die_with_parent", lambda: None)
    for name in ("plan_and_preprocess", "train", "predict"):
        monkeypatch.setattr(standard_nnunet, name, lambda job: ran.append(torch.get_autocast_dtype("cuda")))
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    standard_nnunet.main()
    assert ran[1:] == [torch.bfloat16] * 2


def test_a_job_that_fails_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, message in (
        (3, r"ended with exit code 3\. See .*log\.txt"),
        (0, r"wrote no segmentation of t\. See"),
    ):
        python = tmp_path / f"python_{code}"
        python.write_text(f"#!/bin/sh\necho nnU-Net\nexit {code}\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        with pytest.raises(AssftError, match=message):
            standard_nnunet.run_job(small_job(tmp_path / "job"))
        assert standard_nnunet.finished_job(tmp_path / "job") is None
    assert (tmp_path / "job" / "log.txt").read_text() == "nnU-Net\n" * 2  # the folder is that of the same job


def test_nnunet_is_not_started_on_damaged_images_and_labels(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit of an image has changed since it was planned with, so its size and its time are those of then."""
    monkeypatch.setattr(standard_nnunet, "_run_process", lambda job: pytest.fail("nnU-Net was started"))
    monkeypatch.setattr(StandardNnunet, "experiment", lambda *_: trained.experiment)
    comparison, raw = comparison_of("nnunet"), trained.experiment.paths.raw
    file = raw / f"imagesTr/{trained.rounds[1].labelled[0]}_0000.nii.gz"
    sound, changed = file.read_bytes(), os.stat(file)
    file.write_bytes(sound[:-8] + bytes([sound[-8] ^ 1]) + sound[-7:])  # its checksum
    os.utime(file, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    with pytest.raises(AssftError, match=rf"^1 of 6 images cannot be used \({file.name[:7]}: .*\(CRC check"):
        arm_of("nnunet").run(comparison, 0, CPU)
    file.write_bytes(sound)
    (raw / f"labelsTr/{file.name[:7]}.nii.gz").write_bytes(b"this is no label")
    with pytest.raises(AssftError, match=rf"^The label of case {file.name[:7]}, .*, cannot be used"):
        arm_of("nnunet").run(comparison, 0, CPU)


def test_a_finished_job_is_kept_and_another_one_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def process(job: standard_nnunet.Job) -> None:
        runs.append(job)
        write_json(Path(job.folder) / "trained.json", {"result": {"from_scratch": False}})
        for file in job.predictions.values():
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{job.seed}")

    monkeypatch.setattr(standard_nnunet, "_run_process", process)
    job = small_job(tmp_path / "job")
    assert standard_nnunet.finished_job(tmp_path / "job") is None
    (file,) = standard_nnunet.run_job(job).values()
    standard_nnunet.run_job(job)
    assert len(runs) == 1
    done = read_json(tmp_path / "job" / "done.json")
    assert standard_nnunet.finished_job(tmp_path / "job") == (done["job_sha256"], done["seconds"], False)
    file.unlink()
    standard_nnunet.run_job(job)
    assert len(runs) == 2
    standard_nnunet.run_job(replace(job, seed=1))
    assert (file.read_text(), (tmp_path / "outdated_job_1" / "test" / file.name).read_text()) == ("1", "0")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot end a process with its parent")
def test_nnunets_process_ends_with_the_comparison(tmp_path: Path) -> None:
    call = "from nnunet_assft.runtime.processes import die_with_parent; die_with_parent()"
    sleeper = f"import time; {call}; print('ready', flush=True); time.sleep(60)"
    parent = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {sleeper!r}]); print(p.pid, flush=True); "
        "p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        process.kill()
    state = Path(f"/proc/{child}/stat")
    for _ in range(100):
        if not state.is_file() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not a checkpoint"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint_final.pth").write_bytes(content)
    with pytest.raises(AssftError, match=r"The checkpoint .*checkpoint_final\.pth cannot be used"):
        load_weights(tmp_path / "checkpoint_final.pth")
