"""A new use case begins as a copy of a small one that works, with every key explained where it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from include.errors import SpecError
from include.spec.load import SHIPPED

TEMPLATE = SHIPPED / "_template"
PLACEHOLDER = "USECASE"


def scaffold(name: str, into: Path = SHIPPED) -> Path:
    """Copy the template under a name and return the new folder.

    Raises
    ------
    SpecError
        for a name that no use case can have, or a folder that is already there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise SpecError(
            f"use case {name!r}",
            required="a name of small letters, digits and _, at most 40, a letter first",
            found=repr(name),
            remedy="choose another name; it becomes the first part of DAG ids and the folder in the lake",
        )
    folder = into / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise SpecError(
            f"use case {name!r}",
            required="a folder that is not there yet",
            found="one that is",
            where=str(folder),
            remedy="choose another name, or change the one that is there",
        ) from None
    for file in sorted(TEMPLATE.iterdir()):
        if file.suffix == ".yaml":
            (folder / file.name).write_text(file.read_text().replace(PLACEHOLDER, name))
        else:
            shutil.copyfile(file, folder / file.name)
    return folder
