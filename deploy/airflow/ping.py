"""Whether this container's Celery worker answers: `celery inspect` would import all of Airflow for that."""

from __future__ import annotations

import os
import socket
import sys

from celery import Celery


def main() -> None:
    """Exit with 1 when there is no answer within ten seconds."""
    app = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    sys.exit(not app.control.ping(destination=[f"celery@{socket.gethostname()}"], timeout=10))


if __name__ == "__main__":
    main()
