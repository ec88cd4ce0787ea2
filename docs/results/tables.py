"""The tables, sentences and figures of the page on hippocampus, from the files beside it. Run in the checkout:

python docs/results/tables.py

In hippocampus.md, everything between a line `<!-- GROUP NAME -->` and the next `<!-- end -->` is written anew: a table,
or sentences, about a group of arms of one of the comparisons. The rest of the page is left as it is. The figures are
written into the folder hippocampus/.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunet_assft.comparison.arms import Arm
from nnunet_assft.comparison.collection import read_results, read_runs
from nnunet_assft.comparison.conclusions import Findings, draw_conclusions
from nnunet_assft.comparison.printed_table import markdown
from nnunet_assft.comparison.pseudo_label_quality import read_pseudo_label_quality
from nnunet_assft.comparison.spec import read_comparison
from nnunet_assft.comparison.statistics import AUBC
from nnunet_assft.report.forest import attribution_forest, aubc_forest
from nnunet_assft.report.sections.comparison import arm_curves, arms_plot
from nnunet_assft.runtime.csv_files import write_csv_table

FOLDER = Path(__file__).with_name("hippocampus")
FIRST_CASE = Path(__file__).with_name("first_case")
PAGE = FOLDER.with_suffix(".md")
PART = re.compile(r"(<!-- (\w+) (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
fill = partial(textwrap.fill, width=120, break_on_hyphens=False)


def changes_an_option(arm: Arm) -> bool:
    return "=" in (getattr(arm, "variant", None) or "")


GROUPS: dict[str, tuple[Path, Callable[[Arm], bool]]] = {
    "main": (FOLDER, lambda arm: not arm.encoder and not changes_an_option(arm)),
    "options": (FOLDER, lambda arm: not arm.encoder and (arm.id == "assft" or changes_an_option(arm))),
    "starts": (FOLDER, lambda arm: arm.id in ("random", "random+encoder=mae")),
    "starts_of_assft": (FOLDER, lambda arm: arm.id in ("assft", "assft+encoder=mae")),
    "first_case": (FIRST_CASE, lambda arm: True),
}


def findings_of(group: str) -> Findings:
    """Return the findings on the arms of a group, and write its figures."""
    folder, belongs = GROUPS[group]
    spec, shared = read_comparison(folder / "comparison.json")
    spec = replace(spec, arms=tuple(arm for arm in spec.arms if belongs(arm)))
    arms, quality = [arm.id for arm in spec.arms], folder / "pseudo_label_quality.csv"
    results, runs, of_pseudo_labels = (
        table[table["arm"].isin(arms) & table["seed"].isin(spec.seeds)].reset_index(drop=True)
        for table in (
            read_results(folder / "results.csv"),
            read_runs(folder / "runs.csv"),
            read_pseudo_label_quality(quality),
        )
    )
    findings = draw_conclusions(spec, shared, results, runs, of_pseudo_labels)
    if group == "main":
        plots = [arms_plot(arm_curves(results)), aubc_forest(findings.statistics)]
        for plot in (*plots, attribution_forest(findings.attribution)):
            if plot:
                (FOLDER / f"{plot.name}.png").write_bytes(plot.png())
        (selection,) = (table for table in findings.tables if table.name == "selection")
        write_csv_table(FOLDER / "selection.csv", selection.frame)
    return findings


def text_of(findings: Findings, name: str) -> str:
    """Return what stands between the marks of a name: sentences, or the table of this name."""
    if name == "compared":
        return "\n".join(fill(f"* {line}", subsequent_indent="  ") for line in findings.compared)
    if name == "conclusion":
        return fill(findings.conclusion)
    if name == "one_by_one":
        whole = zip(findings.one_by_one, findings.statistics["round"], strict=True)
        return "\n".join(f"* {sentence}" for sentence, r in whole if r == AUBC)
    (table,) = (table for table in findings.tables if table.name == name)
    return markdown(table).rstrip("\n")


def main() -> None:
    findings = {group: findings_of(group) for group in GROUPS}
    page = PAGE.read_text()
    PAGE.write_text(PART.sub(lambda m: m[1] + text_of(findings[m[2]], m[3]) + m[4], page))
    print(f"Wrote {PAGE} and the figures in {FOLDER}.")


if __name__ == "__main__":
    main()
