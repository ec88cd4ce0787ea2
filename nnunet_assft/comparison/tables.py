"""Tables in the form of the paper's Tables 1-8, and what they cost, as CSV, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nnunet_assft.comparison.paper_results import name_of, ordered
from nnunet_assft.comparison.statistics import (
    ALPHA,
    BOUNDS,
    aubc_intervals,
    case_scores,
    count,
    mann_whitney,
    named,
    p_text,
)
from nnunet_assft.runtime.files import write_text

ALPHA_OF_PAPER = 0.01  # the paper's `*`
DKD_ABLATION = ("random", "dkd_high", "dkd_low")  # Table 6
ASD_ABLATION = ("entropy", "asd_high_tau1", "asd_low_tau1", "asd_high", "asd_low")  # Table 7
FACTORS = {"dice": 100, "nsd": 100, "hd95_mm": 1}  # to the unit that is printed
METRIC_NAMES = {"dice": "Dice in points", "nsd": "NSD in points", "hd95_mm": "HD95 in mm"}


@dataclass(frozen=True)
class Cell:
    """A number as printed. rank: 1 is the best of its column (bold), 2 the second best (underlined), 0 neither."""

    text: str
    rank: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """name: of its files; frame: strings and `Cell`s, the first column names the row."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame


def comparison_tables(
    results: pd.DataFrame,
    comparison: pd.DataFrame,
    runs: pd.DataFrame,
    pool_size: int,
    *,
    quality: pd.DataFrame | None = None,
    paper: pd.DataFrame | None = None,
) -> list[Table]:
    """Every table of a comparison for which there are arms: budgets (Dice, NSD, HD95), structures, ablations, AUBC, selection, cost.

    results: rows of results.csv; comparison: `statistics.compare_arms` of them; runs: rows of runs.csv; quality: rows of
    pseudo_label_quality.csv; paper: rows of `paper_results` of the comparison's domain, if it is one of the paper's.
    """
    arms = [arm for arm in ordered(results["arm"]) if arm not in BOUNDS]

    def printed(*numbers: int) -> pd.DataFrame | None:
        return None if paper is None else paper[paper["table"].isin(numbers)]

    tables = [
        budget_table(results, comparison, pool_size, "dice", arms, paper=printed(1, 2, 3, 4, 5)),
        budget_table(results, None, pool_size, "nsd", arms),
        budget_table(results, None, pool_size, "hd95_mm", arms),
        structure_table(results, arms),
    ]
    for name, ablation, number in (("dkd_ablation", DKD_ABLATION, 6), ("asd_ablation", ASD_ABLATION, 7)):
        present = [arm for arm in ablation if arm in arms]
        if set(present) - {"random", "entropy"}:
            without_bounds = results[~results["arm"].isin(BOUNDS)]
            table = budget_table(without_bounds, None, pool_size, "dice", present, paper=printed(number))
            tables.append(replace(table, name=name, title=f"Ablation of {name[:3].upper()}: {table.title}"))
    tables.append(aubc_table(results))
    if quality is not None and len(quality):
        tables.append(selection_table(quality, paper=printed(8)))
    return [*tables, cost_table(runs)]


# Tables 1-7 -------------------------------------------------------------------------------------------------------------


def budget_table(
    results: pd.DataFrame,
    comparison: pd.DataFrame | None,
    pool_size: int,
    metric: str,
    arms: Sequence[str],
    *,
    paper: pd.DataFrame | None = None,
) -> Table:
    """Tables 1-5: a row per arm, a column per budget (round 1 on) between the bounds; mean ± SD.

    As the paper prints them: per case the mean over structures, then mean and SD (n - 1) over cases, those of all seeds pooled.
    Marks need `comparison` (of Dice). A cell over fewer scores than seeds times cases says its n; one of HD95 says how many
    structures were missed (infinite) and left out. The numbers of `paper` get rows of their own below, with their budgets.
    """
    scores = case_scores(results, metric)
    n_seeds, n_cases = scores["seed"].nunique(), scores["case"].nunique()
    columns = _budget_columns(scores, pool_size)
    groups = {(str(arm), int(r)): group for (arm, r), group in scores.groupby(["arm", "round"])}
    marks = (
        {} if comparison is None else {(row["arm"], row["round"]): _mark(row) for row in comparison.to_dict("records")}
    )
    frame = pd.DataFrame({"Method": [name_of(arm) for arm in arms]}, dtype=object)
    for column in columns:
        keys = [(column.bound or arm, column.round) for arm in arms]
        cells = [Cell(_mean_sd(groups.get(key), metric, n_seeds * n_cases, marks.get(key, ""))) for key in keys]
        if (
            column.bound
        ):  # the bounds are those of the network that is adapted; the same for all its arms, so nobody is best
            frame[column.header] = [
                "-" if arm.startswith("nnunet") else cell for arm, cell in zip(arms, cells, strict=True)
            ]
        else:
            frame[column.header] = _ranked(
                cells, [_mean(groups.get(key), metric) for key in keys], lower_is_better=metric == "hd95_mm"
            )
    if paper is not None:
        frame = pd.concat([frame, _paper_rows(paper, arms, columns)], ignore_index=True)
    caption = _budget_caption(metric, n_seeds, n_cases, comparison, paper)
    return Table(f"budgets_{metric.removesuffix('_mm')}", f"{METRIC_NAMES[metric]}, by budget", caption, frame)


class _Column(NamedTuple):
    header: str
    bound: str | None  # None: every arm's own number
    round: int


def _budget_columns(scores: pd.DataFrame, pool_size: int) -> list[_Column]:
    last = {str(arm): int(r) for arm, r in scores.groupby("arm")["round"].max().items()}
    rounds = sorted(int(r) for r in scores.loc[~scores["arm"].isin(BOUNDS) & (scores["round"] > 0), "round"].unique())
    lower = [_Column("Lower bound, 0 %", "lower_bound", 0)] if "lower_bound" in last else []
    upper = [_Column("Upper bound, 100 %", "upper_bound", last["upper_bound"])] if "upper_bound" in last else []
    return [*lower, *(_Column(_budget_header(scores, r, pool_size), None, r) for r in rounds), *upper]


def _budget_header(scores: pd.DataFrame, r: int, pool_size: int) -> str:
    counts = scores.loc[(scores["round"] == r) & ~scores["arm"].isin(BOUNDS), "n_labelled"]
    low, high = int(counts.min()), int(counts.max())
    number = f"{low}" if low == high else f"{low}-{high}"
    share = " to ".join(f"{100 * n / pool_size:.3g}" for n in dict.fromkeys((low, high)))
    return f"r = {r}: {number} case{'' if number == '1' else 's'}, {share} %"


def _mean(group: pd.DataFrame | None, metric: str) -> float:
    return math.nan if group is None else float(FACTORS[metric] * group["score"].mean())


def _mean_sd(group: pd.DataFrame | None, metric: str, expected: int, mark: str) -> str:
    if group is None:
        return "missing"
    known = FACTORS[metric] * group["score"].dropna()
    notes = [f"n = {len(known)}"] if len(known) != expected else []
    notes += [f"{int(group['missed'].sum())} missed"] if group["missed"].any() else []
    numbers = f"{known.mean():.2f}{mark} ± {known.std(ddof=1):.2f}".replace("nan", "-")  # no SD of one value
    return numbers + (f" ({', '.join(notes)})" if notes else "")


def _mark(row: dict[str, float]) -> str:
    return ("*" if row["p_mann_whitney"] < ALPHA_OF_PAPER else "") + ("†" if row["p_holm"] < ALPHA else "")


def _ranked(cells: Sequence[Cell], means: Sequence[float], *, lower_is_better: bool) -> list[Cell]:
    """The cells with the best and the second best mean marked; means that are equal as printed share a rank."""
    printed = [round(mean, 2) for mean in means]
    best = sorted({mean for mean in printed if not math.isnan(mean)}, reverse=not lower_is_better)
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


def _budget_caption(
    metric: str, n_seeds: int, n_cases: int, comparison: pd.DataFrame | None, paper: pd.DataFrame | None
) -> str:
    text = (
        f"{METRIC_NAMES[metric]} on the test cases, mean ± SD: the mean over structures of each case, then mean and SD (n - 1) over "
        f"the cases of all seeds together; {_sample(n_seeds, n_cases)}. A structure that is absent in reference and prediction has no say. "
        "Bold: best, underlined: second best of the column (bounds and paper apart)."
    )
    if metric == "hd95_mm":
        text += (
            " Lower is better. A structure that is absent in the prediction or in the reference only has no distance; it is left out, "
            "and the cell counts these (missed), so a method that misses structures looks better than it is."
        )
    if comparison is not None and len(comparison):
        reference = name_of(comparison["reference"].iloc[0])
        text += (
            f" *: p < {ALPHA_OF_PAPER} against {reference}, Mann-Whitney U, uncorrected, cases of all seeds taken as independent (the "
            f"paper's test). †: p < {ALPHA} against {reference}, Wilcoxon on cases averaged over seeds, Holm over the arms of the round."
        )
    if paper is not None and len(paper):
        text += " Rows of the paper: its printed numbers and budgets; what its SD is over and how many seeds it has is not stated."
    return text


def _sample(n_seeds: int, n_cases: int) -> str:
    return (
        f"{count(n_seeds, 'seed')}, {count(n_cases, 'test case')}, n = {n_seeds * n_cases} unless a cell says otherwise"
    )


def structure_table(results: pd.DataFrame, arms: Sequence[str]) -> Table:
    """A row per arm, a column per structure: Dice on the test cases after the last round; mean ± SD over cases, all seeds pooled."""
    last = int(results.loc[~results["arm"].isin(BOUNDS), "round"].max())
    of_last = results[(results["round"] == last) | (results["arm"] == "lower_bound")]
    bounds = [arm for arm in ("upper_bound", "lower_bound") if arm in set(results["arm"])]
    n_seeds, n_cases = results["seed"].nunique(), results["case"].nunique()
    frame = pd.DataFrame({"Method": [name_of(arm) for arm in (*arms, *bounds)]}, dtype=object)
    for structure in dict.fromkeys(results["structure"]):
        groups = {
            str(arm): group for arm, group in case_scores(of_last[of_last["structure"] == structure]).groupby("arm")
        }
        cells = {arm: Cell(_mean_sd(groups.get(arm), "dice", n_seeds * n_cases, "")) for arm in (*arms, *bounds)}
        ranked = _ranked(
            [cells[arm] for arm in arms], [_mean(groups.get(arm), "dice") for arm in arms], lower_is_better=False
        )
        frame[str(structure)] = [*ranked, *(cells[arm] for arm in bounds)]
    caption = (
        f"Dice in points on the test cases after round {last}, mean ± SD (n - 1) over the cases of all seeds together; "
        f"{_sample(n_seeds, n_cases)}. A structure that is absent in reference and prediction has no say. "
        "Bold: best, underlined: second best of the column (bounds apart)."
    )
    return Table("structures", "Dice in points, by structure", caption, frame)


# Other tables -----------------------------------------------------------------------------------------------------------


def aubc_table(results: pd.DataFrame) -> Table:
    """A row per arm: area under the budget curve of Dice, with its bootstrap interval and what it rests on."""
    intervals = aubc_intervals(results)
    cells = [
        Cell(
            "missing"
            if not row["n_cases"]
            else f"{100 * row['aubc']:.2f} ({100 * row['ci_low']:.2f} to {100 * row['ci_high']:.2f})"
        )
        for row in intervals.to_dict("records")
    ]
    frame = pd.DataFrame(
        {
            "Method": intervals["arm"].map(name_of),
            "AUBC (95 % interval)": _ranked(cells, list(100 * intervals["aubc"]), lower_is_better=False),
            "Seeds": intervals["n_seeds"].astype(str),
            "Test cases": intervals["n_cases"].astype(str),
            "Left out": intervals["left_out"].replace("", "-"),
        },
        dtype=object,
    )
    caption = (
        "Area under the curve of Dice (points) over the number of labelled cases from round 1 on, divided by the span of budgets; "
        "95 % interval by bootstrap over seeds and test cases (2000 draws), too narrow with few seeds. Bold: best, underlined: second best."
    )
    return Table("aubc", "Area under the budget curve", caption, frame)


def selection_table(quality: pd.DataFrame, *, paper: pd.DataFrame | None = None) -> Table:
    """Table 8: p of the Mann-Whitney U test, Dice of selected against unselected cases; a row per arm, selection and seed.

    quality: rows of pseudo_label_quality.csv (arm, seed, round, case, selection, selected, dice). A cell has p, then mean Dice
    and number of the selected and the unselected cases.
    """
    rounds = sorted(int(r) for r in quality["round"].unique())
    rows: list[dict[str, str]] = []
    for (arm, selection, seed), run in quality.groupby(["arm", "selection", "seed"], sort=False):
        row = {"Selection": f"{name_of(str(arm))}, {selection}, seed {seed}"}
        for r in rounds:
            of_round = run[run["round"] == r]
            chosen = of_round["selected"].astype(bool)
            groups = [of_round.loc[mask, "dice"].dropna() for mask in (chosen, ~chosen)]
            sizes = "; ".join(f"{100 * g.mean():.1f}, n = {len(g)}" if len(g) else "n = 0" for g in groups)
            row[f"r = {r}"] = f"{p_text(mann_whitney(*groups))} ({sizes})" if len(of_round) else "missing"
        rows.append(row)
    if paper is not None and len(paper):
        printed = dict(zip(paper["round"], paper["p"], strict=True))
        rows.append(
            {"Selection": "ASSFT, paper"} | {f"r = {r}": f"{printed[r]:.2e}" if r in printed else "-" for r in rounds}
        )
    caption = (
        "p of the Mann-Whitney U test (two-sided, uncorrected) between the Dice of the pseudo-labels of selected and unselected cases; "
        "in brackets mean Dice in points and number of cases, selected; unselected. -: one of the two groups is empty."
    )
    return Table("selection", "Selected against unselected pseudo-labels", caption, pd.DataFrame(rows, dtype=object))


def cost_table(runs: pd.DataFrame) -> Table:
    """A row per arm: annotated cases and minutes per run, means over the seeds whose rounds are all done; rounds are summed."""
    columns = {
        "annotated_cases": "Annotated cases",
        "annotation_minutes": "Annotation, min",
        "training_minutes": "Training, min",
        "query_minutes": "Query, min",
        "total_minutes": "Total, min",
    }
    rows = []
    for arm in ordered(runs["arm"]):
        of_arm = runs[runs["arm"] == arm]
        rows_per_seed = of_arm["seed"].value_counts()
        unfinished = sorted(
            {*of_arm.loc[of_arm["status"] != "done", "seed"], *rows_per_seed[rows_per_seed < rows_per_seed.max()].index}
        )
        done = of_arm[~of_arm["seed"].isin(unfinished)]
        per_seed = done.groupby("seed")[list(columns)].sum(min_count=1)
        means = per_seed.astype(float).mean()
        rows.append(
            {"Method": name_of(arm), "Seeds": str(len(per_seed))}
            | {title: "-" if np.isnan(means[column]) else f"{means[column]:.1f}" for column, title in columns.items()}
            | {"Device": ", ".join(sorted(set(done["device"].dropna().astype(str)))) or "-"}
            | {"Left out": named("seed", unfinished) or "-"}
        )
    caption = (
        "Cost of one run (all rounds of one seed), mean over the seeds that are complete. Annotation: minutes that readers recorded, - if "
        "labels came from the oracle. Left out: seeds with a round that is missing or failed."
    )
    return Table("cost", "Cost", caption, pd.DataFrame(rows, dtype=object))


# Files ------------------------------------------------------------------------------------------------------------------


def write_table(folder: Path, table: Table) -> None:
    """NAME.csv, NAME.md and NAME.tex in `folder`. The LaTeX needs no package."""
    write_text(folder / f"{table.name}.csv", table.frame.to_csv(index=False))
    write_text(folder / f"{table.name}.md", markdown(table))
    write_text(folder / f"{table.name}.tex", latex(table))


def markdown(table: Table) -> str:
    """The table for GitHub and mkdocs, its caption above it."""
    style = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}

    def cell(value: object) -> str:
        text = str(value).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
        return style[value.rank].format(text) if isinstance(value, Cell) else text

    header = list(map(cell, table.frame.columns))
    lines = [
        header,
        ["---"] * len(header),
        *([cell(value) for value in row] for row in table.frame.itertuples(index=False, name=None)),
    ]
    caption = table.caption.replace("*", "\\*")
    return f"{caption}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "τ": r"$\tau$",
}


def latex(table: Table) -> str:
    """A `table` environment."""

    def escaped(text: object) -> str:
        return "".join(_LATEX.get(character, character) for character in str(text))

    style = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}

    def cell(value: object) -> str:
        return style[value.rank].format(escaped(value)) if isinstance(value, Cell) else escaped(value)

    rows = [" & ".join(map(cell, row)) + r" \\" for row in table.frame.itertuples(index=False, name=None)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{escaped(table.caption)}}}",
            f"\\label{{tab:{table.name}}}",
            f"\\begin{{tabular}}{{{'l' * len(table.frame.columns)}}}",
            r"\hline",
            " & ".join(map(escaped, table.frame.columns)) + r" \\",
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
