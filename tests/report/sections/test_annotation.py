"""The work of annotators in the report: minutes, names, agreement, and how good the pre-segmentations were."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from nnunet_assft.evaluation.dice import case_dice, mean_of
from nnunet_assft.report.material import Material
from nnunet_assft.report.sections.annotation import section
from nnunet_assft.runtime.sealed import write_sealed
from tests.conftest import blob_case, save_by_spreadsheet
from tests.report.conftest import NASTY, POOL, STRUCTURES, with_settings


def test_a_benchmark_has_no_such_section(material: Material) -> None:
    assert section(material) is None


def test_every_queried_case_with_its_pre_segmentation(material: Material) -> None:
    """The pre-segmentations of the fixture are all ball, so only the ball counts, and the box is 0."""
    material = replace(with_settings(material, annotator="human"), minutes={NASTY: 25.0})
    paths = material.experiment.paths
    entry = {"minutes": 25, "source_sha256": "a", "label_sha256": "b", "volumes_ml": {}, "left_mm": {}}
    readings = [{**entry, "annotator": "anna"}, {**entry, "annotator": "bert"}]
    content = {"schema_version": 1, "case": NASTY, "round": 1, "readings": readings, "replaced": []}
    write_sealed(paths.annotation_file(NASTY), content)
    row = {"case": NASTY, "reader_1": "anna", "reader_2": "bert", "dice_box": 0.9, "mean_dice": 0.9}
    pd.DataFrame([row]).to_csv(paths.agreement_file(1), index=False)
    found = section(material)
    assert found is not None
    table, agreement = found.tables
    rows = table.data.set_index("case")
    assert list(rows.index) == ["case_0", NASTY, "case_3"]
    assert rows.loc[NASTY, "annotator"] == "anna, bert"
    assert rows.loc[NASTY, "minutes"] == 25
    assert rows["asked for"].tolist() == ["query"] * 3
    label = blob_case(POOL.index("case_3"))[1]
    dice = case_dice((label > 0).astype(int)[None], label[None], STRUCTURES)
    assert dice["box"] == 0
    assert rows.loc["case_3", "Dice of the pre-segmentation"] == pytest.approx(mean_of(dice.values()))
    assert rows["Dice of the pre-segmentation"].isna().tolist() == [True, False, False]  # round 0 has no model
    assert agreement.data.loc[0, "reader_2"] == "bert"
    assert found.missing == (
        "Minutes that nobody has recorded are missing; annotate import takes --minutes or --times.",
    )
    assert list(found.plots[0].data["round"]) == [1, 1]
    given = section(replace(material, experiment=replace(material.experiment, labelled_at_start=("case_0",))))
    assert given is not None
    assert given.tables[0].data["asked for"].tolist() == ["no, labelled at the start", "query", "query"]
    save_by_spreadsheet(paths.agreement_file(1))
    found = section(material)
    assert found is not None
    assert found.missing[0] == "agreement_round_01.csv is no longer as it was written, so it is not shown."
    assert len(found.tables) == 1
