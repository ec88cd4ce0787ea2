"""Were the selected pseudo-labels the better ones? The paper's Fig. 5 and Table 8, for every selection strategy.

Benchmark mode only: this reads labels that the experiment must not see, and so only of rounds that are closed.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import read_json, sha256_file, write_csv

if TYPE_CHECKING:  # torch takes seconds to import, and the test below does without
    import torch

    from nnunet_assft.active.state import Experiment, Model, Round

COLUMNS = ("round", "case", "selection", "selected", "dice")
ONE_TEST = ("arm", "seed", "round", "selection")  # columns, where there are, whose values belong to one U test


def pseudo_label_quality(experiment: Experiment, r: int, device: torch.device) -> pd.DataFrame:
    """Dice of what a pseudo-label of each unlabelled case would have been in round r, and who would have selected it.

    One row per case of T_u after the query and per row of SELECTIONS: `round`, `case`, `selection`, `selected` (bool),
    `dice` (in [0, 1]; mean over structures, NaN if there is none). The segmentation is that of the supervised stage,
    made as pseudo-labels are, without their refinement. All selections choose from the same pool; what the experiment's
    own has chosen is taken from the round. No segmentation is kept. Goes on where an earlier call stopped; the result is
    kept at `paths.pseudo_label_quality(r)` until the model, a label or the table of selections changes.
    Raises `AssftError` with a human annotator, for a strategy without pseudo-labels, before the round is finished, and while
    another process works on the experiment.
    """
    from nnunet_assft.active.context import open_context
    from nnunet_assft.active.state import Model, only_process
    from nnunet_assft.runtime.cached import cached

    done = _closed_round(experiment, r)
    if not done.unlabelled:
        return pd.DataFrame(columns=COLUMNS)
    model = Model(**read_json(experiment.paths.step_file(r, "supervised"))["result"])
    context = open_context(experiment, device)
    references = {case: sha256_file(context.dataset.label_file(case)) for case in done.unlabelled}
    file = experiment.paths.pseudo_label_quality(r)

    def compute() -> dict[str, Any]:
        with only_process(experiment):
            dice = _dice(context, r, model, references)
            selected = _selected(context, done, model)
        write_csv(
            file,
            [
                dict(
                    zip(
                        COLUMNS,
                        (r, case, name, int(case in cases), "" if dice[case] is None else dice[case]),
                        strict=True,
                    )
                )
                for name, cases in selected.items()
                for case in done.unlabelled
            ],
        )
        return {"cases": len(references)}

    inputs = {
        "model": model.weights_sha256,
        "labels": context.dataset.labels,
        "references": references,
        "labelled": list(done.labelled),
        "pseudo_labelled": list(done.pseudo_labelled),
        "selections": list(SELECTIONS),
        "options": asdict(experiment.options),
    }
    cached(experiment.paths.step_file(r, "pseudo_label_quality"), inputs, compute, outputs=lambda _: [file])
    return read_pseudo_label_quality(file)


def read_pseudo_label_quality(file: Path) -> pd.DataFrame:
    """The frame as `pseudo_label_quality` returns it; columns in front of it (`arm`, `seed`) are kept."""
    frame = pd.read_csv(
        file,
        dtype={"arm": str, "case": str, "selection": str, "dice": float},
        keep_default_na=False,  # a case may be called NA
        na_values={"dice": [""]},
        float_precision="round_trip",
    )
    return frame.astype({"selected": bool})


def selection_test(quality: pd.DataFrame) -> pd.DataFrame:
    """Dice of selected against unselected cases, and the two-sided Mann-Whitney U test, as in Table 8.

    quality: of one or more rounds, as `pseudo_label_quality` gives it, with or without columns `arm` and `seed`. One row
    per round and selection (and arm and seed): `n_selected`, `n_unselected` (cases with a Dice), `median_selected`,
    `median_unselected`, `mean_selected`, `mean_unselected`, `u` (of the selected cases: pairs in which they are better,
    ties count one half), `p`, `reason`: why there is no p, else empty. scipy's `auto` method: exact if a group has at most
    8 cases and there are no ties, else normal with corrections. Few cases cannot give a small p: 2 against 2 at least 1/3.
    """
    keys = [name for name in ONE_TEST if name in quality]
    rows = []
    for key, group in quality.groupby(keys, sort=False):
        known = group.dropna(subset="dice")
        chosen = known["selected"].astype(bool)
        selected, unselected = known["dice"][chosen], known["dice"][~chosen]
        empty = [name for name, dice in (("selected", selected), ("unselected", unselected)) if dice.empty]
        u, p = (float("nan"), float("nan")) if empty else mannwhitneyu(selected, unselected, alternative="two-sided")
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "n_selected": len(selected),
                "n_unselected": len(unselected),
                "median_selected": selected.median(),
                "median_unselected": unselected.median(),
                "mean_selected": selected.mean(),
                "mean_unselected": unselected.mean(),
                "u": float(u),
                "p": float(p),
                "reason": f"no {' and no '.join(empty)} case" if empty else "",
            }
        )
    numbers = [f"{name}_{which}" for name in ("n", "median", "mean") for which in ("selected", "unselected")]
    return pd.DataFrame(rows, columns=[*keys, *numbers, "u", "p", "reason"])


def _closed_round(experiment: Experiment, r: int) -> Round:
    """Round r, if its hidden labels may be looked at."""
    from nnunet_assft.active.state import finished_rounds

    if experiment.settings.annotator != "oracle":
        raise AssftError(
            f"Experiment {experiment.name!r} has a human annotator: its unlabelled cases have no known label to compare with. "
            "Quality of pseudo-labels needs an experiment with --annotator oracle."
        )
    if not STRATEGIES[experiment.settings.strategy].semi_supervised:
        with_pseudo_labels = ", ".join(name for name, row in STRATEGIES.items() if row.semi_supervised)
        raise AssftError(
            f"Strategy {experiment.settings.strategy!r} of experiment {experiment.name!r} makes no pseudo-labels; expected: "
            f"{with_pseudo_labels}."
        )
    if r < 1:
        raise AssftError(f"Round {r} has no pseudo-labels; the first round that makes them is 1.")
    rounds = finished_rounds(experiment)
    if len(rounds) <= r:
        raise AssftError(
            f"Round {r} is not finished; {len(rounds)} of {experiment.n_rounds + 1} rounds are. Hidden labels are looked at "
            "only when the round is closed."
        )
    return rounds[r]


def _dice(context: Any, r: int, model: Model, references: dict[str, str]) -> dict[str, float | None]:
    """case -> mean Dice over structures. Kept per case, so that no prediction is made twice."""
    from nnunet_assft.active.scoring.prediction import open_scorer
    from nnunet_assft.evaluation.dice import case_dice, mean_of
    from nnunet_assft.runtime.cached import cached

    dataset = context.dataset
    structures = dataset.structures
    scorer = open_scorer(context, model)

    def dice_of(case: str) -> dict[str, float | None]:
        reference = context.checked_label(case, dataset.label_file(case))[0]
        logits = scorer.logits(context.image(case))
        segmentation = scorer.segmentation(logits, context.properties(case))
        return case_dice(segmentation, reference, structures, ignore_label=dataset.labels.get("ignore"))

    folder, means = context.paths.records(f"round_{r:02d}_pseudo_label_quality"), {}
    for case, checksum in tqdm(
        references.items(), desc=f"round {r}: quality of pseudo-labels", unit="case", leave=False
    ):
        inputs = {"model": model.weights_sha256, "reference": checksum, "labels": dataset.labels}
        means[case] = mean_of(cached(folder / f"{case}.json", inputs, partial(dice_of, case)).values())
    return means


def _selected(context: Any, done: Round, model: Model) -> dict[str, set[str]]:
    """row of SELECTIONS -> the cases it chooses of the pool of this round."""
    from nnunet_assft.active.scoring.records import build_selection_pool

    experiment = context.experiment
    pool = build_selection_pool(context, done.round, model, done.labelled, done.unlabelled)
    n_select = experiment.n_query * done.round
    selected = {name: {pool.ids[i] for i in row.function(pool, n_select).indices} for name, row in SELECTIONS.items()}
    return {**selected, experiment.options.selection: set(done.pseudo_labelled)}
