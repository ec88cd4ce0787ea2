"""The options that say where work is done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_assft.cli.common import make_parser, parse, run
from nnunet_assft.cli.compare import spread
from nnunet_assft.cli.engine_options import choose_where
from nnunet_assft.cli.round import main, parser
from nnunet_assft.cluster.engines import SITE_FILE, Engine
from nnunet_assft.errors import AssftError


def chosen(*options: str) -> tuple[torch.device, Engine]:
    return choose_where(parse(parser(), ["-d", "901", "-r", "0", *options]))


def test_without_options_work_is_done_here(nnunet_folders: Path) -> None:
    assert chosen("-device", "cpu") == (torch.device("cpu"), Engine())


def test_options_of_slurm(nnunet_folders: Path) -> None:
    device, engine = chosen("--engine", "slurm", "--parts", "20", "--slurm", "partition=gpu,gres=gpu:1,cpus-per-task=4")
    assert device == torch.device("cuda")  # of the jobs; this machine may have none
    assert engine == Engine("slurm", 20, None, {"partition": "gpu", "gres": "gpu:1", "cpus_per_task": "4"})
    assert chosen("--engine", "slurm", "--slurm", "partition=main")[0] == torch.device("cpu")


def test_an_option_counts_more_than_the_file_of_the_site(nnunet_folders: Path) -> None:
    site = {"engine": "slurm", "parts": 8, "slurm": {"time": 60, "partition": "main", "mem-per-cpu": "2G"}}
    (nnunet_folders / "nnUNet_results" / SITE_FILE).write_text(json.dumps(site))
    assert chosen()[1] == Engine("slurm", 8, None, {"time": "60", "partition": "main", "mem_per_cpu": "2G"})
    assert chosen("--parts", "3", "--slurm", "time=30,mem-per-cpu=4G")[1] == Engine(
        "slurm", 3, None, {"time": "30", "partition": "main", "mem_per_cpu": "4G"}
    )
    assert chosen("--engine", "here", "-device", "cpu")[1].name == "here"


@pytest.mark.parametrize(
    ("options", "device", "said"),
    [
        (["print"], "cuda", "The parts use the device cuda. For another one, add -device cpu.\n"),
        (["print", "-device", "cpu"], "cpu", ""),
        (
            ["slurm", "--slurm", "partition=main"],
            "cpu",
            "The parts use the device cpu. For another one, add --slurm gres=gpu:1 or -device cuda.\n",
        ),
        (["slurm", "--slurm", "gres=gpu:1"], "cuda", ""),
        (["slurm", "--gpus", "2"], "cuda", ""),
    ],
)
def test_a_device_that_nobody_chose_is_said(
    nnunet_folders: Path, options: list[str], device: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen("--engine", *options)[0] == torch.device(device)
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("options", "of_cases", "of_trainings"),
    [
        ({}, {"gpus_per_node": "1"}, {"gpus_per_node": "2"}),
        ({"gres": "gpu:1"}, {"gres": "gpu:1"}, {"gpus_per_node": "2"}),
        (
            {"gres": "gpu:a100:1,ssd:1", "mem": "9G"},
            {"gres": "gpu:a100:1,ssd:1", "mem": "9G"},
            {"gres": "ssd:1", "mem": "9G", "gpus_per_node": "a100:2"},
        ),
        (
            {"gpus": "1", "partition": "gpu"},
            {"gpus": "1", "partition": "gpu"},
            {"partition": "gpu", "gpus_per_node": "2"},
        ),
    ],
)
def test_every_job_gets_its_gpus_in_one_way(
    options: dict[str, str], of_cases: dict[str, str], of_trainings: dict[str, str], tmp_path: Path
) -> None:
    engine = Engine("slurm", gpus=2, slurm=options)
    assert options_of(engine.cases(tmp_path)) == options_of(engine.runs(tmp_path)) == of_cases
    assert options_of(engine.trainings(tmp_path)) == of_trainings
    assert options_of(engine.images(tmp_path, {})) == options
    assert options_of(Engine("slurm", slurm=options).trainings(tmp_path)) == options


def options_of(executor: Any) -> dict[str, str]:
    return dict(executor.launcher.options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--engine", "pbs"], "There is no engine 'pbs'. Choose one of here, local, slurm, print"),
        (["--slurm", "partition"], "--slurm partition: expected KEY=VALUE,..."),
        (["--engine_file", "missing.json"], "The engine file missing.json cannot be read"),
    ],
)
def test_wrong_options_are_one_line(nnunet_folders: Path, options: list[str], text: str) -> None:
    with pytest.raises(AssftError) as raised:
        chosen(*options)
    assert text in str(raised.value)


def test_gpus_of_a_comparison_are_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    assert spread(Engine("local"), None) == Engine("local")
    assert spread(Engine("local", gpus=2), 2) == Engine("local", parts=2)
    with pytest.raises(AssftError, match="--gpus 4, but 3 can be used here"):
        spread(Engine("local"), 4)
    with pytest.raises(SystemExit):
        spread(Engine("slurm"), 2)


@pytest.mark.parametrize(
    "content",
    ["[]", '{"engin": "slurm"}', '{"slurm": "time=3"}', '{"parts": "3"}', '{"gpus": 0}', '{"engine": []}', "{"],
)
def test_a_wrong_engine_file_is_one_line(nnunet_folders: Path, content: str) -> None:
    (nnunet_folders / "nnUNet_results" / SITE_FILE).write_text(content)
    with pytest.raises(AssftError, match="Expected a JSON object with some of the keys engine, parts, gpus, slurm"):
        chosen()


def test_relative_folders_are_those_of_the_command_in_its_parts_too(
    nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nnunet_folders)
    given = {"nnUNet_raw": "nnUNet_raw", "nnUNet_preprocessed": "~/preprocessed", "nnUNet_results": "../results"}
    for name, folder in given.items():
        monkeypatch.setenv(name, folder)
    with pytest.raises(SystemExit) as ended:
        run(lambda args: None, make_parser("test", "Test.", dataset=False), [])
    assert ended.value.code == 0
    assert [os.environ[name] for name in given] == [
        str(nnunet_folders / "nnUNet_raw"),
        "~/preprocessed",  # which is refused
        str(nnunet_folders / "../results"),
    ]


def test_the_help_names_the_list_and_the_list_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-h"])
    printed = capsys.readouterr().out
    assert "--engine " not in printed
    assert "--list_engines" in printed
    with pytest.raises(SystemExit):
        main(["--list_engines"])
    printed = capsys.readouterr().out
    for word in ("here", "local", "slurm", "print", "--engine", "--parts", "--gpus", "--slurm", "--engine_file"):
        assert word in printed
