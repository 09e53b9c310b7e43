"""What a hundred use cases cost Airflow: ``python -m benchmarks.many [HOW MANY]``.

Each page of ``dags/`` is read in a fresh process, as the DAG processor does, with so many copies of the
flights' declaration beside the one that ships, and with one. The first page to read new declarations stores
them for all later readings; a task's process reads only the declaration of its own use case. Airflow gives a
page 30 s (``core.dagbag_import_timeout``). Then the demo's servers are started with each, and once the
scheduler could start every DAG the memory of scheduler, DAG processor and API server is read, each with its
children.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from demo import process
from demo.airflow_api import AirflowApi
from demo.home import Home
from demo.servers import pid_file
from demo.stack import Stack, clean

ROOT = Path(__file__).parents[1]
HEAVY = ["pandas", "pyarrow", "deltalake", "duckdb", "sklearn", "mlflow", "evidently", "great_expectations"]
CLOCKS = ("batch", "training", "history", "operate")  # of each use case, beside evergreen__upkeep
SERVERS = ("scheduler", "dag-processor", "api-server")
# on a machine that others use as well a page may take longer than it is given, and what is asked is memory
PATIENT = {
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "500",
    "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
}
AWAITED, SETTLED = 600, 15  # seconds until every DAG is read, and after that
FRESH = """
import json, resource, runpy, sys, time
import airflow.sdk
began, cpu = time.perf_counter(), time.process_time()
found = runpy.run_path(sys.argv[1])
from airflow.sdk import DAG
print(json.dumps({
    "seconds": time.process_time() - cpu,
    "dags": len({one.dag_id for one in found.values() if isinstance(one, DAG)}),
    "heavy": [name for name in json.loads(sys.argv[2]) if name in sys.modules],
    "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def read(page: Path, usecases: Path, **variables: str) -> dict[str, object]:
    """Return what reading one page took, with more environment variables."""
    env = {**os.environ, "EVERGREEN_USECASES": str(usecases), "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    env |= {"TMPDIR": str(usecases.parent), **variables}  # where parsed declarations are stored
    command = [sys.executable, "-c", FRESH, str(page), json.dumps(HEAVY)]
    finished = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(finished.stdout.splitlines()[-1])
    return found


def copies(folder: Path, count: int) -> Path:
    """Write so many use cases, each with a name of its own."""
    origin = ROOT / "include" / "usecases" / "flight_delay"
    for number in range(count):
        home = shutil.copytree(origin, folder / f"flight_delay_{number:03}")
        file = home / "usecase.yaml"
        file.write_text(file.read_text().replace("name: flight_delay", f"name: {home.name}", 1))
    return folder


def lives(usecases: Path, count: int) -> dict[str, tuple[float, float, float]]:
    """Return each server's resident and own memory in MB, and the seconds until every DAG was read."""
    home = Home(Home().root / "bench")  # anew: one remembers the ports whose file was removed
    clean(home)  # what a failed one kept
    stack, api = Stack(home, {**PATIENT, "EVERGREEN_USECASES": str(usecases)}), AirflowApi.of(home)
    expected = len(CLOCKS) * (count + 1) + 1
    try:
        for name in ("api-server", "scheduler", "dag-processor"):  # one by one, on a machine that may be busy
            stack.up([name])
        began = time.monotonic()
        while api.call("GET", "/dags", params={"limit": 1})["total_entries"] != expected:
            if time.monotonic() - began > AWAITED:
                sys.exit(f"required {expected} DAGs in {AWAITED} s: {api.import_errors()}")
            time.sleep(0.5)
        seconds = time.monotonic() - began
        time.sleep(SETTLED)
        return {name: (*memory(home, name), seconds) for name in SERVERS}
    finally:
        stack.down()
        clean(home)


def memory(home: Home, server: str) -> tuple[float, float]:
    """Return the MB that a server and its children hold: RSS counts what they share each time, PSS once."""
    found = [one.memory_full_info() for one in process.family(pid_file(home, server), home.root)]
    return sum(one.rss for one in found) / 2**20, sum(one.pss for one in found) / 2**20


def main() -> None:
    """Measure and print."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        sides = [copies(Path(folder) / str(count), count) for count in (many, 1)]
        pages = sorted((ROOT / "dags").glob("*.py"))
        first = read(pages[0], sides[0])
        print(f"{many} new declarations, first read by {pages[0].name}: {first['seconds']:.2f} s of CPU\n")
        print(
            f"| page | DAGs of {many} | CPU s of {many} | CPU s in a task | CPU s of 1 | peak MB of {many} "
            "| heavy imports |"
        )
        print("|---|---|---|---|---|---|---|")
        for page in pages:
            dag = f"flight_delay_000__{page.stem}"
            read_of, read_one = (read(page, side) for side in sides)
            in_task = read(page, sides[0], _AIRFLOW_PARSING_CONTEXT_DAG_ID=dag)
            heavy = ", ".join(read_of["heavy"]) or "none"  # type: ignore[arg-type]  # names
            print(
                f"| {page.name} | {read_of['dags']} | {read_of['seconds']:.2f} | {in_task['seconds']:.2f} "
                f"| {read_one['seconds']:.2f} | {read_of['mb']:.0f} | {heavy} |"
            )
        with redirect_stdout(sys.stderr):  # what the servers say of themselves isn't measured
            of, one = (lives(side, int(side.name)) for side in sides)
    print(f"\n| server | PSS MB of {many} | PSS MB of 1 | RSS MB of {many} | RSS MB of 1 |")
    print("|---|---|---|---|---|")
    for name in SERVERS:
        (rss, pss, _), (rss_1, pss_1, _) = of[name], one[name]
        print(f"| {name} | {pss:.0f} | {pss_1:.0f} | {rss:.0f} | {rss_1:.0f} |")
    seconds, seconds_1 = (side[SERVERS[0]][2] for side in (of, one))
    print(f"| seconds until every DAG was there | {seconds:.0f} | {seconds_1:.0f} | | |")


if __name__ == "__main__":
    main()
