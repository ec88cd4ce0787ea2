"""The card of a model that is handed over: what it was trained on, how good it is, and what it must not be taken for.

It names no case, no annotator and no path.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nnunet_assft import __version__
from nnunet_assft.active.state import Experiment, Round, finished_rounds
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.evaluation.dice import mean_of
from nnunet_assft.evaluation.intervals import bootstrap_interval
from nnunet_assft.handover.stock_model import TRAINER, requirements
from nnunet_assft.network.presets import ENCODERS
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.runtime.files import base_name
from nnunet_assft.runtime.text import count, named
from nnunet_assft.volumes.raw_dataset import RawDataset

ALL = "mean of the structures"
NOT_STATED = "not stated; state it before the model is handed on"
INTERVAL = (
    "95 % bootstrap intervals of the mean over cases (10,000 samples of the cases, percentiles). They do not include "
    "that another training gives another model, and with fewer than about 20 cases they are too narrow."
)


def model_card(experiment: Experiment, done: Round, dataset: RawDataset, plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of model_card.json. plans: those that are handed over, see `stock_model.stock_plans`."""
    settings, stated = experiment.settings, dataset.dataset_json
    rounds = finished_rounds(experiment, before=done.round + 1)
    return {
        "model": f"{experiment.dataset}, experiment {experiment.name}, round {done.round}",
        "written_by": f"nnunet_assft {__version__}",
        "weights_sha256": done.model.weights_sha256,
        "use": _use(experiment, done, plans),
        "input_and_output": _input_and_output(plans, dataset),
        "data": {
            "dataset": experiment.dataset,
            "licence": str(stated.get("licence") or stated.get("license") or NOT_STATED),
            "scans in the pool": len(experiment.scope(done.round).left),
            "annotated scans, which the model was trained on": len(done.labelled),
            **_partly_annotated(done, dataset),
            "scans with pseudo-labels of an earlier model, which it was trained on": len(done.pseudo_labelled),
            "scans that were left without a label": len(done.unlabelled),
            "test scans, which it was not trained on": len(done.dice["per_case"]),
        },
        "choice_of_cases": {
            "strategy": f"{settings.strategy}: {STRATEGIES[settings.strategy].description}",
            "options that differ from the method": experiment.options.as_typed() or "none",
            "annotated by": "annotators" if settings.annotator == "human" else "the labels of a benchmark dataset",
            "budget per round": experiment.per_round(done.round, "scan"),
            "seed": settings.seed,
        },
        "rounds": [_round(one) for one in rounds],
        "training": {
            "last stage": done.model.stage,
            "network": settings.network_name(plans),
            "normalization": settings.normalization,
            **settings.training,
        },
        "encoder": _encoder(experiment),
        "dice": _dice(experiment, done),
        "limits": _limits(experiment, done, rounds),
        "versions": experiment.versions,
    }


def _use(experiment: Experiment, done: Round, plans: Mapping[str, Any]) -> dict[str, Any]:
    model = shlex.quote(f"{experiment.dataset}/{TRAINER}__{plans['plans_name']}__{CONFIGURATION}")
    images, fold = "-i IMAGES -o SEGMENTATIONS", f"-f {done.round}"
    return {
        "needs": requirements(plans),
        "install": "nnUNetv2_install_pretrained_model_from_zip FILE.zip",
        "predict": f"nnUNetv2_predict {images} -d {int(experiment.dataset[7:10])} -tr {TRAINER} "
        f"-p {plans['plans_name']} -c {CONFIGURATION} {fold}",
        "predict_from_the_unpacked_folder": f"nnUNetv2_predict_from_modelfolder {images} -m {model} {fold}",
    }


def _input_and_output(plans: Mapping[str, Any], dataset: RawDataset) -> dict[str, Any]:
    configuration = plans["configurations"][CONFIGURATION]
    in_zyx = [plans["transpose_forward"].index(axis) for axis in range(3)]
    return {
        "channels": dataset.dataset_json["channel_names"],
        "structures": dict(dataset.structures),
        "file_ending": dataset.file_ending,
        "spacing_mm_xyz": [round(float(configuration["spacing"][axis]), 4) for axis in reversed(in_zyx)],
        "patch_xyz": [int(configuration["patch_size"][axis]) for axis in reversed(in_zyx)],
    }


def _partly_annotated(done: Round, dataset: RawDataset) -> dict[str, str]:
    """Return an entry about the structures that nobody drew in some of the labelled scans, or none."""
    counts = dataset.count_annotated(done.labelled)
    lacking = [f"{name} in {n}" for name, n in counts.items() if n < len(done.labelled)]
    return {"of these, scans in which a structure was drawn, where not in all": ", ".join(lacking)} if lacking else {}


def _round(done: Round) -> dict[str, Any]:
    return {
        "round": done.round,
        "annotated": len(done.labelled),
        "pseudo_labelled": len(done.pseudo_labelled),
        "dice": done.dice["mean"],
    }


def _encoder(experiment: Experiment) -> dict[str, str] | None:
    """Return what is recorded of the pre-trained encoder, or None if the network started at random."""
    report = experiment.encoder_report
    if report is None:
        return None
    row = ENCODERS.get(report.get("encoder", ""))
    return {
        "file": base_name(report["path"]),  # a path in experiments of earlier versions
        "sha256": report["sha256"],
        "source": row.source if row else "not recorded",
        "licence": row.licence if row else "not recorded",
    }


# Quality --------------------------------------------------------------------------------------------------------------


def _dice(experiment: Experiment, done: Round) -> dict[str, Any]:
    """Return Dice per structure with its interval, and on what it was measured. None: not known."""
    per_case = done.dice["per_case"]
    names = list(done.dice["per_structure"])
    values = {name: [dice[name] for dice in per_case.values()] for name in names}
    if len(names) > 1:
        values[ALL] = [mean_of(dice.values()) for dice in per_case.values()]
    return {
        "measured_on": _measured_on(experiment, done),
        "interval": INTERVAL,
        "structures": {name: _with_interval(column) for name, column in values.items()} if per_case else {},
    }


def _measured_on(experiment: Experiment, done: Round) -> str:
    cases = set(done.dice["per_case"])
    if not cases:
        return "Nothing: the experiment had no labelled test scans, so how good this model is was not measured."
    later = {case: change.first_round for change in experiment.history for case in change.added_test if case in cases}
    parts = [f"{count(len(cases), 'test scan')}, on which no stage was trained."]
    if later:
        rounds = named("round", sorted(set(later.values())))
        parts.append(f"{len(later)} of them joined in {rounds}, with labels that were there by then.")
    if len(later) < len(cases):
        if experiment.test_source == "imagesTs":
            parts.append(f"The dataset has {'the others' if later else 'them'} as its test scans.")
        else:
            parts.append(f"{'The others' if later else 'They'} were held out of its training scans.")
    if experiment.settings.annotator == "oracle":
        parts.append("All labels of the dataset existed beforehand, as in a benchmark.")
    elif len(later) < len(cases):
        parts.append("They were labelled before the first round.")
    return " ".join(parts)


def _with_interval(column: Iterable[float | None]) -> dict[str, Any]:
    known = [value for value in column if value is not None]
    mean, low, high = (None if math.isnan(value) else value for value in bootstrap_interval(known))
    return {"dice": mean, "low": low, "high": high, "n_cases": len(known)}


def _limits(experiment: Experiment, done: Round, rounds: Sequence[Round]) -> list[str]:
    limits = [
        f"The model has seen {count(len(done.labelled), 'annotated scan')} of one dataset. On scans of other scanners, "
        "protocols or patients it can be worse than the numbers here.",
    ]
    if not done.dice["per_case"]:
        limits.append("Its quality is unknown. Compare its segmentations with labels of your own before you use it.")
    absent = [name for name, mean in done.dice["per_structure"].items() if mean is None]
    if done.dice["per_case"] and absent:
        limits.append(f"No label of a test scan has {', '.join(absent)}, so nothing is known about it.")
    if done.pseudo_labelled:
        limits.append(
            f"It was also trained on {count(len(done.pseudo_labelled), 'pseudo-label')}: segmentations by an earlier "
            "model that were selected by a rule and that nobody has corrected."
        )
    seen = {case for one in rounds for case in (*one.labelled, *one.pseudo_labelled)}
    if withdrawn := seen & experiment.withdrawn:
        limits.append(f"{count(len(withdrawn), 'scan')} that it was trained on had to be withdrawn afterwards.")
    if seen_before := len(experiment.withdrawn_but_seen):
        limits.append(
            f"{count(seen_before, 'scan')} that its encoder was pre-trained on had to be withdrawn afterwards."
        )
    if experiment.settings.normalization == "ctfm":
        limits.append("Images have to be CT in Hounsfield units.")
    limits.append("It is no medical device. A qualified person has to check every segmentation that is acted on.")
    return limits


# Markdown -------------------------------------------------------------------------------------------------------------


def markdown(card: Mapping[str, Any]) -> str:
    """Return a model card as a page for people. card: that of `model_card`, with its `files`."""
    use, dice, encoder = card["use"], card["dice"], card["encoder"]
    packages = " and ".join(use["needs"])
    run = "\n".join(f"{use[name]}" for name in ("install", "predict"))
    parts = [
        f"# Model card: {card['model']}",
        f"Written by {card['written_by']}. SHA-256 of the weights: `{card['weights_sha256']}`.",
        f"## How to use it\n\nIt needs {packages}; these versions were used to write it.\n\n```bash\n{run}\n```\n\n"
        f"Or unpack the zip file anywhere, and there:\n\n```bash\n{use['predict_from_the_unpacked_folder']}\n```",
        "## Input and output\n\n" + _list(card["input_and_output"]),
        "## Data\n\n" + _list(card["data"]),
        "## How the scans were chosen\n\n" + _list(card["choice_of_cases"]),
        "## Rounds\n\n" + _table(("round", "annotated", "pseudo-labelled", "Dice"), _rows(card["rounds"])),
        "## Training\n\n" + _list(card["training"]),
        "## Pre-trained encoder\n\n" + ("None; the network started at random." if encoder is None else _list(encoder)),
        f"## Dice\n\nMeasured on: {dice['measured_on']}",
    ]
    if dice["structures"]:
        rows = [(name, *of.values()) for name, of in dice["structures"].items()]
        parts += [_table(("structure", "Dice", "from", "to", "scans"), rows), dice["interval"]]
    parts += [
        "## Known limits\n\n" + "\n".join(f"* {line}" for line in card["limits"]),
        "## Versions and checksums\n\n" + _list(card["versions"]),
        _table(("file", "SHA-256"), [(name, f"`{digest}`") for name, digest in card["files"].items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(one.values()) for one in rounds]


def _list(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"* {name}: {_text(value)}" for name, value in facts.items())


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_text(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " x ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")
