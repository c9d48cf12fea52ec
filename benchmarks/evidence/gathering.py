"""Gathers the entries of a record into the figures of arms, steps and rankings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.evidence.figures import Arm, Comparison, Estimate, compare, estimate, kendall
from benchmarks.evidence.networks import AS, FREE, RANDOM, Cell, Entries, cells, search_key
from benchmarks.evidence.plan import FAILED, certify_key, rank_key, train_key
from benchmarks.evidence.presets import ARMS, NORMS, Preset


def arms_of(preset: Preset, arms: Sequence[str], entries: Entries, recipe: str) -> dict[str, Arm]:
    """The arms by name; of each the networks that are trained and certified in every norm."""
    names = list(dict.fromkeys(cell.arm for cell in cells(preset, arms)))
    return {name: _arm(name, preset, arms, entries, recipe) for name in names}


def _arm(name: str, preset: Preset, arms: Sequence[str], entries: Entries, recipe: str) -> Arm:
    done = [cell for cell in cells(preset, arms) if cell.arm == name and _is_done(cell, recipe, entries)]
    trained = {cell.number: entries[train_key(cell, recipe)] for cell in done}
    radius = {
        norm: {cell.number: mean_radius(entries, cell, recipe, norm) for cell in done} for norm in NORMS
    }
    by = {
        figure: {number: float(entry[figure]) for number, entry in trained.items()}
        for figure in ("accuracy", "attacked", "parameters")
    }
    return Arm(name, by["accuracy"], by["attacked"], radius, by["parameters"])


def _is_done(cell: Cell, recipe: str, entries: Entries) -> bool:
    keys = [train_key(cell, recipe), *(certify_key(cell, recipe, norm) for norm in NORMS)]
    return all(key in entries and FAILED not in entries[key] for key in keys)


def mean_radius(entries: Entries, cell: Cell, recipe: str, norm: str) -> float:
    """The mean over all certified images, 0 for one that is classified wrong."""
    return estimate(entries[certify_key(cell, recipe, norm)]["radius"]).mean


def comparisons(arms: dict[str, Arm]) -> list[Comparison]:
    """Each arm of certified bounds against all others, in both norms; those of equal size first."""
    found: list[Comparison] = []
    for name, arm in arms.items():
        if name not in ARMS or ARMS[name]["name"] != "cb":
            continue
        others = [f"none{AS}{name}", f"{RANDOM}{AS}{name}", "none", RANDOM, FREE, "jacobian", "curvature"]
        for other in (arms[other] for other in others if other in arms):
            if arm.accuracy and other.accuracy:
                paired = RANDOM not in other.name and other.name != FREE
                found.extend(compare(arm, other, norm, paired=paired) for norm in NORMS)
    return found


def operators(preset: Preset, arms: Sequence[str], entries: Entries, name: str) -> dict[str, float]:
    """The mean number of each operator in the two cells of an arm's genotypes."""
    keys = [train_key(cell, "standard") for cell in cells(preset, arms) if cell.arm == name]
    counts = [entries[key]["operators"] for key in keys if key in entries and FAILED not in entries[key]]
    names = sorted({op for count in counts for op in count})
    return {op: sum(count.get(op, 0) for count in counts) / len(counts) for op in names}


def step_costs(preset: Preset, arms: Sequence[str], entries: Entries) -> dict[str, Estimate]:
    """CPU seconds of an arm's median search step over those of `none`, seed by seed."""

    def seconds(arm: str, seed: int) -> float | None:
        entry = entries.get(search_key(arm, seed), {})
        value = entry.get("step_cpu_seconds")
        return None if value is None else float(value)

    found = {}
    for arm in arms:
        ratios = []
        for seed in preset.searched:
            own, plain = seconds(arm, seed), seconds("none", seed)
            if own is not None and plain is not None:
                ratios.append(own / plain)
        found[arm] = estimate(ratios)
    return found


@dataclass(frozen=True)
class Ranking:
    """Kendall's τ between what is known of the random cells beforehand and the radii of their trained networks.

    by_seed: τ of the metric in the supernet of each seed; tau and its p: of the metric's mean over these supernets.
    """

    predictor: str
    by_seed: Estimate
    tau: float
    p: float


def rankings(preset: Preset, arms: Sequence[str], entries: Entries, recipe: str, norm: str) -> list[Ranking]:
    """For each metric, and for fewer parameters as a control, over the random cells that are done."""
    done = [Cell(RANDOM, n) for n in preset.drawn if _is_done(Cell(RANDOM, n), recipe, entries)]
    radii = [mean_radius(entries, cell, recipe, norm) for cell in done]
    fewer = [-float(entries[train_key(cell, recipe)]["parameters"]) for cell in done]
    tau, p = kendall(fewer, radii)
    found = [Ranking("fewer parameters", estimate([]), tau, p)]
    for arm in arms:
        keys = [rank_key(arm, seed) for seed in preset.searched]
        tables = [entries[key]["metric"] for key in keys if key in entries and FAILED not in entries[key]]
        values = [[_number(table[cell.number]) for cell in done] for table in tables]
        if values:
            mean = [sum(column) / len(column) for column in zip(*values, strict=True)]
            each = [kendall(row, radii)[0] for row in values]
            found.append(Ranking(arm, estimate(each), *kendall(mean, radii)))
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def unsound(preset: Preset, arms: Sequence[str], entries: Entries, recipe: str) -> int:
    """Images certified at the attack's radius that the attack broke; must be 0."""
    found = 0
    for cell in cells(preset, arms):
        if not _is_done(cell, recipe, entries):
            continue
        proof, withstood = (
            entries[certify_key(cell, recipe, "linf")],
            entries[train_key(cell, recipe)]["withstood"],
        )
        pairs = zip(proof["index"], proof["radius"], strict=True)
        found += sum(radius >= preset.pgd and index not in withstood for index, radius in pairs)
    return found


def failures(entries: Entries) -> dict[str, str]:
    """Key -> why, of the units that failed."""
    return {key: str(entry[FAILED]) for key, entry in entries.items() if FAILED in entry}
