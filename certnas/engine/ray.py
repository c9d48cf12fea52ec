"""Runs a job on a Ray cluster, or on a local one that is started for the run."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from certnas.engine.job import Engine, Item, Job, Result
from certnas.engine.worker import ATTEMPTS, Packed, answer, lost, packed
from certnas.errors import UserError

if TYPE_CHECKING:
    from types import ModuleType

AHEAD = 2
"""How many items per free slot are submitted, so that the next item is there when one ends."""
PATIENCE = 5.0
"""The seconds to wait for a cluster to answer."""


@dataclass(frozen=True)
class Ray(Engine):
    """Runs each item as a Ray task; Ray places the task, and moves it to another worker if one dies."""

    workers: int | None = None
    """The number of tasks at a time; None for as many as there is room for."""
    address: str | None = None
    """The address of a running cluster (host:port, or auto for one on this machine); None to start one for this run.
    """
    gpu: bool = False
    """Whether each task gets a GPU of its own."""

    def __post_init__(self) -> None:
        _ray()
        if self.address is not None:
            _reach(self.address)

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], tell: Callable[[int, Any], None]
    ) -> Generator[tuple[int, Result], None, None]:
        ray = _ray()
        sent = packed(job)
        owned = not ray.is_initialized()
        if owned:
            self._connect(ray)
        try:
            yield from self._results(ray, sent, job, items)
        finally:
            if owned:
                ray.shutdown()

    def _connect(self, ray: ModuleType) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        # Ray sends usage statistics unless this is set
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            if self.address is None:
                ray.init("local", num_cpus=self.workers, include_dashboard=False, **quiet)
            else:
                ray.init(self.address, **quiet)
        except (Exception, SystemExit) as error:  # Ray raises a plain Exception if the start takes too long
            where = "on this machine" if self.address is None else f"at {self.address}"
            silent = isinstance(error, SystemExit)
            reason = "no Ray server answers there" if silent else " ".join(str(error).split())[:200]
            raise UserError(
                f"no Ray cluster {where} ({reason}); it must be of the same versions of Ray and Python, and "
                "RAY_AUTH_MODE must be the cluster's"
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(
                    signal.SIGTERM, terminated
                )  # Ray would end the process with an exit code of its own

    def _results(
        self, ray: ModuleType, sent: Packed, job: Job[Item, Result], items: Sequence[Item]
    ) -> Generator[tuple[int, Result], None, None]:
        cpus = 1 if self.address is None else sent.threads
        needed = {"num_cpus": cpus, "num_gpus": int(self.gpu)}
        kind, each = ("GPU", 1) if self.gpu else ("CPU", cpus)
        room = int(ray.cluster_resources().get(kind, 0) // each)
        if not room:
            raise UserError(f"the Ray cluster has no room for one task: it needs {each} {kind}")
        limit = AHEAD * room if self.workers is None else min(self.workers, AHEAD * room)
        task = ray.remote(_answer).options(max_retries=ATTEMPTS - 1, **needed)
        shared, key = ray.put(sent), os.urandom(16).hex()
        running: dict[Any, int] = {}
        left = iter(range(len(items)))
        failure: BaseException | None = None
        # Running tasks are not cancelled when this is closed: while a result is under way, Ray's `cancel` ends this
        # process ("Tried to complete task that was not pending").  The tasks end with the connection to the cluster.
        while True:
            while failure is None and len(running) < limit and (position := next(left, None)) is not None:
                running[task.remote(key, [shared], pickle.dumps(items[position]))] = position
            if not running:
                break
            (reference,), _ = ray.wait(list(running), num_returns=1)
            position = running.pop(reference)
            try:
                result = pickle.loads(ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                failure = failure or error.cause
            except ray.exceptions.RayError as error:
                failure = failure or lost(job.describe(items[position]), type(error).__name__)
            else:
                yield position, result
        if failure is not None:
            raise failure


def _ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError("ray is not installed; add it with: pip install 'certnas[ray]'") from error
    return ray


def _reach(address: str) -> None:
    """Connects to host:port first, since Ray itself waits for minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise UserError(f"--address is {address!r}; accepted: host:port of a Ray cluster's head, or auto")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}); start its head with: ray start --head"
        ) from error


def _answer(key: str, shared: list[Any], item: bytes) -> bytes:
    """Runs in a worker: opens the job at its first item."""
    import ray

    if key not in _open:
        _open.clear()
        _open[key] = ray.get(shared[0]).open(0)
    return answer(_open[key], item)


_open: dict[str, Callable[[Any, Any], Any]] = {}
