"""What the gate may know: a small, plain record that can be kept for good and judged again by anyone.

Losses are kept per partition and not per row, since the partition is what is resampled: rows of one partition
are not independent. The record names no attempt and no clock, so evaluating the same data again gives the
same bytes.
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

from include.errors import EvergreenError
from include.models.outputs import Constant
from include.references import digest_json


@dataclass(frozen=True)
class Slice:
    """The objective's losses on a part of the rows, challenger beside rival.

    On the partitions of the evidence.

    Parameters
    ----------
    name : as ``origin = JFK`` or ``distance in [184, 502)``.
    declared : whether the spec names its column; else it is an automatic one.
    rows : labelled rows by partition, 0 where the slice has none, shape (n,).
    challenger, rival : sums of the per-row losses by partition, shape (n,).
    """

    name: str
    declared: bool
    rows: tuple[int, ...]
    challenger: tuple[float, ...]
    rival: tuple[float, ...]


@dataclass(frozen=True)
class Fairness:
    """How the groups of one sensitive column fare.

    Parameters
    ----------
    groups : group -> ``rows``, ``selection_rate``, ``tpr``, ``fpr``, ``calibration``; groups with enough
        rows only.
    figures : by the names of `include.spec.gate.FAIRNESS`; one that the rows can't give is missing.
    """

    column: str
    groups: dict[str, dict[str, float]]
    figures: dict[str, float]


@dataclass(frozen=True)
class EdgeCase:
    """What the challenger made of rows that were harmed on purpose.

    Parameters
    ----------
    name : as ``temp missing``.
    kind : what was done: ``missing``, ``noise``, ``unseen``, ``extreme``, ``dtype``, ``rows`` or ``columns``.
    held : whether it gave a finite prediction a row, or refused in a sentence what can't be predicted.
    rise : relative rise of the mean loss over the unharmed rows; None where there is no loss to compare.
    note : what happened instead, where it didn't hold.
    """

    name: str
    kind: str
    held: bool
    rise: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Serving:
    """The challenger as it would serve: loaded in a fresh process from its stored bytes.

    Parameters
    ----------
    same : whether it predicted there what it predicts here, to the bit.
    figures : by the names of `include.spec.gate.SERVING`: latency of one row (ms), rows per second of a
        partition's batch, size of the stored bytes (MB), memory that loading and predicting took (MB).
    note : what went wrong, where it isn't the same.
    """

    same: bool
    figures: dict[str, float]
    note: str = ""


@dataclass(frozen=True)
class Leak:
    """Whether it is too good to be true.

    Parameters
    ----------
    alone : feature -> ROC-AUC (0.5 to 1; of several classes the highest) or R², on the test partitions, of a
        small tree that sees it only; without the classes in ``too_few``.
    shuffled : the objective's loss by partition of the challenger's recipe fitted on shuffled labels, at the
        prior's level, of several shuffles the one that loses most, shape (n,).
    saved : share of the prior's loss that the challenger saves on the test partitions.
    history : the same of the use case's earlier attempts, oldest first.
    too_few : class, or else the target, -> its test rows, where they are too few to tell whether a feature
        decides it alone; of a class and all others the fewer count.
    """

    alone: dict[str, float] = field(default_factory=dict)
    shuffled: tuple[float, ...] = ()
    saved: float | None = None
    history: tuple[float, ...] = ()
    too_few: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All of them.

    Parameters
    ----------
    rival : whose losses the slices have beside the challenger's: ``champion``, else the strongest baseline.
    coverage : feature -> share of the scored rows whose value the model to serve was never fitted on: an
        unseen category, or a number outside the range.
    importance : feature -> mean rise of the objective's loss when its values are permuted.
    refit : of a walk forward: mean loss, on the test partitions, of the model that was fitted on them as
        well.
    """

    rival: str = ""
    slices: tuple[Slice, ...] | None = None
    fairness: tuple[Fairness, ...] = ()
    edge_cases: tuple[EdgeCase, ...] = ()
    serving: Serving | None = None
    leak: Leak = Leak()
    coverage: dict[str, float] = field(default_factory=dict)
    importance: dict[str, float] = field(default_factory=dict)
    refit: float | None = None


SCHEMA = 2
NONE = Facts()
CHALLENGER = "challenger"
CHAMPION = "champion"
BASELINE = "baseline:"


def evidence_key(key: str) -> str:
    """Return the object under which an attempt's evidence is kept."""
    return f"evaluations/{key}.json"


def evidence_rows_key(key: str) -> str:
    """Return the Parquet object with the evidence's test rows, from which the report is drawn."""
    return f"evaluations/{key}.parquet"


def attempt_key_of(evidence: str) -> str:
    """Return the key of the attempt whose evidence lies at a place."""
    return PurePosixPath(evidence).stem


@dataclass(frozen=True)
class Losses:
    """The objective's losses on the test partitions, the same rows for every model.

    Parameters
    ----------
    partitions : the matured test partitions, ascending, shape (n,).
    rows : labelled rows of each partition, each at least 1, shape (n,).
    sums : by model name, the sum of the per-row loss of each partition, shape (n,); the names are
        ``challenger``, ``champion`` where there is one, and ``baseline:<name>``.

    Raises
    ------
    EvergreenError
        when the shapes disagree, partitions repeat or a sum isn't finite: such a record can't be judged.
    """

    partitions: tuple[str, ...]
    rows: tuple[int, ...]
    sums: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if list(self.partitions) != sorted(set(self.partitions)):
            wanted = "ascending partitions, each once"
            raise EvergreenError("losses", required=wanted, found=", ".join(self.partitions))
        if len(self.rows) != len(self.partitions) or any(rows < 1 for rows in self.rows):
            wanted = f"at least one row on each of {len(self.partitions)} partitions"
            raise EvergreenError("losses", required=wanted, found=str(list(self.rows)))
        if CHALLENGER not in self.sums:
            raise EvergreenError("losses", required=f"a model named {CHALLENGER}", found=_names(self.sums))
        for name, sums in self.sums.items():
            if len(sums) != len(self.partitions) or not all(map(math.isfinite, sums)):
                raise EvergreenError(
                    f"losses of {name}",
                    required=f"{len(self.partitions)} finite sums, one a partition",
                    found=str(list(sums)),
                    remedy="a model that gives no finite prediction can't be evaluated; see its training",
                )


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict rests on.

    Parameters
    ----------
    usecase, partition : whose, and the partition of the training.
    spec, data, code : digests of the declaration, of the training data, and the code's commit.
    version, model : the challenger in the registry, and the digest of its bytes.
    prior : the label's mean in training, or each class's share.
    baseline_model : digest of the strongest baseline, which goes with the challenger as a rung of the ladder.
    metrics : model name -> metric -> value, on the same rows as the losses.
    losses : the objective's losses by partition.
    champion : digest of the champion that it was compared with, empty where there was none.
    last_fitted : the last partition before the test partitions: neither what gave these losses nor the
        champion was fitted or tuned on a later one.
    fitted : the last partition that the challenger itself was fitted on; of a walk forward it is a later one.
    recipe : name of the challenger's candidate in the spec.
    facts : what else was measured.
    note : why a champion that serves couldn't be compared with.
    """

    usecase: str
    partition: str
    spec: str
    data: str
    code: str
    version: str
    model: str
    prior: Constant
    baseline_model: str
    metrics: dict[str, dict[str, float]]
    losses: Losses
    champion: str
    last_fitted: str
    fitted: str
    recipe: str
    facts: Facts = NONE
    note: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if bool(self.champion) != (CHAMPION in self.losses.sums):
            raise EvergreenError(
                f"evidence of {self.usecase}/{self.partition}",
                required="the champion's digest together with its losses, or neither",
                found=f"champion {self.champion or 'none'}, losses of {_names(self.losses.sums)}",
            )

    @cached_property
    def key(self) -> str:
        """The attempt's key: the same use case, partition, declaration and data are the same attempt."""
        return digest_json([self.usecase, self.partition, self.spec, self.data])

    def to_json(self) -> str:
        """Return canonical JSON: equal evidence gives equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence:
        """Read what `to_json` wrote, also of earlier code: a field that it didn't have has its default.

        Raises
        ------
        EvergreenError
            when it is of another schema, a field without a default is missing, or one is unknown.
        """
        raw: dict[str, Any] = json.loads(text)
        known = {f.name for f in fields(cls)}
        try:
            if raw.get("schema") == SCHEMA:
                evidence: Evidence = TypeAdapter(cls).validate_python(raw)
                if _contains(json.loads(evidence.to_json()), raw):
                    return evidence
            found = f"schema {raw.get('schema')} with {', '.join(sorted(raw))}"
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise EvergreenError(
            "evidence",
            required=f"schema {SCHEMA} with {', '.join(sorted(known))}",
            found=found,
            remedy="evaluate again with this code",
        )


def _contains(whole: Any, part: Any) -> bool:
    """Tell whether all that a JSON value says is in another, which may have more fields."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _contains(whole[name], value) for name, value in part.items())
    if isinstance(part, list) and isinstance(whole, list) and len(part) == len(whole):
        return all(map(_contains, whole, part))
    return bool(whole == part)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
