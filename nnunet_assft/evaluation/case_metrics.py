"""Dice, NSD and HD95 of every test case and structure, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from tqdm import tqdm

from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.dice import case_dice
from nnunet_assft.evaluation.surface import (
    DEFAULT_TOLERANCE_MM,
    hausdorff_distance_95,
    normalized_surface_distance,
    surface_distances,
)
from nnunet_assft.runtime.files import read_json, sha256_file, write_json, write_text
from nnunet_assft.volumes.raw_dataset import RawDataset, find_dataset

DTYPES = {"case": str, "structure": str, "dice": float, "nsd": float, "hd95_mm": float}


def case_metrics(
    predictions: Mapping[str, Path],
    references: Mapping[str, Path],
    reader: BaseReaderWriter,
    labels: Mapping[str, int],
    *,
    ignore_label: int | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> pd.DataFrame:
    """One row per case and structure: case, structure, dice, nsd, hd95_mm; cases ascending, structures as in `labels`.

    labels: structure -> value, foreground only. Dice is nnU-Net's, in [0, 1]; NSD and HD95 are those of `surface`, in the
    spacing of the prediction, which is that of the image. Absent in reference and prediction: NaN in all three. Absent in
    one: Dice 0, NSD 0, HD95 inf. Voxels with the ignore label are background in both masks. Raises `AssftError` if a prediction and its reference differ
    in shape.
    """
    rows = []
    for case in tqdm(sorted(predictions), desc="Dice, NSD, HD95", unit="case", leave=False):
        reference = reader.read_seg(str(references[case]))[0]
        prediction, properties = reader.read_seg(str(predictions[case]))  # has the spacing of the image
        if prediction.shape != reference.shape:
            raise AssftError(
                f"{predictions[case]} has shape {prediction.shape[1:]}, its reference {references[case]} has "
                f"{reference.shape[1:]}. Remove the prediction and predict the case again."
            )
        dice = case_dice(prediction, reference, labels, ignore_label=ignore_label)
        counted = np.ones(reference.shape, bool) if ignore_label is None else reference != ignore_label
        for structure, value in labels.items():
            masks = [((array == value) & counted)[0] for array in (reference, prediction)]
            distances = surface_distances(masks[0], masks[1], properties["spacing"])
            rows.append(
                (
                    case,
                    structure,
                    dice[structure],
                    normalized_surface_distance(distances, tolerance_mm),
                    hausdorff_distance_95(distances),
                )
            )
    return pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)


def test_metrics(experiment: Experiment, r: int) -> pd.DataFrame:
    """`case_metrics` of the test cases of a finished round, from the predictions that the round left on disk; kept beside them.

    Raises `AssftError` if the round is not finished or a prediction is gone.
    """
    if not experiment.paths.round_file(r).is_file():
        raise AssftError(
            f"Round {r} of experiment {experiment.name!r} is not finished; its test cases have no metrics yet."
        )
    done = Round.load(experiment.paths, r)
    made_from = {"model": done.model.weights_sha256}
    return kept_metrics(find_dataset(experiment.dataset), done.test, experiment.paths.test_predictions(r), made_from)


def kept_metrics(dataset: RawDataset, cases: Sequence[str], folder: Path, made_from: Mapping[str, str]) -> pd.DataFrame:
    """`case_metrics` of the predictions of these cases in a folder, CASE.nii.gz.

    Kept there as metrics.csv, with what it was made from (`made_from`, and the references) in metrics.json, and read from there the
    next time. Raises `AssftError` if a prediction or a reference is gone.
    """
    predictions = {case: folder / f"{case}{dataset.file_ending}" for case in cases}
    references = {case: dataset.label_file(case) for case in cases}
    gone = [file for file in [*predictions.values(), *references.values()] if not file.is_file()]
    if gone:
        raise AssftError(f"{gone[0]} is not there ({len(gone)} files are missing). Put it back to evaluate {folder}.")
    provenance_now = {
        **made_from,
        "references": {case: sha256_file(file) for case, file in references.items()},
        "tolerance_mm": DEFAULT_TOLERANCE_MM,
    }
    table, provenance = folder / "metrics.csv", folder / "metrics.json"
    if not (table.is_file() and provenance.is_file() and read_json(provenance) == provenance_now):
        labels = dataset.structures
        metrics = case_metrics(
            predictions, references, dataset.reader, labels, ignore_label=dataset.labels.get("ignore")
        )
        write_text(table, metrics.to_csv(index=False))
        write_json(provenance, provenance_now)
    return pd.read_csv(table, dtype=DTYPES)
