"""The search: every algorithm with every metric, each gradient against an oracle, batches and processes."""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_search import config, found, task
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from certnas.errors import UserError
from certnas.nas.metrics import METRICS
from certnas.nas.metrics.metric import Momentary
from certnas.nas.search import (
    ALGORITHMS,
    SearchProgress,
)
from certnas.nas.search.darts import unrolled_gradients
from certnas.nas.search.task import Task
from certnas.nas.search.trial import Trial
from certnas.parallel import ProcessGroup, SharedBatchNorm2d, share_batch_norm

METRIC_SETTINGS: dict[str, dict[str, Any]] = {
    "cb": {"images": 4},
    "jacobian": {"projections": 1},
    "pgd": {"steps": 2},
}


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_algorithm_runs_with_every_metric(algorithm: str, metric: str) -> None:
    seen: list[SearchProgress] = []
    options = METRIC_SETTINGS.get(metric, {})
    settings = config(algorithm={"name": algorithm}, metric={"name": metric, "options": options})
    result = found(settings, progress=seen.append)
    assert len(result.genotype.normal) == len(result.genotype.reduce) == 2
    if algorithm == "random":
        assert seen == [] and result.supernet is None
        return
    assert [p.step for p in seen] == [1, 2] and seen[-1].left == 0 and seen[-1].genotype == result.genotype
    figures = seen[-1].figures
    assert {"loss", "accuracy"} <= set(figures)
    assert ("held_out_loss" in figures) == (metric not in ("fgsm", "pgd"))
    assert ("metric" in figures) == (metric != "none")
    assert result.supernet is not None
    assert float(result.supernet.alpha_normal.detach().abs().max()) > 0.05


def test_the_metric_steers_the_architecture() -> None:
    settings = {m: config(metric={"name": m, "gamma": 100.0}) for m in ("none", "curvature")}
    supernets = [found(s).supernet for s in settings.values()]
    assert supernets[0] is not None and supernets[1] is not None
    assert not torch.allclose(supernets[0].alpha_normal, supernets[1].alpha_normal, atol=1e-3)


def test_gamma_of_zero_is_no_metric() -> None:
    plain, weighed = (
        found(config(metric=m)).supernet for m in ({"name": "none"}, {"name": "curvature", "gamma": 0.0})
    )
    assert plain is not None and weighed is not None
    for one, two in zip(plain.parameters(), weighed.parameters(), strict=True):
        assert torch.equal(one, two)


@dataclass(frozen=True, kw_only=True)
class Small(Momentary):
    """A metric with a gradient in everything: R = −mean f²."""

    def measure(self, network: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        return -network(x).square().mean()


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_the_second_order_gradient_is_that_through_one_step_of_the_weights(gamma: float) -> None:
    """Against double backpropagation through w'(α), in float64, with a momentum that is not zero."""
    settings = config(
        metric={"name": "none", "gamma": gamma},
        supernet={"layers": 1, "reductions": []},
        weights={"lr": 0.5, "lr_min": 0.5, "weight_decay": 0.01},
    )
    work = replace(task(settings, torch.float64), metric=Small())
    trial = Trial(work, work.supernet().double())
    network, names = trial.supernet, {p: n for n, p in trial.supernet.named_parameters()}
    trial.weight_step(work.train.batch(0))
    train, held_out = work.train.batch(1), work.held_out.batch(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    got = unrolled_gradients(trial, train, held_out)
    for name, tensor in network.state_dict().items():
        if "num_batches" in name:  # the training batch's own forward pass; looking ahead leaves no trace
            assert tensor - before[name] == 1
        elif "running" not in name:
            assert torch.equal(tensor, before[name])

    def logits(weights: list[Tensor], x: Tensor) -> Tensor:
        state = dict(zip([names[w] for w in trial.weights], weights, strict=True))
        state |= {name: buffer.clone() for name, buffer in network.named_buffers()}
        return functional_call(network, state, (x,))

    own: list[Tensor] = list(trial.weights)
    slopes = torch.autograd.grad(cross_entropy(logits(own, train.x), train.y), own, create_graph=True)
    ahead = [
        w - 0.5 * (0.9 * trial.sgd.state[w]["momentum_buffer"] + g + 0.01 * w)
        for w, g in zip(trial.weights, slopes, strict=True)
    ]
    out = logits(ahead, held_out.x)
    objective = cross_entropy(out, held_out.y) + gamma * out.square().mean()
    wanted = torch.autograd.grad(objective, trial.alpha, allow_unused=True, materialize_grads=True)
    first = trial.objective_gradients(held_out, trial.alpha)
    assert wanted[0].norm() > 0
    for g, w, f in zip(got, wanted, first, strict=True):
        assert (g - w).norm() <= 0.01 * w.norm()
        assert w.norm() == 0 or (f - w).norm() > 0.1 * w.norm()  # so far is the first order from it


def test_the_first_order_gradient_is_that_of_the_objective() -> None:
    work = replace(task(config(metric={"name": "none", "gamma": 0.5}), torch.float64), metric=Small())
    trial = Trial(work, work.supernet().double())
    batch = work.held_out.batch(0)
    got = trial.objective_gradients(batch, trial.alpha)
    assert all(parameter.grad is None for parameter in trial.supernet.parameters())
    out = trial.supernet(batch.x)
    (cross_entropy(out, batch.y) + 0.5 * out.square().mean()).backward()
    for gradient, alpha in zip(got, trial.alpha, strict=True):
        assert alpha.grad is not None and torch.allclose(gradient, alpha.grad, rtol=1e-9, atol=1e-12)
    figures = trial.figures
    assert figures["metric"] == pytest.approx(-out.square().mean().item())
    assert figures["held_out_loss"] == pytest.approx(cross_entropy(out, batch.y).item())


def test_a_scale_free_gamma_is_the_ratio_of_the_norms() -> None:
    metric = {"name": "none", "gamma": 0.5, "scale_free": True}
    work = replace(task(config(metric=metric)), metric=Small())
    trial = Trial(work, work.supernet())
    trial.objective_gradients(work.held_out.batch(0), trial.alpha)
    figures = trial.figures
    assert figures["gamma"] * figures["gradient_metric"] == pytest.approx(0.5 * figures["gradient_loss"])


def test_the_weights_are_trained_as_sgd_with_clipping_trains_them() -> None:
    settings = config(weights={"lr": 0.2, "lr_min": 0.1, "clip": 0.5, "weight_decay": 0.02}, epochs=4)
    work = task(settings)
    trial = Trial(work, work.supernet())
    twin = copy.deepcopy(trial.supernet)
    sgd = torch.optim.SGD(twin.weight_parameters(), lr=0.2, momentum=0.9, weight_decay=0.02)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 4, eta_min=0.1)
    for epoch in range(4):
        trial.epoch = epoch
        batch = work.train.batch(epoch)
        trial.weight_step(batch)
        sgd.zero_grad()
        cross_entropy(twin(batch.x), batch.y).backward()
        torch.nn.utils.clip_grad_norm_(twin.weight_parameters(), 0.5)
        sgd.step()
        cosine.step()
    for one, two in zip(trial.supernet.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_alpha_stands_still_during_its_warm_up() -> None:
    seen: list[SearchProgress] = []
    result = found(config(alpha={"lr": 0.1, "warmup": 2}, epochs=3), progress=seen.append)
    assert ["held_out_loss" in p.figures for p in seen] == [False] * 4 + [True] * 2
    still = found(config(alpha={"lr": 0.1, "warmup": 3}, epochs=3)).supernet
    assert result.supernet is not None and still is not None
    assert (
        float(still.alpha_normal.detach().abs().max())
        < 0.01
        < float(result.supernet.alpha_normal.detach().abs().max())
    )


def test_the_metric_joins_after_its_warm_up() -> None:
    seen: list[SearchProgress] = []
    found(config(metric={"name": "curvature", "options": {"warmup": 1}}, epochs=2), progress=seen.append)
    assert ["metric" in p.figures for p in seen] == [False, False, True, True]


@pytest.mark.parametrize("on", ["alpha", "both"])
def test_attacks_reach_the_weight_step_where_asked(on: str) -> None:
    """An attack of the weight step's images makes its loss larger, the architecture and weights being the same."""
    seen: list[SearchProgress] = []
    found(config(metric={"name": "fgsm", "options": {"on": on, "eps": 0.3}}), progress=seen.append)
    plain: list[SearchProgress] = []
    found(config(alpha={"lr": 1e-30}), progress=plain.append)
    # the first step: alpha moved by 0.1 in one of the runs, which changes a fresh network's loss little
    assert (seen[0].figures["loss"] > plain[0].figures["loss"] + 0.05) == (on == "both")


def test_a_search_is_a_function_of_its_seed_and_leaves_the_caller_s_alone() -> None:
    state = torch.get_rng_state()
    one, two = found(config()), found(config())
    assert torch.equal(state, torch.get_rng_state())
    other = found(config(seed=1))
    assert one.genotype == two.genotype and one.supernet and two.supernet and other.supernet
    for a, b in zip(one.supernet.parameters(), two.supernet.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.supernet.alpha_normal, other.supernet.alpha_normal)


def test_both_parts_advance_without_an_image_in_common() -> None:
    work = task(config(data={"images": 40}, epochs=3))
    pixels = {
        tuple(x.flatten().tolist()): i for i, x in enumerate(torch.cat([work.train.x, work.held_out.x]))
    }
    for stream, rows in ((work.train, range(20)), (work.held_out, range(20, 40))):
        assert len(stream) == 2
        orders = []
        for epoch in range(3):
            batches = [stream.batch(2 * epoch + place) for place in range(2)]
            order = [pixels[tuple(x.flatten().tolist())] for batch in batches for x in batch.x]
            assert set(order) <= set(rows) and len(set(order)) == 16
            orders.append(order)
        assert orders[0] != orders[1] != orders[2]
        again = stream.batch(3)
        assert torch.equal(again.x, stream.batch(3).x) and torch.equal(again.x, batch_of(work, stream, 3))


def batch_of(work: Task, stream: Any, step: int) -> Tensor:
    """The same batch of a stream that has seen no other."""
    return replace(stream, _epoch=-1, _order=None).batch(step).x


def test_processes_share_a_batch() -> None:
    whole = task(config(data={"crop": 2, "flip": True})).train
    parts = [replace(whole, processes=ProcessGroup(rank, 2)).batch(1) for rank in range(2)]
    batch = whole.batch(1)
    assert torch.equal(torch.stack([p.x for p in parts], 1).flatten(0, 1), batch.x)
    assert torch.equal(torch.stack([p.y for p in parts], 1).flatten(), batch.y)


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("affine", [False, True])
def test_shared_batch_norm_is_batch_norm_to_the_second_derivative(alone: None, affine: bool) -> None:
    plain = nn.Sequential(nn.Sequential(nn.BatchNorm2d(3, affine=affine))).double()
    shared = copy.deepcopy(plain)
    share_batch_norm(shared)
    assert type(shared[0][0]) is SharedBatchNorm2d
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64) * 3 + 1
    found = []
    for network in (plain, shared):
        at = x.clone().requires_grad_()
        out = network(at)
        (slope,) = torch.autograd.grad(out.pow(3).sum(), at, create_graph=True)
        (curve,) = torch.autograd.grad(slope.square().sum(), at)
        found.append([out, slope, curve, *network.buffers(), network.eval()(x)])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-8, atol=1e-10)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path: Path) -> None:
    settings = config(weights={"lr": 1e35, "clip": 1e35}, epochs=9)
    with pytest.raises(UserError) as error:
        found(settings, out=tmp_path, checkpoint_every=1)
    said = re.search(
        r"is not finite at epoch (\d), step \d of 2 \(step (\d+) in all\); (.*); lower", str(error.value)
    )
    assert said is not None and said[3] == f"{tmp_path} keeps the state after step {int(said[2]) - 1}"
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == int(said[2]) - 1
    assert not (tmp_path / "genotype.json").exists()
