"""The folder of a training set: complete, or written again."""

from __future__ import annotations

import pytest

from nnunet_assft.active.context import open_context
from nnunet_assft.active.state import Experiment
from nnunet_assft.active.training.training_set import Stage, write_training_set
from nnunet_assft.planning.preprocessing import ENDINGS
from tests.conftest import CPU


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_training_set_with_a_link_that_leads_nowhere_is_written_again(planned: Experiment, ending: str) -> None:
    """As on a disk without hard links, after one of the linked files was removed."""
    context, case = open_context(planned, CPU), planned.pool[0]
    stage = Stage(0, "supervised", {case: context.dataset.label_file(case)}, {}, planned.initial_model, epochs=1)
    content = write_training_set(context, stage)
    file = planned.paths.training_set(0, "supervised") / f"{case}{ending}"
    written, inode = file.read_bytes(), file.parent.stat().st_ino
    assert write_training_set(context, stage) == content
    assert file.parent.stat().st_ino == inode  # nothing was missing, nothing was written
    file.unlink()
    file.symlink_to("gone")
    assert write_training_set(context, stage) == content
    assert file.read_bytes() == written


def test_what_nobody_drew_in_the_labels_of_other_cases_changes_nothing(planned: Experiment) -> None:
    """The entries of unlabelled cases are those of labels that must not be seen."""
    dataset = planned.raw_dataset()
    labels, pseudo = {"case_00": dataset.label_file("case_00")}, {"case_05": dataset.label_file("case_05")}
    missing = {"case_01": ["ball"], "case_05": ["box"]}
    plain, other = (
        Stage(1, "semi", labels, pseudo, planned.initial_model, 1, not_annotated=names) for names in ({}, missing)
    )
    assert plain.content() == other.content()
    changed = Stage(1, "semi", labels, pseudo, planned.initial_model, 1, not_annotated={"case_00": ["ball"]})
    assert changed.content() != plain.content()
