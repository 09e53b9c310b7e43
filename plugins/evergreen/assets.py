"""The Airflow assets of a use case's products, for lineage and for other teams' DAGs."""

from __future__ import annotations

from airflow.sdk import Asset


def product(usecase: str, name: str) -> Asset:
    """Return the asset of a source, or of features, predictions, findings, decisions or switches."""
    return Asset(name=f"{usecase}.{name}", uri=f"evergreen://{usecase}/{name}", group="evergreen")
