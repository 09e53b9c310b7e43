"""Runs Python commands as forks of a process that has imported the libraries, which takes 3 s of CPU.

The process imports nothing of this repository, so a command runs the code in its own folder. `stand_in`
returns a program that takes the place of ``python`` in the commands of documentation pages.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

# what the commands spend their time on; none of them reads a setting of ours when it is imported
LIBRARIES = (
    "deltalake",
    "duckdb",
    "great_expectations",
    "matplotlib.backends.backend_svg",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "mlflow.store.tracking.sqlalchemy_store",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.parquet",
    "pydantic",
    "pytest",
    "skops.io",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "typer",
)
CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = {{"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.makefile().read()))
"""
SCRIPT = """#!/bin/sh
case "$1 $2" in
  "-m airflow") exec {python} "$@" ;;  # it reads its settings when it is imported
  *) exec {python} -IS {client} "$@" ;;
esac
"""


@cache
def stand_in() -> Path:
    """Start the process, which ends with this one; return the program that has it run a Python command."""
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
            [sys.executable, __file__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # its end tells the process that this one has ended
            stdout=subprocess.DEVNULL,
        )
    )
    listener.close()
    return program


_keep: list[Any] = []


def serve(listener: socket.socket) -> None:
    """Run a command for each client, until the process that started this one ends."""
    for name in LIBRARIES:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        client, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            data, files, *_ = socket.recv_fds(client, 1 << 20, 3)
            while more := client.recv(1 << 20):
                data += more
            if child := os.fork():
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
    serve(socket.socket(fileno=int(sys.argv[1])))
