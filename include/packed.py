"""Names and arrays inside a stored model, the same whenever and wherever it was made."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


def renumber(node: Any, ids: dict[int, int], names: dict[str, str]) -> None:
    """Number the objects and files below a node of skops' schema by the order in which they appear."""
    if isinstance(node, list):
        for item in node:
            renumber(item, ids, names)
    if not isinstance(node, dict):
        return
    if node.get("is_json"):
        node.pop("__id__", None)  # whether two equal constants are one object is chance
    elif isinstance(node.get("__id__"), int):
        node["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
    if isinstance(node.get("file"), str):
        ending = node["file"].rpartition(".")[2]
        node["file"] = names.setdefault(node["file"], f"{len(names) + 1}.{ending}")
    for value in node.values():
        renumber(value, ids, names)


def without_gaps(file: bytes) -> bytes:
    """Return an array's file with zeros between its fields, where NumPy writes whatever its buffer held."""
    if not file.startswith(np.lib.format.MAGIC_PREFIX):
        return file
    array = np.load(io.BytesIO(file), allow_pickle=False)
    if array.dtype.names is None:
        return file
    clean = np.zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    # as bytes, since NumPy copies a structured array field by field
    return file[: -clean.nbytes] + clean.view(np.uint8).tobytes()
