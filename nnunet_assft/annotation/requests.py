"""What annotators are asked for: the queried cases of a round, a second look at pseudo-labels, and test cases."""

from __future__ import annotations

from nnunet_assft.active.annotation import (
    AnnotationRequest,
    missing_labels,
    open_request,
    read_assignment,
    require_human,
    round_in_progress,
)
from nnunet_assft.active.experiment import refuse_seen_test_images
from nnunet_assft.active.state import Experiment, finished_rounds, is_over
from nnunet_assft.annotation.second_look import open_second_look
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.fingerprint import known_checksums


def open_requests(experiment: Experiment) -> list[AnnotationRequest]:
    """Return what annotators are asked for at present, the queried cases of the round in progress first.

    Raises `AssftError` if it is nothing, see `open_request`.
    """
    others = [each for each in (open_second_look(experiment), open_test_cases(experiment)) if each]
    if others and not round_in_progress(experiment)[1]:
        return others
    return [open_request(experiment), *others]


def begin_test_cases(experiment: Experiment) -> AnnotationRequest:
    """Return the request for the images in imagesTs that have no label, which are no test cases of the experiment yet.

    Those that were asked for before belong to it, whether they have a label now or not. The export records the request.
    Raises `AssftError` if there are none, if the encoder has seen one, or if no round is left that they could measure.
    """
    require_human(experiment)
    if is_over(experiment, finished_rounds(experiment)):
        more = experiment.command("extend", "--rounds", str(experiment.n_rounds + 1))
        raise AssftError(f"All rounds are done, so none would be measured on new test cases. Run {more} first.")
    dataset, asked = experiment.raw_dataset(), _asked(experiment)
    gone = {*asked, *experiment.now.test, *experiment.withdrawn}
    new = missing_labels(dataset, [case for case in dataset.test_images if case not in gone])
    cases = tuple(sorted({*asked, *new}))
    if not cases:
        raise AssftError(
            f"There is no image without a label in {dataset.folder / 'imagesTs'}. Put the scans there that are to be "
            "test cases; they must not be in the pool."
        )
    images = {case: dataset.images_of(case) for case in cases}
    refuse_seen_test_images(
        experiment,
        known_checksums(cases, images, experiment.paths.fingerprint_cases),
        "Take these images out of imagesTs, or plan a new experiment with -e and another encoder.",
    )
    return AnnotationRequest(None, cases, {case: asked.get(case, ()) for case in cases})


def open_test_cases(experiment: Experiment) -> AnnotationRequest | None:
    """Return the request for test cases; None if an export has not asked for any.

    A case whose label has been imported belongs to it until it is a test case of the experiment. Raises
    `DamagedFileError` if the file of the request is damaged.
    """
    asked = _asked(experiment)
    return AnnotationRequest(None, tuple(asked), asked) if asked else None


def _asked(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """Return case -> its annotators, of the test cases that were asked for and are not in the experiment yet."""
    recorded = read_assignment(experiment, None)
    if not recorded:  # the usual case, in which no image has to be listed
        return {}
    images, gone = experiment.raw_dataset().test_images, {*experiment.now.test, *experiment.withdrawn}
    return {case: names for case, names in sorted(recorded.items()) if case in images and case not in gone}
