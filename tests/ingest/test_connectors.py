"""The registry of connectors: one line and one module add a kind of source."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from include.environment import Connect
from include.ingest.pipeline import ingest
from include.spec import UseCase
from include.spec.source import CONNECTORS, source_class
from include.storage.lake import Lake

ROOT = Path(__file__).parents[2]
PARTITION = "2024-01-08"
CONNECTOR = """
from typing import Literal

from include.spec.source import BaseSource


class MemorySource(BaseSource):
    kind: Literal["memory"]
    rows: int


def open_source(source, endpoint):
    def fetch(request):
        lines = [f"{request.day},s{n:02},bread,100,true,0800,1" for n in range(source.rows)]
        yield "memory.csv", "\\n".join(["week,store,item,price_pence,promo,opens,units", *lines]).encode()

    return fetch
"""


def test_a_connector_is_one_module_and_one_line(
    lake: Lake,
    declare: Callable[..., UseCase],
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A use case that declares the new kind is read, validated and ingested."""
    (tmp_path / "memory_connector.py").write_text(CONNECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CONNECTORS, "memory", "memory_connector:MemorySource")

    def in_memory(raw: dict[str, Any]) -> None:
        sales = raw["sources"]["sales"]
        del sales["path"]
        sales.update(kind="memory", rows=40)

    (outcome,) = ingest(lake, declare(in_memory), "sales", [PARTITION], connect)
    assert (outcome.outcome, outcome.rows) == ("published", 40), outcome.note
    with pytest.raises(Exception, match=r"sources\.sales\.path: unknown key; valid here: .*rows"):
        declare(lambda raw: raw["sources"]["sales"].update(kind="memory", rows=40))


def test_the_json_schema_has_every_kind() -> None:
    """Editors that complete a declaration from its JSON Schema see the keys of every connector."""
    definitions = UseCase.model_json_schema()["$defs"]
    assert {source_class(kind).__name__ for kind in CONNECTORS} <= set(definitions)


@pytest.mark.parametrize("kind", CONNECTORS)
def test_a_declaration_imports_no_library_of_its_connector(kind: str) -> None:
    """A DAG file parses declarations, so connectors import their libraries only when they are opened."""
    heavy = ("boto3", "confluent_kafka", "duckdb", "pyarrow", "requests", "sqlalchemy", "tenacity")
    code = (
        "import sys; from include.spec.source import source_class; "
        f"source_class({kind!r}); print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert process.stdout.strip() == "[]"
