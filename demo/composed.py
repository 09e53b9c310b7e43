"""Run the demo's steps on the containers of docker-compose.yaml, for `make up-demo`."""

from __future__ import annotations

import os
import sys

from demo.__main__ import DemoError, Story
from demo.airflow_api import AirflowApi, AirflowError
from demo.home import REPOSITORY

PORTS = {"AIRFLOW_PORT": "8080", "MLFLOW_PORT": "5000"}  # as in docker-compose.yaml


def settings() -> dict[str, str]:
    """Return the settings that compose uses: the file .env, overridden by the shell's variables."""
    lines = (REPOSITORY / ".env").read_text().splitlines()
    return PORTS | dict(line.split("=", 1) for line in lines if not line.startswith("#")) | dict(os.environ)


def main() -> None:
    """Run the steps and print the addresses."""
    variables = settings()
    airflow, mlflow = (f"http://127.0.0.1:{variables[port]}" for port in PORTS)
    story = Story(AirflowApi(airflow, "admin", variables["AIRFLOW_PASSWORD"]), lambda: None)
    try:
        story.play()
    except (AirflowError, DemoError) as error:
        sys.exit(f"\n{error}")
    print(f"\n  Airflow  {airflow}\n  MLflow   {mlflow}\n  User admin, passwords in {REPOSITORY / '.env'}")


if __name__ == "__main__":
    main()
