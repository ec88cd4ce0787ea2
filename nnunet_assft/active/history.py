"""The history of an experiment: what was changed after it was planned, and what each of its rounds works with."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_assft.errors import DamagedFileError
from nnunet_assft.runtime.sealed import RESTORE, read_sealed, rebuilt, understanding, write_sealed
from nnunet_assft.runtime.text import named

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Change:
    """A change of an experiment. It is recorded once and never edited.

    round: the first round that was not finished at that time. after_query: whether it had queried its cases already;
    if so, it loses the withdrawn cases, and everything else counts from the next round on. n_rounds, n_query: R and N_B
    from then on; budget: what was given for N_B, None if nothing was. permutation: random order of all cases that the
    pool has had. images_sha256: checksum of the images of all cases that were left. remarks: what is unusual about
    added images. labelled: cases whose pseudo-labels got human labels by a second look; they are not a part of N_B.
    seen_by_encoder: those of the withdrawn cases on whose images the encoder was pre-trained.
    """

    round: int
    after_query: bool
    n_rounds: int
    n_query: int
    permutation: tuple[str, ...]
    added: tuple[str, ...] = ()  # to the pool
    added_test: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    budget: str | None = None
    images_sha256: str = ""
    remarks: tuple[str, ...] = ()
    date: str = ""  # the day, in UTC
    labelled: tuple[str, ...] = ()
    seen_by_encoder: tuple[str, ...] = ()

    @property
    def first_round(self) -> int:
        """The first round whose query the change has a part in."""
        return self.round + self.after_query

    def sentence(self) -> str:
        """Return the change in words."""
        parts = [
            self.added and f"{named('case', self.added)} joined the pool in round {self.first_round}",
            self.added_test and f"{named('test case', self.added_test)} joined in round {self.first_round}",
            self.withdrawn and f"{named('case', self.withdrawn)} withdrawn from round {self.round} on",
            self.labelled
            and f"{named('case', self.labelled)} labelled by a second look from round {self.first_round} on",
            f"R = {self.n_rounds} and N_B = {self.n_query} from round {self.first_round} on",
        ]
        return f"{self.date}: {'; '.join(str(part) for part in parts if part)}"


@dataclass(frozen=True)
class Scope:
    """What a round works with.

    pool: T at its query, ascending. withdrawn: cases of the pool that were withdrawn after its query. permutation:
    random order of the pool and of cases that are no longer in it. looked_at: cases of the pool that were labelled by a
    second look at pseudo-labels before its query, ascending.
    """

    pool: tuple[str, ...]
    test: tuple[str, ...]
    permutation: tuple[str, ...]
    n_query: int  # N_B
    n_rounds: int  # R
    withdrawn: tuple[str, ...] = ()
    looked_at: tuple[str, ...] = ()

    @property
    def left(self) -> frozenset[str]:
        """T after the query: the labelled and the unlabelled cases at the end of the round."""
        return frozenset(self.pool) - frozenset(self.withdrawn)


def scope_of(planned: Scope, history: Sequence[Change], r: int | None) -> Scope:
    """Return what round r works with, or what there is after all changes if r is None."""
    # a round whose queried cases were all withdrawn queries anew, and then sees what was to count from the next one on
    n = max((i for i, change in enumerate(history, 1) if r is None or change.first_round <= r), default=0)
    changes = history[:n]
    gone = {case for change in changes for case in change.withdrawn}
    gone_later = {case for change in history if r is None or change.round <= r for case in change.withdrawn}
    if not changes and not gone_later:
        return planned
    pool = {*planned.pool, *(case for change in changes for case in change.added)} - gone
    test = {*planned.test, *(case for change in changes for case in change.added_test)} - gone_later
    last = changes[-1] if changes else planned
    return Scope(
        pool=tuple(sorted(pool)),
        test=tuple(sorted(test)),
        permutation=last.permutation,
        n_query=last.n_query,
        n_rounds=last.n_rounds,
        withdrawn=tuple(sorted(pool & gone_later)),
        looked_at=tuple(sorted(pool.intersection(case for change in changes for case in change.labelled))),
    )


def today() -> str:
    """Return the date of a change."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


# The file -------------------------------------------------------------------------------------------------------------


def read_history(file: Path) -> tuple[Change, ...]:
    """Return the changes in order; none without a file. Raises `DamagedFileError` if the file is damaged."""
    if not file.is_file():
        return ()
    content = read_sealed(file, ("schema_version", "changes"))
    with understanding(file):
        if content["schema_version"] != SCHEMA_VERSION:
            version = content["schema_version"]
            raise DamagedFileError(f"{file} has schema version {version}; expected {SCHEMA_VERSION}. {RESTORE}")
        changes: tuple[Change, ...] = rebuilt(tuple[Change, ...], content["changes"], "changes")
    return changes


def write_history(file: Path, history: Sequence[Change]) -> None:
    """Write the file."""
    write_sealed(file, {"schema_version": SCHEMA_VERSION, "changes": [asdict(change) for change in history]})
