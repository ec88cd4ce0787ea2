"""Output lines that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_assft.active.state import Experiment, Round


def print_deviations(experiment: Experiment) -> None:
    """Print the options that deviate from the method, if there are any."""
    changed = experiment.options.changed()
    if changed:
        print(f"deviations from the method: {', '.join(f'{name}={value}' for name, value in changed.items())}")


def print_round(done: Round) -> None:
    """Print one line about a finished round: its cases and its test Dice."""
    dice = done.dice
    score = f"Dice {dice['mean']:.4f} on {dice['n_cases']} test cases" if dice["n_cases"] else "no test cases"
    print(
        f"round {done.round}: queried {', '.join(done.queried)}; {len(done.labelled)} labelled, "
        f"{len(done.unlabelled)} unlabelled, {len(done.pseudo_labelled)} pseudo-labelled; {score}"
    )
