"""nnUNetv2_assft_score as a user calls it: exit codes, what is printed, what is written."""

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest

from nnunet_assft.cli.score import main


def softmax(seed: int, n_classes: int = 3) -> np.ndarray:
    p = np.exp(np.random.default_rng(seed).normal(0, 2, (n_classes, 3, 4, 5)))
    return (p / p.sum(axis=0)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases, padded by one slice at the end of the first axis, which is the last of the transposed grid."""
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    (predictions / "plans.json").write_text(json.dumps({"transpose_forward": [1, 2, 0]}))
    for i, case in enumerate(("b", "a", "c")):
        probs = np.zeros((3, 4, 4, 5), dtype=np.float32)
        probs[0] = 1
        probs[:, :3] = softmax(i)
        np.savez_compressed(predictions / f"{case}.npz", probabilities=probs)
        properties = {"bbox_used_for_cropping": [[0, 4], [0, 5], [0, 3]], "shape_before_cropping": (4, 5, 4)}
        (predictions / f"{case}.pkl").write_bytes(pickle.dumps(properties))
    return predictions


def call(folder: Path, *options: str, o: Path | None = None) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["-i", str(folder), "-r", "3", "-R", "5", "-o", str(o or folder.parent / "scores.csv"), *options])
    return int(exit_.value.code or 0)


def read(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def errors(text: str) -> list[str]:
    """Lines of stderr that come from the command, not from its progress bar."""
    return [line[line.index("nnUNetv2_assft_score") :] for line in text.splitlines() if "nnUNetv2_assft_score" in line]


def test_a_folder_is_scored(folder, capsys):
    assert call(folder) == 0
    out, err = capsys.readouterr()
    assert "3 of 3 cases scored for round 3 of 5 (tau 1.97609)" in out
    assert "Not cropped" not in out
    assert not errors(err)
    rows = read(folder.parent / "scores.csv")
    assert [row["case"] for row in rows] == ["a", "b", "c"]
    assert {(row["voxels"], row["cropped"]) for row in rows} == {("60", "yes")}
    assert "query_rank" not in rows[0]


def test_b2nd_files_give_the_same_table(folder):
    assert call(folder, o=folder.parent / "npz.csv") == 0
    for file in folder.glob("*.npz"):
        with np.load(file) as saved:
            blosc2.asarray(saved["probabilities"], urlpath=str(file.with_suffix(".b2nd")), chunks=(1, 4, 4, 5))
        file.unlink()
    assert call(folder, o=folder.parent / "b2nd.csv") == 0
    assert (folder.parent / "b2nd.csv").read_bytes() == (folder.parent / "npz.csv").read_bytes()


def test_a_case_that_is_saved_twice_is_left_out(folder, capsys):
    (folder / "b.b2nd").write_bytes(b"")
    assert call(folder) == 1
    assert errors(capsys.readouterr().err) == [
        "nnUNetv2_assft_score: b: saved twice, as b.npz and b.b2nd; expected only one. Remove the outdated file."
    ]
    assert [row["case"] for row in read(folder.parent / "scores.csv")] == ["a", "c"]


def test_padding_that_stays_is_said(folder, capsys):
    (folder / "b.pkl").unlink()
    assert call(folder) == 0
    assert "Not cropped: 1 of 3 cases (no CASE.pkl or no plans.json)" in capsys.readouterr().out
    assert [(row["voxels"], row["cropped"]) for row in read(folder.parent / "scores.csv")] == [
        ("60", "yes"),
        ("80", "no"),
        ("60", "yes"),
    ]


def test_segmentations_in_place_of_a_softmax_are_said(folder, capsys):
    with np.load(folder / "b.npz") as saved:
        probs = saved["probabilities"]
    np.savez(folder / "b.npz", probabilities=(probs == probs.max(axis=0)).astype(np.float32))
    assert call(folder) == 0
    assert "All probabilities of 1 case are 0 or 1, as in a segmentation" in capsys.readouterr().out
    assert [float(row["entropy"]) == 0 for row in read(folder.parent / "scores.csv")] == [False, True, False]


def test_a_broken_case_is_one_line_and_exit_code_1(folder, capsys):
    content = (folder / "b.npz").read_bytes()
    (folder / "b.npz").write_bytes(content[:-100])
    np.savez(folder / "d.npz", probabilities=softmax(3)[:2])
    assert call(folder) == 1
    out, err = capsys.readouterr()
    assert "2 of 4 cases scored" in out
    first, second = errors(err)
    assert first.startswith("nnUNetv2_assft_score: b: not a complete npz file")
    assert second.startswith("nnUNetv2_assft_score: d: ")
    assert "region-based" in second
    assert [row["case"] for row in read(folder.parent / "scores.csv")] == ["a", "c"]


def test_only_broken_cases_write_nothing(folder, capsys):
    for file in folder.glob("*.npz"):
        file.write_bytes(b"")
    assert call(folder) == 1
    assert "none of 3 cases could be scored" in errors(capsys.readouterr().err)[-1]
    assert not (folder.parent / "scores.csv").exists()


def test_embeddings_give_the_whole_order_even_from_the_same_folder(folder, capsys):
    rng = np.random.default_rng(0)
    np.savez(
        folder / "embeddings.npz",
        ids=np.array(["c", "b", "a"]),
        pretrained=rng.normal(size=(3, 4)),
        latest=rng.normal(size=(3, 4)),
    )
    assert call(folder, "--embeddings", str(folder / "embeddings.npz")) == 0
    rows = read(folder.parent / "scores.csv")
    order = [row["case"] for row in sorted(rows, key=lambda row: int(row["query_rank"]))]
    assert f"Cases to annotate first: {', '.join(order)}\n" in capsys.readouterr().out
    assert sorted(float(row["q"]) for row in rows) == [
        float(row["q"]) for row in sorted(rows, key=lambda r: -int(r["query_rank"]))
    ]
    for row in rows:
        assert float(row["dkd"]) == float(row["pakd"]) * float(row["pd"])


def test_embeddings_without_a_case_are_an_error(folder, capsys):
    np.savez(folder.parent / "e.npz", ids=np.array(["b"]), pretrained=np.ones((1, 4)), latest=np.ones((1, 4)))
    assert call(folder, "--embeddings", str(folder.parent / "e.npz")) == 1
    [line] = errors(capsys.readouterr().err)
    assert "no row for a, c" in line
    assert not (folder.parent / "scores.csv").exists()


def test_two_processes_give_the_same_file(folder):
    files = [folder.parent / f"{n}.csv" for n in (1, 2)]
    (folder / "c.npz").write_bytes(b"")
    (folder / "d.b2nd").write_bytes(b"")
    blosc2.asarray(softmax(4), urlpath=str(folder / "e.b2nd"))
    assert [call(folder, "-np", str(n), o=file) for n, file in enumerate(files, start=1)] == [1, 1]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-i", "nowhere"], "nowhere is not a folder"),
        (["-o", "."], "is a folder; expected the name of a file"),
        (["--embeddings", "nowhere.npz"], "nowhere.npz: the file does not exist"),
    ],
)
def test_what_cannot_work_is_one_line(folder, capsys, options, expected):
    assert call(folder, *options) == 1
    [line] = errors(capsys.readouterr().err)
    assert line.startswith("nnUNetv2_assft_score: error: ")
    assert expected in line


def test_an_empty_folder_is_an_error(tmp_path, capsys):
    assert call(tmp_path) == 1
    assert "Run nnUNetv2_predict with --save_probabilities" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["-np", "0"], ["-r", "x"], ["--embed", "x"]])
def test_wrong_usage_is_exit_code_2(folder, options):
    assert call(folder, *options) == 2


def test_help_fits_a_screen_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom nnunet_assft.cli.score import main\ntry:\n    main(['-h'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'torch', 'scipy', 'nnunetv2'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"COLUMNS": "80"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 24
