"""Certified radii of searched cells: python -m benchmarks.evidence --preset digits --out DIR."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.evidence import gathering
from benchmarks.evidence.networks import search_key
from benchmarks.evidence.picture import picture
from benchmarks.evidence.plan import FAILED, run, units
from benchmarks.evidence.presets import ARMS, DEFAULT_ARMS, PRESETS, RECIPES, Preset, metric_of
from benchmarks.evidence.report import report, summary
from benchmarks.record import Record
from certnas.errors import UserError
from certnas.runs import finite, write_atomically


@click.command()
@click.option("--preset", "name", type=click.Choice(list(PRESETS)), default="digits", show_default=True)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where all is kept."
)
@click.option(
    "--arm", "arms", multiple=True, type=click.Choice(list(ARMS)), default=DEFAULT_ARMS, show_default=True
)
@click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Processes, a thread each."
)
@click.option("--table", is_flag=True, help="Only report on what is there.")
def main(name: str, out: Path, arms: tuple[str, ...], workers: int, table: bool) -> None:
    """Searches, trains, certifies and reports; what DIR holds already is not made again.

    DIR/evidence.json has every unit of work, summary.json the figures, evidence.md and evidence.png the report.
    """
    torch.set_num_threads(1)
    preset = PRESETS[name]
    try:
        record = Record.open(out, "evidence", {"preset": name, **asdict(preset)})
        _refuse_changes(record, preset, arms)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    planned = units(preset, arms, out)
    done = sum(unit.key in record.entries for unit in planned)

    def told(key: str, entry: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        outcome = entry.get(FAILED, f"{entry.get('cpu_seconds') or 0:.1f} CPU s")
        click.echo(f"{done} of {len(planned)} | {key} | {outcome}")

    if not table:
        run(record, planned, workers, told)
    entries = record.entries
    text = report(preset, name, arms, entries)
    figures = finite(summary(preset, arms, entries))
    write_atomically(out / "summary.json", json.dumps(figures, indent=1, allow_nan=False) + "\n")
    write_atomically(out / "evidence.md", text)
    by_recipe = {recipe: gathering.arms_of(preset, arms, entries, recipe) for recipe in RECIPES}
    write_atomically(out / "evidence.png", picture(by_recipe))
    click.echo(text)


def _refuse_changes(record: Record, preset: Preset, arms: tuple[str, ...]) -> None:
    """Raises UserError where a search was made with another metric than its arm has now."""
    for arm in arms:
        for seed in preset.searched:
            entry = record.entries.get(search_key(arm, seed), {})
            if "metric" in entry and entry["metric"] != metric_of(arm, preset):
                raise UserError(
                    f"'{record.path}' holds a search of arm {arm} with the metric {entry['metric']}, the arm is "
                    f"{metric_of(arm, preset)} now: give another --out"
                )


if __name__ == "__main__":
    main()
