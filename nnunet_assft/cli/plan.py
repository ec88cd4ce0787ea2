"""nnUNetv2_assft_plan: create an experiment."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nnunet_assft.cli.common import make_parser, run
from nnunet_assft.cli.options import add_plan_options, make_experiment
from nnunet_assft.cli.printing import print_deviations
from nnunet_assft.network.presets import ENCODERS, PRESETS
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.runtime.text import count, some

if TYPE_CHECKING:
    from nnunet_assft.active.settings import Settings
    from nnunet_assft.active.state import Experiment

MANY_STEPS_OF_A_CPU = 20_000  # with the smallest preset, a day or so


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "plan",
        "Create an experiment: fingerprint of the images, plans, preprocessed images of the pool and the test cases, "
        "initial network and first case. No label is read.",
    )
    add_plan_options(p)
    return p


def plan(args: argparse.Namespace) -> None:
    """Create the experiment, and print its settings and the next command."""
    from nnunet_assft.active.state import finished_rounds
    from nnunet_assft.planning.fingerprint import remarks
    from nnunet_assft.volumes.names import shown

    experiment = make_experiment(args)
    settings, n_rounds, n_query = experiment.settings, experiment.n_rounds, experiment.n_query
    training = settings.training
    print(
        f"{experiment.dataset}, experiment {experiment.name!r}: {settings.strategy}, domain {settings.domain}, "
        f"preset {settings.preset}"
    )
    _print_change_of_patch(settings)
    _print_encoder(experiment)
    pool, test = count(len(experiment.pool), "case"), count(len(experiment.test), "test case")
    print(f"{pool} in the pool, {test} ({experiment.test_source})")
    random = experiment.options.first_case == "random"
    first_case = experiment.permutation[0] if random else "the medoid, computed in round 0"
    dataset = experiment.raw_dataset()
    if dataset.left_out:
        files = some(map(shown, dataset.left_out))
        print(
            f"Files that do not end with {dataset.file_ending} are left out: {files}. Convert them if they are images."
        )
    print(f"rounds 1 to {n_rounds} query {count(n_query, 'case')} each; first case {first_case}")
    print(
        f"epochs: {training['one_shot_epochs']} in round 0, then {training['epochs']} per stage, of "
        f"{training['iterations_per_epoch']} iterations; initial learning rate {training['initial_lr']:g}"
    )
    print_deviations(experiment)
    if experiment.pseudo_labels_with_results:
        folder = experiment.paths.pseudo_label_folder(1).parent
        print(f"{experiment.paths.raw} can only be read, so pseudo-labels will be written to {folder}.")
        if settings.annotator == "human":
            print("nnUNetv2_assft_annotate import needs to write to labelsTr; make that folder writable before.")
    if 1 + n_query * n_rounds > len(experiment.pool):
        print("The budget of all rounds exceeds the pool, so the last rounds will query fewer cases, or none.")
    if to_look_at := remarks(experiment.paths.fingerprint_cases):
        print(to_look_at)
    _print_length_of_training(experiment)
    n_done = len(finished_rounds(experiment))
    next_one = experiment.command("round", "-r", str(n_done)) if n_done <= n_rounds else experiment.command("status")
    print(f"Next: {next_one}")


def _print_length_of_training(experiment: Experiment) -> None:
    """Print how many steps all trainings have together, and a warning if they would be taken on a CPU."""
    import torch

    from nnunet_assft.active.options import NONE

    training, n_stages = experiment.settings.training, 1 + (experiment.settings.second_stage != NONE)
    epochs = training["one_shot_epochs"] + experiment.n_rounds * n_stages * training["epochs"]
    steps = epochs * training["iterations_per_epoch"]
    print(f"all rounds together: {steps:,} training steps")
    if steps > MANY_STEPS_OF_A_CPU and not torch.cuda.is_available():
        print(
            "There is no GPU here, and so many steps may take weeks on a CPU. nnUNetv2_assft_compare --estimate with "
            "these options measures how long one takes. For a CPU, use --preset tiny and fewer --epochs and "
            "--iterations_per_epoch."
        )


def _print_encoder(experiment: Experiment) -> None:
    """Print which pre-trained encoder the network starts from, as what it was recognised, and its licence."""
    report = experiment.encoder_report
    if report is None:
        print("pre-trained encoder: none; the encoder starts at random")
    else:
        licence = ENCODERS[report["encoder"]].licence
        print(f"pre-trained encoder: {experiment.settings.encoder}, recognised as {report['encoder']} ({licence})")


def _print_change_of_patch(settings: Settings) -> None:
    """Print a line if the network cannot take the patch of the domain."""
    patch, preset = DOMAINS[settings.domain].patch_size, PRESETS[settings.preset]
    if patch is not None and (planned := preset.nearest_patch(patch)) != list(patch):
        print(
            f"The patch of the domain, {' x '.join(map(str, patch))}, becomes {' x '.join(map(str, planned))}, the "
            f"nearest that the network can take: its axes are multiples of {' x '.join(map(str, preset.divisors))}."
        )


def main(argv: list[str] | None = None) -> None:
    run(plan, parser(), argv)
