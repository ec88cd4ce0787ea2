"""The paper's numbers: how many there are, and some read off the paper's pages again."""

import pytest

from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.comparison.arms import BOUNDS, name_of
from nnunet_assft.comparison.paper_results import paper_names, paper_results, paper_strategies
from nnunet_assft.planning.domains import DOMAINS

BASELINES = [
    "random",
    "entropy",
    "least_confidence",
    "margin",
    "coreset",
    "badge",
    "sann",
    "ugtst",
    "cup",
    "dkd_asd",
    "assft",
]


def test_every_number_is_there_once():
    paper = paper_results()
    # methods times rounds, and the two bounds; Tables 6-7: methods times budgets times domains
    expected = {1: 11 * 5 + 2, 2: 11 * 6 + 2, 3: 11 * 5 + 2, 4: 11 * 2, 5: 11 * 3 + 2, 6: 3 * 4, 7: 5 * 4, 8: 5}
    assert paper["table"].value_counts().to_dict() == expected
    assert not paper.duplicated(["table", "domain", "arm", "round"]).any()
    for table in (1, 2, 3, 4, 5):
        arms = [arm for arm in paper.loc[paper["table"] == table, "arm"].unique() if not arm.endswith("bound")]
        assert arms == BASELINES
    assert paper.loc[paper["table"] < 8, ["mean", "sd"]].notna().all(axis=None)
    assert paper.loc[paper["table"] < 8, "p"].isna().all()
    assert paper.loc[paper["table"] == 8, "p"].notna().all()


@pytest.mark.parametrize(
    ("table", "domain", "arm", "r", "budget", "mean", "sd"),
    [
        (1, "amos_ct", "lower_bound", 0, "0 %", 0.27, 0.10),
        (1, "amos_ct", "assft", 1, "5 %", 80.51, 12.53),
        (1, "amos_ct", "entropy", 4, "20 %", 82.59, 13.63),
        (1, "amos_ct", "upper_bound", 5, "100 %", 93.04, 1.23),
        (2, "amos_mri", "random", 1, "5 %", 35.84, 27.14),
        (2, "amos_mri", "badge", 6, "30 %", 82.80, 8.42),
        (2, "amos_mri", "upper_bound", 6, "100 %", 91.32, 3.74),
        (3, "flare21", "lower_bound", 0, "0 %", 5.86, 0.02),
        (3, "flare21", "ugtst", 5, "25 %", 93.70, 3.05),
        (3, "flare21", "dkd_asd", 2, "10 %", 93.30, 3.68),
        (4, "abdomen_atlas", "coreset", 1, "5 %", 79.11, 10.20),
        (4, "abdomen_atlas", "assft", 2, "10 %", 84.86, 7.52),
        (5, "abdominal_mri", "margin", 2, "5 cases", 80.45, 11.20),
        (5, "abdominal_mri", "cup", 3, "7 cases", 81.95, 10.61),
        (5, "abdominal_mri", "upper_bound", 3, "100 %", 92.95, 1.14),
        (6, "amos_mri", "dkd_low", 1, "5 %", 26.86, 22.67),
        (6, "amos_ct", "dkd_high", 2, "10 %", 79.48, 12.56),
        (7, "amos_ct", "asd_low_tau1", 1, "5 %", 62.96, 15.36),
        (7, "amos_mri", "asd_high", 2, "10 %", 63.77, 18.48),
        (7, "amos_ct", "asd_high_tau1", 2, "10 %", 79.13, 13.69),
    ],
)
def test_numbers_read_again(table, domain, arm, r, budget, mean, sd):
    paper = paper_results()
    row = paper[
        (paper["table"] == table) & (paper["domain"] == domain) & (paper["arm"] == arm) & (paper["round"] == r)
    ].iloc[0]
    assert (row["budget"], row["mean"], row["sd"]) == (budget, mean, sd)


def test_table_8():
    paper = paper_results()
    assert paper.loc[paper["table"] == 8, "p"].tolist() == [3.97e-6, 4.53e-13, 5.12e-17, 5.06e-20, 1.80e-22]


def test_what_two_tables_print_is_the_same():
    paper = paper_results().set_index(["table", "domain", "arm", "round"])["mean"]
    for ablation, arm in ((6, "random"), (7, "entropy")):
        for of_table, domain in ((1, "amos_ct"), (2, "amos_mri")):
            for r in (1, 2):
                assert paper[ablation, domain, arm, r] == paper[of_table, domain, arm, r]


def test_rounds_and_names_are_those_of_this_package():
    paper = paper_results()
    assert set(paper["arm"]) <= {*STRATEGIES, "lower_bound", "upper_bound"}
    assert set(paper["domain"]) == set(DOMAINS) - {"generic"}
    for domain, rows in paper[paper["table"] <= 5].groupby("domain"):
        assert rows["round"].max() == DOMAINS[domain].rounds
    assert all(paper_names()[arm] == method for arm, method in zip(paper["arm"], paper["method"], strict=True))
    assert list(paper_strategies()) == BASELINES
    references = {arm: name_of(arm) for arm in BOUNDS}
    assert references.items() <= paper_names().items()
