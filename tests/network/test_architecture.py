from __future__ import annotations

import json
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_assft.network import PRESETS, CTFMSegmentationNet

NO_MONAI = "the equivalence test compares with MONAI's SegResNetDS; install the test extra"
SMALL = {"widths": (2, 4, 8, 16, 32), "n_blocks": (1, 2, 2, 4, 4)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def from_monai(key: str) -> str:
    """The one place where the two decoders' names differ; the encoder's are the same."""
    key = re.sub(r"^up_layers\.(\d+)\.head\.", r"decoder.heads.\1.", key)
    return key.replace("up_layers.", "decoder.layers.").replace(".upsample.deconv.", ".upsample.")


def monai_pair(init_filters: int) -> tuple[nn.Module, CTFMSegmentationNet]:
    """MONAI's network and ours with the same random weights and statistics, four heads each."""
    networks = pytest.importorskip("monai.networks.nets.segresnet_ds", reason=NO_MONAI)
    torch.manual_seed(0)
    theirs = networks.SegResNetDS(init_filters=init_filters, blocks_down=(1, 2, 2, 4, 4), out_channels=3, dsdepth=4)
    for name, value in theirs.state_dict().items():
        if "running_mean" in name:
            value.normal_()
        if "running_var" in name or ("norm" in name and "weight" in name):
            value.uniform_(0.5, 2)
    ours = CTFMSegmentationNet(1, 3, deep_supervision=True, widths=[init_filters * 2**i for i in range(5)])
    ours.load_state_dict({from_monai(key): value for key, value in theirs.state_dict().items()}, strict=True)
    return theirs, ours


def max_difference(a: list[Tensor], b: list[Tensor]) -> float:
    assert [x.shape for x in a] == [x.shape for x in b]
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def test_same_function_as_monai_in_eval_and_in_training():
    theirs, ours = monai_pair(init_filters=8)
    x = torch.randn(2, 1, 32, 48, 32)

    theirs.eval(), ours.eval()
    with torch.no_grad():
        assert max_difference([theirs(x)], [ours(x)[0]]) == 0
        assert max_difference(theirs.encoder(x), ours.encoder(x)) == 0

    theirs.train(), ours.train()
    for net in (theirs, ours):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        sum(logits.square().mean() for logits in net(x)).backward()
        optimizer.step()
    state = ours.state_dict()  # parameters after one step, running statistics after one batch
    assert all(torch.equal(value, state[from_monai(key)]) for key, value in theirs.state_dict().items())
    assert max_difference(theirs(x), ours(x)) == 0


def test_full_size_equals_monai():
    theirs, ours = monai_pair(init_filters=32)
    x = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        assert max_difference(theirs.eval()(x)[None], ours.eval()(x)[0][None]) == 0
        assert max_difference(theirs.train()(x), ours.train()(x)) == 0


def test_key_table_of_ct_fm_without_weights_in_memory():
    with torch.device("meta"):
        net = CTFMSegmentationNet(1, 2, **PRESETS["ctfm"].arguments)
    state = {key: tuple(value.shape) for key, value in net.encoder.state_dict().items()}
    assert len(state) == 161
    assert sum(p.numel() for p in net.encoder.parameters()) == 77_760_992
    assert state["conv_init.weight"] == (32, 1, 3, 3, 3)
    assert state["layers.1.downsample.weight"] == (128, 64, 3, 3, 3)
    assert state["layers.4.blocks.3.conv2.weight"] == (512, 512, 3, 3, 3)
    assert state["layers.4.blocks.3.norm1.running_var"] == (512,)
    assert state["layers.0.blocks.0.norm2.num_batches_tracked"] == ()
    assert "layers.4.downsample.weight" not in state
    assert {key for key in net.state_dict() if not key.startswith("decoder.")} == {f"encoder.{key}" for key in state}
    assert not any(".seg_layers." in key for key in net.state_dict())


@pytest.mark.parametrize(
    ("preset", "millions"), [("ctfm", 87.2), ("ctfm_dec1224", 98.9), ("assft_paper", 391.3), ("tiny", 1.67)]
)
def test_every_preset_of_this_class_has_its_size_and_survives_json(preset: str, millions: float):
    arch_kwargs = PRESETS[preset].architecture["arch_kwargs"]
    assert json.loads(json.dumps(arch_kwargs)) == arch_kwargs
    with torch.device("meta"):
        net = CTFMSegmentationNet(input_channels=1, num_classes=14, deep_supervision=True, **arch_kwargs)
        logits = net(torch.empty(2, 1, 16, 32, 48))
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert [tuple(x.shape) for x in logits] == [(2, 14, 16 // s, 32 // s, 48 // s) for s in (1, 2, 4, 8)]
    assert arch_kwargs["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert PRESETS[preset].description


def test_output_form_follows_the_switch_and_not_the_mode():
    net = CTFMSegmentationNet(2, 3, deep_supervision=True, **SMALL)
    x = torch.randn(2, 2, 16, 16, 32)
    for mode in (True, False):
        net.train(mode)
        net.decoder.deep_supervision = True
        logits = net(x)
        assert [tuple(y.shape) for y in logits] == [(2, 3, 16 // s, 16 // s, 32 // s) for s in (1, 2, 4, 8)]
        net.decoder.deep_supervision = False
        single = net(x)
        assert isinstance(single, Tensor)
        torch.testing.assert_close(single, logits[0], rtol=0, atol=0)


def test_one_state_dict_with_and_without_deep_supervision():
    trained = CTFMSegmentationNet(1, 2, deep_supervision=True, **SMALL).eval()
    inference = CTFMSegmentationNet(1, 2, deep_supervision=False, **SMALL).eval()
    inference.load_state_dict(trained.state_dict(), strict=True)
    x = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(trained(x)[0], inference(x))


def test_encoder_alone_returns_every_level_and_takes_any_size():
    encoder = CTFMSegmentationNet(1, 2, **SMALL).encoder
    levels = encoder(torch.randn(2, 1, 24, 32, 40))  # 24 and 40 are not divisible by 16
    assert [tuple(x.shape[1:]) for x in levels] == [
        (2, 24, 32, 40),
        (4, 12, 16, 20),
        (8, 6, 8, 10),
        (16, 3, 4, 5),
        (32, 2, 2, 3),
    ]
    assert float(levels[-1].detach().min()) < 0  # the raw residual sum


@pytest.mark.parametrize("options", [{}, {"norm": "instance"}, {"block": "postactivation"}], ids=str)
def test_gradients_reach_every_parameter(options: dict[str, Any]):
    net = CTFMSegmentationNet(1, 2, deep_supervision=True, **SMALL, **options)
    net.apply(net.initialize)
    sum(logits.square().mean() for logits in net(torch.randn(2, 1, 32, 32, 32))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_postactivation_block_worked_by_hand():
    """With identity convolutions and unit statistics: relu(x + relu(x))."""
    net = CTFMSegmentationNet(
        1, 2, widths=(1, 1), n_blocks=(1, 1), n_blocks_decoder=(1,), block="postactivation"
    ).eval()
    block = net.encoder.layers[0].blocks[0]
    for conv in (block.conv1, block.conv2):
        nn.init.dirac_(conv.weight)
    x = torch.tensor([-2.0, -0.5, 0.0, 1.0]).reshape(1, 1, 1, 1, 4)
    torch.testing.assert_close(block(x).flatten(), torch.tensor([0.0, 0.0, 0.0, 2.0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("block", ["preactivation", "postactivation"])
def test_blocks_leave_their_input_alone(block: str):
    layer = CTFMSegmentationNet(1, 2, **SMALL, block=block).encoder.layers[1].blocks
    x = torch.randn(2, 4, 4, 4, 4)
    before = x.clone()
    layer(x)
    assert torch.equal(x, before)


def test_initialize_is_kaiming_for_all_convolutions_and_nothing_else():
    torch.manual_seed(0)
    net = CTFMSegmentationNet(1, 2, **PRESETS["tiny"].arguments)
    norms = {key: value.clone() for key, value in net.state_dict().items() if "norm" in key}
    net.apply(net.initialize)
    conv = net.encoder.layers[4].blocks[0].conv1.weight
    assert float(conv.detach().std()) == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)
    upsample = net.decoder.layers[0].upsample.weight
    assert float(upsample.detach().std()) == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)
    assert all(not head.bias.any() for head in net.decoder.heads)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in norms.items())


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_feature_map_size_counts_every_convolution_output(deep_supervision: bool):
    net = CTFMSegmentationNet(1, 3, deep_supervision, **SMALL, n_blocks_decoder=(4, 2, 2, 1))
    counted: list[int] = []
    for module in net.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(lambda _module, _args, output: counted.append(output.numel()))
    net(torch.zeros(1, 1, 32, 16, 48))
    assert net.compute_conv_feature_map_size((32, 16, 48)) == sum(counted)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 32, 40, 32), r"size \(32, 40, 32\); expected every axis to be divisible by 16.*\(32, 48, 32\)"),
        ((1, 2, 32, 32, 32), r"expected \(B, 1, Z, Y, X\)"),
        ((1, 32, 32, 32), r"expected \(B, 1, Z, Y, X\)"),
    ],
)
def test_refuses_a_wrong_input(shape: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        CTFMSegmentationNet(1, 2, **SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]}, "strides is .*halves every axis"),
        ({"strides": [[1, 1, 1], [2, 2, 2]]}, "strides is"),
        ({"n_blocks": (1, 2, 2, 4)}, "n_blocks is .*expected 5 positive"),
        ({"n_blocks": (1, 2, 2, 4, 0)}, "n_blocks is"),
        ({"n_blocks_decoder": (1, 2, 2, 4, 4)}, "n_blocks_decoder is .*expected 4 positive"),
        ({"widths": (32,)}, "at least two levels"),
        ({"norm": "layer"}, "norm is 'layer'; expected one of"),
        ({"block": "bottleneck"}, "block is 'bottleneck'; expected one of"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_refuses_an_architecture_it_cannot_build(kwargs: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        CTFMSegmentationNet(1, 2, **kwargs)


def test_nnunet_builds_it_from_plans():
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name, arch_kwargs, requires_import = PRESETS["tiny"].architecture.values()
    net = get_network_from_plans(name, arch_kwargs, requires_import, 1, 3, deep_supervision=False)
    assert type(net) is CTFMSegmentationNet
    assert net(torch.zeros(2, 1, 16, 16, 16)).shape == (2, 3, 16, 16, 16)
    assert all(not head.bias.any() for head in net.decoder.heads)  # initialize was applied


def test_traced_as_one_graph():
    """nnU-Net compiles networks on a GPU; a graph break would cost speed without a word.

    A process that has compiled cannot train in its forks any more, as other tests do.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as alone:
        assert alone.submit(_difference_when_traced).result() == 0


def _difference_when_traced() -> float:
    net = CTFMSegmentationNet(1, 2, deep_supervision=True, **SMALL).eval()
    x = torch.randn(1, 1, 16, 16, 16)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    return float(max_difference(compiled(x), net(x)))
