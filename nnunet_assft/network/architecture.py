"""The segmentation network: the CT-FM encoder and a decoder of mirrored levels, in plain torch.

CT-FM is MONAI's `SegResNetDS`: a bare stem convolution, levels of pre-activation residual blocks, a bare strided
convolution between two levels, and skip connections by addition. The encoder here computes exactly the same function
and has the parameter names of the released files:

    conv_init.weight
    layers.{level}.blocks.{block}.norm{1,2}.{weight,bias,running_mean,running_var,num_batches_tracked}
    layers.{level}.blocks.{block}.conv{1,2}.weight
    layers.{level}.downsample.weight                    all levels except the last
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from nnunet_assft.network.presets import BlockOrder, NormName, level_strides

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm3d,  # CT-FM: running statistics, eps 1e-5, momentum 0.1
    "instance": partial(nn.InstanceNorm3d, affine=True),  # VISTA3D
    "group": partial(nn.GroupNorm, 8),  # SuPreM
}


def conv3x3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv3d:
    """Return a padded 3x3x3 convolution without bias."""
    return nn.Conv3d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


class PreActivationBlock(nn.Module):
    """CT-FM's residual block, x + conv2(relu(norm2(conv1(relu(norm1(x)))))): (B, C, Z, Y, X) -> same shape."""

    def __init__(self, channels: int, norm: NormName) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](channels)
        self.conv1 = conv3x3x3(channels, channels)
        self.norm2 = NORMS[norm](channels)
        self.conv2 = conv3x3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        y += x
        return y


class PostActivationBlock(nn.Module):
    """The ASSFT paper's residual block, relu(x + norm2(conv2(relu(norm1(conv1(x)))))): (B, C, Z, Y, X) -> same shape.

    The paper describes it as "two cascading convolutional layers followed by a batch normalization layers and a ReLU
    function". Here, each convolution is followed by its own batch norm and ReLU, and the input is added before the last
    ReLU, as in the first residual networks. (Two convolutions with nothing between them would be one linear 5x5x5
    convolution.)
    """

    def __init__(self, channels: int, norm: NormName) -> None:
        super().__init__()
        self.conv1 = conv3x3x3(channels, channels)
        self.norm1 = NORMS[norm](channels)
        self.conv2 = conv3x3x3(channels, channels)
        self.norm2 = NORMS[norm](channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += x
        return F.relu(y, inplace=True)


BLOCKS: dict[str, Callable[[int, NormName], nn.Module]] = {
    "preactivation": PreActivationBlock,
    "postactivation": PostActivationBlock,
}


def block_sequence(n_blocks: int, channels: int, norm: NormName, block: BlockOrder) -> nn.Sequential:
    """Return n_blocks residual blocks in sequence."""
    return nn.Sequential(*(BLOCKS[block](channels, norm) for _ in range(n_blocks)))


class EncoderLevel(nn.Module):
    """Residual blocks and a strided convolution. Returns (output of this level, input of the next level)."""

    def __init__(
        self, channels: int, next_channels: int | None, n_blocks: int, norm: NormName, block: BlockOrder
    ) -> None:
        super().__init__()
        self.blocks = block_sequence(n_blocks, channels, norm, block)
        self.downsample = nn.Identity() if next_channels is None else conv3x3x3(channels, next_channels, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(x)
        return x, self.downsample(x)


class Encoder(nn.Module):
    """CT-FM's encoder. It can be used alone, on images of any size.

    forward: (B, input_channels, Z, Y, X) -> list of the outputs of the levels, finest first. Output i has the shape
    (B, widths[i], Z / 2^i, Y / 2^i, X / 2^i), rounded up. The last one is the bottleneck, whose mean over the three
    axes is the embedding. With pre-activation blocks, neither a norm nor a ReLU follows the last residual sum of a
    level, so that outputs can be negative.
    """

    def __init__(
        self, input_channels: int, widths: Sequence[int], n_blocks: Sequence[int], norm: NormName, block: BlockOrder
    ) -> None:
        super().__init__()
        self.conv_init = conv3x3x3(input_channels, widths[0])
        next_widths = [*widths[1:], None]
        self.layers = nn.ModuleList(
            EncoderLevel(width, next_width, n, norm, block)
            for width, next_width, n in zip(widths, next_widths, n_blocks, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv_init(x)
        outputs = []
        for level in self.layers:
            output, x = level(x)
            outputs.append(output)
        return outputs


class DecoderLevel(nn.Module):
    """A transposed convolution that doubles every axis, addition of the skip connection, and residual blocks."""

    def __init__(self, in_channels: int, channels: int, n_blocks: int, norm: NormName, block: BlockOrder) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(
            in_channels, channels, kernel_size=3, stride=2, padding=1, output_padding=1, bias=False
        )
        self.blocks = block_sequence(n_blocks, channels, norm, block)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.upsample(x)
        x += skip
        return self.blocks(x)


class Decoder(nn.Module):
    """A decoder with one level and one segmentation head per encoder level above the bottleneck, deepest first.

    Its levels mirror those of the encoder in width and resolution; their numbers of blocks are free.

    All heads exist whether or not `deep_supervision` is set, see `network.interface`. With it, the output is a list of
    logits, highest resolution first; otherwise it is the logits of highest resolution.
    """

    # six parameters: those of the encoder, and those that nnU-Net expects of a decoder
    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int],
        n_blocks: Sequence[int],
        norm: NormName,
        block: BlockOrder,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        deepest_first = list(widths[::-1])
        self.layers = nn.ModuleList(
            DecoderLevel(below, width, n, norm, block)
            for below, width, n in zip(deepest_first[:-1], deepest_first[1:], n_blocks, strict=True)
        )
        self.heads = nn.ModuleList(nn.Conv3d(width, num_classes, kernel_size=1) for width in deepest_first[1:])

    @property
    def seg_layers(self) -> nn.ModuleList:
        """The heads under the name that nnU-Net's networks have for them. In a state dict they are `heads`."""
        return self.heads

    def forward(self, levels: list[Tensor]) -> Tensor | list[Tensor]:
        x = levels[-1]
        logits = []
        for i, layer in enumerate(self.layers):
            x = layer(x, levels[-2 - i])
            if self.deep_supervision:
                logits.append(self.heads[i](x))
        return logits[::-1] if self.deep_supervision else self.heads[-1](x)


class CTFMSegmentationNet(nn.Module):
    """CT-FM's encoder and a `Decoder`, with the interface that `network.interface` describes.

    nnU-Net calls `cls(input_channels=..., num_classes=..., deep_supervision=..., **arch_kwargs)` with the arguments of
    the preset, which the plans hold, and then `network.apply(network.initialize)`.

    widths: feature maps per level, finest first, bottleneck last. n_blocks: residual blocks per level, same order.
    n_blocks_decoder: residual blocks per decoder level, DEEPEST FIRST, one entry fewer, as the bottleneck has none.
    norm: "batch" (CT-FM), "instance" or "group". block: "preactivation" (CT-FM) or "postactivation", see its class.
    strides: read by nnU-Net from the plans for deep supervision; must be [[1, 1, 1], [2, 2, 2], ...].

    forward: (B, input_channels, Z, Y, X), with every axis divisible by 2^(levels - 1), which is 16 for five levels.
    Returns the logits (B, num_classes, Z, Y, X); with deep supervision a list of logits, one per decoder level, highest
    resolution first. Which of the two depends on `decoder.deep_supervision` alone, never on train() or eval().
    """

    # nnU-Net passes all of them by name, from the plans
    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        n_blocks: Sequence[int] = (1, 2, 2, 4, 4),
        n_blocks_decoder: Sequence[int] = (1, 1, 1, 1),
        norm: NormName = "batch",
        block: BlockOrder = "preactivation",
        strides: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        _check_architecture(widths, n_blocks, n_blocks_decoder, norm, block, strides)
        self.input_channels = input_channels
        self.num_classes = num_classes
        self.widths = tuple(widths)
        self.n_blocks = tuple(n_blocks)
        self.n_blocks_decoder = tuple(n_blocks_decoder)
        self.norm = norm
        self.block = block
        self.encoder = Encoder(input_channels, self.widths, self.n_blocks, norm, block)
        self.decoder = Decoder(num_classes, self.widths, self.n_blocks_decoder, norm, block, deep_supervision)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        self._check_input(x)
        return self.decoder(self.encoder(x))

    def _check_input(self, x: Tensor) -> None:
        factor = 2 ** (len(self.widths) - 1)
        if x.ndim != 5 or x.shape[1] != self.input_channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (B, {self.input_channels}, Z, Y, X). "
                "Pass a 3D batch with the number of channels the network was built for."
            )
        if any(size % factor for size in x.shape[2:]):
            padded = tuple(math.ceil(size / factor) * factor for size in x.shape[2:])
            raise ValueError(
                f"input has size {tuple(x.shape[2:])}; expected every axis to be divisible by {factor}. "
                f"Pad the input, or set the patch size in the plans, to {padded}."
            )

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise a convolution (He et al., 2015) and leave other modules unchanged. For `network.apply`."""
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return the number of values in the outputs of all convolutions for one sample of `input_size` (Z, Y, X).

        nnU-Net uses it to estimate the memory of the network.
        """
        voxels = [math.prod(size // 2**level for size in input_size) for level in range(len(self.widths))]
        maps = [width * n for width, n in zip(self.widths, voxels, strict=True)]
        encoder = sum(values * (1 + 2 * n) for values, n in zip(maps, self.n_blocks, strict=True))
        decoder = sum(values * (1 + 2 * n) for values, n in zip(maps[-2::-1], self.n_blocks_decoder, strict=True))
        heads = self.num_classes * (sum(voxels[:-1]) if self.decoder.deep_supervision else voxels[0])
        return encoder + decoder + heads


# six parameters: those of the network
def _check_architecture(
    widths: Sequence[int],
    n_blocks: Sequence[int],
    n_blocks_decoder: Sequence[int],
    norm: str,
    block: str,
    strides: Sequence[Sequence[int]] | None,
) -> None:
    n_levels = len(widths)
    if n_levels < 2:
        raise ValueError(f"widths is {list(widths)}; expected one entry for each of at least two levels.")
    for name, values, expected in (
        ("widths", widths, n_levels),
        ("n_blocks", n_blocks, n_levels),
        ("n_blocks_decoder", n_blocks_decoder, n_levels - 1),
    ):
        if len(values) != expected or any(value < 1 for value in values):
            raise ValueError(
                f"{name} is {list(values)}; expected {expected} positive numbers for {n_levels} levels. "
                "The decoder has one level fewer than the encoder, because the bottleneck has no counterpart."
            )
    for name, value, table in (("norm", norm, NORMS), ("block", block, BLOCKS)):
        if value not in table:
            raise ValueError(f"{name} is {value!r}; expected one of {sorted(table)}.")
    if strides is not None and [list(stride) for stride in strides] != level_strides(n_levels):
        raise ValueError(
            f"strides is {strides}; expected {level_strides(n_levels)}: every level halves every axis. "
            "Run nnUNetv2_assft_plan, or fix arch_kwargs in the plans."
        )
