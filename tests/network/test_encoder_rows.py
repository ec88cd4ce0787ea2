"""Every row of ENCODERS: files of its layout, made with random weights of the class of the library that defines it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from monai.networks.nets import SegResNet
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS2
from torch import Tensor, nn

from nnunet_assft.network import ENCODERS, PRESETS, CTFMSegmentationNet, PretrainedEncoderError, build_network
from nnunet_assft.network import load_pretrained_encoder as load
from nnunet_assft.network.encoder_file import OWN
from nnunet_assft.network.pretrained import presets_that_take
from tests.network.nnunet_model import ARCHITECTURE, checkpoint, theirs

State = dict[str, Any]


class Case(NamedTuple):
    """library: the network that the file was saved from. levels: its encoder. around: state dict -> content of a file.
    ours: a network that takes it. key: a key in the state dict, and its name in our encoder. layout: as it is reported.
    """

    library: Callable[[], nn.Module]
    levels: Callable[[Any, Tensor], list[Tensor]]
    around: Callable[[State], Any]
    ours: Callable[[], nn.Module]
    key: tuple[str, str]
    layout: str


def behind(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def segresnet(norm: Any, n_levels: int) -> Callable[[], nn.Module]:
    widths = [8 * 2**level for level in range(n_levels)]
    blocks = [1, 2, 2, 4][:n_levels]
    return lambda: CTFMSegmentationNet(
        1, 2, widths=widths, n_blocks=blocks, n_blocks_decoder=[1] * (n_levels - 1), norm=norm
    )


def residual_unet(input_channels: int = 1) -> nn.Module:
    options = {"norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin_kwargs": {"inplace": True}}
    layers = {"conv_bias": True, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU, **options}
    return ResidualEncoderUNet(
        input_channels, 4, (4, 16, 32, 64), nn.Conv3d, 3, (1, 2, 2, 2), (1, 1, 2, 2), 5, 1, **layers
    )


def plain() -> nn.Module:
    return build_network(ARCHITECTURE, 1, 2)


def of_encoder(network: Any, image: Tensor) -> list[Tensor]:
    return list(network.encoder(image))


PLAIN_KEY = ("encoder.stages.1.0.convs.0.conv.weight", "stages.1.0.convs.0.conv.weight")
CASES = {
    "ct_fm": Case(
        lambda: SegResEncoder(init_filters=8, blocks_down=(1, 2, 2), norm="batch"),
        lambda network, image: list(network(image)),
        lambda state: state,
        segresnet("batch", 3),
        ("layers.1.blocks.1.conv2.weight", "layers.1.blocks.1.conv2.weight"),
        "torch, no prefix",
    ),
    "nnssl": Case(
        residual_unet,
        of_encoder,
        lambda state: {"network_weights": state, "nnssl_adaptation_plan": {"key_to_encoder": "encoder.stages"}},
        lambda: build_network(PRESETS["resenc_tiny"].architecture, 1, 2),
        ("encoder.stages.2.blocks.1.conv1.conv.weight", "stages.2.blocks.1.conv1.conv.weight"),
        "torch, network_weights, prefix 'encoder.'",
    ),
    "vista3d": Case(
        lambda: SegResNetDS2(init_filters=8, blocks_down=(1, 2, 2), norm="instance", out_channels=8, dsdepth=1),
        of_encoder,
        lambda state: behind("image_encoder.", state) | {"point_head.0.weight": torch.ones(1)},
        segresnet("instance", 3),
        ("image_encoder.encoder.layers.0.downsample.weight", "layers.0.downsample.weight"),
        "torch, prefix 'image_encoder.encoder.'",
    ),
    "suprem_segresnet": Case(
        lambda: SegResNet(init_filters=8, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)),
        lambda network, image: network.encode(image)[1],
        lambda state: {
            "net": behind("module.backbone.", state) | {"module.organs": torch.ones(3)},
            "epoch": 1,
        },
        segresnet("group", 4),
        ("module.backbone.down_layers.3.0.conv.weight", "layers.2.downsample.weight"),
        "torch, net, wrapper 'module.', prefix 'backbone.'",
    ),
    "vocomni": Case(theirs, of_encoder, lambda state: state, plain, PLAIN_KEY, "torch, prefix 'encoder.'"),
    "triad": Case(
        theirs,
        of_encoder,
        lambda state: {"student": {key: value for key, value in state.items() if key.startswith("encoder.")}},
        plain,
        PLAIN_KEY,
        "torch, student, prefix 'encoder.'",
    ),
    "nnunet": Case(
        theirs,
        of_encoder,
        lambda state: {**checkpoint(), "network_weights": state},
        plain,
        PLAIN_KEY,
        "torch, network_weights, prefix 'encoder.'",
    ),
}


def random(library: Callable[[], nn.Module]) -> nn.Module:
    """The network with weights and statistics that no initialisation gives."""
    torch.manual_seed(5)
    network = library().eval()
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.1)
            else:
                tensor.fill_(7)
    return network


def save(case: Case, path: Path, change: Callable[[State, str], object] = lambda state, key: None) -> Path:
    """A file of a layout. change: is applied to its state dict, in which the key of the case is."""
    state = {key: value.clone() for key, value in random(case.library).state_dict().items()}
    content = case.around(state)
    inside = next(part for part in (content, *content.values()) if isinstance(part, dict) and case.key[0] in part)
    change(inside, case.key[0])
    torch.save(content, path)
    return path


def test_every_row_is_tested() -> None:
    assert [*CASES, OWN] == list(ENCODERS)  # the files of the last one are tested in test_encoder_file


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_the_layout_computes_what_the_library_does(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    network, library = case.ours().eval(), random(case.library)
    report = load(network, save(case, tmp_path / "file.pt"), name if name == "triad" else None)
    assert (report.encoder, report.layout) == (name, case.layout)
    assert report.alike == (("triad",) if name == "vocomni" else ())
    image = torch.randn(1, 1, 16, 16, 24)
    with torch.inference_mode():
        ours, expected = of_encoder(network, image), case.levels(library, image)
    differences = []
    for level, other in zip(ours, expected, strict=True):
        scale = float(other.abs().max())  # of float32: some levels have values of 1e5
        torch.testing.assert_close(level / scale, other / scale, rtol=0, atol=1e-6)
        differences.append((float((level - other).abs().max()), scale))
    worst, scale = max(differences, key=lambda pair: pair[0] / pair[1])
    print(f"\n{name:<17} {type(library).__name__:<20} {len(ours)} levels {worst:8.1e} of {scale:.1e}")  # pytest -s


@pytest.mark.parametrize(
    ("presets", "around"),
    {
        ("ctfm", "ctfm_dec1224"): lambda state: behind("model.backbone.", state),
        ("vista3d",): lambda state: behind("image_encoder.encoder.", state),
        ("suprem",): lambda state: {"net": behind("module.backbone.", state)},
        ("resenc_l", "resenc_m"): CASES["nnssl"].around,
        ("plain",): lambda state: behind("encoder.", state),
        ("tiny",): lambda state: state,
        ("resenc_tiny",): lambda state: behind("encoder.", state),
        (): lambda state: {"a": torch.ones(1)},
    }.items(),
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_the_presets_that_take_a_file(presets: tuple[str, ...], around: Callable[[State], Any], tmp_path: Path) -> None:
    """With the widths of the released files. Neither the number of channels nor a value that is not finite matters."""
    for n_channels in (1, 2):
        with torch.device("meta"):
            shapes = build_network(PRESETS[(*presets, "ctfm")[0]].architecture, n_channels, 2).encoder.state_dict()
        state = {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in shapes.items()}
        torch.save(around(state), tmp_path / "file.pt")
        assert presets_that_take(tmp_path / "file.pt") == list(presets)


def test_the_preset_of_a_checkpoint_is_that_of_its_plans(tmp_path: Path) -> None:
    file, _ = of_experiment(tmp_path / "own.pth")
    assert presets_that_take(file) == ["tiny"]
    for other in ({"block": "postactivation"}, {"norm": "instance"}):
        assert presets_that_take(of_experiment(tmp_path / "other.pth", **other)[0]) == []
    assert presets_that_take(save(CASES["nnunet"], tmp_path / "file.pt")) == []
    with pytest.raises(PretrainedEncoderError, match="is not a file"):
        presets_that_take(tmp_path / "none.pt")


CHANGES: dict[str, tuple[Callable[[State, str], object], str]] = {
    "less": (lambda state, key: state.pop(key), "1 missing: {}"),
    "more": (lambda state, key: state.update({f"{key}_more": torch.ones(1)}), "1 unexpected: {}_more"),
    "misshapen": (lambda state, key: state.update({key: torch.ones(2)}), r"1 of another shape: {} \(2,\) for"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", CASES)
def test_a_key_less_or_more_or_misshapen_is_refused_by_name(name: str, change: str, tmp_path: Path) -> None:
    case, (apply, message) = CASES[name], CHANGES[change]
    network = case.ours()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(PretrainedEncoderError, match=message.format(case.key[1])):
        load(network, save(case, tmp_path / "file.pt", apply))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_was_saved_on_a_gpu_is_loaded_on_the_cpu(name: str, tmp_path: Path) -> None:
    case, network = CASES[name], CASES[name].ours()
    file, on_gpu = save(case, tmp_path / "file.pt"), tmp_path / "gpu.pt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(on_gpu, "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            if entry.endswith("/data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(entry, content)
    assert load(network, on_gpu).n_keys == len(network.encoder.state_dict())
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("outer", ["student.", "teacher.", "net.", "model."])
def test_networks_inside_of_networks(outer: str, tmp_path: Path) -> None:
    case = CASES["vocomni"]
    state = random(case.library).state_dict()
    torch.save({"state_dict": behind(f"module.{outer}", state)}, tmp_path / "one.pt")
    report = load(case.ours(), tmp_path / "one.pt")
    assert report.layout == f"torch, state_dict, wrapper 'module.', prefix '{outer}encoder.'"
    torch.save(behind("student.", state) | behind("teacher.", state), tmp_path / "two.pt")
    with pytest.raises(
        PretrainedEncoderError, match=r"'student\.encoder\.'.*'teacher\.encoder\.'.*expected exactly one"
    ):
        load(case.ours(), tmp_path / "two.pt")


@pytest.mark.parametrize("name", ["vocomni", "nnunet"])
@pytest.mark.parametrize("outer", ["", "student."])
def test_two_values_for_a_tensor_that_the_decoder_holds_as_well_are_refused(
    name: str, outer: str, tmp_path: Path
) -> None:
    case, network = CASES[name], CASES[name].ours()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copy = f"decoder.{PLAIN_KEY[0]}"
    state = random(case.library).state_dict() | {copy: torch.zeros(8, 4, 3, 3, 3)}
    torch.save(case.around(behind(outer, state)), tmp_path / "file.pt")
    message = f"other values for 1 tensor of the encoder under decoder.encoder: {PLAIN_KEY[1]}; expected the same"
    with pytest.raises(PretrainedEncoderError, match=message):
        load(network, tmp_path / "file.pt")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("theirs_", "ours"), [(2, 1), (2, 3), (3, 1)])
def test_weights_for_another_number_of_channels_are_refused_with_both(theirs_: int, ours: int, tmp_path: Path) -> None:
    content = CASES["nnssl"].around(residual_unet(theirs_).state_dict())
    content["nnssl_adaptation_plan"]["pretrain_num_input_channels"] = theirs_
    torch.save(content, tmp_path / "mae.pth")
    message = f"with {theirs_} input channels, and the dataset has {ours}. Use weights with as many"
    for preset in ("resenc_tiny", "resenc_l"):  # also with a preset of other widths, where another one would not help
        with pytest.raises(PretrainedEncoderError, match=message):
            load(build_network(PRESETS[preset].architecture, ours, 2), tmp_path / "mae.pth")


def test_a_checkpoint_of_nnunet_with_other_layers_of_the_same_shapes_is_refused(tmp_path: Path) -> None:
    content = checkpoint()
    configuration = content["init_args"]["plans"]["configurations"]["3d_fullres"]
    configuration["architecture"]["arch_kwargs"]["strides"] = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    torch.save(content, tmp_path / "checkpoint_final.pth")
    message = "holds the encoder of a PlainConvUNet of 3 levels, widths 4, 8, 16, with other layers.*Use --start"
    with pytest.raises(PretrainedEncoderError, match=message):
        load(plain(), tmp_path / "checkpoint_final.pth")


def of_experiment(path: Path, **arguments: Any) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of an experiment, and the architecture of its network: that of `tiny` with these arguments."""
    content, architecture = checkpoint(), PRESETS["tiny"].architecture
    architecture["arch_kwargs"].update(arguments)
    planned = content["init_args"]["plans"]["configurations"]["3d_fullres"]
    planned |= {"architecture": architecture, "normalization_schemes": ["PercentileZScoreNormalization"]}
    content["network_weights"] = random(lambda: build_network(architecture, 1, 3)).state_dict()
    torch.save(content, path)
    return path, architecture


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"norm": "instance"},
        {"norm": "group", "widths": [8, 16, 32, 64, 64]},
        {"block": "postactivation"},
    ],
    ids=str,
)
def test_a_checkpoint_of_an_experiment_is_known_by_its_plans(arguments: dict[str, Any], tmp_path: Path) -> None:
    """Its keys are those of CT-FM, VISTA3D or SuPreM, whose images were normalised otherwise."""
    file, architecture = of_experiment(tmp_path / "checkpoint_final.pth", **arguments)
    network = build_network(architecture, 1, 2)
    report = load(network, file, architecture=architecture)
    assert (report.encoder, report.alike) == ("nnunet", ())
    assert report.contract["normalization"] == ["PercentileZScoreNormalization"]
    expected = torch.load(file, weights_only=False)["network_weights"]
    assert all(torch.equal(value, expected[f"encoder.{key}"]) for key, value in network.encoder.state_dict().items())


def test_a_checkpoint_of_an_experiment_is_refused_by_a_network_that_computes_another_function(tmp_path: Path) -> None:
    file, architecture = of_experiment(tmp_path / "checkpoint_final.pth")
    architecture["arch_kwargs"]["block"] = "postactivation"  # the same keys and shapes
    message = "holds the encoder of a CTFMSegmentationNet of 5 levels, widths 4, 16, 32, 64, 64, with other layers"
    for network in (build_network(architecture, 1, 2), plain()):
        with pytest.raises(PretrainedEncoderError, match=message):
            load(network, file)
    weights = torch.load(file, weights_only=False)["network_weights"]
    torch.save({"network_weights": weights}, tmp_path / "weights.pth")  # which say nothing about the order in a block
    with pytest.raises(PretrainedEncoderError, match="block postactivation; ct_fm weights exist only"):
        load(build_network(architecture, 1, 2), tmp_path / "weights.pth")


def test_what_a_file_says_about_its_input_is_recorded(tmp_path: Path) -> None:
    plan = {
        "pretrain_plan": {
            "configurations": {
                "onemmiso": {
                    "spacing": [1, 1, 1],
                    "patch_size": [64, 64, 64],
                    "normalization_schemes": ["ZScoreNormalization"],
                }
            }
        },
        "recommended_downstream_patchsize": (160, 160, 160),
    }
    case = CASES["nnssl"]
    content = case.around(residual_unet().state_dict())
    torch.save({**content, "nnssl_adaptation_plan": plan}, tmp_path / "mae.pth")
    of_two_channels = build_network(PRESETS["resenc_tiny"].architecture, 2, 2)
    for network in (case.ours(), of_two_channels):
        assert load(network, tmp_path / "mae.pth").contract == {
            "spacing": [1.0, 1.0, 1.0],
            "patch_size": [160, 160, 160],
            "normalization": ["ZScoreNormalization"],
            "n_channels": 1,
        }
    for other in ({}, {"pretrain_plan": 3}, {"pretrain_plan": {"configurations": {"a": {"spacing": None}}}}):
        torch.save({**content, "nnssl_adaptation_plan": other}, tmp_path / "mae.pth")
        assert load(case.ours(), tmp_path / "mae.pth").contract == {"n_channels": 1}
    nnunet = CASES["nnunet"]
    contract = load(nnunet.ours(), save(nnunet, tmp_path / "file.pt")).contract
    assert contract["channels"] == ["CT"]
    assert "n_channels" not in contract
    vista = CASES["vista3d"]
    assert load(vista.ours(), save(vista, tmp_path / "file.pt")).contract == {
        "spacing": [1.5, 1.5, 1.5],
        "normalization": ["HU -963.82 to 1053.68 mapped to 0 to 1"],
        # of nnU-Net's CTNormalization, which then does the same: 1053.68 + 963.82 = 2017.5
        "intensities": [
            {"percentile_00_5": -963.82, "percentile_99_5": 1053.68, "mean": -963.82, "std": pytest.approx(2017.5)}
        ],
        "n_channels": 1,
    }
