"""Where and as whom: the only page that reads environment variables, so that a spec never has to.

``EVERGREEN_LAKE`` is the lake's address, ``MLFLOW_TRACKING_URI`` the registry's; ``AWS_*`` say as whom on S3.
A source's endpoint is an Airflow connection: in a task Airflow's own secrets backends are asked, elsewhere
``AIRFLOW_CONN_<NAME>`` in its JSON form. ``host`` holds the whole address, ``password`` the token or secret.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from include.errors import SettingError

# secrets that a store or a library might repeat in what it raises
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "EVERGREEN_HASH_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
# what chooses the kernels, threads and rounding of numeric libraries, and where they are loaded from
NUMERIC = (
    *("OPENBLAS_", "GOTO_", "BLIS_", "MKL_", "VECLIB_", "OMP_", "GOMP_", "KMP_"),
    *("NPY_", "NUMEXPR_", "GLIBC_TUNABLES", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
)
for _name in ("urllib3", "botocore"):
    logging.getLogger(_name).setLevel(
        logging.INFO
    )  # below it they log addresses and headers with what is in them


@dataclass(frozen=True)
class Endpoint:
    """An address and as whom to call it; its printed form is its name, for the rest may hold a secret."""

    name: str
    uri: str = field(repr=False)
    login: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    kind: str = field(default="", repr=False)  # of Airflow's connection


Connect = Callable[[str], Endpoint]


def setting(name: str, default: str | None = None) -> str:
    """Return an environment variable, or say that it is missing."""
    value = os.environ.get(name, default)
    if value is None:
        raise SettingError(
            f"setting {name}",
            required="an environment variable",
            found="none",
            remedy='`eval "$(python -m demo.stack env)"` sets those of the demo; '
            "`python -m include doctor` checks all",
        )
    return value


def redact(text: str, *secrets: str) -> str:
    """Return a text without these secrets and the environment's, plain or as an address has them."""
    for secret in (*secrets, *(os.environ.get(name, "") for name in SECRETS)):
        for form in {secret, quote(secret, safe="")} - {""}:
            text = text.replace(form, "***")
    return text


def numeric_settings() -> dict[str, str]:
    """Return the variables on which the last bit of a result, or its speed, depends; none holds a secret."""
    return {name: value for name, value in os.environ.items() if name.startswith(NUMERIC)}


def lake_uri() -> str:
    """Return the lake's address without a slash at its end."""
    uri = setting("EVERGREEN_LAKE").rstrip("/")
    parts = urlsplit(uri)
    if parts.scheme and ("@" in parts.netloc or parts.query):
        # references, reports and errors repeat the address
        raise SettingError(
            "setting EVERGREEN_LAKE",
            required="an address without a user, a password or a query",
            found="one with",
            remedy="say as whom in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the like",
        )
    return uri


def home() -> Path:
    """Return the folder for what may be lost: caches and the like."""
    return Path(setting("EVERGREEN_HOME", ".evergreen")).absolute()


def code_version() -> str:
    """Return the code's commit, as whoever started the process gave it."""
    return setting("EVERGREEN_CODE", "unknown")


def endpoint(name: str) -> Endpoint:
    """Return a source's endpoint from ``AIRFLOW_CONN_<NAME>``."""
    variable = f"AIRFLOW_CONN_{name.upper()}"
    try:
        raw = json.loads(setting(variable))
        return Endpoint(
            name=name,
            uri=str(raw["host"]).rstrip("/"),
            login=str(raw.get("login") or ""),
            password=str(raw.get("password") or ""),
            extra=_extra(raw.get("extra")),
        )
    except (ValueError, KeyError, TypeError):
        # the value may hold a secret: the message must not
        raise SettingError(
            f"connection {name}", required="JSON with a host", found="something else", where=variable
        ) from None


def _extra(value: Any) -> dict[str, Any]:
    return dict(json.loads(value) if isinstance(value, str) and value else value or {})
