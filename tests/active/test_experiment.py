"""Planning: which cases, which plans, which network; what is refused; and that no label is opened on the way."""

import dataclasses
import json
import shutil

import blosc2
import pytest
import torch
from safetensors.torch import save_file

from nnunet_assft.active.context import open_context
from nnunet_assft.active.experiment import prepare
from nnunet_assft.active.options import Options
from nnunet_assft.active.state import Experiment
from nnunet_assft.errors import AssftError, DamagedFileError
from nnunet_assft.network.architecture import CTFMSegmentationNet
from nnunet_assft.network.checkpoints import load_weights, weights_sha256
from nnunet_assft.network.presets import PRESETS
from tests.conftest import CPU, TINY, blob_case, plan_experiment, write_dataset, write_volume

POOL = tuple(f"case_{i:02d}" for i in range(8))
SETTINGS = {"preset": "tiny", "epochs": 2, "iterations_per_epoch": 2}  # rounds and budget are those of the domain


def plan(name: str = "assft", **settings) -> Experiment:
    return plan_experiment(901, name, **{**SETTINGS, **settings})


def plan_tiny(name: str = "assft", **settings) -> Experiment:
    """The experiment of the fixture `planned`, or another one on its dataset, which finds the images preprocessed."""
    return plan_experiment(901, name, **{**TINY, **settings})


def without_test_folders(folder):
    shutil.rmtree(folder / "imagesTs")
    shutil.rmtree(folder / "labelsTs")
    return folder


def state_of(*folders):
    """Every file below, with the time of its last change."""
    return {file: file.stat().st_mtime_ns for folder in folders for file in folder.rglob("*") if file.is_file()}


# Cases that are labelled at the start ---------------------------------------------------------------------------------


def keep_labels(blobs, *cases):
    """Of the labels of the pool, only these are left."""
    for file in (blobs / "labelsTr").iterdir():
        if file.name.removesuffix(".nii.gz") not in cases:
            file.unlink()


def test_a_human_experiment_starts_with_the_labels_at_hand_by_default(blobs):
    keep_labels(blobs, "case_05", "case_02")
    experiment = plan(annotator="human")
    assert experiment.labelled_at_start == experiment.start == ("case_02", "case_05")
    assert experiment.pool == POOL
    assert sorted(experiment.permutation) == list(POOL)
    none = plan("none", annotator="human", labelled="none")
    assert none.labelled_at_start == ()
    assert none.start == none.permutation[:1]
    assert none.permutation == experiment.permutation


def test_labels_that_come_later_are_no_other_setting(blobs):
    keep_labels(blobs, "case_05")
    experiment = plan(annotator="human")
    write_volume(blobs / "labelsTr/case_00.nii.gz", blob_case(0)[1])
    assert plan(annotator="human", labelled="existing") == experiment
    with pytest.raises(AssftError, match=r"\(labelled_at_start was 1 case, now 0 cases\)"):
        plan(annotator="human", labelled="none")


def test_a_file_names_the_first_cases_also_of_a_benchmark(blobs, tmp_path):
    (tmp_path / "start.txt").write_text("case_06\ncase_01\n")
    experiment = plan(labelled=str(tmp_path / "start.txt"))
    assert experiment.start == ("case_01", "case_06")
    (tmp_path / "splits.json").write_text('{"labelled": ["case_01", "case_06"]}')
    assert plan(labelled=str(tmp_path / "splits.json")) == experiment  # the cases count, not the name of the file
    with pytest.raises(AssftError, match=r"\(labelled_at_start was 2 cases, now 0 cases\)"):
        plan()


def test_an_oracle_never_starts_with_all_that_it_knows(blobs):
    assert plan().labelled_at_start == ()
    with pytest.raises(AssftError, match="every label is in labelsTr, and none would be left to query"):
        plan("other", labelled="existing")


def test_a_start_that_cannot_be(blobs, tmp_path):
    file = tmp_path / "start.txt"
    file.write_text("case_01 case_08")  # a test case
    with pytest.raises(AssftError, match=r"--labelled .* names 1 case outside of the pool \(case_08\)"):
        plan(labelled=str(file))
    with pytest.raises(AssftError, match="--labelled exiting: neither a file nor the word existing or none"):
        plan(labelled="exiting")
    with pytest.raises(AssftError, match=r"All 8 cases in the pool .* are labelled, so there is nothing to query"):
        plan(annotator="human")
    keep_labels(blobs, "case_02")
    file.write_text("case_02 case_03")
    with pytest.raises(AssftError, match=r"names 1 case without a label file \(case_03\). Add the labels to labelsTr"):
        plan(annotator="human", labelled=str(file))
    with pytest.raises(AssftError, match="first_case=medoid has no effect, because round 0 trains on the 1 case"):
        plan(annotator="human", options=Options(first_case="medoid"))
    assert not list(blobs.parents[1].glob("nnUNet_results/*/assft/*/experiment.json"))


# Test cases -----------------------------------------------------------------------------------------------------------


def test_labelled_cases_of_imagesTs_are_the_test_cases(blobs):  # noqa: N802 - nnU-Net's name
    (blobs / "labelsTs" / "case_09.nii.gz").unlink()  # an image without a label tests nothing
    experiment = plan()
    assert experiment.pool == POOL
    assert experiment.test == ("case_08", "case_10")
    assert experiment.test_source == "imagesTs"


def test_without_them_a_fifth_of_the_pool_is_held_out_whatever_the_seed(blobs):
    without_test_folders(blobs)
    experiment = plan()
    assert len(experiment.test) == 2  # floor(8 * 0.2 + 1/2)
    assert sorted((*experiment.pool, *experiment.test)) == list(POOL)
    assert experiment.test_source == "0.2 of imagesTr, seed 12345"
    other = plan("other", seed=1)
    assert (other.pool, other.test) == (experiment.pool, experiment.test)
    assert other.permutation != experiment.permutation


@pytest.mark.parametrize(("spec", "n_test"), [("0.5", 4), ("25%", 2), ("0.01", 1)])
def test_a_fraction_may_be_asked_for(blobs, spec, n_test):
    experiment = plan(test_split=spec)  # imagesTs then has no part in the experiment
    assert len(experiment.test) == n_test
    assert len(experiment.pool) == 8 - n_test
    assert set(experiment.test) < set(POOL)


def test_folds_of_a_fraction_are_disjoint(blobs):
    alone, *folds = (plan(f"fold_{i}", test_split=spec) for i, spec in enumerate(("25%", "25%@0", "25%@1", "25%@3")))
    assert folds[0].test == alone.test
    tests = [case for experiment in folds for case in experiment.test]
    assert len(tests) == len(set(tests)) == 6
    assert all(sorted((*fold.pool, *fold.test)) == list(POOL) for fold in folds)
    assert folds[1].test_source == "0.25 of imagesTr, seed 12345, fold 1"
    for spec in ("25%@4", "0.25@-1"):
        with pytest.raises(AssftError, match="8 cases have 4 folds of 2 test cases; expected a fold from 0 to 3"):
            plan("none", test_split=spec)


@pytest.mark.parametrize(
    "content",
    ['["case_06", "case_01"]', '{"train": ["case_00"], "test": ["case_01", "case_06"]}', "case_06\ncase_01\n"],
)
def test_a_file_may_name_the_test_cases(blobs, tmp_path, content):
    file = tmp_path / "split.json"
    file.write_text(content)
    experiment = plan(test_split=str(file))
    assert experiment.test == ("case_01", "case_06")
    assert experiment.pool == ("case_00", "case_02", "case_03", "case_04", "case_05", "case_07")
    assert experiment.test_source == f"file {file.name}"  # no folder, which is another one elsewhere


@pytest.mark.parametrize("spec", ["0", "1", "1.5", "-0.2", "150%", "nan"])
def test_a_fraction_that_is_none_is_refused(blobs, spec):
    with pytest.raises(AssftError, match="expected a fraction between 0 and 1"):
        plan(test_split=spec)


def test_unknown_test_cases_are_named(blobs, tmp_path):
    (tmp_path / "split.txt").write_text("case_01 case_99 case_08\n")
    with pytest.raises(
        AssftError, match=r"names 2 cases outside of imagesTr \(case_08, case_99\); expected ids such as case_00"
    ):
        plan(test_split=str(tmp_path / "split.txt"))


@pytest.mark.parametrize("content", ["", "[]", '{"test": []}', "1234"])
def test_a_file_without_a_case_is_refused(blobs, tmp_path, content):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(AssftError, match=r"--test_split .*split.json"):
        plan(test_split=str(tmp_path / "split.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "is not a text in UTF-8"),
        (b"[" * 100_000, "contains [ (U+005B)"),
        (b'["case_00", ["case_01"]]', "is not a text"),
        (b'["case_00", "../case_01"]', "contains / (U+002F)"),
        ('["Mu\u0308ller"]'.encode(), "is not in composed form"),
    ],
)
def test_a_file_that_holds_no_case_ids_is_refused(blobs, tmp_path, content, words):
    (tmp_path / "split.json").write_bytes(content)
    with pytest.raises(AssftError) as caught:
        plan(test_split=str(tmp_path / "split.json"))
    assert words in str(caught.value)
    assert str(caught.value).startswith("--test_split ")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("spec", ["", " "])
def test_an_empty_test_split_is_refused(blobs, spec):
    with pytest.raises(AssftError, match="--test_split is empty"):
        plan(test_split=spec)


def test_a_label_under_another_name_is_named(blobs):
    (blobs / "labelsTr" / "case_02.nii.gz").rename(blobs / "labelsTr" / "case_02_0000.nii.gz")
    with pytest.raises(AssftError, match=r"\(case_02\).* There is case_02_0000\.nii\.gz, but labels have no channel"):
        plan()


def test_labels_of_annotators_are_never_written_outside_of_the_dataset(blobs):
    content = json.loads((blobs / "dataset.json").read_text())
    content["dataset"] = {
        case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"../elsewhere/{case}.nii.gz"} for case in POOL
    }
    (blobs / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(AssftError, match=r"the label of case case_00 is .*elsewhere/case_00\.nii\.gz, which is not in"):
        plan(annotator="human")


def test_foreign_files_in_imagestr_do_not_stop_planning(blobs, monkeypatch):
    """nnU-Net's own listing stops at them, and starts twelve processes."""
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", None)
    for name in ("._case_01_0000.nii.gz", ".DS_Store", "notes.txt", "case_01_0000.json", "old_0000.nii"):
        (blobs / "imagesTr" / name).write_bytes(b"\0\5\26\7")
    assert plan(test_split="0.25").paths.plans.is_file()


def test_the_reader_is_chosen_at_planning_and_kept(blobs):
    experiment = plan()
    assert json.loads(experiment.paths.plans.read_text())["image_reader_writer"] == "SimpleITKIO"
    content = json.loads((blobs / "dataset.json").read_text())
    (blobs / "dataset.json").write_text(json.dumps({**content, "overwrite_image_reader_writer": "NibabelIO"}))
    assert type(experiment.raw_dataset().reader).__name__ == "SimpleITKIO"
    assert json.loads(plan("other").paths.plans.read_text())["image_reader_writer"] == "NibabelIO"


def test_a_file_that_is_not_there_is_refused(blobs, tmp_path):
    with pytest.raises(AssftError, match="neither a file nor a fraction"):
        plan(test_split=str(tmp_path / "split.json"))


def test_a_pool_of_one_is_refused(blobs):
    with pytest.raises(AssftError, match="has 1 case; expected at least 2"):
        plan(test_split="0.9")


# Budget and first case ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "n_query"), [("2", 2), ("25%", 2), ("0.25", 2), ("1%", 1), ("100%", 8), (None, 1)])
def test_budget(planned, budget, n_query):
    assert plan("other", budget=budget).n_query == n_query  # None: the domain's 5 %, of 8 cases


@pytest.mark.parametrize("budget", ["0", "-1", "120%", "two", "1.5"])
def test_a_budget_that_is_none_is_refused(blobs, budget):
    with pytest.raises(AssftError, match="expected a number of cases"):
        plan(budget=budget)


def test_the_first_case_is_that_of_the_seed_whatever_the_strategy(planned):
    drawn = {strategy: plan(strategy, strategy=strategy).permutation for strategy in ("random", "badge")}
    assert set(drawn.values()) == {planned.permutation}
    assert sorted(planned.permutation) == list(POOL)
    assert plan("other", seed=1).permutation[0] != planned.permutation[0]


def test_round_0_keeps_the_papers_share_of_the_epochs(blobs):
    training = plan(epochs=8, iterations_per_epoch=3, initial_lr=0.01).settings.training
    assert (training["one_shot_epochs"], training["epochs"]) == (2, 8)  # 100 of 400
    assert (training["iterations_per_epoch"], training["initial_lr"]) == (3, 0.01)


# No label is read -----------------------------------------------------------------------------------------------------


def everything_planned(experiment):
    paths = experiment.paths
    images = {
        file.name: blosc2.open(urlpath=str(file), mode="r")[:].tobytes()
        for file in paths.preprocessed.glob("assft_pool_*/*.b2nd")
    }
    plans = json.loads(paths.plans.read_text())
    checksums = {**experiment.checksums, "plans": ""}  # the plans name the dataset
    return dataclasses.replace(experiment, dataset="", checksums=checksums), {**plans, "dataset_name": ""}, images


def test_labels_are_not_opened(blobs, nnunet_folders):
    clean = everything_planned(plan())
    assert len(clean[2]) == 22
    other = write_dataset(nnunet_folders / "nnUNet_raw", name="Dataset902_Garbage")
    for folder in ("labelsTr", "labelsTs"):
        for file in (other / folder).iterdir():
            file.write_bytes(b"this is no image")
    assert everything_planned(plan_experiment(902, **SETTINGS)) == clean


def test_the_oracle_needs_every_label_file(blobs):
    (blobs / "labelsTr" / "case_03.nii.gz").unlink()
    with pytest.raises(
        AssftError, match=r"no label file for 1 case of Dataset901_Blobs \(case_03\).*--annotator human"
    ):
        plan()


def test_a_human_starts_without_any_label(blobs):
    shutil.rmtree(blobs / "labelsTr")
    (blobs / "labelsTr").mkdir()
    shutil.rmtree(blobs / "labelsTs")
    experiment = plan(annotator="human")
    assert experiment.pool == POOL
    assert (experiment.test, experiment.test_source) == ((), "none")


def test_test_cases_without_label_are_refused_before_anything_is_trained(blobs, tmp_path):
    """A human is asked for the queried cases only."""
    (blobs / "labelsTr/case_03.nii.gz").unlink()
    (tmp_path / "split.txt").write_text("case_02 case_03")
    with pytest.raises(AssftError, match=r"There is no label for 1 test case \(case_03\).*plan without --test_split"):
        plan(annotator="human", test_split=str(tmp_path / "split.txt"))


def test_a_human_may_have_labelled_test_cases(blobs):
    shutil.rmtree(blobs / "labelsTr")
    assert plan(annotator="human").test == ("case_08", "case_09", "case_10")


# The same call again, other settings ----------------------------------------------------------------------------------


def test_the_same_call_again_finds_everything_done(planned, nnunet_folders):
    before = state_of(nnunet_folders)
    assert plan_tiny() == planned == Experiment.load(planned.paths)
    assert state_of(nnunet_folders) == before


def test_a_call_that_was_cut_off_is_completed(planned):
    images = next(planned.paths.preprocessed.glob("assft_pool_*"))
    kept = state_of(images)
    planned.paths.experiment_file.unlink()
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        (images / f"case_06{ending}").unlink()
    kept = {file: changed for file, changed in kept.items() if not file.name.startswith(("case_06", ".lock"))}
    assert plan_tiny() == planned
    after = {file: changed for file, changed in state_of(images).items() if file.name != ".lock"}
    assert {file: after[file] for file in kept} == kept
    assert len(after) == len(kept) + 4  # with the file that says what they were made from


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"strategy": "random"}, "strategy was assft, now random"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"rounds": 3}, "rounds was 2, now 3"),
        ({"budget": "1"}, r"budget was 2, now 1\)"),
        ({"annotator": "human"}, "annotator was oracle, now human"),
        ({"test_split": "0.25"}, "pool was 8 cases, now 6 cases; test was 3 cases, now 2 cases"),
        ({"epochs": 3}, "epochs was 2, now 3"),
        ({"normalization": "ctfm"}, "normalization was percentile, now ctfm"),
    ],
)
def test_other_settings_are_refused_by_name(planned, settings, named):
    with pytest.raises(AssftError, match=rf"exists with other settings \({named}.*new name with -e"):
        plan_tiny(**settings)
    assert Experiment.load(planned.paths) == planned


def test_a_refusal_of_other_rounds_names_the_command_that_changes_them(planned):
    words = r"To change the rounds that follow, run nnUNetv2_assft_extend -d 901 --rounds 3 --budget 20%\.$"
    with pytest.raises(AssftError, match=words):
        plan_tiny(rounds=3, budget="20%")
    with pytest.raises(AssftError, match=r"new name with -e\.$"):
        plan_tiny(seed=1)


def test_a_file_that_the_dataset_has_lost_is_named(planned):
    label = planned.paths.raw / "labelsTs/case_09.nii.gz"
    label.rename(label.with_suffix(".bak"))
    with pytest.raises(AssftError, match=r"lacks the labels of 1 test case .*: case_09\. Put them back"):
        plan_tiny()
    label.with_suffix(".bak").rename(label)
    (planned.paths.raw / "imagesTr/case_05_0000.nii.gz").unlink()
    with pytest.raises(AssftError, match=r"lacks the images of 1 case .*: case_05\. .* -d 901 --withdraw case_05\.$"):
        plan_tiny()


def test_a_damaged_copy_of_dataset_json_is_made_again(planned):
    copy = planned.paths.preprocessed / "dataset.json"
    sound = copy.read_bytes()
    copy.unlink()  # it is a link to the raw file
    copy.write_bytes(sound[:20])
    prepare(planned, planned.raw_dataset())
    assert copy.read_bytes() == sound


def test_two_experiments_share_the_preprocessed_images(planned):
    images = next(planned.paths.preprocessed.glob("assft_pool_*"))
    before = state_of(images)
    second = plan_tiny("second", strategy="random", seed=1)
    assert list(planned.paths.preprocessed.glob("assft_pool_*")) == [images]
    assert state_of(images) == before
    assert second.paths.plans.name == "nnUNetASSFTPlans_second.json"
    assert planned.paths.plans.name == "nnUNetASSFTPlans.json"


@pytest.mark.parametrize("settings", [{"strategy": "best"}, {"preset": "huge"}])
def test_a_row_that_is_not_in_the_table_is_refused(blobs, settings):
    (name,) = settings.values()
    with pytest.raises(AssftError, match=f"'{name}' does not exist; the choices are "):
        plan(**settings)


@pytest.mark.parametrize("name", ["", "a b", "../x", "ü"])
def test_a_name_that_is_no_file_name_is_refused(blobs, name):
    with pytest.raises(AssftError, match="An experiment name consists of letters"):
        plan(name)


# The network before round 0 -------------------------------------------------------------------------------------------


@pytest.fixture
def encoder():
    """State dict of a tiny encoder with weights of its own."""
    torch.manual_seed(99)
    network = CTFMSegmentationNet(1, 3, **PRESETS["tiny"].arguments)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value + 7
        for name, value in network.encoder.state_dict().items()
    }


def test_the_start_is_random_and_decided_by_the_seed(blobs):
    weights = {
        name: load_weights(plan(name, seed=seed).paths.initial_network) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert weights_sha256(weights["a"]) == weights_sha256(weights["b"]) != weights_sha256(weights["c"])
    assert (plan("a").settings.encoder, plan("a").encoder_report) == (None, None)
    assert plan("a").initial_network_sha256 == weights_sha256(weights["a"])


def test_a_pretrained_encoder_is_loaded_as_a_whole(blobs, tmp_path, encoder):
    file = tmp_path / "tiny.safetensors"
    save_file({f"encoder.{name}": value for name, value in encoder.items()}, file)
    experiment = plan(encoder=str(file))
    weights = load_weights(experiment.paths.initial_network)
    for name, value in encoder.items():
        assert torch.equal(weights[f"encoder.{name}"], value), name
    random = load_weights(plan("random_start").paths.initial_network)
    decoder = [name for name in random if name.startswith("decoder.")]
    assert len(decoder) + len(encoder) == len(weights)
    assert all(torch.equal(weights[name], random[name]) for name in decoder)  # same seed, same decoder
    assert experiment.encoder_report["n_keys"] == len(encoder)
    assert plan(encoder=str(file)) == experiment
    moved = file.rename(tmp_path / "moved.safetensors")
    assert plan(encoder=str(moved)) == experiment  # the same content
    assert plan(encoder=str(file)) == experiment  # not there, but of the same name
    with pytest.raises(AssftError, match=r"encoder was .*tiny\.safetensors, now None"):
        plan()


def test_an_encoder_that_lacks_a_key_is_refused(blobs, tmp_path, encoder):
    del encoder["layers.2.blocks.0.conv1.weight"]
    save_file(encoder, tmp_path / "tiny.safetensors")
    with pytest.raises(AssftError, match=r"1 missing: layers.2.blocks.0.conv1.weight"):
        plan(encoder=str(tmp_path / "tiny.safetensors"))


def test_a_truncated_encoder_leaves_no_experiment(blobs, tmp_path, encoder):
    file = tmp_path / "tiny.safetensors"
    save_file(encoder, file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(AssftError, match="damaged or incomplete"):
        plan(encoder=str(file))
    file.write_bytes(content)
    assert plan(encoder=str(file)).settings.encoder == file.name


def test_an_experiment_has_no_path_of_its_files(blobs, tmp_path, encoder):
    file, test, first = tmp_path / "tiny.safetensors", tmp_path / "test.txt", tmp_path / "first.txt"
    save_file(encoder, file)
    test.write_text("case_00\ncase_01")
    first.write_text("case_02")
    files = {"encoder": str(file), "test_split": str(test), "labelled": str(first)}
    experiment = plan(**files)
    assert str(tmp_path) not in experiment.paths.experiment_file.read_text()
    settings = Experiment.load(experiment.paths).settings
    names = {"encoder": "tiny.safetensors", "test_split": "test.txt", "labelled": "first.txt"}
    assert {name: getattr(settings, name) for name in files} == names
    assert experiment.encoder_report["path"] == "tiny.safetensors"
    assert plan(**files) == experiment
    save_file(encoder, file, {"remark": "other content"})
    with pytest.raises(AssftError, match=r"encoder was tiny\.safetensors, now /.*/tiny\.safetensors with another"):
        plan(**files)


def test_an_experiment_with_paths_as_earlier_versions_wrote_them_is_the_same(blobs, tmp_path, encoder):
    file, earlier = tmp_path / "tiny.safetensors", "/data/tiny.safetensors"
    save_file(encoder, file)
    made = plan(encoder=str(file))
    settings, report = dataclasses.replace(made.settings, encoder=earlier), {**made.encoder_report, "path": earlier}
    with_paths = dataclasses.replace(made, settings=settings, encoder_report=report)
    with_paths.save()
    assert plan(encoder=str(file)) == with_paths


def test_a_network_is_made_again_from_an_encoder_that_was_moved(blobs, tmp_path, encoder):
    file = tmp_path / "tiny.safetensors"
    save_file(encoder, file)
    experiment = plan(encoder=str(file))
    moved = file.rename(tmp_path / "moved.safetensors")
    experiment.paths.initial_network.unlink()
    with pytest.raises(DamagedFileError, match=r"and tiny\.safetensors, from which .* is not there\. .*--encoder"):
        open_context(experiment, CPU).checkpoint(experiment.initial_model)
    assert plan(encoder=str(moved)) == experiment
    assert load_weights(experiment.paths.initial_network, experiment.initial_network_sha256)


def test_an_encoder_file_that_is_not_there_is_refused_before_any_image_is_read(blobs, tmp_path):
    (blobs / "imagesTr" / "case_03_0000.nii.gz").write_bytes(b"this is no image")
    with pytest.raises(AssftError, match=r"ct_fm\.safetensors is not a file"):
        plan(encoder=str(tmp_path / "ct_fm.safetensors"))
    with pytest.raises(AssftError, match=r"1 of 11 images cannot be used \(case_03"):
        plan()


def test_ctfm_takes_no_encoder_of_other_widths(blobs, tmp_path, encoder):
    save_file(encoder, tmp_path / "tiny.safetensors")
    with pytest.raises(AssftError, match="widths 32, 64, 128, 256, 512; the file has 4, 16, 32, 64, 64"):
        plan(preset="ctfm", encoder=str(tmp_path / "tiny.safetensors"))


def test_the_papers_printed_network_takes_no_encoder_and_says_why(blobs, tmp_path, encoder):
    save_file(encoder, tmp_path / "tiny.safetensors")
    with pytest.raises(
        AssftError, match=r"block postactivation; ct_fm weights exist only .* Use one of the presets ctfm, ctfm_dec1224"
    ):
        plan(preset="assft_paper", encoder=str(tmp_path / "tiny.safetensors"))
