"""Saved softmax outputs: sums worked by hand, the crop of nnU-Net's own export, every kind of file that is unusable."""

import csv
import json
import math
import pickle
import re
import subprocess
import sys
import zipfile
from dataclasses import astuple
from pathlib import Path

import blosc2
import numpy as np
import pytest

from nnunet_assft.active.metrics import VoxelSums, dkd, query_score, temperature, voxel_sums
from nnunet_assft.active.scoring import saved_softmax, softmax_files
from nnunet_assft.active.scoring.saved_softmax import read_embeddings, score_file, score_folder
from nnunet_assft.active.scoring.softmax_files import B2ND, NPZ, bytes_held, open_softmax, slabs
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import here, in_processes
from nnunet_assft.runtime.csv_files import write_csv

COLUMNS = [
    *("case", "voxels", "cropped", "entropy", "least_confidence", "margin", "asd", "asd_mean", "asd_sum"),
    *("confidence", "confidence_foreground_mean", "foreground_voxels"),
]
FOUR_VOXELS = np.array([[0.7, 0.2, 0.4, 1.0], [0.2, 0.5, 0.6, 0.0], [0.1, 0.3, 0.0, 0.0]]).reshape(3, 2, 1, 2)
H = [-sum(p * math.log(p) for p in voxel if p) for voxel in ((0.7, 0.2, 0.1), (0.2, 0.5, 0.3), (0.4, 0.6), (1.0,))]


SHUFFLED = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE]}


def save(folder: Path, case: str, probs: np.ndarray, ending: str = NPZ, **files: object) -> Path:
    """CASE.npz or CASE.b2nd, and CASE.pkl and plans.json if `box`, in transposed axes, and `forward` are given."""
    if ending == NPZ:
        np.savez_compressed(folder / f"{case}.npz", probabilities=probs)
    else:
        chunks = files.get("chunks", (1, *probs.shape[1:]))
        blosc2.asarray(probs, urlpath=str(folder / f"{case}.b2nd"), mode="w", chunks=chunks, cparams=SHUFFLED)
    if "forward" in files:
        forward: list[int] = files["forward"]  # type: ignore[assignment]
        (folder / "plans.json").write_text(json.dumps({"transpose_forward": forward}))
        properties = {
            "bbox_used_for_cropping": files["box"],
            "shape_before_cropping": tuple(probs.shape[1 + i] for i in forward),
        }
        (folder / f"{case}.pkl").write_bytes(pickle.dumps(properties))
    return folder / f"{case}{ending}"


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score in this process, which is faster, and where what a test has patched holds."""
    monkeypatch.setattr(saved_softmax, "in_processes", lambda n, never_here: here)


@pytest.fixture(params=[NPZ, B2ND])
def ending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of file; a b2nd is read one slice at a time."""
    monkeypatch.setattr(softmax_files, "SLAB_BYTES", 1)
    return str(request.param)


def flat(sums: VoxelSums) -> list[float]:
    return np.hstack(astuple(sums)).tolist()


def softmax(seed: int, n_classes: int = 3, shape: tuple[int, ...] = (3, 4, 5)) -> np.ndarray:
    p = np.exp(np.random.default_rng(seed).normal(0, 2, (n_classes, *shape)))
    return (p / p.sum(axis=0)).astype(np.float32)


def padded(inside: np.ndarray, shape: tuple[int, ...], start: tuple[int, ...]) -> np.ndarray:
    probs = np.zeros((len(inside), *shape), dtype=np.float32)
    probs[0] = 1
    probs[(slice(None), *(slice(a, a + n) for a, n in zip(start, inside.shape[1:], strict=True)))] = inside
    return probs


# Values ------------------------------------------------------------------------------------------------------------


def test_the_columns_of_four_voxels_worked_by_hand(tmp_path, ending):
    save(tmp_path, "a", FOUR_VOXELS, ending)
    [row] = score_folder(tmp_path, 1, 5).rows()  # tau = 3
    masked = (
        H[1] + H[2]
    )  # voxel 0: 0.7 / 3 = 0.233 is not below 0.2; voxel 1: 0.067 < 0.5; voxel 2: 0.133 < 0.6; voxel 3: no
    assert list(row) == COLUMNS
    assert row == pytest.approx(
        {
            "case": "a",
            "voxels": 4,
            "cropped": "no",
            "entropy": sum(H) / 4,
            "least_confidence": 1 - (0.7 + 0.5 + 0.6 + 1.0) / 4,
            "margin": (0.5 + 0.2 + 0.2 + 1.0) / 4,
            "asd": masked / 2,
            "asd_mean": masked / 4,
            "asd_sum": masked,
            "confidence": 0.2 + 0.2,
            "confidence_foreground_mean": 0.2,
            "foreground_voxels": 2,
        },
        abs=1e-12,
    )


def test_the_temperature_is_that_of_the_round(tmp_path):
    save(tmp_path, "a", np.array([[0.5, 0.9], [0.2, 0.1], [0.3, 0.0]]).reshape(3, 1, 1, 2))
    scores = [score_folder(tmp_path, r, 5) for r in (1, 5)]
    assert [s.tau for s in scores] == [3.0, 1.5]
    assert scores[0].cases[0].sums.mask_voxels == 1  # 0.5 / 3 < 0.3
    assert scores[1].cases[0].sums.mask_voxels == 0  # 0.5 / 1.5 is not
    assert scores[1].rows()[0]["asd"] == 0.0


def test_a_case_without_foreground_scores_zero(tmp_path):
    save(tmp_path, "a", padded(np.ones((2, 0, 0, 0)), (2, 3, 4), (0, 0, 0)))
    row = score_folder(tmp_path, 1, 1).rows()[0]
    assert (row["entropy"], row["asd"], row["confidence"], row["confidence_foreground_mean"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("chunks", [(1, 7, 6, 5), (3, 7, 6, 5), (2, 3, 4, 5), (1, 1, 2, 5)])
@pytest.mark.parametrize("slices", [1, 3, 7])
def test_npz_b2nd_and_the_array_itself_have_the_same_sums(tmp_path, monkeypatch, dtype, chunks, slices):
    probs = softmax(0, shape=(7, 6, 5)).astype(dtype)
    monkeypatch.setattr(softmax_files, "SLAB_BYTES", slices * probs[:, 0].nbytes)
    read = list(slabs(open_softmax(save(tmp_path, "b", probs, B2ND, chunks=chunks))))
    assert [slab.shape[1] for slab in read] == {1: [1] * 7, 3: [3, 3, 1], 7: [7]}[slices]
    expected = voxel_sums(probs, 2.0)
    assert score_file(save(tmp_path, "a", probs), 2.0).sums == expected
    assert flat(score_file(tmp_path / "b.b2nd", 2.0).sums) == pytest.approx(flat(expected), rel=1e-12)


PEAK = """
import re, sys
from pathlib import Path
from nnunet_assft.active.scoring import saved_softmax, softmax_files

def peak_after(file):
    assert saved_softmax.score_file(Path(file), 2.0).cropped
    return 1024 * int(re.search("VmHWM: *([0-9]+) kB", Path("/proc/self/status").read_text().replace(chr(9), " "))[1])

softmax_files.SLAB_BYTES = 2**22
few, many = map(peak_after, sys.argv[1:])
print(many - few)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process is read from /proc")
def test_a_b2nd_is_never_held_whole_and_an_npz_only_once(tmp_path, ending):
    row = softmax(0, 4, (1, 1, 256))
    row[:, :, :, 255:] = np.array([1, 0, 0, 0]).reshape(4, 1, 1, 1)
    files = []
    for slices in (16, 64):  # of 1 MiB: what 16 of them take does not grow with the case, blocks in float64 among it
        probs = np.ascontiguousarray(np.broadcast_to(row, (4, slices, 256, 256)))
        files.append(
            save(tmp_path, f"{slices}", probs, ending, forward=[0, 1, 2], box=[[0, slices], [0, 256], [0, 255]])
        )
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < {B2ND: 0.25, NPZ: 1.2}[ending] * probs.nbytes


# The crop ----------------------------------------------------------------------------------------------------------


def test_the_crop_is_cut_in_transposed_axes(tmp_path, ending):
    inside = softmax(0, shape=(2, 3, 4))
    probs = padded(inside, (4, 6, 9), start=(1, 2, 5))
    box = [[5, 9], [1, 3], [2, 5]]  # x, z, y, since transpose_forward is (2, 0, 1)
    file = save(tmp_path, "a", probs, ending, forward=[2, 0, 1], box=box)
    scored = score_file(file, 2.0)
    assert scored.cropped
    assert flat(scored.sums) == pytest.approx(flat(voxel_sums(inside, 2.0)), rel=1e-12)
    diluted = voxel_sums(probs, 2.0)
    assert diluted.entropy_sum == pytest.approx(scored.sums.entropy_sum)
    assert diluted.voxels == 9 * scored.sums.voxels


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_crop_of_the_whole_image_changes_nothing(tmp_path, order):
    probs = np.asarray(softmax(0, shape=(20, 30, 40)), order=order)
    scored = score_file(save(tmp_path, "a", probs, forward=[2, 0, 1], box=[[0, 40], [0, 20], [0, 30]]), 2.0)
    assert scored.cropped
    assert scored.sums == voxel_sums(probs, 2.0)


@pytest.mark.parametrize("missing", ["a.pkl", "plans.json"])
def test_without_either_file_all_voxels_count(tmp_path, missing):
    file = save(
        tmp_path, "a", padded(softmax(0, shape=(2, 2, 2)), (4, 4, 4), (0, 0, 0)), forward=[0, 1, 2], box=[[0, 2]] * 3
    )
    (tmp_path / missing).unlink()
    scored = score_file(file, 2.0)
    assert (scored.cropped, scored.sums.voxels) == (False, 64)


@pytest.mark.parametrize("forward", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_the_sums_of_nnunets_own_export_are_those_of_the_cropped_logits(tmp_path, forward):
    torch = pytest.importorskip("torch")
    sitk = pytest.importorskip("SimpleITK")
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "architecture": {},
        "spacing": [(2.0, 1.0, 1.5)[axis] for axis in forward],  # of the image: nothing is resampled
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
    }
    for kind in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{kind}_kwargs"] = {**resampling, "is_seg": kind == "seg"}
    plans = {
        "transpose_forward": forward,
        "transpose_backward": np.argsort(forward).tolist(),
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": configuration},
    }
    dataset_json = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "file_ending": ".nii.gz",
    }
    manager = PlansManager(plans)
    volume = np.zeros((5, 7, 11), dtype=np.float32)
    volume[1:4, 2:6, 3:9] = np.random.default_rng(0).uniform(1, 2, (3, 4, 6))
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing((1.5, 1.0, 2.0))
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    data, properties = SimpleITKIO().read_images([str(tmp_path / "image.nii.gz")])
    preprocessed, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        data, None, properties, manager, manager.get_configuration("3d_fullres"), dataset_json
    )
    logits = torch.randn((3, *preprocessed.shape[1:]), generator=torch.Generator().manual_seed(0)) * 2

    export_prediction_from_logits(
        logits,
        properties,
        manager.get_configuration("3d_fullres"),
        manager,
        dataset_json,
        str(tmp_path / "case"),
        True,
        1,
    )
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    scored = score_file(tmp_path / "case.npz", temperature(2, 5))

    expected = voxel_sums(torch.softmax(logits, 0).numpy(), temperature(2, 5))
    assert scored.cropped
    assert scored.sums.voxels == expected.voxels == 3 * 4 * 6
    assert scored.sums.class_voxels == expected.class_voxels
    assert scored.sums.mask_voxels == expected.mask_voxels
    for name in ("entropy_sum", "top1_sum", "margin_sum", "masked_entropy_sum", "foreground_margin_sum"):
        assert getattr(scored.sums, name) == pytest.approx(getattr(expected, name), rel=1e-6)


@pytest.mark.parametrize(
    ("forward", "box", "expected"),
    [
        ([0, 1, 2], [[0, 2], [0, 2], [0, 9]], "not inside shape"),
        ([0, 1, 2], [[1, 1], [0, 2], [0, 2]], "not inside shape"),
        ([0, 1, 2], [[0, 2], [0, 2]], "expected files of one prediction"),
        ([0, 1, 2], [[0, 1], [0, 2], [0, 2]], "background is not 1"),
        ([0, 1, 2], "nonsense", "was not written by nnUNetv2_predict"),
    ],
)
def test_a_crop_that_does_not_fit_is_refused(tmp_path, ending, forward, box, expected):
    file = save(
        tmp_path, "a", padded(softmax(0, shape=(2, 2, 2)), (3, 4, 5), (0, 0, 0)), ending, forward=forward, box=box
    )
    with pytest.raises(ValueError, match=expected):
        score_file(file, 2.0)


def test_a_pkl_of_another_image_or_another_program_is_refused(tmp_path):
    file = save(
        tmp_path, "a", padded(softmax(0, shape=(2, 2, 2)), (3, 4, 5), (0, 0, 0)), forward=[0, 1, 2], box=[[0, 2]] * 3
    )
    (tmp_path / "plans.json").write_text('{"transpose_forward": [2, 0, 1]}')
    with pytest.raises(ValueError, match=r"a.pkl has shape \(3, 4, 5\)"):
        score_file(file, 2.0)
    for content, why in (
        (b"\x80\x05 cut off", "invalid load key|ran out|truncated"),
        (pickle.dumps(softmax(0)), "it holds a ndarray in place of properties"),  # of nnUNetv2_ensemble
        (pickle.dumps({"crop_bbox": [[0, 2]] * 3}), "it lacks bbox_used_for_cropping"),  # of nnU-Net v1
    ):
        (tmp_path / "a.pkl").write_bytes(content)
        with pytest.raises(ValueError, match=rf"^a\.pkl was not written by nnUNetv2_predict of nnU-Net v2 \(.*({why})"):
            score_file(file, 2.0)


@pytest.mark.parametrize("axes", ["[0, 1]", "3", '["a", 1, 2]', "[0.0, 1.0, 2.0]"])
def test_axes_that_are_none_stop_everything(tmp_path, axes):
    save(tmp_path, "a", softmax(0))
    (tmp_path / "plans.json").write_text(f'{{"transpose_forward": {axes}}}')
    with pytest.raises(AssftError, match="transpose_forward"):
        score_folder(tmp_path, 1, 5)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_plans_that_are_not_nnunets_stop_everything(tmp_path, text):
    save(tmp_path, "a", softmax(0))
    (tmp_path / "plans.json").write_text(text)
    with pytest.raises(AssftError, match="transpose_forward"):
        score_folder(tmp_path, 1, 5)


# Files that cannot be used -----------------------------------------------------------------------------------------


def break_file(folder: Path, kind: str, ending: str = NPZ) -> None:
    """bad.npz or bad.b2nd with something wrong."""
    probs = softmax(9)
    with_nan = probs.copy()
    with_nan[0, 0, 0, 0] = np.nan
    arrays = {
        "ndim": probs[:, 0].copy(),
        "no voxel": probs[:, :0].copy(),
        "labels": np.ones((3, 3, 4, 5), dtype=np.int64),
        "nan": with_nan,
        "logits": np.log(probs),
        "sigmoid": np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32),
        "one region": np.random.default_rng(0).random((1, 3, 4, 5), dtype=np.float32),
        "channels": softmax(9, n_classes=4),
    }
    file = save(folder, "bad", arrays.get(kind, probs), ending)
    content = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "damaged":
        middle = len(content) // 2
        file.write_bytes(
            content[:middle] + bytes(255 - byte for byte in content[middle : middle + 8]) + content[middle + 8 :]
        )
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "key":
        np.savez(file, softmax=probs)
    elif kind == "other key":
        np.savez(file, probs)
    elif kind == "objects":
        np.savez(file, probabilities=np.array([{}, None], dtype=object))
    elif kind == "header":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("probabilities.npy", b"\x93NUMPY\x01\x00\x0a\x00{'shape': (")
    elif kind == "list of chunks":
        file.unlink()
        blosc2.SChunk(data=probs, urlpath=str(file))
    elif kind == "saved twice":
        save(folder, "bad", probs, NPZ)


BROKEN = [
    ("truncated", NPZ, "not a complete npz file"),
    ("truncated", B2ND, r"cannot be read as .b2nd, damaged or truncated \("),
    ("damaged", NPZ, r"cannot be read as .npz, damaged or truncated \(Bad CRC-32"),
    ("damaged", B2ND, "sums to 1 .* only within .* the file is damaged"),
    ("empty", NPZ, "it is empty or holds zeros only"),
    ("empty", B2ND, "it is empty or holds zeros only"),
    ("pointer", NPZ, "it is a pointer of Git LFS and not the file itself"),
    ("key", NPZ, "the array is called softmax, as nnU-Net v1 writes it, which holds the crop .* without bad.pkl"),
    ("other key", NPZ, "found arr_0; expected probabilities"),
    ("objects", NPZ, "Object arrays"),
    ("no voxel", NPZ, r"expected \(C, Z, Y, X\)"),
    ("header", NPZ, "cannot be read as .npz"),
    ("list of chunks", B2ND, "something else than an array of numbers"),
    ("saved twice", B2ND, "as bad.npz and bad.b2nd; expected only one"),
    *(
        (kind, ending, expected)
        for ending in (NPZ, B2ND)
        for kind, expected in {
            "ndim": r"expected \(C, Z, Y, X\)",
            "labels": "int64",
            "nan": "NaN",
            "logits": "Apply softmax",
            "sigmoid": "region-based",
            "one region": "region-based",
            "channels": "4 channels, but 3 in other cases",
        }.items()
    ),
]


@pytest.mark.parametrize(("kind", "ending", "expected"), BROKEN)
def test_a_case_that_cannot_be_used_is_named_and_the_rest_is_scored(tmp_path, kind, ending, expected):
    for i, case in enumerate(("z", "a")):
        save(tmp_path, case, softmax(i))
    break_file(tmp_path, kind, ending)
    scores = score_folder(tmp_path, 1, 5)
    assert [case.case for case in scores.cases] == ["a", "z"]
    assert list(scores.findings) == ["bad"]
    assert re.search(expected, scores.findings["bad"])
    assert "\n" not in scores.findings["bad"]


@pytest.mark.parametrize("target", ["gone.npz", "bad.npz"], ids=["to nothing", "to itself"])
def test_a_link_that_leads_nowhere_is_a_finding(tmp_path, target):
    save(tmp_path, "a", softmax(0))
    (tmp_path / "bad.npz").symlink_to(target)
    scores = score_folder(tmp_path, 1, 5)
    assert [case.case for case in scores.cases] == ["a"]
    assert scores.findings == {
        "bad": f"a symbolic link to {target}, which does not exist. Restore that file or remove the link."
    }


def test_a_file_cut_off_anywhere_is_a_finding(tmp_path, ending):
    content = save(tmp_path, "a", softmax(0, shape=(8, 16, 16)), ending).read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / f"a{ending}").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"truncated|it is empty"):
            score_file(tmp_path / f"a{ending}", 2.0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of a NaN in float16
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("ending", [NPZ, B2ND])
def test_a_byte_that_changed_is_a_finding_or_too_small_to_matter(tmp_path, monkeypatch, ending, dtype):
    """An npz has checksums, a b2nd has none: a change that leaves a softmax within the tolerance may pass there.

    Changes of bytes 185 and 190 crash blosc2 4.3.3, the last one for Python 3.10.
    """
    monkeypatch.setattr(saved_softmax, "in_processes", in_processes)
    probs = softmax(0, shape=(8, 16, 16)).astype(dtype)
    content = save(tmp_path, "sound", probs, ending).read_bytes()
    positions = [*range(0, 400, 3), 185, 190, *range(400, len(content), 149)]
    for position in positions:
        changed = content[:position] + bytes([content[position] ^ 0x24]) + content[position + 1 :]
        (tmp_path / f"at_{position:05}{ending}").write_bytes(changed)
    found = score_folder(tmp_path, 1, 5)
    assert "sound" in (case.case for case in found.cases)
    for case in found.cases:
        assert flat(case.sums)[:3] == pytest.approx(
            flat(voxel_sums(probs, found.tau))[:3], rel=1e-12 if ending == NPZ else 1e-3
        )
    assert len(found.findings) > len(positions) // 4


def test_a_case_too_large_for_the_memory_is_a_finding(tmp_path, monkeypatch, ending):
    save(tmp_path, "a", softmax(0), ending)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "load", no_memory)
    monkeypatch.setattr(blosc2.blosc2_ext, "open", no_memory)
    assert "-np 1" in score_folder(tmp_path, 1, 5).findings["a"]


def test_a_folder_without_a_case_is_an_error(tmp_path):
    (tmp_path / "._a.npz").write_bytes(b"left by another system")
    with pytest.raises(AssftError, match="--save_probabilities"):
        score_folder(tmp_path, 1, 5)
    with pytest.raises(AssftError, match="is not a folder"):
        score_folder(tmp_path / "nowhere", 1, 5)


@pytest.mark.parametrize("r", [-1, 0, 6])
def test_a_round_outside_is_an_error(tmp_path, r):
    with pytest.raises(AssftError, match=f"round {r} of 5"):
        score_folder(tmp_path, r, 5)


# Embeddings --------------------------------------------------------------------------------------------------------


def save_embeddings(file: Path, ids: list[str], /, **other: object) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pretrained, latest = rng.normal(size=(2, len(ids), 4))
    np.savez(file, **{"ids": np.array(ids), "pretrained": pretrained, "latest": latest, **other})
    return pretrained, latest


def test_embeddings_in_any_order_give_the_query_of_the_metrics(tmp_path):
    cases = ["a", "b", "c", "d", "e"]
    for i, case in enumerate(cases):
        save(tmp_path, case, softmax(i))
    ids = ["e", "extra", "c", "a", "d", "b"]
    pretrained, latest = save_embeddings(tmp_path / "embeddings.npz", ids)
    scores = score_folder(tmp_path, 3, 5, embeddings_file=tmp_path / "embeddings.npz")
    rows = scores.rows()
    order = [ids.index(case) for case in cases]
    expected_dkd = dkd(pretrained[order], latest[order], cases)
    q = query_score(expected_dkd, np.array([row["asd"] for row in rows]))
    assert list(rows[0]) == [*COLUMNS, "pakd", "pd", "dkd", "q", "query_rank"]
    assert [row["dkd"] for row in rows] == expected_dkd.tolist()
    assert [row["dkd"] for row in rows] == [row["pakd"] * row["pd"] for row in rows]
    assert [row["q"] for row in rows] == q.tolist()
    ranked = sorted(range(5), key=lambda i: (-q[i], -expected_dkd[i], cases[i]))
    assert [cases[i] for i in ranked] == list(scores.query.ids)
    assert [rows[i]["query_rank"] for i in ranked] == [1, 2, 3, 4, 5]


def test_a_case_that_cannot_be_used_takes_no_part_in_the_query(tmp_path):
    for i, case in enumerate(("a", "b", "c")):
        save(tmp_path, case, softmax(i))
    save_embeddings(tmp_path / "e.npz", ["a", "b", "bad", "c"])
    before = score_folder(tmp_path, 1, 5, embeddings_file=tmp_path / "e.npz").rows()
    break_file(tmp_path, "nan")
    assert score_folder(tmp_path, 1, 5, embeddings_file=tmp_path / "e.npz").rows() == before


@pytest.mark.parametrize(
    ("ids", "other", "expected"),
    [
        (["a"], {}, "no row for b, c;"),
        (["a", "b", "c", "a"], {}, "a occurs more than once"),
        (["a", "b", "c"], {"latest": np.ones((3, 5))}, "expected floats"),
        (["a", "b", "c"], {"pretrained": np.ones((2, 4)), "latest": np.ones((2, 4))}, "expected floats"),
        (["a", "b", "c"], {"latest": np.array([[1.0] * 4, [np.nan] * 4, [1.0] * 4])}, "NaN or inf in the row of b"),
        (["a", "b", "c"], {"ids": np.arange(3)}, "expected \\(N,\\) strings"),
        (["a", "b", "c"], {"ids": np.array(["a", "b", "c"], dtype=object)}, "Object arrays"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(tmp_path, ids, other, expected):
    save_embeddings(tmp_path / "e.npz", ids, **other)
    with pytest.raises(AssftError, match=expected):
        read_embeddings(tmp_path / "e.npz", ["a", "b", "c"])


def test_an_embeddings_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(AssftError, match="does not exist"):
        read_embeddings(tmp_path / "e.npz", ["a"])
    np.savez(tmp_path / "e.npz", ids=np.array(["a"]))
    with pytest.raises(AssftError, match="no array named pretrained, latest"):
        read_embeddings(tmp_path / "e.npz", ["a"])
    save_embeddings(tmp_path / "e.npz", ["a"])
    with pytest.raises(AssftError, match="no row for 0, 1, 2, 3, 4 and 3 more"):
        read_embeddings(tmp_path / "e.npz", [str(i) for i in range(8)])


# The file ----------------------------------------------------------------------------------------------------------


def test_the_csv_is_sorted_and_exact(tmp_path):
    for i, case in enumerate(("case_10", "case_9", "case_1, left")):
        save(tmp_path, case, softmax(i))
    scores = score_folder(tmp_path, 2, 5)
    write_csv(tmp_path / "new" / "scores.csv", scores.rows())
    with open(tmp_path / "new" / "scores.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["case"] for row in read] == ["case_1, left", "case_10", "case_9"]
    for row, expected in zip(read, scores.rows(), strict=True):
        assert {name: float(row[name]) for name in COLUMNS[3:]} == {name: expected[name] for name in COLUMNS[3:]}
        assert row["voxels"] == "60"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["scores.csv"]


def test_the_number_of_processes_follows_from_the_size_of_the_files(tmp_path, monkeypatch):
    """An npz is unpacked as a whole; of a b2nd, two slabs are held; a damaged npz counts with its size."""
    probs = softmax(0, shape=(10, 100, 100))
    files = [save(tmp_path, "a", probs), save(tmp_path, "b", probs, B2ND)]
    assert [bytes_held(file) for file in files] == [probs.nbytes + 128, 2 * softmax_files.SLAB_BYTES]
    asked = []
    monkeypatch.setattr(saved_softmax, "number_of_processes", lambda n, **sizes: asked.append((n, sizes)) or 1)
    score_folder(tmp_path, 1, 5, num_processes=3)
    total = sum(file.stat().st_size for file in files)
    assert asked == [(3, {"total_bytes": total, "bytes_per_process": 2 * softmax_files.SLAB_BYTES})]
    files[0].write_bytes(b"damaged")
    assert bytes_held(files[0]) == 7
