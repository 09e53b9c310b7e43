"""Reads the rows of a request, and refuses what the declaration doesn't allow, by column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from math import isfinite
from typing import Any, NoReturn

import pyarrow as pa

from include.errors import EvergreenError
from include.features.build import schema as features_schema
from include.models.encoding import MISSING
from include.spec import UseCase

MAX_BYTES, MAX_ROWS = 1 << 20, 1000  # of a request
SHOWN = 60  # characters of a refused value that the error repeats


class RequestRefused(EvergreenError):
    """A request that isn't answered with predictions.

    Parameters
    ----------
    status : of HTTP.
    parts : ``required``, ``found`` and ``remedy``, as `EvergreenError` has them.
    """

    def __init__(self, status: int, subject: str, **parts: str) -> None:
        super().__init__(subject, **parts)
        self.status = status


@dataclass(frozen=True)
class Rows:
    """The rows of a request.

    Parameters
    ----------
    table : in the types of `include.features.build.schema`, without ``partition``.
    only_keys : the features have to be looked up.
    has_keys : each row has its key.
    """

    table: pa.Table
    only_keys: bool
    has_keys: bool


class RowReader:
    """Reads the requests of one use case."""

    def __init__(self, spec: UseCase) -> None:
        self._key, self._features = dict.fromkeys(spec.key), dict.fromkeys(spec.features.columns)
        self._fields = {field.name: field for field in features_schema(spec) if field.name != "partition"}
        self._takes = {name: CONVERTERS[str(field.type)] for name, field in self._fields.items()}
        columns = spec.sources[spec.features.spine].columns
        self._takes |= {name: HASHED for name in spec.key if columns[name].hashed}
        # a key that is a feature too is among each request's columns, and identifies rows if it is complete
        self._other_key = self._key.keys() - self._features.keys()

    @property
    def example(self) -> dict[str, str]:
        """What each column takes, by its name."""
        texts = {name: text for name, (text, _) in self._takes.items()}
        return {name: text if name in self._key else f"{text}, or null" for name, text in texts.items()}

    def read(self, body: bytes) -> Rows:
        """Return the rows of a request's body.

        Raises
        ------
        RequestRefused
            with 400 for a body that isn't JSON, 413 for too many rows, and 422 for a column that is missing,
            unknown or of another type; the error names row and column.
        """
        rows = self._parse(body)
        names = rows[0].keys()
        only_keys = names <= self._key.keys()
        has_keys = only_keys or not self._other_key.isdisjoint(names) or not self._other_key
        expected = dict(self._key) if only_keys else {**(self._key if has_keys else {}), **self._features}
        for index, row in enumerate(rows):
            if row.keys() != expected.keys():
                self._refuse_columns(index, row, expected)
        columns = [self._column(name, rows) for name in expected]
        fields = [self._fields[name] for name in expected]
        return Rows(pa.Table.from_arrays(columns, schema=pa.schema(fields)), only_keys, has_keys)

    def _parse(self, body: bytes) -> list[dict[str, Any]]:
        required = '{"rows": [{…}, …]} with at least one row'
        try:
            content = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise RequestRefused(
                400,
                "body",
                required=f"JSON: {required}",
                found=str(error)[:SHOWN],
                remedy="correct it; each key comes once, and null stands for a missing feature",
            ) from None
        if not isinstance(content, dict) or content.keys() != {"rows"}:
            keys = list(content) if isinstance(content, dict) else content
            remedy = "send an object with the key rows and no other"
            raise RequestRefused(422, "body", required=required, found=_shown(keys), remedy=remedy)
        rows = content["rows"]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise RequestRefused(
                422,
                "rows",
                required="a list of at least one object",
                found=_shown(rows),
                remedy="send each row as an object with its values by column",
            )
        if len(rows) > MAX_ROWS:
            raise RequestRefused(
                413,
                "rows",
                required=f"at most {MAX_ROWS}",
                found=str(len(rows)),
                remedy="send several requests; a whole table is the work of batch scoring",
            )
        return rows

    def _refuse_columns(self, index: int, row: dict[str, Any], expected: dict[str, None]) -> NoReturn:
        missing = [name for name in expected if name not in row]
        unknown = [name for name in row if name not in expected]
        if missing:
            found = f"no such column, but {_shown(unknown)}" if unknown else "no such column"
            remedy = "send it; null stands for a missing feature, not for a key"
            self._refuse(index, missing[0], found, remedy)
        required = f"only the columns {', '.join(expected)}"
        remedy = "leave the others out"
        raise RequestRefused(422, f"rows[{index}]", required=required, found=_shown(unknown), remedy=remedy)

    def _column(self, name: str, rows: list[dict[str, Any]]) -> pa.Array:
        convert, nullable = self._takes[name][1], name not in self._key
        values: list[Any] = []
        for index, row in enumerate(rows):
            value = row[name]
            if value is None and nullable:
                values.append(None)
                continue
            try:
                values.append(convert(value))
            except (ValueError, TypeError, OverflowError):
                if self._takes[name] is HASHED:  # it may be the original value, which no error repeats
                    remedy = "send the HMAC-SHA256 of the trimmed value under EVERGREEN_HASH_KEY"
                    self._refuse(index, name, "another value", remedy)
                self._refuse(index, name, _shown(value), "correct the value")
        return pa.array(values, self._fields[name].type)

    def _refuse(self, index: int, name: str, value: str, remedy: str) -> NoReturn:
        raise RequestRefused(
            422, f"rows[{index}].{name}", required=self.example[name], found=value, remedy=remedy
        )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(number := float(value)):
        raise ValueError(value)
    return number


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ValueError(value)
    return value


def _minutes(value: Any) -> int:
    if not 0 <= _integer(value) <= 1440:
        raise ValueError(value)
    return _integer(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or value == MISSING:
        raise ValueError(value)
    value.encode()  # JSON can hold half a character, which nothing else can
    return value


def _keyed_hash(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError(value)
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(value)
    return moment.astimezone(UTC)  # at the calendar's ends an offset leads out of it


# by the column's Arrow type
CONVERTERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "double": ("a finite number", _number),
    "string": (f"a text other than {MISSING}", _text),
    "int64": ("an integer", _integer),
    "int32": ("minutes after midnight, 0 to 1440", _minutes),
    "bool": ("true or false", _boolean),
    "date32[day]": ("a date as 2013-03-01", date.fromisoformat),
    "timestamp[us, tz=UTC]": ("a time with its offset, as 2013-03-01T05:00:00Z", _moment),
}

# a key's column that is `hashed`: the server lacks EVERGREEN_HASH_KEY, and logs no original value
HASHED = ("its keyed hash as it is stored, 64 hexadecimal characters", _keyed_hash)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't valid JSON; use null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, which must have each key once: nothing says which value is meant."""
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_shown(twice)} twice in an object")
    return content


def _shown(value: Any) -> str:
    """Return the beginning of a value as JSON; it came as JSON, so it can't be anything else."""
    try:
        text = json.dumps(value)
    except RecursionError:  # one that could just be parsed
        return "a value of too many levels"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
