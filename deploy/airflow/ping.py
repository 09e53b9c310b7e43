"""Health check of this container's Celery worker; `celery inspect` would import all of Airflow."""

from __future__ import annotations

import os
import socket
import sys

from celery import Celery


def main() -> None:
    """Exit with 1 if there is no answer within ten seconds."""
    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    sys.exit(not app.control.ping(destination=[f"celery@{socket.gethostname()}"], timeout=10))


if __name__ == "__main__":
    main()
