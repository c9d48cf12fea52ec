"""Runs one search or training in several processes started by `torchrun`: each takes a share of every batch."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share one search or training, as seen from this process."""

    rank: int = 0
    """The rank of this process."""
    size: int = 1
    """The number of processes."""

    @property
    def share(self) -> slice:
        """The images of a batch for this process: every size-th, starting at its rank."""
        return slice(self.rank, None, self.size)

    def mean(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The mean of each tensor over the processes."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def shared(self, state: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The state of the first process, in every process."""
        if self.size == 1:
            return state
        buffer = io.BytesIO()
        torch.save(state, buffer)
        held = [buffer.getvalue() if self.rank == 0 else None]
        dist.broadcast_object_list(held, src=0)
        return torch.load(io.BytesIO(held[0] or b""), map_location="cpu", weights_only=True)


def is_first_process() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """The processes that torchrun started, and this process's device: "cuda" becomes its own GPU. One process without
    torchrun.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(dist.get_rank(), size), device
        dist.barrier()  # no process closes its connections while another still uses them
    finally:
        dist.destroy_process_group()


class _Total(torch.autograd.Function):
    """The sum of a tensor over all processes; its derivative is the sum of derivatives, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _total(gradients[0])


def _total(x: Tensor) -> Tensor:
    total: Tensor = _Total.apply(x)
    return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics cover the batches of all processes.

    torch's SyncBatchNorm runs only on GPUs and has no second derivative. In a traced graph, such as that of certified
    bounds, this module is plain batch norm with the statistics of this process.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or torch.compiler.is_exporting():
            return super().forward(x)
        values = x.numel() / x.shape[1]
        total, count = _total(torch.cat([x.sum((0, 2, 3)), x.new_tensor([values])])).split([x.shape[1], 1])
        mean = total / count
        centred = x - mean[:, None, None]
        variance = _total(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            momentum = self.momentum or 0.0
            with torch.no_grad():
                self.get_buffer("num_batches_tracked").add_(1)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1), momentum)
        normal = centred * (variance + self.eps).rsqrt()[:, None, None]
        return normal * self.weight[:, None, None] + self.bias[:, None, None] if self.affine else normal


def share_batch_norm(module: nn.Module) -> None:
    """Replaces every batch norm of the module by one over all processes, with the same parameters."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            shared.load_state_dict(child.state_dict(), assign=True)
            setattr(module, name, shared.train(child.training))
        else:
            share_batch_norm(child)
