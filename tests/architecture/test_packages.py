"""The packages of include/ form layers: none imports one that imports it, directly or through others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.architecture import rules
from tests.architecture.tree import ROOT, python_files

BASE = frozenset({"errors", "environment", "references"})  # modules at the bottom count as one package


def package_of(module: str) -> str:
    """Return the package of include/ that a dotted name belongs to; "" for include itself."""
    name = module.split(".")[1] if "." in module else ""
    return "base" if name in BASE else name


def imports_by_package(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the packages that each package of include/ imports, also inside functions and for types.

    Parameters
    ----------
    texts : the text of each file by its path, such as ``include/spec/clock.py``.
    """
    graph: dict[str, set[str]] = {}
    for file, text in texts.items():
        package = package_of(file.removesuffix(".py").replace("/", "."))
        imported = {package_of(name) for name in rules.imports_of(text, "include")}
        graph.setdefault(package, set()).update(imported & _packages(texts) - {package})
    return graph


def _packages(texts: Iterable[str]) -> set[str]:
    return {package_of(file.removesuffix(".py").replace("/", ".")) for file in texts}


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the packages of a cycle, the first one repeated at the end; empty if there is none."""
    finished: set[str] = set()

    def visit(package: str, path: list[str]) -> list[str]:
        if package in path:
            return [*path[path.index(package) :], package]
        if package in finished:
            return []
        for imported in sorted(graph.get(package, ())):
            if cycle := visit(imported, [*path, package]):
                return cycle
        finished.add(package)
        return []

    return next((cycle for package in sorted(graph) if (cycle := visit(package, []))), [])


def tree() -> dict[str, str]:
    """Return the text of each file of include/ by its path."""
    return {file: (ROOT / file).read_text() for file in python_files("include")}


def test_no_cycle_between_the_packages_of_include() -> None:
    """Each package can be read, and understood, after those that it imports."""
    graph = imports_by_package(tree())
    assert {"base", "spec", "storage", "monitor", "cli"} <= set(graph)
    assert find_cycle(graph) == []


def test_the_check_sees_a_planted_cycle() -> None:
    """An import of a higher package is found, also inside a function or through a third package."""
    planted = "def advance():\n    from include.cli.stages import run_stage\n    return run_stage\n"
    for file in ("include/storage/lake.py", "include/monitor/pipeline.py"):
        texts = tree()
        texts[file] += planted
        cycle = find_cycle(imports_by_package(texts))
        assert cycle[0] == cycle[-1]
        assert {package_of(file.replace("/", ".")), "cli"} <= set(cycle)


def test_the_check_sees_a_planted_cycle_of_a_base_module() -> None:
    """The base modules import no package."""
    texts = tree()
    texts["include/errors.py"] += "from include.spec import UseCase\n"
    assert {"base", "spec"} <= set(find_cycle(imports_by_package(texts)))
