"""Start, stop and inspect the demo's servers, on loopback only, with all state in one folder.

python -m demo.stack up [server ...]
python -m demo.stack down | status | clean
eval "$(python -m demo.stack env)"      # the tasks' own environment, for a developer's shell
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from demo import process
from demo.environment import airflow_environment, command_line_environment
from demo.home import Home, is_free
from demo.postgres import identity
from demo.servers import ALL, BY_NAME, SERVERS, Server, log_file, pid_file
from demo.stack_errors import StackError, name_server_in_errors, port_taken, server_error

Progress = Callable[[str, str, float], None]  # server, what happened, seconds it took

LISTED = 8  # names of a folder's content
PORT_TIMEOUT = 3.0  # seconds to wait for a port
# seconds after which a start is slow, and fails though the process lives
SLOW_START, START_TIMEOUT = 90.0, 600.0
STOP_TIMEOUT = 10.0  # seconds before a server is killed

# Variables of other stacks and clouds that a shell may have, and one that would slow down every import.
FOREIGN = ("AIRFLOW", "AWS_", "MLFLOW_", "_MLFLOW_", "EVERGREEN_", "PG", "WEED_", "PYTHONDONTWRITEBYTECODE")


class Stack:
    """The servers of one home.

    Parameters
    ----------
    home : Home or Path, optional
        The folder of its state; see `demo.home.Home`.
    env : mapping of str to str, optional
        Additional variables of every process, e.g. another `AIRFLOW__CORE__DAGS_FOLDER`.
    warm : bool, default True
        Whether the scheduler imports the heavy libraries for the tasks that it forks.
    """

    def __init__(
        self, home: Home | Path | None = None, env: Mapping[str, str] | None = None, *, warm: bool = True
    ) -> None:
        self.home = home if isinstance(home, Home) else Home(home)
        self.extra = dict(env or {})
        self.warm = warm

    def environment(self) -> dict[str, str]:
        """Return the shell's environment with the variables of the stack's processes, including secrets."""
        shell = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return shell | airflow_environment(self.home) | self.extra

    def up(self, parts: Iterable[str] = ALL, progress: Progress = lambda *_: None) -> None:
        """Start these servers and those that they need; healthy ones are left, dead ones restarted.

        Raises
        ------
        StackError
            A server did not start; the others stay, and another `up` continues.
        """
        chosen = _with_needs(parts)
        with self.home.lock(), ThreadPoolExecutor(len(chosen)) as pool:
            self.home.ports, self.home.secrets, self.home.run  # noqa: B018  # created before the threads
            env = self.environment()
            starts: dict[str, Future[None]] = {}
            for server in chosen:
                needs = [starts[name] for name in server.needs]
                starts[server.name] = pool.submit(self._bring_up, server, needs, env, progress)
        for future in starts.values():  # in order, so that the first cause is reported
            future.result()
        extra = {name: value for name, value in self.extra.items() if not name.startswith("AIRFLOW__")}
        self.home.write_environment(command_line_environment(self.home) | extra)

    def down(self, progress: Progress = lambda *_: None) -> None:
        """Stop all servers, dependent ones first."""
        with self.home.lock():
            self.home.environment.unlink(missing_ok=True)
            for wave in (("api-server", "scheduler", "dag-processor", "triggerer", "mlflow"), ALL):
                with ThreadPoolExecutor(len(wave)) as pool:
                    for name, seconds in zip(wave, pool.map(self._stop, wave), strict=True):
                        if seconds:
                            progress(name, "stopped", seconds)
            self.home.remove_sockets()

    def status(self) -> dict[str, str]:
        """Return `up`, `down`, `died` or `not answering` for each server."""
        return {server.name: self._state(server) for server in SERVERS if not server.once}

    def check(self) -> None:
        """Raise StackError if a started server has died."""
        for server in SERVERS:
            if self._state(server, ask=False) == "died":
                raise server_error(self.home, server, "died")

    def _state(self, server: Server, *, ask: bool = True) -> str:
        if process.running(pid_file(self.home, server.name)) is None:
            return "died" if pid_file(self.home, server.name).exists() else "down"
        return "up" if not ask or server.ready(self.home) else "not answering"

    def _bring_up(
        self, server: Server, needs: list[Future[None]], env: dict[str, str], progress: Progress
    ) -> None:
        for need in needs:
            need.result()
        begin = time.monotonic()
        pids = pid_file(self.home, server.name)
        same = process.running(pids) is not None and process.started_with(pids) == self._digest(server)
        if (same or server.once) and server.ready(self.home):
            progress(server.name, "already up", time.monotonic() - begin)
            return
        self._stop(server.name)  # it hangs, has left children, or has outdated settings
        with name_server_in_errors(self.home, server):
            self._start(server, env, partial(progress, server.name, "is still starting"))
            server.finish(self.home)
        progress(server.name, "done" if server.once else "up", time.monotonic() - begin)

    def _start(self, server: Server, env: dict[str, str], still_starting: Callable[[float], None]) -> None:
        for name in server.ports:
            # The last threads of a killed server may keep its port for a moment.
            if not process.until(partial(is_free, self.home.ports[name]), PORT_TIMEOUT):
                raise port_taken(self.home, server, name)
        server.prepare(self.home)
        started = process.spawn(
            server.argv(self.home),
            env={**env, **self._server_variables(server)},
            cwd=self.home.folder(*server.cwd),  # by which `process.family` recognizes it
            log=log_file(self.home, server.name),
            pid_file=pid_file(self.home, server.name),
            digest=self._digest(server),
            user=identity() if server.as_postgres else None,
        )

        def ended() -> bool:
            return started.poll() is not None

        def decided() -> bool:
            return ended() or (not server.once and server.ready(self.home))

        in_time = process.until(decided, SLOW_START)
        if not in_time:
            still_starting(SLOW_START)
            in_time = process.until(decided, START_TIMEOUT - SLOW_START)
        if server.once and started.poll() == 0:
            pid_file(self.home, server.name).unlink()
        elif ended():
            raise server_error(self.home, server, f"stopped while starting (exit code {started.returncode})")
        elif not in_time:
            raise server_error(self.home, server, f"was not ready after {START_TIMEOUT:.0f} s")

    def _server_variables(self, server: Server) -> dict[str, str]:
        """Return the variables that only this server gets."""
        warm = {"EVERGREEN_WARM": "1"} if self.warm and server.name == "scheduler" else {}
        return {**server.env(self.home), **warm}

    def _digest(self, server: Server) -> str:
        """Return the digest of what the server is started with: command line, ports and used variables.

        Other variables are left out: neither a new terminal nor, for PostgreSQL, a new commit is a reason to
        restart.
        """
        variables = airflow_environment(self.home) | self.extra
        used = {name: value for name, value in variables.items() if name.startswith(server.uses)}
        ports = {name: self.home.ports[name] for name in server.ports}
        return process.digest([server.argv(self.home), ports, used | self._server_variables(server)])

    def _stop(self, name: str) -> float:
        """Stop a server and its remaining processes; return the seconds it took, 0 if there were none."""
        pids, server, begin, seconds = pid_file(self.home, name), BY_NAME[name], time.monotonic(), 0.0
        # Repeated until none is left: a scheduler replaces a worker that ends before its own signal arrives.
        while members := process.family(pids, self.home.root):
            # PostgreSQL's main process stops the others in order; Airflow's would wait for every task.
            main_process = process.running(pids) if server.as_postgres else None
            signaled = [main_process] if main_process else members
            process.stop(members, signaled, server.stop_signal, STOP_TIMEOUT)
            seconds = time.monotonic() - begin
        pids.unlink(missing_ok=True)
        return seconds


def _with_needs(parts: Iterable[str]) -> list[Server]:
    names = list(parts)
    for name in names:  # grows while it is iterated
        if name not in BY_NAME:
            raise StackError(f"{name}: no such server; valid are {', '.join(ALL)}")
        names += [n for n in BY_NAME[name].needs + BY_NAME[name].started_with if n not in names]
    return [server for server in SERVERS if server.name in names]


def clean(home: Home, progress: Progress = lambda *_: None) -> str:
    """Stop the home's servers and the benchmark's inside it, remove the folder, and return a message.

    Raises
    ------
    StackError
        The folder isn't a stack's; nothing is stopped or removed.
    """
    if not home.root.exists():
        return f"{home.root} doesn't exist: nothing to remove"
    if not home.is_home:
        content = ", ".join(sorted(path.name for path in home.root.iterdir())[:LISTED]) or "nothing"
        raise StackError(
            f"{home.root} has no ports.json, so it isn't a stack's folder and stays; it contains {content}."
            " Remove it by hand, or unset EVERGREEN_HOME if that is a mistake."
        )
    for folder in (Home(home.root / "bench"), home):
        if folder.is_home:
            Stack(folder).down(progress)
    shutil.rmtree(home.root)
    return f"{home.root} is removed"


def show(server: str, event: str, seconds: float) -> None:
    """Print a line of progress."""
    print(f"  {server:<14} {event:<17} {seconds:5.1f} s", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.stack", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("up", "down", "status", "env", "clean"))
    parser.add_argument("server", nargs="*", default=list(ALL), help="only these and what they need (up)")
    arguments = parser.parse_args()
    stack = Stack()
    try:
        if arguments.action == "up":
            stack.up(arguments.server, show)
        elif arguments.action == "down":
            stack.down(show)
        elif arguments.action == "clean":
            print(f"  {clean(stack.home, show)}")
        elif arguments.action == "status":
            for name, state in stack.status().items():
                print(f"  {name:<14} {state}")
        else:
            for name, value in airflow_environment(stack.home).items():
                print(f"export {name}={shlex.quote(value)}")
    except StackError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
