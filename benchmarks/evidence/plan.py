"""The units of a run in order, what each waits for, and the processes that work on them."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence import work
from benchmarks.evidence.networks import Cell, Entries, cells, needs, network, search_key
from benchmarks.evidence.presets import NORMS, PICKED, RECIPES, Preset
from benchmarks.record import Record
from certnas.errors import UserError

FAILED = "failed"


@dataclass(frozen=True)
class Unit:
    """A piece of work with the key of its entry, the keys that it waits for, and its arguments given their entries."""

    key: str
    needs: tuple[str, ...]
    work: Callable[..., dict[str, Any]]
    arguments: Callable[[Entries], tuple[Any, ...]]


def train_key(cell: Cell, recipe: str) -> str:
    return f"train | {cell.key} | {recipe}"


def certify_key(cell: Cell, recipe: str, norm: str) -> str:
    return f"certify | {cell.key} | {recipe} | {norm}"


def rank_key(arm: str, seed: int) -> str:
    return f"rank | {arm} | {seed}"


def units(preset: Preset, arms: Sequence[str], out: Path) -> list[Unit]:
    """All units: number by number, so that a run that is stopped early has all of some networks of every arm."""
    found: list[Unit] = []
    for cell in cells(preset, arms):
        if cell.arm in arms:
            found.append(_search(preset, cell.arm, cell.number, out))
        found.extend(_of_cell(preset, cell, out))
    for seed in preset.searched:
        ranked = [arm for arm in arms if arm != "none" and arm not in PICKED] if "none" in arms else []
        found.extend(_rank(preset, arm, seed, out) for arm in ranked)
    return found


def _search(preset: Preset, arm: str, seed: int, out: Path) -> Unit:
    if arm in PICKED:
        needed = (search_key("none", seed),)
        return Unit(search_key(arm, seed), needed, work.pick_cell, lambda _: (preset, arm, seed, out))
    return Unit(search_key(arm, seed), (), work.search_cell, lambda _: (preset, arm, seed, out))


def _rank(preset: Preset, arm: str, seed: int, out: Path) -> Unit:
    needed = (search_key("none", seed),)
    return Unit(rank_key(arm, seed), needed, work.rank_cells, lambda _: (preset, arm, seed, out))


def _of_cell(preset: Preset, cell: Cell, out: Path) -> Iterator[Unit]:
    for recipe in RECIPES:
        yield Unit(
            train_key(cell, recipe),
            needs(preset, cell),
            work.train_network,
            lambda entries, recipe=recipe: (preset, cell, recipe, *network(preset, cell, entries), out),  # type: ignore[misc]
        )
        for norm in NORMS:
            yield Unit(
                certify_key(cell, recipe, norm),
                (train_key(cell, recipe),),
                work.certify_network,
                lambda _, recipe=recipe, norm=norm: (preset, cell, recipe, norm, out),  # type: ignore[misc]
            )


def run(
    record: Record, planned: Sequence[Unit], workers: int, told: Callable[[str, dict[str, Any]], None]
) -> None:
    """Does what the record lacks, each unit as soon as what it waits for is there and a process is free.

    A unit that certnas refuses is kept as failed, with the reason, and so is what waits for it.
    """
    waiting = [unit for unit in planned if unit.key not in record.entries]
    running: dict[Future[dict[str, Any]], Unit] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        try:
            while waiting or running:
                for unit in [u for u in waiting if set(u.needs) <= set(record.entries)]:
                    if len(running) == workers:
                        break
                    waiting.remove(unit)
                    broken = [key for key in unit.needs if FAILED in record.entries[key]]
                    if broken:
                        told(unit.key, record.once(unit.key, lambda at=broken[0]: {FAILED: at}))  # type: ignore[misc]
                    else:
                        running[pool.submit(timed, unit.work, *unit.arguments(record.entries))] = unit
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    unit = running.pop(future)
                    told(unit.key, record.once(unit.key, future.result))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def timed(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The entry of a unit with the CPU seconds that it took, this time; or why it failed."""
    began = time.process_time()
    try:
        entry = function(*arguments)
    except UserError as error:
        return {FAILED: str(error)}
    return {**entry, "cpu_seconds": time.process_time() - began}
