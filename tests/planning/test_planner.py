from __future__ import annotations

import json
import os
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_assft.errors import AssftError
from nnunet_assft.network import PRESETS, CTFMSegmentationNet
from nnunet_assft.planning.domains import DOMAINS, ONE_SHOT_EPOCHS, resolve_domain
from nnunet_assft.planning.fingerprint import check_images, combine_fingerprint
from nnunet_assft.planning.planner import plan_from_images
from nnunet_assft.volumes.raw_dataset import find_dataset, read_dataset
from tests.conftest import write_dataset, write_volume

NAME = "Dataset901_Blobs"


def fingerprint_of(
    *shapes: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0), n_channels: int = 1
) -> dict[str, Any]:
    statistics = {
        "mean": 1.0,
        "median": 1.0,
        "std": 1.0,
        "min": 0.0,
        "max": 2.0,
        "percentile_99_5": 2.0,
        "percentile_00_5": 0.0,
    }
    return {
        "spacings": [list(spacing)] * len(shapes),
        "shapes_after_crop": [list(shape) for shape in shapes],
        "foreground_intensity_properties_per_channel": {str(c): statistics for c in range(n_channels)},
        "median_relative_size_after_cropping": 1.0,
    }


def plan(fingerprint: dict[str, Any], **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "plans_name": "nnUNetASSFTPlans",
        "spacing": None,
        "patch_size": None,
        "preset": "tiny",
        "normalization": "percentile",
    }
    settings |= changes
    settings["preset"] = PRESETS[settings["preset"]]
    return plan_from_images(find_dataset(NAME), fingerprint, **settings)


def fullres(plans: dict[str, Any]) -> dict[str, Any]:
    return plans["configurations"]["3d_fullres"]


@pytest.fixture
def raw(nnunet_folders: Path) -> Path:
    """dataset.json and one small image, by which nnU-Net picks a reader: planning looks at nothing else."""
    folder = nnunet_folders / "nnUNet_raw" / NAME
    write_volume(folder / "imagesTr" / "a_0000.nii.gz", np.ones((4, 4, 4), np.float32))
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "x": 1, "y": 2},
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


# The paper's domains -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "patch", "rounds", "budget", "epochs"),
    [
        ("amos_ct", [96, 160, 160], 5, "5%", 400),
        ("flare21", [96, 192, 160], 5, "5%", 400),
        ("abdomen_atlas", [96, 128, 160], 2, "5%", 800),
        ("amos_mri", [48, 160, 224], 6, "5%", 400),
        ("abdominal_mri", [64, 192, 192], 3, "2", 400),
    ],
)
def test_the_five_domains_are_planned_as_in_the_paper(
    raw: Path, domain: str, patch: list[int], rounds: int, budget: str, epochs: int
):
    row = DOMAINS[domain]
    assert (row.rounds, row.budget, row.epochs) == (rounds, budget, epochs)
    plans = plan(fingerprint_of((24, 40, 40), spacing=(3.0, 0.8, 0.8)), patch_size=row.patch_size)
    assert fullres(plans)["patch_size"] == patch


def test_spacing_and_patch_are_those_that_are_wanted(raw: Path):
    plans = plan(fingerprint_of((24, 40, 40)), spacing=(1, 2.5, 1), patch_size=(30, 48, 70))
    assert plans["transpose_forward"] == [1, 0, 2]  # the coarsest axis comes first
    assert fullres(plans)["spacing"] == [2.5, 1, 1]
    assert fullres(plans)["patch_size"] == [32, 48, 64]


@pytest.mark.parametrize(
    ("preset", "domain", "patch"),
    [
        ("resenc_l", "amos_mri", [64, 160, 224]),  # of 48 slices, 5 strides would leave one and a half
        ("plain", "amos_ct", [96, 160, 160]),
        ("resenc_tiny", "amos_mri", [48, 160, 224]),
    ],
)
def test_the_patch_of_a_domain_is_rounded_to_what_the_network_can_take(
    raw: Path, preset: str, domain: str, patch: list[int]
):
    plans = plan(fingerprint_of((60, 90, 90)), preset=preset, patch_size=DOMAINS[domain].patch_size)
    assert fullres(plans)["patch_size"] == patch


def test_the_patch_of_the_large_network_is_planned_for_a_larger_gpu(raw: Path):
    """Both from nnU-Net's own choice, in multiples of 32."""
    medium, large = (
        fullres(plan(fingerprint_of((300, 300, 300)), preset=preset))["patch_size"]
        for preset in ("resenc_m", "resenc_l")
    )
    assert medium == [128, 128, 128]
    assert [edge % 32 for edge in large] == [0, 0, 0]
    assert np.prod(large) > 2 * np.prod(medium)


def test_the_paper_has_five_domains_and_the_first_stage_takes_100_epochs():
    assert len(DOMAINS) == 6
    assert ONE_SHOT_EPOCHS == 100


def test_a_domain_is_recognised_by_the_name_of_its_dataset():
    names = [(key, row.dataset) for key, row in DOMAINS.items() if row.dataset]
    assert [resolve_domain("auto", dataset) for _, dataset in names] == [key for key, _ in names]
    assert resolve_domain("auto", "Dataset004_Hippocampus") == "generic"
    assert resolve_domain("amos_mri", "Dataset004_Hippocampus") == "amos_mri"


# Any other dataset ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((36, 50, 35), (1.0, 1.0, 1.0)),
        ((18, 26, 24), (1.0, 1.0, 1.0)),
        ((24, 90, 90), (5.0, 1.0, 1.0)),
        ((70, 12, 60), (0.9, 5.0, 0.9)),
    ],
)
def test_any_other_patch_is_that_of_nnunet_to_the_nearest_16(
    raw: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], spacing: tuple[float, ...]
):
    fingerprint = fingerprint_of(shape, spacing=spacing)
    ours = plan(fingerprint)
    folder = Path(os.environ["nnUNet_preprocessed"], NAME)
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    with redirect_stdout(StringIO()):
        theirs = ExperimentPlanner(NAME, gpu_memory_target_in_gb=8).plan_experiment()
    patch, reference = fullres(ours)["patch_size"], np.array(fullres(theirs)["patch_size"])
    assert [edge % 16 for edge in patch] == [0, 0, 0]
    assert all(abs(a - b) <= 8 or (a == 16 and b < 16) for a, b in zip(patch, reference, strict=True)), (
        patch,
        reference,
    )
    assert fullres(ours)["spacing"] == pytest.approx(list(fullres(theirs)["spacing"]))
    assert ours["transpose_forward"] == list(map(int, theirs["transpose_forward"]))


def test_what_the_plans_hold(raw: Path):
    plans = plan(fingerprint_of((30, 40, 36)), preset="ctfm")
    assert list(plans["configurations"]) == ["3d_fullres"]
    assert plans["plans_name"] == "nnUNetASSFTPlans"
    assert plans["dataset_name"] == NAME
    configuration = fullres(plans)
    assert configuration["batch_size"] == 2
    assert configuration["batch_dice"] is False
    assert configuration["normalization_schemes"] == ["PercentileZScoreNormalization"]
    assert configuration["use_mask_for_norm"] == [False]
    architecture = configuration["architecture"]
    assert architecture["network_class_name"] == "nnunet_assft.network.CTFMSegmentationNet"
    assert architecture["arch_kwargs"]["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert list(architecture["arch_kwargs"]["widths"]) == [32, 64, 128, 256, 512]
    assert json.loads(json.dumps(plans)) == plans


def test_one_normalisation_per_channel(raw: Path):
    file = raw / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "channel_names": {"0": "CT", "1": "T2"}}))
    shutil.copy(raw / "imagesTr" / "a_0000.nii.gz", raw / "imagesTr" / "a_0001.nii.gz")
    configuration = fullres(plan(fingerprint_of((30, 40, 36), n_channels=2), normalization="ctfm"))
    assert configuration["normalization_schemes"] == ["CTFMNormalization"] * 2
    assert configuration["use_mask_for_norm"] == [False] * 2


def test_images_of_one_slice_are_refused(raw: Path):
    with pytest.raises(AssftError, match=f"^{NAME} holds 2D images; expected 3D volumes"):
        plan(fingerprint_of((1, 60, 60), spacing=(999.0, 1.0, 1.0)))


def test_the_plans_of_nnunets_own_network_have_the_entries_of_nnunets_own_plans(
    raw: Path, monkeypatch: pytest.MonkeyPatch
):
    """nnU-Net gives isotropic images of 128 voxels the same network, but for its tuples."""
    fingerprint = fingerprint_of((128, 128, 128))
    ours = fullres(plan(fingerprint, preset="plain"))["architecture"]
    folder = Path(os.environ["nnUNet_preprocessed"], NAME)
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    with redirect_stdout(StringIO()):
        theirs = ExperimentPlanner(NAME).plan_experiment()["configurations"]["3d_fullres"]["architecture"]
    assert ours == json.loads(json.dumps(theirs, default=int))


def test_nnunet_reads_the_plans_and_builds_the_network(raw: Path):
    plans = plan(fingerprint_of((24, 24, 24)))
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        manager.get_label_manager(json.loads((raw / "dataset.json").read_text())).num_segmentation_heads,
        deep_supervision=False,
    )
    assert isinstance(network, CTFMSegmentationNet)
    assert network.widths == PRESETS["tiny"].arguments["widths"]
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *configuration.patch_size)).shape == (1, 3, *configuration.patch_size)


# The folder of preprocessed images -----------------------------------------------------------------------------------


def test_the_image_folder_is_named_by_what_preprocessing_depends_on(raw: Path):
    base = fingerprint_of((24, 40, 30))

    def folder_for(fingerprint: dict[str, Any] = base, **changes: Any) -> str:
        return fullres(plan(fingerprint, **changes))["data_identifier"]

    assert folder_for().startswith("assft_pool_")
    assert folder_for(preset="ctfm") == folder_for() == folder_for(plans_name="nnUNetASSFTPlans_other")
    different = [
        folder_for(),
        folder_for(normalization="ctfm"),
        folder_for(patch_size=(96, 160, 160)),
        folder_for(fingerprint_of((24, 40, 30), spacing=(2.0, 1.0, 1.0))),
        folder_for(fingerprint_of((24, 40, 30), spacing=(1.0, 2.0, 1.0))),
    ]
    assert len(set(different)) == len(different)


# Nothing else is touched, nothing of a label is seen -----------------------------------------------------------------


def test_nnunet_preprocessed_is_neither_read_nor_written(raw: Path, nnunet_folders: Path):
    expected = plan(fingerprint_of((24, 40, 30)))
    folder = nnunet_folders / "nnUNet_preprocessed" / NAME
    folder.mkdir()
    stock = json.dumps(fingerprint_of((60, 60, 60), spacing=(3.0, 3.0, 3.0))).encode()
    (folder / "dataset_fingerprint.json").write_bytes(stock)
    assert plan(fingerprint_of((24, 40, 30))) == expected
    assert [file.name for file in folder.iterdir()] == ["dataset_fingerprint.json"]
    assert (folder / "dataset_fingerprint.json").read_bytes() == stock
    assert [file.name for file in (nnunet_folders / "nnUNet_preprocessed").iterdir()] == [NAME]
    assert list((nnunet_folders / "nnUNet_results").iterdir()) == []
    assert sorted(file.name for file in raw.iterdir()) == ["dataset.json", "imagesTr"]


@pytest.mark.parametrize("workers", ["0", "3", None])
@pytest.mark.parametrize("shape", [(24, 40, 30), (1, 60, 60)], ids=["planned", "refused"])
def test_the_environment_is_as_before(
    raw: Path, monkeypatch: pytest.MonkeyPatch, workers: str | None, shape: tuple[int, ...]
):
    if workers is None:
        monkeypatch.delenv("nnUNet_n_proc_DA")
    else:
        monkeypatch.setenv("nnUNet_n_proc_DA", workers)
    before = dict(os.environ)
    try:
        plan(fingerprint_of(shape))
    except AssftError:
        assert shape[0] == 1
    assert dict(os.environ) == before


def test_no_label_has_a_say_in_the_plans(nnunet_folders: Path, tmp_path: Path):
    def noise(case: str, label: np.ndarray) -> np.ndarray:
        return np.random.default_rng(int(case[-2:])).integers(0, 3, label.shape).astype(np.uint8)

    def plans_of(folder: Path, parts: str) -> dict[str, Any]:
        dataset = read_dataset(folder)
        check_images(dataset.images, dataset.reader, tmp_path / parts)
        return plan(combine_fingerprint(dataset.images, tmp_path / parts))

    raw = nnunet_folders / "nnUNet_raw"
    with_labels = plans_of(write_dataset(raw, n_pool=3, n_test=0), "labels")
    with_noise = plans_of(write_dataset(raw, n_pool=3, n_test=0, label_of=noise), "noise")
    shutil.rmtree(raw / NAME / "labelsTr")
    without = plans_of(raw / NAME, "without")
    assert with_labels == with_noise == without
