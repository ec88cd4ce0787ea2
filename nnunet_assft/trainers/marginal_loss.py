"""The loss of labels that lack structures: a structure that nobody drew is a part of the background.

The softmax probability of such a structure is added to that of the background of its case, as in the marginal loss of
Shi et al., "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image Analysis
70 (2021) 101979. nnU-Net's own loss is then computed from these probabilities.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn


def merge_into_background(logits: torch.Tensor, not_annotated: torch.Tensor) -> torch.Tensor:
    """Return logits whose softmax is that of `logits`, with the classes that are not annotated added to class 0.

    logits: (B, C, ...). not_annotated: (B, C) bool, False for class 0. The logit of the background becomes the
    logarithm of a sum of exponentials, and that of each class that was added to it -inf, which is a probability of 0.
    """
    shape = (*not_annotated.shape, *[1] * (logits.ndim - 2))
    added = not_annotated.reshape(shape)
    background = added.clone()
    background[:, 0] = True
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is too coarse for a sum
    merged = exact.masked_fill(~background, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([merged, exact[:, 1:].masked_fill(added[:, 1:], -torch.inf)], 1)


class MarginalLoss(nn.Module):
    """nnU-Net's loss on the logits of `merge_into_background`.

    loss: nnU-Net's loss, which takes the output of the network and the target, or lists of both with deep supervision.
    not_annotated: case -> values of the structures that are not annotated in it. n_classes: C, with the background.
    Before each call, `batch` says which cases the items of the batch are. With no structure missing in a batch,
    nnU-Net's loss gets the output of the network itself.
    """

    def __init__(self, loss: nn.Module, not_annotated: Mapping[str, Collection[int]], n_classes: int) -> None:
        super().__init__()
        self.loss, self.not_annotated, self.n_classes = loss, not_annotated, n_classes
        self.batch: Sequence[str] = ()

    def forward(
        self, output: torch.Tensor | list[torch.Tensor], target: torch.Tensor | list[torch.Tensor]
    ) -> torch.Tensor:
        """Return the loss of a batch. target: (B, 1, ...), in which no voxel has the value of a structure that is not
        annotated in its case."""
        missing = [self.not_annotated.get(case, ()) for case in self.batch]
        if any(missing):
            rows = [[value in values for value in range(self.n_classes)] for values in missing]
            levels = [output] if isinstance(output, torch.Tensor) else output
            mask = torch.tensor(rows, device=levels[0].device)
            merged = [merge_into_background(logits, mask) for logits in levels]
            output = merged[0] if isinstance(output, torch.Tensor) else merged
        loss: torch.Tensor = self.loss(output, target)
        return loss
