"""One forward pass per case, held against nnU-Net's own predictor and against sums taken from a whole softmax."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_assft.active.context import open_context
from nnunet_assft.active.scoring import records, sliding_window
from nnunet_assft.active.scoring import scorer as scorer_module
from nnunet_assft.active.scoring.case_record import CaseRecord, ScoringRequest
from nnunet_assft.active.scoring.case_statistics import STATISTICS, compute_record
from nnunet_assft.active.scoring.prediction import _predict
from nnunet_assft.active.scoring.scorer import Scorer
from nnunet_assft.active.scoring.sliding_window import SlidingWindowPredictor, bytes_of_pass
from nnunet_assft.active.scoring.views import intensity_views
from nnunet_assft.active.state import Model
from nnunet_assft.errors import AssftError
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.network.interface import last_layer
from nnunet_assft.planning.preprocessing import load_image, load_properties
from nnunet_assft.runtime import precision
from nnunet_assft.runtime.cases import Once
from nnunet_assft.runtime.files import write_json
from tests.active.scoring.test_voxel_statistics import (
    assert_equal_sums,
    autograd,
    literal_mean_above_first_peak,
    softmax_of,
    sums_of_softmax,
)
from tests.conftest import blob_case, plan_experiment, set_folders, write_dataset

CPU = torch.device("cpu")
PATCH = (16, 32, 32)  # what is planned for the blobs


# Scorer ------------------------------------------------------------------------------------------------------------


def test_memory_of_a_large_ct_with_26_classes():
    """512 x 512 x 900: 61 bytes for each of 235,929,600 voxels, and 1 kB for each of 2,457,600 voxels of a window."""
    assert bytes_of_pass((1, 900, 512, 512), (96, 160, 160), 26) == 14_391_705_600 + 2_516_582_400
    assert bytes_of_pass((1, 50, 10, 10), (96, 160, 160), 2) == (4 + 4 + 2 + 3 + 1024) * 2_457_600  # padded


def test_looking_for_infinities_takes_three_bytes_for_a_logit():
    """Of 2 MB of logits: a copy without signs and the result, before the copy is given back."""
    logits = torch.zeros(1_000_000, dtype=torch.half)
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.isinf(logits)
    taken = {event.key: event.self_cpu_memory_usage for event in profile.key_averages()}
    assert taken["aten::abs"] == 2_000_000
    assert taken["aten::eq"] == pytest.approx(1_000_000, abs=10)


@pytest.mark.parametrize(("free", "fits"), [(16_908_288_000, True), (16_908_287_999, False)])
def test_where_logits_live_is_decided_before_the_first_window(planned_once, monkeypatch, free, fits):
    context, weights, _ = planned_once
    predictor = Scorer(context.plans, context.dataset.dataset_json, weights, CPU).predictor
    monkeypatch.setattr(predictor, "device", torch.device("cuda"))
    monkeypatch.setattr(predictor.configuration_manager, "configuration", {"patch_size": [96, 160, 160]})
    monkeypatch.setattr(type(predictor.label_manager), "num_segmentation_heads", 26)
    for name, value in (("memory_reserved", 3000), ("memory_allocated", 1000), ("mem_get_info", (free - 2000, 0))):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert predictor._fits((1, 900, 512, 512)) is fits


def test_logits_that_do_not_fit_into_the_memory_are_refused_before_the_first_window(planned_once, monkeypatch):
    """Of 24 x 40 x 40 voxels: three classes and the sum of the weights in float16, and 3 bytes to look for infinities;
    peak entropy takes three classes in float32 as well."""
    context, weights, _ = planned_once
    scorer, image = Scorer(context.plans, context.dataset.dataset_json, weights, CPU), np.zeros((1, 24, 40, 40), "f4")
    monkeypatch.setattr("nnunet_assft.volumes.headers.ALWAYS_FREE", 0)
    monkeypatch.setattr("nnunet_assft.volumes.headers.free_memory", lambda: free[-1])
    logits, moments = 38_400 * 11, 38_400 * 12
    free = [logits]
    assert scorer.logits(image).shape == (3, 24, 40, 40)
    for bytes_free, names in ((logits - 1, ()), (logits + moments - 1, ("peak_entropy",))):
        free.append(bytes_free)
        request = ScoringRequest(tau=1.0, statistics=names, seed=(0, 1))
        with pytest.raises(AssftError, match=r"^Case big: the predictions for its 24 x 40 x 40 voxels need 0.0 GB"):
            compute_record(scorer, "big", image, request)
    free.append(logits + moments)
    assert "peak_entropy" in compute_record(scorer, "big", image, request).statistics


@pytest.fixture(scope="module")
def planned_once(tmp_path_factory):
    """(context, weights, raw folder): blobs of one spacing, but case_00 coarser, larger and with a border of zeros."""
    root = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        yield plan_and_open(write_dataset(root / "nnUNet_raw"), "tiny")


def plan_and_open(blobs, preset):
    image, _ = blob_case(20, (14, 30, 28))
    image = np.pad(image, ((2, 3), (4, 0), (0, 5)))
    volume = sitk.GetImageFromArray(image)
    volume.SetSpacing((1.3, 1.2, 1.7))
    sitk.WriteImage(volume, str(blobs / "imagesTr" / "case_00_0000.nii.gz"))
    experiment = plan_experiment(901, preset=preset, epochs=1, iterations_per_epoch=1)
    context = open_context(experiment, CPU)
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
    return stock_predictor(context, weights, tmp_path / "model")


def stock_predictor(context, weights, folder):
    """What `predictor` gives."""
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
    batch = torch.from_numpy(window)[None].expand(
        2, -1, -1, -1, -1
    )  # alone, torch would take another algorithm, see `is_slow_alone`
    return scorer.network.encoder(batch)[-1][0].double().mean(dim=(1, 2, 3)).numpy()


def test_the_embedding_of_one_window_is_the_mean_of_the_bottleneck(planned, scorer):
    assert tuple(planned[0].plans["configurations"]["3d_fullres"]["patch_size"]) == PATCH
    image = random_image(*PATCH)
    embedding = compute_record(scorer, "a", image, ScoringRequest(2.0)).embedding
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
    np.testing.assert_allclose(compute_record(scorer, "a", image, ScoringRequest(2.0)).embedding, expected, rtol=1e-6)


@pytest.mark.parametrize("embedding", ["mean", "std", "mean_std"])
def test_an_embedding_is_the_mean_or_the_deviation_of_each_feature_map(planned, embedding):
    context, weights, _ = planned
    scorer = Scorer(context.plans, context.dataset.dataset_json, weights, CPU, embedding)
    image = random_image(24, 32, 32)
    pooled = []
    for z in (0, 8):  # the two windows
        batch = torch.from_numpy(np.ascontiguousarray(image[:, z : z + 16]))[None].expand(2, -1, -1, -1, -1)
        with torch.inference_mode():
            maps = scorer.network.encoder(batch)[-1][0].double().numpy().reshape(64, 1 * 2 * 2)
        mean = maps.sum(1) / 4
        std = np.sqrt(((maps - mean[:, None]) ** 2).sum(1) / 4)
        pooled.append({"mean": mean, "std": std, "mean_std": np.concatenate([mean, std])}[embedding])
    expected = np.mean(pooled, axis=0)
    np.testing.assert_allclose(scorer.embed("a", image).embedding, expected, rtol=1e-6)
    np.testing.assert_allclose(compute_record(scorer, "a", image, ScoringRequest(2.0)).embedding, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(16, 32, 32), (12, 20, 30), (24, 32, 48)])
def test_embed_gives_the_embedding_of_record(scorer, shape):
    image = random_image(*shape)
    alone = scorer.embed("a", image)
    np.testing.assert_allclose(
        alone.embedding, compute_record(scorer, "a", image, ScoringRequest(2.0)).embedding, rtol=1e-12
    )
    assert alone.sums is None


@pytest.mark.parametrize("shape", [(12, 20, 30), (24, 32, 48)])
def test_the_sums_are_those_of_nnunets_own_logits(scorer, predictor, shape, monkeypatch):
    monkeypatch.setattr(scorer.predictor, "in_batches", False)  # window by window, as nnU-Net
    image = random_image(*shape)
    logits = predictor(mirroring=False).predict_sliding_window_return_logits(torch.from_numpy(image))
    assert logits.shape == (3, *shape)
    record = compute_record(scorer, "a", image, ScoringRequest(1.7))
    assert_equal_sums(record.sums, sums_of_softmax(logits, 1.7))
    assert record.sums.voxels == np.prod(shape)  # the padding is not counted


@pytest.mark.parametrize("mirroring", [False, True])
def test_windows_in_batches_have_the_logits_of_windows_alone(scorer, monkeypatch, mirroring):
    assert scorer.predictor.in_batches  # preset tiny on a CPU
    image = random_image(20, 40, 36)
    together = scorer.logits(image, mirroring=mirroring)
    monkeypatch.setattr(scorer.predictor, "in_batches", False)
    alone = scorer.logits(image, mirroring=mirroring)
    # they are float16, and at the borders of windows weighted with numbers that hardly are one
    close = np.isclose(together.numpy(), alone.numpy(), rtol=2e-3, atol=2e-3)
    assert close.mean() > 0.999
    assert (
        np.isclose(together.numpy(), np.roll(alone.numpy(), 1, axis=2), rtol=2e-3, atol=2e-3).mean() < 0.5
    )  # which tells images apart


@pytest.mark.parametrize("mirroring", [False, True])
def test_segment_equals_nnunets_prediction_of_the_raw_image(planned, scorer, predictor, mirroring):
    context, _, raw = planned
    image, properties = context.dataset.reader.read_images([str(raw / "imagesTr" / "case_00_0000.nii.gz")])
    expected = predictor(mirroring=mirroring).predict_single_npy_array(image, properties)
    logits = scorer.logits(load_image(context.image_folder, "case_00"), mirroring=mirroring)
    found = scorer.segmentation(logits, load_properties(context.image_folder, "case_00"))
    assert found.shape == image.shape[1:] == (19, 34, 33)
    assert len(np.unique(expected)) > 1  # something to disagree about
    np.testing.assert_array_equal(found, expected)


def test_mirroring_ends_with_the_segmentation_it_was_asked_for(planned, scorer):
    context, _, _ = planned
    image = load_image(context.image_folder, "case_00")
    before = compute_record(scorer, "case_00", image, ScoringRequest(2.0))
    mirrored = scorer.logits(image, mirroring=True)
    assert not torch.equal(mirrored, scorer.logits(image))
    after = compute_record(scorer, "case_00", image, ScoringRequest(2.0))
    assert after.sums == before.sums
    np.testing.assert_array_equal(after.embedding, before.embedding)


@pytest.mark.parametrize("key", ["encoder.conv_init.weight", "decoder.heads.3.weight"])
def test_weights_that_are_not_finite_are_refused_with_the_case(planned, key):
    context, weights, _ = planned
    weights[key].fill_(torch.nan)
    broken = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
    with pytest.raises(AssftError, match="case case_05 is not finite"):
        compute_record(broken, "case_05", random_image(*PATCH), ScoringRequest(2.0))


def test_logits_beyond_float16_are_refused_with_the_case(planned):
    """nnU-Net weights them with up to 10 before it adds them up in float16, which ends at 65504."""
    context, weights, _ = planned
    weights["decoder.heads.3.bias"].fill_(7000)
    broken = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
    with pytest.raises(AssftError, match="case case_05 is not finite"):
        compute_record(broken, "case_05", random_image(*PATCH), ScoringRequest(2.0))


def test_a_prediction_that_is_not_finite_is_refused_with_the_case(planned):
    context, weights, _ = planned
    image = random_image(*PATCH)
    for value in (7000.0, torch.nan):  # nnU-Net refuses the first; the second would become background everywhere
        weights["decoder.heads.3.bias"].fill_(value)
        broken = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
        with pytest.raises(AssftError, match="case case_05 is not finite"):
            _predict(Once(lambda scorer=broken: scorer), True, False, ("case_05", image, {}))


def test_an_embedding_that_is_not_finite_is_refused_with_the_case(planned):
    context, weights, _ = planned
    weights["encoder.conv_init.weight"].fill_(torch.inf)
    broken = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
    with pytest.raises(AssftError, match="case case_05 is not finite"):
        broken.embed("case_05", random_image(*PATCH))


def test_a_network_is_scored_as_it_is_whatever_nnunet_compile_says(planned, scorer, monkeypatch):
    """A compiled network that was first run without hooks would run without them ever after."""
    context, weights, _ = planned
    monkeypatch.setenv("nnUNet_compile", "t")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
    image = random_image(*PATCH)
    compiled.logits(image)
    found = compute_record(compiled, "a", image, ScoringRequest(2.0))
    np.testing.assert_array_equal(found.embedding, compute_record(scorer, "a", image, ScoringRequest(2.0)).embedding)


def test_scoring_is_compiled_without_what_hooks_look_into(planned, scorer, monkeypatch):
    context, weights, _ = planned
    ran = []

    def compile_(function):
        def compiled(*inputs):
            ran.append(type(function.__self__).__name__)
            return function(*inputs)

        return compiled

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(scorer_module, "compiles", lambda device: True)
    compiled, image = Scorer(context.plans, context.dataset.dataset_json, weights, CPU), random_image(*PATCH)
    both = {"Encoder", "Decoder"}
    for statistics, parts in (((), both), (("gradients",), {"Encoder"}), ((), both)):
        ran.clear()
        found, expected = (compute_record(s, "a", image, ScoringRequest(2.0, statistics)) for s in (compiled, scorer))
        assert set(ran) == parts
        np.testing.assert_array_equal(found.embedding, expected.embedding)
        for name in statistics:
            np.testing.assert_array_equal(found.statistics[name], expected.statistics[name])
    ran.clear()
    compiled.embed("a", image)
    assert set(ran) == {"Encoder"}


def test_scoring_in_bfloat16(planned, scorer, monkeypatch):
    """On a CPU that counts as a GPU. Of three digits, two are the same."""
    image, request = random_image(*PATCH), ScoringRequest(2.0, statistics=("gradients",))
    exact = compute_record(scorer, "a", image, request)
    monkeypatch.setattr(precision, "GPU", "cpu")
    monkeypatch.setenv("nnUNet_assft_autocast", "bf16")
    for embedding, found in (
        (exact.embedding, compute_record(scorer, "a", image, request).embedding),
        (exact.embedding, scorer.embed("a", image).embedding),
    ):
        scale = np.abs(embedding).max()
        assert 1e-5 * scale < np.abs(found - embedding).max() < 0.05 * scale


def test_records_of_another_precision_are_not_taken(planned, monkeypatch):
    context, _, _ = planned
    monkeypatch.setattr(precision, "GPU", "cpu")
    monkeypatch.setenv("nnUNet_assft_autocast", "off")

    def embedding() -> np.ndarray:
        return records.embed(context, context.experiment.initial_model, ["case_01"], "precision")["case_01"].embedding

    exact = embedding()
    monkeypatch.setenv("nnUNet_assft_autocast", "bf16")
    assert not np.array_equal(embedding(), exact)
    monkeypatch.setenv("nnUNet_assft_autocast", "off")
    np.testing.assert_array_equal(embedding(), exact)


# nnU-Net's own network ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resenc(tmp_path_factory):
    """(folder, context, weights) of the preset `resenc_tiny`, whose patch need not have multiples of 16."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("resenc")
        set_folders(root, patch)
        context, weights, _ = plan_and_open(write_dataset(root / "nnUNet_raw"), "resenc_tiny")
        assert tuple(context.plans["configurations"]["3d_fullres"]["patch_size"]) == (24, 32, 24)
    return root, context, weights


@pytest.fixture
def resenc_scorer(resenc, monkeypatch):
    root, context, weights = resenc
    set_folders(root, monkeypatch)
    return Scorer(context.plans, context.dataset.dataset_json, weights, CPU)


def test_embedding_and_gradient_of_nnunets_own_network(resenc_scorer):
    """Literally: the last output of the encoder; the product of what the last layer gets with its error."""
    image = random_image(24, 32, 24)
    record = compute_record(resenc_scorer, "a", image, ScoringRequest(2.0, statistics=("gradients",)))
    network, batch = resenc_scorer.network, torch.from_numpy(image)[None].expand(2, -1, -1, -1, -1)
    inputs = []
    layer = network.decoder.seg_layers[2]
    hook = layer.register_forward_hook(lambda _, given, __: inputs.append(given[0][0]))
    with torch.inference_mode():
        bottleneck = network.encoder(batch)[3][0]
        network(batch)
    hook.remove()
    assert record.embedding.shape == (64,)
    np.testing.assert_allclose(record.embedding, bottleneck.double().mean(dim=(1, 2, 3)).numpy(), rtol=1e-6)
    np.testing.assert_allclose(resenc_scorer.embed("a", image).embedding, record.embedding, rtol=1e-12)
    gradient = record.statistics["gradients"]
    assert gradient.shape == (3, 4)
    expected = autograd(layer, inputs[0].clone())
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5 * abs(expected).max())


def test_nnunets_own_network_segments_as_nnunets_own_predictor(resenc, resenc_scorer, tmp_path):
    _, context, weights = resenc
    files = context.dataset.images["case_00"]
    image, properties = context.dataset.reader.read_images([str(file) for file in files])
    made = stock_predictor(context, weights, tmp_path / "model")(mirroring=True)
    assert type(made.network).__name__ == "ResidualEncoderUNet"
    expected = made.predict_single_npy_array(image, properties)
    logits = resenc_scorer.logits(load_image(context.image_folder, "case_00"), mirroring=True)
    found = resenc_scorer.segmentation(logits, load_properties(context.image_folder, "case_00"))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)


# Statistics --------------------------------------------------------------------------------------------------------

LARGE = (24, 32, 48)  # four windows: z at 0 and 8, y at 0, x at 0 and 16
ALONE = tuple(name for name in STATISTICS if name != "committee_spread")  # those of one network


def other_scorer(planned, seed: int) -> Scorer:
    """The same network with other weights."""
    context, weights, _ = planned
    generator = torch.Generator().manual_seed(seed)
    changed = {
        name: value * torch.empty_like(value).uniform_(0.7, 1.3, generator=generator)
        if value.is_floating_point()
        else value
        for name, value in weights.items()
    }
    return Scorer(context.plans, context.dataset.dataset_json, changed, CPU)


def statistic(scorer: Scorer, image: np.ndarray, name: str, committee: Sequence[Scorer] = (), **request) -> np.ndarray:
    return compute_record(scorer, "a", image, ScoringRequest(2.0, statistics=(name,), **request), committee).statistics[
        name
    ]


def bits_of(softmax: np.ndarray) -> np.ndarray:
    return -(softmax * np.log2(softmax)).sum(axis=0).ravel()


def test_only_what_was_requested_is_computed(scorer, monkeypatch):
    image = random_image(*LARGE)
    with monkeypatch.context() as patch:
        patch.setattr(scorer_module, "head_gradient", None)
        plain = compute_record(scorer, "a", image, ScoringRequest(2.0))
    assert plain.statistics == {}
    record = compute_record(scorer, "a", image, ScoringRequest(2.0, statistics=("class_entropies", "gradients")))
    assert list(record.statistics) == ["class_entropies", "gradients"]
    assert all(value.dtype == np.float64 for value in record.statistics.values())
    assert record.sums == plain.sums
    np.testing.assert_array_equal(record.embedding, plain.embedding)


@pytest.mark.parametrize(
    ("request_", "passes"),
    [
        (ScoringRequest(2.0), 1),
        (ScoringRequest(2.0, statistics=("class_entropies", "gradients")), 1),
        (ScoringRequest(2.0, statistics=("peak_entropy",)), 1 + 8),
    ],
)
def test_passes_through_the_network(scorer, request_, passes):
    calls = []
    scorer.network.register_forward_hook(lambda *call: calls.append(call))
    compute_record(scorer, "a", random_image(*PATCH), request_)
    assert len(calls) == passes


def test_nothing_is_collected_after_a_record(scorer):
    compute_record(scorer, "a", random_image(*PATCH), ScoringRequest(2.0, statistics=ALONE))
    assert scorer.predictor.collected == []
    assert not any(module._forward_hooks for module in scorer.network.modules())


@pytest.mark.parametrize("seed", [(0, 1), (0, 2)])
def test_peak_entropy_of_the_mean_over_intensity_views(scorer, seed):
    image = random_image(*PATCH)
    views = list(intensity_views(image, seed))
    mean = np.mean([softmax_of(scorer.logits(view)) for view in views], axis=0)
    assert len(views) == 8
    assert statistic(scorer, image, "peak_entropy", seed=seed) == pytest.approx(
        literal_mean_above_first_peak(bits_of(mean)), abs=1e-4
    )


def features_of(scorer: Scorer, window: np.ndarray) -> torch.Tensor:
    """(F, z, y, x), what the last layer of the network gets."""
    with torch.no_grad():
        levels = scorer.network.encoder(torch.from_numpy(window)[None])
        x = levels[-1]
        for layer, skip in zip(scorer.network.decoder.layers, levels[-2::-1], strict=True):
            x = layer(x, skip)
    return x[0]


def literal_gradient(scorer: Scorer, window: np.ndarray) -> np.ndarray:
    """(1/V) sum_v (p_v - onehot(argmax p_v)) h_v^T."""
    head = last_layer(scorer.network)
    h = features_of(scorer, window).double().flatten(1).numpy()
    z = head.weight.detach().double().numpy()[:, :, 0, 0, 0] @ h + head.bias.detach().double().numpy()[:, None]
    p = np.exp(z) / np.exp(z).sum(axis=0)
    return (p - np.eye(len(p))[p.argmax(axis=0)].T) @ h.T / h.shape[1]


def test_gradients_are_the_mean_of_those_of_the_windows(scorer):
    image = random_image(*LARGE)
    windows = [np.ascontiguousarray(image[:, z : z + 16, :, x : x + 32]) for z in (0, 8) for x in (0, 16)]
    expected = np.mean([literal_gradient(scorer, window) for window in windows], axis=0)
    found = statistic(scorer, image, "gradients")
    assert found.shape == (3, last_layer(scorer.network).in_channels)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * abs(expected).max())


def test_gradients_of_a_small_image_are_those_of_autograd_over_the_padded_window(scorer):
    image = random_image(12, 32, 26)
    features = features_of(scorer, np.pad(image, ((0, 0), (2, 2), (0, 0), (3, 3))))
    expected = autograd(last_layer(scorer.network), features)
    found = statistic(scorer, image, "gradients")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * abs(expected).max())


def test_class_entropies_are_those_of_the_blended_logits(scorer):
    image = random_image(*LARGE)
    p = softmax_of(scorer.logits(image))
    expected = [math.fsum((-(p * np.log(p)).sum(axis=0) * p[c]).ravel()) / p[0].size for c in range(3)]
    assert statistic(scorer, image, "class_entropies") == pytest.approx(expected, rel=1e-4)


def test_committee_spread_is_the_sd_over_its_members_alone(planned, scorer):
    image = random_image(*LARGE)
    members = [other_scorer(planned, 1), other_scorer(planned, 2)]
    expected = np.std([softmax_of(member.logits(image)) for member in members], axis=0).mean()
    assert expected > 1e-3
    assert statistic(scorer, image, "committee_spread", members) == pytest.approx(expected, rel=1e-4)


def test_a_committee_of_equals_has_no_spread_at_all(planned, scorer):
    assert (
        statistic(
            scorer, random_image(*PATCH), "committee_spread", [other_scorer(planned, 1), other_scorer(planned, 1)]
        )
        == 0.0
    )


def test_a_statistic_that_is_not_finite_is_refused_with_the_case(planned, scorer):
    context, weights, _ = planned
    weights["encoder.conv_init.weight"].fill_(torch.nan)
    broken = Scorer(context.plans, context.dataset.dataset_json, weights, CPU)
    with pytest.raises(AssftError, match="case case_05 is not finite"):
        compute_record(
            scorer, "case_05", random_image(*PATCH), ScoringRequest(2.0, statistics=("committee_spread",)), [broken]
        )


def test_a_window_for_which_the_memory_is_too_small_is_computed_again_alone(scorer, monkeypatch):
    """The logits are moved to the memory of the processor, and what was collected in the failed window is dropped."""
    image, request = random_image(*LARGE), ScoringRequest(2.0, statistics=("gradients",))
    undisturbed = compute_record(scorer, "a", image, request)
    monkeypatch.setattr(SlidingWindowPredictor, "_fits", lambda self, shape: True)
    monkeypatch.setattr(sliding_window, "CPU", torch.device("cuda"))  # so that the device of this test counts as a GPU
    calls = []

    def fail_in_the_third_window(*call: object) -> None:
        calls.append(call)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("out of memory")

    scorer.network.register_forward_hook(fail_in_the_third_window)
    record = compute_record(scorer, "a", image, request)
    assert len(calls) == 4 + 1
    assert record.sums == undisturbed.sums
    np.testing.assert_array_equal(record.embedding, undisturbed.embedding)
    np.testing.assert_array_equal(record.statistics["gradients"], undisturbed.statistics["gradients"])


def test_memory_that_is_exhausted_in_the_memory_of_the_processor_is_an_error(scorer):
    def fail(*call: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    scorer.network.register_forward_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.logits(random_image(*LARGE))


def test_a_network_that_has_diverged_goes_through_the_windows_once(scorer):
    calls = []
    scorer.network.register_forward_hook(lambda *call: calls.append(call) or call[-1] * torch.inf)
    with pytest.raises(AssftError, match="case a is not finite"):
        compute_record(scorer, "a", random_image(*LARGE), ScoringRequest(2.0))
    assert len(calls) == 4


def test_mirroring_is_off_again_after_a_failure(scorer):
    def fail(*call: object) -> None:
        raise ValueError("failed")

    scorer.network.register_forward_hook(fail)
    with pytest.raises(ValueError, match="failed"):
        scorer.logits(random_image(*PATCH), mirroring=True)
    assert not scorer.predictor.use_mirroring


@pytest.fixture
def asked(monkeypatch):
    """The requests that reached a network; the records of that network say nothing."""
    requests = []

    def compute(
        scorer: Scorer, case: str, image: np.ndarray, request: ScoringRequest, committee: Sequence[Scorer]
    ) -> CaseRecord:
        requests.append(request)
        return CaseRecord(case, np.array([1.0]), None)

    monkeypatch.setattr(records, "open_scorer", lambda *_: None)
    monkeypatch.setattr(records, "compute_record", compute)
    return requests


@pytest.mark.parametrize("change", [{"tau": 3.0}, {"statistics": ("class_entropies",)}, {"seed": (0, 2)}])
def test_a_record_made_for_another_request_is_not_taken(planned, asked, change):
    context, _, _ = planned
    first = ScoringRequest(2.0, statistics=("gradients",), seed=(0, 1))
    other = dataclasses.replace(first, **change)
    assert other != first
    for request in (first, first, other, other):
        model = Model("initial", "no file", "0f" * 32)
        records.score(context, model, ["case_00"], request, f"other_{next(iter(change))}")
    assert asked == [first, other]


def test_a_record_of_another_network_or_committee_is_not_taken(planned, asked):
    context, _, _ = planned
    request = ScoringRequest(2.0, statistics=("committee_spread",))
    for of_model, of_member in (("0f", "1f"), ("0f", "1f"), ("0f", "2f"), ("0f", "2f"), ("3f", "2f")):
        model = Model("initial", "no file", of_model * 32)
        committee = {"member_1": Model("member_1", "no file", of_member * 32)}
        records.score(context, model, ["case_00"], request, "other_committee", committee)
    assert len(asked) == 3
