"""A small experiment and a comparison, written by hand, and the report on both, which is made once per session."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nnunet_assft.active.options import Options
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment, Model, Round
from nnunet_assft.cli.report import main
from nnunet_assft.report.material import Material, gather
from nnunet_assft.report.plot import Plot
from nnunet_assft.report.sections.base import Section
from nnunet_assft.report.sections.order import build_sections
from nnunet_assft.report.sections.query_scores import DKD_COLUMNS
from nnunet_assft.runtime.files import write_json
from tests.conftest import blob_case, set_folders, write_volume

DATASET = "Dataset905_Report"
NASTY = "A-1.2+Ü_x"  # everything that a case id may hold
BALL = "ball</script><img src=x onerror=alert(1)>&'$x$"  # a label name may hold what means something in a page
STRUCTURES = {BALL: 1, "box": 2}
POOL = sorted([*(f"case_{i}" for i in range(7)), NASTY])
TEST = ("test_0", "test_1", "test_2")
CUBE = np.s_[10:13, 15:20, 14:18]  # z, y, x; inside the box of every case
DICE = {  # round -> case -> ball, box
    0: {"test_0": (0.20, 0.40), "test_1": (0.30, None), "test_2": (0.10, 0.20)},
    1: {"test_0": (0.60, 0.80), "test_1": (0.50, None), "test_2": (0.50, 0.70)},
}
LOG = {  # as in a checkpoint of nnU-Net; epoch 2 is not whole
    "train_losses": [np.float64(0.8257), np.float64(-0.5), np.float64(-0.6)],
    "val_losses": [np.float64(0.1352), np.float64(-0.25)],
    "mean_fg_dice": [np.float64(0.5), np.float64(0.625)],
}


def write_dataset_json(folder: Path) -> None:
    labels = {"background": 0, **STRUCTURES}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(POOL), "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", content)


def write_raw_dataset(folder: Path) -> None:
    for i, case in enumerate([*POOL, *TEST]):
        kind = "Ts" if case in TEST else "Tr"
        image, label = blob_case(i)
        write_volume(folder / f"images{kind}" / f"{case}_0000.nii.gz", image)
        write_volume(folder / f"labels{kind}" / f"{case}.nii.gz", label)
    write_dataset_json(folder)


def planned() -> Experiment:
    """ASSFT without pre-trained weights; it is not saved."""
    options = Options(tau_c=3.0)
    return Experiment(
        dataset=DATASET,
        name="assft",
        settings=Settings(
            rounds=2, budget="2", seed=3, domain="generic", preset="tiny", epochs=2, initial_lr=1e-3, options=options
        ),
        n_query=2,
        pool=tuple(POOL),
        test=TEST,
        test_source="imagesTs",
        permutation=tuple(POOL),
        initial_network_sha256="ab",
        versions={"nnunetv2": "2.8.1"},
    )


def finished_round(r: int, queried: tuple[str, ...], pseudo_labelled: tuple[str, ...] = ()) -> Round:
    labelled = tuple(sorted({"case_0", *queried}))
    per_case = {case: dict(zip(STRUCTURES, dice, strict=True)) for case, dice in DICE[r].items()}
    return Round(
        round=r,
        labelled=labelled,
        unlabelled=tuple(sorted(set(POOL) - set(labelled))),
        queried=queried,
        excluded=(),
        pseudo_labelled=pseudo_labelled,
        reliability=dict.fromkeys(pseudo_labelled, 1.0),
        test=TEST,
        model=Model("semi" if r else "supervised", "x", "cd"),
        dice={"mean": 0.25 if r == 0 else 0.6, "sd": 0.1, "n_cases": 3, "per_structure": {}, "per_case": per_case},
    )


def write_experiment() -> Experiment:
    """Rounds 0 and 1 of ASSFT, finished."""
    experiment = planned()
    experiment.save()
    paths, rng = experiment.paths, np.random.default_rng(0)
    finished_round(0, ("case_0",)).save(paths)
    finished_round(1, (NASTY, "case_3"), ("case_1", "case_5")).save(paths)
    rank = {NASTY: 1, "case_3": 2}
    columns = (*DKD_COLUMNS, "asd", "asd_rank")
    rows = [
        {"case": case, "query_rank": rank.get(case, ""), **{name: rng.random() for name in columns}}
        for case in POOL
        if case != "case_0"
    ]
    pd.DataFrame(rows).to_csv(paths.scores_file(1), index=False)
    for folder in ("pretrained", "round_01_select"):
        paths.records(folder).mkdir(parents=True)
        for case in POOL:
            np.savez(paths.records(folder) / f"{case}.npz", embedding=rng.random(5))
    for r, stage in ((0, "supervised"), (1, "supervised"), (1, "semi")):
        paths.checkpoint(r, stage).parent.mkdir(parents=True)
        torch.save({"network_weights": {"w": torch.zeros(3)}, "logging": LOG}, paths.checkpoint(r, stage))
    for case in (NASTY, "case_3"):  # the pre-segmentation: all ball
        write_volume(paths.previews(1) / f"{case}.nii.gz", (blob_case(POOL.index(case))[1] > 0).astype(np.uint8))
    dice = {"case_1": 0.8, "case_2": 0.4, "case_4": 0.5, "case_5": 0.9, "case_6": 0.6}
    quality = [
        (1, case, selection, int(case in chosen), dice[case])
        for selection, chosen in (("reliable", ("case_1", "case_5")), ("all", POOL))
        for case in dice
    ]
    frame = pd.DataFrame(quality, columns=["round", "case", "selection", "selected", "dice"])
    frame.to_csv(paths.pseudo_label_quality(1), index=False)
    return experiment


def write_comparison(experiment: Experiment) -> Path:
    """Arms assft and random, two seeds, as nnunet_assft 0.1.0 wrote them; the second seed of random has no round 1."""
    folder = experiment.paths.results_of_dataset / "assft_compare" / "compare"
    arms = ["assft", "random", "upper_bound"]
    shared = {"domain": "generic", "preset": "tiny", "normalization": "percentile", "encoder": None}
    content: dict[str, Any] = {
        "dataset": DATASET,
        "name": "compare",
        "settings": {**shared, "rounds": 1, "budget": "2", "epochs": 2, "iterations_per_epoch": 3, "initial_lr": 1e-3},
        "budget": "2",
        "versions": {"nnunet_assft": "0.1.0"},
        "arms": arms,
        "seeds": [0, 1],
        "n_rounds": 1,
        "n_query": 2,
        "pool": POOL,
        "test": TEST,
        "test_source": "labelled imagesTs",
        **shared,
        "device": "cpu",
        "training": {"one_shot_epochs": 1, "epochs": 2, "iterations_per_epoch": 3},
        "options": asdict(Options()),
        "experiments": {"assft": {"0": experiment.name}},
    }
    write_json(folder / "comparison.json", content)
    rows = [
        (arm, seed, r, 1 + 2 * r, case, structure, 0.3 + 0.2 * r + 0.1 * (arm == "assft") + 0.01 * seed, 0.5, 1.0)
        for arm, seed, r, case, structure in product(arms[:2], (0, 1), (0, 1), TEST, STRUCTURES)
        if (arm, seed, r) != ("random", 1, 1)
    ]
    rows += [
        ("upper_bound", seed, 1, 8, case, structure, 0.9, 0.9, 0.5)
        for seed, case, structure in product((0, 1), TEST, STRUCTURES)
    ]
    columns = ["arm", "seed", "round", "n_labelled", "case", "structure", "dice", "nsd", "hd95_mm"]
    results = pd.DataFrame(rows, columns=columns)
    results.to_csv(folder / "results.csv", index=False)
    minutes = {"annotation_minutes": np.nan, "training_minutes": 1.5, "query_minutes": 0.5, "total_minutes": 2.0}
    runs = results[["arm", "seed", "round"]].drop_duplicates()
    runs = runs.assign(status="done", device="cpu", annotated_cases=2.0, **minutes)
    runs.to_csv(folder / "runs.csv", index=False)
    return folder


def write_test_segmentations(experiment: Experiment) -> None:
    """Those of the first seed of `write_comparison`: assft has the references, and random a cube of background in them,
    except that it has none of the last case. The upper bound has none."""
    for arm in ("assft", "random"):
        paths = replace(experiment, name=f"compare_{arm}_s0").paths
        replace(experiment, name=paths.experiment).save()
        for r in (0, 1):
            finished_round(r, ("case_0",)).save(paths)
        for case in TEST if arm == "assft" else TEST[:-1]:
            label = blob_case(len(POOL) + TEST.index(case))[1]
            if arm == "random":
                label[CUBE] = 0
            write_volume(paths.test_predictions(1) / f"{case}.nii.gz", label)


class Page(HTMLParser):
    """Tags and attributes of a page, and the text of each section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.section, self.texts = "head", {}
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.section = str(dict(attributes)["id"])

    def handle_data(self, data: str) -> None:
        self.texts[self.section] = self.texts.get(self.section, "") + data


@dataclass(frozen=True)
class Report:
    """The experiment, the comparison, and the report on both in `html`, with its files beside it. Read-only."""

    root: Path
    material: Material
    sections: dict[str, Section]
    html: str
    page: Page

    @property
    def file(self) -> Path:
        return self.root / "r.html"

    @property
    def plots(self) -> dict[str, Plot]:
        return {plot.name: plot for section in self.sections.values() for plot in section.plots}


@pytest.fixture(scope="session")
def written_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(root, monkeypatch)
        write_raw_dataset(root / "nnUNet_raw" / DATASET)
        experiment = write_experiment()
        write_comparison(experiment)
        write_test_segmentations(experiment)
        with pytest.raises(SystemExit) as exit_:
            main(["-d", "905", "-e", "assft", "--compare", "-o", str(root / "r.html"), "--verbose"])
        material = gather(DATASET, "assft", "compare")
        sections = {section.id: section for section in build_sections(material)}
    assert exit_.value.code == 0
    html = (root / "r.html").read_text(encoding="utf-8")
    return Report(root, material, sections, html, Page(html))


@pytest.fixture
def report(written_report: Report, monkeypatch: pytest.MonkeyPatch) -> Report:
    """The report of the session, with nnU-Net's folders set to where it is."""
    set_folders(written_report.root, monkeypatch)
    return written_report


@pytest.fixture
def material(report: Report) -> Material:
    return report.material


@pytest.fixture
def experiment(nnunet_folders: Path) -> Experiment:
    """An experiment of its own, for tests that change its files. It has no images."""
    folder = nnunet_folders / "nnUNet_raw" / DATASET
    for case in POOL:
        for file in (folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "labelsTr" / f"{case}.nii.gz"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    write_dataset_json(folder)
    return write_experiment()


def with_settings(material: Material, **settings: Any) -> Material:
    """The same material of an experiment with other settings."""
    experiment = material.experiment
    return replace(material, experiment=replace(experiment, settings=replace(experiment.settings, **settings)))


def without_dice(material: Material) -> Material:
    """The same material of an experiment whose test cases have no labels."""
    dice = {"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}}
    rounds = tuple(replace(done, dice=dice) for done in material.rounds)
    return replace(material, rounds=rounds, dice=material.dice.iloc[:0])
