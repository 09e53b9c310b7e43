"""A use case is declared once, in a YAML file read into frozen models; an unknown key is refused by its path.

Where and as whom (addresses, accounts, secrets) is the environment's, never the spec's.
"""

from include.errors import SpecError
from include.spec.load import folders, json_schema, load, names, read_all
from include.spec.problem import Problem
from include.spec.usecase import Schedule, UseCase

__all__ = [
    "Problem",
    "Schedule",
    "SpecError",
    "UseCase",
    "folders",
    "json_schema",
    "load",
    "names",
    "read_all",
]
