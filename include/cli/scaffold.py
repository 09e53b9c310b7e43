"""Create a use case's folder from the template, whose files are valid and explain each key in place."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from include.errors import SpecError
from include.spec.load import SCHEMA, SHIPPED

TEMPLATE = SHIPPED / "_template"
PYTHON_TEMPLATE = SHIPPED / "_template_python"  # with an example of each kind of Python, and its test
PLACEHOLDER = "USECASE"
SCHEMA_LINE = "# yaml-language-server: $schema="  # editors read the schema's path, relative to the file, here


def scaffold(name: str, parent: Path = SHIPPED, *, template: Path = TEMPLATE) -> Path:
    """Copy a template under a new name and return the new folder.

    Raises
    ------
    SpecError
        for a name that no use case can have, or a folder that already exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise SpecError(
            f"use case {name!r}",
            required="a name of small letters, digits and _, at most 40, a letter first",
            found=repr(name),
            remedy="choose another name; it becomes the first part of DAG ids and the folder in the lake",
        )
    folder = parent / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise SpecError(
            f"use case {name!r}",
            required="a folder that does not exist yet",
            found="an existing one",
            where=str(folder),
            remedy="choose another name, or edit the existing folder",
        ) from None
    for file in sorted(file for file in template.iterdir() if file.is_file()):
        if file.suffix == ".yaml":
            text = file.read_text().replace(PLACEHOLDER, name)
            schema = os.path.relpath(SCHEMA, folder)
            (folder / file.name).write_text(
                text.replace(f"{SCHEMA_LINE}../schema.json", SCHEMA_LINE + schema)
            )
        else:
            shutil.copyfile(file, folder / file.name)
    return folder
