"""Train the embedded digits networks against an l∞ attacker and write them as safetensors.

    python scripts/train_digits.py                          # both, into the package
    python scripts/train_digits.py --model digits-cnn --epochs 1 --out /some/folder

Each file carries its own figures as metadata: seed, epochs, held-out accuracy clean and under PGD-20.
One thread and one seed, so that a run on one machine and one version of torch gives the same weights again.
The shipped weights are of an earlier training with the same attack, on all training digits.
"""

from pathlib import Path

import click
import torch
from safetensors.torch import save
from torch import Tensor, nn

from certnas.data import load
from certnas.data.digits import load_digits_split
from certnas.models.embedded.digits import ARCHITECTURES
from certnas.runs import write_atomically
from certnas.training import VALIDATION, fit, recipe
from certnas.training.attack import pgd
from certnas.training.images import held_out

PACKAGE = Path(__file__).parents[1] / "certnas" / "models" / "embedded"
REPORTED_EPS = (0.05, 0.1)
RECIPE = {
    "objective": {"name": "pgd-at", "eps": 0.15, "step": 0.05, "start": 0.1, "warmup": 0.5},
    "batch": 64,
    "optimizer": "adamw",
    "lr": 0.003,
    "weight_decay": 0.05,
    "decays": [],
    "augmentation": {"crop": 1, "flip": False},
}


def train(name: str, epochs: int, seed: int) -> nn.Module:
    """The network after `epochs` of adversarial training (Madry et al. 2018) on the training digits."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[name]()
    data, held = held_out(load("digits", train=True), VALIDATION, seed)
    fit(model, data, held, recipe("pgd-at", changes={**RECIPE, "epochs": epochs}), seed=seed)
    return model


def figures(model: nn.Module, seed: int) -> dict[str, float]:
    """Held-out accuracy, clean and under PGD-20 at each reported ε."""
    x, y = load_digits_split(train=False)
    generator = torch.Generator().manual_seed(seed)
    accuracy = {"clean": _accuracy(model, x, y)}
    for eps in REPORTED_EPS:
        start = x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)
        attacked = pgd(model, x, y, eps=eps, step=eps / 8, steps=20, start=start)
        accuracy[f"pgd20_{eps}"] = _accuracy(model, attacked, y)
    return accuracy


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


@click.command()
@click.option(
    "--model", "names", type=click.Choice(list(ARCHITECTURES)), multiple=True, help="Default: every one."
)
@click.option("--epochs", default=80, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--out", default=PACKAGE, show_default="the package", type=click.Path(path_type=Path, file_okay=False)
)
def main(names: tuple[str, ...], epochs: int, seed: int, out: Path) -> None:
    """Train the embedded digits networks."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name in names or ARCHITECTURES:
        model = train(name, epochs, seed)
        accuracy = figures(model, seed)
        metadata = {key: f"{value:.6f}" for key, value in accuracy.items()}
        metadata |= {"seed": str(seed), "epochs": str(epochs)}
        content = save(model.state_dict(), metadata)
        write_atomically(out / f"{name.replace('-', '_')}.safetensors", content)
        click.echo(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in accuracy.items()))


if __name__ == "__main__":
    main()
