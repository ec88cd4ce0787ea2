"""The loss of labels that lack structures: by hand, against a literal implementation and nnU-Net's own, and in use."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

from nnunet_assft.active.rounds import run_round
from nnunet_assft.phantom import write_phantom_dataset
from nnunet_assft.trainers.marginal_loss import MarginalLoss, merge_into_background
from tests.conftest import CPU, plan_experiment

MISSING = {"no_kidney": [2], "only_liver": [2, 3]}  # case -> values; class 1 is the liver, 2 the kidney, 3 the spleen
SMOOTH = 1e-5
IGNORE = 4


def nnunet_loss(*, batch_dice: bool = False, ignore_label: int | None = None) -> DC_and_CE_loss:
    """The loss that `nnUNetTrainer._build_loss` makes, without deep supervision."""
    dice = {"batch_dice": batch_dice, "smooth": SMOOTH, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)


def marginal(loss: nn.Module, batch: Sequence[str]) -> MarginalLoss:
    wrapped = MarginalLoss(loss, MISSING, n_classes=4)
    wrapped.batch = batch
    return wrapped


def drawn(seed: int, n_items: int, edge: int = 3, n_values: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, 4, ...) in double precision, and a target (B, 1, ...) of the values 0 to n_values - 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_items, 4, edge, edge, edge, generator=generator, dtype=torch.float64) * 3
    target = torch.randint(0, n_values, (n_items, 1, edge, edge, edge), generator=generator)
    return logits.requires_grad_(), target


def undrawn_as_background(target: torch.Tensor, batch: Sequence[str]) -> torch.Tensor:
    """As in a training set: no voxel has the value of a structure that nobody drew."""
    for label, case in zip(target, batch, strict=True):
        for value in MISSING.get(case, []):
            label[label == value] = 0
    return target


def test_by_hand():
    """Two voxels, of the liver and of the background; nobody drew the kidney. Merged, the probabilities of background
    and liver are 0.5 and 0.5 in the first voxel, 0.4 and 0.6 in the second."""
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3]])
    logits, target = probabilities.log().T.reshape(1, 3, 1, 1, 2), torch.tensor([1, 0]).reshape(1, 1, 1, 1, 2)
    loss = MarginalLoss(nnunet_loss(), {"case": [2]}, n_classes=3)
    loss.batch = ["case"]
    cross_entropy = -(math.log(0.5) + math.log(0.4)) / 2
    dice_of_liver, dice_of_kidney = 2 * 0.5 / (1 + 1.1), 1.0  # the kidney is neither predicted nor expected
    assert cross_entropy == pytest.approx(0.804719, abs=1e-6)
    assert dice_of_liver == pytest.approx(0.476190, abs=1e-6)
    assert loss(logits, target).item() == pytest.approx(cross_entropy - (dice_of_liver + dice_of_kidney) / 2, abs=1e-5)
    loss.batch = ["another case"]
    complete = -(math.log(0.5) + math.log(0.1)) / 2 - (dice_of_liver + 0) / 2
    assert loss(logits, target).item() == pytest.approx(complete, abs=1e-4)


def literal(
    logits: torch.Tensor, target: torch.Tensor, batch: Sequence[str], *, batch_dice: bool, ignore: bool
) -> torch.Tensor:
    """The marginal loss voxel by voxel, as the definition says."""
    cross_entropy, n_voxels = torch.zeros((), dtype=torch.float64), 0
    overlap, predicted, expected = (torch.zeros(len(batch), 4, dtype=torch.float64) for _ in range(3))
    for b, case in enumerate(batch):
        for voxel in range(target[b].numel()):
            value = int(target[b].flatten()[voxel])
            if ignore and value == IGNORE:
                continue
            exponentials = logits[b].flatten(1)[:, voxel].exp()
            p = list(exponentials / exponentials.sum())
            for missing in MISSING.get(case, []):
                p[0], p[missing] = p[0] + p[missing], torch.zeros_like(p[missing])
            cross_entropy, n_voxels = cross_entropy - p[value].log(), n_voxels + 1
            one = torch.zeros(4, dtype=torch.float64)
            one[value] = 1
            row = torch.zeros(len(batch), 1, dtype=torch.float64)
            row[b] = 1
            overlap, predicted, expected = (
                total + row * now
                for total, now in ((overlap, one * torch.stack(p)), (predicted, torch.stack(p)), (expected, one))
            )
    if batch_dice:
        overlap, predicted, expected = overlap.sum(0), predicted.sum(0), expected.sum(0)
    dice = ((2 * overlap + SMOOTH) / (expected + predicted + SMOOTH))[..., 1:]
    return cross_entropy / n_voxels - dice.mean()


@pytest.mark.parametrize("batch", [("no_kidney",), ("no_kidney", "complete"), ("complete", "only_liver", "no_kidney")])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
def test_value_and_gradient_are_those_of_the_literal_definition(batch: tuple[str, ...], batch_dice: bool, ignore: bool):
    logits, target = drawn(len(batch), len(batch), n_values=5 if ignore else 4)
    undrawn_as_background(target, batch)
    by_definition = literal(logits, target, batch, batch_dice=batch_dice, ignore=ignore)
    (expected,) = torch.autograd.grad(by_definition, logits)
    loss = marginal(nnunet_loss(batch_dice=batch_dice, ignore_label=IGNORE if ignore else None), batch)
    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(by_definition.item(), abs=1e-6)  # nnU-Net sums in single precision
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


def test_the_gradient_of_the_merging_is_that_of_finite_differences():
    logits, _ = drawn(5, 3, edge=2)
    mask = torch.tensor([[False] * 4, [False, False, True, False], [False, True, True, False]])
    merged = torch.softmax(merge_into_background(logits, mask), 1)
    plain = torch.softmax(logits, 1)
    assert torch.equal(merged[0], plain[0])
    torch.testing.assert_close(merged[2, 0], plain[2, :3].sum(0), rtol=0, atol=1e-15)
    assert not merged[2, 1:3].any()
    torch.testing.assert_close(merged[1, 3], plain[1, 3], rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(lambda x: torch.softmax(merge_into_background(x, mask), 1), (logits,))


@pytest.mark.parametrize("batch_dice", [False, True])
def test_with_nothing_missing_it_is_the_loss_of_nnunet(batch_dice: bool):
    logits, target = drawn(1, 2)
    nnunet = nnunet_loss(batch_dice=batch_dice)
    loss = marginal(nnunet, ["complete", "complete too"])
    assert loss(logits, target).item() == nnunet(logits, target).item()
    mask = torch.zeros(2, 4, dtype=torch.bool)
    assert nnunet(merge_into_background(logits, mask), target).item() == pytest.approx(
        nnunet(logits, target).item(), abs=1e-6
    )


def test_a_structure_counts_in_the_batch_dice_for_the_cases_that_have_it():
    """One voxel per case. Nobody drew the kidney in the first case, so its Dice over the batch is that of the second
    case: 2 * 0.4 / (1 + 0.4). Liver and spleen, which no voxel is, have a Dice of nearly 0."""
    probabilities = torch.tensor([[0.1, 0.1, 0.6, 0.2], [0.2, 0.1, 0.4, 0.3]])
    logits, target = probabilities.log().reshape(2, 4, 1, 1, 1), torch.tensor([0, 2]).reshape(2, 1, 1, 1, 1)
    dice = nnunet_loss(batch_dice=True).dc
    assert marginal(dice, ["no_kidney", "complete"])(logits, target).item() == pytest.approx(-(0.8 / 1.4) / 3, abs=1e-4)
    assert dice(logits, target).item() == pytest.approx(-(0.8 / 2) / 3, abs=1e-4)  # as if it were background


def test_each_level_of_deep_supervision_is_merged():
    batch = ["no_kidney", "only_liver"]
    levels = [drawn(seed, 2, edge) for seed, edge in ((3, 4), (4, 2))]
    logits, targets = [level[0] for level in levels], [undrawn_as_background(level[1], batch) for level in levels]
    loss = marginal(DeepSupervisionWrapper(nnunet_loss(), [0.75, 0.25]), batch)
    expected = [marginal(nnunet_loss(), batch)(*pair).item() for pair in zip(logits, targets, strict=True)]
    assert loss(logits, targets).item() == pytest.approx(0.75 * expected[0] + 0.25 * expected[1], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [0.0, 1e-3, 6e4])
def test_extreme_logits_give_a_finite_loss_and_gradient(dtype: torch.dtype, size: float):
    logits, target = drawn(6, 2)
    logits = (logits.detach().sign() * size).to(dtype).requires_grad_()
    batch = ["no_kidney", "only_liver"]
    value = marginal(nnunet_loss(), batch)(logits, undrawn_as_background(target, batch))
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(logits.grad).all()


# A training -----------------------------------------------------------------------------------------------------------


def half_without_liver(folder: Path, half: Collection[str]) -> None:
    """A phantom whose labels have liver and spleen only, in the part of the volume where these are. `half` of the
    labels are without the liver."""
    for file in folder.rglob("*.nii.gz"):
        volume = sitk.ReadImage(str(file))[4:36, 4:36, 4:20]
        array = sitk.GetArrayFromImage(volume)
        if file.parent.name.startswith("labels"):
            array[array > 2] = 0
            array[(array == 1) & (file.name.removesuffix(".nii.gz") in half)] = 0
        cropped = sitk.GetImageFromArray(array)
        cropped.CopyInformation(volume)
        sitk.WriteImage(cropped, str(file))
    content = json.loads((folder / "dataset.json").read_text()) | {"labels": {"background": 0, "liver": 1, "spleen": 2}}
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_half_of_the_livers_are_better_not_annotated_than_background(nnunet_folders: Path, tmp_path: Path):
    """Two trainings on the same eight labels, of which four are without the liver. Only one of them is told."""
    folder = write_phantom_dataset(
        nnunet_folders / "nnUNet_raw/Dataset700_Phantom", n_pool=9, n_test=4, difficulty=0.0, seed=0
    )
    labelled = sorted(file.name.removesuffix(".nii.gz") for file in (folder / "labelsTr").iterdir())[:8]
    half_without_liver(folder, labelled[::2])
    (tmp_path / "start.txt").write_text(" ".join(labelled))
    training = {"preset": "tiny", "one_shot_epochs": 4, "iterations_per_epoch": 50, "initial_lr": 3e-3}
    dice = {}
    for name, missing in (("told", {case: ["liver"] for case in labelled[::2]}), ("not_told", {})):
        (folder / "not_annotated.json").write_text(json.dumps(missing))
        experiment = plan_experiment(
            700, name, rounds=1, budget="1", epochs=1, labelled=str(tmp_path / "start.txt"), **training
        )
        dice[name] = run_round(experiment, 0, CPU).dice["per_structure"]
    print(dice)  # docs/not_annotated.md has these numbers
    assert dice["told"]["liver"] > dice["not_told"]["liver"] + 0.1, dice
    assert dice["told"]["spleen"] > 0.3, dice  # which all labels have
