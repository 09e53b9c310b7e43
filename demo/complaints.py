"""What a person reads when a server doesn't come up: which one, where to look, what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2  # type: ignore[import-untyped]  # its stubs are not installed; one name doesn't need them

from demo.home import Home
from demo.servers import Server, log_file

LAST_LINES = 12


class StackError(RuntimeError):
    """A server could not be brought up, or has died; the message says which, where to look and what to do."""


def taken(home: Home, server: Server, port: str) -> StackError:
    """The server's port is another program's."""
    variable = "EVERGREEN_PORT_" + port.upper().replace("-", "_")
    return StackError(
        f"{server.name}: port {home.ports[port]} ({port}) of 127.0.0.1 is taken by another program;"
        " `ss -ltnp` names it. Stop that program, or choose another port:"
        f" {variable}=<port> make demo"
    )


def complaint(home: Home, server: Server, what: str) -> StackError:
    """Something happened to the server, and its log says why."""
    path = log_file(home, server.name)
    lines = path.read_text(errors="replace").splitlines()[-LAST_LINES:] if path.exists() else []
    ports = ", ".join(f"{name} {home.ports[name]}" for name in server.ports)
    return StackError(
        "\n".join(
            [
                f"{server.name} {what}" + (f" (ports: {ports})" if ports else "") + f". The end of {path}:",
                *(f"    {line}" for line in lines),
                "`make demo` starts it again and goes on; `make clean` begins anew with empty servers.",
            ]
        )
    )


@contextmanager
def named(home: Home, server: Server) -> Iterator[None]:
    """What fails in a step of the server's start carries its name, and what a command said on stderr."""
    try:
        yield
    except StackError:
        raise
    except (OSError, RuntimeError, subprocess.SubprocessError, psycopg2.Error) as error:
        stderr = getattr(error, "stderr", None) or ""
        said = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr
        why = f"{type(error).__name__}: {error} {said}".strip()
        raise complaint(home, server, f"could not be started: {why}") from error
