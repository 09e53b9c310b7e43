"""Fit the pool, draw the sequences, count the promotions, and say it: one measurement of the whole gate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.calibration import page
from benchmarks.calibration.pool import ATTEMPTS, Pool, pool
from benchmarks.calibration.resample import GATE, PLAIN, WEEK, Rate, draw, passes, rate
from include.reports.text import text_table
from include.spec import UseCase
from include.storage.lake import Lake

PLACE = "reports/calibration.html"
GAINS = (0.0, 0.01, 0.02, 0.05)  # of the champion's mean loss


@dataclass(frozen=True)
class Result:
    """What one gate did to the sequences of one kind of pair.

    Parameters
    ----------
    gain : what every challenger truly saves, as a share of the champion's mean loss.
    recentred : whether the pairs' own differences were taken away first.
    first, within : sequences with a promotion at the first attempt, and at any of them.
    by_attempt : share of sequences with a promotion up to each attempt, shape (20,).
    """

    pairs: str
    gain: float
    recentred: bool
    gate: str
    first: Rate
    within: Rate
    by_attempt: tuple[float, ...]


def calibrate(lake: Lake, spec: UseCase, sequences: int) -> tuple[dict[str, Any], str]:
    """Measure how often the gate promotes noise, and which gains it sees.

    Parameters
    ----------
    sequences : of 20 batch attempts, for each kind of pair.

    Returns
    -------
    dict, str
        The numbers as plain JSON, and the page, which is also stored as ``reports/calibration.html``. The
        same data and declaration give the same page.

    Raises
    ------
    EvergreenError
        when partitions, or a candidate that depends on the seed, are missing.
    """
    started = time.perf_counter()
    experiment = pool(lake, spec)
    fitted = time.perf_counter()
    results = list(_measure(experiment, spec, sequences))
    drawn = time.perf_counter()
    summary = _summary(experiment, spec, sequences, results)
    html = page.render(summary, results)
    lake.replace(PLACE, html.encode())
    found = {
        **summary,
        "results": [asdict(result) for result in results],
        "page": f"{lake.uri}/{PLACE}",
        "seconds": {"fit": round(fitted - started, 1), "resample": round(drawn - fitted, 1)},
    }
    return found, html


def text(found: dict[str, Any]) -> str:
    """Return the numbers as a person reads them in a terminal."""
    rows = [
        {
            "champion": row["pairs"],
            "gain": f"{100 * row['gain']:g} %" if row["recentred"] else "as it is",
            "gate": row["gate"],
            "at the first": str(Rate(**row["first"])),
            f"within {ATTEMPTS}": str(Rate(**row["within"])),
        }
        for row in found["results"]
    ]
    took = "fitting {fit} s, resampling {resample} s".format(**found["seconds"])
    return "\n".join(
        [found["sentence"], "", *text_table(rows, list(rows[0])), "", f"{found['page']}  ({took})"]
    )


def _measure(experiment: Pool, spec: UseCase, sequences: int) -> Iterator[Result]:
    for pairs in experiment.pairs:
        drawn = draw(pairs, experiment.rows, experiment.window, sequences, spec.training.seed)
        cases = [*((gain, True) for gain in GAINS), *([(0.0, False)] if pairs.alike else [])]
        for gain, recentred in cases:
            for gate, passed in passes(drawn, spec.gate, gain, recentred=recentred).items():
                so_far = np.logical_or.accumulate(passed, axis=1)
                yield Result(
                    pairs=pairs.name,
                    gain=gain,
                    recentred=recentred,
                    gate=gate,
                    first=rate(so_far[:, 0]),
                    within=rate(so_far[:, -1]),
                    by_attempt=tuple(float(share) for share in so_far.mean(axis=0)),
                )


def _summary(experiment: Pool, spec: UseCase, sequences: int, results: list[Result]) -> dict[str, Any]:
    """Return what was measured and on what, its sentence first."""
    alike = experiment.pairs[0].name
    by = {(one.gate, one.gain): one for one in results if one.pairs == alike and one.recentred}
    noise, alpha = by[GATE, 0.0].within, spec.gate.alpha
    relation = "more than" if noise.low > alpha else "less than" if noise.high < alpha else "as"
    sentence = (
        f"Of {sequences:,} sequences of {ATTEMPTS} batch attempts without any true gain the gate promoted "
        f"noise in {noise}, {relation} its alpha of {100 * alpha:g} % says; a plain {PLAIN!r} did in "
        f"{by[PLAIN, 0.0].within}. A true gain of 1 % it promoted at the first attempt in "
        f"{by[GATE, 0.01].first}, and within {ATTEMPTS} in {by[GATE, 0.01].within}."
    )
    return {
        "sentence": sentence,
        "usecase": spec.name,
        "spec": spec.digest,
        "recipe": experiment.recipe,
        "models": experiment.models,
        "fitted": _span(experiment.fitted),
        "held_out": {**_span(experiment.partitions), "rows": int(experiment.rows.sum())},
        "objective": spec.gate.objective,
        "alpha": alpha,
        "block": spec.gate.block_partitions,
        "window": experiment.window,
        "attempts": ATTEMPTS,
        "sequences": sequences,
        "resampled": WEEK,
        "seed": spec.training.seed,
    }


def _span(partitions: tuple[str, ...]) -> dict[str, Any]:
    return {"first": partitions[0], "last": partitions[-1], "partitions": len(partitions)}
