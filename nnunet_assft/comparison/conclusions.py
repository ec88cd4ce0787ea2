"""What a comparison says: its tables, statistics and sentences, from the rows of its files. Pure; reads and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from nnunet_assft.active.options import Options
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.comparison.paper_results import paper_results
from nnunet_assft.comparison.statistics import compare_arms, conclusion, missing_runs, overall_conclusion
from nnunet_assft.comparison.tables import Table, comparison_tables


@dataclass(frozen=True)
class Findings:
    """compared: what is the same for all arms and what is not; missing: runs that are not there; conclusion: one sentence;
    one_by_one: a sentence per rival and round, and per rival over all budgets.
    """

    tables: tuple[Table, ...]
    statistics: pd.DataFrame
    compared: tuple[str, ...]
    missing: tuple[str, ...]
    conclusion: str
    one_by_one: tuple[str, ...]


def find(
    content: Mapping[str, Any], results: pd.DataFrame, runs: pd.DataFrame, quality: pd.DataFrame | None
) -> Findings:
    """content: of comparison.json; results, runs, quality: rows of results.csv, runs.csv, pseudo_label_quality.csv. results: not empty."""
    statistics = compare_arms(results, "assft" if "assft" in content["arms"] else content["arms"][0])
    paper = paper_results()
    of_domain = paper[paper["domain"] == content["domain"]]
    tables = comparison_tables(
        results, statistics, runs, len(content["pool"]), quality=quality, paper=of_domain if len(of_domain) else None
    )
    rounds = list(range(1, content["n_rounds"] + 1))
    return Findings(
        tables=tuple(tables),
        statistics=statistics,
        compared=tuple(_what_is_compared(content)),
        missing=tuple(missing_runs(results, content["arms"], content["seeds"], rounds, content["test"])),
        conclusion=overall_conclusion(statistics) + _longer_training(content),
        one_by_one=tuple(conclusion(row) for row in statistics.to_dict("records")),
    )


def _longer_training(content: Mapping[str, Any]) -> str:
    """What stands against a gain of ASSFT: it trains more than its rivals."""
    if not {"assft"} < set(content["arms"]) & set(STRATEGIES):
        return ""
    return (
        f" ASSFT's network has had {_steps_of_second_stages(content)} more optimisation steps than those of the other strategies, so "
        "this does not tell its choice of cases and pseudo-labels from longer training."
    )


def _steps_of_second_stages(content: Mapping[str, Any]) -> int:
    training = content["training"]
    return int(content["n_rounds"] * training["epochs"] * training["iterations_per_epoch"])


def _what_is_compared(content: Mapping[str, Any]) -> list[str]:
    """What all arms share, and what differs between them."""
    training, n_rounds, options = content["training"], content["n_rounds"], content["options"]
    seeds = ", ".join(map(str, content["seeds"]))
    iterations, first, epochs = training["iterations_per_epoch"], training["one_shot_epochs"], training["epochs"]
    supervised = (first + n_rounds * epochs) * iterations
    lines = [
        f"The same for all: pool of {len(content['pool'])} cases, {len(content['test'])} test cases ({content['test_source']}), "
        f"per seed the same first case, {n_rounds} rounds of {content['n_query']} queried cases, seeds {seeds}; "
        f"{epochs} epochs per stage ({first} in round 0) of {iterations} iterations. Preset {content['preset']}, {content['device']}.",
        "Pre-trained encoder: "
        + (
            content["encoder"]
            if content["encoder"]
            else "none. E(0) is a random network, so DKD compares with a random one."
        ),
    ]
    differs = []
    if "assft" in content["arms"]:
        differs.append(
            f"ASSFT trains a second stage in each round: {_steps_of_second_stages(content)} more optimisation steps than the "
            f"{supervised} of the other strategies by the last round"
        )
    if "sann" in content["arms"]:
        differs.append("SANN trains four more networks per round for its query")
    if any(arm.partition("@")[0] == "nnunet" for arm in content["arms"]):
        differs.append(
            f"standard nnU-Net starts from scratch in each round and has {epochs * iterations} steps for it; its patch, batch, "
            "network, optimiser and augmentation are its own; it is planned from its labelled cases alone"
        )
    if "upper_bound" in content["arms"]:
        differs.append(f"the upper bound trains {n_rounds} times the epochs of a stage on the whole pool")
    lines.append("What differs: " + "; ".join([*differs, "the query"]) + ".")
    default = {row.name: row.default for row in fields(Options)}
    changed = [f"{name}={value}" for name, value in options.items() if value != default[name]]
    return [*lines, *([f"Not the method's defaults: {', '.join(changed)}."] if changed else [])]
