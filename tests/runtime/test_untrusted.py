"""Files that carry code are refused, and the code is not run; files of nnU-Net are read."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from nnunet_assft.runtime.untrusted import load_pickle, load_torch

PROPERTIES = {
    "spacing": [1.0, 0.5, 0.5],
    "bbox_used_for_cropping": [[0, 3], [1, 4], [0, np.int64(5)]],
    "nibabel_stuff": {"original_affine": np.eye(4), "fortran": np.asfortranarray(np.ones((2, 3)))},
    "class_locations": {1: np.array([[0, 1, 2]]), (-1, 0, 1): np.zeros((0, 3), np.int64)},
    "scale": np.float32(0.1),
    "is_cropped": np.bool_(True),
}


class Malicious:
    """An object whose file makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_properties_are_read_whatever_the_protocol(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "case.pkl"
    file.write_bytes(pickle.dumps(PROPERTIES, protocol=protocol))
    found = load_pickle(file)
    assert found.keys() == PROPERTIES.keys()
    assert found["class_locations"].keys() == PROPERTIES["class_locations"].keys()
    np.testing.assert_array_equal(found["nibabel_stuff"]["fortran"], np.ones((2, 3)))
    assert found["scale"] == np.float32(0.1)


def test_properties_that_numpy_1_wrote_are_read(tmp_path: Path) -> None:
    content = pickle.dumps(PROPERTIES, protocol=2).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "case.pkl").write_bytes(content)
    assert load_pickle(tmp_path / "case.pkl")["spacing"] == [1.0, 0.5, 0.5]


def test_no_torch_is_installed_that_takes_no_names_of_functions() -> None:
    """torch 2.5 has no (function, name) among its safe globals, so that no checkpoint of nnU-Net could be read."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (torch_,) = (Requirement(line) for line in project["dependencies"] if Requirement(line).name == "torch")
    assert [version in torch_.specifier for version in ("2.5.1", "2.6.0")] == [False, True]


@pytest.mark.parametrize("name", ["case.pkl", "checkpoint.pth"])
def test_code_is_not_run(tmp_path: Path, name: str) -> None:
    file, trace = tmp_path / name, tmp_path / "run"
    content = {"network_weights": OrderedDict(w=torch.ones(2)), "logging": Malicious(trace)}
    if name == "case.pkl":
        file.write_bytes(pickle.dumps(Malicious(trace)))
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match="could run code"):
        (load_pickle if name == "case.pkl" else load_torch)(file)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_no_function_of_python_is_allowed(tmp_path: Path, name: str) -> None:
    (tmp_path / "case.pkl").write_bytes(f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(ValueError, match=f"it names builtins.{name}, which could run code"):
        load_pickle(tmp_path / "case.pkl")


CHECKPOINT = {
    "network_weights": OrderedDict(w=torch.arange(6.0).reshape(2, 3)),
    "logging": {"train_losses": [np.float32(0.5)], "dice": [[np.float64(0.25), np.int64(3)]]},
    "init_args": {"device": torch.device("cpu"), "fold": 0},
}


def test_a_checkpoint_of_nnunet_is_read(tmp_path: Path) -> None:
    torch.save(CHECKPOINT, tmp_path / "checkpoint.pth")
    for mmap in (False, True):
        found = load_torch(tmp_path / "checkpoint.pth", mmap=mmap)
        torch.testing.assert_close(found["network_weights"]["w"], CHECKPOINT["network_weights"]["w"])
        assert found["logging"] == CHECKPOINT["logging"]


def test_any_bit_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save(CHECKPOINT, file)
    whole = file.read_bytes()
    start = whole.index(np.arange(6, dtype=np.float32).tobytes())
    for i in range(start, start + 24):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(ValueError, match=r"does not match its checksum|CRC"):
            load_torch(file)


@pytest.mark.parametrize("bit", range(8))
def test_any_bit_of_a_compression_method_is_noticed(tmp_path: Path, bit: int) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save(CHECKPOINT, file)
    content = bytearray(file.read_bytes())
    method = content.index(b"PK\1\2") + 10  # in the table of contents
    content[method] ^= 1 << bit  # 8 is deflate, whose library raises an error of its own
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        load_torch(file)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_damaged(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save(CHECKPOINT, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"."):
        load_torch(file)
