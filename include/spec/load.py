"""Find and read the declarations; one that can't be read takes down nothing but itself."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from include.errors import SpecError
from include.spec.usecase import UseCase

SHIPPED = Path(__file__).parent.parent / "usecases"
SCHEMA = SHIPPED / "schema.json"  # what `json_schema` returns, for editors; a test keeps it up to date

# each page of `dags/` reads every declaration: of a hundred it takes a third of the time if read by C
SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def folders() -> list[Path]:
    """Return each use case's folder: the shipped ones and those under the paths in EVERGREEN_USECASES."""
    roots = [SHIPPED, *(Path(p) for p in os.environ.get("EVERGREEN_USECASES", "").split(os.pathsep) if p)]
    return sorted(
        file.parent
        for root in roots
        for file in root.glob("*/usecase.yaml")
        if not file.parent.name.startswith("_")
    )


def names() -> list[str]:
    """Return the names of the use cases, readable or not."""
    return [folder.name for folder in folders()]


def load(name: str) -> UseCase:
    """Return a use case by its name, or say which there are."""
    for folder in folders():
        if folder.name == name:
            return read(folder / "usecase.yaml")
    raise SpecError(
        f"use case {name!r}",
        required=f"one of {', '.join(names()) or 'none yet'}",
        remedy=f"create it with `python -m include init {name}`, or name its parent folder in "
        "EVERGREEN_USECASES",
    )


def read_all() -> tuple[list[UseCase], list[SpecError]]:
    """Return every readable use case, and the error of each other."""
    good: list[UseCase] = []
    bad: list[SpecError] = []
    for folder in folders():
        try:
            good.append(read(folder / "usecase.yaml"))
        except SpecError as error:
            bad.append(error)
    return good, bad


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``usecase.yaml``.

    It describes each key by itself. What needs two keys, as a column that must exist, only `read` checks.
    """
    schema = UseCase.model_json_schema()
    del schema["properties"]["folder"]  # where the file lies, which it doesn't say itself
    title = "usecase.yaml of Evergreen"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def read(file: Path) -> UseCase:
    """Read one declaration.

    Raises
    ------
    SpecError
        naming the file, the path of each key that is wrong, and what is valid there.
    """
    try:
        loader = SAFE(file.read_text())
        node = loader.get_single_node()
        raw = loader.construct_document(node) if node is not None else None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(str(file), required="a YAML file", found=" ".join(str(error).split())) from None
    if not isinstance(raw, dict):
        raise SpecError(str(file), required="a mapping of keys", found=type(raw).__name__)
    if "folder" in raw:
        raise SpecError(str(file), found="an unknown key: folder", remedy="remove it")
    try:
        spec = UseCase.model_validate({**raw, "folder": file.parent})
    except ValidationError as error:
        raise SpecError(
            str(file),
            found="; ".join(_sentence(e, node) for e in error.errors()),
            remedy="correct it and save",
        ) from None
    if spec.name != file.parent.name:
        raise SpecError(
            str(file), required=f"name: {file.parent.name} (the folder's)", found=f"name: {spec.name}"
        )
    if not (file.parent / spec.features.sql).is_file():
        raise SpecError(
            str(file), required="features.sql: a file beside it", found=spec.features.sql + " missing"
        )
    return spec


def _sentence(error: object, node: yaml.Node | None) -> str:
    """Return ``path: what is wrong`` for one of pydantic's errors, and the valid keys for an unknown one."""
    assert isinstance(error, dict)
    path = _path(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{_valid_here(error['loc'])}"
    if error["type"] == "string_type" and (text := _text(node, path)):
        key = path.rpartition(".")[2]
        what = "date" if isinstance(error["input"], date) else "time" if ":" in text else "text"
        return f'{path}: quote the {what}: {"" if key.isdigit() else f"{key}: "}"{text}"'
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{path}: {said}" if path else said


def _path(loc: tuple[str | int, ...]) -> str:
    """Return the path as the file has it: pydantic puts the kind of a source behind its name."""
    tagged = len(loc) > 2 and loc[0] == "sources" and loc[2] in ("objects", "http", "sql")
    return ".".join(str(part) for part in (loc[:2] + loc[3:] if tagged else loc))


def _text(node: yaml.Node | None, path: str) -> str:
    """Return what the file says at a path, unread; nothing where there is no scalar."""
    for part in path.split("."):
        children: dict[str, yaml.Node] = {}
        if isinstance(node, yaml.MappingNode):
            children = {str(key.value): value for key, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            children = {str(place): value for place, value in enumerate(node.value)}
        node = children.get(part)
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _valid_here(loc: tuple[str | int, ...]) -> str:
    """Return the keys that are valid where an unknown one was found."""
    model: object = UseCase
    for part in loc[:-1]:
        model = _step(model, part)
    fields = getattr(model, "model_fields", {})
    keys = sorted(field.alias or name for name, field in fields.items() if not field.exclude)
    return f"; valid here: {', '.join(keys)}" if keys else ""


def _step(annotation: object, part: str | int) -> object:
    """Return the type that one part of an error's path leads to, None where it can't be said."""
    fields = getattr(annotation, "model_fields", None)
    if fields is not None:
        return next((f.annotation for name, f in fields.items() if part in (name, f.alias)), None)
    args = get_args(annotation)
    for arg in args:  # the members of a union are told apart by their kind
        kind = getattr(arg, "model_fields", {}).get("kind")
        if kind is not None and part in get_args(kind.annotation):
            return arg
    if get_origin(annotation) in (dict, tuple):
        return args[-1] if get_origin(annotation) is dict else args[0]
    return next((found for arg in args if (found := _step(arg, part)) is not None), None)
