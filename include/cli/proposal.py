"""Writes a declaration and its SQL from a sample, with a comment at each line that was proposed from it.

The sample's rows are taken as the source delivers them: one file a partition, in which the target is filled
in later. So the file is read twice: `records` has what is known at the decision, and `outcomes` reads the
file of the partition before, with the target. Where the days from one partition to the next vary, no `offset`
finds that file, and `outcomes` reads its rows from a file of the partition itself.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import floor, log10
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from include.cli.sample import Sample, SampleColumn
from include.cli.sample_schedule import (
    HOURS,
    MARGIN,
    TRAINING_HOUR,
    SampleSchedule,
    schedule_of,
    schedule_of_hours,
)
from include.errors import SpecError
from include.ingest.parsing.types import TRUE
from include.spec.problem import CLASS_NAME

KINDS = ("binary", "regression", "multiclass")
MAX_CATEGORIES = 254  # that the estimators tell apart
TINY = 1e-9  # a span below which a column counts as constant zero
RECURRING = 0.5  # share of rows whose key was there before, from which a key has a past
FEWEST = 4  # outcomes of a mean
# for each season the feature that says where in it a row is, its function in SQL, and how it counts
SEASONS = {
    "day": ("hour_of_day", "hour", "in UTC"),
    "week": ("weekday", "isodow", "1 is Monday"),
    "year": ("month_of_year", "month", "1 is January"),
}
TEST = (8, 28)  # days, or longer partitions, that judge, at least and at most
LEVEL = 14  # days, or longer partitions, that a level follows
OUTCOMES = "outcomes"  # the folder of the outcomes' own files


@dataclass(frozen=True)
class Proposal:
    """What is proposed for a sample.

    Parameters
    ----------
    kind : of the problem.
    target, time : names of columns in the sample.
    key : names of columns that identify a row within a partition.
    """

    name: str
    sample: Sample
    kind: str
    target: str
    key: tuple[str, ...]
    time: str

    def __post_init__(self) -> None:
        columns = self.sample.columns
        if self.kind not in KINDS:
            raise self._error(
                "--kind", f"one of {', '.join(KINDS)}", self.kind or "none", "give one of these"
            )
        for option, names in (("--target", (self.target,)), ("--key", self.key), ("--time", (self.time,))):
            for name in names or ("",):
                if name not in columns:
                    required = f"a column of the sample: {', '.join(columns)}"
                    raise self._error(option, required, name or "none", "give one of these")
        if self.target in (*self.key, self.time):
            raise self._error(
                "--target", "a column besides the key and the time", self.target, "choose another"
            )
        self._check_key()
        self._check_target()

    def _error(self, option: str, required: str, actual: str, remedy: str) -> SpecError:
        where = str(self.sample.path)
        return SpecError(f"init {option}", required=required, found=actual, where=where, remedy=remedy)

    def _check_key(self) -> None:
        rows = self._counts(self.row_partitions)
        row, count = max(rows.items(), key=lambda item: (None in item[0], item[1]))
        if count > 1 or None in row:
            shown = ", ".join(map(str, row))
            actual = f"a row without it: {shown}" if None in row else f"{count} rows of {shown}"
            raise self._error(
                "--key",
                f"columns that identify a row within {'an hour' if self._is_hourly else 'a day'}",
                actual,
                "add a column, such as --key store,item; docs/reference/schedules.md says of which samples "
                "the partitions are hours",
            )

    def _counts(self, partitions: list[str]) -> Counter[tuple[str | None, ...]]:
        """Return how many rows have each key of a partition."""
        return Counter(
            zip(partitions, *(self.sample.rows[name].to_pylist() for name in self.key), strict=True)
        )

    def _check_target(self) -> None:
        column = self.sample.columns[self.target]
        numeric, count = column.type in ("integer", "number"), len(column.values)
        if self.kind == "regression" and not numeric:
            required, actual = "numbers, for a regression", f"{column.type}s such as {column.values[:1]}"
        elif self.kind == "binary" and count != 2:
            required, actual = "two different values, for a binary problem", f"{count}"
        elif self.kind == "multiclass" and (
            count < 3 or not all(re.fullmatch(CLASS_NAME, text) for text in column.values)
        ):
            required = "three or more names of letters, digits, _ and -, for a multiclass problem"
            actual = ", ".join(column.values[:5])
        else:
            return
        raise self._error("--target", required, actual, "choose another target or --kind")

    # what the sample shows

    @cached_property
    def row_partitions(self) -> list[str]:
        """Return the partition of each row: its day, or its hour if a day has several rows of a key."""
        times = self.sample.times(self.time)
        if times is None or not self._is_hourly:
            return self._days
        return list((times + MARGIN).dt.strftime("%Y-%m-%dT%H%MZ"))

    @cached_property
    def partitions(self) -> list[str]:
        """Return the partitions that the sample has."""
        return sorted(set(self.row_partitions))

    @cached_property
    def schedule(self) -> SampleSchedule:
        """Return the schedule of these partitions."""
        return self._hourly or schedule_of(sorted(set(self._days)))

    @property
    def _is_hourly(self) -> bool:
        return self.schedule.per_day > 1

    @cached_property
    def _days(self) -> list[str]:
        return self.sample.days(self.time)

    @cached_property
    def _hourly(self) -> SampleSchedule | None:
        """Return the schedule of hours, of a series or if a day has several rows of a key; else None."""
        is_key_of_days = max(self._counts(self._days).values()) == 1 and self.key != (self.time,)
        times = self.sample.times(self.time)
        return None if times is None or is_key_of_days else schedule_of_hours(times)

    @cached_property
    def scheduled(self) -> list[str]:
        """Return the partitions of the schedule, which may be on more days than the sample has."""
        return self.schedule.clock.keys(self.partitions[0], self.partitions[-1])

    @property
    def _is_same_file(self) -> bool:
        """Return whether the outcomes are read from the file of the partition before."""
        return self.schedule.step > 0

    @property
    def _has_holidays(self) -> bool:
        """Return whether a scheduled day without rows is one with an empty file."""
        return not self._is_same_file and len(self.partitions) < len(self.scheduled)

    @cached_property
    def recurs(self) -> bool:
        """Return whether most keys were there in an earlier partition; assumed for a sample of one."""
        if len(self.partitions) == 1:
            return True
        keys = [*zip(*(self.sample.rows[name].to_pylist() for name in self.key), strict=True)]
        repeated = len(keys) - len(set(keys))  # each is there once a partition
        return repeated >= RECURRING * sum(one > self.partitions[0] for one in self.row_partitions)

    @property
    def is_series(self) -> bool:
        """Return whether no partition has two rows."""
        return len(self.partitions) == len(self.row_partitions)

    @property
    def _columns_of_sample(self) -> set[str]:
        return {column.name for column in self.sample.columns.values()}

    @property
    def _names(self) -> list[str]:
        return [self.sample.columns[name].name for name in self.key]

    @property
    def _target(self) -> SampleColumn:
        return self.sample.columns[self.target]

    @property
    def _positive(self) -> str:
        """Return the rarer value of a binary target that is neither boolean nor 0 and 1."""
        counts = Counter(self.sample.rows[self.target].drop_null().to_pylist())
        return str(min(sorted(counts), key=lambda text: counts[text]))

    @property
    def label(self) -> str:
        """Return the SQL of the label."""
        target = self._target
        numbers = target.type == "integer" and (target.low, target.high) == (0, 1)
        if self.kind == "binary" and target.type != "boolean" and not numbers:
            is_text = target.type == "string"
            return f"{target.name} = " + (_quoted(self._positive) if is_text else self._positive)
        return target.name

    @property
    def _rate(self) -> float:
        """Return the mean of the label in the sample."""
        values = self.sample.rows[self.target].drop_null().to_pylist()
        if self._target.type == "boolean":
            return sum(text.lower() in TRUE.to_pylist() for text in values) / len(values)
        if self.label == self._target.name:
            return sum(map(float, values)) / len(values)
        return float(values.count(self._positive) / len(values))

    # features

    @cached_property
    def _current(self) -> dict[str, tuple[str, str, str]]:
        """Return each feature of the row itself: its kind, its SQL, and why it was proposed."""
        proposed: dict[str, tuple[str, str, str]] = {}
        for original, column in self.sample.columns.items():
            sql, count = f"spine.{column.name}", len(column.values)
            if original in (self.target, self.time):
                continue
            if column.type in ("integer", "number"):
                of_key = original in self.key
                if not of_key or _is_scale(column):
                    why = f"sample: {column.low:g} to {column.high:g}" + (", of the key" if of_key else "")
                    proposed[column.name] = ("numeric", sql, why)
            elif column.type == "boolean":
                proposed[column.name] = ("categorical", f"CAST({sql} AS VARCHAR) AS {column.name}", "boolean")
            elif column.type == "string" and count <= min(MAX_CATEGORIES, self.sample.rows.num_rows // 2):
                proposed[column.name] = ("categorical", sql, f"sample: {count} different values")
        time = self.sample.columns[self.time].name
        for name, function, meaning in (SEASONS[season] for season in self.schedule.seasons):
            if name not in self._columns_of_sample:
                sql = f"{function}(spine.{time}) AS {name}"
                proposed[name] = ("numeric", sql, f"from the time, {meaning}")
        return proposed

    def _why_no_feature(self, name: str) -> str:
        """Return the comment on a column that isn't a feature, if it is a number of the key."""
        column = next((one for one in self.sample.columns.values() if one.name == name), None)
        if column is None or column.type not in ("integer", "number"):
            return ""
        count = len(column.values)
        values = f"{count} different values" if count > MAX_CATEGORIES else "values not in even steps"
        return (
            f"  -- no feature: a number of the key with {values}, like an id; if it isn't one, add {name} "
            "under numeric"
        )

    def _left_out(self) -> Iterator[str]:
        """Yield a comment on each text that isn't a feature, since it has too many values for a category."""
        for original, column in self.sample.columns.items():
            is_other = original not in (self.target, self.time, *self.key)
            if is_other and column.type == "string" and column.name not in self._current:
                values = f"{len(column.values)} different values are too many for a category"
                yield (
                    f"-- {column.name} isn't a feature: {values}.\n"
                    "-- What was known of its earlier rows may be one, such as their number or mean label.\n"
                )

    @cached_property
    def _past(self) -> dict[str, tuple[str, str]]:
        """Return each feature of earlier labels: its SQL over `known_outcomes`, and what it is."""
        if self.kind == "multiclass":
            return {}
        target, label = self._target.name, f"CAST({self.label} AS DOUBLE)"
        count = max(FEWEST, min(self.schedule.seasons.values(), default=FEWEST))
        mean = f"sum({label}) FILTER (ago < {count}) / nullif(count({label}) FILTER (ago < {count}), 0)"
        past = {f"{target}_mean_{count}": (mean, f"mean of the last {count} outcomes")}
        if self.recurs or self.is_series:
            past[f"{target}_last"] = (f"max({label}) FILTER (ago = 0)", "the last known value")
            for season, length in self.schedule.seasons.items():
                same = "hour" if self._is_hourly else "day" if season == "week" else "month"
                what = f"the same {same} {'the day before' if season == 'day' else f'last {season}'}"
                past[f"{target}_{season}_ago"] = (f"max({label}) FILTER (ago = {length - 1})", what)
        # the sample may have a column of this name
        return {f"{name}_" if name in self._columns_of_sample else name: one for name, one in past.items()}

    @property
    def lookback(self) -> int:
        """Return how many earlier partitions the SQL reads."""
        return max([FEWEST, *self.schedule.seasons.values()]) - 1

    def features(self, kind: str) -> list[str]:
        """Return the names of the numeric or the categorical features."""
        own = [name for name, (own_kind, _, _) in self._current.items() if own_kind == kind]
        return [*own, *(self._past if kind == "numeric" else ())]

    # the two files

    def sql(self) -> str:
        """Return the text of ``features.sql``."""
        own = [*self._names, "partition"]
        selected = [
            f"    spine.{name},{self._why_no_feature(name)}" for name in own if name not in self._current
        ]
        selected += [f"    {sql},  -- {why}" for _, sql, why in self._current.values()]
        head = (
            "-- One row for each row of the spine. `known_outcomes` has what was known at its decision.\n"
            "-- `ago` counts the partitions back, and `ago = 0` is about the partition before.\n"
        ) + "".join(self._left_out())
        if not self._past:
            return f"{head}SELECT\n{_without_last_comma(selected)}\nFROM spine\n"
        group = ["for_partition", *(self._names if self.recurs else [])]
        columns = ", ".join(["for_partition AS partition", *group[1:]])
        past = [f"        {sql} AS {name},  -- {what}" for name, (sql, what) in self._past.items()]
        selected += [f"    past.{name}," for name in self._past]
        using = ", ".join(["partition", *group[1:]])
        return (
            f"{head}WITH past AS (\n    SELECT\n        {columns},\n{_without_last_comma(past)}\n"
            f"    FROM known_outcomes\n    GROUP BY {', '.join(group)}\n)\n"
            f"SELECT\n{_without_last_comma(selected)}\nFROM spine\nLEFT JOIN past USING ({using})\n"
        )

    def yaml(self, schema: str, *, split: bool) -> str:
        """Return the text of ``usecase.yaml``.

        Parameters
        ----------
        schema : the path of the JSON Schema, for editors.
        split : the sample's days were written to files, so that the schedule ends with the last one.
        """
        per_day, clock = self.schedule.per_day, self.schedule.clock
        days = sorted({one[: len("2024-01-31")] for one in self.partitions})
        # a sample may begin in the middle of a day, whose other hours would be without a file
        begins = clock.around(days[0])[1] == self.partitions[0] or len(days) == 1
        first, last = days[0 if begins else 1], days[-1]
        second = clock.date_of(clock.shift(clock.around(first)[1], per_day))
        test = min(max(len(days) // 3, TEST[0]), TEST[1]) * per_day
        counts = Counter(self.row_partitions).values()
        time, key = self.sample.columns[self.time].name, ", ".join(self._names)
        file_format = "csv" if split else self.sample.format
        ending = {"csv": "csv", "parquet": "parquet", "json": "jsonl"}[file_format]
        fewest = 0 if self._has_holidays else max(min(counts) // 2, 1)
        rows = f"{min(counts)} to {max(counts)} rows in each {self._unit}"
        if self._has_holidays:
            rows += f", none on {len(self.scheduled) - len(self.partitions)} days"
        connection = f"    kind: objects\n    connection: {self.name}\n"
        delimiter = f"    delimiter: {json.dumps(self.sample.delimiter)}\n"
        file = f"    format: {file_format}\n" if file_format != "csv" else ""
        file += (delimiter if self.sample.delimiter != "," else "") + (
            '    available_at: "-2m"    # assumed: minutes from the decision at which the file is there\n'
            if self._is_hourly
            else '    available_at: "05:00"  # assumed: local time at which the file is there\n'
        )
        path = ("{day}T{hour}" if self._is_hourly else "{day}") + f".{ending}"
        of_outcomes = (
            f"    path: {self.name}/{path}\n{file}    offset: -{self.schedule.step}\n"
            f'    start: "{second}"\n    day: {time}\n'
            if self._is_same_file
            else f'    path: {self.name}/{OUTCOMES}/{path}\n{file}    start: "{second}"\n'
        )
        features = [one for name, one in self.sample.columns.items() if name != self.target]
        outcomes = [
            one for name, one in self.sample.columns.items() if name in (*self.key, self.time, self.target)
        ]
        end = (
            f'  end: "{last}"        # the last day of the sample; remove it when new files arrive\n'
            if split
            else ""
        )
        each = f" days of {per_day}" if self._is_hourly else ""
        deadline = '"09:00"        # assumed: local time by which'
        if self._is_hourly:
            deadline = '"+20m"         # assumed: minutes from the decision by which'
        return f"""# yaml-language-server: $schema={schema}
# {self.name}: proposed by `python -m include init` from {self.sample.rows.num_rows} rows,
# {first} to {last}, of {_in_comment(self.sample.path.name)}.
# Read each comment: what was seen in the sample, or is assumed. docs/reference/usecase.md has every key.
name: {self.name}

problem:
  kind: {self.kind}
{self._classes()}  # say for whom, and when
  statement: For each {key.replace(", ", " and ")}, {self._target.name.replace("_", " ")} of the {self._unit}.
  target: {self._target.name}

schedule:
  batch: "{clock.cron}"      # sample: {self._pattern()}
  training: "0 {TRAINING_HOUR} {self.schedule.training}"
  timezone: UTC            # assumed
  start: "{first}"      # the first day of the sample
{end}
sources:
  # what is known at the decision: assumed of each column but the target, so remove those that aren't
  records:
{connection}    path: {self.name}/{path}
{file}    day: {time}
    key: [{key}]           # identifies a row within one {self._unit}, in all of the sample
    columns:
{self._columns(features)}
    contract:
      min_rows: {fewest}
      max_rows: {3 * max(counts)}          # sample: {rows}
      extra: ignore        # the target in the same file
{self._expectations(features)}
{self._about_outcomes()}
  outcomes:
{connection}{of_outcomes}    key: [{key}]
    columns:
{self._columns(outcomes)}
    contract:
{"      min_rows: 0" + chr(10) if self._has_holidays else ""}      extra: ignore
{self._expectations([self._target])}
features:
  spine: records
  lookback: {self.lookback}
  numeric: [{", ".join(self.features("numeric"))}]
  categorical: [{", ".join(self.features("categorical"))}]

labels:
  source: outcomes
  sql: {json.dumps(self.label)}
  delay: 1                 # the next partition's file of outcomes is about this one

training:
  test: {test}                 # partitions that judge: a third of the sample, {TEST[0]} to {TEST[1]}{each}
  baselines:
    - {{name: prior, estimator: prior}}
{self._baselines()}  candidates:
    - {{name: boosting, estimator: hist_gradient_boosting, params: {{max_iter: 100, min_samples_leaf: 20}}}}
    - {{name: forest, estimator: random_forest, params: {{n_estimators: 100, min_samples_leaf: 5}}}}
    # boosting again, with a level that follows the newest partitions: a season or a trend
    - {{name: boosting_level, estimator: hist_gradient_boosting, recent_intercept: {LEVEL * per_day},
       params: {{max_iter: 100, min_samples_leaf: 20}}}}

gate:
  objective: {"squared_error" if self.kind == "regression" else "log_loss"}
{f"  block_partitions: {per_day}" + chr(10) if self._is_hourly else ""}
scoring:
  deadline: {deadline} predictions must be published
  constant: {self._constant()}  # sample: its mean or shares; the prediction before any model was promoted
  requires:
    champion: [records]
{self._windows()}"""

    @property
    def _unit(self) -> str:
        """What a partition covers, in a comment."""
        if self._is_hourly:
            return "hour" if self.schedule.per_day == HOURS else "partition"
        return {1: "day", 7: "week"}.get(self.schedule.step, "partition")

    def _windows(self) -> str:
        """Return what counts partitions and has a default for days, if a day has several."""
        day = self.schedule.per_day
        if not self._is_hourly:
            return ""
        return f"""
# the defaults count partitions as if each were a day: these are a day, a week and two weeks
monitoring:
  window: {day}
  sudden_changes: {{past: {7 * day}, quiet: {7 * day}}}

retraining:
  consecutive: {day}
  cooldown: {14 * day}

alerts:
  quiet: {7 * day}
"""

    def _pattern(self) -> str:
        """Return the comment on the schedule: which days or hours have rows."""
        count, span = len(self.partitions), len(self.scheduled)
        units = f"{self._unit}s" if self._is_hourly else "days"
        pattern = f"{count} {units}{self.schedule.what}"
        if not self.schedule.what and count < span:
            pattern = (
                f"{count} of {span} {units} have rows; weekends, holidays and\n"
                f"                           # other {units} without rows: see docs/reference/schedules.md"
            )
        if self._has_hours and not self._is_hourly:
            pattern += (
                "\n                           # a day's rows have several hours: for partitions of hours\n"
                "                           # see docs/reference/schedules.md"
            )
        return pattern

    @property
    def _has_hours(self) -> bool:
        """Return whether the rows of a day have several hours, by their time or by a number of the key."""
        times, columns = self.sample.times(self.time), [self.sample.columns[name] for name in self.key]
        by_key = any((one.low, one.high) == (0, HOURS - 1) and _is_scale(one) for one in columns)
        return by_key or (times is not None and times.dt.hour.nunique() > 1)

    def _about_outcomes(self) -> str:
        if self._is_same_file:
            return "  # the same file of the partition before, in which the target is filled in by now"
        return (
            "  # the rows of the partition before, in which the target is filled in by now, delivered under\n"
            "  # this partition's date, because `offset` counts days: see docs/reference/schedules.md"
        )

    def _classes(self) -> str:
        names = ", ".join(map(json.dumps, self._target.values))
        return f"  classes: [{names}]  # those of the sample\n" if self.kind == "multiclass" else ""

    def _columns(self, columns: list[SampleColumn]) -> str:
        always = {self.time, *self.key}
        lines = []
        for one in columns:
            source = list(one.declared.source) if isinstance(one.declared.source, tuple) else one.original
            renamed = f", from: {json.dumps(source)}" if source != one.name else ""
            keys = ("format", "decimal", "null_values")
            written = {key: value for key in keys if (value := getattr(one.declared, key))}
            renamed += "".join(f", {key}: {json.dumps(value)}" for key, value in written.items())
            required = ", required: true" if one.original in always else ""
            share = one.missing / self.sample.rows.num_rows
            missing = f", missing in {share:.0%}" if one.missing else ""
            shown = _in_comment(", ".join(one.examples))
            if one.declared.null_values:
                missing += f", if {', '.join(one.declared.null_values)} means that"
            lines.append(
                f"      {one.name}: {{type: {one.type}{renamed}{required}}}  # sample: {shown}{missing}"
            )
        return "\n".join(lines)

    def _expectations(self, columns: list[SampleColumn]) -> str:
        lines = []
        for one in columns:
            if one.original == self.target and self.kind == "binary" and one.type == "integer":
                if self.label == one.name:
                    kwargs = f"{{column: {one.name}, value_set: [0, 1]}}"
                    lines.append(f"        - {{type: expect_column_values_to_be_in_set, kwargs: {kwargs}}}")
            elif one.type in ("integer", "number") and one.original not in self.key:
                low, high = widened(one.low, one.high)
                zero = ", but no negative number" if low == 0 else ""
                kwargs = f"{{column: {one.name}, min_value: {_number(low)}, max_value: {_number(high)}}}"
                lines.append(
                    f"        # sample: {one.low:g} to {one.high:g}; its span is added on each side{zero}\n"
                    f"        - {{type: expect_column_values_to_be_between, kwargs: {kwargs}}}"
                )
        return "\n".join(["      expectations:", *lines, ""]) if lines else ""

    def _baselines(self) -> str:
        if self.kind != "regression":
            return "    - {name: logistic, estimator: logistic_regression}\n"
        rules = "".join(
            f"    - {{name: {re.sub(f'^{self._target.name}_', '', name)}, estimator: rule, "
            f"params: {{column: {name}}}}}  # {what}\n"
            for name, (_, what) in self._past.items()
        )
        return rules + "    - {name: ridge, estimator: ridge}\n"

    def _constant(self) -> str:
        if self.kind != "multiclass":
            return _number(round(self._rate, 4))
        values = self.sample.rows[self.target].drop_null().to_pylist()
        shares = {text: round(values.count(text) / len(values), 4) for text in self._target.values}
        most = max(shares, key=lambda text: shares[text])
        shares[most] = round(shares[most] + 1 - sum(shares.values()), 4)
        return f"{{{', '.join(f'{json.dumps(name)}: {share}' for name, share in shares.items())}}}"

    def write_partitions(self, folder: Path) -> None:
        """Write the sample's rows as one CSV file for each day, or for each hour.

        Where `outcomes` has files of its own, they are written too, and a scheduled day without rows has an
        empty file.
        """
        below, of_rows = folder / self.name, pa.array(self.row_partitions)
        options = pa.csv.WriteOptions(delimiter=self.sample.delimiter)
        (below if self._is_same_file else below / OUTCOMES).mkdir(parents=True, exist_ok=True)
        partitions = self.partitions if self._is_same_file else self.scheduled
        for one, later in zip(partitions, [*partitions[1:], ""], strict=True):
            rows = self.sample.original.filter(pc.equal(of_rows, one))
            pa.csv.write_csv(rows, below / f"{one[: len('2024-01-31T06')]}.csv", options)
            if later and not self._is_same_file:
                pa.csv.write_csv(rows, below / OUTCOMES / f"{later}.csv", options)


def _is_scale(column: SampleColumn) -> bool:
    """Return whether a column's numbers are few and in even steps, as hours are, and most ids aren't."""
    steps = np.diff(np.sort([float(text) for text in column.values]))
    return len(column.values) <= MAX_CATEGORIES and bool(np.allclose(steps, steps[:1]))


def widened(low: float, high: float) -> tuple[float, float]:
    """Return bounds beyond a range by its span, or its size; not below 0 if the range isn't, and round."""
    span = max(high - low, abs(low) / 100, abs(high) / 100)
    span = span if span > TINY else 1.0
    unit = 10.0 ** floor(log10(span) - 1)
    lowest = 0.0 if low >= 0 else floor((low - span) / unit) * unit
    return lowest, -floor(-(high + span) / unit) * unit


def _in_comment(text: str) -> str:
    """Return a sample's text as a part of one line."""
    return "".join(char for char in " ".join(text.split()) if char.isprintable())[:40]


def _number(value: float) -> str:
    """Return a number as YAML reads it."""
    return str(int(value)) if value == int(value) else f"{value:.12f}".rstrip("0")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _without_last_comma(lines: list[str]) -> str:
    return "\n".join([*lines[:-1], re.sub(r",(  --.*)?$", r"\1", lines[-1])])
