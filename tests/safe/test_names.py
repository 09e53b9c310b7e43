"""Whoever made a name or key: it leads to nothing outside of its folder, and is only ever a value."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from include.cli.app import app
from include.cli.scaffold import scaffold
from include.environment import Endpoint
from include.errors import EvergreenError, PartitionError, SpecError
from include.ingest.connectors.objects import ObjectsSource, open_source
from include.ingest.connectors.request import request
from include.models.artifacts import model_key
from include.spec.clock import day_of
from include.spec.load import read
from include.storage.lake import Lake
from tests.usecases.weekly_sales import world

WAYS_OUT = [
    "..",
    "../x",
    "a/../../x",
    "/etc/x",
    "a/..",
    "a\\..\\..\\x",
    ".",
    "a//b",
    "\0",
    "a\0/..",
    "\ud800",
    "",
    "/",
]
PARTS = st.sampled_from(["..", ".", "", "a", "%2e%2e", "~", "*", "x" * 20, "ü", " ", "\n", "\0", "\\", "C:"])
NAMES = st.one_of(st.text(max_size=30), st.lists(PARTS, max_size=5).map("/".join), st.sampled_from(WAYS_OUT))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lake in it and nothing else."""
    return tmp_path_factory.mktemp("names")


def outside(place: Path) -> set[Path]:
    """Return the files that don't lie in the use case's folder."""
    own = place / "lake" / "usecase"
    return {file for file in place.rglob("*") if file.is_file() and not file.resolve().is_relative_to(own)}


@given(NAMES)
def test_an_objects_key_stays_in_its_folder(place: Path, name: str) -> None:
    """Whatever the key, it is refused, or what is written lies within and is read again by it."""
    lake = Lake("usecase", str(place / "lake"))
    for one in (name, f"state/alerts/{name}", model_key(name), f"raw/snapshots/sales/{name}/0.json"):
        with suppress(EvergreenError, ValueError):
            lake.replace(one, name.encode())
            assert lake.get(one) == name.encode()
            assert lake.size(one) == len(name.encode())
    assert outside(place) == set()


@pytest.mark.parametrize("name", [name for name in WAYS_OUT if name != "/"])
def test_a_table_or_a_use_case_has_no_way_out(place: Path, name: str) -> None:
    """A name that leads elsewhere is refused for tables and for use cases."""
    if name:  # none is all of them, which a backup and `Lake("")` of a test look at
        with pytest.raises(EvergreenError, match="object key"):
            Lake(name, str(place / "lake"))
    with pytest.raises(EvergreenError, match="object key"):
        Lake("usecase", str(place / "lake")).read(name)


@given(NAMES)
@example("2013-03-01")
@example("20130301")
@example("2013-W09-5")
def test_a_partition_is_a_date_or_refused(name: str) -> None:
    """No key of a partition has anything but the ten characters of a date."""
    with suppress(PartitionError):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", day_of(name).isoformat())
        assert day_of(name).isoformat() == name


@given(NAMES)
def test_a_use_cases_name_is_one_plain_word(place: Path, name: str) -> None:
    """`init` makes no folder but for a plain word, and none elsewhere."""
    with suppress(SpecError):
        assert scaffold(name, place / "usecases").parent == place / "usecases"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)


@pytest.mark.parametrize("name", ["../x", "a b", "A", "a/b", 'a"b', "x" * 41, ""])
@pytest.mark.parametrize("key", ["sources:\n  {}:\n    kind", "connection: {}\n", "target: {}\n"])
def test_a_declaration_names_plain_words(tmp_path: Path, name: str, key: str) -> None:
    """Sources, connections and targets, which become paths, variables and columns, are plain words."""
    raw = (Path(world.__file__).parent / "usecase.yaml").read_text()
    old = {"s": "sources:\n  sales:", "c": "connection: shop\n", "t": "target: units_sold\n"}[key[0]]
    assert old in raw
    file = tmp_path / "weekly_sales" / "usecase.yaml"
    file.parent.mkdir()
    file.with_name("features.sql").write_text("SELECT 1")
    new = key.removesuffix("\n    kind").format(f"'{name}'")
    file.write_text(raw.replace(old, new))
    with pytest.raises(SpecError, match="String should"):
        read(file)


@pytest.mark.parametrize("options", [("--partition", "../x"), ("--from", "/etc", "--until", "2024-01-01")])
@pytest.mark.parametrize("name", ["weekly_sales", "../weekly_sales"])
def test_the_command_line_takes_no_other_keys(
    place: Path, name: str, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A use case that isn't declared and a partition that is none are refused, and nothing is written."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(place / "cli"))
    monkeypatch.setenv("EVERGREEN_USECASES", str(Path(world.__file__).parent.parent))
    done = CliRunner().invoke(app, ["run", "ingest", name, *options])
    assert isinstance(done.exception, EvergreenError)
    assert not list(place.glob("cli/**/*.json"))


@pytest.mark.full
@given(st.text(max_size=20), st.text(max_size=20))
@example("a' OR '1'='1", "b")
@example("\\' OR TRUE --", "'")
def test_a_key_in_a_condition_is_only_a_value(place: Path, one: str, other: str) -> None:
    """Rows are found by exactly the text that was asked for, whatever it holds."""
    with suppress(UnicodeEncodeError):
        (one + other).encode()
        lake = Lake("quoted", str(place / "quoted"))
        lake.publish("t", pa.table({"k": [one]}), {"k": one})
        assert [row["k"] for row in lake.rows("t", {"k": one})] == [one]
        assert one == other or other not in {row["k"] for row in lake.rows("t", {"k": one})}


def test_a_folders_link_leads_nowhere(tmp_path: Path) -> None:
    """A file of a source that is a link out of the connection's folder isn't read."""
    (tmp_path / "shop" / "sales").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "shop" / "sales" / "2024-01-01.csv").symlink_to(tmp_path / "secret")
    spec = read(Path(world.__file__).parent / "usecase.yaml")
    declared = spec.sources["sales"]
    assert isinstance(declared, ObjectsSource)
    fetch = open_source(declared, Endpoint("shop", (tmp_path / "shop").as_uri()))
    with pytest.raises(EvergreenError, match="outside of the connection's folder"):
        list(fetch(request(spec, "sales", "2024-01-01")))
