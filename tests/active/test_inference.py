"""One forward pass per case, held against nnU-Net's own predictor and against sums taken from a whole softmax."""

import dataclasses
import io

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_assft.active import inference, metrics
from nnunet_assft.active.experiment import create_experiment
from nnunet_assft.active.inference import CaseRecord, Scorer, voxel_sums_of_logits
from nnunet_assft.active.nnunet_io import load_weights
from nnunet_assft.active.rounds import open_context
from nnunet_assft.errors import AssftError
from nnunet_assft.files import write_json
from nnunet_assft.planning.preprocessing import load_image, load_properties
from tests.conftest import blob_case, write_dataset

CPU = torch.device("cpu")
PATCH = (16, 32, 32)  # what is planned for the blobs


# voxel_sums_of_logits --------------------------------------------------------------------------------------------------


def random_logits(n_classes: int, dtype: torch.dtype, shape: tuple[int, int, int] = (5, 6, 7)) -> torch.Tensor:
    """In steps of one half, so that many voxels are tied."""
    generator = torch.Generator().manual_seed(n_classes)
    return (2 * torch.randn(n_classes, *shape, generator=generator)).round().div(2).to(dtype)


def sums_of_softmax(logits: torch.Tensor, tau: float) -> metrics.VoxelSums:
    return metrics.voxel_sums(torch.softmax(logits.double(), dim=0).numpy(), tau)


def assert_equal_sums(found: metrics.VoxelSums, expected: metrics.VoxelSums) -> None:
    for name, value in dataclasses.asdict(expected).items():
        if isinstance(value, float):
            assert getattr(found, name) == pytest.approx(value, rel=1e-5, abs=1e-5), name
        else:
            assert getattr(found, name) == value, name


@pytest.mark.parametrize("tau", [1.0, 1.97609, 3.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("n_classes", [2, 3, 26])
def test_sums_of_logits_equal_sums_of_their_softmax(n_classes, dtype, tau):
    logits = random_logits(n_classes, dtype)
    assert_equal_sums(voxel_sums_of_logits(logits, tau), sums_of_softmax(logits, tau))


@pytest.mark.parametrize("n_classes", [2, 3, 26])
def test_many_blocks_give_the_same_sums_as_one(n_classes, monkeypatch):
    logits = random_logits(n_classes, torch.float32)
    whole = voxel_sums_of_logits(logits, 2.0)
    monkeypatch.setattr(inference, "VOXELS_PER_BLOCK", 11)  # 210 voxels: 19 blocks and one voxel
    assert_equal_sums(voxel_sums_of_logits(logits, 2.0), whole)


def test_a_tie_of_background_and_structure_is_background_worked_by_hand():
    logits = torch.zeros(3, 1, 1, 2)  # voxel 1: all three tied at 1/3
    logits[:, 0, 0, 1] = torch.tensor([1.0, 3.0, 2.0]).log()  # voxel 2: 1/6, 1/2, 1/3
    entropy_2 = np.log(6) / 6 + np.log(2) / 2 + np.log(3) / 3
    assert_equal_sums(
        voxel_sums_of_logits(logits, 1.0),
        metrics.VoxelSums(
            voxels=2,
            entropy_sum=np.log(3) + entropy_2,
            top1_sum=1 / 3 + 1 / 2,
            margin_sum=1 / 6,
            masked_entropy_sum=entropy_2,
            mask_voxels=1,
            masked_entropy_sum_tau1=entropy_2,
            mask_voxels_tau1=1,
            foreground_margin_sum=1 / 6,
            foreground_voxels=1,
            class_voxels=(1, 1, 0),
        ),
    )
    warmer = voxel_sums_of_logits(logits, 1.01)  # 1/3 / 1.01 < 1/3: the tied voxel is in the mask now
    assert (warmer.mask_voxels, warmer.mask_voxels_tau1, warmer.foreground_voxels) == (2, 1, 1)


def test_the_second_probability_may_be_that_of_background():
    logits = torch.tensor([0.3, 0.6, 0.1]).log().reshape(3, 1, 1, 1)
    assert voxel_sums_of_logits(logits, 1.0).foreground_margin_sum == pytest.approx(0.3)


def test_logits_are_left_alone():
    logits = random_logits(3, torch.float32)
    before = logits.clone()
    voxel_sums_of_logits(logits, 2.0)
    assert torch.equal(logits, before)


# CaseRecord ------------------------------------------------------------------------------------------------------------

MADE_FROM = {"model": "0f" * 32, "tau": 1.97609}


def big_record() -> CaseRecord:
    """The largest that exists: CT-FM's 512 features, 26 classes of millions of voxels."""
    embedding = np.random.default_rng(0).normal(size=512)
    logits = random_logits(26, torch.float32)
    sums = voxel_sums_of_logits(logits, 2.0)
    return CaseRecord("case_1", embedding, dataclasses.replace(sums, class_voxels=tuple(n + 10**8 for n in sums.class_voxels)))


@pytest.mark.parametrize("with_sums", [True, False])
def test_a_record_is_read_as_it_was_written(tmp_path, with_sums):
    record = big_record() if with_sums else CaseRecord("case_1", np.array([0.1, 1e-300, -3.0]), None)
    record.save(tmp_path / "records" / "case_1.npz", MADE_FROM)
    found = CaseRecord.load(tmp_path / "records" / "case_1.npz", MADE_FROM)
    assert found is not None
    assert (found.case, found.sums) == (record.case, record.sums)
    assert found.embedding.dtype == np.float64
    np.testing.assert_array_equal(found.embedding, record.embedding)
    assert [file.name for file in (tmp_path / "records").iterdir()] == ["case_1.npz"]


def test_a_record_is_a_few_kilobytes(tmp_path):
    big_record().save(tmp_path / "case_1.npz", MADE_FROM)
    assert (tmp_path / "case_1.npz").stat().st_size < 8000


@pytest.mark.parametrize("other", [{**MADE_FROM, "model": "1f" * 32}, {**MADE_FROM, "tau": 3.0}, {"model": MADE_FROM["model"]}])
def test_a_record_made_from_something_else_is_not_taken(tmp_path, other):
    big_record().save(tmp_path / "case_1.npz", MADE_FROM)
    assert CaseRecord.load(tmp_path / "case_1.npz", other) is None


def test_no_file_no_record(tmp_path):
    assert CaseRecord.load(tmp_path / "case_1.npz", MADE_FROM) is None


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_record_is_none(tmp_path, share):
    file = tmp_path / "case_1.npz"
    big_record().save(file, MADE_FROM)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert CaseRecord.load(file, MADE_FROM) is None


@pytest.mark.parametrize("content", [b"not a record at all", None])
def test_a_file_of_another_kind_is_none(tmp_path, content):
    if content is None:  # a sound npz of someone else
        buffer = io.BytesIO()
        np.savez(buffer, something=np.zeros(3))
        content = buffer.getvalue()
    (tmp_path / "case_1.npz").write_bytes(content)
    assert CaseRecord.load(tmp_path / "case_1.npz", MADE_FROM) is None


# Scorer ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned_once(tmp_path_factory):
    """(context, weights, raw folder): blobs of one spacing, but case_00 coarser, larger and with a border of zeros."""
    root = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        yield plan_and_open(write_dataset(root / "nnUNet_raw"))


def plan_and_open(blobs):
    image, _ = blob_case(20, (14, 30, 28))
    image = np.pad(image, ((2, 3), (4, 0), (0, 5)))
    volume = sitk.GetImageFromArray(image)
    volume.SetSpacing((1.3, 1.2, 1.7))
    sitk.WriteImage(volume, str(blobs / "imagesTr" / "case_00_0000.nii.gz"))
    experiment = create_experiment(901, preset="tiny", epochs=1, iterations_per_epoch=1)
    context = open_context(experiment, CPU)
    assert tuple(context.plans["configurations"]["3d_fullres"]["patch_size"]) == PATCH
    weights = load_weights(experiment.paths.initial_network)
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():  # as after a training: normalisations that differ from the identity
        if name.endswith("running_mean"):
            value.normal_(0, 0.3, generator=generator)
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=generator)
    return context, weights, blobs


@pytest.fixture
def planned(planned_once):
    """The same for a test that may change the weights."""
    context, weights, blobs = planned_once
    return context, {name: value.clone() for name, value in weights.items()}, blobs


@pytest.fixture
def scorer(planned):
    context, weights, _ = planned
    return Scorer(context.plans, context.dataset.dataset_json, weights, CPU)


@pytest.fixture
def predictor(planned, tmp_path):
    """nnU-Net's own predictor, from an ordinary model folder with the same weights."""
    context, weights, _ = planned
    folder = tmp_path / "model"
    write_json(folder / "plans.json", context.plans)
    write_json(folder / "dataset.json", context.dataset.dataset_json)
    (folder / "fold_0").mkdir()
    checkpoint = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainerASSFT",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")

    def make(*, mirroring: bool) -> nnUNetPredictor:
        made = nnUNetPredictor(use_mirroring=mirroring, device=CPU, allow_tqdm=False)
        made.initialize_from_trained_model_folder(str(folder), (0,))
        return made

    return make


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=(1, *shape)).astype(np.float32)


@torch.inference_mode()
def bottleneck_mean(scorer: Scorer, window: np.ndarray) -> np.ndarray:
    return scorer.network.encoder(torch.from_numpy(window)[None])[-1][0].double().mean(dim=(1, 2, 3)).numpy()


def test_the_embedding_of_one_window_is_the_mean_of_the_bottleneck(scorer):
    image = random_image(*PATCH)
    embedding = scorer.record("a", image, 2.0).embedding
    assert embedding.shape == (64,)
    assert embedding.dtype == np.float64
    np.testing.assert_allclose(embedding, bottleneck_mean(scorer, image), rtol=1e-6)


def test_a_small_image_is_padded_with_zeros_in_the_middle_of_the_patch(scorer):
    image = random_image(12, 32, 26)
    padded = np.pad(image, ((0, 0), (2, 2), (0, 0), (3, 3)))
    np.testing.assert_allclose(scorer.embed("a", image).embedding, bottleneck_mean(scorer, padded), rtol=1e-6)


def test_the_embedding_of_a_large_image_is_the_mean_over_its_windows(scorer):
    image = random_image(24, 32, 48)
    # half a patch from window to window: z at 0 and 8, y at 0, x at 0 and 16
    windows = [image[:, z : z + 16, :, x : x + 32] for z in (0, 8) for x in (0, 16)]
    slicers = scorer.predictor._internal_get_sliding_window_slicers(image.shape[1:])
    assert sorted((s[1].start, s[2].start, s[3].start) for s in slicers) == [(z, 0, x) for z in (0, 8) for x in (0, 16)]
    expected = np.mean([bottleneck_mean(scorer, np.ascontiguousarray(window)) for window in windows], axis=0)
    np.testing.assert_allclose(scorer.record("a", image, 2.0).embedding, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(16, 32, 32), (12, 20, 30), (24, 32, 48)])
def test_embed_gives_the_embedding_of_record(scorer, shape):
    image = random_image(*shape)
    alone = scorer.embed("a", image)
    np.testing.assert_allclose(alone.embedding, scorer.record("a", image, 2.0).embedding, rtol=1e-12)
    assert alone.sums is None


@pytest.mark.parametrize("shape", [(12, 20, 30), (24, 32, 48)])
def test_the_sums_are_those_of_nnunets_own_logits(scorer, predictor, shape):
    image = random_image(*shape)
    logits = predictor(mirroring=False).predict_sliding_window_return_logits(torch.from_numpy(image))
    assert logits.shape == (3, *shape)
    record = scorer.record("a", image, 1.7)
    assert_equal_sums(record.sums, sums_of_softmax(logits, 1.7))
    assert record.sums.voxels == np.prod(shape)  # the padding is not counted


@pytest.mark.parametrize("mirroring", [False, True])
def test_segment_equals_nnunets_prediction_of_the_raw_image(planned, scorer, predictor, mirroring):
    context, _, raw = planned
    image, properties = context.dataset.reader.read_images([str(raw / "imagesTr" / "case_00_0000.nii.gz")])
    expected = predictor(mirroring=mirroring).predict_single_npy_array(image, properties)
    found = scorer.segment(
        load_image(context.image_folder, "case_00"), load_properties(context.image_folder, "case_00"), mirroring=mirroring
    )
    assert found.shape == image.shape[1:] == (19, 34, 33)
    assert len(np.unique(expected)) > 1  # something to disagree about
    np.testing.assert_array_equal(found, expected)


def test_mirroring_ends_with_the_segmentation_it_was_asked_for(planned, scorer):
    context, _, _ = planned
    image, properties = load_image(context.image_folder, "case_00"), load_properties(context.image_folder, "case_00")
    before = scorer.record("case_00", image, 2.0)
    mirrored = scorer.segment(image, properties, mirroring=True)
    assert not np.array_equal(mirrored, scorer.segment(image, properties, mirroring=False))
    after = scorer.record("case_00", image, 2.0)
    assert after.sums == before.sums
    np.testing.assert_array_equal(after.embedding, before.embedding)


@pytest.mark.parametrize("key", ["encoder.conv_init.weight", "decoder.heads.3.weight"])
def test_weights_that_are_not_finite_are_refused_with_the_case(planned, key):
    context, weights, _ = planned
    weights[key].fill_(torch.nan)
    broken = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
    with pytest.raises(AssftError, match="case case_05 is not finite"):
        broken.record("case_05", random_image(*PATCH), 2.0)


def test_an_embedding_that_is_not_finite_is_refused_with_the_case(planned):
    context, weights, _ = planned
    weights["encoder.conv_init.weight"].fill_(torch.inf)
    broken = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
    with pytest.raises(AssftError, match="case case_05 is not finite"):
        broken.embed("case_05", random_image(*PATCH))
