"""`certnas run`: from a search to a report, and on from where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from certnas.errors import UserError
from certnas.pipeline import run_config, run_table, stages
from certnas.runs import read_toml, to_toml
from cli.main import main

SEARCH = {
    "search.algorithm.name": "random",
    "search.supernet.channels": "2",
    "search.supernet.nodes": "2",
    "search.data.images": "80",
    "search.batch_size": "20",
    "search.epochs": "1",
}
TRAIN = {"train.channels": "2", "train.layers": "2", "train.epochs": "2", "train.drop_path": "0"}
CERTIFY = {"certify.method": "ibp", "certify.images": "3", "certify.attack": "false"}


def run(out: Path, *more: str, **changes: str) -> Result:
    settings = SEARCH | TRAIN | CERTIFY | {key.replace("__", "."): value for key, value in changes.items()}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return CliRunner().invoke(main, ["run", "--threads", "1", "--out", str(out), *options, *more])


@pytest.mark.slow
def test_from_search_to_report_and_again_without_work(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(out)
    assert first.exit_code == 0, first.stderr
    assert f"wrote {out / 'report.md'}" in first.stdout and "clean accuracy" in first.stdout
    text = (out / "report.md").read_text()
    pictures = [part.split(")")[0] for part in text.split("](")[1:]]
    assert {"cells.png", "train/curves.png", "certify/accuracy.png", "certify/radii.png"} <= set(pictures)
    assert all((out / picture).is_file() for picture in pictures)
    assert "# random with none on digits" in text and "| test images | 3 |" in text
    genotype = json.loads((out / "search" / "genotype.json").read_text())
    network = json.loads((out / "train" / "best" / "network.json").read_text())
    assert network["genotype"] == {key: genotype[key] for key in network["genotype"]}
    results = json.loads((out / "certify" / "results.json").read_text())
    assert [image["label"] for image in results["images"]] and len(results["images"]) == 3
    refused = run(out)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "already holds a run; continue it with --resume" in refused.stderr
    again = run(out, "--resume")
    assert again.exit_code == 0, again.stderr
    assert (out / "report.md").read_text() == text
    other = run(out, "--resume", train__epochs="3")
    assert other.exit_code == 2 and "train.epochs was 2, is 3" in other.stderr


@pytest.mark.slow
def test_it_goes_on_at_the_stage_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    assert whole.exit_code == 0, whole.stderr
    out = tmp_path / "parts"
    for stage in ("train", "_certified"):
        with monkeypatch.context() as patch:
            patch.setattr(stages, stage, stop)
            result = run(out, *(["--resume"] if out.exists() else []))
        assert result.exit_code == 130
        assert f"what is done is kept in {out}; continue with --out {out} --resume" in result.stderr
    assert (out / "train" / "best").is_dir() and not (out / "report.md").exists()
    done = CliRunner().invoke(main, ["run", "--threads", "1", "--out", str(out), "--resume"])
    assert done.exit_code == 0, done.stderr
    assert (out / "report.md").read_text() == (tmp_path / "whole" / "report.md").read_text()


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    table = {
        "seed": 4,
        "search": {"preset": "dsrna-cb", "data": {"name": "digits"}, "epochs": 2},
        "train": {"recipe": "crown-ibp", "objective": {"eps": 0.02}},
        "certify": {"norm": "l2", "eps_max": 2},
    }
    config = run_config(table)
    assert (config.search.metric.name, config.search.seed, config.search.epochs) == ("cb", 4, 2)
    assert (config.train.epochs, config.train.layers) == (60, 3), "fitted to digits"
    (tmp_path / "config.toml").write_text(to_toml(run_table(config)))
    assert run_config(read_toml(tmp_path / "config.toml")) == config


MISTAKES = [
    ({"speed": 1}, "speed: no such setting; accepted: seed, validation"),
    ({"seed": -1}, "seed: got -1; give 0 or more"),
    ({"search": 3}, "search: got 3; it is a table of settings"),
    ({"search": {"preset": "fast"}}, "search.preset 'fast' is unknown; accepted: darts, pc-darts, dsrna-cb"),
    ({"search": {"speed": 1}}, "search.speed: no such setting; accepted: epochs"),
    ({"train": {"recipe": "fast"}}, "recipe: unknown name 'fast'; accepted: standard"),
    ({"train": {"lr": 0}}, "lr: got 0.0; give more than 0"),
    ({"certify": {"norm": "l3"}}, "certify.norm 'l3' is unknown; accepted: "),
    ({"certify": {"method": "magic"}}, "method 'magic' is unknown; accepted: "),
    ({"certify": {"images": 0}}, "certify.images: got 0; give 1 or more"),
]


@pytest.mark.parametrize(("table", "message"), MISTAKES)
def test_a_wrong_value_is_refused_in_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run_config(table)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_images_without_a_test_part_need_other_images(tmp_path: Path) -> None:
    result = run(tmp_path / "run", "--data", "images.npz")
    assert (result.exit_code, result.stderr) == (
        2,
        "certnas: error: data images.npz: has no test part; give other images to certify on (--test-data)\n",
    )
