"""What a night's findings depend on, and which later nights a change of it reaches.

Nights may come in any order, and two at once. So a night's findings are a function of what is published of
it and of the nights before it; the digests of all that are kept with them, and whoever publishes an earlier
night makes again those later ones whose digests no longer fit. A night done last thus leaves what order
would have left, but for what the champion lost further back than the span: see the known limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from include.monitor.losses import LOSSES
from include.promote import ledger
from include.references import digest_json
from include.spec import UseCase
from include.storage.lake import Lake

Row = Mapping[str, Any]
PRODUCT = "monitor"
REALISED = "performance"
_EVER = ("predictions", REALISED, LOSSES)


class State:
    """What is published around a night.

    Parameters
    ----------
    night : the one that is monitored. What is read reaches as far ahead as its findings are looked at, and as
        far back as theirs look.

    Attributes
    ----------
    ever : of predictions, labels and realised performance, each product's published rows by night, of every
        night: labels may come, or change, long after.
    restated : the scored nights whose labels became others, by the night on which that was known.
    """

    def __init__(self, lake: Lake, spec: UseCase, night: str) -> None:
        self.spec, self.night = spec, night
        width, delay = spec.monitoring.window, spec.labels.delay
        jumps = spec.monitoring.jumps
        reach = max(delay + 2 * width, jumps.past + jumps.of)
        first = spec.clock.shift(night, -max(spec.features.lookback, reach))
        self.span = spec.clock.keys(first, spec.clock.shift(night, reach))
        self._place = {key: place for place, key in enumerate(self.span)}
        self.read(lake)

    def read(self, lake: Lake) -> None:
        """Read what there is now."""
        products = [*self.spec.sources, *_EVER, "drift", "estimates", "limits", PRODUCT]
        rows = lake.rows("partitions", {"product": products})  # once: it costs by the file
        self._partitions = {(row["product"], row["night"]): row for row in rows}
        trained = [row for row in rows if row["product"] == "limits"]
        self._limits = sorted(trained, key=lambda row: str(row["night"]))
        self._switches = ledger.switches(lake)
        self._champions = ledger.champions(self._switches)
        self.ever: dict[str, dict[str, Row]] = {name: {} for name in (*_EVER, self.spec.labels.source)}
        for row in rows:
            if row["product"] in self.ever and _is_there(row):
                self.ever[row["product"]][row["night"]] = row
        self._realised = {key: json.loads(row["inputs"]) for key, row in self.ever[REALISED].items()}
        self.restated: dict[str, list[str]] = {}
        for key in sorted(self._realised):
            for known in self._realised[key].get("restated", []):
                self.restated.setdefault(known, []).append(key)

    def partition_row(self, product: str, night: str) -> Row | None:
        """Return a product's row for a night, if it has been attempted."""
        return self._partitions.get((product, night))

    def published(self, product: str, nights: Sequence[str]) -> list[str]:
        """Return those nights that have a product, in order; of predictions, those with any."""
        rows = {night: self.partition_row(product, night) for night in nights}
        return [night for night, row in rows.items() if row is not None and _is_there(row)]

    def champion(self, night: str) -> Row | None:
        """Return the switch by which a night has its champion, None before there was one."""
        in_effect = [row for row in self._champions if row["effective"] <= night]
        return in_effect[-1] if in_effect else None

    def vacancy(self, night: str) -> str:
        """Return why no champion serves a night, and what does instead; empty where one serves."""
        return ledger.vacancy(self._switches, night)

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
        rules, trained = self.spec.monitoring.jumps, self.limits(night)
        keys = self._before(night, rules.past + rules.of - 1, 0)
        scored = self.published("predictions", keys)
        if trained is None or night not in scored:
            return []
        known = self.spec.clock.shift(trained["night"], -self.spec.labels.delay)
        there = [key for key in keys if key <= known or key in scored]
        return scored if len(there) >= rules.enough else []

    def lately(self, night: str) -> list[str]:
        """Return the scored nights whose values aren't new any more, as far back as jumps look.

        The newest before the night aren't among them: what began with them is told for as long as a jump is.
        """
        rules = self.spec.monitoring.jumps
        return self.published("predictions", self._before(night, rules.past + rules.of - 1, rules.of))

    def matured(self, night: str) -> list[str]:
        """Return the nights that performance is taken from: twice the window, so a lost one is no gap."""
        return [key for key in self.pool(night) if key in self._realised and self.known(key)[0] <= night]

    def pool(self, night: str) -> list[str]:
        """Return the scored nights among the last whose labels are due: twice the window."""
        delay, width = self.spec.labels.delay, self.spec.monitoring.window
        return self.published("predictions", self._before(night, delay + 2 * width - 1, delay))

    def known(self, scored: str) -> list[str]:
        """Return the nights on which a scored night's labels were first known, and then others."""
        made = self._realised[scored]
        return [made["known"], *made.get("restated", [])]

    def early(self, scored: str) -> int:
        """Return how many labels were known before a scored night's decision."""
        return int(self._realised[scored].get("early", 0))

    def brings(self, scored: str) -> str:
        """Return the night that brings a scored night's labels; empty beyond the span."""
        place = self._place[scored] + self.spec.labels.delay
        return self.span[place] if place < len(self.span) else ""

    def inputs(self, night: str) -> dict[str, str]:
        """Return the digest of everything that a night's findings depend on."""
        names = [
            ("predictions", key)
            for key in sorted({night, *self.window(night), *self.past(night), *self.lately(night)})
        ]
        names += [(source, night) for source in self.spec.sources]
        names += [("predictions", scored) for scored in self.pool(night)]
        for scored in self.matured(night):
            names += [(REALISED, scored), (self.spec.labels.source, self.brings(scored))]
        rows = {f"{product}/{key}": self.partition_row(product, key) for product, key in names}
        found = {name: row["digest"] or row["outcome"] for name, row in rows.items() if row is not None}
        if lost := self._lost(night):
            found[LOSSES] = digest_json(lost)
        again = [key for key in self.restated.get(night, ()) if f"{REALISED}/{key}" not in found]
        found |= {f"{REALISED}/{key}": self.ever[REALISED][key]["digest"] for key in again}
        trained, champion = self.limits(night), self.champion(night)
        asked = {trained and trained["night"], champion and champion["evidence"]}
        found |= {f"limits/{row['night']}": row["digest"] for row in self._limits if row["night"] in asked}
        if trained and (model := json.loads(trained["inputs"]).get("model")):
            found["limits"] = model  # of several models of that night the one trained last
        return found | ({f"champion/{night}": str(champion["model"])} if champion else {})

    def _lost(self, night: str) -> list[list[str]]:
        """Return the digests of what a night's champion has lost on its nights, as far as known by then."""
        champion = self.champion(night)
        first = str(champion["effective"]) if champion else "~"
        rows = self.ever[LOSSES]
        of = [key for key in sorted(self._realised) if first <= key <= night and key in rows]
        return [[key, rows[key]["digest"]] for key in of if self.known(key)[0] <= night]

    def stale(self, night: str) -> bool:
        """Tell whether a night was monitored on other inputs than there are now."""
        row = self.partition_row(PRODUCT, night)
        return row is not None and json.loads(row["inputs"]) != self.inputs(night)

    def _before(self, night: str, most: int, least: int) -> list[str]:
        """Return the nights from ``most`` to ``least`` before one, oldest first."""
        place = self._place[night]
        return self.span[max(place - most, 0) : max(place - least + 1, 0)]


def _is_there(row: Row) -> bool:
    """Tell whether a product is published; a night without rows to score has no predictions to look at."""
    return bool(row["outcome"] == "published" and (row["rows"] or row["product"] != "predictions"))
