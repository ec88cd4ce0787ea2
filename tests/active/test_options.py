"""Options: what a text on the command line becomes, what is refused, and that the defaults are those of the method."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from nnunet_assft.active.options import Options, table
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.errors import AssftError

METHOD = {
    "first_case": "random",
    "asd_reduction": "foreground_mean",
    "tau": "round",
    "pd_first": "one",
    "pd_weights": "literal",
    "pd_labelled": False,
    "ranks": "exact",
    "exclude_pseudo": True,
    "selection": "reliable",
    "confidence": "sum",
    "second": "order",
    "tau_c": 2.0,
    "largest_component": False,
    "ignore_margin": 0.0,
    "pseudo_weight": 1.0,
    "ugtst_entropy": "mean",
    "ugtst_multiple": 2,
    "badge_loss": "ce",
}
EVERY_CHOICE = {
    "first_case": {"random", "medoid"},
    "asd_reduction": {"foreground_mean", "mean", "sum"},
    "tau": {"round", "one"},
    "pd_first": {"one", "max"},
    "pd_weights": {"literal", "reversed"},
    "pd_labelled": {"false", "true"},
    "ranks": {"exact", "sklearn"},
    "exclude_pseudo": {"false", "true"},
    "selection": set(SELECTIONS),
    "confidence": {"sum", "foreground_mean"},
    "second": {"order", "strict"},
    "largest_component": {"false", "true"},
    "ugtst_entropy": {"mean", "single"},
    "badge_loss": {"ce", "ce+dice"},
}
NUMBERS = {
    "tau_c": 1e-6,
    "ignore_margin": 0.0,
    "pseudo_weight": 0.05,
    "ugtst_multiple": 1,
}  # and the least that is allowed


def test_every_default_is_the_method():
    assert vars(Options()) == METHOD
    assert Options.parse([]) == Options()
    assert Options().changed() == {}
    assert METHOD.keys() == EVERY_CHOICE.keys() | NUMBERS.keys()


@pytest.mark.parametrize(
    ("name", "choice"), [(name, choice) for name, choices in EVERY_CHOICE.items() for choice in sorted(choices)]
)
def test_every_choice_is_read(name: str, choice: str):
    options = Options.parse([f"{name}={choice}"])
    value = {"true": True, "false": False}.get(choice, choice)
    assert getattr(options, name) == value
    assert type(getattr(options, name)) is type(METHOD[name])
    assert options == replace(Options(), **{name: value})
    assert options.changed() == ({} if value == METHOD[name] else {name: value})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tau_c=1.5", 1.5),
        ("tau_c=3", 3.0),
        ("tau_c=1e-6", 1e-6),
        ("ignore_margin=0", 0.0),
        ("ignore_margin=.25", 0.25),
        ("ignore_margin=1", 1.0),
        ("pseudo_weight=0.05", 0.05),
        ("pseudo_weight=20", 20.0),
        ("ugtst_multiple=1", 1),
        ("ugtst_multiple=4", 4),
    ],
)
def test_numbers_are_read_up_to_their_limits(text: str, value: float):
    name = text.partition("=")[0]
    read = getattr(Options.parse([text]), name)
    assert read == value
    assert type(read) is type(METHOD[name])


def test_several_options_in_any_order():
    settings = ["tau_c=2.0", "pd_labelled=true", "confidence=foreground_mean", "ugtst_multiple=4"]
    options = Options.parse(settings)
    assert options == Options.parse(settings[::-1])
    assert options.changed() == {"pd_labelled": True, "confidence": "foreground_mean", "ugtst_multiple": 4}
    assert list(options.changed()) == [field.name for field in fields(Options) if field.name in options.changed()]


@pytest.mark.parametrize(
    "text", ["tau", "tau_c", "", "=", "=one", "tau_c:2", "Tau=one", " tau=one", "tau =one", "budget=5", "--tau=one"]
)
def test_an_unknown_name_or_a_missing_value_is_refused_with_all_names(text: str):
    with pytest.raises(AssftError, match="expected NAME=VALUE with one of") as error:
        Options.parse([text])
    assert repr(text) in str(error.value)
    assert ", ".join(METHOD) in str(error.value)


@pytest.mark.parametrize("name", EVERY_CHOICE)
@pytest.mark.parametrize("value", ["", "none", "0", "True", "False", " true", "mean ", "random=", "mean,sum"])
def test_an_unknown_choice_is_refused_with_all_choices(name: str, value: str):
    with pytest.raises(AssftError) as error:
        Options.parse([f"{name}={value}"])
    message, _, listed = str(error.value).partition(": expected one of ")
    assert message == f"--option {name}={value}"
    assert set(listed.removesuffix(".").split(", ")) == EVERY_CHOICE[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tau_c=0", "a number, at least 1e-06."),
        ("tau_c=-2", "a number, at least 1e-06."),
        ("tau_c=1e-07", "a number, at least 1e-06."),
        ("ignore_margin=-0.01", "a number, at least 0 and at most 1."),
        ("ignore_margin=1.01", "a number, at least 0 and at most 1."),
        ("pseudo_weight=0", "a number, at least 0.05 and at most 20."),
        ("pseudo_weight=20.5", "a number, at least 0.05 and at most 20."),
        ("ugtst_multiple=0", "a whole number, at least 1."),
        ("ugtst_multiple=2.0", "a whole number, at least 1."),
        ("ugtst_multiple=1e1", "a whole number, at least 1."),
        ("ugtst_multiple=true", "a whole number, at least 1."),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_range(text: str, expected: str):
    with pytest.raises(AssftError) as error:
        Options.parse([text])
    assert str(error.value) == f"--option {text}: expected {expected}"


def test_the_constructor_refuses_what_parse_refuses():
    for values, message in (
        ({"tau": "banana"}, "--option tau=banana: expected one of round, one."),
        ({"first_case": "last"}, "expected one of random, medoid"),
        ({"tau_c": float("nan")}, "--option tau_c=nan: expected a number, at least 1e-06."),
        ({"ugtst_multiple": 0}, "a whole number, at least 1."),
    ):
        with pytest.raises(AssftError, match=message):
            Options(**values)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", ["nan", "NaN", "inf", "-inf", "Infinity", "1e999", "", "two", "1,5", "0x2", "1 2", "2=2"]
)
def test_what_is_no_finite_number_is_refused(name: str, value: str):
    with pytest.raises(AssftError, match=f"--option {name}=.*: expected a .*number, at least {NUMBERS[name]:g}"):
        Options.parse([f"{name}={value}"])


@pytest.mark.parametrize("settings", [["tau=one", "tau=one"], ["tau_c=1", "tau=one", "tau_c=2"]])
def test_an_option_given_twice_is_refused(settings: list[str]):
    with pytest.raises(AssftError, match=f"{settings[0].partition('=')[0]} is given twice"):
        Options.parse(settings)


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        Options().tau_c = 1.0


def test_the_table_has_every_field_with_its_default_first():
    rows = table()
    assert [name for name, _, _ in rows] == list(METHOD)
    for name, values, meaning in rows:
        default, *others = values.split("|")
        assert Options.parse([f"{name}={default}"]) == Options()
        assert {default, *others} == EVERY_CHOICE.get(name, {default})
        assert len({default, *others}) == 1 + len(others)
        for other in others:
            assert Options.parse([f"{name}={other}"]) != Options()
        assert meaning
