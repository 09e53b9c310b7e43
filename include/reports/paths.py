"""Paths of pages and cards in the lake. They follow from keys alone, so a link needs no access to it.

Airflow's links and views import this module, so it imports nothing.
"""

from __future__ import annotations

KEY_LENGTH = 8  # characters of an attempt's key in a file name
HISTORY = "history.html"  # the history page, below ``reports/``
REPLAY = "replay.html"  # the page of the last replay, below ``reports/``


def page_path(partition: str, key: str) -> str:
    """Return the path of an attempt's page below ``reports/``; a forced verdict has a page of its own."""
    attempt, _, forced = key.partition("+")
    return f"verdict/{partition}-{attempt[:KEY_LENGTH]}{'-' if forced else ''}{forced}.html"


def drift_report_path(partition: str) -> str:
    """Return the path of a partition's drift report; it is drawn when it is opened."""
    return f"monitor/{partition}.html"


def data_docs_path(source: str, partition: str) -> str:
    """Return the path of the Data Docs of a source's partition; they are drawn when they are opened."""
    return f"data_docs/{source}/{partition}.html"


def model_card_path(model: str) -> str:
    """Return the object key of the card of the model with this digest."""
    return f"models/{model}.card.md"


def data_card_path(model: str) -> str:
    """Return the object key of the card of the data that this model was fitted and judged on."""
    return f"models/{model}.data.md"
