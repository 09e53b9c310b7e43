"""The server follows the ledger without a restart, and no request fails meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.models import artifacts
from include.references import digest_bytes
from include.storage.lake import Lake
from tests.score.conftest import LAST, Deploy
from tests.serve.conftest import ROW, Serve
from tests.serve.server import Load


def test_a_switch_under_load_fails_no_request(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """Each client is served by version 1 until some moment, and by version 2 from then on."""
    deploy(lake, "1", LAST)
    with serve() as server, Load(server, ROW) as load:
        server.until_serving("1", ROW)
        deploy(lake, "2", LAST)
        server.until_serving("2", ROW)
        server.predict([ROW])
    assert (load.statuses, load.errors) == ({200}, [])
    for answers in load.answers:
        versions = [answer["predictions"][0]["version"] for _, answer in answers]
        assert versions == sorted(versions)
        assert "1" in versions
    assert "2" in {answer["predictions"][0]["version"] for each in load.answers for _, answer in each}


@pytest.mark.full
def test_a_switch_to_a_damaged_model_fails_no_request(
    lake: Lake, deploy: Deploy, serve: Serve, stored: dict[str, bytes], tmp_path: Path
) -> None:
    """The champion before it serves as the previous one; once the object is restored, the champion does."""
    deploy(lake, "1", LAST)
    file = tmp_path / "lake" / "parcels" / artifacts.model_key(digest_bytes(stored["2"]))
    file.write_bytes(b"damaged")
    with serve() as server, Load(server, ROW) as load:
        deploy(lake, "2", LAST)
        served: set[str] = set()
        while "previous" not in served:
            served |= {row["served_by"] for row in server.predict([ROW])}
        file.write_bytes(stored["2"])
        server.until_serving("2", ROW)
    assert (load.statuses, load.errors) == ({200}, [])
