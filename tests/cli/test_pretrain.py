"""`nnUNetv2_assft_pretrain` and then `nnUNetv2_assft_plan --encoder`, as they are typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_assft.active.state import Experiment
from nnunet_assft.cli import plan, pretrain
from nnunet_assft.runtime.files import sha256_file
from tests.conftest import blob_case, write_volume

SHORT = ["-d", "901", "-device", "cpu", "--epochs", "1", "--iterations_per_epoch", "1"]


def call(module: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What a command prints; on stderr, if it is to exit with another code than 0."""
    with pytest.raises(SystemExit) as exit_:
        module.main(arguments)
    out, error = capsys.readouterr()
    assert (exit_.value.code or 0) == code, error
    return error if code else out


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


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae", "contrastive"])
def test_other_engines_write_the_file_of_this_process(
    planned: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    write_volume(tmp_path / "more" / "new_0000.nii.gz", blob_case(20)[0])
    command = [*SHORT, "--method", method, "--images", str(tmp_path / "more")]

    def file(engine: str) -> Path:
        return tmp_path / engine / "encoder" / "encoder.safetensors"  # of one name, which is in its report

    def of(engine: str, code: int = 0) -> str:
        return call(pretrain, [*command, "-o", str(file(engine).parent), "--engine", engine], capsys, code)

    assert "on 8 images of the pool and 1 further image." in of("here")
    of("local")
    script = re.search(r"Run `bash (\S+) PART`", of("print", 3))
    assert script
    assert not file("print").exists()
    subprocess.run(["bash", script[1], "0"], check=True, capture_output=True, timeout=600)
    assert "on 8 images of the pool and 1 further image." in of("print")
    assert len({sha256_file(file(engine)) for engine in ("here", "local", "print")}) == 1
    assert not list(planned.paths.jobs.iterdir())
