"""The report of a pre-training: the numbers in it by hand, and that the page needs nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_assft.pretraining.pretrain import Pretrained
from nnunet_assft.pretraining.settings import Pretraining
from nnunet_assft.pretraining.training import Task
from nnunet_assft.report.pretraining import _Picture, similarities, write_pretraining_report
from nnunet_assft.volumes.raw_dataset import find_dataset
from tests.network.test_encoder_file import header


def task_in(folder: Path) -> Task:
    files = tuple(Path(f"case_{i}.b2nd") for i in range(3))
    return Task(Pretraining(epochs=2), 2, files, 2, header("tiny"), (4, 4, 4), folder)


def test_the_error_of_a_slice_is_that_of_its_hidden_voxels_inside_of_the_image() -> None:
    image, hidden, inside = np.zeros((2, 4, 4)), np.zeros((2, 4, 4), bool), np.ones((2, 4, 4), bool)
    reconstruction = image.copy()
    hidden[1, 0, :3] = True
    reconstruction[1, 0] = 1, 3, 100, 100
    inside[1, 0, 2] = False
    table = _Picture(image, hidden, inside, reconstruction, (1, 1, 1)).errors()
    assert table.iloc[0].tolist() == ["first", 2, 2, (1 + 9) / 2]
    assert table.iloc[1].tolist() == ["second", 3, 0, 0]  # nothing is hidden there
    assert table.iloc[2].tolist() == ["third", 3, 0, 0]  # what is hidden there is outside


def test_similarities_by_hand(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    nearest = np.array([[True, True, False, True], [False, True, False, True]])
    found = {"positive": np.array([[0.92, 0.5], [0.71, 0.71]]), "negative": np.array([[-1.0, 0.1, 0.2, 0.3]])}
    (plot,) = similarities({**found, "nearest": nearest}, Pretrained(task, (0.9, 0.5))).plots
    assert "The mean cosine is 0.71 for views of one crop and -0.10 for views of two crops." in plot.caption
    assert "4 views of each of 2 images" in plot.caption
    assert (
        "For 62% of the views, the most similar one is the other view of the same crop; at random, it would be 33%"
        in (plot.caption)
    )
    table = plot.data.set_index("from")
    assert table.loc[0.7, "views of one crop"] == 0.5
    assert table["views of one crop"].sum() == table["views of two crops"].sum() == 1
    assert table.loc[-1.0, "views of two crops"] == 0.25


def test_the_page_stands_alone(blobs: Path, tmp_path: Path) -> None:
    task = task_in(tmp_path / "mine")
    task.folder.mkdir()
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)
    hidden = rng.random(image.shape) < 0.75
    np.savez(task.examples_file, image=image, hidden=hidden, inside=np.ones_like(hidden), reconstruction=image)
    page = write_pretraining_report(Pretrained(task, (0.9, 0.5)), find_dataset("Dataset901_Blobs"))
    html = page.read_text()
    assert "2 images of the pool and 1 further image; no label and no test image" in html
    assert "0.900 in the first epoch, 0.500 in the last" in html
    assert "10 steps with batches of 2, seed 0" in html
    assert "Pre-training of an encoder" in html
    assert not re.findall(r'(?:src|href)="(?!data:|#|report_files/)', html)
    losses = pd.read_csv(tmp_path / "mine" / "report_files" / "pretraining_loss.csv")
    assert losses.to_dict("list") == {"epoch": [1, 2], "loss": pytest.approx([0.9, 0.5])}
    assert (tmp_path / "mine" / "report_files" / "reconstruction_1.png").stat().st_size > 1000
