"""How numbers lie in memory changes no result, and convolutions get the order they are fastest on."""

import pytest
import torch
from torch import nn

from certnas.layout import laid_out, laid_out_network, usual
from certnas.nas.space import Supernet


@pytest.mark.parametrize("channels", [1, 3])
def test_every_convolution_of_a_supernet_sees_channels_last(channels: int) -> None:
    torch.manual_seed(0)
    supernet = laid_out_network(Supernet(4, 3, 5, nodes=2, in_channels=channels))
    seen = []
    for module in supernet.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda module, given, out: seen.append((given[0].stride(1), out.stride(1)))
            )
    supernet(laid_out(torch.rand(2, channels, 8, 8)))
    assert seen
    assert set(seen) == {(1, 1)}


def test_values_stay() -> None:
    torch.manual_seed(0)
    supernet, x = Supernet(4, 3, 5, nodes=2).double().eval(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    before = supernet(x)
    names = {name: value.clone() for name, value in supernet.state_dict().items()}
    assert torch.equal(laid_out_network(supernet)(laid_out(x)), before)
    last = laid_out_network(supernet.float())
    torch.testing.assert_close(last(laid_out(x.float())).double(), before, rtol=1e-4, atol=1e-5)
    for name, value in last.state_dict().items():
        torch.testing.assert_close(value.double(), names[name].double(), rtol=1e-6, atol=1e-7)


def test_double_precision_is_channels_first() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert laid_out(x).is_contiguous()


def test_a_network_goes_back_to_the_usual_order() -> None:
    network = laid_out_network(nn.Conv2d(3, 4, 3))
    assert not network.weight.is_contiguous()
    assert usual(network).weight.is_contiguous() and network.weight.requires_grad
