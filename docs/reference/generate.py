"""Writes the reference pages from the code: ``python docs/reference/generate.py``.

- ``usecase.md`` from the JSON Schema of ``usecase.yaml``, which is also written for editors
- ``estimators.md`` from the registry ``include/train/estimators.py`` and the docstrings in it
- ``commands.md`` from the command line's own help
- ``validate.md`` from the mistakes that ``tests/validate`` plants
- ``tables.md`` from ``include/storage/schemas.py`` and the comments in it

``tests/docs/test_reference.py`` fails while a page differs from what this writes.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import pyarrow as pa  # noqa: E402  # after the path to the repository
import typer  # noqa: E402
import yaml  # noqa: E402
from typer.core import TyperGroup  # noqa: E402

from include.cli.app import app  # noqa: E402
from include.extensions import REFERENCE  # noqa: E402
from include.spec import json_schema  # noqa: E402
from include.storage import schemas  # noqa: E402
from include.storage.compaction import LEDGERS  # noqa: E402
from include.train.estimators import ESTIMATORS, RESERVED  # noqa: E402

Schema = Mapping[str, Any]
HERE = Path(__file__).parent
NOTE = "<!-- Written by `python docs/reference/generate.py`. Edit the code it reads, not this page. -->"
PATTERNS = {
    r"^[a-z][a-z0-9_]{0,39}$": "name (a-z, 0-9, _)",
    REFERENCE: "`module:name`",
    rf"^[a-z][a-z0-9_]{{0,39}}$|{REFERENCE}": "name (a-z, 0-9, _) or `module:name`",
    r"^([01]\d|2[0-3]):[0-5]\d$": "time, `HH:MM`",
    r"^\d{4}-\d{2}-\d{2}$": "date, `YYYY-MM-DD`",
}
MISTAKES = ROOT / "tests" / "validate" / "mistakes.yaml"
LONGEST_TEXT = 80  # characters of planted text that are shown
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def pages() -> dict[Path, str]:
    """Return the content of each file that is written."""
    return {
        HERE / "usecase.md": usecase_page(json_schema()),
        HERE / "estimators.md": estimators_page(),
        HERE / "commands.md": commands_page(),
        HERE / "tables.md": tables_page(),
        HERE / "validate.md": validate_page(),
        ROOT
        / "include"
        / "usecases"
        / "schema.json": f"{json.dumps(json_schema(), indent=1, ensure_ascii=False)}\n",
    }


# usecase.yaml


def usecase_page(schema: Schema) -> str:
    """Return the reference of every key of ``usecase.yaml``."""
    parts = [
        "# usecase.yaml",
        NOTE,
        "A key without a default is required. `python -m include validate` reports a wrong or unknown key by "
        "its path.\n`python -m include schema` prints the JSON Schema from which this page is written.",
    ]
    own = {name: part for name, part in schema["properties"].items() if not _section(part, schema)}
    parts += ["## Top level", _table(own, schema.get("required", ()), schema)]
    for name, part in schema["properties"].items():
        parts += _sections(name, part, schema)
    return "\n\n".join(parts) + "\n"


def _sections(path: str, part: Schema, schema: Schema) -> Iterator[str]:
    """Yield a section for a mapping, then those of the mappings in it."""
    inner = _section(part, schema)
    if inner is None:
        return
    suffix, variants = inner
    path += suffix
    shared = [
        name for name in variants[0]["properties"] if all(name in one["properties"] for one in variants)
    ]
    if len(variants) == 1:
        yield from _section_text(path, variants[0], list(variants[0]["properties"]), schema)
        for name, of in variants[0]["properties"].items():
            yield from _sections(f"{path}.{name}", of, schema)
        return
    shared = [name for name in shared if name != "kind"]
    yield f"## `{path}`"
    kinds = ", ".join(f"`{_kind(one)}`" for one in variants)
    yield f"A source has a `kind`, one of {kinds}. These keys are common to all kinds:"
    properties = {name: variants[0]["properties"][name] for name in shared}
    yield _table(properties, variants[0].get("required", ()), schema)
    for one in variants:
        own = [name for name in one["properties"] if name not in shared]
        yield from _section_text(f"{path}` of kind `{_kind(one)}", one, own, schema)
    for name in shared:
        yield from _sections(f"{path}.{name}", variants[0]["properties"][name], schema)


def _section_text(path: str, part: Schema, names: list[str], schema: Schema) -> Iterator[str]:
    yield f"## `{path}`"
    if "description" in part:
        yield _sentence(part["description"])
    yield _table({name: part["properties"][name] for name in names}, part.get("required", ()), schema)


def _kind(part: Schema) -> str:
    return str(part["properties"]["kind"].get("const") or "module:name")


def _section(part: Schema, schema: Schema) -> tuple[str, list[Schema]] | None:
    """Return the path's ending and the mappings that a value may be; None for what has no keys of its own."""
    part = _resolve(part, schema)
    for union in ("anyOf", "oneOf"):
        found = [_section(one, schema) for one in part.get(union, ())]
        inner = [one for one in found if one is not None]
        if inner:
            return inner[0][0], [variant for _, variants in inner for variant in variants]
    if "properties" in part:
        return "", [part]
    if part.get("type") == "array" and (inner_item := _section(part.get("items", {}), schema)):
        return "[]", inner_item[1]
    values = [*part.get("patternProperties", {}).values(), part.get("additionalProperties")]
    for value in values:
        if isinstance(value, dict) and (inner_value := _section(value, schema)):
            return ".<name>", inner_value[1]
    return None


def _resolve(part: Schema, schema: Schema) -> Schema:
    if "$ref" in part:
        return schema["$defs"][part["$ref"].rpartition("/")[2]]
    return part


def _table(properties: Mapping[str, Schema], required: Any, schema: Schema) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, part in properties.items():
        default = "**required**" if name in required else _default(part, schema)
        meaning = part.get("description", "Selects this kind" if name == "kind" and "const" in part else "")
        if not meaning and _section(part, schema):
            meaning = "see below"
        kind = _type(part, schema)
        if values := re.findall(r"`(\w+)`", kind):  # to be typed like this, also where a sentence begins
            meaning = re.sub(rf"(?<!`)\b({'|'.join(values)})\b", r"`\1`", meaning)
        cells = (f"`{name}`", kind, default, _sentence(meaning))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _default(part: Schema, schema: Schema) -> str:
    value = part.get("default", {} if _section(part, schema) else None)
    if value is None:
        return "none"
    if isinstance(value, dict) and _section(part, schema):
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if text not in ('""', "[]", "{}") else "empty"


def _type(part: Schema, schema: Schema) -> str:
    """Return a value's type in words."""
    part = _resolve(part, schema)
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return " or ".join(f"`{value}`" for value in part["enum"])
    for union in ("anyOf", "oneOf"):
        if union in part:
            return " or ".join(dict.fromkeys(_type(one, schema) for one in part[union]))
    kind = str(part.get("type", "any"))
    if kind == "array":
        return f"list of {_type(part.get('items', {}), schema)}"
    if kind == "object":
        keys = part.get("propertyNames", {})
        return "mapping" if "enum" not in keys else f"mapping by {_type(keys, schema)}"
    if kind == "string":
        return PATTERNS.get(
            part.get("pattern", ""), f"text like `{part['pattern']}`" if "pattern" in part else "text"
        )
    limits = [f"{sign} {part[name]:,}" for name, sign in LIMITS.items() if name in part]
    return ", ".join([kind, *limits])


def _sentence(text: str) -> str:
    """Return a docstring or description in one paragraph, in Markdown, with a capital letter."""
    text = " ".join(text.split()).replace("``", "`")
    return text[:1].upper() + text[1:]


# estimators


def estimators_page() -> str:
    """Return the reference of every estimator that a recipe may name."""
    own = ", ".join(f"`{name}`" for name in sorted(RESERVED))
    parts = [
        "# Estimators",
        NOTE,
        "A recipe under `training.baselines` or `training.candidates` names its `estimator`, and may have "
        "`params`: the arguments\nof the class. `python -m include validate` lists the valid "
        f"ones if one is unknown. Evergreen itself sets\n{own}.\n\n"
        "Besides these, it may name a class of your own as `module:name`, or one that an installed package "
        "registers as an\nentry point of the group `evergreen.estimators`.",
        "A stored model is data: `skops` for scikit-learn's, `ubj` for XGBoost's own binary format within "
        "such a file.\nLoading one runs no code that isn't in this repository, its locked packages or the "
        "use case's own folder.",
    ]
    kinds: dict[str, list[str]] = {}
    for kind, estimators in ESTIMATORS.items():
        for name in estimators:
            kinds.setdefault(name, []).append(kind)
    lines = ["| estimator | kinds of problem | stored as | what it is for |", "|---|---|---|---|"]
    for name, of in kinds.items():
        entry = ESTIMATORS[of[0]][name]
        about = _sentence(entry.build.__doc__ or "")
        lines.append(f"| `{name}` | {', '.join(of)} | `{entry.stored_as}` | {about} |")
    parts += [
        "\n".join(lines),
        "Beside `params`, a recipe may declare options, which [usecase.yaml](usecase.md) describes:\n"
        "`calibration` for binary and multiclass problems, `target` for regressions, `early_stopping` and\n"
        "`monotone` for `hist_gradient_boosting` and `xgboost`, `search` for all that learn from features, "
        "`recent_intercept`\nfor all but `prior`, and `half_life` also for `prior`. With `external_memory`, "
        "`xgboost` reads many rows in batches "
        "([measured](benchmarks.md)),\nand with `engine: dask` it is fitted by "
        "[worker processes](../how-to/train-on-dask.md).\nWhat an option holds out are the newest "
        "partitions, never random rows. What was\nchosen is in MLflow's parameters and in the note of the "
        "task `train.fit`.",
        "Counts and quantiles are regressions. Declare the loss for the candidates and for the gate:",
        "| | `hist_gradient_boosting` | `xgboost` | `gate.objective` |\n|---|---|---|---|\n"
        "| counts | `{loss: poisson}` | `{objective: 'count:poisson'}` | `poisson_deviance` |\n"
        "| a quantile | `{loss: quantile, quantile: 0.9}` | `{objective: 'reg:quantileerror', "
        "quantile_alpha: 0.9}` | `quantile_loss@0.9` |",
        "The metric `coverage` is the share of labels at or below the prediction, about 0.9 for this "
        "quantile. Where a requirement\nof the gate or of monitoring names it, as "
        "`{metric: coverage, at_least: 0.85}`, it is measured and estimated before labels\ncome. An interval "
        "is two use cases, one for each of its quantiles.",
        "To add an estimator, see [how to add an estimator](../how-to/add-an-estimator.md).",
    ]
    return "\n\n".join(parts) + "\n"


# commands


def commands_page() -> str:
    """Return the reference of every command."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group, info_name="python -m include")
    parts = [
        "# Commands",
        NOTE,
        "Run them as `.venv/bin/python -m include COMMAND` from the repository. Every command takes `--json` "
        "(print one JSON object),\n`--debug` (show an error's traceback) and `--help`. A command ends with 1 "
        "and one line on stderr if something is wrong.",
    ]
    for name in sorted(group.commands):
        command = group.commands[name]
        usage = command.collect_usage_pieces(typer.Context(command, parent=context, info_name=name))
        parts += [
            f"## {name}",
            f"`python -m include {' '.join(map(str, [name, *usage]))}`",
            _help(command.help or ""),
        ]
        rows = [
            f"| {_option(one)} | {_sentence(getattr(one, 'help', None) or '')} |"
            for one in command.params
            if not {"--json", "--debug", "--help"} & set(one.opts)
        ]
        if rows:
            parts.append("\n".join(["| argument or option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = (parameter.metavar or parameter.name or "").strip("[]")
        return f"`{name}`".replace("|", "\\|")
    needed = ", required" if parameter.required else ""
    default = parameter.default
    shown = f", default `{default}`" if isinstance(default, str) and default else ""
    return f"`{', '.join(parameter.opts)}`{needed}{shown}"


def _help(text: str) -> str:
    return "\n\n".join(" ".join(part.split()).replace("``", "`") for part in text.split("\n\n"))


# validate


def validate_page() -> str:
    """Return the mistakes that `validate` finds, with the text that is planted and the message."""
    parts = [
        "# What validate finds",
        NOTE,
        "`python -m include validate NAME` needs no data. `validate --data NAME` also looks at the newest "
        "three stored partitions,\nor at one (`--partition`). A test plants each of these mistakes and "
        "requires its message. With an error, the command exits with 1;\na warning is probably a mistake, "
        "and a hint is advice. Each message states subject,\nrequirement, what is there instead, where, and "
        "a remedy; `--json` prints them apart.",
    ]
    lines = ["| mistake | file | as planted | found by | message |", "|---|---|---|---|---|"]
    for planted in yaml.safe_load(MISTAKES.read_text()):
        command = f"`validate{' --data' if 'command' in planted else ''}`"
        severity = planted.get("severity", "error")
        text = _shown(planted["new"]) or f"without {_shown(planted['old'])}"
        lines.append(
            f"| {_sentence(planted['mistake'])} | `{planted['in']}` | {text} | {command}, {severity} "
            f"| … {_cell(planted['says'].strip())} … |"
        )
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _shown(text: str) -> str:
    """Return planted text as code in a table's cell, cut where it is long."""
    line = " ".join(text.split())
    line = line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"
    return f"`{_cell(line)}`" if line else ""


# tables


COMMON_COLUMNS = {
    "partition": "its key",
    "model": "the model's digest",
    "version": "the model's version in the registry",
    "recipe": "the recipe's name",
    "metric": "the metric's name",
    "rows": "number of rows",
    "reason": "why, for people",
    "note": "one sentence for people",
    "by": "the person's login; empty if Evergreen did it",
    "at": "when it was recorded",
    "spec": "the declaration's digest",
    "code": "the version of the code",
    "recorded": "its number in the order of recording, from 1",
}


def tables_page() -> str:
    """Return the reference of every table, with the comments that stand beside its columns."""
    source = Path(schemas.__file__).read_text()
    parts = [
        "# Tables",
        NOTE,
        "Each use case has these Delta tables under `<EVERGREEN_LAKE>/<usecase>/tables/`. One commit "
        "replaces the rows of one partition.\nThe ledgers "
        f"({', '.join(f'`{name}`' for name in LEDGERS)}) only grow.",
        "Two more kinds of tables have no schema here. `validated_<source>` has the source's declared "
        "columns, then `partition`,\n`revision` and `known_at` (when the row became known). `restated` and "
        "`shadows` have the columns of `predictions`:\nwhat the serving model would predict now, and what a "
        "model in shadow predicted.",
    ]
    for name, (about, comments) in sorted(_comments(source).items()):
        schema: pa.Schema = getattr(schemas, name)
        parts.append(f"## {name.lower()}")
        if about:
            parts.append(_sentence(about) + ("" if about.endswith((".", "?")) else "."))
        rows = [
            f"| `{field.name}` | {_arrow(field.type)} | "
            f"{_cell(comments.get(field.name) or COMMON_COLUMNS.get(field.name, ''))} |"
            for field in schema
        ]
        parts.append("\n".join(["| column | type | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _cell(comment: str) -> str:
    return comment.replace("``", "`").replace("|", "\\|")


def _arrow(kind: pa.DataType) -> str:
    return "timestamp, UTC" if pa.types.is_timestamp(kind) else str(kind)


def _comments(source: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return each schema's comment above it, and that of each of its columns.

    A column's comment is at the end of its line, or on lines of its own before it.
    """
    found: dict[str, tuple[str, dict[str, str]]] = {}
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = (
                token.string.lstrip("# ").rstrip(),
                token.line.lstrip().startswith("#"),
            )
    lines = source.splitlines()
    for number, line in enumerate(lines, 1):
        if not (named := re.match(r"([A-Z]+) = _schema\(", line)):
            continue
        above: list[str] = []
        index = number - 1
        while index in comments and comments[index][1]:
            above.insert(0, comments[index][0])
            index -= 1
        columns: dict[str, str] = {}
        pending: list[str] = []
        last = number
        while lines[last - 1] != ")":
            text, alone = comments.get(last, ("", False))
            names = re.findall(r"\b(\w+)=", lines[last - 1].partition("#")[0])
            if alone:
                pending.append(text)
            elif names:
                columns[names[-1]] = " ".join([*pending, text]).strip()
                pending = []
            last += 1
        found[named[1]] = (" ".join(above), columns)
    return found


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
