"""Requests per second of online serving, beside MLflow's: ``python -m benchmarks serve``.

A boosting of the flights' recipe, fitted on generated features, is served by ``python -m include serve`` with
and without ONNX Runtime and with its log, by ``mlflow models serve``, and by BentoML, which is installed into
an environment of its own: one worker each, one row a request, one thread. Clients on the same machine send a
request as soon as they have the answer to the one before. Each server's figure is the most requests per
second of which 99 % took at most 10 ms, over numbers of clients: the median of three rounds in turns. Server
and clients have real-time priority where the system allows it (as for root), so that a busy machine's other
processes don't count. At last the champion is switched under load.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_server
from statistics import median
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # it comes without types, and a few calls don't need them
import pyarrow as pa
import yaml

from benchmarks.onnx import flights
from demo.home import REPOSITORY
from demo.process import until
from include.export.convert import to_onnx
from include.models import artifacts
from include.promote import ledger
from include.spec import UseCase, load
from include.spec.load import read
from include.storage import schemas
from include.storage.lake import Lake
from include.train.fitting import fit_recipe

NAME, PARTITION = "flights_online", "2024-01-02"
FITTED, ROWS = 20_000, 500
CLIENTS, ROUNDS, SECONDS, WARM_UP = (1, 2, 4, 8, 16), 3, 2.0, 1.0
LIMIT = 10.0  # ms, of the 99th percentile
SWITCH_CLIENTS, SWITCH_AFTER, SWITCH_SECONDS = 4, 2.0, 10.0
STARTED, INSTALLED = 180.0, 120.0  # seconds that a server may take to answer, and packages to install
QUIET = {
    **{"DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"},
    **{"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "OMP_NUM_THREADS": "1"},
}
BENTO_PACKAGES = ("bentoml==1.4.40", "onnxruntime==1.32.0")
# the same file, and as little else as our server does with a row
BENTO = """
import os
import bentoml
import numpy as np
import onnxruntime

@bentoml.service(workers=1)
class Online:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options)
        self.texts = {field.name: field.type == "tensor(string)" for field in self.session.get_inputs()}

    @bentoml.api(route="/predict")
    async def predict(self, rows: list[dict]) -> dict:
        feeds = {}
        for name, is_text in self.texts.items():
            missing, dtype = ("<missing>", object) if is_text else (float("nan"), float)
            values = [missing if row.get(name) is None else row[name] for row in rows]
            feeds[name] = np.array(values, dtype).reshape(-1, 1)
        return {"predictions": self.session.run(None, feeds)[0].tolist()}
"""


def declare(folder: Path, flight: UseCase) -> UseCase:
    """Return a use case whose source has the flights' features as they are."""
    columns: dict[str, Any] = {"id": {"type": "integer", "required": True}}
    columns |= {name: {"type": "number"} for name in flight.features.numeric}
    columns |= {name: {"type": "string"} for name in flight.features.categorical}
    source = {"kind": "objects", "connection": "none", "path": "x/{day}", "key": ["id"], "columns": columns}
    recipes = {"baselines": [{"name": "prior", "estimator": "prior"}]}
    boosting = next(one for one in flight.training.candidates if one.name == "boosting")
    declaration = {
        "name": NAME,
        "problem": {"kind": "binary", "statement": "Will it be late?", "target": flight.problem.target},
        "schedule": {
            **{"batch": "0 18 * * *", "training": "0 20 * * 0"},
            **{"timezone": "UTC", "start": "2024-01-01"},
        },
        "sources": {"flights": source},
        "features": {
            "spine": "flights",
            "lookback": 0,
            "numeric": list(flight.features.numeric),
            "categorical": list(flight.features.categorical),
        },
        "labels": {"source": "flights", "sql": "temp > 0", "delay": 1},
        "training": {**recipes, "candidates": [boosting.model_dump(exclude_defaults=True)]},
        "gate": {"objective": "log_loss"},
        "scoring": {"constant": 0.25},
    }
    home = folder / "usecases" / NAME
    home.mkdir(parents=True)
    (home / "usecase.yaml").write_text(yaml.safe_dump(declaration))
    names = ", ".join(f'"{name}"' for name in ("id", "partition", *flight.features.columns))
    (home / "features.sql").write_text(f"SELECT {names} FROM spine\n")  # noqa: S608 - quoted names
    return read(home / "usecase.yaml")


def publish(lake: Lake, spec: UseCase, rows: pa.Table) -> None:
    """Publish rows as a partition of the source."""
    decision = spec.clock.decision_time(PARTITION)
    columns = {"id": range(rows.num_rows), **{name: rows[name] for name in spec.features.columns}}
    columns |= {"partition": [PARTITION] * rows.num_rows, "revision": [0] * rows.num_rows}
    columns |= {"known_at": [decision] * rows.num_rows}
    schema = schemas.validated_schema(spec.sources["flights"])
    table = pa.table(columns).select(schema.names).cast(schema)
    lake.publish("validated_flights", table, {"partition": PARTITION})
    row = schemas.partition_row(
        "flights", PARTITION, rows.num_rows, "d", inputs={}, spec="s", code="c", note="generated"
    )
    status = pa.Table.from_pylist([row], schema=schemas.PARTITIONS)
    lake.publish("partitions", status, {"product": "flights", "partition": PARTITION})


def switch(lake: Lake, version: str, estimator: Any) -> None:
    """Let a model serve as the champion."""
    row: dict[str, Any] = dict.fromkeys(schemas.SWITCHES.names, "")
    row |= {
        "role": "champion",
        "version": version,
        "kind": "promoted",
        "effective_from": PARTITION,
        "constant": 0.25,
    }
    row |= {"model": artifacts.store_model(lake, artifacts.serialize(estimator))}
    ledger.record_switch(lake, lambda rows: [row])


# servers and clients


@contextmanager
def real_time(target: Target) -> Iterator[None]:
    """Let no other process interrupt the server and its clients, where the system allows that."""
    processes = [psutil.Process(), *psutil.Process(target.pid).children(recursive=True)]
    threads = [thread.id for process in processes for thread in process.threads()]
    threads += [thread.id for thread in psutil.Process(target.pid).threads()]
    with suppress(PermissionError):
        for thread in threads:
            os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        for thread in threads:
            with suppress(PermissionError, ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


@dataclass
class Target:
    """A server, and the request that it is sent."""

    name: str
    path: str
    body: bytes
    python: str = sys.executable
    port: int = 0
    pid: int = 0
    figures: list[tuple[float, int, float, float]] = field(default_factory=list)  # the best of each round

    @property
    def request(self) -> bytes:
        """The whole request as it is sent."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


@contextmanager
def running(target: Target, command: Sequence[str], env: Mapping[str, str]) -> Iterator[None]:
    """Start a server with the option of its port, and wait until it answers."""
    with create_server(("127.0.0.1", 0)) as free:
        target.port = free.getsockname()[1]
    path = Path(target.python).parent  # MLflow starts a program of its environment
    process = subprocess.Popen(
        [target.python, "-m", *command, "--port", str(target.port)],
        env={**os.environ, **env, **QUIET, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"},
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    target.pid = process.pid
    try:
        if not until(lambda: _answers(target), STARTED):
            sys.exit(f"{target.name}: expected an answer within {STARTED:g} s, but found none")
        yield
    finally:
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            one.kill()
        process.wait()


def _answers(target: Target) -> bool:
    with suppress(OSError, asyncio.IncompleteReadError):
        return asyncio.run(_ask_once(target)).startswith(b"HTTP/1.1 200")
    return False


async def _ask_once(target: Target) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(target.request)
    head, body = await _answer(reader)
    writer.close()
    return head + body


async def _answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def load_for(
    target: Target, clients: int, seconds: float
) -> tuple[list[tuple[float, float, bytes]], list[str]]:
    """Return when each answer came, how long it took and what it was; and what failed."""
    end, answers, failures = time.perf_counter() + seconds, [], list[str]()

    async def send() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        while (began := time.perf_counter()) < end:
            try:
                writer.write(target.request)
                head, body = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                failures.append(repr(error))
                return
            now = time.perf_counter()
            answers.append((now, now - began, body))
            if not head.startswith(b"HTTP/1.1 200"):
                failures.append(head.decode())
        writer.close()

    await asyncio.gather(*(send() for _ in range(clients)))
    return answers, failures


def measure(target: Target) -> None:
    """Add a round's best figure: the most requests per second within the limit, or else of one client."""
    best: tuple[float, int, float, float] | None = None
    for clients in CLIENTS:
        with real_time(target):
            answers, failures = asyncio.run(load_for(target, clients, SECONDS))
        if failures:
            sys.exit(f"{target.name}: expected answers, but found {failures[0]}")
        p50, p99 = np.percentile([seconds * 1000 for _, seconds, _ in answers], [50, 99])
        figure = len(answers) / SECONDS, clients, float(p50), float(p99)
        if best is None or (p99 <= LIMIT and figure[0] > best[0]):
            best = figure
        if p99 > LIMIT and clients > 1:
            break
    assert best is not None
    target.figures.append(best)


def main() -> None:
    """Measure and print."""
    flight = load("flight_delay")
    rows = flights(flight, FITTED)
    recipe = next(one for one in flight.training.candidates if one.name == "boosting")
    estimators = [fit_recipe(flight, recipe, part) for part in (rows, rows.slice(0, FITTED // 2))]
    with tempfile.TemporaryDirectory(prefix="evergreen-serve-") as name, ExitStack() as servers:
        folder = Path(name)
        spec, lake = declare(folder, flight), Lake(NAME, str(folder / "lake"))
        publish(lake, spec, rows.slice(0, ROWS))
        switch(lake, "1", estimators[0])
        row = rows.select(list(spec.features.columns)).slice(7, 1)
        own = json.dumps({"rows": row.to_pylist()}).encode()
        columns = {"columns": row.column_names, "data": [list(row.to_pylist()[0].values())]}
        other = json.dumps({"dataframe_split": columns}).encode()
        env = {"EVERGREEN_LAKE": str(folder / "lake"), "EVERGREEN_USECASES": str(folder / "usecases")}
        (folder / "hidden").mkdir()
        (folder / "hidden" / "onnxruntime.py").write_text("raise ImportError(name='onnxruntime')\n")
        hidden = {"PYTHONPATH": os.pathsep.join((str(folder / "hidden"), str(REPOSITORY)))}
        command, log = ["include", "serve", NAME], ["--log-requests", str(folder / "log")]
        targets = [
            Target("`include serve`, ONNX Runtime", "/predict", own),
            Target("`include serve`, ONNX Runtime, `--log-requests`", "/predict", own),
            Target("`include serve`, without the extra `onnx`", "/predict", own),
            Target("`mlflow models serve`", "/invocations", other),
        ]
        save_for_mlflow(estimators[0], row, spec, folder / "mlflow")
        mlflow = ["mlflow", "models", "serve", "-m", str(folder / "mlflow"), "--env-manager", "local"]
        starts: list[tuple[list[str], dict[str, str]]] = [
            (command, env), ([*command, *log], env), (command, {**env, **hidden}), (mlflow, {})
        ]  # fmt: skip
        if python := install_bentoml(folder):
            (folder / "model.onnx").write_bytes(to_onnx(estimators[0], spec))
            (folder / "bento_service.py").write_text(BENTO)
            targets.append(Target("BentoML, ONNX Runtime", "/predict", own, python))
            bento = ["bentoml", "serve", "bento_service:Online", "--working-dir", str(folder)]
            starts.append((bento, {"MODEL": str(folder / "model.onnx"), "BENTOML_HOME": str(folder)}))
        for target, start in zip(targets, starts, strict=True):
            servers.enter_context(running(target, *start))
        expected = float(artifacts.predict(estimators[0], row, spec)[0])
        for target in targets:
            require_same(target, expected)
            asyncio.run(load_for(target, 1, WARM_UP))
        for _ in range(ROUNDS):
            for target in targets:
                measure(target)
        report(targets)
        print(f"\n{switch_under_load(targets[0], lake, estimators[1])}")


def install_bentoml(folder: Path) -> str:
    """Return the Python of an environment with BentoML, or "" if it can't be installed.

    Its packages differ from the lock's.
    """
    uv, home = str(Path(sys.executable).with_name("uv")), folder / "bentoml"
    settings = [sys.executable, "-m", "pip", "config", "list"]
    shown = subprocess.run(settings, capture_output=True, text=True, check=False).stdout
    index = re.search(r"index-url='(.*)'", shown)
    env = {**os.environ, "VIRTUAL_ENV": str(home), "UV_SYSTEM_CERTS": "1"}
    env |= {"UV_DEFAULT_INDEX": index[1]} if index else {}
    try:
        for command in (["venv", str(home)], ["pip", "install", *BENTO_PACKAGES]):
            subprocess.run([uv, *command, "--quiet"], env=env, timeout=INSTALLED, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"BentoML is left out: {error}", file=sys.stderr)
        return ""
    return str(home / "bin" / "python")


def save_for_mlflow(estimator: Any, row: pa.Table, spec: UseCase, folder: Path) -> None:
    """Save a model as MLflow's server loads it, in the format of the registry."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    example = artifacts.model_input(row, spec)
    mlflow.sklearn.save_model(
        estimator,
        folder,
        serialization_format="skops",
        skops_trusted_types=[*artifacts.TRUSTED],
        signature=infer_signature(example, estimator.predict_proba(example)),
        pyfunc_predict_fn="predict_proba",
        pip_requirements=["scikit-learn"],
    )


def require_same(target: Target, expected: float) -> None:
    """End unless the server predicts what the model does."""
    answer = json.loads(asyncio.run(_ask_once(target)).partition(b"\r\n\r\n")[2])
    predictions = answer["predictions"]
    value = predictions[0]
    if isinstance(value, dict):
        value = value["prediction"]
    elif isinstance(value, list):  # MLflow's are of both classes
        value = value[1]
    if not abs(value - expected) <= 1e-9:
        sys.exit(f"{target.name}: expected the prediction {expected}, but found {value}")


def report(targets: Sequence[Target]) -> None:
    """Print the middle round of each server."""
    print("| server, one worker | requests a second at p99 ≤ 10 ms | clients | p50, ms | p99, ms |")
    print("|---|---|---|---|---|")
    for target in targets:
        middle = median(figure[0] for figure in target.figures)
        rate, clients, p50, p99 = next(figure for figure in target.figures if figure[0] == middle)
        shown = f"{rate:,.0f}" if p99 <= LIMIT else f"none (with one client {rate:,.0f})"
        print(f"| {target.name} | {shown} | {clients} | {p50:.2f} | {p99:.2f} |")


def switch_under_load(target: Target, lake: Lake, estimator: Any) -> str:
    """Return what a switch of the champion did to the requests meanwhile."""

    async def run() -> tuple[float, tuple[list[tuple[float, float, bytes]], list[str]]]:
        load = asyncio.create_task(load_for(target, SWITCH_CLIENTS, SWITCH_SECONDS))
        await asyncio.sleep(SWITCH_AFTER)
        await asyncio.to_thread(switch, lake, "2", estimator)
        return time.perf_counter(), await load

    with real_time(target):
        switched, (answers, failures) = asyncio.run(run())
    versions = [(moment, b'"version": "2"' in body) for moment, _, body in answers]
    since = [moment for moment, is_new in versions if is_new]
    if not since:
        sys.exit("expected the switch to be followed, but found the old version in every answer")
    p99 = np.percentile([seconds * 1000 for _, seconds, _ in answers], 99)
    return (
        f"The champion switched under {SWITCH_CLIENTS} clients: {len(answers):,} requests in "
        f"{SWITCH_SECONDS:g} s, {len(failures)} failed, p99 {p99:.1f} ms; the new one served "
        f"{min(since) - switched:.1f} s after the switch was recorded."
    )


if __name__ == "__main__":
    main()
