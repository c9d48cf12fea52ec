"""Every write is seen by every later read, and what is no function of one image is refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bounds
from bounds import InvalidInput, UnsupportedOp


class Net(nn.Module):
    """A function of a linear layer's output h [N, 8], with tensors of its own."""

    mask: Tensor
    count: Tensor
    table: Tensor

    def __init__(self, function) -> None:
        super().__init__()
        self.linear, self.last, self.norm = nn.Linear(4, 8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.register_buffer("mask", torch.tensor([True, False] * 4))
        self.register_buffer("count", torch.ones(8))
        self.register_buffer("table", torch.rand(9, 8))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.linear(x.flatten(1)))


def made(function) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    net = Net(function).double().eval()
    for tensor in [*net.parameters(), net.table]:
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
    return net


IMAGES = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(1)).double()


def twin(m: Net, h: Tensor) -> Tensor:
    a = F.relu(h)
    a.mul_(-0.1)
    return a + F.relu(h)


def shared(view):
    """The view is taken, then what it shares memory with is changed."""

    def function(m: Net, h: Tensor) -> Tensor:
        seen = view(h)
        h.mul_(-3.0)
        return m.last(h) + seen.reshape(h.shape)

    return function


def written(change):
    """A piece is written to, then the whole is read."""

    def function(m: Net, h: Tensor) -> Tensor:
        change(m, h)
        return m.last(torch.relu(h)) + h

    return function


def augmented(m: Net, h: Tensor) -> Tensor:
    h += m.last(h)
    h *= 0.5
    h[:, 2:4] -= 1
    h[:, ::3] = h[:, 1:4] * 2
    return h


def by_out(m: Net, h: Tensor) -> Tensor:
    memory = torch.empty_like(h)
    torch.mul(h, 2.0, out=memory)
    kept = memory.detach()
    torch.sub(memory, m.count, out=memory)
    return memory + kept


def prepared(make):
    """Memory that is written to, half by half."""

    def function(m: Net, h: Tensor) -> Tensor:
        both = make(h)
        both[:, :4] = torch.relu(h[:, 4:])
        both[:, 4:] = h[:, :4]
        return both

    return function


def several(m: Net, h: Tensor) -> Tensor:
    left, right = h.chunk(2, 1)
    left.add_(right)
    first = torch.stack([h, h], 1).unbind(1)[0]
    first.neg_()
    one, two, three = h.split([3, 3, 2], 1)
    two.copy_(one)
    three.fill_(0.5)
    return h + first


def statistics(m: Net, h: Tensor) -> Tensor:
    h.add_(1.0)
    view = h[:, 0]
    view.mul_(2.0)
    return m.norm(F.dropout(h, 0.5, training=False, inplace=True))


def turned(m: Net, h: Tensor) -> Tensor:
    y = torch.stack([h[:, :4], h[:, 4:]], 1)
    y.transpose(1, 2).mul_(torch.arange(1.0, 9).view(4, 2).to(h))
    y.permute(0, 2, 1)[:, 0].zero_()
    return y[:, 0] - y[:, 1]


WRITES = {
    "the same call, its result changed between": twin,
    "detach": shared(lambda h: h.detach()),
    "view": shared(lambda h: h.view(-1, 2, 4)),
    "contiguous": shared(lambda h: h.contiguous()),
    "expand": shared(lambda h: h.expand(-1, 8)),
    "reshape": shared(lambda h: h.reshape(-1, 4, 2)),
    "transpose": shared(lambda h: h.view(-1, 2, 4).transpose(1, 2).transpose(1, 2)),
    "to of its own type": shared(lambda h: h.to(torch.float64)),
    "dropout that is off": shared(lambda h: F.dropout(h, 0.5, training=False)),
    "a copy keeps the old": shared(lambda h: h.clone()),
    "a column": written(lambda m, h: h[:, 0].mul_(3)),
    "an assignment": written(lambda m, h: h.__setitem__((slice(None), 1), 0.25)),
    "a slice with steps": written(lambda m, h: h[:, 1::3].zero_()),
    "from the end": written(lambda m, h: h[:, -3:-1].fill_(2)),
    "copy from another": written(lambda m, h: h[:, 4:].copy_(torch.relu(h[:, :4]))),
    "by index": written(lambda m, h: h.__setitem__((slice(None), [5, 0, -1]), m.last(h)[:, :3])),
    "index fill": written(lambda m, h: h.index_fill_(1, torch.tensor([2, 7]), -1.0)),
    "a view of a view": written(lambda m, h: h.view(-1, 2, 4)[:, 1, 2:].sub_(4)),
    "augmented assignment": augmented,
    "out": by_out,
    "zeros filled": prepared(torch.zeros_like),
    "empty memory filled": prepared(torch.empty_like),
    "chunk, unbind, split": several,
    "batch norm and dropout in place": statistics,
    "transposed views": turned,
    "a mask of booleans": lambda m, h: m.last(torch.relu(h * m.mask)),
    "clip": lambda m, h: torch.clip(h, -0.5, 0.5),
    "casts between floats": lambda m, h: h.double().to(torch.float64).type_as(m.count) * 2,
    "a buffer written before it is read": lambda m, h: h * m.count.copy_(torch.full((8,), 3.0)),
    "the batch's size as a length": lambda m, h: (
        h.view(h.shape[0], -1) + torch.ones(h.shape[0], 8, dtype=h.dtype) * m.count.expand(h.size(0), 8)
    ),
    "without gradients": lambda m, h: torch.no_grad()(torch.relu)(h) + 1,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_every_read_sees_what_was_written(name: str) -> None:
    model = made(WRITES[name])
    graph = bounds.trace(model, IMAGES[:1])
    bounds.check(graph)
    network = graph.bind(dtype=torch.float64)
    with torch.no_grad():
        for count in (1, 2, 5):
            x = IMAGES[:count]
            torch.testing.assert_close(network(x), model(x), rtol=1e-12, atol=1e-12)


SIZE, CHANCE, OTHERS = (
    "size of the batch|sizes N of the batch",
    "draws random numbers",
    "moves or mixes the batch",
)
REFUSED = {
    "rand": (lambda m, h: h * torch.rand(1, dtype=h.dtype), CHANCE),
    "rand with a generator": (
        lambda m, h: h * torch.rand(8, generator=torch.Generator(), dtype=h.dtype), "is no tensor.*draws no numbers"
    ),
    "rand_like": (lambda m, h: h * torch.rand_like(h), CHANCE),
    "bernoulli": (lambda m, h: h * torch.bernoulli(torch.full_like(h, 0.5)), CHANCE),
    "normal in place": (lambda m, h: h + torch.zeros(8).normal_(), CHANCE),
    "multinomial": (lambda m, h: h + torch.multinomial(torch.ones(8), 8), CHANCE),
    "images shuffled": (lambda m, h: h[torch.randperm(h.shape[0])], CHANCE),
    "dropout": (lambda m, h: F.dropout(h, 0.5), "random in training mode"),
    "dropout in place": (lambda m, h: F.dropout(h, 0.5, inplace=True), "random in training mode"),
    "rrelu": (lambda m, h: F.rrelu(h, training=True), "random in training mode"),
    "memory not written": (lambda m, h: h + torch.empty(8), "nothing has written"),
    "half of it written": (lambda m, h: torch.empty_like(h).index_fill_(1, torch.tensor([1]), 0.0) + h, "nothing has"),
    "times the size": (lambda m, h: h * h.shape[0], SIZE),
    "divided by the size": (lambda m, h: h / h.shape[0], SIZE),
    "full of the size": (lambda m, h: h + torch.full_like(h, h.shape[0]), SIZE),
    "a column by the size": (lambda m, h: h + h[:, h.shape[0]].unsqueeze(1), SIZE),
    "a table's first rows": (lambda m, h: h + m.table[: h.shape[0]], SIZE),
    "numbered images": (lambda m, h: h + torch.arange(h.shape[0]).unsqueeze(1), SIZE),
    "a sum of ones": (lambda m, h: h * torch.ones(h.shape[0], 8).sum(), SIZE),
    "a mean of what was filled": (lambda m, h: h * torch.zeros_like(h).sum(0, keepdim=True), SIZE),
    "softmax over ones": (lambda m, h: h * torch.ones(h.shape[0], 8).softmax(0), SIZE),
    "another path for many": (lambda m, h: h * 2 if h.shape[0] > 5 else h, SIZE),
    "another path for even": (lambda m, h: h * 2 if h.shape[0] % 2 else h, SIZE),
    "mean": (lambda m, h: h - h.mean(0), OTHERS),
    "softmax": (lambda m, h: h.softmax(0), OTHERS),
    "flip": (lambda m, h: h.flip(0), OTHERS),
    "roll": (lambda m, h: h.roll(1, -2), OTHERS),
    "roll through all": (lambda m, h: h.roll(1), OTHERS),
    "sort": (lambda m, h: h.sort(0).values, "does not return one tensor"),
    "cumsum": (lambda m, h: h.cumsum(0), OTHERS),
    "padding moves images": (lambda m, h: F.pad(h, (0, 0, 1, -1)), OTHERS),
    "products of images": (lambda m, h: (h @ h.t()) @ h, OTHERS),
    "norm over images": (lambda m, h: F.layer_norm(h, h.shape), f"{OTHERS}|{SIZE}"),
    "every other image": (lambda m, h: h[::2].repeat(2, 1)[: h.shape[0]], f"{OTHERS}|{SIZE}"),
    "the first image": (lambda m, h: h + h[:1], OTHERS),
    "one image written": (lambda m, h: h.index_fill_(0, torch.tensor([0]), 0.0), "no rule|moves or mixes"),
    "one row written": (lambda m, h: h[0].zero_() * 0 + h, OTHERS),
    "half precision": (lambda m, h: h.half().float(), "casts to torch.float16, which rounds"),
    "NaN for an option": (lambda m, h: F.leaky_relu(h, float("nan")), "takes NaN for negative_slope"),
    "the mean of nothing": (lambda m, h: h + h[:, 9:].mean(1, keepdim=True), "mean of no numbers"),
    "division by no variance": (lambda m, h: F.layer_norm(h, h.shape[1:], eps=0.0), "accepted: eps > 0"),
    "integers": (lambda m, h: h.to(torch.int32), "leaves floating point"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_function_of_one_image_is_refused_by_name(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=message) as caught:
        bounds.check(bounds.trace(made(function), IMAGES))
    assert "\n" not in str(caught.value)


def counted(m: Net, h: Tensor) -> Tensor:
    m.count.add_(1)
    return h * m.count


INPUTS = {
    "a state": (made(counted), "which every call of the model changes"),
    "the input written": (nn.Sequential(nn.ReLU(inplace=True), nn.Flatten()), "changes its input in place"),
    "a view of it": (nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True)), "changes its input in place"),
    "a number": (made(lambda m, h: 3), "returns no tensor"),
    "a constant": (made(lambda m, h: m.count.expand(h.shape[0], 8)), "does not depend on its input"),
    "zero times it": (made(lambda m, h: h * 0 + m.count), "does not depend on its input"),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_a_model_that_is_no_function_of_its_input_is_refused(name: str) -> None:
    model, message = INPUTS[name]
    with pytest.raises(InvalidInput, match=message) as caught:
        bounds.trace(model, IMAGES)
    assert "\n" not in str(caught.value)


def test_what_the_output_does_not_need_is_not_refused() -> None:
    """An auxiliary output may be anything; the trace says nothing of it."""
    model = made(lambda m, h: (m.last(h), h * torch.rand(1), h.mean(0), m.count.add_(1)))
    network = bounds.trace(model, IMAGES).bind(dtype=torch.float64)
    torch.testing.assert_close(network(IMAGES), model(IMAGES)[0])


def test_buffers_that_share_memory_with_a_changed_one_are_a_state_too() -> None:
    model = made(lambda m, h: (h * m.alias, m.count.add_(1))[0])
    model.register_buffer("alias", model.count[:])
    with pytest.raises(InvalidInput, match="depends on 'alias', which every call of the model changes"):
        bounds.trace(model, IMAGES)


def test_a_network_of_the_usual_in_place_layers_keeps_its_operators() -> None:
    """Convolution, batch norm, relu in place and += need no functionalisation."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.norm(self.conv(x)), inplace=True)
            z = self.norm(self.conv(y))
            z += y
            return F.relu_(z).flatten(1)

    model = Block().double().eval()
    graph = bounds.trace(model, IMAGES)
    assert [node.op.split(".")[1] for node in graph.nodes.values()] == [
        "conv2d", "batch_norm", "relu", "conv2d", "batch_norm", "add", "relu", "flatten",
    ]  # fmt: skip
    torch.testing.assert_close(graph.bind()(IMAGES), model(IMAGES))


SHAPES_ALONE = {
    "view_as": lambda m, h: h.view(-1, 2, h.shape[1] // 2).view_as(h * 2),
    "reshape_as": lambda m, h: h.unflatten(1, (2, -1)).transpose(1, 2).reshape_as(h),
    "expand_as": lambda m, h: h[:, :1].expand_as(h) - h,
    "expand_as of a constant": lambda m, h: h * m.last.weight[:1, : 1].expand_as(h),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES_ALONE)
@pytest.mark.parametrize("method", ["ibp", "crown", "zonotope"])
def test_a_tensor_that_gives_its_shape_alone_is_no_operand(name: str, method: str) -> None:
    model = made(lambda m, h: m.last(SHAPES_ALONE[name](m, h))).double()
    images = IMAGES.double()
    graph = bounds.trace(model, images)
    assert not any(node.op.split(".")[1].endswith("_as") for node in graph.nodes.values())
    network = graph.bind()
    torch.testing.assert_close(network(images), model(images))
    found = bounds.output_bounds(network, bounds.Linf(images, 0.1), bounds.METHODS[method])
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        point = images + 0.1 * (torch.rand(images.shape, generator=generator).double() * 2 - 1)
        assert (found.lower <= model(point) + 1e-9).all() and (model(point) <= found.upper + 1e-9).all()
