"""The tables of all runs: rows of runs that are not on this disk are read as they were written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from nnunet_assft.comparison.arms import Comparison
from nnunet_assft.comparison.collection import RESULT_COLUMNS, collect, read_runs, write_tables
from nnunet_assft.comparison.pseudo_label_quality import read_pseudo_label_quality
from nnunet_assft.comparison.spec import Shared, write_comparison
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.files import sha256_of
from tests.comparison.conftest import SETTINGS, comparison_of

SHARED = Shared(2, ("x", "y"), ("007", "NA"), "imagesTs", {})


def put_together(comparison: Comparison, rows: list[tuple[object, ...]]) -> None:
    """Write the files of these runs, as somebody does who has run them on another machine. rows: RESULT_COLUMNS."""
    runs = collect(comparison, SHARED).runs
    keys = {(arm, seed, r) for arm, seed, _, r, *_ in rows}
    done = [key in keys for key in zip(runs["arm"], runs["seed"], runs["round"], strict=True)]
    runs.assign(status=runs["status"].where([not d for d in done], "done")).to_csv(
        comparison.folder / "runs.csv", index=False
    )
    pd.DataFrame(rows, columns=RESULT_COLUMNS).to_csv(comparison.folder / "results.csv", index=False)
    (comparison.folder / "collected.json").unlink()


def test_case_ids_of_kept_rows_remain_texts(nnunet_folders: Path) -> None:
    comparison = comparison_of("random", "entropy")
    rows: list[tuple[object, ...]] = [
        (arm, 0, 0, r, 1 + 2 * r, case, "liver", 0.5, 0.5, 1.0)
        for arm in ("random", "entropy")
        for r in (0, 1)
        for case in SHARED.test
    ]
    put_together(comparison, rows)
    write_comparison(comparison, SHARED)
    assert set(collect(comparison, SHARED).results["case"]) == {"007", "NA"}
    assert "**Missing:**" not in write_tables(comparison)


def test_the_specification_is_a_text_and_consists_of_what_was_chosen(nnunet_folders: Path, tmp_path: Path) -> None:
    comparison = comparison_of("random", domain="generic")
    chosen = {**SETTINGS, "domain": "generic"}  # and none of the settings that have their default
    expected = sha256_of({"settings": chosen, "match": "steps", "pool": SHARED.pool})[:12]
    assert set(collect(comparison, SHARED).runs["specification"]) == {expected}
    (tmp_path / "runs.csv").write_text("arm,seed,fold,round,status,specification\nrandom,0,0,0,done,123456789012\n")
    assert list(read_runs(tmp_path / "runs.csv")["specification"]) == ["123456789012"]


@pytest.mark.parametrize("name", ["encoder", "start"])
def test_rows_of_an_encoder_that_was_moved_are_kept(nnunet_folders: Path, name: str) -> None:
    """Also those of an earlier version, whose specification holds the path."""
    before, moved = (comparison_of("random", **{name: f"/{place}/mae.pt"}) for place in ("before", "now"))
    known = replace(SHARED, pretrained={"/before/mae.pt": "5e", "/now/mae.pt": "5e", "/other/mae.pt": "7a"})
    rows: list[tuple[object, ...]] = [("random", 0, 0, 0, 1, case, "liver", 0.5, 0.5, 1.0) for case in SHARED.test]
    put_together(before, rows)
    assert len(collect(moved, known).results) == len(rows)
    assert len(collect(before, known).results) == len(rows)
    assert collect(comparison_of("random", **{name: "/other/mae.pt"}), known).results.empty
    first, second = (set(collect(each, known).runs["specification"]) for each in (before, moved))
    assert first == second != set(collect(before, SHARED).runs["specification"])


def test_a_bound_alone_is_nothing_to_compare(nnunet_folders: Path) -> None:
    comparison = comparison_of("random", "lower_bound")
    put_together(comparison, [("lower_bound", 0, 0, 0, 0, case, "liver", 0.1, 0.1, 9.0) for case in SHARED.test])
    write_comparison(comparison, SHARED)
    with pytest.raises(AssftError, match="has no finished round"):
        write_tables(comparison)


def test_a_pseudo_label_without_any_structure_has_no_share_of_wrong_voxels(tmp_path: Path) -> None:
    file = tmp_path / "quality.csv"
    file.write_text("round,case,selection,selected,dice,wrong\n1,a,reliable,1,,\n1,b,reliable,1,0.5,0.25\n")
    quality = read_pseudo_label_quality(file)
    assert math.isnan(quality["wrong"][0])
    assert quality["wrong"].mean() == 0.25
