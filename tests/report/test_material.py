"""What the report reads of files, and the errors that say what to do if there is nothing to read."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from nnunet_assft.active.state import REMOVED_OPTIONS, Experiment, Round
from nnunet_assft.errors import AssftError
from nnunet_assft.report.material import EPOCH_COLUMNS, Material, epochs_of, gather, read_finished_comparison
from nnunet_assft.report.page import render
from nnunet_assft.report.sections.head import head
from nnunet_assft.report.sections.order import build_sections
from nnunet_assft.runtime.cached import cached
from nnunet_assft.runtime.files import read_json, write_json
from tests.conftest import save_by_spreadsheet
from tests.report.conftest import DATASET, LOG, NASTY, POOL, write_comparison


def test_what_is_not_there_is_left_out(experiment: Experiment) -> None:
    paths = experiment.paths
    paths.scores_file(1).unlink()
    paths.pseudo_label_quality(1).unlink()
    shutil.rmtree(paths.results / "records")
    for stage in ("supervised", "semi"):
        shutil.rmtree(paths.model_folder(stage))
    material = gather(DATASET, None, None)
    assert material.scores == {}
    assert material.quality is None
    assert material.embeddings == {}
    assert material.pretrained is None
    assert material.training.epochs.empty
    assert material.training.absent == ("round 0 (supervised)", "round 1 (supervised)", "round 1 (semi)")
    assert material.minutes == {}
    assert material.comparison is None


def test_errors_say_what_to_do(experiment: Experiment) -> None:
    with pytest.raises(AssftError, match="Run nnUNetv2_assft_compare first"):
        gather(DATASET, None, "compare")
    with pytest.raises(AssftError, match="has no experiment 'pilot'"):
        gather(DATASET, "pilot", None)
    for r in (0, 1):
        experiment.paths.round_file(r).unlink()
    with pytest.raises(AssftError, match=r"no finished round.*Run nnUNetv2_assft_status -d 905"):
        gather(DATASET, None, None)


def test_a_strategy_that_does_not_exist_is_one_line(experiment: Experiment) -> None:
    gone = replace(experiment, settings=replace(experiment.settings, strategy="gone"))
    replace(gone, versions={"nnunet_assft": "0.1.0"}).save()
    with pytest.raises(AssftError, match=r"'gone'.* no longer has.*use that version") as error:
        gather(DATASET, None, None)
    assert "\n" not in str(error.value)


# Training -----------------------------------------------------------------------------------------------------------


def test_epochs_are_those_of_the_checkpoints(material: Material) -> None:
    epochs = material.training.epochs
    assert [tuple(row) for row in epochs[["round", "stage"]].drop_duplicates().to_numpy()] == [
        (0, "supervised"),
        (1, "supervised"),
        (1, "semi"),  # in the order of the trainings
    ]
    of_stage = epochs[epochs["stage"] == "semi"][list(EPOCH_COLUMNS)]
    assert of_stage.to_numpy().tolist() == [[0, 0.8257, 0.1352, 0.5], [1, -0.5, -0.25, 0.625]]
    assert material.training.absent == material.training.damaged == ()


def test_an_epoch_that_is_not_whole_is_left_out() -> None:
    assert epochs_of({**LOG, "mean_fg_dice": [np.nan]}).to_numpy()[:, :3].tolist() == [[0, 0.8257, 0.1352]]
    assert epochs_of({name: [] for name in LOG}).empty


def test_a_checkpoint_that_was_cut_short_is_named(experiment: Experiment) -> None:
    checkpoint = experiment.paths.checkpoint(1, "supervised")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-300])
    experiment.paths.checkpoint(1, "semi").unlink()
    training = gather(DATASET, None, None).training
    assert training.damaged == ("round 1 (supervised)",)
    assert training.absent == ("round 1 (semi)",)
    assert list(training.epochs["round"]) == [0, 0]


# Minutes ------------------------------------------------------------------------------------------------------------


def test_minutes_of_a_case_are_summed_over_its_annotators(experiment: Experiment) -> None:
    rest = {"source_sha256": "a", "label_sha256": "b", "volumes_ml": {}, "left_mm": {}}
    for case, minutes in (("case_0", [10.0]), (NASTY, [5.0, 2.0]), ("case_3", [4.0, None])):
        readings = [{"annotator": "a", "minutes": m, **rest} for m in minutes]
        write_json(experiment.paths.annotation_file(case), {"case": case, "round": 1, "readings": readings})
    assert gather(DATASET, None, None).minutes == {"case_0": 10.0, NASTY: 7.0}


# Comparison ---------------------------------------------------------------------------------------------------------


def test_a_comparison_without_a_finished_round_is_one_line(experiment: Experiment) -> None:
    file = write_comparison(experiment) / "results.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(AssftError, match="has no finished round"):
        gather(DATASET, None, "compare")


def test_the_first_run_of_the_method_stands_for_a_comparison(experiment: Experiment) -> None:
    assert read_finished_comparison(write_comparison(experiment)).experiment == "compare_assft_s0"
    with pytest.raises(AssftError, match="has no experiment 'compare_assft_s0'"):
        gather(DATASET, None, "compare")


# Files of earlier versions ------------------------------------------------------------------------------------------


def test_an_experiment_and_a_comparison_of_version_2_have_a_report(experiment: Experiment) -> None:
    settings = experiment.settings
    options = {**asdict(settings.options), **REMOVED_OPTIONS}
    old = {name: getattr(settings, name) for name in ("strategy", "seed", "budget", "annotator", "domain", "preset")}
    same = ("dataset", "name", "n_query", "pool", "test", "test_source", "permutation", "initial_network_sha256")
    old |= {name: getattr(experiment, name) for name in same}
    old |= {"schema_version": 2, "n_rounds": 2, "normalization": "percentile", "versions": {"nnunet_assft": "0.1.0"}}
    old |= {
        "options": options,
        "training": settings.training,
        "encoder": {"path": "/x/a.pth", "report": {"sha256": "e"}},
    }
    experiment.paths.experiment_file.write_text(json.dumps(old))
    file = write_comparison(experiment) / "comparison.json"
    content = read_json(file)
    compared = {**content["settings"], "encoder": "/x/a.pth"}
    write_json(file, {**content, "settings": compared, "options": options, "encoder": old["encoder"]})
    material = gather(DATASET, "assft", "compare")
    assert material.comparison is not None
    assert material.comparison.spec.settings.encoder == "/x/a.pth"
    page = render(head(material), build_sections(material), "files", material.dataset)
    assert "a.pth, sha256 e" in page
    assert "tau_c=3.0" in page
    assert "1 of 2 query rounds" in page


def test_a_case_may_be_called_na(experiment: Experiment) -> None:
    file = experiment.paths.scores_file(1)
    scores = pd.read_csv(file).replace({"case": {"case_6": "NA"}})
    scores.to_csv(file, index=False)
    found = gather(DATASET, None, None).scores[1]
    assert "NA" in set(found["case"])
    assert len(found) == len(POOL) - 1
    assert found["query_rank"].notna().sum() == 2


def test_a_table_of_a_round_that_a_spreadsheet_has_saved_is_written_again(experiment: Experiment) -> None:
    file = experiment.paths.scores_file(1)
    table = file.read_text()
    cached(experiment.paths.step_file(1, "query"), {}, lambda: {"queried": [], "excluded": [], "table": table})
    before = gather(DATASET, None, None).scores[1]
    save_by_spreadsheet(file)
    pd.testing.assert_frame_equal(gather(DATASET, None, None).scores[1], before)
    assert file.read_text() == table


def test_rounds_after_a_gap_are_not_shown(experiment: Experiment) -> None:
    replace(Round.load(experiment.paths, 1), round=2).save(experiment.paths)
    experiment.paths.round_file(1).unlink()
    assert [done.round for done in gather(DATASET, None, None).rounds] == [0]
