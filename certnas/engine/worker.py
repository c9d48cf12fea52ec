"""The far side of an engine: one process that has opened a job."""

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
"""How many processes an item may end before it is given up."""


@dataclass(frozen=True)
class Packed:
    """A job as bytes, and the CPU threads to compute with: results depend on them in their last digits."""

    job: bytes
    threads: int

    def open(self, rank: int) -> Callable[[Any, Tell], Any]:
        """The job's work, in a process of its own."""
        torch.set_num_threads(self.threads)
        try:
            job: Job[Any, Any] = pickle.loads(self.job)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"the network cannot be opened by a worker ({error}); its code must be importable on every machine"
            ) from error
        return job.open(rank)


def packed(job: Job[Any, Any]) -> Packed:
    """The job, ready to be sent.  Raises UserError where it cannot be."""
    try:
        return Packed(cloudpickle.dumps(job), torch.get_num_threads())
    except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"this network cannot be sent to other processes ({reason}); use one") from error


def answer(work: Callable[[Any, Tell], Any], item: bytes) -> bytes:
    """The result of an item, both pickled: a process pool would move tensors into memory that it shares."""
    return pickle.dumps(work(pickle.loads(item), lambda _: None))


def lost(described: str, why: str = "") -> UserError:
    """The processes that worked on one item ended, each of them."""
    return UserError(
        f"{ATTEMPTS} workers died on {described}{f' ({why})' if why else ''}; the machine may be short of memory: "
        "fewer --workers or a smaller --memory, then --resume"
    )
