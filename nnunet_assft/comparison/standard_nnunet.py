"""Standard nnU-Net on given labelled cases: its own fingerprint, planner, preprocessing, trainer and prediction.

This module only calls nnU-Net's functions in the right order. nnU-Net runs in a separate process with three private
folders, so that it sees exactly the given cases: its raw dataset lists no other cases, and its fingerprint is not
computed from other labels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from torch import nn
from tqdm import tqdm

from nnunet_assft.cluster.job import say_progress
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.evaluation.predictions import altered, is_prediction, keep_prediction
from nnunet_assft.network.checkpoints import load_weights, remove_if_damaged
from nnunet_assft.runtime.cached import cached, cached_or_none, claim, keep, kept_result, set_aside
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.files import atomic_path, sha256_file, sha256_of, write_json
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.partial import private_path
from nnunet_assft.runtime.precision import identity, nnunet_autocast, scales_gradients
from nnunet_assft.runtime.processes import die_with_parent
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.runtime.seeding import seed_generators
from nnunet_assft.runtime.text import count, some
from nnunet_assft.runtime.untrusted import let_torch_load_numbers

CONFIGURATION, TRAINER = "3d_fullres", "nnUNetTrainer"
PLANNER, PLANS = "ExperimentPlanner", "nnUNetPlans"  # nnU-Net's defaults


@dataclass(frozen=True)
class Job:
    """One training and the prediction of the test cases.

    folder: contains its three nnU-Net folders. images, labels: files of the only cases that it may see. epochs,
    iterations_per_epoch: for nnU-Net's trainer, whose defaults are 1000 and 250. start: the checkpoint of the same arm
    to fine-tune from for `start_epochs`, or None to train from scratch. If it is of another network, because the plans
    of these cases differ, the training is one from scratch. planner, plans: class of the planner, and the name that it
    gives to its plans.
    """

    folder: str
    dataset: str
    dataset_json: dict[str, Any]
    images: dict[str, list[str]]
    labels: dict[str, str]
    test_images: dict[str, list[str]]
    epochs: int
    iterations_per_epoch: int
    seed: int
    device: str
    start: str | None = None
    start_epochs: int = 0
    planner: str = PLANNER
    plans: str = PLANS

    @property
    def title(self) -> str:
        """What progress is named after, such as `standard nnU-Net, round 01`."""
        return f"standard nnU-Net, {Path(self.folder).name.replace('_', ' ')}"

    @property
    def preprocessed(self) -> Path:
        return Path(self.folder, "nnUNet_preprocessed", self.dataset)

    @property
    def fold(self) -> Path:
        """Fold `all`: every labelled case is a training case, as for the other arms."""
        name = f"{TRAINER}__{self.plans}__{CONFIGURATION}"
        return Path(self.folder, "nnUNet_results", self.dataset, name, "fold_all")

    @property
    def checkpoint(self) -> Path:
        return self.fold / "checkpoint_final.pth"

    @property
    def predictions(self) -> dict[str, Path]:
        """Test case -> the file of its segmentation."""
        ending = self.dataset_json["file_ending"]
        return {case: Path(self.folder, "test", f"{case}{ending}") for case in self.test_images}

    def identity(self) -> dict[str, Any]:
        """Everything that determines the result. Locations of files are left out, so that a job can be moved."""
        here = ("folder", "images", "labels", "test_images", "start")
        return {
            **{name: value for name, value in asdict(self).items() if name not in here},
            "labels": {case: sha256_file(Path(file)) for case, file in self.labels.items()},
            "test_cases": sorted(self.test_images),
            "start": self.start and sha256_file(Path(self.start)),
            **identity(torch.device(self.device)),
        }

    def made_from(self) -> dict[str, str]:
        """What the predictions were made from, see `keep_prediction`."""
        return {"job": sha256_of(self.identity())}


class FinishedJob(NamedTuple):
    """A job that is done.

    sha256: checksum of its identity. seconds: duration of the call that finished it. from_scratch: whether the network
    was trained from scratch.
    """

    sha256: str
    seconds: float
    from_scratch: bool


def run_job(job: Job, check: Callable[[], object] = lambda: None) -> dict[str, Path]:
    """Train, predict the test cases, and return case -> file of its segmentation.

    An interrupted job continues where it stopped. check: called before nnU-Net reads anything; it may raise an error.
    Raises `AssftError` if nnU-Net fails; its output is in `log.txt` in the folder of the job.
    """
    folder, identity = Path(job.folder), job.identity()

    def compute() -> tuple[float, bool]:
        start = time.monotonic()
        claim(folder / "job.json", identity, displace=set_aside)
        check()
        _run_process(job)
        trained = kept_result(folder / "trained.json", "Run the same command again.")
        return time.monotonic() - start, trained["from_scratch"]

    with only_process(folder.with_name(f".{folder.name}.lock"), f"standard nnU-Net in {folder}"):
        done = cached_or_none(folder / "done.json", identity, store=_DoneFile())
        if done is None or altered(folder / "test", job.test_images, job.dataset_json["file_ending"], job.made_from()):
            keep(folder / "done.json", identity, compute(), store=_DoneFile())
    return job.predictions


def finished_job(folder: Path) -> FinishedJob | None:
    """Return the finished job of this folder, or None if it is not finished or the file that says so is damaged."""
    try:
        sha256, (seconds, from_scratch) = _DoneFile().read(folder / "done.json")
    except DamagedFileError:
        return None
    return FinishedJob(sha256, seconds, from_scratch)


class _DoneFile:
    """Store for `runtime.cached`: done.json, which holds the seconds that a job took, and whether it was trained from
    scratch (version 0.1.0 did not write that)."""

    def read(self, file: Path) -> tuple[str, tuple[float, bool]]:
        content = read_sealed(file, ("job_sha256", "seconds", "from_scratch"))
        return content["job_sha256"], (float(content["seconds"]), content.get("from_scratch", True))

    def write(self, file: Path, inputs_sha256: str, result: tuple[float, bool], seconds: float) -> None:
        seconds, from_scratch = result
        write_sealed(file, {"job_sha256": inputs_sha256, "seconds": round(seconds, 3), "from_scratch": from_scratch})


def _run_process(job: Job) -> None:
    folder = Path(job.folder)
    environment = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    with open(folder / "log.txt", "a") as log:
        process = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(asdict(job)),
            text=True,
            env=os.environ | environment,
            cwd=folder,  # the user's working directory may contain a folder that shadows a package
            stdout=log,
            check=False,
        )
    if process.returncode != 0:
        raise AssftError(
            f"Standard nnU-Net ended with exit code {process.returncode}. See the lines above and the end of "
            f"{folder / 'log.txt'} for the reason. Fix it and run the same command again to continue."
        )
    lost = [case for case, file in job.predictions.items() if not file.is_file()]
    if lost:
        raise AssftError(
            f"Standard nnU-Net wrote no segmentation of {some(lost)}. See {folder / 'log.txt'} for the reason, and run "
            "the same command again."
        )


# In the separate process ----------------------------------------------------------------------------------------------


def plan_and_preprocess(job: Job) -> None:
    """Do what `nnUNetv2_plan_and_preprocess -c 3d_fullres` does on the labelled cases, unless it is done already."""
    cases = {case: {"images": files, "label": job.labels[case]} for case, files in job.images.items()}

    def compute() -> list[str]:
        dataset_id = int(job.dataset[7:10])
        raw = {**job.dataset_json, "numTraining": len(cases), "dataset": cases}
        write_json(Path(job.folder, "nnUNet_raw", job.dataset, "dataset.json"), raw)
        extract_fingerprints([dataset_id], num_processes=1)
        with _a_thread_to_plan():
            plan_experiments([dataset_id], job.planner)
        preprocess([dataset_id], job.plans, configurations=[CONFIGURATION], num_processes=[1])
        return sorted(cases)

    cached(job.preprocessed / "preprocessed.json", sorted(cases), compute)


@contextmanager
def _a_thread_to_plan() -> Iterator[None]:
    """Set nnUNet_n_proc_DA=0 to 1 for a moment: 0 is valid for training, but the planner uses it as a number of
    threads."""
    before = os.environ.get("nnUNet_n_proc_DA")
    if before == "0":
        os.environ["nnUNet_n_proc_DA"] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ["nnUNet_n_proc_DA"] = before


def make_trainer(job: Job) -> tuple[Any, bool]:
    """Make nnU-Net's trainer as `nnUNetv2_train ID 3d_fullres all` does, but with the training length of the job.

    Returns the trainer, and whether its network is trained from scratch.
    """
    resumes = (job.fold / "checkpoint_latest.pth").is_file()
    trainer, from_scratch = None, True
    if job.start:
        trainer = _trainer_for(job, job.start_epochs, resumes)
        trainer.initialize()
        from_scratch = not _load_all_weights(trainer.network, Path(job.start))
    if trainer is None or from_scratch:
        trainer = _trainer_for(job, job.epochs, resumes)
    maybe_load_checkpoint(trainer, resumes, False)
    return trainer, from_scratch


def _trainer_for(job: Job, epochs: int, resumes: bool) -> Any:
    trainer = get_trainer_from_args(
        job.dataset, CONFIGURATION, "all", TRAINER, job.plans, resumes, torch.device(job.device)
    )
    if not scales_gradients(torch.device(job.device)):
        trainer.grad_scaler = None
    trainer.num_epochs = epochs
    trainer.num_iterations_per_epoch = job.iterations_per_epoch
    trainer.num_val_iterations_per_epoch = max(1, job.iterations_per_epoch // 5)  # nnU-Net's ratio, 250 : 50
    return trainer


def _load_all_weights(network: nn.Module, checkpoint: Path) -> bool:
    """Load the weights of a checkpoint, if they are those of the same network, and return whether they are.

    nnU-Net's own `load_pretrained_weights` leaves out the segmentation layers, because it expects other structures.
    """
    module = getattr(network, "_orig_mod", network)  # of a network that torch has compiled
    weights, own = load_weights(checkpoint), module.state_dict()
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
        print(f"Training from scratch, because the plans of these cases give a different network from {checkpoint}.")
        return False
    module.load_state_dict(weights)
    return True


def train(job: Job) -> None:
    """Train with nnU-Net's trainer, from its latest checkpoint if there is one, unless the training is done already.

    trained.json says that the training is done. The existence of nnU-Net's final checkpoint does not, because version
    0.1.0 let nnU-Net write its checkpoints, which it does not do atomically.
    """

    def compute() -> dict[str, Any]:
        job.checkpoint.unlink(missing_ok=True)
        remove_if_damaged(job.fold / "checkpoint_latest.pth")
        seed_generators([job.seed])
        if job.device == "cuda":
            torch.backends.cudnn.benchmark = True
        trainer, from_scratch = make_trainer(job)
        start_of_epoch, train_step, steps = (
            trainer.on_train_epoch_start,
            trainer.train_step,
            trainer.num_iterations_per_epoch,
        )
        total, first, desc = trainer.num_epochs * steps, trainer.current_epoch * steps, "standard nnU-Net: training"
        with tqdm(total=total, initial=first, desc=desc, unit="step", leave=False) as bar:

            def seed() -> None:  # a resumed training draws the same numbers
                seed_generators([job.seed, trainer.current_epoch])
                start_of_epoch()

            def step(batch: dict[str, Any]) -> dict[str, Any]:
                result: dict[str, Any] = train_step(batch)
                bar.update()
                return result

            trainer.on_train_epoch_start, trainer.train_step = seed, step
            _prepare_for_an_end(trainer, job)
            trainer.run_training()
        return {"epochs": trainer.num_epochs, "from_scratch": from_scratch}

    inputs = {"epochs": job.epochs, "start_epochs": job.start_epochs}
    cached(Path(job.folder, "trained.json"), inputs, compute, outputs=lambda _: [job.checkpoint])


def _prepare_for_an_end(trainer: Any, job: Job) -> None:
    """Let a checkpoint be written after every epoch, and atomically, because a process may end at any time."""
    save, end_of_epoch = trainer.save_checkpoint, trainer.on_epoch_end
    trainer.save_every = 1

    def save_atomically(filename: str) -> None:
        with atomic_path(Path(filename)) as partial:
            save(str(partial))

    def end() -> None:
        end_of_epoch()
        say_progress(f"{job.title}: training, {count(trainer.current_epoch, 'epoch')} of {trainer.num_epochs}")

    trainer.save_checkpoint, trainer.on_epoch_end = save_atomically, end


def predict(job: Job) -> None:
    """Do what `nnUNetv2_predict -f all` does, with mirroring, for every test case that has no segmentation yet."""
    files, folder, ending = job.predictions, Path(job.folder, "test"), job.dataset_json["file_ending"]
    made_from = job.made_from()
    predictor = nnUNetPredictor(
        device=torch.device(job.device), perform_everything_on_device=job.device == "cuda", allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(job.fold.parent), ("all",), "checkpoint_final.pth")

    def predict_case(case: str) -> Path:
        with private_path(files[case]) as partial:
            without_ending = str(partial).removesuffix(ending)  # nnU-Net adds it
            predictor.predict_from_files_sequential([job.test_images[case]], [without_ending])
            os.replace(partial, files[case])
        keep_prediction(folder, case, ending, made_from)
        say_progress(f"{job.title}: prediction of {case}")
        return files[case]

    def done(case: str) -> Path | None:
        return files[case] if is_prediction(folder, case, ending, made_from) else None

    for_each_case(predict_case, list(files), desc="standard nnU-Net: predicting test cases", done=done)


def main() -> None:
    """Run the job that is read from standard input."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # nnU-Net would run code that a checkpoint carries
    let_torch_load_numbers()
    die_with_parent()  # otherwise a comparison that was killed and restarted would find this process still at work
    job = Job(**json.load(sys.stdin))
    plan_and_preprocess(job)
    with nnunet_autocast():  # the same precision for all arms
        train(job)
        predict(job)


if __name__ == "__main__":
    main()
