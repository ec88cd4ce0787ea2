from __future__ import annotations

from dataclasses import replace
from typing import Any

from nnunet_assft.active.history import Change
from nnunet_assft.report.material import Material, gather
from nnunet_assft.report.sections.provenance import section
from nnunet_assft.runtime.sealed import write_sealed
from tests.conftest import Trained
from tests.report.conftest import with_settings


def test_settings_versions_and_checksums_are_listed(material: Material) -> None:
    experiment, models, options = section(material).tables
    facts = dict(experiment.data.to_numpy())
    assert facts["options that differ from the method"] == "tau_c=3.0"
    assert facts["version of nnunetv2"] == "2.8.1"
    assert facts["iterations per epoch"] == "250"
    assert facts["pre-trained encoder"].startswith("none")
    assert list(models.data["weights_sha256"]) == ["cd", "cd"]
    assert dict(options.data[["option", "value"]].to_numpy())["tau_c"] == "3.0"


def test_every_change_is_a_row_with_what_it_changed_and_from_when_on(material: Material) -> None:
    """A withdrawal holds at once, and everything else from the next query on."""
    permutation = material.experiment.permutation
    history = (
        Change(2, True, 3, 1, permutation, added=("new",), withdrawn=("case_1", "case_2")),
        Change(3, False, 3, 1, permutation, withdrawn=("case_4",)),
        Change(3, True, 3, 1, permutation, labelled=("case_5", "case_6")),
    )
    found = section(replace(material, experiment=replace(material.experiment, history=history)))
    (table,) = (table.data for table in found.tables if table.name == "history")
    assert table["from round"].tolist() == [3, 3, 4]
    assert table["withdrawn"].tolist() == ["case_1, case_2 (from round 2 on)", "case_4", ""]
    assert table["labelled by a second look"].tolist() == ["", "", "case_5, case_6"]


def test_the_encoder_is_named_without_its_folder(material: Material) -> None:
    material = with_settings(material, encoder="/somewhere/ct_fm.safetensors")
    material = replace(material, experiment=replace(material.experiment, encoder_report={"sha256": "ef01"}))
    facts = dict(section(material).tables[0].data.to_numpy())
    assert facts["pre-trained encoder"] == "ct_fm.safetensors, sha256 ef01"


def test_what_the_weights_at_the_start_are_is_told(material: Material) -> None:
    def facts(report: dict[str, Any] | None) -> dict[str, str]:
        experiment = replace(material.experiment, encoder_report=report)
        return dict(section(replace(material, experiment=experiment)).tables[0].data.to_numpy())

    names = ("format of the weights", "layout of their file", "licence of the weights")
    adapted, rows = "weights adapted to the channels", "rows of the last layer taken"
    assert not {*names, adapted, rows} & facts(None).keys()
    repeated = "conv_init.weight: 1 input channel repeated 2 times and divided by 2"
    report = {"encoder": "vocomni", "sha256": "ef", "layout": "torch, no prefix", "adapted": repeated}
    found = facts(report)
    expected = [
        "vocomni (VoCo (Wu et al., 2024): VoComni_nnunet.pt)",
        "torch, no prefix",
        "Apache-2.0 in the repository",
    ]
    assert [found[name] for name in names] == expected
    assert found[adapted] == repeated
    assert rows not in found
    start = {**report, "encoder": "nnunet", "adapted": None, "structures": {"background": True, "a": False, "b": True}}
    found = facts(start)
    assert (found[adapted], found[rows], found[names[2]]) == ("no", "background, b", "that of the model")
    found = facts({**report, "encoder": "of_another_package"})
    assert (found[names[0]], found[names[2]]) == ("of_another_package", "that of another package")


def test_the_grid_the_device_and_the_seconds_of_a_real_experiment(trained: Trained) -> None:
    paths, (_, first, last) = trained.experiment.paths, trained.rounds
    paths.result(first.model.checkpoint).with_name("debug.json").write_text(
        '{"device": "cuda", "gpu_name": "A100", "precision": "bf16, compiled"}'
    )
    paths.result(last.model.checkpoint).with_name("debug.json").write_text("no JSON")
    found = section(gather("Dataset901_Blobs", "assft", None))
    assert list(found.tables[1].data["trained on"]) == ["cpu", "A100", ""]
    assert list(found.tables[1].data["precision"]) == ["fp32", "bf16, compiled", ""]
    facts = dict(found.tables[0].data.to_numpy())
    assert (facts["channels"], facts["spacing in mm (x, y, z)"]) == ("MRI", "1 x 1 x 1")
    assert facts["patch (x, y, z)"] == "32 x 32 x 16"
    seconds = found.tables[-1].data
    assert list(seconds["round"]) == [0, 1, 2]
    assert (seconds["supervised"] > 0).all()
    assert seconds["semi"].isna().tolist() == [True, False, False]


def test_who_has_trained_round_0_is_said(trained: Trained) -> None:
    origin = trained.experiment.paths.taken_from
    said = []
    for content in ({"experiment": "first", "seconds": 12.3}, {"experiment": "first", "seconds": None}):
        write_sealed(origin, content)
        said.append(section(gather("Dataset901_Blobs", "assft", None)).tables[1].caption)
    origin.write_text("{")
    said.append(section(gather("Dataset901_Blobs", "assft", None)).tables[1].caption)
    first = "The checksum is that of the weights alone."
    trained_by = f"{first} The network of round 0 was trained by experiment 'first'"
    assert said == [f"{trained_by} in 12 s and taken from there.", f"{trained_by} and taken from there.", first]
