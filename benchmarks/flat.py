"""What a partition costs after 30, 300 and 1,000 partitions: ``python -m benchmarks flat [--json]``.

The lake is synthetic: flight_delay's declaration without an end, and 900 generated flights a partition. A
training, its champion and the first partitions are production's own. Later partitions are copies of those:
the newest 24 in the commits that the stages make, those before them a week in each commit. Each week every
recipe has a fit, and the champion is refitted. Nothing maintains the lake in between.

The next partitions are then scored, monitored and stepped by the stages' own functions in one fresh process,
after two that warm it up: seconds of CPU of all threads, the median of five partitions, and the most memory
of the process's own (RssAnon) in one more, imports included. No pages are drawn. With ``--json`` the figures
are one line of JSON on standard output, and the progress is on standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from functools import cache
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.batch import CARRIERS, DESTS, ORIGINS, Values, others, source_batch
from benchmarks.memory import Anonymous, apart
from include.cli import stages
from include.features.labels import training_set
from include.ingest.publish import publish_validated
from include.judge.evidence import evidence_rows_key
from include.models import artifacts
from include.monitor.pipeline import monitor
from include.promote import ledger, verdicts
from include.rollout.pipeline import advance
from include.score.pipeline import score
from include.spec import UseCase, load
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake, Where
from include.train.fits import Fit, read_fits
from include.train.fitting import fit_recipe
from include.train.monitoring_baselines import REFERENCE, publish_reference_profiles
from include.train.recipes import recipes_by_name

SIZES = (30, 300, 1000)  # partitions that have been monitored
HISTORY = 60  # partitions before the first training
ROWS = 900
WARM, MEASURED = 2, 5
WEEK = 7  # partitions between two trainings
FITTED = 1800  # rows of a refit, which has to be another model and no good one
NEWEST = 24  # partitions before those that are measured, which are written one by one
STATUS = (("predictions",), ("performance", "losses"), ("monitor", "drift", "estimates"))
SCORED = {"predictions": (), "profiles": ("features", "predictions")}
MONITORED = ("findings", "drift", "estimates", "decisions")
MATURED = ("losses", "performance", "walks")


def use_case() -> UseCase:
    """Return the declaration of the flights without its end."""
    spec = load("flight_delay")
    return spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"end": None})})


def partition_of(spec: UseCase, index: int) -> str:
    """Return a partition by its place in the schedule, from 0."""
    return (date.fromisoformat(spec.schedule.start) + timedelta(index)).isoformat()


@cache
def network() -> Values:
    """Return the flights of each day."""
    random, flight = np.random.default_rng(7), np.arange(ROWS)
    minute = random.integers(300, 1380, ROWS)
    names = {"carrier": CARRIERS, "origin": ORIGINS, "dest": DESTS[:100]}
    values: Values = {name: np.array(of)[random.integers(0, len(of), ROWS)] for name, of in names.items()}
    return values | {
        "flight": flight,
        "sched_dep_time": minute,
        "sched_arr_time": (minute + random.integers(60, 300, ROWS)) % 1440,
        "tailnum": np.char.add("N", random.integers(0, 3000, ROWS).astype(str)),
        "distance": random.uniform(100, 4000, ROWS),
    }


def generate(lake: Lake, spec: UseCase, positions: Sequence[int]) -> None:
    """Publish some partitions' sources in one commit each, as ingest does."""
    partitions = [partition_of(spec, index) for index in positions]
    for source, declared in spec.sources.items():
        keys = [key for key in partitions if spec.partitions(source, key, key)]
        tables, statuses = [], []
        for key in keys:
            rows = pa.Table.from_batches([source_rows(spec, source, key)])
            rows = rows.sort_by([(name, "ascending") for name in ("partition", "revision", *declared.key)])
            lineage: Any = {"inputs": {}, "spec": spec.digest_of(source), "code": "", "note": "generated"}
            statuses.append(schemas.partition_row(source, key, rows.num_rows, digest_table(rows), **lineage))
            tables.append(rows)
        if keys:
            revisions: Any = {key: [_Snapshot] for key in keys}
            quarantine = schemas.QUARANTINE.empty_table()
            rows = pa.concat_tables(tables)
            publish_validated(lake, spec, source, revisions, rows, quarantine, statuses)


def source_rows(spec: UseCase, source: str, partition: str) -> pa.RecordBatch:
    """Return a partition's rows of a source."""
    if source not in ("schedule", "outcomes"):
        return next(iter(others(spec, source, partition)))
    day = spec.clock.shift(partition, spec.sources[source].offset)
    random, values = np.random.default_rng(date.fromisoformat(day).toordinal()), dict(network())
    minute, far = values["sched_dep_time"], values["distance"] > 2000
    late = random.normal(0, 5) + np.where(far, 12, -12) * np.sin(minute / 150) + values["flight"] % 16 - 10
    values |= {"year": 2013, "month": int(day[5:7]), "day": int(day[8:])}
    values["arr_delay"] = late + random.normal(8, 25, ROWS)
    hours = (values["sched_dep_time"] // 60 + 5).astype("timedelta64[h]")
    values["scheduled"] = np.datetime64(day, "us") + hours
    return source_batch(spec, source, partition, values, ROWS)


class _Snapshot:
    """The first revision of a partition."""

    revision = 0


class History:
    """A lake that grows by copies of the partitions that production has written.

    Parameters
    ----------
    first : the place of the first partition that was monitored.
    count : how many were.
    """

    def __init__(self, lake: Lake, spec: UseCase, first: int, count: int) -> None:
        self.lake, self.spec, self.first = lake, spec, first
        self.positions = range(first + count // 2, first + count - spec.labels.delay)
        keys = [partition_of(spec, index) for index in self.positions]
        self.tables: dict[tuple[str, str], pa.Table] = {}
        for table in ("partitions", "profiles", "predictions", *MONITORED, *MATURED):
            rows = lake.read(table, {"partition": keys})
            assert rows is not None
            for key in keys:
                self.tables[table, key] = rows.filter(pc.equal(rows["partition"], key)).combine_chunks()
        self.switches = ledger.switches(lake)
        self.fits = read_fits(lake)
        self.learned: pa.Table | None = None

    def add(self, positions: Sequence[int], *, old: bool) -> None:
        """Write what the stages write on some partitions, and each week a training.

        Parameters
        ----------
        old : whether other trainings follow, so that the refitted model may be any.
        """
        generate(self.lake, self.spec, positions)
        self._copy(positions, SCORED, STATUS[0])
        matured = [index - self.spec.labels.delay for index in positions]
        self._copy(matured, {"profiles": ("labels",), **dict.fromkeys(MATURED, ())}, STATUS[1])
        self._copy(positions, dict.fromkeys(MONITORED, ()), STATUS[2])
        if positions[-1] % WEEK == 0:
            self.refit(positions[-1], old=old)

    def refit(self, index: int, *, old: bool) -> None:
        """Record a training that refits the champion's recipe, to serve from the next partition on."""
        lake, spec, partition = self.lake, self.spec, partition_of(self.spec, index)
        first = next(row for row in self.switches if row["role"] == "champion")
        if self.learned is None:
            self.learned = training_set(lake, spec, str(first["judged_on"]))
        name = "logistic" if old else first["recipe"]  # which is fitted and stored in a moment
        recipe = recipes_by_name(spec)[name]
        rows = self.learned.slice(index % HISTORY * 100, FITTED)
        model = artifacts.store_model(lake, artifacts.serialize(fit_recipe(spec, recipe, rows)))
        newest = {fit.recipe_key: fit for fit in self.fits}
        fits = [
            Fit(
                **{
                    **asdict(fit),
                    "partition": partition,
                    "model": model if fit.recipe == first["recipe"] else fit.model,
                }
            )
            for fit in newest.values()
        ]
        lake.publish(
            "fits",
            pa.Table.from_pylist([asdict(fit) for fit in fits], schemas.FITS),
            {"partition": partition},
        )
        self.fits += fits
        limits = _replaced(lake.read("limits", {"partition": first["judged_on"]}), "partition", partition)
        limits = _replaced(limits, "model", model)
        lake.publish("limits", limits, {"partition": partition, "model": model})
        reference = lake.read("profiles", {"product": REFERENCE, "partition": first["judged_on"]})
        reference = _varied(_replaced(reference, "partition", partition), index)
        publish_reference_profiles(lake, model, partition, [reference])
        status = lake.rows("partitions", {"product": "limits", "partition": first["judged_on"]})[0]
        row = {**status, "partition": partition, "inputs": json.dumps({"training_set": "", "model": model})}
        where = {"product": "limits", "partition": partition}
        lake.publish("partitions", pa.Table.from_pylist([row], schemas.PARTITIONS), where)
        for name in (f"references/{first['model']}.json", f"references/{first['model']}.parquet"):
            lake.create(name.replace(first["model"], model), lake.get(name) or b"")
        attempt = next(row for row in verdicts.attempts(lake) if row["key"] == first["attempt"])
        key = f"{attempt['key'][:-10]}{partition}"
        lake.create(evidence_rows_key(key), lake.get(evidence_rows_key(attempt["key"])) or b"")
        changes = {"key": key, "partition": partition, "model": model}
        lake.append_compare_and_swap(
            "attempts",
            schemas.ATTEMPTS,
            lambda rows: [{**attempt, **changes, "recorded": len(rows) + 1}],
        )
        changes = {"kind": ledger.REFRESHED, "judged_on": partition, "attempt": key, "request": key}
        changes["effective_from"] = partition_of(spec, index + 1)
        newest_rows = [row for row in self.switches if row["switch"] == first["switch"]]
        rows_of_switch = [
            {**row, **changes, **({"model": model} if row["role"] == "champion" else {})}
            for row in newest_rows
        ]
        ledger.record_switch(lake, lambda rows: rows_of_switch)
        self.switches = ledger.switches(lake)

    def _copy(
        self, positions: Sequence[int], tables: Mapping[str, Sequence[str]], products: Sequence[str]
    ) -> None:
        partitions = [partition_of(self.spec, index) for index in positions]
        for table, of_table in tables.items():
            rows = pa.concat_tables([self._copied(table, index, of_table) for index in positions])
            where: Where = {"partition": partitions}
            if of_table:
                where = {"product": list(of_table), **where}
            if table == "predictions":
                self.lake.append_at(table, rows, self.lake.version(table))
            else:
                self.lake.publish(table, rows, where)
        rows = pa.concat_tables([self._copied("partitions", index, products) for index in positions])
        if "performance" in products:
            rows = self._with_inputs(rows, positions)
        self.lake.publish("partitions", rows, {"product": list(products), "partition": partitions})

    def _copied(self, table: str, index: int, products: Sequence[str]) -> pa.Table:
        """Return a template's rows of a table as those of another partition."""
        partition = partition_of(self.spec, index)
        template = partition_of(self.spec, self.positions[index % len(self.positions)])
        rows = self.tables[table, template]
        if products:
            rows = rows.filter(pc.is_in(rows["product"], pa.array(products)))
        rows = _moved(rows, date.fromisoformat(partition) - date.fromisoformat(template))
        if table == "walks":
            return self._walks(rows, partition)
        if table == "profiles":
            return _varied(rows, index)
        if "model" not in rows.column_names:
            return rows
        serving, before = (ledger.serving_of(self.switches, key).champion for key in (partition, template))
        assert serving
        assert before
        return _replaced(rows, "model", serving["model"], before["model"])

    def _walks(self, rows: pa.Table, partition: str) -> pa.Table:
        newest = {fit.recipe: fit for fit in self.fits if fit.partition < partition}
        changed = []
        for row in rows.to_pylist():
            fit = newest[row["recipe"]]
            changed.append({**row, "fitted_on": fit.partition, "model": fit.model})
        return pa.Table.from_pylist(changed, schemas.WALKS)

    def _with_inputs(self, rows: pa.Table, positions: Sequence[int]) -> pa.Table:
        """Return the rows of `partitions` with the digests of what their figures were computed from."""
        last = positions[-1] + self.spec.labels.delay
        keys = [partition_of(self.spec, index) for index in range(positions[0], last + 1)]
        where: Where = {"product": ["predictions", self.spec.labels.source], "partition": keys}
        published = self.lake.rows("partitions", where)
        digests = {f"{row['product']}/{row['partition']}": row["digest"] for row in published}
        changed = []
        for row in rows.to_pylist():
            inputs = json.loads(row["inputs"])
            inputs |= {name: digest for name, digest in digests.items() if name in inputs}
            changed.append({**row, "inputs": json.dumps(inputs, sort_keys=True)})
        return pa.Table.from_pylist(changed, schemas.PARTITIONS)


def _moved(rows: pa.Table, days: timedelta) -> pa.Table:
    """Return rows with each partition that they name moved by some days."""

    def move(match: re.Match[str]) -> str:
        return (date.fromisoformat(match[0]) + days).isoformat()

    for name in ("partition", "as_of", "inputs", "note", "reason", "cause"):
        if name in rows.column_names:
            texts = [re.sub(r"\d{4}-\d\d-\d\d", move, text) for text in rows[name].to_pylist()]
            rows = rows.set_column(rows.column_names.index(name), name, pa.array(texts, pa.string()))
    return rows


def _varied(profiles: pa.Table, index: int) -> pa.Table:
    """Return profiles with slightly other quantiles, as equal ones would hardly take any space in a file."""
    quantiles = [
        each and (np.frombuffer(each) * (1 + 1e-6 * index)).tobytes()
        for each in profiles["quantiles"].to_pylist()
    ]
    column = profiles.column_names.index("quantiles")
    return profiles.set_column(column, "quantiles", pa.array(quantiles, pa.binary()))


def _replaced(rows: pa.Table | None, column: str, value: str, old: str = "") -> pa.Table:
    """Return rows with a column's value, or one of its values, replaced."""
    assert rows is not None
    values = [value if old in ("", each) else each for each in rows[column].to_pylist()]
    return rows.set_column(rows.column_names.index(column), column, pa.array(values, pa.string()))


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(lake: Lake, spec: UseCase, partition: str) -> dict[str, float]:
    """Score, monitor and step a partition whose sources are there; return the CPU seconds of each."""
    taken = {}
    for name, stage in (("score", score), ("monitor", monitor), ("rollout", advance)):
        begin = time.process_time()
        stage(lake, spec, partition)
        taken[name] = time.process_time() - begin
    return taken


def build(folder: str, begin: int, end: int) -> None:
    """Add partitions to the lake so that as many as ``end`` have been monitored."""
    spec = use_case()
    lake = Lake(spec.name, folder)
    start = time.perf_counter()
    if not begin:
        generate(lake, spec, range(HISTORY))
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        refs = list(stages._train(lake, spec, [partition_of(spec, HISTORY - 1)], None))  # type: ignore[arg-type]
        _progress(f"{time.perf_counter() - start:5.0f} s: {HISTORY} partitions of sources; {refs[-1].note}")
        for index in range(HISTORY, HISTORY + end):
            generate(lake, spec, [index])
            taken = _run(lake, spec, partition_of(spec, index))
            if (index - HISTORY) % 10 == 9:
                cpu = ", ".join(f"{name} {seconds:.2f}" for name, seconds in taken.items())
                _progress(
                    f"{time.perf_counter() - start:5.0f} s: {index - HISTORY + 1} partitions; CPU s {cpu}"
                )
        return
    history = History(lake, spec, HISTORY, SIZES[0])
    index, last = HISTORY + begin, HISTORY + end
    while index < last:
        old = index < last - NEWEST
        until = min(index // WEEK * WEEK + WEEK, last - NEWEST - 1) if old else index
        positions = range(index, until + 1)
        history.add(positions, old=old)
        index = until + 1
        _progress(f"{time.perf_counter() - start:5.0f} s: {index - HISTORY} partitions")


def measure(folder: str, size: int) -> dict[str, float]:
    """Score, monitor and step the next partitions; return the median CPU seconds, and the peak memory."""
    spec = use_case()
    lake = Lake(spec.name, folder)
    positions, taken = range(HISTORY + size, HISTORY + size + WARM + MEASURED), []
    for index in positions:
        generate(lake, spec, [index])
        taken.append(_run(lake, spec, partition_of(spec, index)))
    with Anonymous() as memory:  # which takes time itself
        generate(lake, spec, [positions.stop])
        _run(lake, spec, partition_of(spec, positions.stop))
    figures = {name: median(each[name] for each in taken[WARM:]) for name in taken[0]}
    return {**figures, "peak": memory.most}


def main(command: Sequence[str]) -> None:
    """Measure and print, or do the part that has a process of its own."""
    if command[:1] == ["build"]:
        build(command[1], int(command[2]), int(command[3]))
        print("{}")
        return
    if command[:1] == ["measure"]:
        print(json.dumps(measure(command[1], int(command[2]))))
        return
    result: dict[str, dict[str, float]] = {"monitor": {}, "score_rollout": {}, "peak_mb": {}}
    show = _progress if "--json" in command else lambda text: print(text, flush=True)
    show("| partitions | monitor | score | rollout | score + rollout | peak MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        begin = 0
        for size in SIZES:
            apart("flat", "build", folder, begin, size)
            figures = apart("flat", "measure", folder, size)
            begin = size + WARM + MEASURED + 1
            both = figures["score"] + figures["rollout"]
            result["monitor"][str(size)] = round(figures["monitor"], 3)
            result["score_rollout"][str(size)] = round(both, 3)
            result["peak_mb"][str(size)] = figures["peak"]
            cells = [figures["monitor"], figures["score"], figures["rollout"], both]
            show(f"| {size:,} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {figures['peak']} |")
    if "--json" in command:
        print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
