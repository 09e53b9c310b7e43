"""Where the pages and a model's cards lie: it follows from the keys, so a link needs no lake.

Airflow's links read this page, so it imports nothing.
"""

from __future__ import annotations

KEY_LENGTH = 8  # characters of an attempt's key
HISTORY = "history.html"  # of the page on the year, below ``reports/``


def page_place(partition: str, key: str) -> str:
    """Return an attempt's page, below ``reports/``; that of a forced verdict lies beside the gate's own."""
    said, _, forced = key.partition("+")
    return f"verdict/{partition}-{said[:KEY_LENGTH]}{'-' if forced else ''}{forced}.html"


def model_card_place(model: str) -> str:
    """Return the object with the card of the model with this digest."""
    return f"models/{model}.card.md"


def data_card_place(model: str) -> str:
    """Return the object with the card of the data that the model was fitted and judged on."""
    return f"models/{model}.data.md"
