"""Output lines that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnunet_assft.runtime.text import count

if TYPE_CHECKING:
    from nnunet_assft.active.state import Experiment, Round


def print_deviations(experiment: Experiment) -> None:
    """Print the options that deviate from the method, if there are any."""
    changed = experiment.options.changed()
    if changed:
        print(f"deviations from the method: {', '.join(f'{name}={value}' for name, value in changed.items())}")


def print_round(experiment: Experiment, done: Round) -> None:
    """Print one line about a finished round: its cases and its test Dice."""
    dice = done.dice
    given = done.round == 0 and experiment.labelled_at_start
    cases = f"trained on the {count(len(done.queried), 'case')} labelled at the start" if given else ""
    score = f"Dice {dice['mean']:.4f} on {dice['n_cases']} test cases" if dice["n_cases"] else "no test cases"
    print(
        f"round {done.round}: {cases or 'queried ' + ', '.join(done.queried)}; {len(done.labelled)} labelled, "
        f"{len(done.unlabelled)} unlabelled, {len(done.pseudo_labelled)} pseudo-labelled; {score}"
    )
