"""nnU-Net finds our classes by name: in this process, in its spawned workers, and from its own commands."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nnunetv2
import pytest
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_assft import nnunet_names
from nnunet_assft.errors import AssftError
from nnunet_assft.planning import normalization
from nnunet_assft.planning.choices import NORMALIZATIONS
from nnunet_assft.planning.planner import ASSFTPlanner
from nnunet_assft.trainers import assft_trainers, ext_trainer
from nnunet_assft.trainers.folds import TRAINERS

# what nnU-Net itself looks up by name, in a process that has imported nothing of ours
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
    root = Path(nnunet_names.__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(set(TRAINERS.values())))
def test_trainers_are_found_by_name(name: str) -> None:
    assert recursive_find_trainer_class_by_name(name) is getattr(assft_trainers, name)


@pytest.mark.parametrize("name", NORMALIZATIONS.values())
def test_normalisations_are_found_by_the_name_that_the_plans_carry(name: str) -> None:
    module = normalization if hasattr(normalization, name) else default_normalization_schemes
    assert find("preprocessing.normalization", name) is getattr(module, name)


def test_the_planner_is_found_by_name() -> None:
    assert find("experiment_planning", "ASSFTPlanner") is ASSFTPlanner


def test_a_class_is_known_to_the_module_that_is_named() -> None:
    module = ModuleType("theirs")

    @nnunet_names.known_to(module)
    class Ours:
        pass

    assert module.Ours is Ours  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", ["2.8.1", "2.8.2", "2.8.10"])
def test_versions_that_are_supported(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(nnunet_names, "version", lambda name: version)
    nnunet_names.check_nnunet_version()


@pytest.mark.parametrize("version", ["2.8", "2.8.0", "2.9", "2.9.0", "2.10.1", "1.7.0", "3.0", "2.5.1.post1"])
def test_another_version_is_refused_with_the_command_that_fixes_it(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(nnunet_names, "version", lambda name: version)
    with pytest.raises(AssftError) as caught:
        nnunet_names.known_to(ModuleType("theirs"))
    assert str(caught.value) == (
        f"nnunetv2 {version} is installed; expected nnunetv2 >=2.8.1,<2.9. Run pip install 'nnunetv2>=2.8.1,<2.9'."
    )


def test_pip_is_told_the_same_versions() -> None:
    requirements = importlib.metadata.requires("nnunet_assft") or []
    (requirement,) = [line for line in requirements if line.startswith("nnunetv2")]
    lower, upper = (".".join(map(str, version)) for version in nnunet_names.SUPPORTED_NNUNET)
    assert set(requirement.removeprefix("nnunetv2").split(",")) == {f">={lower}", f"<{upper}"}


def test_a_worker_that_is_sent_a_configuration_knows_our_normalisation(tmp_path: Path) -> None:
    """Stock nnUNetv2_predict preprocesses in spawned processes, which are sent a ConfigurationManager."""
    manager = ConfigurationManager({"patch_size": [16, 16, 16], "spacing": [1.0, 2.0, 3.0], "architecture": {}})
    file = tmp_path / "job.pkl"
    file.write_bytes(pickle.dumps(manager))
    code = FIND + (
        "import pickle, sys\n"
        'print(find("preprocessing.normalization", "PercentileZScoreNormalization"))\n'
        f"manager = pickle.load(open({str(file)!r}, 'rb'))\n"
        "print(type(manager).__module__, manager.configuration)\n"
        'print(find("preprocessing.normalization", "PercentileZScoreNormalization"))\n'
    )
    before, restored, found = run_python(code).splitlines()
    assert before == "None"  # otherwise this test would show nothing
    assert restored == f"{ConfigurationManager.__module__} {manager.configuration}"
    assert found == "<class 'nnunet_assft.planning.normalization.PercentileZScoreNormalization'>"


def test_the_folder_for_stock_commands_is_enough() -> None:
    """nnUNet_extTrainer alone: the trainers, and with them the normalisations, are found in a fresh process."""
    code = FIND + (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name\n"
        f"for name in {sorted(set(TRAINERS.values()))}:\n"
        "    cls = recursive_find_trainer_class_by_name(name)\n"
        '    print(f"{cls.__module__}.{cls.__name__}")\n'
        'print(find("preprocessing.normalization", "CTFMNormalization"))\n'
    )
    output = run_python(code, nnUNet_extTrainer=str(Path(ext_trainer.__file__).parent)).splitlines()
    assert output[-4:] == [
        *(f"nnunet_assft.trainers.assft_trainers.{name}" for name in sorted(set(TRAINERS.values()))),
        "<class 'nnunet_assft.planning.normalization.CTFMNormalization'>",
    ]
