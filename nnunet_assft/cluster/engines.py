"""The engines, one row each, and the choice of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_assft.cluster.executors import InParts, Launcher, here_with_progress
from nnunet_assft.cluster.launchers import Local, Print, Slurm
from nnunet_assft.errors import AssftError
from nnunet_assft.runtime.cases import Executor, here, in_processes
from nnunet_assft.runtime.files import bytes_of, read_json
from nnunet_assft.runtime.processes import number_of_processes
from nnunet_assft.runtime.ranges import RANGES
from nnunet_assft.runtime.text import reason

SITE_FILE = "nnunet_assft_cluster.json"
KEYS = ("engine", "parts", "gpus", "slurm")


@dataclass(frozen=True)
class EngineRow:
    """Where work is done. parts: how many parts a step has unless --parts says otherwise."""

    description: str
    parts: Callable[[], int]
    launcher: Callable[[Mapping[str, str]], Launcher] | None


def visible_gpus() -> tuple[str, ...]:
    """Return the values of CUDA_VISIBLE_DEVICES that name one GPU each; none if there is no GPU."""
    named = named_gpus()
    if named is not None:
        return named
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def named_gpus() -> tuple[str, ...] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, or None if it is not set, without asking torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if named is None else tuple(gpu for gpu in named.split(",") if gpu.strip() not in ("", "-1"))


ENGINES: dict[str, EngineRow] = {
    "here": EngineRow("in this process, one case after the other", lambda: 1, None),
    "local": EngineRow(
        "in processes on this machine, one per GPU",
        lambda: max(1, len(visible_gpus())),
        lambda _: Local(visible_gpus()),
    ),
    "slurm": EngineRow("as jobs of SLURM; needs the extra [cluster]", lambda: 8, Slurm),
    "print": EngineRow("by somebody else, with a script that is written", lambda: 8, lambda _: Print()),
}


@dataclass(frozen=True)
class Engine:
    """Where the cases of a step and the trainings are worked on.

    name: a row of `ENGINES`. parts: of a step, at most. gpus: that a training uses. slurm: options of sbatch.
    processes: that read and preprocess images on this machine; None for a number that fits them. In a part, where it is
    pickled with the work, the engine is `here`.
    """

    name: str = "here"
    parts: int | None = None
    gpus: int | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)
    processes: int | None = None

    def __reduce__(self) -> tuple[type[Engine], tuple[str, None, int | None]]:
        return Engine, ("here", None, self.gpus)

    def cases(self, folder: Path, size: Callable[[str], int] | None = None) -> Executor:
        """Return the executor for the cases of a step. folder: where the folders of the steps are. size: see
        `InParts`."""
        row = ENGINES[self.name]
        if row.launcher is None:
            return here_with_progress
        return InParts(folder, row.launcher(self._with_a_gpu()), self.parts or row.parts(), size)

    def images(self, folder: Path, images: Mapping[str, Sequence[Path]]) -> Executor:
        """Return the executor for steps that read the files of images and need no GPU."""
        if self.name in ("here", "local"):
            size = sum(map(bytes_of, images.values()))
            return in_processes(number_of_processes(self.processes, total_bytes=size))
        return replace(self, gpus=None).cases(folder, lambda case: bytes_of(images.get(case, ())))

    def runs(self, folder: Path) -> Executor:
        """Return the executor for whole runs of a comparison: as jobs, each is a part of its own."""
        row = ENGINES[self.name]
        if row.launcher is None:
            return here
        parts = self.parts or (row.parts() if self.name == "local" else 10**6)
        return InParts(folder, row.launcher(self._with_a_gpu()), parts)

    def trainings(self, folder: Path) -> Executor:
        """Return the executor for trainings, each of which is one part. On this machine, that is this process."""
        row = ENGINES[self.name]
        if row.launcher is None or self.name == "local":
            return here
        options = _with_gpus(self.slurm, self.gpus) if self.gpus else self.slurm
        return InParts(folder, row.launcher(options), 1)

    def _with_a_gpu(self) -> Mapping[str, str]:
        """The options of sbatch for jobs that use one GPU: with `gpus`, they get one even if the options name none."""
        named = any(_names_gpus(name, entry) for name, value in self.slurm.items() for entry in value.split(","))
        return _with_gpus(self.slurm, 1) if self.gpus and not named else self.slurm


def _with_gpus(options: Mapping[str, str], n: int) -> dict[str, str]:
    """Return options of sbatch that ask for n GPUs per node, of the type that the options name, if they do. SLURM
    refuses or adds up what is asked for in two ways, so nothing else asks for GPUs."""
    others, types = {}, []
    for name, value in options.items():
        entries = value.split(",")
        of_gpus = [entry for entry in entries if _names_gpus(name, entry)]
        types += [word for entry in of_gpus for word in entry.split(":") if word != "gpu" and not word.isdigit()]
        if kept := [entry for entry in entries if entry not in of_gpus]:
            others[name] = ",".join(kept)
    return {**others, "gpus_per_node": ":".join([*types[:1], str(n)])}


def _names_gpus(name: str, entry: str) -> bool:
    """Whether an entry of an option of sbatch asks for GPUs, such as gpus=2, gpus_per_node=a100:2 or gres=gpu:2."""
    return name.startswith("gpus") or (name == "gres" and entry.partition(":")[0] == "gpu")


HERE = Engine()


def read_site_file(file: Path | None) -> dict[str, Any]:
    """Return the defaults of a site: engine, parts, gpus, and the options of sbatch.

    file: that of --engine_file; by default nnunet_assft_cluster.json in nnUNet_results, if there is one. Raises
    `AssftError` if it cannot be used.
    """
    default = Path(os.environ.get("nnUNet_results", "."), SITE_FILE)
    if file is None and not default.is_file():
        return {}
    used = file or default
    expected = f"Expected a JSON object with some of the keys {', '.join(KEYS)}."
    try:
        content = read_json(used)
    except (OSError, ValueError) as error:
        raise AssftError(f"The engine file {used} cannot be read ({reason(error)}). {expected}") from error
    kinds = {"engine": str, "slurm": dict}
    if (
        not isinstance(content, dict)
        or not set(content) <= set(KEYS)
        or not all(isinstance(content[key], kind) for key, kind in kinds.items() if key in content)
        or not all(content[key] in RANGES[key] for key in ("parts", "gpus") if key in content)
    ):
        raise AssftError(f"The engine file {used} holds {content!r}. {expected}")
    return content
