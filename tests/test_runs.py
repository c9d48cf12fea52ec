"""Run folders: configuration as TOML, a log and a state that a kill leaves whole, and their refusals."""

import json
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from certnas.errors import UserError
from certnas.runs import (
    RunFolder,
    from_table,
    held_interrupts,
    merged,
    read_toml,
    setting,
    to_table,
    to_toml,
)


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    betas: tuple[float, float] = (0.5, 0.999)


@dataclass(frozen=True)
class Outer:
    name: str
    epochs: int = 3
    clip: float | None = None
    flip: bool = False
    inner: Inner = field(default_factory=Inner)
    more: dict[str, object] = field(default_factory=dict)


CONFIG = {"seed": 1, "weights": {"lr": 0.1}}


OPENED: list[RunFolder] = []


def folder(path: Path, resume: bool = False, **changes: object) -> RunFolder:
    OPENED.append(RunFolder.open(path, CONFIG | changes, resume=resume, environment={"device": "cpu"}))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "value",
    [
        Outer("a"),
        Outer('q"uote\\ \n\t é', epochs=-1, clip=1e-30, flip=True, inner=Inner(1e22, (0.25, 1.0))),
        Outer("b", more={"steps": 7, "q": [1, 2], "on": False, "deep": {"x": 0.5}}),
    ],
)
def test_a_configuration_survives_toml(tmp_path: Path, value: Outer) -> None:
    (tmp_path / "c.toml").write_text(to_toml(to_table(value)))
    assert from_table(Outer, read_toml(tmp_path / "c.toml")) == value


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {"name": "a", "epoch": 3},
            "epoch: no such setting; accepted: name, epochs, clip, flip, inner, more",
        ),
        ({}, "name: is missing"),
        ({"name": "a", "epochs": 3.5}, "epochs: got 3.5; give a whole number"),
        ({"name": "a", "epochs": True}, "epochs: got True; give a whole number"),
        ({"name": "a", "flip": 1}, "flip: got 1; give true or false"),
        ({"name": 3}, "name: got 3; give a text"),
        ({"name": "a", "inner": {"lr": "x"}}, "inner.lr: got 'x'; give a number"),
        ({"name": "a", "inner": 3}, "inner: got 3; it is a table of settings"),
        ({"name": "a", "inner": {"betas": [1.0]}}, "inner.betas: got [1.0]; give 2 values"),
        ({"name": "a", "inner": {"betas": 1.0}}, "inner.betas: got 1.0; give a list"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        from_table(Outer, table)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 100_000) + " = 1",
        "[" + " . ".join(["a"] * 100_000) + "]",
        "a = {" + ".".join(["'a b'"] * 100_000) + " = 1}",
        ".".join(['"x"'] * 65) + " = 1",
        "a = " + "[" * 100_000,
        "a = " + "[" * 65 + "]" * 65,
        "a = " + "{b = " * 65 + "1" + "}" * 65,
    ],
)
def test_deep_toml_is_refused_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    began = process_time()
    with pytest.raises(
        UserError, match=r"c\.toml: cannot be read: it is nested too deeply; give a TOML file$"
    ):
        read_toml(tmp_path / "c.toml")
    assert process_time() - began < 5.0


def test_long_words_and_lists_are_no_deep_toml(tmp_path: Path) -> None:
    text = f"{'a' * 100_000} = [{', '.join(['0.5'] * 1000)}]\n{'.'.join(['a'] * 60)} = '{'b.' * 1000}'\n"
    (tmp_path / "c.toml").write_text(text)
    assert read_toml(tmp_path / "c.toml")["a" * 100_000] == [0.5] * 1000


def test_whole_numbers_stand_for_floats_and_none_is_left_out() -> None:
    value = from_table(Outer, {"name": "a", "clip": 5, "inner": {"lr": 1}})
    assert value.clip == 5.0 and isinstance(value.clip, float) and isinstance(value.inner.lr, float)
    assert "clip" not in to_table(Outer("a"))


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("epochs=3", {"epochs": 3}),
        ("weights.lr = 1e-3", {"weights": {"lr": 1e-3}}),
        ("name=digits", {"name": "digits"}),
        ("flip=true", {"flip": True}),
        ("betas=[0.5, 0.9]", {"betas": [0.5, 0.9]}),
        ("name=a=b", {"name": "a=b"}),
    ],
)
def test_settings_on_a_command_line(text: str, table: dict[str, object]) -> None:
    assert setting(text) == table


@pytest.mark.parametrize("text", ["epochs", "=3", "a b=3", "a..b=3"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not KEY=VALUE"):
        setting(text)


def test_tables_merge_and_another_name_replaces() -> None:
    below = {"a": 1, "metric": {"name": "cb", "eps": 0.1}, "w": {"lr": 0.1, "clip": 5}}
    assert merged(below, {"w": {"lr": 0.2}, "metric": {"steps": 2}}) == {
        "a": 1,
        "metric": {"name": "cb", "eps": 0.1, "steps": 2},
        "w": {"lr": 0.2, "clip": 5},
    }
    assert merged(below, {"metric": {"name": "pgd"}})["metric"] == {"name": "pgd"}


def test_a_run_is_kept_and_continued(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.checkpoint is None
    for step in range(1, 6):
        run.log("step", step, {"loss": step / 2, "radius": float("nan"), "cell": "x"})
        if step == 3:
            run.save(
                step, {"w": torch.full((2,), 3.0), "rng": torch.get_rng_state(), "seen": {"a": [1, None]}}
            )
    # killed here: nothing is closed, two lines lie beyond the state
    again = folder(tmp_path, resume=True)
    assert again.checkpoint is not None and again.checkpoint.step == 3
    assert torch.equal(again.checkpoint.state["w"], torch.full((2,), 3.0))
    assert again.checkpoint.state["seen"] == {"a": [1, None]}
    again.log("step", 4, {"loss": 7.0})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 0.5),
        (2, 1.0),
        (3, 1.5),
        (4, 7.0),
    ]
    assert lines(tmp_path)[0]["radius"] is None
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert (
        environment["device"] == "cpu" and environment["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    assert read_toml(tmp_path / "config.toml") == CONFIG
    assert not list(tmp_path.glob(".*"))


def test_a_run_killed_before_its_first_state_begins_again(tmp_path: Path) -> None:
    folder(tmp_path).log("step", 1, {"loss": 1.0})
    again = folder(tmp_path, resume=True)
    assert again.checkpoint is None
    again.log("step", 1, {"loss": 2.0})
    assert [line["loss"] for line in lines(tmp_path)] == [2.0]


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.log("step", 4, {"loss": 0.25, "cell": "x", "done": True})
    run.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    data, at, found = events.read_bytes(), 0, []
    while at < len(data):  # records of TFRecord: length, its checksum, the event, its checksum
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        at += 16 + size
    assert found == [(4, "step/loss", 0.25)]


def test_folders_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "run")
    folder(tmp_path / "run", weights={"lr": 0.3})  # nothing to lose yet
    folder(tmp_path / "run").save(1, {})
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        folder(tmp_path / "run")
    with pytest.raises(UserError, match=r"cannot resume .*: weights.lr was 0.1, is 0.2; repeat the options"):
        folder(tmp_path / "run", resume=True, weights={"lr": 0.2})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        folder(tmp_path / "file")
    (tmp_path / "run" / "config.toml").write_text("seed = ")
    with pytest.raises(UserError, match=r"config.toml: cannot be read"):
        folder(tmp_path / "run", resume=True)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


@pytest.mark.parametrize("damage", ["cut", "text", "code"])
def test_a_damaged_state_is_refused_and_never_run(tmp_path: Path, damage: str) -> None:
    folder(tmp_path).save(1, {"w": torch.ones(100)})
    state = tmp_path / "last.pt"
    state.write_bytes(
        {"cut": state.read_bytes()[:200], "text": b"{}", "code": pickle.dumps(Code(), 2)}[damage]
    )
    with pytest.raises(UserError, match=r"last.pt is damaged; choose another --out"):
        folder(tmp_path, resume=True)


def test_the_first_interrupt_is_held_and_the_second_is_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), held_interrupts() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.asked
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_brackets_in_strings_and_comments_do_not_nest(tmp_path: Path) -> None:
    path, many = tmp_path / "c.toml", "[" * 100
    quoted = (f'"{many}"', f"'{many}' # {many}", f'"""\n{many}\n"""', f"'''{many}'''", f'"\\"{many}"')
    lines = [f"{key} = {value}" for key, value in zip("abcde", quoted, strict=True)]
    path.write_text("\n".join([*lines, "f = " + "[" * 60 + "]" * 60]))
    assert list(read_toml(path)) == list("abcdef")
