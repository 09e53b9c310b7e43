"""Every test runs quietly, on one thread, and away from a demo that happens to be up."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# before anything heavy is imported: these are read at import
QUIET = {
    "OMP_NUM_THREADS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
}
os.environ.update(QUIET)
for variable in list(os.environ):
    # a shell that has evaluated the demo's settings must not let a test write to the demo's lake
    if variable == "EVERGREEN_FULL":  # `make test-stack`: without an engine its tests fail and aren't skipped
        continue
    if variable.startswith(("EVERGREEN_", "AIRFLOW_CONN_", "AWS_")) or variable == "MLFLOW_TRACKING_URI":
        del os.environ[variable]
os.environ["EVERGREEN_TESTS"] = "1"  # one setting of ours keeps the command line away from a demo that is up

# a busy machine is no failure, and a failure must come again
settings.register_profile("evergreen", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("evergreen")

# each worker takes a file at a time, in this order: a long one that came last would be waited for alone
LONGEST = ("e2e", "faults", "gate", "evaluate", "upkeep", "history", "monitor", "rollout")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders whose tests take longest."""
    place = {folder: number for number, folder in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(LONGEST)))


TOGETHER = ("tests/e2e/", "tests/demo/", "tests/plugins/")  # whose files share servers


class ByFile(LoadScopeScheduling):
    """Gives each worker a file at a time, or a folder whose files share servers."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in TOGETHER if file.startswith(folder)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Say how tests are shared by `-n`."""
    return ByFile(config, log)
