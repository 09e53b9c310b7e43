"""Store what a verdict rests on where people look: beside the reports, beside the model, and in MLflow."""

from __future__ import annotations

import logging

from include.errors import EvergreenError
from include.lake import Lake
from include.promote import ledger
from include.registry import Registry
from include.spec import UseCase
from include.verdict.cards import data_card, model_card
from include.verdict.known import read
from include.verdict.page import answers, page
from include.verdict.place import data_card_place, model_card_place, page_place

log = logging.getLogger(__name__)
PAGE, MODEL, DATA = "evergreen/verdict.html", "evergreen/model_card.md", "evergreen/data_card.md"


def draw(lake: Lake, spec: UseCase, key: str, registry: Registry | None) -> str:
    """Store an attempt's page and its model's cards; drawn again of the same lake they have the same bytes.

    Parameters
    ----------
    key : of the attempt, or of the forced verdict on it.
    registry : whose model version gets them as well; one that is down is logged and no error, since the lake
        has them.

    Returns
    -------
    str
        The page's place below ``reports/``.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    """
    known = read(lake, spec, key)
    place, model = page_place(known.evidence.night, key), known.evidence.model
    parts = answers(known)
    texts = page(known, parts), model_card(known, parts), data_card(known)
    shown, card, data = (text.encode() for text in texts)
    lake.replace(f"reports/{place}", shown)
    lake.replace(model_card_place(model), card)
    lake.replace(data_card_place(model), data)
    if registry is not None:
        _hand_over(registry, spec, known.evidence.version, {PAGE: shown, MODEL: card, DATA: data})
    return place


def draw_forced(lake: Lake, spec: UseCase, key: str, registry: Registry | None) -> None:
    """Draw what a person said of an attempt; where the live model was forced nothing was recorded."""
    said = ledger.forced_key(key)
    if lake.rows("attempts", {"key": said}):
        draw(lake, spec, said, registry)


def _hand_over(registry: Registry, spec: UseCase, version: str, files: dict[str, bytes]) -> None:
    try:
        registry.put(registry.run_of(spec.name, version), files)
    except EvergreenError as error:
        log.warning("%s v%s: report and cards are in the lake only: %s", spec.name, version, error)
