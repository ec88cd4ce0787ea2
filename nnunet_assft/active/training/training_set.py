"""The training set of a stage: a folder with exactly the cases that the stage may see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_assft.active.context import Context
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.state import Model
from nnunet_assft.errors import DamagedFileError
from nnunet_assft.planning.preprocessing import checksum_file, whole_files, write_training_label
from nnunet_assft.runtime.cached import is_claimed, keep
from nnunet_assft.runtime.cases import for_each_case
from nnunet_assft.runtime.files import link_or_copy, sha256_file, sha256_of
from nnunet_assft.runtime.partial import PARTIAL
from nnunet_assft.runtime.sealed import write_sealed
from nnunet_assft.trainers.folds import TRAINERS
from nnunet_assft.trainers.stage_file import read_stage_file
from nnunet_assft.volumes.not_annotated import as_annotated


@dataclass(frozen=True)
class Stage:
    """The description of one training stage of a round.

    name: `supervised`, `semi` or a member of the committee. human_labels, pseudo_labels: case -> label file. start: the
    model whose weights the training starts from. copies: case -> how often it is listed for sampling, by default 1.
    not_annotated: case -> structures that its human label lacks, also of cases that are not in the stage.
    """

    round: int
    name: str
    human_labels: Mapping[str, Path]
    pseudo_labels: Mapping[str, Path]
    start: Model
    epochs: int
    copies: Mapping[str, int] = field(default_factory=dict)
    not_annotated: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, Path]:
        return {**self.human_labels, **self.pseudo_labels}

    def content(self) -> dict[str, Any]:
        """Return the content of the stage file, which the trainer reads and which identifies the training."""
        cases: dict[str, dict[str, Any]] = {}
        for case, file in sorted(self.labels.items()):
            kind = "pseudo" if case in self.pseudo_labels else "human"
            cases[case] = {"kind": kind, "label_sha256": sha256_file(file)}
            if self.copies.get(case, 1) != 1:
                cases[case]["copies"] = self.copies[case]
            if kind == "human" and self.not_annotated.get(case):
                cases[case]["not_annotated"] = list(self.not_annotated[case])
        return {
            "round": self.round,
            "stage": self.name,
            "start_from": self.start.checkpoint,
            "start_sha256": self.start.weights_sha256,
            "epochs": self.epochs,
            "cases": cases,
        }


def write_training_set(context: Context, stage: Stage) -> dict[str, Any]:
    """Write the folder of the training set and its stage file, and return the content of that file.

    Images are hard links to the preprocessed pool. A label that an earlier stage has preprocessed is linked as well.
    The folder gets its final name in one step, once it is complete. A set whose files do not match their checksums is
    written again.
    """
    content = stage.content()
    paths = context.paths
    folder, file = paths.training_set(stage.round, stage.name), paths.stage_file(stage.round, stage.name)
    if is_claimed(file, content) and all(_is_whole(folder, case) for case in content["cases"]):
        return content
    file.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished = folder.with_name(
        f"{PARTIAL}_{folder.name}_{sha256_of(content)[:8]}"
    )  # an interrupted attempt at this set
    unfinished.mkdir(parents=True, exist_ok=True)
    preprocessed_before = _preprocessed_labels(paths)

    earlier = {
        case: preprocessed_before.get(_preprocessing_of(case, entry)) for case, entry in content["cases"].items()
    }
    for_each_case(
        partial(_add_case, context, stage, unfinished, earlier),
        list(content["cases"]),
        desc=f"round {stage.round}: {stage.name} training set",
        done=lambda case: _is_whole(unfinished, case) or None,
        executor=context.cases,
    )
    write_sealed(file, content)
    os.replace(unfinished, folder)  # last, so that a call that is killed before it finds every case there
    for abandoned in paths.stages.glob(f"{PARTIAL}_{folder.name}_*"):
        shutil.rmtree(abandoned)
    return content


def _add_case(context: Context, stage: Stage, folder: Path, others: Mapping[str, Path | None], case: str) -> bool:
    """Add a case to the folder. others: case -> a training set that holds the same label, already preprocessed."""
    earlier = others[case]
    label_file, checksums = stage.labels[case], context.whole_files(case)
    link_or_copy(context.image_folder / f"{case}.b2nd", folder / f"{case}.b2nd")
    if case in stage.human_labels:  # stock nnU-Net looks there for the reference labels of its validation
        ending = context.dataset.file_ending
        link_or_copy(label_file, context.paths.stages / "gt_segmentations" / f"{case}{ending}")
    if earlier is None or not _is_whole(earlier, case):
        label = context.checked_label(case, label_file)
        if case in stage.human_labels:  # which may hold remains of a structure that nobody drew
            label = as_annotated(label, context.dataset.labels, stage.not_annotated.get(case, ()))
        write_training_label(label, case, context.image_folder, folder, context.plans, context.dataset.dataset_json)
    else:
        for ending in ("_seg.b2nd", ".pkl"):
            link_or_copy(earlier / f"{case}{ending}", folder / f"{case}{ending}")
    checksums |= {name: sha256_file(folder / name) for name in checksums if not name.endswith(f"{case}.b2nd")}
    keep(checksum_file(folder, case), {"label": sha256_file(label_file)}, checksums)  # last: the case is complete
    return True


def _is_whole(folder: Path, case: str) -> bool:
    try:
        return bool(whole_files(folder, case))
    except DamagedFileError:
        return False


def remove_training_sets(paths: ExperimentPaths, r: int) -> None:
    """Remove the training sets that are of no use after round r. With many cases, they would be most of the files of an
    experiment. That of its supervised stage stays, because the next round links the preprocessed labels."""
    for earlier in range(r + 1):
        for stage in TRAINERS if earlier < r else ["semi"]:
            folder = paths.training_set(earlier, stage)
            outdated = folder.with_name(f"{PARTIAL}_{folder.name}_outdated")  # no half of it stays if this is killed
            shutil.rmtree(outdated, ignore_errors=True)
            if folder.is_dir():
                os.replace(folder, outdated)
                shutil.rmtree(outdated, ignore_errors=True)


def _preprocessed_labels(paths: ExperimentPaths) -> dict[tuple[str, ...], Path]:
    """Return `_preprocessing_of` a label -> training set of an earlier stage that holds it preprocessed."""
    found = {}
    for file in sorted(paths.stages.glob("round_*.json")):
        folder = file.with_suffix("")
        if not folder.is_dir():
            continue
        with suppress(DamagedFileError):  # of an earlier stage; its labels are preprocessed again
            for case, entry in read_stage_file(file)["cases"].items():
                found[_preprocessing_of(case, entry)] = folder
    return found


def _preprocessing_of(case: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what determines a preprocessed label. entry: that of the case in the stage file."""
    return case, entry["label_sha256"], *entry.get("not_annotated", ())
