"""What is scraped of a use case: its gauges, computed again only where a table or the declaration changed.

Nothing is written and no partition waits for it, so no partition can fail by it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, get_args

from include.errors import EvergreenError
from include.monitor.policy import Act
from include.promote import ledger
from include.spec import UseCase, load
from include.spec.clock import day_of
from include.storage import predicates
from include.storage.lake import Lake, Where
from include.storage.store_errors import translate_store_errors

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Sample:
    """A gauge's value for one set of labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def exposition_text(samples: Iterable[Sample], about: Mapping[str, str]) -> str:
    """Return the samples as one page, the lines of a gauge together, in the order of ``about``.

    Parameters
    ----------
    about : what each gauge means, by its name.
    """
    lines: dict[str, list[str]] = {name: [] for name in about}
    for one in samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in one.labels.items())
        lines[one.name].append(f"{one.name}{{{labels}}} {one.value!r}")  # nan and inf are read as well
    heads = {name: [f"# HELP {name} {said}", f"# TYPE {name} gauge"] for name, said in about.items()}
    return "".join(f"{line}\n" for name, own in lines.items() if own for line in [*heads[name], *own])


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


READ = (
    "partitions", "findings", "performance", "losses", "estimates", "predictions", "decisions", "deployments"
)  # fmt: skip
MADE = ("predictions", "performance", "monitor")  # the products beside the sources
BACK = 31  # days before a product's newest partition in which its newest published one is looked for first
AHEAD = 400  # days in which the schedule fires again
OUTCOMES = ("published", "refused", "unavailable")
RUNGS = ("champion", "canary", "previous", "baseline", "prior")
DECISIONS = get_args(Act)
Rows = Sequence[Mapping[str, Any]]

ABOUT = {
    "evergreen_readable": "Whether the declaration and the lake could be read.",
    "evergreen_partition_timestamp_seconds": (
        "By when predictions of a product's newest published partition exist."
    ),
    "evergreen_next_partition_timestamp_seconds": (
        "By when those of the partition after the last predicted are due."
    ),
    "evergreen_partition": "1 of the outcome that a product's newest partition had, 0 of the others.",
    "evergreen_rows": "Rows of a product's newest partition.",
    "evergreen_quarantined_share": "Share of the rows that a source's newest partition set aside.",
    "evergreen_alarm": "1 where a check of the newest watched partition alarms, 0 where it is well.",
    "evergreen_value": (
        "The figure that a check of the newest watched partition found; of drift, its measure."
    ),
    "evergreen_limit": "Where the alarm of that check begins.",
    "evergreen_performance": (
        "A realised metric of the newest partition with labels; of the prior on its rows."
    ),
    "evergreen_performance_partition_timestamp_seconds": "By when its predictions existed.",
    "evergreen_estimated_performance": (
        "What a metric of the newest partition is expected to be, without labels."
    ),
    "evergreen_estimated_performance_error": "Root mean square of such estimates less what was realised.",
    "evergreen_estimated_performance_partition_timestamp_seconds": "By when its predictions existed.",
    "evergreen_requirement": "What is required of a realised metric, at least or at most.",
    "evergreen_loss": "The objective's loss a row on the newest partition with labels, by whom.",
    "evergreen_served_by_share": "Share of the newest partition's predictions by what served them.",
    "evergreen_champion_timestamp_seconds": "The first partition that the champion may serve.",
    "evergreen_champion_evidence_timestamp_seconds": "The partition of the champion's verdict.",
    "evergreen_decision": "1 of what the newest partition decided, 0 of the others.",
}


def gauges(lake: Lake, spec: UseCase) -> Iterator[Sample]:
    """Return what the lake's tables say of the newest partitions, labelled by use case."""
    for part in (_products, _findings, _performance, _losses, _estimates, _rungs, _champion, _decision):
        for name, labels, value in part(lake, spec):
            if value is not None:
                yield Sample(name, {"usecase": spec.name, **labels}, float(value))
    for rule in spec.monitoring.requirements:
        for bound in ("at_least", "at_most"):
            if (limit := getattr(rule, bound)) is not None:
                labels = {"usecase": spec.name, "metric": rule.metric, "bound": bound}
                yield Sample("evergreen_requirement", labels, limit)


Found = Iterator[tuple[str, dict[str, str], float | None]]


def _products(lake: Lake, spec: UseCase) -> Found:
    newest = _newest_by_product(lake, [*spec.sources, *MADE])
    columns = ["product", "partition", "outcome", "rows", "quarantined"]
    partitions = {
        (day_of(key) - timedelta(days=ago)).isoformat() for key in newest.values() for ago in range(BACK)
    }
    rows = _read(lake, {"product": [*newest], "partition": sorted(partitions)}, columns)
    last = {row["product"]: row for row in rows}
    published = {row["product"]: row["partition"] for row in rows if row["outcome"] == "published"}
    if gone := [product for product in newest if product not in published]:  # refused for that long
        again = _read(lake, {"product": gone, "outcome": "published"}, columns)
        published |= {row["product"]: row["partition"] for row in again}
    for product, partition in sorted(published.items()):
        yield "evergreen_partition_timestamp_seconds", {"product": product}, _time(spec, partition)
    if "predictions" in published:
        yield "evergreen_next_partition_timestamp_seconds", {}, _due(spec, published["predictions"])
    for product, row in sorted(last.items()):
        for outcome in OUTCOMES:
            of = {"product": product, "outcome": outcome}
            yield "evergreen_partition", of, row["outcome"] == outcome
        yield "evergreen_rows", {"product": product}, row["rows"]
        total = (row["rows"] or 0) + (row["quarantined"] or 0)
        if product in spec.sources and total:
            yield "evergreen_quarantined_share", {"source": product}, (row["quarantined"] or 0) / total


def _findings(lake: Lake, spec: UseCase) -> Found:
    for row in _of_newest(lake, "findings"):
        of = {"check": row["check"], "subject": row["subject"]}
        if row["outcome"] != "not enough":
            yield "evergreen_alarm", of, row["outcome"] == "alarm"
        yield "evergreen_value", of, row["value"]
        yield "evergreen_limit", of, row["threshold"]


def _performance(lake: Lake, spec: UseCase) -> Found:
    rows = sorted(_of_newest(lake, "performance"), key=lambda row: str(row["known"]))
    for name, row in {row["metric"]: row for row in rows}.items():
        of, _, metric = name.rpartition(":")  # the prior's, as prior:roc_auc, stand beside the model's
        yield "evergreen_performance", {"metric": metric, "of": of or "served"}, row["value"]
    if rows:
        yield "evergreen_performance_partition_timestamp_seconds", {}, _time(spec, rows[-1]["partition"])


def _losses(lake: Lake, spec: UseCase) -> Found:
    rows = sorted(_of_newest(lake, "losses"), key=lambda row: str(row["known"]))
    newest = list({row["model"]: row for row in rows}.values())
    count = sum(row["rows"] for row in newest)
    for of, column in (("served", "loss"), ("baseline", "baseline"), ("expected", "expected")):
        sums = [row[column] for row in newest]
        if count and None not in sums:
            yield "evergreen_loss", {"metric": spec.gate.objective, "of": of}, sum(sums) / count


def _estimates(lake: Lake, spec: UseCase) -> Found:
    told = [row for row in _of_newest(lake, "estimates") if row["value"] is not None]
    for row in told:
        yield "evergreen_estimated_performance", {"metric": row["metric"]}, row["value"]
        yield "evergreen_estimated_performance_error", {"metric": row["metric"]}, row["error"]
    if told:
        yield (
            "evergreen_estimated_performance_partition_timestamp_seconds",
            {},
            _time(spec, told[0]["partition"]),
        )


def _rungs(lake: Lake, spec: UseCase) -> Found:
    counts = Counter(row["served_by"] for row in _of_newest(lake, "predictions", ["partition", "served_by"]))
    for rung in RUNGS if counts else ():
        yield "evergreen_served_by_share", {"served_by": rung}, counts[rung] / counts.total()


def _champion(lake: Lake, spec: UseCase) -> Found:
    line = ledger.succession(ledger.switches(lake))
    for row in line[-1:]:
        of = {"version": str(row["version"]), "kind": str(row["kind"])}
        yield "evergreen_champion_timestamp_seconds", of, _time(spec, row["effective"])
        yield "evergreen_champion_evidence_timestamp_seconds", {}, _time(spec, row["evidence"])


def _decision(lake: Lake, spec: UseCase) -> Found:
    for row in _of_newest(lake, "decisions", ["partition", "decision"]):
        for decision in DECISIONS:
            yield "evergreen_decision", {"decision": decision}, row["decision"] == decision


def _read(lake: Lake, where: Where, columns: Sequence[str]) -> Rows:
    """Return rows of `partitions`, the oldest partition first."""
    read = lake.read("partitions", where, columns)
    return sorted(read.to_pylist() if read is not None else [], key=lambda row: str(row["partition"]))


@translate_store_errors
def _newest_by_product(lake: Lake, products: Sequence[str]) -> dict[str, str]:
    """Return each product's newest partition by the log of `partitions` alone."""
    opened = lake.open("partitions")
    found: dict[str, str] = {}
    for file in () if opened is None else predicates.list_files(opened):
        if (product := file["partition.product"]) in products and file["max.partition"]:
            found[product] = max(found.get(product, ""), str(file["max.partition"]))
    return found


@translate_store_errors
def newest_partition(lake: Lake, table: str) -> str:
    """Return a table's newest partition by its log alone, empty where there is none."""
    opened = lake.open(table)
    partitions = [] if opened is None else [file["max.partition"] for file in predicates.list_files(opened)]
    return max((str(partition) for partition in partitions if partition), default="")


def _of_newest(lake: Lake, table: str, columns: Sequence[str] | None = None) -> Rows:
    """Return the rows of a table's newest partition."""
    partition = newest_partition(lake, table)
    read = lake.read(table, {"partition": partition}, columns) if partition else None
    return [] if read is None else read.to_pylist()


def _time(spec: UseCase, partition: str | None) -> float | None:
    """Return a partition as Prometheus has times, by the hour at which its predictions exist."""
    # not the decision time: an old partition may be none of the schedule as it is declared now
    return spec.clock.local(partition, spec.scoring.deadline).timestamp() if partition else None


def _due(spec: UseCase, partition: str) -> float | None:
    after = day_of(partition) + timedelta(days=1)
    keys = spec.clock.keys(after.isoformat(), (after + timedelta(days=AHEAD)).isoformat())
    return _time(spec, keys[0] if keys else None)


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
