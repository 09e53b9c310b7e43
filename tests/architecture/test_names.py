"""Names explain themselves: no function, class, parameter or column has one of a few empty words as name."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.tree import ROOT, python_files

MEANINGLESS = frozenset(
    {
        *("found", "made", "said", "asked", "told", "kept", "held"),
        *("given", "known", "seen", "done", "wanted", "came"),
    }
)
# names that are left to rename, by package: the list only gets shorter
REMAINING: dict[str, frozenset[str]] = {
    "include": frozenset({"found"}),
    "include/features": frozenset({"found"}),
    "include/ingest": frozenset({"found"}),
    "include/storage": frozenset({"found"}),
}


def declared(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each function, class, parameter, field and column of a file.

    A column is a keyword of ``_schema(name=type)``, or a pair of a name and a ``pa`` type.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.lineno, field.target.id
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_schema":
            yield from ((keyword.value.lineno, keyword.arg) for keyword in node.keywords if keyword.arg)
        pair = node.elts if isinstance(node, ast.Tuple) else node.args if _is_field(node) else []
        if len(pair) > 1 and isinstance(pair[0], ast.Constant) and ast.unparse(pair[1]).startswith("pa."):
            yield node.lineno, str(pair[0].value)


def _is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pa.field"


def meaningless(text: str) -> list[tuple[int, str]]:
    """Return the meaningless names of a file with their lines, whatever their case and outer underscores."""
    names = set(declared(text))
    return sorted((line, name) for line, name in names if name.lower().strip("_") in MEANINGLESS)


def package_of(file: str) -> str:
    """Return a file's package: ``include/monitor``, or ``include`` for a module at the top."""
    return "/".join(file.split("/")[:-1][:2])


def offenders() -> dict[str, list[tuple[str, int, str]]]:
    """Return the file, the line and the name of each meaningless name, by package."""
    by_package: dict[str, list[tuple[str, int, str]]] = {}
    for file in python_files("include", "plugins", "dags"):
        for line, name in meaningless((ROOT / file).read_text()):
            by_package.setdefault(package_of(file), []).append((file, line, name))
    return by_package


def test_names_explain_themselves() -> None:
    """No meaningless name is declared, except those that are listed as left to rename."""
    by_package = offenders()
    print(f"{sum(map(len, by_package.values()))} names left to rename:")
    for package, names in sorted(by_package.items()):
        print(f"  {package}: {len(names)}")
    new = [
        f"{file}:{line} {name}"
        for package, names in by_package.items()
        for file, line, name in names
        if name not in REMAINING.get(package, ())
    ]
    assert new == []


def test_the_list_of_names_left_to_rename_gets_shorter() -> None:
    """A listed name that is gone from its package is removed from the list."""
    by_package = offenders()
    left = {package: {name for _, _, name in names} for package, names in by_package.items()}
    assert {
        package: gone for package, names in REMAINING.items() if (gone := names - left.get(package, set()))
    } == {}


@pytest.mark.parametrize(
    "planted",
    [
        "def found(): ...",
        "async def _asked(): ...",
        "class Said: ...",
        "def count(rows, *, kept=0): ...",
        "rows = map(lambda seen: seen, [])",
        "class Result:\n    done: bool = False",
        "DRIFT = _schema(partition=_S, known=_S)",
        "schema = pa.schema([('made', pa.string())])",
        "schema = pa.schema([pa.field('told', pa.string())])",
    ],
)
def test_the_check_sees_a_planted_name(planted: str) -> None:
    """Each kind of declaration is found."""
    assert len(meaningless(planted)) == 1


def test_the_check_lets_names_that_explain_themselves_pass() -> None:
    """A word inside a longer name may be what the name is about."""
    assert meaningless("def known_at(moment, askedness): ...\nfound = {'kept': 1}\nError(found='x')") == []
