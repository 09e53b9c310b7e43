"""A server runs with today's settings, reaches loopback past a proxy, and a failure names its server."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from demo import postgres, process, world
from demo.airflow_api import AirflowApi, AirflowError
from demo.environment import airflow_environment
from demo.home import Home, is_free
from demo.servers import BY_NAME, SERVERS, pid_file
from demo.stack import Stack, StackError
from demo.stack_errors import name_server_in_errors

AIRFLOW = {"api-server", "scheduler", "dag-processor", "triggerer"}


def changed(one: Stack, other: Stack) -> set[str]:
    """The servers that the second of two stacks would restart if the first had started them."""
    lasting = [server for server in SERVERS if not server.once]
    return {server.name for server in lasting if one._digest(server) != other._digest(server)}


def test_a_commit_restarts_airflow_alone(tmp_path: Path) -> None:
    """Tasks inherit EVERGREEN_CODE from the scheduler, and no other server reads it."""
    before = Stack(tmp_path, {"EVERGREEN_CODE": "yesterday"})

    assert changed(before, Stack(tmp_path, {"EVERGREEN_CODE": "today"})) == AIRFLOW


def test_another_port_restarts_whom_it_concerns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The S3 server's new port is known to all that reach it; PostgreSQL and the weather go on."""
    first = Stack(Home(tmp_path))
    assert len(first.home.ports) > 1
    monkeypatch.setenv("EVERGREEN_PORT_S3", "19999")

    assert changed(first, Stack(Home(tmp_path))) == {"s3", "mlflow", *AIRFLOW}


def test_another_shell_restarts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the folder one stands in nor having evaluated the stack's own settings is a difference."""
    first = Stack(tmp_path)
    digests = {server.name: first._digest(server) for server in SERVERS}
    for name, value in {**airflow_environment(first.home), "PWD": "/elsewhere", "SHLVL": "7"}.items():
        monkeypatch.setenv(name, value)

    assert digests == {server.name: Stack(tmp_path)._digest(server) for server in SERVERS}


def test_a_server_with_old_settings_is_restarted(stack: Stack, home: Home) -> None:
    """Being alive and ready is not enough; and the note of the settings holds no secret in clear."""
    pids = pid_file(home, "weather")
    noted = json.loads(pids.read_text())
    pids.write_text(json.dumps(noted | {"digest": "of other settings"}))
    told: dict[str, str] = {}

    stack.up(["weather", "s3"], lambda server, what, seconds: told.update({server: what}))

    assert told == {"weather": "up", "s3": "already up"}
    assert json.loads(pids.read_text())["pid"] != noted["pid"]
    assert noted["digest"] == json.loads(pids.read_text())["digest"] == stack._digest(BY_NAME["weather"])


def test_the_shell_s_proxy_and_profile_are_passed_by(
    stack: Stack, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack's S3 server answers though the shell sends all to a proxy and names a profile that isn't."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    world._session.cache_clear()

    assert len(world.s3_client(home).list_buckets()["Buckets"]) == 3


def test_both_spellings_of_the_exceptions_are_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell excepts from its proxy stays so, whichever name its programs read."""
    monkeypatch.setenv("NO_PROXY", "a.example, localhost")
    monkeypatch.setenv("no_proxy", "b.example")

    made = airflow_environment(home)

    assert made["NO_PROXY"] == made["no_proxy"] == "127.0.0.1,localhost,a.example,b.example"


def test_an_airflow_that_is_gone_is_an_airflow_error() -> None:
    """No answer is told as a refusal is, with the request and the address."""
    port = next(port for port in range(19_000, 20_000) if is_free(port))

    with pytest.raises(AirflowError, match=f"GET /dags: no answer from http://127.0.0.1:{port}"):
        AirflowApi(f"http://127.0.0.1:{port}", "admin", "guess").call("GET", "/dags")


def test_a_failed_preparation_names_its_server(tmp_path: Path) -> None:
    """A file where PostgreSQL's folder should be is told as PostgreSQL's trouble, with what to do."""
    (tmp_path / "postgres").touch()

    with pytest.raises(StackError, match=r"postgres could not be started: FileExistsError(.|\n)*make demo"):
        Stack(tmp_path).up(["postgres"])


def test_a_failed_command_s_stderr_is_told(tmp_path: Path) -> None:
    """What a command of the preparation complained of reaches the reader."""
    with (
        pytest.raises(StackError, match=r"s3 could not be started: .*cannot access"),
        name_server_in_errors(Home(tmp_path), BY_NAME["s3"]),
    ):
        subprocess.run(["ls", "/not/there"], check=True, capture_output=True, env={"PATH": os.defpath})


def test_folders_are_opened_once() -> None:
    """A closed folder above is opened for passing through, and only that; the second time none is."""
    with tempfile.TemporaryDirectory() as closed:
        inner = Path(closed) / "postgres"

        assert postgres._make_traversable(inner) == [Path(closed)]
        assert Path(closed).stat().st_mode & 0o777 == 0o701
        assert postgres._make_traversable(inner) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes users")
def test_a_user_that_another_clone_made_will_do(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Useradd is found off the path, and its refusal of a user that is there is no failure."""
    monkeypatch.setenv("PATH", "")

    postgres._create_user()

    assert process.running(pid_file(stack.home, "postgres")) is not None
