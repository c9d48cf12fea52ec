"""A search of seconds on the digits, for the tests of architecture search."""

from dataclasses import replace
from typing import Any

import torch

from certnas.nas.search import (
    Found,
    SearchConfig,
    effective,
    open_data,
    search,
)
from certnas.nas.search.stream import split
from certnas.nas.search.task import Task
from certnas.parallel import ProcessGroup
from certnas.runs import from_table, merged

TINY: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 8,
    "data": {"images": 32},
    "supernet": {"channels": 4, "layers": 2, "nodes": 1, "reductions": [1]},
    "algorithm": {"name": "darts"},
    "alpha": {"lr": 0.1},
}


def config(**tables: Any) -> SearchConfig:
    return from_table(SearchConfig, merged(TINY, tables))


def found(settings: SearchConfig, **more: Any) -> Found:
    return search(settings, open_data(settings), **more)


def task(settings: SearchConfig, dtype: torch.dtype = torch.float32) -> Task:
    data = open_data(settings)
    settings, _, metric = effective(settings, data)
    train, held_out = split(settings, replace(data, x=data.x.to(dtype)), torch.device("cpu"), ProcessGroup())
    return Task(settings, metric, train, held_out, data.classes, torch.device("cpu"), ProcessGroup())
