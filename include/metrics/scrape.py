"""What is scraped of a use case: its gauges, computed again only where a table or the declaration changed.

Nothing is written and no night waits for it, so no night can fail by it.
"""

from __future__ import annotations

import logging

from include.errors import EvergreenError
from include.lake import Lake
from include.metrics.exposition import Sample
from include.metrics.gauges import READ, gauges
from include.spec import UseCase, load

log = logging.getLogger(__name__)
Stamp = tuple[UseCase, tuple[int, ...]]
_kept: dict[str, tuple[Lake, Stamp, list[Sample]]] = {}  # by the lake's address


def scrape(usecase: str) -> list[Sample]:
    """Return the gauges of a use case; of one that can't be read only that, and why is in the log."""
    labels = {"usecase": usecase}
    try:
        found = _current(load(usecase))
    except EvergreenError as error:
        log.warning("%s has no metrics: %s", usecase, error)
    except Exception:  # one use case takes no other down
        log.exception("%s has no metrics", usecase)
    else:
        return [Sample("evergreen_readable", labels, 1.0), *found]
    return [Sample("evergreen_readable", labels, 0.0)]


def _current(spec: UseCase) -> list[Sample]:
    lake = Lake(spec.name)
    lake, known, found = _kept.get(lake.uri, (lake, None, []))  # whose tables are open already
    # the versions first: what is committed while the gauges are read is seen by the next scrape
    stamp = spec, tuple(lake.version(table) for table in READ)
    if stamp != known:
        found = list(gauges(lake, spec))
        _kept[lake.uri] = lake, stamp, found
    return found
