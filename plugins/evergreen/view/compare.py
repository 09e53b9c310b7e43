"""The page that compares two model versions: what each was fitted on, its walk, live losses and verdicts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from evergreen.view.access import Opened
from evergreen.view.html import page
from include.reports.html import metric_label
from include.reports.paths import page_path
from include.spec.metrics import greater_is_better

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake, Row
    from include.train.fits import Fit

router = APIRouter()
Losses = dict[str, tuple[int, float]]  # by partition: labeled rows, sum of the losses


@dataclass(frozen=True)
class Version:
    """A model that was a challenger, a champion or a baseline.

    Parameters
    ----------
    name : the version in the registry; of another model that was deployed with it, such as its baseline, with
        the recipe: ``3-prior``.
    partition : of the training.
    switches : its rows of `switches`, oldest first.
    """

    name: str
    version: str
    model: str
    recipe: str
    partition: str
    spec: str
    code: str
    data: str
    switches: list[Row] = field(default_factory=list)


@router.get("/compare/{usecase}")
def compare(request: Request, opened: Opened, a: str = "", b: str = "") -> HTMLResponse:
    """Show two versions side by side; without both, the list to choose from."""
    lake, spec = opened.lake, opened.spec
    versions = read_versions(lake)
    for name in (a, b):
        if name and name not in versions:
            listed = ", ".join(versions) or "none yet"
            raise HTTPException(404, f"{spec.name} has no version {name[:100]!r}: there are {listed}.")
    chosen = [versions[a], versions[b]] if a and b else []
    switches = [row for version in versions.values() for row in version.switches]
    return page(
        request,
        "compare.html",
        usecase=spec.name,
        a=a,
        b=b,
        versions=[
            (version, _last_role(version, switches))
            for version in sorted(versions.values(), key=lambda one: one.partition, reverse=True)
        ],
        **(comparison(lake, spec, *chosen) if chosen else {"sides": []}),
    )


def read_versions(lake: Lake) -> dict[str, Version]:
    """Return every version that was judged or deployed by name, oldest first."""
    from include.promote import ledger

    names = ["version", "model", "partition", "spec", "data", "code"]
    attempts = lake.rows("attempts", None, names, order=["recorded"])  # without the evidence, which is large
    switches = ledger.switches(lake)
    recipes = {row["model"]: row["recipe"] for row in lake.rows("fits", None, ["model", "recipe"])}
    recipes |= {row["model"]: recipe for row in switches if (recipe := row.get("recipe"))}
    versions: dict[str, Version] = {}
    by_model: dict[tuple[str, str], str] = {}
    for row in attempts:
        if row["version"] not in versions:
            recipe = recipes.get(row["model"], "")
            versions[row["version"]] = Version(name=row["version"], recipe=recipe, **row)
            by_model[row["version"], row["model"]] = row["version"]
    for row in switches:
        version, model = row["version"], row["model"]
        recipe = recipes.get(model, "")
        if (version, model) not in by_model:
            name = version if version not in versions else f"{version}-{recipe or row['role']}"
            by_model[version, model] = name
            versions.setdefault(
                name, Version(name, version, model, recipe, row["judged_on"], spec="", code="", data="")
            )
        versions[by_model[version, model]].switches.append(row)
    return versions


def comparison(lake: Lake, spec: UseCase, first: Version, second: Version) -> dict[str, Any]:
    """Return what the page shows of two versions, and the difference of their recipes' walks."""
    from include.promote import ledger
    from include.reports.page_charts import difference_chart
    from include.train.fits import read_fits

    pair = (first, second)
    fits = {fit.model: fit for fit in read_fits(lake)}
    walks = _walks(lake, spec, {fit.recipe_key for version in pair if (fit := fits.get(version.model))})
    switches, objective = ledger.switches(lake), str(spec.gate.objective)
    live = {version.model: _live(lake, version.model) for version in pair}
    sides = [
        _side(lake, spec, version, fits.get(version.model), walks, live[version.model], switches)
        for version in pair
    ]
    recipe_keys = [fits[version.model].recipe_key if version.model in fits else "" for version in pair]
    both = (walks.get(key, {}) for key in recipe_keys)
    difference = _difference(spec, *both) if all(recipe_keys) else None
    chart = ""
    if difference and recipe_keys[0] != recipe_keys[1]:
        names = f"{second.name} compared with {first.name}, by their recipes' walks"
        chart = difference_chart(
            names,
            f"{metric_label(objective)} saved per row",
            difference["partitions"],
            difference["gains"],
            difference["gain"],
            difference["high"],
        )
    return {
        "sides": sides,
        "objective": metric_label(objective),
        "unit": spec.objective.unit.format(target=spec.problem.target),
        "same_recipe": all(recipe_keys) and recipe_keys[0] == recipe_keys[1],
        "difference": difference,
        "metrics": sorted({name for side in sides for name in side["metrics"]}),
        "more_is_better": partial(greater_is_better, spec=spec),
        "params": sorted({name for side in sides for name in side["params"]}),
        "chart": Markup(chart),  # noqa: S704  # matplotlib has escaped every text
    }


def _side(
    lake: Lake,
    spec: UseCase,
    version: Version,
    fit: Fit | None,
    walks: dict[str, dict[str, Row]],
    live: list[Row],
    switches: Sequence[Row],
) -> Row:
    """Return one version's figures."""
    walk = walks.get(fit.recipe_key, {}) if fit else {}
    own = {key: row for key, row in walk.items() if row["model"] == version.model}
    declared, params = _declared(spec, version, fit)
    return {
        "version": asdict(version),
        "fit": fit and asdict(fit),
        "declared": declared,
        "params": params,
        "walk": _mean({key: (row["rows"], row["loss"]) for key, row in walk.items()}),
        "own": _mean({key: (row["rows"], row["loss"]) for key, row in own.items()}),
        "live": _mean({row["partition"]: (row["rows"], row["loss"]) for row in live}),
        "baseline": _mean({row["partition"]: (row["rows"], row["baseline"]) for row in live}),
        "metrics": _live_metrics(lake, live),
        "verdicts": _verdicts(lake, spec, version),
        "periods": _periods(version, switches),
    }


def _declared(spec: UseCase, version: Version, fit: Fit | None) -> tuple[str, dict[str, Any]]:
    """Return whether a version's recipe is declared as it was, and its parameters as declared now."""
    from include.train.recipes import recipe_key, recipes_by_name

    recipe = recipes_by_name(spec).get(version.recipe)
    if recipe is None:
        return "no longer", {}
    params = {"estimator": recipe.estimator, "window": recipe.window or "all history"}
    params |= {**recipe.options, **recipe.params}
    if fit is None:
        return "not recorded", params
    return ("yes" if recipe_key(spec, recipe) == fit.recipe_key else "differently since"), params


def _walks(lake: Lake, spec: UseCase, recipe_keys: Iterable[str]) -> dict[str, dict[str, Row]]:
    """Return each recipe's walk by partition as known now, the newest partitions, ascending."""
    from include.storage.lake import newest_known
    from include.train.walks import TABLE, walk_window

    columns = ["partition", "as_of", "recipe_key", "model", "rows", "loss"]
    rows = lake.rows(TABLE, {"recipe_key": sorted(recipe_keys)}, columns)
    predicted = (row for row in rows if row["rows"] and math.isfinite(row["loss"]))
    walks: dict[str, dict[str, Row]] = defaultdict(dict)
    for (partition, key), row in sorted(newest_known(predicted, "partition", "recipe_key").items()):
        walks[key][partition] = row
    return {key: dict(list(walk.items())[-walk_window(spec) :]) for key, walk in walks.items()}


def _mean(losses: Losses) -> Row | None:
    """Return a mean loss per row with its partitions and rows; None without any."""
    rows = sum(count for count, _ in losses.values())
    if not rows:
        return None
    keys = sorted(losses)
    mean = sum(loss for _, loss in losses.values()) / rows
    return {"mean": mean, "partitions": len(keys), "rows": rows, "first": keys[0], "last": keys[-1]}


def _difference(spec: UseCase, first: dict[str, Row], second: dict[str, Row]) -> Row | None:
    """Return by how much the second walk's loss per row is lower on the partitions that both have.

    None if there are none. The interval has the gate's level on either side.
    """
    from include.stats.intervals import estimate_gain, partitions_needed

    # the two are compared on the same rows; a walk that isn't extended yet may have other ones
    common = [key for key in sorted(first) if key in second and first[key]["rows"] == second[key]["rows"]]
    if not common:
        return None
    rows = [first[key]["rows"] for key in common]
    worse, better = ([walk[key]["loss"] for key in common] for walk in (first, second))
    block, gain, high = spec.gate.block_partitions, None, None
    if len(common) >= partitions_needed(block):
        gain = estimate_gain(worse, better, rows, block, spec.gate.alpha)
        high = -estimate_gain(better, worse, rows, block, spec.gate.alpha).low
    return {
        "partitions": common,
        "rows": sum(rows),
        "means": (sum(worse) / sum(rows), sum(better) / sum(rows)),
        "saved": (sum(worse) - sum(better)) / sum(rows),
        "gain": gain,
        "high": high,
        "level": 1 - 2 * spec.gate.alpha,
        "gains": [(one - other) / count for one, other, count in zip(worse, better, rows, strict=True)],
    }


def _live(lake: Lake, model: str) -> list[Row]:
    """Return the losses of the partitions that a model served, as known now."""
    from include.storage.lake import newest_known

    columns = ["partition", "as_of", "rows", "loss", "baseline"]
    newest = newest_known(lake.rows("losses", {"model": model}, columns), "partition")
    return [row for _, row in sorted(newest.items()) if row["rows"]]


def _live_metrics(lake: Lake, live: Sequence[Row]) -> dict[str, float]:
    """Return each realized metric as the mean over a model's partitions, weighted by their rows.

    Only partitions whose labeled rows the model served alone count, because metrics are of whole partitions.
    """
    from include.monitor.performance import CONSTANT_PREFIX, newest_metrics

    served = {row["partition"]: row["rows"] for row in live}
    if not served:
        return {}
    values: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for partition, metrics in newest_metrics(lake, sorted(served)).items():
        for metric, row in metrics.items():
            is_constant = metric.startswith(CONSTANT_PREFIX)
            if not is_constant and row["value"] is not None and row["rows"] == served[partition]:
                values[metric].append((row["value"], row["rows"]))
    return {
        metric: sum(value * rows for value, rows in pairs) / sum(rows for _, rows in pairs)
        for metric, pairs in values.items()
    }


def _verdicts(lake: Lake, spec: UseCase, version: Version) -> list[Row]:
    """Return the verdicts on a version, each with what blocks its switch, and its report if stored."""
    from include.promote.promotion import attempt_outcome, read_ledgers

    where = {"version": version.version, "model": version.model}
    rows, ledgers = lake.rows("attempts", where, order=["recorded"]), read_ledgers(lake, spec)
    paths = [page_path(row["partition"], row["key"]) for row in rows]
    return [
        {
            **row,
            "outcome": attempt_outcome(ledgers, row),
            "report": path if lake.size(f"reports/{path}") is not None else "",
        }
        for row, path in zip(rows, paths, strict=True)
    ]


def _periods(version: Version, switches: Sequence[Row]) -> list[Row]:
    """Return when a version had a role: each switch to it, and the partition from which another had it."""
    from include.promote.ledger import kind_text, superseded_from, took_effect

    periods = []
    for row in version.switches:
        own = {name: row[name] for name in ("role", "effective_from", "by", "reason")}
        until = superseded_from(row, switches)
        own |= {"kind": kind_text(row["kind"]), "until": until, "took_effect": took_effect(row, until)}
        periods.append(own)
    return periods


def _last_role(version: Version, switches: Sequence[Row]) -> list[Row]:
    """Return the newest period that took effect, else the newest; nothing of a version without a role."""
    periods = _periods(version, switches)
    return sorted(periods, key=lambda period: period["took_effect"])[-1:]
