"""Train the embedded digits networks against an l∞ attacker and write them as safetensors.

    python scripts/train_digits.py                          # both, into the package
    python scripts/train_digits.py --model digits-cnn --epochs 1 --out /some/folder

Each file carries its own figures as metadata: seed, epochs, held-out accuracy clean and under PGD-20.
One thread and one seed, so that a run on one machine and one version of torch gives the same weights again.
"""

import os
from pathlib import Path

import click
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from certnas.data.digits import load_digits_split
from certnas.models.embedded.digits import ARCHITECTURES

PACKAGE = Path(__file__).parents[1] / "certnas" / "models" / "embedded"
EPS = 0.15
REPORTED_EPS = (0.05, 0.1)
BATCH = 64


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, generator: torch.Generator) -> Tensor:
    """x' [N,1,8,8] in the l∞ ball of radius eps (pixel units) within [0, 1], by sign steps up the loss."""
    lower, upper = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    adversarial = lower + (upper - lower) * torch.rand(x.shape, generator=generator)
    for _ in range(steps):
        adversarial.requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(adversarial), y), adversarial)
        step = 2.5 * eps / steps * gradient.sign()
        adversarial = torch.minimum(torch.maximum(adversarial.detach() + step, lower), upper)
    return adversarial


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [N,1,8,8] moved by -1, 0 or 1 pixel to either side, zeros moving in."""
    padded = functional.pad(x, (1, 1, 1, 1))
    rows, columns = torch.randint(0, 3, (2, len(x)), generator=generator).tolist()
    return torch.stack(
        [padded[n, :, r : r + 8, c : c + 8] for n, (r, c) in enumerate(zip(rows, columns, strict=True))]
    )


def train(name: str, epochs: int, seed: int) -> nn.Module:
    """The network after `epochs` of adversarial training (Madry et al. 2018) on the training digits."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = load_digits_split(train=True)
    model = ARCHITECTURES[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
    batches = -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * batches)
    for epoch in range(epochs):
        eps = EPS * min(1.0, 2 * (epoch + 1) / epochs)
        for batch in torch.randperm(len(y), generator=generator).split(BATCH):
            images, labels = shifted(x[batch], generator), y[batch]
            adversarial = pgd(model.eval(), images, labels, eps, 7, generator)
            model.train()
            loss = functional.cross_entropy(model(adversarial), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def figures(model: nn.Module, seed: int) -> dict[str, float]:
    """Held-out accuracy, clean and under PGD-20 at each reported ε."""
    x, y = load_digits_split(train=False)
    generator = torch.Generator().manual_seed(seed)
    accuracy = {"clean": _accuracy(model, x, y)}
    for eps in REPORTED_EPS:
        accuracy[f"pgd20_{eps}"] = _accuracy(model, pgd(model, x, y, eps, 20, generator), y)
    return accuracy


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


def write(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


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
        write(out / f"{name.replace('-', '_')}.safetensors", content)
        click.echo(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in accuracy.items()))


if __name__ == "__main__":
    main()
