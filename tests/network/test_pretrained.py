from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

from nnunet_assft.network import (
    ENCODERS,
    PRESETS,
    CTFMSegmentationNet,
    PretrainedEncoderError,
    build_network,
    load_pretrained_encoder,
)
from nnunet_assft.planning.normalization import CTFM_WINDOW_HU

TINY = dict(PRESETS["tiny"].arguments)

State = dict[str, Any]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_net(seed: int = 0, input_channels: int = 1, **options: Any) -> CTFMSegmentationNet:
    torch.manual_seed(seed)
    return CTFMSegmentationNet(input_channels, 2, **{**TINY, **options})


def encoder_state(seed: int = 1) -> dict[str, Tensor]:
    """A trained encoder's state: nothing in it has the value of a new network."""
    state = make_net(seed).encoder.state_dict()
    return {
        key: torch.full_like(value, 7) if value.ndim == 0 else torch.rand_like(value) + 0.5
        for key, value in state.items()
    }


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def snapshot(net: CTFMSegmentationNet) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def save(state: State, path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


UP_LAYERS = {"up_layers.0.upsample.deconv.weight": torch.ones(4, 2, 3, 3, 3), "up_layers.3.head.bias": torch.ones(2)}
PROJECTION = {"model.projection_head.0.weight": torch.ones(4, 4)}
LAYOUTS: dict[str, tuple[Callable[[State], State], str, tuple[str, ...]]] = {
    "bare": (lambda state: state, "no prefix", ()),
    "segmentation": (lambda state: prefixed("encoder.", state) | UP_LAYERS, "prefix 'encoder.'", ("up_layers.",)),
    "prefix": (lambda state: prefixed("encoder.", state), "prefix 'encoder.'", ()),
    "lightning": (
        lambda state: prefixed("model.backbone.", state) | PROJECTION,
        "prefix 'model.backbone.'",
        ("model.projection_head.",),
    ),
}


WRAPPED: dict[str, tuple[Callable[[State], State], str]] = {
    "of several GPUs": (lambda state: prefixed("module.", state), "torch, wrapper 'module.', no prefix"),
    "compiled": (
        lambda state: {"model": prefixed("_orig_mod.encoder.", state) | UP_LAYERS},
        "torch, model, wrapper '_orig_mod.', prefix 'encoder.'",
    ),
    "compiled inside": (
        lambda state: {"state_dict": prefixed("model._orig_mod.backbone.", state), "epoch": 3},
        "torch, state_dict, wrapper '_orig_mod.', prefix 'model.backbone.'",
    ),
    "both": (
        lambda state: {"net": prefixed("module._orig_mod.", state), "optimizer": {"state": {0: torch.ones(2)}}},
        "torch, net, wrapper '_orig_mod.', wrapper 'module.', no prefix",
    ),
    "nested": (lambda state: {"teacher": {"weights": state}}, "torch, teacher.weights, no prefix"),
}


@pytest.mark.parametrize("form", WRAPPED)
def test_what_a_training_puts_around_the_weights_is_removed(form: str, tmp_path: Path):
    state, (build, layout) = encoder_state(), WRAPPED[form]
    net = make_net()
    assert load_pretrained_encoder(net, save(build(state), tmp_path / "model.pth")).layout == layout
    assert all(torch.equal(value, state[key]) for key, value in net.encoder.state_dict().items())


def test_two_encoders_in_a_checkpoint_are_not_chosen_between(tmp_path: Path):
    path = save({"student": encoder_state(1), "teacher": encoder_state(2)}, tmp_path / "model.pth")
    with pytest.raises(
        PretrainedEncoderError, match=r"\(student, no prefix\), \(teacher, no prefix\); expected exactly one"
    ):
        load_pretrained_encoder(make_net(), path)
    both = prefixed("module.", encoder_state(1)) | encoder_state(2)
    with pytest.raises(PretrainedEncoderError, match=r"101 unexpected: module\.conv_init\.weight"):
        load_pretrained_encoder(make_net(), save(both, tmp_path / "both.pth"))


@pytest.mark.parametrize("name", ["model.SAFETENSORS", "0123abcd", "model.pth"])
def test_the_format_is_that_of_the_content(name: str, tmp_path: Path):
    save(encoder_state(), tmp_path / "a.safetensors").rename(tmp_path / name)
    assert load_pretrained_encoder(make_net(), tmp_path / name).layout == "safetensors, no prefix"


def test_files_of_an_old_torch_are_read(tmp_path: Path):
    torch.save(encoder_state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_pretrained_encoder(make_net(), tmp_path / "old.pth").layout == "torch, no prefix"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("container", ["safetensors", "torch", "torch, state_dict"])
def test_loads_every_layout_whole(layout: str, container: str, tmp_path: Path):
    state = encoder_state()
    build, prefix, ignored = LAYOUTS[layout]
    content = build(state)
    if container == "torch, state_dict":
        content = {"epoch": 449, "state_dict": content, "pytorch-lightning_version": "2.0"}
    path = save(content, tmp_path / ("model.safetensors" if container == "safetensors" else "model.ckpt"))
    net = make_net()
    decoder_before = {key: value.clone() for key, value in net.decoder.state_dict().items()}

    report = load_pretrained_encoder(net, path)

    assert all(torch.equal(value, state[key]) for key, value in net.encoder.state_dict().items())
    assert all(torch.equal(value, decoder_before[key]) for key, value in net.decoder.state_dict().items())
    assert report.layout == f"{container}, {prefix}"
    assert report.ignored == ignored
    assert report.n_keys == len(state)
    assert report.adapted is None
    assert (report.path, report.sha256) == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def test_keys_outside_the_encoder_are_named_in_the_report(tmp_path: Path):
    content = prefixed("encoder.", encoder_state()) | {
        "criterion.scale": torch.ones(1),
        "decoder.heads.0.bias": torch.ones(2),
    }
    report = load_pretrained_encoder(make_net(), save(content, tmp_path / "model.pth"))
    assert report.ignored == ("criterion.scale", "decoder.")


def test_half_precision_files_are_cast(tmp_path: Path):
    state = {key: value.half() if value.is_floating_point() else value for key, value in encoder_state().items()}
    net = make_net()
    load_pretrained_encoder(net, save(state, tmp_path / "model.safetensors"))
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in net.encoder.state_dict().items())
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_several_input_channels_share_the_stem(tmp_path: Path):
    path = save(encoder_state(), tmp_path / "model.safetensors")
    one, three = make_net().eval(), make_net(input_channels=3).eval()
    load_pretrained_encoder(one, path)
    report = load_pretrained_encoder(three, path)
    assert report.adapted == "conv_init.weight: 1 input channel repeated 3 times and divided by 3"
    x = torch.rand(1, 1, 16, 16, 16)
    assert three.encoder.conv_init.weight.shape == (4, 3, 3, 3, 3)
    torch.testing.assert_close(three.encoder.conv_init(x.expand(1, 3, 16, 16, 16)), one.encoder.conv_init(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_stem_of_another_precision_is_divided_without_loss(dtype: torch.dtype, tmp_path: Path):
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in encoder_state().items()}
    net = make_net(input_channels=3)
    load_pretrained_encoder(net, save(state, tmp_path / "model.safetensors"))
    total = net.encoder.conv_init.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(total, state["conv_init.weight"].float(), rtol=1e-6, atol=0)


def drop(*keys: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def put(**values: Any) -> Callable[[State], State]:
    return lambda state: state | {key.replace("__", "."): value for key, value in values.items()}


def poison(state: State) -> State:
    state["layers.2.downsample.weight"][0, 0, 0, 0, 0] = float("nan")
    state["layers.4.blocks.0.norm1.running_var"][0] = float("inf")
    return state


DAMAGES: dict[str, tuple[Callable[[State], State], str]] = {
    "stem missing": (drop("conv_init.weight"), r"1 missing: conv_init\.weight\. Nothing was loaded"),
    "counter missing": (
        drop("layers.0.blocks.0.norm1.num_batches_tracked"),
        r"1 missing: layers\.0\.blocks\.0\.norm1\.num_batches_tracked",
    ),
    "statistics missing": (
        lambda state: {key: value for key, value in state.items() if "running" not in key},
        r"32 missing: layers\.0\.blocks\.0\.norm1\.running_mean, .* and 29 more",
    ),
    "key too many": (put(layers__5__blocks=torch.ones(1)), r"1 unexpected: layers\.5\.blocks\."),
    "shape": (
        put(conv_init__weight=torch.ones(4, 1, 1, 1, 1)),
        r"1 of another shape: .*\(4, 1, 1, 1, 1\) for \(4, 1, 3, 3, 3\)",
    ),
    "stem of two channels": (put(conv_init__weight=torch.ones(4, 2, 3, 3, 3)), "1 of another shape"),
    "not finite": (poison, r"2 not finite: layers\.2\.downsample\.weight, layers\.4\.blocks\.0\.norm1\.running_var"),
    "type": (
        put(conv_init__weight=torch.ones(4, 1, 3, 3, 3, dtype=torch.int8)),
        r"1 of another type: conv_init\.weight torch\.int8",
    ),
    "several": (
        lambda state: put(extra=torch.ones(1))(drop("conv_init.weight")(state)),
        r"1 missing: conv_init\.weight; 1 unexpected: extra",
    ),
    "other network": (
        lambda state: prefixed("stages.", state),
        r"under 0 of the known prefixes '', 'encoder\.', .*stages\.conv_init\.weight.*Remove 'stages\.' from",
    ),
    "two encoders": (lambda state: prefixed("encoder.", state) | state, "under 2 of the known prefixes"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_loads_all_or_nothing(damage: str, suffix: str, tmp_path: Path):
    change, message = DAMAGES[damage]
    content = {key: value.clone() for key, value in change(encoder_state()).items()}
    net = make_net()
    before = snapshot(net)
    with pytest.raises(PretrainedEncoderError, match=message) as error:
        load_pretrained_encoder(net, save(content, tmp_path / f"model{suffix}"))
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_values_that_are_no_tensors(tmp_path: Path):
    path = save(encoder_state() | {"conv_init.weight": [1.0, 2.0]}, tmp_path / "model.pth")
    with pytest.raises(PretrainedEncoderError, match=r"1 not a tensor: conv_init\.weight"):
        load_pretrained_encoder(make_net(), path)
    with pytest.raises(PretrainedEncoderError, match="holds a list without tensors; expected a state dict"):
        load_pretrained_encoder(make_net(), save([torch.ones(1)], tmp_path / "list.pth"))  # type: ignore[arg-type]


def test_a_value_too_large_for_the_network_is_not_finite(tmp_path: Path):
    state = encoder_state()
    state["conv_init.weight"] = torch.full((4, 1, 3, 3, 3), 1e300, dtype=torch.float64)
    with pytest.raises(PretrainedEncoderError, match=r"1 not finite: conv_init\.weight"):
        load_pretrained_encoder(make_net(), save(state, tmp_path / "model.pth"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "content",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:5],
        lambda whole: whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:-9],
    ],
)
def test_damaged_files(content: Callable[[bytes], bytes], suffix: str, tmp_path: Path):
    path = save(encoder_state(), tmp_path / f"model{suffix}")
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(PretrainedEncoderError, match=r"cannot be read as a (torch|safetensors) file") as error:
        load_pretrained_encoder(make_net(), path)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.bin"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 310000000\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404</html>", "an HTML page and not the file itself"),
        (b"Access to model is restricted", "a text file that begins with 'access to model is restricted'"),
        (b"", "empty or holds zeros only"),
        (bytes(99), "empty or holds zeros only"),
    ],
)
def test_what_is_in_place_of_the_file_is_named(content: bytes, words: str, name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PretrainedEncoderError, match=f"is no encoder file: it is {words}"):
        load_pretrained_encoder(make_net(), tmp_path / name)


def test_files_that_are_not_there(tmp_path: Path):
    with pytest.raises(PretrainedEncoderError, match=r"is not a file.*Download it first; nothing is downloaded"):
        load_pretrained_encoder(make_net(), tmp_path / "model.safetensors")
    for name in ("project-lighter/ct_fm", "org/model_v1.0"):
        with pytest.raises(PretrainedEncoderError, match=f"If {name} is the id of a model on a hub"):
            load_pretrained_encoder(make_net(), tmp_path / name)
    with pytest.raises(PretrainedEncoderError, match="It looks like an address: download the file first"):
        load_pretrained_encoder(make_net(), Path("https://hub.example/model.pth").resolve())
    (tmp_path / "model.safetensors.index.json").touch()
    with pytest.raises(PretrainedEncoderError, match=r"a folder, with model\.safetensors\.index\.json\. Give the"):
        load_pretrained_encoder(make_net(), tmp_path)
    with pytest.raises(PretrainedEncoderError, match=r"encoder is 'ctfm'; expected one of \['ct_fm', 'nnssl', "):
        load_pretrained_encoder(make_net(), tmp_path, encoder="ctfm")


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_code_in_a_file_is_never_run(tmp_path: Path):
    path = save({"state_dict": encoder_state(), "hyper_parameters": Payload(tmp_path / "ran")}, tmp_path / "model.ckpt")
    net = make_net()
    before = snapshot(net)
    with pytest.raises(PretrainedEncoderError, match=r"could run code when loaded.*save its weights alone"):
        load_pretrained_encoder(net, path)
    assert not (tmp_path / "ran").exists()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_advice_for_files_with_objects_works(tmp_path: Path):
    """Each file is saved again with the line of Python that its message shows."""
    objects = argparse.Namespace(lr=1e-4)
    files: dict[str, Any] = {
        "lightning.ckpt": {"state_dict": prefixed("model.backbone.", encoder_state()), "hyper_parameters": objects},
        "checkpoint_final.pth": {"network_weights": make_net(1).state_dict(), "init_args": {"a": objects}},
        "module.pt": make_net(1).encoder,
    }
    for name, content in files.items():
        file, new = save(content, tmp_path / name), tmp_path / f"new_{name}"
        with pytest.raises(PretrainedEncoderError, match="save its weights alone") as error:
            load_pretrained_encoder(make_net(), file)
        assert ("holds a whole pickled network" in str(error.value)) == (name == "module.pt")
        line = str(error.value).partition("alone: ")[2].removesuffix(".")
        exec(line, {"torch": torch, "FILE": file, "NEW_FILE": new})
        assert load_pretrained_encoder(make_net(), new).n_keys == 101


def test_torch_files_are_read_on_the_cpu_without_unpickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[dict[str, Any]] = []
    load = torch.load

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    load_pretrained_encoder(make_net(), save(encoder_state(), tmp_path / "model.pth"))
    assert seen == [{"map_location": "cpu", "weights_only": True}]


def test_the_weights_do_not_fit_a_network_with_another_norm(tmp_path: Path):
    net = make_net(norm="instance")
    before = snapshot(net)
    with pytest.raises(PretrainedEncoderError, match=r"48 unexpected: .*norm1\.running_mean, .*Nothing was loaded"):
        load_pretrained_encoder(net, save(encoder_state(), tmp_path / "model.pth"))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_papers_printed_network_is_refused_with_the_reason(tmp_path: Path):
    with torch.device("meta"):
        net = CTFMSegmentationNet(1, 2, **PRESETS["assft_paper"].arguments)
    with pytest.raises(
        PretrainedEncoderError,
        match=r"CTFMSegmentationNet, norm batch, block postactivation; ct_fm weights.*Use one of the presets ctfm, ",
    ):
        load_pretrained_encoder(net, save(encoder_state(), tmp_path / "model.safetensors"))


def test_a_network_of_another_class_is_refused_by_name(tmp_path: Path):
    net = build_network(PRESETS["plain"].architecture, 1, 2)
    with pytest.raises(PretrainedEncoderError, match="the network is a PlainConvUNet; ct_fm weights exist only"):
        load_pretrained_encoder(net, save(encoder_state(), tmp_path / "model.safetensors"), "ct_fm")


def test_other_widths_are_refused_with_both_widths(tmp_path: Path):
    path = save(make_net(widths=(8, 16, 32, 64, 128)).encoder.state_dict(), tmp_path / "model.safetensors")
    widths = r"encoder \(widths 4, 16, 32, 64, 64; the file has 8, 16, 32, 64, 128\)"
    message = rf"{widths}.*conv_init.*Use a preset with the widths of the file"
    with pytest.raises(PretrainedEncoderError, match=message):
        load_pretrained_encoder(make_net(), path)


@pytest.mark.parametrize(("preset", "fitting"), [("ctfm", "ctfm or --preset ctfm_dec1224"), ("suprem", "suprem")])
def test_a_preset_that_fits_the_file_is_named(preset: str, fitting: str, tmp_path: Path):
    state = build_network(PRESETS[preset].architecture, 1, 2).encoder.state_dict()
    path = save(state, tmp_path / "model.safetensors")
    with torch.device("meta"):
        net = build_network(PRESETS["vista3d"].architecture, 1, 2)
    with pytest.raises(
        PretrainedEncoderError, match=rf"does not fit .* Nothing was loaded\. Use --preset {fitting}\.$"
    ):
        load_pretrained_encoder(net, path)


def test_what_ct_fm_expects_is_what_the_preset_and_the_normalisation_give():
    spec = ENCODERS["ct_fm"]
    assert (spec.hu_window, spec.intensity_range) == (CTFM_WINDOW_HU, (0, 1))
    assert spec.widths == PRESETS["ctfm"].arguments["widths"]
    assert "Apache-2.0" in spec.licence


# nnssl: files of its layout, made with random weights of the library's own network -----------------------------------


def residual_unet(input_channels: int = 1) -> ResidualEncoderUNet:
    """The network of the preset `resenc_tiny`, from the library, with weights that no initialisation gives."""
    kwargs: dict[str, Any] = {"norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin_kwargs": {"inplace": True}}
    of_layers = {"conv_bias": True, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU, **kwargs}
    shape = (4, (4, 16, 32, 64), nn.Conv3d, 3, (1, 2, 2, 2), (1, 1, 2, 2), 5, 1)
    torch.manual_seed(7)
    net = ResidualEncoderUNet(input_channels, *shape, **of_layers)
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return net


def nnssl_file(path: Path, change: Callable[[State], object] = lambda state: None, wrapper: str = "") -> Path:
    """A checkpoint as nnssl writes it. change: is applied to its weights."""
    state = {key: value.clone() for key, value in residual_unet().state_dict().items()}
    change(state)
    weights = {wrapper + key: value for key, value in state.items()}
    plan = {"key_to_encoder": "encoder.stages", "pretrain_num_input_channels": 1, "spacing": [1.0, 1.0, 1.0]}
    torch.save({"network_weights": weights, "nnssl_adaptation_plan": plan, "trainer_name": "BaseMAETrainer"}, path)
    return path


def resenc_tiny(input_channels: int = 1) -> nn.Module:
    return build_network(PRESETS["resenc_tiny"].architecture, input_channels, 2, initialise=True)


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module."])
def test_an_nnssl_checkpoint_is_recognised_and_computes_what_it_did(wrapper: str, tmp_path: Path):
    theirs, net = residual_unet(), resenc_tiny()
    decoder = {key: value.clone() for key, value in net.decoder.transpconvs.state_dict().items()}
    report = load_pretrained_encoder(net, nnssl_file(tmp_path / "mae.pth", wrapper=wrapper))
    assert (report.encoder, report.adapted, report.ignored) == ("nnssl", None, ("decoder.",))
    assert report.layout.startswith("torch, network_weights, ")
    assert report.n_keys == len(theirs.encoder.state_dict())
    image = torch.randn(1, 1, 16, 16, 24)
    with torch.inference_mode():
        for ours, expected in zip(net.encoder(image), theirs.encoder(image), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert all(torch.equal(value, decoder[key]) for key, value in net.decoder.transpconvs.state_dict().items())


def test_the_first_convolution_is_adapted_under_both_of_its_names(tmp_path: Path):
    theirs, net = residual_unet(), resenc_tiny(input_channels=2)
    report = load_pretrained_encoder(net, nnssl_file(tmp_path / "mae.pth"))
    assert report.adapted == "stem.convs.0.conv.weight: 1 input channel repeated 2 times and divided by 2"
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        ours, expected = net.encoder(image.expand(1, 2, 16, 16, 16))[-1], theirs.encoder(image)[-1]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("part", ["network", "encoder"])
def test_a_file_that_keeps_one_name_of_each_shared_tensor_is_loaded(part: str, tmp_path: Path):
    """As `save_model` of safetensors writes it: of the names of a tensor, the first one of the alphabet."""
    theirs, net, file = residual_unet(), resenc_tiny(), tmp_path / "model.safetensors"
    safetensors.torch.save_model(theirs if part == "network" else theirs.encoder, str(file))
    assert "stem.convs.0.conv.weight" not in {key.removeprefix("encoder.") for key in safetensors.torch.load_file(file)}
    load_pretrained_encoder(net, file)
    expected = theirs.encoder.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in net.encoder.state_dict().items())


KEY = "encoder.stages.2.blocks.1.conv1.conv.weight"
ALIAS = "encoder.stages.2.blocks.1.conv1.all_modules.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(KEY), "1 missing: stages.2.blocks.1.conv1.conv.weight"),
        (lambda state: state.update({"encoder.extra": torch.ones(1)}), "1 unexpected: extra"),
        (lambda state: state.update({KEY: torch.ones(2)}), "1 of another shape: stages.2.blocks.1.conv1.conv.weight"),
        (
            lambda state: state[ALIAS].add_(1),
            "1 of different values for one tensor: stages.2.blocks.1.conv1.conv.weight and stages.2.blocks.1.conv1.all",
        ),
    ],
    ids=["less", "more", "misshapen", "unequal"],
)
def test_an_nnssl_checkpoint_that_does_not_fit_is_refused_by_key(
    change: Callable[[State], object], message: str, tmp_path: Path
):
    net = resenc_tiny()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(PretrainedEncoderError, match=message):
        load_pretrained_encoder(net, nnssl_file(tmp_path / "mae.pth", change))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_file_for_another_network_is_told_with_the_presets_that_take_it(tmp_path: Path):
    with pytest.raises(PretrainedEncoderError, match=r"keys of nnssl .*Use one of the presets resenc_l, rese"):
        load_pretrained_encoder(make_net(), nnssl_file(tmp_path / "mae.pth"))
    with pytest.raises(PretrainedEncoderError, match=r"keys of ct_fm .*Use one of the presets ctfm, ctfm_dec1224"):
        load_pretrained_encoder(resenc_tiny(), save(encoder_state(), tmp_path / "model.safetensors"))
