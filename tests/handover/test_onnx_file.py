"""The network as ONNX: the same logits as torch, or no file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_assft.active.experiment import read_plans
from nnunet_assft.errors import AssftError
from nnunet_assft.handover import onnx_file
from nnunet_assft.handover.model_zip import write_model_zip
from nnunet_assft.handover.onnx_file import require_onnx, write_onnx
from nnunet_assft.network.checkpoints import load_weights
from nnunet_assft.network.interface import build_network
from tests.conftest import Trained

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx_file.PACKAGES), reason="the extra onnx is not installed"
)


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(AssftError, match=r"onnxruntime cannot be found\. Run pip install 'nnunet_assft\[onnx\]'\."):
        require_onnx()


@needs_onnx
def test_the_file_computes_what_torch_computes(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    import onnxruntime

    experiment, done, file = trained.experiment, trained.rounds[1], tmp_path / "model.onnx"
    card = write_model_zip(experiment, done, tmp_path / "model.zip")
    checked = write_onnx(experiment, done, card, file)
    assert checked.difference < 1e-4
    assert checked.same_class > 0.999
    configuration = read_plans(experiment)["configurations"]["3d_fullres"]
    network = build_network(configuration["architecture"], 1, 3)
    network.load_state_dict(load_weights(experiment.paths.result(done.model.checkpoint)))
    image = np.random.default_rng(5).normal(size=(1, 1, *configuration["patch_size"])).astype(np.float32)
    (logits,) = onnxruntime.InferenceSession(str(file)).run(["logits"], {"image": image})
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    about = {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}
    assert about["weights_sha256"] == done.model.weights_sha256
    assert about["input_and_output"]["structures"] == {"ball": 1, "box": 2}
    assert str(Path(torch.__file__).parent).encode() not in file.read_bytes()  # torch notes the lines of its code

    file.unlink()
    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    with pytest.raises(AssftError, match="The ONNX file computes other logits than torch"):
        write_onnx(experiment, done, card, file)
    assert not file.exists()
