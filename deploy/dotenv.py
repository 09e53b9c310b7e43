"""Write .env with random secrets, once: a file that is there is left as it is, down to the last byte.

    python3 deploy/dotenv.py [.env]

Only the standard library, since it runs before anything is installed. Every secret but one is letters and
digits, so that it stands in an address, in SQL and in JSON as it is.
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
LENGTH = 64  # HS512, which Airflow signs its tokens with, wants as many bytes
SECRETS = (
    *("AIRFLOW_PASSWORD", "AIRFLOW_API_SECRET", "AIRFLOW_JWT_SECRET", "MLFLOW_PASSWORD"),
    *("GRAFANA_PASSWORD", "PROMETHEUS_PASSWORD"),
    *(f"POSTGRES_{role}PASSWORD" for role in ("", "AIRFLOW_", "CELERY_", "MLFLOW_")),
    *(f"S3_{who}_{part}" for who in ("ADMIN", "LAKE", "MLFLOW") for part in ("KEY", "SECRET")),
    *("REDIS_PASSWORD", "WEATHER_TOKEN"),
)
HEAD = "# Written once by `make up`. Never in git; keep a copy where you keep secrets.\n"


def content() -> str:
    """Return a new .env."""
    made = {name: "".join(secrets.choice(ALPHABET) for _ in range(LENGTH)) for name in SECRETS}
    made["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(os.urandom(32)).decode()
    return HEAD + "".join(f"{name}={value}\n" for name, value in made.items())


def write(path: Path) -> bool:
    """Write the file, whole and for its owner alone, unless it is there; return whether it was written."""
    if path.exists():
        return False
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=".env.")  # mode 600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content())
        with suppress(FileExistsError):
            os.link(aside, path)
            return True
    finally:
        Path(aside).unlink()
    return False


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else ".env")
    print(f"{place} {'is written, with new secrets' if write(place) else 'is there and stays as it is'}")
