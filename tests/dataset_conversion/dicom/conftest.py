"""`nnUNetv2_assft_convert dicom` on series made by the tests."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import set_folders
from tests.dataset_conversion.conftest import Result, run_convert
from tests.volumes.dicom.series_files import ORIENTATIONS, affine_of, scan, write_series

DATASET = "Dataset050_Livers"


@dataclass
class Conversion:
    """root: of nnU-Net's folders; the export is in root/export, the key file is root/keys/key.json."""

    root: Path
    result: Result

    @property
    def key_file(self) -> Path:
        return self.root / "keys/key.json"

    @property
    def keys(self) -> dict[str, Any]:
        assert stat.S_IMODE(self.key_file.stat().st_mode) == 0o600
        return json.loads(self.key_file.read_text())

    @property
    def folder(self) -> Path:
        return self.root / "nnUNet_raw" / DATASET

    def case_of(self, patient: str) -> str:
        (case,) = (case for case, entry in self.keys["cases"].items() if entry["patient_id"] == patient)
        return case


ConvertDicom = Callable[..., Conversion]


def run_dicom(root: Path, *sources: Path, options: str = "") -> Conversion:
    """Run the command. sources: by default, root/export. options: of which later ones override the usual ones."""
    usual = f"-d {DATASET} --labels liver tumour --key_file {root}/keys/key.json"
    return Conversion(root, run_convert("dicom", *(sources or (root / "export",)), options=f"{usual} {options}"))


@pytest.fixture
def convert_dicom(nnunet_folders: Path) -> ConvertDicom:
    """`convert_dicom(*folders, options="")`, with empty nnU-Net folders."""
    return lambda *sources, options="": run_dicom(nnunet_folders, *sources, options=options)


@pytest.fixture(scope="package")
def six(tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """A converted export of six patients, one for each orientation. It must not be changed."""
    root = tmp_path_factory.mktemp("six")
    for seed, name in enumerate(ORIENTATIONS):
        folder = root / f"export/Meier^Hans/{seed}"
        slope = {"RescaleSlope": "2", "RescaleIntercept": "-1024"} if name == "oblique" else {}
        write_series(folder, scan(seed), affine_of(name), seed, patient=name, **slope)
    with pytest.MonkeyPatch.context() as patch:
        set_folders(root, patch)
        return run_dicom(root)
