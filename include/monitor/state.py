"""What a night's findings depend on, and which later nights a change of it reaches.

Nights may come in any order, and two at once. So a night's findings are a function of what is published of
it and of the nights before it; the digests of all that are kept with them, and whoever publishes an earlier
night makes again those later ones whose digests no longer fit. A night done last thus leaves what order
would have left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from include.lake import Lake
from include.promote import ledger
from include.spec import UseCase

Row = Mapping[str, Any]
PRODUCT = "monitor"
REALISED = "performance"


class State:
    """What is published around a night.

    Parameters
    ----------
    night : the one that is monitored. What is read reaches as far ahead as its findings are looked at, and as
        far back as theirs look.
    """

    def __init__(self, lake: Lake, spec: UseCase, night: str) -> None:
        self.spec, self.night = spec, night
        width, delay, persist = spec.monitoring.window, spec.labels.delay, spec.retraining.persist
        alarms = spec.monitoring.alarms
        reach = max(delay + 2 * width + persist, alarms.past + alarms.of)
        first = spec.clock.shift(night, -max(spec.features.lookback, reach))
        self.span = spec.clock.keys(first, spec.clock.shift(night, reach))
        self._place = {key: place for place, key in enumerate(self.span)}
        self.read(lake)

    def read(self, lake: Lake) -> None:
        """Read what there is now."""
        products = [*self.spec.sources, "predictions", REALISED, "drift", PRODUCT]
        rows = lake.rows("partitions", {"product": products, "night": self.span})
        self._partitions = {(row["product"], row["night"]): row for row in rows}
        trained = lake.rows("partitions", {"product": "limits"})
        self._limits = sorted(trained, key=lambda row: str(row["night"]))
        self._champions = ledger.champions(ledger.switches(lake))

    def partition(self, product: str, night: str) -> Row | None:
        """Return a product's row for a night, if it has been attempted."""
        return self._partitions.get((product, night))

    def published(self, product: str, nights: Sequence[str]) -> list[str]:
        """Return those nights that have a product, in order."""
        rows = {night: self.partition(product, night) for night in nights}
        return [night for night, row in rows.items() if row is not None and row["outcome"] == "published"]

    def champion(self, night: str) -> Row | None:
        """Return the switch by which a night has its champion, None before there was one."""
        in_effect = [row for row in self._champions if row["effective"] <= night]
        return in_effect[-1] if in_effect else None

    def model(self, night: str) -> str:
        """Return the digest of the champion of a night, empty before there was one."""
        row = self.champion(night)
        return str(row["model"]) if row else ""

    @property
    def later(self) -> list[str]:
        """The nights whose findings may depend on this one."""
        return self.span[self._place[self.night] + 1 :]

    def window(self, night: str) -> list[str]:
        """Return the scored nights that are compared with the reference, up to the night itself."""
        return self.published("predictions", self._before(night, self.spec.monitoring.window - 1, 0))

    def limits(self, night: str) -> Row | None:
        """Return the row of the limits that the last training before a night published, if one did."""
        before = [row for row in self._limits if row["night"] < night]
        return before[-1] if before else None

    def past(self, night: str) -> list[str]:
        """Return the scored nights that a jump is judged on, up to the night itself; none while too few.

        The nights that the training knew need not have been scored.
        """
        rules, trained = self.spec.monitoring.alarms, self.limits(night)
        keys = self._before(night, rules.past + rules.of - 1, 0)
        scored = self.published("predictions", keys)
        if trained is None or night not in scored:
            return []
        known = self.spec.clock.shift(trained["night"], -self.spec.labels.delay)
        there = [key for key in keys if key <= known or key in scored]
        return scored if len(there) >= rules.enough else []

    def streak(self, night: str) -> list[str]:
        """Return the nights before one whose findings the policy looks at."""
        return self._before(night, self.spec.retraining.persist - 1, 1)

    def matured(self, night: str) -> list[str]:
        """Return the nights that performance is taken from: twice the window, so a lost one is no gap."""
        delay = self.spec.labels.delay
        pool = self._before(night, delay + 2 * self.spec.monitoring.window - 1, delay)
        known = {key: self.partition(REALISED, key) for key in self.published(REALISED, pool)}
        return [key for key, row in known.items() if row and json.loads(row["inputs"])["known"] <= night]

    def brings(self, scored: str) -> str:
        """Return the night that brings a scored night's labels; empty beyond the span."""
        place = self._place[scored] + self.spec.labels.delay
        return self.span[place] if place < len(self.span) else ""

    def inputs(self, night: str) -> dict[str, str]:
        """Return the digest of everything that a night's findings and decision depend on."""
        names = [("predictions", key) for key in sorted({*self.window(night), *self.past(night)})]
        names += [(source, night) for source in self.spec.sources]
        for scored in self.matured(night):
            names += [("predictions", scored), (REALISED, scored)]
            names += [(self.spec.labels.source, self.brings(scored))]
        names += [(PRODUCT, earlier) for earlier in self.streak(night)]
        rows = {f"{product}/{key}": self.partition(product, key) for product, key in names}
        found = {name: row["digest"] or row["outcome"] for name, row in rows.items() if row is not None}
        champions = {f"champion/{key}": self.model(key) for key in (*self.streak(night), night)}
        if (trained := self.limits(night)) is not None:
            found[f"limits/{trained['night']}"] = trained["digest"]
        return found | {name: model for name, model in champions.items() if model}

    def stale(self, night: str) -> bool:
        """Tell whether a night was monitored on other inputs than there are now."""
        row = self.partition(PRODUCT, night)
        return row is not None and json.loads(row["inputs"]) != self.inputs(night)

    def _before(self, night: str, most: int, least: int) -> list[str]:
        """Return the nights from ``most`` to ``least`` before one, oldest first."""
        place = self._place[night]
        return self.span[max(place - most, 0) : max(place - least + 1, 0)]
