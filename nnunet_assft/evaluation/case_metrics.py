"""Compute Dice, NSD and HD95 of every test case and structure, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.errors import AssftError
from nnunet_assft.evaluation.dice import case_dice
from nnunet_assft.evaluation.predictions import altered
from nnunet_assft.evaluation.surface import (
    DEFAULT_TOLERANCE_MM,
    hausdorff_distance_95,
    normalized_surface_distance,
    surface_distances,
)
from nnunet_assft.runtime.cached import cached, cached_or_none
from nnunet_assft.runtime.cases import Executor, for_each_case, here
from nnunet_assft.runtime.csv_files import bare_table, write_csv_table
from nnunet_assft.runtime.files import sha256_file, signature
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from nnunet_assft.runtime.text import some
from nnunet_assft.volumes.raw_dataset import RawDataset

METRICS_FILE = "metrics.csv"
METRICS = ("dice", "nsd", "hd95_mm")
DTYPES = {"case": str, "structure": str, **dict.fromkeys(METRICS, float)}


def case_metrics(dataset: RawDataset, predictions: Mapping[str, Path], *, executor: Executor = here) -> pd.DataFrame:
    """Compare predictions (case -> file) with the labels of the dataset: the metrics of every case and structure.

    Returns the columns case, structure, dice, nsd and hd95_mm, with cases in ascending order and structures in that of
    the dataset. Dice is nnU-Net's, in [0, 1]; NSD and HD95 are those of `surface`, with the spacing of the prediction,
    which is that of the image. All three are NaN for a structure that is absent in label and prediction, and for one
    that nobody drew in the label; if it is absent in one of them, Dice and NSD are 0 and HD95 is inf. Voxels with the
    ignore label are background in both masks. Raises `AssftError` if a prediction and its label differ in shape.
    """
    jobs = {}
    for case in sorted(predictions):
        files = predictions[case].absolute(), dataset.label_file(case).absolute()  # parts work in other folders
        jobs[case] = _Job(case, *files, signature(files))
    of_cases = for_each_case(partial(_measure, dataset), jobs, desc="Dice, NSD, HD95", executor=executor)
    rows = [row for of_case in of_cases.values() for row in of_case]
    return pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)


class _Job(NamedTuple):
    """signature: of the files, by which an executor tells a result of files that were replaced since."""

    case: str
    prediction: Path
    reference: Path
    signature: object


def _measure(dataset: RawDataset, job: _Job) -> list[tuple[str, str, float | None, float, float]]:
    labels, ignore_label = dataset.structures, dataset.ignore_label
    reference = dataset.reader.read_seg(str(job.reference))[0]
    prediction, properties = dataset.reader.read_seg(str(job.prediction))  # with the spacing of the image
    if prediction.shape != reference.shape:
        raise AssftError(
            f"{job.prediction} has the shape {prediction.shape[1:]}, but its reference {job.reference} has "
            f"{reference.shape[1:]}. Remove the prediction and predict the case again."
        )
    prediction, reference = (dataset.as_annotated(job.case, array) for array in (prediction, reference))
    dice = case_dice(prediction, reference, labels, ignore_label=ignore_label)
    counted = np.ones(reference.shape, bool) if ignore_label is None else reference != ignore_label
    rows = []
    for structure, value in labels.items():
        masks = [((array == value) & counted)[0] for array in (reference, prediction)]
        distances = surface_distances(masks[0], masks[1], properties["spacing"])
        nsd = normalized_surface_distance(distances, DEFAULT_TOLERANCE_MM)
        rows.append((job.case, structure, dice[structure], nsd, hausdorff_distance_95(distances)))
    return rows


def cached_metrics(  # five parameters: what was predicted from what, and where it is measured
    dataset: RawDataset, cases: Sequence[str], folder: Path, made_from: Mapping[str, str], engine: Engine = HERE
) -> pd.DataFrame:
    """Return the `case_metrics` of the predictions of these cases, which are in `folder` as CASE.nii.gz.

    The table is cached in `folder` as metrics.csv until the predictions or a reference change. made_from: what the
    predictions were made from. engine: where the cases are worked on; by default in as many processes of this machine
    as the size of their images is worth. Raises `AssftError` if a prediction or a reference does not exist.
    """
    if lost := _lost(dataset, cases, folder, made_from):
        raise AssftError(
            f"{len(lost)} files that are needed to evaluate {folder} do not exist, or do not match their checksums: "
            f"{some(lost)}. Put them back, or run nnUNetv2_assft_compare, which makes predictions again."
        )
    predictions = {case: folder / f"{case}{dataset.file_ending}" for case in cases}

    def compute() -> pd.DataFrame:
        known = {**dataset.images, **dataset.test_images}  # an image may be gone by now
        executor = engine.images(folder.with_name("jobs"), {case: known.get(case, ()) for case in cases})
        return case_metrics(dataset, predictions, executor=executor)

    return cached(
        folder / METRICS_FILE,
        _inputs(dataset, cases, made_from),
        compute,
        store=_MetricsStore(),
    )


def metrics_or_none(
    dataset: RawDataset, cases: Sequence[str], folder: Path, made_from: Mapping[str, str]
) -> pd.DataFrame | None:
    """Return what `cached_metrics` has computed, or None if it would have to compute the table."""
    if _lost(dataset, cases, folder, made_from):
        return None
    return cached_or_none(folder / METRICS_FILE, _inputs(dataset, cases, made_from), store=_MetricsStore())


def _lost(dataset: RawDataset, cases: Sequence[str], folder: Path, made_from: Mapping[str, str]) -> list[Path]:
    """Return the files that do not exist, or do not match their checksums."""
    lost = [file for case in cases if not (file := dataset.label_file(case)).is_file()]
    return lost + altered(folder, cases, dataset.file_ending, made_from)


def _inputs(dataset: RawDataset, cases: Sequence[str], made_from: Mapping[str, str]) -> dict[str, Any]:
    return {
        **made_from,
        "references": {case: sha256_file(dataset.label_file(case)) for case in cases},
        "tolerance_mm": DEFAULT_TOLERANCE_MM,
        **dataset.not_annotated_of(cases),
    }


class _MetricsStore:
    """The table as a CSV file, and beside it a JSON file with the checksums of the table and of its inputs."""

    def read(self, file: Path) -> tuple[str, pd.DataFrame]:
        content = read_sealed(file.with_suffix(".json"), ("inputs_sha256", "table_sha256", "seconds"))
        if content["table_sha256"] != sha256_file(file):
            raise ValueError(f"{file} does not match its checksum")
        return content["inputs_sha256"], read_table(file, DTYPES)

    def write(self, file: Path, inputs_sha256: str, result: pd.DataFrame, seconds: float) -> None:
        file.with_suffix(".json").unlink(missing_ok=True)  # so that an old checksum never stands beside a new table
        write_csv_table(file, result)
        content = {"inputs_sha256": inputs_sha256, "table_sha256": sha256_file(file), "seconds": round(seconds, 3)}
        write_sealed(file.with_suffix(".json"), content)


def read_table(file: Path, dtypes: Mapping[str, type]) -> pd.DataFrame:
    """Read a table of `csv_files.write_csv_table`. An empty number is NaN; a text such as "NA" remains a text.

    dtypes: column -> type, for the columns that need one; columns that the table does not have are ignored.
    """
    numbers = [name for name, dtype in dtypes.items() if dtype is float]
    table = pd.read_csv(
        file,
        dtype=dict(dtypes),
        keep_default_na=False,  # a case may be called NA
        na_values={name: [""] for name in numbers},
        float_precision="round_trip",
    )
    return bare_table(table)
