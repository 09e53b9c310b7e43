"""What a partition's findings depend on, and which later partitions a change of it reaches.

Partitions may come in any order, and two at once. So a partition's findings are a function of what is
published of it and of the partitions before it; the digests of all that are kept with them, and whoever
publishes an earlier partition makes again those later ones whose digests no longer fit. A partition done last
thus leaves what order would have left, but for what the champion lost further back than the span: see the
known limits.
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
    """What is published around a partition.

    Parameters
    ----------
    partition : the one that is monitored. What is read reaches as far ahead as its findings are looked at,
        and as far back as theirs look.

    Attributes
    ----------
    ever : of predictions, labels and realised performance, each product's published rows by partition, of
        every partition: labels may come, or change, long after.
    restated : the scored partitions whose labels became others, by the partition on which that was known.
    """

    def __init__(self, lake: Lake, spec: UseCase, partition: str) -> None:
        self.spec, self.partition = spec, partition
        width, delay = spec.monitoring.window, spec.labels.delay
        jumps = spec.monitoring.sudden_changes
        reach = max(delay + 2 * width, jumps.past + jumps.of)
        first = spec.clock.shift(partition, -max(spec.features.lookback, reach))
        self.span = spec.clock.keys(first, spec.clock.shift(partition, reach))
        self._place = {key: place for place, key in enumerate(self.span)}
        self.read(lake)

    def read(self, lake: Lake) -> None:
        """Read what there is now."""
        products = [*self.spec.sources, *_EVER, "drift", "estimates", "limits", PRODUCT]
        rows = lake.rows("partitions", {"product": products})  # once: it costs by the file
        self._partitions = {(row["product"], row["partition"]): row for row in rows}
        trained = [row for row in rows if row["product"] == "limits"]
        self._limits = sorted(trained, key=lambda row: str(row["partition"]))
        self._switches = ledger.switches(lake)
        self._champions = ledger.champions(self._switches)
        self.ever: dict[str, dict[str, Row]] = {name: {} for name in (*_EVER, self.spec.labels.source)}
        for row in rows:
            if row["product"] in self.ever and _is_there(row):
                self.ever[row["product"]][row["partition"]] = row
        self._realised = {key: json.loads(row["inputs"]) for key, row in self.ever[REALISED].items()}
        self.restated: dict[str, list[str]] = {}
        for key in sorted(self._realised):
            for known in self._realised[key].get("restated", []):
                self.restated.setdefault(known, []).append(key)

    def partition_row(self, product: str, partition: str) -> Row | None:
        """Return a product's row for a partition, if it has been attempted."""
        return self._partitions.get((product, partition))

    def published(self, product: str, partitions: Sequence[str]) -> list[str]:
        """Return those partitions that have a product, in order; of predictions, those with any."""
        rows = {partition: self.partition_row(product, partition) for partition in partitions}
        return [partition for partition, row in rows.items() if row is not None and _is_there(row)]

    def champion(self, partition: str) -> Row | None:
        """Return the switch by which a partition has its champion, None before there was one."""
        in_effect = [row for row in self._champions if row["effective"] <= partition]
        return in_effect[-1] if in_effect else None

    def vacancy(self, partition: str) -> str:
        """Return why no champion serves a partition, and what does instead; empty where one serves."""
        return ledger.vacancy(self._switches, partition)

    def model(self, partition: str) -> str:
        """Return the digest of the champion of a partition, empty before there was one."""
        row = self.champion(partition)
        return str(row["model"]) if row else ""

    @property
    def later(self) -> list[str]:
        """The partitions whose findings may depend on this one."""
        return self.span[self._place[self.partition] + 1 :]

    def window(self, partition: str) -> list[str]:
        """Return the scored partitions that are compared with the reference, up to the partition itself."""
        return self.published("predictions", self._before(partition, self.spec.monitoring.window - 1, 0))

    def limits(self, partition: str) -> Row | None:
        """Return the row of the limits that the last training before a partition published, if one did."""
        before = [row for row in self._limits if row["partition"] < partition]
        return before[-1] if before else None

    def past(self, partition: str) -> list[str]:
        """Return the scored partitions that a jump is judged on, up to the partition itself.

        None while too few.

        The partitions that the training knew need not have been scored.
        """
        rules, trained = self.spec.monitoring.sudden_changes, self.limits(partition)
        keys = self._before(partition, rules.past + rules.of - 1, 0)
        scored = self.published("predictions", keys)
        if trained is None or partition not in scored:
            return []
        known = self.spec.clock.shift(trained["partition"], -self.spec.labels.delay)
        there = [key for key in keys if key <= known or key in scored]
        return scored if len(there) >= rules.enough else []

    def lately(self, partition: str) -> list[str]:
        """Return the scored partitions whose values aren't new any more, as far back as jumps look.

        The newest before the partition aren't among them: what began with them is told for as long as a jump
        is.
        """
        rules = self.spec.monitoring.sudden_changes
        return self.published("predictions", self._before(partition, rules.past + rules.of - 1, rules.of))

    def matured(self, partition: str) -> list[str]:
        """Return the partitions that performance is taken from: twice the window, so a lost one is no gap."""
        return [
            key for key in self.pool(partition) if key in self._realised and self.known(key)[0] <= partition
        ]

    def pool(self, partition: str) -> list[str]:
        """Return the scored partitions among the last whose labels are due: twice the window."""
        delay, width = self.spec.labels.delay, self.spec.monitoring.window
        return self.published("predictions", self._before(partition, delay + 2 * width - 1, delay))

    def known(self, scored: str) -> list[str]:
        """Return the partitions on which a scored partition's labels were first known, and then others."""
        made = self._realised[scored]
        return [made["known"], *made.get("restated", [])]

    def early(self, scored: str) -> int:
        """Return how many labels were known before a scored partition's decision."""
        return int(self._realised[scored].get("early", 0))

    def brings(self, scored: str) -> str:
        """Return the partition that brings a scored partition's labels; empty beyond the span."""
        place = self._place[scored] + self.spec.labels.delay
        return self.span[place] if place < len(self.span) else ""

    def inputs(self, partition: str) -> dict[str, str]:
        """Return the digest of everything that a partition's findings depend on."""
        names = [
            ("predictions", key)
            for key in sorted(
                {partition, *self.window(partition), *self.past(partition), *self.lately(partition)}
            )
        ]
        names += [(source, partition) for source in self.spec.sources]
        names += [("predictions", scored) for scored in self.pool(partition)]
        for scored in self.matured(partition):
            names += [(REALISED, scored), (self.spec.labels.source, self.brings(scored))]
        rows = {f"{product}/{key}": self.partition_row(product, key) for product, key in names}
        found = {name: row["digest"] or row["outcome"] for name, row in rows.items() if row is not None}
        if lost := self._lost(partition):
            found[LOSSES] = digest_json(lost)
        again = [key for key in self.restated.get(partition, ()) if f"{REALISED}/{key}" not in found]
        found |= {f"{REALISED}/{key}": self.ever[REALISED][key]["digest"] for key in again}
        trained, champion = self.limits(partition), self.champion(partition)
        asked = {trained and trained["partition"], champion and champion["evidence"]}
        found |= {
            f"limits/{row['partition']}": row["digest"] for row in self._limits if row["partition"] in asked
        }
        if trained and (model := json.loads(trained["inputs"]).get("model")):
            found["limits"] = model  # of several models of that partition the one trained last
        return found | ({f"champion/{partition}": str(champion["model"])} if champion else {})

    def _lost(self, partition: str) -> list[list[str]]:
        """Return the digests of what a partition's champion has lost on its partitions.

        As far as known by then.
        """
        champion = self.champion(partition)
        first = str(champion["effective"]) if champion else "~"
        rows = self.ever[LOSSES]
        of = [key for key in sorted(self._realised) if first <= key <= partition and key in rows]
        return [[key, rows[key]["digest"]] for key in of if self.known(key)[0] <= partition]

    def stale(self, partition: str) -> bool:
        """Tell whether a partition was monitored on other inputs than there are now."""
        row = self.partition_row(PRODUCT, partition)
        return row is not None and json.loads(row["inputs"]) != self.inputs(partition)

    def _before(self, partition: str, most: int, least: int) -> list[str]:
        """Return the partitions from ``most`` to ``least`` before one, oldest first."""
        place = self._place[partition]
        return self.span[max(place - most, 0) : max(place - least + 1, 0)]


def _is_there(row: Row) -> bool:
    """Tell whether a product is published.

    A partition without rows to score has no predictions to look at.
    """
    return bool(row["outcome"] == "published" and (row["rows"] or row["product"] != "predictions"))
