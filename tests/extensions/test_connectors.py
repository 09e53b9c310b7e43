"""A use case's own connector is read like a built-in one, and its own keys are checked when it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.environment import Endpoint
from include.errors import SpecError
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.validate.pipeline import errors
from tests.usecases.weekly_sales import world

SHIPPED = Path(world.__file__).parent
PARTITION = world.partitions(1)[0]
OBJECTS = "    kind: objects\n    connection: shop\n    path: sales/{day}.csv\n"
OWN = '    kind: "shelf:ShelfSource"\n    connection: shop\n    file: sales/{day}.csv\n'
# a file in a folder, in lines, as JSON
SHELF = """
import csv, io, json
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from include.spec.source import BaseSource


class ShelfSource(BaseSource):
    file: str = Field(description="below the connection")

    @property
    def path_templates(self):
        return (self.file,)

    @property
    def part_format(self):
        return "json"

    @property
    def rows_field(self):
        return "rows"


def open_source(source, endpoint):
    def fetch(request):
        file = Path(urlsplit(endpoint.uri).path, request.fill_path(source.file))
        if not file.exists():
            raise request.not_available_yet(file.name)
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
        yield file.name, json.dumps({"rows": rows}).encode()

    return fetch
"""


def declare(folder: Path, module: str = SHELF, old: str = OBJECTS, new: str = OWN) -> UseCase:
    """Return weekly_sales with its source on a shelf."""
    home = folder / "weekly_sales"
    home.mkdir(exist_ok=True)
    (home / "shelf.py").write_text(module)
    (home / "features.sql").write_text((SHIPPED / "features.sql").read_text())
    text = (SHIPPED / "usecase.yaml").read_text().replace(OBJECTS, OWN)
    (home / "usecase.yaml").write_text(text.replace(old, new))
    return read(home / "usecase.yaml")


def ingested(folder: Path, spec: UseCase, partition: str = PARTITION) -> Outcome:
    """Ingest a week from a folder whose address has a password."""
    world.write(folder / "shop", 1)
    endpoint = Endpoint("shop", (folder / "shop").as_uri(), password="hunter2hunter2")
    (outcome,) = ingest(
        Lake(spec.name, str(folder / "lake")), spec, "sales", [partition], lambda name: endpoint
    )
    return outcome


def test_it_is_ingested_like_a_built_in_one(tmp_path: Path) -> None:
    """Its properties say how its parts are read, and a partition that isn't there yet is unavailable."""
    spec = declare(tmp_path)
    assert errors(spec) == []
    outcome = ingested(tmp_path, spec)
    assert (outcome.outcome, outcome.rows) == ("published", 40)
    later = ingested(tmp_path, spec, world.partitions(2)[1])
    assert (later.outcome, "nothing yet" in later.note) == ("unavailable", True)


def test_reading_a_declaration_does_not_import_it(tmp_path: Path) -> None:
    """A module that raises is read and digested; validate names it with the line."""
    spec = declare(tmp_path, "raise ValueError('broken')\n")
    assert spec.digest_of("sales") != declare(tmp_path).digest_of("sales")
    (tmp_path / "weekly_sales" / "shelf.py").write_text("raise ValueError('broken')\n")
    (problem,) = errors(spec)
    assert "weekly_sales: sources.sales.kind: expected a module shelf that can be imported" in problem
    assert "shelf.py:1" in problem


@pytest.mark.full
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("    file: sales/{day}.csv\n", "", "found file: Field required"),
        (
            "    file: sales/{day}.csv\n",
            "    file: a\n    shelf: 3\n",
            "found shelf: Extra inputs are not permitted",
        ),
        (
            "file: sales/{day}.csv",
            "file: sales/{date}.csv",
            "expected only {day}, {hour}, {minute}, {partition}, but found sales/{date}.csv",
        ),
        ("shelf:ShelfSource", "shelf:open_source", "found type function"),
    ],
)
def test_validate_checks_its_own_keys(old: str, new: str, problem: str, tmp_path: Path) -> None:
    """A key that is missing, unknown or wrong, and something that isn't a source."""
    (sentence,) = errors(declare(tmp_path, old=old, new=new))
    assert problem in sentence


def test_a_mistyped_column_is_refused_by_reading(tmp_path: Path) -> None:
    """What all sources declare is checked without the module, with the keys that are valid there."""
    with pytest.raises(
        SpecError, match=r"sources\.sales\.columns\.item\.requird: unknown key; valid here: agrees"
    ):
        declare(tmp_path, old="item: {type: string, required", new="item: {type: string, requird")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "        file = Path",
            "        raise ValueError(endpoint.password)\n        file = Path",
            "ValueError",
        ),
        ("def open_source(source, endpoint):", "def open_source(source):", "TypeError"),
        ("def open_source", "def open_shelf", "none"),
        ('yield file.name, json.dumps({"rows": rows}).encode()', "return 3", "TypeError"),
    ],
)
def test_what_it_raises_shows_its_type_and_line_and_no_secret(
    old: str, new: str, problem: str, tmp_path: Path
) -> None:
    """The message may repeat an address or a password, so it isn't shown, nor is its traceback."""
    spec = declare(tmp_path, SHELF.replace(old, new))
    with pytest.raises(SpecError) as caught:
        ingested(tmp_path, spec)
    assert caught.value.found == problem
    assert f"{spec.folder}/shelf.py" in caught.value.where
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
