"""What a hundred use cases cost Airflow's parser, page by page: ``python -m benchmarks.many [HOW MANY]``.

Each page of ``dags/`` is read in a fresh process, as the DAG processor does, with so many copies of the
flights' declaration beside the one that ships, and with one. Airflow gives a page 30 s
(``core.dagbag_import_timeout``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ["pandas", "pyarrow", "deltalake", "duckdb", "sklearn", "mlflow", "evidently", "great_expectations"]
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


def read(page: Path, usecases: Path) -> dict[str, object]:
    """Return what reading one page took."""
    env = {**os.environ, "EVERGREEN_USECASES": str(usecases), "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    command = [sys.executable, "-c", FRESH, str(page), json.dumps(HEAVY)]
    done = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def copies(folder: Path, count: int) -> Path:
    """Write so many use cases, each with a name of its own."""
    origin = ROOT / "include" / "usecases" / "flight_delay"
    for number in range(count):
        home = shutil.copytree(origin, folder / f"flight_delay_{number:03}")
        file = home / "usecase.yaml"
        file.write_text(file.read_text().replace("name: flight_delay", f"name: {home.name}", 1))
    return folder


def main() -> None:
    """Measure and print."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print(f"| page | DAGs of {many} | CPU s of {many} | CPU s of 1 | peak MB of {many} | heavy imports |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        sides = [copies(Path(folder) / str(count), count) for count in (many, 1)]
        for page in sorted((ROOT / "dags").glob("*.py")):
            of, one = (read(page, side) for side in sides)
            heavy = ", ".join(of["heavy"]) or "none"  # type: ignore[arg-type]  # names
            print(
                f"| {page.name} | {of['dags']} | {of['seconds']:.2f} | {one['seconds']:.2f} | {of['mb']:.0f} "
                f"| {heavy} |"
            )


if __name__ == "__main__":
    main()
