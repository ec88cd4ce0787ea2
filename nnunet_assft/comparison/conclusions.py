"""Draw the conclusions of a comparison: tables, statistics and sentences, from the rows of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnunet_assft.active.options import PSEUDO, PSEUDO_LABELS, QUERY, SUPERVISED
from nnunet_assft.comparison.arms import EPOCHS, MATCHES, Arm, Comparison, StrategyArm, competing, name_of
from nnunet_assft.comparison.attribution import METHOD, STEPS, WHOLE, attribution
from nnunet_assft.comparison.paper_results import paper_results
from nnunet_assft.comparison.printed_table import Table
from nnunet_assft.comparison.pseudo_label_effect import pseudo_label_effect
from nnunet_assft.comparison.spec import Shared
from nnunet_assft.comparison.statistics import (
    ALPHA,
    AUBC,
    BETTER,
    NOT_SHOWN,
    POWER,
    RELEVANT,
    WORSE,
    compare_arms,
    p_text,
)
from nnunet_assft.comparison.tables import Rows, comparison_tables
from nnunet_assft.runtime.files import base_name
from nnunet_assft.runtime.text import count, named

ENOUGH_SEEDS = 5
# what the whole curves of the reference and of another arm show, followed by the name of that arm
VERDICTS = {BETTER: f"is {BETTER} than", WORSE: f"is {WORSE} than", NOT_SHOWN: "shows no difference from"}
NOT_TESTED, NOT_COMPARED = "cannot be tested against", "cannot be compared with"
UNKNOWN_ERROR = (
    "One seed or one test case does not tell how much of it is the luck of the training or of the case, so there is no "
    "verdict."
)


@dataclass(frozen=True)
class Findings:
    """The findings of a comparison.

    compared: sentences on what is the same for all arms and what differs. missing: sentences on missing results.
    conclusion: the summary. one_by_one: one sentence per other arm and round, and one per other arm over all budgets.
    attribution: rows of `attribution`.
    """

    tables: tuple[Table, ...]
    statistics: pd.DataFrame
    compared: tuple[str, ...]
    missing: tuple[str, ...]
    conclusion: str
    one_by_one: tuple[str, ...]
    attribution: pd.DataFrame


def draw_conclusions(
    comparison: Comparison, shared: Shared, results: pd.DataFrame, runs: pd.DataFrame, quality: pd.DataFrame | None
) -> Findings:
    """Test the arms, and make the tables and sentences.

    results, runs, quality: rows of results.csv, which must not be empty, of runs.csv and of pseudo_label_quality.csv.
    """
    reference = reference_arm(comparison)
    statistics = compare_arms(results, competing(results["arm"]), reference.id)
    budgets = _budgets(statistics, comparison.n_rounds)
    paper = paper_results()
    of_domain = paper[paper["domain"] == comparison.settings.domain]
    parts = attribution(comparison, results)
    rows = Rows(
        results=results,
        tests=statistics,
        runs=runs,
        pool_size=len(shared.pool),
        quality=quality,
        paper=of_domain if len(of_domain) else None,
        matched=_matched(comparison),
        attribution=parts,
        effect=None if quality is None else pseudo_label_effect(comparison, results, quality),
    )
    return Findings(
        tables=tuple(comparison_tables(rows)),
        statistics=statistics,
        compared=tuple(_what_is_compared(comparison, shared, runs)),
        missing=tuple(missing_runs(results, comparison, shared.test)),
        conclusion=overall_conclusion(statistics, budgets)
        + _other_training(reference, comparison)
        + gain_in_parts(parts),
        one_by_one=tuple(conclusion(row, budgets) for row in statistics.to_dict("records")),
        attribution=parts,
    )


def reference_arm(comparison: Comparison) -> Arm:
    """Return the arm that the others are compared with."""
    return next((arm for arm in comparison.arms if arm.id == METHOD), comparison.arms[0])


# What is compared -----------------------------------------------------------------------------------------------------


def _what_is_compared(comparison: Comparison, shared: Shared, runs: pd.DataFrame) -> list[str]:
    settings = comparison.settings
    training, seeds = settings.training, ", ".join(map(str, comparison.seeds))
    devices = ", ".join(sorted(set(runs["device"].dropna().astype(str))))
    lines = [
        f"Matched (--match {comparison.match}): {_matched(comparison)}.",
        f"The same for all arms: a pool of {count(len(shared.pool), 'case')}, {count(len(shared.test), 'test case')} "
        f"({shared.test_source}), {_first_case(comparison)}, {count(comparison.n_rounds, 'round')} of "
        f"{count(shared.n_query, 'queried case')}, seeds {seeds}; {count(training['epochs'], 'epoch')} per stage "
        f"({training['one_shot_epochs']} in round 0) of "
        f"{count(training['iterations_per_epoch'], 'iteration')}. Network: {settings.network_name()}"
        f"{f', trained on {devices}' if devices else ''}.",
        "Pre-trained encoder: "
        + _file(
            settings.pretrained, "none. E(0) is a random network, so DKD measures the distance to a random network."
        ),
        *(f"Encoder {name} of further arms: {_file(path, 'none')}." for name, path in comparison.encoders.items()),
    ]
    differences = [difference for arm in comparison.arms if (difference := arm.difference(comparison))]
    differences = [*dict.fromkeys(differences), *_parts_that_differ(comparison)] or ["nothing"]
    lines.append(f"What differs: {'; '.join(differences)}.")
    changed = settings.options.as_typed()
    return [*lines, *([f"Options that differ from the method: {changed}."] if changed else [])]


def _file(path: str | None, otherwise: str) -> str:
    return base_name(path) if path else otherwise


def _parts_that_differ(comparison: Comparison) -> list[str]:
    """Return the parts of the method that are not the same in all strategies."""
    arms = [arm for arm in comparison.strategies if isinstance(arm, StrategyArm)]
    options = {arm: arm.options(comparison) for arm in arms}
    queries = {(arm.row.function if arm.row else arm.kind, options[arm].of(QUERY)) for arm in arms}
    second_stages = {of_arm.second_stage for of_arm in options.values()}
    pseudo_labels = {of_arm.of(PSEUDO_LABELS) for of_arm in options.values() if of_arm.second_stage == PSEUDO}
    parts = {
        "the query": len(queries) > 1,
        "whether the second stage uses pseudo-labels": second_stages >= {PSEUDO, SUPERVISED},
        "how pseudo-labels are selected, made and used": len(pseudo_labels) > 1,
    }
    return [part for part, differs in parts.items() if differs]


def _matched(comparison: Comparison) -> str:
    """Return what is the same for all arms, as a phrase that names the arms for which it is not."""
    text, last = MATCHES[comparison.match], comparison.n_rounds
    if comparison.match == EPOCHS:
        return text
    expected = comparison.epochs_by(last) * comparison.settings.iterations_per_epoch
    trained = {
        arm.title: arm.epochs_by(comparison, last) * arm.iterations_per_epoch(comparison) for arm in comparison.arms
    }
    others = [title for title, steps in trained.items() if steps not in (expected, 0)]  # 0: before round 0
    return text + (f", but for {_of_arms(others, 0)}" if others else "")


def _first_case(comparison: Comparison) -> str:
    """Return for which runs the first case is the same, as a phrase."""
    common, arms = comparison.settings.options.first_case, comparison.arms
    by = "seed" if common == "random" else "seed and encoder"
    others = [
        arm.title for arm in arms if isinstance(arm, StrategyArm) and arm.options(comparison).first_case != common
    ]
    return f"the same first case for each {by}" + (f" (but for {', '.join(map(_in_text, others))})" if others else "")


def _other_training(reference: Arm, comparison: Comparison) -> str:
    """A caveat about the strategies whose network has had fewer or more optimisation steps than that of the
    reference."""
    if not isinstance(reference, StrategyArm):
        return ""
    last, iterations = comparison.n_rounds, comparison.settings.iterations_per_epoch
    others = [arm for arm in comparison.strategies if isinstance(arm, StrategyArm) and arm != reference]
    titles: dict[int, list[str]] = {}
    for arm in others:
        more = reference.epochs_by(comparison, last) - arm.epochs_by(comparison, last)
        titles.setdefault(more * iterations, []).append(arm.title)
    sentences = [
        f" The network of {_in_text(reference.title)} was trained for {abs(steps)} {'more' if steps > 0 else 'fewer'} "
        f"optimisation steps than {_of_arms(of_arms, len(others))}, so a difference may come from the length of "
        "training."
        for steps, of_arms in titles.items()
        if steps
    ]
    return "".join(sentences)


def _of_arms(titles: Sequence[str], n_others: int) -> str:
    if len(titles) == n_others > 1:
        return "those of the other strategies"
    return " and ".join(f"that of {_in_text(title)}" for title in titles)


def _in_text(title: str) -> str:
    """Return the title of an arm, in quotes if it has a comma, so that a sentence with it can be read."""
    return repr(title) if "," in title else title


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


def _budgets(statistics: pd.DataFrame, n_rounds: int) -> str:
    """Return over what the AUBC is taken, in words: rounds that no arm has finished are not a part of it."""
    last = max((r for r in statistics["round"] if r != AUBC), default=n_rounds)
    if last == n_rounds:
        return "all budgets"
    return f"rounds 1 to {last} of {n_rounds}" if last > 1 else f"round 1 of {n_rounds}"


def conclusion(row: Mapping[str, Any], budgets: str = "all budgets") -> str:
    """Put one row of `compare_arms`, computed on Dice, into a sentence. Only the AUBC has a verdict. budgets: over what
    the AUBC is taken, in words."""
    a, b = (_in_text(name_of(row[key])) for key in ("reference", "arm"))
    primary = row["round"] == AUBC
    where = f"over {budgets} (AUBC)" if primary else f"in round {row['round']}"
    if not row["n_cases"]:
        why = row["left_out"] or "no results"
        return f"{a} and {b} cannot be compared {where}: they share no seed and case ({why})."
    sample = f"With {count(row['n_seeds'], 'seed')} and {count(row['n_cases'], 'test case')}"
    lost = f" Left out: {row['left_out']}." if row["left_out"] else ""
    found = f"{_points(row['difference'])} points of Dice"
    if math.isnan(row["p"]):
        return f"{sample}, the difference between {a} and {b} {where} is {found}. {UNKNOWN_ERROR}{lost}"
    found += f" (95 % interval {_points(row['ci_low'])} to {_points(row['ci_high'])})"
    if not primary:
        return f"{sample}, the difference between {a} and {b} {where} is {found} (secondary, without a verdict).{lost}"
    p = f"p = {p_text(row['p'])}, {p_text(row['p_holm'])} after Holm's correction"
    if row["verdict"] == NOT_SHOWN:
        return f"{sample}, no difference between {a} and {b} is shown {where}: {found}, {p}. {_power(row)}{lost}"
    return f"{sample}, {a} is {row['verdict']} than {b} {where}: {found}, {p}.{lost}"


def overall_conclusion(statistics: pd.DataFrame, budgets: str = "all budgets") -> str:
    """Summarize what `compare_arms` finds for the whole budget curves, in a few sentences. budgets: as in
    `conclusion`."""
    curves = statistics[statistics["round"] == AUBC]
    if curves.empty:
        return "Nothing can be concluded: there is no other arm, or no finished round after round 0."
    reference = _in_text(name_of(curves["reference"].iloc[0]))
    if not curves["n_cases"].any():
        others = ", ".join(_in_text(name_of(arm)) for arm in curves["arm"])
        return (
            f"Nothing can be concluded: {reference} cannot be compared with {others}, as they share no finished seed "
            "and test case."
        )
    groups: dict[str, list[str]] = {text: [] for text in (*VERDICTS.values(), NOT_TESTED, NOT_COMPARED)}
    for row in curves.to_dict("records"):
        untested = NOT_TESTED if row["n_cases"] else NOT_COMPARED
        groups[untested if math.isnan(row["p"]) else VERDICTS[row["verdict"]]].append(_in_text(name_of(row["arm"])))
    verdicts = "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in groups.items() if names)
    text = f"Over {budgets} (AUBC), {reference} {verdicts}."
    n_seeds, n_cases = curves["n_seeds"].max(), curves["n_cases"].max()
    text += f" This is based on {count(n_seeds, 'seed')} and {count(n_cases, 'test case')}"
    if curves["left_out"].any() or curves["n_cases"].nunique() > 1:
        text += " at most (the sentences below name what each comparison leaves out)"
    tested = curves.dropna(subset=["p"])
    if tested.empty:
        return f"{text}. {UNKNOWN_ERROR}"
    text += (
        f", with seeds and cases as crossed random effects and Holm's correction over {count(len(tested), 'arm')} at "
        f"p < {ALPHA}."
    )
    low, high = tested["smallest"].min(), tested["smallest"].max()
    size = _size(low) if _size(low) == _size(high) else f"{100 * low:.1f} to {_size(high)}"
    chance = " to ".join(dict.fromkeys(f"{power:.0%}" for power in (tested["power"].min(), tested["power"].max())))
    text += f" Such a comparison shows a true difference of {_size(RELEVANT)} with a probability of {chance}"
    if size != _size(RELEVANT):
        text += f", and one of {size} with a probability of {POWER:.0%}"
    text += ". What is not shown may still be there."
    if n_seeds < ENOUGH_SEEDS:
        text += f" At least {ENOUGH_SEEDS} seeds are recommended."
    return text


def gain_in_parts(parts: pd.DataFrame) -> str:
    """Say what the gain of ASSFT over random sampling consists of. parts: see `attribution`; empty if it is."""
    if parts.empty or not parts["n_cases"].iloc[-1]:
        return ""
    shown = [
        f"{part} {100 * gain:+.1f}" + ("" if math.isnan(low) else f" ({100 * low:+.1f} to {100 * high:+.1f})")
        for part, gain, low, high in parts[["part", "gain", "ci_low", "ci_high"]].itertuples(index=False)
    ]
    other = "without a second stage" if STEPS in set(parts["part"]) else "with as many steps"
    return (
        f" Of the {shown[-1].removeprefix(f'{WHOLE} ')} points of AUBC by which ASSFT differs from random sampling "
        f"{other}: {', '.join(shown[:-1])}."
    )


def _power(row: Mapping[str, Any]) -> str:
    if (size := _size(row["smallest"])) == _size(RELEVANT):
        return f"A true difference of {size} would have been shown with a probability of {row['power']:.0%}."
    which = "No true difference" if row["smallest"] > 1 else f"A true difference of {size}"
    return (
        f"{which} would have been shown with a probability of {POWER:.0%}, and "
        f"one of {_size(RELEVANT)} with {row['power']:.0%}."
    )


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"


def _size(difference: float) -> str:
    return "more than 100 points" if difference > 1 else f"{100 * difference:.1f} points"
