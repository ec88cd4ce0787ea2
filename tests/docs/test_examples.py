"""The examples of the documentation run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_assft.runtime.csv_files import write_csv

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class FakeDatastore:
    """What the strategy uses of MONAI Label's datastore."""

    def __init__(self, unlabelled: list[str]) -> None:
        self.unlabelled = unlabelled
        self.asked: list[tuple[object, object]] = []

    def get_unlabeled_images(self, label_tag: object = None, labels: object = None) -> list[str]:
        self.asked.append((label_tag, labels))
        return self.unlabelled


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("monai_label_strategy", EXAMPLES / "monai_label_strategy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def worklist(tmp_path: Path) -> Path:
    rows = [("case_07", "anna"), ("case_01", "anna bert"), ("case_03", "bert")]
    write_csv(
        tmp_path / "worklist.csv",
        [{"case": case, "rank": i, "annotators": names} for i, (case, names) in enumerate(rows, 1)],
    )
    return tmp_path / "worklist.csv"


def test_monai_label_is_offered_the_work_list_in_its_order(example: ModuleType, worklist: Path) -> None:
    strategy = example.AssftWorkList(worklist)
    store = FakeDatastore(["case_03_0000", "case_00_0000", "case_07_0000", "case_01_0000"])
    assert strategy({"label_tag": "final", "labels": ["liver"]}, store) == {
        "id": "case_07_0000",
        "case": "case_07",
        "rank": "1",
        "annotators": "anna",
    }
    assert store.asked == [("final", ["liver"])]
    store.unlabelled.remove("case_07_0000")
    assert strategy({}, store)["id"] == "case_01_0000"
    assert strategy({}, FakeDatastore(["case_00_0000"])) is None  # nothing that was queried


def test_monai_label_gives_an_annotator_his_own_cases(example: ModuleType, worklist: Path) -> None:
    store = FakeDatastore(["case_03_0000", "case_07_0000", "case_01_0000"])
    assert example.AssftWorkList(worklist, "bert")({}, store)["id"] == "case_01_0000"
    assert example.AssftWorkList(worklist, "carl")({}, store) is None
