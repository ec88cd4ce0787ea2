"""Arms with nnU-Net's own network, plans and training, on the labelled cases of a strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.comparison.arms.base import Arm, Comparison, Predictions, Work, annotation_cost
from nnunet_assft.comparison.arms.experiments import StrategyArm
from nnunet_assft.comparison.standard_nnunet import Job, finished_job, run_job

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
        return f"{name} (cases of {StrategyArm(self.source).title})" if self.source else name

    @property
    def cases_of(self) -> str:
        return self.source or DEFAULT_SOURCE

    def rounds(self, n_rounds: int) -> Sequence[int]:
        return range(1, n_rounds + 1)

    def difference(self, settings: Settings) -> str:
        steps = settings.training["epochs"] * settings.training["iterations_per_epoch"]
        return (
            f"standard nnU-Net starts from scratch in each round and trains for {steps} steps; its patch size, batch "
            "size, network, optimiser and augmentation are its own; it is planned from its labelled cases only"
        )

    def experiment_arm(self, comparison: Comparison) -> Arm:
        return StrategyArm(self.cases_of)

    def run(self, comparison: Comparison, seed: int, device: torch.device) -> list[float]:
        experiment = self.experiment(comparison, seed)
        for r in self.rounds(experiment.n_rounds):
            run_job(self.job(comparison, experiment, r, device))
        return self.mean_dice(comparison, seed)

    def predictions(self, comparison: Comparison, experiment: Experiment, seed: int) -> Iterator[Predictions]:
        for done in finished_rounds(experiment)[1:]:
            folder = self.folder(comparison, seed, done.round)
            if job := finished_job(folder):
                yield Predictions(done.round, len(done.labelled), folder / "test", {"job": job.sha256})

    def cost(self, comparison: Comparison, experiment: Experiment, seed: int, r: int) -> dict[str, Any]:
        done, job = Round.load(experiment.paths, r), finished_job(self.folder(comparison, seed, r))
        assert job is not None
        new = done.labelled if r == 1 else done.queried
        return {**annotation_cost(experiment, new), "training_minutes": job.seconds / 60}

    def work(self, comparison: Comparison, seed: int) -> Work:
        return Work(self.rounds_left(comparison, seed), trainings=1, passes=0)

    def folder(self, comparison: Comparison, seed: int, r: int) -> Path:
        return comparison.folder / self.id / f"seed_{seed}" / f"round_{r:02d}"

    def job(self, comparison: Comparison, experiment: Experiment, r: int, device: torch.device) -> Job:
        """Return the job that trains on the labelled cases of round r of the experiment."""
        dataset, settings = open_context(experiment, device).dataset, experiment.settings
        labelled = Round.load(experiment.paths, r).labelled
        test_images = {case: dataset.test_images.get(case) or dataset.images[case] for case in experiment.test}
        return Job(
            folder=str(self.folder(comparison, settings.seed, r)),
            dataset=dataset.name,
            dataset_json={k: v for k, v in dataset.dataset_json.items() if k in DATASET_KEYS},
            images={case: [str(file) for file in dataset.images[case]] for case in labelled},
            labels={case: str(dataset.label_file(case)) for case in labelled},
            test_images={case: [str(file) for file in files] for case, files in test_images.items()},
            epochs=settings.training["epochs"],
            iterations_per_epoch=settings.training["iterations_per_epoch"],
            seed=settings.seed,
            device=device.type,
        )


@dataclass(frozen=True)
class FinetunedNnunet(StandardNnunet):
    """Standard nnU-Net, trained in each round from the weights of the round before."""

    @property
    def title(self) -> str:
        return self._title("nnU-Net, fine-tuned")

    def difference(self, settings: Settings) -> str:
        return ""

    def job(self, comparison: Comparison, experiment: Experiment, r: int, device: torch.device) -> Job:
        job = super().job(comparison, experiment, r, device)
        if r == 1:
            return job
        return replace(job, start=str(self.job(comparison, experiment, r - 1, device).checkpoint))
