"""nnU-Net finds our classes by name: in this process, in its spawned workers, and from its own commands."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import subprocess
import sys
from pathlib import Path

import nnunetv2
import pytest
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

import nnunet_assft.nnunet_names as registration
from nnunet_assft.errors import AssftError
from nnunet_assft.planning.normalization import CTFMNormalization, PercentileZScoreNormalization
from nnunet_assft.planning.planner import ASSFTPlanner
from nnunet_assft.trainers import ext_trainer
from nnunet_assft.trainers.assft_trainers import nnUNetTrainerASSFT, nnUNetTrainerASSFTSupervised

# what a worker of stock nnU-Net does, and what nnU-Net itself looks up by name
FIND = """
import os, nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
def find(part, name):
    folder = os.path.join(nnunetv2.__path__[0], *part.split("."))
    return recursive_find_python_class(folder, name, f"nnunetv2.{part}")
"""


def find(part: str, name: str) -> type | None:
    return recursive_find_python_class(str(Path(nnunetv2.__path__[0], *part.split("."))), name, f"nnunetv2.{part}")


def run_python(code: str, **environment: str) -> str:
    """The output of `code` in a fresh interpreter that has imported nothing of ours."""
    root = Path(registration.__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("cls", [nnUNetTrainerASSFT, nnUNetTrainerASSFTSupervised])
def test_trainers_are_found_by_name(cls: type):
    registration.register()
    assert recursive_find_trainer_class_by_name(cls.__name__) is cls


@pytest.mark.parametrize(
    ("part", "cls"),
    [
        ("preprocessing.normalization", PercentileZScoreNormalization),
        ("preprocessing.normalization", CTFMNormalization),
        ("experiment_planning", ASSFTPlanner),
    ],
)
def test_normalisations_and_planner_are_found_by_name(part: str, cls: type):
    registration.register()
    assert find(part, cls.__name__) is cls


def test_nothing_of_ours_is_known_without_registering():
    """Otherwise the tests of this file would show nothing."""
    code = FIND + 'print(find("preprocessing.normalization", "PercentileZScoreNormalization"))'
    assert run_python(code).strip() == "None"


def test_registering_twice_is_registering_once():
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as module

    registration.register()
    before = dict(vars(module))
    registration.register()
    assert vars(module) == before


@pytest.mark.parametrize("version", ["2.8.1", "2.8.2", "2.8.10"])
def test_versions_that_are_supported(monkeypatch: pytest.MonkeyPatch, version: str):
    monkeypatch.setattr(registration, "version", lambda name: version)
    registration.check_nnunet_version()


@pytest.mark.parametrize("version", ["2.8", "2.8.0", "2.9", "2.9.0", "2.10.1", "1.7.0", "3.0", "2.5.1.post1"])
def test_another_version_is_refused_with_the_line_that_mends_it(monkeypatch: pytest.MonkeyPatch, version: str):
    monkeypatch.setattr(registration, "version", lambda name: version)
    with pytest.raises(AssftError) as caught:
        registration.register()
    assert str(caught.value) == (
        f"nnunetv2 {version} is installed, but nnunet_assft needs nnunetv2 >=2.8.1,<2.9. Run: pip install 'nnunetv2>=2.8.1,<2.9'"
    )


def test_pip_is_told_the_same_versions():
    (first, *_), (below, *_) = registration.SUPPORTED_NNUNET[0], registration.SUPPORTED_NNUNET[1]
    assert first == below == 2
    requirements = importlib.metadata.requires("nnunet_assft") or []
    (requirement,) = [line for line in requirements if line.startswith("nnunetv2")]
    lower, upper = (".".join(map(str, version)) for version in registration.SUPPORTED_NNUNET)
    assert set(requirement.removeprefix("nnunetv2").split(",")) == {f">={lower}", f"<{upper}"}


def test_a_worker_that_is_sent_a_configuration_knows_our_normalisation(tmp_path: Path):
    """Stock nnUNetv2_predict preprocesses in spawned processes, which are sent a ConfigurationManager."""
    registration.register()
    manager = ConfigurationManager({"patch_size": [16, 16, 16], "spacing": [1.0, 2.0, 3.0], "architecture": {}})
    file = tmp_path / "job.pkl"
    file.write_bytes(pickle.dumps(manager))
    code = FIND + (
        "import pickle, sys\n"
        f"manager = pickle.load(open({str(file)!r}, 'rb'))\n"
        "print(type(manager).__module__, manager.configuration)\n"
        'print(find("preprocessing.normalization", "PercentileZScoreNormalization"))\n'
    )
    restored, found = run_python(code).splitlines()
    assert restored == f"{ConfigurationManager.__module__} {manager.configuration}"
    assert found == "<class 'nnunet_assft.planning.normalization.PercentileZScoreNormalization'>"


def test_the_folder_for_stock_commands_is_enough():
    """nnUNet_extTrainer alone: the trainer, and with it the normalisations, are found in a fresh process."""
    code = FIND + (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name\n"
        'trainers = ["nnUNetTrainerASSFT", "nnUNetTrainerASSFTSupervised"]\n'
        "classes = [recursive_find_trainer_class_by_name(name) for name in trainers]\n"
        'print(*[f"{cls.__module__}.{cls.__name__}" for cls in classes])\n'
        'print(find("preprocessing.normalization", "CTFMNormalization"))\n'
    )
    output = run_python(code, nnUNet_extTrainer=str(Path(ext_trainer.__file__).parent)).splitlines()
    module = "nnunet_assft.trainers.assft_trainers"
    assert output[-2:] == [
        f"{module}.nnUNetTrainerASSFT {module}.nnUNetTrainerASSFTSupervised",
        "<class 'nnunet_assft.planning.normalization.CTFMNormalization'>",
    ]
