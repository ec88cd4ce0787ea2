"""Arms: which there are, how they are named, and that the round 0 they share is what each would have made itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nnunet_assft.active.options import Options
from nnunet_assft.active.rounds import run_round
from nnunet_assft.active.training.shared_start import taken_from
from nnunet_assft.cli.compare import parser
from nnunet_assft.comparison.arms import (
    BOUNDS,
    REFERENCES,
    Comparison,
    StandardNnunet,
    StrategyArm,
    arm_of,
    name_of,
    ordered,
    parse_arms,
    require_valid,
)
from nnunet_assft.comparison.arms.experiments import strategy_arm
from nnunet_assft.comparison.paper_results import paper_strategies
from nnunet_assft.errors import AssftError
from tests.comparison.conftest import DATASET, SETTINGS, comparison_of
from tests.conftest import plan_experiment, set_folders, write_dataset

CPU = torch.device("cpu")


def ids(strategies: list[str], references: list[str] | None = None) -> tuple[str, ...]:
    return tuple(arm.id for arm in parse_arms(strategies, references or []))


# Parsing --------------------------------------------------------------------------------------------------------------


def test_groups_are_spelled_out_and_strategies_come_first() -> None:
    paper = paper_strategies()
    assert ids(["paper", "random"], ["nnunet"]) == (*paper, "nnunet")
    assert set(ids(["all"])) > set(paper)
    assert ids(["random"], ["none"]) == ("random",)
    bare = parser().parse_args(["-d", "901"])
    assert ids(bare.strategies, bare.references) == (*paper, "nnunet", "lower_bound", "upper_bound")


def test_standard_nnunet_has_the_cases_of_a_strategy_that_is_there() -> None:
    assert ids(["assft", "random"], ["nnunet"]) == ("assft", "random", "nnunet")
    assert ids(["assft", "cup"], ["nnunet", "nnunet_finetuned"]) == (
        "assft",
        "cup",
        "nnunet@assft",
        "nnunet_finetuned@assft",
    )


@pytest.mark.parametrize(
    ("strategies", "references", "message"),
    [
        (["randon"], [], "--strategies 'randon' does not exist; the choices are paper, all, random"),
        (["random", "nnunet"], [], "It is one of --references: nnunet"),
        (["random"], ["entropy"], "--references 'entropy' does not exist"),
        (["random"], ["lower_bound@random"], "'lower_bound@random' does not exist"),
        (["random"], ["nnunet@assft"], "trains on the labelled cases of assft, which is not among the strategies"),
        (["random"], ["nnunet@nobody"], "labelled cases of nobody, which is not among the strategies"),
        ([], ["lower_bound"], "--strategies names no strategy"),
        (
            ["random+semi"],
            [],
            r"'random\+semi': expected random\+pseudo, random\+supervised, random\+none, random\+OPTION",
        ),
        (["nobody+pseudo"], [], r"'nobody\+pseudo' does not exist"),
    ],
)
def test_arms_that_cannot_be_run(strategies: list[str], references: list[str], message: str) -> None:
    with pytest.raises(AssftError, match=message):
        parse_arms(strategies, references)


@pytest.mark.parametrize(
    "arm_id",
    [
        *REFERENCES,
        "nnunet@assft",
        "random+pseudo",
        "nnunet@random+none",
        "nnunet_finetuned@random",
        "random",
        "my_strategy",
    ],
)
def test_an_id_is_that_of_its_arm(arm_id: str) -> None:
    assert arm_of(arm_id).id == arm_id


# What an arm knows of itself ------------------------------------------------------------------------------------------


def test_names() -> None:
    assert name_of("dkd_asd") == "DKD+ASD"
    assert name_of("nnunet@assft") == "nnU-Net (cases of ASSFT)"
    assert name_of("nnunet_finetuned") == "nnU-Net, fine-tuned"
    assert name_of("upper_bound") == "Upper bound"
    assert name_of("random+pseudo") == "RAND, second stage with pseudo-labels"
    assert name_of("nnunet@random+none") == "nnU-Net (cases of RAND, no second stage)"
    assert name_of("my_strategy") == "my_strategy"


def test_order_is_the_papers_then_as_they_come() -> None:
    given = ["new", "assft", "upper_bound", "nnunet@random", "asd_low", "random", "assft", "another"]
    assert ordered(given) == ["random", "assft", "asd_low", "nnunet@random", "upper_bound", "new", "another"]


def test_rounds_and_cases_of_each_kind() -> None:
    expected = {
        "random": ([0, 1, 2, 3], "random"),
        "nnunet": ([1, 2, 3], "random"),
        "nnunet_finetuned@assft": ([1, 2, 3], "assft"),
        "lower_bound": ([0], None),
        "upper_bound": ([3], None),
    }
    for arm_id, (rounds, cases_of) in expected.items():
        arm = arm_of(arm_id)
        assert (list(arm.rounds(3)), arm.cases_of, arm.is_bound) == (rounds, cases_of, arm_id in BOUNDS)


def test_steps_are_matched_or_epochs() -> None:
    """Epochs by round 3, with 10 in round 0 and 40 per stage."""
    by_round_3 = {
        "assft": (250, 250),
        "random": (250, 130),
        "random+pseudo": (250, 250),
        "random+none": (130, 130),
        "nnunet": (250, 40),  # from scratch in each round
        "nnunet_resenc@assft": (250, 40),
        "nnunet_finetuned": (250, 120),
        "nnunet_full": (1000, 1000),
        "upper_bound": (250, 130),
        "lower_bound": (0, 0),
    }
    for match, i in (("steps", 0), ("epochs", 1)):
        comparison = comparison_of(*by_round_3, rounds=3, epochs=40, match=match)
        assert comparison.settings.training["one_shot_epochs"] == 10
        for arm in comparison.arms:
            assert arm.epochs_by(comparison, 3) == by_round_3[arm.id][i], (match, arm.id)


def test_the_work_of_the_upper_bound_begins_after_round_0(nnunet_folders: Path) -> None:
    comparison = comparison_of("random", "upper_bound", rounds=3, epochs=40)
    assert comparison.arms[1].work(comparison, 0).epochs == 240  # 3 rounds of 2 stages; the 10 of round 0 are shared


def test_what_each_kind_does_not_share() -> None:
    steps = comparison_of(rounds=3, epochs=40)
    epochs = replace(steps, match="epochs")
    assert arm_of("assft").difference(epochs) == (
        "ASSFT is trained for 240 more optimisation steps than the 260 of the others by the last round"
    )  # 3 rounds of 40 epochs of 2 iterations; 10 epochs in round 0
    assert arm_of("random+none").difference(steps) == (
        "RAND, no second stage, is trained for 240 fewer optimisation steps than the 500 of the others by the last "
        "round"
    )
    assert arm_of("sann").difference(steps) == "SANN trains 4 more networks per round for its query"
    for arm_id in ("nnunet@assft", "nnunet_resenc"):
        assert "from scratch in each round" in arm_of(arm_id).difference(steps)
    assert "1000 epochs of 250 iterations" in arm_of("nnunet_full").difference(steps)
    others = ("assft", "random", "random+supervised", "lower_bound", "upper_bound", "gone", "nnunet_finetuned")
    assert not any(arm_of(arm).difference(steps) for arm in others)


def test_the_second_stage_of_a_strategy_follows_from_what_is_matched() -> None:
    steps = comparison_of()
    epochs = replace(steps, match="epochs")
    for arm_id, expected in {
        "assft": ("pseudo", "pseudo"),
        "random": ("supervised", "none"),
        "random+pseudo": ("pseudo", "pseudo"),
        "assft+none": ("none", "none"),
    }.items():
        arm = strategy_arm(arm_id)
        assert (arm.second_stage(steps), arm.second_stage(epochs)) == expected
        settings = arm.settings(steps, 7)
        assert (settings.strategy, settings.seed, settings.second_stage) == (arm.kind, 7, expected[0])


def test_an_option_makes_an_arm_of_its_own() -> None:
    comparison = comparison_of("assft", "assft+confidence=foreground_mean", options=Options(tau_c=1.0))
    require_valid(comparison)
    arm = comparison.arms[1]
    assert isinstance(arm, StrategyArm)
    assert arm.settings(comparison, 0).options == Options(
        tau_c=1.0, confidence="foreground_mean", second_stage="pseudo"
    )
    assert comparison.paths(arm, 0).experiment == "compare_assft-confidence-foreground_mean_s0"
    assert arm.title == "ASSFT, confidence=foreground_mean"
    with pytest.raises(AssftError, match=r"--option 'confident=sum': expected NAME=VALUE"):
        require_valid(comparison_of("assft+confident=sum"))
    with pytest.raises(AssftError, match=r"assft and assft\+confidence=sum are the same arm"):
        require_valid(comparison_of("assft", "assft+confidence=sum"))


def test_an_arm_is_named_once() -> None:
    require_valid(comparison_of("random", "random+none", "random+pseudo", "nnunet@random+none"))
    with pytest.raises(AssftError, match=r"random and random\+supervised are the same arm with --match steps"):
        require_valid(comparison_of("random", "random+supervised"))
    with pytest.raises(AssftError, match=r"such as random\+none"):
        require_valid(comparison_of("random", options=Options(second_stage="none")))


def test_folds_have_the_names_and_the_split_of_their_own(nnunet_folders: Path) -> None:
    comparison = replace(comparison_of("random", "nnunet", test_split="25%"), test_folds=3)
    require_valid(comparison)
    first, second, third = comparison.folds
    assert first == comparison
    assert [part.settings.test_split for part in (first, second, third)] == ["25%", "25%@1", "25%@2"]
    random, nnunet = comparison.arms
    names = [part.paths(random, 4).experiment for part in comparison.folds]
    assert names == ["compare_random_s4", "compare_random_s4_f1", "compare_random_s4_f2"]
    assert isinstance(nnunet, StandardNnunet)
    assert [nnunet.folder(part, 4, 1).parent.name for part in (first, third)] == ["seed_4", "seed_4_f2"]
    for split in (None, "0.2@1", "cases.txt"):
        with pytest.raises(AssftError, match=r"--test_folds 3 needs the size of a fold.*--test_split 0\.33"):
            require_valid(replace(comparison_of("random", test_split=split), test_folds=3))


# Round 0 is shared ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_of_round_0_is_computed_twice(finished: Comparison) -> None:
    source, target = (StrategyArm(name).experiment(finished, 0).paths for name in ("assft", "random"))
    origin = taken_from(target)
    assert origin is not None
    assert origin["experiment"] == source.experiment
    for file in (source.checkpoint(0, "supervised"), source.step_file(0, "evaluate")):
        assert (target.results_of_dataset / source.relative(file).replace("assft_s0", "random_s0")).read_bytes() == (
            file.read_bytes()
        )
    assert taken_from(source) is None


@pytest.mark.slow
def test_the_round_0_that_is_reused_is_what_the_experiment_would_have_made_itself(
    copied: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = StrategyArm("random").experiment(copied, 0)
    reused = [run_round(target, r, CPU) for r in (0, 1)]
    set_folders(tmp_path / "alone", monkeypatch)  # where there is nothing to take
    write_dataset(tmp_path / "alone/nnUNet_raw")
    alone = plan_experiment(DATASET, target.name, strategy="random", **SETTINGS, options=target.options)
    assert [run_round(alone, r, CPU) for r in (0, 1)] == reused


# Encoders -------------------------------------------------------------------------------------------------------------


def test_every_strategy_starts_from_every_encoder() -> None:
    arms = parse_arms(["assft", "random+pseudo"], ["nnunet"], ["mae"])
    assert [arm.id for arm in arms] == [
        "assft",
        "random+pseudo",
        "assft+encoder=mae",
        "random+pseudo+encoder=mae",
        "nnunet@assft",
    ]
    assert all(arm_of(arm.id) == arm for arm in arms)
    assert [arm.title for arm in arms[2:4]] == [
        "ASSFT, encoder mae",
        "RAND, second stage with pseudo-labels, encoder mae",
    ]


def test_an_arm_is_planned_with_its_encoder_and_shares_round_0_with_that_of_its_start() -> None:
    made = replace(
        comparison_of("assft", "random", encoder="/a/ct.safetensors"), encoders={"mae": "/a/mae.pt", "none": None}
    )
    made = replace(
        made,
        arms=(*made.arms, *(arm_of(f"{name}+encoder={e}") for e in ("mae", "none") for name in ("assft", "random"))),
    )
    require_valid(made)
    starts = {arm.id: (arm.settings(made, 0).encoder, made.first_with_encoder_of(arm).id) for arm in made.arms}
    assert starts == {
        "assft": ("/a/ct.safetensors", "assft"),
        "random": ("/a/ct.safetensors", "assft"),
        "assft+encoder=mae": ("/a/mae.pt", "assft+encoder=mae"),
        "random+encoder=mae": ("/a/mae.pt", "assft+encoder=mae"),
        "assft+encoder=none": (None, "assft+encoder=none"),
        "random+encoder=none": (None, "assft+encoder=none"),
    }
    assert len({made.paths(arm, 0).experiment for arm in made.arms}) == 6
    assert arm_of("assft+encoder=mae").difference(made) == "ASSFT, encoder mae, starts from mae.pt"
    assert arm_of("assft+encoder=none").difference(made) == "ASSFT, encoder none, starts from a random network"


def test_the_encoder_is_not_named_with_the_strategy() -> None:
    with pytest.raises(AssftError, match="name the encoder with --encoders, and the strategy without it"):
        parse_arms(["assft+encoder=mae"], ["none"])
