"""Each rule of the query strategies on a small pool: worked by hand, the worked examples, and statistics of what is drawn."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from nnunet_assft.active.metrics import VoxelSums, voxel_sums
from nnunet_assft.active.options import Options
from nnunet_assft.active.query.functions import NEIGHBOURS, d2_sampling, random_permutation
from nnunet_assft.active.query.pool import QueryPool
from nnunet_assft.active.strategies import STRATEGIES
from tests.active.test_strategies import make_pool, sums_of
from tests.worked_examples import worked_example

# Random ------------------------------------------------------------------------------------------------------------


def test_random_is_nested_and_skips_labelled_cases():
    ids = [str(i) for i in range(10)]
    permutation = random_permutation(ids[::-1], seed=0)
    assert permutation[:3] == ("4", "6", "2")  # numpy's default_rng(0)
    left = [case for case in ids if case not in ("4", "2")]
    first = STRATEGIES["random"].query(QueryPool.create(left, permutation=permutation), 1)
    second = STRATEGIES["random"].query(QueryPool.create(left, permutation=permutation), 4)
    assert first.ids == ("6",)
    assert second.ids == tuple(case for case in permutation if case in left)[:4]
    assert second.scores["position"][left.index("6")] == 1.0


def test_example_random():
    given = worked_example("random")
    ids = [str(i) for i in range(given["inputs"]["n"])]
    pool = QueryPool.create(ids, permutation=random_permutation(ids, given["inputs"]["rng_seed"]))
    query = STRATEGIES["random"].query(pool, given["inputs"]["budget"])
    assert [int(case) for case in query.ids] == given["expected"]["selected"]


# Ablations: one metric alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["dkd", "asd", "asd_tau1"])
def test_high_and_low_are_opposite_ends_of_one_metric(metric: str):
    pool = make_pool(10)
    column, _, tau1 = metric.partition("_")
    high, low = (STRATEGIES["_".join(filter(None, (column, end, tau1)))].query(pool, 10) for end in ("high", "low"))
    assert high.scores == low.scores
    assert high.ids == low.ids[::-1]
    assert high.ids == tuple(sorted(pool.ids, key=lambda case: -high.scores[column][pool.ids.index(case)]))


def test_ablations_use_the_metrics_of_the_method():
    pool = make_pool(10)
    q = STRATEGIES["dkd_asd"].query(pool, 10)
    for column in ("pakd", "pd", "dkd"):
        assert STRATEGIES["dkd_high"].query(pool, 1).scores[column] == q.scores[column]
    assert STRATEGIES["asd_high"].query(pool, 1).scores["asd"] == q.scores["asd"]
    other = QueryPool(**{**vars(pool), "options": Options(asd_reduction="sum", pd_first="max")})
    assert STRATEGIES["asd_low"].query(other, 1).scores != STRATEGIES["asd_low"].query(pool, 1).scores
    assert STRATEGIES["dkd_low"].query(other, 1).scores != STRATEGIES["dkd_low"].query(pool, 1).scores


def test_tau_of_the_round_and_tau_1_may_disagree():
    a, b = (
        replace(sums_of(0.5), masked_entropy_sum_tau1=entropy, masked_entropy_sum=10 - entropy)
        for entropy in (3.0, 2.0)
    )
    pool = QueryPool.create(["a", "b"], sums=[a, b])
    first = {
        name: STRATEGIES[name].query(pool, 1).ids for name in ("asd_high", "asd_low", "asd_high_tau1", "asd_low_tau1")
    }
    assert first == {"asd_high": ("b",), "asd_low": ("a",), "asd_high_tau1": ("a",), "asd_low_tau1": ("b",)}
    assert STRATEGIES["asd_high"].query(pool, 1).scores["asd"] == pytest.approx((0.7, 0.8))
    assert STRATEGIES["asd_high_tau1"].query(pool, 1).scores["asd"] == (3.0, 2.0)


@pytest.mark.parametrize("name", ["asd_low", "asd_low_tau1"])
def test_cases_without_foreground_come_first_by_id_and_are_counted(name: str):
    pool = QueryPool.create(list("dcba"), sums=[sums_of(0.0), sums_of(0.2), sums_of(0.0), sums_of(0.1)])
    with pytest.warns(UserWarning, match="ASD is 0 for 2 of 4 cases"):
        assert STRATEGIES[name].query(pool, 3).ids == ("b", "d", "a")


# Uncertainty -------------------------------------------------------------------------------------------------------


def test_uncertainty_worked_by_hand():
    """Two voxels per case, three classes; c is certain background."""
    cases = {
        "a": [(0.5, 0.5, 0.0), (1.0, 0.0, 0.0)],
        "b": [(0.8, 0.1, 0.1), (0.8, 0.1, 0.1)],
        "c": [(1.0, 0.0, 0.0), (1.0, 0.0, 0.0)],
    }
    pool = QueryPool.create(list(cases), sums=[voxel_sums(np.array(voxels).T, 1.5) for voxels in cases.values()])
    entropy_b = -(0.8 * math.log(0.8) + 0.2 * math.log(0.1))
    for name, column, ids in (
        ("entropy", (math.log(2) / 2, entropy_b, 0.0), ("b", "a", "c")),
        ("least_confidence", (0.25, 0.2, 0.0), ("a", "b", "c")),
        ("margin", (0.5, 0.7, 1.0), ("a", "b", "c")),
    ):
        query = STRATEGIES[name].query(pool, 3)
        assert query.scores[name] == pytest.approx(column, abs=1e-12)
        assert query.ids == ids
    assert STRATEGIES["entropy"].query(pool, 1).scores["entropy"] == pytest.approx(
        (0.346573590280, 0.639031859650, 0.0), abs=1e-12
    )


def test_example_uncertainty_scalars():
    given = worked_example("uncertainty_scalars")
    softmax = given["inputs"]["softmax"]
    pool = QueryPool.create(list(softmax), sums=[voxel_sums(np.array(probs), 1.0) for probs in softmax.values()])
    for name, short in (("entropy", "enpy"), ("least_confidence", "lcon"), ("margin", "mmar")):
        query = STRATEGIES[name].query(pool, len(softmax))
        assert list(query.ids) == given["expected"][f"query_order_{short}"]
        expected = [given["expected"]["per_case"][case][short] for case in pool.ids]
        assert query.scores[name] == pytest.approx(expected, abs=1e-9)


def cup_pool(entropy: Sequence[float], foreground: Sequence[int]) -> QueryPool:
    sums = [
        replace(VoxelSums.zero(2), voxels=1000, entropy_sum=1000 * u, foreground_voxels=n, class_voxels=(1000 - n, n))
        for u, n in zip(entropy, foreground, strict=True)
    ]
    return QueryPool.create([str(i) for i in range(len(sums))], sums=sums)


def test_cup_worked_by_hand():
    pool = cup_pool([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [10, 300, 50, 0, 900, 100])
    uncertain, certain = (STRATEGIES[name].query(pool, 2) for name in ("cup", "cup_low"))
    assert (uncertain.ids, certain.ids) == (("1", "2"), ("4", "5"))  # 4 has the most foreground, and is not uncertain
    assert uncertain.scores["candidate"] == (1, 1, 1, 1, 0, 0)
    assert certain.scores["candidate"] == (0, 0, 1, 1, 1, 1)
    assert uncertain.scores["foreground_voxels"] == (10, 300, 50, 0, 900, 100)
    assert STRATEGIES["cup"].query(pool, 4).ids == ("4", "1", "5", "2")  # 2b > N: all are candidates


def test_cup_without_foreground_goes_by_entropy_then_id():
    pool = cup_pool([0.2, 0.9, 0.5, 0.9], [0, 0, 0, 0])
    assert STRATEGIES["cup"].query(pool, 3).ids == ("1", "3", "2")
    assert STRATEGIES["cup_low"].query(pool, 3).ids == ("0", "2", "1")


def test_example_cup():
    given = worked_example("cup")
    pool = cup_pool(given["inputs"]["uncertainty"], given["inputs"]["foreground_voxels"])
    for name in ("cup", "cup_low"):
        query = STRATEGIES[name].query(pool, given["inputs"]["budget"])
        assert [int(case) for case in query.ids] == given["expected"][name]
        candidates = [i for i, candidate in enumerate(query.scores["candidate"]) if candidate]
        assert candidates == sorted(given["expected"][f"stage1_{name}"])


# Coverage ----------------------------------------------------------------------------------------------------------


def coreset(embeddings: np.ndarray, labelled: np.ndarray, n_query: int) -> tuple[list[int], list[float]]:
    """(picked rows in order, distance at each pick)"""
    ids = [f"{i:03d}" for i in range(len(embeddings))]
    query = STRATEGIES["coreset"].query(
        QueryPool.create(ids, embeddings=embeddings, labelled_embeddings=labelled), n_query
    )
    picked = [int(case) for case in query.ids]
    return picked, [query.scores["distance"][i] for i in picked]


def test_coreset_worked_by_hand():
    embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 0.0], [4.0, 3.0], [5.5, 0.0]])
    picked, distance = coreset(embeddings, np.zeros((1, 2)), 3)
    assert picked == [4, 3, 1]
    assert distance == pytest.approx([5.5, math.sqrt(1.5**2 + 3**2), 2.0])
    query = STRATEGIES["coreset"].query(
        QueryPool.create(list("abcde"), embeddings=embeddings, labelled_embeddings=np.zeros((1, 2))), 3
    )
    assert query.scores["distance"][::2] == pytest.approx(
        (1.0, 1.5, 5.5)
    )  # a and c: to the nearest of what is covered now


def test_example_core_set():
    given = worked_example("core_set")
    embeddings, first = np.array(given["inputs"]["embeddings"]), given["inputs"]["labelled"]
    left = [i for i in range(len(embeddings)) if i not in first]
    picked, distance = coreset(embeddings[left], embeddings[first], given["inputs"]["budget"])
    assert [left[i] for i in picked] == given["expected"]["selected"]
    assert distance == pytest.approx(given["expected"]["distance_at_pick"], abs=1e-9)


def test_coreset_without_labelled_cases_starts_farthest_from_the_mean():
    picked, distance = coreset(np.array([[0.0], [1.0], [10.0]]), np.empty((0, 1)), 3)
    assert picked == [2, 0, 1]
    assert distance == pytest.approx([10 - 11 / 3, 10.0, 1.0])


def test_coreset_picks_no_case_twice():
    embeddings = np.array([[0.0, 1.0]] * 3 + [[0.0, 2.0]])
    assert coreset(embeddings, embeddings[:1], 4) == ([3, 0, 1, 2], [1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("n_labelled", [0, 1, 4])
def test_coreset_against_a_literal_loop(n_labelled: int):
    rng = np.random.default_rng(n_labelled)
    embeddings, labelled = rng.normal(size=(30, 5)).astype(np.float32), rng.normal(size=(n_labelled, 5))
    rows = [[float(x) for x in row] for row in embeddings]
    centres = [[float(x) for x in row] for row in labelled]
    expected: list[int] = []
    for _ in range(12):
        to = centres or [[sum(column) / len(rows) for column in zip(*rows, strict=True)]]
        nearest = {i: min(math.dist(row, centre) for centre in to) for i, row in enumerate(rows) if i not in expected}
        expected.append(max(nearest, key=lambda i: (nearest[i], -i)))
        centres.append(rows[expected[-1]])
    assert coreset(embeddings, labelled, 12)[0] == expected


def on_circle(*degrees: float) -> np.ndarray:
    """Vectors of these directions and different lengths."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]


def test_typiclust_worked_by_hand():
    """Three clusters for one labelled case and two picks: around 90 degrees, around 180, and around the labelled case."""
    pool = QueryPool.create(
        list("abcdef"), embeddings=on_circle(88, 182, 90, 179, 93, 1), labelled_embeddings=on_circle(0)
    )
    query = STRATEGIES["typiclust"].query(pool, 2)
    assert query.ids == ("c", "b")  # 90: 2.5 degrees from its neighbours on average; 182 and 179 tie
    assert query.scores["cluster"] == (0, 1, 0, 1, 0, 2)
    assert query.scores["cluster_size"] == (3, 2, 3, 2, 3, 2)
    assert query.scores["cluster_labelled"] == (0, 0, 0, 0, 0, 1)
    chord = [2 * math.sin(math.radians(degrees) / 2) for degrees in (2, 3)]
    assert query.scores["neighbour_distance"][2] == pytest.approx(sum(chord) / 2, abs=1e-9)


def test_typiclust_takes_neighbours_in_the_cluster_up_to_its_limit():
    rng = np.random.default_rng(0)
    pool = QueryPool.create(
        [f"{i:02d}" for i in range(80)],
        embeddings=rng.normal(size=(80, 2)),
        labelled_embeddings=rng.normal(size=(1, 2)),
    )
    scores = STRATEGIES["typiclust"].query(pool, 1).scores
    assert pool.embeddings is not None
    assert pool.labelled_embeddings is not None
    unit = [row / math.hypot(*row) for row in (*pool.embeddings, *pool.labelled_embeddings)]
    clusters = [*scores["cluster"], scores["cluster"][scores["cluster_labelled"].index(1)]]
    sizes = Counter(clusters)
    assert max(sizes.values()) > NEIGHBOURS + 1
    assert scores["cluster_size"] == tuple(sizes[cluster] for cluster in scores["cluster"])
    for i in range(80):
        near = sorted(math.dist(unit[i], unit[j]) for j in range(81) if j != i and clusters[j] == clusters[i])[
            :NEIGHBOURS
        ]
        assert scores["neighbour_distance"][i] == pytest.approx(sum(near) / len(near), abs=1e-8)


def test_typiclust_with_fewer_directions_than_picks():
    pool = QueryPool.create(list("abcd"), embeddings=on_circle(0, 0, 0, 90), labelled_embeddings=on_circle(0, 0))
    assert STRATEGIES["typiclust"].query(pool, 3).ids == (
        "d",
        "a",
        "b",
    )  # d alone is in a cluster without a labelled case
    zero = QueryPool.create(list("ab"), embeddings=np.zeros((2, 3)), labelled_embeddings=np.zeros((0, 3)))
    assert STRATEGIES["typiclust"].query(zero, 5).ids == ("a", "b")


@pytest.mark.parametrize("name", ["coreset", "typiclust"])
def test_the_order_of_the_labelled_cases_does_not_matter(name: str):
    pool = make_pool(15)
    assert pool.labelled_embeddings is not None
    other = QueryPool(**{**vars(pool), "labelled_embeddings": pool.labelled_embeddings[::-1]})
    assert STRATEGIES[name].query(pool, 6) == STRATEGIES[name].query(other, 6)


# Random foreground -------------------------------------------------------------------------------------------------


def foreground_pool(*class_voxels: tuple[int, ...], seed: int = 0, r: int = 1) -> QueryPool:
    """Cases a, b, ... with these voxels of each structure."""
    sums = [replace(VoxelSums.zero(len(v) + 1), voxels=1000, class_voxels=(1000 - sum(v), *v)) for v in class_voxels]
    return QueryPool.create(list("abcdefgh")[: len(sums)], sums=sums, round=r, n_rounds=99, seed=seed)


def test_random_foreground_draws_a_structure_then_a_case():
    """Structure 1 in a and b as 1 to 3, structure 2 in c only, structure 3 nowhere: 1/8, 3/8 and 1/2 for the first pick."""
    first: Counter[str] = Counter()
    for seed in range(800):
        query = STRATEGIES["random_foreground"].query(
            foreground_pool((10, 0, 0), (30, 0, 0), (0, 1, 0), (0, 0, 0), seed=seed), 4
        )
        first[query.ids[0]] += 1
        assert query.ids[3] == "d"  # without foreground: when no other is left
        assert query.scores == {"foreground_voxels": (10, 30, 1, 0), "drawn_class": (1, 1, 2, 0)}
    assert [first[case] / 800 for case in "abcd"] == pytest.approx([0.125, 0.375, 0.5, 0.0], abs=0.05)


def test_random_foreground_without_foreground_is_plain_random():
    first: Counter[str] = Counter()
    for seed in range(600):
        query = STRATEGIES["random_foreground"].query(foreground_pool((0, 0), (0, 0), (0, 0), seed=seed), 2)
        assert query.scores["drawn_class"] == (0, 0, 0)
        first[query.ids[0]] += 1
    assert [first[case] / 600 for case in "abc"] == pytest.approx([1 / 3] * 3, abs=0.06)


def test_random_foreground_depends_on_seed_and_round():
    cases = [(5, i) for i in range(8)]
    queries = [
        STRATEGIES["random_foreground"].query(foreground_pool(*cases, seed=s, r=r), 8).ids
        for s in range(4)
        for r in range(1, 5)
    ]
    assert len(set(queries)) == 16


# BADGE -------------------------------------------------------------------------------------------------------------


def shares(picks: Sequence[object], among: Sequence[object]) -> list[float]:
    """How often each was picked."""
    count = Counter(picks)
    assert count.keys() <= set(among)
    return [count[x] / len(picks) for x in among]


def badge_pool(*numbers: float, seed: int = 0, r: int = 1) -> QueryPool:
    """Cases a, b, ... with gradients of two equal and opposite rows, so that distances are twice those of the numbers."""
    gradients = np.array([[[x], [-x]] for x in numbers])
    return QueryPool.create(list("abcdefgh")[: len(numbers)], gradients=gradients, round=r, n_rounds=99, seed=seed)


def test_badge_starts_at_the_largest_gradient_and_draws_by_squared_distance():
    """From d: a, b, c are 3, 2 and 5 away, then each from the nearest of the two picked: D^2 in the ratio below."""
    ids = [STRATEGIES["badge"].query(badge_pool(0.0, 1.0, -2.0, 3.0, seed=seed), 3).ids for seed in range(1500)]
    assert {case for case, _, _ in ids} == {"d"}
    pairs = {
        "ab": 9 / 38 * 1 / 5,
        "ac": 9 / 38 * 4 / 5,
        "ba": 4 / 38 * 1 / 10,
        "bc": 4 / 38 * 9 / 10,
        "ca": 25 / 38 / 2,
        "cb": 25 / 38 / 2,
    }
    assert shares([second + third for _, second, third in ids], list(pairs)) == pytest.approx(
        list(pairs.values()), abs=0.04
    )


def test_badge_columns_worked_by_hand():
    query = STRATEGIES["badge"].query(badge_pool(0.0, 0.0, 4.0, 1.0), 1)
    assert query.ids == ("c",)
    assert query.scores["gradient_norm"] == pytest.approx((0.0, 0.0, math.sqrt(32), math.sqrt(2)))
    assert query.scores["squared_distance"] == pytest.approx(
        (32.0, 32.0, 32.0, 18.0)
    )  # c: its squared length, when it was picked


def test_badge_picks_a_duplicate_only_when_nothing_else_is_left():
    for seed in range(50):
        assert STRATEGIES["badge"].query(badge_pool(5.0, 1.0, 5.0, 5.0, 1.0, seed=seed), 5).ids[2:] in {
            ("c", "d", "e"),
            ("b", "c", "d"),
        }
    assert STRATEGIES["badge"].query(badge_pool(0.0, 0.0, 0.0), 2).ids == ("a", "b")  # no gradient at all


@pytest.mark.parametrize(
    ("u", "second"), [(0.0, 2), (0.2, 2), (0.25, 3), (0.49, 3), (0.5, 4), (float(np.nextafter(1, 0)), 4)]
)
def test_a_draw_takes_the_first_row_whose_sum_exceeds_it(u: float, second: int):
    """Squared distances 0, 0, 1, 1, 2, 0: the sums are 0, 0, 1, 2, 4, 4."""
    rows = np.array([[9.0, 0.0], [9.0, 0.0], [8.0, 0.0], [8.0, 0.0], [8.0, 1.0], [9.0, 0.0]])
    assert d2_sampling(rows, np.array([u]))[0] == [0, second]
    assert d2_sampling(np.array([[1e-162], [3e-162], [1e-162]]), np.array([0.99]))[0] == [
        1,
        2,
    ]  # a sum that 0.99 rounds up to


def test_badge_depends_on_seed_and_round():
    numbers = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 20.0]
    queries = [
        STRATEGIES["badge"].query(badge_pool(*numbers, seed=s, r=r), 8).ids for s in range(4) for r in range(1, 5)
    ]
    assert len(set(queries)) == 16


def test_example_badge_seeding():
    given = worked_example("badge")["seeding"]
    rows, uniforms = (np.array(given["inputs"][name]) for name in ("gradients", "uniforms"))
    for n, d2 in ((0, "d2_after_first"), (1, "d2_after_second")):
        chosen, distance = d2_sampling(rows, uniforms[:n])
        left = [i for i in range(len(rows)) if i not in chosen]
        assert distance[left] == pytest.approx(np.array(given["expected"][d2])[left])
    assert d2_sampling(rows, uniforms)[0] == given["expected"]["selected"]


# SANN --------------------------------------------------------------------------------------------------------------


def sann_pool(embeddings: Sequence[Sequence[float]], spread: Sequence[float], field: str) -> QueryPool:
    ids = list("abcdefgh")[: len(spread)]
    other = ({"committee_spread", "mirror_spread"} - {field}).pop()
    return QueryPool.create(
        ids, embeddings=np.array(embeddings), **{field: np.array(spread), other: np.zeros(len(ids))}
    )


every_sann = pytest.mark.parametrize(("name", "field"), [("sann", "committee_spread"), ("sann_tta", "mirror_spread")])


@every_sann
def test_sann_worked_by_hand(name: str, field: str):
    """c is certain, so no candidate. a covers a, b, c fully and d not: F = 2. Then d and e add 2 alike: the smaller id."""
    pool = sann_pool([[1, 0], [2, 0], [3, 0], [0, 1], [-1, 0]], [0.5, 0.4, 0.3, 0.9, 0.8], field)
    query = STRATEGIES[name].query(pool, 2)
    assert query.ids == ("a", "d")
    assert query.scores == {
        field: (0.5, 0.4, 0.3, 0.9, 0.8),
        "candidate": (1, 1, 0, 1, 1),
        "cover": (2.0, 0.0, 0.0, 4.0, 0.0),
    }


@every_sann
def test_sann_covers_all_cases_not_the_candidates(name: str, field: str):
    pool = sann_pool([[-1, 0], [-1, 0], [-1, 0], [0, 1], [-1, 0]], [0.1, 0.1, 0.1, 0.9, 0.8], field)
    assert STRATEGIES[name].query(pool, 1).ids == ("e",)


@every_sann
def test_example_sann(name: str, field: str):
    given = worked_example("sann")
    query = STRATEGIES[name].query(
        sann_pool(given["inputs"]["embeddings"], given["inputs"]["uncertainty"], field), given["inputs"]["budget"]
    )
    picked = ["abcdef".index(case) for case in query.ids]
    assert picked == given["expected"]["selected"]
    assert [i for i, candidate in enumerate(query.scores["candidate"]) if candidate] == sorted(
        given["expected"]["candidates"]
    )
    assert [query.scores["cover"][i] for i in picked] == pytest.approx(given["expected"]["cover_value"])


# UGTST -------------------------------------------------------------------------------------------------------------


def ugtst_pool(embeddings: Sequence[float], uncertainty: Sequence[float], **options: int) -> QueryPool:
    ids = list("abcdef")[: len(uncertainty)]
    points, options_ = np.array(embeddings, dtype=float)[:, None], Options(**options)  # type: ignore[arg-type]
    return QueryPool.create(ids, embeddings=points, peak_entropy=np.array(uncertainty), options=options_)


def test_ugtst_worked_by_hand():
    """b, c, d, e are uncertain; b, c, d form a cluster with its centre at 0.47."""
    embeddings, uncertainty = [100, 0.0, 1.0, 0.4, 10, -100], [0.1, 0.9, 0.8, 0.7, 0.6, 0.2]
    query = STRATEGIES["ugtst"].query(ugtst_pool(embeddings, uncertainty), 2)
    assert query.ids == ("d", "e")
    assert query.scores == {"peak_entropy": tuple(uncertainty), "candidate": (0, 1, 1, 1, 1, 0)}
    assert STRATEGIES["ugtst"].query(ugtst_pool(embeddings, uncertainty, ugtst_multiple=1), 2).ids == ("b", "c")
    assert STRATEGIES["ugtst"].query(ugtst_pool(embeddings, uncertainty, ugtst_multiple=3), 2).ids == (
        "e",
        "f",
    )  # f, and the centre at 22


def test_ugtst_fills_up_with_the_most_uncertain():
    uncertainty = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert STRATEGIES["ugtst"].query(ugtst_pool([0, 1, 0, 1, 0, 1], uncertainty), 3).ids == (
        "b",
        "a",
        "f",
    )  # two clusters
    assert STRATEGIES["ugtst"].query(ugtst_pool([7] * 6, uncertainty), 2).ids == (
        "c",
        "f",
    )  # one: its first, then the most uncertain


# ClaSP PE ----------------------------------------------------------------------------------------------------------


def clasp_pool(*entropies: Sequence[float], seed: int = 0, r: int = 1, n_rounds: int = 1) -> QueryPool:
    """One row per case: background, then the structures."""
    ids = [f"{i:03d}" for i in range(len(entropies))]
    return QueryPool.create(ids, class_entropies=np.array(entropies), seed=seed, round=r, n_rounds=n_rounds)


@pytest.mark.parametrize(("r", "n_rounds", "beta"), [(1, 1, 1), (1, 3, 1), (2, 3, 10), (3, 3, 100)])
@pytest.mark.parametrize(("n_query", "column"), [(1, "all"), (2, "structure")])
def test_clasp_pe_picks_with_a_chance_of_score_to_the_power_of_beta(
    r: int, n_rounds: int, beta: int, n_query: int, column: str
):
    """The largest of log s + Gumbel / beta; scores to the power of beta are as 1 to 2 to 5. A budget of 1 has no structure's share."""
    scores = [w ** (1 / beta) for w in (1, 2, 5)]
    rows = [(s, 0.0) if column == "all" else (9.0, s) for s in scores]
    queries = [
        STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=seed, r=r, n_rounds=n_rounds), n_query)
        for seed in range(800)
    ]
    assert shares([query.ids[0] for query in queries], ["000", "001", "002"]) == pytest.approx(
        [1 / 8, 2 / 8, 5 / 8], abs=0.05
    )
    assert {query.scores["drawn_class"][int(query.ids[0])] for query in queries} == {0 if column == "all" else 1}


@pytest.mark.parametrize(
    ("n_query", "by_all", "by_structure"),
    [
        (1, 1, [0, 0, 0, 0]),
        (3, 2, [0, 0, 0, 1]),
        (5, 2, [0, 1, 1, 1]),
        (7, 3, [1, 1, 1, 1]),
        (15, 6, [2, 2, 2, 3]),
        (100, 34, [16, 16, 17, 17]),
    ],
)
def test_clasp_pe_shares(n_query: int, by_all: int, by_structure: list[int]):
    """66 % rounded down, in equal shares; the structures that come first have one more, any of them alike."""
    rows, more = np.random.default_rng(0).random((120, 5)), Counter[int]()
    for seed in range(200):
        drawn = STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=seed), n_query).scores["drawn_class"]
        sizes = {c: drawn.count(c) for c in range(1, 5)}
        assert (drawn.count(0), sorted(sizes.values())) == (by_all, by_structure)
        more.update(c for c, size in sizes.items() if size == max(by_structure))
    assert [more[c] / 200 for c in range(1, 5)] == pytest.approx(
        [by_structure.count(max(by_structure)) / 4] * 4, abs=0.1
    )


def test_clasp_pe_worked_by_hand():
    """Round 3 of 3: hardly any noise. Both structures want a, so one takes b; of all entropy f and e have most."""
    rows = [(0, 8, 8), (0, 4, 4), (0, 2, 2), (8, 1, 1), (40, 0.5, 0.5), (80, 0.25, 0.25)]
    taken = set()
    for seed in range(20):
        query = STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=seed, r=3, n_rounds=3), 4)
        assert query.ids == ("000", "001", "005", "004")
        assert query.scores["entropy"] == (16, 8, 4, 10, 41, 80.5)
        assert query.scores["drawn_class"][2:] == (-1, -1, 0, 0)
        taken.add(query.scores["drawn_class"][:2])
    assert taken == {(1, 2), (2, 1)}  # either structure may come first


def test_clasp_pe_takes_a_score_of_0_last_and_by_id():
    absent = [(1.0, s, 0.0) for s in (1, 2, 4, 8)]  # structure 2 is nowhere
    some = [(0.0, 0.0), (0.0, 1e-300), (0.0, 0.0), (0.0, 0.3), (0.0, 1.0)]
    for seed in range(100):
        query = STRATEGIES["clasp_pe"].query(clasp_pool(*absent, seed=seed, r=2, n_rounds=2), 4)
        assert query.scores["drawn_class"].count(2) == 1
        assert query.scores["drawn_class"].index(2) == 0
        assert STRATEGIES["clasp_pe"].query(clasp_pool(*some, seed=seed), 4).ids[3] == "000"
        assert STRATEGIES["clasp_pe"].query(clasp_pool(*[(0.0, 0.0, 0.0)] * 5, seed=seed), 3).ids == (
            "000",
            "001",
            "002",
        )


def test_clasp_pe_depends_on_seed_and_round():
    rows = np.random.default_rng(0).random((12, 3))
    ids = [
        STRATEGIES["clasp_pe"].query(clasp_pool(*rows, seed=s, r=r, n_rounds=9), 12).ids
        for s in range(4)
        for r in range(1, 5)
    ]
    assert len(set(ids)) == 16
