"""The rules of the house, read from its source: who may import whom, and how large a room may be.

CONTRIBUTING.md explains them. A failure lists every line that breaks a rule.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "nnunet_assft"
# a folder or file of the package -> how high it stands; it may import what stands lower, and itself
LEVELS = {
    "cli": 11,
    "dataset_conversion": 10,
    "report": 9,
    "comparison": 8,
    "verification": 8,
    "handover": 7,
    "extension": 8,
    "annotation": 7,
    "pretraining": 7,
    "active": 6,
    "trainers": 5,  # their plans name the normalisations of planning
    "evaluation": 4,
    "planning": 4,
    "phantom": 4,
    "network": 3,
    "volumes": 3,
    "cluster": 3,
    "runtime": 2,
    "nnunet_names": 1,
    "errors": 0,
}
# below the command line, dataset_conversion knows these rooms only, and nobody knows it
OF_DATASET_CONVERSION = {"volumes", "runtime", "planning", "nnunet_names", "errors"}
PURE = (
    "active/metrics",
    "active/arrays",
    "active/query/",
    "active/selection",
    "active/strategies",
    "active/options",
    "comparison/statistics",
    "evaluation/intervals",
)
LIBRARIES_OF_PURE_MODULES = {"numpy", "scipy", "sklearn", "pandas", "threadpoolctl"}
# of the house itself, besides other pure modules: errors are raised, and a table is a dictionary
BELOW_PURE_MODULES = {
    "nnunet_assft.errors",
    "nnunet_assft.runtime.ranges",
    "nnunet_assft.runtime.tables",
    "nnunet_assft.runtime.text",
}
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 50
MOST_PARAMETERS = 5
MOST_FILES_OF_ACTIVE = 15
MOST_FOLDERS_OF_ACTIVE = 3


class Import(NamedTuple):
    """module: as a full dotted name, with what was imported from it where that is a module of the house."""

    line: int
    module: str


class Source(NamedTuple):
    """A Python file of the house. name: its path in the package, without the ending, such as `active/rounds`."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


@cache
def sources() -> tuple[Source, ...]:
    """The package with dataset_conversion, once, even where a link makes it appear twice."""
    found = {}
    for folder, prefix in ((ROOT / PACKAGE, ""), (ROOT / "dataset_conversion", "dataset_conversion/")):
        for path in sorted(folder.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            name = prefix + path.relative_to(folder).with_suffix("").as_posix()
            found[path.resolve()] = Source(path.resolve(), name, text, ast.parse(text))
    return tuple(sorted(found.values(), key=lambda source: source.name))


def is_module(name: str) -> bool:
    inside = Path(*name.split("."))
    places = [ROOT / inside]
    if name.startswith(f"{PACKAGE}.dataset_conversion"):
        places.append(ROOT.joinpath(*name.split(".")[1:]))
    return any(place.with_suffix(".py").is_file() or place.is_dir() for place in places)


def imports_of(source: Source) -> Iterator[Import]:
    """All of them, wherever they stand: inside functions and under TYPE_CHECKING as well."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(node.lineno, name.name)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join([PACKAGE, *source.name.split("/")[: -node.level], *filter(None, [module])])
            for name in node.names:
                longer = f"{module}.{name.name}"
                yield Import(node.lineno, longer if is_module(longer) else module)


def room_of(module: str) -> str | None:
    """The folder or file below the package that a module of the house is in."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def is_pure(name: str) -> bool:
    return any(name.startswith(entry) if entry.endswith("/") else name == entry for entry in PURE)


def refuse(offenders: list[str]) -> None:
    if offenders:
        pytest.fail(f"{len(set(offenders))} offenders:\n" + "\n".join(sorted(set(offenders))), pytrace=False)


# Imports --------------------------------------------------------------------------------------------------------------


def test_every_room_has_its_level() -> None:
    rooms = {source.name.split("/")[0] for source in sources()} - {"__init__"}
    assert rooms <= set(LEVELS), "LEVELS must name every folder and file of the package"


def test_imports_lead_downward() -> None:
    offenders = []
    for source in sources():
        here = source.name.split("/")[0]
        for line, module in imports_of(source):
            there = room_of(module)
            if there is None or there == here or here == "__init__":
                continue
            if here == "dataset_conversion":
                allowed = there in OF_DATASET_CONVERSION
            elif there == "dataset_conversion":
                allowed = here == "cli"
            else:
                allowed = LEVELS[there] < LEVELS[here]
            if not allowed:
                offenders.append(f"{source.at(line)}: {here} must not import {module}")
    refuse(offenders)


def test_pure_modules_import_numerical_libraries_and_each_other() -> None:
    offenders = []
    for source in sources():
        if not is_pure(source.name):
            continue
        for line, module in imports_of(source):
            first = module.split(".")[0]
            if first == PACKAGE:
                inside = "/".join(module.split(".")[1:])
                package = f"{inside}/" in PURE or inside in ("active", "comparison")
                allowed = module in BELOW_PURE_MODULES or is_pure(inside) or package
            else:
                allowed = first in LIBRARIES_OF_PURE_MODULES or first in sys.stdlib_module_names
            if not allowed:
                offenders.append(f"{source.at(line)}: a pure module must not import {module}")
    refuse(offenders)


def test_nothing_imports_the_tests() -> None:
    refuse(
        [
            f"{source.at(line)}: imports {module}"
            for source in sources()
            for line, module in imports_of(source)
            if module.split(".")[0] in ("tests", "pytest", "hypothesis")
        ]
    )


# Sizes ----------------------------------------------------------------------------------------------------------------


@cache
def lines_of_code(text: str) -> frozenset[int]:
    """The numbers of the lines that hold code: no blank lines, no comments, no docstrings."""
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(lines)


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_what_a_line_of_code_is() -> None:
    text = '"""A docstring\nof two lines."""\n\n# a comment\nx = [\n    1,  # one\n]\n\n\ndef f():\n    "Docstring."\n'
    assert lines_of_code(f'{text}    return """a\nb"""\n') == {5, 6, 7, 10, 12, 13}


def test_no_file_is_too_long() -> None:
    sizes = {source: len(lines_of_code(source.text)) for source in sources()}
    refuse(
        [
            f"{source.path.relative_to(ROOT)}: {n} lines of code, at most {MOST_LINES_OF_A_FILE}"
            for source, n in ((source, sizes[source]) for source in sizes)
            if n > MOST_LINES_OF_A_FILE
        ]
    )


def test_no_function_is_too_long() -> None:
    offenders = []
    for source in sources():
        code = lines_of_code(source.text)
        for function in functions(source):
            n = len(code & set(range(function.lineno, (function.end_lineno or function.lineno) + 1)))
            if n > MOST_LINES_OF_A_FUNCTION:
                offenders.append(
                    f"{source.at(function.lineno)}: {function.name} has {n} lines of code, at most "
                    f"{MOST_LINES_OF_A_FUNCTION}"
                )
    refuse(offenders)


def test_no_function_has_many_parameters_without_a_reason() -> None:
    """A comment above the function, or on the line of its `def`, says why it has more."""
    offenders = []
    for source in sources():
        lines = source.text.splitlines()
        for function in functions(source):
            arguments = function.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            n = len([name for name in names if name not in ("self", "cls")])
            first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
            above = lines[first - 2].strip() if first > 1 else ""
            reason = above if above.startswith("#") else lines[function.lineno - 1].partition("  # ")[2]
            if n > MOST_PARAMETERS and (not reason or reason.startswith(("type: ", "noqa"))):
                offenders.append(
                    f"{source.at(function.lineno)}: {function.name} has {n} parameters, and no comment why"
                )
    refuse(offenders)


def test_the_hall_of_the_rounds_stays_small() -> None:
    """`active/` is what a new reader sees first."""
    active = ROOT / PACKAGE / "active"
    files = sorted(path.name for path in active.glob("*.py") if path.name != "__init__.py")
    folders = sorted(path.name for path in active.iterdir() if path.is_dir() and path.name != "__pycache__")
    offenders = []
    if len(files) > MOST_FILES_OF_ACTIVE:
        offenders.append(f"{len(files)} files, at most {MOST_FILES_OF_ACTIVE}: {', '.join(files)}")
    if len(folders) > MOST_FOLDERS_OF_ACTIVE:
        offenders.append(f"{len(folders)} folders, at most {MOST_FOLDERS_OF_ACTIVE}: {', '.join(folders)}")
    refuse(offenders)


# Form -----------------------------------------------------------------------------------------------------------------


def test_the_formatter_is_never_told_to_look_away() -> None:
    offenders = []
    for folder in (PACKAGE, "dataset_conversion", "tests", "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path == Path(__file__).resolve():
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if any(f"# fmt: {word}" in line for word in ("skip", "off")) or "noqa: E501" in line:
                    offenders.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[-60:]}")
    refuse(offenders)
