"""The declaration of a use case: a YAML file, read into frozen pydantic models that reject unknown keys.

Addresses, accounts and secrets come from the environment, never from the declaration.
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
