"""Commands in the documentation: every line parses, the tutorial runs and prints what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from nnunet_assft.phantom import write_phantom_dataset
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
TUTORIAL = DOCS / "tutorial.md"

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
    """Runs a bash block and returns what it printed. Our own commands run in this process, which has torch."""

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
    """Lines without what depends on data, machine and settings: numbers, durations, cases, folders, advice."""
    text = re.sub(r"hippocampus_\d+(, hippocampus_\d+)*", "CASES", text)
    text = re.sub(r"(?<=^Stopping advice: ).*", "ADVICE", text, flags=re.MULTILINE)
    text = re.sub(r"(\d+ h )?\d+ min on this \w+", "TIME", text)
    text = re.sub(r"\S*/(?=nnUNet_)", "", text)
    text = re.sub(r"[\d.]*\d", "#", text)
    text = re.sub(r"# (case|round|iteration)\b", r"# \1s", text)  # the test has one of each
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


# Python -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, block.name, "exec")
