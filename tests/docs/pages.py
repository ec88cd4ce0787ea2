"""Reads the documentation: its pages, fenced blocks, links, and the command lines in them."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"nnUNetv2_assft_[a-z]+")
COMMANDS = {
    entry.name: entry.module
    for entry in entry_points(group="console_scripts")
    if entry.module.startswith("nnunet_assft.") and COMMAND.fullmatch(entry.name)
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line it starts on, and the heading (`## ...`) above it."""

    page: Path
    language: str
    text: str
    line: int
    heading: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        above = text[: match.start()]
        heading = ["", *re.findall(r"^## (.+)$", above, re.MULTILINE)][-1]
        if match[1] in languages:
            found.append(Block(page, match[1], match[2], above.count("\n") + 1, heading))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def shell_lines(block: Block) -> list[str]:
    """The lines of a bash block, with continued lines joined, without empty ones and whole comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def commands_of(line: str) -> Iterator[list[str]]:
    """[command, argument, ...] of each of our commands in a line of bash."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set(";&|()"):
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words and COMMAND.fullmatch(Path(words[0]).name):
                yield [Path(words[0]).name, *words[1:]]
            words = []
        else:
            words.append(word)


def mentions(page: Path) -> Iterator[str]:
    """What stands behind the name of one of our commands, with the name: inline code, and lines of printed output."""
    printed = [line for block in blocks(page, "text") for line in block.text.splitlines()]
    for text in [*re.findall(r"`([^`\n]+)`", prose(page)), *printed]:
        match = COMMAND.search(text)
        if match:
            yield text[match.start() :]


def parser_of(command: str) -> ArgumentParser:
    parser = import_module(COMMANDS[command]).parser()
    assert isinstance(parser, ArgumentParser)
    return parser


def options_of(parser: ArgumentParser) -> set[str]:
    """Every option of a parser, those of its sub-commands included."""
    options = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            options |= {option for sub in action.choices.values() for option in options_of(sub)}
    return options
