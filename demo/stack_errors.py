"""The errors of the stack: which server failed, where to look, and what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2  # type: ignore[import-untyped]  # its stubs are not installed; one name doesn't need them

from demo.home import Home
from demo.servers import Server, log_file

LAST_LINES = 12


class StackError(RuntimeError):
    """A server could not be started, or has died."""


def port_taken(home: Home, server: Server, port: str) -> StackError:
    """Return the error for a port that another program uses."""
    variable = "EVERGREEN_PORT_" + port.upper().replace("-", "_")
    return StackError(
        f"{server.name}: port {home.ports[port]} ({port}) of 127.0.0.1 is taken by another program;"
        " `ss -ltnp` shows which. Stop that program, or choose another port:"
        f" {variable}=<port> make demo"
    )


def server_error(home: Home, server: Server, problem: str) -> StackError:
    """Return an error with a server's problem and the end of its log."""
    path = log_file(home, server.name)
    lines = path.read_text(errors="replace").splitlines()[-LAST_LINES:] if path.exists() else []
    lines = lines or ["(it is empty)"]
    ports = ", ".join(f"{name} {home.ports[name]}" for name in server.ports)
    return StackError(
        "\n".join(
            [
                f"{server.name} {problem}"
                + (f" (ports: {ports})" if ports else "")
                + f". The end of {path}:",
                *(f"    {line}" for line in lines),
                "`make demo` starts it again and continues; `make clean` removes all data for a fresh start.",
            ]
        )
    )


@contextmanager
def name_server_in_errors(home: Home, server: Server) -> Iterator[None]:
    """Turn errors of a server's start into a StackError with its name and the command's stderr."""
    try:
        yield
    except StackError:
        raise
    except (OSError, RuntimeError, subprocess.SubprocessError, psycopg2.Error) as error:
        stderr = getattr(error, "stderr", None) or ""
        output = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr
        reason = f"{type(error).__name__}: {error} {output}".strip()
        raise server_error(home, server, f"could not be started: {reason}") from error
