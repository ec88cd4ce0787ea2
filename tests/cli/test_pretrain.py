"""`nnUNetv2_assft_pretrain` and then `nnUNetv2_assft_plan --encoder`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_assft.active.state import Experiment
from nnunet_assft.cli import plan, pretrain

SHORT = ["-d", "901", "-device", "cpu", "--epochs", "1", "--iterations_per_epoch", "1"]


def call(module, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as exit_:
        module.main(arguments)
    out, error = capsys.readouterr()
    assert not exit_.value.code, error
    return out


def test_the_printed_command_plans_with_the_encoder(planned: Experiment, capsys: pytest.CaptureFixture[str]) -> None:
    out = call(pretrain, SHORT, capsys)
    folder = planned.paths.results / "pretrained_mae"
    file = folder / "pretrained_mae.safetensors"
    assert "the encoder of the preset tiny was pre-trained (mae) on 8 images of the pool." in out
    assert (folder / "report.html").is_file()
    next_ = out.splitlines()[-1]
    assert next_ == f"Next: nnUNetv2_assft_plan -d 901 -e NAME --preset tiny --encoder {file}"
    arguments = next_.replace("NAME", "other").split()[2:]
    out = call(plan, arguments, capsys)
    assert f"pre-trained encoder: {file.name}, recognised as nnunet_assft" in out
    assert "pre-trained (mae) on 8 images of Dataset901_Blobs, 1 step\n" in out
    assert "as the weights were trained" not in out
    out = call(plan, [*arguments, "--normalization", "ctfm", "-e", "third"], capsys)
    assert (
        "planned here, and in brackets as the weights were trained: normalization CTFMNormalization "
        "(PercentileZScoreNormalization)\nplanned as the weights were trained: --normalization percentile\n" in out
    )


def test_the_folder_gives_the_file_its_name(
    planned: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"encoder: {tmp_path}/long/long.safetensors" in call(pretrain, [*SHORT, "-o", "long"], capsys)
