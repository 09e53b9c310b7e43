"""Each rule's checker finds what it is for: a planted violation, and none in the same file put right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.architecture import rules
from tests.architecture.rules import REGISTRIES

Rule = Callable[[str], list[str]]

PLANTED: dict[str, tuple[Rule, str, str]] = {
    "airflow": (lambda t: rules.imports_of(t, "airflow"), "import airflow.sdk", "import airflows"),
    "airflow, lazily": (
        lambda t: rules.imports_of(t, "airflow"),
        "def f():\n    from airflow.sdk import DAG",
        "def f():\n    from include.spec.clock import Clock",
    ),
    "airflow, by its name": (
        lambda t: rules.imports_of(t, "airflow"),
        "import importlib\nimportlib.import_module('airflow.sdk')",
        "import importlib\nimportlib.import_module('json')",
    ),
    "a DAG file that works": (
        rules.beyond_spec,
        "from include.storage.lake import Lake",
        "from include.spec import load\nimport include.spec.load",
    ),
    "a DAG file that works, from the package": (
        rules.beyond_spec,
        "from include import lake",
        "from include import spec",
    ),
    "a use case that knows another": (
        lambda t: rules.other_usecases(t, "one"),
        "from include.usecases.two import thing",
        "from include.usecases.one import thing\nfrom . import other",
    ),
    "a relative way to another use case": (
        lambda t: rules.other_usecases(t, "one"),
        "from ..two import thing",
        "from .two import thing",
    ),
    "a drawer": (rules.bad_names, "include/utils.py", "include/storage/lake.py"),
    "a drawer's folder": (rules.bad_names, "plugins/helpers/lake.py", "plugins/evergreen/lake.py"),
    "pickle": (rules.runs_code, "import pickle", "import json"),
    "joblib, lazily": (rules.runs_code, "def f():\n    from joblib import load", "from json import load"),
    "eval": (rules.runs_code, "eval('1')", "evaluate('1')"),
    "exec": (rules.runs_code, "exec('x = 1')", "execute('x = 1')"),
    "a shell": (rules.runs_code, "run('ls', shell=True)", "run(['ls'], shell=False)"),
    "os.system": (rules.runs_code, "import os\nos.system('ls')", "import os\nos.listdir('.')"),
    "yaml.load": (rules.runs_code, "yaml.load(text)", "yaml.safe_load(text)"),
    "read_pickle": (rules.runs_code, "pd.read_pickle(path)", "pd.read_csv(path)"),
    "a value in a query": (
        rules.pasted_sql,
        "sql = f'SELECT a FROM t WHERE b = {b}'",
        "sql = 'SELECT a FROM t WHERE b = :b'",
    ),
    "a value in a query, by format": (
        rules.pasted_sql,
        "q = 'DELETE FROM t WHERE a = {}'.format(a)",
        "q = 'delete {}'.format(a)",
    ),
    "a value in a query, by a sum": (rules.pasted_sql, "q = 'DROP TABLE ' + name", "q = 'A TABLE ' + name"),
    "a value in a query, by %": (rules.pasted_sql, "q = 'COPY %s' % name", "q = '%s' % name"),
    "a pasted condition that is run": (rules.pasted_sql, "c.execute(f'{a} = {b}')", "c.execute(a, {'b': b})"),
    "now": (rules.reads_clock, "datetime.now(UTC)", "clock.decision_time(partition)"),
    "today": (rules.reads_clock, "date.today()", "date.fromisoformat(key)"),
    "time.time": (rules.reads_clock, "time.time()", "time.sleep(1)"),
    "an error without a remedy": (
        lambda t: rules.without_remedy(t, rules.error_kinds([t])),
        "class Late(errors.EvergreenError): ...\nraise Late('a', required='b', found='c')",
        "class Late(errors.EvergreenError): ...\nraise Late('a', remedy='wait')\nraise ValueError('a')",
    ),
    "an error with an empty remedy": (
        lambda t: rules.without_remedy(t, {"EvergreenError"}),
        "errors.EvergreenError('a', remedy='')",
        "errors.EvergreenError('a', remedy=remedy)",
    ),
    "an error whose remedy may be left out": (
        lambda t: rules.without_remedy(t, {"EvergreenError"}),
        "def error(remedy: str = ''):\n    return EvergreenError('a', remedy=remedy)",
        "def error(remedy: str):\n    return EvergreenError('a', remedy=remedy)",
    ),
    "flights": (rules.flight_words, "# the Flights of a day", "# the rows of a day"),
    "a registry": (rules.registry_hosts, f"https://{REGISTRIES[0]}/simple", "https://example.org/simple"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name: str) -> None:
    """The rule finds the violation, and nothing once it is put right."""
    rule, bad, good = PLANTED[name]
    assert rule(bad)
    assert rule(good) == []


def test_a_requirement_without_a_reason_is_found() -> None:
    """A requirement's reason is what stands after the hash sign, and a missing one is empty."""
    found = rules.requirements("# a heading\nPy_Arrow[s3]>=25 # tables\nrequests\n-c other.txt\n")
    assert found == {"py-arrow": "tables", "requests": ""}


def test_a_requirement_without_a_hash_is_not_locked() -> None:
    """A lock pins each name to one version and at least one hash."""
    lock = (
        "a==1 \\\n    --hash=sha256:00\n    # via b\nb==2\nc>=3 --hash=sha256:00\nD.e[x]==4 --hash=sha256:1\n"
    )
    assert rules.locked(lock) == {"a", "d-e"}
