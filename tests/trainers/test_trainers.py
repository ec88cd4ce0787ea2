"""The trainers, found by name as nnU-Net finds them, on training sets made as a round makes them."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from scipy.stats import kstest
from torch import nn

from nnunet_assft.active.context import Context, open_context
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights, precision_of_training
from nnunet_assft.runtime import precision
from nnunet_assft.trainers.assft_trainers import draw_noise_sd, nnUNetTrainerASSFT
from nnunet_assft.trainers.folds import TRAINERS, fold_of
from nnunet_assft.trainers.marginal_loss import MarginalLoss, merge_into_background
from tests.conftest import CPU, plan_experiment, set_folders, write_dataset

START = "assft/assft/initial_network.pth"
HUMAN, PSEUDO = ("case_00", "case_03"), ("case_05",)
ALARM = 1e-3  # p value below which draws are not what they should be
Builder = Callable[..., nnUNetTrainerASSFT]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """An experiment with the training sets of round 0 and of both stages of round 1."""
    root = tmp_path_factory.mktemp("trainers")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_folders(root, monkeypatch)
        write_dataset(root / "nnUNet_raw")
        experiment = plan_experiment(901, preset="tiny", rounds=1, budget="1", epochs=8, iterations_per_epoch=2)
        context, start = open_context(experiment, CPU), experiment.initial_model
        human, pseudo = ({case: context.dataset.label_file(case) for case in cases} for cases in (HUMAN, PSEUDO))
        for stage in (
            Stage(0, "supervised", {"case_00": human["case_00"]}, {}, start, epochs=2),
            Stage(1, "supervised", human, {}, start, epochs=8),
            Stage(1, "semi", human, pseudo, start, epochs=2),
            Stage(1, "member_2", human, {}, start, epochs=2, copies={"case_00": 1, "case_03": 3}),
            Stage(1, "member_3", human, {}, start, epochs=2, not_annotated={"case_03": ["box"], "case_06": ["ball"]}),
            Stage(
                2, "semi", human, pseudo, start, epochs=2, not_annotated={case: ["box"] for case in (*HUMAN, *PSEUDO)}
            ),
        ):
            write_training_set(context, stage)
        yield context


@pytest.fixture
def build(context: Context) -> Builder:
    """A trainer of (round, stage); keywords change the settings of the experiment or, as `patch_size`, the plans."""

    def make(
        r: int = 1, stage: str = "semi", *, patch_size: tuple[int, int, int] | None = None, **settings: Any
    ) -> nnUNetTrainerASSFT:
        plans = copy.deepcopy(context.plans)
        plans["assft"].update(settings)
        if patch_size is not None:
            plans["configurations"]["3d_fullres"]["patch_size"] = list(patch_size)
        trainer_class = recursive_find_trainer_class_by_name(TRAINERS[stage])
        return trainer_class(plans, "3d_fullres", fold_of(r, stage), context.dataset.dataset_json, CPU)

    return make


# Precision on a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "scaled"), [("fp16", True), ("bf16", False), ("off", False)])
def test_the_environment_chooses_the_precision_and_the_layout_of_a_training(
    value: str, scaled: bool, build: Builder, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """With a trainer for a GPU, of which nothing is computed."""
    monkeypatch.setenv("nnUNet_assft_autocast", value)
    monkeypatch.setenv("nnUNet_assft_channels_last", "1")
    here = build()
    trainer = type(here)(here.plans_manager.plans, "3d_fullres", 1, context.dataset.dataset_json, torch.device("cuda"))
    assert (trainer.grad_scaler is not None) == scaled
    for name in ("train_step", "validation_step"):
        monkeypatch.setattr(nnUNetTrainer, name, lambda self, batch: {"dtype": torch.get_autocast_dtype("cuda")})
        found = getattr(trainer, name)({"keys": []})["dtype"]
        assert found == {"fp16": torch.float16, "bf16": torch.bfloat16, "off": torch.float32}[value]
    trainer.network = torch.nn.Conv3d(2, 2, 3)
    trainer.configure_optimizers()
    assert trainer.network.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_precision_of_a_training_is_written_beside_its_checkpoint(build: Builder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("nnUNet_assft_autocast", "bf16")
    trainer = build()
    trainer.initialize()
    checkpoint = Path(trainer.output_folder, "checkpoint_final.pth")
    for compiled, expected in ((False, "fp32"), (True, "bf16, compiled")):
        if compiled:
            trainer = build()
            monkeypatch.setattr(precision, "GPU", "cpu")
            monkeypatch.setattr(trainer, "_do_i_compile", lambda: True)
            trainer.initialize()  # nothing is compiled before the first step
        trainer._save_debug_information()
        assert precision_of_training(checkpoint) == expected


# What a trainer takes from the experiment and from the stage file -----------------------------------------------------


@pytest.mark.parametrize(("r", "stage", "epochs"), [(0, "supervised", 2), (1, "supervised", 8), (1, "semi", 2)])
def test_settings_come_from_the_plans_and_epochs_from_the_stage(build: Builder, r: int, stage: str, epochs: int):
    trainer = build(r, stage)
    assert trainer.num_epochs == epochs
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (2, 1)
    assert (trainer.initial_lr, trainer.weight_decay) == (1e-4, 3e-5)
    assert trainer.enable_deep_supervision is False
    assert trainer.output_folder.endswith(f"{type(trainer).__name__}__nnUNetASSFTPlans__3d_fullres/fold_{r}")


def test_iterations_keep_the_ratio_of_nnunet(build: Builder):
    trainer = build(iterations_per_epoch=250)
    assert (trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (250, 50)


def test_the_split_is_exactly_the_stage(build: Builder):
    assert build(0, "supervised").do_split() == (["case_00"], ["case_00"])
    assert build(1, "supervised").do_split() == (["case_00", "case_03"], ["case_00", "case_03"])
    assert build(1, "semi").do_split() == (["case_00", "case_03", "case_05"], ["case_00", "case_03"])


def test_a_case_with_copies_is_drawn_as_often(build: Builder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = build(1, "member_2")
    assert trainer.fold == 12
    assert trainer.do_split() == (["case_00", "case_03", "case_03", "case_03"], ["case_00", "case_03"])
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    np.random.seed(0)  # noqa: NPY002 - the generator that the loader draws from
    drawn = [case for _ in range(150) for case in loader.data_loader.get_indices()]
    assert drawn.count("case_03") / len(drawn) == pytest.approx(0.75, abs=0.08)
    assert set(drawn) == {"case_00", "case_03"}


def test_a_fold_of_the_committee_is_its_round_and_member(build: Builder):
    trainer = build(1, "member_2")
    assert trainer.stage_file.name == "round_01_member_2.json"
    with pytest.raises(AssftError, match=r"round_01_member_1.json does not exist"):
        build(1, "member_1")


def test_the_folder_holds_nothing_but_the_cases_of_the_stage(build: Builder):
    trainer = build()
    held = {
        file.name.removesuffix("_seg.b2nd").split(".")[0]
        for file in Path(trainer.preprocessed_dataset_folder).iterdir()
        if file.is_file()
    }
    assert held == {*HUMAN, *PSEUDO}


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        (7, "round_07_semi.json does not exist: fold 7 has no training set yet"),
        (0, "round_00_semi.json does not exist"),
        ("all", "Fold 'all' does not exist: the fold of nnUNetTrainerASSFT is the number of the round"),
    ],
)
def test_a_fold_that_is_no_round_is_refused(build: Builder, fold: Any, words: str):
    with pytest.raises(AssftError) as caught:
        build(fold)
    assert words in str(caught.value)


def test_plans_of_another_kind_are_refused(context: Context):
    plans = {key: value for key, value in copy.deepcopy(context.plans).items() if key != "assft"}
    with pytest.raises(AssftError, match="do not belong to an experiment"):
        nnUNetTrainerASSFT({**plans, "plans_name": "nnUNetPlans"}, "3d_fullres", 1, context.dataset.dataset_json, CPU)


# Optimisation --------------------------------------------------------------------------------------------------------


def test_adamw_and_polynomial_decay(build: Builder):
    trainer = build()
    trainer.network, trainer.num_epochs = nn.Linear(2, 2), 400
    optimizer, scheduler = trainer.configure_optimizers()
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (3e-5, (0.9, 0.999))
    for epoch, lr in ((0, 1e-4), (100, 1e-4 * 0.75**0.9), (200, 5.358867e-05), (399, 1e-4 * 400**-0.9)):
        scheduler.step(epoch)
        assert group["lr"] == pytest.approx(lr, rel=1e-6)


def test_the_loss_is_dice_plus_cross_entropy_with_equal_weights(build: Builder):
    trainer = build()
    trainer.initialize()
    assert (trainer.loss.weight_dice, trainer.loss.weight_ce) == (1, 1)
    assert trainer.loss.ce.weight is None
    assert (trainer.loss.dc.batch_dice, trainer.loss.dc.do_bg, trainer.loss.dc.smooth) == (False, False, 1e-5)


def test_an_absent_structure_has_a_dice_near_0_and_almost_no_gradient(build: Builder):
    """Of 512 voxels, each with a probability of 1/3 for background and two structures, half are structure 1."""
    trainer = build()
    trainer.initialize()
    gradient = {}
    for name, value in (("structure 2 is absent", 0), ("structure 2 is present", 2)):
        logits = torch.zeros(1, 3, 8, 8, 8, requires_grad=True)
        label = torch.full((1, 1, 8, 8, 8), value)
        label[..., :4] = 1
        probabilities = torch.softmax(logits, dim=1)
        probabilities.retain_grad()
        trainer.loss.dc.apply_nonlin = lambda _, p=probabilities: p
        loss = trainer.loss.dc(logits, label)
        loss.backward()
        gradient[name] = float(probabilities.grad[0, 2].abs().max())
        if value == 0:
            assert loss.item() == pytest.approx(-0.4 / 2, rel=1e-3)  # structure 1: 2 * 256/3 / (256 + 512/3)
    assert gradient["structure 2 is absent"] < 1e-6 < 1e-4 < gradient["structure 2 is present"]


def test_the_gradient_is_clipped_at_norm_12(build: Builder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer, norms = build(), []
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm))
    trainer.train_step(first_batch(trainer))
    assert norms == [12]


def test_the_second_patch_of_every_batch_lies_on_a_structure(build: Builder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = build()
    trainer.initialize()
    for loader in trainer.get_dataloaders():
        assert loader.data_loader.batch_size == 2
        assert [loader.data_loader.get_do_oversample(i) for i in range(2)] == [False, True]


@pytest.mark.parametrize("stage", ["supervised", "semi"])
def test_a_stage_starts_from_the_named_weights_with_a_fresh_optimiser(build: Builder, context: Context, stage: str):
    trainer = build(1, stage)
    torch.manual_seed(99)
    trainer.initialize()
    expected = load_weights(context.paths.results_of_dataset / START)
    found = trainer.network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert trainer.optimizer.state_dict()["state"] == {}
    assert trainer.current_epoch == 0


def first_batch(trainer: nnUNetTrainerASSFT) -> dict[str, Any]:
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    return next(trainer.dataloader_train)


def test_without_deep_supervision_there_is_one_output_and_only_its_head_learns(build: Builder):
    trainer = build(initial_lr=1e-2)
    batch = first_batch(trainer)
    assert isinstance(batch["target"], torch.Tensor)
    output = trainer.network(batch["data"])
    assert output.shape == (2, 3, *trainer.configuration_manager.patch_size)
    before = copy.deepcopy(trainer.network.state_dict())
    assert np.isfinite(trainer.train_step(batch)["loss"])
    heads = {name for name in before if name.startswith("decoder.heads.")}
    last = {name for name in heads if name.startswith(f"decoder.heads.{len(trainer.network.decoder.heads) - 1}.")}
    changed = {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}
    assert last
    assert changed & heads == last
    assert {name for name, parameter in trainer.network.named_parameters() if parameter.requires_grad} <= changed


def test_with_deep_supervision_all_outputs_but_the_coarsest_learn(build: Builder):
    trainer = build(deep_supervision=True, initial_lr=1e-2)
    batch = first_batch(trainer)
    sizes = [tuple(edge // 2**level for edge in trainer.configuration_manager.patch_size) for level in range(4)]
    assert [tuple(target.shape[2:]) for target in batch["target"]] == sizes
    outputs = trainer.network(batch["data"])
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *size) for size in sizes]
    before = copy.deepcopy(trainer.network.state_dict())
    assert np.isfinite(trainer.train_step(batch)["loss"])
    unchanged = {name for name, value in trainer.network.named_parameters() if torch.equal(value, before[name])}
    # nnU-Net gives the lowest resolution the weight 0
    assert trainer.loss.weight_factors == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))
    assert {name.rsplit(".", 1)[0] for name in unchanged} <= {"decoder.heads.0"}


# Structures that nobody drew ------------------------------------------------------------------------------------------


def test_the_stage_file_says_which_structures_its_human_labels_lack(build: Builder):
    assert "not_annotated" not in str(build(1, "semi").stage_plan)
    cases = build(1, "member_3").stage_plan["cases"]
    assert {case: entry.get("not_annotated") for case, entry in cases.items()} == {"case_00": None, "case_03": ["box"]}
    cases = build(2, "semi").stage_plan["cases"]
    assert {case: entry.get("not_annotated") for case, entry in cases.items()} == {
        "case_00": ["box"],
        "case_03": ["box"],
        "case_05": None,  # a pseudo-label is complete
    }


def test_no_voxel_of_a_training_set_has_the_value_of_what_nobody_drew(context: Context):
    def values(r: int, stage: str, case: str) -> list[int]:
        file = context.paths.training_set(r, stage) / f"{case}_seg.b2nd"
        return np.unique(np.asarray(blosc2.open(str(file))[:])).tolist()

    assert values(1, "supervised", "case_03") == [0, 1, 2]
    assert values(1, "member_3", "case_03") == [0, 1]  # although an earlier stage had the same file
    assert values(1, "member_3", "case_00") == [0, 1, 2]
    assert values(2, "semi", "case_05") == [0, 1, 2]


def test_validation_prefers_complete_labels(build: Builder):
    assert build(1, "member_3").do_split() == (["case_00", "case_03"], ["case_00"])
    assert build(2, "semi").do_split() == (["case_00", "case_03", "case_05"], ["case_00", "case_03"])


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_loss_knows_the_cases_of_the_batch(build: Builder, deep_supervision: bool):
    complete = build(1, "supervised", deep_supervision=deep_supervision)
    complete.initialize()
    assert not isinstance(complete.loss, MarginalLoss)
    lacking = build(1, "member_3", deep_supervision=deep_supervision)
    batch = first_batch(lacking)
    assert isinstance(lacking.loss, MarginalLoss)
    assert lacking.loss.not_annotated == {"case_03": [2]}
    target, batch["keys"] = batch["target"], np.array(["case_03", "case_03"])
    output = lacking.network(batch["data"])
    heads = [output] if isinstance(output, torch.Tensor) else output
    mask = torch.tensor([[False, False, True]] * 2)
    merged = [merge_into_background(head, mask) for head in heads]
    expected = complete.loss(merged if deep_supervision else merged[0], target)
    assert lacking.train_step(batch)["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert lacking.loss.batch == ["case_03", "case_03"]
    batch["keys"] = ["case_00", "case_00"]
    output = lacking.network(batch["data"])
    assert lacking.validation_step(batch)["loss"] == pytest.approx(complete.loss(output, target).item(), rel=1e-6)


# Augmentation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [(32, 32, 32), (16, 96, 96), (96, 16, 64)])
def test_rotation_about_three_axes_and_mirroring_of_three_whatever_the_patch(
    build: Builder, patch_size: tuple[int, int, int]
):
    trainer = build(patch_size=patch_size)
    rotation, dummy_2d, initial, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert rotation == pytest.approx((-math.pi / 6, math.pi / 6))
    assert dummy_2d is False
    assert mirror_axes == trainer.inference_allowed_mirroring_axes == (0, 1, 2)
    assert all(a > b for a, b in zip(initial, patch_size, strict=True))
    if max(patch_size) / min(patch_size) < 3:  # here nnU-Net does the same
        theirs = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
        assert rotation == pytest.approx(theirs[0])
        np.testing.assert_array_equal(initial, theirs[2])


def transforms_of(deep_supervision_scales: list | None = None) -> list[Any]:
    angle = math.pi / 6
    composed = nnUNetTrainerASSFT.get_training_transforms(
        (16, 32, 32), (-angle, angle), deep_supervision_scales, (0, 1, 2), False
    )
    return composed.transforms


def test_the_augmentation_of_the_paper_and_nothing_else():
    spatial, mirror, noise, brightness, remove = transforms_of()
    assert isinstance(spatial, SpatialTransform)
    assert (spatial.p_rotation, spatial.p_rot_per_axis) == (0.2, 1)
    assert spatial.rotation == pytest.approx((-math.pi / 6, math.pi / 6))
    assert (spatial.p_scaling, spatial.scaling, spatial.p_synchronize_scaling_across_axes) == (0.2, (0.7, 1.4), 1)
    assert (spatial.p_elastic_deform, spatial.random_crop) == (0, False)
    assert (spatial.border_mode_seg, spatial.padding_value_seg) == ("constant", -1)
    assert tuple(spatial.patch_size) == (16, 32, 32)

    assert isinstance(mirror, MirrorTransform)
    assert mirror.allowed_axes == (0, 1, 2)

    assert isinstance(noise, RandomTransform)
    assert noise.apply_probability == 0.15
    assert isinstance(noise.transform, GaussianNoiseTransform)
    assert noise.transform.p_per_channel == 1

    assert isinstance(brightness, RandomTransform)
    assert brightness.apply_probability == 0.15
    assert isinstance(brightness.transform, MultiplicativeBrightnessTransform)
    assert (brightness.transform.multiplier_range, brightness.transform.p_per_channel) == ((0.75, 1.25), 1)

    assert isinstance(remove, RemoveLabelTansform)
    assert (remove.label_value, remove.set_to) == (-1, 0)


def test_deep_supervision_adds_its_targets_last():
    scales = [[1, 1, 1], [0.5, 0.5, 0.5]]
    *_, last = transforms_of(scales)
    assert isinstance(last, DownsampleSegForDSTransform)
    assert last.ds_scales == scales
    assert len(transforms_of(scales)) == len(transforms_of()) + 1


def test_the_variance_of_the_noise_is_uniform_and_not_its_standard_deviation():
    np.random.seed(0)  # noqa: NPY002 - the generator that is drawn from
    sd = np.array([draw_noise_sd() for _ in range(5000)])
    assert 0 < (sd**2).min() < 0.001
    assert 0.099 < (sd**2).max() <= 0.1
    assert kstest(sd**2 / 0.1, "uniform").pvalue > ALARM
    assert kstest(sd / sd.max(), "uniform").pvalue < 1e-9


def test_the_noise_that_an_image_gets_has_that_variance():
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    noise = transforms_of()[2].transform
    variances = [float(noise(image=torch.zeros(1, 12, 12, 12))["image"].var()) for _ in range(800)]
    assert np.mean(variances) == pytest.approx(0.05, abs=0.004)  # SE 0.001; with U(0, 0.1) as SD it would be 0.0033
    assert 0.09 < max(variances) < 0.12


def test_brightness_is_a_factor_between_three_quarters_and_five_quarters():
    np.random.seed(2)  # noqa: NPY002
    brightness = transforms_of()[3].transform
    factors = np.array([float(brightness(image=torch.full((1, 1, 1, 1), 2.0))["image"]) / 2 for _ in range(2000)])
    assert kstest(factors, "uniform", args=(0.75, 0.5)).pvalue > ALARM
    assert factors.min() >= 0.75
    assert factors.max() <= 1.25


def test_each_axis_is_mirrored_half_of_the_time():
    torch.manual_seed(3)
    mirror = transforms_of()[1]
    axes = [mirror.get_parameters(image=torch.zeros(1, 2, 2, 2))["axes"] for _ in range(2000)]
    for axis in (0, 1, 2):
        assert sum(axis in drawn for drawn in axes) / 2000 == pytest.approx(0.5, abs=0.05)
    assert {tuple(drawn) for drawn in axes} == {(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)}


def test_what_lies_outside_of_the_image_is_background_for_the_loss(build: Builder):
    target = first_batch(build())["target"]
    assert set(np.unique(target)) <= {0, 1, 2}


# Seeds, checkpoints, resuming ----------------------------------------------------------------------------------------


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return (
        bool(torch.equal(a["data"], b["data"]))
        and bool(torch.equal(a["target"], b["target"]))
        and list(a["keys"]) == list(b["keys"])
    )


def batch_of_epoch_1(trainer: nnUNetTrainerASSFT, n_draws_in_epoch_0: int) -> dict[str, Any]:
    first_batch(trainer)
    for _ in range(n_draws_in_epoch_0):
        next(trainer.dataloader_train)
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    return next(trainer.dataloader_train)


def test_seed_round_stage_and_epoch_decide_what_is_drawn(build: Builder):
    reference = first_batch(build())
    np.random.seed(123)  # noqa: NPY002 - whatever was drawn before does not matter
    torch.manual_seed(123)
    assert same(reference, first_batch(build()))
    assert not same(reference, first_batch(build(seed=1)))
    later = batch_of_epoch_1(build(), 0)
    assert not same(reference, later)
    assert same(later, batch_of_epoch_1(build(), 3))  # as after a training that was cut off and resumed


def test_the_stages_of_a_round_and_the_rounds_draw_different_numbers(build: Builder):
    draws = []
    for r, stage in ((0, "supervised"), (1, "supervised"), (1, "semi")):
        trainer = build(r, stage)
        trainer.initialize()
        trainer.on_train_epoch_start()
        draws.append((float(np.random.random()), float(torch.rand(1))))  # noqa: NPY002
    assert len({numpy_draw for numpy_draw, _ in draws}) == len({torch_draw for _, torch_draw in draws}) == 3


def test_the_processes_of_a_training_share_a_batch_and_draw_different_numbers(
    build: Builder, monkeypatch: pytest.MonkeyPatch
):
    """As two trainers see it that are told to be processes 0 and 1 of 2. Nothing is computed, because synchronised
    batch normalisation needs a GPU."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(nnunet_trainer_module, "DDP", lambda network, device_ids: SimpleNamespace(module=network))
    draws = []
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        trainer = build()
        trainer.initialize()
        network = trainer.network.module
        assert (trainer.configuration_manager.batch_size, trainer.batch_size) == (2, 1)
        norms = [type(layer) for layer in network.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
        assert set(norms) == {torch.nn.SyncBatchNorm}
        trainer.network = network
        trainer.on_train_epoch_start()
        draws.append((float(np.random.random()), float(torch.rand(1)), random.random()))  # noqa: NPY002
    assert all(first != second for first, second in zip(*draws, strict=True))


def test_a_checkpoint_is_whole_or_the_one_before(build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = build()
    trainer.initialize()
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()

    def full_disk(_: object, target: str) -> None:
        Path(target).write_bytes(before[:1000])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            trainer.save_checkpoint(str(file))
    assert [left.name for left in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == before
    checkpoint = torch.load(file, weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainerASSFT"
    assert checkpoint["current_epoch"] == 1


@pytest.mark.parametrize("case", ["best", "disabled", "another process"])
def test_checkpoints_that_are_not_written(build: Builder, tmp_path: Path, case: str):
    trainer = build()
    trainer.initialize()
    (tmp_path / ".partial_checkpoint_final.pth").write_bytes(b"half, by a process that is writing")
    trainer.disable_checkpointing = case == "disabled"
    trainer.local_rank = 1 if case == "another process" else 0
    trainer.save_checkpoint(str(tmp_path / ("checkpoint_best.pth" if case == "best" else "checkpoint_final.pth")))
    assert [left.name for left in tmp_path.iterdir()] == [".partial_checkpoint_final.pth"]


class CutOffError(Exception):
    pass


def test_a_training_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(build: Builder, context: Context):
    undisturbed = build(0, "supervised")
    undisturbed.run_training()
    folder = Path(undisturbed.output_folder)
    expected = load_weights(folder / "checkpoint_final.pth")
    assert not list(folder.glob("checkpoint_[!f]*"))
    assert not list(folder.glob(".partial*"))
    (folder / "checkpoint_final.pth").unlink()

    def cut_off(_: nnUNetTrainerASSFT) -> None:
        raise CutOffError

    trainer = build(0, "supervised")
    trainer.after_epoch = cut_off
    with pytest.raises(CutOffError):
        trainer.run_training()
    assert [file.name for file in folder.glob("checkpoint_*")] == ["checkpoint_latest.pth"]

    resumed = build(0, "supervised")
    resumed.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 1
    epochs = []
    resumed.after_epoch = lambda trainer: epochs.append(trainer.current_epoch)
    resumed.run_training()
    assert epochs == [2]
    found = load_weights(folder / "checkpoint_final.pth")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    start = load_weights(context.paths.results_of_dataset / START)
    assert not all(torch.equal(found[name], start[name]) for name in start)
