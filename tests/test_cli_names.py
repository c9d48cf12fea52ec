"""The names that options take are those of the registries, in help, completion and refusals; help needs no torch."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import bounds
import certnas.cli.names as names
from certnas.certifier.planning import SECONDS as AUTO_SECONDS
from certnas.crosscheck import METHODS as COMPARED
from certnas.crosscheck import TOLERANCE
from certnas.data import DATASETS
from certnas.models.embedded import EMBEDDED
from certnas.nas.search import FITTED, SearchConfig
from certnas.pipeline import RunConfig, run_table
from certnas.runs import to_table
from cli import run as run_command
from cli import search as search_command
from cli.check import ARITHMETIC
from cli.inspect import DATA
from cli.main import main
from cli.values import NameOrPath, Registered, Several

ROOT = Path(__file__).parents[1]
REGISTERED = {name: value for name, value in vars(names).items() if isinstance(value, Registered)}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def parameters() -> Iterator[tuple[str, click.Parameter, Registered]]:
    """Every command's parameters that take names of a registry."""
    for command in main.commands.values():
        for parameter in command.params:
            kind = parameter.type.one if isinstance(parameter.type, Several) else parameter.type
            if isinstance(kind, Registered):
                yield str(command.name), parameter, kind


def given(command: str, parameter: click.Parameter, value: str) -> list[str]:
    """The words that give one value to one parameter."""
    return [command, value] if isinstance(parameter, click.Argument) else [command, parameter.opts[0], value]


def ids(case: Any) -> str:
    return case if isinstance(case, str) else getattr(case, "name", "") or ""


CLOSED = [case for case in parameters() if not isinstance(case[2], NameOrPath)]


@pytest.mark.parametrize("name", REGISTERED)
def test_the_names_that_are_listed_are_those_of_the_registry(name: str) -> None:
    kind = REGISTERED[name]
    assert kind.names() and (
        kind.listed == kind.names() or (name in ("ARCHITECTURE", "GENOTYPE") and not kind.listed)
    )


def test_every_registry_is_an_option_of_a_command() -> None:
    used = {id(kind) for _, _, kind in parameters()}
    assert {name for name, kind in REGISTERED.items() if id(kind) not in used} == set()


def test_no_option_has_names_of_its_own() -> None:
    """Names that a command makes up itself are those of `check --arithmetic` alone, and its help explains them."""
    found = [
        p for command in main.commands.values() for p in command.params if isinstance(p.type, click.Choice)
    ]
    assert [p.name for p in found] == ["arithmetic"]
    assert list(found[0].type.choices) == list(ARITHMETIC)  # type: ignore[attr-defined]
    assert all(f"{name}, " in str(found[0].help) for name in ARITHMETIC)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("command", "parameter", "kind"), CLOSED, ids=ids)
def test_the_help_lists_the_names(command: str, parameter: click.Parameter, kind: Registered) -> None:
    assert isinstance(parameter, click.Option) and kind.text in str(parameter.help)
    shown = " ".join(run(command, "--help").stdout.split())
    assert all(name in shown.replace("- ", "-") for name in kind.names())


def test_the_help_names_embedded_networks_and_data_sets() -> None:
    shown = {
        name: " ".join(run(name, "--help").stdout.split()) for name in ("certify", "train", "search", "run")
    }
    assert " or ".join(EMBEDDED) in shown["certify"]
    *others, last = DATASETS
    for text in shown.values():
        assert f"({', '.join(others)} or {last})" in text.replace("fashion- mnist", "fashion-mnist")
    assert set(DATA.values()) <= set(DATASETS)


@pytest.mark.parametrize(("command", "parameter", "kind"), CLOSED, ids=ids)
def test_a_wrong_name_is_one_line_with_what_is_accepted(
    command: str, parameter: click.Parameter, kind: Registered
) -> None:
    listed = ", ".join(map(repr, kind.names()))
    first = kind.names()[0]
    for value, hint in (("?", ""), (f"{first}q", f" Did you mean {first!r}?")):
        result = run(*given(command, parameter, value))
        text = f"Invalid value for '{parameter.opts[0]}': {value!r} is not one of {listed}.{hint}"
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"certnas: error: {text}\n"


def completed(*words: str) -> list[tuple[str, str]]:
    """(type, value) of what a shell offers for the last word."""
    found = ShellComplete(main, {}, "certnas", "_CERTNAS_COMPLETE").get_completions(
        list(words[:-1]), words[-1]
    )
    return [(item.type, item.value) for item in found]


def test_completion_offers_names() -> None:
    assert completed("certify", "--method", "cr") == [("plain", "crown-ibp"), ("plain", "crown")]
    assert completed("certify", "--norm", "") == [("plain", name) for name in bounds.NORMS]
    assert completed("crosscheck", "--methods", "ibp,crown-") == [("plain", "ibp,crown-ibp")]
    assert completed("certify", "--data", "cifar") == [
        ("file", "cifar"), ("plain", "cifar10"), ("plain", "cifar100")
    ]  # fmt: skip
    assert completed("show", "DARTS_") == [("file", "DARTS_"), ("plain", "DARTS_V1"), ("plain", "DARTS_V2")]
    assert ("plain", "resnet2b") in completed("inspect", "--arch", "resnet")
    assert completed("certify", "digits-ce") == [("file", "digits-ce"), ("plain", "digits-cell")]


def test_names_from_outside_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bounds.METHODS, "mine", bounds.IBP())
    result = run("certify", "--method", "mine", "--images", "1", "--no-attack")
    assert result.exit_code == 0, result.stderr
    assert "'mine'" in run("certify", "--method", "?").stderr


def test_the_default_methods_of_crosscheck_are_all() -> None:
    (methods,) = (p for p in main.commands["crosscheck"].params if p.name == "methods")
    assert methods.get_default(click.Context(main)) == ",".join(COMPARED)


def defaults(command: str) -> dict[str, str]:
    """Option -> the default that its help states in words."""
    stated = {
        p.name: re.search(r"\[default: (.*)\]", str(getattr(p, "help", "")))
        for p in main.commands[command].params
    }
    return {str(name): found[1] for name, found in stated.items() if found}


def configured(table: Any, key: str) -> Any:
    for part in key.split("."):
        table = table[part]
    return table


def test_the_defaults_that_the_help_of_search_states() -> None:
    """Such as [default: 8; digits: 3, mnist: 5]: SearchConfig's value, then those that are fitted to data sets."""
    table, stated = to_table(SearchConfig()), defaults("search")
    assert {"algo", "metric", "gamma", "data", "space", "channels", "layers", "nodes", "epochs"} <= set(
        stated
    )
    for option, text in stated.items():
        key = search_command.SETTINGS[option]
        usual, _, fitted = text.partition("; ")
        assert usual == str(configured(table, key)), option
        groups = re.findall(r"([a-z][a-z, -]*): (\d+)", fitted)
        found = {name: value for group, value in groups for name in group.split(", ")}
        assert found == {name: str(configured(changes, key)) for name, changes in FITTED.items()
                         if has(changes, key)}, option  # fmt: skip


def has(table: Any, key: str) -> bool:
    try:
        configured(table, key)
    except KeyError:
        return False
    return True


def test_the_defaults_that_the_help_of_run_states() -> None:
    table, stated = run_table(RunConfig()), defaults("run")
    assert stated.pop("recipe") == "standard"  # the pipeline's, see `run_config`
    assert {"metric", "data", "norm", "method", "images", "seed"} == set(stated)
    for option, text in stated.items():
        assert text == str(configured(table, run_command.SETTINGS[option])), option


def test_other_defaults_that_help_states() -> None:
    assert defaults("crosscheck")["tolerance"] == f"{TOLERANCE:g}"
    assert defaults("certify")["time_per_image"] == f"{AUTO_SECONDS:g}"


WITHOUT_TORCH = """
import sys
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from cli.main import main

assert "torch" not in sys.modules, "cli.main imports it"
for words in [[], ["--help"], ["--version"], *([name, "--help"] for name in main.commands)]:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0 and result.stdout, words
    assert "torch" not in sys.modules, f"{words} import it"
complete = ShellComplete(main, {}, "certnas", "_CERTNAS_COMPLETE").get_completions
assert complete(["certify", "--method"], "") and complete(["train", "--recipe"], "") and complete([], "")
assert "torch" not in sys.modules, "completion imports it"
"""


def test_help_and_completion_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_command_the_help_is_shown() -> None:
    bare, asked = run(), run("--help")
    assert (bare.exit_code, bare.stderr, bare.stdout) == (0, "", asked.stdout)
    assert "Commands:" in bare.stdout


def module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "certnas", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_python_m_certnas_is_the_command() -> None:
    shown = module()
    assert (shown.returncode, shown.stderr) == (0, "") and shown.stdout == module("--help").stdout
    assert shown.stdout.startswith("Usage: python -m certnas [OPTIONS]")
    refused = module("certify", "--norm", "l3")
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.startswith(
        "certnas: error: Invalid value for '--norm': 'l3' is not one of 'linf', 'l2', 'l1'."
    )
