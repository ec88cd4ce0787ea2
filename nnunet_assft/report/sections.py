"""What the report says, in order: one function per section, from the gathered tables to text, figures and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from nnunet_assft.active.options import table as options_table
from nnunet_assft.active.stopping import advice
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.annotation.gate import structures
from nnunet_assft.comparison.arms import name_of
from nnunet_assft.report import figures
from nnunet_assft.report.images import (
    MAX_CASES,
    MAX_VIEWER_BYTES,
    MAX_VOXELS,
    load_volume,
    queried_cases,
    viewer_cases,
    why_no_images,
    window_of,
)
from nnunet_assft.report.material import Material, uses_dkd
from nnunet_assft.report.overlay import overlay_plot
from nnunet_assft.report.plot import Plot

DKD_COLUMNS = ("pakd", "pd", "dkd", "dkd_minmax", "dkd_rank", "q")
RANDOM_ENCODER = (
    "E⁽⁰⁾ is random: the experiment was planned without pretrained weights. DKD compares with a random encoder here and says nothing "
    "about DKD with a pretrained one."
)
BESIDE = "E⁽⁰⁾ is random here, and so is what DKD compares with."  # short, for every figure and table
MAX_ROWS = 200


@dataclass(frozen=True)
class Table:
    """name: of its CSV. marked: column -> what is said in its head. folded: closed until somebody opens it."""

    name: str
    title: str
    data: pd.DataFrame
    caption: str = ""
    warning: str = ""
    marked: Mapping[str, str] = field(default_factory=dict)
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """missing: why there is nothing to see, or not all of it."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    warning: str = ""
    missing: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    viewer: tuple[dict[str, Any], ...] = ()


def sections(material: Material) -> list[Section]:
    builders: list[Callable[[Material], Section]] = [
        learning,
        per_structure,
        query,
        cases,
        viewer,
        embeddings,
        pseudo_labels,
        training,
    ]
    builders += [comparison] if material.comparison else []
    builders += [provenance]
    return [build(material) for build in tqdm(builders, desc="sections", unit="section", leave=False)]


def warning(material: Material) -> str:
    """What is said beside everything that shows DKD; empty with a pretrained encoder."""
    return "" if material.experiment.settings.encoder else BESIDE


def _strategy_warning(material: Material) -> str:
    """Beside what follows from the query, if the query is by DKD."""
    return f"Queried by DKD. {BESIDE}" if warning(material) and uses_dkd(material.experiment.settings.strategy) else ""


# Head ------------------------------------------------------------------------------------------------------------------


def headline(material: Material) -> dict[str, Any]:
    """title, facts (name -> value), advice (sentences), warning."""
    experiment, last = material.experiment, material.rounds[-1]
    dice = last.dice
    done = f"{len(material.rounds) - 1} of {experiment.n_rounds} query rounds"
    last_dice = "no test cases"
    if dice["n_cases"]:
        last_dice = f"{dice['mean']:.3f}" + (f" ± {dice['sd']:.3f}" if dice["sd"] is not None else "")
        last_dice += f" (mean ± SD over {dice['n_cases']} test cases)"
    facts = {
        "Dataset": experiment.dataset,
        "Experiment": f"{experiment.name}, seed {experiment.settings.seed}",
        "Strategy": f"{experiment.settings.strategy}: {STRATEGIES[experiment.settings.strategy].description}",
        "Done": f"{done} of {experiment.n_query} cases each; {len(last.labelled)} of {len(experiment.pool)} cases annotated",
        "Pseudo-labelled": f"{len(last.pseudo_labelled)} cases in the last round",
        f"Dice after round {last.round}": last_dice,
        "Pretrained encoder": _encoder(material),
    }
    return {
        "title": experiment.dataset,
        "facts": facts,
        "advice": _advice(material),
        "warning": RANDOM_ENCODER if _strategy_warning(material) else "",
    }


def _encoder(material: Material) -> str:
    encoder = material.experiment.settings.encoder
    return Path(encoder).name if encoder else "none: E⁽⁰⁾ is random"


def _advice(material: Material) -> tuple[str, ...]:
    try:
        said = advice(material.rounds)
    except ValueError as error:
        return (f"No advice yet: {error}",)
    return tuple(text for text in (said.sentence, said.caveat, f"Rule: {said.source}.") if text)


# Dice ------------------------------------------------------------------------------------------------------------------


def learning(material: Material) -> Section:
    title = "Learning curve"
    rounds = [
        {
            "round": done.round,
            "annotated": len(done.labelled),
            "pseudo-labelled": len(done.pseudo_labelled),
            "Dice, mean": np.nan if done.dice["mean"] is None else done.dice["mean"],
            "SD": np.nan if done.dice["sd"] is None else done.dice["sd"],
            "test cases": done.dice["n_cases"],
            "queried": ", ".join(done.queried[:12])
            + (f" and {len(done.queried) - 12} more" if len(done.queried) > 12 else ""),
        }
        for done in material.rounds
    ]
    note = _strategy_warning(material)
    table = Table("rounds", "Rounds", pd.DataFrame(rounds), "SD over test cases.", note)
    if material.dice["dice"].notna().sum() == 0:
        return Section("learning", title, missing=("No test case has a Dice, so there is no curve.",), tables=(table,))
    data = figures.curve(material.dice)
    plots = [figures.learning_curve(data, warning=note)]
    labelled = {done.round: done.labelled for done in material.rounds}
    minutes = data.assign(
        minutes=[sum(material.minutes.get(case, np.nan) for case in labelled[r]) for r in data["round"]]
    )
    missing: tuple[str, ...] = ()
    if minutes["minutes"].notna().all():
        plots.append(figures.learning_curve(minutes, "minutes", "minutes of annotation", note))
    elif material.minutes:
        missing = ("Not every annotation has its minutes, so there is no curve against time.",)
    return Section("learning", title, missing=missing, plots=tuple(plots), tables=(table,))


def per_structure(material: Material) -> Section:
    title = "Dice per structure"
    if material.dice["dice"].notna().sum() == 0:
        return Section("structures", title, missing=("No test case has a Dice.",))
    n = material.dice["case"].nunique()
    text = (
        f"Dice of {n} test cases per round: median, quartiles, whiskers to 1.5 times their distance; every dot is a case. "
        "Absent in reference and prediction: left out; absent in one of them: 0."
    )
    return Section(
        "structures", title, (text,), _strategy_warning(material), plots=tuple(figures.structure_boxes(material.dice))
    )


# Query -----------------------------------------------------------------------------------------------------------------


def query(material: Material) -> Section:
    experiment, note = material.experiment, warning(material)
    title = "Query"
    if not material.scores:
        return Section(
            "query",
            title,
            missing=("There is no scores_round_RR.csv: round 0 has no query, and no later round is finished.",),
        )
    row = STRATEGIES[experiment.settings.strategy]
    plots, tables, missing = [], [], []
    for done in reversed(material.rounds[1:]):
        scores = material.scores.get(done.round)
        if scores is None:
            missing.append(f"scores_round_{done.round:02d}.csv is not there.")
            continue
        plot = figures.scores_plot(done.round, scores, note, not experiment.settings.encoder)
        plots += [plot] if plot else []
        marked = {name: "E⁽⁰⁾ random" for name in scores if note and name in DKD_COLUMNS}
        chosen = scores[scores["query_rank"].notna()].sort_values("query_rank")
        rest = scores[scores["query_rank"].isna()]
        rest = rest.sort_values("q", ascending=False, kind="stable") if "q" in rest else rest
        beside = note if marked else ""
        for name, part, folded in (("queried", chosen, False), ("not_queried", rest, True)):
            cut = f"The first {MAX_ROWS} of {len(part)}; the CSV holds all." if len(part) > MAX_ROWS else ""
            head = f"Round {done.round}: {len(part)} cases {name.replace('_', ' ')}"
            tables.append(
                Table(
                    f"scores_round_{done.round:02d}_{name}",
                    head,
                    part.reset_index(drop=True),
                    cut,
                    beside,
                    marked,
                    folded,
                )
            )
    text = [f"Strategy {experiment.settings.strategy}: {row.description} ({row.source})."]
    if {"dkd_rank", "asd_rank"} <= set(next(iter(material.scores.values()))):
        text.append(
            "dkd_rank and asd_rank are ranks from 0 (smallest) to 1 (largest) within the query pool; q is their sum (Eq. 16)."
        )
    return Section("query", title, tuple(text), missing=tuple(missing), plots=tuple(plots), tables=tuple(tables))


def cases(material: Material) -> Section:
    title, why = "Queried cases", why_no_images(material.dataset)
    if why:
        return Section("cases", title, missing=(why,))
    chosen = queried_cases(material)
    labels, window = structures(material.dataset.labels), window_of(material.dataset)
    plots, missing = [], []
    for i, queried in enumerate(tqdm(chosen, desc="overlays", unit="case", leave=False)):
        try:
            volume = load_volume(queried, MAX_VOXELS, window)
        except (RuntimeError, ValueError) as error:
            missing.append(f"{queried.case}: no picture ({' '.join(str(error).split())[:160]}).")
            continue
        caption = "no segmentation is known" if not queried.segmentations else " and ".join(queried.segmentations)
        caption = f"Round {queried.round}, rank {queried.rank}; {caption}."
        plots.append(overlay_plot(f"case_{i + 1:02d}", queried.case, caption, volume, labels))
    if missing_prelabels := [q.case for q in chosen if q.round and "pre-segmentation" not in q.segmentations]:
        missing.append(
            f"No pre-segmentation is kept of {len(missing_prelabels)} of these cases; --prelabel computes them."
        )
    total = sum(len(done.queried) for done in material.rounds)
    grey = "soft-tissue window, -160 to 240 HU" if window else "percentiles 1 to 99"
    text = (
        f"{len(chosen)} of {total} queried cases: of the last rounds, by rank, at most {MAX_CASES}. Slices through the largest "
        f"segmented area, in radiological orientation; grey values: {grey}. Solid: the label. Dashed: what the model of the round "
        "before made of the case."
    )
    return Section("cases", title, (text,), _strategy_warning(material), tuple(missing), tuple(plots))


def viewer(material: Material) -> Section:
    title, why = "Viewer", why_no_images(material.dataset)
    if why:
        return Section("viewer", title, missing=(why,))
    chosen = queried_cases(material)
    shown = viewer_cases(chosen, window_of(material.dataset))
    text = (
        f"{len(shown)} of the cases above, on a grid of at most 130 x 130 x 130 voxels, 8 bit; at most {MAX_CASES} cases and "
        f"{MAX_VIEWER_BYTES // 10**6} MB. Not for diagnosis."
    )
    missing = () if len(shown) == len(chosen) else (f"{len(chosen) - len(shown)} cases do not fit or cannot be read.",)
    return Section("viewer", title, (text,), _strategy_warning(material), missing, viewer=tuple(shown))


# Embeddings, pseudo-labels, training -----------------------------------------------------------------------------------


def embeddings(material: Material) -> Section:
    title, experiment = "Embedding map", material.experiment
    plots = []
    for done in reversed(material.rounds[1:]):
        if done.round not in material.embeddings:
            continue
        names, rows = material.embeddings[done.round]
        marks = {"queried": done.queried, "labelled": done.labelled, "pseudo-labelled": done.pseudo_labelled}
        caption = (
            f"Encoder E⁽ⁱ⁾ as round {done.round} used it; {len(names)} cases. Marks: after the query of this round."
        )
        plots.append(
            figures.embedding_map(
                f"embeddings_round_{done.round:02d}", f"Round {done.round}", names, rows, marks, caption
            )
        )
    if material.pretrained:
        names, rows = material.pretrained
        last = material.rounds[-1]
        marks = {"queried": last.queried, "labelled": last.labelled, "pseudo-labelled": last.pseudo_labelled}
        of = "Encoder E⁽⁰⁾ before any adaptation" + ("" if experiment.settings.encoder else " (random)")
        caption = f"{of}; {len(names)} cases. Marks: after round {last.round}."
        plots.append(figures.embedding_map("embeddings_pretrained", of, names, rows, marks, caption, warning(material)))
    if not plots:
        why = (
            f"Strategy {experiment.settings.strategy} computes no embeddings."
            if len(material.rounds) > 1
            else "No round with a query is finished."
        )
        return Section("embeddings", title, missing=(why,))
    text = "Principal components of the embeddings of the cases (bottleneck, averaged over the scan). Distances on the map are not DKD."
    return Section("embeddings", title, (text,), plots=tuple(plots))


def pseudo_labels(material: Material) -> Section:
    title, experiment = "Selected and unselected pseudo-labels", material.experiment
    if material.quality is None:
        semi = STRATEGIES[experiment.settings.strategy].semi_supervised
        why = (
            "pseudo_label_quality_round_RR.csv is not there."
            if semi
            else f"Strategy {experiment.settings.strategy} makes no pseudo-labels."
        )
        return Section("pseudo_labels", title, missing=(why,))
    selections = sorted(material.quality["selection"].unique(), key=lambda name: name != experiment.options.selection)
    plots = [
        figures.selection_plot(name, rows, name == experiment.options.selection)
        for name in selections
        if len(rows := material.quality[material.quality["selection"] == name].dropna(subset=["dice"]))
    ]
    text = (
        "Dice of the pseudo-label of every unlabelled case against the label that was hidden: known in a benchmark only, and computed "
        "after the round. The small figures show what other selection strategies would have chosen."
    )
    return Section("pseudo_labels", title, (text,), plots=tuple(plots))


def training(material: Material) -> Section:
    if not len(material.training):
        return Section("training", "Training", missing=("No training log of nnU-Net is in the model folders.",))
    return Section("training", "Training", plots=tuple(figures.training_plots(material.training)))


# Comparison ------------------------------------------------------------------------------------------------------------


def comparison(material: Material) -> Section:
    assert material.comparison is not None
    compared = material.comparison
    note = "" if compared.spec.settings.encoder else BESIDE
    curves = figures.arm_curves(compared.results)
    arms = [name_of(arm) for arm in curves["arm"].unique() if uses_dkd(arm)]
    beside = f"With DKD: {', '.join(arms)}. {note}" if note and arms else ""
    plots = [figures.arms_plot(curves, beside), *figures.arm_panels(curves, lambda arm: note if uses_dkd(arm) else "")]
    found = compared.findings
    tables = [
        Table(f"comparison_{table.name}", table.title, table.frame, table.caption, beside) for table in found.tables
    ]
    tables += [
        Table(
            "comparison_conclusions",
            "Conclusions, round by round and over the whole curve",
            pd.DataFrame({"conclusion": found.one_by_one}),
            "",
            beside,
            folded=True,
        ),
        Table("comparison_statistics", "All tests", found.statistics, "", beside, folded=True),
    ]
    text = (
        f"Comparison {compared.folder.name!r}. Bands: 95 % bootstrap interval of the mean, drawing test cases and seeds with "
        "replacement; few seeds make it too narrow.",
        *found.compared,
        found.conclusion,
    )
    return Section("comparison", "Comparison", text, missing=found.missing, plots=tuple(plots), tables=tuple(tables))


# Provenance ------------------------------------------------------------------------------------------------------------


def provenance(material: Material) -> Section:
    experiment = material.experiment
    changed = experiment.options.changed()
    encoder = experiment.encoder_report or {}
    facts: dict[str, Any] = {
        "dataset, experiment": f"{experiment.dataset}, {experiment.name}",
        "strategy": experiment.settings.strategy,
        "options that deviate from the method": ", ".join(f"{name}={value}" for name, value in changed.items())
        or "none",
        "pretrained encoder": _encoder(material) + (f", sha256 {encoder['sha256']}" if "sha256" in encoder else ""),
        "initial network, sha256": experiment.initial_network_sha256,
        "seed": experiment.settings.seed,
        "domain, preset, normalization": f"{experiment.settings.domain}, {experiment.settings.preset}, {experiment.settings.normalization}",
        "rounds, cases per round, budget": f"{experiment.n_rounds}, {experiment.n_query}, {experiment.settings.budget}",
        "annotator": experiment.settings.annotator,
        "pool": f"{len(experiment.pool)} cases",
        "test": f"{len(experiment.test)} cases ({experiment.test_source})",
        **{name.replace("_", " "): value for name, value in experiment.settings.training.items()},
        **{f"version of {name}": value for name, value in experiment.versions.items()},
    }
    models = [{"round": done.round, **asdict(done.model)} for done in material.rounds]
    options = [
        {"option": name, "value": getattr(experiment.options, name), "meaning": meaning}
        for name, _, meaning in options_table()
    ]
    text = f"Made by {experiment.command('report')} from the files of the experiment."
    tables = (
        Table(
            "provenance",
            "Experiment",
            pd.DataFrame({"what": list(facts), "value": [str(value) for value in facts.values()]}),
        ),
        Table("models", "Models", pd.DataFrame(models), "The checksum is of the weights alone."),
        Table("options", "All options", pd.DataFrame(options).astype({"value": str}), folded=True),
    )
    return Section("provenance", "Provenance", (text,), tables=tables)
