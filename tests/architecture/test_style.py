"""The rules of the house, each checked on the whole tree."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Collection
from functools import cache
from importlib import metadata

import pytest

from tests.architecture import rules
from tests.architecture.tree import ROOT, files, python_files

DAGS, PLUGINS, INCLUDE = python_files("dags"), python_files("plugins"), python_files("include")
SHIPPED = [*DAGS, *PLUGINS, *INCLUDE, *python_files("demo", "benchmarks")]
# these files may ask for the time, each for its reason
CLOCK_READERS = {
    "include/cli/app.py": "what a person asks for is asked now: the knowledge time of what a source changed",
    "include/cli/inspect.py": "a trial's last partition is the newest now",
    "include/cli/lifecycle.py": "a person answers now",
    "include/cli/serve.py": "a request comes now",
    "include/cli/erasure.py": "a person erases now",
    "include/cli/backups.py": "a backup is named by the moment at which somebody asked for it",
    "include/ops/prune.py": "a backup dated in the future is refused",
    "include/ops/upkeep.py": "a model that was stored recently stays",
    "include/ingest/breaker.py": "how to treat a source now isn't part of any result",
}

# these files put text into SQL, each for its reason; every other value is bound
SQL_WRITERS = {
    "include/storage/queries.py": "keys, as Delta's predicates take text only: both sides are quoted",
    "include/features/build.py": "the declaration's own SQL, and quoted names",
    "include/features/labels.py": "the declaration's own expression, quoted names, and the clock's moments",
    "include/features/point_in_time.py": (
        "names of the declaration's patterns, and moments that the clock made"
    ),
    "include/ingest/validation/rows.py": "names made there",
    "include/ingest/validation/compiled.py": (
        "quoted names and fixed words; each value of an expectation is bound"
    ),
    "include/ingest/validation/contract.py": "the declaration's own expression",
    "include/storage/spill.py": "quoted names",
    "include/validate/generated.py": "the declaration's own expression",
    "include/validate/query.py": "the declaration's own expression, which is parsed and not run",
}

# these errors name no remedy, each for its reason
WITHOUT_REMEDY = {
    "DatabaseUnavailable": "the backup is made without that database, and its result says why",
    "MissingMetric": "its only caller leaves the metric out",
    "ModelError(self.failures.get": "the whole sentence of the error with which the model wasn't loaded",
    "PartitionRefused(self.note)": "the whole sentence of an earlier run's error",
    "SourceUnavailable(self.note)": "the whole sentence of an earlier run's error",
}


# packages that another one's interface hands out, so that they can't go without it
HANDED_OUT = {
    "botocore": "boto3",
    "markupsafe": "jinja2",
    "openlineage": "apache-airflow-providers-openlineage",
    "pendulum": "apache-airflow",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
    "urllib3": "boto3",
}


def text(file: str) -> str:
    """Return a file's text."""
    return (ROOT / file).read_text()


def test_there_are_pages_to_judge() -> None:
    """The rules below look at files of each layer, so that none of them passes for want of files."""
    assert DAGS
    assert PLUGINS
    assert INCLUDE


@pytest.mark.parametrize("file", [p for p in SHIPPED if not p.endswith("__init__.py")])
def test_nothing_runs_code_that_came_as_data(file: str) -> None:
    """No pickle, eval, shell or unsafe YAML loader in what is shipped."""
    assert rules.runs_code(text(file)) == []


def test_names_are_nouns_and_not_drawers() -> None:
    """No file or folder is named utils, helpers, common or manager."""
    assert {name: bad for name in files() if (bad := rules.bad_names(name))} == {}


BRITISH = re.compile(
    r"(behavi|col|fav|hon|neighb)our|(initial|normal|optim|organ|real|summar)is(e|ing|ation)"
    r"|(label|cancel|model|signal|travel)l(ed|ing)|learnt\b|judgement|\bcentre\b",
    re.IGNORECASE,
)


def british(text: str) -> list[str]:
    """Return what is spelled the British way, each word up to the difference."""
    return sorted({match.group().lower() for match in BRITISH.finditer(text)})


def test_words_are_spelled_the_american_way() -> None:
    """One spelling, so that a search finds a name; locks and images aren't ours to spell."""
    others = ("requirements", "docs/images/", "tests/architecture/test_style.py")  # this file has examples
    ours = [name for name in files() if not name.startswith(others)]
    texts = {name: (ROOT / name).read_bytes().decode("utf-8", "replace") for name in ours}
    assert {name: words for name in texts if (words := british(texts[name]))} == {}


def test_a_british_spelling_is_seen() -> None:
    """Words that only look alike pass."""
    words = ["centre", "labelled", "learnt", "neighbour", "realise"]
    assert british("neighbours are realised, labelled and learnt at the centre") == words
    assert british("called, realistic, our hours, installed, precise, a centrepiece, learn that") == []


def test_only_its_own_folder_knows_the_demos_use_case() -> None:
    """No word about flights outside include/usecases/flight_delay, in what every use case shares."""
    own = "include/usecases/flight_delay/"
    shared = [f for f in files() if f.startswith(("include/", "dags/", "plugins/")) and not f.startswith(own)]
    texts = {name: (ROOT / name).read_bytes().decode("utf-8", "replace") for name in shared}
    assert {name: words for name in texts if (words := rules.flight_words(texts[name]))} == {}


@pytest.mark.parametrize("file", INCLUDE)
def test_include_asks_for_the_time_only_where_it_may(file: str) -> None:
    """Nothing in include/ reads the wall clock, but for the files listed here, which do."""
    assert (rules.reads_clock(text(file)) != []) == (file in CLOCK_READERS)


@pytest.mark.parametrize("file", [*DAGS, *PLUGINS, *INCLUDE])
def test_no_value_is_pasted_into_sql_but_where_it_may(file: str) -> None:
    """Values are bound; only the files listed here write SQL, which do."""
    assert (rules.pasted_sql(text(file)) != []) == (file in SQL_WRITERS)


def test_each_error_names_a_remedy() -> None:
    """Each error tells what to do, but for those listed here, which don't."""
    ours = [p for p in (*INCLUDE, *PLUGINS) if not p.startswith("include/usecases/_template")]
    kinds = rules.error_kinds(map(text, ours))
    calls = [(file, call) for file in ours for call in rules.without_remedy(text(file), kinds)]
    assert [(file, call) for file, call in calls if not call.startswith(tuple(WITHOUT_REMEDY))] == []
    assert [one for one in WITHOUT_REMEDY if not any(call.startswith(one) for _, call in calls)] == []


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the environment's: no committed file names a registry."""
    found = {}
    for name in files():
        content = (ROOT / name).read_bytes().decode("utf-8", "replace")
        if hosts := rules.registry_hosts(content):
            found[name] = hosts
    assert found == {}


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_each_requirement_has_a_reason_and_is_locked(name: str) -> None:
    """What we chose is locked with hashes, and says what it is for."""
    chosen = rules.requirements(text(f"{name}.in"))
    assert chosen
    assert {requirement for requirement, reason in chosen.items() if len(reason) < 4} == set()
    assert set(chosen) - rules.locked(text(f"{name}.txt")) == set()


def unrequired(text: str, requirements: Collection[str]) -> list[str]:
    """Return the imports of a file that are neither the standard library's, ours, nor of a requirement."""
    own = {"include", "plugins", "dags", "evergreen"}
    modules = {name.partition(".")[0] for name in rules.imported(text)} - own - sys.stdlib_module_names - {""}
    # an extra may not be installed here, and then its name tells
    owners = {name: [HANDED_OUT.get(name, name), *packages().get(name, ())] for name in modules}
    chosen = {name: {rules.canonical(owner) for owner in of} for name, of in owners.items()}
    return sorted(name for name, of in chosen.items() if of.isdisjoint(requirements))


packages = cache(metadata.packages_distributions)


def test_what_is_imported_is_required() -> None:
    """An import is of a package that we chose, since an upgrade may drop what only came with another one."""
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"].values()
    chosen = {*rules.requirements(text("requirements.in"))}
    chosen |= {rules.canonical(requirement) for extra in extras for requirement in extra}
    shipped = [
        file for file in (*DAGS, *PLUGINS, *INCLUDE) if not file.rpartition("/")[2].startswith("test_")
    ]
    assert {file: names for file in shipped if (names := unrequired(text(file), chosen))} == {}


def test_an_import_of_another_packages_requirement_is_seen() -> None:
    """A package that is installed, but not chosen, is named."""
    assert unrequired("import json\nimport numpy.linalg\nfrom alembic import op", {"numpy"}) == ["alembic"]


def test_an_extra_is_locked_beside_the_core() -> None:
    """Its lock has what it names, of the versions that the core has too, and the core has none of it."""
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    core = text("requirements.txt")
    for extra, requirements in extras.items():
        lock = text(f"requirements-{extra}.txt")
        chosen = {rules.canonical(requirement) for requirement in requirements}
        assert chosen <= rules.locked(lock)
        assert chosen.isdisjoint(rules.locked(core))
        # an extra may need a package on some versions of Python only
        pins = re.findall(r"^[\w.-]+==[^\s;]+", lock, flags=re.MULTILINE)
        shared = [pin for pin in pins if rules.canonical(pin) in rules.locked(core)]
        assert shared
        assert [pin for pin in shared if f"\n{pin} " not in core] == []
