"""The picture of the README, drawn from what the demo has written. Run in the checkout:

nnUNetv2_assft_demo && python docs/demo_picture.py nnunet_assft_demo docs/demo.png

It shows one test scan of the phantom with its reference, with the segmentations of all finished rounds, and the Dice of
all test scans. The scan is the one with the median Dice after the last round.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_assft.evaluation.dice import mean_of
from nnunet_assft.report.images import Volume, load_volume
from nnunet_assft.report.overlay import fullest_slice
from nnunet_assft.report.plot import STYLE, label_colour
from nnunet_assft.volumes.display import CT_WINDOW

DATASET, REFERENCE = "Dataset900_Phantom", "reference"
INCHES, DPI = (11.0, 2.9), 100
OPACITY = 0.55


def main(demo: Path, picture: Path) -> None:
    """Draw the picture. demo: the folder of the demo. picture: the PNG file to write."""
    raw, results = demo / "nnUNet_raw" / DATASET, demo / "nnUNet_results" / DATASET / "assft/assft"
    rounds = [json.loads(file.read_text()) for file in sorted(results.glob("round_[0-9][0-9].json"))]
    dice = [{case: mean_of(of.values()) or 0.0 for case, of in done["dice"]["per_case"].items()} for done in rounds]
    case = sorted(dice[-1], key=lambda name: (dice[-1][name], name))[(len(dice[-1]) - 1) // 2]
    files = {REFERENCE: raw / "labelsTs" / f"{case}.nii.gz"}
    files |= {f"round {r}": results / f"test_round_{r:02d}" / f"{case}.nii.gz" for r in range(len(rounds))}
    volume = load_volume(raw / "imagesTs" / f"{case}_0000.nii.gz", files, 10**8, CT_WINDOW)
    titles = ["test scan,\nwith its reference"]
    for r, done in enumerate(rounds):
        n = len(done["labelled"])
        titles.append(f"{n} scan{'' if n == 1 else 's'} annotated,\nDice {dice[r][case]:.2f}")
    with style.context(["default", STYLE]):
        figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
        *panels, curve = figure.subplots(1, len(files) + 1, width_ratios=[1] * len(files) + [1.25])
        for axes, title, name in zip(panels, titles, files, strict=True):
            draw_scan(axes, volume, name)
            axes.set_title(title, fontsize=9)
        draw_curve(curve, rounds, dice)
        labels = json.loads((raw / "dataset.json").read_text())["labels"]
        organs = [
            Patch(color=label_colour(value), label=name.replace("_", " ")) for name, value in labels.items() if value
        ]
        figure.legend(handles=organs, loc="outside lower left", ncols=len(organs), fontsize=8)
        figure.savefig(picture, metadata={"Software": ""})
    print(
        f"Wrote {picture} ({picture.stat().st_size / 1000:.0f} kB): {case} and the Dice of {len(dice[-1])} test scans."
    )


def draw_scan(axes: Axes, volume: Volume, name: str) -> None:
    """Draw the coronal slice with the largest reference, head up, with the structures of one segmentation over it."""
    depth, height, width = volume.image.shape
    k = fullest_slice([volume.segmentations[REFERENCE]], 1, height)
    extent = (0.0, width * volume.spacing[0], 0.0, depth * volume.spacing[2])
    look: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "none"}
    axes.imshow(volume.image[:, k], cmap="gray", vmin=0, vmax=255, **look)
    segmentation = volume.segmentations[name][:, k]
    for value in np.unique(segmentation[segmentation > 0]):
        colour = tuple(int(label_colour(int(value))[i : i + 2], 16) / 255 for i in (1, 3, 5))
        axes.imshow((segmentation == value)[..., None] * np.array([*colour, OPACITY]), **look)
    axes.set_axis_off()


def draw_curve(axes: Axes, rounds: list[dict[str, Any]], dice: list[dict[str, float]]) -> None:
    """Draw the Dice of every test scan, and their mean, against the number of annotated scans."""
    annotated = [len(done["labelled"]) for done in rounds]
    for case in dice[-1]:
        axes.plot(annotated, [of_round[case] for of_round in dice], color="0.8", linewidth=0.8)
    axes.plot(annotated, [done["dice"]["mean"] for done in rounds], color="#1f5fa8", marker="o", linewidth=2)
    axes.set(xticks=annotated, ylim=(0, 1), xlabel="annotated scans, of 20", ylabel="Dice")
    axes.set_title(f"{len(dice[-1])} test scans,\nand their mean", fontsize=9)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
