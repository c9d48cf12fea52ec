"""Random Python forwards, traced and compared with their own outputs: `python -m benchmarks.differential`.

Each forward must be reproduced, or refused by InvalidInput or UnsupportedOp; anything else is a violation.
Results are stored by the hundred, so that an interrupted run resumes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
import torch

import bounds

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from random_forwards import IMAGE, Forward

CHUNK, SIZES, TOLERANCE = 20, (1, 2, 5), 1e-9


def compared(seed: int) -> tuple[str, str]:
    """("equal" | "refused" | "violation", reason) of one forward, at several batch sizes."""
    model = Forward(seed)
    x = torch.randn(max(SIZES), *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    try:
        with torch.no_grad():
            values = {size: model(x[:size].clone()) for size in SIZES}
    except RuntimeError as error:
        return "no model", str(error).splitlines()[0]
    try:
        graph = bounds.trace(model, x[:2])
        bounds.check(graph)
        network = graph.bind(dtype=torch.float64)
        with torch.no_grad():
            for size in SIZES:
                own, read = values[size], network(x[:size])
                if own.shape != read.shape or not torch.allclose(own, read, rtol=TOLERANCE, atol=TOLERANCE):
                    return "violation", f"values differ for {size} images"
    except (bounds.InvalidInput, bounds.UnsupportedOp) as error:
        return "refused", str(error)
    except Exception as error:
        return "violation", f"{type(error).__name__}: {error}"
    return "equal", ""


@click.command()
@click.option("--count", default=10_000, show_default=True, help="How many forwards.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder for the results.")
def main(count: int, first: int, out: Path) -> None:
    """Compare, and print the numbers of equal and refused forwards and of violations, of which there must be none."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for start in range(first, first + count, CHUNK):
        file = out / f"{start:08d}.json"
        if not file.exists():
            found = []
            for seed in range(start, min(start + CHUNK, first + count)):
                began = time.perf_counter()
                verdict, why = compared(seed)
                found.append(
                    {"seed": seed, "verdict": verdict, "why": why, "seconds": time.perf_counter() - began}
                )
            file.write_text(json.dumps(found, indent=1))
        rows += json.loads(file.read_text())
    totals = {
        kind: sum(row["verdict"] == kind for row in rows)
        for kind in ("equal", "refused", "no model", "violation")
    }
    slowest = max(rows, key=lambda row: float(str(row["seconds"])))
    summary = {
        **totals,
        "slowest": slowest,
        "violations": [row for row in rows if row["verdict"] == "violation"],
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    click.echo(", ".join(f"{number} {kind}" for kind, number in totals.items()))
    sys.exit(1 if totals["violation"] else 0)


if __name__ == "__main__":
    main()
