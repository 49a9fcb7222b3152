"""Writes `docs/criteria.md`: which tests show each claim of `docs/criteria.toml`.

`PYTHONPATH=. .venv/bin/python docs/criteria.py` writes it; a test says that the page is current and misses no letter.
"""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("criteria.md")

HEAD = """# What users asked for, and the tests that show it

Four public question threads describe 28 systems. Each has claims, by letter, and each claim has its tests, by name:
`test_s<number>_<letter>_...`. Written by `docs/criteria.py` from `docs/criteria.toml` and the tests.
"""

_NAME = re.compile(r"test_(s\d+)_([a-z])_\w+")

Criterion = tuple[str, str]
"""System and letter: ("S24", "a")."""


def criteria() -> Mapping[str, Mapping[str, str]]:
    """Return {system: {"title": ..., letter: claim}}."""
    return tomllib.loads(Path(__file__).with_name("criteria.toml").read_text())


def tests(folder: Path) -> Mapping[Criterion, list[tuple[str, str]]]:
    """Return {(system, letter): [(file, test), ...]} of the tests below a folder, by their names."""
    found: dict[Criterion, list[tuple[str, str]]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match = _NAME.fullmatch(node.name) if isinstance(node, ast.FunctionDef) else None
            if match:
                found[match[1].upper(), match[2]].append((path.relative_to(folder.parent).as_posix(), match[0]))
    return found


def untested(wanted: Mapping[str, Mapping[str, str]], found: Mapping[Criterion, object]) -> list[str]:
    """Return the letters without a test, and the names of tests for letters that nobody knows."""
    known = {(system, letter) for system, claims in wanted.items() for letter in claims if letter != "title"}
    named = {key for key, values in found.items() if values}
    return sorted(f"{system} ({letter})" for system, letter in known ^ named)


def document() -> str:
    """Return the page."""
    found = tests(ROOT / "tests")
    return "\n".join([HEAD, *(line for system in criteria().items() for line in _table(*system, found))])


def _table(system: str, claims: Mapping[str, str], found: Mapping[Criterion, list[tuple[str, str]]]) -> Iterator[str]:
    """Yield one system's section."""
    yield f"## {system}. {claims['title']}\n"
    yield "| | claim | tests |"
    yield "|---|---|---|"
    for letter, claim in claims.items():
        if letter != "title":
            shown = "<br>".join(f"[`{test}`](../{file})" for file, test in found.get((system, letter), []))
            yield f"| {letter} | {claim} | {shown or 'none'} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(document())
