"""The package of docs/extending.md: installed as the page shows it. Its examples run, and commands know its rows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks

EXTENDING = ROOT / "docs" / "extending.md"
FILE = re.compile(r"# ([\w/]+\.(?:py|toml))\n")


def file_of(block: Block) -> str | None:
    """The file of the package that a block shows, which is named in its first line."""
    named = FILE.match(block.text)
    return named[1] if named else None


def run(target: Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process in which the packages of `target` are installed, besides those of this process."""
    paths = os.pathsep.join([str(target), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )


def command(target: Path, line: str, cwd: Path) -> str:
    """What a command prints, such as `plan -d 901`, if it ends well."""
    name, *arguments = line.split()
    done = run(target, "-c", f"from nnunet_assft.cli.{name} import main; main()", *arguments, cwd=cwd)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, without an index."""
    missing = [module for module in ("pip", "setuptools") if find_spec(module) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} is not installed")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "my_assft").mkdir()
    (source / "my_assft" / "__init__.py").touch()
    for block in blocks(EXTENDING, "python", "toml"):
        file = file_of(block)
        if file is not None:
            (source / file).write_text(block.text)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = run(target, "-m", "pip", "install", *options, "--target", str(target), str(source), cwd=source)
    assert done.returncode == 0, done.stderr
    return target


def test_the_examples_run(installed: Path, nnunet_folders: Path) -> None:
    """All in one process, one after the other."""
    examples = [block for block in blocks(EXTENDING, "python") if file_of(block) is None]
    assert len({block.heading for block in examples}) == 5  # in every section
    script = nnunet_folders / "examples.py"
    script.write_text("\n".join(block.text for block in examples))
    done = run(installed, str(script), cwd=nnunet_folders)
    assert done.returncode == 0, done.stderr


def test_the_commands_list_the_rows(installed: Path, tmp_path: Path) -> None:
    assert "\nsmall_foreground   fewest voxels of predicted foreground\n" in command(
        installed, "plan --list_strategies", tmp_path
    )
    assert "\n  typical          nearest to the mean" in command(installed, "plan --list_options", tmp_path)
    text = " ".join(command(installed, "plan -h", tmp_path).split())
    rows = command(installed, "plan --list_encoders", tmp_path)
    assert "\n  narrow           CT-FM's block, a quarter of its widths\n" in rows
    assert "\n  my_encoder       own pretraining on 1,000 CTs. Licence: not released\n" in rows
    assert "generic, wrist (default: auto)" in text
    assert "wrist" in command(installed, "convert -h", tmp_path)


def test_an_experiment_is_planned_with_the_rows(installed: Path, blobs: Path) -> None:
    root = blobs.parents[1]
    line = "plan -d 901 --strategy small_foreground --preset narrow --domain wrist --option selection=typical"
    printed = command(installed, line, root)
    assert "small_foreground, domain wrist, preset narrow" in printed
    assert "rounds 1 to 4 query 1 case each" in printed
    plans = json.loads((root / "nnUNet_preprocessed" / blobs.name / "nnUNetASSFTPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [32, 64, 64]
    assert configuration["architecture"]["network_class_name"] == "nnunet_assft.network.CTFMSegmentationNet"
    assert configuration["architecture"]["arch_kwargs"]["widths"] == [8, 16, 32, 64, 128]


def test_without_the_package_its_rows_are_refused(tmp_path: Path, blobs: Path) -> None:
    code = "from nnunet_assft.cli.plan import main; main()"
    done = run(tmp_path, "-c", code, "-d", "901", "--preset", "narrow", cwd=tmp_path)
    assert done.returncode == 1
    assert "--preset 'narrow' does not exist; the choices are ctfm, " in done.stderr


@pytest.mark.slow
def test_a_dataset_is_converted_and_an_experiment_run_with_the_rows(installed: Path, blobs: Path) -> None:
    root = blobs.parents[1]
    (download,) = (block for block in blocks(EXTENDING, "python") if 'Path("download", kind)' in block.text)
    assert run(installed, "-c", download.text, cwd=root).returncode == 0
    command(installed, "convert wrist -i download", root)
    assert "domain wrist, preset ctfm" in command(installed, "plan -d 810", root)  # by the name of the dataset
    few = "--preset narrow --rounds 1 --budget 2 --epochs 1 --iterations_per_epoch 1 -device cpu"
    assert "2 pseudo-labelled" in command(installed, f"run -d 901 -e one --option selection=typical {few}", root)
    assert "0 pseudo-labelled" in command(installed, f"run -d 901 -e two --strategy small_foreground {few}", root)
    assert "small_foreground, 1 round of 2 cases" in command(installed, "status -d 901 -e two", root)
