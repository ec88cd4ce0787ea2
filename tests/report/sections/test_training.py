from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnunet_assft.report.material import Material, TrainingCurves
from nnunet_assft.report.plot import SERIES
from nnunet_assft.report.sections.training import section
from tests.report.conftest import Report


def test_lines_are_what_the_csv_has(report: Report) -> None:
    losses = report.plots["training_loss"]
    lines = [line for line in losses.figure.axes[0].lines if line.get_color() == SERIES[0]]
    assert len(lines) == 3  # a stage each
    trained = np.concatenate([line.get_xydata() for line in lines])
    np.testing.assert_allclose(trained, losses.data[["total_epoch", "train_loss"]])
    assert list(losses.data["total_epoch"]) == [1, 2, 3, 4, 5, 6]
    assert list(report.plots["training_pseudo_dice"].data["pseudo_dice"]) == [0.5, 0.625] * 3


def test_the_labels_of_rounds_are_above_the_curves(report: Report) -> None:
    figure = report.plots["training_loss"].figure
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["round 0", "round 1"]
    for text in axes.texts:
        label = text.get_window_extent()
        assert axes.bbox.y1 <= label.y0 < label.y1 <= figure.bbox.y1


def test_stages_without_a_curve_are_named(material: Material) -> None:
    epochs = material.training.epochs
    training = TrainingCurves(epochs[epochs["round"] == 0], ("round 1 (semi)",), ("round 1 (supervised)",))
    found = section(replace(material, training=training))
    assert found.missing == (
        "There is no training curve of round 1 (semi), because the checkpoint no longer exists.",
        "There is no training curve of round 1 (supervised), because the checkpoint cannot be read.",
    )
    assert len(found.plots) == 2
    assert not section(replace(material, training=replace(training, epochs=epochs.iloc[:0]))).plots
