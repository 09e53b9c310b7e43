"""Starts the server: on loopback, or with a token."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import uvicorn

from include.environment import is_loopback
from include.errors import SettingError
from include.serve.app import create_app
from include.serve.request_log import RequestLog
from include.serve.service import Service
from include.spec import UseCase
from include.storage.lake import Lake

TOKEN = "EVERGREEN_SERVE_TOKEN"  # noqa: S105 - the name of the setting
MIN_LENGTH = 16  # characters of a token
MAX_CONNECTIONS = 1000
UNREAD_SECONDS = 10  # after which a client that takes none of its answer is cut off
GRACE_SECONDS = 30  # that requests have to end after a SIGTERM


def token_for(host: str) -> str:
    """Return the token that requests have to carry; empty if there is none, on loopback only.

    Raises
    ------
    SettingError
        if there is none and the host isn't a loopback address, or it is too short.
    """
    token = os.environ.get(TOKEN, "")
    if token and (len(token) < MIN_LENGTH or not token.isascii() or not token.isprintable()):
        raise SettingError(
            TOKEN,
            required=f"at least {MIN_LENGTH} printable ASCII characters",
            found="another text",
            remedy="make one with `openssl rand -hex 32`",
        )
    if not token and not is_loopback(host):
        raise SettingError(
            TOKEN,
            required=f"a token, since --host {host} isn't a loopback address",
            found="none",
            remedy="set one, for example with `openssl rand -hex 32`, or listen on 127.0.0.1",
        )
    return token


def serve(
    lake: Lake,
    spec: UseCase,
    host: str,
    port: int,
    log_folder: Path | None,
    clock: Callable[[], datetime],
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests that have begun.

    Parameters
    ----------
    port : 0 for any that is free.
    log_folder : where requests are written before they are brought to the lake; None to log nothing.
    ready : called with the server's address once it listens.

    Raises
    ------
    SettingError
        if a token is required, or the address can't be listened on, or the folder can't be used.
    StoreUnavailable
        if the lake is to be in a folder that doesn't exist.
    """
    token = token_for(host)
    lake.require_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:  # OverflowError: no port has such a number
        raise SettingError(
            f"--host {host} --port {port}",
            required="an address to listen on",
            found=str(error),
            remedy="choose another --host or --port; --port 0 takes any that is free",
        ) from None
    if sys.platform == "linux":  # elsewhere such a client is cut off by nothing; connections inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
    request_log = RequestLog(log_folder, lake, spec, clock) if log_folder else None
    shown = f"[{host}]" if ":" in host else host
    allowed_hosts = frozenset({shown, "127.0.0.1", "localhost", "[::1]"})
    app = create_app(Service(lake, spec, clock, request_log), token, allowed_hosts)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    ready(f"http://{shown}:{listener.getsockname()[1]}")
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
