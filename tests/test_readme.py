"""The README's Python runs, its commands parse, and its pictures exist."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import main

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks("python")), "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[78] of 8 right, mean radius 0\.\d{3}", printed[0])
    assert re.fullmatch(r"\d of 8 proved at 2/255", printed[1])
    assert len((tmp_path / "digits.csv").read_text().splitlines()) == 9


def test_the_options_it_names_exist() -> None:
    parameters = [parameter for command in main.commands.values() for parameter in command.params]
    known = {name for parameter in parameters for name in [*parameter.opts, *parameter.secondary_opts]}
    named = set(re.findall(r"--[a-z][a-z-]+", README)) - {"--group", "--nproc-per-node"}
    assert named <= known | {"--help"}, named - known


def test_the_commands_it_names_exist() -> None:
    for command in set(re.findall(r"certnas ([a-z]+) ", README)) & set(main.commands):
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_the_files_it_shows_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 5
    assert all((Path(__file__).parents[1] / link).is_file() for link in links)
