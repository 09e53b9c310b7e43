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


def scaffold(name: str, parent: Path | None, template: Path = TEMPLATE) -> Path:
    """Copy a template under a new name and return the new folder, see `new_folder`."""
    folder = new_folder(name, parent)
    # a template has the files of the first one that it doesn't have itself
    files = {file.name: file for parts in (TEMPLATE, template) for file in parts.iterdir() if file.is_file()}
    for file in files.values():
        if file.suffix == ".yaml":
            text = file.read_text().replace(PLACEHOLDER, name)
            (folder / file.name).write_text(
                text.replace(f"{SCHEMA_LINE}../schema.json", SCHEMA_LINE + schema_path(folder))
            )
        else:
            shutil.copyfile(file, folder / file.name)
    return folder


def schema_path(folder: Path) -> str:
    """Return the path of the JSON Schema, relative to a use case's folder."""
    return os.path.relpath(SCHEMA, folder)


def new_folder(name: str, parent: Path | None) -> Path:
    """Create and return the folder of a new use case; without a parent, one beside the shipped ones.

    Raises
    ------
    SpecError
        for a name that no use case can have, or a folder that already exists or can't be created.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise SpecError(
            f"use case {name!r}",
            required="a name of small letters, digits and _, at most 40, a letter first",
            found=repr(name),
            remedy="choose another name; it becomes the first part of DAG ids and the folder in the lake",
        )
    parent = parent or SHIPPED
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
    except OSError as error:  # such as a parent that is a file
        raise SpecError(
            f"use case {name!r}",
            required="a parent folder in which its folder can be created",
            found=error.strerror or type(error).__name__,
            where=str(parent),
            remedy="choose another folder",
        ) from None
    return folder


def scaffold_sample(
    name: str,
    parent: Path | None,
    path: Path,
    split: Path | None,
    *,
    kind: str,
    target: str,
    key: str,
    time: str,
) -> Path:
    """Write a use case that is proposed from a sample, and return its new folder, see `new_folder`.

    Parameters
    ----------
    path : of the sample.
    split : a folder for the sample's rows, one file for each day or hour; None leaves the sample as it is.
    key : names of columns, separated by commas; by default the time's, if no two rows have the same.
    time : see `include.cli.sample.read_sample`.

    Raises
    ------
    SpecError
        also for a sample that can't be read, and for names that aren't its columns.
    """
    from include.cli.proposal import Proposal
    from include.cli.sample import read_sample

    # predictions of classes have a column of this name, beside the features
    reserved = ("label",) if kind == "multiclass" and target != "label" else ()
    sample = read_sample(path, reserved, time)
    names = tuple(part.strip() for part in key.split(",") if part.strip())
    proposal = Proposal(name, sample, kind, target, names or (sample.key_of_series(time),), time)
    folder = new_folder(name, parent)
    if split is not None:
        try:
            proposal.write_partitions(split)
        except (OSError, ValueError) as error:
            folder.rmdir()
            raise SpecError(
                f"--split {split}",
                required="a folder that files can be written to",
                found=getattr(error, "strerror", None) or str(error),
                remedy="give another folder",
            ) from None
    (folder / "usecase.yaml").write_text(proposal.yaml(schema_path(folder), split=split is not None))
    (folder / "features.sql").write_text(proposal.sql())
    return folder
