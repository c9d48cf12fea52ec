"""S-expressions at the very limits that they are read within."""

import gzip
from pathlib import Path

import pytest

from certnas.errors import UserError
from certnas.verifier import sexpr
from certnas.verifier.sexpr import Atom, Form, parse, read_text


def test_forms_have_their_words_and_lines() -> None:
    found = list(parse("(a (b\n c) ; (no\n)\n()(d)", "t"))
    assert found == [
        Form((Atom("a", 1), Form((Atom("b", 1), Atom("c", 2)), 1)), 1),
        Form((), 4),
        Form((Atom("d", 4),), 4),
    ]
    assert [form.head for form in found] == ["a", "", "d"] and Form((Form((), 1),), 1).head == ""
    assert list(parse("", "t")) == list(parse("; only ( this\n\n", "t")) == []


def test_depth_and_length_at_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (sexpr.DEEPEST, sexpr.LONGEST_TOKEN, sexpr.LONGEST_FORM) == (64, 256, 2_000_000)
    assert sexpr.LARGEST_FILE == 64 * 2**20
    assert len(list(parse("(" * 64 + ")" * 64, "t"))) == 1
    with pytest.raises(UserError, match="t, line 1: more than 64 parentheses deep"):
        list(parse("(" * 65, "t"))
    assert len(list(parse(f"({'x' * 256})", "t"))) == 1
    with pytest.raises(UserError, match="line 2: a word of more than 256 characters"):
        list(parse(f"(\n{'x' * 257})", "t"))
    monkeypatch.setattr(sexpr, "LONGEST_FORM", 3)
    assert len(list(parse("(a b)(c d)\n(a b)", "t"))) == 3, "of each form alone"
    with pytest.raises(UserError, match="line 2: a form of more than 3 words"):
        list(parse("(a b\nc)", "t"))


def test_what_is_not_balanced_is_named_by_its_line() -> None:
    for text, said in (
        ("(a))", r"line 1: a '\)' without its '\('"), ("(a\n(b)\n", r"line 1: a '\(' that is never closed"),
        ("(a)\n(b (c)", "line 2: a '"), ("(a)\nword", "line 2: 'word' outside of parentheses"),
        ("x" * 50, f"line 1: '{'x' * 40}' outside"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            list(parse(text, "t"))


def test_files_at_their_greatest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sexpr, "LARGEST_FILE", 1 << 20)
    text = "x" * (1 << 20)
    plain, packed = tmp_path / "a.vnnlib", tmp_path / "b.vnnlib.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_text(plain) == read_text(packed) == text
    plain.write_text(text + "x")
    packed.write_bytes(gzip.compress(text.encode() + b"x"))
    for path in (plain, packed):
        with pytest.raises(UserError, match="is larger than 1 MiB unpacked; give a smaller property"):
            read_text(path)
    plain.write_bytes(b"ab\xff")
    with pytest.raises(UserError, match="is not text: byte 2 is not UTF-8"):
        read_text(plain)
    packed.write_bytes(gzip.compress(b"(a)" * 99)[:-9])
    for path, said in (
        (packed, "cannot read '.*b.vnnlib.gz': "),
        (tmp_path / "c", "No such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(UserError, match=said) as refused:
            read_text(path)
        assert "\n" not in str(refused.value)
    packed.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"cannot read .*: Not a gzipped file"):
        read_text(packed)
