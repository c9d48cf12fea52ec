"""The figures of a run: networks, points, violations, refusals and times, from its lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from rich.table import Table

SHOWN = 10


def figures(lines: Iterable[dict[str, Any]], missing: list[str]) -> dict[str, Any]:
    """What the lines of a run come to; missing: registered operators that no generator draws."""
    outcomes: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    crashed: defaultdict[str, list[int]] = defaultdict(list)
    by: dict[str, defaultdict[str, Counter[str]]] = {
        key: defaultdict(Counter) for key in ("method", "norm", "dtype")
    }
    operators: defaultdict[str, Counter[str]] = defaultdict(Counter)
    violations: list[dict[str, Any]] = []
    seconds: list[tuple[float, int, str]] = []
    points = networks = exact = silent = 0
    worst = {"float32": 0.0, "float64": 0.0, "exact": 0.0}
    for line in lines:
        networks, points = networks + 1, points + line["points"]
        seconds.append((line["seconds"], line["seed"], line.get("operator", "")))
        for name in line["operators"]:
            operators[name]["networks"] += 1
        for trial in line["trials"]:
            kind = trial["outcome"].split(":")[0]
            outcomes[kind] += 1
            for key, table in by.items():
                if key in trial:
                    table[trial[key]][kind] += 1
            silent += trial.get("nothing said", False)
            exact += trial.get("exact", False)
            if kind == "refused":
                refused[trial["outcome"].removeprefix("refused: ")] += 1
            elif kind == "crash":
                crashed[trial["outcome"].removeprefix("crash: ")].append(line["seed"])
            elif kind == "violation":
                violations.append({"seed": line["seed"], "operator": line.get("operator"), **trial})
            elif "worst" in trial:
                of = "exact" if trial.get("exact") else trial["dtype"]
                worst[of] = max(worst[of], trial["worst"])
            if kind in ("violation", "crash"):
                for name in line["operators"]:
                    operators[name][kind] += 1
    seconds.sort(reverse=True)
    return {
        "networks": networks,
        "points": points,
        "bounds asked": sum(outcomes.values()),
        "outcomes": dict(outcomes),
        "compared with exact minima": exact,
        "bounds of minus infinity": silent,
        "largest excess of a sound bound, as a share of what rounding allows": worst,
        "violations": violations,
        "crashes": {
            message: {"count": len(seeds), "seeds": seeds[:SHOWN]} for message, seeds in crashed.items()
        },
        "refused": dict(refused.most_common()),
        **{
            f"by {key}": {name: dict(counts) for name, counts in sorted(table.items())}
            for key, table in by.items()
        },
        "by operator": {name: dict(counts) for name, counts in sorted(operators.items())},
        "registered operators without a generator": missing,
        "cpu seconds": {
            "all": round(sum(s for s, *_ in seconds)),
            "slowest": [{"seconds": s, "seed": seed, "operator": name} for s, seed, name in seconds[:SHOWN]],
        },
    }


def table(found: dict[str, Any]) -> Table:
    """Bounds that hold, violations, crashes and refusals, by method, norm and precision."""
    shown = Table(title=f"{found['networks']:,} networks, {found['points']:,} points")
    kinds = ("sound", "violation", "crash", "refused")
    shown.add_column("")
    for kind in kinds:
        shown.add_column(kind, justify="right")
    rows = [
        (name, counts) for key in ("method", "norm", "dtype") for name, counts in found[f"by {key}"].items()
    ]
    for name, counts in [*rows, ("all", found["outcomes"])]:
        shown.add_row(name, *(f"{counts.get(kind, 0):,}" for kind in kinds))
    return shown
