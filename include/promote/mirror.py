"""MLflow's aliases mirror the ledger, for people who look there; what serves never depends on them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from include.errors import EvergreenError
from include.lake import Lake
from include.promote import ledger
from include.spec import UseCase

if TYPE_CHECKING:
    from include.registry import Registry  # it imports MLflow

log = logging.getLogger(__name__)


def mirror(lake: Lake, spec: UseCase, registry: Registry) -> bool:
    """Put the aliases ``champion`` and ``previous`` right where they differ; False when the registry can't.

    A failure is logged and no error: the switch stands, and the next to call this puts the aliases right.
    """
    line = ledger.succession(ledger.switches(lake))
    serves = bool(line) and line[-1]["kind"] != ledger.STEPPED_DOWN
    wanted = {"champion": line[-1]["version"] if serves else ""}
    wanted["previous"] = line[-2]["version"] if len(line) > 1 else ""
    try:
        found = registry.aliases(spec.name)
        for alias, version in wanted.items():
            if found.get(alias, "") != version:
                registry.set_alias(spec.name, alias, version)
    except EvergreenError as error:
        log.warning("%s: aliases not mirrored, left to the next that looks: %s", spec.name, error)
        return False
    return True
