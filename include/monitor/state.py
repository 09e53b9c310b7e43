"""What is published around a partition: the inputs of its findings, and the later partitions they affect.

Partitions may be monitored in any order, and two at once. A partition's findings are therefore a pure
function of what is published for it and for the partitions before it. The digests of these inputs are stored
with the findings. Publishing an earlier partition runs the later ones again whose digests changed. So any
order leads to the same tables, except for champion losses further back than the span: see the known limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from include.judge.judge import NOT_BLESSED
from include.monitor.losses import LOSSES
from include.promote import ledger, verdicts
from include.references import digest_json
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake, Row, Where
from include.storage.windows import key_before, partitions_with_rows

PRODUCT = "monitor"
PERFORMANCE = "performance"
_WHOLE_HISTORY = ("predictions", PERFORMANCE, LOSSES)  # products that are read over all partitions


class PublishedState:
    """What is published around a partition.

    Parameters
    ----------
    partition : the one that is monitored. The span has each later partition whose findings use this one, and
        each earlier one that those findings read.

    Attributes
    ----------
    published_digests : digests by product and partition, of predictions, labels, losses and realized
        performance. They cover every partition, since labels may arrive or change much later.
    realized_inputs : by partition, the inputs of its realized performance, for every partition.
    relabeled : the scored partitions whose labels were revised, by the partition on which that was known.
    """

    def __init__(self, lake: Lake, spec: UseCase, partition: str) -> None:
        self.spec, self.partition = spec, partition
        width, delay = spec.monitoring.window, spec.labels.delay
        rules = spec.monitoring.sudden_changes
        reach = max(delay + 2 * width, rules.past + rules.of)
        first = spec.clock.shift(partition, -max(spec.features.lookback, reach))
        last = spec.clock.shift(partition, reach)
        if spec.sparse:
            keys = partitions_with_rows(lake, spec)
            first = min(first, key_before(keys, partition, reach))
            later = [key for key in keys if key > partition]
            last = spec.clock.shift((later[:reach] or [partition])[-1], reach)
        self.span = spec.clock.keys(first, last)
        self._index = {key: index for index, key in enumerate(self.span)}
        self._version = -1  # of `partitions`, when it was read
        self.refresh(lake)

    def refresh(self, lake: Lake, own: Sequence[Row] = ()) -> bool:
        """Read again what is published now; return whether others may have published since.

        Parameters
        ----------
        own : rows of `partitions` that this run has published, in one commit. If no other commit came since
            the last refresh, only they are taken over.
        """
        version = lake.version("partitions")
        alone = bool(own) and version == self._version + 1
        if alone:
            rows = pa.Table.from_pylist(list(own), schemas.PARTITIONS).to_pylist()
            self._partitions |= {
                (row["product"], row["partition"]): row for row in rows if row["partition"] in self._index
            }
            self._add_history(rows)
        else:
            self._read_all(lake, version)
        self._version = version
        self._switches = ledger.switches(lake)
        self._champions = ledger.champions(self._switches)
        columns = ["partition", "recorded", "key", "verdict", "checks"]
        self._attempts = lake.rows("attempts", {"partition": self.span}, columns)
        self._counted = self.span  # the partitions that windows count
        if self.spec.sparse:
            spine = self.spec.features.spine
            self._counted = sorted(
                key
                for (product, key), row in self._partitions.items()
                if product == spine and row["outcome"] == "published" and row["rows"]
            )
        self.relabeled: dict[str, list[str]] = {}
        for key in sorted(self.realized_inputs):
            for as_of in self.realized_inputs[key].get("revised_on", []):
                self.relabeled.setdefault(as_of, []).append(key)
        return not alone

    def _read_all(self, lake: Lake, version: int) -> None:
        """Read the rows of `partitions` as of a version."""
        around = {
            "product": [*self.spec.sources, *_WHOLE_HISTORY, "drift", "estimates", PRODUCT],
            "partition": self.span,
        }
        self._partitions = {
            (row["product"], row["partition"]): row for row in _rows(lake, version, around).to_pylist()
        }
        limits = _rows(lake, version, {"product": "limits"}).to_pylist()
        self._limits: list[Row] = sorted(limits, key=lambda row: str(row["partition"]))
        self.published_digests: dict[str, dict[str, str]] = {
            name: {} for name in (*_WHOLE_HISTORY, self.spec.labels.source)
        }
        self.realized_inputs: dict[str, dict[str, Any]] = {}
        names = ("product", "partition", "digest", "rows", "inputs")
        where: Where = {"product": list(self.published_digests), "outcome": "published"}
        self._add_history(_rows(lake, version, where, names).to_pylist())

    def _add_history(self, rows: Iterable[Row]) -> None:
        """Take over the digests of published rows of `partitions`."""
        for row in rows:
            product, key = row["product"], row["partition"]
            if product not in self.published_digests:
                continue
            if row["rows"] or product != "predictions":
                # a correction without rows leaves the digest of those that it replaced
                withdrawn = product == self.spec.labels.source and not row["rows"]
                self.published_digests[product][key] = "" if withdrawn else row["digest"]
            if product == PERFORMANCE:
                self.realized_inputs[key] = json.loads(row["inputs"])

    def partition_row(self, product: str, partition: str) -> Row | None:
        """Return a product's row of `partitions`, None if it was never attempted."""
        return self._partitions.get((product, partition))

    def published(self, product: str, partitions: Sequence[str]) -> list[str]:
        """Return the partitions that have a product published, in order; of predictions, those with rows."""
        rows = {partition: self.partition_row(product, partition) for partition in partitions}
        return [partition for partition, row in rows.items() if row is not None and _is_published(row)]

    def champion(self, partition: str) -> Row | None:
        """Return the ledger's switch that gave a partition its champion, None before the first promotion."""
        return ledger.live_champion(ledger.in_effect(self._champions, partition))

    def recipe_switches(self, partition: str) -> list[Row]:
        """Return the switch by which a partition's recipe came into service, and its refreshes since then."""
        champions: list[Row] = []
        for row in ledger.in_effect(self._champions, partition):
            champions = [*champions, row] if row["kind"] == ledger.REFRESHED else [row]
        return champions

    def baseline(self, partition: str) -> Row | None:
        """Return the switch that gave a partition its deployed baseline, None if it has none."""
        return ledger.serving_of(self._switches, partition).baseline

    def why_no_champion(self, partition: str) -> str:
        """Return why no champion serves a partition, and what serves instead; empty if one serves."""
        return ledger.why_no_champion(self._switches, partition)

    @property
    def later(self) -> list[str]:
        """The partitions whose findings may depend on this one."""
        return self.span[self._index[self.partition] + 1 :]

    def refused_leak(self, partition: str) -> Row | None:
        """Return the window's newest attempt before a partition, if it was refused for a leak."""
        first = min(self._before(partition, self.spec.monitoring.window, 0))
        attempts = [row for row in self._attempts if first <= row["partition"] < partition]
        newest = max(attempts, key=lambda row: (row["partition"], row["recorded"]), default=None)
        if newest and newest["verdict"] == NOT_BLESSED and verdicts.failed_leakage_checks(newest["checks"]):
            return newest
        return None

    def window(self, partition: str) -> list[str]:
        """Return the scored partitions that are compared with the reference, up to the partition itself."""
        return self.published("predictions", self._before(partition, self.spec.monitoring.window - 1, 0))

    def sudden_change_limits(self, partition: str) -> Row | None:
        """Return the row of `partitions` of the limits that the last training before a partition set."""
        before = [row for row in self._limits if row["partition"] < partition]
        return before[-1] if before else None

    def sudden_change_partitions(self, partition: str) -> list[str]:
        """Return the scored partitions on which a sudden change is judged, up to the partition itself.

        Empty while there are too few. Partitions that the training counted need not have been scored.
        """
        rules, training = self.spec.monitoring.sudden_changes, self.sudden_change_limits(partition)
        keys = self._before(partition, rules.past + rules.of - 1, 0)
        scored = self.published("predictions", keys)
        if training is None or partition not in scored:
            return []
        last_counted = self.spec.clock.shift(training["partition"], -self.spec.labels.delay)
        available = [key for key in keys if key <= last_counted or key in scored]
        return scored if len(available) >= rules.enough else []

    def familiar_partitions(self, partition: str) -> list[str]:
        """Return the scored partitions whose values count as familiar, as far back as sudden changes look.

        The newest ones before the partition don't count, so that values that began with them stay an alarm
        for as long as a sudden change does.
        """
        rules = self.spec.monitoring.sudden_changes
        return self.published("predictions", self._before(partition, rules.past + rules.of - 1, rules.of))

    def matured(self, partition: str) -> list[str]:
        """Return the partitions with due labels whose labels are known by a partition."""
        return [
            key
            for key in self.labels_due(partition)
            if key in self.realized_inputs and self.labels_known_on(key)[0] <= partition
        ]

    def labels_due(self, partition: str) -> list[str]:
        """Return the newest scored partitions whose labels are due.

        Twice the window, so that a partition without labels leaves no gap.
        """
        delay, width = self.spec.labels.delay, self.spec.monitoring.window
        keys = self._before(partition, delay + 2 * width - 1, delay)
        if self.spec.sparse:
            last = self.spec.clock.shift(partition, -delay)
            keys = [key for key in self._counted if key <= last][-2 * width :]
        scored, products = self.published("predictions", keys), self._partitions
        if not self.spec.sources[self.spec.labels.source].sparse:
            return scored
        # of a sparse source, rows whose labels are due on a partition without labels never get one
        return [key for key in scored if not without_labels(self.spec, products, self.labels_due_on(key))]

    def labels_known_on(self, scored: str) -> list[str]:
        """Return the partition on which a scored partition's labels were first known, and its revisions."""
        inputs = self.realized_inputs[scored]
        return [inputs["known"], *inputs.get("revised_on", [])]

    def early_labels(self, scored: str) -> int:
        """Return how many labels were known before a scored partition's decision."""
        return int(self.realized_inputs[scored].get("early", 0))

    def labels_due_on(self, scored: str) -> str:
        """Return the partition on which a scored partition's labels are due; empty beyond the span."""
        index = self._index[scored] + self.spec.labels.delay
        return self.span[index] if index < len(self.span) else ""

    def inputs(self, partition: str) -> dict[str, str]:
        """Return the digest of everything that a partition's findings depend on."""
        names = [
            ("predictions", key)
            for key in sorted(
                {
                    partition,
                    *self.window(partition),
                    *self.sudden_change_partitions(partition),
                    *self.familiar_partitions(partition),
                }
            )
        ]
        names += [(source, partition) for source in self.spec.sources]
        names += [("predictions", scored) for scored in self.labels_due(partition)]
        for scored in self.matured(partition):
            names += [(PERFORMANCE, scored), (self.spec.labels.source, self.labels_due_on(scored))]
        rows = {f"{product}/{key}": self.partition_row(product, key) for product, key in names}
        inputs = {name: row["digest"] or row["outcome"] for name, row in rows.items() if row is not None}
        if losses := self._champion_losses(partition):
            inputs[LOSSES] = digest_json(losses)
        realized = self.published_digests[PERFORMANCE]
        for key in self.relabeled.get(partition, ()):
            inputs.setdefault(f"{PERFORMANCE}/{key}", realized[key])
        if leak := self.refused_leak(partition):
            inputs["leak"] = leak["key"]
        training, champion = self.sudden_change_limits(partition), self.champion(partition)
        trained_on = {training and training["partition"], champion and champion["judged_on"]}
        for row in self._limits:
            if row["partition"] in trained_on:
                inputs[f"limits/{row['partition']}"] = row["digest"]
        if training and (model := json.loads(training["inputs"]).get("model")):
            inputs["limits"] = model  # if several models were trained for that partition, the last one
        return inputs | ({f"champion/{partition}": str(champion["model"])} if champion else {})

    def _champion_losses(self, partition: str) -> list[list[str]]:
        """Return partition and digest of the champions' losses, as far as known on a partition."""
        champions, digests = self.recipe_switches(partition), self.published_digests[LOSSES]
        first = str(champions[0]["effective_from"]) if champions else "~"
        keys = [key for key in sorted(self.realized_inputs) if first <= key <= partition and key in digests]
        return [[key, digests[key]] for key in keys if self.labels_known_on(key)[0] <= partition]

    def stale(self, partition: str) -> bool:
        """Return whether a partition was monitored on inputs that have changed since."""
        row = self.partition_row(PRODUCT, partition)
        return row is not None and json.loads(row["inputs"]) != self.inputs(partition)

    def _before(self, partition: str, first: int, last: int) -> list[str]:
        """Return the partitions from ``first`` to ``last`` places before one, oldest first.

        Of a sparse spine only those with rows count, and the partition itself.
        """
        keys, index = self.span, self._index[partition]
        if self.spec.sparse:
            keys = sorted({*self._counted, partition})
            index = keys.index(partition)
        return keys[max(index - first, 0) : max(index - last + 1, 0)]


def without_labels(spec: UseCase, products: Mapping[tuple[str, str], Row], due: str) -> bool:
    """Return whether a partition of the labels' source was published without rows, as on a holiday.

    Parameters
    ----------
    products : rows of `partitions` by product and partition.
    """
    row = products.get((spec.labels.source, due))
    return row is not None and row["outcome"] == "published" and not row["rows"]


def _rows(lake: Lake, version: int, where: Where, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows of `partitions` as of a version, none if the table doesn't exist."""
    rows = lake.read("partitions", where, columns, version) if version >= 0 else None
    return schemas.PARTITIONS.empty_table() if rows is None else rows


def _is_published(row: Row) -> bool:
    """Return whether a product is published; predictions without rows don't count."""
    return bool(row["outcome"] == "published" and (row["rows"] or row["product"] != "predictions"))
