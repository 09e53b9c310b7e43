"""Every test runs quietly, on one thread, and away from a demo that happens to be up."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from demo.home import Home
    from tests.house import House

# before anything heavy is imported: these are read at import
QUIET = {
    "OMP_NUM_THREADS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
}
SETTINGS = ("EVERGREEN_", "AIRFLOW_CONN_", "AWS_", "AZURE_", "GOOGLE_", "MLFLOW_TRACKING_URI")
os.environ.update(QUIET)
# bytecode that isn't kept is compiled again by each process: in a worker's start, a third of the time
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
for variable in list(os.environ):
    # a shell that has evaluated the demo's settings must not let a test write to the demo's lake
    if variable == "EVERGREEN_FULL":  # `make test-stack`: without an engine its tests fail and aren't skipped
        continue
    if variable.startswith(SETTINGS):
        del os.environ[variable]
os.environ["EVERGREEN_TESTS"] = "1"  # one setting of ours keeps the command line away from a demo that is up

# a busy machine isn't a failure, and a failure must come again
settings.register_profile("evergreen", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("evergreen")

# each worker takes a file at a time, in this order: a long one that came last would be waited for alone
LONGEST = (
    *("e2e", "browser", "faults", "flights", "docs", "evaluate", "erasure", "monitor", "rollout", "train"),
    *("plugins", "upkeep", "history", "replay", "cli", "validate"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a person run the backfills of `e2e/` for longer than `make test-full` has time for."""
    parser.addoption("--days", type=int, help="days that a long backfill of tests/e2e covers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders whose tests take longest."""
    place = {folder: number for number, folder in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.parent.name, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among the million objects that are imported and stay: it is a tenth of the CPU."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# folders whose files share servers, and the worker's share of the work that they belong to
TOGETHER = {
    "tests/e2e/test_flights.py": "flights",  # the demo's stack, beside that of the others
    "tests/e2e/": "house",
    "tests/browser/": "house",
    "tests/demo/": "demo",
    "tests/plugins/": "plugins",
}


def share_of(nodeid: str) -> str:
    """Return what runs in one worker, one after the other: a file, or folders that share servers."""
    file = nodeid.partition("::")[0]
    return next((share for folder, share in TOGETHER.items() if file.startswith(folder)), file)


class ByFile(LoadScopeScheduling):
    """Gives each worker a file at a time, or folders whose files share servers."""

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Say how tests are shared by `-n`."""
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _forked_evaluation() -> Iterator[None]:
    """A model is measured in a fork of a process that has the libraries; test_serving starts a fresh one."""
    from include.evaluate import serving
    from tests.warm import Interpreter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "sys", Interpreter())
        yield


HOUSE = pytest.StashKey[ExitStack]()


@pytest.fixture(scope="module")
def s3() -> Iterator[Home]:
    """The home of a running S3 server."""
    from demo.home import Home
    from demo.stack import Stack

    with tempfile.TemporaryDirectory(prefix="evergreen-test-") as folder:
        home = Home(Path(folder) / "home")
        stack = Stack(home)
        try:
            stack.up(["s3"])
            yield home
        finally:
            stack.down()


@pytest.fixture(scope="module")
def s3_settings(s3: Home) -> dict[str, str]:
    """The settings that lead to that server."""
    from tests import stores

    return stores.s3_settings(s3)


@pytest.fixture(scope="module")
def az_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings that lead to a running Azurite; skips without it."""
    from tests import stores

    with stores.azurite(tmp_path_factory.mktemp("azurite")) as settings:
        yield settings


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty lake: in a folder, or on the server that a test names, ``s3`` or ``az``."""
    store = getattr(request, "param", "folder")
    if store == "folder":
        return str(tmp_path)
    for name, value in request.getfixturevalue(f"{store}_settings").items():
        monkeypatch.setenv(name, value)
    return f"{store}://lake/{tmp_path.name}"


@pytest.fixture(scope="session")
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """The stack that the tests of `e2e/` and `browser/` share, up."""
    from tests.house import running

    with ExitStack() as servers:
        request.session.stash[HOUSE] = servers
        yield servers.enter_context(running())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop that stack after its last test: the session's end is minutes later, and others want the cores."""
    yield
    servers = item.session.stash.get(HOUSE, None)
    if servers and not (nextitem and share_of(nextitem.nodeid) == share_of(item.nodeid)):
        servers.close()
