"""A pre-training, from the plans to the encoder file that `plan` takes: what it reads, and how it is interrupted."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from nnunet_assft.active.context import open_context
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Experiment
from nnunet_assft.annotation.requests import begin_test_cases
from nnunet_assft.cluster.engines import HERE
from nnunet_assft.errors import AssftError
from nnunet_assft.extension import Wish, extend, influence
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.network.encoder_file import read_header
from nnunet_assft.planning import preprocessing
from nnunet_assft.pretraining import contrastive, training
from nnunet_assft.pretraining.pretrain import Pretrained, _run, pretrain
from nnunet_assft.pretraining.settings import METHODS, Pretraining
from nnunet_assft.runtime.files import read_json, sha256_file
from tests.conftest import CPU, SHAPE, blob_case, plan_experiment, write_volume

SHORT = Pretraining(epochs=2, iterations_per_epoch=2, batch_size=2, seed=7)


@pytest.fixture(autouse=True)
def _few_patches_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "STATISTICS", 4)
    monkeypatch.setattr(training, "N_EXAMPLES", 1)
    monkeypatch.setattr(contrastive, "CROPS", 3)


def run(experiment: Experiment, folder: Path, settings: Pretraining = SHORT) -> Pretrained:
    return pretrain(experiment, settings, folder, CPU)


def weights(done: Pretrained) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(done.task.encoder_file)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
def test_the_file_says_what_it_is_and_is_taken_by_plan(planned: Experiment, tmp_path: Path, method: str) -> None:
    done = run(planned, tmp_path / "mine", replace(SHORT, method=method))
    file = tmp_path / "mine" / "mine.safetensors"
    assert done.task.encoder_file == file
    header = read_header(file)
    assert header is not None
    assert (header["method"], header["preset"], header["dataset"]) == (method, "tiny", "Dataset901_Blobs")
    images = header["training"].pop("images")
    assert (len(set(images)), {len(image) for image in images}) == (8, {16})
    assert header["training"] == {"n_images": 8, "steps": 4, "batch_size": 2, "seed": 7, "loss": done.losses[-1]}
    plan = read_json(planned.paths.plans)["configurations"]["3d_fullres"]
    assert header["input"] == {
        "channels": ["MRI"],
        "normalization": ["PercentileZScoreNormalization"],
        "spacing": [1.0, 1.0, 1.0],
        "patch_size": plan["patch_size"],
    }
    assert "case_0" not in file.read_bytes()[:20_000].decode("latin-1")  # no id of a case
    other = plan_experiment(planned.dataset, "other", preset="tiny", encoder=str(file))
    assert other.encoder_report is not None
    assert (other.encoder_report["encoder"], other.encoder_report["header"]) == ("nnunet_assft", read_header(file))
    start = load_weights(other.paths.initial_network)
    encoder = {name.removeprefix("encoder."): tensor for name, tensor in start.items() if name.startswith("encoder.")}
    assert same(encoder, weights(done))
    assert other.checksums["images"] == planned.checksums["images"]


def test_the_same_command_twice_trains_once(
    planned: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(planned, tmp_path / "mine")
    before = sha256_file(done.task.encoder_file)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("it is trained"))
    assert run(planned, tmp_path / "mine").losses == done.losses
    done.task.encoder_file.write_bytes(b"damaged")
    assert run(planned, tmp_path / "mine").losses == done.losses
    assert sha256_file(done.task.encoder_file) == before


def test_two_commands_may_train_in_folders_of_one_name(tmp_path: Path) -> None:
    """Otherwise their parts would have one folder, and the command that begins later would end those of the other."""
    steps = []

    def executor(function: Any, items: Any, desc: str) -> Iterator[tuple[int, list[float]]]:
        steps.append(re.sub(r"\W", "_", desc))
        yield 0, [1.0]

    context: Any = SimpleNamespace(device=CPU, engine=HERE, trainings=executor)
    for parent in ("a", "b", "a"):
        _run(context, training.Task(SHORT, 2, (), 0, {}, (16, 16, 16), tmp_path / parent / "mine"))
    assert steps[0] != steps[1]
    assert steps[0] == steps[2]


class Stopped(BaseException):
    """Like a signal, nothing catches it."""


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_training_ends_like_one_that_was_not(
    planned: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    settings = replace(SHORT, epochs=3, method=method)
    whole = run(planned, tmp_path / "whole", settings)
    step, calls = training._Trainer._step, 0

    def stop_in_the_second_epoch(trainer: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Stopped
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training._Trainer, "_step", stop_in_the_second_epoch)
        with pytest.raises(Stopped):
            run(planned, tmp_path / "stopped", settings)
    checkpoint = tmp_path / "stopped" / "checkpoint_latest.pth"
    assert torch.load(checkpoint, weights_only=True)["losses"] == list(whole.losses[:1])
    resumed = run(planned, tmp_path / "stopped", settings)
    assert resumed.losses == whole.losses
    assert same(weights(resumed), weights(whole))
    assert len(set(whole.losses)) == 3


def test_a_damaged_checkpoint_is_trained_again(
    planned: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(planned, tmp_path / "mine")
    expected = weights(done)
    (tmp_path / "mine" / "finished.json").unlink()
    done.task.checkpoint.write_bytes(done.task.checkpoint.read_bytes()[:-1000])
    again = run(planned, tmp_path / "mine")
    assert same(weights(again), expected)
    assert "cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_no_label_and_no_test_image_has_an_influence(planned: Experiment, tmp_path: Path, method: str) -> None:
    settings = replace(SHORT, epochs=1, method=method)
    expected = weights(run(planned, tmp_path / "before", settings))
    raw = planned.paths.raw
    rng = np.random.default_rng(0)
    for file in sorted((raw / "labelsTr").iterdir())[:4]:
        write_volume(file, rng.integers(0, 3, SHAPE).astype(np.uint8))
    for file in sorted((raw / "labelsTr").iterdir())[4:]:
        file.write_bytes(b"no label")
    shutil.rmtree(raw / "labelsTs")
    folder = open_context(planned, CPU).image_folder
    canaries = [folder / f"{case}.b2nd" for case in planned.test]
    for canary in canaries:
        canary.write_bytes(b"no image")
    assert same(weights(run(planned, tmp_path / "after", settings)), expected)
    assert all(canary.read_bytes() == b"no image" for canary in canaries)  # who opens it makes it again


def test_an_encoder_that_has_seen_test_images_is_refused(planned: Experiment, tmp_path: Path) -> None:
    """Another test split, such as a fold of a comparison, has cases of the pool as test cases."""
    file = str(run(planned, tmp_path / "mine").task.encoder_file)
    with pytest.raises(
        AssftError, match=r"was pre-trained on the images of 2 test cases of experiment 'other' \(case_0"
    ):
        plan_experiment(planned.dataset, "other", preset="tiny", encoder=file, test_split="0.25")
    assert not ExperimentPaths(planned.dataset, "other").experiment_file.exists()


def test_a_new_test_case_that_the_encoder_has_seen_is_refused(planned: Experiment, tmp_path: Path) -> None:
    """It was in an archive of further images, under another name, and arrives with a label later."""
    archive = replace(SHORT, images=(images(tmp_path / "archive", 50),))
    file = str(run(planned, tmp_path / "mine", archive).task.encoder_file)
    other = plan_experiment(planned.dataset, "other", preset="tiny", encoder=file)
    for i in (50, 51):
        image, label = blob_case(i)
        write_volume(planned.paths.raw / f"imagesTr/case_{i}_0000.nii.gz", image)
        write_volume(planned.paths.raw / f"labelsTr/case_{i}.nii.gz", label)
    words = (
        r"was pre-trained on the images of 1 test case of experiment 'other' \(case_50\), and cannot be judged by them"
    )
    with pytest.raises(AssftError, match=words):
        extend(other, Wish(test=["case_50", "case_51"]))
    assert not other.paths.history_file.exists()
    human = replace(other, settings=replace(other.settings, annotator="human"))
    write_volume(planned.paths.raw / "imagesTs/case_60_0000.nii.gz", blob_case(50)[0])
    with pytest.raises(AssftError, match=words.replace("case_50", "case_60")):
        begin_test_cases(human)  # before anybody draws it
    (planned.paths.raw / "imagesTs/case_60_0000.nii.gz").unlink()
    assert extend(other, Wish(test=["case_51"])).history[0].added == ("case_50",)


def test_the_encoder_that_has_seen_a_withdrawn_case_is_named(planned: Experiment, tmp_path: Path) -> None:
    """Also when the command is repeated after the files of the case were deleted."""
    file = str(run(planned, tmp_path / "mine").task.encoder_file)
    other = plan_experiment(planned.dataset, "other", preset="tiny", encoder=file)
    seen, test = other.pool[0], other.test[0]
    extend(other, Wish(withdrawn=[test, seen]))
    for root in (planned.paths.raw, planned.paths.preprocessed):
        for path in [*root.rglob(f"{seen}*"), *root.rglob(f"{test}*")]:
            path.unlink()
    other = Experiment.load(other.paths)
    assert influence(other, seen).sentence(seen) == (
        f"{seen}: the plans were made from its image; the encoder mine.safetensors was pre-trained on its image, and "
        "all models start from its weights"
    )
    assert influence(other, test).sentence(test) == f"{test}: it had a part in nothing"


def test_an_encoder_names_a_withdrawn_case_whose_fingerprint_or_image_is_lost(
    planned: Experiment, tmp_path: Path
) -> None:
    file = str(run(planned, tmp_path / "mine").task.encoder_file)
    other = plan_experiment(planned.dataset, "other", preset="tiny", encoder=file)
    no_fingerprint, no_image = other.pool[:2]
    (other.paths.fingerprint_cases / f"{no_fingerprint}.json").unlink()
    (other.paths.raw / f"imagesTr/{no_image}_0000.nii.gz").unlink()
    changed = extend(other, Wish(withdrawn=[no_fingerprint, no_image]))
    assert changed.withdrawn_but_seen == {no_fingerprint, no_image}


def test_the_seed_makes_a_difference(planned: Experiment, tmp_path: Path) -> None:
    one = weights(run(planned, tmp_path / "a"))
    assert same(weights(run(planned, tmp_path / "b")), one)
    assert not same(weights(run(planned, tmp_path / "c", replace(SHORT, seed=8))), one)


# Further images -------------------------------------------------------------------------------------------------------


def images(folder: Path, *seeds: int) -> Path:
    for seed in seeds:
        write_volume(folder / f"scan {seed}_0000.nii.gz", blob_case(seed)[0])
    return folder


def test_further_images_are_preprocessed_by_the_same_plans(planned: Experiment, tmp_path: Path) -> None:
    settings = replace(SHORT, images=(images(tmp_path / "more", 50, 51), images(tmp_path / "even more", 52, 50, 3)))
    done = run(planned, tmp_path / "mine", settings)
    names = [file.name for file in done.task.files]
    assert names[:8] == [f"{case}.b2nd" for case in planned.pool]  # case_03 was drawn with seed 3
    assert sorted(names[8:]) == ["scan 50.b2nd", "scan 51.b2nd", "scan 52.b2nd"]
    assert done.task.n_pool == 8
    alone = weights(run(planned, tmp_path / "alone"))
    assert not same(weights(done), alone)
    expected, _, _ = preprocessing.preprocess(
        (tmp_path / "more" / "scan 50_0000.nii.gz",),
        read_json(planned.paths.plans),
        planned.raw_dataset().dataset_json,
    )
    (file,) = (file for file in done.task.files if file.name == "scan 50.b2nd")
    np.testing.assert_array_equal(preprocessing._array(file.read_bytes()), expected)


@pytest.mark.parametrize("same_file", [True, False])
def test_a_test_image_among_them_is_refused_under_any_name(
    planned: Experiment, tmp_path: Path, same_file: bool
) -> None:
    folder = images(tmp_path / "more", 50)
    source = planned.paths.raw / "imagesTs" / f"{planned.test[1]}_0000.nii.gz"
    copy = folder / "other_0000.nii.gz"
    content = source.read_bytes()
    copy.write_bytes(content if same_file else gzip.compress(gzip.decompress(content), 1))
    assert (sha256_file(copy) == sha256_file(source)) == same_file
    with pytest.raises(AssftError, match=f"holds the test image {planned.test[1]} of experiment 'assft'"):
        run(planned, tmp_path / "mine", replace(SHORT, images=(folder,)))


def test_a_withdrawn_image_is_left_out_and_refused_elsewhere(planned: Experiment, tmp_path: Path) -> None:
    case = planned.pool[-1]
    source = planned.paths.raw / "imagesTr" / f"{case}_0000.nii.gz"
    (tmp_path / "more").mkdir()
    shutil.copy(source, tmp_path / "more" / "other_0000.nii.gz")
    changed = extend(planned, Wish(withdrawn=[case]))
    done = run(changed, tmp_path / "mine")
    assert len(done.task.files) == done.task.n_pool == len(planned.pool) - 1
    assert not any(file.name == f"{case}.b2nd" for file in done.task.files)
    with pytest.raises(AssftError, match=f"holds the image {case}, withdrawn from experiment 'assft'"):
        run(changed, tmp_path / "other", replace(SHORT, images=(tmp_path / "more",)))


def test_another_pre_training_is_not_overwritten(planned: Experiment, tmp_path: Path) -> None:
    run(planned, tmp_path / "mine")
    with pytest.raises(AssftError, match=r"another pre-training \(--epochs was 2, now 3\)\. Choose another folder"):
        run(planned, tmp_path / "mine", replace(SHORT, epochs=3))
    more = replace(SHORT, images=(images(tmp_path / "more", 50),))
    with pytest.raises(AssftError, match=r"another pre-training \(other images\)"):
        run(planned, tmp_path / "mine", more)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    with pytest.raises(AssftError, match="holds other files"):
        run(planned, tmp_path / "notes")
