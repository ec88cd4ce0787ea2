"""nnUNetv2_assft_extend: add new images, withdraw images, and change the number of rounds or the budget."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nnunet_assft.cli.common import add_processes, load_experiment, make_parser, number, run
from nnunet_assft.cli.engine_options import add_engine_options, choose_engine
from nnunet_assft.cli.options import budget

if TYPE_CHECKING:
    from nnunet_assft.active.state import Experiment


def parser() -> argparse.ArgumentParser:
    p = make_parser(
        "extend",
        "Add the new images of imagesTr to the pool, withdraw images, plan more rounds or another budget. Plans and "
        "finished rounds stay as they are. No label is read.",
    )
    p.add_argument("--rounds", type=number("rounds"), metavar="R", help="query rounds in all, finished ones included")
    p.add_argument(
        "--budget", type=budget, metavar="B", help="cases per round from now on: 5%% of the present pool, or a number"
    )
    p.add_argument("--test", nargs="+", metavar="CASE", help="new images that become test cases; they need a label")
    p.add_argument(
        "--withdraw", nargs="+", metavar="CASE", help="cases that leave the experiment, and what they have influenced"
    )
    add_processes(p)
    add_engine_options(p)
    return p


def extend(args: argparse.Namespace) -> None:
    """Change the experiment, and print what was changed, what is unusual, and what withdrawn cases have influenced."""
    from nnunet_assft.extension import Wish, influence
    from nnunet_assft.extension import extend as change

    before = load_experiment(args)
    withdraw = sorted(set(args.withdraw or ()))
    wish = Wish(args.rounds, args.budget, args.test or (), withdraw)
    experiment = change(before, wish, choose_engine(args))
    if len(experiment.history) == len(before.history):
        print("Nothing was changed: there is no new image in imagesTr, and everything else is as it was asked for.")
    for made in experiment.history[len(before.history) :]:
        print(f"changed on {made.sentence()}")
        for remark in made.remarks:
            print(f"Look at {remark}.")
        if made.added and made.first_round > made.n_rounds:
            more = experiment.command("extend", "--rounds", str(made.n_rounds + 1))
            print(f"No round is left that could query or pseudo-label the new images; {more} adds one.")
    for case in withdraw:
        print(influence(experiment, case).sentence(case))
    if withdraw:
        print("No later round uses these cases. None of their files was deleted.")
    _print_state(experiment)


def _print_state(experiment: Experiment) -> None:
    """Print what there is now, and the next command."""
    from nnunet_assft.active.state import finished_rounds, is_over
    from nnunet_assft.runtime.text import count

    now, done = experiment.now, finished_rounds(experiment)
    print(
        f"{count(len(now.pool), 'case')} in the pool, {count(len(now.test), 'test case')}; "
        f"{count(now.n_rounds, 'round')} of {experiment.per_round(now.n_rounds)}"
    )
    if is_over(experiment, done):
        print("All rounds are done.")
    else:
        print(f"Next: {experiment.command('round', '-r', str(len(done)))}")


def main(argv: list[str] | None = None) -> None:
    run(extend, parser(), argv)
