"""Measure, and write docs/reference/benchmarks.md: ``python -m benchmarks [NAME ...]``; `make bench`: all.

Each name's command runs in a process of its own, one after the other. What it prints takes the place of what
stands between ``<!-- measured: NAME -->`` and ``<!-- end -->`` on the page, under the command, the day and
the machine. A command that fails leaves the page as it is.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from datetime import datetime

from demo.home import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "benchmarks.md"
COMMANDS = {
    "drift": ["benchmarks.drift"],
    "contract": ["benchmarks.contract"],
    "many": ["benchmarks.many"],
    "batch": ["benchmarks.batch", "100000", "1000000"],
    "shards": ["benchmarks.shards", "400000"],
    "onnx": ["benchmarks.onnx"],
    "serve": ["benchmarks.serve"],
    "large": ["benchmarks.large", "1000000", "5000000"],
    "external": ["benchmarks.external", "1000000", "20000000"],
    "dask": ["benchmarks.dask_fit"],
    "partitions": ["benchmarks.partitions"],
    "pages": ["benchmarks.pages"],
    "flat": ["benchmarks.flat"],
}


def placed(page: str, name: str, output: str) -> str:
    """Return the page with what a command said in its place."""
    pattern = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    page, times = pattern.subn(lambda mark: f"{mark[1]}{output.rstrip()}\n{mark[2]}", page)
    if times != 1:
        sys.exit(f"{PAGE}: expected one place marked `measured: {name}`, but found {times}")
    return page


def machine() -> str:
    """Return what the figures came from: cores, memory and Python."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}"


def measured(name: str) -> str:
    """Run a command; return what it printed, under where and when."""
    command = ["python", "-m", *COMMANDS[name]]
    print(f"{' '.join(command)}", flush=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin, load, lines = time.perf_counter(), os.getloadavg()[0], []
    with subprocess.Popen(
        [sys.executable, *command[1:]], env=env, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    where = f"{datetime.now():%Y-%m-%d}, {machine()}, a load of {load:.1f} before it"
    output = f"`{' '.join(command)}` ({where}; {time.perf_counter() - begin:.0f} s):"
    plain = not any(line.startswith("|--") for line in lines)
    return "\n".join([output, "", *(["```", *lines, "```"] if plain else lines)])


def main(names: list[str]) -> None:
    """Measure each, and write the page after each."""
    if names == ["flat", "--json"] or names[:1] == ["budget"]:  # what the page doesn't have
        command = [sys.executable, "-m", f"benchmarks.{names[0]}", *names[1:]]
        sys.exit(subprocess.run(command, cwd=REPOSITORY, check=False).returncode)
    if unknown := sorted(set(names) - set(COMMANDS)):
        sys.exit(f"expected some of {', '.join(COMMANDS)}, but found {', '.join(unknown)}")
    for name in names or COMMANDS:
        placed(PAGE.read_text(), name, "")
        output = measured(name)
        page = PAGE.with_suffix(".new")
        page.write_text(placed(PAGE.read_text(), name, output))
        page.replace(PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
