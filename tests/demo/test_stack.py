"""The stack keeps its secrets and its data, says what is wrong, and leaves nothing behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from demo import process
from demo.home import Home
from demo.postgres import connect
from demo.servers import Server, log_file, pid_file
from demo.stack import Stack, StackError
from demo.world import s3_client
from tests.demo.processes import members, only_loopback


def test_secrets_are_private(stack: Stack, home: Home) -> None:
    """No other user can read a password, a log or a server's data, or list the home."""
    for path in (home.root / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for name in ("secrets", "logs", "pids", "s3", "world", "postgres/data"):
        assert stat.S_IMODE((home.root / name).stat().st_mode) & 0o077 == 0, name
    assert stat.S_IMODE(home.root.stat().st_mode) & 0o066 == 0
    lines = "".join(" ".join(member.cmdline()) for member in members(stack))
    assert not [name for name, secret in home.secrets.items() if secret in lines]


def test_the_light_servers_listen_on_loopback_only(stack: Stack) -> None:
    """No server can be reached from another machine."""
    assert only_loopback(members(stack))


def test_the_database_wants_a_password(stack: Stack, home: Home) -> None:
    """Being on the machine is not enough, though the socket's folder is closed as well."""
    connect(home, "mlflow").close()
    with pytest.raises(Exception, match="password authentication failed"):
        connect(_with_another_password(home))


def _with_another_password(home: Home) -> Home:
    other = Home(home.root)
    other.secrets = home.secrets | {"postgres": "guess"}
    return other


def test_weed_s_own_ports_give_nothing_away(stack: Stack, home: Home) -> None:
    """The filer and the volume server beside the S3 port refuse a request without a key."""
    s3_client(home).put_object(Bucket="lake", Key="closed", Body=b"x" * 5_000_000)

    assert requests.get(f"{home.url('filer')}/buckets/lake/closed", timeout=5).status_code == 401
    assert requests.put(f"{home.url('filer')}/buckets/lake/new", data=b"x", timeout=5).status_code == 401
    assert requests.get(home.url("volume"), timeout=5).status_code == 401


@pytest.mark.full
def test_objects_survive_a_killed_server(stack: Stack, home: Home) -> None:
    """After `kill -9` of the S3 server, `up` restarts it alone and every object is there."""
    s3 = s3_client(home)
    for number in range(20):
        s3.put_object(Bucket="lake", Key=f"kept/{number}", Body=str(number).encode())
    before = json.loads(pid_file(home, "weather").read_text())
    killed = process.running(pid_file(home, "s3"))
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    process.until(lambda: process.running(pid_file(home, "s3")) is None, 5)

    with pytest.raises(StackError, match="s3 died"):
        stack.check()
    assert stack.status()["s3"] == "died"
    stack.up(["s3", "weather"])

    bodies = [s3.get_object(Bucket="lake", Key=f"kept/{n}")["Body"].read() for n in range(20)]
    assert bodies == [str(n).encode() for n in range(20)]
    assert json.loads(pid_file(home, "weather").read_text()) == before
    assert stack.status()["s3"] == "up"


def test_a_second_up_does_nothing(stack: Stack, home: Home) -> None:
    """What is healthy is left alone, and each server says so."""
    told: dict[str, str] = {}

    stack.up(["postgres", "s3", "weather"], lambda server, what, seconds: told.update({server: what}))

    assert told == dict.fromkeys(("postgres", "s3", "weather"), "already up")


@pytest.mark.full
def test_a_taken_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which server, which port, and how to choose another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("EVERGREEN_PORT_WEATHER", str(port))
        stack = Stack(tmp_path / "home")

        with pytest.raises(StackError, match=f"weather: port {port} .* EVERGREEN_PORT_WEATHER=<port>"):
            stack.up(["weather"])
        assert stack.status()["weather"] == "down"


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    """The message has the exit code, the log's path and its last lines."""
    stack = Stack(tmp_path / "home", {"PYTHONPATH": str(tmp_path)})  # without the repository on it

    with pytest.raises(StackError) as refused:
        stack.up(["weather"])

    said = str(refused.value)
    assert "weather stopped while starting (exit code 1)" in said
    assert str(log_file(stack.home, "weather")) in said
    assert "No module named" in said


@pytest.mark.parametrize(
    ("polls", "outcome"),
    [(200, "up"), (10**6, r"weather was not ready after 600 s. The end of .*:\n    \(it is empty\)")],
)
def test_a_server_that_lives_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, polls: int, outcome: str
) -> None:
    """On a busy machine a start takes minutes, which the user reads meanwhile; here each poll is a second."""
    stack, asked, seconds = Stack(tmp_path / "home"), count(), count()
    server = Server("weather", lambda _: ["sleep", "600"], lambda _: next(asked) > polls)
    monkeypatch.setattr("demo.stack.SERVERS", (server,))
    monkeypatch.setattr("demo.stack.BY_NAME", {"weather": server})
    monkeypatch.setattr(
        process, "time", SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None)
    )
    progress: list[str] = []
    try:
        with nullcontext() if outcome == "up" else pytest.raises(StackError, match=outcome):
            stack.up(["weather"], lambda server, event, taken: progress.append(event))
    finally:
        sleeper = process.running(pid_file(stack.home, "weather"))
        assert sleeper is not None
        sleeper.kill()
    assert progress == ["is still starting", "up"][: 2 if outcome == "up" else 1]


def test_a_stranger_with_our_number_is_spared(tmp_path: Path) -> None:
    """A pid file whose number is another process's by now stops nothing."""
    stack = Stack(tmp_path / "home")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        noted = {"pid": stranger.pid, "created": 1.0, "argv": ["weed"]}
        pid_file(stack.home, "s3").write_text(json.dumps(noted))

        stack.down()

        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_addresses_and_passwords_are_kept(tmp_path: Path) -> None:
    """A second look at a home finds the same ports and secrets, all of them different."""
    first, second = Home(tmp_path), Home(tmp_path)

    assert (first.ports, first.secrets) == (second.ports, second.secrets)
    assert len(set(first.ports.values())) == len(first.ports)
    assert len(set(first.secrets.values())) == len(first.secrets)
