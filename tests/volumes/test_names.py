"""Which names can be used, and what is said about the others."""

from __future__ import annotations

import pytest

from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.errors import AssftError
from nnunet_assft.volumes.names import (
    ANNOTATOR,
    CASE_ID,
    DATASET,
    EXPERIMENT,
    STRUCTURE,
    Grammar,
    dataset_id,
    simplified,
)

COMPOSED, DECOMPOSED = "M\u00fcller", "Mu\u0308ller"  # they look the same

GOOD = [
    (CASE_ID, ["case_01", "1", "BDMAP_00000001", "a.b-c+d", COMPOSED, "日本_01", "हिन्दी", "x" * 100, "segment", "CON"]),
    (EXPERIMENT, ["assft", "0", "compare_badge-loss-CE_s0", "x" * 100]),
    (ANNOTATOR, ["anna", "Dr_B-2"]),
    (STRUCTURE, ["background", "left kidney", "lesion+", "L1/L2", "Hartmann's pouch", "Niere (links)", "=".join("ab")]),
    (DATASET, ["Dataset218_AMOS2022_postChallenge_task1", "Dataset001_My data"]),
]
BAD = [
    (CASE_ID, "", "is empty"),
    (CASE_ID, "a/b", "contains / (U+002F)"),
    (CASE_ID, "../../evil", "contains / (U+002F)"),
    (CASE_ID, "..", "starts with . (U+002E)"),
    (CASE_ID, "-rf", "starts with - (U+002D)"),
    (CASE_ID, "+1", "starts with + (U+002B)"),
    (CASE_ID, "a b", "contains a blank (U+0020)"),
    (CASE_ID, "a\u00a0b", "contains U+00A0"),
    (CASE_ID, "line\nbreak", "contains U+000A"),
    (CASE_ID, "nul\0", "contains U+0000"),
    (CASE_ID, "a\u202eb", "contains U+202E"),
    (CASE_ID, "con?*", "contains ? (U+003F)"),
    (CASE_ID, "=1+1", "contains = (U+003D)"),
    (CASE_ID, "\udcff", "contains U+DCFF"),
    (CASE_ID, DECOMPOSED, "is not in composed form (NFC)"),
    (CASE_ID, "\u0301a", "starts with \u0301 (U+0301)"),
    (CASE_ID, "x" * 101, "has 101 bytes"),
    (CASE_ID, "ü" * 51, "has 102 bytes"),
    (CASE_ID, "case_seg", "ends with _seg"),
    (CASE_ID, 7, "is not a text"),
    (CASE_ID, None, "is not a text"),
    (EXPERIMENT, "", "is empty"),
    (EXPERIMENT, "-x", "starts with - (U+002D)"),
    (EXPERIMENT, "../x", "contains . (U+002E)"),
    (EXPERIMENT, "a\nb", "contains U+000A"),
    (EXPERIMENT, COMPOSED, "contains ü (U+00FC)"),
    (EXPERIMENT, "x" * 300, "has 300 bytes"),
    (ANNOTATOR, "_anna", "starts with _ (U+005F)"),
    (ANNOTATOR, "a b", "contains a blank (U+0020)"),
    (STRUCTURE, "", "is empty"),
    (STRUCTURE, " liver", "starts with a blank (U+0020)"),
    (STRUCTURE, "liver ", "ends with a blank"),
    (STRUCTURE, "=cmd()", "starts with = (U+003D)"),
    (STRUCTURE, "-1", "starts with - (U+002D)"),
    (STRUCTURE, "@x", "starts with @ (U+0040)"),
    (STRUCTURE, 'a"b', 'contains " (U+0022)'),
    (STRUCTURE, "a\\b", "contains \\ (U+005C)"),
    (STRUCTURE, "a\tb", "contains U+0009"),
    (DATASET, "Dataset001_../x", "contains / (U+002F)"),
]


@pytest.mark.parametrize(("grammar", "names"), GOOD, ids=[grammar.kind for grammar, _ in GOOD])
def test_names_that_can_be_used(grammar: Grammar, names: list[str]):
    assert [grammar.fault(name) for name in names] == [None] * len(names)


@pytest.mark.parametrize(("grammar", "name", "fault"), BAD)
def test_names_that_cannot_be_used(grammar: Grammar, name: object, fault: str):
    assert (grammar.fault(name) or "").startswith(fault)
    with pytest.raises(AssftError) as caught:
        grammar.check(name, "file.json")
    text = str(caught.value)
    assert text.startswith(f"file.json: the {grammar.kind} ")
    assert fault in text
    assert text.isprintable() or name == "\u0301a", "one line, and nothing invisible"
    assert len(text) < 400


def test_the_rule_is_said():
    with pytest.raises(AssftError) as caught:
        CASE_ID.check(DECOMPOSED)
    assert str(caught.value) == (
        "The case id 'Mu\\u0308ller' is not in composed form (NFC), as after unpacking an archive of macOS. A case id "
        "consists of letters and digits of any script and _ - . +, starts with a letter or a digit, and has at most "
        "100 bytes. Choose another name."
    )


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a\nb", "x" * 300])
def test_no_path_of_an_experiment_can_leave_its_folder(name: str):
    with pytest.raises(AssftError, match="The experiment name"):
        ExperimentPaths("Dataset901_Blobs", name)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("218", 218),
        ("4", 4),
        ("004", 4),
        ("٩٠١", None),
        ("²", None),
        ("1000", None),
        ("-1", None),
        ("", None),
        ("1 ", None),
    ],
)
def test_an_id_of_a_dataset_has_one_to_three_ascii_digits(text: str, number: int | None):
    assert dataset_id(text) == number


def test_names_that_programs_confuse_have_the_same_simple_form():
    assert (
        len({simplified(name) for name in ("Left Kidney", "left_kidney", "left-kidney", "LEFT KIDNEY", "leftkidney")})
        == 1
    )
    assert (
        len({simplified(name) for name in ("lesion+", "lesion-", "lesion", "ER+ cells", "ER- cells", "lesion 2")}) == 6
    )
