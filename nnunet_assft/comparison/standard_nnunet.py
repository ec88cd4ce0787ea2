"""Standard nnU-Net on a given set of labelled cases: its own fingerprint, planner, preprocessing, trainer and prediction.

Nothing here is ours but the order of the calls. nnU-Net runs in a process of its own whose three folders are private, so that it
sees exactly the cases it is given: a raw dataset that lists only them, and no fingerprint that has seen other labels.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import free_name, read_json, sha256_file, sha256_of, write_json

PLANS, CONFIGURATION, TRAINER = "nnUNetPlans", "3d_fullres", "nnUNetTrainer"


@dataclass(frozen=True)
class Job:
    """One training. folder: where its three nnU-Net folders are; images, labels: the cases it may see, and no others.

    start: a checkpoint of the same arm to fine-tune from, None: from scratch. epochs, iterations_per_epoch: of stock nnU-Net's
    trainer, which has 1000 and 250 by default.
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

    @property
    def preprocessed(self) -> Path:
        return Path(self.folder, "nnUNet_preprocessed", self.dataset)

    @property
    def fold(self) -> Path:
        """Fold `all`: every labelled case is a training case, as for the other arms."""
        return Path(self.folder, "nnUNet_results", self.dataset, f"{TRAINER}__{PLANS}__{CONFIGURATION}", "fold_all")

    @property
    def checkpoint(self) -> Path:
        return self.fold / "checkpoint_final.pth"

    @property
    def predictions(self) -> Path:
        return Path(self.folder, "test")

    def identity(self) -> dict[str, Any]:
        """What decides the result. Not where the files lie: a folder that was moved is the same job."""
        here = ("folder", "images", "labels", "test_images", "start")
        return {
            **{name: value for name, value in asdict(self).items() if name not in here},
            "labels": {case: sha256_file(Path(file)) for case, file in self.labels.items()},
            "test_cases": sorted(self.test_images),
            "start": self.start and sha256_file(Path(self.start)),
        }


def run_job(job: Job) -> dict[str, Path]:
    """Segmentations of the test cases, case -> file. A job that was cut off goes on where it stopped.

    Raises `AssftError` if nnU-Net fails; its output is in `log.txt` of the job's folder.
    """
    folder = Path(job.folder)
    files = {case: job.predictions / f"{case}{job.dataset_json['file_ending']}" for case in job.test_images}
    identity = job.identity()
    job_sha256, done, job_file = sha256_of(identity), folder / "done.json", folder / "job.json"
    if (
        done.is_file()
        and read_json(done)["job_sha256"] == job_sha256
        and all(file.is_file() for file in files.values())
    ):
        return files
    if folder.exists() and not (job_file.is_file() and read_json(job_file).get("identity") == identity):
        os.replace(folder, free_name(folder.with_name(f"outdated_{folder.name}")))
    write_json(job_file, {**asdict(job), "identity": identity})
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    environment = os.environ | {name: str(folder / name) for name in names}
    start = time.monotonic()
    with open(folder / "log.txt", "a") as log:
        # in its own folder: where the user stands there may be a folder with the name of a package
        process = subprocess.run(
            [sys.executable, "-m", __name__, "job.json"], env=environment, cwd=folder, stdout=log, check=False
        )
    if process.returncode != 0:
        raise AssftError(
            f"Standard nnU-Net ended with exit code {process.returncode}. The end of {folder / 'log.txt'} and the lines "
            "above say why; type the same command again to go on."
        )
    lost = [case for case, file in files.items() if not file.is_file()]
    if lost:
        raise AssftError(f"Standard nnU-Net left no segmentation of {', '.join(lost[:5])}, see {folder / 'log.txt'}.")
    write_json(done, {"job_sha256": job_sha256, "seconds": round(time.monotonic() - start, 3)})
    return files


# In the process of its own ---------------------------------------------------------------------------------------------


def plan_and_preprocess(job: Job) -> None:
    """`nnUNetv2_plan_and_preprocess -c 3d_fullres` on the labelled cases; what is there is kept."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    marker = job.preprocessed / "preprocessed.json"
    if marker.is_file():
        return
    dataset_id = int(job.dataset[7:10])
    cases = {case: {"images": files, "label": job.labels[case]} for case, files in job.images.items()}
    raw = {**job.dataset_json, "numTraining": len(cases), "dataset": cases}
    write_json(Path(job.folder, "nnUNet_raw", job.dataset, "dataset.json"), raw)
    extract_fingerprints([dataset_id], num_processes=1)
    with _a_thread_to_plan():
        plan_experiments([dataset_id])
    preprocess([dataset_id], configurations=[CONFIGURATION], num_processes=[1])
    write_json(marker, {"cases": sorted(cases)})


@contextmanager
def _a_thread_to_plan() -> Iterator[None]:
    """nnUNet_n_proc_DA=0 is a sound setting for training, but the planner makes it a number of threads."""
    before = os.environ.get("nnUNet_n_proc_DA")
    if before == "0":
        os.environ["nnUNet_n_proc_DA"] = "1"
    try:
        yield
    finally:
        if before is not None:
            os.environ["nnUNet_n_proc_DA"] = before


def make_trainer(job: Job) -> Any:
    """nnU-Net's own trainer object, as `nnUNetv2_train ID 3d_fullres all` makes it; only the length of the training is set."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    going_on = (job.fold / "checkpoint_latest.pth").is_file()
    trainer = get_trainer_from_args(
        job.dataset, CONFIGURATION, "all", TRAINER, PLANS, going_on, torch.device(job.device)
    )
    trainer.num_epochs = job.epochs
    trainer.num_iterations_per_epoch = job.iterations_per_epoch
    trainer.num_val_iterations_per_epoch = max(1, job.iterations_per_epoch // 5)  # nnU-Net's ratio, 250 : 50
    start = None if going_on else job.start
    try:
        maybe_load_checkpoint(trainer, going_on, False, start)
    except AssertionError as error:
        print(
            f"Training from scratch: the plans of these cases make another network than those of {start} ({str(error)[:200]})"
        )
    return trainer


def train(job: Job) -> None:
    import numpy as np
    import torch
    from tqdm import tqdm

    trained = Path(
        job.folder, "trained.json"
    )  # nnU-Net's checkpoints are not written in one step, so their names say nothing
    if trained.is_file():
        return
    job.checkpoint.unlink(missing_ok=True)
    _remove_if_cut_short(job.fold / "checkpoint_latest.pth")
    random.seed(job.seed)
    np.random.seed(job.seed)  # noqa: NPY002 - nnU-Net and batchgenerators draw from the global generator
    torch.manual_seed(job.seed)
    if job.device == "cuda":
        torch.backends.cudnn.benchmark = True
    trainer = make_trainer(job)
    end_of_epoch = trainer.on_epoch_end
    with tqdm(
        total=trainer.num_epochs,
        initial=trainer.current_epoch,
        desc="standard nnU-Net: training",
        unit="epoch",
        leave=False,
    ) as bar:

        def show() -> None:
            end_of_epoch()
            bar.update()

        trainer.on_epoch_end = show
        trainer.run_training()
    write_json(trained, {"epochs": job.epochs})


def _remove_if_cut_short(checkpoint: Path) -> None:
    from nnunet_assft.active.training.checkpoints import load_weights

    try:
        if checkpoint.is_file():
            load_weights(checkpoint)
    except AssftError as error:
        print(f"{error} The training starts anew.")
        checkpoint.unlink()


def predict(job: Job) -> None:
    """`nnUNetv2_predict -f all`, with mirroring, one test case after the other; those that are there are kept."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from tqdm import tqdm

    job.predictions.mkdir(exist_ok=True)
    predictor = nnUNetPredictor(
        device=torch.device(job.device), perform_everything_on_device=job.device == "cuda", allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(job.fold.parent), ("all",), "checkpoint_final.pth")
    ending = job.dataset_json["file_ending"]
    for case, files in tqdm(
        job.test_images.items(), desc="standard nnU-Net: predicting test cases", unit="case", leave=False
    ):
        if not (job.predictions / f"{case}{ending}").is_file():
            partial = job.predictions / f".partial_{case}"
            predictor.predict_from_files_sequential([files], [str(partial)])
            os.replace(f"{partial}{ending}", job.predictions / f"{case}{ending}")


def main(job_file: str) -> None:
    from nnunet_assft.runtime.processes import die_with_parent

    die_with_parent()  # else a comparison that was killed and started again would find this one at work in its folder
    content = read_json(Path(job_file))
    content.pop("identity")
    job = Job(**content)
    plan_and_preprocess(job)
    train(job)
    predict(job)


if __name__ == "__main__":
    main(sys.argv[1])
