"""What a use case declares of its sources: how to fetch them, what is in them, and when it was known."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Frozen, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _later(default: Any, **about: Any) -> Any:
    """Return a field that no digest knows of at its default: earlier results stay of the same declaration.

    For what can be declared only since results were recorded.
    """
    return Field(default, exclude_if=lambda value: value == default, **about)


Local = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class Column(Strict):
    """One column of a source, as it is kept: UTC times, SI or declared units, typed."""

    type: Literal["string", "integer", "number", "boolean", "date", "timestamp", "hhmm"] = Field(
        description="hhmm is a time of day written as 930 or 0930, kept in minutes after midnight"
    )
    source: str | None = Field(None, alias="from", description="the column's name in the source, if another")
    required: bool = Field(False, description="a row without it is quarantined")
    timezone: str | None = Field(
        None,
        description="of a timestamp written without one; text with another offset is quarantined. Without "
        "`timezone` a text's own offset counts",
    )
    agrees_with: str | None = Field(
        None, description="of a timestamp: the hhmm column that says its hour in the schedule's time zone"
    )
    scale: float = Field(1.0, description="multiplies a number, as 0.44704 turns mph into m/s")
    shift: float = Field(0.0, description="added to a number before it is scaled, as -32 for °F")
    unit: str | None = Field(None, description="the unit that is kept, for people")
    hashed: bool = Field(False, description="kept only as a keyed hash")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Expectation(Strict):
    """A Great Expectations expectation by its own name and arguments.

    One about values of a column (or a pair) sets aside the rows that break it; one about the table refuses
    the partition.
    """

    type: Annotated[str, Field(pattern=r"^expect_[a-z_]+$")] = Field(
        description="as expect_column_values_to_be_between"
    )
    kwargs: dict[str, Any] = Field({}, description="its arguments, as {column: price, min_value: 0}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that it is about."""
        named = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return tuple(str(column) for column in [*named, *self.kwargs.get("column_list", ())])

    @property
    def rule(self) -> str:
        """Return its name and limits, as the quarantine and a refusal show them."""
        limits = {key: value for key, value in self.kwargs.items() if not key.startswith("column")}
        said = ", ".join(f"{key}={json.dumps(value, default=str)}" for key, value in limits.items())
        return f"{self.type}({said})" if said else self.type


class Contract(Strict):
    """What one partition must hold."""

    min_rows: int = Field(1, ge=0, description="fewer refuse the partition")
    max_rows: int | None = Field(None, ge=1, description="more refuse the partition")
    tolerance: float = Field(
        0.05, ge=0, le=1, description="share of rows that may be quarantined, else refused"
    )
    # of 10 rows one or more are bad by chance alone in 40 % of partitions at a true rate of 5 %, three in 1 %
    tolerated_rows: int = _later(
        2, ge=0, description="rows that may be quarantined whatever their share, while others are left"
    )
    extra: Literal["refuse", "ignore"] = Field(
        "refuse", description="what to do with a partition that has columns which are not declared"
    )
    expectations: tuple[Expectation, ...] = ()

    def exceeded(self, bad: int, total: int) -> bool:
        """Tell whether so many quarantined rows of a partition's ``total`` refuse it.

        A tolerance of 0 allows none.
        """
        few = self.tolerance > 0 and bad <= self.tolerated_rows and bad < total
        return total > 0 and bad / total > self.tolerance and not few


class Fetch(Strict):
    """Patience with a source."""

    timeout: float = Field(30.0, gt=0, description="seconds for one request")
    attempts: int = Field(4, ge=1, le=20, description="requests before the source counts as failed")
    wait: float = Field(
        0.5, ge=0, description="seconds before the second attempt, doubled each time, with jitter"
    )
    max_bytes: int = Field(
        1 << 30,
        ge=1,
        description="a part larger than this, packed or unpacked, is refused, or more of all pages",
    )
    max_rows: int = _later(100_000_000, ge=1, description="of a part")
    max_columns: int = _later(10_000, ge=1, description="of a part")
    max_pages: int = _later(10_000, ge=1, description="of an API's partition")
    failures: int = Field(3, ge=1, description="failed partitions in a row that open the circuit")
    cool_down: float = Field(300.0, ge=0, description="seconds before the open circuit admits one probe")


class _Source(Strict):
    connection: Name = Field(description="the Airflow connection with the address and the account")
    offset: int = Field(0, description="days from the partition to the day that the rows are about")
    available_at: Local = Field(
        "00:00", description="local time of the partition at which the rows could first be known"
    )
    start: Day | None = Field(
        None, description="the first partition that has this source, if later than the schedule's"
    )
    day: str | None = Field(None, description="the column whose local date must be the day asked for")
    key: tuple[str, ...] = Field(min_length=1, description="columns that identify a row within a partition")
    columns: dict[str, Column] = Field(min_length=1)
    contract: Contract = Contract()
    fetch: Fetch = Fetch()

    @model_validator(mode="after")
    def _columns_agree(self) -> _Source:
        for name, column in self.columns.items():
            if column.agrees_with is None:
                continue
            other = self.columns.get(column.agrees_with)
            if other is None or other.type != "hhmm" or other.hashed:
                raise ValueError(
                    f"columns.{name}.agrees_with: {column.agrees_with!r} is no hhmm column of the source"
                )
            if column.type != "timestamp" or column.hashed:
                raise ValueError(f"columns.{name}.agrees_with: only a timestamp has one, found {column.type}")
        return self

    @model_validator(mode="after")
    def _columns_exist(self) -> _Source:
        for name in self.columns:
            if '"' in name:
                raise ValueError(
                    f"{name!r}: SQL quotes a column's name by that mark; keep it under another name"
                )
        for name in (*self.key, *([self.day] if self.day else [])):
            if name not in self.columns:
                raise ValueError(f"{name!r} is not one of its columns: {', '.join(self.columns)}")
        lower = [name.lower() for name in self.columns]
        for name in self.columns:
            if (
                lower.count(name.lower()) > 1
            ):  # DuckDB, and Great Expectations in one suite, take them for one
                raise ValueError(
                    f"{name!r} is another column's name but for the case; use `from` to rename it"
                )
        for name in ("partition", "revision", "known_at", "decision_time"):
            if name in self.columns:
                raise ValueError(f"{name!r} is Evergreen's own column; keep the source's under another name")
        return self


class Objects(_Source):
    """Files of a bucket or folder, one object a partition."""

    kind: Literal["objects"]
    path: str = Field(description="of one object below the connection, with {day} or {partition}")
    format: Literal["csv", "parquet", "json"] = Field(
        "csv", description="of the file, which may be compressed with gzip or zip"
    )


class Http(_Source):
    """A paged JSON API: pages are asked for until the answer's own count is reached."""

    kind: Literal["http"]
    path: str = Field(description="below the connection, with {day} or {partition}")
    rows: str = Field("rows", description="the field that holds the page's rows")
    pages: str | None = Field(
        "pages", description="the field that says how many pages there are; none: one page"
    )
    page: str = Field("page", description="the query parameter that numbers pages from 1")
    volatile: tuple[str, ...] = Field(
        (), description="fields that change with each answer; left out of its identity"
    )


class Sql(_Source):
    """The rows of one query; :day, :partition and :known_at are bound, never pasted."""

    kind: Literal["sql"]
    query: str = Field(description="one SELECT; its columns are matched by name")


Source = Annotated[Objects | Http | Sql, Field(discriminator="kind")]
