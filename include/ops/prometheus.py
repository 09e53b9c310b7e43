"""The gauges that Prometheus scrapes, computed from the lake's tables and written in its text format.

A use case's gauges are recomputed only after a table or the declaration has changed. Scraping only reads, so
it can't make a partition fail.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import get_args

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from include.errors import EvergreenError
from include.monitor.performance import CONSTANT_PREFIX
from include.monitor.policy import Act
from include.promote import ledger
from include.spec import UseCase, load
from include.spec.stages import STEPS
from include.storage import queries
from include.storage.lake import Lake, Row, Where, newest_known
from include.storage.store_errors import translate_store_errors

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Sample:
    """A gauge's value for one set of labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def exposition_text(samples: Iterable[Sample], help_texts: Mapping[str, str]) -> str:
    """Return the samples in Prometheus' text format, grouped by gauge, in the order of ``help_texts``.

    Parameters
    ----------
    help_texts : the meaning of each gauge, by its name.
    """
    families = {name: GaugeMetricFamily(name, text) for name, text in help_texts.items()}
    for sample in samples:
        families[sample.name].add_sample(sample.name, dict(sample.labels), sample.value)
    registry = CollectorRegistry()
    registry.register(_Families([family for family in families.values() if family.samples]))
    return generate_latest(registry).decode()


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self.families = families

    def collect(self) -> Sequence[Metric]:
        return self.families


TABLES = (
    "partitions", "findings", "performance", "losses", "estimates", "predictions", "decisions", "switches"
)  # fmt: skip
PRODUCTS = ("predictions", "performance", "monitor")  # besides the sources
# before a product's newest partition that are searched first for its newest published one
LOOKBACK_DAYS = 31
OUTCOMES = ("published", "refused", "unavailable")
DECISIONS = get_args(Act)
Rows = list[Row]

HELP = {
    "evergreen_readable": "Whether the declaration and the lake could be read.",
    "evergreen_partition_timestamp_seconds": (
        "Deadline of the predictions of a product's newest published partition."
    ),
    "evergreen_next_partition_timestamp_seconds": (
        "Deadline of the predictions of the next partition that isn't predicted yet."
    ),
    "evergreen_partition": "1 for the outcome of a product's newest partition, 0 for the other outcomes.",
    "evergreen_rows": "Rows of a product's newest partition.",
    "evergreen_quarantined_share": "Share of the rows of a source's newest partition that were quarantined.",
    "evergreen_alarm": "1 if a check of the newest monitored partition alarms, else 0.",
    "evergreen_value": ("The value that a check of the newest monitored partition compares with its limit."),
    "evergreen_limit": "The limit from which that check alarms.",
    "evergreen_performance": (
        "A realized metric of the newest partition with labels, and that of a constant on the same rows."
    ),
    "evergreen_performance_partition_timestamp_seconds": "Deadline of that partition's predictions.",
    "evergreen_estimated_performance": ("The estimate of a metric of the newest partition, without labels."),
    "evergreen_estimated_performance_error": "Root mean square error of such estimates, by realized metrics.",
    "evergreen_estimated_performance_partition_timestamp_seconds": "Deadline of its predictions.",
    "evergreen_requirement": "The bound that is required of a realized metric, at_least or at_most.",
    "evergreen_loss": "The objective's mean loss on the newest partition with labels.",
    "evergreen_served_by_share": "Share of the newest partition's predictions that a fallback step served.",
    "evergreen_champion_timestamp_seconds": "The first partition that the champion may serve.",
    "evergreen_champion_evidence_timestamp_seconds": "The partition of the verdict on the champion.",
    "evergreen_decision": "1 for the decision of the newest partition, 0 for the others.",
}


def gauges(lake: Lake, spec: UseCase) -> Iterator[Sample]:
    """Yield the gauges of the newest partitions, labeled by use case."""
    groups = (_products, _findings, _performance, _losses, _estimates, _served, _champion, _decision)
    for group in groups:
        for name, labels, value in group(lake, spec):
            if value is not None:
                yield Sample(name, {"usecase": spec.name, **labels}, float(value))
    for rule in spec.monitoring.requirements:
        for bound in ("at_least", "at_most"):
            if (limit := getattr(rule, bound)) is not None:
                labels = {"usecase": spec.name, "metric": rule.metric, "bound": bound}
                yield Sample("evergreen_requirement", labels, limit)


Values = Iterator[tuple[str, dict[str, str], float | None]]  # a gauge, its labels, its value


def _products(lake: Lake, spec: UseCase) -> Values:
    newest = _newest_by_product(lake, [*spec.sources, *PRODUCTS])
    columns = ["product", "partition", "outcome", "rows", "quarantined"]
    partitions = {key for last in newest.values() for key in _until(spec, last)}
    where: Where = {"product": [*newest], "partition": sorted(partitions)}
    rows = lake.rows("partitions", where, columns, order=["partition"])
    last = {row["product"]: row for row in rows}
    published = {row["product"]: row["partition"] for row in rows if row["outcome"] == "published"}
    if older := [product for product in newest if product not in published]:  # refused all that time
        where = {"product": older, "outcome": "published"}
        rows = lake.rows("partitions", where, columns, order=["partition"])
        published |= {row["product"]: row["partition"] for row in rows}
    for product, partition in sorted(published.items()):
        yield "evergreen_partition_timestamp_seconds", {"product": product}, _time(spec, partition)
    if "predictions" in published:
        yield "evergreen_next_partition_timestamp_seconds", {}, _due(spec, published["predictions"])
    for product, row in sorted(last.items()):
        for outcome in OUTCOMES:
            labels = {"product": product, "outcome": outcome}
            yield "evergreen_partition", labels, row["outcome"] == outcome
        yield "evergreen_rows", {"product": product}, row["rows"]
        total = (row["rows"] or 0) + (row["quarantined"] or 0)
        if product in spec.sources and total:
            yield "evergreen_quarantined_share", {"source": product}, (row["quarantined"] or 0) / total


def _findings(lake: Lake, spec: UseCase) -> Values:
    for row in _of_newest(lake, "findings"):
        labels = {"check": row["check"], "subject": row["subject"]}
        if row["outcome"] != "not enough":
            yield "evergreen_alarm", labels, row["outcome"] == "alarm"
        yield "evergreen_value", labels, row["value"]
        yield "evergreen_limit", labels, row["threshold"]


def _performance(lake: Lake, spec: UseCase) -> Values:
    rows = _of_newest(lake, "performance")
    for name, row in newest_known(rows, "metric").items():
        metric = name.removeprefix(CONSTANT_PREFIX)
        model = "served" if metric == name else "constant"
        yield "evergreen_performance", {"metric": metric, "of": model}, row["value"]
    if rows:
        yield "evergreen_performance_partition_timestamp_seconds", {}, _time(spec, rows[0]["partition"])


def _losses(lake: Lake, spec: UseCase) -> Values:
    newest = list(newest_known(_of_newest(lake, "losses"), "model").values())
    count = sum(row["rows"] for row in newest)
    for model, column in (("served", "loss"), ("baseline", "baseline"), ("expected", "expected")):
        sums = [row[column] for row in newest]
        if count and None not in sums:
            yield "evergreen_loss", {"metric": spec.gate.objective, "of": model}, sum(sums) / count


def _estimates(lake: Lake, spec: UseCase) -> Values:
    rows = [row for row in _of_newest(lake, "estimates") if row["value"] is not None]
    for row in rows:
        yield "evergreen_estimated_performance", {"metric": row["metric"]}, row["value"]
        yield "evergreen_estimated_performance_error", {"metric": row["metric"]}, row["error"]
    if rows:
        yield (
            "evergreen_estimated_performance_partition_timestamp_seconds",
            {},
            _time(spec, rows[0]["partition"]),
        )


def _served(lake: Lake, spec: UseCase) -> Values:
    counts = Counter(row["served_by"] for row in _of_newest(lake, "predictions", ["partition", "served_by"]))
    for step in STEPS if counts else ():
        yield "evergreen_served_by_share", {"served_by": step}, counts[step] / counts.total()


def _champion(lake: Lake, spec: UseCase) -> Values:
    champions = ledger.champion_history(ledger.switches(lake))
    for row in champions[-1:]:
        labels = {"version": str(row["version"]), "kind": str(row["kind"])}
        yield "evergreen_champion_timestamp_seconds", labels, _time(spec, row["effective_from"])
        yield "evergreen_champion_evidence_timestamp_seconds", {}, _time(spec, row["judged_on"])


def _decision(lake: Lake, spec: UseCase) -> Values:
    for row in _of_newest(lake, "decisions", ["partition", "decision"]):
        for decision in DECISIONS:
            yield "evergreen_decision", {"decision": decision}, row["decision"] == decision


@translate_store_errors
def _newest_by_product(lake: Lake, products: Sequence[str]) -> dict[str, str]:
    """Return each product's newest partition, from the table's log alone."""
    opened = lake.open("partitions")
    newest: dict[str, str] = {}
    for file in () if opened is None else queries.list_files(opened):
        if (product := file["partition.product"]) in products and file["max.partition"]:
            newest[product] = max(newest.get(product, ""), str(file["max.partition"]))
    return newest


@translate_store_errors
def newest_partition(lake: Lake, table: str) -> str:
    """Return a table's newest partition, from its log alone; "" for an empty table."""
    opened = lake.open(table)
    partitions = [] if opened is None else [file["max.partition"] for file in queries.list_files(opened)]
    return max((str(partition) for partition in partitions if partition), default="")


def _of_newest(lake: Lake, table: str, columns: Sequence[str] | None = None) -> Rows:
    """Return the rows of a table's newest partition."""
    partition = newest_partition(lake, table)
    return lake.rows(table, {"partition": partition}, columns) if partition else []


def _time(spec: UseCase, partition: str | None) -> float | None:
    """Return the deadline of a partition's predictions, in seconds since 1970."""
    # not its decision time: an old partition may not be on the schedule as it is declared now
    return spec.clock.local(partition, spec.scoring.deadline).timestamp() if partition else None


def _until(spec: UseCase, partition: str) -> list[str]:
    """Return the keys up to a partition among which its product's newest published one is searched first."""
    day = spec.clock.date_of(partition)
    if spec.clock.sub_daily:
        return [*spec.clock.keys((day - timedelta(days=1)).isoformat(), partition), partition]
    # all dates: an old partition may not be on the schedule as it is declared now
    return [(day - timedelta(days=ago)).isoformat() for ago in range(LOOKBACK_DAYS)]


def _due(spec: UseCase, partition: str) -> float | None:
    following = spec.clock.after(partition)
    return None if spec.end is not None and following > spec.end else _time(spec, following)


log = logging.getLogger(__name__)
Stamp = tuple[UseCase, tuple[int, ...]]
_cache: dict[str, tuple[Lake, Stamp, list[Sample]]] = {}  # by the lake's address


def scrape(usecase: str) -> list[Sample]:
    """Return the gauges of a use case; if it can't be read, only that, and the log has the reason."""
    labels = {"usecase": usecase}
    try:
        samples = _current(load(usecase))
    except EvergreenError as error:
        log.warning("%s has no metrics: %s", usecase, error)
    except Exception:  # an error in one use case must not affect the others
        log.exception("%s has no metrics", usecase)
    else:
        return [Sample("evergreen_readable", labels, 1.0), *samples]
    return [Sample("evergreen_readable", labels, 0.0)]


def _current(spec: UseCase) -> list[Sample]:
    """Return the cached gauges, or compute them if the declaration or a table has changed."""
    lake = Lake(spec.name)
    lake, cached_stamp, samples = _cache.get(lake.uri, (lake, None, []))  # its tables are open already
    # the versions first: a commit while the gauges are read is picked up by the next scrape
    stamp = spec, tuple(lake.version(table) for table in TABLES)
    if stamp != cached_stamp:
        samples = list(gauges(lake, spec))
        _cache[lake.uri] = lake, stamp, samples
    return samples
