"""Tables of a comparison, read back cell by cell."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd

from nnunet_assft.comparison import tables as t
from nnunet_assft.comparison.paper_results import paper_results
from nnunet_assft.comparison.printed_table import Table, latex, write_table
from nnunet_assft.report.page import columns_of
from nnunet_assft.report.sections.base import SectionTable
from tests.comparison.conftest import compare_all

POOL_SIZE = 40
ARMS = ["random", "assft", "nnunet"]


def cells(table: Table) -> dict[str, dict[str, object]]:
    first = table.frame.columns[0]
    return table.frame.set_index(first).to_dict("index")


def runs_of(rows) -> pd.DataFrame:
    names = [
        "arm",
        "seed",
        "round",
        "annotated_cases",
        "annotation_minutes",
        "training_minutes",
        "query_minutes",
        "total_minutes",
        "status",
    ]
    return pd.DataFrame(rows, columns=names).assign(device="cpu", from_scratch=None)


RUNS = runs_of([("assft", seed, r, 2, 10.0 + seed, 3.0, 0.5, 4.0, "done") for seed in (0, 1) for r in (0, 1, 2)])


def rows_of(results: pd.DataFrame, tests: pd.DataFrame | None = None, **more: object) -> t.Rows:
    return t.Rows(results, results[:0] if tests is None else tests, RUNS, **{"pool_size": POOL_SIZE, **more})


# Tables 1-7 -----------------------------------------------------------------------------------------------------------


def test_budget_table_worked_by_hand(results):
    table = t.budget_table(rows_of(results), t.DICE, ARMS)
    assert list(table.frame.columns) == [
        "Method",
        "Lower bound, 0 %",
        "r = 1: 3 cases, 7.5 %",
        "r = 2: 5 cases, 12.5 %",
        "Upper bound, 100 %",
    ]
    found = cells(table)
    assert list(found) == ["RAND", "ASSFT", "nnU-Net"]
    last = table.frame.columns[3]
    # both seeds have a, b, c = 72, 84, 90 points: six values, SD with 5 in the denominator
    sd = np.std([72, 84, 90, 72, 84, 90], ddof=1)
    assert str(found["ASSFT"][last]) == f"82.00 ± {sd:.2f}"
    assert [found[name][last].rank for name in ("ASSFT", "RAND", "nnU-Net")] == [1, 2, 0]
    assert str(found["ASSFT"]["Lower bound, 0 %"]) == str(found["RAND"]["Lower bound, 0 %"]) == "1.00 ± 0.89"
    assert found["nnU-Net"]["Lower bound, 0 %"] == "-"  # that is another network
    assert found["ASSFT"]["Upper bound, 100 %"].rank == 0
    assert "2 seeds, 3 test cases, n = 6 unless a cell says otherwise" in table.caption
    assert "*" not in table.caption


def test_bounds_are_not_those_of_an_arm_that_starts_from_another_encoder(results):
    results.loc[results["arm"] == "random", "arm"] = "assft+encoder=mae"
    found = cells(t.budget_table(rows_of(results), t.DICE, ["assft", "assft+encoder=mae"]))
    bounds = [(str(row["Lower bound, 0 %"]), str(row["Upper bound, 100 %"])) for row in found.values()]
    assert bounds == [("1.00 ± 0.89", "92.00 ± 1.79"), ("-", "-")]


def test_marks_are_the_tests_of_the_paper(results):
    comparison = compare_all(results)
    comparison.loc[comparison["arm"] == "random", "p_mann_whitney"] = 0.009
    comparison.loc[comparison["arm"] == "nnunet", "p_mann_whitney"] = 0.011
    table = t.budget_table(rows_of(results, comparison), t.DICE, ARMS, marked=True)
    found, r2 = cells(table), table.frame.columns[3]
    assert str(found["RAND"][r2]).startswith("80.00* ± ")
    assert str(found["nnU-Net"][r2]).startswith("65.00 ± ")
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", str(found["ASSFT"][r2]))  # the reference is not tested against itself
    assert "p < 0.01 against ASSFT in the paper's test" in table.caption


def test_a_mean_over_less_says_so(results):
    gone = (
        ((results["arm"] == "random") & (results["seed"] == 1) & (results["round"] == 2))
        | ((results["arm"] == "assft") & (results["seed"] == 1) & (results["round"] == 1) & (results["case"] == "b"))
        | ((results["arm"] == "nnunet") & (results["round"] == 2))
    )
    table = t.budget_table(rows_of(results[~gone]), t.DICE, ARMS)
    found, (r1, r2) = cells(table), table.frame.columns[2:4]
    assert str(found["RAND"][r2]).startswith("80.00 ± ")
    assert str(found["RAND"][r2]).endswith(" (n = 3)")
    assert str(found["ASSFT"][r1]).endswith(" (n = 5)")
    assert str(found["nnU-Net"][r2]) == "missing"
    assert found["nnU-Net"][r2].rank == 0
    assert "n =" not in str(found["nnU-Net"][r1])
    assert "n = 6 unless" in table.caption


def test_one_score_has_no_sd_and_no_score_no_mean(results_of):
    results = results_of({("assft", 0, 1): {"a": 0.5}, ("random", 0, 1): {"a": math.nan}})
    found = cells(t.budget_table(rows_of(results, pool_size=10), t.DICE, ["assft", "random"]))
    header = "r = 1: 3 cases, 30 %"
    assert str(found["ASSFT"][header]) == "50.00 ± -"
    assert str(found["RAND"][header]) == "- ± - (n = 0)"


def test_hd95_ranks_the_lowest_and_counts_what_was_missed(results):
    results.loc[(results["arm"] == "random") & (results["round"] == 2) & (results["case"] == "c"), "hd95_mm"] = math.inf
    table = t.budget_table(rows_of(results), t.HD95, ARMS)
    found, last = cells(table), table.frame.columns[3]
    assert str(found["ASSFT"][last]) == f"1.80 ± {np.std([2.8, 1.6, 1.0] * 2, ddof=1):.2f}"
    assert str(found["RAND"][last]) == f"2.50 ± {np.std([3.0, 2.0] * 2, ddof=1):.2f} (n = 4, 2 missed)"
    assert [found[name][last].rank for name in ("ASSFT", "RAND", "nnU-Net")] == [1, 2, 0]
    assert (table.name, "missed" in table.caption, "in mm" in table.caption) == ("budgets_hd95", True, True)


def test_equal_means_share_a_rank(results_of):
    same, below, lowest = {"a": 0.7, "b": 0.9}, {"a": 0.6, "b": 0.9}, {"a": 0.1, "b": 0.2}
    results = results_of({("assft", 0, 1): same, ("random", 0, 1): same, ("cup", 0, 1): below, ("sann", 0, 1): lowest})
    frame = t.budget_table(rows_of(results), t.DICE, ["assft", "random", "cup", "sann"]).frame
    assert [cell.rank for cell in frame.iloc[:, 1]] == [1, 1, 2, 0]


def test_budgets_that_differ_between_arms_are_shown(results):
    results.loc[(results["arm"] == "nnunet") & (results["round"] == 2), "n_labelled"] = 6
    assert t.budget_table(rows_of(results), t.DICE, ARMS).frame.columns[3] == "r = 2: 5-6 cases, 12.5 to 15 %"


def test_the_papers_numbers_are_beside_ours(results):
    paper = paper_results()
    paper = paper[(paper["domain"] == "amos_ct") & (paper["table"] == 1)]
    table = t.budget_table(rows_of(results), t.DICE, ARMS, paper=paper)
    assert list(table.frame["Method"]) == ["RAND", "ASSFT", "nnU-Net", "RAND, paper", "ASSFT, paper"]
    assert table.frame.iloc[4].tolist() == [
        "ASSFT, paper",
        "0.27 ± 0.10 (0 %)",
        "80.51 ± 12.53 (5 %)",
        "84.42 ± 11.65 (10 %)",
        "93.04 ± 1.23 (100 %)",
    ]
    assert table.frame.iloc[1, 2].rank == 1  # the paper's do not compete
    assert "does not state what its SD is taken over" in table.caption


def test_all_tables_of_a_comparison(results):
    more = results.copy()
    more["arm"] = more["arm"].map({"assft": "dkd_high", "random": "asd_low"})
    everything = pd.concat([results, more.dropna(subset=["arm"])], ignore_index=True)
    paper = paper_results()
    quality = pd.DataFrame(
        {
            "arm": "assft",
            "seed": 0,
            "round": 1,
            "case": list("uvw"),
            "selection": "reliable",
            "selected": [1, 1, 0],
            "dice": [0.8, 0.9, 0.5],
        }
    )
    tables = {
        table.name: table
        for table in t.comparison_tables(
            rows_of(everything, compare_all(everything), quality=quality, paper=paper[paper["domain"] == "amos_ct"])
        )
    }
    assert list(tables) == [
        "budgets_dice",
        "budgets_nsd",
        "budgets_hd95",
        "structures",
        "dkd_ablation",
        "asd_ablation",
        "aubc",
        "selection",
        "cost",
    ]
    assert list(tables["dkd_ablation"].frame["Method"]) == ["RAND", "High DKD", "RAND, paper", "High DKD, paper"]
    assert list(tables["asd_ablation"].frame["Method"]) == ["Low ASD (τ(r))", "Low ASD (τ(r)), paper"]
    assert not any("bound," in column for column in tables["dkd_ablation"].frame)
    assert list(tables["budgets_dice"].frame["Method"])[:5] == [
        "RAND",
        "ASSFT",
        "High DKD",
        "Low ASD (τ(r))",
        "nnU-Net",
    ]
    assert "*:" in tables["budgets_dice"].caption
    assert "paper" not in "".join(tables["budgets_nsd"].frame["Method"])


def test_tables_of_arms_that_are_not_there_are_left_out(results):
    names = [table.name for table in t.comparison_tables(rows_of(results, compare_all(results)))]
    assert names == ["budgets_dice", "budgets_nsd", "budgets_hd95", "structures", "aubc", "cost"]


def test_structures_are_those_of_the_last_round(results):
    """spleen: two of six scores absent (left out), in the reference arm higher than in random."""
    spleen = results.assign(structure="spleen", dice=[0.5 if arm == "assft" else 0.25 for arm in results["arm"]])
    spleen.loc[(spleen["case"] == "a") & (spleen["arm"] == "random"), "dice"] = math.nan
    table = t.structure_table(rows_of(pd.concat([results, spleen])))
    found = cells(table)
    assert list(found) == ["RAND", "ASSFT", "nnU-Net", "Upper bound", "Lower bound"]
    assert str(found["ASSFT"]["liver"]) == f"82.00 ± {np.std([72, 84, 90, 72, 84, 90], ddof=1):.2f}"  # round 2, not 1
    assert str(found["ASSFT"]["spleen"]) == "50.00 ± 0.00"
    assert str(found["RAND"]["spleen"]) == "25.00 ± 0.00 (n = 4)"
    assert [found[name]["spleen"].rank for name in found] == [
        2,
        1,
        2,
        0,
        0,
    ]  # equal means share a rank; bounds have none
    assert str(found["Lower bound"]["liver"]) == "1.00 ± 0.89"
    assert "after round 2" in table.caption


def test_a_structure_may_be_called_like_the_column_of_the_arms(results, tmp_path):
    table = t.structure_table(rows_of(results.assign(structure="Method")))
    assert list(table.frame.columns) == ["Method", "Method"]
    write_table(tmp_path, table)
    for name, separator, end in (("csv", ",", ""), ("md", " | ", " |"), ("tex", " & ", r" \\")):
        lines = (tmp_path / f"structures.{name}").read_text(encoding="utf-8").splitlines()
        assert any(line.endswith(f"Method{separator}Method{end}") for line in lines), name
        assert any("Upper bound" in line and "±" in line.replace(r"$\pm$", "±") for line in lines), name
    arms, values = columns_of(SectionTable("structures", "", table.frame))
    assert (arms.name, values.name) == ("Method", "Method")
    assert arms.cells[0] == "RAND"


def test_structures_of_an_arm_without_its_last_round(results):
    gone = results[~((results["arm"] == "nnunet") & (results["round"] == 2))]
    assert str(cells(t.structure_table(rows_of(gone)))["nnU-Net"]["liver"]) == "missing"


# Other tables ---------------------------------------------------------------------------------------------------------


def test_aubc_table(results):
    found = cells(t.aubc_table(rows_of(results, compare_all(results))))
    assert list(found) == ["RAND", "ASSFT", "nnU-Net"]
    column, difference = "AUBC (95 % interval)", "ASSFT minus it (95 % interval)"
    assert str(found["nnU-Net"][column]).startswith("60.00 (47.58 to 72.42)")  # 5 / sqrt(3) times 4.30
    assert found["ASSFT"][column].rank == 1
    assert re.fullmatch(r"\+17\.50 \(.* to .*\)†", found["nnU-Net"][difference])
    assert re.fullmatch(r"\+2\.33 \(-.* to .*\)", found["RAND"][difference])
    assert (found["ASSFT"][difference], found["ASSFT"]["p"], found["ASSFT"]["p (Holm)"]) == ("-", "-", "-")


def test_aubc_of_a_single_seed_has_no_interval(results):
    gone = (results["arm"] == "random") & (results["seed"] == 1) & (results["round"] == 2)
    found = cells(t.aubc_table(rows_of(results[~gone], compare_all(results[~gone]))))
    assert (found["RAND"]["Seeds"], found["RAND"]["Test cases"], found["RAND"]["Left out"]) == ("1", "3", "seed 1")
    assert found["RAND"]["AUBC (95 % interval)"].text == "75.00"
    assert (found["RAND"]["ASSFT minus it (95 % interval)"], found["RAND"]["p"]) == ("+2.00", "-")
    assert found["ASSFT"]["Left out"] == "-"


def test_every_caption_says_what_was_matched_and_what_started_from_scratch(results):
    runs = runs_of([("nnunet_finetuned", 3, r, 2, 1.0, 1.0, 0.0, 1.0, "done") for r in (1, 2)])
    tables = t.comparison_tables(replace(rows_of(results), matched="this", runs=runs.assign(from_scratch=[1, 1])))
    assert len(tables) > 4
    for table in tables:
        assert table.caption.endswith(
            " Matched: this. nnU-Net, fine-tuned started from scratch in seed 3 round 2, where the plans gave another "
            "network."  # in round 1, every one of them does
        )
    (cost,) = t.comparison_tables(replace(rows_of(results), matched="this", runs=runs.assign(from_scratch=[1, 0])))[-1:]
    assert cost.caption.endswith(" Matched: this.")


def test_selection_table_worked_by_hand():
    dice = {"u1": 0.9, "u2": 0.8, "u3": 0.7, "u4": 0.3, "u5": 0.2, "u6": 0.1}
    rows = [("assft", 0, 1, case, "reliable", int(d > 0.5), d) for case, d in dice.items()]
    rows += [("assft", 0, 2, case, "all", 1, d) for case, d in dice.items()]
    quality = pd.DataFrame(rows, columns=["arm", "seed", "round", "case", "selection", "selected", "dice"])
    table = t.selection_table(quality, paper=paper_results()[lambda p: p["table"] == 8])
    found = cells(table)
    assert found["ASSFT, reliable, seed 0"] == {"r = 1": "0.1 (80.0, n = 3; 20.0, n = 3)", "r = 2": "missing"}
    assert found["ASSFT, all, seed 0"] == {"r = 1": "missing", "r = 2": "- (50.0, n = 6; n = 0)"}
    assert found["ASSFT, paper"] == {"r = 1": "3.97e-06", "r = 2": "4.53e-13"}


def test_cost_table_worked_by_hand():
    rows = [("random", seed, r, 2, math.nan, 3.0, 0.0, 3.5, "done") for seed in (0, 1, 2) for r in (0, 1, 2)]
    runs = pd.concat(
        [RUNS, runs_of(rows[:-4]), runs_of([("random", 2, 1, 2, math.nan, 9.0, 9.0, 9.0, "failed: no space")])]
    )
    found = cells(t.cost_table(runs))
    assert list(found) == ["RAND", "ASSFT"]
    assert found["ASSFT"] == {
        "Runs": "2",
        "Annotated cases": "6.0",
        "Annotation, min": "31.5",
        "Training, min": "9.0",
        "Query, min": "1.5",
        "Total, min": "12.0",
        "Device": "cpu",
        "Left out": "-",
    }
    assert found["RAND"]["Runs"] == "1"  # seed 1 lacks a round, seed 2 failed
    assert found["RAND"]["Left out"] == "seeds 1, 2"
    assert found["RAND"]["Training, min"] == "9.0"
    assert found["RAND"]["Annotation, min"] == "-"  # nobody recorded it: not 0
    runs.loc[(runs["arm"] == "assft") & (runs["seed"] == 1) & (runs["round"] == 1), "annotation_minutes"] = math.nan
    assert cells(t.cost_table(runs))["ASSFT"]["Annotation, min"] == "-"  # 30 and more than 22, of which less is known


def test_latex_of_every_table_is_ascii_and_balanced(results):
    paper = paper_results()
    for table in t.comparison_tables(rows_of(results, compare_all(results), paper=paper[paper["domain"] == "flare21"])):
        text = latex(table)
        assert text.isascii()
        bare = re.sub(r"\\.", "", text)  # without commands and escaped characters
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) == len(table.frame) + 1
        for row in rows:
            body = row[:-2]
            assert len(re.findall(r"(?<!\\)&", body)) == len(table.frame.columns) - 1
            assert not re.search(r"(?<!\\)[%#_]", body)
