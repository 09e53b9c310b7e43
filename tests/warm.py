"""Runs Python commands as forks of a process that has imported the libraries, which takes 3 s of CPU.

The process imports nothing of this repository, so a command runs the code in its own folder. `stand_in`
returns a program that takes the place of ``python`` in a command that is waited for; `Process` is a command
that runs beside the test, which may signal it.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import IO, Any

# what the commands spend their time on; none of them reads a setting of ours when it is imported
SERVING = (
    "deltalake",
    "duckdb",
    "fastapi",
    "pandas",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.parquet",
    "pydantic",
    "skops.io",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "typer",
    "uvicorn",
)
ALL = (
    *SERVING,
    "great_expectations",
    "matplotlib.backends.backend_svg",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "mlflow.store.tracking.sqlalchemy_store",
    "onnx",
    "onnxruntime",
    "pytest",
)
CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
server.shutdown(socket.SHUT_WR)
code = int(server.makefile().read().split()[1])
if code < 0:  # a signal ended the command
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
SCRIPT = """#!/bin/sh
case "$1 $2" in
  "-m airflow") exec {python} "$@" ;;  # it reads its settings when it is imported
  *) exec {python} -IS {client} "$@" ;;
esac
"""


def stand_in(libraries: tuple[str, ...] = SERVING) -> Path:
    """Start the process, which ends with this one; return the program that has it run a Python command."""
    return address(libraries).with_name("python")


class Interpreter:
    """What a module that runs ``python`` reads of `sys`; the process starts when it is first needed."""

    @property
    def executable(self) -> str:
        """The program that takes the place of ``python``."""
        return str(stand_in())

    @property
    def path(self) -> list[str]:
        """Where modules are imported from."""
        return sys.path


class Process:
    """A Python command as a fork of that process: what `subprocess.Popen` is to a command.

    Parameters
    ----------
    arguments : what follows ``python``.
    stdout, stderr : files with a descriptor.
    """

    def __init__(
        self, arguments: list[str], cwd: Path, env: Mapping[str, str], stdout: IO[str], stderr: IO[str]
    ) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(str(address(SERVING)))
        request = {"arguments": arguments, "folder": str(cwd), "environment": dict(env)}
        with Path(os.devnull).open() as stdin:
            files = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
            socket.send_fds(self._server, [json.dumps(request).encode()], files)
        self._server.shutdown(socket.SHUT_WR)
        self._answer = self._server.makefile()
        self.pid = int(self._answer.readline())
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, negative for a signal, once it has ended; raise after ``timeout`` seconds."""
        if self._code is None:
            self._server.settimeout(timeout)
            self._code = int(self._answer.readline())
            self._server.close()
        return self._code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has been waited for."""
        if self._code is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it if it still runs, and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.wait()


@cache
def address(libraries: tuple[str, ...]) -> Path:
    """Start a process that imports libraries; return the address at which it takes commands."""
    _keep.append(folder := TemporaryDirectory(prefix="warm-"))
    program, client, address = (Path(folder.name, name) for name in ("python", "client.py", "socket"))
    client.write_text(CLIENT.format(address=str(address)))
    program.write_text(SCRIPT.format(python=sys.executable, client=client))
    program.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    _keep.append(
        subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), *libraries],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # its end tells the process that this one has ended
            stdout=subprocess.DEVNULL,
        )
    )
    listener.close()
    return address


_keep: list[Any] = []


def serve(listener: socket.socket, libraries: list[str]) -> None:
    """Run a command for each client, until the process that started this one ends."""
    gc.disable()
    for name in libraries:
        import_module(name)
    if "mlflow.sklearn" in libraries:  # who registers a model reads once what all installed packages contain
        from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

        warn_dependency_requirement_mismatches(["mlflow"])
    gc.freeze()  # no command looks for garbage in the libraries
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        client, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            data, files, *_ = socket.recv_fds(client, 1 << 20, 3)
            while more := client.recv(1 << 20):
                data += more
            if child := os.fork():
                client.sendall(f"{child}\n".encode())
                _, status = os.waitpid(child, 0)
                client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
                os._exit(0)
            listener.close()
            client.close()
            os._exit(exit_code(json.loads(data), files))
        client.close()


def exit_code(request: dict[str, Any], files: list[int]) -> int:
    """Run a command, return its exit code; at its end the libraries would wait for the parent's threads."""
    try:
        run(request, files)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def run(request: dict[str, Any], files: list[int]) -> None:
    """Run a command in this process as ``python`` would: ``-m module``, ``-c code`` or a script."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    what, *arguments = request["arguments"]
    first = "" if what == "-c" else str(Path.cwd() if what == "-m" else Path(what).resolve().parent)
    sys.path[:1] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if what == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *arguments[1:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), vars(main))  # noqa: S102 (as `python -c` does)
    else:
        sys.argv = [what, *arguments]
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
