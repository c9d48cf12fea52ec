"""Tracing a module: which operators it reads, which sizes stay free, and how it refuses a module."""

import pytest
import torch
from torch import Tensor, nn

import bounds
from bounds import InvalidInput, UnsupportedOp

IMAGE = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


class Lambda(nn.Module):
    """A function with named parts of its own."""

    def __init__(self, function, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)
        self.function = function

    def forward(self, x: Tensor):
        return self.function(self, x)


def made(function, **parts: nn.Module | Tensor) -> nn.Module:
    return Lambda(function, **parts).double().eval()


def head(size: int = 16) -> nn.Linear:
    return nn.Linear(size, 3)


MODELS = {
    "view by the batch's size": lambda: made(lambda m, x: m.head(torch.relu(x).view(x.size(0), -1)), head=head()),
    "reshape with -1 first": lambda: made(lambda m, x: m.head(torch.relu(x).reshape(-1, 16)), head=head()),
    "flatten": lambda: made(lambda m, x: m.head(torch.relu(x).flatten(1)), head=head()),
    "unflatten and permute": lambda: made(
        lambda m, x: m.head(x.unflatten(2, (2, 2)).permute(0, 3, 1, 2, 4).reshape(x.shape[0], -1)), head=head()
    ),
    "a constant per image": lambda: made(
        lambda m, x: m.head((x + torch.ones(x.shape[0], 1, 4, 4, dtype=x.dtype)).flatten(1)), head=head()
    ),
    "an expanded buffer": lambda: made(
        lambda m, x: m.head((x + m.shift.expand(x.shape[0], -1, -1, -1)).flatten(1)),
        head=head(), shift=torch.randn(1, 1, 4, 4),
    ),
    "in-place relu": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)
    ).double().eval(),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Dropout(0.2), head()).double().eval(),
    "the input itself": lambda: nn.Identity(),
}  # fmt: skip


@pytest.mark.parametrize("images", [1, 2, 7])
@pytest.mark.parametrize("traced_with", [1, 3])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_one_trace_serves_any_number_of_images(make, traced_with: int, images: int) -> None:
    model = make()
    graph = bounds.trace(model, IMAGE[:1].repeat(traced_with, 1, 1, 1))
    network = graph.bind(dtype=torch.float64)
    x = torch.rand(images, 1, 4, 4).double()
    torch.testing.assert_close(network(x), model(x), rtol=1e-12, atol=1e-12)
    low, high = bounds.output_bounds(network, bounds.Linf(x, 0.05), bounds.Crown())
    assert low.shape == (images, *graph.output_shape)
    assert (low <= model(x) + 1e-12).all() and (model(x) <= high + 1e-12).all()


def test_of_a_tuple_the_first_is_the_network() -> None:
    model = made(lambda m, x: (m.head(x.flatten(1)), m.aux(x.flatten(1))), head=head(), aux=nn.Linear(16, 5))
    graph = bounds.trace(model, IMAGE)
    torch.testing.assert_close(graph.bind()(IMAGE), model(IMAGE)[0])
    assert set(graph.parameters.values()) == {"head.weight", "head.bias"}, "the auxiliary head is not needed"


def test_tied_parameters_are_one_parameter() -> None:
    layer = nn.Linear(16, 16)
    model = made(lambda m, x: m.two(torch.relu(m.one(x.flatten(1)))), one=layer, two=layer)
    graph = bounds.trace(model, IMAGE)
    torch.testing.assert_close(graph.bind()(IMAGE), model(IMAGE))
    names = set(graph.parameters.values())
    assert len(names) == 2
    doubled = {name: 2 * graph.defaults[name].detach() for name in names}
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            tensor.mul_(2)
    torch.testing.assert_close(graph.bind(doubled)(IMAGE), model(IMAGE))


def test_buffers_and_literals_come_along() -> None:
    model = made(lambda m, x: m.head(((x - m.mean) / m.std).flatten(1) + 0.5), head=head(),
                 mean=torch.rand(1, 1, 1, 1), std=torch.tensor([0.3]))  # fmt: skip
    graph = bounds.trace(model, IMAGE)
    torch.testing.assert_close(graph.bind()(IMAGE), model(IMAGE))
    shifted = graph.bind({"mean": torch.zeros(1, 1, 1, 1).double()})
    torch.testing.assert_close(shifted(IMAGE), model(IMAGE + model.mean))


def mixed() -> nn.Module:
    return made(
        lambda m, x: m.head(
            (torch.softmax(m.alpha, 0)[0] * torch.relu(x) + torch.softmax(m.alpha, 0)[1] * torch.tanh(x)).flatten(1)
        ),
        head=head(), alpha=nn.Parameter(torch.tensor([0.2, -0.4])),
    )  # fmt: skip


def test_parameters_given_at_bind_are_used_and_differentiated() -> None:
    model = mixed()
    graph = bounds.trace(model, IMAGE)
    alpha = torch.tensor([2.0, 1.0]).double().requires_grad_()
    weight = torch.randn(3, 16).double().requires_grad_()
    network = graph.bind({"alpha": alpha, "head.weight": weight})
    expected = torch.func.functional_call(model, {"alpha": alpha, "head.weight": weight}, (IMAGE,))
    torch.testing.assert_close(network(IMAGE), expected)
    rows = bounds.margins(torch.tensor([0, 1]), 3, dtype=torch.float64)

    def lower(alpha: Tensor, weight: Tensor) -> Tensor:
        bound = graph.bind({"alpha": alpha, "head.weight": weight})
        return bounds.lower_bounds(bound, bounds.Linf(IMAGE, 0.1), rows, bounds.Crown())

    assert torch.autograd.gradcheck(lower, (alpha, weight))
    assert all(p.grad is None for p in model.parameters())


def test_bind_without_parameters_reads_the_modules_own_as_they_are_now() -> None:
    model = mixed()
    graph = bounds.trace(model, IMAGE)
    with torch.no_grad():
        model.alpha.copy_(torch.tensor([1.0, -3.0]))
        model.head.bias.add_(1.0)
    torch.testing.assert_close(graph.bind()(IMAGE), model(IMAGE))


def test_what_does_not_depend_on_the_input_is_a_constant() -> None:
    graph = bounds.trace(mixed(), IMAGE)
    assert not any("softmax" in node.op for node in graph.nodes.values())
    assert any("softmax" in node.op for node in graph.constants)


def test_identical_nodes_are_one() -> None:
    model = made(lambda m, x: m.head((torch.relu(x) - torch.relu(x) + torch.relu(x)).flatten(1)), head=head())
    graph = bounds.trace(model, IMAGE)
    assert sum("relu" in node.op for node in graph.nodes.values()) == 1
    torch.testing.assert_close(graph.bind()(IMAGE), model(IMAGE))


BAD_PARAMETERS = {
    "unknown": ({"hed.weight": torch.zeros(3, 16)}, r"no parameter 'hed\.weight'; the network has \['alpha', "),
    "shape": ({"head.weight": torch.zeros(3, 15)}, r"'head\.weight' has shape \[3, 15\], expected \[3, 16\]"),
    "nan": ({"head.bias": torch.full((3,), float("nan"))}, r"'head\.bias' has NaN or infinite values"),
    "infinite": ({"alpha": torch.tensor([0.0, float("inf")])}, r"'alpha' has NaN or infinite values"),
}  # fmt: skip


@pytest.mark.parametrize(("params", "message"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS.keys())
def test_bind_refuses_bad_parameters_in_one_line(params: dict[str, Tensor], message: str) -> None:
    graph = bounds.trace(mixed(), IMAGE)
    with pytest.raises(InvalidInput, match=message) as caught:
        graph.bind({name: tensor.double() for name, tensor in params.items()})
    assert "\n" not in str(caught.value)


def test_a_wrong_input_shape_is_refused_with_both_shapes() -> None:
    network = bounds.trace(mixed(), IMAGE).bind()
    with pytest.raises(InvalidInput, match=r"shape \[2, 1, 4, 5\], expected \[N, 1, 4, 4\]"):
        network(torch.rand(2, 1, 4, 5))


class Deep(nn.Module):
    """A cell with an operator that no rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.Sequential(nn.ReLU(), made(lambda m, x: torch.erfinv(x)))])
        self.head = head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells[0](x).flatten(1))


def test_an_unknown_operator_is_named_with_its_node_shape_and_module() -> None:
    with pytest.raises(UnsupportedOp) as caught:
        network = bounds.trace(Deep().double().eval(), IMAGE).bind()
        bounds.lower_bounds(network, bounds.Linf(IMAGE, 0.1), bounds.logits(2, 3), bounds.IBP())
    message = str(caught.value)
    assert "\n" not in message
    for part in ("aten.erfinv.default", "'erfinv'", "['N', 1, 4, 4]", "cells.0.1", "conv2d", "CONTRIBUTING"):
        assert part in message or part.replace("'", "") in message, part


@pytest.mark.parametrize("part", [nn.Dropout(0.5), nn.Dropout2d(0.5)], ids=["dropout", "dropout2d"])
def test_dropout_in_training_mode_is_refused(part: nn.Module) -> None:
    model = nn.Sequential(part, nn.Flatten(), head()).double().train()
    with pytest.raises(UnsupportedOp, match=r"training mode; call model\.eval\(\) before trace"):
        network = bounds.trace(model, IMAGE).bind()
        bounds.lower_bounds(network, bounds.Linf(IMAGE, 0.1), bounds.logits(2, 3), bounds.IBP())


MIXING = {
    "mean over images": lambda m, x: m.head((x - x.mean(0, keepdim=True)).flatten(1)),
    "sum of all": lambda m, x: m.head(x.flatten(1)) + x.sum(),
    "images flipped": lambda m, x: m.head(x.flip(0).flatten(1)),
    "images rolled": lambda m, x: m.head(torch.roll(x, 1, 0).flatten(1)),
    "softmax over images": lambda m, x: m.head(torch.softmax(x, 0).flatten(1)),
    "images as channels": lambda m, x: m.head(x.transpose(0, 1).transpose(2, 3).transpose(0, 1).flatten(1)),
    "product of images": lambda m, x: m.head(x.flatten(1) @ x.flatten(1).T @ x.flatten(1)),
    "normalised over images": lambda m, x: m.head((x / x.norm(dim=0, keepdim=True)).flatten(1)),
    "running sum of images": lambda m, x: m.head(x.cumsum(0).flatten(1)),
}


@pytest.mark.parametrize("function", MIXING.values(), ids=MIXING.keys())
def test_operators_that_mix_images_are_refused(function) -> None:
    with pytest.raises(UnsupportedOp) as caught:
        network = bounds.trace(made(function, head=head()), IMAGE).bind()
        bounds.lower_bounds(network, bounds.Linf(IMAGE, 0.1), bounds.logits(2, 3), bounds.IBP())
    assert "\n" not in str(caught.value)


def test_an_output_without_the_input_is_refused() -> None:
    model = made(lambda m, x: m.weight.expand(x.shape[0], 3), weight=nn.Parameter(torch.randn(3)))
    with pytest.raises(InvalidInput, match="does not depend on its input"):
        bounds.trace(model, IMAGE)


def test_a_model_that_cannot_be_exported_is_one_clear_line() -> None:
    model = made(lambda m, x: m.head(x.flatten(1)) if x.sum() > 0 else x, head=head())
    with pytest.raises(
        InvalidInput, match=r"torch\.export cannot read the model with input \[2, 1, 4, 4\]"
    ) as caught:
        bounds.trace(model, IMAGE)
    assert "\n" not in str(caught.value)


def test_tracing_leaves_the_model_as_it_was() -> None:
    """Flags part by part, parameters, statistics, gradients, random state."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    model.train()
    model[1].eval()
    flags = [part.training for part in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    network = bounds.trace(model, IMAGE).bind()
    bounds.lower_bounds(
        network, bounds.Linf(IMAGE, 0.1), bounds.logits(2, 3), bounds.AlphaCrown(iterations=1)
    )
    assert [part.training for part in model.modules()] == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_training_mode_normalises_by_the_statistics_of_the_batch_given() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    batch = torch.rand(9, 1, 4, 4).double()
    graph = bounds.trace(model.train(), IMAGE)
    with pytest.raises(InvalidInput, match="give batch=images"):
        graph.bind()
    with torch.no_grad():
        torch.testing.assert_close(graph.bind(batch=batch)(batch), model(batch))


class Filled(nn.Module):
    """Tensors of which only the shape depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.size(0), 2, *x.shape[2:])
        ones = 2 * torch.ones_like(x) + x.new_full((1,), 3.0)
        return torch.cat([zeros, x * 0, torch.relu(x) + ones, torch.full_like(x, 0.5)], 1).flatten(1)


@pytest.mark.parametrize("method", bounds.METHODS)
def test_filled_tensors_are_constants(method: str) -> None:
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = bounds.trace(Filled().eval(), x.float()).bind(dtype=torch.float64)
    expected = Filled()(x)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)
    lower, upper = bounds.output_bounds(network, bounds.Linf(x, 0.1), bounds.METHODS[method])
    assert (lower <= expected).all() and (expected <= upper).all()
    constant = torch.ones(8, 16, dtype=torch.bool)
    constant[4:6] = False  # the channels of relu(x)
    assert torch.equal(lower[:, constant.flatten()], upper[:, constant.flatten()])


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.shift = nn.Linear(3, 3), torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.shift


def test_bind_takes_what_the_module_has_under_its_names_now() -> None:
    """Also where parameters were replaced, as an assigning load_state_dict and some search steps do."""
    model, x = Named().eval(), torch.rand(2, 3)
    graph = bounds.trace(model, x)

    def replaced_weight() -> None:
        model.fc.weight = nn.Parameter(torch.rand(3, 3))

    def replaced_layer() -> None:
        model.fc = nn.Linear(3, 3)

    def assigned() -> None:
        model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}, assign=True)

    def replaced_constant() -> None:
        model.shift = torch.zeros(3)

    def parametrized() -> None:
        nn.utils.parametrizations.weight_norm(model.fc)
        model.fc.parametrizations.weight.original0.data.mul_(2)

    for change in (replaced_weight, replaced_layer, assigned, replaced_constant, parametrized):
        before = graph.bind()(x)
        change()
        torch.testing.assert_close(graph.bind()(x), model(x))
        assert not torch.allclose(before, model(x))
    with_fewer = nn.Linear(3, 3, bias=False)
    model.fc = with_fewer
    with pytest.raises(InvalidInput, match=r"no parameter 'fc\.bias' any more"):
        graph.bind()


def test_blocks_that_record_gradients_are_read() -> None:
    def f(x: Tensor) -> Tensor:
        with torch.enable_grad():
            y, z = torch.relu(x * 2), x - 1
            y += z
        with torch.no_grad(), torch.enable_grad():
            return y * z

    x = torch.rand(2, 3)
    torch.testing.assert_close(bounds.trace(made(lambda m, x: f(x)), x).bind()(x), f(x))
