"""The head of the page: the experiment, its progress, and whether another round is worthwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.base import dkd_is_random, encoder_name, uses_dkd
from nnunet_assft.report.stopping import SOURCE, advice
from nnunet_assft.runtime.text import count

RANDOM_ENCODER = (
    "E⁽⁰⁾ is random, because the experiment was planned without pre-trained weights. DKD is measured against a random "
    "encoder here and says nothing about DKD with a pre-trained one."
)


@dataclass(frozen=True)
class Head:
    """The head of the page. facts: name -> value. advice: sentences on whether to stop."""

    title: str
    facts: Mapping[str, str]
    advice: tuple[str, ...] = ()
    warning: str = ""
    kind: str = "ASSFT experiment report"


def head(material: Material) -> Head:
    experiment, settings, last = material.experiment, material.experiment.settings, material.rounds[-1]
    facts = {
        "Experiment": f"{experiment.name}, seed {settings.seed}",
        "Strategy": f"{settings.strategy}: {STRATEGIES[settings.strategy].description}",
        "Finished": f"{last.round} of {count(experiment.n_rounds, 'query round')} of "
        f"{experiment.per_round(experiment.n_rounds, each=' each')}; {len(last.labelled)} of "
        f"{len(last.labelled) + len(last.unlabelled)} cases are annotated",
        "Pseudo-labelled": f"{count(len(last.pseudo_labelled), 'case')} in the last round",
        f"Dice after round {last.round}": _dice(material),
        "Pre-trained encoder": encoder_name(material),
    }
    random = dkd_is_random(material) and uses_dkd(settings.strategy)
    return Head(experiment.dataset, facts, _advice(material), RANDOM_ENCODER if random else "")


def _dice(material: Material) -> str:
    dice = material.rounds[-1].dice
    if not dice["n_cases"]:
        return "no test case has a label"
    sd = "" if dice["sd"] is None else f" ± {dice['sd']:.3f}"
    return f"{dice['mean']:.3f}{sd} (mean{' ± SD' if sd else ''} over {count(dice['n_cases'], 'test case')})"


def _advice(material: Material) -> tuple[str, ...]:
    try:
        said = advice(material.rounds)
    except ValueError as error:
        return (f"No advice is possible yet: {error}",)
    return tuple(text for text in (said.sentence, said.caveat, f"Rule: {SOURCE}.") if text)
