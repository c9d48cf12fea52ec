"""The third-party networks that bring their own structure: opened, traced, and as accurate as the manifest says."""

import onnxruntime
import pytest
import torch
from shared_data import COMPLETE, checkpoint, cifar10_test, manifest, mnist_test

import bounds
from certnas.models import open_model
from certnas.models.formats.onnx import import_onnx

ONNX = sorted(file for file, _ in COMPLETE.values() if file.endswith(".onnx"))


@pytest.mark.parametrize("id", COMPLETE)
def test_every_operator_has_a_rule_and_the_bounds_hold(id: str) -> None:
    file, options = COMPLETE[id]
    opened = open_model(str(checkpoint(file)), **options)
    graph = bounds.trace(opened.module, torch.zeros(2, *opened.input_shape))
    bounds.check(graph)
    x = torch.rand(3, *opened.input_shape, dtype=torch.float64)
    network = graph.bind(dtype=torch.float64)
    rows = bounds.margins(torch.zeros(3, dtype=torch.int64), opened.classes)
    lower = bounds.lower_bounds(network, bounds.Linf(x, 1e-3), rows, bounds.CrownIBP())
    for _ in range(20):
        y = network(x + (2 * torch.rand_like(x) - 1) * 1e-3)
        assert (torch.einsum("nsk,nk->ns", rows.to(y), y) >= lower - 1e-9).all()


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=pytest.mark.slow) for id in COMPLETE if not id.startswith("ACAS")]
)
def test_ten_thousand_images_give_the_manifests_count(id: str) -> None:
    file, options = COMPLETE[id]
    expected, module = manifest()[id], open_model(str(checkpoint(file)), **options).module
    mnist = expected["dataset"] == "MNIST"
    x, y = mnist_test(10_000) if mnist else cifar10_test(10_000)
    with torch.no_grad():
        correct = sum(
            int((module(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True)
        )
    # an image within float32 rounding of a boundary may fall to either side
    assert abs(correct - expected["clean_correct_of_10000"]) <= 2


@pytest.mark.parametrize("file", ONNX)
def test_a_batch_gives_what_onnxruntime_gives_one_by_one(file: str) -> None:
    network = import_onnx(checkpoint(file))
    session = onnxruntime.InferenceSession(checkpoint(file), providers=["CPUExecutionProvider"])
    x = torch.rand(5, *network.input_shape)
    reference = [session.run(None, {network.input: image[None].numpy()})[0] for image in x]
    assert torch.allclose(
        network(x), torch.cat([torch.from_numpy(y) for y in reference]), rtol=1e-5, atol=1e-5
    )
