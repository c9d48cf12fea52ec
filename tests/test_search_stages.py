"""The stages of a verification on bounds that are given: what is settled, what is left, who is asked next."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from property_networks import ball, below, dense
from torch import Tensor

import bounds
from certnas.certifier import Certificates
from certnas.errors import UserError
from certnas.verifier import Box, Clause, Property, network_of, search, tightening, verification
from certnas.verifier.branch import Domain, State, Tree
from certnas.verifier.deadline import Deadline, OutOfTime
from certnas.verifier.problem import Problem, problem_of
from certnas.verifier.proof import BYTES_PER_SPLIT, Leaf, Proof
from certnas.verifier.relaxed import Choice, UnitSplit
from certnas.verifier.search import Search
from certnas.verifier.tightening import _Question, _raised, tighten
from certnas.verifier.verdict import VerificationProgress

DOUBLE = torch.float64


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


@pytest.fixture(scope="module")
def traced() -> bounds.Network:
    return network_of(dense(0, 3, 8, 8, 2), (3,))


def given(traced: bounds.Network, *offsets: float, eps: float = 0.5) -> Problem:
    """Clauses y0 − y1 ≤ offset, by turns in two boxes."""
    row = tensor([1.0, -1.0])
    boxes = ball(tensor([0.5, 0.5, 0.5]), eps), ball(tensor([0.0, 0.25, 0.5]), eps)
    clauses = [Clause(boxes[c % 2], (below(row, offset),)) for c, offset in enumerate(offsets)]
    return problem_of(traced, Property(3, 2, tuple(clauses)))


def searching(problem: Problem, **more: Any) -> Search:
    kept: dict[str, Any] = {"judge": lambda points: False, "attack": lambda problem, name: False} | more
    return Search(problem, kept.pop("deadline", Deadline(None)), 1 << 26, **kept)


# The state of a search.


def test_states_and_trees() -> None:
    state = State({0: -1.0, 1: math.inf, 2: 3.0})
    assert (state.left, state.bound, State({}).bound, State({}).left) == (2, -1.0, math.inf, 0)
    assert (state.done, state.open, state.stuck) == (0, 0, 0)
    tree = Tree()
    domains = [Domain(c, (), lower, None) for c, lower in ((0, -1.0), (1, -3.0), (0, -2.0), (1, -3.0))]
    for domain in domains:
        tree.push(domain)
    tree.stuck.append(Domain(2, (), -9.0, None))
    tree.settle(state, 4)
    assert state.lower == {0: -2.0, 1: -3.0, 2: -9.0, 3: math.inf} and (state.open, state.stuck) == (4, 1)
    assert (
        tree.pop(2) == [domains[1], domains[3]]
        and tree.pop(9) == [domains[2], domains[0]]
        and tree.pop(1) == []
    )


def test_bounds_settle_clauses(traced: bounds.Network) -> None:
    made = given(traced, -9.0, -8.0, -7.0)
    proof = Proof(made, 1 << 20)
    asked = searching(made, proof=proof)
    assert asked.state.lower == {0: -math.inf, 1: -math.inf, 2: -math.inf}
    asked.stage = "ibp"
    # rows of box 0 are those of clauses 0 and 2; excess is value − offset
    assert not asked._settled(tensor([[-9.5, -6.0], [-8.25, 99.0]]))
    assert (
        asked.clauses == [0, 1] and asked.state.lower == {0: -0.5, 1: -0.25} and proof.methods == {2: "ibp"}
    )
    assert asked.groups == [0, 1] and len(asked.problem) == 2
    asked.stage = "crown"
    assert not asked._settled(tensor([[math.nan], [0.0]]))
    assert asked.clauses == [0] and asked.groups == [0] and asked.state.lower == {0: -0.5}, (
        "what was proved stays"
    )
    assert proof.methods == {2: "ibp", 1: "crown"}
    assert asked._settled(tensor([[0.0]])) and asked.state.lower == {} and proof.methods[0] == "crown"
    none = searching(made)
    none._note(0, (), None)
    assert none._settled(tensor([[0.0, 0.0], [0.0, 0.0]]))


def test_what_is_known_of_the_second_box_stays_with_it(traced: bounds.Network) -> None:
    made = given(traced, -9.0, -8.0)
    proof = Proof(made, 1 << 20)
    asked = searching(made, proof=proof)
    asked.root = asked._bound_state()
    with torch.no_grad():
        bounds.Crown().lower(asked.root, made.rows)
    before = {name: asked.root.interval(name) for name in asked.root.facts.readers}
    assert not asked._settled(tensor([[0.0], [-8.5]])) and asked.groups == [1] and asked.clauses == [1]
    for name, x in before.items():
        assert torch.equal(asked.root.intervals[name].lower, x.lower[1:])
    asked._note(0, (UnitSplit("a", 0, 0.0, 1),), None)
    assert proof.leaves == {1: [Leaf((UnitSplit("a", 0, 0.0, 1),), None)]}


def test_rational_arithmetic_is_asked_where_a_bound_is_near(traced: bounds.Network) -> None:
    made = given(traced, -9.0, -8.0, -7.0)
    asked_of: list[Any] = []

    def equal(clause: int, lower: Tensor, upper: Tensor) -> bool:
        asked_of.append((clause, lower.tolist(), upper.tolist()))
        return clause == 1

    proof = Proof(made, 1 << 20)
    asked = searching(made, equal=equal, proof=proof)
    needed = float(made.needed[1])
    zero, one = torch.zeros(3), torch.ones(3)
    assert not asked._equal_on(1, zero, one, -needed) and not asked._equal_on(1, zero, one, math.nan)
    assert asked_of == [] and not proof.equal
    assert not asked._equal_on(0, zero, one, 0.0) and not proof.equal
    assert asked._equal_on(1, zero, one, -needed * 0.999) and proof.equal
    asked.state.lower = {0: -3.0, 1: -2.0, 2: -1.0}
    asked_of.clear()
    assert not asked._equal() and asked.clauses == [0, 2] and asked.state.lower == {0: -3.0, 1: -1.0}
    box = made.region.box()
    assert asked_of == [(c, box.lower[c % 2].tolist(), box.upper[c % 2].tolist()) for c in range(3)]
    assert not searching(made)._equal() and not searching(made)._equal_on(1, zero, one, 9.0)
    with pytest.raises(OutOfTime):
        searching(made, equal=equal, deadline=Deadline(0.0))._equal()


def staged(asked: Search, monkeypatch: pytest.MonkeyPatch, settled: int | None = None) -> list[str]:
    """The stages that are gone through; bounds settle everything at the given one of the four."""
    stages: list[str] = []
    calls: list[int] = []

    def settle(lower: Tensor) -> bool:
        calls.append(1)
        return len(calls) == settled

    def halving(*given: Any) -> Any:
        assert given[0] is asked.problem and given[1] == 1 << 26
        stages.append("boxes")
        return search_of

    def branching(*given: Any) -> Any:
        assert given[0] is asked.problem and given[1] is asked.root
        stages.append("branches")
        return search_of

    class Searched:
        def search(self, *arguments: Any) -> None:
            assert asked.deadline in arguments and asked.state in arguments and arguments[-1] is asked.judge

    search_of = Searched()
    monkeypatch.setattr(asked, "_settled", settle)
    monkeypatch.setattr(asked, "_alpha", lambda seconds: stages.append(f"alpha {0 <= seconds < 900}") or [])
    monkeypatch.setattr(search, "InputSplitting", halving)
    monkeypatch.setattr(search, "Branching", branching)
    asked.deadline.began -= 1000
    asked.progress = lambda step: stages.append(step.stage)
    asked.go()
    return stages


def test_stages_come_in_their_order(traced: bounds.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ["attack", "ibp", "crown-ibp", "crown", "attack"]
    made = given(traced, -9.0)
    assert staged(searching(made), monkeypatch) == [*plain, "input splitting", "boxes"]
    for settled in (1, 2, 3):
        assert staged(searching(made), monkeypatch, settled) == plain[: settled + 1]
    for few, last in ((3, ["input splitting", "boxes"]), (2, ["alpha True", "branch and bound", "branches"])):
        monkeypatch.setattr(search, "FEW_INPUTS", few)
        assert staged(searching(made), monkeypatch) == [*plain, *last]
    attacks: list[str] = []
    for stop, seen in (("quick", ["attack"]), ("thorough", plain)):
        asked = searching(made, attack=lambda problem, name, stop=stop: attacks.append(name) or name == stop)
        assert staged(asked, monkeypatch) == seen
    assert attacks == ["quick", "quick", "thorough"]
    ball_ = replace(made, region=bounds.L2(made.region.x, 0.25))
    monkeypatch.setattr(search, "FEW_INPUTS", 99)
    assert staged(searching(ball_), monkeypatch)[-1] == "branches", "only boxes are halved"
    asked = searching(made, equal=lambda *box: True)
    monkeypatch.setattr(asked, "_equal_on", lambda *box: True)
    assert staged(asked, monkeypatch) == plain[:4]


def test_progress_tells_where_a_search_stands(traced: bounds.Network) -> None:
    told: list[VerificationProgress] = []
    asked = searching(given(traced, -9.0, -8.0), progress=told.append)
    asked.state.lower, asked.state.open, asked.state.done = {0: -2.0, 1: math.inf}, 5, 7
    asked._tell("crown")
    assert told == [VerificationProgress("crown", 1, -2.0, 5, 7)] and asked.stage == "crown"
    with pytest.raises(OutOfTime):
        searching(given(traced, -9.0), deadline=Deadline(0.0))._tell("crown")


@pytest.mark.parametrize(
    ("seconds", "limit", "iterations"),
    [(1.0, None, 18), (0.0, None, 40), (2.0, 100.0, 1), (4.0, 100.0, None), (1.0, 1e6, 18), (0.5, 100.0, 6)],
)
def test_slopes_have_a_share_of_the_time(
    seconds: float,
    limit: float | None,
    iterations: int | None,
    traced: bounds.Network,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three tenths of what is left, of ten minutes at most, at ten passes of crown an iteration."""
    seen: list[int] = []

    class Stop(Exception):
        pass

    def alpha(count: int) -> Any:
        seen.append(count)
        raise Stop

    asked = searching(given(traced, -9.0, -8.0), deadline=Deadline(None if limit is None else limit + 0.5))
    asked.root = asked._bound_state()
    monkeypatch.setattr(bounds, "AlphaCrown", alpha)
    if iterations is None:
        assert asked._alpha(seconds) == [None, None] and seen == []
    else:
        with pytest.raises(Stop):
            asked._alpha(seconds)
        assert seen == [iterations]


def test_slopes_of_each_clause_are_its_own(traced: bounds.Network) -> None:
    made = given(traced, -9.0, -0.5, -8.0, eps=0.25)
    proof = Proof(made, 1 << 24)
    asked = searching(made, proof=proof)
    asked.root = asked._bound_state()
    with torch.no_grad():
        plain = bounds.Crown().lower(asked.root, made.rows)
    choices = asked._alpha(1e-3)
    assert asked.stage == "alpha-crown" and len(choices) == asked.state.left == len(asked.clauses)
    assert sorted(proof.slopes) == [0, 1] and set(proof.leaves) == set(range(3)) - set(asked.clauses)
    assert all(leaf.choice is not None and leaf.splits == () for own in proof.leaves.values() for leaf in own)
    for choice in [*choices, *(own[0].choice for own in proof.leaves.values())]:
        assert choice is not None and choice.multipliers == {} and choice.mix is None
        assert {(t.shape[0], t.dtype) for ts in choice.node_alphas.values() for t in ts} == {
            (1, torch.float32)
        }
    for slopes in proof.slopes.values():
        assert made.network.graph.output not in slopes
        assert {len(t) for node_alphas in slopes.values() for ts in node_alphas.values() for t in ts} == {1}
    assert plain.shape == made.rows.shape[:2]


# Proofs that are kept.


def test_leaves_are_kept_up_to_their_bytes(traced: bounds.Network) -> None:
    made = given(traced, -9.0)
    choice = Choice({"a": (torch.zeros(3, 4, dtype=torch.float32),)}, {}, torch.zeros(2, dtype=DOUBLE))
    two = (UnitSplit("a", 0, 0.0, 1), UnitSplit("a", 1, 0.0, 1))
    size = 3 * BYTES_PER_SPLIT + 3 * 4 * 4 + 2 * 8
    assert BYTES_PER_SPLIT == 120
    for most, complete in ((size, True), (size - 1, False)):
        proof = Proof(made, most)
        proof.note(0, two, choice)
        assert (proof.size, proof.complete) == (size, complete)
        assert proof.leaves == ({0: [Leaf(two, choice)]} if complete else {})
    proof = Proof(made, 2 * BYTES_PER_SPLIT)
    for clause in (0, 1, 0):
        proof.note(clause, (), None)
        assert len(proof.leaves) == (0 if not proof.complete else clause + 1)
    assert proof.leaves == {} and (proof.methods, proof.slopes, proof.equal) == ({}, {}, False)


# Verdicts.


def test_a_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "free_memory", lambda device: 1 << 33)
    assert verification.share_of_memory(1) is None and verification.share_of_memory(2) == (1 << 33) // 8
    assert verification.share_of_memory(5) == (1 << 33) // 20
    assert verification.share_of_memory(10**6) == verification.LEAST_MEMORY == 1 << 26


@pytest.mark.parametrize("free", [1 << 20, 1 << 30])
def test_a_search_has_a_quarter_of_the_memory(
    free: int, traced: bounds.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Asked(Search):
        def go(self) -> None:
            asked.append((self.memory, None if self.proof is None else self.proof.most, self.deadline.left))

    monkeypatch.setattr(verification, "Search", Asked)
    monkeypatch.setattr(verification, "free_memory", lambda device: free)
    prop = Property(3, 2, (Clause(ball(torch.zeros(3), 1.0), (below(torch.ones(2), -9.0),)),))
    found = verification.verify(traced, prop, proof=True)
    room = max(free // 4, 1 << 26)
    assert asked == [(room, room, math.inf)] and found.proof is None and found.status == "unknown"
    verification.verify(traced, prop, memory=7, timeout=50.0)
    assert asked[1][:2] == (7, None) and 40 < asked[1][2] < 50


@pytest.mark.parametrize(
    ("raised", "status", "note", "interrupted"),
    [(OutOfTime, "timeout", "", False), (KeyboardInterrupt, "unknown", "interrupted", True),
     (MemoryError, "unknown", "the open subproblems exceed the memory budget", False),
     (None, "unknown", "", False), (0, "unsat", "", False), (1, "sat", "", False)],
)  # fmt: skip
def test_every_end_has_its_verdict(
    raised: Any,
    status: str,
    note: str,
    interrupted: bool,
    traced: bounds.Network,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ended(Search):
        def go(self) -> None:
            self.stage, self.state.lower, self.state.done = "crown", {0: -0.5}, 9
            if raised == 0:
                self.state.lower = {}
            elif raised == 1:
                assert not self.judge(torch.full((1, 3), 9.0, dtype=DOUBLE)), "it lies in no box"
                assert self.judge(torch.zeros(2, 3, dtype=DOUBLE))
            elif raised is not None:
                raise raised

    monkeypatch.setattr(verification, "Search", Ended)
    box = Box(((Fraction(-1), Fraction(1)),) * 3)
    prop = Property(3, 2, (Clause(box, (below(tensor([1.0, 0]), 99.0),)),))
    found = verification.verify(traced, prop, proof=True)
    assert (found.status, found.note, found.interrupted, found.by, found.domains) == (
        status,
        note,
        interrupted,
        "crown",
        9,
    )
    assert found.bound == (math.inf if raised == 0 else -0.5) and found.seconds >= 0
    assert (found.proof is not None) == (raised == 0) and (found.counterexample is not None) == (raised == 1)
    if found.counterexample is not None:
        assert found.counterexample.inputs.tolist() == [0, 0, 0]
        expected = traced(torch.zeros(1, 3, dtype=DOUBLE))[0].tolist()
        assert found.counterexample.outputs.tolist() == expected and len(expected) == 2


def test_no_clause_is_met_nowhere(traced: bounds.Network) -> None:
    found = verification.verify(traced, Property(3, 2, ()))
    assert (found.status, found.bound, found.by) == ("unsat", math.inf, "empty box")
    assert found.note == "no input lies in a box of the property"
    for inputs, outputs in ((4, 2), (3, 1)):
        with pytest.raises(
            UserError, match=f"has {inputs} inputs and {outputs} outputs, the network 3 and 2"
        ):
            verification.verify(traced, Property(inputs, outputs, ()))
    for shape, fits in (((3,), True), ((1, 3), True), ((3, 1, 1), True), (None, True), ((), True)):
        prop = Property(3, 2, (), shape, (2,))
        assert fits and verification.verify(traced, prop).status == "unsat"


# Radii that are raised.


def question(below_: float, asked: list[Any]) -> Any:
    class Asked:
        def proved(self, x: Tensor, rows: Tensor, radius: float, seconds: float | None) -> Any:
            asked.append((radius, seconds))
            return f"proof of {radius}" if radius <= below_ else None

    return Asked()


def raised(
    root: float,
    ends: tuple[float, float],
    asked: tuple[float, ...] = (),
    tol: float = 0.1,
    limit: float | None = None,
) -> tuple[Any, list[float], list[Any]]:
    tried: list[Any] = []
    told: list[Any] = []
    found = _raised(question(root, tried), tensor([0]), tensor([0]), ends, asked, tol, Deadline(limit),
                    lambda low, high: told.append((low, high)))  # fmt: skip
    for _, seconds in tried:
        assert (seconds is None) if limit is None else (0.4 * limit < seconds <= 0.5 * limit)
    return found, [radius for radius, _ in tried], told


def test_radii_are_bisected_to_the_tolerance() -> None:
    found, tried, told = raised(0.7, (0.5, 1.0))
    assert tried == [0.75, 0.625, 0.6875] and found == (0.6875, "proof of 0.6875")
    assert told == [(0.5, 0.75), (0.625, 0.75), (0.6875, 0.75)]
    assert raised(0.7, (0.9, 1.0))[:2] == ((0.9, None), []), "near enough: 0.9 is not below 1 · (1 − 0.1)"
    assert raised(0.7, (0.5, 1.0), limit=0.0)[:2] == ((0.5, None), [])
    assert raised(0.7, (0.5, 1.0), limit=100.0)[1] == tried
    assert raised(9.0, (0.0, 0.0))[1] == [], "nothing lies between"


def test_radii_without_an_end_grow_by_half() -> None:
    found, tried, _ = raised(2.0, (1.0, math.inf), tol=0.2)
    assert tried == [1.5, 2.25, 1.875] and found[0] == 1.875
    assert raised(2.0, (0.0, math.inf))[1] == []


def test_radii_that_are_asked_about_come_first() -> None:
    found, tried, _ = raised(0.7, (0.5, 1.0), (0.55, 0.95, 0.65, 0.5, 1.0, 1.1, 0.9), tol=0.3)
    assert tried == [0.9, 0.65] and found == (0.65, "proof of 0.65")
    assert raised(9.0, (0.9, 1.0), (1.0,))[:2] == ((1.0, "proof of 1.0"), [1.0]), "however near"


def radii(**changes: Any) -> Certificates:
    kept: dict[str, Any] = {
        "norm": "linf", "method": "crown", "proved_by": ("crown",) * 3, "proof": ("",) * 3, "index": np.arange(3),
        "label": np.array([0, 0, 1]), "prediction": np.array([0, 1, 1]), "target": np.full(3, -1),
        "radius_lower": np.array([0.25, 0.0, 0.0]), "radius_upper": np.array([1.0, 0.0, 2.0]),
        "status": ("certified", "misclassified", "zero"), "seconds": np.array([1.0, 2, 3]),
        "evaluations": np.zeros(3, int),
    }  # fmt: skip
    return Certificates(**kept | changes)


def test_certificates_are_raised_image_by_image(
    traced: bounds.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = torch.rand(3, 3), torch.tensor([0, 0, 1])
    asked: list[Any] = []

    def raise_(
        question: Any,
        one: Tensor,
        rows: Tensor,
        ends: Any,
        at: Any,
        tol: float,
        deadline: Deadline,
        tell: Any,
    ):
        asked.append((question, one, rows, ends, at, tol, deadline.ends - deadline.began))
        tell(0.5, 0.75)
        return (ends[0] + 0.125, "proof") if len(asked) == 1 else (ends[0], None)

    monkeypatch.setattr(tightening, "_raised", raise_)
    told: list[Any] = []
    proofs: dict[int, Any] = {}
    found = tighten(traced, x, y, radii(), timeout=50, eps_max=1.5, at=(0.3,), memory=77, clip=(0.0, 2.0),
                    progress=lambda *given: told.append(given), proved=proofs.__setitem__)  # fmt: skip
    assert [tuple(given[3:]) for given in asked] == [
        ((0.25, 1.0), (0.3, 1.5), 1e-2, 50), ((0.0, 1.5), (0.3, 1.5), 1e-2, 50)
    ]  # fmt: skip
    assert torch.equal(asked[0][1], x[:1].double()) and torch.equal(asked[1][1], x[2:].double())
    assert asked[0][2].tolist() == [[1, -1]] and asked[1][2].tolist() == [[-1, 1]]
    assert asked[0][0] == _Question(traced, bounds.NORMS["linf"], (0.0, 2.0), 77, True)
    assert told == [(0, 0.5, 0.75), (2, 0.5, 0.75)] and proofs == {0: "proof"}
    assert found.radius_lower.tolist() == [0.375, 0, 0] and found.status == (
        "certified",
        "misclassified",
        "zero",
    )
    assert found.proved_by == ("crown, then branch and bound", "crown", "crown")
    assert found.method == "crown, then branch and bound"
    assert found.seconds[1] == 2 and 1 <= found.seconds[0] < 1.5 and 3 <= found.seconds[2] < 3.5
    asked.clear()
    again = tighten(traced, x, y, radii(radius_lower=np.zeros(3)), timeout=50, targets="least", seed=1)
    assert again.status[0] == "certified" and asked[0][4] == () and asked[0][0].kept is False
    assert asked[0][3] == (0.0, 1.0) and asked[1][3] == (0.0, 2.0) and asked[0][0].clip == (0.0, 1.0)
    assert asked[0][2].tolist() == [[1, -1]] and tightening._silent(0, 0.0, 0.0) is None
    for certificates, images, labels in ((radii(), x[:2], y[:2]), (radii(), x, y[:2])):
        with pytest.raises(UserError, match="tighten: 3 certificates for"):
            tighten(traced, images, labels, certificates, timeout=1)


@pytest.mark.parametrize("norm", bounds.NORMS)
def test_a_ball_is_proved_or_a_point_of_it_refutes(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """y0 − y1 = x0 − 1/4 on balls round 3/4, met with [0, 1]."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2)).double().requires_grad_(False).eval()
    model[0].weight.copy_(tensor([[1.0, 0], [0, 0]]))
    model[0].bias.copy_(tensor([-0.25, 0]))
    network = network_of(model, (2,))
    x, rows = tensor([[0.75, 0.5]]), tensor([[1.0, -1]])
    asked = _Question(network, bounds.NORMS[norm], (0.0, 1.0), 1 << 26, True)
    proof = asked.proved(x, rows, 0.499, None)
    assert proof is not None and proof.methods == {0: "ibp"} and proof.most == 1 << 26
    region = proof.problem.region
    assert type(region) is bounds.NORMS[norm] and (region.lower, region.upper) == (0.0, 1.0)
    assert proof.problem.coef.tolist() == [[[1, -1]]] and proof.problem.offset.tolist() == [[0]]
    assert asked.proved(x, rows, 0.501, 5.0) is None
    free = replace(asked, clip=None, kept=False, memory=None).proved(x, rows, 0.499, 5.0)
    assert free is not None and free.most == 0 and free.problem.region.lower is None
    assert asked.proved(x, rows, 0.499, 0.0) is None, "there is no time"
    seen: list[list[bool]] = []

    class Met(Search):
        def go(self) -> None:
            edge = 0.75 - 0.625
            seen.append(
                [
                    self.judge(tensor([point]))
                    for point in ([edge, 0.5], [edge - 1e-6, 0.5], [0.26, 0.5], [0.25, 0.5])
                ]
            )
            seen.append([self.attack(self.problem, "quick")])

    monkeypatch.setattr(tightening, "Search", Met)
    assert asked.proved(x, rows, 0.625, None) is None
    assert seen == [[True, False, False, True], [False]]
