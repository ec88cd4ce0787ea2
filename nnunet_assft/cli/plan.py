"""nnUNetv2_assft_plan: create an experiment."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nnunet_assft.cli.common import make_parser, run
from nnunet_assft.cli.options import add_plan_options, make_experiment
from nnunet_assft.cli.printing import print_deviations, print_start
from nnunet_assft.network.encoder_file import is_encoder_of
from nnunet_assft.network.presets import PRESETS, divisors_of
from nnunet_assft.planning.choices import EXISTING
from nnunet_assft.planning.domains import DOMAINS
from nnunet_assft.runtime.text import by, count, printable, some

if TYPE_CHECKING:
    from nnunet_assft.active.settings import Settings
    from nnunet_assft.active.state import Experiment

MANY_STEPS_OF_A_CPU = 20_000  # with the smallest preset, a day or so


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "plan",
        "Create an experiment: fingerprint of the images, plans, preprocessed images of the pool and the test cases, "
        "initial network and first case. Of labels, only those of cases to start with are read.",
    )
    add_plan_options(p)
    return p


def plan(args: argparse.Namespace) -> None:
    """Create the experiment, and print its settings and the next command."""
    from nnunet_assft.active.experiment import read_plans
    from nnunet_assft.active.state import finished_rounds, is_over
    from nnunet_assft.nnunet_names import CONFIGURATION
    from nnunet_assft.planning.contract import input_of
    from nnunet_assft.planning.fingerprint import remarks
    from nnunet_assft.volumes.names import shown

    experiment = make_experiment(args)
    settings, now = experiment.settings, experiment.now
    training = settings.training
    dataset, plans = experiment.raw_dataset(), read_plans(experiment)
    print(
        f"{experiment.dataset}, experiment {experiment.name!r}: {settings.strategy}, domain {settings.domain}, "
        f"{settings.network_name(plans)}"
    )
    plan = plans["configurations"][CONFIGURATION]
    _print_change_of_patch(settings, plan)
    print_start(experiment)
    if settings.encoder and args.preset is None:
        _print_choice_of_preset(settings)
    if experiment.encoder_report:
        _print_contract(experiment.encoder_report, plans, input_of(plan, dataset.dataset_json))
    pool, test = count(len(now.pool), "case"), count(len(now.test), "test case")
    print(f"{pool} in the pool, {test} ({experiment.test_source})")
    if dataset.left_out:
        files = some(map(shown, dataset.left_out))
        print(
            f"Files that do not end with {dataset.file_ending} are left out: {files}. Convert them if they are images."
        )
    print(f"rounds 1 to {now.n_rounds} query {experiment.per_round(now.n_rounds, each=' each')}; {_start(experiment)}")
    for case, warnings in experiment.accepted_at_start.items():
        print(f"accepted: {case}: {'; '.join(warnings)}")
    print(
        f"epochs: {training['one_shot_epochs']} in round 0, then {training['epochs']} per stage, of "
        f"{count(training['iterations_per_epoch'], 'iteration')}; initial learning rate {training['initial_lr']:g}"
    )
    print_deviations(experiment)
    if experiment.pseudo_labels_with_results:
        folder = experiment.paths.pseudo_label_folder(1).parent
        print(f"{experiment.paths.raw} can only be read, so pseudo-labels will be written to {folder}.")
        if settings.annotator == "human":
            print("nnUNetv2_assft_annotate import needs to write to labelsTr; make that folder writable before.")
    if max(1, len(experiment.start)) + experiment.n_select(now.n_rounds) > len(now.pool):
        print("The budget of all rounds exceeds the pool, so the last rounds will query fewer cases, or none.")
    if to_look_at := remarks(experiment.paths.fingerprint_cases):
        print(to_look_at)
    _print_length_of_training(experiment)
    done = finished_rounds(experiment)
    next_one = ("status",) if is_over(experiment, done) else ("round", "-r", str(len(done)))
    print(f"Next: {experiment.command(*next_one)}")


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


def _start(experiment: Experiment) -> str:
    """Return on which cases round 0 trains, and why."""
    known, start = experiment.settings.labels_known, experiment.start
    if not set(start) <= set(experiment.labelled_at_start):
        return f"first case {start[0]}"
    if not start:
        chosen = {"medoid": "the medoid", "typical": "the most typical one"}.get(experiment.options.first_case)
        return f"first case {chosen}, computed in round 0" if chosen else "no case is left"
    source = "labels in labelsTr; --labelled none would draw one case instead" if known == EXISTING else known
    return f"round 0 trains on {count(len(start), 'labelled case')}: {some(start)} ({source})"


def _print_choice_of_preset(settings: Settings) -> None:
    """Print why the network has this preset if nobody chose it, and which others would do."""
    chosen = settings.preset or ""
    of_file = {"architecture": PRESETS[chosen].architecture}
    others = [name for name, row in PRESETS.items() if name != chosen and is_encoder_of(of_file, row.architecture)]
    as_well = f" Others that take it: {', '.join(f'--preset {name}' for name in others)}." if others else ""
    print(f"The preset is {chosen} because it takes this encoder.{as_well}")


def _print_change_of_patch(settings: Settings, plan: Mapping[str, Any]) -> None:
    """Print a line if the network cannot take the patch that is wanted. plan: that of the configuration."""
    patch, planned = settings.patch_size or DOMAINS[settings.domain].patch_size, plan["patch_size"]
    if patch is not None and planned != list(patch):
        divisors = divisors_of(plan["architecture"]["arch_kwargs"]["strides"])
        print(
            f"The patch{'' if settings.patch_size else ' of the domain'}, {by(patch)}, becomes {by(planned)}, the "
            f"nearest that the network can take: its axes are multiples of {by(divisors)}."
        )


def _print_contract(report: Mapping[str, Any], plans: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Print how the weights were pre-trained, if they say it, what differs between their input and that of the network
    here, and with which options it would be the same. given: see `contract.input_of`."""
    from nnunet_assft.planning.contract import deviations, options_to_adopt

    if header := report.get("header"):
        training = header["training"]
        images, steps = count(training["n_images"], "image"), count(training["steps"], "step")
        print(printable(f"pre-trained ({header['method']}) on {images} of {header['dataset']}, {steps}"))
    contract = report.get("contract", {})
    if found := deviations(contract, given):
        print(printable(f"planned here, and in brackets as the weights were trained: {'; '.join(found)}"))
    if options := options_to_adopt(contract, given, plans["transpose_backward"]):
        print(f"planned as the weights were trained: {' '.join(options)}")


def main(argv: list[str] | None = None) -> None:
    run(plan, parser(), argv)
