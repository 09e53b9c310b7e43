"""What the gate may know: a small, plain record that can be kept for good and judged again by anyone.

Losses are kept per night and not per row, since the night is what is resampled: rows of one night are not
independent. The record names no attempt and no clock, so evaluating the same data again gives the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from include.errors import EvergreenError
from include.outputs import Constant
from include.promote.facts import Facts
from include.refs import digest_json

SCHEMA = 2
NONE = Facts()
CHALLENGER = "challenger"
CHAMPION = "champion"
BASELINE = "baseline:"


def place(key: str) -> str:
    """Return the object under which an attempt's evidence is kept."""
    return f"evaluations/{key}.json"


def rows_place(key: str) -> str:
    """Return the Parquet object with the evidence's test rows, from which the report is drawn."""
    return f"evaluations/{key}.parquet"


def attempt_of(evidence: str) -> str:
    """Return the key of the attempt whose evidence lies at a place."""
    return PurePosixPath(evidence).stem


@dataclass(frozen=True)
class Losses:
    """The objective's losses on the test nights, the same rows for every model.

    Parameters
    ----------
    nights : the matured test nights, ascending, shape (n,).
    rows : labelled rows of each night, each at least 1, shape (n,).
    sums : by model name, the sum of the per-row loss of each night, shape (n,); the names are ``challenger``,
        ``champion`` where there is one, and ``baseline:<name>``.

    Raises
    ------
    EvergreenError
        when the shapes disagree, nights repeat or a sum isn't finite: such a record can't be judged.
    """

    nights: tuple[str, ...]
    rows: tuple[int, ...]
    sums: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if list(self.nights) != sorted(set(self.nights)):
            wanted = "ascending nights, each once"
            raise EvergreenError("losses", required=wanted, found=", ".join(self.nights))
        if len(self.rows) != len(self.nights) or any(rows < 1 for rows in self.rows):
            wanted = f"at least one row on each of {len(self.nights)} nights"
            raise EvergreenError("losses", required=wanted, found=str(list(self.rows)))
        if CHALLENGER not in self.sums:
            raise EvergreenError("losses", required=f"a model named {CHALLENGER}", found=_names(self.sums))
        for name, sums in self.sums.items():
            if len(sums) != len(self.nights) or not all(map(math.isfinite, sums)):
                raise EvergreenError(
                    f"losses of {name}",
                    required=f"{len(self.nights)} finite sums, one a night",
                    found=str(list(sums)),
                    remedy="a model that gives no finite prediction can't be evaluated; see its training",
                )


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict rests on.

    Parameters
    ----------
    usecase, night : whose, and the night of the training.
    spec, data, code : digests of the declaration, of the training data, and the code's commit.
    version, model : the challenger in the registry, and the digest of its bytes.
    prior : the label's mean in training, or each class's share.
    baseline_model : digest of the strongest baseline, which goes with the challenger as a rung of the ladder.
    metrics : model name -> metric -> value, on the same rows as the losses.
    losses : the objective's losses by night.
    champion : digest of the champion that it was compared with, empty where there was none.
    last_fitted : the last night before the test nights: neither what gave these losses nor the champion was
        fitted or tuned on a later one.
    fitted : the last night that the challenger itself was fitted on; of a walk forward it is a later one.
    recipe : name of the challenger's candidate in the spec.
    facts : what else was measured.
    note : why a champion that serves couldn't be compared with.
    """

    usecase: str
    night: str
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
                f"evidence of {self.usecase}/{self.night}",
                required="the champion's digest together with its losses, or neither",
                found=f"champion {self.champion or 'none'}, losses of {_names(self.losses.sums)}",
            )

    @cached_property
    def key(self) -> str:
        """The attempt's key: the same use case, night, declaration and data are the same attempt."""
        return digest_json([self.usecase, self.night, self.spec, self.data])

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
