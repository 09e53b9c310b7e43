"""How long the pages in Airflow take for a year of 20 columns: ``python -m benchmarks.pages``.

The pages are requested without Airflow and its login. The first request of a new api-server also imports the
libraries that draw charts, and is printed apart.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

from demo.home import REPOSITORY

TRIES = 5


def main() -> None:
    """Fill a lake, request each page, and print a table."""
    warnings.simplefilter("ignore")  # Airflow logs them to where the table is printed
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "EVERGREEN_LAKE": f"{folder}/lake",
            "EVERGREEN_USECASES": f"{folder}/usecases",
            "AIRFLOW_HOME": f"{folder}/airflow",
        }
        sys.path.insert(0, str(REPOSITORY / "plugins"))
        from include.storage.lake import Lake
        from tests.plugins import year

        spec = year.declare(Path(folder, "usecases"))
        year.fill(Lake(spec.name), spec)
        paths = {
            "column": f"/column/{spec.name}/number_0",
            "data quality": f"/quality/{spec.name}",
            "partition": f"/partition/{spec.name}/{year.KEYS[-10]}",
            "compare": f"/compare/{spec.name}?a=10&b=10-linear",
            "overview": f"/usecase/{spec.name}",
        }
        print("| page | first, s | median, s | CPU, s | kB |")
        print("|---|---|---|---|---|")
        with year.client() as client:
            for name, path in paths.items():
                seconds, cpu = [], []
                for _ in range(TRIES + 1):
                    begin, begin_cpu = time.perf_counter(), time.process_time()
                    answer = client.get(path).raise_for_status()
                    seconds.append(time.perf_counter() - begin)
                    cpu.append(time.process_time() - begin_cpu)
                size = len(answer.content) / 1000
                figures = f"{seconds[0]:.2f} | {median(seconds[1:]):.2f} | {median(cpu[1:]):.2f} | {size:.0f}"
                print(f"| {name} | {figures} |")


if __name__ == "__main__":
    main()
