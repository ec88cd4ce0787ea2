"""Case ids tell nothing, and each series keeps its own."""

from __future__ import annotations

from pathlib import Path

from nnunet_assft.volumes.dicom.key_file import CASE, KeyFile
from nnunet_assft.volumes.names import CASE_ID

SERIES = [(patient, "", f"study {n}", f"series {n}") for n in range(12) for patient in ("A", "B")]


def test_the_scans_of_a_patient_are_numbered(tmp_path: Path) -> None:
    names = KeyFile(tmp_path / "key.json").name_all(SERIES)
    assert set(names) == set(SERIES)
    assert all(CASE.fullmatch(case) and CASE_ID.fault(case) is None for case in names.values())
    for patient in "AB":
        own = [case.rpartition("_") for one, case in names.items() if one[0] == patient]
        assert len({prefix for prefix, _, _ in own}) == 1
        assert sorted(number for _, _, number in own) == [f"{n:02d}" for n in range(1, 13)]


def test_ids_do_not_follow_from_the_data(tmp_path: Path) -> None:
    first, second = (KeyFile(tmp_path / "key.json").name_all(SERIES) for _ in range(2))
    prefixes = [{case.rpartition("_")[0] for case in names.values()} for names in (first, second)]
    assert not prefixes[0] & prefixes[1]
    numbers = [[names[one].rpartition("_")[2] for one in SERIES] for names in (first, second)]
    assert numbers[0] != numbers[1]  # equal once in 12! x 12! times


def test_ids_are_kept_in_the_file_and_new_ones_added(tmp_path: Path) -> None:
    keys = KeyFile.open(tmp_path / "new/key.json", [])
    names = keys.name_all(SERIES[:3])
    keys.save()
    again = KeyFile.open(tmp_path / "new/key.json", [])
    assert again.secret == keys.secret
    more = again.name_all(SERIES)
    assert {one: more[one] for one in SERIES[:3]} == names
    assert len(set(more.values())) == len(SERIES)


def test_a_number_is_given_once_even_if_an_entry_was_removed(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "key.json")
    names = keys.name_all(SERIES[::2][:2])
    lower, higher = sorted(names, key=lambda one: names[one])
    del keys.entries[names[lower]]
    patient = names[higher].rpartition("_")[0]
    assert keys.name_all([lower]) == {higher: f"{patient}_02", lower: f"{patient}_03"}
