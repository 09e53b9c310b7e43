"""Settings from environment variables: addresses, accounts and secrets, which a declaration never contains.

``EVERGREEN_LAKE`` is the lake's address, ``MLFLOW_TRACKING_URI`` the registry's, and ``AWS_*``, ``AZURE_*``
or ``GOOGLE_*`` the account on the store. A source's endpoint is an Airflow connection. In a task it comes
from Airflow's secrets backends, elsewhere from ``AIRFLOW_CONN_<NAME>`` as JSON: ``host`` is the full address,
``password`` the token or secret.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from include.errors import PYTHON, SettingError

# secrets that the errors of stores and libraries may contain
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_SAS_KEY",
    "EVERGREEN_HASH_KEY",
    "EVERGREEN_SERVE_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
# variables that choose the kernels, threads and rounding of numeric libraries, and where they are loaded from
NUMERIC_PREFIXES = (
    "OPENBLAS_",
    "GOTO_",
    "BLIS_",
    "MKL_",
    "VECLIB_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "NPY_",
    "NUMEXPR_",
    "GLIBC_TUNABLES",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
for _name in ("urllib3", "botocore"):
    logging.getLogger(_name).setLevel(logging.INFO)  # at DEBUG they log addresses and headers with secrets


@dataclass(frozen=True)
class Endpoint:
    """An address and its account; only the name is printed, because the rest may contain secrets."""

    name: str
    uri: str = field(repr=False)
    login: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    kind: str = field(default="", repr=False)  # the type of the Airflow connection


Connect = Callable[[str], Endpoint]


def setting(name: str, default: str | None = None) -> str:
    """Return an environment variable; raise a SettingError if it is missing and there is no default."""
    value = os.environ.get(name, default)
    if value is None:
        raise SettingError(
            name,
            required="an environment variable",
            found="none",
            remedy=f"set it for the shell and for Airflow's workers; `{PYTHON} -m include doctor` checks it; "
            f'for the demo: `eval "$({PYTHON} -m demo.stack env)"`',
        )
    return value


def redact(text: str, *secrets: str) -> str:
    """Replace these secrets and the environment's in a text, plain or URL-encoded, by ``***``."""
    for secret in (*secrets, *(os.environ.get(name, "") for name in SECRETS)):
        for form in {secret, quote(secret, safe="")} - {""}:
            text = text.replace(form, "***")
    return text


def numeric_settings() -> dict[str, str]:
    """Return the variables that affect the last bits of results, or speed; none contains a secret."""
    return {name: value for name, value in os.environ.items() if name.startswith(NUMERIC_PREFIXES)}


def lake_uri() -> str:
    """Return the lake's address without a trailing slash."""
    uri = setting("EVERGREEN_LAKE").rstrip("/")
    parts = urlsplit(uri)
    if parts.scheme and ("@" in parts.netloc or parts.query):
        # references, reports and errors contain the address
        raise SettingError(
            "EVERGREEN_LAKE",
            required="an address without a user, a password or a query",
            found="one that contains one of these",
            remedy="set the account by AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the like",
        )
    return uri


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def home() -> Path:
    """Return the folder for caches and other files that may be lost."""
    return Path(setting("EVERGREEN_HOME", ".evergreen")).absolute()


def code_version() -> str:
    """Return the code's commit, from ``EVERGREEN_CODE``."""
    return setting("EVERGREEN_CODE", "unknown")


def endpoint(name: str) -> Endpoint:
    """Return a source's endpoint from ``AIRFLOW_CONN_<NAME>``."""
    variable = f"AIRFLOW_CONN_{name.upper()}"
    try:
        raw = json.loads(setting(variable))
        return Endpoint(
            name=name,
            uri=str(raw["host"] if not raw.get("extra") else raw.get("host") or "").rstrip("/"),
            login=str(raw.get("login") or ""),
            password=str(raw.get("password") or ""),
            extra=_extra(raw.get("extra")),
            kind=str(raw.get("conn_type") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        # the value may contain a secret, so the message must not
        raise SettingError(
            f"connection {name}",
            required='JSON with a "host"',
            found="something else",
            where=variable,
            remedy='set it as {"conn_type": "http", "host": "https://…"}',
        ) from None


_connect: Connect = endpoint


def use_connections(connect: Connect) -> None:
    """Let `connection` read endpoints by a function: in a task, from Airflow's secrets backends."""
    global _connect  # noqa: PLW0603 - a process has one source of connections
    _connect = connect


def connection(name: str) -> Endpoint:
    """Return an endpoint, from Airflow's connections in a task and from the environment elsewhere."""
    return _connect(name)


def _extra(value: Any) -> dict[str, Any]:
    return dict(json.loads(value) if isinstance(value, str) and value else value or {})
