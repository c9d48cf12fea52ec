"""The report of a run in Markdown, and the same figures as a table for JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.evidence import gathering
from benchmarks.evidence.figures import ERRORS, POINTS, SHARE, Arm, Comparison, estimate
from benchmarks.evidence.networks import AS, Entries
from benchmarks.evidence.presets import NORMS, RECIPES, Preset
from certnas.pipeline.report import table


def report(preset: Preset, name: str, arms: Sequence[str], entries: Entries) -> str:
    """Tables of every arm, comparisons, rankings, and what they support."""
    parts = [f"# Certified radii of searched cells: {name}", _protocol(preset), "## What the figures support"]
    parts.append(_verdicts(preset, arms, entries))
    for recipe in RECIPES:
        found = gathering.arms_of(preset, arms, entries, recipe)
        costs = gathering.step_costs(preset, arms, entries)
        rows = [_row(arm, costs) for arm in found.values() if arm.accuracy]
        heads = (
            "arm",
            "networks",
            "clean %",
            f"PGD % at {preset.pgd:g}",
            "radius l∞",
            "radius l2",
            "parameters",
            "step ÷ none",
        )
        parts += [f"## Trained by {recipe}", table(heads, rows)]
        broken = gathering.unsound(preset, arms, entries, recipe)
        parts.append(f"Images certified at the attack's radius that it broke: {broken} (must be 0).")
    parts += ["## Operators, mean number in both cells", _operators(preset, arms, entries)]
    parts += ["## Kendall's τ over the random cells", _rankings(preset, arms, entries)]
    failed = gathering.failures(entries)
    if failed:
        parts += [
            "## Failed",
            table(("unit", "why"), [(key.replace(" | ", ", "), why) for key, why in failed.items()]),
        ]
    parts.append("![radii](evidence.png)")
    return "\n\n".join(parts) + "\n"


def summary(preset: Preset, arms: Sequence[str], entries: Entries) -> dict[str, Any]:
    """All figures of the report."""
    costs = gathering.step_costs(preset, arms, entries)
    result: dict[str, Any] = {"step_cost": {arm: asdict(cost) for arm, cost in costs.items()}}
    for recipe in RECIPES:
        found = gathering.arms_of(preset, arms, entries, recipe)
        result[recipe] = {
            "arms": {name: asdict(arm) for name, arm in found.items()},
            "comparisons": [
                {**asdict(one), "beyond": one.radius.beyond, "supported": one.supported}
                for one in gathering.comparisons(found)
            ],
            "rankings": {
                norm: [asdict(one) for one in gathering.rankings(preset, arms, entries, recipe, norm)]
                for norm in NORMS
            },
        }
    return result


def _protocol(preset: Preset) -> str:
    epochs = " or ".join(f"{count} epochs by {recipe}" for recipe, count in preset.epochs.items())
    return (
        f"{preset.images} {preset.data} images of {preset.side}×{preset.side} to search and train on, {preset.tested} "
        f"test images for accuracies, {preset.certified} of them certified by CROWN; supernets of {preset.layers} "
        f"cells with {preset.nodes} nodes and {preset.search_channels} channels, {preset.search_epochs} epochs; "
        f"networks of {preset.channels} channels, the weights after {epochs}. "
        "No choice was made by a test image. Mean ± standard error over the networks of an arm; radii in [0, 1] "
        "pixels, mean over all certified images, 0 for those classified wrong. An arm of the form A-as-B is of "
        "A's cells in networks as wide as gives B's number of parameters. Steps in CPU seconds, w step and α step."
    )


def _verdicts(preset: Preset, arms: Sequence[str], entries: Entries) -> str:
    """Each arm against cells of equal size first, in words; then all comparisons in a table."""
    lines, rows = [], []
    for recipe in RECIPES:
        for one in gathering.comparisons(gathering.arms_of(preset, arms, entries, recipe)):
            rows.append((recipe, *_comparison(one)))
            if AS in one.other:
                lines.append(f"- {recipe}, {one.norm}: {verdict(one)}")
    heads = (
        "recipe", "norm", "difference of", "radius", "p", "larger in", "clean, points", "parameters ×", "supported",
    )  # fmt: skip
    note = (
        f"Supported: the radius is larger beyond {ERRORS:.0f} standard errors, clean accuracy no more than "
        f"{100 * POINTS:.0f} point below, parameters within {SHARE:.0%}. Pairs are of one seed; without pairs the test "
        "is Welch's. Two standard errors of five pairs are p = 0.12; no p is corrected for the number of comparisons."
    )
    return "\n".join(lines) + f"\n\n{note}\n\n{table(heads, rows)}"


def verdict(one: Comparison) -> str:
    """What a comparison supports, in words."""
    if one.supported:
        return f"the figures support that {one.arm} has larger certified radii than {one.other}"
    reasons = []
    if not one.radius.beyond:
        reasons.append(f"the radius is not larger beyond {ERRORS:.0f} standard errors")
    if not one.same_accuracy:
        reasons.append(f"clean accuracy is {-100 * one.gap:.1f} points lower")
    if not one.same_size:
        reasons.append(f"it has {one.ratio:.2f} times the parameters")
    return f"{one.arm} against {one.other} is not supported: {'; '.join(reasons)}"


def _comparison(one: Comparison) -> tuple[str, ...]:
    radius = one.radius
    return (
        one.norm,
        f"{one.arm} − {one.other}",
        f"{radius.mean:+.5f} ± {radius.error:.5f}",
        f"{radius.p:.2g}",
        f"{radius.larger} of {radius.count}" if radius.count else "–",
        f"{100 * one.gap:+.2f}",
        f"{one.ratio:.2f}",
        "yes" if one.supported else "no",
    )


def _row(arm: Arm, costs: dict[str, Any]) -> tuple[str, ...]:
    def of(values: Any, digits: int, scale: float = 1.0) -> str:
        return estimate(list(values.values())).text(digits, scale)

    return (
        arm.name,
        str(len(arm.accuracy)),
        of(arm.accuracy, 2, 100),
        of(arm.attacked, 1, 100),
        *(of(arm.radius[norm], 5) for norm in NORMS),
        of(arm.parameters, 0),
        costs[arm.name].text(2) if arm.name in costs else "–",
    )


def _operators(preset: Preset, arms: Sequence[str], entries: Entries) -> str:
    names = gathering.arms_of(preset, arms, entries, RECIPES[0])
    counts = {name: gathering.operators(preset, arms, entries, name) for name in names if AS not in name}
    ops = sorted({op for count in counts.values() for op in count})
    rows = [(name, *(f"{count.get(op, 0):.1f}" for op in ops)) for name, count in counts.items() if count]
    return table(("arm", *ops), rows)


def _rankings(preset: Preset, arms: Sequence[str], entries: Entries) -> str:
    rows = []
    for recipe in RECIPES:
        for norm in NORMS:
            for one in gathering.rankings(preset, arms, entries, recipe, norm):
                rows.append(
                    (recipe, norm, one.predictor, one.by_seed.text(2), f"{one.tau:.2f}", f"{one.p:.2g}")
                )
    lead = (
        "Between the certified radius of a trained random cell and the metric of that cell in the supernets of `none` "
        "(its α put on the cell, nothing trained further), or the number of parameters as a control."
    )
    heads = ("recipe", "norm", "predictor", "τ by supernet", "τ of the mean over supernets", "p")
    return f"{lead}\n\n{table(heads, rows)}"
