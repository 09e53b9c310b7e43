"""How soon the tests of live losses detect a model that lost its relation, and how often they do without one.

Simulated: partitions of 60 rows. Their loss differs from the prior's by a mean, and by a deviation of a tenth
of the prior's loss, as that of a classifier with an AUC of 0.8 does. A year is judged by the walk before it.

Flights: a recipe is fitted every four weeks, and the prior with it. From each fourth week on, what is left of
the year is judged by the walk before, as it was and with its labels turned round.

    [EVERGREEN_LAKE=file:///<a lake with the year>] python -m benchmarks.live
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.features.labels import matured, training_set
from include.models import artifacts
from include.monitor.checks import concept
from include.monitor.checks.live_performance import YEAR, above_reference, above_walk
from include.monitor.context import Finding
from include.monitor.losses import LossSeries, self_expected_loss
from include.spec import UseCase, load
from include.stats.cusum import PairedSums, loss_limits
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fitting import fit_recipe, target
from include.train.split import partitions_of

Array = NDArray[np.float64]
ROWS, PRIOR_LOSS, DEVIATION = 60.0, 0.65, 0.065
WORSE, WORSE_DEVIATION = 0.2, 0.12  # a model that is confidently wrong varies more
SERIES = ("independent", "autocorrelated", "weekly", "yearly", "heavy-tailed")
PASTS = (14, 28, 60, YEAR)  # partitions
RATE = 0.1


def common_course(kind: str, count: int, random: np.random.Generator) -> Array:
    """Return what partitions have in common, with a deviation of about 1, from a random day of the year."""
    day = np.arange(count) + random.integers(YEAR)
    steps = random.standard_t(4, count) / np.sqrt(2) if kind == "heavy-tailed" else random.normal(size=count)
    if kind == "autocorrelated":
        for index in range(1, count):
            steps[index] = 0.5 * steps[index - 1] + np.sqrt(1 - 0.5**2) * steps[index]
    if kind == "weekly":
        return np.asarray(steps + 2 * (day % 7 >= 5) - 4 / 7)
    if kind == "yearly":  # the mean moves by a twentieth of the prior's loss
        return np.asarray(steps + 0.5 * np.sin(2 * np.pi * day / YEAR))
    return np.asarray(steps)


def sums(excess: Array) -> PairedSums:
    """Return partitions with an excess per row over the prior's loss."""
    rows, reference = np.full(len(excess), ROWS), np.full(len(excess), PRIOR_LOSS * ROWS)
    return PairedSums(reference + excess * ROWS, reference, rows)


def false_alarms(
    kind: str, past: int, years: int, *, mean: float = 0.0, past_ratio: bool = False, seed: int = 0
) -> float:
    """Return the alarms per year that begin in years without a change.

    Parameters
    ----------
    past : partitions of the walk before each year; 0 for none.
    mean : by how much the model's loss per row differs from the prior's.
    past_ratio : see `include.stats.cusum.loss_limits`.
    """
    random, alarms = np.random.default_rng(seed), 0
    for _ in range(years):
        excess = mean + DEVIATION * common_course(kind, past + YEAR, random)
        live = sums(excess[past:])
        limits = loss_limits(sums(excess[:past]) if past else None, live, RATE / YEAR, past_ratio=past_ratio)
        alarm = limits.statistic(live) >= limits.threshold
        alarms += int(alarm[0]) + int((alarm[1:] & ~alarm[:-1]).sum())
    return alarms / years


def delays(
    past: int, seeds: int, *, mean: float, kind: str = "independent", past_ratio: bool = False
) -> Array:
    """Return after how many partitions a model whose loss is `WORSE` above the prior's is detected.

    Parameters
    ----------
    mean : its difference from the prior before, on the walk.

    Returns
    -------
    ndarray
        By seed; infinity for one that isn't detected within 60 partitions.
    """
    found = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        before = mean + DEVIATION * common_course(kind, past, random)
        live = sums(WORSE + WORSE_DEVIATION * common_course(kind, 60, random))
        limits = loss_limits(sums(before) if past else None, live, RATE / YEAR, past_ratio=past_ratio)
        alarms = np.flatnonzero(limits.statistic(live) >= limits.threshold)
        found.append(alarms[0] + 1.0 if len(alarms) else np.inf)
    return np.array(found)


def flights() -> dict[str, tuple[int, int, list[int]]]:
    """Return by finding the false alarms, the partitions judged, and the partitions until labels turned."""
    lake, spec = Lake("flight_delay"), load("flight_delay")
    rows = training_set(lake, spec, matured(lake, spec, None)[-1])
    partitions = partitions_of(rows)
    origins = partitions[27::28]
    recipe = {c.name: c for c in (*spec.training.baselines, *spec.training.candidates)}
    parts: list[pa.Table] = []
    predicted: list[Array] = []
    prior: list[Array] = []
    for first, last in zip(origins, [*origins[1:], partitions[-1]], strict=True):
        seen = rows.filter(pc.less_equal(rows["partition"], first))
        part = rows.filter(
            pc.and_(pc.greater(rows["partition"], first), pc.less_equal(rows["partition"], last))
        )
        parts.append(part)
        for name, values in ((spec.training.candidates[0].name, predicted), ("prior", prior)):
            values.append(artifacts.predict(fit_recipe(spec, recipe[name], seen), part, spec))
    walked = pa.concat_tables(parts)
    as_is, turned = (
        _series(spec, walked, np.concatenate(predicted), np.concatenate(prior), turn=turn)
        for turn in (False, True)
    )
    results: dict[str, tuple[int, int, list[int]]] = {}
    for start in range(28, len(as_is.partitions) - 28, 28):
        before = part_of(as_is, 0, start)
        for live, is_turned in (
            (part_of(as_is, start, None), False),
            (part_of(turned, start, start + 42), True),
        ):
            alarms: dict[str, list[bool]] = {}
            for end in range(1, len(live.partitions) + 1):
                for finding in findings(spec, part_of(live, 0, end), before):
                    alarms.setdefault(finding.subject, []).append(finding.outcome == "alarm")
            for subject, alarm in alarms.items():
                count, judged, until = results.get(subject, (0, 0, []))
                begun = sum(now and not earlier for earlier, now in zip([False, *alarm], alarm, strict=False))
                if is_turned:
                    results[subject] = count, judged, [*until, [*alarm, True].index(True) + 1]
                else:
                    results[subject] = count + begun, judged + len(alarm), until
    return results


def findings(spec: UseCase, live: LossSeries, before: LossSeries) -> list[Finding]:
    """Return what the tests say of live partitions, by the walk before them."""
    past = PairedSums(before.loss, before.constant, before.rows)
    newest = part_of(before, -spec.training.test, None)
    expected = PairedSums(newest.loss, newest.expected, newest.rows)
    rates = PairedSums(newest.observed, newest.predicted, newest.rows)
    return [
        above_reference(spec, live, "constant", past),
        above_walk(spec, live, past),
        concept.check_lasting_loss(spec, live, expected),
        *concept.check_calibration(spec, live, (rates,)),
    ]


def part_of(series: LossSeries, first: int, last: int | None) -> LossSeries:
    """Return some of the partitions."""
    return LossSeries(*(getattr(series, name)[first:last] for name in LossSeries.__dataclass_fields__))


def _series(spec: UseCase, rows: pa.Table, predicted: Array, prior: Array, *, turn: bool) -> LossSeries:
    partition, actual = np.array(rows["partition"].to_pylist()), target(spec, rows)
    actual = 1 - actual if turn else actual
    losses, of_prior = (row_losses(spec.objective, actual, values) for values in (predicted, prior))
    partitions = partitions_of(rows)
    positions = [np.flatnonzero(partition == key) for key in partitions]
    own = np.array([self_expected_loss(spec, predicted[index]) for index in positions], dtype=float)
    loss, prior_loss, observed, expected = (
        np.array([values[index].sum() for index in positions])
        for values in (losses, of_prior, actual, predicted)
    )
    sizes = np.array([float(len(index)) for index in positions])
    return LossSeries(
        tuple(partitions),
        sizes,
        loss,
        prior_loss,
        prior_loss,
        own,
        observed,
        expected,
        ("constant",) * len(positions),
    )


def main() -> None:
    """Print the delays and the false alarms, and those of the flights if a lake is named."""
    print("| walk, partitions | before | median | 95 % | within 10 |\n|---|---|---|---|---|")
    for past in (0, *PASTS):
        for name, mean in (("ties with the prior", 0.0), ("loses a fifth less", -0.2 * PRIOR_LOSS)):
            found = delays(past, 500, mean=mean)
            low, high = np.quantile(found, [0.5, 0.95], method="inverted_cdf")
            print(f"| {past} | {name} | {low:g} | {high:g} | {np.mean(found <= 10):.1%} |")
    walks = " | ".join(f"walk of {past}" for past in PASTS)
    print(f"\n| series | test | {walks} |\n|---|---|{'---|' * len(PASTS)}")
    for kind in SERIES:
        for name, mean, past_ratio in (
            ("tie, against the constant", 0.0, False),
            ("a fifth less, against the constant", -0.2 * PRIOR_LOSS, False),
            ("against its walk", 0.0, True),
        ):
            rates = [false_alarms(kind, past, 500, mean=mean, past_ratio=past_ratio) for past in PASTS]
            print(f"| {kind} | {name} |", " | ".join(f"{rate:.3f}" for rate in rates), "|", flush=True)
    if os.environ.get("EVERGREEN_LAKE"):
        print("\n| finding | false alarms a year | labels turned: median | most |\n|---|---|---|---|")
        for subject, (count, judged, until) in flights().items():
            print(f"| {subject} | {count / judged * YEAR:.2f} | {np.median(until):g} | {max(until)} |")


if __name__ == "__main__":
    main()
