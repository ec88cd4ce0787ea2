"""The report of a small experiment written by hand: what it shows, what it says is missing, and that a real browser opens it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from matplotlib.image import imread
from scipy.stats import t

from nnunet_assft.active.options import Options
from nnunet_assft.active.rounds import open_context, run_round
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import Experiment, Model, Round
from nnunet_assft.annotation.preview import preview
from nnunet_assft.cli.report import main
from nnunet_assft.errors import AssftError
from nnunet_assft.report.figures import arm_curves, embedding_map
from nnunet_assft.report.images import (
    MAX_CASES,
    QueriedCase,
    Volume,
    load_volume,
    nifti_base64,
    queried_cases,
    viewer_cases,
)
from nnunet_assft.report.material import Material, epochs_of_logs, gather, uses_dkd
from nnunet_assft.report.overlay import overlay_plot
from nnunet_assft.report.page import columns_of, niivue, render
from nnunet_assft.report.plot import CSS, SERIES, Plot
from nnunet_assft.report.sections import BESIDE, DKD_COLUMNS, Table, sections
from nnunet_assft.runtime.files import write_json
from tests.conftest import blob_case, plan_experiment, set_folders, write_volume

DATASET = "Dataset905_Report"
NASTY = "<img src=x onerror=alert(1)>&\"'$x$"  # a file name that Linux allows
STRUCTURES = {"ball</script><b>": 1, "box": 2}
POOL = sorted([*(f"case_{i}" for i in range(7)), NASTY])
TEST = ("test_0", "test_1", "test_2")
DICE = {  # round -> case -> ball, box
    0: {"test_0": (0.20, 0.40), "test_1": (0.30, None), "test_2": (0.10, 0.20)},
    1: {"test_0": (0.60, 0.80), "test_1": (0.50, None), "test_2": (0.50, 0.70)},
}
LOG = """
2026-01-01 10:00:00.000000: Epoch 0
2026-01-01 10:00:00.000000: Current learning rate: 0.004
2026-01-01 10:00:01.000000: train_loss 0.8257
2026-01-01 10:00:01.000000: val_loss 0.1352
2026-01-01 10:00:01.000000: Pseudo dice [np.float32(0.25), np.float32(nan), np.float32(0.75)]
2026-01-01 10:00:02.000000: Epoch 1
2026-01-01 10:00:03.000000: train_loss -0.5
2026-01-01 10:00:03.000000: val_loss -0.25
2026-01-01 10:00:03.000000: Pseudo dice [0.5, 1.0, 0.0]
2026-01-01 10:00:04.000000: Epoch 2
2026-01-01 10:00:05.000000: train_loss -0.6
"""


def write_raw_dataset(raw: Path) -> None:
    folder = raw / DATASET
    for i, case in enumerate([*POOL, *TEST]):
        kind = "Ts" if case in TEST else "Tr"
        image, label = blob_case(i)
        write_volume(folder / f"images{kind}" / f"{case}_0000.nii.gz", image)
        write_volume(folder / f"labels{kind}" / f"{case}.nii.gz", label)
    labels = {"background": 0, **STRUCTURES}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(POOL), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def write_experiment(name: str = "assft", **changes: object) -> Experiment:
    """Rounds 0 and 1 of ASSFT, finished."""
    settings = Settings(
        rounds=2, budget="2", seed=3, domain="generic", preset="tiny", epochs=2, initial_lr=1e-3, options=Options(tau_c=3.0)
    )
    experiment = Experiment(
        dataset=DATASET,
        name=name,
        settings=settings,
        n_query=2,
        pool=tuple(POOL),
        test=TEST,
        test_source="imagesTs",
        permutation=tuple(POOL),
        initial_network_sha256="ab",
        versions={"nnunetv2": "2.8.1"},
    )
    experiment = replace(experiment, **changes)
    experiment.save()
    paths, rng = experiment.paths, np.random.default_rng(0)
    for r, queried, pseudo in ((0, ("case_0",), ()), (1, (NASTY, "case_3"), ("case_1", "case_5"))):
        labelled = tuple(sorted({"case_0", *queried}))
        per_case = {case: dict(zip(STRUCTURES, dice, strict=True)) for case, dice in DICE[r].items()}
        Round(
            round=r,
            labelled=labelled,
            unlabelled=tuple(sorted(set(POOL) - set(labelled))),
            queried=queried,
            excluded=(),
            pseudo_labelled=pseudo,
            reliability=dict.fromkeys(pseudo, 1.0),
            test=TEST,
            model=Model("semi" if r else "supervised", "x", "cd"),
            dice={"mean": 0.25 if r == 0 else 0.6, "sd": 0.1, "n_cases": 3, "per_structure": {}, "per_case": per_case},
        ).save(paths)
    rank = {NASTY: 1, "case_3": 2}
    rows = [
        {
            "case": case,
            "query_rank": rank.get(case, ""),
            **{name: rng.random() for name in (*DKD_COLUMNS, "asd", "asd_rank")},
        }
        for case in POOL
        if case != "case_0"
    ]
    pd.DataFrame(rows).to_csv(paths.scores_file(1), index=False)
    for folder in ("pretrained", "round_01_select"):
        paths.records(folder).mkdir(parents=True)
        for case in POOL:
            np.savez(paths.records(folder) / f"{case}.npz", embedding=rng.random(5))
    for r, stage in ((0, "supervised"), (1, "supervised"), (1, "semi")):
        log = paths.checkpoint(r, stage).parent / "training_log_2026_1.txt"
        log.parent.mkdir(parents=True)
        log.write_text(LOG)
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
    """Arms assft and random, two seeds; the second seed of random has no round 1."""
    folder = experiment.paths.results_of_dataset / "assft_compare" / "compare"
    arms = ["assft", "random", "upper_bound"]
    settings = {
        "arms": arms,
        "seeds": [0, 1],
        "n_rounds": 1,
        "n_query": 2,
        "pool": POOL,
        "test": TEST,
        "test_source": "labelled imagesTs",
        "domain": "generic",
        "preset": "tiny",
        "device": "cpu",
        "encoder": None,
        "training": {"one_shot_epochs": 1, "epochs": 2, "iterations_per_epoch": 3},
        "options": asdict(Options()),
        "experiments": {"assft": {"0": experiment.name}},
    }
    write_json(folder / "comparison.json", settings)
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
    costs = {
        "annotated_cases": 2.0,
        "annotation_minutes": np.nan,
        "training_minutes": 1.5,
        "query_minutes": 0.5,
        "total_minutes": 2.0,
    }
    runs = results[["arm", "seed", "round"]].drop_duplicates().assign(status="done", device="cpu", **costs)
    runs.to_csv(folder / "runs.csv", index=False)
    return folder


@pytest.fixture
def experiment(nnunet_folders: Path) -> Experiment:
    """For tests that change it."""
    write_raw_dataset(nnunet_folders / "nnUNet_raw")
    return write_experiment()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment, a comparison, and the report on both, r.html. Read-only."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(root, monkeypatch)
        write_raw_dataset(root / "nnUNet_raw")
        write_comparison(write_experiment())
        with pytest.raises(SystemExit) as exit_:
            main(["-d", "905", "--compare", "-o", str(root / "r.html"), "--verbose"])
    assert exit_.value.code == 0
    return root


@pytest.fixture
def material(root: Path, monkeypatch: pytest.MonkeyPatch) -> Material:
    set_folders(root, monkeypatch)
    return gather(DATASET, None, "compare")


@pytest.fixture
def html(root: Path) -> str:
    return (root / "r.html").read_text(encoding="utf-8")


def rendered() -> str:
    """The page alone, without files."""
    material = gather(DATASET, None, None)
    return render(material, sections(material), "r_files")


def plots_of(material: Material) -> dict[str, Plot]:
    return {plot.name: plot for section in sections(material) for plot in section.plots}


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


# Sections --------------------------------------------------------------------------------------------------------------


def test_all_sections_of_a_whole_experiment(html: str) -> None:
    page = Page(html)
    order = [
        "learning",
        "structures",
        "query",
        "cases",
        "viewer",
        "embeddings",
        "pseudo_labels",
        "training",
        "comparison",
        "provenance",
    ]
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == order
    assert html.count('class="missing"') == 1  # the run that the comparison lacks
    assert "RAND, seed 1: round 1 missing." in page.texts["comparison"]
    assert "0.600 ± 0.100 (mean ± SD over 3 test cases)" in page.texts["head"]
    assert "1 of 2 query rounds of 2 cases each; 3 of 8 cases annotated" in page.texts["head"]
    assert "From round 0 to 1 the mean Dice of 3 test cases changed by +0.3500" in page.texts["head"]
    assert "tau_c=3.0" in page.texts["provenance"]


def test_what_the_comparison_concludes(html: str) -> None:
    text = Page(html).texts["comparison"]
    assert "Pre-trained encoder: none. E(0) is a random network" in text
    assert "ASSFT's network has had 6 more optimisation steps" in text  # 1 round, 2 epochs of 3 iterations
    assert "seeds 0, 1; 2 epochs per stage (1 in round 0) of 3 iterations. Preset tiny, cpu." in text
    assert (
        "no difference between ASSFT and RAND in round 1 could be shown: the smallest p that can be reached is 0.25"
        in text
    )  # 2 / 2^3
    assert "60.50 ± 0.55" in text  # printed by the table of budgets: 0.60 and 0.61, three cases each
    assert "<td><strong>60.50 ± 0.55" in html
    assert "Bold: best" in text
    for title in (
        "Dice in points, by budget",
        "Dice in points, by structure",
        "Area under the budget curve",
        "Cost",
        "All tests",
    ):
        assert title in text


def test_what_is_missing_is_said(experiment: Experiment) -> None:
    paths = experiment.paths
    paths.scores_file(1).unlink()
    paths.pseudo_label_quality(1).unlink()
    shutil.rmtree(paths.results / "records")
    for stage in ("supervised", "semi"):
        shutil.rmtree(paths.model_folder(stage))
    shutil.rmtree(paths.previews(1))
    page = Page(rendered())
    assert "comparison" not in page.texts
    assert "There is no scores_round_RR.csv" in page.texts["query"]
    assert "computes no embeddings" in page.texts["embeddings"]
    assert "pseudo_label_quality_round_RR.csv is not there" in page.texts["pseudo_labels"]
    assert "No training log of nnU-Net" in page.texts["training"]
    assert "No pre-segmentation is kept of 2 of these cases; --prelabel computes them." in page.texts["cases"]


def test_an_experiment_without_test_cases(experiment: Experiment) -> None:
    for r in (0, 1):
        done = Round.load(experiment.paths, r)
        replace(done, test=(), dice={"mean": None, "sd": None, "n_cases": 0, "per_structure": {}, "per_case": {}}).save(
            experiment.paths
        )
    page = Page(rendered())
    assert "No test case has a Dice" in page.texts["learning"]
    assert "No test case has a Dice" in page.texts["structures"]
    assert "no test cases" in page.texts["head"]


def test_errors_say_what_to_do(experiment: Experiment) -> None:
    with pytest.raises(AssftError, match="Run nnUNetv2_assft_compare first"):
        gather(DATASET, None, "compare")
    with pytest.raises(AssftError, match="has no experiment 'pilot'"):
        gather(DATASET, "pilot", None)
    for r in (0, 1):
        experiment.paths.round_file(r).unlink()
    with pytest.raises(AssftError, match="has no finished round"):
        gather(DATASET, None, None)


def test_a_comparison_without_a_finished_round_is_one_line(experiment: Experiment) -> None:
    file = write_comparison(experiment) / "results.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(AssftError, match="has no finished round"):
        gather(DATASET, None, "compare")


# The random encoder ----------------------------------------------------------------------------------------------------


def test_a_random_encoder_is_named_beside_every_figure_and_column_of_dkd(html: str, material: Material) -> None:
    found = sections(material)
    plots = {plot.name: plot for section in found for plot in section.plots}
    told = {name for name, plot in plots.items() if BESIDE in plot.warning}
    assert told == {"learning_curve", "scores_round_01", "embeddings_pretrained", "comparison_curves", "arm_02_assft"}
    assert plots["arm_01_random"].warning == ""
    assert "E⁽⁰⁾ random" in plots["scores_round_01"].svg()  # in the file itself, too
    marked = 0
    for table in (table for section in found for table in section.tables):
        columns = set(table.data) & set(DKD_COLUMNS)
        assert set(table.marked) == columns
        assert BESIDE in table.warning or not columns
        assert BESIDE in table.warning or not table.name.startswith("comparison_")
        marked += len(columns)
    assert marked == 2 * len(DKD_COLUMNS)
    assert len(re.findall(r"<small>E<sup>\(0\)</sup> random</small>", html)) == marked
    assert "is random: the experiment was planned without pretrained weights" in html


def test_a_pretrained_encoder_is_not_called_random(experiment: Experiment) -> None:
    replace(
        experiment,
        settings=replace(experiment.settings, encoder="/somewhere/ct_fm.safetensors"),
        encoder_report={"sha256": "ef01"},
    ).save()
    page = rendered()
    for said in ("is random", "> random<", "(random)", "/somewhere"):
        assert said not in page
    assert "ct_fm.safetensors, sha256 ef01" in page


def test_who_uses_dkd() -> None:
    arms = (
        "assft",
        "random",
        "dkd_asd",
        "nnunet",
        "dkd_low",
        "entropy",
        "nnunet@assft",
        "nnunet@random",
        "upper_bound",
    )
    assert [arm for arm in arms if uses_dkd(arm)] == ["assft", "dkd_asd", "dkd_low", "nnunet@assft"]


# One file, nothing from outside, nothing from a name -------------------------------------------------------------------


def test_nothing_is_loaded_from_outside(html: str, root: Path) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        for name in ("href", "xlink:href", "data", "action", "poster", "srcset"):
            if name in attributes:
                assert re.match(r"#|data:image/png;base64,|r_files/", attributes[name] or ""), (
                    tag,
                    name,
                    attributes[name],
                )
        assert "url(" not in (attributes.get("style") or "").replace("url(#", "")
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"@import|url\(", style)
    policy = next(attributes["content"] or "" for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"http|\*|self", policy)
    files = {
        str(attributes["href"])
        for tag, attributes in page.tags
        if tag == "a" and str(attributes["href"]).startswith("r_files/")
    }
    assert len(files) > 40
    assert all((root / file).is_file() for file in files)


def test_names_stay_text(html: str) -> None:
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "i")]
    assert NASTY in page.texts["query"]
    assert NASTY in page.texts["cases"]
    assert "ball</script><b>" in page.texts["structures"]
    cases = json.loads(html.split('id="viewer_cases">')[1].split("</script>")[0])
    assert cases[0]["case"] == NASTY
    assert list(cases[0]["layers"]) == ["pre-segmentation", "label"]
    colours = json.loads(html.split('id="viewer_colours">')[1].split("</script>")[0])
    assert colours["labels"] == ["background", *STRUCTURES]


def test_every_figure_has_its_own_ids_and_says_what_it_shows(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html.split('id="niivue"')[0])) <= set(ids)
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == html.count("<figure") > 10
    assert all(picture["role"] == "img" and len(str(picture["aria-label"])) > 20 for picture in pictures)
    fixed = [colour for colour in CSS if f": {colour}" in html.split("<body>")[1].split('class="legend"')[0]]
    assert not fixed  # colours follow light and dark


def test_niivue_cannot_close_its_script_element() -> None:
    assert "</script" not in niivue()
    assert niivue().startswith("(function(")
    assert len(niivue()) > 2_000_000


def test_cells_of_a_column_have_the_same_decimals() -> None:
    frame = pd.DataFrame(
        {"a": [0.5, 12.25, np.nan], "b": [1.0, 2.0, np.nan], "c": ["x", "1.0", "y"], "d": [True, False, True]}
    )
    columns = {column.name: column for column in columns_of(Table("t", "", frame))}
    assert columns["a"].cells == ["0.50", "12.25", "–"]
    assert columns["b"].cells == ["1", "2", "–"]
    assert columns["c"].cells == ["x", "1.0", "y"]
    assert [column.number for column in columns.values()] == [True, True, False, False]


# Numbers ---------------------------------------------------------------------------------------------------------------


def test_learning_curve_by_hand(root: Path, material: Material) -> None:
    written = pd.read_csv(root / "r_files" / "learning_curve.csv")
    # per case: 0.3, 0.3, 0.15 and 0.7, 0.5, 0.6; an absent structure is left out
    assert list(written["n_labelled"]) == [1, 3]
    assert list(written["n_cases"]) == [3, 3]
    np.testing.assert_allclose(written["mean"], [0.25, 0.6])
    np.testing.assert_allclose(written["sd"], [np.sqrt(0.0075), 0.1])
    half = t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    np.testing.assert_allclose(written.loc[1, ["low", "high"]].astype(float), [0.6 - half, 0.6 + half])


def test_minutes_of_annotation_are_added_up_over_rounds(experiment: Experiment) -> None:
    for case, minutes in (("case_0", [10.0]), (NASTY, [5.0, 2.0]), ("case_3", [4.0])):
        readings = [{"annotator": "a", "minutes": m} for m in minutes]
        write_json(experiment.paths.annotation_file(case), {"case": case, "round": 1, "readings": readings})
    data = plots_of(gather(DATASET, None, None))["learning_curve_minutes"].data
    assert list(data["minutes"]) == [10.0, 21.0]
    write_json(
        experiment.paths.annotation_file("case_3"), {"case": "case_3", "round": 1, "readings": [{"minutes": None}]}
    )
    assert "Not every annotation has its minutes" in Page(rendered()).texts["learning"]


def test_csv_holds_what_is_drawn(material: Material) -> None:
    plots = plots_of(material)

    def dots(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(found.get_offsets()) for found in plots[name].figure.axes[0].collections])

    curve_plot = plots["learning_curve"]
    np.testing.assert_allclose(curve_plot.figure.axes[0].lines[0].get_xydata(), curve_plot.data[["n_labelled", "mean"]])
    for name, columns in (("embeddings_round_01", ["pc1", "pc2"]), ("scores_round_01", ["dkd_rank", "asd_rank"])):
        np.testing.assert_allclose(np.sort(dots(name), axis=0), np.sort(plots[name].data[columns], axis=0))
    np.testing.assert_allclose(np.sort(dots("dice_02_box")[:, 1]), np.sort(plots["dice_02_box"].data["dice"]))
    assert len(plots["dice_02_box"].data) == 4  # test_1 has no box
    arm = plots["arm_01_random"]
    own = next(line for line in arm.figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(own.get_xydata(), arm.data[["n_labelled", "mean"]])
    losses = plots["training_loss"]
    trained = np.concatenate(
        [line.get_ydata() for line in losses.figure.axes[0].lines if line.get_color() == SERIES[0]]
    )
    np.testing.assert_allclose(trained, losses.data["train_loss"])


def test_u_test_of_selected_against_unselected(material: Material) -> None:
    plots = plots_of(material)
    assert (
        "round 1: 2 against 3, p = 0.2." in plots["pseudo_labels_reliable"].caption
    )  # 2 of the 10 orders are as extreme
    assert "(this experiment)" in plots["pseudo_labels_reliable"].title
    assert "round 1: 5 against 0, no unselected case" in plots["pseudo_labels_all"].caption


def test_arms_count_their_seeds_and_cases(material: Material) -> None:
    assert material.comparison is not None
    results = material.comparison.results
    found = arm_curves(results).set_index(["arm", "round"])
    assert [found.loc[("random", r), "n_seeds"] for r in (0, 1)] == [2, 1]
    assert found.loc[("assft", 1), "mean"] == pytest.approx(0.605)
    assert found.index.get_level_values("arm")[0] == "random"  # the order of the paper
    lost = results[~((results["arm"] == "assft") & (results["seed"] == 1) & (results["case"] == "test_0"))]
    assert arm_curves(lost).set_index(["arm", "round"]).loc[("assft", 1), "n_cases"] == 2  # cases that both seeds have


def test_epochs_of_logs() -> None:
    again = LOG.replace("-0.5", "-0.7")
    assert epochs_of_logs([LOG]) == {0: (0.8257, 0.1352, 0.5), 1: (-0.5, -0.25, 0.5)}  # epoch 2 was cut off
    assert epochs_of_logs([LOG, again])[1][0] == -0.7


def test_embedding_map_of_points_on_a_line() -> None:
    rows = np.outer([0.0, 1.0, 3.0], [3.0, 4.0])  # 5 apart along (3, 4): distances are kept, the second component is 0
    plot = embedding_map("map", "", ["a", "b", "c"], rows, {"queried": ["c"], "labelled": ["c", "a"]}, "")
    assert sorted(np.abs(np.diff(plot.data["pc1"]))) == pytest.approx([5, 10])
    np.testing.assert_allclose(plot.data["pc2"], 0, atol=1e-12)
    assert list(plot.data["mark"]) == ["labelled", "unlabelled", "queried"]


# Images ----------------------------------------------------------------------------------------------------------------


def test_pictures_lie_as_radiologists_look_at_them(tmp_path: Path) -> None:
    """One voxel near the patient's left, back and head, in a file whose axes run otherwise."""
    array = np.zeros((4, 6, 8), np.float32)  # RAS file: z up, y to the front, x to the right
    array[3, 1, 2] = 100
    volume = sitk.GetImageFromArray(array)
    volume.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    volume.SetSpacing((2.0, 1.0, 3.0))
    sitk.WriteImage(volume, str(tmp_path / "image.nii.gz"))
    label = sitk.GetImageFromArray((array > 0).astype(np.uint8))
    label.CopyInformation(volume)
    sitk.WriteImage(label, str(tmp_path / "label.nii.gz"))
    queried = QueriedCase("a", 1, 1, tmp_path / "image.nii.gz", {"label": tmp_path / "label.nii.gz"})
    seen = load_volume(queried, 1000, (0.0, 100.0))
    assert np.argwhere(seen.image == 255).tolist() == [[3, 4, 5]]  # x and y are turned: LPS
    assert np.argwhere(seen.segmentations["label"]).tolist() == [[3, 4, 5]]
    assert seen.spacing == pytest.approx((2.0, 1.0, 3.0))
    nifti = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(nifti_base64(seen.image, seen))))
    world = nifti.affine @ [5, 4, 3, 1]
    expected = volume.TransformIndexToPhysicalPoint((2, 1, 3))  # LPS
    np.testing.assert_allclose(world[:3], [-expected[0], -expected[1], expected[2]], atol=1e-4)
    assert nifti.get_data_dtype() == np.uint8


def test_volumes_are_made_small(tmp_path: Path) -> None:
    array = np.tile(np.arange(40, dtype=np.float32)[:, None, None], (1, 60, 50))
    write_volume(tmp_path / "image.nii.gz", array, (1.0, 1.0, 4.0))
    seen = load_volume(QueriedCase("a", 0, 1, tmp_path / "image.nii.gz", {}), 20_000, None)
    assert 0.8 * 20_000 < seen.image.size <= 20_000
    assert seen.image.shape[0] == 40  # the thick slices stay
    np.testing.assert_allclose(np.array(seen.image.shape) * seen.spacing[::-1], [160, 60, 50])
    assert (np.diff(seen.image[:, 5, 5].astype(int)) >= 0).all()


def test_contours_lie_on_the_edges_of_the_voxels() -> None:
    label = np.zeros((6, 8, 10), np.uint8)
    label[1:3, 2:6, 3:8] = 1  # z, y, x
    volume = Volume(np.zeros((6, 8, 10), np.uint8), {"label": label}, (1.0, 2.0, 5.0), (0.0, 0.0, 0.0))
    plot = overlay_plot("case", "case", "", volume, {"box": 1})
    axial, _, coronal, sagittal = plot.figure.axes
    for axes, across, up in (
        (axial, (3.0, 8.0), (4.0, 12.0)),
        (coronal, (3.0, 8.0), (5.0, 15.0)),
        (sagittal, (4.0, 12.0), (5.0, 15.0)),
    ):
        vertices = axes.collections[0].get_paths()[0].vertices
        np.testing.assert_allclose(vertices.min(axis=0), [across[0], up[0]])
        np.testing.assert_allclose(vertices.max(axis=0), [across[1], up[1]])
    assert axial.get_ylim() == (16.0, 0.0)  # the front is above
    assert coronal.get_ylim() == sagittal.get_ylim() == (0.0, 30.0)  # the head is above
    assert plot.data[["plane", "slice", "pixels"]].to_numpy().tolist() == [
        ["axial", 2, 20],
        ["coronal", 3, 10],
        ["sagittal", 4, 8],
    ]


def test_a_damaged_image_costs_its_picture_only(experiment: Experiment) -> None:
    material = gather(DATASET, None, None)
    material.dataset.images["case_3"][0].write_bytes(b"no image")
    page = Page(rendered())
    assert "case_3: no picture (" in page.texts["cases"]
    assert "1 cases do not fit or cannot be read." in page.texts["viewer"]
    assert [plot.title for section in sections(material) if section.id == "cases" for plot in section.plots] == [
        NASTY,
        "case_0",
    ]


def test_one_round_with_one_test_case(experiment: Experiment) -> None:
    experiment.paths.round_file(1).unlink()
    done = Round.load(experiment.paths, 0)
    one = {**done.dice, "sd": None, "n_cases": 1, "per_case": {"test_0": done.dice["per_case"]["test_0"]}}
    replace(done, dice=one).save(experiment.paths)
    page = Page(rendered())
    assert "No advice yet" in page.texts["head"]
    assert "Marks: after round 0." in page.texts["embeddings"]
    assert "Mean over 1 test cases" in page.texts["learning"]


def test_limits_of_the_viewer(material: Material) -> None:
    chosen = queried_cases(material)
    assert [(q.case, q.round, q.rank) for q in chosen] == [(NASTY, 1, 1), ("case_3", 1, 2), ("case_0", 0, 1)]
    assert len(chosen) <= MAX_CASES
    assert len(queried_cases(material, 2)) == 2
    assert sorted(chosen[0].segmentations) == ["label", "pre-segmentation"]
    first = viewer_cases(chosen[:1], None)
    size = len(first[0]["image"]) + sum(map(len, first[0]["layers"].values()))
    assert len(viewer_cases(chosen, None, max_bytes=size)) == 1
    assert viewer_cases(chosen, None, max_bytes=size - 1) == []


def test_the_label_of_an_unlabelled_case_is_not_opened(experiment: Experiment) -> None:
    done = Round.load(experiment.paths, 1)
    replace(done, labelled=("case_0",)).save(experiment.paths)  # queried, but its label has not come
    chosen = queried_cases(gather(DATASET, None, None))
    assert {q.case: sorted(q.segmentations) for q in chosen} == {
        NASTY: ["pre-segmentation"],
        "case_3": ["pre-segmentation"],
        "case_0": ["label"],
    }


# In a browser ----------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")


def browse(url: str, folder: Path, *options: str) -> tuple[str, list[str], set[str]]:
    """(DOM when the page has come to rest, lines in the console, addresses of the network that were asked for)."""
    log = folder / "net.json"
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
        f"--log-net-log={log}",
        f"--user-data-dir={folder / 'profile'}",
        *options,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    urls = set(re.findall(r'"url":"((?:https?|wss?|ftp):[^"]+)"', log.read_text(encoding="utf-8", errors="replace")))
    return done.stdout, console, {url for url in urls if "google" not in url}  # the browser's own start-up


@needs_chromium
@pytest.mark.slow
def test_the_checks_of_the_browser_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        '<body><img src="http://127.0.0.1:9/x.png"><script>console.error("wrong")</script>'
    )
    dom, console, urls = browse(f"file://{tmp_path}/bad.html", tmp_path, "--dump-dom")
    assert "<img" in dom
    assert any("wrong" in line for line in console)
    assert urls == {"http://127.0.0.1:9/x.png"}


@needs_chromium
@pytest.mark.slow
def test_the_report_opens_in_chromium_and_the_viewer_draws(root: Path, tmp_path: Path) -> None:
    url = (root / "r.html").as_uri()
    picture = tmp_path / "screenshot.png"
    dom, console, urls = browse(
        f"{url}#viewer", tmp_path, "--dump-dom", f"--screenshot={picture}", "--window-size=1280,8000"
    )
    assert console == []
    assert urls == set()
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn is not None
    assert int(drawn[1]) > 10_000  # pixels that are not background
    pixels = imread(picture)
    assert pixels.shape[:2] == (8000, 1280)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100


@needs_chromium
@pytest.mark.slow
def test_on_a_phone_the_page_is_no_wider_than_the_screen_and_the_viewer_waits(root: Path, tmp_path: Path) -> None:
    page, end, rest = (root / "r.html").read_text(encoding="utf-8").rpartition("</body>")
    probe = "<script>parent.postMessage(`${document.documentElement.scrollWidth} ${window.innerWidth}`, '*')</script>"
    (tmp_path / "r.html").write_text(page + probe + end + rest, encoding="utf-8")
    frame = '<iframe src="r.html" width="390" height="844" style="border: 0"></iframe>'  # a window is never so narrow
    listen = "<script>addEventListener('message', (event) => { document.body.dataset.widths = event.data })</script>"
    (tmp_path / "phone.html").write_text(f"<body>{listen}{frame}")
    dom, console, _ = browse((tmp_path / "phone.html").as_uri(), tmp_path, "--dump-dom")
    assert console == []
    assert 'data-widths="390 390"' in dom
    dom, console, urls = browse((root / "r.html").as_uri(), tmp_path, "--dump-dom")
    assert console == []
    assert urls == set()
    assert "data-drawn" not in dom
    assert 'id="viewer_start"' in dom


# A real experiment -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prelabel_segments_the_queried_cases_with_the_model_before_the_query(blobs: Path, tmp_path: Path) -> None:
    experiment = plan_experiment(
        "Dataset901_Blobs", rounds=1, budget="2", preset="tiny", epochs=1, iterations_per_epoch=1, initial_lr=1e-3
    )
    rounds = [run_round(experiment, r, torch.device("cpu")) for r in (0, 1)]
    with pytest.raises(SystemExit) as exit_:
        main(["-d", "901", "-o", str(tmp_path / "r.html"), "--prelabel", "-device", "cpu"])
    assert exit_.value.code == 0
    context = open_context(experiment, torch.device("cpu"))
    scorer = open_scorer(context, rounds[0].model)
    for case in rounds[1].queried:
        seen = preview(scorer, context.image(case), context.properties(case), 3.0)
        written = sitk.ReadImage(str(experiment.paths.previews(1) / f"{case}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), seen.segmentation)
        assert written.GetOrigin() == sitk.ReadImage(str(context.dataset.images[case][0])).GetOrigin()
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    cases = json.loads(html.split('id="viewer_cases">')[1].split("</script>")[0])
    assert [list(case["layers"]) for case in cases] == [["pre-segmentation", "label"]] * 2 + [["label"]]
    assert "--prelabel computes them" not in html
