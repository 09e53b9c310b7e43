"""Write .env with random secrets and the stack's own name, once: an existing file is never changed.

    python3 deploy/dotenv.py [.env]

It uses only the standard library, because it runs before anything is installed. All secrets but one consist
of letters and digits, so they need no escaping in URLs, SQL and JSON.
"""

from __future__ import annotations

import base64
import os
import secrets
import string
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ALPHABET = string.ascii_letters + string.digits
LENGTH = 64  # bytes, as needed by HS512, with which Airflow signs its tokens
SECRETS = (
    "AIRFLOW_PASSWORD",
    "AIRFLOW_API_SECRET",
    "AIRFLOW_JWT_SECRET",
    "MLFLOW_PASSWORD",
    "GRAFANA_PASSWORD",
    "PROMETHEUS_PASSWORD",
    "SERVE_TOKEN",
    *(f"POSTGRES_{role}PASSWORD" for role in ("", "AIRFLOW_", "CELERY_", "MLFLOW_")),
    *(f"S3_{user}_{part}" for user in ("ADMIN", "LAKE", "MLFLOW") for part in ("KEY", "SECRET")),
    "REDIS_PASSWORD",
    "WEATHER_TOKEN",
)
HEAD = "# Written once by `make up`. Never in git; keep a copy where you keep secrets.\n"


def content() -> str:
    """Return a new .env.

    Its project name is random, so that another clone's containers and volumes are never taken for this one's.
    """
    values = {name: "".join(secrets.choice(ALPHABET) for _ in range(LENGTH)) for name in SECRETS}
    values["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(os.urandom(32)).decode()
    values["COMPOSE_PROJECT_NAME"] = f"evergreen-{secrets.token_hex(4)}"
    return HEAD + "".join(f"{name}={value}\n" for name, value in values.items())


def write(path: Path) -> bool:
    """Write the file atomically, with mode 600, unless it exists; return whether it was written."""
    if path.exists():
        return False
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".env.")  # mode 600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content())
        with suppress(FileExistsError):
            os.link(temporary, path)
            return True
    finally:
        Path(temporary).unlink()
    return False


if __name__ == "__main__":
    file = Path(sys.argv[1] if len(sys.argv) > 1 else ".env")
    print(f"{file} {'was written, with new secrets' if write(file) else 'exists and is unchanged'}")
