"""comparison.json: what is written is read again, and files of earlier versions are understood or refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from nnunet_assft.active.history import Change
from nnunet_assft.active.options import Options
from nnunet_assft.cli.common import parse
from nnunet_assft.cli.compare import make_comparison
from nnunet_assft.cli.compare import parser as compare_parser
from nnunet_assft.comparison.arms import Comparison, arm_of
from nnunet_assft.comparison.spec import Shared, plan_shared, read_comparison, require_same_settings, write_comparison
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.files import read_json, sha256_file, write_json
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from tests.comparison.conftest import ARMS, OPTIONS, compare, comparison_of

CPU = torch.device("cpu")


def asked(*options: str) -> Comparison:
    return make_comparison(parse(compare_parser(), ["-d", "901", *options]))


def test_options_that_are_not_typed_are_those_the_comparison_was_made_with(blobs: Path) -> None:
    made = asked(*OPTIONS)
    assert made == comparison_of(*ARMS)
    shared = plan_shared(made)
    write_comparison(made, shared)
    assert read_comparison(made.file) == (made, shared)
    assert asked(*OPTIONS) == asked() == made
    assert (shared.n_query, len(shared.pool), len(shared.test)) == (2, 8, 3)
    assert asked("--match", "epochs") == replace(made, match="epochs")
    assert asked("--seeds", "0", "1", "2") == replace(made, seeds=(0, 1, 2))  # typed, though it is the default
    assert [arm.id for arm in asked("--references", "none").arms] == ["assft", "random"]
    assert asked("--preset", "ctfm").settings == replace(made.settings, preset="ctfm")
    assert asked("--option", "tau_c=1").settings.options.tau_c == 1
    assert asked("-e", "another").settings.preset == "ctfm"


def test_seeds_and_arms_of_other_commands_are_kept(blobs: Path) -> None:
    """As when the commands with --seeds 0 and --seeds 1 run at the same time."""
    first = asked(*OPTIONS, "--references", "none")
    write_comparison(first, shared := plan_shared(first))
    write_comparison(replace(first, seeds=(3, 1), arms=(arm_of("cup"), arm_of("random"))), shared)
    known, _ = read_comparison(first.file)
    assert known.seeds == (0, 1, 3)
    assert [arm.id for arm in known.arms] == ["assft", "random", "cup"]
    assert set(read_json(first.file)["experiments"]["cup"]) == {"0", "1", "3"}
    write_comparison(replace(first, test_folds=2, seeds=(5,)), shared)  # folds are added to those of other commands
    known, _ = read_comparison(first.file)
    assert (known.test_folds, known.seeds, len(known.arms)) == (2, (0, 1, 3, 5), 3)


def test_runs_of_other_settings_are_not_mixed_with_those_that_are_there(nnunet_folders: Path) -> None:
    """Such as runs of as many epochs among runs of as many steps, whose networks were trained for another time."""
    made, shared = comparison_of("assft", "random", test_split="25%"), Shared(2, ("a",), ("b",), "imagesTs", {})
    write_comparison(made, shared)
    require_same_settings(replace(made, seeds=(3,), arms=made.arms[:1], test_folds=2))
    epochs, before = replace(made, match="epochs"), made.file.read_bytes()
    with pytest.raises(AssftError, match=r"^Comparison 'compare' of .* \(match was steps, now epochs\)\. Leave these"):
        write_comparison(epochs, shared)
    others = replace(made.settings, epochs=9, test_split="50%")
    words = "epochs was 2, now 9; match was steps, now epochs; test_split was 25%, now 50%"
    with pytest.raises(AssftError, match=words.replace("; ", ".*")):
        require_same_settings(replace(epochs, settings=others))
    with pytest.raises(AssftError, match=r"\(test_folds was 1, now 2\)"):
        require_same_settings(replace(made, test_folds=2), with_folds=True)
    assert made.file.read_bytes() == before


@pytest.mark.parametrize("also", [[], ["--collect"], ["--estimate"]], ids=str)
def test_another_kind_of_match_is_refused_before_anything_is_planned(
    nnunet_folders: Path, also: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (nnunet_folders / "nnUNet_raw/Dataset901_Blobs").mkdir()
    write_comparison(comparison_of("assft", "random"), Shared(2, ("a",), ("b",), "imagesTs", {}))
    assert compare("--match", "epochs", *also) == 1
    assert "exists with other settings (match was steps, now epochs). Leave these options" in capsys.readouterr().err


def test_an_experiment_that_was_extended_is_not_collected(blobs: Path) -> None:
    made = asked(*OPTIONS, "--references", "none")
    plan_shared(made)
    arm = made.first_strategy
    experiment = arm.load_experiment_or_none(made, 0)
    assert experiment is not None
    experiment.record(Change(1, False, 7, 2, experiment.permutation))
    assert arm.load_experiment_or_none(made, 0) is None


def version_1(**settings: object) -> dict[str, object]:
    """As nnunet_assft 0.1.0 wrote it: settings as typed, and beside them what the first experiment made of them."""
    typed = {
        "rounds": None,
        "budget": None,
        "domain": "auto",
        "preset": "tiny",
        "encoder": None,
        "test_split": None,
        "epochs": 40,
        "iterations_per_epoch": 2,
        "initial_lr": 1e-3,
        "deep_supervision": False,
        "normalization": "percentile",
    }
    return {
        "dataset": "Dataset901_Blobs",
        "name": "old",
        "arms": ["random", "nnunet"],
        "seeds": [0, 1],
        "settings": {**typed, **settings},
        "n_rounds": 5,
        "n_query": 2,
        "budget": "5%",
        "pool": ["a", "b"],
        "test": ["c"],
        "test_source": "imagesTs",
        "domain": "generic",
        "preset": "tiny",
        "normalization": "percentile",
        "encoder": None,
        "training": {"one_shot_epochs": 10, "epochs": 40, "iterations_per_epoch": 2, "initial_lr": 1e-3},
        "versions": {"nnunet_assft": "0.1.0"},
        "options": {**asdict(Options(tau_c=1.0)), "tau": "round"},
        "device": "cpu",
        "experiments": {"random": {"0": "old_random_s0", "1": "old_random_s1"}},
    }


@pytest.mark.parametrize("settings", [{}, {"strategy": "assft", "seed": 0, "options": {}}])
def test_a_comparison_of_the_previous_version_is_understood(tmp_path: Path, settings: dict[str, object]) -> None:
    file = tmp_path / "Dataset901_Blobs/assft_compare/old/comparison.json"
    write_json(file, version_1(**settings))
    comparison, shared = read_comparison(file)
    assert [arm.id for arm in comparison.arms] == ["random", "nnunet"]
    assert (comparison.seeds, comparison.match) == ((0, 1), "epochs")
    expected = comparison_of(rounds=5, budget="5%", domain="generic", epochs=40, options=Options(tau_c=1.0))
    assert comparison.settings == expected.settings
    assert (shared.pool, shared.test, shared.n_query) == (("a", "b"), ("c",), 2)


def test_a_comparison_that_cannot_be_read_says_who_wrote_it(tmp_path: Path) -> None:
    file = tmp_path / "comparison.json"
    write_json(file, {**version_1(), "options": {**asdict(Options()), "tau": "one"}})
    with pytest.raises(AssftError, match=r"--option tau, which was removed\. It was written by nnunet_assft 0\.1\.0"):
        read_comparison(file)
    write_json(file, {"schema_version": 99, "versions": {"nnunet_assft": "9.0"}})
    with pytest.raises(AssftError, match=r"has schema version 99; expected 3\. It was written by nnunet_assft 9\.0"):
        read_comparison(file)


def test_the_file_of_another_comparison_is_refused(nnunet_folders: Path) -> None:
    made = comparison_of(*ARMS)
    write_comparison(made, Shared(2, ("a",), ("b",), "imagesTs", {}))
    other = replace(made, name="other")
    write_json(other.file, read_json(made.file))
    with pytest.raises(AssftError, match=r"other/comparison\.json is that of comparison 'compare' of Dataset901_Blobs"):
        require_same_settings(other)
    write_sealed(made.file, {**read_sealed(made.file), "seeds": [0.5]})
    with pytest.raises(DamagedFileError, match=r"is damaged \(seeds\[0\] is 0\.5; expected a whole number\)"):
        read_comparison(made.file)


def test_settings_are_stored_once(nnunet_folders: Path) -> None:
    made = comparison_of(*ARMS)
    write_comparison(made, Shared(2, ("a",), ("b",), "imagesTs", {}))
    content = read_json(made.file)
    assert not content.keys() & content["settings"].keys()
    assert content["experiments"]["upper_bound"] == {"0": "compare_upper_bound_s0"}
    assert set(content["experiments"]) == {"assft", "random", "upper_bound"}


def test_encoders_are_arms_and_are_kept(blobs: Path, tmp_path: Path) -> None:
    mae, ct = (str(tmp_path / f"{name}.safetensors") for name in ("mae", "ct-fm"))
    made = asked(*OPTIONS, "--references", "none", "--encoders", "none", mae)
    assert (made.settings.encoder, made.encoders) == (None, {"mae": mae})
    assert [arm.id for arm in made.arms] == ["assft", "random", "assft+encoder=mae", "random+encoder=mae"]
    write_comparison(made, shared := plan_shared(made))
    assert read_comparison(made.file)[0] == asked() == made
    assert [arm.id for arm in asked("--strategies", "cup").arms] == ["cup", "cup+encoder=mae"]
    more = asked("--encoders", "none", mae, ct)
    write_comparison(more, shared)
    assert read_comparison(made.file)[0].encoders == {"mae": mae, "ct_fm": ct}
    assert [arm.id for arm in asked().arms][4:] == ["assft+encoder=ct_fm", "random+encoder=ct_fm"]
    other = asked("--encoders", mae, "none")
    assert (other.settings.encoder, other.encoders) == (mae, {"none": None})


def test_an_encoder_is_the_same_wherever_it_lies(nnunet_folders: Path, tmp_path: Path) -> None:
    before, now = tmp_path / "mae.pt", tmp_path / "moved.pt"
    before.write_bytes(b"weights")
    sha256 = sha256_file(before)
    made, moved = (comparison_of("random", "assft", encoder=str(file)) for file in (before, now))
    shared = Shared(2, ("a",), ("b",), "imagesTs", {})
    write_comparison(made, shared)  # as an earlier version did, without the checksum
    require_same_settings(made)
    with pytest.raises(AssftError, match=rf"\(encoder was {before}, now {now}\)"):
        require_same_settings(moved)
    write_comparison(made, replace(shared, pretrained={str(before): sha256}))
    before.rename(now)
    require_same_settings(made)  # on a machine without the file
    require_same_settings(comparison_of("random", "assft", encoder=str(tmp_path / "elsewhere" / "mae.pt")))
    require_same_settings(moved)
    write_comparison(replace(moved, seeds=(1,), arms=moved.arms[:1]), replace(shared, pretrained={str(now): sha256}))
    known, of_all = read_comparison(made.file)
    assert (known.settings.encoder, known.seeds, len(known.arms)) == (str(now), (0, 1), 2)
    assert of_all.pretrained == {str(before): sha256, str(now): sha256}
    now.write_bytes(b"others")
    with pytest.raises(AssftError, match=rf"\(encoder was {now}, now {now} with another content\)"):
        require_same_settings(moved)


def test_two_encoders_of_one_name_are_refused(blobs: Path) -> None:
    with pytest.raises(AssftError, match=r"--encoders names two files 'mae', which would give their arms one name"):
        asked("--encoders", "a/mae.pt", "b/mae.pt")
