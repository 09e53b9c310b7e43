"""Attempts with everything that a page can show: rows, slices, groups, edge cases, and a champion."""

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
    Leakage,
    Losses,
    ServingTest,
    Slice,
    evidence_key,
    evidence_rows_key,
)
from include.promote import ledger, verdicts
from include.promote.verdicts import judge_and_record
from include.references import digest_bytes
from include.reports.verdict import draw_verdict
from include.spec import UseCase
from include.spec.load import read
from include.spec.metrics import default_metrics
from include.stats import profiles
from include.stats.metrics import metric_values, row_losses
from include.storage import schemas
from include.storage.lake import Lake
from include.train.monitoring_baselines import publish_reference_profiles
from tests.promote.conftest import partitions, selection

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
    """A use case and its lake."""

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
        refresh: bool = False,
        refused: bool = False,
    ) -> str:
        """Judge version ``number``; a model's skill is the correlation of its predictions with the truth.

        With ``refresh`` it is a refit of the champion's recipe, which has no walk of its own beside it; with
        ``refused`` a fresh process predicts something else.
        """
        champion = ledger.champion_to_beat(self.lake, partitions(count + number)[-1])
        compared = champion and not refresh
        skill = {name: value for name, value in skill.items() if name != "champion" or compared}
        row_partitions, actual, predicted = rows(self.spec, count, number, skill)
        actual = actual if labels is None else np.full_like(actual, labels)
        evidence = self.evidence(
            number, count, row_partitions, actual, predicted, champion["model"] if champion else ""
        )
        if refused:
            serving = ServingTest(False, {"p95_ms": 5.25}, "row 3 differs")
            evidence = replace(evidence, facts=replace(evidence.facts, serving=serving))
        self.lake.replace(evidence_key(evidence.key), evidence.to_json().encode())
        if keep:
            self.lake.replace(evidence_rows_key(evidence.key), parquet(row_partitions, actual, predicted))
        self.publish_training_data(evidence)
        judge_and_record(self.lake, self.spec, evidence_key(evidence.key))
        return evidence.key

    def evidence(
        self,
        number: int,
        count: int,
        row_partitions: Array,
        actual: Array,
        predicted: Mapping[str, Array],
        champion: str,
    ) -> Evidence:
        """Return evidence with losses and metrics computed from the rows."""
        keys = partitions(count)
        losses_by_model = {
            n: row_losses(self.spec.gate.objective, actual, values) for n, values in predicted.items()
        }
        test_losses = Losses(
            keys,
            tuple(int((row_partitions == partition).sum()) for partition in keys),
            {
                n: tuple(float(v[row_partitions == partition].sum()) for partition in keys)
                for n, v in losses_by_model.items()
            },
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
            constant=float(actual.mean()) if count else 0.2,
            baseline_model=digest_bytes(b"baseline"),
            metrics={n: metric_values(names, actual, v) for n, v in predicted.items()},
            losses=test_losses,
            champion=champion,
            last_fitted="2013-01-31",
            fitted="2013-01-30",
            recipe="boosting",
            facts=facts(self.spec, test_losses, row_partitions, losses_by_model),
            selection=selection(
                "" if not champion else "logistic" if "champion" in predicted else "boosting"
            ),
        )

    def publish_training_data(self, evidence: Evidence) -> None:
        """Publish the version's training data; later versions have larger values."""
        random = np.random.default_rng(int(evidence.version))
        shift = 0.1 * int(evidence.version)
        values = {n: random.normal(shift, 1, 200) for n in self.spec.features.numeric}
        values |= {n: random.choice(["A", "B", "C"], 200) for n in self.spec.features.categorical}
        result = profiles.build_profile(
            "",
            evidence.partition,
            pa.table(values),
            self.spec.features.numeric,
            self.spec.features.categorical,
        )
        result = result.set_column(
            result.schema.get_field_index("count"), "count", pa.array([200_000] * result.num_rows)
        )
        publish_reference_profiles(self.lake, evidence.model, evidence.partition, [result])

    def partition(
        self, product: str, partition: str, count: int, quarantined: int = 0, outcome: str = "published"
    ) -> None:
        """Publish a row of `partitions`."""
        row = dict.fromkeys(("digest", "spec", "code", "note"), "") | {"revision": 0, "duplicates": 0}
        row |= {
            "product": product,
            "partition": partition,
            "outcome": outcome,
            "rows": count,
            "quarantined": quarantined,
        }
        row |= {"inputs": "{}"}
        where = {"product": product, "partition": partition}
        self.lake.publish("partitions", pa.Table.from_pylist([row], schema=schemas.PARTITIONS), where)

    def promote(self, key: str) -> None:
        """Write the switch that promoting an attempt writes, without its models."""
        row = verdicts.attempt(self.lake, key)
        ledger.record_switch(self.lake, lambda _: [{
            "role": "champion", "version": row["version"], "model": row["model"], "constant": 0.2,
            "effective_from": "2013-03-04", "judged_on": row["partition"], "kind": "promoted", "by": "",
            "reason": row["sentence"], "attempt": key, "request": key, "recipe": "logistic",
        }])  # fmt: skip

    def with_gate(self, gate: Mapping[str, object]) -> World:
        """Return the use case with another gate."""
        changed = type(self.spec.gate).model_validate({**self.spec.gate.model_dump(), **gate})
        # built anew, since a copy keeps its cached digest
        spec = UseCase.model_validate({**self.spec.model_dump(by_alias=True), "gate": changed})
        return replace(self, spec=spec.model_copy(update={"folder": self.spec.folder}))

    def page(self, key: str) -> str:
        """Draw an attempt and return its page."""
        return (self.lake.get(f"reports/{draw_verdict(self.lake, self.spec, key, None)}") or b"").decode()


def rows(
    spec: UseCase, count: int, seed: int, skill: Mapping[str, float]
) -> tuple[Array, Array, dict[str, Array]]:
    """Return partition, label and each model's predictions of 100 rows a partition."""
    random = np.random.default_rng(seed)
    row_partitions = np.repeat(np.array(partitions(count), dtype=object), 100)
    true = np.repeat(random.normal(0, 0.3, count), 100) + random.normal(0, 1, len(row_partitions))
    noise = {name: random.normal(0, 1, len(row_partitions)) for name in skill}
    signals = {n: s * true + np.sqrt(1 - s * s) * noise[n] if s else 0 * true for n, s in skill.items()}
    if spec.problem.kind == "regression":
        return row_partitions, 30 + 10 * true, {n: 30 + 10 * skill[n] * v for n, v in signals.items()}
    probabilities = {n: 1 / (1 + np.exp(1.3 - 2 * skill[n] * v)) for n, v in signals.items()}
    return (
        row_partitions,
        (random.random(len(row_partitions)) < 1 / (1 + np.exp(1.3 - 2 * true))).astype(float),
        probabilities,
    )


def parquet(row_partitions: Array, actual: Array, predicted: Mapping[str, Array]) -> bytes:
    """Return the rows as the evaluate stage stores them."""
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"partition": pa.array(row_partitions, pa.string()), "actual": actual, **predicted}), sink
    )
    return sink.getvalue()


def facts(
    spec: UseCase, test_losses: Losses, row_partitions: Array, losses_by_model: Mapping[str, Array]
) -> Facts:
    """Return facts of every kind, with slices computed from the rows."""
    rival = "champion" if "champion" in test_losses.sums else "baseline:prior"
    names, group = spec.features.columns, np.arange(len(row_partitions)) % 4
    parts = []
    for index, name in enumerate(
        ("origin = EWR", "origin = JFK", "distance in [184, 502)", f"dest = {HOSTILE}")
    ):
        in_slice = group == index
        sums = [
            tuple(float(v[in_slice & (row_partitions == n)].sum()) for n in test_losses.partitions)
            for v in (losses_by_model["challenger"], losses_by_model[rival])
        ]
        counts = tuple(int((in_slice & (row_partitions == n)).sum()) for n in test_losses.partitions)
        parts.append(Slice(name, index < 2, counts, *sums))
    rates = {"selection_rate": 0.3, "tpr": 0.6, "fpr": 0.1, "calibration": 0.01}
    shuffled = test_losses.sums["baseline:prior"]
    groups = {"EWR": {"rows": 800, **rates}, "JFK": {"rows": 900, **rates, "tpr": 0.5}}
    return Facts(
        rival=rival,
        slices=tuple(parts),
        fairness=(Fairness("origin", groups, {"tpr_difference": 0.1, "tpr_ratio": 0.83}),),
        edge_cases=(
            EdgeCase("a single row", "rows", passed=True),
            EdgeCase("temp missing", "missing", True, 0.1),
            EdgeCase("dest unseen", "unseen", True, 0.3, HOSTILE),
        ),
        serving=ServingTest(
            True, {"p50_ms": 3.1, "p95_ms": 5.25, "rows_per_second": 81234.0, "size_mb": 1.5}
        ),
        leakage=Leakage(
            single_feature={n: 0.5 + 0.01 * i for i, n in enumerate(names)},
            shuffled_losses=shuffled,
            loss_reduction=0.11,
            past_loss_reductions=(0.09, 0.1, 0.105),
            all_features={"challenger": 0.715},
        ),
        unseen_shares={n: 0.001 * i for i, n in enumerate(names)},
        importance={n: 0.02 / (1 + i) - 0.001 for i, n in enumerate(names)},
        refit_loss=float(losses_by_model["challenger"].mean()) if len(row_partitions) else None,
    )


def world(folder: Path, file: Path, gate: Mapping[str, object]) -> World:
    """Return a shipped use case with a stricter gate."""
    spec = read(file)
    result = World(spec, Lake(spec.name, str(folder))).with_gate(gate)
    for source in spec.sources:
        result.partition(source, "2013-02-01", 990, 10)
        result.partition(source, "2013-02-02", 0, 0, "refused")
        result.partition(source, "2013-12-30", 7777, 7777)  # known after any of the attempts
    return result


@pytest.fixture
def flights(tmp_path: Path) -> World:
    """The shipped binary use case, with its sources only."""
    return world(tmp_path / "lake", ROOT / "include/usecases/flight_delay/usecase.yaml", GATE)


@pytest.fixture
def weekly(tmp_path: Path) -> World:
    """The regression use case, with its sources only."""
    return world(tmp_path / "lake", ROOT / "tests/usecases/weekly_sales/usecase.yaml", {"min_partitions": 5})


@pytest.fixture(scope="session")
def text(judged: tuple[World, str]) -> str:
    """The page of the challenger, drawn once together with the cards."""
    result, key = judged
    return result.page(key)


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """An attempt with a champion and every kind of fact; read-only."""
    result = world(
        tmp_path_factory.mktemp("judged"), ROOT / "include/usecases/flight_delay/usecase.yaml", GATE
    )
    result.promote(result.attempt(1, SKILLS))
    return result, result.attempt(2, SKILLS)


SKILLS = {"challenger": 0.6, "champion": 0.5, "baseline:prior": 0.0, "baseline:logistic": 0.45}
