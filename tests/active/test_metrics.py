"""Eqs. 1-26: values worked by hand, the worked examples, edge cases and refusals."""

import math
import warnings

import numpy as np
import pytest

from nnunet_assft.active import metrics
from nnunet_assft.active.metrics import VoxelSums
from tests.worked_examples import worked_example

CASE_A = [
    [0.7, 0.2, 0.5, 0.98],
    [0.2, 0.5, 0.5, 0.01],
    [0.1, 0.3, 0.0, 0.01],
]  # (C, V); voxel 2 is a tie with background


def near(expected: object) -> object:
    return pytest.approx(expected, rel=1e-9, abs=1e-9)


# Worked by hand ----------------------------------------------------------------------------------------------------


def test_dkd_worked_by_hand():
    """Angles to the prior (1, 0): 45, 90, 0 and 53.13 degrees. Ranks by PAKD: cases 1, 3, 0, 2."""
    e_pre = np.tile([1.0, 0.0], (4, 1))
    e_cur = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 4.0]])
    distance = metrics.pakd(e_pre, e_cur)
    root = math.sqrt(0.5)
    assert distance == near([1 - root, 1.0, 0.0, 0.4])
    third = (1 * (1 - 1.4 * root) + 2 * (1 - root)) / 3  # to (0.6, 0.8) with weight 1, to (0, 1) with weight 2
    fourth = (1 * (1 - root) + 2 * (1 - 0.6) + 3 * 1.0) / 6
    assert metrics.pairwise_dissimilarity(e_cur, distance) == near([third, 1.0, fourth, 0.2])
    assert metrics.dkd(e_pre, e_cur) == near([(1 - root) * third, 1.0, 0.0, 0.08])


def test_pd_weights():
    e = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # ranks 1, 2, 3; the third duplicates the second
    pakd = np.array([0.9, 0.8, 0.7])
    assert metrics.pairwise_dissimilarity(e, pakd) == near([1.0, 1.0, 2 / 3])
    assert metrics.pairwise_dissimilarity(e, pakd, pd_weights="reversed") == near([1.0, 1.0, 1 / 3])


@pytest.mark.parametrize(
    ("r", "n_rounds", "expected"),
    [(1, 1, 3.0), (1, 5, 3.0), (5, 5, 1.5), (2, 2, 1.5), (2, 4, 2.25), (3, 5, 1.976090708271)],
)
def test_temperature(r: int, n_rounds: int, expected: float):
    assert metrics.temperature(r, n_rounds) == near(expected)


@pytest.mark.parametrize(("r", "n_rounds"), [(0, 5), (6, 5), (-1, 5), (1, 0)])
def test_temperature_outside_the_rounds(r: int, n_rounds: int):
    with pytest.raises(ValueError, match=f"round {r} of {n_rounds}"):
        metrics.temperature(r, n_rounds)


def test_voxel_sums_worked_by_hand():
    sums = metrics.voxel_sums(np.array(CASE_A), 3.0)
    two = -(0.2 * math.log(0.2) + 0.5 * math.log(0.5) + 0.3 * math.log(0.3))  # voxel 1; voxel 2 has ln 2
    assert (sums.voxels, sums.mask_voxels, sums.mask_voxels_tau1, sums.foreground_voxels) == (4, 2, 1, 1)
    assert sums.class_voxels == (3, 1, 0)
    assert sums.top1_sum == near(0.7 + 0.5 + 0.5 + 0.98)
    assert sums.margin_sum == near(0.5 + 0.2 + 0.0 + 0.97)
    assert sums.masked_entropy_sum == near(two + math.log(2))
    assert sums.masked_entropy_sum_tau1 == near(two)
    assert sums.foreground_margin_sum == near(0.2)


def test_asd_and_confidence_worked_by_hand():
    case = np.array(CASE_A).reshape(3, 1, 2, 2)
    assert metrics.asd(case, 1, 5) == near(1.722800194625 / 2)
    assert metrics.asd(case, 1, 5, "mean") == near(1.722800194625 / 4)
    assert metrics.asd(case, 1, 5, "sum") == near(1.722800194625)
    assert metrics.asd_from_sums(metrics.voxel_sums(case, 3.0), tau1=True) == near(1.029653014065)
    assert metrics.confidence(case) == near(0.2)
    tie = np.array([[0.2, 0.0], [0.4, 0.5], [0.4, 0.5]]).reshape(3, 1, 1, 2)  # both voxels tie between classes 1 and 2
    assert metrics.confidence(tie) == 0.0


def test_nothing_but_background():
    sums = metrics.voxel_sums(np.stack([np.ones((2, 2, 2)), np.zeros((2, 2, 2))]), 3.0)
    assert [metrics.asd_from_sums(sums, reduction) for reduction in metrics.ASD_REDUCTIONS] == [0.0, 0.0, 0.0]
    assert [metrics.confidence_from_sums(sums, reduction) for reduction in metrics.CONFIDENCE_REDUCTIONS] == [0.0, 0.0]
    assert sums.entropy_sum == 0.0
    assert sums.margin_sum == 8.0


def test_rank01_and_minmax_worked_by_hand():
    scores = np.array([0.3, 0.1, 0.1, 0.9, 0.5, 0.5])
    assert metrics.rank01(scores) == near([0.4, 0.0, 0.0, 1.0, 0.7, 0.7])
    assert metrics.minmax(scores) == near([0.25, 0.0, 0.0, 1.0, 0.5, 0.5])
    assert metrics.rank01(np.array([0.2, 0.7, 0.7])) == near([0.0, 1.0, 1.0])
    for constant in (np.full(3, 1.0), np.array([3.0])):
        assert not metrics.rank01(constant).any()
        assert not metrics.minmax(constant).any()


def test_query_ties():
    dkd, asd = np.array([0.1, 0.4, 0.3, 0.2]), np.array([0.4, 0.1, 0.3, 0.2])
    assert metrics.query_score(dkd, asd) == near([1.0, 1.0, 4 / 3, 2 / 3])
    assert metrics.select_query(dkd, asd, 2).tolist() == [2, 1]  # cases 0 and 1 tie: the larger DKD wins
    assert metrics.select_query(dkd, asd, 9).tolist() == [2, 1, 0, 3]
    equal = np.ones(3)
    assert metrics.select_query(equal, equal, 2, ids=["b", "c", "a"]).tolist() == [2, 0]
    assert metrics.select_query(equal, equal, 3, ids=["case_9", "case_10", "case_1"]).tolist() == [
        2,
        1,
        0,
    ]  # as strings


def test_all_equal_asd_leaves_the_order_to_dkd():
    assert metrics.select_query(np.array([0.1, 0.3, 0.2]), np.zeros(3), 3).tolist() == [1, 2, 0]


def test_candidates_and_selection_worked_by_hand():
    confidence = np.array([0.9, 0.8, 0.5, 0.2])
    assert metrics.n_candidates(confidence, 2, tau_c=0.9, scale="none") == 3  # 2 * 0.9 / 0.6 = 3 exactly
    assert metrics.n_candidates(confidence, 1, tau_c=2.0) == 3  # 2 / (0.6 / 0.9) = 3 exactly
    assert metrics.n_candidates(confidence * 1e6, 1, scale="none") == 1  # the literal equations: K falls to n_select
    assert metrics.n_candidates(np.zeros(4), 1) == 4
    assert metrics.n_candidates(np.array([5e-324, 0.0]), 1, tau_c=1e300, scale="none") == 2
    e = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    chosen = metrics.rank_reliable(confidence, e, np.array([[2.0, 0.0]]), 2, tau_c=0.9, scale="none")
    assert chosen.candidates.tolist() == [0, 1, 2]
    assert chosen.indices.tolist() == [0, 2]
    np.testing.assert_allclose(chosen.reliability, [0.9, 0.0, 0.5, np.nan])
    np.testing.assert_allclose(chosen.distance, [0.0, 1.0, 0.0, np.nan])


def test_semantic_distance_worked_by_hand():
    distance = metrics.semantic_distance(np.array([[3, 4], [0, 1], [0, 0]]), np.array([[1, 0], [0, 2]]))
    assert distance == near([0.2, 0.0, 1.0])
    assert metrics.semantic_distance(np.array([[-1.0, 0.0]]), np.array([[1.0, 0.0]])) == near([2.0])


def test_medoid():
    e = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [1.0, 1.0]])
    assert metrics.medoid(e) == 3
    assert metrics.medoid(e[:2], ids=["b", "a"]) == 1  # two cases always tie
    assert metrics.medoid(np.zeros((3, 2)), ids=["b", "a", "c"]) == 1


# The worked examples -----------------------------------------------------------------------------------------------


def test_example_uncertainty_scalars():
    given_ = worked_example("uncertainty_scalars")
    scores: dict[str, dict[str, float]] = {"enpy": {}, "lcon": {}, "mmar": {}}
    for case, probs in given_["inputs"]["softmax"].items():
        sums, expected = metrics.voxel_sums(np.array(probs), 3.0), given_["expected"]["per_case"][case]
        scores["enpy"][case] = sums.entropy_sum / sums.voxels
        scores["lcon"][case] = 1 - sums.top1_sum / sums.voxels
        scores["mmar"][case] = sums.margin_sum / sums.voxels
        assert sums.entropy_sum == near(expected["entropy_sum"])
        assert {name: values[case] for name, values in scores.items()} == near(
            {name: expected[name] for name in scores}
        )
        for voxel, entropy in enumerate(expected["entropy_per_voxel_nats"]):
            assert metrics.voxel_sums(np.array(probs)[:, voxel : voxel + 1], 3.0).entropy_sum == near(entropy)
    for name, sign in (("enpy", -1), ("lcon", -1), ("mmar", 1)):
        order = sorted(scores[name], key=lambda case: (sign * scores[name][case], case))
        assert order == given_["expected"][f"query_order_{name}"]


def test_example_asd():
    softmax_of = worked_example("uncertainty_scalars")["inputs"]["softmax"]
    for case, of_case in worked_example("asd")["expected"].items():
        for name, expected in of_case.items():
            probs, tau = np.array(softmax_of[case]), float(name.removeprefix("tau_"))
            for reduction in metrics.ASD_REDUCTIONS:
                assert metrics.asd_from_sums(metrics.voxel_sums(probs, tau), reduction) == near(expected[reduction])
                if tau == 1:
                    assert metrics.asd_from_sums(metrics.voxel_sums(probs, 3.0), reduction, tau1=True) == near(
                        expected[reduction]
                    )
            inside = [metrics.voxel_sums(probs[:, v : v + 1], tau).mask_voxels for v in range(probs.shape[1])]
            assert inside == expected["mask"]


def test_example_confidence():
    softmax_of = worked_example("uncertainty_scalars")["inputs"]["softmax"]
    for case, expected in worked_example("confidence")["expected"].items():
        probs = np.array(softmax_of[case])
        for reduction in metrics.CONFIDENCE_REDUCTIONS:
            assert metrics.confidence(probs, reduction) == near(expected[reduction])
        for voxel in range(probs.shape[1]):
            sums = metrics.voxel_sums(probs[:, voxel : voxel + 1], 1.0)
            inside, top1 = expected["mask"][voxel], expected["top1"][voxel]
            assert (sums.foreground_voxels, sums.top1_sum) == (inside, near(top1))
            assert sums.margin_sum == near(top1 - expected["top2"][voxel])
            assert sums.foreground_margin_sum == near(inside * (top1 - expected["top2"][voxel]))


def scalars_of(sums: VoxelSums) -> dict[str, float]:
    return {
        "enpy": sums.entropy_sum / sums.voxels,
        "lcon": 1 - sums.top1_sum / sums.voxels,
        "mmar": sums.margin_sum / sums.voxels,
        **{f"asd_{name}": metrics.asd_from_sums(sums, name) for name in metrics.ASD_REDUCTIONS},
        **{f"confidence_{name}": metrics.confidence_from_sums(sums, name) for name in metrics.CONFIDENCE_REDUCTIONS},
        **{name: value for name, value in vars(sums).items() if name != "class_voxels"},
    }


def test_example_empty_foreground():
    given_ = worked_example("empty_foreground")
    found = scalars_of(metrics.voxel_sums(np.array(given_["inputs"]["softmax"]), given_["inputs"]["tau"]))
    assert {name: found[name] for name in given_["expected"]} == near(given_["expected"])


def test_example_streaming_pass():
    given_ = worked_example("streaming_pass")
    blocks = [metrics.voxel_sums(np.array(block), given_["inputs"]["tau"]) for block in given_["inputs"]["blocks"]]
    found = scalars_of(sum(blocks, VoxelSums.zero(3)))
    assert {name: found[name] for name in given_["expected"]} == near(given_["expected"])


def test_example_tau():
    for n_rounds, expected in worked_example("tau")["expected"].items():
        assert [metrics.temperature(r + 1, int(n_rounds)) for r in range(int(n_rounds))] == near(expected)


def test_example_dkd():
    given_ = worked_example("dkd")
    e_pre, e_cur = (np.array(given_["inputs"][name]) for name in ("pretrained", "latest"))
    expected, distance = given_["expected"], metrics.pakd(e_pre, e_cur)
    pd = metrics.pairwise_dissimilarity(e_cur, distance)
    assert distance == near(expected["pakd"])
    assert np.argsort(-distance).tolist() == expected["rank_order"]
    assert pd == near(expected["pd_by_case"])
    assert pd[expected["rank_order"]] == near(expected["pd_in_rank_order"])
    assert metrics.dkd(e_pre, e_cur) == near(expected["dkd"])


def test_example_pd_prefix_recurrence():
    given_ = worked_example("pd_prefix_recurrence")
    e = np.array(given_["inputs"]["embeddings_already_sorted_by_descending_pakd"])
    pakd = np.linspace(1, 0, len(e))
    literal, reverse = (metrics.pairwise_dissimilarity(e, pakd, pd_weights=name) for name in ("literal", "reversed"))
    assert literal == near(given_["expected"]["pd"])
    assert reverse == near(given_["expected"]["pd_reversed_weights"])


def test_example_zero_and_frozen_embeddings():
    given_ = worked_example("zero_and_frozen_embeddings")
    found = metrics.pakd(*(np.array(given_["inputs"][name]) for name in ("pretrained", "latest")))
    assert found == near(given_["expected"]["pakd"])


def test_example_rank_transform():
    given_ = worked_example("rank_transform")
    inputs = {name: np.array(values) for name, values in given_["inputs"].items()}
    assert metrics.minmax(inputs["scores"]) == near(given_["expected"]["minmax"])
    assert metrics.rank01(inputs["scores"]) == near(given_["expected"]["rank01"])
    for name in ("constant", "tie_at_max", "single"):
        assert metrics.rank01(inputs[name]) == near(given_["expected"][name])


def test_example_query_selection():
    given_ = worked_example("query_selection")
    dkd, asd = np.array(given_["inputs"]["dkd"]), np.array(given_["inputs"]["asd"])
    n_query, expected, second = given_["inputs"]["n_b"], given_["expected"], given_["second_call"]
    assert metrics.query_score(dkd, asd) == near(expected["q"])
    assert metrics.select_query(dkd, asd, n_query).tolist() == expected["selected"]
    assert metrics.select_query(dkd, asd, len(dkd)).tolist() == expected["full_order"]
    rest = np.array(second["eligible"])
    assert metrics.query_score(dkd[rest], asd[rest]) == near(second["q"])
    assert rest[metrics.select_query(dkd[rest], asd[rest], n_query)].tolist() == second["selected"]


@pytest.mark.parametrize(
    ("name", "scale"), [("pseudo_selection_foreground_mean", "none"), ("pseudo_selection_default", "max")]
)
def test_example_pseudo_selection(name: str, scale: str):
    given_ = worked_example(name)
    inputs, expected = given_["inputs"], given_["expected"]
    confidence, e, anchors = (np.array(inputs[key]) for key in ("confidence", "embeddings", "anchors"))
    arguments = (confidence, e, anchors, inputs["n_su"], inputs["tau_c"], scale)
    chosen = metrics.rank_reliable(*arguments)
    assert metrics.n_candidates(confidence, inputs["n_su"], inputs["tau_c"], scale) == expected["k"]
    assert chosen.candidates.tolist() == expected["candidates"]
    assert chosen.indices.tolist() == metrics.select_reliable(*arguments).tolist() == expected["selected"]
    reliability = [math.nan if value is None else value for value in expected["reliability"]]
    np.testing.assert_allclose(chosen.reliability, reliability, rtol=1e-9)
    inside = ~np.isnan(reliability)
    np.testing.assert_allclose(
        metrics.reliability(confidence, e, anchors)[inside], np.array(reliability)[inside], rtol=1e-9
    )
    if "semantic_distance_all" in expected:
        assert metrics.semantic_distance(e, anchors) == near(expected["semantic_distance_all"])


def test_example_candidate_count():
    for case in worked_example("candidate_count")["cases"]:
        scale = "max" if case["scaled_by_max"] else "none"
        assert metrics.n_candidates(np.array(case["confidence"]), case["n_su"], case["tau_c"], scale) == case["k"], case


def test_example_semantic_distance():
    given_ = worked_example("semantic_distance")
    found = metrics.semantic_distance(*(np.array(given_["inputs"][name]) for name in ("embeddings", "anchors")))
    assert found == near(given_["expected"]["distance"])


def test_example_medoid():
    given_ = worked_example("medoid")
    e = np.array(given_["inputs"]["pretrained"])
    assert metrics.summed_distance(e) == near(given_["expected"]["summed_distance"])
    assert metrics.medoid(e) == given_["expected"]["x_1"]


# Edge cases and refusals -------------------------------------------------------------------------------------------


def test_identical_cases():
    e = np.tile([0.3, -1.2, 2.5], (6, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to warn of: the encoder has moved
        dkd = metrics.dkd(np.ones((6, 3)), e, ids=list("fedcba"))
    assert dkd[5] > 0  # case a is the first rank
    assert not dkd[:5].any()  # exactly 0, no rounding noise that could order them
    assert metrics.select_query(dkd, np.zeros(6), 3, ids=list("fedcba")).tolist() == [5, 4, 3]
    assert metrics.select_reliable(np.ones(6), e, e[:1], 2, ids=list("fedcba")).tolist() == [5, 4]


def test_frozen_encoder_warns_and_the_id_decides():
    e = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.warns(UserWarning, match="PAKD is 0 for every case"):
        dkd = metrics.dkd(e, e.copy(), ids=list("dcba"))
    assert not dkd.any()
    assert metrics.select_query(dkd, np.ones(4), 4, ids=list("dcba")).tolist() == [3, 2, 1, 0]


def test_rounding_decides_nothing_for_a_frozen_encoder():
    e = np.random.default_rng(0).normal(size=(6, 320))
    with pytest.warns(UserWarning, match="PAKD is 0"):
        dkd = metrics.dkd(e, 3 * e)  # 8e-32 at most, but not 0
    assert metrics.select_query(dkd, np.zeros(6), 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_identical_cases_between_two_anchors_are_selected_by_id():
    """The matrix product of a row may round otherwise at another position; D then differs in its last digit."""
    rng = np.random.default_rng(2189)
    n, d, n_anchors = (int(rng.integers(*between)) for between in ((2, 40), (1, 40), (2, 9)))
    anchors = rng.normal(size=(n_anchors, d))
    between = anchors[0] / np.linalg.norm(anchors[0]) + anchors[1] / np.linalg.norm(anchors[1])
    assert metrics.select_reliable(np.ones(n), np.tile(between, (n, 1)), anchors, n).tolist() == list(range(n))


def test_one_case():
    one = np.array([[1.0, 2.0]])
    assert metrics.dkd(np.array([[1.0, 0.0]]), one) == near([1 - 1 / math.sqrt(5)])
    assert metrics.select_query(np.array([0.3]), np.array([0.1]), 5).tolist() == [0]
    assert metrics.query_score(np.array([0.3]), np.array([0.1])).tolist() == [0.0]
    assert metrics.select_reliable(np.array([3.0]), one, one, 5).tolist() == [0]
    assert metrics.medoid(one) == 0


def test_sums_of_other_classes_do_not_add_up():
    with pytest.raises(ValueError, match="3 and 2 classes"):
        VoxelSums.zero(3) + VoxelSums.zero(2)


UNIFORM = np.full((2, 1, 1, 4), 0.5)


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (np.zeros((1, 2, 2, 2)), "C >= 2"),
        (np.zeros((2, 0, 2, 2)), "C >= 2"),
        (np.zeros(5), "C >= 2"),
        (np.ones((2, 2, 2, 2), dtype=np.int64), "expected float softmax"),
        (np.ones((2, 1, 1, 4)), "Apply softmax"),
        (UNIFORM * [1, 1, 1, np.nan], "NaN or inf"),
        (UNIFORM * [1, 1, 1, np.inf], "NaN or inf"),
        (UNIFORM * [1, 1, 1, 1.004], "only within 0.004"),
        (UNIFORM + np.array([-0.6, 0.6]).reshape(2, 1, 1, 1), r"negative values \(-0.1\)"),
    ],
)
def test_refused_probabilities(probs: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        metrics.asd(probs, 1, 2)
    with pytest.raises(ValueError, match=message):
        metrics.confidence(probs)


def test_float16_may_sum_less_exactly():
    assert metrics.confidence((UNIFORM * 1.004).astype(np.float16)) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refused_embeddings_and_scores(bad: float):
    e, scores = np.ones((3, 2)), np.ones(3)
    broken_e, broken = e.copy(), scores.copy()
    broken_e[1, 0] = broken[1] = bad
    for call in (
        lambda: metrics.pakd(e, broken_e),
        lambda: metrics.pakd(broken_e, e),
        lambda: metrics.pairwise_dissimilarity(e, broken),
        lambda: metrics.semantic_distance(broken_e, e),
        lambda: metrics.semantic_distance(e, broken_e),
        lambda: metrics.query_score(scores, broken),
        lambda: metrics.select_query(broken, scores, 1),
        lambda: metrics.n_candidates(broken, 1),
        lambda: metrics.select_reliable(broken, e, e, 1),
        lambda: metrics.medoid(broken_e),
    ):
        with pytest.raises(ValueError, match="NaN or inf in row 1"):
            call()


def test_refused_shapes_and_options():
    e, scores = np.ones((3, 2)), np.ones(3)
    for call, message in (
        (lambda: metrics.pakd(e, e[:2]), "same cases"),
        (lambda: metrics.pakd(e[0], e[0]), r"\(N, d\)"),
        (lambda: metrics.pairwise_dissimilarity(e, scores[:2]), r"expected \(3,\)"),
        (lambda: metrics.pairwise_dissimilarity(e, scores, pd_weights="none"), "literal, reversed"),
        (lambda: metrics.semantic_distance(e, np.empty((0, 2))), "at least one"),
        (lambda: metrics.semantic_distance(e, np.ones((1, 3))), "same encoder"),
        (lambda: metrics.query_score(scores, scores[:2]), r"expected \(3,\)"),
        (lambda: metrics.query_score(scores[:0], scores[:0]), "at least one case"),
        (lambda: metrics.select_query(scores, scores, 0), "at least 1"),
        (lambda: metrics.select_query(scores, scores, 1, ids=["a", "b"]), "one id per case"),
        (lambda: metrics.select_query(scores, scores, 1, ids=["a", "b", "b"]), "one id per case"),
        (lambda: metrics.n_candidates(-scores, 1), ">= 0"),
        (lambda: metrics.n_candidates(scores, 0), "at least 1"),
        (lambda: metrics.n_candidates(scores, 1, tau_c=0.0), "tau_c is 0"),
        (lambda: metrics.n_candidates(scores, 1, scale="mean"), "max, none"),
        (lambda: metrics.select_reliable(scores, e[:2], e, 1), r"expected \(2,\)"),
        (lambda: metrics.asd(UNIFORM, 1, 2, "median"), "mean, foreground_mean, sum"),
        (lambda: metrics.confidence(UNIFORM, "mean"), "sum, foreground_mean"),
        (lambda: metrics.voxel_sums(UNIFORM, 0.0), "positive temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
