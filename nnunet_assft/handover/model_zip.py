"""The zip file with the model of a round, which `nnUNetv2_install_pretrained_model_from_zip` installs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.active.state import Experiment, Round
from nnunet_assft.errors import AssftError
from nnunet_assft.handover.model_card import markdown, model_card
from nnunet_assft.handover.stock_model import TRAINER, stock_checkpoint, stock_dataset_json, stock_plans
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.nnunet_names import CONFIGURATION
from nnunet_assft.runtime.files import atomic_path, json_text
from nnunet_assft.runtime.writable import require_file


def require_zip(file: Path) -> None:
    """Raise `AssftError` unless a zip file can be written here. One that exists is replaced, any other file is not."""
    require_file(file, "-o")
    if file.exists() and not zipfile.is_zipfile(file):
        raise AssftError(f"-o {file} exists and is no zip file. Choose another name.")


def write_model_zip(experiment: Experiment, done: Round, file: Path) -> dict[str, Any]:
    """Write the model of a finished round for stock nnU-Net, with a model card. Returns the card.

    The same model gives the same bytes. Raises `DamagedFileError` if the model does not match its checksum.
    """
    weights = load_weights(experiment.paths.result(done.model.checkpoint), done.model.weights_sha256)
    dataset = experiment.raw_dataset()
    plans, fold = stock_plans(read_plans(experiment)), done.round
    contents = {
        "plans.json": json_text(plans).encode(),
        "dataset.json": json_text(stock_dataset_json(dataset.dataset_json, len(done.labelled))).encode(),
        f"fold_{fold}/checkpoint_final.pth": stock_checkpoint(weights, fold),
    }
    card = model_card(experiment, done, dataset, plans)
    card["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[f"fold_{fold}/MODEL_CARD.md"] = markdown(card).encode()
    contents[f"fold_{fold}/model_card.json"] = json_text(card).encode()
    folder = f"{experiment.dataset}/{TRAINER}__{plans['plans_name']}__{CONFIGURATION}"
    _write_zip(file, {f"{folder}/{name}": content for name, content in contents.items()})
    return card


def _write_zip(file: Path, contents: Mapping[str, bytes]) -> None:
    """Write a zip file without times, which would differ, and without compression, which weights do not need."""
    with atomic_path(file) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)  # of 1980
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
