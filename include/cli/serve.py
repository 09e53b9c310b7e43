"""The server of online predictions."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from include import spec as specs
from include.cli.options import Debug, UseCaseName

serving = typer.Typer()


@serving.command()
def serve(
    usecase: UseCaseName,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Other than loopback needs the environment variable EVERGREEN_SERVE_TOKEN."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 for any that is free.")] = 8000,
    log_requests: Annotated[
        Path | None,
        typer.Option(
            "--log-requests",
            help="A folder on a disk that stays. Requests and predictions are written there, then put "
            "into the lake, where a source can ingest them. Default: nothing is logged.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve predictions over HTTP, by the models that the ledger names, until it is stopped.

    It follows the ledger without a restart, and the fallback chain serves as in batch scoring. One process
    uses one core. `GET /openapi.json` describes the requests.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before NumPy is imported: one row is never faster on many threads
    from include.serve.server import serve as run
    from include.storage.lake import Lake
    from include.storage.schedule import require_schedule

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("include.serve").setLevel(logging.INFO)  # which models it loads
    spec, lake = specs.load(usecase), Lake(usecase)
    require_schedule(lake, spec)
    run(
        lake,
        spec,
        host,
        port,
        log_requests,
        lambda: datetime.now(UTC),
        lambda address: typer.echo(f"serving {usecase} on {address}"),
    )
