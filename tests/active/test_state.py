"""Experiment, Round, splits: what is written is what is read, and nothing else is taken for it."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_assft.active.history import Change
from nnunet_assft.active.options import Options
from nnunet_assft.active.paths import ExperimentPaths
from nnunet_assft.active.settings import Settings
from nnunet_assft.active.state import KEYS, REMOVED_OPTIONS, Experiment, Model, Round, finished_rounds, write_splits
from nnunet_assft.cli.predict import main as predict_main
from nnunet_assft.cli.report import main as report_main
from nnunet_assft.cli.round import main as round_main
from nnunet_assft.cli.status import main as status_main
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.runtime.files import read_json, write_json
from nnunet_assft.runtime.sealed import read_sealed, write_sealed
from tests.conftest import CPU, Trained, run_round

POOL = tuple(f"case_{i:02d}" for i in range(8))


@pytest.fixture
def experiment(nnunet_folders) -> Experiment:
    return Experiment(
        dataset="Dataset901_Blobs",
        name="assft",
        settings=Settings(
            rounds=3,
            budget="25%",
            seed=7,
            domain="generic",
            preset="tiny",
            encoder="/encoders/ct_fm.safetensors",
            epochs=2,
            options=Options(asd_reduction="mean", pd_weights="reversed", tau_c=1.5, exclude_pseudo=False),
        ),
        n_query=2,
        pool=POOL,
        test=("case_08", "case_09"),
        test_source="imagesTs",
        permutation=POOL[::-1],
        encoder_report={"n_keys": 90},
        initial_network_sha256="0f" * 32,
        versions={"nnunetv2": "2.8.1", "nnunet_assft": "0.9"},
    )


def a_round(r: int, *, labelled: tuple[str, ...] = POOL[:1], pseudo: tuple[str, ...] = ()) -> Round:
    return Round(
        round=r,
        labelled=labelled,
        unlabelled=tuple(case for case in POOL if case not in labelled),
        queried=labelled[-1:],
        excluded=POOL[5:6],
        pseudo_labelled=pseudo,
        reliability=dict.fromkeys(pseudo, 1234.5),
        test=("case_08", "case_09"),
        model=Model("semi" if pseudo else "supervised", f"model/fold_{r}/checkpoint_final.pth", "ab" * 32),
        dice={
            "mean": 0.5,
            "sd": None,
            "n_cases": 1,
            "per_structure": {"ball": 0.5},
            "per_case": {"case_08": {"ball": 0.5}},
        },
    )


# Experiment and Round -------------------------------------------------------------------------------------------------


def test_an_experiment_is_read_as_it_was_written(experiment):
    experiment.save()
    assert Experiment.load(experiment.paths) == experiment
    settings = dataclasses.replace(experiment.settings, spacing=(5.0, 1.5, 1.5), patch_size=(32, 64, 64))
    with_edges = dataclasses.replace(experiment, settings=settings)
    with_edges.save()
    assert Experiment.load(experiment.paths) == with_edges


def test_an_experiment_that_is_not_there_says_how_to_make_it(experiment):
    with pytest.raises(AssftError, match=r"no experiment 'assft'.*nnUNetv2_assft_plan -d 901"):
        Experiment.load(experiment.paths)


def test_a_backup_beside_the_experiment_is_none(experiment, capsys: pytest.CaptureFixture[str]) -> None:
    experiment.save()
    folder = experiment.paths.results
    for name in ("assft.bak", "assft (copy)", "assft_old"):
        shutil.copytree(folder, folder.with_name(name))
    with pytest.raises(SystemExit) as exit_:
        status_main([])
    out, err = capsys.readouterr()
    assert (exit_.value.code, err) == (0, "")
    assert "experiment 'assft': 0 finished rounds" in out
    assert not {"bak", "copy"} & set(re.split(r"\W", out))
    with pytest.raises(AssftError, match=r"has no experiment 'asft'.*The dataset has the experiments"):
        Experiment.load(ExperimentPaths("Dataset901_Blobs", "asft"))
    with pytest.raises(
        AssftError, match=r"assft_old/experiment\.json is that of experiment 'assft' of Dataset901_Blobs"
    ):
        Experiment.load(ExperimentPaths("Dataset901_Blobs", "assft_old"))


@pytest.mark.parametrize("version", [1, 4, None])
def test_another_schema_version_is_refused(experiment, version):
    experiment.save()
    content = read_sealed(experiment.paths.experiment_file, KEYS)
    if version is None:
        del content["schema_version"]
    else:
        content["schema_version"] = version
    write_sealed(experiment.paths.experiment_file, content)
    with pytest.raises(AssftError, match=f"schema version {version}; expected 3. It was written by nnunet_assft 0.9"):
        Experiment.load(experiment.paths)


def test_a_round_is_read_as_it_was_written(experiment):
    done = a_round(2, labelled=POOL[:3], pseudo=POOL[3:5])
    done.save(experiment.paths)
    assert Round.load(experiment.paths, 2) == done


def test_a_round_file_in_the_place_of_another_is_damage(experiment):
    a_round(2).save(experiment.paths)
    shutil.copy(experiment.paths.round_file(2), experiment.paths.round_file(1))
    with pytest.raises(
        AssftError, match=r"round_01\.json is damaged \(it is that of round 2\)\. Run nnUNetv2_assft_round"
    ):
        Round.load(experiment.paths, 1)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"labelled": ["../../x"]}, r"the case id '\.\./\.\./x' contains / "),
        ({"test": 3}, "test is 3; expected a list"),
        ({"model": {"stage": "x", "checkpoint": "y", "weights_sha256": "z"}}, "the model is that of a stage 'x'"),
        ({"dice": {}}, "dice has no 'mean'"),
        ({"dice": "x"}, "dice is 'x'; expected an object"),
    ],
)
def test_a_round_of_another_form_is_damage_whatever_its_checksum(experiment, change, found):
    a_round(1).save(experiment.paths)
    file = experiment.paths.round_file(1)
    write_sealed(file, {**read_sealed(file), **change})
    with pytest.raises(DamagedFileError, match=rf"round_01\.json is damaged \({found}"):
        Round.load(experiment.paths, 1)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"pool": ["../../x"]}, r"the case id '\.\./\.\./x' contains / "),
        ({"test": ["a\nb"]}, r"the case id 'a\\nb' contains U\+000A"),
        ({"permutation": ["case_00"]}, "its permutation or labelled_at_start has other cases than its pool"),
        ({"labelled_at_start": "x"}, "labelled_at_start is 'x'; expected a list"),
        ({"checksums": [3]}, r"checksums is \[3\]; expected an object"),
        ({"encoder_report": ["x"]}, r"encoder_report is \['x'\]; expected an object"),
        ({"n_query": "2"}, "n_query is '2'; expected a whole number"),
        ({"settings": {"domain": "x"}}, "--domain 'x' does not exist"),
        ({"settings": {"annotator": 3}}, "annotator is 3; expected a text"),
        ({"settings": {"rounds": 0}}, "--rounds 0: expected a whole number"),
    ],
)
def test_an_experiment_of_another_form_is_damage_whatever_its_checksum(experiment, change, found):
    experiment.save()
    file = experiment.paths.experiment_file
    content = read_sealed(file)
    if "settings" in change:
        change = {"settings": {**content["settings"], **change["settings"]}}
    write_sealed(file, {**content, **change})
    with pytest.raises(DamagedFileError, match=rf"experiment\.json is damaged \({found}"):
        Experiment.load(experiment.paths)


def test_a_round_with_a_value_that_json_lacks_is_not_written(experiment):
    done = dataclasses.replace(a_round(0), dice={"mean": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        done.save(experiment.paths)
    assert not experiment.paths.round_file(0).exists()


@pytest.mark.parametrize(
    ("there", "n_finished"),
    [
        ((), 0),
        ((0,), 1),
        ((0, 1, 2, 3), 4),
        ((0, 1, 3), 2),
        ((1, 2), 0),
        ((0, 1, 2, 3, 4), 4),
    ],  # R = 3: there is no round 4
)
def test_finished_rounds_stop_at_a_gap(experiment, there, n_finished):
    for r in there:
        a_round(r).save(experiment.paths)
    assert [done.round for done in finished_rounds(experiment)] == list(range(n_finished))


# splits.json ----------------------------------------------------------------------------------------------------------


def test_splits_have_the_form_of_nnunets_splits_final(experiment):
    a_round(0).save(experiment.paths)
    a_round(1, labelled=POOL[:3], pseudo=(POOL[6], POOL[4])).save(experiment.paths)
    write_splits(experiment)
    splits = json.loads(experiment.paths.splits_file.read_text())
    assert len(splits) == 2  # fold = round; nnU-Net reads splits[fold]["train"] and ["val"]
    assert splits[0]["train"] == ["case_00"]
    assert splits[1]["train"] == ["case_00", "case_01", "case_02", "case_04", "case_06"]
    assert splits[1]["val"] == ["case_00", "case_01", "case_02"]
    assert splits[1]["unlabelled"] == list(POOL[3:])
    assert splits[1]["pseudo_labelled"] == ["case_06", "case_04"]
    assert splits[1]["queried"] == ["case_02"]
    assert splits[1]["excluded"] == ["case_05"]
    for entry in splits:
        assert not {*entry["train"], *entry["val"]} & set(entry["test"])
        assert set(entry["labelled"]) | set(entry["unlabelled"]) == set(POOL)


# Commands in messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "name", "arguments", "expected"),
    [
        ("Dataset218_AMOS", "assft", ("round", "-r", "3"), "nnUNetv2_assft_round -d 218 -r 3"),
        ("Dataset218_AMOS", "assft", ("plan",), "nnUNetv2_assft_plan -d 218 "),
        ("Dataset007_X", "pilot", ("status",), "nnUNetv2_assft_status -d 7 -e pilot "),
        ("Dataset007_X", "assft", ("annotate import", "my work"), "nnUNetv2_assft_annotate import -d 7 'my work'"),
    ],
)
def test_commands_are_what_one_types(experiment, dataset, name, arguments, expected):
    named = dataclasses.replace(experiment, dataset=dataset, name=name)
    assert named.command(*arguments) == expected.strip()


def test_numpy_values_do_not_slip_into_a_round(experiment):
    """json refuses them; a float64 mean is a Python float subclass and reads back equal."""
    with pytest.raises(TypeError):
        dataclasses.replace(a_round(0), dice={"mean": np.float32(0.5)}).save(experiment.paths)


# Experiments of version 0.1.0, with schema version 2 ------------------------------------------------------------------

VERSION_2 = Path(__file__).with_name("experiment_version_2.json")  # of `planned`, as version 0.1.0 wrote it


def as_version_2(experiment: Experiment, **changes: Any) -> None:
    """Replaces experiment.json by what version 0.1.0 would have written."""
    content = read_json(VERSION_2) | {"initial_network_sha256": experiment.initial_network_sha256} | changes
    write_json(experiment.paths.experiment_file, content)


def test_the_budgets_of_all_rounds_in_words(planned: Experiment) -> None:
    """That of a change that was replaced before its round does not appear."""
    assert (planned.per_round(2), planned.per_round(0, "scan", " each")) == ("2 cases", "2 scans each")
    changes = [Change(r, True, 5, n, planned.permutation) for r, n in ((0, 1), (1, 3), (1, 2), (3, 5))]
    changed = dataclasses.replace(planned, history=tuple(changes))
    assert changed.per_round(5) == "1 case (2 from round 2 on, 5 from round 4 on)"
    assert changed.per_round(3, "scan", " each") == "1 scan each (2 from round 2 on)"


def test_an_experiment_of_schema_version_2_is_the_same_experiment(planned: Experiment) -> None:
    as_version_2(planned)
    found = Experiment.load(planned.paths)
    assert found.versions == {"nnunetv2": "2.8.1", "torch": "2.14.1", "numpy": "2.4.6", "nnunet_assft": "0.1.0"}
    of_this_version = {name: getattr(planned, name) for name in ("versions", "checksums", "reader")}
    assert dataclasses.replace(found, **of_this_version) == planned


def test_encoder_and_options_of_schema_version_2_are_kept(planned: Experiment) -> None:
    options = read_json(VERSION_2)["options"] | {"tau_c": 1.5, "selection": "random"}
    as_version_2(planned, encoder={"path": "/encoders/ct_fm.pth", "report": {"n_keys": 90}}, options=options)
    found = Experiment.load(planned.paths)
    assert (found.settings.encoder, found.encoder_report) == ("/encoders/ct_fm.pth", {"n_keys": 90})
    assert found.options == Options(tau_c=1.5, selection="random")


@pytest.mark.parametrize("name", sorted(REMOVED_OPTIONS))
def test_a_changed_option_that_is_gone_is_refused_and_the_version_is_named(planned: Experiment, name: str) -> None:
    as_version_2(planned, options=read_json(VERSION_2)["options"] | {name: "another"})
    with pytest.raises(AssftError, match=rf"--option {name}.*removed.*nnunet_assft 0\.1\.0") as error:
        Experiment.load(planned.paths)
    assert "\n" not in str(error.value)


def run(main: Any, *arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["-d", "901", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_the_commands_read_an_experiment_of_schema_version_2(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_version_2(trained.experiment)
    assert run(status_main) == 0
    assert "All rounds are done." in capsys.readouterr().out
    assert run(report_main, "-o", tmp_path / "report.html") == 0
    assert "0.1.0" in (tmp_path / "report.html").read_text(encoding="utf-8")
    images = tmp_path / "nnUNet_raw/Dataset901_Blobs/imagesTs"
    assert run(predict_main, "-i", images, "-o", tmp_path / "out", "-npp", 0, "-nps", 0, "-device", "cpu") == 0
    assert len(list((tmp_path / "out").glob("case_*.nii.gz"))) == 3


def test_rounds_of_schema_version_2_are_kept_and_the_next_one_goes_on(trained: Trained) -> None:
    """Round 2 is undone; made anew from what version 0.1.0 has kept of it, it is the same."""
    as_version_2(trained.experiment)
    trained.experiment.paths.round_file(2).unlink()
    experiment = Experiment.load(trained.experiment.paths)
    assert finished_rounds(experiment) == trained.rounds[:2]
    assert run_round(experiment, 2, CPU) == trained.rounds[2]


def test_the_refusal_of_a_command_is_one_line(planned: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    as_version_2(planned, options=read_json(VERSION_2)["options"] | {"ugtst_multiple": 3})
    assert run(round_main, "-r", 0) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "ugtst_multiple" in line
    assert "0.1.0" in line
