"""What a comparison compares. READ FIRST.

An arm is a query strategy, or a reference that strategies are measured against: standard nnU-Net on the cases of a
strategy, or a bound. Each kind of arm is one class, and each reference one row of REFERENCES. In files an arm is named
by its id, such as `nnunet@assft`; `arm_of` is the only place that takes an id apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.comparison.arms.base import Arm, Predictions, Work
from nnunet_assft.comparison.arms.experiments import LowerBound, StrategyArm, UpperBound
from nnunet_assft.comparison.arms.nnunet import FinetunedNnunet, StandardNnunet
from nnunet_assft.comparison.paper_results import paper_names, paper_strategies
from nnunet_assft.errors import AssftError

__all__ = [
    "BOUNDS",
    "REFERENCES",
    "Arm",
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
]

REFERENCES: dict[str, type[Arm]] = {
    "nnunet": StandardNnunet,
    "nnunet_finetuned": FinetunedNnunet,
    "lower_bound": LowerBound,
    "upper_bound": UpperBound,
}
BOUNDS = tuple(name for name, kind in REFERENCES.items() if kind.is_bound)  # their ids, the lower one first


def arm_of(arm_id: str) -> Arm:
    """The arm with this id. What is no reference is taken for a strategy, whether or not it is installed here."""
    kind, _, source = arm_id.partition("@")
    return REFERENCES[kind](kind, source or None) if kind in REFERENCES else StrategyArm(arm_id)


def name_of(arm_id: str) -> str:
    """The name to print: the paper's where it has one; `nnunet@assft` is "nnU-Net (cases of ASSFT)"."""
    return arm_of(arm_id).title


def ordered(arm_ids: Iterable[str]) -> list[str]:
    """Each arm once: the paper's strategies as in its tables, references, then the others in their original order."""
    in_paper = [name for name in paper_names() if name not in REFERENCES]
    order = {kind: i for i, kind in enumerate([*in_paper, *REFERENCES])}
    return sorted(dict.fromkeys(arm_ids), key=lambda arm_id: order.get(arm_of(arm_id).kind, len(order)))


def competing(arm_ids: Iterable[str]) -> list[str]:
    """The arms that are tested against each other: all but the bounds, each once, in the order of `ordered`."""
    return [arm_id for arm_id in ordered(arm_ids) if arm_id not in BOUNDS]


def parse_arms(strategies: Sequence[str], references: Sequence[str] = ()) -> tuple[Arm, ...]:
    """The arms in the order in which they run: strategies first, because references use their cases.

    strategies: names, `paper` for the eleven of the paper, `all` for every one. references: `nnunet`, standard nnU-Net
    from scratch in each round on the labelled cases of `random` (of the first strategy, if random is not among them);
    `nnunet@assft`, the same on those of assft; `nnunet_finetuned`, each round from the weights of the round before;
    `lower_bound`; `upper_bound`; `none`. Raises `AssftError` for a name that does not exist, and for a reference whose
    cases no strategy queries.
    """
    groups = {"paper": paper_strategies(), "all": tuple(STRATEGIES)}
    names = list(dict.fromkeys(name for given in strategies for name in groups.get(given, (given,))))
    for name in names:
        if name not in STRATEGIES:
            is_reference = arm_of(name).kind in REFERENCES
            instead = f" It is one of --references: {', '.join(REFERENCES)}." if is_reference else ""
            raise AssftError(
                f"--strategies {name!r} does not exist; the choices are {', '.join((*groups, *STRATEGIES))}.{instead}"
            )
    if not names:
        raise AssftError("--strategies names no strategy, but bounds and nnU-Net need the cases of one. Add random.")
    arms: list[Arm] = [StrategyArm(name) for name in names]
    if list(references) != ["none"]:
        arms += [_reference(reference, names) for reference in references]
    return tuple(dict.fromkeys(arms))


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
