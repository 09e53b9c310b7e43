"""Who may ask, how much, and how the server stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from socket import SHUT_RDWR, SO_RCVBUF, SOL_SOCKET, create_connection, socket
from threading import Thread
from typing import Any

import pytest
from psutil import Process

from demo.process import until
from include.serve.app import MAX_REQUESTS
from include.serve.rows import MAX_BYTES
from include.serve.server import token_for
from include.spec import UseCase
from include.storage.lake import Lake
from tests.score.conftest import LAST, Deploy
from tests.serve.conftest import ROW, Serve
from tests.serve.server import JSON, PATIENCE, Server, command, environment
from tests.warm import stand_in

TOKEN = "a-token-that-only-a-test-knows"


def begun(server: Server, body: bytes, length: int | None = None, **headers: str) -> HTTPConnection:
    """Send a request's headers and the beginning of its body."""
    connection = server.connection()
    connection.putrequest("POST", "/predict")
    length = len(body) if length is None else length
    for name, value in {**JSON, "Content-Length": str(length), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body)
    return connection


def start_in_vain(folder: Path, use: UseCase, *options: str) -> subprocess.CompletedProcess[str]:
    """Start a server that is to end by itself."""
    settings = environment(folder, EVERGREEN_USECASES=str(use.folder.parent))
    run = [stand_in(), *command(*options)]
    return subprocess.run(run, env=settings, capture_output=True, text=True, timeout=PATIENCE, check=False)


def raw(server: Server, request: bytes) -> bytes:
    """Send bytes, and return the beginning of what comes back."""
    with create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(request)
        return client.recv(100)


def status_of(connection: HTTPConnection) -> tuple[int, Any]:
    """Return the status and the content of an answer."""
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_only_the_token_opens_it(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """Without it, or with another one, there is nothing but the probes; and no log has it."""
    deploy(lake, "1", LAST)
    with serve("--host", "0.0.0.0", token=TOKEN) as server:
        assert server.post([ROW])[0] == 200
        assert server.get("/openapi.json")[0] == 200
        wrong = ("", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, f"Basic {TOKEN}", "Bearer ")
        for value in wrong:
            status, answer = server.post([ROW], Authorization=value)
            assert (status, TOKEN in json.dumps(answer)) == (401, False)
            for path in ("/health", "/metrics", "/openapi.json", "/docs", "/nowhere", "/health/live/"):
                assert server.get(path, Authorization=value)[0] == 401
            for path in ("/health/live", "/health/ready"):
                assert server.get(path, Authorization=value)[0] == 200
        assert server.metric('evergreen_serve_requests_total{status="401"}') == len(wrong)
        assert TOKEN not in server.log.read_text()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_another_interface_needs_a_token(
    use: UseCase, tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses to start without one, or with one that could be guessed."""
    with pytest.raises(
        Exception, match=f"since --host {host} isn't a loopback address, but found none; set one"
    ):
        token_for(host)
    monkeypatch.setenv("EVERGREEN_SERVE_TOKEN", "secret")
    for any_host in (host, "127.0.0.1"):
        with pytest.raises(Exception, match="expected at least 16 printable ASCII characters") as refused:
            token_for(any_host)
        assert "secret" not in str(refused.value)
    monkeypatch.delenv("EVERGREEN_SERVE_TOKEN")
    assert [token_for(own) for own in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [""] * 4
    if host == "0.0.0.0":
        ended = start_in_vain(tmp_path, use, "--host", host)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith("EVERGREEN_SERVE_TOKEN: expected a token")


def test_a_page_in_a_browser_reaches_nothing(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """Without a token, a name that leads to loopback and a form's type of content are refused."""
    deploy(lake, "1", LAST)
    with serve() as server:
        for path in ("/metrics", "/openapi.json", "/health"):
            assert server.get(path, Host="rebound.example")[0] == 421
        for host in ("localhost", f"localhost:{server.port}", "127.0.0.1", "[::1]", f"[::1]:{server.port}"):
            assert server.get("/metrics", Host=host)[0] == 200
        assert server.post([ROW], Host="rebound.example:8000")[0] == 421
        assert raw(server, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421")
        assert server.post([ROW], **{"Content-Type": "text/plain"})[0] == 415
        assert server.post([ROW], **{"Content-Type": "application/json; charset=utf-8"})[0] == 200


def test_a_large_body_is_refused_unread(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """By its announced length, and without one as soon as more has come; its server goes on."""
    deploy(lake, "1", LAST)
    with serve() as server:
        status, answer = status_of(begun(server, b"", MAX_BYTES + 1))
        assert (status, answer["required"]) == (413, "at most 1 MiB")
        connection = server.connection()
        chunks = (b" " * 65536 for _ in range(MAX_BYTES // 65536 + 1))
        connection.request("POST", "/predict", chunks, JSON, encode_chunked=True)
        assert status_of(connection)[0] == 413
        assert server.post([ROW] * 1001)[0] == 413
        assert len(server.predict([ROW] * 1000)) == 1000


@pytest.mark.full
def test_more_requests_than_the_limit_are_refused(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """They get 429 at once; a client that never sends its body has ten seconds, then 408."""
    deploy(lake, "1", LAST)
    with serve() as server:
        held_up = [begun(server, b"{", 100) for _ in range(MAX_REQUESTS)]
        assert until(lambda: server.post([ROW])[0] == 429, PATIENCE)
        assert server.get("/health/live")[0] == 200
        status, answer = status_of(held_up[0])
        assert (status, answer["required"]) == (408, "the whole body within 10 seconds")
        assert {status_of(each)[0] for each in held_up[1:]} == {408}
        assert server.post([ROW])[0] == 200


@pytest.mark.full
def test_a_client_that_reads_no_answer_is_cut_off(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """Its requests end after seconds, or a few such clients would use up the limit for all others."""
    deploy(lake, "1", LAST)
    body = json.dumps({"rows": [ROW] * 1000}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON['Content-Type']}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with serve() as server, socket() as client:
        client.setsockopt(SOL_SOCKET, SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", server.port))
        port = client.getsockname()[1]
        connections = Process(server.process.pid).net_connections

        def is_connected() -> bool:
            return any(one.raddr and one.raddr.port == port for one in connections())

        sender = Thread(target=_send_in_vain, args=(client, request * 40))
        sender.start()
        assert until(is_connected, PATIENCE)
        assert until(lambda: not is_connected(), PATIENCE)
        assert until(lambda: server.metric("evergreen_serve_requests_in_progress") == 0, PATIENCE)
        client.shutdown(SHUT_RDWR)
        sender.join()


def _send_in_vain(client: socket, data: bytes) -> None:
    with suppress(OSError):
        client.sendall(data)


def test_a_stop_ends_what_has_begun(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """After SIGTERM no connection is accepted, and the request that is being sent is answered."""
    deploy(lake, "1", LAST)
    body = json.dumps({"rows": [ROW]}).encode()
    with serve() as server:
        half = begun(server, body[:20], len(body))
        assert until(lambda: server.metric("evergreen_serve_requests_in_progress") == 1, PATIENCE)
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: _refuses(server), PATIENCE)
        half.send(body[20:])
        status, answer = status_of(half)
        assert (status, answer["predictions"][0]["version"]) == (200, "1")
        assert server.process.wait(PATIENCE) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log.read_text()


def _refuses(server: Server) -> bool:
    with socket() as client:
        return client.connect_ex(("127.0.0.1", server.port)) != 0


def test_no_page_asks_another_machine(lake: Lake, deploy: Deploy, serve: Serve) -> None:
    """FastAPI's own pages, which load scripts from a CDN, are off; the document names each feature."""
    deploy(lake, "1", LAST)
    with serve() as server:
        assert [server.get(path)[0] for path in ("/docs", "/redoc", "/docs/oauth2-redirect")] == [404] * 3
        document = server.get("/openapi.json")[1]
        assert "http" not in document
        row = json.loads(document)["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]["properties"]["rows"]["items"]["properties"]
        assert row["weight"]["description"] == "a finite number, or null"
        assert row["parcel"]["description"] == "an integer"


@pytest.mark.parametrize("missing", [False, True], ids=["taken", "no port"])
def test_an_address_that_cannot_be_had_is_an_error(missing: bool, use: UseCase, tmp_path: Path) -> None:
    """In one line, with the option and what the system said; 99999 is the number of no port."""
    (tmp_path / "lake").mkdir()
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = "99999" if missing else str(taken.getsockname()[1])
        ended = start_in_vain(tmp_path, use, "--port", port)
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        f"--host 127.0.0.1 --port {port}: expected an address to listen on, but found"
    )
    assert os.linesep not in ended.stderr.strip()
