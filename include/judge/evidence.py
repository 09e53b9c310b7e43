"""The evidence: a small record of everything that the gate may use, stored so that it can be judged again.

Losses are stored per partition and not per row, because the partition is the unit that is resampled: rows of
one partition are not independent. The record contains no attempt number and no clock time, so evaluating the
same data again gives the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from include.errors import EvergreenError, StoredDataError
from include.models.outputs import Constant
from include.references import digest_json


@dataclass(frozen=True)
class Slice:
    """The objective's losses of challenger and rival on one slice of the rows, by partition of the evidence.

    Parameters
    ----------
    name : for example ``origin = JFK`` or ``distance in [184, 502)``.
    declared : whether the spec declares a slice by its column; otherwise the slice is automatic.
    rows : labeled rows by partition, 0 where the slice has none, shape (n,).
    challenger, rival : sums of the per-row losses of their recipes' walks by partition, shape (n,).
    """

    name: str
    declared: bool
    rows: tuple[int, ...]
    challenger: tuple[float, ...]
    rival: tuple[float, ...]


@dataclass(frozen=True)
class GroupSums:
    """Sums over a group's rows by partition of the evidence, 0 where it has none, each of shape (n,).

    Parameters
    ----------
    excess : predicted probability minus label; the others are counts of rows.
    """

    rows: tuple[int, ...]
    positives: tuple[int, ...]
    selected: tuple[int, ...]
    selected_positives: tuple[int, ...]
    excess: tuple[float, ...]


@dataclass(frozen=True)
class Fairness:
    """The rates of the groups of one sensitive column.

    Parameters
    ----------
    groups : group -> ``rows``, ``selection_rate``, ``tpr``, ``fpr``, ``calibration``; only groups with enough
        rows.
    figures : by the names of `include.spec.gate.FAIRNESS`; a figure that is undefined for these rows is
        missing.
    sums : group -> what its rates and their intervals are computed from.
    """

    column: str
    groups: dict[str, dict[str, float]]
    figures: dict[str, float]
    sums: dict[str, GroupSums] = field(default_factory=dict)


@dataclass(frozen=True)
class EdgeCase:
    """The challenger's behavior on rows that were corrupted on purpose.

    Parameters
    ----------
    name : for example ``temp missing``.
    kind : ``missing``, ``noise``, ``unseen``, ``extreme``, ``dtype``, ``rows`` or ``columns``.
    passed : whether the model gave a finite prediction for each row, or rejected unusable input with a
        `ModelError`.
    loss_increase : relative increase of the mean loss over the original rows; None if there is no loss to
        compare.
    note : what happened instead, if it didn't pass.
    """

    name: str
    kind: str
    passed: bool
    loss_increase: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ServingTest:
    """The challenger as it would serve: loaded in a fresh process from its stored bytes.

    Parameters
    ----------
    identical : whether its predictions there are bit-identical to those in this process.
    figures : by the names of `include.spec.gate.SERVING`: latency of one row (ms), rows per second of a
        partition's batch, size of the stored bytes (MB), memory that loading and predicting took (MB).
    note : what went wrong, if they aren't identical.
    """

    identical: bool
    figures: dict[str, float]
    note: str = ""


@dataclass(frozen=True)
class OnnxFile:
    """The challenger as an ONNX file, on the test rows.

    Parameters
    ----------
    difference : the largest one between its predictions and the challenger's, relative to those above 1; None
        if there is no such file, or a prediction of it isn't finite.
    note : why there is no difference.
    """

    difference: float | None
    note: str = ""


@dataclass(frozen=True)
class NewestScores:
    """The scores of features on the newest test partitions alone.

    Parameters
    ----------
    first : the first of these partitions; empty if no class has enough rows.
    single_feature, all_features, revealing : as in `Leakage`.
    """

    first: str = ""
    single_feature: dict[str, float] = field(default_factory=dict)
    all_features: dict[str, float] = field(default_factory=dict)
    revealing: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Leakage:
    """Figures that show whether the challenger is too good to be true.

    Parameters
    ----------
    single_feature : feature -> score of a small tree that uses only this feature, on the test partitions:
        ROC-AUC (0.5 to 1; the highest over the classes of a multiclass problem) or R². Classes in
        ``too_few_rows`` are left out.
    shuffled_losses : the objective's loss by partition of the challenger's recipe, fitted on shuffled labels
        and rescaled to the labels' constant; of several shuffles the one with the highest loss, shape (n,).
    constant_losses : the loss by partition of the constant to which they are rescaled, shape (n,).
    loss_reduction : share of the prior's loss that the challenger removes on the test partitions.
    past_loss_reductions : the same of the use case's earlier attempts with this objective, oldest first.
    too_few_rows : class, or else the target, -> its number of test rows, if there are too few of them to
        judge a feature; for a class, the smaller of its own rows and all others.
    all_features : model -> the same score of the models that use all features: the challenger, and of ours
        a linear one and one of trees.
    revealing : feature -> how much lower the score of the better one of ours is if the feature's values are
        permuted; empty if no score of ours reached ``gate.leak.max_score``.
    objective : whose loss is reduced; empty in evidence of earlier code.
    copied_rows : how many test rows have the features and the label of a row before them; 0 in evidence of
        earlier code.
    newest : the scores on the newest test partitions alone; empty in evidence of earlier code.
    """

    single_feature: dict[str, float] = field(default_factory=dict)
    shuffled_losses: tuple[float, ...] = ()
    loss_reduction: float | None = None
    past_loss_reductions: tuple[float, ...] = ()
    too_few_rows: dict[str, int] = field(default_factory=dict)
    all_features: dict[str, float] = field(default_factory=dict)
    constant_losses: tuple[float, ...] = ()
    objective: str = ""
    copied_rows: int = 0
    revealing: dict[str, float] = field(default_factory=dict)
    newest: NewestScores = NewestScores()


@dataclass(frozen=True)
class Refit:
    """Figures that show whether a new fit is broken.

    Parameters
    ----------
    moved : root mean square distance of its predictions from those of the recipe's previous fit, on rows that
        neither was fitted on; None for a recipe's first fit.
    past_moves : the same of the recipe's earlier fits, oldest first.
    rows : labeled rows of the newest partitions, which the serving model wasn't fitted on, shape (n,).
    twin, serving : sums of the losses by partition of a twin, fitted on today's data without these
        partitions, and of the serving model, shape (n,); empty if the serving model can't be loaded or can't
        predict them.
    refused : the same of a fit of the recipe that was refused since the last accepted one, on the newest
        of these partitions, which it wasn't fitted on; empty if there is none.
    seen_rows : rows of the test partitions that the fit and the recipe's previous fit were both fitted on,
        shape (m,).
    seen_now, seen_before : sums of the losses on them by partition of the two, shape (m,).
    seen_walk : the same of the recipe's walk, whose fits hadn't seen them; None where there was no fit yet.
    growth : by what share a row's weight in the fit fell since the previous fit, from 0 to 1: more rows share
        it, and with a half-life rows age.
    """

    moved: float | None = None
    past_moves: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()
    twin: tuple[float, ...] = ()
    serving: tuple[float, ...] = ()
    refused: tuple[float, ...] = ()
    seen_rows: tuple[int, ...] = ()
    seen_now: tuple[float, ...] = ()
    seen_before: tuple[float, ...] = ()
    seen_walk: tuple[float | None, ...] = ()
    growth: float = 0.0


@dataclass(frozen=True)
class Facts:
    """Everything that was measured besides losses and metrics.

    Parameters
    ----------
    rival : the model that slices are compared with: ``champion``, or else the strongest baseline.
    unseen_shares : feature -> share of the scored rows whose value the challenger never saw in training: an
        unseen category, or a number outside the range.
    champion_unseen_shares : the same of the champion, on the same rows; empty without one to compare with.
    importance : feature -> mean increase of the objective's loss when its values are permuted.
    refit_loss : the mean loss on the test partitions of the deployed model, which was fitted on them as well.
    refit : None without a champion.
    onnx : None unless the gate requires it.
    labeled : how many partitions of the training rows have labels; None in older evidence.
    """

    rival: str = ""
    slices: tuple[Slice, ...] | None = None
    fairness: tuple[Fairness, ...] = ()
    edge_cases: tuple[EdgeCase, ...] = ()
    serving: ServingTest | None = None
    leakage: Leakage = Leakage()
    unseen_shares: dict[str, float] = field(default_factory=dict)
    champion_unseen_shares: dict[str, float] = field(default_factory=dict)
    importance: dict[str, float] = field(default_factory=dict)
    refit_loss: float | None = None
    refit: Refit | None = None
    onnx: OnnxFile | None = None
    labeled: int | None = None


SCHEMA = 4
CHALLENGER = "challenger"
CHAMPION = "champion"
BASELINE_PREFIX = "baseline:"


def evidence_key(key: str) -> str:
    """Return the key of the object with an attempt's evidence."""
    return f"evaluations/{key}.json"


def evidence_rows_key(key: str) -> str:
    """Return the key of the Parquet object with the evidence's test rows, from which the curves are drawn."""
    return f"evaluations/{key}.parquet"


def attempt_key(usecase: str, partition: str, spec: str, data: str, champion: str) -> str:
    """Return the key of an attempt.

    Parameters
    ----------
    spec, data : digests of the declaration and of the training set.
    champion : digest of the model to beat; empty if there is none, and for an attempt of earlier code.
    """
    return digest_json([usecase, partition, spec, data, *filter(None, [champion])])


def attempt_key_of(evidence: str) -> str:
    """Return the key of the attempt whose evidence is stored under this object key."""
    return PurePosixPath(evidence).stem


@dataclass(frozen=True)
class Losses:
    """The objective's losses on the test partitions, on the same rows for every model.

    They are those of the walk of each model's recipe: of its fits before each partition, since the model
    itself was fitted on these rows.

    Parameters
    ----------
    partitions : the matured test partitions, ascending, shape (n,).
    rows : labeled rows of each partition, each at least 1, shape (n,).
    sums : model name -> sum of the per-row losses of each partition, shape (n,); the names are
        ``challenger``, ``champion`` if another recipe serves, and ``baseline:<name>``.

    Raises
    ------
    EvergreenError
        if shapes disagree, partitions repeat or a sum isn't finite: such a record can't be judged.
    """

    partitions: tuple[str, ...]
    rows: tuple[int, ...]
    sums: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if list(self.partitions) != sorted(set(self.partitions)):
            required = "ascending partitions, each once"
            remedy = "give each partition once, in ascending order"
            raise EvergreenError("losses", required=required, found=", ".join(self.partitions), remedy=remedy)
        if len(self.rows) != len(self.partitions) or any(rows < 1 for rows in self.rows):
            required = f"at least one row in each of {len(self.partitions)} partitions"
            remedy = "give the number of labeled rows of each partition, and leave out one without any"
            raise EvergreenError("losses", required=required, found=str(list(self.rows)), remedy=remedy)
        if CHALLENGER not in self.sums:
            raise EvergreenError(
                "losses",
                required=f"a model named {CHALLENGER}",
                found=list_names(self.sums),
                remedy=f"add the sums of {CHALLENGER}",
            )
        for name, sums in self.sums.items():
            if len(sums) != len(self.partitions) or not all(map(math.isfinite, sums)):
                raise EvergreenError(
                    f"losses of {name}",
                    required=f"{len(self.partitions)} finite sums, one per partition",
                    found=str(list(sums)),
                    remedy="a model whose predictions aren't finite can't be evaluated; check its training",
                )


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict is based on.

    Parameters
    ----------
    usecase, partition : the use case, and the partition of the training.
    spec, data, code : digests of the declaration and of the training data, and the code's commit.
    version, model : the challenger's version in the registry, and the digest of its bytes.
    constant : the constant prediction that the training's labels imply: their mean or quantile, or the share
        of each class.
    baseline_model : digest of the strongest baseline, which is promoted with the challenger as a step of its
        fallback chain.
    metrics : model name -> metric -> value, of the same predictions as the losses.
    losses : the objective's losses by partition.
    champion : digest of the champion that served when the recipe was chosen, empty if there was none.
    last_fitted : the last partition that the fit behind the first test partition's predictions was fitted on.
    fitted : the last partition that the challenger itself was fitted on, later than the test partitions.
    recipe : name of the challenger's recipe in the spec.
    facts : everything else that was measured.
    note : what else should be known; only in evidence of earlier code.
    selection : why the recipe was chosen, see `include.train.record.Selection`; empty in older evidence.
    """

    usecase: str
    partition: str
    spec: str
    data: str
    code: str
    version: str
    model: str
    constant: Constant
    baseline_model: str
    metrics: dict[str, dict[str, float]]
    losses: Losses
    champion: str
    last_fitted: str
    fitted: str
    recipe: str
    facts: Facts = Facts()
    note: str = ""
    selection: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def is_refresh(self) -> bool:
        """Whether the challenger is a refit of the recipe that serves."""
        return bool(self.champion) and self.selection.get("serving") == self.recipe

    @cached_property
    def key(self) -> str:
        """The attempt's key: equal use case, partition, declaration, data and champion are the same attempt.

        Earlier code didn't record the champion that the recipe was chosen against.
        """
        champion = self.selection.get("champion") or ""
        return attempt_key(self.usecase, self.partition, self.spec, self.data, champion)

    def to_json(self) -> str:
        """Return canonical JSON: equal evidence gives equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence:
        """Parse the output of `to_json`; a field that earlier code didn't write gets its default.

        Raises
        ------
        StoredDataError
            if the schema is another one, a field without a default is missing, or a field is unknown.
        """
        raw: dict[str, Any] = json.loads(text)
        try:
            if raw.get("schema") == SCHEMA:
                evidence: Evidence = TypeAdapter(cls).validate_python(raw)
                if _contains(json.loads(evidence.to_json()), raw):
                    return evidence
            problem = f"schema {raw.get('schema')} with {', '.join(sorted(raw))}"
        except ValidationError as error:
            problem = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise StoredDataError(
            "evidence",
            required=f"schema {SCHEMA} with {', '.join(sorted(f.name for f in fields(cls)))}",
            found=problem,
            remedy="evaluate again with this code",
        )


def _contains(whole: Any, part: Any) -> bool:
    """Tell whether a JSON value contains all of another one; its objects may have additional fields."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _contains(whole[name], value) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list) and len(part) == len(whole):
        return all(map(_contains, whole, part))
    return bool(whole == part)


def list_names(names: Iterable[str]) -> str:
    """Return names as a text, in order."""
    return ", ".join(sorted(names)) or "none"
