"""Options of `certnas certify` that choose what is opened and with how much of the machine."""

import pytest
import torch
from click.testing import CliRunner, Result

from cli.main import main

QUICK = ("--images", "2", "--method", "ibp", "--no-attack")


def certify(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["certify", *QUICK, *arguments])


def test_the_model_may_be_named_by_option() -> None:
    result = certify("--model", "digits-cell")
    assert result.exit_code == 0, result.stderr
    assert "digits-cell" in result.stdout


def test_two_models_are_one_too_many() -> None:
    result = certify("digits-cnn", "--model", "digits-cell")
    assert result.exit_code == 2
    assert result.stderr == "certnas: error: MODEL is given twice: digits-cnn and --model digits-cell\n"


def test_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert certify("--threads", "1").exit_code == 0
    assert asked == [1]


def test_architecture_options_reach_the_architecture() -> None:
    result = certify("nowhere.safetensors", "--arch", "cnn-cert-relu", "--arch-option", "layers=four")
    assert result.exit_code == 2
    assert result.stderr.startswith("certnas: error: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["layers", "=4", "1x=2"])
def test_an_architecture_option_is_key_and_value(text: str) -> None:
    result = certify("--arch-option", text)
    assert result.exit_code == 2
    assert f"{text!r} is not of the form KEY=VALUE" in result.stderr


class Unknown(torch.nn.Module):
    """An operator without a rule, on the way to ten logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erfinv(x.flatten(1)[:, :10] / 2)


def test_an_operator_without_a_rule_is_named_before_any_work() -> None:
    result = certify(f"{__name__}:Unknown")
    assert result.exit_code == 2
    assert "no rule for aten.erfinv.default at node 'erfinv'" in result.stderr
