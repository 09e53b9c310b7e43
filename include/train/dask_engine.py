"""Fits XGBoost on the processes of a Dask cluster, each of which holds its share of the rows.

The task encodes the rows batch by batch and writes them to files, each worker reads the files of its share,
and XGBoost adds up the workers' histograms. So no process holds all rows, and none of them go through the
scheduler. Which rows a worker gets, and its place among the workers, follow from their number alone.

A worker that is lost ends the fit with `ClusterUnavailable`, after which the task is retried: XGBoost can't
go on without its rows. A cluster that was started for a fit ends with it, and with this process.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from include.environment import Endpoint, connection, is_loopback
from include.errors import PYTHON, ClusterUnavailable, SettingError, StoreUnavailable
from include.storage.lake import Lake

if TYPE_CHECKING:
    from distributed import Client, LocalCluster
    from distributed.security import Security
    from xgboost import Booster

    from include.models.xgboost_models import Batch
    from include.spec import UseCase
    from include.spec.stages import Recipe

log = logging.getLogger(__name__)
INSTALL = f"{PYTHON} -m pip install --require-hashes -r requirements-dask.txt"
ROWS = "shards/parts/fits"  # encoded rows, below the prefix whose leftovers upkeep and erasures remove
CONNECT_SECONDS = 30  # until the scheduler answers
WORKERS_SECONDS = 300  # until there are as many workers as are declared
POLL_SECONDS = 1.0  # between two looks whether all workers are alive
NOTICE_SECONDS = 5  # in which a worker that failed a fit is found to be lost
TLS = ("tls_ca_file", "tls_client_cert", "tls_client_key")  # of a connection's extra: paths, or PEM texts
# no tasks but XGBoost's: one that moved or was repeated elsewhere would be another model, or never end
SCHEDULER = {"distributed.scheduler.work-stealing": False, "distributed.scheduler.allowed-failures": 0}
# nobody looks at a dashboard of a cluster that lives for one fit
NO_PAGES: dict[str, list[str]] = {
    f"distributed.{process}.http.routes": [] for process in ("scheduler", "worker")
}
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """Workers of a Dask cluster, and a store that they can read.

    Parameters
    ----------
    name : the use case's and the recipe's, for errors.
    workers : addresses in the order of XGBoost's ranks.
    store : has the encoded rows while a fit runs.
    """

    name: str
    client: Client
    workers: Sequence[str]
    store: Lake

    def train(
        self,
        params: Mapping[str, Any],
        rounds: int,
        batches: Callable[[], Iterator[Batch]],
        types: Sequence[str],
        rows: int,
    ) -> Booster:
        """Return the booster that XGBoost fits on the batches' rows, see `XGBoost's fit_batches`.

        Raises
        ------
        ClusterUnavailable
            when a worker is lost or doesn't answer.
        """
        folder = f"{ROWS}/{uuid.uuid4().hex}"
        # an empty share would be a rank without rows
        workers = self.workers[:rows]
        bounds = [rows * index // len(workers) for index in range(len(workers) + 1)]
        try:
            shares = _write_shares(self.store, folder, batches(), bounds)
            return self._watch(workers, partial(self._train, params, rounds, types, workers, shares))
        finally:
            self.store.remove(self.store.keys(folder))

    def _train(
        self,
        params: Mapping[str, Any],
        rounds: int,
        types: Sequence[str],
        workers: Sequence[str],
        shares: Sequence[WorkerRows],
    ) -> Booster:
        import dask
        import dask.array as da
        from xgboost import Booster
        from xgboost import dask as xgboost_dask
        from xgboost.collective import Config

        with self.client.as_current():  # xgboost.dask asks for it
            columns: list[list[Any]] = [[], [], []]
            for worker, share in zip(workers, shares, strict=True):
                # if this one is lost, on another one, where the fit ends; else it would wait for this one
                own: dict[str, Any] = {"workers": [worker], "allow_other_workers": True, "pure": False}
                loaded = self.client.submit(load_share, self.store.name, self.store.uri, share, **own)
                shapes = ((share.rows, len(types)), (share.rows,), (share.rows,))
                for index, (column, shape) in enumerate(zip(columns, shapes, strict=True)):
                    part = dask.delayed(self.client.submit(_part, loaded, index, **own))
                    column.append(da.from_delayed(part, shape=shape, dtype=np.float32))
            values, labels, weights = (da.concatenate(column) for column in columns)
            matrix = xgboost_dask.DaskQuantileDMatrix(
                self.client,
                values,
                labels,
                weight=weights if shares[0].weighted else None,
                feature_types=list(types),
                max_bin=params.get("max_bin") or 256,
                enable_categorical=True,
            )
            if sorted(matrix.worker_map) != sorted(workers):
                raise self._lost(set(workers) - set(matrix.worker_map))
            # its own guess of the address may be one that listens beyond loopback
            host = urlsplit(self.client.scheduler.address).hostname
            fitted = xgboost_dask.train(
                self.client,
                {**params, "n_jobs": None},  # as many threads as a worker has
                matrix,
                num_boost_round=rounds,
                verbose_eval=False,
                coll_cfg=Config(tracker_host_ip=host),
            )
        booster = Booster({"nthread": 1})
        booster.load_model(fitted["booster"].save_raw("ubj"))
        return booster

    def _watch(self, workers: Sequence[str], work: Callable[[], Result]) -> Result:
        """Return the result of work, or raise an error as soon as one of the workers is lost.

        XGBoost waits minutes for the histograms of a process that is gone, and Dask forever for a worker.
        """
        pool = ThreadPoolExecutor(1)
        running = pool.submit(work)
        pool.shutdown(wait=False)
        while not running.done():
            if lost := self._missing(workers):
                raise self._lost(lost)
            wait([running], POLL_SECONDS)
        if running.exception() is not None:
            self._raise_if_lost(workers, running)
        return running.result()

    def _raise_if_lost(self, workers: Sequence[str], failed: Future[Any]) -> None:
        """Raise an error if work has failed because a worker is lost, which may be known a little later."""
        end = time.monotonic() + NOTICE_SECONDS
        while time.monotonic() < end:
            if lost := self._missing(workers):
                raise self._lost(lost) from failed.exception()
            time.sleep(POLL_SECONDS)

    def _missing(self, workers: Sequence[str]) -> set[str]:
        try:
            return set(workers) - set(_identify(self.client))
        except (OSError, TimeoutError) as error:
            raise self._unanswered(error) from None

    def _lost(self, workers: set[str]) -> ClusterUnavailable:
        return ClusterUnavailable(
            self.name,
            required=f"{len(self.workers)} workers of the Dask cluster until the fit ends",
            found=f"{', '.join(sorted(workers))} lost",
            where=str(self.client.scheduler.address),
            remedy="look in the worker's log, often for a lack of memory; the task retries by itself",
        )

    def _unanswered(self, error: Exception) -> ClusterUnavailable:
        return ClusterUnavailable(
            self.name,
            required="a scheduler of Dask that answers",
            found=f"{type(error).__name__} {error}".strip(),
            where=str(self.client.scheduler.address if self.client.scheduler else ""),
            remedy="check that it is up; the task retries by itself",
        )


@dataclass(frozen=True)
class WorkerRows:
    """The rows of one worker.

    Parameters
    ----------
    keys : of files of float32 arrays: the columns, the label, and the weight if ``weighted``.
    """

    keys: tuple[str, ...]
    rows: int
    weighted: bool


def _write_shares(
    store: Lake, folder: str, batches: Iterator[Batch], bounds: Sequence[int]
) -> list[WorkerRows]:
    """Write rows to files, each with rows of one share only.

    Parameters
    ----------
    bounds : the first row of each share, ascending, and the number of rows.
    """
    keys: list[list[str]] = [[] for _ in bounds[1:]]
    first, weighted = 0, False
    for columns, labels, weights in batches:
        weighted = weights is not None
        rows = np.column_stack([columns, labels, *([] if weights is None else [weights])]).astype(np.float32)
        for index, (begin, end) in enumerate(pairwise(bounds)):
            part = rows[max(begin - first, 0) : max(end - first, 0)]
            if len(part):
                data = io.BytesIO()
                np.save(data, part, allow_pickle=False)
                keys[index].append(f"{folder}/{index}/{len(keys[index])}.npy")
                store.create(keys[index][-1], data.getvalue())
        first += len(rows)
    counts = np.diff(bounds).tolist()
    return [WorkerRows(tuple(own), count, weighted) for own, count in zip(keys, counts, strict=True)]


def load_share(usecase: str, uri: str, share: WorkerRows) -> tuple[NDArray[np.float32], ...]:
    """Return a share's columns, shape (n, any), labels and weights, (n,); this runs on a worker."""
    store = Lake(usecase, uri.removesuffix(f"/{usecase}"))
    values: NDArray[np.float32] | None = None
    ends = np.ones((2, share.rows), np.float32)  # labels and weights
    first = 0
    for key in share.keys:
        if (data := store.get(key)) is None:
            raise StoreUnavailable(
                f"{uri}/{key}",
                required="the rows that the task has written there",
                found="no such object on this worker",
                remedy="the workers must read the same lake as the task, by the same address",
            )
        part = np.load(io.BytesIO(data), allow_pickle=False)
        width = part.shape[1] - 1 - share.weighted
        values = np.empty((share.rows, width), np.float32) if values is None else values
        index = slice(first, first + len(part))
        values[index], ends[: 1 + share.weighted, index] = part[:, :width], part[:, width:].T
        first += len(part)
    assert values is not None
    return values, ends[0], ends[1]


def _part(loaded: tuple[NDArray[np.float32], ...], index: int) -> NDArray[np.float32]:
    return loaded[index]


def _identify(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of its workers, by address."""
    identity = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=CONNECT_SECONDS)
    return dict(identity["workers"])


@contextmanager
def connect(spec: UseCase, recipe: Recipe) -> Iterator[Cluster]:
    """Connect to the declared cluster, or start one on this machine, for one fit.

    Raises
    ------
    SettingError
        when the extra `dask` isn't installed, or the connection or the lake can't be used by workers.
    ClusterUnavailable
        when the scheduler doesn't answer, or has too few workers.
    """
    name = f"{spec.name}: training.{recipe.name}"
    _require_packages(name)
    from distributed import Client  # of the extra

    with ExitStack() as stack:
        if spec.training.dask_connection:
            endpoint, store = connection(spec.training.dask_connection), Lake(spec.name)
            address, security = endpoint.uri, _security(endpoint, store)
        else:
            started, store = stack.enter_context(_started.use(name, recipe.workers))
            address, security = started.scheduler_address, started.security
        try:
            client = stack.enter_context(
                Client(address, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
            )
            client.wait_for_workers(recipe.workers, timeout=WORKERS_SECONDS)
            workers = _identify(client)
        except (OSError, TimeoutError) as error:
            raise _unavailable(name, recipe.workers, error, address) from None
        _require_same_versions(name, client, address)
        # the order of XGBoost's ranks, by the text that it sorts by
        order = sorted(workers, key=lambda worker: f"[xgboost.dask-{workers[worker]['name']}]:{worker}")
        yield Cluster(name, client, order[: recipe.workers], store)


def _unavailable(name: str, workers: int, error: Exception, address: str) -> ClusterUnavailable:
    return ClusterUnavailable(
        name,
        required=f"a Dask cluster of {workers} workers, within {WORKERS_SECONDS} seconds",
        found=f"{type(error).__name__}: {error}",
        where=address,
        remedy="check the scheduler and its workers; the task retries by itself",
    )


class _StartedClusters:
    """The clusters that this process has started; fits on them take turns, since each uses all cores."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._kept: ExitStack | None = None
        self._clusters: dict[int, tuple[LocalCluster, Lake]] = {}  # by the number of workers

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Let later fits use a cluster that one has started, until the end; or until that of an outer one."""
        if self._kept is not None:
            yield
            return
        with ExitStack() as stack:
            self._kept = stack
            try:
                yield
            finally:
                self._kept = None
                self._clusters.clear()

    @contextmanager
    def use(self, name: str, workers: int) -> Iterator[tuple[LocalCluster, Lake]]:
        """Return a cluster on this machine and a store for one fit."""
        with self._turn, ExitStack() as own:
            if workers not in self._clusters:
                stack = own if self._kept is None else self._kept
                # not in the lake, where the rows that a killed task leaves would stay
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="evergreen-"))
                try:
                    cluster = stack.enter_context(_start(workers, folder))
                except (OSError, TimeoutError, RuntimeError) as error:
                    raise _unavailable(name, workers, error, "127.0.0.1") from error
                self._clusters[workers] = cluster, Lake("rows", folder)
            try:
                yield self._clusters[workers]
            finally:
                if self._kept is None:
                    self._clusters.clear()


_started = _StartedClusters()
keep_started = _started.keep


@contextmanager
def _start(workers: int, folder: str) -> Iterator[LocalCluster]:
    """Start a cluster on loopback, which only this process's temporary certificate opens."""
    import dask
    from distributed import LocalCluster

    threads = max(len(os.sched_getaffinity(0)) // workers, 1)
    with (
        dask.config.set({**SCHEDULER, **NO_PAGES}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            security=True,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,  # the machine's or the container's is enough; a paused worker would wait forever
            local_directory=folder,
        ) as cluster,
    ):
        try:
            yield cluster
        finally:
            # they hold nothing that isn't elsewhere, and one in the middle of a fit ends no other way
            for nanny in cluster.workers.values():
                nanny.close_gracefully()  # or it would start another one
                if nanny.pid:
                    with suppress(ProcessLookupError):
                        os.kill(nanny.pid, signal.SIGKILL)


def _security(endpoint: Endpoint, store: Lake) -> Security:
    """Return how the scheduler of a connection is reached.

    Whoever can talk to a scheduler or its workers can run code in them and in this process.

    Raises
    ------
    SettingError
        when the address is another machine's and isn't encrypted, or that machine can't read the store.
    """
    from distributed.security import Security

    parts = urlsplit(endpoint.uri)
    subject = f"connection {endpoint.name}"
    if parts.scheme not in ("tls", "tcp") or not parts.hostname or not parts.port:
        required, found = "the scheduler's address as host, tls://name:port", "another one"
        raise SettingError(subject, required=required, found=found, remedy="correct it in Airflow")
    if not is_loopback(parts.hostname):
        if parts.scheme != "tls":
            raise SettingError(
                subject,
                required="tls:// for a scheduler on another machine",
                found=f"{parts.scheme}://{parts.hostname}",
                remedy=f"start it with certificates, and add {', '.join(TLS)} to the connection's extra",
            )
        if store.uri.startswith("file:"):
            raise SettingError(
                subject,
                required="a lake that the workers can read, as s3:// or az://, for a scheduler elsewhere",
                found=f"{parts.hostname} and the lake {store.uri}",
                where="EVERGREEN_LAKE",
                remedy="use a lake in a store, or remove training.dask_connection: a cluster is started then",
            )
    if parts.scheme == "tcp":
        return Security()
    if missing := [name for name in TLS if not endpoint.extra.get(name)]:
        raise SettingError(
            subject,
            required=f"{', '.join(TLS)} in its extra, as paths or PEM texts, for tls://",
            found=f"no {', '.join(missing)}",
            remedy="add the certificates that the scheduler was started with",
        )
    return Security(**{name: str(endpoint.extra[name]) for name in TLS}, require_encryption=True)


def _require_packages(name: str) -> None:
    try:
        import dask  # noqa: F401 - whether it can be imported is the question
        import distributed  # noqa: F401 - as above
    except ImportError as error:
        raise SettingError(
            name,
            required="the packages dask and distributed of the optional extra `dask`",
            found=f"no {error.name}",
            remedy=f"run `{INSTALL}` in the environment of this process, or remove engine: dask",
        ) from None


def _require_same_versions(name: str, client: Client, address: str) -> None:
    """Refuse a scheduler or workers of other versions, whose models would differ."""
    try:
        client.get_versions(check=True, packages=["xgboost", "numpy"])
    except ValueError as error:
        raise SettingError(
            name,
            required="the same versions in the task, the scheduler and the workers",
            found=" ".join(str(error).split())[:300],
            where=address,
            remedy="run all of them from one image",
        ) from None
