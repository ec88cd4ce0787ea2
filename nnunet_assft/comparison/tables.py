"""Tables in the form of the paper's Tables 1-8, of what the gain consists of, and of costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnunet_assft.comparison.arms import BOUNDS, arm_of, competing, name_of, ordered
from nnunet_assft.comparison.printed_table import Cell, Table
from nnunet_assft.comparison.statistics import (
    ALPHA,
    AUBC,
    NOT_SHOWN,
    aubc_intervals,
    case_scores,
    p_text,
    selection_test,
)
from nnunet_assft.runtime.text import count, named

ALPHA_OF_PAPER = 0.01  # the paper's `*`
DKD_ABLATION = ("random", "dkd_high", "dkd_low")  # Table 6
ASD_ABLATION = ("entropy", "asd_high_tau1", "asd_low_tau1", "asd_high", "asd_low")  # Table 7


@dataclass(frozen=True)
class Metric:
    """How a metric is printed. column: its column in results.csv. factor: converts its values to the unit in `name`."""

    column: str
    name: str
    factor: int
    lower_is_better: bool = False


DICE = Metric("dice", "Dice in points", 100)
NSD = Metric("nsd", "NSD in points", 100)
HD95 = Metric("hd95_mm", "HD95 in mm", 1, lower_is_better=True)


@dataclass(frozen=True)
class Rows:
    """The data that the tables are made from.

    results, runs, quality: rows of results.csv, runs.csv and pseudo_label_quality.csv. tests: `compare_arms` of the
    results. paper: rows of `paper_results` of the comparison's domain, if it is one of the paper's. matched: what is
    the same for all arms, in words; every caption says it. attribution, effect: see
    `attribution` and `pseudo_label_effect`.
    """

    results: pd.DataFrame
    tests: pd.DataFrame
    runs: pd.DataFrame
    pool_size: int
    quality: pd.DataFrame | None = None
    paper: pd.DataFrame | None = None
    matched: str = ""
    attribution: pd.DataFrame | None = None
    effect: pd.DataFrame | None = None

    @property
    def arms(self) -> list[str]:
        """The arms without the bounds, in the order in which they are printed."""
        return competing(self.results["arm"])

    def printed(self, *tables: int) -> pd.DataFrame | None:
        """Return the rows of these tables of the paper; None if the paper does not have this domain."""
        return None if self.paper is None else self.paper[self.paper["table"].isin(tables)]


def comparison_tables(rows: Rows) -> list[Table]:
    """Make every table for which there are data: budgets (Dice, NSD, HD95), structures, ablations, AUBC, selection and
    cost."""
    tables = [
        budget_table(rows, DICE, rows.arms, marked=True, paper=rows.printed(1, 2, 3, 4, 5)),
        budget_table(rows, NSD, rows.arms),
        budget_table(rows, HD95, rows.arms),
        structure_table(rows),
    ]
    without_bounds = replace(rows, results=rows.results[~rows.results["arm"].isin(BOUNDS)])
    for name, ablation, number in (("DKD", DKD_ABLATION, 6), ("ASD", ASD_ABLATION, 7)):
        present = [arm for arm in ablation if arm in rows.arms]
        if set(present) - {"random", "entropy"}:
            table = budget_table(without_bounds, DICE, present, paper=rows.printed(number))
            tables.append(replace(table, name=f"{name.lower()}_ablation", title=f"Ablation of {name}: {table.title}"))
    tables.append(aubc_table(rows))
    if rows.quality is not None and len(rows.quality):
        tables.append(selection_table(rows.quality, paper=rows.printed(8)))
    if rows.effect is not None and len(rows.effect):
        tables.append(effect_table(rows.effect))
    if rows.attribution is not None and len(rows.attribution):
        tables.append(attribution_table(rows.attribution))
    tables.append(cost_table(rows.runs))
    return [replace(table, caption=_with_matched(table.caption, rows)) for table in tables]


def _with_matched(caption: str, rows: Rows) -> str:
    """Add to the caption what was matched, and where fine-tuning had to start from scratch."""
    text = f"{caption} Matched: {rows.matched}." if rows.matched else caption
    scratch = rows.runs[(rows.runs["from_scratch"] == 1) & rows.runs["arm"].map(lambda arm: arm_of(arm).goes_on)]
    for arm, of_arm in scratch[scratch["round"] > 1].groupby("arm"):
        where = ", ".join(f"seed {row.seed} round {row.round}" for row in of_arm.itertuples())
        text += f" {name_of(str(arm))} started from scratch in {where}, where the plans gave another network."
    return text


# Tables 1-7 -----------------------------------------------------------------------------------------------------------


def budget_table(
    rows: Rows, metric: Metric, arms: Sequence[str], *, marked: bool = False, paper: pd.DataFrame | None = None
) -> Table:
    """Make a table like Tables 1-5: a row per arm, a column per budget from round 1 on between the bounds; mean ± SD.

    As in the paper, the score of a case is the mean over its structures; mean and SD (n - 1) are over the cases of all
    seeds, pooled. marked: whether the results of the tests, which are on Dice, are marked. A cell with fewer scores
    than seeds times cases states its n, and a cell of HD95 states how many structures were missed (infinite) and left
    out. The numbers of `paper` follow in additional rows, with their budgets.
    """
    scores = case_scores(rows.results, metric.column)
    n_seeds, n_cases = scores["seed"].nunique(), scores["case"].nunique()
    groups = {(str(arm), int(r)): group for (arm, r), group in scores.groupby(["arm", "round"])}
    marks = {(row["arm"], row["round"]): _mark(row) for row in rows.tests.to_dict("records")} if marked else {}
    columns = _budget_columns(scores, rows.pool_size)
    frame = pd.DataFrame({"Method": [name_of(arm) for arm in arms]}, dtype=object)
    for column in columns:
        keys = [(column.bound or arm, column.round) for arm in arms]
        cells = [Cell(_mean_sd(groups.get(key), metric, n_seeds * n_cases, marks.get(key, ""))) for key in keys]
        if column.bound:  # the same number for all arms whose network starts like that of the bounds, so none is best
            others = [arm_of(arm).is_nnunet or arm_of(arm).encoder is not None for arm in arms]
            frame[column.header] = ["-" if other else cell for other, cell in zip(others, cells, strict=True)]
        else:
            frame[column.header] = _ranked(cells, [_mean(groups.get(key), metric) for key in keys], metric)
    if paper is not None:
        frame = pd.concat([frame, _paper_rows(paper, arms, columns)], ignore_index=True)
    tests = rows.tests if marked else rows.tests[:0]
    caption = _budget_caption(metric, _sample(n_seeds, n_cases), tests, with_paper=paper is not None and len(paper) > 0)
    return Table(f"budgets_{metric.column.removesuffix('_mm')}", f"{metric.name}, by budget", caption, frame)


class _Column(NamedTuple):
    header: str
    bound: str | None  # id of a bound, or None for a column of the arms' own numbers
    round: int


def _budget_columns(scores: pd.DataFrame, pool_size: int) -> list[_Column]:
    """Return the columns: the bound of round 0, the budgets, and the bound of the last round."""
    is_bound = scores["arm"].isin(BOUNDS)
    last = {str(arm): int(r) for arm, r in scores[is_bound].groupby("arm")["round"].max().items()}
    bounds = [_Column(f"{name_of(arm)}, {arm_of(arm).budget}", arm, last[arm]) for arm in BOUNDS if arm in last]
    rounds = sorted(int(r) for r in scores.loc[~is_bound & (scores["round"] > 0), "round"].unique())
    budgets = [_Column(_budget_header(scores[~is_bound], r, pool_size), None, r) for r in rounds]
    before = [bound for bound in bounds if bound.round == 0]
    return [*before, *budgets, *(bound for bound in bounds if bound not in before)]


def _budget_header(scores: pd.DataFrame, r: int, pool_size: int) -> str:
    counts = scores.loc[scores["round"] == r, "n_labelled"]
    low, high = int(counts.min()), int(counts.max())
    number = count(low, "case") if low == high else f"{low}-{high} cases"
    share = " to ".join(f"{100 * n / pool_size:.3g}" for n in dict.fromkeys((low, high)))
    return f"r = {r}: {number}, {share} %"


def _mean(group: pd.DataFrame | None, metric: Metric) -> float:
    return math.nan if group is None else float(metric.factor * group["score"].mean())


def _mean_sd(group: pd.DataFrame | None, metric: Metric, expected: int, mark: str = "") -> str:
    if group is None:
        return "missing"
    known = metric.factor * group["score"].dropna()
    notes = [f"n = {len(known)}"] if len(known) != expected else []
    notes += [f"{int(group['missed'].sum())} missed"] if group["missed"].any() else []
    numbers = f"{known.mean():.2f}{mark} ± {known.std(ddof=1):.2f}".replace("nan", "-")  # no SD of one value
    return numbers + (f" ({', '.join(notes)})" if notes else "")


def _mark(row: Mapping[str, Any]) -> str:
    return "*" if row["p_mann_whitney"] < ALPHA_OF_PAPER else ""


def _ranked(cells: Sequence[Cell], means: Sequence[float], metric: Metric = DICE) -> list[Cell]:
    """Return the cells with the best and the second-best mean marked; means that are printed alike share a rank."""
    printed = [round(mean, 2) for mean in means]
    best = sorted({mean for mean in printed if not math.isnan(mean)}, reverse=not metric.lower_is_better)
    rank = {mean: i + 1 for i, mean in enumerate(best[:2])} if len(best) > 1 else {}
    return [Cell(cell.text, rank.get(mean, 0)) for cell, mean in zip(cells, printed, strict=True)]


def _paper_rows(paper: pd.DataFrame, arms: Sequence[str], columns: Sequence[_Column]) -> pd.DataFrame:
    printed = {(row["arm"], row["round"]): row for row in paper.to_dict("records")}
    printed |= {(arm, -1): row for (arm, _), row in printed.items() if arm in BOUNDS}  # their round depends on R
    rows = []
    for arm in arms:
        if arm in set(paper["arm"]):
            numbers = [printed.get((column.bound, -1) if column.bound else (arm, column.round)) for column in columns]
            cells = ["-" if n is None else f"{n['mean']:.2f} ± {n['sd']:.2f} ({n['budget']})" for n in numbers]
            rows.append([f"{name_of(arm)}, paper", *cells])
    return pd.DataFrame(rows, columns=["Method", *(column.header for column in columns)], dtype=object)


def _budget_caption(metric: Metric, sample: str, tests: pd.DataFrame, *, with_paper: bool) -> str:
    text = (
        f"{metric.name} on the test cases, mean ± SD: the mean over structures of each case, then mean and SD (n - 1) "
        f"over the cases of all seeds together; {sample}. A structure that is absent in reference and prediction is "
        "left out. Bold: best, underlined: second best of the column, without the bounds and the rows of the paper."
    )
    if metric is HD95:
        text += (
            " Lower is better. A structure that is absent in either the prediction or the reference has no distance. "
            "It is left out and counted in the cell (missed); methods that miss structures look better than they are."
        )
    if len(tests):
        reference = name_of(tests["reference"].iloc[0])
        text += (
            f" *: p < {ALPHA_OF_PAPER} against {reference} in the paper's test, the Mann-Whitney U test without "
            "correction, with the cases of all seeds treated as independent. They are not, so this p is too small. "
            "Verdicts are given on the area under the budget curve only."
        )
    if with_paper:
        text += (
            " Rows of the paper: its printed numbers and budgets. The paper does not state what its SD is taken over, "
            "nor the number of seeds."
        )
    return text


def _sample(n_seeds: int, n_cases: int) -> str:
    return (
        f"{count(n_seeds, 'seed')}, {count(n_cases, 'test case')}, n = {n_seeds * n_cases} unless a cell says otherwise"
    )


def structure_table(rows: Rows) -> Table:
    """Make a table of Dice after the last round, with a row per arm and a column per structure.

    Mean ± SD over the test cases, all seeds pooled.
    """
    results, arms = rows.results, rows.arms
    is_bound = results["arm"].isin(BOUNDS)
    last = int(results.loc[~is_bound, "round"].max())
    of_last = results[(results["round"] == last) | is_bound]
    bounds = [arm for arm in reversed(BOUNDS) if arm in set(results["arm"])]
    n_seeds, n_cases = results["seed"].nunique(), results["case"].nunique()
    columns: dict[str, list[Cell]] = {}
    for structure in dict.fromkeys(results["structure"]):
        scores = case_scores(of_last[of_last["structure"] == structure])
        groups = {str(arm): group for arm, group in scores.groupby("arm")}
        cells = {arm: Cell(_mean_sd(groups.get(arm), DICE, n_seeds * n_cases)) for arm in (*arms, *bounds)}
        ranked = _ranked([cells[arm] for arm in arms], [_mean(groups.get(arm), DICE) for arm in arms])
        columns[str(structure)] = [*ranked, *(cells[arm] for arm in bounds)]
    frame = pd.DataFrame(columns, dtype=object)
    methods = [name_of(arm) for arm in (*arms, *bounds)]
    frame.insert(0, "Method", methods, allow_duplicates=True)  # a structure may be called so, too
    caption = (
        f"Dice in points on the test cases after round {last}, mean ± SD (n - 1) over the cases of all seeds together; "
        f"{_sample(n_seeds, n_cases)}. A structure that is absent in reference and prediction is left out. "
        "Bold: best, underlined: second best of the column, without the bounds."
    )
    return Table("structures", "Dice in points, by structure", caption, frame)


# Other tables ---------------------------------------------------------------------------------------------------------


def aubc_table(rows: Rows) -> Table:
    """Make a table of the area under the budget curve of Dice with its interval, and of the difference of each arm from
    the reference."""
    intervals = aubc_intervals(rows.results, rows.arms)
    points = 100 * intervals[["aubc", "ci_low", "ci_high"]]
    cells = [Cell(_interval(*numbers, signed=False)) for numbers in points.itertuples(index=False)]
    tests = {row["arm"]: row for row in rows.tests[rows.tests["round"] == AUBC].to_dict("records")}
    reference = name_of(rows.tests["reference"].iloc[0]) if len(rows.tests) else ""
    frame = pd.DataFrame(
        {"Method": intervals["arm"].map(name_of), "AUBC (95 % interval)": _ranked(cells, list(points["aubc"]))},
        dtype=object,
    )
    if tests:
        of_arms = [tests.get(arm) for arm in intervals["arm"]]
        frame[f"{reference} minus it (95 % interval)"] = [_difference(row) for row in of_arms]
        frame["p"] = [p_text(row["p"]) if row else "-" for row in of_arms]
        frame["p (Holm)"] = [p_text(row["p_holm"]) if row else "-" for row in of_arms]
    frame["Seeds"] = intervals["n_seeds"].astype(str)
    frame["Test cases"] = intervals["n_cases"].astype(str)
    frame["Left out"] = intervals["left_out"].replace("", "-")
    caption = (
        "Area under the curve of Dice (in points) over the number of labelled cases from round 1 on, divided by the "
        "range of budgets. Intervals and p: seeds and test cases as crossed random effects; they are not known with a "
        f"single seed. p (Holm): corrected over the arms. †: a difference is shown, p (Holm) < {ALPHA}. Bold: best, "
        "underlined: second best."
    )
    return Table("aubc", "Area under the budget curve", caption, frame)


def attribution_table(parts: pd.DataFrame) -> Table:
    """Make a table of the parts of the gain of ASSFT over random sampling. parts: see `attribution`."""
    frame = pd.DataFrame(
        {
            "Part": parts["part"],
            "Gain (95 % interval)": [
                _interval(*(100 * np.array(numbers)), signed=True)
                for numbers in parts[["gain", "ci_low", "ci_high"]].itertuples(index=False)
            ],
            "Seeds": parts["n_seeds"].astype(str),
            "Test cases": parts["n_cases"].astype(str),
            "Left out": parts["left_out"].replace("", "-"),
        },
        dtype=object,
    )
    caption = (
        "What the gain of ASSFT over random sampling in AUBC (in points) consists of. A part counts with what it adds, "
        f"on average over {count(int(parts['n_orders'].iloc[0]), 'order')} of adding the parts; pseudo-labels need a "
        "second stage. Intervals: seeds and test cases as crossed random effects, not known with a single seed."
    )
    return Table("attribution", "Parts of the gain", caption, frame)


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or not row["n_cases"]:
        return "-"
    mark = "" if row["verdict"] == NOT_SHOWN else "†"
    return _interval(*(100 * row[name] for name in ("difference", "ci_low", "ci_high")), signed=True) + mark


def _interval(mean: float, low: float, high: float, *, signed: bool) -> str:
    """Return a mean with its interval, without one if it is not known, or `missing`."""
    if math.isnan(mean):
        return "missing"
    sign = "+" if signed else ""
    return f"{mean:{sign}.2f}" + ("" if math.isnan(low) else f" ({low:{sign}.2f} to {high:{sign}.2f})")


def selection_table(quality: pd.DataFrame, *, paper: pd.DataFrame | None = None) -> Table:
    """Make a table like Table 8: the Mann-Whitney U test of selected against unselected cases.

    quality: rows of pseudo_label_quality.csv (arm, seed, fold, round, case, selection, selected, dice). There is a row
    per arm, selection, seed and fold. A cell has p, and then the mean Dice and the number of the selected and the
    unselected cases.
    """
    rounds = {int(r): f"r = {r}" for r in sorted(quality["round"].unique())}
    rows: list[dict[str, str]] = []
    tests_of = selection_test(_with_fold(quality)).groupby(["arm", "selection", "seed", "fold"], sort=False)
    for (arm, selection, seed, fold), tests in tests_of:
        title = f"{name_of(str(arm))}, {selection}, seed {_run(seed, fold)}"
        row = {"Selection": title, **dict.fromkeys(rounds.values(), "missing")}
        for test in tests.to_dict("records"):
            sizes = [_mean_n(test[f"mean_{which}"], test[f"n_{which}"]) for which in ("selected", "unselected")]
            row[rounds[test["round"]]] = f"{p_text(test['p'])} ({'; '.join(sizes)})"
        rows.append(row)
    if paper is not None and len(paper):
        printed = dict(zip(paper["round"], paper["p"], strict=True))
        of_paper = {header: f"{printed[r]:.2e}" if r in printed else "-" for r, header in rounds.items()}
        rows.append({"Selection": f"{name_of('assft')}, paper", **of_paper})
    caption = (
        "p of the Mann-Whitney U test (two-sided, uncorrected) between the Dice of the pseudo-labels of selected and "
        "unselected cases; in brackets, the mean Dice in points and the number of the selected cases; then those of "
        "the unselected cases. -: one of the two groups is empty."
    )
    return Table("selection", "Selected against unselected pseudo-labels", caption, pd.DataFrame(rows, dtype=object))


def _mean_n(mean: float, n: int) -> str:
    return f"{100 * mean:.1f}, n = {n}" if n else "n = 0"


def effect_table(effect: pd.DataFrame) -> Table:
    """Make a table of the pseudo-labels that were trained on and of what they gained. effect: see
    `pseudo_label_effect`."""
    rows = [
        {
            "Arm": name_of(row["arm"]),
            "Round": str(row["round"]),
            "Pseudo-labels": str(row["n"]),
            "Dice": _number(100 * row["dice"], 1),
            "Wrong voxels": "-" if math.isnan(row["wrong"]) else f"{100 * row['wrong']:.1f} %",
            "Counterpart": name_of(row["counterpart"]) if row["counterpart"] else "-",
            "Gain over it (95 % interval)": "-"
            if math.isnan(row["gain"])
            else _interval(*(100 * row[name] for name in ("gain", "ci_low", "ci_high")), signed=True),
            "Wrong voxels and gain": "-"
            if math.isnan(row["rho"])
            else f"rho = {row['rho']:+.2f}, n = {row['n_rho']:.0f}",
        }
        for row in effect.to_dict("records")
    ]
    caption = (
        "The pseudo-labels that the second stages were trained on, all seeds together: their mean Dice in points, and "
        "the mean share of wrong voxels, of those with a structure in the pseudo-label or in the hidden label. Gain: "
        "mean Dice on the test cases in points, minus that of the arm with the same query and a second stage without "
        "pseudo-labels; intervals over seeds and test cases. rho: Spearman's rank correlation between the share of "
        "wrong voxels and the gain of a run in a round, both relative to the mean of the round; below 0 if worse "
        "pseudo-labels went with smaller gains. It describes n rounds of these runs and tests nothing."
    )
    return Table("pseudo_labels", "Pseudo-labels and what they gained", caption, pd.DataFrame(rows, dtype=object))


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _with_fold(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a file with the column `fold`, which files of version 0.1.0 do not have."""
    return rows.assign(fold=rows["fold"].fillna(0).astype(int) if "fold" in rows else 0)


def _run(seed: int, fold: int) -> str:
    """Return the name of a run of an arm: its seed, and its fold unless that is the first."""
    return f"{seed} (fold {fold})" if fold else f"{seed}"


def cost_table(runs: pd.DataFrame) -> Table:
    """Make a table of the annotated cases and minutes of a run, with a row per arm; means over the runs of which all
    rounds are done."""
    columns = {
        "annotated_cases": "Annotated cases",
        "annotation_minutes": "Annotation, min",
        "training_minutes": "Training, min",
        "query_minutes": "Query, min",
        "total_minutes": "Total, min",
    }
    rows, runs = [], _with_fold(runs)
    runs = runs.assign(run=[_run(*key) for key in runs[["seed", "fold"]].itertuples(index=False)])
    for arm in ordered(runs["arm"]):
        of_arm = runs[runs["arm"] == arm]
        n_rounds = of_arm["run"].value_counts()
        not_done = of_arm.loc[of_arm["status"] != "done", "run"]
        unfinished = sorted({*not_done, *n_rounds[n_rounds < n_rounds.max()].index})
        done = of_arm[~of_arm["run"].isin(unfinished)]
        per_run = done.groupby("run")[list(columns)].sum(min_count=1)
        means = per_run.astype(float).mean()
        if done["annotation_minutes"].isna().any():  # a sum of those that are known would be too small
            means["annotation_minutes"] = np.nan
        rows.append(
            {"Method": name_of(arm), "Runs": str(len(per_run))}
            | {title: "-" if np.isnan(means[column]) else f"{means[column]:.1f}" for column, title in columns.items()}
            | {"Device": ", ".join(sorted(set(done["device"].dropna().astype(str)))) or "-"}
            | {"Left out": named("seed", unfinished) or "-"}
        )
    caption = (
        "Cost of one run (all rounds of one seed and fold), mean over the complete runs. Annotation: minutes that "
        "annotators recorded; - if they are not known for all cases, as with the oracle. Left out: seeds, and folds, "
        "with a missing round."
    )
    return Table("cost", "Cost", caption, pd.DataFrame(rows, dtype=object))
