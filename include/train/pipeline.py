"""The training pipeline: turns the data known by a partition into one registered challenger, repeatably.

1. Each recipe (baseline or candidate) is fitted on everything known. A recipe that has no fit of an earlier
   training is fitted as of some earlier partitions too, so that it has a walk: what its fits predicted of the
   partitions after them (`include.train.walks`).
2. The walks decide which recipe should serve (`include.train.selection`). Its newest fit is the challenger.
   If that recipe serves already, the challenger is a refresh of the serving model.
3. The challenger, the best baseline, the monitoring baselines and the training record are stored with one
   run.

Training is idempotent: the same declaration, partition, data and champion return the run that is already
finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.pipeline import Pipeline

from include.environment import code_version
from include.errors import EvergreenError, InsufficientData
from include.features.build import require_timely_spine
from include.features.labels import matured, training_set
from include.judge.evidence import Evidence
from include.models import artifacts, outputs
from include.models.registry import Registry
from include.promote import ledger, verdicts
from include.references import Ref, digest_bytes, digest_json
from include.spec import UseCase
from include.storage.digests import digest_table
from include.storage.erasures import ERASURES_TABLE
from include.storage.lake import Lake, Row
from include.storage.windows import window_start
from include.train import dask_engine, monitoring_baselines, walks
from include.train.estimators import flat_parameters
from include.train.fits import (
    Fit,
    KnownRows,
    champion_recipe,
    ensure_fits,
    read_fits,
    recipes_without_walk,
)
from include.train.fitting import chosen_params, is_learnable, require_learnable_labels, target
from include.train.recipes import recipes
from include.train.record import PATH, FittedModel, Selection, TrainingRecord, training_key
from include.train.selection import best_baseline, choose_recipe, recipes_to_fit, refresh_instead
from include.train.split import first_test_partition, partitions_of, split, walk_origins


@dask_engine.keep_started()
def train(lake: Lake, spec: UseCase, partition: str, *, registry: Registry) -> Ref:
    """Fit what the spec declares on the data known by ``partition``, and register the challenger.

    The same declaration, partition, data and champion are the same attempt. If the registry has a finished
    run of it, that run is returned. Runs that a killed training left are deleted, and of two concurrent runs
    the first to finish stays.

    Returns
    -------
    Ref
        ``id`` is the MLflow run, ``digest`` the challenger's.

    Raises
    ------
    InsufficientData
        when partitions, labels or classes are missing.
    EvergreenError
        when the registry doesn't answer.
    SpecError
        when an estimator doesn't exist, or its parameters don't fit.
    StaleDecision
        when rows were erased meanwhile.
    """
    erasures = lake.version(ERASURES_TABLE)
    tables = [_read_table(lake, source) for source in spec.sources]
    rows = training_set(lake, spec, partition)
    data = digest_table(rows)
    champion = ledger.champion_at_training(lake, spec, partition, data)
    attempt = TrainingAttempt(lake, spec, partition, registry, rows, data, tables, erasures, champion)
    run = registry.keep_first_finished_run(spec.name, attempt.key)
    if not run:
        _require_rows(lake, spec, partition, rows)
        require_learnable_labels(spec, partition, rows)
        _require_test_rows(lake, spec, partition, rows)
        try:
            with registry.recording(spec.name, attempt.key, f"{spec.name} {partition}") as own_run:
                attempt.fill(own_run)
        except EvergreenError:
            # a concurrent run of the same attempt finished first and deleted this one, or this one failed
            if not (run := registry.keep_first_finished_run(spec.name, attempt.key)):
                raise
        run = run or registry.keep_first_finished_run(spec.name, attempt.key)
    return _to_ref(run, TrainingRecord.from_json(registry.get(run, PATH)), spec)


def _require_rows(lake: Lake, spec: UseCase, partition: str, rows: pa.Table) -> None:
    """Refuse a training without rows if the spine became known only after the decision."""
    if rows.num_rows:
        return
    first = window_start(lake, spec, partition)
    partitions = [key for key in matured(lake, spec, partition) if key >= first]
    require_timely_spine(lake, spec, f"training on {partition}", partitions)


def _require_test_rows(lake: Lake, spec: UseCase, partition: str, rows: pa.Table) -> None:
    """Refuse a training so far beyond the newest data that it has no test partition.

    Labels that stopped coming refuse none: the spine's partitions are there, and the verdict says what lacks.
    """
    labeled = partitions_of(rows)
    first, newest = first_test_partition(labeled, spec, partition), lake.published(spec.features.spine)[-1]
    if len(labeled) > 1 and newest < first:
        raise InsufficientData(
            f"{spec.name}: training on {partition}",
            required=f"data of a test partition, {first} or later",
            found=f"the newest of {newest}",
            remedy=f"train on {newest}, or run the partitions until {partition} first",
        )


@dataclass(frozen=True)
class SourceTable:
    """A source's validated table, as it was before a training read it.

    Parameters
    ----------
    uri, version : its address and version in the lake.
    digest : of its partitions' digests.
    """

    source: str
    uri: str
    version: int
    digest: str


def _read_table(lake: Lake, source: str) -> SourceTable:
    table = f"validated_{source}"
    version = lake.version(table)
    rows = lake.rows("partitions", {"product": source}, ["partition", "digest"], order=("partition",))
    return SourceTable(source, f"{lake.uri}/tables/{table}", version, digest_json(rows))


@dataclass(frozen=True)
class TrainingAttempt:
    """One attempt to train a use case on a partition.

    Parameters
    ----------
    rows : the training set, shape (n, any).
    data : its digest.
    tables : each source's validated table.
    erasures : the version of their ledger before the rows were read.
    champion : to beat, its row of `switches`; None without one. The choice and the evidence are made against
        it, whatever is switched meanwhile.
    """

    lake: Lake
    spec: UseCase
    partition: str
    registry: Registry
    rows: pa.Table
    data: str
    tables: Sequence[SourceTable]
    erasures: int
    champion: Row | None

    @property
    def key(self) -> str:
        """The key under which the registry has the attempt's runs."""
        return training_key(self.spec, self.partition, self.data, self.champion_model)

    @property
    def champion_model(self) -> str:
        """The digest of the champion's model, empty without one."""
        return str(self.champion["model"]) if self.champion else ""

    def fill(self, run: str) -> None:
        """Train, and store everything with the run. All is published before the run is finished."""
        lake, spec, partition = self.lake, self.spec, self.partition
        serving_recipe = champion_recipe(lake, spec, self.champion)
        known_rows = KnownRows(lake, spec, partition, self.rows, self.erasures)
        fits, failures = self._fit_recipes(known_rows, serving_recipe)
        # the serving recipe stays if its walk is the best, also when it can't be fitted now
        known_walks = walks.read(lake, spec, partition).only([*fits, serving_recipe])
        choice = choose_recipe(spec, known_walks, serving_recipe)
        if serving_recipe in fits and (declined := self._declined_change(serving_recipe)):
            choice = refresh_instead(choice, serving_recipe, declined)
        if choice.recipe in failures:
            raise failures[choice.recipe]
        baseline = best_baseline(spec, known_walks, choice, failures)
        parts = split(self.rows, spec, partition)
        test = walks.sample(parts.test, spec)
        challenger = fits[choice.recipe]
        estimator, model = self._fitted_model(challenger, test)
        _, baseline_model = self._fitted_model(fits[baseline], test)
        files = {
            one.path: lake.get(artifacts.model_key(one.digest)) or b"" for one in (model, baseline_model)
        }
        self.registry.put(run, files)
        version = self.registry.register(
            run,
            spec.name,
            estimator,
            artifacts.typical_row(artifacts.model_input(test, spec)),
            {"recipe": challenger.recipe, "fitted_until": challenger.last_fitted},
            artifacts.custom_types(spec, files[model.path]),
        )
        record = TrainingRecord(
            usecase=spec.name,
            partition=partition,
            spec=spec.digest,
            data=self.data,
            code=code_version(),
            version=version,
            constant=outputs.label_constant(spec, target(spec, self.rows)),
            last_fitted=challenger.last_fitted,
            fitted_rows=challenger.rows,
            partitions=parts.partitions(),
            rows={"train": parts.train.num_rows, "test": parts.test.num_rows},
            challenger=model,
            baseline=baseline_model,
            selection=replace(
                Selection.from_walks(
                    spec, known_walks, choice, fits, serving_recipe=serving_recipe, baseline=baseline
                ),
                failed={name: str(error) for name, error in failures.items()},
                champion=self.champion_model,
            ),
        )
        self._publish_monitoring_baselines(record, estimator, test)
        self.registry.put(run, {PATH: record.to_json()})
        self._log(run, record, fits)
        known_rows.require_current()

    def _fit_recipes(
        self, known_rows: KnownRows, serving_recipe: str
    ) -> tuple[dict[str, Fit], dict[str, EvergreenError]]:
        """Fit every recipe on what is known, fill in missing walks, and extend all of them.

        Returns
        -------
        dict, dict
            The fits, and the errors of the recipes that can't be fitted, by name.
        """
        lake, spec, partition = self.lake, self.spec, self.partition
        walks.extend(lake, spec, partition)
        needed = recipes_to_fit(spec, walks.read(lake, spec, partition), serving_recipe)
        origins = walk_origins(partitions_of(self.rows), spec, partition)
        # a training that was killed may have fitted some of its origins
        judged = [key for key in verdicts.judged_trainings(lake) if key < partition]
        trained = [fit for fit in read_fits(lake) if fit.partition in judged]
        new = recipes_without_walk(spec, needed, trained, origins)
        for origin in origins if new else ():
            if is_learnable(spec, known_rows.known_at(origin)):
                ensure_fits(known_rows, origin, new, failures={})
        failures: dict[str, EvergreenError] = {}
        fits = ensure_fits(known_rows, partition, needed, failures)
        for recipe in needed:
            if recipe.estimator == "prior" and recipe.name in failures:
                raise failures[recipe.name]
        if new:
            walks.extend(lake, spec, partition)
        return fits, failures

    def _declined_change(self, serving_recipe: str) -> str:
        """Return the other recipe that the training before proposed, if it doesn't serve; or empty."""
        judged = verdicts.judged_trainings(self.lake)
        earlier = max((key for key in judged if key < self.partition), default="")
        if not earlier:
            return ""
        evidence = Evidence.from_json(verdicts.attempt(self.lake, judged[earlier])["evidence"])
        return verdicts.declined_recipe(evidence, ledger.switches(self.lake), serving_recipe)

    def _publish_monitoring_baselines(
        self, record: TrainingRecord, estimator: Pipeline, test: pa.Table
    ) -> None:
        lake, spec, recipe = self.lake, self.spec, record.challenger.name
        # of rows that the predicting model was not fitted on, if there are any
        unseen = walks.predict_walk(lake, spec, test, [recipe]).get(recipe, np.empty(0))
        unseen = unseen[outputs.finite_rows(unseen)]
        predictions = artifacts.predict(estimator, self.rows, spec)
        profiles = monitoring_baselines.publish_reference(
            lake, spec, record, self.rows, unseen if len(unseen) else predictions
        )
        monitoring_baselines.publish_alarm_limits(lake, spec, record, profiles, self.rows, predictions)

    def _fitted_model(self, fit: Fit, test: pa.Table) -> tuple[Pipeline, FittedModel]:
        estimator = artifacts.load_model(self.lake, fit.model, self.spec)
        predictions = artifacts.predict(estimator, test, self.spec)
        digest = digest_bytes(predictions.tobytes())
        return estimator, FittedModel(fit.recipe, fit.model, digest, chosen_params(estimator))

    def _log(self, run: str, record: TrainingRecord, fits: Mapping[str, Fit]) -> None:
        """Log the parameters, metrics and tags by which a person compares runs."""
        params: dict[str, Any] = {
            "partition": self.partition,
            "seed": self.spec.training.seed,
            "challenger": record.challenger.name,
            "last_fitted": record.last_fitted,
        }
        selection = record.selection
        metrics = {f"walk.{name}.{self.spec.gate.objective}": loss for name, loss in selection.losses.items()}
        metrics |= {f"walk.{name}.weight": weight for name, weight in selection.weights.items()}
        for recipe in recipes(self.spec):
            params |= flat_parameters(recipe)
            if recipe.name in fits and (recipe.search or recipe.early_stopping):
                chosen = chosen_params(artifacts.load_model(self.lake, fits[recipe.name].model, self.spec))
                params |= {f"{recipe.name}.{name}": value for name, value in chosen.items()}
        params |= {f"partitions.{name}": _describe_range(keys) for name, keys in record.partitions.items()}
        params |= {f"rows.{name}": rows for name, rows in record.rows.items()}
        params |= {f"lake.{table.source}": table.version for table in self.tables}
        tags = {
            "evergreen.spec": record.spec,
            "evergreen.code": record.code,
            "evergreen.data": record.data,
            "evergreen.model": record.challenger.digest,
        }
        at = int(self.spec.clock.decision_time(self.partition).timestamp() * 1000)
        self.registry.log(run, at=at, params=params, metrics=metrics, tags=tags)
        self.registry.log_datasets(run, [(table.uri, table.version, table.digest) for table in self.tables])


def _describe_range(partitions: list[str]) -> str:
    return f"{partitions[0]}..{partitions[-1]}" if partitions else "none"


def _to_ref(run: str, record: TrainingRecord, spec: UseCase) -> Ref:
    challenger = record.challenger
    note = f"{spec.name} v{record.version}: {challenger.name}, fitted on {record.fitted_rows:,} rows until "
    note += f"{record.last_fitted}"
    if challenger.chosen:
        note += f" with {', '.join(f'{name} {value}' for name, value in challenger.chosen.items())} chosen"
    note += f"; {record.selection.reason}"
    return Ref(
        id=run,
        partition=record.partition,
        digest=challenger.digest,
        rows=record.fitted_rows,
        note=note,
    )
