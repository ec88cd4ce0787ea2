"""Lists and numbers in sentences."""

from nnunet_assft.runtime.text import count, named, some


def test_a_few_are_named_and_the_rest_is_counted():
    assert some([]) == ""
    assert some("abcde") == "a, b, c, d, e"
    assert some("abcdefg") == "a, b, c, d, e and 2 more"
    assert some([1, 2, 3], n=1) == "1 and 2 more"


def test_what_they_are():
    assert named("case", []) == ""
    assert named("seed", [1]) == "seed 1"
    assert named("case", iter("abcdefg")) == "cases a, b, c, d, e and 2 more"
    assert (count(1, "seed"), count(0, "seed")) == ("1 seed", "0 seeds")
