"""The figures of the report: each function takes tables and gives a Plot, whose `data` is exactly what is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import stdtrit
from sklearn.decomposition import PCA

from nnunet_assft.comparison.arms import BOUNDS, name_of, ordered
from nnunet_assft.comparison.statistics import bootstrap_interval, case_scores, p_text, selection_test
from nnunet_assft.report.plot import (
    INK,
    MUTED,
    NARROW,
    PAPER,
    RULE,
    SERIES,
    WIDE,
    Plot,
    draw_on_axes,
)

MARKERS = "osD^vP"
MANY = 2000  # points: more are drawn as pixels in an SVG
CONFIDENCE = 0.95


# Learning curves -------------------------------------------------------------------------------------------------------


def curve(dice: pd.DataFrame) -> pd.DataFrame:
    """One row per round: n_labelled, n_cases, mean, sd, low, high. Dice of a case: the mean over its structures that are not absent.

    The interval is Student's, over test cases.
    """
    rows = []
    per_case = dice.groupby(["round", "n_labelled", "case"])["dice"].mean().dropna()
    for (r, n_labelled), group in per_case.groupby(["round", "n_labelled"]):
        values = group.to_numpy()
        n, mean = len(values), float(values.mean())
        sd = float(values.std(ddof=1)) if n > 1 else np.nan
        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / np.sqrt(n) if n > 1 else np.nan
        rows.append((r, n_labelled, n, mean, sd, mean - half, mean + half))
    return pd.DataFrame(rows, columns=["round", "n_labelled", "n_cases", "mean", "sd", "low", "high"])


def learning_curve(
    data: pd.DataFrame, x: str = "n_labelled", x_label: str = "annotated cases", warning: str = ""
) -> Plot:
    """data: rows of `curve`, and the column x."""

    def draw(axes: Axes) -> None:
        _band(axes, data[x], data, SERIES[0])
        axes.plot(data[x], data["mean"], color=SERIES[0], marker="o")
        for row in data.itertuples():
            axes.annotate(
                f"{row.mean:.3f}",
                (getattr(row, x), row.mean),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
            )
        axes.set(xlabel=x_label, ylabel="Dice on the test cases", ylim=_limits(data))
        if x == "n_labelled":
            axes.set_xticks(data[x])
        axes.margins(x=0.06)

    n = _range(data["n_cases"])
    first, last = data.iloc[0], data.iloc[-1]
    return Plot(
        name="learning_curve" if x == "n_labelled" else f"learning_curve_{x}",
        title=f"Dice against {x_label}",
        caption=f"Mean over {n} test cases (per case over its structures), one point per round. Band: 95 % interval of the mean over cases "
        "(Student); it does not hold the noise of training.",
        alt=f"Line chart of the mean test Dice against {x_label}: {first['mean']:.3f} at {first[x]:g}, {last['mean']:.3f} at {last[x]:g}.",
        data=data,
        figure=draw_on_axes(draw, WIDE),
        warning=warning,
    )


def _band(axes: Axes, x: pd.Series, data: pd.DataFrame, colour: str) -> None:
    axes.fill_between(x.astype(float), data["low"], data["high"], color=colour, alpha=0.18, linewidth=0)


def _limits(data: pd.DataFrame) -> tuple[float, float]:
    """Room for bands and numbers, inside what Dice can be."""
    low, high = np.nanmin(data[["mean", "low"]].to_numpy()), np.nanmax(data[["mean", "high"]].to_numpy())
    room = 0.12 * max(high - low, 0.1)
    return max(0.0, low - room), min(1.0, high + 1.5 * room) if high < 1 else 1.0


def _range(counts: pd.Series) -> str:
    return f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"


def structure_boxes(dice: pd.DataFrame) -> list[Plot]:
    """One small plot per structure: Dice of the test cases, a box per round."""
    plots = []
    for i, (structure, group) in enumerate(dice.groupby("structure", sort=False)):
        data = group[["round", "case", "dice"]].dropna().reset_index(drop=True)
        rounds = sorted(dice["round"].unique())

        def draw(axes: Axes, data: pd.DataFrame = data, rounds: list[int] = rounds) -> None:
            for r in rounds:
                values = data.loc[data["round"] == r, "dice"].to_numpy()
                _box(axes, r, values, SERIES[0])
            axes.set(
                xlabel="round",
                ylabel="Dice",
                ylim=(-0.03, 1.03),
                xticks=rounds,
                xlim=(min(rounds) - 0.6, max(rounds) + 0.6),
            )

        medians = data.groupby("round")["dice"].median()
        told = ", ".join(f"{m:.2f} in round {r}" for r, m in medians.items())
        plots.append(
            Plot(
                name=f"dice_{i + 1:02d}_{re.sub(r'[^A-Za-z0-9]+', '_', str(structure))}",
                title=str(structure).replace("_", " "),
                caption="",
                alt=f"Box plots of the Dice of {structure} per round. Medians: {told or 'none'}.",
                data=data,
                figure=draw_on_axes(draw, NARROW),
                narrow=True,
            )
        )
    return plots


def _box(
    axes: Axes, position: float, values: np.ndarray, colour: str, *, filled: bool = True, width: float = 0.5
) -> None:
    """Median, quartiles, whiskers to 1.5 times their distance, and every value as a dot."""
    if not len(values):
        return
    face = {"facecolor": colour, "alpha": 0.25} if filled else {"facecolor": "none"}
    line = {"color": colour, "linewidth": 1.1}
    axes.boxplot(
        [values],
        positions=[position],
        widths=width,
        showfliers=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={**face, "edgecolor": colour, "linewidth": 1.1},
        medianprops={"color": INK, "linewidth": 1.5},
        whiskerprops=line,
        capprops=line,
    )
    jitter = np.linspace(-0.28, 0.28, len(values)) * width if len(values) > 1 else np.zeros(1)
    axes.scatter(position + jitter, values, s=7, color=colour, linewidths=0, zorder=3, rasterized=len(values) > MANY)


# Query -----------------------------------------------------------------------------------------------------------------


def scores_plot(r: int, scores: pd.DataFrame, warning: str, random_encoder: bool) -> Plot | None:
    """Ranks of DKD and ASD where both are known, else the strategy's first score, largest first. None if there is nothing to draw."""
    queried = scores["query_rank"].notna()
    legend = {"queried": queried, "not queried": ~queried}
    cut = None
    if {"dkd_rank", "asd_rank", "q"} <= set(scores):
        x, y = "dkd_rank", "asd_rank"
        x_label = "rank of DKD (E⁽⁰⁾ random)" if random_encoder else "rank of DKD"
        y_label, data = "rank of ASD", scores[["case", "query_rank", "dkd_rank", "asd_rank", "q"]]
        cut = float(scores.loc[queried, "q"].min())
        caption = f"Round {r}: the {len(scores)} cases of the query pool, 1 is the largest. Line: the smallest Q that was queried."
    else:
        y = next(
            (name for name in scores if name not in ("case", "query_rank", "position") and scores[name].nunique() > 1),
            "",
        )
        if not y:
            return None
        data = scores[["case", "query_rank", y]].sort_values(y, ascending=False, ignore_index=True)
        x, data = "order", data.assign(order=np.arange(1, len(data) + 1))
        legend = {"queried": data["query_rank"].notna(), "not queried": data["query_rank"].isna()}
        named = {"dkd": "DKD (E⁽⁰⁾ random)", "pakd": "PAKD (E⁽⁰⁾ random)"} if random_encoder else {}
        x_label, y_label = "cases, largest score first", named.get(y, y.replace("_", " "))
        caption = f"Round {r}: score {y} of the {len(scores)} cases of the query pool."

    def draw(axes: Axes) -> None:
        rest, chosen = data[legend["not queried"]], data[legend["queried"]]
        axes.scatter(
            rest[x],
            rest[y],
            s=20,
            facecolors="none",
            edgecolors=MUTED,
            linewidths=1,
            label="not queried",
            rasterized=len(rest) > MANY,
        )
        axes.scatter(
            chosen[x], chosen[y], s=34, color=SERIES[1], marker="^", edgecolors=PAPER, linewidths=0.5, label="queried"
        )
        if len(chosen) <= 12:
            for row in chosen.itertuples():
                axes.annotate(
                    f"{row.query_rank:.0f}",
                    (getattr(row, x), getattr(row, y)),
                    xytext=(5, 3),
                    textcoords="offset points",
                    fontsize=7,
                )
        axes.set(xlabel=x_label, ylabel=y_label)
        if cut is not None:
            axes.plot(
                [cut - 1.05, 1.05], [1.05, cut - 1.05], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)), zorder=0
            )
            axes.set(xlim=(-0.06, 1.09), ylim=(-0.06, 1.09))
        _legend_below(axes)

    names = ", ".join(data.loc[legend["queried"]].sort_values("query_rank")["case"].head(12))
    return Plot(
        name=f"scores_round_{r:02d}",
        title=f"Scores of round {r}",
        caption=caption + (" Numbers: rank in the query." if queried.sum() <= 12 else ""),
        alt=f"Scatter plot of the scores of {len(scores)} cases in round {r}; queried: {names}.",
        data=data.reset_index(drop=True),
        figure=draw_on_axes(draw, WIDE),
        warning=warning if {"dkd", "pakd", "dkd_rank"} & set(data) else "",
    )


def _legend_below(axes: Axes, columns: int = 4) -> None:
    axes.figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def embedding_map(
    name: str,
    title: str,
    cases: Sequence[str],
    embeddings: np.ndarray,
    marks: Mapping[str, Sequence[str]],
    caption: str,
    warning: str = "",
) -> Plot:
    """The first two principal components of embeddings, (N, d), N >= 2. marks: what is drawn (see looks) -> cases; the first wins."""
    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform(embeddings)
    mark_of = {case: mark for mark in reversed(list(marks)) for case in marks[mark]}
    data = pd.DataFrame(
        {
            "case": list(cases),
            "pc1": points[:, 0],
            "pc2": points[:, 1],
            "mark": [mark_of.get(c, "unlabelled") for c in cases],
        }
    )
    shares = [100 * share for share in np.nan_to_num(pca.explained_variance_ratio_)]
    looks: dict[str, dict[str, Any]] = {
        "unlabelled": {"s": 16, "facecolors": "none", "edgecolors": MUTED, "linewidths": 0.9, "marker": "o"},
        "pseudo-labelled": {"s": 28, "color": SERIES[2], "edgecolors": PAPER, "linewidths": 0.5, "marker": "s"},
        "labelled": {"s": 28, "color": SERIES[0], "edgecolors": PAPER, "linewidths": 0.5, "marker": "o"},
        "queried": {"s": 44, "color": SERIES[1], "edgecolors": PAPER, "linewidths": 0.5, "marker": "^"},
    }

    def draw(axes: Axes) -> None:
        for mark, look in looks.items():
            part = data[data["mark"] == mark]
            if len(part):
                axes.scatter(
                    part["pc1"], part["pc2"], label=f"{mark} ({len(part)})", rasterized=len(part) > MANY, **look
                )
        axes.set(xlabel=f"first component ({shares[0]:.0f} % of variance)", ylabel=f"second ({shares[1]:.0f} %)")
        _legend_below(axes, 2)

    counts = ", ".join(f"{n} {mark}" for mark, n in data["mark"].value_counts().items())
    return Plot(
        name,
        title,
        caption,
        f"Scatter plot of case embeddings in two dimensions: {counts}.",
        data,
        draw_on_axes(draw, WIDE),
        warning,
    )


# Pseudo-labels ---------------------------------------------------------------------------------------------------------


def selection_plot(selection: str, quality: pd.DataFrame, used: bool) -> Plot:
    """quality: rows of one selection strategy, columns round, case, selected, dice. used: it is the one of the experiment."""
    data = quality[["round", "case", "selected", "dice"]].dropna(subset=["dice"]).reset_index(drop=True)
    rounds = sorted(data["round"].unique())

    def draw(axes: Axes) -> None:
        for (r, selected), group in data.groupby(["round", "selected"]):
            position, colour = (r - 0.2, SERIES[2]) if selected else (r + 0.2, MUTED)
            _box(axes, position, group["dice"].to_numpy(), colour, filled=bool(selected), width=0.3)
        axes.scatter([], [], marker="s", color=SERIES[2], label="selected")
        axes.scatter([], [], marker="s", facecolors="none", edgecolors=MUTED, label="not selected")
        axes.set(
            xlabel="round",
            ylabel="Dice of the pseudo-label",
            xticks=rounds,
            xlim=(min(rounds) - 0.6, max(rounds) + 0.6),
        )
        _legend_below(axes, 2)

    tests = list(selection_test(quality).itertuples())
    told = "; ".join(
        f"round {row.round}: {row.n_selected} against {row.n_unselected}, {row.reason or f'p = {p_text(row.p)}'}"
        for row in tests
    )
    medians = "; ".join(
        f"round {row.round}: {row.median_selected:.2f} and {row.median_unselected:.2f}" for row in tests
    )
    return Plot(
        name=f"pseudo_labels_{selection}",
        title=f"Selected by “{selection}”" + (" (this experiment)" if used else ""),
        caption=f"Mann-Whitney U test, two-sided: {told}.",
        alt=f"Box plots of the Dice of selected and not selected cases per round. Medians: {medians}.",
        data=data,
        figure=draw_on_axes(draw, WIDE if used else NARROW),
        narrow=not used,
    )


# Training --------------------------------------------------------------------------------------------------------------


def training_plots(training: pd.DataFrame) -> list[Plot]:
    """Loss and pseudo-Dice over all epochs of the experiment; a new stage begins at each line."""
    data = training.assign(total_epoch=np.arange(1, len(training) + 1))
    starts = data.groupby(["round", "stage"], sort=False)["total_epoch"].min()

    def draw(axes: Axes, columns: Mapping[str, str], label: str) -> None:
        for i, (column, name) in enumerate(columns.items()):
            for j, (_, part) in enumerate(data.groupby(["round", "stage"], sort=False)):
                axes.plot(
                    part["total_epoch"],
                    part[column],
                    color=SERIES[i],
                    linestyle=("-", (0, (4, 1.5)))[i],
                    linewidth=1.2,
                    marker="." if len(part) < 3 else None,
                    label=None if j else name,
                )
        for (r, stage), start in starts.items():
            axes.axvline(start - 0.5, color=RULE, linewidth=1, zorder=0)
            if stage == "supervised" and (data["round"] == r).sum() > 0.08 * len(data):
                axes.annotate(
                    f"round {r}",
                    (start - 0.5, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(2, -2),
                    textcoords="offset points",
                    fontsize=6.5,
                    va="top",
                    color=MUTED,
                )
        axes.set(xlabel="epochs so far", ylabel=label)
        axes.grid(axis="x", visible=False)
        if len(columns) > 1:
            _legend_below(axes)

    stages = f"{len(starts)} stages of training"
    losses, dice = (
        {"train_loss": "training", "val_loss": "validation, on training cases"},
        {"pseudo_dice": "pseudo-Dice"},
    )
    keys = ["round", "stage", "epoch", "total_epoch"]
    return [
        Plot(
            "training_loss",
            "Loss",
            f"{stages}; nnU-Net's loss (Dice and cross-entropy). Its validation cases are training cases: "
            "there is no other label.",
            f"Line chart of the loss over {len(data)} epochs.",
            data[[*keys, *losses]],
            draw_on_axes(lambda axes: draw(axes, losses, "loss"), WIDE),
        ),
        Plot(
            "training_pseudo_dice",
            "Pseudo-Dice",
            "nnU-Net's pseudo-Dice per epoch, mean over structures, on patches of training cases. "
            "It says that training ran, not how good the model is.",
            f"Line chart of the pseudo-Dice over {len(data)} epochs.",
            data[[*keys, *dice]],
            draw_on_axes(lambda axes: draw(axes, dice, "pseudo-Dice, training cases"), WIDE),
        ),
    ]


# Comparison ------------------------------------------------------------------------------------------------------------


def arm_curves(results: pd.DataFrame) -> pd.DataFrame:
    """One row per arm and round: arm, round, n_labelled, n_seeds, n_cases, mean, low, high.

    mean: over the seeds that have the round and the cases that all of these have. low, high: `statistics.bootstrap_interval`.
    """
    rows = []
    scores = case_scores(results).dropna(subset=["score"])
    groups = {(str(arm), int(r)): group for (arm, r), group in scores.groupby(["arm", "round"])}
    order = ordered(scores["arm"])
    for arm, r in sorted(groups, key=lambda key: (order.index(key[0]), key[1])):
        group = groups[arm, r]
        table = group.pivot_table(index="seed", columns="case", values="score").dropna(axis="columns")  # (seeds, cases)
        low, high = bootstrap_interval(table.to_numpy())
        rows.append((arm, r, group["n_labelled"].max(), *table.shape, float(table.to_numpy().mean()), low, high))
    return pd.DataFrame(rows, columns=["arm", "round", "n_labelled", "n_seeds", "n_cases", "mean", "low", "high"])


def arms_plot(curves: pd.DataFrame, warning: str) -> Plot:
    """The means of all arms in one picture; bounds are lines across it."""
    arms = [arm for arm in curves["arm"].unique() if arm not in BOUNDS]
    looks = {
        arm: (SERIES[i % 6], MARKERS[i % 6], ("-", (0, (4, 1.5)), (0, (1, 1.2)))[i // 6 % 3])
        for i, arm in enumerate(arms)
    }
    bounds = curves[curves["arm"].isin(BOUNDS)]
    upper = bounds[bounds["arm"] == "upper_bound"]  # the lower one would press the curves together

    def draw(axes: Axes) -> None:
        for arm in arms:
            colour, marker, dashes = looks[arm]
            part = curves[curves["arm"] == arm]
            axes.plot(
                part["n_labelled"],
                part["mean"],
                color=colour,
                marker=marker,
                linestyle=dashes,
                markersize=3.8,
                linewidth=1.2,
                label=name_of(arm),
            )
        for mean in upper["mean"]:
            axes.axhline(mean, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
            axes.annotate(
                name_of("upper_bound"),
                (0, mean),
                xycoords=("axes fraction", "data"),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=7,
                color=MUTED,
            )
        axes.set(xlabel="annotated cases", ylabel="Dice on the test cases")
        axes.set_xticks(sorted(curves.loc[~curves["arm"].isin(BOUNDS), "n_labelled"].unique()))
        _legend_below(axes, 3)

    last = curves[~curves["arm"].isin(BOUNDS)].groupby("arm", sort=False).tail(1).sort_values("mean", ascending=False)
    told = ", ".join(f"{name_of(row.arm)} {row.mean:.3f}" for row in last.itertuples())
    caption = f"Mean over {_range(curves['n_cases'])} test cases and {_range(curves['n_seeds'])} seeds. Intervals are in the panels."
    caption += "".join(f" {name_of(row.arm)}: {row.mean:.3f}." for row in bounds.itertuples())
    alt = f"Line chart of the mean test Dice of {len(arms)} arms. At the end: {told}."
    size = (WIDE[0], WIDE[1] + 0.16 * (len(arms) // 3 + 1))
    return Plot("comparison_curves", "All arms", caption, alt, curves, draw_on_axes(draw, size), warning)


def arm_panels(curves: pd.DataFrame, warning_of: Callable[[str], str]) -> list[Plot]:
    """One small plot per arm with its band, in front of all others."""
    shown = curves[~curves["arm"].isin(BOUNDS)]
    limits = _limits(shown)
    plots = []
    for i, arm in enumerate(shown["arm"].unique()):
        data = shown[shown["arm"] == arm].sort_values("n_labelled").reset_index(drop=True)

        def draw(axes: Axes, arm: str = arm, data: pd.DataFrame = data) -> None:
            for other, part in shown.groupby("arm", sort=False):
                if other == "random" != arm:
                    axes.plot(
                        part["n_labelled"],
                        part["mean"],
                        color=INK,
                        linewidth=1,
                        linestyle=(0, (3, 2)),
                        label=name_of(other),
                    )
                elif other != arm:
                    axes.plot(part["n_labelled"], part["mean"], color=RULE, linewidth=1)
            _band(axes, data["n_labelled"], data, SERIES[0])
            axes.plot(data["n_labelled"], data["mean"], color=SERIES[0], marker="o")
            axes.set(xlabel="annotated cases", ylabel="Dice", ylim=limits, xticks=sorted(shown["n_labelled"].unique()))
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower right")

        n = f"{_range(data['n_cases'])} cases, {_range(data['n_seeds'])} seeds"
        told = ", ".join(f"{row.mean:.3f} at {row.n_labelled}" for row in data.itertuples())
        title, name = name_of(arm), f"arm_{i + 1:02d}_{re.sub(r'[^A-Za-z0-9]+', '_', arm)}"
        alt = f"Learning curve of {title}: {told}."
        plots.append(Plot(name, title, n, alt, data, draw_on_axes(draw, NARROW), warning_of(arm), narrow=True))
    return plots
