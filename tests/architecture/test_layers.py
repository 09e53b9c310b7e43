"""dags -> plugins -> include -> libraries, never back; and what is light stays light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.tree import HEAVY, ROOT, python_files

DAGS, PLUGINS, INCLUDE = python_files("dags"), python_files("plugins"), python_files("include")
# a DAG file is read every few seconds: what it brings beyond `import airflow.sdk`, file by file
PARSE = """
import json, runpy, sys
import airflow.sdk
heavy, found = set(sys.argv[1].split(",")), {}
for file in sys.argv[2:]:
    before = heavy & set(sys.modules)
    runpy.run_path(file)
    found[file] = sorted((heavy & set(sys.modules)) - before)
print(json.dumps(found))
"""
LIGHT = ("spec", "errors", "spec.clock", "references", "environment", "cli.app", "__main__")


def text(file: str) -> str:
    """Return a file's text."""
    return (ROOT / file).read_text()


@pytest.mark.parametrize("file", INCLUDE)
def test_include_runs_without_airflow(file: str) -> None:
    """No module in include/ imports airflow, a DAG, a plugin, the demo or a test, however late."""
    above = ("airflow", "dags", "plugins", "evergreen", "demo", "tests", "benchmarks")
    assert rules.imports_of(text(file), *above) == []


@pytest.mark.parametrize("file", PLUGINS)
def test_plugins_know_nothing_above_them(file: str) -> None:
    """No plugin imports a DAG, the demo or a test."""
    assert rules.imports_of(text(file), "dags", "demo", "tests", "benchmarks") == []


@pytest.mark.parametrize("file", DAGS)
def test_a_dag_file_reads_the_spec_and_nothing_else_of_include(file: str) -> None:
    """A DAG file imports from include only include.spec: it wires, the operators work."""
    assert rules.beyond_spec(text(file)) == []


@pytest.mark.parametrize("file", [p for p in INCLUDE if p.startswith("include/usecases/")])
def test_use_cases_do_not_know_one_another(file: str) -> None:
    """A use case imports no other one."""
    assert rules.other_usecases(text(file), file.split("/")[2]) == []


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return which heavy modules each DAG file loaded, in one process that had only airflow.sdk."""
    home = tmp_path_factory.mktemp("airflow")
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    return _loads(PARSE, ",".join(HEAVY), *DAGS, AIRFLOW_HOME=str(home), PYTHONPATH=path)


@pytest.mark.parametrize("file", DAGS)
def test_a_dag_file_is_parsed_without_heavy_libraries(file: str, parsed: dict[str, list[str]]) -> None:
    """Parsing a DAG file loads none of the libraries that only tasks need."""
    assert parsed[file] == []


def test_the_parse_check_sees_a_heavy_import(tmp_path: Path) -> None:
    """A file that imports a heavy library through another module is found out."""
    (tmp_path / "innocent.py").write_text("import pyarrow\n")
    file = tmp_path / "file.py"
    file.write_text("import innocent\n")
    bare = PARSE.replace("import airflow.sdk\n", "")
    loaded = _loads(bare, ",".join(HEAVY), str(file), PYTHONPATH=str(tmp_path))
    assert loaded == {str(file): ["pyarrow"]}


def test_light_pages_stay_light() -> None:
    """The spec, the errors, the clock, the references and the command line load no heavy library."""
    code = "import json, sys, importlib\nfor m in sys.argv[2:]: importlib.import_module('include.' + m)\n"
    code += "print(json.dumps(sorted(set(sys.argv[1].split(',')) & set(sys.modules))))"
    assert _loads(code, ",".join(HEAVY), *LIGHT, PYTHONPATH=str(ROOT)) == []


def _loads(code: str, *arguments: str, **environment: str) -> dict[str, list[str]]:
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, list[str]] = json.loads(run.stdout.splitlines()[-1])
    return answer
