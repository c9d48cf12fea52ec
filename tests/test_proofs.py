"""Certificates of properties: trees of splits, each leaf proved again by the checker, and forgeries of them."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from property_networks import ball, below, convolutional, dense, least, pooled
from test_verify_cli import network as network_file
from test_verify_cli import prop as prop_file
from torch import nn

from certnas import certify
from certnas.checker import Certificate, CheckedNetwork, check
from certnas.proofs import Uncertified, certificates_of, plain, read
from certnas.proofs.claims import claim, claim_of_property, covers
from certnas.verifier import Clause, Property, network_of, search, tighten, verify
from certnas.verifier.proof import Proof
from cli.main import main

ROW = torch.tensor([1.0, -1.0], dtype=torch.float64)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float, float]] = {
    # how to make it, its input, the radius, and the share of `nearly` that needs splits
    "dense": (lambda: dense(1, 3, 8, 8, 2), (3,), 1.0, 0.1),
    "deep": (lambda: dense(0, 4, 6, 6, 6, 2), (4,), 0.8, 0.1),
    "leaky": (lambda: dense(0, 3, 8, 8, 2, act=nn.LeakyReLU), (3,), 2.0, 0.1),
    "sigmoid": (lambda: dense(0, 3, 8, 8, 2, act=nn.Sigmoid), (3,), 2.0, 0.1),
    "tanh": (lambda: dense(0, 3, 8, 8, 2, act=nn.Tanh), (3,), 2.0, 0.1),
    "convolutional": (lambda: convolutional(0), (1, 5, 5), 0.4, 0.7),
    "pooled": (lambda: pooled(0), (1, 5, 5), 0.1, 1.0),
}


def proved(network: nn.Module, prop: Property, shape: tuple[int, ...]) -> tuple[Proof, CheckedNetwork]:
    """The proof of a property that holds, and the network as the checker's."""
    traced = network_of(network, shape)
    verdict = verify(traced, prop, timeout=60, proof=True)
    assert verdict.status == "unsat" and verdict.proof is not None
    return verdict.proof, plain(traced).network


def certified(
    network: nn.Module, prop: Property, shape: tuple[int, ...]
) -> tuple[list[Certificate], CheckedNetwork]:
    proof, made = proved(network, prop, shape)
    return certificates_of(plain(proof.problem.network), proof), made


def nearly(name: str, share: float) -> tuple[nn.Module, Property, tuple[int, ...], float]:
    """A property that misses the least of sampled outputs by this share of their spread, and that least excess."""
    build, shape, eps, _ = NETWORKS[name]
    network = build()
    box = ball(torch.full(shape, 0.4), eps)
    values = least(network, box, shape) @ ROW
    bound = float(values.min() - share * (values.max() - values.min()))
    return network, Property(int(np.prod(shape)), 2, (Clause(box, (below(ROW, bound),)),)), shape, bound


# The root's methods, halved inputs, split activations.


@pytest.mark.parametrize(("few", "times"), [(0, 30), (0, 1), (24, 1)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_unsat_is_certified_in_both_arithmetics(
    name: str, few: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    network, prop, shape, bound = nearly(name, times * NETWORKS[name][3])
    (found,), made = certified(network, prop, shape)
    rounded, exact = check(found, made), check(found, made, exact=True)
    assert rounded.shape == (1,) and 0 < float(rounded[0]) <= float(exact[0])
    assert float(exact[0] - rounded[0]) < 1e-11
    if np.isfinite(exact[0]):
        values = least(network, prop.clauses[0].box, shape) @ ROW
        assert float(values.min()) - bound >= float(exact[0])
    assert covers([found], prop)


def several(seed: int) -> tuple[nn.Module, Property]:
    """Two boxes, two conjunctions of two constraints each."""
    network, rows = dense(seed, 2, 6, 6, 3), torch.eye(3, dtype=torch.float64)
    clauses = []
    for box in (ball(torch.tensor([0.0, 0.5]), 0.5), ball(torch.tensor([1.0, 0.0]), 0.25)):
        outputs = least(network, box, (2,))
        spread = outputs.amax(0) - outputs.amin(0)
        for a, b in ((0, 1), (1, 2)):
            level = outputs[:, [a, b]].quantile(0.5, dim=0)
            excess = ((outputs[:, [a, b]] - level) / spread[[a, b]]).amax(1).min()
            level += (float(excess) - 0.1) * spread[[a, b]]
            clauses.append(Clause(box, (below(rows[a], float(level[0])), below(rows[b], float(level[1])))))
    return network, Property(2, 3, tuple(clauses))


@pytest.mark.parametrize("few", [0, 24], ids=["activations", "inputs"])
@pytest.mark.parametrize("seed", range(3))
def test_boxes_and_conjunctions(seed: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW_INPUTS", few)
    network, prop = several(seed)
    found, made = certified(network, prop, (2,))
    assert (
        len(found) == 2 and covers(found, prop) and claim_of_property(found).endswith("any of 4 conjunctions")
    )
    for one, clauses in zip(found, (prop.clauses[:2], prop.clauses[2:]), strict=True):
        derived = check(one, made, exact=True)
        outputs = least(network, clauses[0].box, (2,)).numpy()
        excess = np.einsum("csk,mk->mcs", one.rows, outputs) - one.offsets
        assert (excess.max(2).min(0) >= derived).all(), "each conjunction is missed by more than is proved"
        assert check(one, made) == pytest.approx(derived, abs=1e-11)
    assert not covers(found[:1], prop)


def test_tightened_radii_are_what_their_certificates_prove() -> None:
    network = dense(2, 3, 8, 8, 3)
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = network(x).argmax(1)
    for norm in ("linf", "l2"):
        before = certify(network, x, y, norm, method="crown", clip=None, attack=False, eps_max=2.0)
        proofs: dict[int, Proof] = {}
        traced = network_of(network, (3,))
        after = tighten(traced, x, y, before, timeout=5, eps_max=2.0, clip=None, proved=proofs.__setitem__)
        raised = np.flatnonzero(after.radius_lower > before.radius_lower).tolist()
        assert sorted(proofs) == raised and raised
        made = plain(traced)
        for image, proof in proofs.items():
            (found,) = certificates_of(made, proof)
            assert (check(found, made.network) > 0).all()
            assert found.eps == after.radius_lower[image]
            proved, label = claim(found), int(y[image])
            assert (proved.label, proved.beaten) == (label, tuple(c for c in range(3) if c != label))
            assert proved.norm == norm and proved.eps == found.eps and not proved.clipped


def test_what_cannot_be_certified_is_said() -> None:
    network, prop, shape, _ = nearly("dense", 0.1)
    proof, _ = proved(network, prop, shape)
    full = replace(proof, most=0)
    with pytest.raises(Uncertified, match="takes more than the 0 bytes"):
        certificates_of(plain(proof.problem.network), full)
    thirds = Clause(
        prop.clauses[0].box, (replace(prop.clauses[0].constraints[0], coef=((0, Fraction(1, 3)),)),)
    )
    found = certificates_of(plain(proof.problem.network), proof)
    assert not covers(found, replace(prop, clauses=(thirds,)))


# The commands.


def test_verify_writes_what_check_proves(tmp_path: Path) -> None:
    runner, folder = CliRunner(), tmp_path / "proofs"
    net, held = str(network_file(tmp_path / "net.onnx")), str(prop_file(tmp_path / "unsat.vnnlib", -0.76))
    result = runner.invoke(main, ["verify", net, held, "--certificates", str(folder)])
    assert result.exit_code == 0 and "certificate net_unsat.npz" in result.output, result.output
    result = runner.invoke(main, ["check", str(folder), net, "--property", held, "--arithmetic", "exact"])
    assert result.exit_code == 0, result.output
    assert "no input of the box meets the conjunction" in result.output and "exactly" in result.output
    other = str(prop_file(tmp_path / "other.vnnlib", -0.75))
    result = runner.invoke(main, ["check", str(folder / "net_unsat.npz"), net, "--property", other])
    assert result.exit_code == 1 and "it does not prove this property" in result.output
    implied = str(prop_file(tmp_path / "implied.vnnlib", -0.8))
    result = runner.invoke(main, ["check", str(folder), net, "--property", implied])
    assert result.exit_code == 0, "it asks for less"


def test_verify_says_why_there_is_no_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("certnas.proofs.files.MOST_BYTES", 100)
    net, held = str(network_file(tmp_path / "net.onnx")), str(prop_file(tmp_path / "unsat.vnnlib", -0.76))
    result = CliRunner().invoke(main, ["verify", net, held, "--certificates", str(tmp_path / "proofs")])
    assert result.exit_code == 0 and "no certificate: it takes" in result.output
    assert not list((tmp_path / "proofs").iterdir())


def test_a_raised_radius_is_what_its_file_proves(tmp_path: Path) -> None:
    runner, folder = CliRunner(), tmp_path / "proofs"
    asked = ["--images", "1", "--no-attack", "--eps-max", "0.0854", "--certificates", str(folder)]
    result = runner.invoke(main, ["certify", "digits-cnn", *asked, "--complete", "--timeout", "20"])
    assert result.exit_code == 0 and "wrote 1 certificates" in result.output, result.output
    (path,) = folder.iterdir()
    (found,) = read(path)
    assert 0.084 < found.eps <= 0.0854 and len(found.parts[0].splits) + len(found.parts[0].steps) > 2
    assert f" {found.eps:.4g}" in result.output and "smaller radius" not in result.output
    result = runner.invoke(main, ["check", str(folder), "digits-cnn", "--arithmetic", "float"])
    assert result.exit_code == 0 and f"distance {found.eps!r} in [0, 1]" in result.output
