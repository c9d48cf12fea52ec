"""Runs one job over many items: in this process, in processes of this machine, or on a Ray cluster."""

from certnas.engine.inline import Inline
from certnas.engine.job import Engine, Job, Tell
from certnas.engine.opening import ENGINES, crowded, open_engine, worker_device

__all__ = ["ENGINES", "Engine", "Inline", "Job", "Tell", "crowded", "open_engine", "worker_device"]
