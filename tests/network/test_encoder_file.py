"""Encoder files of our own: their header, which networks take them, and which files are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from nnunet_assft import __version__
from nnunet_assft.network import PRESETS, PretrainedEncoderError, build_network, load_pretrained_encoder
from nnunet_assft.network.encoder_file import is_encoder_of, read_header, write_encoder

SHOWN = {
    "channels": ["CT"],
    "normalization": ["CTFMNormalization"],
    "spacing": [3.0, 1.0, 1.0],
    "patch_size": [32, 32, 32],
}


def header(preset: str, **changes: Any) -> dict[str, Any]:
    return {
        "method": "mae",
        "preset": preset,
        "architecture": PRESETS[preset].architecture,
        "input": SHOWN,
        "training": {"n_images": 3, "steps": 10, "batch_size": 2, "seed": 0, "loss": 0.5, "images": []},
        "dataset": "Dataset901_Blobs",
        **changes,
    }


@pytest.mark.parametrize("preset", ["tiny", "resenc_tiny"])
def test_a_file_is_read_back_without_a_guess(preset: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = build_network(PRESETS[preset].architecture, 1, 3, initialise=True)
    file = tmp_path / "a.safetensors"
    write_encoder(file, source.encoder, header(preset))
    assert read_header(file) == {"version": 1, "nnunet_assft": __version__, **header(preset)}
    target = build_network(PRESETS[preset].architecture, 1, 5, initialise=True)
    report = load_pretrained_encoder(target, file, architecture=PRESETS[preset].architecture)
    assert (report.encoder, report.layout, report.header) == (
        "nnunet_assft",
        "safetensors, no prefix",
        read_header(file),
    )
    image = torch.randn(2, 1, 16, 16, 16)
    for a, b in zip(source.eval().encoder(image), target.eval().encoder(image), strict=True):
        assert torch.equal(a, b)
    umask = os.umask(0)
    os.umask(umask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask  # others can read it as any other file of ours


def test_several_channels_are_made_of_one(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_encoder(file, build_network(PRESETS["tiny"].architecture, 1, 3).encoder, header("tiny"))
    architecture = PRESETS["tiny"].architecture
    report = load_pretrained_encoder(build_network(architecture, 3, 3), file, architecture=architecture)
    assert report.adapted is not None


def test_the_decoder_may_be_another_one_and_the_encoder_may_not(tmp_path: Path) -> None:
    assert is_encoder_of(header("ctfm"), PRESETS["ctfm_dec1224"].architecture)
    assert not is_encoder_of(header("tiny"), PRESETS["ctfm"].architecture)
    architecture = PRESETS["tiny"].architecture
    architecture["arch_kwargs"]["block"] = "postactivation"  # the same keys and shapes, and another function
    file, net = tmp_path / "a", build_network(architecture, 1, 3)
    write_encoder(file, net.encoder, header("tiny"))
    for of_network in (architecture, None):
        with pytest.raises(PretrainedEncoderError, match=r"a was pre-trained with the preset 'tiny'.*--preset tiny\."):
            load_pretrained_encoder(net, file, architecture=of_network)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_without_our_header_is_none_of_ours(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, metadata)
    assert read_header(file) is None


def changed(part: str, **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"version": 1, "nnunet_assft": "9", **header("tiny")}
    return {**whole, part: {**whole[part], **changes}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ([], r"it is \[\]; expected an object"),
        ({"method": "mae"}, "version is None; expected 1"),
        ({"version": 1, "method": "mae"}, "it has no 'nnunet_assft'"),
        ({"version": 2, "nnunet_assft": "9", **header("tiny")}, "version is 2; expected 1"),
        ({"version": 1, "nnunet_assft": "9", **header("tiny", input=[])}, r"input is \[\]; expected an object"),
        (changed("architecture", arch_kwargs=[1]), r"arch_kwargs is \[1\]; expected an object"),
        (changed("architecture", arch_kwargs=None), r"arch_kwargs is None; expected an object"),
        (changed("training", images=3), r"images is 3; expected a list"),
        (changed("training", n_images="x"), r"n_images is 'x'; expected a whole number"),
        (changed("input", spacing="abc"), r"spacing is 'abc'; expected a list"),
        (changed("input", spacing=[1.0]), "does not have three values"),
        (changed("input", patch_size=None), r"patch_size is None; expected a list"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_a_header_of_ours_that_cannot_be_used_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    """The keys of the weights are those of CT-FM, for a file of which it must not be taken."""
    file, net = tmp_path / "a.safetensors", build_network(PRESETS["tiny"].architecture, 1, 3)
    text = content if isinstance(content, str) else json.dumps(content)
    safetensors.torch.save_file(net.encoder.state_dict(), file, {"nnunet_assft": text})
    with pytest.raises(PretrainedEncoderError, match=rf"header of nnUNetv2_assft_pretrain .*{message}") as error:
        load_pretrained_encoder(net, file, architecture=PRESETS["tiny"].architecture)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0{}", b"\x03\0\0\0\0\0\0\0[[["])
def test_what_is_no_safetensors_file_is_none_of_ours(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    assert read_header(tmp_path / "a") is None
    assert read_header(tmp_path / "pipe") is read_header(tmp_path) is read_header(tmp_path / "none") is None
