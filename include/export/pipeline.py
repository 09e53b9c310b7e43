"""Exports a model of the lake: the champion, or another one that was fitted, with what its card states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.pipeline import Pipeline

from include.errors import ModelError, NotPublished
from include.export.convert import largest_difference, predict_onnx, to_onnx
from include.features.build import features
from include.judge.checks import ONNX_TOLERANCE
from include.judge.evidence import CHALLENGER, Evidence
from include.models import artifacts
from include.promote import ledger
from include.promote.verdicts import attempts
from include.references import digest_bytes
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.windows import partitions_with_rows
from include.train.fits import read_fits


@dataclass(frozen=True)
class Comparison:
    """The largest difference between the predictions of file and model, relative to those above 1.

    Parameters
    ----------
    partition, rows : the newest partition, and the number of its rows; empty and 0 if no partition has rows.
    """

    partition: str = ""
    rows: int = 0
    difference: float = 0.0


@dataclass(frozen=True)
class Export:
    """A model as an ONNX file, and what is known about it.

    Parameters
    ----------
    data, file : the file's bytes, and their digest.
    model : the digest of the model.
    version, recipe : of the model; empty if it was never judged, or isn't recorded as a fit.
    fitted_until : the last partition that it was fitted on.
    verdict : the sentence of its newest verdict.
    metrics : of its recipe on the ``test_rows`` unseen rows of that verdict.
    compared : file and model.
    """

    data: bytes
    file: str
    model: str
    version: str
    recipe: str
    fitted_until: str
    verdict: str
    metrics: dict[str, float]
    test_rows: int
    compared: Comparison

    @property
    def name(self) -> str:
        """What a file of the model is named after: its version, or else its digest."""
        return f"v{self.version}" if self.version else self.model[:12]


def export(lake: Lake, spec: UseCase, model: str = "") -> Export:
    """Return a model as an ONNX file, after comparing it with the model on the newest partition's rows.

    Parameters
    ----------
    model : the beginning of its digest; by default the champion.

    Raises
    ------
    NotPublished
        if there is no champion, or not one model of that digest.
    ModelError
        if the model can't be loaded or converted, or the file predicts otherwise.
    """
    digest = _find_model(lake, model)
    estimator = artifacts.load_model(lake, digest, spec)
    switches = [row for row in ledger.switches(lake) if row["model"] == digest]
    verdicts = [row for row in attempts(lake) if row["model"] == digest]
    fits = [fit for fit in read_fits(lake) if fit.model == digest]
    evidence = Evidence.from_json(verdicts[-1]["evidence"]) if verdicts else None
    versions = [str(row["version"]) for row in (*verdicts, *switches)]
    recipes = [*(row["recipe"] for row in switches), *(fit.recipe for fit in fits)]
    stated = {
        "version": versions[-1] if versions else "",
        "recipe": recipes[-1] if recipes else "",
        "fitted_until": fits[-1].last_fitted if fits else "",
    }
    metadata = {"usecase": spec.name, "problem": spec.problem.kind, "model": digest, **stated}
    data = to_onnx(estimator, spec, metadata)
    return Export(
        data=data,
        file=digest_bytes(data),
        model=digest,
        verdict=str(verdicts[-1]["sentence"]) if verdicts else "",
        metrics=evidence.metrics.get(CHALLENGER, {}) if evidence else {},
        test_rows=sum(evidence.losses.rows) if evidence else 0,
        compared=_compare(lake, spec, estimator, data),
        **stated,
    )


def _find_model(lake: Lake, beginning: str) -> str:
    """Return the digest of the champion, or of the one model whose digest begins so."""
    if not beginning:
        champion = ledger.live_champion(ledger.switches(lake))
        if champion is None:
            remedy = "train first, or name a model of the table fits with --model"
            raise NotPublished(f"{lake.name}: an export", required="a champion", found="none", remedy=remedy)
        return str(champion["model"])
    recorded = [*ledger.switches(lake), *attempts(lake), *map(vars, read_fits(lake))]
    models = {str(row["model"]) for row in recorded}
    matches = [model for model in models if model.startswith(beginning)]
    if len(matches) != 1:
        raise NotPublished(
            f"{lake.name}: model {beginning}",
            required="the beginning of one model's digest",
            found=f"{len(matches)} of {len(models)} models",
            where=f"{lake.uri}/tables/fits",
            remedy="`status` prints the champion's; the table fits has all of them",
        )
    return matches[0]


def _compare(lake: Lake, spec: UseCase, estimator: Pipeline, data: bytes) -> Comparison:
    """Compare file and model on the newest partition's rows, and refuse a file that predicts otherwise."""
    newest = max(partitions_with_rows(lake, spec), default="")
    rows = features(lake, spec, [newest] if newest else [])
    if not rows.num_rows:
        return Comparison()
    onnx = predict_onnx(data, rows, spec)
    difference = largest_difference(onnx, artifacts.predict(estimator, rows, spec))
    if not difference <= ONNX_TOLERANCE:  # also NaN
        not_finite = np.count_nonzero(~np.isfinite(onnx))
        raise ModelError(
            f"{spec.name}: the ONNX file",
            required=f"the model's predictions within {ONNX_TOLERANCE:g}",
            found=f"{not_finite} that are not finite" if not_finite else f"a difference of {difference:.3g}",
            where=f"{rows.num_rows} rows of {newest}",
            remedy="the converter is wrong: report it",
        )
    return Comparison(newest, rows.num_rows, difference)
