"""Draw networks, ask for their bounds, and look for a point that leaves one; a run that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks.record import commit, machine
from benchmarks.soundness.lines import Lines
from benchmarks.soundness.operators import every_generator
from benchmarks.soundness.report import figures, table
from benchmarks.soundness.trial import run
from benchmarks.soundness.workers import run_all
from certnas.errors import UserError
from certnas.runs import write_atomically


@click.command(help=__doc__)
@click.option("--count", default=10_000, show_default=True, type=click.IntRange(min=1), help="Networks.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="The first network's.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes of one thread."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with the run that --out holds.")
@click.option("--only", type=click.IntRange(min=0), help="Show what the network of this seed does, and end.")
def main(count: int, seed: int, workers: int, out: Path | None, resume: bool, only: int | None) -> None:
    console = Console()
    _, missing = every_generator()
    if only is not None:
        torch.set_num_threads(1)
        console.print_json(json.dumps(run(only)))
        return
    if out is None:
        raise click.UsageError("give --out, the folder of the run, or --only SEED")
    try:
        lines = Lines(
            out, {"count": count, "seed": seed, "operators": sorted(every_generator()[0])}, resume=resume
        )
        known = {line["seed"] for line in lines}
        run_all([s for s in range(seed, seed + count) if s not in known], workers, lines, console)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print(f"stopped; go on with --out {out} --resume")
        raise SystemExit(130) from None
    found = figures(lines, missing)
    written = {
        "benchmark": "soundness",
        "count": count,
        "seed": seed,
        "commit": commit(),
        "machine": machine(),
        **found,
    }
    write_atomically(out / "soundness.json", json.dumps(written, indent=1) + "\n")
    console.print(table(found))
    if missing:
        console.print(f"registered operators that no generator draws: {', '.join(missing)}")
    if found["violations"] or found["crashes"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
