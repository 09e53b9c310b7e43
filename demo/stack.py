"""Starts, stops and inspects the demo's servers, each on loopback, all state in one folder.

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
from demo.complaints import StackError, complaint, named, taken
from demo.environment import airflow_environment, command_line_environment
from demo.home import Home, is_free
from demo.postgres import identity
from demo.servers import ALL, BY_NAME, SERVERS, Server, log_file, pid_file

Progress = Callable[[str, str, float], None]  # server, what happened, seconds it took

FEW = 8  # names of a folder's content
PORT_TIMEOUT = 3.0  # seconds before a port that is not free counts as taken
STOP_TIMEOUT = 10.0  # seconds before a server that was asked to stop is killed

# What a shell may hold of other stacks and clouds, and what would make every import slow.
FOREIGN = ("AIRFLOW", "AWS_", "MLFLOW_", "_MLFLOW_", "EVERGREEN_", "PG", "WEED_", "PYTHONDONTWRITEBYTECODE")


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
        extra = {name: value for name, value in self.extra.items() if not name.startswith("AIRFLOW__")}
        self.home.keep_environment(command_line_environment(self.home) | extra)

    def down(self, progress: Progress = lambda *_: None) -> None:
        """Stop every server, those that need others first."""
        with self.home.lock():
            self.home.environment.unlink(missing_ok=True)
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
                raise complaint(self.home, server, "died")

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
        self._stop(server.name)  # it hangs, was killed and left children, or has yesterday's settings
        with named(self.home, server):
            self._start(server, env)
            server.finish(self.home)
        progress(server.name, "done" if server.once else "up", time.monotonic() - begin)

    def _start(self, server: Server, env: dict[str, str]) -> None:
        for name in server.ports:
            # A killed server's last threads may hold its port for a moment.
            if not process.until(partial(is_free, self.home.ports[name]), PORT_TIMEOUT):
                raise taken(self.home, server, name)
        server.prepare(self.home)
        started = process.spawn(
            server.argv(self.home),
            env={**env, **self._own(server)},
            cwd=self.home.folder(*server.cwd),  # what `process.family` knows a left-over by
            log=log_file(self.home, server.name),
            pid_file=pid_file(self.home, server.name),
            digest=self._digest(server),
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
            raise complaint(self.home, server, f"stopped while starting (exit code {started.returncode})")
        elif not in_time:
            raise complaint(self.home, server, f"was not ready after {server.timeout:.0f} s")

    def _own(self, server: Server) -> dict[str, str]:
        """The variables that only this server gets."""
        switch = {"EVERGREEN_WARM": "1"} if self.warm and server.name == "scheduler" else {}
        return {**server.env(self.home), **switch}

    def _digest(self, server: Server) -> str:
        """Of what the server is started with: its command line, its ports, and the variables it uses.

        The shell's own variables are left out, and what a server doesn't use: neither a new terminal nor, for
        PostgreSQL, a new commit is a reason to restart.
        """
        ours = airflow_environment(self.home) | self.extra
        used = {name: value for name, value in ours.items() if name.startswith(server.uses)}
        ports = {name: self.home.ports[name] for name in server.ports}
        return process.digest([server.argv(self.home), ports, used | self._own(server)])

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


def _with_needs(parts: Iterable[str]) -> list[Server]:
    wanted = list(parts)
    for name in wanted:  # grows while it is read
        if name not in BY_NAME:
            raise StackError(f"{name}: no such server; valid are {', '.join(ALL)}")
        wanted += [n for n in BY_NAME[name].needs + BY_NAME[name].beside if n not in wanted]
    return [server for server in SERVERS if server.name in wanted]


def clean(home: Home, progress: Progress = lambda *_: None) -> str:
    """Stop the home's servers and the benchmark's inside it, remove the folder, and say so.

    Raises
    ------
    StackError
        The folder holds no stack; nothing is stopped or removed.
    """
    if not home.root.exists():
        return f"{home.root} isn't there: nothing to remove"
    if not home.is_one:
        found = ", ".join(sorted(path.name for path in home.root.iterdir())[:FEW]) or "nothing"
        raise StackError(
            f"{home.root} has no ports.json, so it is no folder of the stack's and stays; it holds {found}."
            " Remove it by hand, or unset EVERGREEN_HOME if that named it by mistake."
        )
    for one in (Home(home.root / "bench"), home):
        if one.is_one:
            Stack(one).down(progress)
    shutil.rmtree(home.root)
    return f"{home.root} is removed"


def show(server: str, what: str, seconds: float) -> None:
    """A line of progress on the terminal."""
    print(f"  {server:<14} {what:<11} {seconds:5.1f} s", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.stack", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("up", "down", "status", "env", "clean"))
    parser.add_argument("server", nargs="*", default=list(ALL), help="only these, with what they need (up)")
    asked = parser.parse_args()
    stack = Stack()
    try:
        if asked.action == "up":
            stack.up(asked.server, show)
        elif asked.action == "down":
            stack.down(show)
        elif asked.action == "clean":
            print(f"  {clean(stack.home, show)}")
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
