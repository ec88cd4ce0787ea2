"""Reading of files that somebody else may have made, without running code that they may carry.

Pickles, and thereby torch files, can name any function to be called when they are read. Here they may only name what
nnU-Net writes: tensors, and numbers and arrays of numpy.
"""

from __future__ import annotations

import codecs
import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

import numpy as np

from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.text import reason

SCALARS = tuple(type(np.dtype(name)) for name in ("bool", "int32", "int64", "float16", "float32", "float64"))
RECONSTRUCT = np.array(0).__reduce__()[0]  # how a pickle makes an array, a number, and an array of protocol 5
SCALAR = np.float64(0).__reduce__()[0]
FROM_BUFFER = np.arange(1).__reduce_ex__(5)[0]

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("_codecs", "encode"): codecs.encode,  # this and the next: bytes, in the protocols before 3
    ("__builtin__", "bytes"): bytes,
    ("collections", "OrderedDict"): OrderedDict,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): FROM_BUFFER for core in ("core", "_core")},
}


def load_torch(file: Path, *, mmap: bool = False) -> Any:
    """Load a torch file onto the CPU. mmap: leave the tensors on the disk until they are used.

    torch does not compare the checksums in its files; this function does, unless `mmap` is set. Raises ValueError for a
    file that is damaged or names anything but tensors and numbers, and OSError for one that cannot be opened.
    """
    import torch  # here, because many processes that read no torch file import this module

    let_torch_load_numbers()
    try:
        if not mmap and zipfile.is_zipfile(file):  # as torch has written them since version 1.6
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"its part {damaged} does not match its checksum")
        if mmap:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        with open(file, "rb") as stream:  # torch would choose the format by the ending of a path
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("it is damaged, or it holds more than tensors and numbers, which could run code") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


@cache
def let_torch_load_numbers() -> None:
    """Allow the numbers of numpy, which nnU-Net stores in its checkpoints, under their names in numpy 1 and 2."""
    import torch

    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    torch.serialization.add_safe_globals([np.dtype, *SCALARS, *((SCALAR, name) for name in names)])


def load_pickle(file: Path) -> Any:
    """Load a pickle of numbers, texts, containers and numpy arrays, such as the properties that nnU-Net writes.

    Raises ValueError for a file that is damaged or names anything else, and OSError for one that cannot be opened.
    """
    with open(file, "rb") as stream:
        try:
            return _Unpickler(stream).load()
        except Exception as error:  # a damaged pickle may raise anything
            raise ValueError(reason(error)) from error


def load_result(content: bytes) -> Any:
    """Return what a part of a step has pickled: what `load_pickle` takes, paths, and data classes and errors of this
    package. Raises ValueError for anything else."""
    try:
        return _ResultUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return ALLOWED[module, name]


class _ResultUnpickler(_Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib") and name in ("Path", "PosixPath", "WindowsPath"):
            return {"Path": Path, "PosixPath": PosixPath, "WindowsPath": WindowsPath}[name]
        if module.partition(".")[0] == "nnunet_assft":
            known = getattr(sys.modules.get(module), name, None)  # no module is imported
            if isinstance(known, type) and (is_dataclass(known) or issubclass(known, AssftError)):
                return known
        return super().find_class(module, name)
