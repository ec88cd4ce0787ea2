"""Draw the conclusions of a comparison: tables, statistics and sentences, from the rows of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnunet_assft.comparison.arms import Arm, Comparison, StrategyArm, competing, name_of
from nnunet_assft.comparison.arms.experiments import steps_of_second_stages
from nnunet_assft.comparison.paper_results import paper_results
from nnunet_assft.comparison.spec import Shared
from nnunet_assft.comparison.statistics import ALPHA, compare_arms, p_text
from nnunet_assft.comparison.tables import Rows, Table, comparison_tables
from nnunet_assft.runtime.text import count, named

ENOUGH_SEEDS = 5
METHOD = "assft"  # the arm that the others are compared with if it is one of the arms; otherwise the first arm


@dataclass(frozen=True)
class Findings:
    """The findings of a comparison.

    compared: sentences on what is the same for all arms and what differs. missing: sentences on missing results.
    conclusion: the summary. one_by_one: one sentence per other arm and round, and one per other arm over all budgets.
    """

    tables: tuple[Table, ...]
    statistics: pd.DataFrame
    compared: tuple[str, ...]
    missing: tuple[str, ...]
    conclusion: str
    one_by_one: tuple[str, ...]


def draw_conclusions(
    comparison: Comparison, shared: Shared, results: pd.DataFrame, runs: pd.DataFrame, quality: pd.DataFrame | None
) -> Findings:
    """Test the arms, and make the tables and sentences.

    results, runs, quality: rows of results.csv, which must not be empty, of runs.csv and of pseudo_label_quality.csv.
    """
    reference = reference_arm(comparison)
    statistics = compare_arms(results, competing(results["arm"]), reference.id)
    paper = paper_results()
    of_domain = paper[paper["domain"] == comparison.settings.domain]
    rows = Rows(
        results=results,
        tests=statistics,
        runs=runs,
        pool_size=len(shared.pool),
        quality=quality,
        paper=of_domain if len(of_domain) else None,
    )
    return Findings(
        tables=tuple(comparison_tables(rows)),
        statistics=statistics,
        compared=tuple(_what_is_compared(comparison, shared)),
        missing=tuple(missing_runs(results, comparison, shared.test)),
        conclusion=overall_conclusion(statistics) + _longer_training(reference, comparison),
        one_by_one=tuple(conclusion(row) for row in statistics.to_dict("records")),
    )


def reference_arm(comparison: Comparison) -> Arm:
    """Return the arm that the others are compared with."""
    return next((arm for arm in comparison.arms if arm.id == METHOD), comparison.arms[0])


# What is compared -----------------------------------------------------------------------------------------------------


def _what_is_compared(comparison: Comparison, shared: Shared) -> list[str]:
    settings = comparison.settings
    training, seeds = settings.training, ", ".join(map(str, comparison.seeds))
    lines = [
        f"The same for all arms: a pool of {count(len(shared.pool), 'case')}, {count(len(shared.test), 'test case')} "
        f"({shared.test_source}), the same first case for each seed, {count(comparison.n_rounds, 'round')} of "
        f"{count(shared.n_query, 'queried case')}, seeds {seeds}; {count(training['epochs'], 'epoch')} per stage "
        f"({training['one_shot_epochs']} in round 0) of "
        f"{count(training['iterations_per_epoch'], 'iteration')}. Preset {settings.preset}, {shared.device}.",
        "Pre-trained encoder: "
        + (settings.encoder or "none. E(0) is a random network, so DKD measures the distance to a random network."),
    ]
    differences = [difference for arm in comparison.arms if (difference := arm.difference(settings))]
    lines.append(f"What differs: {'; '.join([*dict.fromkeys(differences), 'the query'])}.")
    changed = [f"{name}={value}" for name, value in settings.options.changed().items()]
    return [*lines, *([f"Options that differ from the method: {', '.join(changed)}."] if changed else [])]


def _longer_training(reference: Arm, comparison: Comparison) -> str:
    """A caveat about a gain of the reference if its second stages train it for longer than the other strategies."""
    alone = len(comparison.strategies) < 2
    if alone or not isinstance(reference, StrategyArm) or not reference.is_semi_supervised:
        return ""
    return (
        f" The network of {reference.title} was trained for {steps_of_second_stages(comparison.settings)} more "
        "optimisation steps than those of the other strategies, so a gain may come from its choice of cases and "
        "pseudo-labels or from longer training."
    )


def missing_runs(results: pd.DataFrame, comparison: Comparison, cases: Sequence[str]) -> list[str]:
    """Return one sentence per arm and seed without results for some rounds, and one per round without results for some
    of these test cases."""
    there = results.groupby(["arm", "seed", "round"])["case"].agg(set).to_dict()
    sentences = []
    for arm in comparison.arms:
        for seed in comparison.seeds:
            expected = arm.rounds(comparison.n_rounds)
            absent = [r for r in expected if (arm.id, seed, r) not in there]
            if absent:
                sentences.append(f"{arm.title}, seed {seed}: {named('round', absent)} missing.")
            for r in expected:
                lost = sorted(set(cases) - there.get((arm.id, seed, r), set(cases)))
                if lost:
                    sentences.append(
                        f"{arm.title}, seed {seed}, round {r}: {len(lost)} of {len(cases)} test cases missing "
                        f"({named('case', lost)})."
                    )
    return sentences


# In plain words -------------------------------------------------------------------------------------------------------


def conclusion(row: Mapping[str, Any]) -> str:
    """Put one row of `compare_arms`, computed on Dice, into a sentence."""
    a, b = name_of(row["reference"]), name_of(row["arm"])
    where = "over all budgets (AUBC)" if row["round"] == "AUBC" else f"in round {row['round']}"
    if not row["n_cases"]:
        why = row["left_out"] or "no results"
        return f"{a} and {b} cannot be compared {where}: they share no seed and case ({why})."
    sample = f"With {count(row['n_seeds'], 'seed')} and {count(row['n_cases'], 'test case')}"
    p = f"p = {p_text(row['p_holm'])} (Wilcoxon, Holm)"
    difference, low, high = (100 * row[name] for name in ("difference", "ci_low", "ci_high"))
    interval = f"difference {difference:+.2f} points of Dice, 95 % interval {low:+.2f} to {high:+.2f}"
    lost = f" Left out: {row['left_out']}." if row["left_out"] else ""
    if row["p_holm"] < ALPHA:
        word = "better" if row["difference"] > 0 else "worse"
        doubt = ""
        if row["n_seeds"] == 1:
            doubt = " With a single seed, the difference may be due to chance in training."
        elif row["ci_low"] <= 0 <= row["ci_high"]:
            doubt = " The interval over seeds and cases includes 0, so the result may differ with other seeds."
        return f"{sample}, {a} is {word} than {b} {where}, {p}; {interval}.{doubt}{lost}"
    if row["smallest_p"] >= ALPHA:
        return (
            f"{sample}, no difference between {a} and {b} {where} can be shown: the smallest possible p is "
            f"{p_text(row['smallest_p'])}; here {p}; {interval}.{lost}"
        )
    return (
        f"{sample}, {a} and {b} do not differ significantly {where}, {p}; {interval}. This does not show that they are "
        f"equal.{lost}"
    )


def overall_conclusion(statistics: pd.DataFrame) -> str:
    """Summarize what `compare_arms` finds for the whole budget curves, in a few sentences."""
    curves = statistics[statistics["round"] == "AUBC"]
    if curves.empty:
        return "Nothing can be concluded: there is no other arm, or no finished round after round 0."
    groups: dict[str, list[str]] = {
        "better than": [],
        "worse than": [],
        "not significantly different from": [],
        "not comparable with": [],
    }
    for row in curves.to_dict("records"):
        groups[_verdict(row)].append(name_of(row["arm"]))
    reference = name_of(curves["reference"].iloc[0])
    verdicts = "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in groups.items() if names)
    text = f"Over all budgets (AUBC, paired Wilcoxon on cases, Holm, p < {ALPHA}), {reference} is {verdicts}."
    n_seeds, n_cases, smallest = curves["n_seeds"].max(), curves["n_cases"].max(), curves["smallest_p"].min()
    text += f" This is based on {count(n_seeds, 'seed')} and {count(n_cases, 'test case')}"
    if curves["left_out"].any() or curves["n_cases"].nunique() > 1:
        text += " at most (the sentences below name what each comparison leaves out)"
    text += "."
    if smallest >= ALPHA:
        text += f" With so few cases, p cannot fall below {p_text(smallest)}, so no difference could have been shown."
    if n_seeds < ENOUGH_SEEDS:
        text += " The tests generalise to other cases of this kind, not to other seeds, of which these are too few."
    return text


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["n_cases"]:
        return "not comparable with"
    if row["p_holm"] >= ALPHA:
        return "not significantly different from"
    return "better than" if row["difference"] > 0 else "worse than"
