"""The mutation run: what it mutates, and how it tells killed, surviving, equivalent and hanging mutants apart."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutants import Mutant, mutants
from benchmarks.mutation import KILLED, SURVIVED, TIMEOUT, mapped, measure, report, sample

TABLE = {"mutant_toy/": ["test_mutant_toy.py"]}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "mutant_toy").mkdir()
    (tmp_path / "mutant_toy/__init__.py").write_text("")
    (tmp_path / "mutant_toy/sums.py").write_text(
        "def larger(a, b):\n    return max(a, b)\n\n\ndef count(n):\n    while n > 0:\n        n -= 1\n    return n\n"
    )
    (tmp_path / "test_mutant_toy.py").write_text(
        "from mutant_toy.sums import larger, count\n\n\ndef test_larger():\n    assert larger(1, 2) == 2\n"
        "\n\ndef test_count():\n    assert count(3) == 0\n"
    )
    return tmp_path


def changes(folder: Path, source: str) -> set[str]:
    file = folder / "source.py"
    file.write_text(source)
    return {one.after for one in mutants(folder, file)}


def chosen(root: Path, after: str) -> Mutant:
    return next(one for one in mutants(root, root / "mutant_toy/sums.py") if one.after == after)


def run(root: Path, *afters: str, **options: Any) -> dict[str, str]:
    found = measure(
        root,
        [chosen(root, after) for after in afters],
        TABLE,
        root / "out/mutation.jsonl",
        say=lambda _: None,
        **options,
    )
    return {entry["after"]: entry["ended"] for entry in found.values()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"x = a <= b"}),
        ("x = a == (b)", {"x = a != (b)"}),
        ("x = (a + b) * c", {"x = (a - b) * c", "x = (a + b) / c"}),
        ("x = torch.minimum(a, b)", {"x = torch.maximum(a, b)"}),
        ("x = a.clamp(min=b)", {"x = a.clamp(max=b)"}),
        ("x = a.clamp(min=b, max=c)", set()),
        ("x = a and b or c", {"x = a or b or c", "x = a and b and c"}),
        ("x = not (a or b)", {"x = (a or b)", "x = not (a and b)"}),
        ("x = -a", {"x = a"}),
        ("x = f(0, 2.5)", {"x = f(1, 2.5)", "x = f(0, 3.5)", "x = f(2.5, 0)"}),
        ("x = True", {"x = False"}),
        ("x = a if b else c", {"x = a if True else c", "x = a if False else c"}),
        ("f(a)", {"pass"}),
        ("x += a", {"pass", "x -= a"}),
        ('"""A text."""\n__all__ = [a + b]\nlogging.info(a + b)\nx: L[1]', set()),
        ("def f(a: T[1]) -> T[2]:\n    raise E(f'{a + 1}', 1)", set()),
        ("@f(True)\nclass A:\n    x = 'a' + b", set()),
    ],
)
def test_edits(tmp_path: Path, source: str, expected: set[str]) -> None:
    assert changes(tmp_path, source) == expected


def test_killed_surviving_and_hanging(toy: Path) -> None:
    ended = run(toy, "return min(a, b)", "pass", "while n > 1:", slack=1.0)
    assert ended == {"return min(a, b)": KILLED, "pass": TIMEOUT, "while n > 1:": KILLED}
    (toy / "test_mutant_toy.py").write_text(
        "from mutant_toy.sums import larger\n\n\ndef test_equal():\n    assert larger(1, 1) == 1\n"
    )
    (toy / "out/mutation.jsonl").unlink()
    assert run(toy, "return min(a, b)") == {"return min(a, b)": SURVIVED}


def test_resumed_run_repeats_nothing_but_survivors_if_asked(toy: Path) -> None:
    (toy / "test_mutant_toy.py").write_text(
        "def test_nothing():\n    with open('runs', 'a') as file:\n        file.write('x')\n"
    )
    assert run(toy, "return min(a, b)") == {"return min(a, b)": SURVIVED}
    assert (toy / "runs").read_text() == "xx"  # without a mutant, and with it
    record = toy / "out/mutation.jsonl"
    record.write_text(record.read_text() + '{"key": "cut sh')
    assert run(toy, "return min(a, b)") == {"return min(a, b)": SURVIVED}
    assert (toy / "runs").read_text() == "xx"
    record.write_text(record.read_text().splitlines()[0] + "\n")
    (toy / "test_mutant_toy.py").write_text(
        "from mutant_toy.sums import larger\n\n\ndef test_it():\n    assert larger(1, 2) == 2\n"
    )
    assert run(toy, "return min(a, b)", again=True) == {"return min(a, b)": KILLED}


def test_budget_takes_the_quickest_tests(toy: Path) -> None:
    (toy / "test_mutant_toy.py").write_text(
        "import time\nfrom mutant_toy.sums import larger\n\n\ndef test_slow():\n    time.sleep(1)\n"
        "    assert larger(1, 2) == 2\n\n\ndef test_quick():\n    assert larger(1, 1) == 1\n"
    )
    assert run(toy, "return min(a, b)", budget=0.5) == {"return min(a, b)": SURVIVED}
    assert run(toy, "return min(a, b)", budget=5.0, again=True) == {"return min(a, b)": KILLED}


def test_tests_that_fail_without_a_mutant_are_refused(toy: Path) -> None:
    (toy / "test_mutant_toy.py").write_text("def test_it():\n    assert False\n")
    said: list[str] = []
    one = chosen(toy, "return min(a, b)")
    assert measure(toy, [one], TABLE, toy / "out.jsonl", say=said.append) == {}
    assert measure(toy, [one], {}, toy / "out.jsonl", say=said.append) == {}
    assert "refused: test_mutant_toy.py: killed" in said[0]
    assert "no entry in the table" in said[1]


def test_equivalent_mutants_do_not_count_and_unknown_ones_are_named(toy: Path) -> None:
    known = mutants(toy, toy / "mutant_toy/sums.py")
    entries = [
        vars(one) | {"ended": ended}
        for one, ended in zip(known[:4], [KILLED, SURVIVED, SURVIVED, TIMEOUT], strict=True)
    ]
    first = dict(zip(("file", "scope", "before", "after"), known[1].place, strict=True))
    text = report(entries, [first | {"reason": "r"}, first | {"before": "gone", "reason": "r"}], known)
    assert text.splitlines()[2].split() == ["all", "4", "1", "1", "1", "1", "66.7%"]
    assert known[2].before in text and "no mutant:\nmutant_toy/sums.py" in text and "gone" in text


def test_longest_prefix_and_a_share_of_every_group(toy: Path) -> None:
    assert mapped("a/b/c.py", {"a/": ["x"], "a/b/": ["y", "-k", "c"]}) == ("y", "-k", "c")
    found = mutants(toy, toy / "mutant_toy/sums.py")
    drawn = sample([found[:1], found[1:]], 3, 0)
    assert len(drawn) == 3 and found[0] in drawn and drawn == sample([found[:1], found[1:]], 3, 0)
    assert sample([found], None, 1) != found and set(sample([found], None, 1)) == set(found)


def test_every_test_file_of_the_table_exists() -> None:
    root = Path(__file__).parents[1]
    table = json.loads((root / "benchmarks/mutation_tests.json").read_text())
    for prefix, arguments in table.items():
        assert (root / prefix).exists(), prefix
        assert all((root / name).is_file() for name in arguments if name.startswith("tests/")), prefix
