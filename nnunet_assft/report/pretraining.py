"""The report of a pre-training: its loss, and patches as the network reconstructs them, or how similar views are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from nnunet_assft.pretraining.images import describe
from nnunet_assft.pretraining.masked import EXAMPLES
from nnunet_assft.pretraining.pretrain import Pretrained
from nnunet_assft.pretraining.settings import METHODS
from nnunet_assft.report.images import to_grey
from nnunet_assft.report.page import write_page
from nnunet_assft.report.plot import SERIES, STYLE, WIDE, Plot, draw_on_axes, legend_below
from nnunet_assft.report.sections.base import Section
from nnunet_assft.report.sections.head import Head
from nnunet_assft.runtime.text import by, count
from nnunet_assft.volumes.raw_dataset import RawDataset

AXES = ("first", "second", "third")  # of a preprocessed image
HIDDEN = SERIES[0]


def write_pretraining_report(pretrained: Pretrained, dataset: RawDataset) -> Path:
    """Write report.html and its files to the folder of a pre-training, and return the page."""
    with np.load(pretrained.task.examples_file) as arrays:
        found = dict(arrays)
    of_method = EXAMPLES_OF[pretrained.task.settings.method](found, pretrained)
    sections = [Section("loss", "Loss", plots=(loss_plot(pretrained.losses),)), of_method]
    return write_page(pretrained.task.folder / "report.html", _head(pretrained), sections, dataset)


def _head(pretrained: Pretrained) -> Head:
    task = pretrained.task
    method, training, shown = task.header["method"], task.header["training"], task.header["input"]
    spacing = [round(edge, 2) for edge in shown["spacing"][::-1]]
    facts = {
        "Method": METHODS[method].what,
        "Network": f"the encoder of the preset {task.header['preset']}",
        "Images": f"{describe(len(task.files), task.n_pool)}; no label and no test image",
        "Input": f"{', '.join(dict.fromkeys(shown['normalization']))}, voxels of {by(spacing)} mm",
        "Training": f"{count(training['steps'], 'step')} with batches of {task.batch_size}, seed {training['seed']}",
        "Loss": f"{pretrained.losses[0]:.3f} in the first epoch, {pretrained.losses[-1]:.3f} in the last",
        "Encoder file": task.encoder_file.name,
    }
    return Head(task.header["dataset"], facts, kind="Pre-training of an encoder")


def loss_plot(losses: tuple[float, ...]) -> Plot:
    """Plot the loss over the epochs."""
    data = pd.DataFrame({"epoch": np.arange(1, len(losses) + 1), "loss": losses})

    def draw(axes: Axes) -> None:
        axes.plot(data["epoch"], data["loss"], color=SERIES[0], marker="." if len(data) < 3 else None)
        axes.set(xlabel="epoch", ylabel="loss", ylim=(0, None))

    return Plot(
        name="pretraining_loss",
        title="Loss",
        caption="The mean of each epoch.",
        alt=f"Line chart of the loss over {len(losses)} epochs.",
        data=data,
        figure=draw_on_axes(draw, WIDE),
    )


def similarities(found: Mapping[str, np.ndarray], pretrained: Pretrained) -> Section:
    """Return the section with the similarity of positive and of negative pairs of views. found: arrays of
    `contrastive.EXAMPLES`."""
    edges = np.linspace(-1, 1, 41)
    pairs = {"views of one crop": found["positive"], "views of two crops": found["negative"]}
    shares = {name: np.histogram(values, edges)[0] / values.size for name, values in pairs.items()}
    data = pd.DataFrame({"from": edges[:-1].round(2), "to": edges[1:].round(2), **shares})
    means = [f"{values.mean():.2f} for {name}" for name, values in pairs.items()]

    def draw(axes: Axes) -> None:
        for (name, share), colour in zip(shares.items(), SERIES, strict=False):
            axes.stairs(share, edges, label=name, color=colour, linewidth=1.5)
        axes.set(xlabel="cosine", ylabel="share of the pairs", xlim=(-1, 1), ylim=(0, None))
        legend_below(axes, 2)

    n_scans, n_views = found["nearest"].shape
    plot = Plot(
        name="pretraining_similarities",
        title="Similarity of views",
        caption=f"{count(n_views, 'view')} of each of {count(n_scans, 'image')}, drawn anew after the "
        f"training. The mean cosine is {' and '.join(means)}. For {found['nearest'].mean():.0%} of the views, the most "
        f"similar one is the other view of the same crop; at random, it would be {1 / (n_views - 1):.0%}. Crops may "
        "overlap.",
        alt=f"Histograms of the cosine: on average {' and '.join(means)}.",
        data=data,
        figure=draw_on_axes(draw, WIDE),
    )
    return Section("similarities", "Similarities", plots=(plot,))


def reconstructions(found: Mapping[str, np.ndarray], pretrained: Pretrained) -> Section:
    """Return the section with patches: the image, what the network is shown of it, and what it makes of that. found:
    arrays of `masked.EXAMPLES`."""
    spacing = pretrained.task.header["input"]["spacing"]
    plots = []
    for i, (image, hidden, inside, reconstruction) in enumerate(
        zip(*(found[name] for name in EXAMPLES), strict=True), start=1
    ):
        picture = _Picture(image, hidden, inside, reconstruction, spacing)
        plots.append(
            Plot(
                name=f"reconstruction_{i}",
                title=f"Patch {i}",
                caption="The middle slices across the three axes of the preprocessed image. The network was not shown "
                "the blocks that are blue in the second column; in the third, it has filled them in.",
                alt=f"Slices of patch {i}: the image, the same with hidden blocks, and the reconstruction.",
                data=picture.errors(),
                figure=picture.figure(),
            )
        )
    return Section("reconstructions", "Reconstructions", plots=tuple(plots))


@dataclass(frozen=True)
class _Picture:
    """Draws a patch. Arrays are (z, y, x); spacing: in the same order."""

    image: np.ndarray
    hidden: np.ndarray
    inside: np.ndarray
    reconstruction: np.ndarray
    spacing: Sequence[float]

    @property
    def slices(self) -> tuple[int, ...]:
        """The index of the middle slice across each axis."""
        return tuple(n // 2 for n in self.image.shape)

    def errors(self) -> pd.DataFrame:
        """Return the mean squared error in the hidden voxels of each slice."""
        rows = []
        for axis, k in enumerate(self.slices):
            where = (self.hidden & self.inside).take(k, axis)
            squared = (self.reconstruction - self.image).take(k, axis)[where] ** 2
            rows.append((AXES[axis], k + 1, len(squared), float(squared.mean()) if len(squared) else 0.0))
        return pd.DataFrame(rows, columns=["across axis", "slice", "hidden voxels", "mean squared error"])

    def figure(self) -> Figure:
        black, white = np.percentile(self.image[self.inside], (1, 99)) if self.inside.any() else (0, 1)
        columns = {
            "image": self._grey(self.image, (black, white)),
            "shown to the network": self._grey(self.image, (black, white)),
            "reconstruction": self._grey(self.reconstruction, (black, white)),
        }
        columns["shown to the network"][self.hidden & self.inside] = to_rgba(HIDDEN)
        with style.context(["default", STYLE, {"axes.grid": False}]):
            figure = Figure(figsize=(WIDE[0], WIDE[0]))
            for axis, row in enumerate(figure.subplots(3, 3)):
                up, across = (n for n in range(3) if n != axis)
                for axes, (title, colours) in zip(row, columns.items(), strict=True):
                    aspect = self.spacing[up] / self.spacing[across]
                    axes.imshow(colours.take(self.slices[axis], axis), interpolation="none", aspect=aspect)
                    axes.set_axis_off()
                    if axis == 0:
                        axes.set_title(title, fontsize=7.5, pad=2)
        return figure

    def _grey(self, array: np.ndarray, black_and_white: tuple[float, float]) -> np.ndarray:
        """Return the colours of all voxels, (z, y, x, 4), which are transparent where there is no image."""
        grey = to_grey(array, black_and_white) / 255
        return np.stack([grey, grey, grey, self.inside.astype(float)], axis=-1)


EXAMPLES_OF = {"mae": reconstructions, "contrastive": similarities}  # method -> section with what it makes of samples
