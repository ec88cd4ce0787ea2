"""The dataset fingerprint, computed from images alone. nnU-Net's own reads every label, which is not allowed here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.cached import cached, cached_or_none, kept_result
from nnunet_assft.runtime.cases import Executor, for_each_case, here
from nnunet_assft.runtime.csv_files import write_csv
from nnunet_assft.runtime.files import sha256_file, sha256_of, signature
from nnunet_assft.runtime.locks import only_process
from nnunet_assft.runtime.text import count, some
from nnunet_assft.volumes.images import read_image

FINDINGS = "findings.csv"  # in the folder of the fingerprint
CHECKED = "_checked.json"  # the result of a check in one file; no case has this name
VERSION = 4  # of the check of images and of what is cached of a case; raised so that they are read again
ERROR, WARNING = "error", "warning"
AGAIN = "Run the same command again."
SAMPLES_PER_CASE = 1_000  # intensities, for the record only, as our normalisations do not use them


class _Finding(NamedTuple):
    """A row of FINDINGS."""

    case: str
    severity: str
    finding: str


@dataclass(frozen=True)
class _Job:
    images: tuple[Path, ...]
    reader: BaseReaderWriter
    file: Path
    state: list[list[int]]  # of the images, see `signature`

    @property
    def inputs(self) -> dict[str, Any]:
        reader = type(self.reader).__name__  # readers differ in the order of the axes
        return {"version": VERSION, "reader": reader, "files": self.state}


def check_images(
    images: Mapping[str, tuple[Path, ...]], reader: BaseReaderWriter, folder: Path, *, executor: Executor = here
) -> dict[str, str]:
    """Read every image once and cache its part of the fingerprint in `folder`, one small file per case.

    A case with such a file is read again only if its image or its reader has changed; if none has since the last check
    of these images, its result is read from one file. Everything that was found is written to FINDINGS in the folder,
    see `remarks`. Returns case -> a checksum of its image files. Raises an `AssftError` that names the first of the
    images that `volumes.images` refuses.
    """
    jobs = {
        case: _Job(images[case], reader, folder / f"{case}.json", signature(images[case])) for case in sorted(images)
    }
    checksums = cached(
        folder / CHECKED,
        {case: job.inputs for case, job in jobs.items()},
        lambda: _check(jobs, folder / FINDINGS, executor),
        outputs=lambda _: [file] if (file := folder / FINDINGS).is_file() else [],
    )
    return {case: checksums[case] for case in images}


def known_checksums(cases: Iterable[str], images: Mapping[str, tuple[Path, ...]], folder: Path) -> dict[str, str]:
    """Return case -> the checksum of `check_images`, of the cases whose images were checked or are still there."""
    known: dict[str, str] = {}
    for case in cases:
        try:
            known[case] = kept_result(folder / f"{case}.json", AGAIN)["sha256"]
        except DamagedFileError:  # noqa: PERF203 - a case without this file is rare
            if case in images:
                known[case] = _checksum(images[case])
    return known


def _check(jobs: Mapping[str, _Job], file: Path, executor: Executor) -> dict[str, str]:
    """See `check_images`. file: FINDINGS."""
    problems: dict[str, AssftError] = {}
    # experiments that are planned at the same time share the parts: one reads the images, and the others wait
    with only_process(file.with_name(".lock"), f"the fingerprint of images in {file.parent}", patience=math.inf):
        parts = for_each_case(
            _analyse_once,
            jobs,
            desc="fingerprint",
            done=lambda case: cached_or_none(jobs[case].file, jobs[case].inputs),
            failures=problems,
            executor=executor,
        )
    rows = [_Finding(case, ERROR, str(problem)) for case, problem in sorted(problems.items())]
    rows += _warnings(parts)
    if rows:
        write_csv(file, [row._asdict() for row in rows])
    else:
        file.unlink(missing_ok=True)
    if problems:
        raise AssftError(
            f"{len(problems)} of {len(jobs)} images cannot be used ({_listed(rows[: len(problems)])}). {file} lists "
            "everything that was found. Replace or remove them and run the same command again."
        )
    return {case: part["sha256"] for case, part in parts.items()}


def _warnings(parts: Mapping[str, Mapping[str, Any]]) -> list[_Finding]:
    return [_Finding(case, WARNING, text) for case, part in sorted(parts.items()) for text in part["remarks"]]


def remarks(folder: Path) -> str:
    """Return a line about the images that can be used, but that a person should look at; "" if there are none.

    FINDINGS is for people, who may save it in another form, so it is not read.
    """
    file = folder / FINDINGS
    if not file.is_file():
        return ""
    try:
        rows = _warnings(_parts(kept_result(folder / CHECKED, AGAIN), folder))
    except DamagedFileError:  # the next check makes good for it
        return f"{file} lists what the last check of the images found."
    n = count(len({row.case for row in rows}), "image")
    return f"Look at {n} ({_listed(rows)}). {file} lists everything that was found." if rows else ""


def _listed(findings: Sequence[_Finding]) -> str:
    return some((f"{row.case}: {row.finding}" for row in findings), 3, separator="; ")


def combine_fingerprint(cases: Iterable[str], folder: Path) -> dict[str, Any]:
    """Return nnU-Net's fingerprint of these cases, with nonzero voxels in place of the foreground for intensities."""
    parts = list(_parts(cases, folder).values())
    n_channels = len(parts[0]["intensities"])
    pooled = [np.concatenate([part["intensities"][c] for part in parts]) for c in range(n_channels)]
    return {
        "spacings": [part["spacing"] for part in parts],
        "shapes_after_crop": [part["shape_after_crop"] for part in parts],
        "foreground_intensity_properties_per_channel": {str(c): _statistics(values) for c, values in enumerate(pooled)},
        "median_relative_size_after_cropping": float(
            np.median([part["relative_size_after_cropping"] for part in parts])
        ),
    }


def _parts(cases: Iterable[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Return case -> what `check_images` cached of it. Raises `DamagedFileError` if that cannot be read."""
    try:
        return {case: kept_result(folder / f"{case}.json", AGAIN) for case in cases}
    except DamagedFileError:
        (folder / CHECKED).unlink(missing_ok=True)  # so that the next check opens the files of all cases
        raise


def sizes_of(cases: Iterable[str], folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return case -> shape after the crop to the nonzero region and spacing, both (z, y, x)."""
    parts = _parts(cases, folder)
    return {case: (part["shape_after_crop"], part["spacing"]) for case, part in parts.items()}


def far_away(cases: Sequence[str], planned: Sequence[str], folder: Path) -> list[str]:
    """Return a sentence for every case whose image is unlike those that the plans were made from.

    A spacing is far away if it is less than half the smallest or more than twice the largest one along its axis.
    Intensities are if their median, over the nonzero voxels of a channel, lies outside the range of the medians by more
    than the width of that range and by more than a tenth of the spread of the intensities.
    """
    if not planned:
        return []
    parts = _parts((*planned, *cases), folder)
    spacings = np.array([parts[case]["spacing"] for case in planned])
    channels = [_medians_and_margin([parts[case]["intensities"][c] for case in planned]) for c in _channels(parts)]
    return [
        f"{case}: {text}"
        for case in cases
        for text in (*_of_spacing(parts[case]["spacing"], spacings), *_of_intensities(parts[case], channels))
    ]


def _channels(parts: Mapping[str, Mapping[str, Any]]) -> range:
    return range(len(next(iter(parts.values()))["intensities"]))


def _medians_and_margin(samples: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the smallest and the largest median of the samples of a channel, and how far from them is far away."""
    medians = [float(np.median(sample)) for sample in samples]
    spread = float(np.ptp([np.percentile(sample, (5, 95)) for sample in samples]))
    return min(medians), max(medians), max(max(medians) - min(medians), 0.1 * spread)


def _of_spacing(spacing: Sequence[float], planned: np.ndarray) -> Iterator[str]:
    low, high = planned.min(axis=0), planned.max(axis=0)
    if (np.array(spacing) < low / 2).any() or (np.array(spacing) > 2 * high).any():
        yield f"its spacing is {_mm(spacing)} mm; the images of the plans have {_mm(low)} to {_mm(high)} mm"


def _of_intensities(part: Mapping[str, Any], channels: Sequence[tuple[float, float, float]]) -> Iterator[str]:
    for channel, (low, high, margin) in enumerate(channels):
        median = float(np.median(part["intensities"][channel]))
        if not low - margin <= median <= high + margin:
            yield (
                f"the median intensity of its channel {channel} is {median:.4g}; those of the images of the plans are "
                f"{low:.4g} to {high:.4g}"
            )


def _mm(spacing: Sequence[float]) -> str:
    """Return a spacing, (z, y, x), as "x x y x z"."""
    return " x ".join(f"{mm:.3g}" for mm in spacing[::-1])


def _analyse_once(job: _Job) -> dict[str, Any]:
    return cached(job.file, job.inputs, lambda: _analyse(job))


def _analyse(job: _Job) -> dict[str, Any]:
    """Return the contribution of a case to the fingerprint. Raises `AssftError` if its image cannot be used."""
    checked = read_image(job.images, job.reader)
    image = checked.array
    cropped, _, _ = crop_to_nonzero(image)
    rng = np.random.default_rng(1234)
    sampled = []
    for channel in cropped:
        nonzero = channel[channel != 0]
        sample = rng.choice(nonzero, min(SAMPLES_PER_CASE, nonzero.size), replace=False) if nonzero.size else [0.0]
        sampled.append([float(v) for v in sample])
    return {
        "sha256": _checksum(job.images),
        "spacing": [float(s) for s in checked.properties["spacing"]],
        "shape_after_crop": [int(s) for s in cropped.shape[1:]],
        "relative_size_after_cropping": float(np.prod(cropped.shape[1:]) / np.prod(image.shape[1:])),
        "intensities": sampled,
        "remarks": list(checked.remarks),
    }


def _checksum(images: Sequence[Path]) -> str:
    return sha256_of([sha256_file(file) for file in images])


def _statistics(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return {
        "mean": float(values.mean()),
        "median": float(median),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }
