"""The split of a dataset into the pool and the held-out test cases, and the cases of the pool that are labelled at the
start. No label file is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_assft.errors import AssftError
from nnunet_assft.nnunet_names import SPLIT_SEED
from nnunet_assft.planning.choices import EXISTING, NO_LABELS
from nnunet_assft.runtime.files import base_name, read_json
from nnunet_assft.runtime.text import count, reason, some
from nnunet_assft.volumes.image_files import meant_instead
from nnunet_assft.volumes.names import CASE_ID
from nnunet_assft.volumes.raw_dataset import RawDataset

DEFAULT_TEST_FRACTION = "0.2"
TEST_FOLDER = "imagesTs"


def split(dataset: RawDataset, annotator: str, test_split: str | None) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Return the pool, the test cases, and a text that says where the test cases come from.

    The function checks which label files exist, but opens none. test_split: a fraction of imagesTr; a fraction with a
    fold, such as `0.2@1` (folds are disjoint, and fold 0 is that of the fraction alone); a file of case ids; or None
    for the labelled cases of imagesTs if there are any, otherwise the default fraction, or no test cases for a human
    annotator. Raises `AssftError` if labels are missing, if those of a human annotator would be written outside of the
    dataset, or if the pool has fewer than two cases.
    """
    labelled_test = tuple(case for case in dataset.test_images if dataset.label_file(case).is_file())
    if test_split is None and labelled_test:
        pool, test, source = tuple(dataset.images), labelled_test, TEST_FOLDER
    elif test_split is None and annotator == "human":
        pool, test, source = tuple(dataset.images), (), "none"
    else:
        pool, test, source = _held_out(dataset, DEFAULT_TEST_FRACTION if test_split is None else test_split)
    missing = [case for case in (*pool, *test) if not dataset.label_file(case).is_file()]
    if missing and annotator == "oracle":
        raise AssftError(
            f"There is no label file for {count(len(missing), 'case')} of {dataset.name} ({some(missing)}). The oracle "
            f"needs all labels. {_meant(dataset, missing)}Add them, or plan with --annotator human."
        )
    if unlabelled := [case for case in test if case in missing]:
        raise AssftError(
            f"There is no label for {count(len(unlabelled), 'test case')} ({some(unlabelled)}), and annotators are "
            f"asked for test cases of imagesTs only. {_meant(dataset, unlabelled)}Add these labels, or move the images "
            "to imagesTs, plan without --test_split, and run nnUNetv2_assft_annotate export --test."
        )
    if annotator == "human":
        for case in pool:
            dataset.label_to_write(case)
    if len(pool) < 2:
        raise AssftError(
            f"The pool of {dataset.name} has {len(pool)} case; expected at least 2. Add images or hold out fewer cases."
        )
    return pool, test, source


def incomplete_test_cases(dataset: RawDataset) -> list[str]:
    """Return the cases with an image in imagesTs and no label in labelsTs, or the reverse, ascending."""
    files = (dataset.folder / "labelsTs").glob(f"[!.]*{dataset.file_ending}")
    return sorted({*dataset.test_images}.symmetric_difference(f.name.removesuffix(dataset.file_ending) for f in files))


def labelled_cases(dataset: RawDataset, pool: Sequence[str], spec: str) -> tuple[str, ...]:
    """Return the cases of the pool that are labelled at the start, ascending.

    spec: `existing` for all that have a label file, `none`, or a file of case ids, see `_cases_in_file`. Raises
    `AssftError` for a file that cannot be read or lists a case that is not in the pool or has no label file.
    """
    if spec == NO_LABELS:
        return ()
    known = tuple(case for case in pool if dataset.label_file(case).is_file())
    if spec == EXISTING:
        return known
    words = f"the word {EXISTING} or {NO_LABELS}"
    listed = _cases_in_file("--labelled", Path(spec), "labelled", pool, "the pool", words)
    missing = sorted(listed - set(known))
    if missing:
        raise AssftError(
            f"--labelled {spec} names {count(len(missing), 'case')} without a label file ({some(missing)}). "
            f"{_meant(dataset, missing)}Add the labels to labelsTr, or take the cases out of the file."
        )
    return tuple(case for case in pool if case in listed)


def names_others(option: str, spec: str | None, planned: str | None, of: Sequence[str], cases: Sequence[str]) -> bool:
    """Return whether --test_split or --labelled asks for other cases than the experiment was planned with.

    This is for an experiment that was changed since: its dataset no longer says which cases were there at the start. So
    a file is judged by the cases that it names, and anything else as it is written. spec, planned: the value now, and
    that at planning. of: all cases at planning, of which those that were chosen are `cases`. Raises `AssftError` for a
    file that cannot be read or names another case than `of`.
    """
    if spec is None or spec in (EXISTING, NO_LABELS) or is_fraction(spec) or not os.path.isfile(spec):
        return (spec and base_name(spec)) != (planned and base_name(planned))
    key = option.removeprefix("--").removesuffix("_split")
    return _cases_in_file(option, Path(spec), key, of, "the experiment as it was planned", "a word") != set(cases)


def _meant(dataset: RawDataset, missing: Sequence[str]) -> str:
    """Return a sentence about a file that is probably meant as the label of one of the first of these cases."""
    sentences = (meant_instead(dataset.label_file(case), dataset.file_ending) for case in missing[:5])
    return next((f"{sentence} " for sentence in sentences if sentence), "")


def _held_out(dataset: RawDataset, spec: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    cases = list(dataset.images)
    if not spec.strip():
        raise AssftError("--test_split is empty. Give a fraction (0.2) or a file of case ids, or leave out the option.")
    if not is_fraction(spec):
        test = _cases_in_file("--test_split", Path(spec), "test", cases, "imagesTr", "a fraction (0.2)")
        source = f"file {Path(spec).name}"
    else:
        fraction, fold = _fraction_and_fold(spec)
        if not 0 < fraction < 1:
            raise AssftError(f"--test_split {spec}: expected a fraction between 0 and 1, or a file of case ids.")
        n_test = max(1, int(fraction * len(cases) + 0.5))
        if not 0 <= fold < len(cases) // n_test:
            raise AssftError(
                f"--test_split {spec}: {count(len(cases), 'case')} have {count(len(cases) // n_test, 'fold')} of "
                f"{count(n_test, 'test case')}; expected a fold from 0 to {len(cases) // n_test - 1}."
            )
        chosen = np.random.default_rng(SPLIT_SEED).permutation(len(cases))[fold * n_test : (fold + 1) * n_test]
        test = {cases[i] for i in chosen}
        source = f"{fraction:g} of imagesTr, seed {SPLIT_SEED}" + (f", fold {fold}" if fold else "")
    return tuple(c for c in cases if c not in test), tuple(c for c in cases if c in test), source


def is_fraction(spec: str) -> bool:
    """Return whether --test_split is a fraction, with or without a fold, and not the name of a file."""
    try:
        _fraction_and_fold(spec)
    except ValueError:
        return False
    return True


def _fraction_and_fold(spec: str) -> tuple[float, int]:
    share, _, fold = spec.partition("@")
    if not spec.isascii():
        raise ValueError(f"{spec!r} has other digits than 0 to 9")
    return float(share.removesuffix("%")) / (100 if share.endswith("%") else 1), int(fold or 0)


# six parameters: a file, and what its messages say
def _cases_in_file(option: str, file: Path, key: str, cases: Sequence[str], place: str, otherwise: str) -> set[str]:
    """Return the case ids in a file: a JSON list, a JSON object with this key, or one id per line.

    For messages: option, with which the file was given; place, where the cases are; otherwise, what else the option
    takes.
    """
    try:
        is_file = file.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, for example
        raise AssftError(f"{option} {file} cannot be read ({reason(error)}). Give a text file of case ids.") from error
    if not is_file:
        raise AssftError(f"{option} {file}: neither a file nor {otherwise}. Give a file of case ids, or {otherwise}.")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AssftError(f"{option} {file} is not a text in UTF-8. Save it as UTF-8, one case id per line.") from error
    try:
        content = read_json(file)
        listed = content[key] if isinstance(content, dict) else content
    except (ValueError, KeyError):
        listed = None
    except RecursionError:
        raise AssftError(f"{option} {file} is nested too deeply. Give a list of case ids.") from None
    if not isinstance(listed, list):  # one id per line; a single numeric id is also valid JSON
        listed = text.split()
    if not listed:
        raise AssftError(f"{option} {file} names no case; expected ids such as {cases[0]}, one per line.")
    for case in listed:
        CASE_ID.check(str(case) if isinstance(case, int) else case, f"{option} {file}")
    unknown = sorted({str(case) for case in listed} - set(cases))
    if unknown:
        raise AssftError(
            f"{option} {file} names {count(len(unknown), 'case')} outside of {place} ({some(unknown)}); "
            f"expected ids such as {cases[0]}."
        )
    return {str(case) for case in listed}
