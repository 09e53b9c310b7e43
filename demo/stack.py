"""Starts, stops and inspects the demo's servers, each on loopback, all state in one folder.

python -m demo.stack up [server ...]
python -m demo.stack down | status
eval "$(python -m demo.stack env)"      # the tasks' own environment, for a developer's shell
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from demo import process
from demo.environment import airflow_environment
from demo.home import Home, is_free
from demo.postgres import identity
from demo.servers import ALL, BY_NAME, SERVERS, Server, log_file, pid_file

Progress = Callable[[str, str, float], None]  # server, what happened, seconds it took

LAST_LINES = 12
PORT_TIMEOUT = 3.0  # seconds before a port that is not free counts as taken
STOP_TIMEOUT = 10.0  # seconds before a server that was asked to stop is killed

# What a shell may hold of other stacks and clouds, and what would make every import slow.
FOREIGN = ("AIRFLOW", "AWS_", "MLFLOW_", "_MLFLOW_", "EVERGREEN_", "PG", "WEED_", "PYTHONDONTWRITEBYTECODE")


class StackError(RuntimeError):
    """A server could not be brought up, or has died; the message says which, where to look and what to do."""


class Stack:
    """The servers of one home.

    Parameters
    ----------
    home : Home or Path, optional
        Where its state lies; see `demo.home.Home`.
    env : mapping of str to str, optional
        Laid over the environment of every process, e.g. another `AIRFLOW__CORE__DAGS_FOLDER`.
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
        """The shell's environment with everything that the stack's processes need, secrets included."""
        shell = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return shell | airflow_environment(self.home) | self.extra

    def up(self, parts: Iterable[str] = ALL, progress: Progress = lambda *_: None) -> None:
        """Bring these servers up, with those that they need; leave what is healthy, restart what died.

        Raises
        ------
        StackError
            One did not come up; the others stay, and another `up` goes on from there.
        """
        chosen = _with_needs(parts)
        with self.home.lock(), ThreadPoolExecutor(len(chosen)) as pool:
            self.home.ports, self.home.secrets, self.home.run  # noqa: B018  # made here, before the threads
            env = self.environment()
            coming: dict[str, Future[None]] = {}
            for server in chosen:
                needs = [coming[name] for name in server.needs]
                coming[server.name] = pool.submit(self._bring_up, server, needs, env, progress)
        for future in coming.values():  # in order, so that the cause is told and not what it led to
            future.result()

    def down(self, progress: Progress = lambda *_: None) -> None:
        """Stop every server, those that need others first."""
        with self.home.lock():
            for wave in (("api-server", "scheduler", "dag-processor", "triggerer", "mlflow"), ALL):
                with ThreadPoolExecutor(len(wave)) as pool:
                    for name, took in zip(wave, pool.map(self._stop, wave), strict=True):
                        if took:
                            progress(name, "stopped", took)
            self.home.remove_sockets()

    def status(self) -> dict[str, str]:
        """`up`, `down`, `died` or `not answering` by server."""
        return {server.name: self._state(server) for server in SERVERS if not server.once}

    def check(self) -> None:
        """Raise StackError when a server that was started has died."""
        for server in SERVERS:
            if self._state(server, ask=False) == "died":
                raise StackError(self._complaint(server, "died"))

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
        alive = process.running(pid_file(self.home, server.name)) is not None
        if (alive or server.once) and server.ready(self.home):
            progress(server.name, "already up", time.monotonic() - begin)
            return
        self._stop(server.name)  # it hangs, or was killed and left children
        self._start(server, env)
        server.finish(self.home)
        progress(server.name, "done" if server.once else "up", time.monotonic() - begin)

    def _start(self, server: Server, env: dict[str, str]) -> None:
        for name in server.ports:
            # A killed server's last threads may hold its port for a moment.
            if not process.until(partial(is_free, self.home.ports[name]), PORT_TIMEOUT):
                raise StackError(self._taken(server, name))
        server.prepare(self.home)
        switch = {"EVERGREEN_WARM": "1"} if self.warm and server.name == "scheduler" else {}
        started = process.spawn(
            server.argv(self.home),
            env={**env, **server.env(self.home), **switch},
            cwd=self.home.folder(*server.cwd),  # what `process.family` knows a left-over by
            log=log_file(self.home, server.name),
            pid_file=pid_file(self.home, server.name),
            user=identity() if server.as_postgres else None,
        )

        def over() -> bool:
            return started.poll() is not None

        in_time = process.until(
            lambda: over() or (not server.once and server.ready(self.home)), server.timeout
        )
        if server.once and started.poll() == 0:
            pid_file(self.home, server.name).unlink()
        elif over():
            raise StackError(
                self._complaint(server, f"stopped while starting (exit code {started.returncode})")
            )
        elif not in_time:
            raise StackError(self._complaint(server, f"was not ready after {server.timeout:.0f} s"))

    def _stop(self, name: str) -> float:
        """Stop a server and what it left behind, and return the seconds it took; 0 if there was nothing."""
        pids, server, begin, took = pid_file(self.home, name), BY_NAME[name], time.monotonic(), 0.0
        # Again until none is left: a scheduler replaces a worker that ends before it has heard the signal.
        while members := process.family(pids, self.home.root):
            # PostgreSQL's first process stops the others in order; Airflow's would wait for every task.
            told = [found] if server.as_postgres and (found := process.running(pids)) else members
            process.stop(members, told, server.how_to_stop, STOP_TIMEOUT)
            took = time.monotonic() - begin
        pids.unlink(missing_ok=True)
        return took

    def _taken(self, server: Server, port: str) -> str:
        variable = "EVERGREEN_PORT_" + port.upper().replace("-", "_")
        number = self.home.ports[port]
        return (
            f"{server.name}: port {number} ({port}) of 127.0.0.1 is taken by another program; `ss -ltnp`"
            f" names it. Stop that program, or choose another port: {variable}=<port> make demo"
        )

    def _complaint(self, server: Server, what: str) -> str:
        path = log_file(self.home, server.name)
        lines = path.read_text(errors="replace").splitlines()[-LAST_LINES:] if path.exists() else []
        ports = ", ".join(f"{name} {self.home.ports[name]}" for name in server.ports)
        return "\n".join(
            [
                f"{server.name} {what}" + (f" (ports: {ports})" if ports else "") + f". The end of {path}:",
                *(f"    {line}" for line in lines),
                "`make demo` starts it again and goes on; `make clean` begins anew with empty servers.",
            ]
        )


def _with_needs(parts: Iterable[str]) -> list[Server]:
    wanted = list(parts)
    for name in wanted:  # grows while it is read
        if name not in BY_NAME:
            raise StackError(f"{name}: no such server; valid are {', '.join(ALL)}")
        wanted += [n for n in BY_NAME[name].needs + BY_NAME[name].beside if n not in wanted]
    return [server for server in SERVERS if server.name in wanted]


def show(server: str, what: str, seconds: float) -> None:
    """A line of progress on the terminal."""
    print(f"  {server:<14} {what:<11} {seconds:5.1f} s", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.stack", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("up", "down", "status", "env"))
    parser.add_argument("server", nargs="*", default=list(ALL), help="only these, with what they need (up)")
    asked = parser.parse_args()
    stack = Stack()
    try:
        if asked.action == "up":
            stack.up(asked.server, show)
        elif asked.action == "down":
            stack.down(show)
        elif asked.action == "status":
            for name, state in stack.status().items():
                print(f"  {name:<14} {state}")
        else:
            for name, value in airflow_environment(stack.home).items():
                print(f"export {name}={shlex.quote(value)}")
    except StackError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
