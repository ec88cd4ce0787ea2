"""The arms that a comparison compares. READ FIRST.

An arm is a query strategy, or a reference for strategies: standard nnU-Net on the cases of a strategy, or a bound. Each
kind of arm is one class, and each reference is one row of REFERENCES. In files an arm is named by its id, such as
`random+pseudo` or `nnunet@assft`; `arm_of` parses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nnunet_assft.active.options import OF_STRATEGY, SECOND_STAGES, Options
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.comparison.arms.base import EPOCHS, MATCHES, STEPS, Arm, Comparison, Predictions, Work
from nnunet_assft.comparison.arms.experiments import LowerBound, StrategyArm, UpperBound, strategy_arm
from nnunet_assft.comparison.arms.nnunet import FinetunedNnunet, FullNnunet, ResencNnunet, StandardNnunet
from nnunet_assft.comparison.paper_results import paper_names, paper_strategies
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.test_split import is_fraction

__all__ = [
    "BOUNDS",
    "EPOCHS",
    "MATCHES",
    "REFERENCES",
    "STEPS",
    "Arm",
    "Comparison",
    "LowerBound",
    "Predictions",
    "StandardNnunet",
    "StrategyArm",
    "UpperBound",
    "Work",
    "arm_of",
    "competing",
    "name_of",
    "ordered",
    "parse_arms",
    "require_valid",
]

REFERENCES: dict[str, type[Arm]] = {
    "nnunet": StandardNnunet,
    "nnunet_finetuned": FinetunedNnunet,
    "nnunet_full": FullNnunet,
    "nnunet_resenc": ResencNnunet,
    "lower_bound": LowerBound,
    "upper_bound": UpperBound,
}
BOUNDS = tuple(name for name, kind in REFERENCES.items() if kind.is_bound)  # their ids, the lower one first


def arm_of(arm_id: str) -> Arm:
    """Return the arm with this id. An id that is not that of a reference is a strategy, which need not be installed."""
    kind, _, source = arm_id.partition("@")
    return REFERENCES[kind](kind, source or None) if kind in REFERENCES else strategy_arm(arm_id)


def name_of(arm_id: str) -> str:
    """Return the name to print, which is the paper's if it has one; `nnunet@assft` is "nnU-Net (cases of ASSFT)"."""
    return arm_of(arm_id).title


def ordered(arm_ids: Iterable[str]) -> list[str]:
    """Return each arm once: the paper's strategies in the order of its tables, the references, and then the others in
    their original order."""
    in_paper = [name for name in paper_names() if name not in REFERENCES]
    order = {kind: i for i, kind in enumerate([*in_paper, *REFERENCES])}
    return sorted(dict.fromkeys(arm_ids), key=lambda arm_id: order.get(arm_of(arm_id).kind, len(order)))


def competing(arm_ids: Iterable[str]) -> list[str]:
    """Return the arms that are tested against each other: all but the bounds, each once, in the order of `ordered`."""
    return [arm_id for arm_id in ordered(arm_ids) if arm_id not in BOUNDS]


def parse_arms(
    strategies: Sequence[str], references: Sequence[str] = (), encoders: Iterable[str] = ()
) -> tuple[Arm, ...]:
    """Return the arms in the order in which they run: strategies first, because references use their cases.

    strategies: names of strategies, `paper` for the eleven strategies of the paper, `all` for every strategy; with
    `+pseudo`, `+supervised` or `+none`, the second stage of their rounds is of this kind, and with `+OPTION=VALUE` one
    option differs. references: `nnunet`, which trains standard nnU-Net from scratch in each round on the labelled cases
    of `random` (or of the first strategy if `random` is not among them); `nnunet@assft`, which uses the cases of assft
    instead; `nnunet_finetuned`, which trains in each round from the weights of the round before; `nnunet_full`, for as
    long as its authors do; `nnunet_resenc`, with the network that they recommend today; `lower_bound`; `upper_bound`;
    `none`. encoders: names of encoders; for each of them, every strategy is one more arm. Raises `AssftError` for an
    unknown name, and for a reference that uses the cases of a strategy that is not
    among the arms.
    """
    groups = {"paper": paper_strategies(), "all": tuple(STRATEGIES)}
    names = list(dict.fromkeys(name for given in strategies for name in groups.get(given, (given,))))
    for name in names:
        arm = strategy_arm(name)
        if arm.kind not in STRATEGIES:
            is_reference = arm_of(name).kind in REFERENCES
            instead = f" It is one of --references: {', '.join(REFERENCES)}." if is_reference else ""
            raise AssftError(
                f"--strategies {name!r} does not exist; the choices are {', '.join((*groups, *STRATEGIES))}.{instead}"
            )
        if arm.encoder:
            raise AssftError(f"--strategies {name!r}: name the encoder with --encoders, and the strategy without it.")
        if arm.variant and "=" not in arm.variant and arm.variant not in SECOND_STAGES:
            raise AssftError(
                f"--strategies {name!r}: expected {arm.kind}+{f', {arm.kind}+'.join(SECOND_STAGES)}, "
                f"{arm.kind}+OPTION=VALUE, or {arm.kind}."
            )
    if not names:
        raise AssftError(
            "--strategies names no strategy, but the bounds and nnU-Net need the cases of a strategy. Add random."
        )
    arms: list[Arm] = [strategy_arm(name) for name in names]
    arms += [replace(arm, encoder=encoder) for encoder in encoders for arm in arms[: len(names)]]
    if list(references) != ["none"]:
        arms += [_reference(reference, names) for reference in references]
    return tuple(dict.fromkeys(arms))


def require_valid(comparison: Comparison) -> None:
    """Raise `AssftError` if two arms of the comparison are the same, if an option sets the second stage of all of them,
    or if there is no fraction of test cases to divide into folds."""
    if comparison.settings.options.second_stage != OF_STRATEGY:
        raise AssftError(
            "--option second_stage is set by --match in a comparison. Choose it for a single arm by its name, such as "
            f"random+{comparison.settings.options.second_stage}."
        )
    split = comparison.settings.test_split
    if comparison.test_folds > 1 and (split is None or "@" in split or not is_fraction(split)):
        raise AssftError(
            f"--test_folds {comparison.test_folds} needs the size of a fold. Give it as a fraction of imagesTr, for "
            f"example --test_split {1 / comparison.test_folds:.2g}."
        )
    known: dict[tuple[str, Options, str | None], Arm] = {}
    for arm in comparison.arms:
        comparison.paths(arm, max(comparison.seeds, default=0))  # raises for a name that gets too long
        if isinstance(arm, StrategyArm):
            other = known.setdefault((arm.kind, arm.options(comparison), arm.encoder), arm)
            if other != arm:
                raise AssftError(
                    f"--strategies {other.id} and {arm.id} are the same arm with --match {comparison.match}. Name one "
                    "of them."
                )


def _reference(arm_id: str, strategies: Sequence[str]) -> Arm:
    arm = arm_of(arm_id)
    if arm.kind not in REFERENCES or (arm.is_bound and arm.source):
        raise AssftError(
            f"--references {arm_id!r} does not exist; the choices are {', '.join(REFERENCES)}, nnunet@STRATEGY, none."
        )
    if arm.source and arm.source not in strategies:
        raise AssftError(
            f"--references {arm_id} trains on the labelled cases of {arm.source}, which is not among the strategies. "
            "Add it to --strategies."
        )
    if not arm.is_bound and arm.cases_of not in strategies:
        return type(arm)(arm.kind, strategies[0])
    return arm
