"""What the documentation tells a user to type: it parses, the tutorial runs and prints what it says, the examples run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from nnunet_assft.active.options import Options
from nnunet_assft.active.selection import SELECTIONS
from nnunet_assft.active.strategies import STRATEGIES
from nnunet_assft.dataset_conversion.datasets import DATASETS
from nnunet_assft.network import ENCODERS, PRESETS
from nnunet_assft.phantom import write_phantom_dataset
from nnunet_assft.planning.domains import DOMAINS
from tests.conftest import SHARED_DATA
from tests.docs.pages import (
    COMMANDS,
    PAGES,
    ROOT,
    Block,
    blocks,
    commands_of,
    mentions,
    options_of,
    parser_of,
    prose,
    shell_lines,
)

DOCS = ROOT / "docs"
TUTORIAL, EXTENDING = DOCS / "tutorial.md", DOCS / "extending.md"

TYPED = [
    (block.name, words)
    for page in PAGES
    for block in blocks(page, "bash")
    for line in shell_lines(block)
    for words in commands_of(line)
]


def exit_code(call: Callable[[], object]) -> int:
    try:
        call()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


# Every command line parses -------------------------------------------------------------------------------------------


def test_there_is_something_to_test() -> None:
    typed = {words[0] for _, words in TYPED}
    assert typed == set(COMMANDS)  # every command is shown once at least


@pytest.mark.parametrize(("where", "words"), TYPED, ids=[f"{where} {' '.join(words)}" for where, words in TYPED])
def test_a_documented_command_line_parses(where: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert not exit_code(lambda: parser_of(words[0]).parse_args(words[1:])), f"{where}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_is_mentioned_has_the_options_that_are_mentioned(page: Path) -> None:
    for mention in mentions(page):
        command, *words = mention.split()
        assert command in COMMANDS, f"{page.name}: {mention}"
        wrong = {word.rstrip(".,;:") for word in words if re.match(r"--?[a-z]", word)} - options_of(parser_of(command))
        assert not wrong, f"{page.name}: `{mention}`: {command} has no {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_option_that_is_mentioned_alone_is_one_of_some_command(page: Path) -> None:
    known = {option for command in COMMANDS for option in options_of(parser_of(command))}
    named = set(re.findall(r"`(--[a-z_]+)", prose(page)))
    assert named <= known, f"{page.name}: {sorted(named - known)}"


def test_bash_blocks_are_bash() -> None:
    for block in (block for page in PAGES for block in blocks(page, "bash")):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.name}: {done.stderr}"


# Links and pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for alt, target in re.findall(r"!?\[([^\]]*)\]\(([^)]+)\)", prose(page)):
        if "://" in target:
            continue
        assert alt.strip(), f"{page.name}: the link to {target} has no text"
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        headings = re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE) if anchor else []
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, f"{page.name}: {target}; there are {slugs}"


def test_functions_that_are_named_with_their_file_are_in_it() -> None:
    named = [
        (file, name)
        for page in PAGES
        for file, names, more in re.findall(r"`([\w/]+\.py): ([\w.]+)`((?:, `\w+`)*)", prose(page))
        for name in [names, *re.findall(r"`(\w+)`", more)]
    ]
    assert len(named) > 40  # most are in round.md
    for file, name in named:
        path = ROOT / file if file.startswith("dataset_conversion") else ROOT / "nnunet_assft" / file
        last = name.split(".")[-1]
        assert re.search(rf"^\s*(def|class) {last}\b|^{last}\b.* = ", path.read_text(), re.MULTILINE), f"{file}: {name}"


# The tutorial runs, and prints what it says --------------------------------------------------------------------------


@pytest.fixture
def task04(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A small Task04_Hippocampus in the working folder; whether its cases are the real ones (else phantoms)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    task = tmp_path / "Task04_Hippocampus"
    real = (SHARED_DATA / "hippocampus").is_dir()
    if real:
        source = SHARED_DATA / "hippocampus"
        labels = {"background": 0, "Anterior": 1, "Posterior": 2}
        files = sorted((source / "imagesTr").iterdir())
        chosen = {*(file.name for file in files[::4]), "hippocampus_243.nii.gz"}
        pairs = [(source / "imagesTr" / name, source / "labelsTr" / name) for name in sorted(chosen)]
    else:
        phantom = write_phantom_dataset(tmp_path / "phantom", n_pool=16, n_test=0)
        labels = json.loads((phantom / "dataset.json").read_text())["labels"]
        pairs = [
            (file, phantom / "labelsTr" / file.name.replace("_0000", ""))
            for file in sorted((phantom / "imagesTr").iterdir())
        ]
    for image, label in pairs:
        for folder, file in (("imagesTr", image), ("labelsTr", label)):
            (task / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, task / folder / label.name)
    content = {
        "name": "Hippocampus",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for name, value in labels.items()},
        "numTraining": len(pairs),
        "training": [{key: f"./{key}sTr/{label.name}" for key in ("image", "label")} for _, label in pairs],
        "test": [],
    }
    (task / "dataset.json").write_text(json.dumps(content))
    return real


def small(line: str) -> str:
    return re.sub(r"(--epochs|--iterations_per_epoch) \d+", r"\1 1", line).replace("--seeds 0 1 2", "--seeds 0")


def bash(script: str) -> str:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.fixture
def type_block(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[[Block], str]:
    """Runs a bash block and returns what it printed. bash reads it; our own commands run in this process, which has torch."""

    def run(block: Block) -> str:
        capfd.readouterr()
        printed = ""
        for line in map(small, shell_lines(block)):
            if line.startswith("export "):
                for variable in bash(f"{line}; env -0").split("\0"):
                    name, _, value = variable.partition("=")
                    if name and f"{name}=" in line:
                        monkeypatch.setenv(name, value)
            elif line.startswith("nnUNetv2_assft_"):
                command, *arguments = bash(f"printf '%s\\0' {line}").removesuffix("\0").split("\0")
                code = exit_code(lambda: import_module(COMMANDS[command]).main(arguments))  # noqa: B023
                out, err = capfd.readouterr()
                assert not code, f"{block.name}: {line}\n{out}\n{err}"
                printed += out
            else:
                printed += bash(line)
        return printed

    return run


def masked(text: str) -> set[str]:
    """Lines without what depends on the data, the machine and the settings: numbers, durations, lists of cases, folders, advice."""
    text = re.sub(r"hippocampus_\d+(, hippocampus_\d+)*", "CASES", text)
    text = re.sub(r"(?<=^Stopping advice: ).*", "ADVICE", text, flags=re.MULTILINE)
    text = re.sub(r"(\d+ h )?\d+ min on this \w+", "TIME", text)
    text = re.sub(r"\S*/(?=nnUNet_)", "", text)
    text = re.sub(r"[\d.]*\d", "#", text)
    return {" ".join(line.split()) for line in text.splitlines()} - {""}


@pytest.mark.slow
def test_the_tutorial_runs_and_prints_what_it_says(task04: bool, type_block: Callable[[Block], str]) -> None:
    printed: dict[str, str] = {}
    wrong: list[str] = []
    for block in blocks(TUTORIAL, "bash", "text"):
        if block.language == "bash":
            printed[block.heading] = type_block(block)
        elif task04:
            missing = masked(block.text) - masked(printed[block.heading])
            wrong += [
                f"{block.name}: {line!r} was not printed; what was:\n{printed[block.heading]}"
                for line in sorted(missing)
            ]
    assert not wrong, "\n".join(wrong)


# The examples of extending.md ----------------------------------------------------------------------------------------


@pytest.fixture
def tables() -> Iterator[None]:
    """The tables as they are, afterwards."""
    all_tables: list[dict[str, Any]] = [STRATEGIES, SELECTIONS, PRESETS, ENCODERS, DATASETS, DOMAINS]
    before = [dict(table) for table in all_tables]
    yield
    for table, rows in zip(all_tables, before, strict=True):
        table.clear()
        table.update(rows)


def run_examples() -> dict[str, dict[str, Any]]:
    """heading -> the names that its Python blocks define, run in order in one namespace."""
    namespaces: dict[str, dict[str, Any]] = {}
    for block in blocks(EXTENDING, "python"):
        namespace = namespaces.setdefault(block.heading, {"__name__": "my_assft"})
        exec(compile("\n" * block.line + block.text, str(block.page), "exec"), namespace)
    return namespaces


def test_the_examples_of_extending_run(nnunet_folders: Path, monkeypatch: pytest.MonkeyPatch, tables: None) -> None:
    monkeypatch.chdir(nnunet_folders)
    assert list(run_examples()) == [
        "",
        "A query strategy",
        "A selection of pseudo-labels",
        "A network",
        "A pretrained encoder",
        "A dataset",
        "A domain",
    ]
    new = [
        (STRATEGIES, "small_foreground"),
        (SELECTIONS, "typical"),
        (PRESETS, "narrow"),
        (ENCODERS, "my_encoder"),
        (DATASETS, "wrist"),
        (DOMAINS, "wrist"),
    ]
    assert all(list(table)[-1] == name for table, name in new)
    assert Options(selection="typical").changed() == {"selection": "typical"}


@pytest.mark.slow
def test_the_commands_take_the_new_rows(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, tables: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(blobs.parents[1])
    main = run_examples()[""]["main"]

    def call(line: str) -> str:
        code = exit_code(lambda: main(line.split()))
        out, err = capsys.readouterr()
        assert not code, err
        return out

    call("convert wrist -i download --overwrite")
    assert "domain wrist, preset narrow" in call("plan -d 810 --preset narrow --encoder my_encoder.safetensors")
    plans = json.loads((blobs.parents[1] / "nnUNet_preprocessed/Dataset810_WristMR/nnUNetASSFTPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["patch_size"] == [32, 64, 64]
    assert configuration["architecture"]["arch_kwargs"]["widths"] == [8, 16, 32, 64, 128]
    assert "4 rounds of 1 cases" in call("status -d 810")
    few = "--preset tiny --rounds 1 --budget 2 --epochs 1 --iterations_per_epoch 1"
    assert "2 pseudo-labelled" in call(f"run -d 901 -e one --option selection=typical {few}")
    assert "0 pseudo-labelled" in call(f"run -d 901 -e two --strategy small_foreground {few}")
    assert "small_foreground, 1 rounds of 2 cases" in call("status -d 901 -e two")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, block.name, "exec")
