"""The embeddings before adaptation: what the encoder is shown, what is taken of it, and the first case by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.options import Options
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.rounds import _first_case
from nnunet_assft.active.scoring.prediction import open_scorer
from nnunet_assft.active.scoring.records import embeddings, pretrained_records
from nnunet_assft.errors import AssftError
from nnunet_assft.network import PRESETS, build_network
from nnunet_assft.network.encoder_file import write_encoder
from tests.conftest import CPU, TINY, plan_experiment
from tests.network.test_encoder_file import SHOWN, header


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    """An encoder file that says that it was trained on images of CT-FM's window."""
    net = build_network(PRESETS["tiny"].architecture, 1, 2, initialise=True)
    write_encoder(tmp_path / "a.safetensors", net.encoder, header("tiny"))
    assert SHOWN["normalization"] == ["CTFMNormalization"]
    return str(tmp_path / "a.safetensors")


def opened(encoder: str, name: str = "assft", **options: Any) -> Context:
    experiment = plan_experiment(901, name, **{**TINY, "encoder": encoder, "options": Options(**options)})
    return open_context(experiment, CPU)


def test_the_encoder_before_adaptation_is_shown_what_it_was_trained_on(blobs: Path, encoder: str) -> None:
    context = opened(encoder, prior_input="contract")
    pool = context.experiment.pool[:2]
    raw = sitk.GetArrayFromImage(sitk.ReadImage(str(blobs / "imagesTr" / f"{pool[0]}_0000.nii.gz")))
    shown = context.prior_image(pool[0])
    np.testing.assert_allclose(shown[0], (raw.clip(-1024, 2048) + 1024) / 3072, rtol=1e-5)
    assert shown.dtype == np.float32
    assert abs(float(context.image(pool[0]).mean())) < 1e-3  # the z-scores that the network gets
    scorer = open_scorer(context, context.experiment.initial_model)
    of_contract, of_network = (
        np.stack([scorer.embed(case, image(case)).embedding for case in pool])
        for image in (context.prior_image, context.image)
    )
    assert np.linalg.norm(of_contract - of_network) > 0.01
    np.testing.assert_array_equal(embeddings(pretrained_records(context, pool), pool), of_contract)
    same = opened(encoder, "same")
    np.testing.assert_array_equal(embeddings(pretrained_records(same, pool), pool), of_network)


def test_what_was_recorded_with_other_options_is_not_used(blobs: Path, encoder: str) -> None:
    context = opened(encoder)
    pool = context.experiment.pool[:1]
    mean = embeddings(pretrained_records(context, pool), pool)
    other = opened(encoder, "other", embedding="mean_std")
    record = context.paths.records("pretrained") / f"{pool[0]}.npz"
    copy = other.paths.records("pretrained") / record.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(record.read_bytes())  # as a comparison does that shares round 0
    both = embeddings(pretrained_records(other, pool), pool)
    assert (mean.shape, both.shape) == ((1, 64), (1, 128))
    np.testing.assert_array_equal(both[:, :64], mean)


def test_the_typical_case_has_the_nearest_neighbours(blobs: Path, encoder: str) -> None:
    context = opened(encoder, first_case="typical")
    pool = context.experiment.pool
    rows = embeddings(pretrained_records(context, pool), pool)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.linalg.norm(unit[:, None] - unit, axis=2).sum(1)  # to all seven others, which are fewer than 20
    assert _first_case(context) == pool[int(distances.argmin())]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "prior_input=contract needs trained weights, and the network starts at random"),
        (
            {"normalization": ["CTNormalization"]},
            "normalization .* was CTNormalization, and it is not known .* 1 channel",
        ),
    ],
)
def test_an_input_that_is_not_known_is_refused_before_images_are_read(
    blobs: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    file = tmp_path / "a.safetensors"
    net = build_network(PRESETS["tiny"].architecture, 1, 2)
    write_encoder(file, net.encoder, header("tiny", input={**SHOWN, **settings}))
    (blobs / "imagesTr" / "case_03_0000.nii.gz").write_bytes(b"this is no image")
    with pytest.raises(AssftError, match=message):
        opened(str(file) if settings else None, prior_input="contract")  # type: ignore[arg-type]
    assert not ExperimentPaths("Dataset901_Blobs", "assft").experiment_file.exists()
