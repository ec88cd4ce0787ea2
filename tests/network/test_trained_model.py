"""A whole model of nnU-Net as a start: checkpoints of its layout, made with networks of its library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_assft.handover.stock_model import stock_plans
from nnunet_assft.network import PRESETS, PretrainedEncoderError, build_network, load_pretrained_encoder, trained_model
from nnunet_assft.network.trained_model import build_model, find_checkpoint, load_model, read_model, require_same
from tests.network.nnunet_model import ARCHITECTURE, LABELS, STRIDES, save, theirs


def loaded(file: Path, labels: dict[str, Any], input_channels: int = 1) -> tuple[nn.Module, Any, dict[str, Tensor]]:
    """(network that starts from a checkpoint, report, its state before)."""
    model = read_model(file)
    torch.manual_seed(0)
    network = build_model(model, input_channels, len({**labels, "ignore": 0}) - 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return network.eval(), load_model(network, model, labels), before


def test_a_model_of_the_same_structures_gives_the_same_segmentation(tmp_path: Path) -> None:
    file = save(tmp_path)
    network, report, _ = loaded(file, LABELS)
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), theirs()(image), rtol=0, atol=1e-6)
    assert all(torch.equal(value, theirs().state_dict()[name]) for name, value in network.state_dict().items())
    assert report.structures == {"background": True, "spleen": True, "liver": True}
    assert (report.encoder, report.adapted, report.path) == ("nnunet", None, str(file))
    assert report.contract == {
        "spacing": [1.5, 1.0, 1.0],
        "patch_size": [16, 32, 32],
        "normalization": ["CTNormalization"],
        "channels": ["CT"],
    }


def test_rows_of_the_last_layers_follow_the_names_of_the_structures(tmp_path: Path) -> None:
    """liver has row 2 there and row 1 here; kidney is new; spleen is not segmented here."""
    network, report, before = loaded(save(tmp_path), {"background": 0, "liver": 1, "kidney": 2, "stomach": 3})
    expected, found = theirs().state_dict(), network.state_dict()
    assert report.structures == {"background": True, "liver": True, "kidney": False, "stomach": False}
    for layer in ("decoder.seg_layers.0", "decoder.seg_layers.1"):  # the first is one of deep supervision
        for name in (f"{layer}.weight", f"{layer}.bias"):
            assert torch.equal(found[name][0], expected[name][0])
            assert torch.equal(found[name][1], expected[name][2])
            assert torch.equal(found[name][2:], before[name][2:])
    others = [name for name in found if "seg_layers" not in name]
    assert others
    assert all(torch.equal(found[name], expected[name]) for name in others)


def test_the_last_layer_of_a_model_with_regions_is_new(tmp_path: Path) -> None:
    def regions(content: dict[str, Any]) -> None:
        content["init_args"]["dataset_json"]["labels"] = {"background": 0, "all": [1, 2], "core": [2], "rim": [1]}

    network, report, before = loaded(save(tmp_path, regions), {"background": 0, "core": 1, "rim": 2})
    assert report.structures == {"background": False, "core": False, "rim": False}
    name = "decoder.seg_layers.1.weight"
    assert torch.equal(network.state_dict()[name], before[name])


def test_several_channels_share_the_first_convolution_in_every_place(tmp_path: Path) -> None:
    network, report, _ = loaded(save(tmp_path), LABELS, input_channels=2)
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network(image.expand(1, 2, 8, 16, 16)), theirs()(image), rtol=0, atol=1e-4)
    assert report.adapted == "encoder.stages.0.0.convs.0.conv.weight: 1 input channel repeated 2 times and divided by 2"


def test_the_network_has_the_patch_and_the_divisors_of_the_model(tmp_path: Path) -> None:
    preset = read_model(save(tmp_path)).preset
    assert preset.patch_size == (16, 32, 32)
    assert preset.divisors == (2, 4, 4)
    assert preset.architecture == ARCHITECTURE


def test_plans_of_the_first_versions_of_nnunet_are_understood(tmp_path: Path) -> None:
    """They describe the network otherwise, and a checkpoint may leave them to the files beside it."""

    def old(content: dict[str, Any]) -> None:
        arguments = content["init_args"].pop("plans")["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        configuration = {
            "patch_size": [16, 32, 32],
            "spacing": [1.5, 1.0, 1.0],
            "normalization_schemes": ["CTNormalization"],
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": arguments["n_conv_per_stage"],
            "n_conv_per_stage_decoder": arguments["n_conv_per_stage_decoder"],
            "num_pool_per_axis": [1, 2, 2],
            "pool_op_kernel_sizes": STRIDES,
            "conv_kernel_sizes": arguments["kernel_sizes"],
        }
        dataset_json = content["init_args"].pop("dataset_json")
        (tmp_path / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": configuration}}))
        (tmp_path / "dataset.json").write_text(json.dumps(dataset_json))

    _, report, _ = loaded(save(tmp_path, old), LABELS)
    assert report.structures == {"background": True, "spleen": True, "liver": True}


def of_preset(name: str, change: Callable[[dict[str, Any]], dict[str, Any]] = dict, **arguments: Any) -> Any:
    """A change of a checkpoint to one with the network of a preset with these arguments. change: is applied to its
    plans."""
    architecture = PRESETS[name].architecture
    architecture["arch_kwargs"].update(arguments)

    def of_content(content: dict[str, Any]) -> None:
        planned = content["init_args"]["plans"]["configurations"]["3d_fullres"]
        planned |= {"architecture": architecture, "normalization_schemes": ["PercentileZScoreNormalization"]}
        content["init_args"]["plans"] = change(content["init_args"]["plans"])
        torch.manual_seed(3)
        content["network_weights"] = build_network(architecture, 1, 3, initialise=True).state_dict()

    return of_content


@pytest.mark.parametrize("name", ["tiny", "resenc_tiny"])
def test_an_exported_model_is_the_model_that_it_was_made_from(name: str, tmp_path: Path) -> None:
    """Its plans name a function of this package that builds the network, because nnU-Net lacks the normalisation."""
    own, exported = save(tmp_path / "own", of_preset(name)), save(tmp_path / "exported", of_preset(name, stock_plans))
    content = torch.load(exported, weights_only=False)["init_args"]["plans"]["configurations"]["3d_fullres"]
    assert content["architecture"]["network_class_name"].endswith(".build_network")
    model, expected = read_model(exported), read_model(own)
    assert (model.preset, model.contract) == (expected.preset, expected.contract)
    require_same(name, model)
    weights, theirs_ = loaded(exported, LABELS)[0].state_dict(), loaded(own, LABELS)[0].state_dict()
    assert all(torch.equal(value, theirs_[key]) for key, value in weights.items())
    network = build_network(PRESETS[name].architecture, 1, 3)
    report = load_pretrained_encoder(network, exported, architecture=PRESETS[name].architecture)
    assert (report.encoder, report.contract) == ("nnunet", expected.contract)


@pytest.mark.parametrize(
    ("preset", "arguments", "patch"),
    [
        ("tiny", {}, 16),
        ("tiny", {"norm": "instance"}, 32),  # which in training refuses a single voxel
        ("tiny", {"norm": "group", "widths": [8, 16, 32, 64, 64]}, 16),
        ("resenc_tiny", {"features_per_stage": [4, 8, 16, 32]}, 16),
    ],
)
def test_the_smallest_patch_is_one_that_the_norm_of_the_model_can_take(
    preset: str, arguments: dict[str, Any], patch: int, tmp_path: Path
) -> None:
    found = read_model(save(tmp_path, of_preset(preset, **arguments))).preset
    assert found.nearest_patch((1, 1, 1)) == [patch] * 3


def test_a_class_of_the_same_name_in_another_package_is_another_class(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = replace(PRESETS["plain"], network_class="another.package.PlainConvUNet", smallest_bottleneck=5)
    monkeypatch.setattr(trained_model, "PRESETS", {"other": other, **PRESETS, "another": other})
    preset = read_model(save(tmp_path)).preset
    assert (preset.network_class, preset.smallest_bottleneck) == (ARCHITECTURE["network_class_name"], 2)


def test_a_preset_is_compared_with_the_model(tmp_path: Path) -> None:
    own, plain = read_model(save(tmp_path / "own")), "with other layers. No preset is this network; leave out --preset"
    with pytest.raises(PretrainedEncoderError, match=rf"PlainConvUNet of 3 levels, widths 4, 8, 16; .*'ctfm'.*{plain}"):
        require_same("ctfm", own)
    of_ours = read_model(save(tmp_path / "of_ours", of_preset("tiny")))
    require_same("tiny", of_ours)
    with pytest.raises(PretrainedEncoderError, match="Use --preset tiny, or leave out --preset, which takes"):
        require_same("plain", of_ours)


def test_the_checkpoint_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PretrainedEncoderError, match=r"has no fold_\*/checkpoint_final\.pth but nothing; expected the"):
        find_checkpoint(tmp_path)
    first = save(tmp_path)
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "fold_0") == find_checkpoint(first) == first
    (tmp_path / "fold_1").mkdir()
    (tmp_path / "fold_1" / "checkpoint_final.pth").touch()
    with pytest.raises(PretrainedEncoderError, match=r"has the models of 2 folds \(fold_0, fold_1\).*Name one of them"):
        find_checkpoint(tmp_path)


# Refused -------------------------------------------------------------------------------------------------------------


def of_architecture(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["init_args"]["plans"]["configurations"]["3d_fullres"]["architecture"].update(changes)

    return change


def of_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda content: change(content["network_weights"])


KEY = "encoder.stages.1.0.convs.0.conv.weight"
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no weights": (
        lambda content: content.pop("network_weights"),
        "has no network_weights; expected a checkpoint that",
    ),
    "no dataset.json": (
        lambda content: content["init_args"].pop("dataset_json"),
        r"has no dataset_json, and .*/dataset\.json does not exist",
    ),
    "no plans": (lambda content: content["init_args"].pop("plans"), r"has no plans, and .*plans\.json does not exist"),
    "other plans": (lambda content: content["init_args"].update(plans={"configurations": 3}), "cannot be used"),
    "without a spacing": (
        lambda content: content["init_args"]["plans"]["configurations"]["3d_fullres"].update(
            spacing=[1, 1, float("inf")]
        ),
        r"plans or the labels in .* cannot be used",
    ),
    "for slices": (
        lambda content: content["init_args"]["plans"]["configurations"]["3d_fullres"].update(patch_size=[32, 32]),
        "of the configuration 3d_fullres, for slices; expected one for volumes",
    ),
    "of a class of its own": (
        of_architecture(network_class_name="evil.Network"),
        "is a model of the network Network; expected one of CTFMSegmentationNet, PlainConvUNet, ResidualEncoderUNet",
    ),
    "of layers of its own": (
        of_architecture(arch_kwargs={**ARCHITECTURE["arch_kwargs"], "nonlin": "evil.Layer"}),
        r"name layers outside of torch \(.*evil\.Layer\), which are not imported",
    ),
    "a key less": (of_weights(lambda weights: weights.pop(KEY)), f"1 missing: {KEY}. Nothing was loaded"),
    "a key more": (of_weights(lambda weights: weights.update(extra=torch.ones(1))), "1 unexpected: extra"),
    "misshapen": (
        of_weights(lambda weights: weights.update({KEY: torch.ones(2)})),
        rf"1 of another shape: {KEY} \(2,\) for \(8, 4, 3, 3, 3\)",
    ),
    "of too few structures": (
        of_weights(lambda weights: weights.update({"decoder.seg_layers.1.bias": torch.ones(2)})),
        r"1 of another shape: decoder\.seg_layers\.1\.bias \(2,\) for \(3,\)",
    ),
    "of two values for a tensor": (
        of_weights(lambda weights: weights.update({f"decoder.{KEY}": torch.zeros(8, 4, 3, 3, 3)})),
        f"of different values for one tensor: {KEY} and decoder.{KEY}",
    ),
    "not finite": (of_weights(lambda weights: weights[KEY].fill_(float("nan"))), "not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_used_is_refused_and_nothing_is_loaded(name: str, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    with pytest.raises(PretrainedEncoderError, match=message) as error:
        loaded(save(tmp_path, change), LABELS)
    assert "\n" not in str(error.value)


def test_arguments_that_the_class_does_not_know(tmp_path: Path) -> None:
    change = of_architecture(arch_kwargs={**ARCHITECTURE["arch_kwargs"], "depth": 3})
    with pytest.raises(PretrainedEncoderError, match=r"describe cannot be built \(.*depth"):
        loaded(save(tmp_path, change), LABELS)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.target,)


def test_code_in_a_checkpoint_is_not_run_and_the_advice_works(tmp_path: Path) -> None:
    file = save(tmp_path, lambda content: content.update(monitor=Payload(tmp_path / "ran")))
    with pytest.raises(PretrainedEncoderError, match=r"which could run code .*save its weights alone") as error:
        read_model(file)
    assert not (tmp_path / "ran").exists()
    line = str(error.value).partition("alone: ")[2].removesuffix(".")
    new = tmp_path / "new.pth"
    exec(line, {"torch": torch, "FILE": file, "NEW_FILE": new})
    assert loaded(new, LABELS)[1].structures == {"background": True, "spleen": True, "liver": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is no nnU-Net checkpoint: it is a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "is no nnU-Net checkpoint: it is an HTML page"),
        (None, "is not a file; expected an nnU-Net checkpoint"),
    ],
)
def test_what_is_in_place_of_a_checkpoint_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(PretrainedEncoderError, match=message):
        read_model(tmp_path / "model.pth")


def test_the_numbers_of_a_normalisation_of_ct_are_those_of_the_plans(tmp_path: Path) -> None:
    numbers = {"mean": 40.0, "std": 80.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}

    def with_numbers(content: dict[str, Any]) -> None:
        of_channels = {"0": {**numbers, "median": 35.0}}
        content["init_args"]["plans"]["foreground_intensity_properties_per_channel"] = of_channels

    model = read_model(save(tmp_path / "model", with_numbers))
    assert (model.contract["normalization"], model.contract["intensities"]) == (["CTNormalization"], [numbers])
