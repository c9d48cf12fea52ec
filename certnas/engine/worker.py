"""The worker side of an engine: a process that opens a job."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch

from certnas.engine.job import Job, Tell
from certnas.errors import UserError

ATTEMPTS = 3
"""How many processes may die on an item before the run fails."""


@dataclass(frozen=True)
class Packed:
    """A job in a form that can be sent to other processes."""

    job: bytes
    """The pickled job."""
    threads: int
    """The number of CPU threads, on which the last digits of results depend."""

    def open(self, rank: int) -> Callable[[Any, Tell], Any]:
        """Opens the job in the present process."""
        torch.set_num_threads(self.threads)
        try:
            job: Job[Any, Any] = pickle.loads(self.job)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"the network cannot be opened by a worker ({error}); its code must be importable on every machine"
            ) from error
        return job.open(rank)


def packed(job: Job[Any, Any]) -> Packed:
    """The job, ready to be sent. Raises UserError if it cannot be pickled."""
    try:
        return Packed(cloudpickle.dumps(job), torch.get_num_threads())
    except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"this network cannot be sent to other processes ({reason}); use one") from error


def answer(work: Callable[[Any, Tell], Any], item: bytes) -> bytes:
    """The pickled result of a pickled item; a process pool would otherwise move tensors into shared memory."""
    return pickle.dumps(work(pickle.loads(item), lambda _: None))


def lost(described: str, why: str = "") -> UserError:
    """The error for an item on which every process died."""
    return UserError(
        f"{ATTEMPTS} workers died on {described}{f' ({why})' if why else ''}; the machine may be short of memory: "
        "fewer --workers or a smaller --memory, then --resume"
    )
