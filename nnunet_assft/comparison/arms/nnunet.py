"""Arms with nnU-Net's own network, plans and training, on the labelled cases of a strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.comparison.arms.base import EPOCHS, Arm, Comparison, Predictions, Work, annotation_cost
from nnunet_assft.comparison.arms.experiments import strategy_arm
from nnunet_assft.comparison.standard_nnunet import Job, finished_job, run_job
from nnunet_assft.network.checkpoints import device_of
from nnunet_assft.planning.fingerprint import check_images

DATASET_KEYS = ("channel_names", "labels", "file_ending", "overwrite_image_reader_writer")  # of dataset.json
DEFAULT_SOURCE = "random"


@dataclass(frozen=True)
class StandardNnunet(Arm):
    """Standard nnU-Net, trained from scratch in each round on the cases that a strategy has labelled by then."""

    is_nnunet = True

    @property
    def title(self) -> str:
        return self._title("nnU-Net")

    def _title(self, name: str) -> str:
        return f"{name} (cases of {strategy_arm(self.source).title})" if self.source else name

    @property
    def cases_of(self) -> str:
        return self.source or DEFAULT_SOURCE

    def rounds(self, n_rounds: int) -> Sequence[int]:
        return range(1, n_rounds + 1)

    def difference(self, comparison: Comparison) -> str:
        return (
            "standard nnU-Net starts from scratch in each round; its patch size, batch size, network, optimiser and "
            "augmentation are its own; it is planned from its labelled cases only"
        )

    def epochs_by(self, comparison: Comparison, r: int) -> int:
        """Return the epochs of round r, which starts from scratch."""
        if comparison.match == EPOCHS:
            return int(comparison.settings.training["epochs"])
        return comparison.epochs_by(r)

    def experiment_arm(self, comparison: Comparison) -> Arm:
        return strategy_arm(self.cases_of)

    def run(self, comparison: Comparison, seed: int, device: torch.device) -> Sequence[float | None]:
        experiment = self.experiment(comparison, seed)
        context = open_context(experiment, device)
        for r in self.rounds(experiment.n_rounds):
            job = self.job(comparison, context, r)
            run_job(job, partial(_require_sound, context, job))
        return self.mean_dice(comparison, seed)

    def predictions(self, comparison: Comparison, experiment: Experiment, seed: int) -> Iterator[Predictions]:
        for done in finished_rounds(experiment)[1:]:
            folder = self.folder(comparison, seed, done.round)
            if job := finished_job(folder):
                yield Predictions(done.round, len(done.labelled), folder / "test", {"job": job.sha256})

    def cost(self, comparison: Comparison, experiment: Experiment, seed: int, r: int) -> dict[str, Any]:
        folder = self.folder(comparison, seed, r)
        done, job = Round.load(experiment.paths, r), finished_job(folder)
        assert job is not None
        new = done.labelled if r == 1 else done.queried
        devices = [device_of(file) for file in folder.glob("nnUNet_results/*/*/fold_all/checkpoint_final.pth")]
        return {
            **annotation_cost(experiment, new),
            "training_minutes": job.seconds / 60,
            "from_scratch": int(job.from_scratch),
            "device": next(filter(None, devices), None),
        }

    def work(self, comparison: Comparison, seed: int) -> Work:
        left = self.rounds_left(comparison, seed)
        rounds = self.rounds(comparison.n_rounds)[-left:] if left else ()
        return Work(left, sum(self.epochs_of(comparison, r) for r in rounds), passes=0)

    def epochs_of(self, comparison: Comparison, r: int) -> int:
        """Return the epochs of the training of round r."""
        return self.epochs_by(comparison, r)

    def folder(self, comparison: Comparison, seed: int, r: int) -> Path:
        return comparison.folder / self.id / f"seed_{seed}{comparison.of_fold}" / f"round_{r:02d}"

    def job(self, comparison: Comparison, context: Context, r: int) -> Job:
        """Return the job that trains on the labelled cases of round r of the experiment."""
        experiment, dataset, settings = context.experiment, context.dataset, context.experiment.settings
        labelled = Round.load(experiment.paths, r).labelled
        test_images = {case: dataset.test_images.get(case) or dataset.images[case] for case in experiment.test}
        return Job(
            folder=str(self.folder(comparison, settings.seed, r)),
            dataset=dataset.name,
            dataset_json={k: v for k, v in dataset.dataset_json.items() if k in DATASET_KEYS},
            images={case: [str(file) for file in dataset.images[case]] for case in labelled},
            labels={case: str(dataset.label_file(case)) for case in labelled},
            test_images={case: [str(file) for file in files] for case, files in test_images.items()},
            epochs=self.epochs_by(comparison, r),
            iterations_per_epoch=self.iterations_per_epoch(comparison),
            seed=settings.seed,
            device=context.device.type,
        )


def _require_sound(context: Context, job: Job) -> None:
    """Read the images and labels of a job, as nnU-Net is about to do, which trains on damaged ones or ends with a
    traceback. Raises an `AssftError` that names those that cannot be used."""
    images = {case: tuple(map(Path, files)) for case, files in {**job.images, **job.test_images}.items()}
    check_images(images, context.dataset.reader, Path(job.folder, "checked_images"))
    for case, file in job.labels.items():
        context.checked_label(case, Path(file))


@dataclass(frozen=True)
class FinetunedNnunet(StandardNnunet):
    """Standard nnU-Net, trained in each round from all weights of the round before."""

    goes_on = True

    @property
    def title(self) -> str:
        return self._title("nnU-Net, fine-tuned")

    def difference(self, comparison: Comparison) -> str:
        return ""

    def epochs_by(self, comparison: Comparison, r: int) -> int:
        if comparison.match == EPOCHS:
            return r * int(comparison.settings.training["epochs"])
        return comparison.epochs_by(r)

    def epochs_of(self, comparison: Comparison, r: int) -> int:
        before = self.epochs_by(comparison, r - 1) if r > 1 else 0
        return self.epochs_by(comparison, r) - before

    def job(self, comparison: Comparison, context: Context, r: int) -> Job:
        job = super().job(comparison, context, r)
        if r == 1:
            return job
        before = self.job(comparison, context, r - 1).checkpoint
        return replace(job, start=str(before), start_epochs=self.epochs_of(comparison, r))


@dataclass(frozen=True)
class FullNnunet(StandardNnunet):
    """Standard nnU-Net for as long as its authors train it, without their ensemble of five folds."""

    N_EPOCHS, N_ITERATIONS = 1000, 250

    @property
    def title(self) -> str:
        return self._title(f"nnU-Net, {self.N_EPOCHS} epochs")

    def difference(self, comparison: Comparison) -> str:
        return (
            f"{self.title}, is trained for {self.N_EPOCHS} epochs of {self.N_ITERATIONS} iterations in each round, on "
            "all labelled cases once instead of five times on four fifths of them"
        )

    def epochs_by(self, comparison: Comparison, r: int) -> int:
        return self.N_EPOCHS

    def iterations_per_epoch(self, comparison: Comparison) -> int:
        return self.N_ITERATIONS


@dataclass(frozen=True)
class ResencNnunet(StandardNnunet):
    """nnU-Net with the residual encoder that it recommends today (ResEnc L), from scratch in each round."""

    @property
    def title(self) -> str:
        return self._title("nnU-Net ResEnc L")

    def job(self, comparison: Comparison, context: Context, r: int) -> Job:
        job = super().job(comparison, context, r)
        return replace(job, planner="nnUNetPlannerResEncL", plans="nnUNetResEncUNetLPlans")
