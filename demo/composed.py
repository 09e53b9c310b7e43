"""The demo's story on the stack of docker-compose.yaml: `make up-demo` runs it when the containers are up."""

from __future__ import annotations

import os
import sys

from demo.__main__ import DemoError, Story
from demo.airflow_api import AirflowApi, AirflowError
from demo.home import REPOSITORY

PORTS = {"AIRFLOW_PORT": "8080", "MLFLOW_PORT": "5000"}  # as in docker-compose.yaml


def settings() -> dict[str, str]:
    """Return what compose sees: the file .env, below the shell's own variables."""
    lines = (REPOSITORY / ".env").read_text().splitlines()
    return PORTS | dict(line.split("=", 1) for line in lines if not line.startswith("#")) | dict(os.environ)


def main() -> None:
    """Play the story, and say where to look."""
    told = settings()
    airflow, mlflow = (f"http://127.0.0.1:{told[port]}" for port in PORTS)
    story = Story(AirflowApi(airflow, "admin", told["AIRFLOW_PASSWORD"]), lambda: None)
    try:
        story.play()
    except (AirflowError, DemoError) as error:
        sys.exit(f"\n{error}")
    print(f"\n  Airflow  {airflow}\n  MLflow   {mlflow}\n  User admin, passwords in {REPOSITORY / '.env'}")


if __name__ == "__main__":
    main()
