"""A model on another machine: stock nnU-Net installs the zip file and segments as our own command does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_assft.active.rounds import run_round
from tests.conftest import CPU, Trained, blob_case, plan_experiment, set_folders, write_dataset, write_volume

pytestmark = pytest.mark.slow
HERE = ("-device", "cpu", "-npp", 0, "-nps", 0)
IN_PROCESSES = ("-device", "cpu", "-npp", 1, "-nps", 1)  # which have to find the normalisation as well
REPOSITORY = str(Path(__file__).parents[2])
WITHOUT_US = "import sys\nsys.modules['nnunet_assft'] = None  # as if it were not installed\n"
OURS = "from nnunet_assft.cli.{0} import main as entry"
STOCK = {
    "install": "from nnunetv2.model_sharing.entry_points import install_from_zip_entry_point as entry",
    "predict": "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as entry",
    "predict_from_folder": "from nnunetv2.inference.predict_from_raw_data import "
    "predict_entry_point_modelfolder as entry",
}


def command(folder: Path, entry: str, *arguments: object, before: str = "", **variables: str) -> str:
    """The output of a command that succeeds, started as its script in `bin` is."""
    script = folder / "command.py"
    script.write_text(f"{before}{entry}\nif __name__ == '__main__':\n    entry()\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    environment |= {"PYTHONPATH": os.pathsep.join([REPOSITORY, os.environ.get("PYTHONPATH", "")]), **variables}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def own(root: Path) -> dict[str, str]:
    return {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}


def images(folder: Path) -> Path:
    """Two scans of other shapes and spacings than those of the dataset."""
    for i, spacing in enumerate([(1.0, 1.0, 1.0), (1.25, 0.9, 1.5)]):
        write_volume(folder / f"new_{i}_0000.nii.gz", blob_case(40 + i, (20, 24 + i, 22))[0], spacing)
    return folder


def voxels(folder: Path) -> list[np.ndarray]:
    return [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in sorted(folder.glob("*.nii.gz"))]


def hand_over(root: Path, elsewhere: Path, fold: int, before: str, *options: str) -> None:
    """Export the model of round `fold`, install it and predict with it in both ways, and compare the voxels.

    before: the first lines of the stock commands. options: of every prediction.
    """
    scans, here = images(root / "scans"), own(root)
    printed = command(root, OURS.format("export"), "-d", 901, "-r", fold, "-o", root / "model.zip", **here)
    assert "nnUNetv2_install_pretrained_model_from_zip" in printed
    arguments = ["-d", 901, "-r", fold, "-i", scans, "-o", root / "ours", *HERE, *options]
    command(root, OURS.format("predict"), *arguments, **here)
    results = {"nnUNet_results": str(elsewhere / "nnUNet_results")}
    (elsewhere / "nnUNet_results").mkdir(parents=True)
    command(elsewhere, STOCK["install"], root / "model.zip", before=before, **results)
    (line,) = (line for line in printed.splitlines() if "nnUNetv2_predict" in line)
    folders = {"IMAGES": str(scans), "SEGMENTATIONS": str(elsewhere / "stock")}
    arguments = [folders.get(word, word) for word in line.split()[1:]]
    command(elsewhere, STOCK["predict"], *arguments, *IN_PROCESSES, *options, before=before, **results)
    model = elsewhere / "nnUNet_results/Dataset901_Blobs/nnUNetTrainer__nnUNetASSFTPlans__3d_fullres"
    arguments = ["-i", scans, "-o", elsewhere / "folder", "-m", model, "-f", fold, *IN_PROCESSES, *options]
    command(elsewhere, STOCK["predict_from_folder"], *arguments, before=before)
    expected = voxels(root / "ours")
    assert len(expected) == 2
    assert any(array.any() for array in expected)
    for folder in ("stock", "folder"):
        for found, ours in zip(voxels(elsewhere / folder), expected, strict=True):
            np.testing.assert_array_equal(found, ours)


def test_a_network_of_ours_needs_our_package_and_no_variable(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hand_over(trained.root, tmp_path_factory.mktemp("elsewhere"), 2, "", "--disable_tta")


def test_a_network_of_nnunet_needs_nothing_of_ours(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_folders(tmp_path, monkeypatch)
    folder = write_dataset(tmp_path / "nnUNet_raw", n_pool=3, n_test=1)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "channel_names": {"0": "CT"}}))
    settings = {"preset": "resenc_tiny", "normalization": "ctfm", "epochs": 3, "iterations_per_epoch": 6}
    experiment = plan_experiment("Dataset901_Blobs", rounds=1, budget="1", initial_lr=1e-2, **settings)
    run_round(experiment, 0, CPU)
    hand_over(tmp_path, tmp_path_factory.mktemp("elsewhere"), 0, WITHOUT_US)
