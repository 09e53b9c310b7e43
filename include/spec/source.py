"""Declarations of sources: how to fetch them, what they contain, and when their rows became available."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from include.errors import PartitionError
from include.extensions import REFERENCE, CodeReference, is_reference, registered
from include.spec.clock import OFFSET_PATTERN, day_of

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

# The registry of connectors: one line for each `kind` of source, with the class that declares it. The class
# is defined in the connector's own module, beside the function `open_source` that reads it. The modules are
# imported on demand, when a declaration uses them, and import nothing heavy at their top: a DAG file parses
# declarations.
CONNECTORS = {
    "objects": "include.ingest.connectors.objects:ObjectsSource",
    "http": "include.ingest.connectors.http:HttpSource",
    "sql": "include.ingest.connectors.sql:SqlSource",
    "kafka": "include.ingest.connectors.kafka:KafkaSource",
}

DAY_SECONDS = 86_400
# the columns that Evergreen adds to a source's, in its table or in the view of that table
SOURCE_COLUMNS = ("partition", "revision", "known_at", "decision_time", "known_until")


def valid_zone(value: str) -> str:
    """Return the name of a time zone; raise ValueError if there is none of that name."""
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{value!r} is not a time zone's name, such as America/New_York") from None
    return value


def valid_day(value: str) -> str:
    """Return a date as text; raise ValueError if it is none, or so far that the next day may be none."""
    try:
        if 1900 <= day_of(value).year < 3000:
            return value
    except PartitionError:
        pass
    raise ValueError(f"expected a date from 1900 to 2999, such as 2013-03-01, but found {value!r}")


def finite(value: Any) -> Any:
    """Return what YAML may contain; raise ValueError if JSON can't, such as an infinite number."""
    try:
        json.dumps(value, allow_nan=False, default=str)
    except (TypeError, ValueError):
        raise ValueError(f"expected texts, finite numbers, lists and mappings, but found {value}") from None
    return value


class Strict(BaseModel):
    """A frozen model that rejects unknown keys, and numbers that JSON, of which digests are, can't hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def added_field(default: Any, **options: Any) -> Any:
    """Return a field that is left out of digests while it has its default.

    For fields that were added after results were recorded: those results don't get stale.
    """
    return Field(default, exclude_if=lambda value: value == default, **options)


PartitionTime = Annotated[str, Field(pattern=rf"^(([01]\d|2[0-3]):[0-5]\d|{OFFSET_PATTERN})$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
NameOrCode = Annotated[str, Field(pattern=rf"^[a-z][a-z0-9_]{{0,39}}$|{REFERENCE}")]
Zone = Annotated[str, AfterValidator(valid_zone)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(valid_day)]


class Column(Strict):
    """One column of a source as it is stored: typed, times in UTC, numbers in SI or declared units."""

    type: Literal["string", "integer", "number", "boolean", "date", "timestamp", "hhmm"] = Field(
        description="hhmm is a time of day written as 930 or 0930, stored in minutes after midnight"
    )
    source: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        None,
        alias="from",
        description="the column's name in the source, if different; of several, as [date, time], the texts "
        "are joined by a space",
    )
    required: bool = Field(False, description="a row without it is quarantined")
    null_values: tuple[str, ...] = added_field(
        (), description='texts that mean a missing value, such as ["NA", "-200"]'
    )
    format: str | None = added_field(
        None,
        description="of a date or timestamp that isn't in ISO 8601: directives of Python's strptime, such as "
        '"%d/%m/%Y %H:%M"',
    )
    decimal: Literal[",", "."] | None = added_field(
        None,
        description="the decimal mark of numbers that have a comma, or marks between thousands: of 1.234,5 "
        "and 1 234,5 it is a comma, of 1,234.5 a point",
    )
    timezone: Zone | None = Field(
        None,
        description="time zone of timestamps written without an offset; a text with another offset is "
        "quarantined. Without `timezone` the offset in the text is used",
    )
    agrees_with: str | None = Field(
        None, description="an hhmm column that must have this timestamp's time in the schedule's time zone"
    )
    scale: float = Field(1.0, description="factor of a number, such as 0.44704 for mph to m/s")
    shift: float = Field(0.0, description="added to a number before it is scaled, such as -32 for °F")
    unit: str | None = Field(None, description="the stored unit, as information")
    hashed: bool = Field(False, description="store only a keyed hash")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _converts_numbers(self) -> Column:
        if self.type != "number" and (self.scale, self.shift) != (1.0, 0.0):
            name = "shift" if self.scale == 1.0 else "scale"
            raise ValueError(f"{name}: only a column of type number is converted, but found {self.type}")
        return self

    @model_validator(mode="after")
    def _is_written_as_its_type(self) -> Column:
        if self.decimal and self.type not in ("integer", "number"):
            raise ValueError(f"decimal: only of an integer or number, but found {self.type}")
        if self.format is None:
            return self
        if self.type not in ("date", "timestamp"):
            raise ValueError(f"format: only of a date or timestamp, but found {self.type}")
        day = datetime(2013, 3, 31)
        try:
            has_date = datetime.strptime(day.strftime(self.format), self.format).date() == day.date()
        except ValueError:
            has_date = False
        if not has_date or "%z" in self.format.lower():
            raise ValueError(
                "format: directives for year, month and day and none for a time zone, such as %d/%m/%Y, but "
                f"found {self.format!r}"
            )
        return self

    def names_in_source(self, name: str) -> tuple[str, ...]:
        """Return the source's columns that the column of this name is read from."""
        if isinstance(self.source, tuple):
            return self.source
        return (self.source or name,)


class Expectation(Strict):
    """A Great Expectations expectation, by its own name and arguments.

    An expectation on the values of a column or a pair of columns quarantines the rows that violate it. One on
    the table refuses the partition.
    """

    type: Annotated[str, Field(pattern=r"^expect_[a-z_]+$")] = Field(
        description="as expect_column_values_to_be_between"
    )
    kwargs: Annotated[dict[str, Any], AfterValidator(finite)] = Field(
        {}, description="its arguments, such as {column: price, min_value: 0}"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in its arguments."""
        single = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return tuple(str(column) for column in [*single, *self.kwargs.get("column_list", ())])

    @property
    def rule(self) -> str:
        """Its name and limits, as shown in the quarantine and in refusals."""
        limits = {key: value for key, value in self.kwargs.items() if not key.startswith("column")}
        arguments = ", ".join(f"{key}={json.dumps(value, default=str)}" for key, value in limits.items())
        return f"{self.type}({arguments})" if arguments else self.type


class Contract(Strict):
    """The conditions that a partition of the source must meet."""

    min_rows: int = Field(1, ge=0, description="fewer refuse the partition")
    max_rows: int | None = Field(None, ge=1, description="more refuse the partition")
    tolerance: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of rows that may be quarantined; above it the partition is refused",
    )
    # at a true rate of 5 %, 10 rows have at least one bad row in 40 % of partitions, and three in 1 %
    tolerated_rows: int = added_field(
        2, ge=0, description="rows that may be quarantined regardless of their share, if others are left"
    )
    extra: Literal["refuse", "ignore"] = Field(
        "refuse", description="what to do with a partition that has columns which are not declared"
    )
    expectations: tuple[Expectation, ...] = ()
    row_checks: tuple[NameOrCode, ...] = added_field(
        (), description="functions as module:name that tell which rows pass; the others are quarantined"
    )

    def exceeded(self, bad: int, total: int) -> bool:
        """Return whether ``bad`` quarantined rows of ``total`` refuse the partition."""
        few = self.tolerance > 0 and bad <= self.tolerated_rows and bad < total
        return total > 0 and bad / total > self.tolerance and not few


class Fetch(Strict):
    """Timeouts, retries, size limits and the circuit breaker of a source."""

    timeout: float = Field(30.0, gt=0, le=DAY_SECONDS, description="seconds per request")
    attempts: int = Field(4, ge=1, le=20, description="attempts before the partition is unavailable")
    wait: float = Field(
        0.5,
        ge=0,
        le=DAY_SECONDS,
        description="seconds before the first retry, doubled each time, with jitter",
    )
    max_bytes: int = Field(
        1 << 30,
        ge=1,
        description="maximal size of a part, compressed or not, and of all pages or files together; larger "
        "is refused",
    )
    max_rows: int = added_field(100_000_000, ge=1, description="maximal rows of a part")
    max_columns: int = added_field(10_000, ge=1, description="maximal columns of a part")
    max_pages: int = added_field(10_000, ge=1, description="maximal pages or files of a partition")
    failures: int = Field(3, ge=1, description="consecutive failed partitions that open the circuit breaker")
    cooldown: float = Field(
        300.0,
        ge=0,
        le=365 * DAY_SECONDS,
        description="seconds until the open circuit breaker admits one probe",
    )


class BaseSource(Strict):
    """What all kinds of sources declare; each connector's class adds its own keys."""

    kind: str
    connection: Name = Field(description="the Airflow connection with the address and the account")
    offset: int = Field(
        0,
        ge=-36_500,
        le=36_500,
        description="days from the partition to the day of the data; partitions, if schedule.batch can fire "
        "more than once a day",
    )
    available_at: PartitionTime = Field(
        "00:00",
        description="when the partition's rows become known: a local time on its day, or minutes from its "
        "own time, such as -5m, which is required if schedule.batch can fire more than once a day",
    )
    start: Day | None = Field(
        None, description="the first day with this source, if later than schedule.start"
    )
    sparse: bool = added_field(
        False,
        description="a partition without data isn't a fault: it has no rows. Of the spine: windows count "
        "only partitions that have rows",
    )
    timezone_override: Zone | None = added_field(
        None,
        description="time zone of all timestamps of the source, whose texts have a wrong offset, such as Z "
        "after a local time; the offset is ignored",
    )
    day: str | None = Field(
        None,
        description="the column whose local date must be the requested day; a timestamp also the partition's "
        "time, if schedule.batch can fire more than once a day",
    )
    key: tuple[str, ...] = Field(min_length=1, description="columns that identify a row in a partition")
    columns: dict[str, Column] = Field(min_length=1)
    contract: Contract = Contract()
    fetch: Fetch = Fetch()

    def column(self, name: str) -> Column:
        """Return a column, with the time zone that overrides its own."""
        column, zone = self.columns[name], self.timezone_override
        return column.model_copy(update={"timezone": zone}) if zone else column

    @property
    def path_templates(self) -> tuple[str, ...]:
        """Return the declared paths, with their placeholders, that `validate` checks."""
        return ()

    @property
    def part_format(self) -> Literal["csv", "parquet", "json"]:
        """Return the format of the parts that the connector returns."""
        return "csv"

    @property
    def csv_delimiter(self) -> str:
        """Return what is between the fields of parts in CSV."""
        return ","

    @property
    def rows_field(self) -> str | None:
        """Return the field of a JSON part that holds its rows."""
        return None

    @property
    def volatile_fields(self) -> tuple[str, ...]:
        """Return the top-level fields of a JSON part that change with each response."""
        return ()

    @model_validator(mode="after")
    def _zones_agree(self) -> BaseSource:
        for name, column in self.columns.items():
            if self.timezone_override and column.timezone not in (None, self.timezone_override):
                raise ValueError(
                    f"columns.{name}.timezone: timezone_override is {self.timezone_override}; remove one of "
                    f"the two, but found {column.timezone}"
                )
        return self

    @model_validator(mode="after")
    def _columns_agree(self) -> BaseSource:
        for name, column in self.columns.items():
            if column.agrees_with is None:
                continue
            other = self.columns.get(column.agrees_with)
            if other is None or other.type != "hhmm" or other.hashed:
                raise ValueError(
                    f"columns.{name}.agrees_with: {column.agrees_with!r} isn't an hhmm column of the source"
                )
            if column.type != "timestamp" or column.hashed:
                raise ValueError(
                    f"columns.{name}.agrees_with: only a timestamp has one, but found {column.type}"
                )
        return self

    @model_validator(mode="after")
    def _day_is_a_day(self) -> BaseSource:
        day = self.columns.get(self.day or "")
        if day is not None and (day.type not in ("date", "timestamp") or day.hashed):
            kind = "a hash" if day.hashed else day.type
            raise ValueError(
                f"day: {self.day!r} must be a date or timestamp, but found {kind}; declare its type, or "
                "remove `day`"
            )
        return self

    @model_validator(mode="after")
    def _columns_exist(self) -> BaseSource:
        for name in self.columns:
            if '"' in name:
                raise ValueError(
                    f"{name!r}: SQL quotes column names by that mark; use `from` to rename the column"
                )
        for name in (*self.key, *([self.day] if self.day else [])):
            if name not in self.columns:
                raise ValueError(f"{name!r} is not one of its columns: {', '.join(self.columns)}")
        lower = [name.lower() for name in self.columns]
        for name in self.columns:
            if lower.count(name.lower()) > 1:  # DuckDB and Great Expectations ignore case
                raise ValueError(
                    f"{name!r} is another column's name but for the case; use `from` to rename it"
                )
        for name in self.columns:
            if name.lower() in SOURCE_COLUMNS:
                raise ValueError(f"{name!r} is Evergreen's own column; use `from` to rename the source's")
        return self


class PythonSource(BaseSource):
    """A source whose connector is the use case's own, or a package's: a class as module:name.

    Reading a declaration doesn't import it, so its own keys are validated when the source is first used.
    """

    kind: Annotated[NameOrCode, WithJsonSchema({"type": "string", "pattern": REFERENCE})] = Field(
        description="the connector's class; its own keys are added to these"
    )
    model_config = ConfigDict(frozen=True, extra="allow")
    _code: CodeReference | None = PrivateAttr(None)

    def locate(self, code: CodeReference | None) -> None:
        """Set where the connector is, which the source itself doesn't know."""
        self._code = code

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out what `declared` returned: another process can't import its class by its name alone."""
        state = super().__getstate__()
        fields = {name: value for name, value in state["__dict__"].items() if name != "declared"}
        return {**state, "__dict__": fields}

    @property
    def code(self) -> CodeReference:
        """The connector's class."""
        assert self._code is not None  # a use case locates each of its sources
        return self._code

    @cached_property
    def declared(self) -> BaseSource:
        """The source as its connector's class declares it.

        Raises
        ------
        SpecError
            if the class can't be imported, isn't one of sources, or refuses a key.
        """
        value, required = self.code.load(), "a subclass of BaseSource that accepts the source's keys"
        if not (isinstance(value, type) and issubclass(value, BaseSource)):
            self.code.fail(required, f"type {type(value).__name__}", value)
        try:
            return value.model_validate(self.model_dump(by_alias=True))
        except ValidationError as error:
            errors = ((".".join(map(str, one["loc"])), one["msg"]) for one in error.errors())
            self.code.fail(required, "; ".join(f"{path}: {text}" for path, text in errors), value)

    @property
    def path_templates(self) -> tuple[str, ...]:
        """Return the connector's."""
        return self.declared.path_templates

    @property
    def part_format(self) -> Literal["csv", "parquet", "json"]:
        """Return the connector's."""
        return self.declared.part_format

    @property
    def csv_delimiter(self) -> str:
        """Return the connector's."""
        return self.declared.csv_delimiter

    @property
    def rows_field(self) -> str | None:
        """Return the connector's."""
        return self.declared.rows_field

    @property
    def volatile_fields(self) -> tuple[str, ...]:
        """Return the connector's."""
        return self.declared.volatile_fields


def source_class(kind: str) -> type[BaseSource]:
    """Return the class that declares sources of a kind."""
    if kind not in CONNECTORS:
        return PythonSource
    declaration: type[BaseSource] = resolve_name(CONNECTORS[kind])
    return declaration


def _is_kind(kind: str) -> bool:
    """Return whether there are sources of a kind; what packages register is read last: it takes 30 ms."""
    return kind in CONNECTORS or is_reference(kind) or kind in registered("connectors")


def _validate_source(declaration: Any) -> BaseSource:
    """Validate a source by the class that its ``kind`` names."""
    if isinstance(declaration, BaseSource):
        return declaration
    kind = declaration.get("kind") if isinstance(declaration, dict) else None
    if not isinstance(kind, str) or not _is_kind(kind):
        message = f"expected one of {', '.join(CONNECTORS)}, but found {kind!r}"
        error = PydanticCustomError("source_kind", "{message}", {"message": message})
        details = InitErrorDetails(type=error, loc=("kind",), input=kind)
        raise ValidationError.from_exception_data("source", [details])
    return source_class(kind).model_validate(declaration)


class _SourceJsonSchema:
    """The JSON Schema of a source: one of the registered classes, told apart by ``kind``, or of Python."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # the classes are known only at runtime
        classes: Any = Union[tuple(source_class(kind) for kind in CONNECTORS)]  # noqa: UP007
        built_in = Annotated[classes, Field(discriminator="kind")]
        return handler(TypeAdapter(Union[built_in, PythonSource]).core_schema)  # noqa: UP007 - as above


Source = Annotated[SerializeAsAny[BaseSource], PlainValidator(_validate_source), _SourceJsonSchema]
