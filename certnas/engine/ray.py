"""Ray Core: the processes of a cluster, or of one that is started here for the run."""

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
"""Items that are given to a cluster for each one that it can work on: the next is there when one ends."""
PATIENCE = 5.0


@dataclass(frozen=True)
class Ray(Engine):
    """A task for each item; Ray finds it a place and gives it to another worker where one dies.

    address: of a running cluster (host:port, or auto for one on this machine), None for one on this machine and for
    this run.  workers: tasks at a time, None for as many as there is room for.  gpu: each task has one of its own.
    """

    workers: int | None = None
    address: str | None = None
    gpu: bool = False

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
        # Ray reports itself to its makers unless told not to
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        terminated = signal.getsignal(signal.SIGTERM)
        try:
            if self.address is None:
                ray.init("local", num_cpus=self.workers, include_dashboard=False, **quiet)
            else:
                ray.init(self.address, **quiet)
        except (Exception, SystemExit) as error:  # a start that takes too long is a plain Exception of Ray's
            where = "on this machine" if self.address is None else f"at {self.address}"
            silent = isinstance(error, SystemExit)
            reason = "nothing there speaks Ray" if silent else " ".join(str(error).split())[:200]
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
        # What runs when this is closed is not cancelled: where its result is under way, Ray's `cancel` ends this
        # process ("Tried to complete task that was not pending").  It ends with the connection to the cluster.
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
    """Knocks at host:port: Ray itself waits for minutes, then ends the process."""
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
    """In a worker: opens the job where it did not before."""
    import ray

    if key not in _open:
        _open.clear()
        _open[key] = ray.get(shared[0]).open(0)
    return answer(_open[key], item)


_open: dict[str, Callable[[Any, Any], Any]] = {}
