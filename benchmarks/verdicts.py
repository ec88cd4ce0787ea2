"""How often a comparison gives a verdict on arms that are equal, and on arms that differ by 4 points.

python benchmarks/verdicts.py                                   # simulated
python benchmarks/verdicts.py --results results.csv --arm random  # a real null: the runs of one arm against each other
"""

from __future__ import annotations

import argparse
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from nnunet_assft.comparison.statistics import ALPHA, aubc_scores, case_scores, holm
from nnunet_assft.evaluation.intervals import crossed_mean

DRAWS = 1000
CASES, CASE_SD, REST_SD, GAIN = 12, 8, 4, 4  # test cases, and points of Dice
RIVALS = (1, 11)
SQRT2 = np.sqrt(2)  # the luck of two runs together is larger than that of one by this factor


def simulated() -> None:
    """Print the share of simulated comparisons with any verdict."""
    print(
        f"Share of {DRAWS} simulated comparisons with a verdict. {CASES} test cases; in points of Dice, the SD of a "
        f"case is {CASE_SD} and that of the rest {REST_SD}. Last two columns: one rival is {GAIN} points worse, and "
        "the luck is that of each run, or that of the difference of two runs."
    )
    print("seeds  luck (SD)  1 equal rival  11 equal rivals  luck of each run  luck of the difference")
    for n_seeds in (3, 5, 10):
        for luck in (0, 1, 2, 3):
            rng = np.random.default_rng([n_seeds, luck])
            p = np.array([_p_of_rivals(rng, n_seeds, luck) for _ in range(DRAWS)])
            equal = [np.mean([(holm(row[:n]) < ALPHA).any() for row in p]) for n in RIVALS]
            of_run, of_difference = (
                np.mean([_p_of_a_gain(rng, n_seeds, sd) < ALPHA for _ in range(DRAWS)]) for sd in (luck, luck / SQRT2)
            )
            shown = f"{of_run:16.3f}  {of_difference:22.3f}"
            print(f"{n_seeds:5d}  {luck:9d}  {equal[0]:13.3f}  {equal[1]:15.3f}  {shown}", flush=True)


def equal_arms(rng: np.random.Generator, n_arms: int, n_seeds: int, luck: float) -> np.ndarray:
    """Draw the scores of arms that do not differ, (arms, seeds, cases). luck: the SD of what a run shifts all of its
    cases by."""
    shape = (n_arms, n_seeds, CASES)
    return rng.normal(0, CASE_SD, CASES) + rng.normal(0, luck, (n_arms, n_seeds, 1)) + rng.normal(0, REST_SD, shape)


def _p_of_rivals(rng: np.random.Generator, n_seeds: int, luck: float) -> list[float]:
    """Draw an arm and its equal rivals, and return the p of every difference."""
    scores = equal_arms(rng, 1 + max(RIVALS), n_seeds, luck)
    return [crossed_mean(scores[0] - rival).p for rival in scores[1:]]


def _p_of_a_gain(rng: np.random.Generator, n_seeds: int, luck: float) -> float:
    """Draw an arm and a rival that is GAIN worse, and return the p of their difference."""
    arm, rival = equal_arms(rng, 2, n_seeds, luck)
    return crossed_mean(GAIN + arm - rival).p


def real(file: str, arm: str) -> None:
    """Print how many ways to divide the runs of one arm into two groups would give a verdict between the groups."""
    results = pd.read_csv(file, dtype={"arm": str})
    scores = aubc_scores(case_scores(results[results["arm"] == arm]))
    runs = scores.pivot(index="seed", columns="case", values="score").dropna().to_numpy()
    half = len(runs) // 2
    ways, verdicts, over_cases = 0, 0, 0
    rng = np.random.default_rng(0)
    for chosen in combinations(range(2 * half), half):
        if 0 not in chosen:  # the same two groups, the other way round
            continue
        others = rng.permutation([i for i in range(2 * half) if i not in chosen])
        differences = runs[list(chosen)] - runs[others]
        ways += 1
        verdicts += crossed_mean(differences).p < ALPHA
        over_cases += _p_over_cases(differences) < ALPHA
    first = crossed_mean(runs[:half] - runs[half : 2 * half])
    low, high = first.interval()
    print(
        f"{arm}: the first {half} runs minus the next {half}: {100 * first.mean:+.2f} points of AUBC (95 % interval "
        f"{100 * low:+.2f} to {100 * high:+.2f}), p = {first.p:.2f}."
    )
    print(
        f"{arm}: {2 * half} runs on {runs.shape[1]} cases, divided into two groups of {half} in {ways} ways. "
        f"A verdict in {verdicts} of {ways}; Wilcoxon's test over cases alone would give {over_cases}."
    )


def _p_over_cases(differences: np.ndarray) -> float:
    """Return p of Wilcoxon's test on differences that are averaged over seeds."""
    return float(wilcoxon(differences.mean(axis=0)).pvalue)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", metavar="FILE", help="results.csv of a comparison")
    parser.add_argument("--arm", default="random", help="the arm whose runs are compared with each other")
    args = parser.parse_args()
    if args.results:
        real(args.results, args.arm)
    else:
        simulated()


if __name__ == "__main__":
    main()
