"""Options: what a text on the command line becomes, what is refused, and that the defaults are those of the method."""

import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_assft.active.options import Options, table
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.state import REMOVED_OPTIONS
from nnunet_assft.errors import AssftError

METHOD = {
    "first_case": "random",
    "prior_input": "same",
    "embedding": "mean",
    "asd_reduction": "foreground_mean",
    "pd_weights": "literal",
    "pd_labelled": False,
    "second_stage": "strategy",
    "exclude_pseudo": True,
    "selection": "reliable",
    "confidence": "sum",
    "tau_c": 2.0,
    "pseudo_mirroring": False,
    "largest_component": False,
    "ignore_margin": 0.0,
    "pseudo_weight": 1.0,
}
CHOICES = {
    "pseudo_mirroring": ("false", "true"),
    "second_stage": ("strategy", "pseudo", "supervised", "none"),
    "first_case": ("random", "medoid", "typical"),
    "prior_input": ("same", "contract"),
    "embedding": ("mean", "std", "mean_std"),
    "asd_reduction": ("foreground_mean", "mean", "sum"),
    "pd_weights": ("literal", "reversed"),
    "pd_labelled": ("false", "true"),
    "exclude_pseudo": ("true", "false"),
    "selection": tuple(SELECTIONS),
    "confidence": ("sum", "foreground_mean"),
    "largest_component": ("false", "true"),
}
LIMITS = {"tau_c": (1e-6, math.inf), "ignore_margin": (0.0, 1.0), "pseudo_weight": (0.05, 20.0)}


def test_one_setting_is_added_to_others():
    options = Options(tau_c=1.0)
    assert options.with_setting("confidence=foreground_mean") == Options(tau_c=1.0, confidence="foreground_mean")
    assert options.with_setting("tau_c=3") == Options(tau_c=3.0)
    with pytest.raises(AssftError, match="expected NAME=VALUE"):
        options.with_setting("tau=3")


def test_every_default_is_the_method():
    assert vars(Options()) == METHOD
    assert Options.parse([]) == Options()
    assert Options().changed() == {}
    assert METHOD.keys() == CHOICES.keys() | LIMITS.keys()
    assert not METHOD.keys() & REMOVED_OPTIONS.keys()


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_read_and_any_other_text_is_refused_with_all_choices(name: str):
    for choice in CHOICES[name]:
        value = {"true": True, "false": False}.get(choice, choice)
        options = Options.parse([f"{name}={choice}"])
        assert options == replace(Options(), **{name: value})
        assert type(getattr(options, name)) is type(METHOD[name])
        assert options.changed() == ({} if value == METHOD[name] else {name: value})
    for text in ("", "nothing", "0", "True", " true", "mean ", "random=", "mean,sum"):
        with pytest.raises(AssftError) as error:
            Options.parse([f"{name}={text}"])
        message, _, listed = str(error.value).partition(": expected one of ")
        assert message == f"--option {name}={text}"
        assert set(listed.removesuffix(".").split(", ")) == set(CHOICES[name])


@pytest.mark.parametrize("name", LIMITS)
@given(number=st.floats(-2, 25))
def test_a_number_is_read_within_its_limits_and_refused_with_them_outside(name: str, number: float):
    low, high = LIMITS[name]
    if low <= number <= high:
        assert getattr(Options.parse([f"{name}={number!r}"]), name) == number
    else:
        with pytest.raises(AssftError, match=f"--option {name}=.*: expected a number, at least {low:g}"):
            Options.parse([f"{name}={number!r}"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tau_c=0", "a number, at least 1e-06."),
        ("ignore_margin=1.01", "a number, at least 0 and at most 1."),
        ("pseudo_weight=20.5", "a number, at least 0.05 and at most 20."),
        *((f"tau_c={text}", "a number, at least 1e-06.") for text in ("nan", "inf", "1e999", "", "two", "1,5", "1 2")),
    ],
)
def test_what_is_no_number_in_range_is_refused(text: str, expected: str):
    with pytest.raises(AssftError, match=f": expected {expected}"):
        Options.parse([text])


def test_numbers_at_their_limits_in_any_notation():
    texts = ["tau_c=1e-6", "ignore_margin=1", "pseudo_weight=0.05"]
    assert Options.parse(texts) == Options(tau_c=1e-6, ignore_margin=1.0, pseudo_weight=0.05)
    assert type(Options.parse(["tau_c=3"]).tau_c) is float
    assert Options.parse(["ignore_margin=.25"]).ignore_margin == 0.25


def test_several_options_in_any_order():
    settings = ["tau_c=3.0", "pd_labelled=true", "confidence=foreground_mean"]
    options = Options.parse(settings)
    assert options == Options.parse(settings[::-1])
    assert options.changed() == {"pd_labelled": True, "confidence": "foreground_mean", "tau_c": 3.0}
    assert options.as_typed() == "pd_labelled=true, confidence=foreground_mean, tau_c=3.0"
    assert Options.parse(options.as_typed().split(", ")) == options
    assert list(options.changed()) == [field.name for field in fields(Options) if field.name in options.changed()]


@pytest.mark.parametrize("text", ["tau_c", "", "=", "=2", "tau_c:2", "Tau_c=2", " tau_c=2", "budget=5", "--tau_c=2"])
def test_an_unknown_name_or_a_missing_value_is_refused_with_all_names(text: str):
    with pytest.raises(AssftError, match="expected NAME=VALUE with one of the names") as error:
        Options.parse([text])
    assert repr(text) in str(error.value)
    assert ", ".join(METHOD) in str(error.value)


def test_the_constructor_refuses_what_parse_refuses():
    for values, message in (
        ({"confidence": "banana"}, "--option confidence=banana: expected one of sum, foreground_mean."),
        ({"tau_c": float("nan")}, "--option tau_c=nan: expected a number, at least 1e-06."),
    ):
        with pytest.raises(AssftError, match=message):
            Options(**values)


def test_an_option_given_twice_is_refused():
    with pytest.raises(AssftError, match="--option tau_c is given twice"):
        Options.parse(["tau_c=1", "confidence=sum", "tau_c=2"])


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(FrozenInstanceError):
        Options().tau_c = 1.0


def test_the_table_has_every_field_with_its_default_first():
    rows = {name: (values.split("|"), meaning) for name, values, meaning in table()}
    assert list(rows) == list(METHOD)
    for name, ((default, *others), meaning) in rows.items():
        assert Options.parse([f"{name}={default}"]) == Options()
        assert sorted([default, *others]) == sorted(CHOICES.get(name, [default]))
        assert meaning
