"""Output lines that several commands share."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from nnunet_assft.errors import AssftError
from nnunet_assft.network.presets import licence_of
from nnunet_assft.runtime.text import count, some

if TYPE_CHECKING:
    from nnunet_assft.active.state import Experiment, Round


def print_start(experiment: Experiment) -> None:
    """Print which weights the network starts from: a whole model, or an encoder as what it was recognised."""
    settings, report = experiment.settings, experiment.encoder_report
    if report is None:
        print("pre-trained encoder: none; the encoder starts at random")
        return
    if report.get("structures") is None:
        as_what = "read as" if settings.encoder_format else "recognised as"
        licence = licence_of(report["encoder"])
        print(f"pre-trained encoder: {settings.encoder}, {as_what} {report['encoder']} (licence: {licence})")
        print(f"layout of the file: {report['layout']}")
        if report.get("alike"):
            print(
                f"Files of {' and '.join(report['alike'])} have the same keys. --encoder_format NAME says which it is."
            )
    else:
        kept = [name for name, is_kept in report["structures"].items() if is_kept]
        new = [name for name, is_kept in report["structures"].items() if not is_kept]
        rows = [f"{len(names)} {what} ({some(names)})" for names, what in ((kept, "kept"), (new, "new")) if names]
        print(f"start: the model {settings.start}; rows of its last layer: {', '.join(rows)}")
    if report["adapted"]:
        print(f"adapted to the channels of the dataset: {report['adapted']}")


def print_deviations(experiment: Experiment) -> None:
    """Print the options that deviate from the method, if there are any."""
    if changed := experiment.options.as_typed():
        print(f"deviations from the method: {changed}")


def print_least_annotated(experiment: Experiment) -> None:
    """Print which structures some labelled cases lack, if there are any."""
    from nnunet_assft.active.annotation import least_annotated

    with suppress(AssftError):  # without the raw dataset, status shows the rest
        sentence = least_annotated(experiment)
        if sentence:
            print(sentence)


def print_new_images(experiment: Experiment) -> None:
    """Print which images of imagesTr the experiment does not know, and the command that adds them, if there are any."""
    with suppress(AssftError):  # without the raw dataset, status shows the rest
        now = experiment.now
        new = sorted(set(experiment.raw_dataset().images) - {*now.pool, *now.test, *experiment.withdrawn})
        if new:
            print(f"new in imagesTr, not in the pool: {some(new)}. {experiment.command('extend')} adds what is new.")


def print_round(experiment: Experiment, done: Round) -> None:
    """Print one line about a finished round: its cases and its test Dice."""
    dice = done.dice
    given = done.round == 0 and set(done.queried) <= set(experiment.labelled_at_start)
    cases = f"trained on the {count(len(done.queried), 'case')} labelled at the start" if given else ""
    score = f"Dice {dice['mean']:.4f} on {count(dice['n_cases'], 'test case')}" if dice["n_cases"] else "no test cases"
    print(
        f"round {done.round}: {cases or 'queried ' + ', '.join(done.queried)}; {len(done.labelled)} labelled, "
        f"{len(done.unlabelled)} unlabelled, {len(done.pseudo_labelled)} pseudo-labelled; {score}"
    )
