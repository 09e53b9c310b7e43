"""Attempts with everything that a page can show: rows, slices, groups, edge cases, a champion before them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.judge.evidence import (
    EdgeCase,
    Evidence,
    Facts,
    Fairness,
    Leak,
    Losses,
    Serving,
    Slice,
    evidence_key,
    evidence_rows_key,
)
from include.promote import ledger
from include.promote.promotion import judge_and_record
from include.references import digest_bytes
from include.reports.verdict import draw_verdict
from include.spec import UseCase
from include.spec.load import read
from include.spec.metrics import default_metrics
from include.stats import profiles
from include.stats.metrics import metric_values, row_losses
from include.storage import schemas
from include.storage.lake import Lake
from tests.promote.conftest import partitions

ROOT = Path(__file__).parents[3]
HOSTILE = "</td><script>alert('planted')</script> | `x` $a$ <img src=http://evil.example/x>"
GATE = {
    "slices": {"columns": ["origin"], "min_rows": 300},
    "fairness": {
        "columns": ["origin"],
        "threshold": 0.3,
        "requirements": [{"metric": "tpr_difference", "at_most": 0.2}],
    },
    "serving": [{"metric": "p95_ms", "at_most": 20}],
    "min_partitions": 14,
    "robustness": 1.0,
}
Array = np.ndarray


@dataclass(frozen=True)
class World:
    """A use case, its lake, and who serves."""

    spec: UseCase
    lake: Lake

    def attempt(
        self,
        number: int,
        skill: Mapping[str, float],
        *,
        count: int = 24,
        keep: bool = True,
        labels: float | None = None,
    ) -> str:
        """Judge version ``number``; a model's skill says how much of what will come it knows."""
        champion = ledger.champion_to_beat(self.lake, partitions(count + number)[-1])
        skill = {name: value for name, value in skill.items() if name != "champion" or champion}
        of, actual, predicted = rows(self.spec, count, number, skill)
        actual = actual if labels is None else np.full_like(actual, labels)
        evidence = self.evidence(number, count, of, actual, predicted, champion["model"] if champion else "")
        self.lake.replace(evidence_key(evidence.key), evidence.to_json().encode())
        if keep:
            self.lake.replace(evidence_rows_key(evidence.key), parquet(of, actual, predicted))
        self.learnt(evidence)
        judge_and_record(self.lake, self.spec, evidence_key(evidence.key))
        return evidence.key

    def evidence(
        self, number: int, count: int, of: Array, actual: Array, predicted: Mapping[str, Array], champion: str
    ) -> Evidence:
        """Return evidence whose losses and metrics are those of the rows."""
        there = partitions(count)
        each = {n: row_losses(self.spec.gate.objective, actual, values) for n, values in predicted.items()}
        found = Losses(
            there,
            tuple(int((of == partition).sum()) for partition in there),
            {n: tuple(float(v[of == partition].sum()) for partition in there) for n, v in each.items()},
        )
        names = default_metrics(self.spec.problem.kind)
        return Evidence(
            usecase=self.spec.name,
            partition=partitions(count + number)[-1],
            spec=self.spec.digest,
            data=digest_bytes(f"data {number}".encode()),
            code=f"commit-{number}",
            version=str(number),
            model=digest_bytes(f"model {number}".encode()),
            prior=float(actual.mean()) if count else 0.2,
            baseline_model=digest_bytes(b"baseline"),
            metrics={n: metric_values(names, actual, v) for n, v in predicted.items()},
            losses=found,
            champion=champion,
            last_fitted="2013-01-31",
            fitted="2013-01-31",
            recipe="forest",
            facts=facts(self.spec, found, of, each),
        )

    def learnt(self, evidence: Evidence) -> None:
        """Publish what the version was fitted on: each later one on somewhat larger values."""
        product = f"reference:{evidence.model}"
        random = np.random.default_rng(int(evidence.version))
        shift = 0.1 * int(evidence.version)
        values = {n: random.normal(shift, 1, 200) for n in self.spec.features.numeric}
        values |= {n: random.choice(["A", "B", "C"], 200) for n in self.spec.features.categorical}
        made = profiles.build_profile(
            product,
            evidence.partition,
            pa.table(values),
            self.spec.features.numeric,
            self.spec.features.categorical,
        )
        where = {"product": product, "partition": evidence.partition}
        self.lake.publish("profiles", made, where)
        self.partition(product, evidence.partition, 200_000)

    def partition(
        self, product: str, partition: str, count: int, aside: int = 0, outcome: str = "published"
    ) -> None:
        """Publish a row of `partitions`."""
        row = dict.fromkeys(("digest", "spec", "code", "note"), "") | {"revision": 0, "duplicates": 0}
        row |= {
            "product": product,
            "partition": partition,
            "outcome": outcome,
            "rows": count,
            "quarantined": aside,
        }
        row |= {"inputs": "{}"}
        where = {"product": product, "partition": partition}
        self.lake.publish("partitions", pa.Table.from_pylist([row], schema=schemas.PARTITIONS), where)

    def promote(self, key: str) -> None:
        """Write the switch that promoting an attempt writes, without its models."""
        row = ledger.attempt(self.lake, key)
        ledger.record_switch(self.lake, lambda _: [{
            "role": "champion", "version": row["version"], "model": row["model"], "prior": 0.2,
            "effective": "2013-03-04", "evidence": row["partition"], "kind": "promoted", "by": "",
            "reason": row["sentence"], "attempt": key, "request": key,
        }])  # fmt: skip

    def asking(self, gate: Mapping[str, object]) -> World:
        """Return the same with a gate that asks for something else."""
        asked = type(self.spec.gate).model_validate({**self.spec.gate.model_dump(), **gate})
        # made anew, since a copy keeps the digest that was computed
        spec = UseCase.model_validate({**self.spec.model_dump(by_alias=True), "gate": asked})
        return replace(self, spec=spec.model_copy(update={"folder": self.spec.folder}))

    def page(self, key: str) -> str:
        """Draw an attempt and return its page."""
        return (self.lake.get(f"reports/{draw_verdict(self.lake, self.spec, key, None)}") or b"").decode()


def rows(
    spec: UseCase, count: int, seed: int, skill: Mapping[str, float]
) -> tuple[Array, Array, dict[str, Array]]:
    """Return partition, label and each model's predictions of 100 rows a partition."""
    random = np.random.default_rng(seed)
    of = np.repeat(np.array(partitions(count), dtype=object), 100)
    true = np.repeat(random.normal(0, 0.3, count), 100) + random.normal(0, 1, len(of))
    noise = {name: random.normal(0, 1, len(of)) for name in skill}
    seen = {n: s * true + np.sqrt(1 - s * s) * noise[n] if s else 0 * true for n, s in skill.items()}
    if spec.problem.kind == "regression":
        return of, 30 + 10 * true, {n: 30 + 10 * skill[n] * v for n, v in seen.items()}
    chance = {n: 1 / (1 + np.exp(1.3 - 2 * skill[n] * v)) for n, v in seen.items()}
    return of, (random.random(len(of)) < 1 / (1 + np.exp(1.3 - 2 * true))).astype(float), chance


def parquet(of: Array, actual: Array, predicted: Mapping[str, Array]) -> bytes:
    """Return the rows as evaluate keeps them."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"partition": pa.array(of, pa.string()), "actual": actual, **predicted}), sink)
    return sink.getvalue()


def facts(spec: UseCase, found: Losses, of: Array, each: Mapping[str, Array]) -> Facts:
    """Return facts of every kind, the slices' losses those of the rows."""
    rival = "champion" if "champion" in found.sums else "baseline:prior"
    names, group = spec.features.columns, np.arange(len(of)) % 4
    parts = []
    for place_, name in enumerate(
        ("origin = EWR", "origin = JFK", "distance in [184, 502)", f"dest = {HOSTILE}")
    ):
        mine = group == place_
        took = [
            tuple(float(v[mine & (of == n)].sum()) for n in found.partitions)
            for v in (each["challenger"], each[rival])
        ]
        counts = tuple(int((mine & (of == n)).sum()) for n in found.partitions)
        parts.append(Slice(name, place_ < 2, counts, *took))
    rates = {"selection_rate": 0.3, "tpr": 0.6, "fpr": 0.1, "calibration": 0.01}
    shuffled = found.sums["baseline:prior"]
    groups = {"EWR": {"rows": 800, **rates}, "JFK": {"rows": 900, **rates, "tpr": 0.5}}
    return Facts(
        rival=rival,
        slices=tuple(parts),
        fairness=(Fairness("origin", groups, {"tpr_difference": 0.1, "tpr_ratio": 0.83}),),
        edge_cases=(
            EdgeCase("a row alone", "rows", held=True),
            EdgeCase("temp missing", "missing", True, 0.1),
            EdgeCase("dest unseen", "unseen", True, 0.3, HOSTILE),
        ),
        serving=Serving(True, {"p50_ms": 3.1, "p95_ms": 5.25, "rows_per_second": 81234.0, "size_mb": 1.5}),
        leak=Leak({n: 0.5 + 0.01 * i for i, n in enumerate(names)}, shuffled, 0.11, (0.09, 0.1, 0.105)),
        coverage={n: 0.001 * i for i, n in enumerate(names)},
        importance={n: 0.02 / (1 + i) - 0.001 for i, n in enumerate(names)},
    )


def world(folder: Path, file: Path, gate: Mapping[str, object]) -> World:
    """Return a use case as it is shipped, but for a gate that asks for more."""
    spec = read(file)
    made = World(spec, Lake(spec.name, str(folder))).asking(gate)
    for source in spec.sources:
        made.partition(source, "2013-02-01", 990, 10)
        made.partition(source, "2013-02-02", 0, 0, "refused")
        made.partition(source, "2013-12-30", 7777, 7777)  # known after any of the attempts
    return made


@pytest.fixture
def flights(tmp_path: Path) -> World:
    """The shipped use case, binary, with nothing but its sources."""
    return world(tmp_path / "lake", ROOT / "include/usecases/flight_delay/usecase.yaml", GATE)


@pytest.fixture
def weekly(tmp_path: Path) -> World:
    """The regression, with nothing but its sources."""
    return world(tmp_path / "lake", ROOT / "tests/usecases/weekly_sales/usecase.yaml", {"min_partitions": 5})


@pytest.fixture(scope="session")
def text(told: tuple[World, str]) -> str:
    """That challenger's page, drawn once, with the cards beside it."""
    made, key = told
    return made.page(key)


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """A challenger that met a champion, with everything that there is to tell; only read."""
    made = world(tmp_path_factory.mktemp("told"), ROOT / "include/usecases/flight_delay/usecase.yaml", GATE)
    made.promote(made.attempt(1, SKILLS))
    return made, made.attempt(2, SKILLS)


SKILLS = {"challenger": 0.6, "champion": 0.5, "baseline:prior": 0.0, "baseline:logistic": 0.45}
