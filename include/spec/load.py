"""Find and read the declarations; an invalid one doesn't affect the others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from include.errors import PYTHON, SpecError
from include.spec import cache
from include.spec.source import source_class
from include.spec.usecase import UseCase

SHIPPED = Path(__file__).parent.parent / "usecases"
SCHEMA = SHIPPED / "schema.json"  # what `json_schema` returns, for editors; a test keeps it up to date

NOT_DECLARED = ("folder", "horizon")  # fields of a use case that say where its declaration is
OVERLAID = ("schedule", "training", "gate", "retraining")  # what a policy of a replay may change

# the C loader takes a third of the time, and each DAG file reads every declaration
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
INTEGER, DIGITS = "tag:yaml.org,2002:int", 18  # of an integer, so that it has at most 64 bits


def folders() -> list[Path]:
    """Return the folder of each use case: the shipped ones, and those under EVERGREEN_USECASES."""
    roots = [SHIPPED, *(Path(p) for p in os.environ.get("EVERGREEN_USECASES", "").split(os.pathsep) if p)]
    return sorted(
        file.parent
        for root in roots
        for file in root.glob("*/usecase.yaml")
        if not file.parent.name.startswith("_")
    )


def declarations(name: str | None = None) -> Iterator[tuple[str, Path, str]]:
    """Yield the name, the file and the horizon of each use case, valid or not; without a horizon it is "".

    Parameters
    ----------
    name : of the only use case that is needed. Then no file is read that can't declare it.
    """
    for folder in folders():
        file = folder / "usecase.yaml"
        if name in (None, folder.name):
            yield folder.name, file, ""
        if name is None or name.startswith(f"{folder.name}_"):
            for horizon in _horizons(file):
                if name in (None, f"{folder.name}_{horizon}"):
                    yield f"{folder.name}_{horizon}", file, horizon


def _horizons(file: Path) -> list[str]:
    """Return the names under ``horizons``; none if the file can't be read, which `read` reports."""
    try:
        text = _text(file)
        raw = (cache.stored(text) or _mapping(file, text)[0]) if "horizons" in text else {}
    except SpecError:
        return []
    horizons = raw.get("horizons")
    return list(map(str, horizons)) if isinstance(horizons, dict) else []


def names() -> list[str]:
    """Return the names of all use cases, valid or not."""
    return [name for name, _, _ in declarations()]


def load(name: str) -> UseCase:
    """Return a use case by its name."""
    files = [(horizon, file) for _, file, horizon in declarations(name)]
    if files:
        horizon, file = min(files)  # a folder before a horizon
        return read(file, horizon=horizon)
    raise SpecError(
        f"use case {name!r}",
        required=f"one of {', '.join(names()) or 'none yet'}",
        remedy=f"create it with `{PYTHON} -m include init {name}`, or name its parent folder in "
        "EVERGREEN_USECASES",
    )


def read_all(name: str | None = None) -> tuple[list[UseCase], list[SpecError]]:
    """Return every valid use case, and the errors of the others.

    Parameters
    ----------
    name : of the only use case that is needed.
    """
    good: list[UseCase] = []
    bad: dict[str, SpecError] = {}  # by message: a mistake in a declaration is one in each of its horizons
    for _, file, horizon in declarations(name):
        try:
            good.append(read(file, horizon=horizon))
        except SpecError as error:
            bad[str(error)] = error
    return good, [*bad.values()]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``usecase.yaml``.

    It describes each key by itself. What needs two keys, as a column that must exist, only `read` checks.
    """
    schema = UseCase.model_json_schema()
    for name in NOT_DECLARED:
        del schema["properties"][name]
    title = "usecase.yaml of Evergreen"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def read(file: Path, overlay: Path | None = None, horizon: str = "") -> UseCase:
    """Read one declaration.

    Parameters
    ----------
    overlay : a file whose keys replace those of the declaration; mappings are merged.
    horizon : the one of the declaration's ``horizons`` that is meant, whose keys replace the others too.

    Raises
    ------
    SpecError
        with the file, the path of each invalid key, and what is valid there.
    """
    text = _text(file)
    raw = cache.stored(text)
    is_stored = raw is not None
    if raw is None:
        raw, _ = _mapping(file, text)
    for name in NOT_DECLARED:
        if name in raw:
            raise SpecError(str(file), found=f"an unknown key: {name}", remedy="remove it")
    declared = raw
    subject = str(file)
    if horizon:
        raw = _at_horizon(file, raw, horizon)
        subject = f"{file}: horizons.{horizon}"
    if overlay is not None:
        raw = _merged(raw, _policy(overlay))
    try:
        spec = UseCase.model_validate({**raw, "folder": file.parent, "horizon": horizon})
    except ValidationError as error:
        at_fault = overlay or file
        _, node = _mapping(at_fault, _text(at_fault))
        above = ("horizons", horizon) if horizon and overlay is None else ()
        # of a list whose only item is wrong, pydantic also says that it is too short
        errors = [
            e for e in error.errors() if e["type"] != "too_short" or len(e["input"]) < e["ctx"]["min_length"]
        ]
        lines = sorted({_line(node, (*above, *_named_path(e))) for e in errors})
        raise SpecError(
            str(overlay or subject),
            required="the keys and values of docs/reference/usecase.md",
            found="; ".join(_error_sentence(e, node) for e in errors),
            where=f"line {', '.join(map(str, lines))}",
            remedy="correct it and save",
        ) from None
    if not horizon and spec.name != file.parent.name:
        raise SpecError(
            str(file),
            required=f"name: {file.parent.name} (the folder's)",
            found=f"name: {spec.name}",
            where=f"line {_line(_mapping(file, text)[1], ('name',))}",
            remedy="write the folder's name, or rename the folder",
        )
    sql = file.parent / spec.features.sql
    if not sql.resolve().is_relative_to(file.parent.resolve()):
        raise SpecError(
            str(file),
            required="features.sql: a file within the use case's folder",
            found=spec.features.sql,
            where=f"line {_line(_mapping(file, text)[1], ('features', 'sql'))}",
            remedy="move the file there",
        )
    if not spec.features.python and not sql.is_file():
        raise SpecError(
            str(file),
            required="features.sql: a file beside it",
            found=spec.features.sql + " missing",
            where=str(file.parent),
            remedy="write the file, or correct its name under features",
        )
    for code in spec.python:
        if code.file is None:  # it isn't imported: DAG files read declarations when they are parsed
            required = f"{code.key}: a module {code.module} beside it, or in an installed package"
            remedy = "write the module, install its package, or correct the name"
            raise SpecError(str(file), required=required, found=f"neither for {code.name}", remedy=remedy)
    if not is_stored:
        cache.store(text, declared)
    return spec


def _policy(overlay: Path) -> dict[str, Any]:
    """Return what a policy of a replay declares."""
    changes, _ = _mapping(overlay, _text(overlay))
    if unknown := sorted(set(changes) - set(OVERLAID)):
        raise SpecError(
            str(overlay),
            required=f"only the keys {', '.join(OVERLAID)}",
            found=", ".join(map(str, unknown)),
            remedy="remove the other keys",
        )
    return changes


def _at_horizon(file: Path, raw: dict[str, Any], horizon: str) -> dict[str, Any]:
    """Return the keys of the use case that a declaration is at one of its horizons."""
    base = read(file)  # only a valid declaration has horizons
    name = f"{base.name}_{horizon}"
    if len(list(declarations(name))) > 1:
        raise SpecError(
            f"{file}: horizons.{horizon}",
            required=f"a name that no other use case has, since the horizon's use case is {name}",
            remedy="rename the horizon, or the folder of the other use case",
        )
    shared = {key: value for key, value in raw.items() if key != "horizons"}
    return _merged(shared, raw["horizons"][horizon]) | {"name": name}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError) as error:
        raise _not_yaml(file, error) from None


def _not_yaml(file: Path, error: Exception) -> SpecError:
    return SpecError(
        str(file),
        required="a YAML file with each key once",
        found=" ".join(str(error).split()),
        where=str(file.parent),
        remedy="correct the line that is named and save",
    )


def _mapping(file: Path, text: str) -> tuple[dict[str, Any], yaml.Node | None]:
    """Return the keys in a YAML file's text, and its node."""
    try:
        loader = LOADER(text)
        node = loader.get_single_node()
        _check_nodes(node)
        raw = loader.construct_document(node) if node is not None else None
    except (ValueError, yaml.YAMLError) as error:
        raise _not_yaml(file, error) from None
    if not isinstance(raw, dict):
        raise SpecError(
            str(file),
            required="a mapping of keys",
            found=type(raw).__name__,
            where=str(file.parent),
            remedy="write the keys of docs/reference/usecase.md",
        )
    return raw, node


def _check_nodes(root: yaml.Node | None) -> None:
    """Refuse a mapping that has a key twice, of which YAML keeps the last, and a number beyond 64 bits."""
    nodes, visited = [root], set()  # an alias may repeat a node, even within itself
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.ScalarNode) and node.tag == INTEGER and len(node.value) > DIGITS:
            raise ValueError(f"a number of {len(node.value)} digits in line {node.start_mark.line + 1}")
        if id(node) in visited or not isinstance(node, yaml.CollectionNode):
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"{name} in line {lines[name]} and again in line {line}")
            lines[name] = line
            nodes.append(value)


def _merged(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping with changes; a value that is a mapping in both is merged itself."""
    return raw | {
        key: _merged(raw[key], value) if isinstance(value, dict) and isinstance(raw.get(key), dict) else value
        for key, value in changes.items()
    }


def _error_sentence(error: object, node: yaml.Node | None) -> str:
    """Return one of pydantic's errors as ``path: problem``, with the valid keys for an unknown one."""
    assert isinstance(error, dict)
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{_valid_keys(error['loc'], node)}"
    if error["type"] == "string_type" and (text := _scalar_text(node, path)):
        key = path.rpartition(".")[2]
        kind = "date" if isinstance(error["input"], date) else "time" if ":" in text else "text"
        return f'{path}: quote the {kind}: {"" if key.isdigit() else f"{key}: "}"{text}"'
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _scalar_text(node: yaml.Node | None, path: str) -> str:
    """Return the raw text of the scalar at a path; "" if there is none."""
    for part in path.split("."):
        node = _children(node).get(part)
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _named_path(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Return where the mistake is: an error across keys begins its message with the path of one of them."""
    path = re.match(r"Value error, ([\w.]+): ", str(error["msg"]))
    return (*error["loc"], *(path[1].split(".") if path else ()))


def _line(node: yaml.Node | None, loc: tuple[str | int, ...]) -> int:
    """Return the line of the value at an error's path, or of what it is missing from."""
    for part in loc:
        children = _children(node)
        node = children.get(str(part)) or _recipe(children, str(part)) or node
    return int(node.start_mark.line) + 1 if node is not None else 1


def _recipe(children: Mapping[str, yaml.Node], name: str) -> yaml.Node | None:
    """Return the item with a name from the lists below a key, as a recipe of ``training``."""
    items = (item for child in children.values() for item in _children(child).values())
    return next((item for item in items if getattr(_children(item).get("name"), "value", "") == name), None)


def _children(node: yaml.Node | None) -> dict[str, yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): value for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return {str(index): value for index, value in enumerate(node.value)}
    return {}


def _valid_keys(loc: tuple[str | int, ...], node: yaml.Node | None) -> str:
    """Return the keys that are valid at the place of an unknown one."""
    model: object = UseCase
    for depth, part in enumerate(loc[:-1]):
        is_source = depth == 1 and loc[0] == "sources"
        model = source_class(_scalar_text(node, f"sources.{part}.kind")) if is_source else _step(model, part)
    fields = getattr(model, "model_fields", {})
    keys = sorted(field.alias or name for name, field in fields.items() if not field.exclude)
    return f"; valid here: {', '.join(keys)}" if keys else ""


def _step(annotation: object, part: str | int) -> object:
    """Return the type that one part of an error's path leads to, or None."""
    fields = getattr(annotation, "model_fields", None)
    if fields is not None:
        return next((f.annotation for name, f in fields.items() if part in (name, f.alias)), None)
    args = get_args(annotation)
    if get_origin(annotation) in (dict, tuple):
        return args[-1] if get_origin(annotation) is dict else args[0]
    return next((type_ for arg in args if (type_ := _step(arg, part)) is not None), None)
