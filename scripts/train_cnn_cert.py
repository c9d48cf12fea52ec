"""Train CNN-Cert's pure CNN with ReLU on MNIST: the network that its tables call MNIST 5-layer, 5 filters.

    python scripts/train_cnn_cert.py --out mnist_cnn_5layer_relu.safetensors

The file carries its own figures as metadata: seed, epochs, accuracy on the 10000 test images.
One thread and one seed, so that a run on one machine and one version of torch gives the same weights again.
"""

from pathlib import Path

import click
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.third_party import mnist
from certnas.models.architectures import ARCHITECTURES
from certnas.runs import write_atomically

TRAINING, TEST, BATCH, RATE = 60_000, 10_000, 128, 2e-3


def train(epochs: int, seed: int) -> nn.Module:
    """The network after `epochs` of Adam on the cross-entropy."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = mnist(TRAINING, train=True)
    model = ARCHITECTURES["cnn-cert-relu"]().module
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    steps = epochs * -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator).split(BATCH):
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images x [N, 1, 28, 28] classified as y [N]."""
    with torch.no_grad():
        right = [model(a).argmax(1) == b for a, b in zip(x.split(1000), y.split(1000), strict=True)]
    return float(torch.cat(right).double().mean())


@click.command()
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False))
def main(epochs: int, seed: int, out: Path) -> None:
    """Train CNN-Cert's pure ReLU CNN on MNIST."""
    torch.set_num_threads(1)
    model = train(epochs, seed)
    share = accuracy(model, *mnist(TEST))
    metadata = {"seed": str(seed), "epochs": str(epochs), "accuracy": f"{share:.4f}"}
    write_atomically(out, save(model.state_dict(), metadata))
    click.echo(f"{out}: accuracy {share:.4f}")


if __name__ == "__main__":
    main()
