"""Changes of an experiment that has begun: images that join or are withdrawn, more rounds, another budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from nnunet_assft.active.annotation import queried_cases, round_in_progress
from nnunet_assft.active.experiment import prepare, refuse_seen_test_images, seen_by_encoder
from nnunet_assft.active.history import Change, today
from nnunet_assft.active.query.budget import query_budget
from nnunet_assft.active.query.random_sampling import spread
from nnunet_assft.active.state import Experiment, finished_rounds, only_process
from nnunet_assft.cluster.engines import HERE, Engine
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.fingerprint import far_away, known_checksums
from nnunet_assft.runtime.files import sha256_of
from nnunet_assft.runtime.text import count, named, some
from nnunet_assft.trainers.folds import TRAINERS
from nnunet_assft.trainers.stage_file import read_stage_file
from nnunet_assft.volumes.raw_dataset import RawDataset


@dataclass(frozen=True)
class Wish:
    """What a user asks for. n_rounds, budget: R and N_B, None to leave them as they are. test: new cases that become
    test cases. withdrawn: cases that leave the experiment."""

    n_rounds: int | None = None
    budget: str | None = None
    test: Sequence[str] = ()
    withdrawn: Sequence[str] = ()


def extend(experiment: Experiment, wish: Wish, engine: Engine = HERE) -> Experiment:
    """Add the new images of imagesTr to the pool, fulfil the wish, and return the experiment as it is then.

    What is finished stays as it is: the plans, and the rounds with their models. New images are checked and
    preprocessed with these plans. No label is opened. The change is recorded last, in one step, so that an interrupted
    call changes nothing and can be repeated; if there is nothing to change, nothing is recorded. Raises `AssftError`
    for a wish that cannot be fulfilled and an image that cannot be used.
    """
    with only_process(experiment):
        dataset = experiment.raw_dataset()
        change = _change(experiment, dataset, wish)
        if change is None:
            return experiment
        if not change.withdrawn:  # whose images may have been deleted
            prepare(experiment, dataset, engine)
        checksums = prepare(_with(experiment, change), dataset, engine).images_sha256
        refuse_seen_test_images(
            experiment,
            {case: checksums[case] for case in change.added_test},
            "Name other cases with --test, or plan a new experiment with -e and another encoder.",
        )
        planned = [case for case in experiment.pool if case in checksums]
        remarks = far_away((*change.added, *change.added_test), planned, experiment.paths.fingerprint_cases)
        change = replace(
            change,
            images_sha256=sha256_of(checksums),
            remarks=tuple(remarks),
            date=today(),
        )
        return experiment.record(change)


def _with(experiment: Experiment, change: Change) -> Experiment:
    return replace(experiment, history=(*experiment.history, change))


def _change(experiment: Experiment, dataset: RawDataset, wish: Wish) -> Change | None:
    """Return the change that fulfils a wish, None if nothing would change."""
    r, queried = round_in_progress(experiment)
    withdrawn = _withdrawn(experiment, dataset, wish)
    after_query = experiment.paths.step_file(r, "query").is_file() and not set(queried) <= set(withdrawn)
    n_rounds = _n_rounds(experiment, wish.n_rounds, r if after_query else r - 1)
    added, added_test = _added(experiment, dataset, wish.test, withdrawn)
    now = experiment.now
    pool = {*now.pool, *added} - set(withdrawn)
    n_query = now.n_query if wish.budget is None else query_budget(wish.budget, max(1, len(pool)))
    if (n_rounds, n_query) == (now.n_rounds, now.n_query) and not (added or added_test or withdrawn):
        return None
    done = finished_rounds(experiment)
    images = {**dataset.images, **dataset.test_images}
    checksums = known_checksums(withdrawn, images, experiment.paths.fingerprint_cases)
    return Change(
        round=r,
        after_query=after_query,
        n_rounds=n_rounds,
        n_query=n_query,
        permutation=_permutation(experiment, {*(done[-1].labelled if done else ()), *queried}, added),
        added=added,
        added_test=added_test,
        withdrawn=withdrawn,
        budget=wish.budget,
        seen_by_encoder=tuple(seen_by_encoder(experiment, checksums)),  # now, as their files may be deleted afterwards
    )


def _withdrawn(experiment: Experiment, dataset: RawDataset, wish: Wish) -> tuple[str, ...]:
    """Return the cases to withdraw that are not yet. Raises `AssftError` for a case that nobody knows."""
    now = experiment.now
    known = {*now.pool, *now.test, *experiment.withdrawn, *dataset.images, *dataset.test_images}
    unknown = sorted(set(wish.withdrawn) - known)
    if unknown:
        raise AssftError(
            f"--withdraw names {some(unknown)}; neither the experiment nor the dataset has such a case. Expected case "
            f"ids such as {(*now.pool, *now.test, *dataset.images)[0]}."
        )
    both = sorted(set(wish.withdrawn) & set(wish.test))
    if both:
        raise AssftError(f"--withdraw and --test both name {some(both)}. Name a case once.")
    return tuple(sorted(set(wish.withdrawn) - experiment.withdrawn))


def _added(
    experiment: Experiment, dataset: RawDataset, test: Sequence[str], withdrawn: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the new cases of the pool and the new test cases. Which label files exist is checked, none is opened.

    Raises `AssftError` for a test case that is not new, and if a label that is needed is missing.
    """
    now, gone = experiment.now, {*experiment.withdrawn, *withdrawn}
    wanted = set(test) - set(now.test)
    unknown = sorted(wanted - {*dataset.images, *dataset.test_images})
    old = sorted(wanted & {*now.pool, *gone})
    if unknown or old:
        what = f"{some(unknown)}; there is no such image" if unknown else f"{some(old)}; expected cases that are new"
        raise AssftError(f"--test names {what}. A case of the pool, or one that was withdrawn, is no test case.")
    added = tuple(sorted(set(dataset.images) - {*now.pool, *now.test, *gone, *wanted}))
    oracle = experiment.settings.annotator == "oracle"
    needed = (*added, *sorted(wanted)) if oracle else tuple(sorted(wanted))
    missing = [case for case in needed if not dataset.label_file(case).is_file()]
    if missing:
        export = experiment.command("annotate export", "--test", "-o", "WORK")
        asks = any(case in dataset.test_images for case in missing) and not oracle
        raise AssftError(
            f"There is no label file for {count(len(missing), 'new case')} of {dataset.name} ({some(missing)}). A test "
            "case needs one, and with the annotator oracle every case does. Add the labels, or take these images away."
            + (f" {export} asks annotators for those of imagesTs." if asks else "")
        )
    if not oracle:
        for case in added:
            dataset.label_to_write(case)
    return added, tuple(sorted(wanted))


def _n_rounds(experiment: Experiment, wanted: int | None, at_least: int) -> int:
    """Return R. at_least: the last round that has queried its cases."""
    if wanted is None:
        return experiment.n_rounds
    if wanted < at_least:
        raise AssftError(f"--rounds {wanted}: round {at_least} has begun or is finished; expected {at_least} or more.")
    return wanted


def _permutation(experiment: Experiment, fixed: set[str], added: Sequence[str]) -> tuple[str, ...]:
    permutation = experiment.now.permutation
    if not added:
        return permutation
    return spread(permutation, fixed, added, [experiment.settings.seed, len(experiment.history)])


# What a case has influenced -------------------------------------------------------------------------------------------


class Influence(NamedTuple):
    """What a case has had a part in. rounds: role -> rounds. models: folders of the models that were trained on it,
    relative to nnUNet_results/DATASET. encoder: name of the file of the encoder, if that was pre-trained on its image;
    otherwise empty."""

    planned: bool
    rounds: dict[str, list[int]]
    models: list[str]
    encoder: str

    def sentence(self, case: str) -> str:
        """Return it in words."""
        parts = ["the plans were made from its image"] if self.planned else []
        if self.encoder:
            parts.append(
                f"the encoder {self.encoder} was pre-trained on its image, and all models start from its weights"
            )
        parts += [f"{role} in {named('round', rounds)}" for role, rounds in self.rounds.items() if rounds]
        if self.models:
            parts.append(
                f"models trained on it: {', '.join(self.models)}; all later models continue from their weights"
            )
        return f"{case}: {'; '.join(parts) or 'it had a part in nothing'}"


def influence(experiment: Experiment, case: str) -> Influence:
    """Return what a withdrawn case has influenced so far, in finished rounds and in the one in progress."""
    roles = {
        "queried": lambda done: set(done.queried) - set(experiment.labelled_at_start),
        "labelled": lambda done: done.labelled,
        "pseudo-labelled": lambda done: done.pseudo_labelled,
        "a test case": lambda done: done.test,
    }
    done = finished_rounds(experiment)
    rounds = {role: [each.round for each in done if case in cases_of(each)] for role, cases_of in roles.items()}
    if case in queried_cases(experiment, len(done)):
        rounds["queried"].append(len(done))
    encoder = Path(experiment.settings.encoder or "").name if case in experiment.withdrawn_but_seen else ""
    return Influence(case in experiment.pool, rounds, _models_trained_on(experiment, case), encoder)


def _models_trained_on(experiment: Experiment, case: str) -> list[str]:
    paths = experiment.paths
    files = [file for stage in TRAINERS for file in sorted(paths.model_folder(stage).glob("*fold_*/stage.json"))]
    return [paths.relative(file.parent) for file in files if case in read_stage_file(file)["cases"]]
