"""The Airflow assets of a use case's products, for lineage and for other teams' DAGs."""

from __future__ import annotations

from functools import cache

from airflow.sdk import Asset

# Airflow takes a scheme that begins with x- as it is; for others each process imports all providers' schemes
SCHEME = "x-evergreen"


@cache
def product(usecase: str, name: str) -> Asset:
    """Return the asset of a source, or of features, predictions, findings, decisions or switches."""
    return Asset(name=f"{usecase}.{name}", uri=f"{SCHEME}://{usecase}/{name}", group="evergreen")
