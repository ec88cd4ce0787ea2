"""What each round works with, after changes that were worked out by hand; and the file of the changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_assft.active.history import Change, Scope, read_history, scope_of, write_history
from nnunet_assft.errors import DamagedFileError

PLANNED = Scope(("a", "b", "c", "d"), ("t",), ("c", "a", "d", "b"), n_query=1, n_rounds=3)
# while round 1 waits for labels: e and f join, u is a new test case, d is withdrawn
FIRST = Change(1, True, 5, 2, ("c", "e", "a", "d", "f", "b"), ("e", "f"), ("u",), ("d",), "2", date="2026-01-02")
SECOND = Change(3, False, 5, 2, FIRST.permutation, withdrawn=("a", "t"), date="2026-02-03")  # after round 2


def test_without_changes_every_round_has_what_was_planned() -> None:
    assert all(scope_of(PLANNED, (), r) is PLANNED for r in (0, 3, None))


def test_a_change_counts_from_the_next_round_on_and_a_withdrawal_at_once() -> None:
    history = (FIRST, SECOND)
    assert scope_of(PLANNED, history, 0) is PLANNED
    first = scope_of(PLANNED, history, 1)
    assert (first.pool, first.withdrawn, first.left) == (PLANNED.pool, ("d",), {"a", "b", "c"})  # its query saw d
    assert (first.n_query, first.n_rounds, first.test, first.permutation) == (1, 3, ("t",), PLANNED.permutation)
    second = scope_of(PLANNED, history, 2)
    assert second == Scope(("a", "b", "c", "e", "f"), ("t", "u"), FIRST.permutation, 2, 5)
    third = scope_of(PLANNED, history, 3)
    assert third == Scope(("b", "c", "e", "f"), ("u",), FIRST.permutation, 2, 5)
    assert scope_of(PLANNED, history, None) == third
    assert scope_of(PLANNED, (FIRST,), None).pool == second.pool


def test_a_round_that_queries_anew_sees_all_changes_so_far() -> None:
    anew = Change(1, False, 5, 2, FIRST.permutation, withdrawn=("a", "b", "c"))
    assert scope_of(PLANNED, (FIRST, anew), 1) == Scope(("e", "f"), ("t", "u"), FIRST.permutation, 2, 5)


def test_a_second_look_counts_from_the_next_query_on_and_loses_withdrawn_cases() -> None:
    """While round 1 waits, a and d get human labels; after round 1, b does, and a is withdrawn."""
    history = (
        Change(1, True, 3, 1, PLANNED.permutation, labelled=("a", "d")),
        Change(2, False, 3, 1, PLANNED.permutation, labelled=("b",)),
        Change(2, False, 3, 1, PLANNED.permutation, withdrawn=("a",)),
    )
    assert [scope_of(PLANNED, history, r).looked_at for r in (0, 1, 2, 3)] == [(), (), ("b", "d"), ("b", "d")]
    assert scope_of(PLANNED, history[:2], 2).looked_at == ("a", "b", "d")
    assert "cases a, d labelled by a second look from round 2 on; R = 3" in history[0].sentence()


def test_changes_in_words() -> None:
    assert FIRST.sentence() == (
        "2026-01-02: cases e, f joined the pool in round 2; test case u joined in round 2; case d withdrawn from round "
        "1 on; R = 5 and N_B = 2 from round 2 on"
    )
    assert SECOND.sentence() == "2026-02-03: cases a, t withdrawn from round 3 on; R = 5 and N_B = 2 from round 3 on"


def test_the_file_keeps_every_change_and_notices_damage(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    assert read_history(file) == ()
    write_history(file, (FIRST, SECOND))
    assert read_history(file) == (FIRST, SECOND)
    file.write_text(file.read_text().replace('"d"', '"b"'))
    with pytest.raises(DamagedFileError, match=r"does not match its checksum\). Restore it from a backup"):
        read_history(file)
