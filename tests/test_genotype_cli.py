"""`certnas genotypes` and `certnas show` as a user meets them."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from certnas.nas.space import PUBLISHED, published_genotype, write_genotype
from certnas.nas.space.genotypes import published_records
from cli.main import main


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env={"COLUMNS": "120"})


@pytest.mark.slow
def test_genotypes_lists_all_with_the_published_counts() -> None:
    result = run("genotypes")
    assert result.exit_code == 0, result.stderr
    assert "parameters of a network of 20 cells, 36 channels, 10 classes" in result.stdout
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.split()}
    assert set(PUBLISHED) <= set(rows)
    for name, record in published_records("genotypes.json").items():
        if record.get("params_C36_L20_10cls_no_aux"):
            assert rows[name][2] == f"{record['params_C36_L20_10cls_no_aux']:,}"
    assert rows["NASNet"][1] == "5" and rows["DARTS_V1"][3] == "quark0/darts@f276dd3"
    assert rows["RobNet_large"][2] == "6,842,710"


def test_genotypes_of_another_size_says_where_a_network_has_its_own_depth() -> None:
    result = run("genotypes", "--channels", "4", "--layers", "2", "--classes", "7")
    assert result.exit_code == 0, result.stderr
    assert "parameters of a network of 2 cells, 4 channels, 7 classes" in result.stdout
    assert re.search(r"RobNet_free +4 +[\d,]+ \(20 cells\)", result.stdout)


def test_show_prints_the_cells_and_writes_picture_and_dot(tmp_path: Path) -> None:
    result = run("show", "SmoothDARTS:c10_s2_pgd", "--out", tmp_path / "new")
    assert result.exit_code == 0, result.stderr
    assert "SmoothDARTS:c10_s2_pgd  4,281,382 parameters (20 cells, 36 channels, 10 classes)" in result.stdout
    assert "from xiangning-chen/SmoothDARTS@d3dbfed" in result.stdout
    (op, state), *_ = PUBLISHED["SmoothDARTS:c10_s2_pgd"].cell(0, reduction=False).nodes[0]
    assert f"{op}({'c_{k-2}' if state == 0 else 'c_{k-1}'}) + " in result.stdout
    assert "concatenation of node 0, node 1, node 2, node 3" in result.stdout
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == ["SmoothDARTS_c10_s2_pgd.dot", "SmoothDARTS_c10_s2_pgd.png"]
    assert (tmp_path / "new" / written[1]).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new" / written[0]).read_text().startswith('digraph "SmoothDARTS:c10_s2_pgd"')


def test_show_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "found[1].json"
    write_genotype(path, published_genotype("DARTS_V2"), note="of today")
    result = run("show", path, "--out", tmp_path, "--channels", "4", "--layers", "3")
    assert result.exit_code == 0, result.stderr
    assert re.match(r"found\[1\]  [\d,]+ parameters \(3 cells, 4 channels, 10 classes\)\n", result.stdout)
    assert (tmp_path / "found_1_.png").is_file()


REFUSED = [
    (["show", "DARTS_V3"], "genotype: unknown name 'DARTS_V3' (nearest: DARTS_V2, DARTS_V1"),
    (["show", "missing.json"], "genotype 'missing.json': there is no such file"),
    (["show", "DARTS_V2", "--channels", "0"], "channels: got 0; give 1 or more"),
    (["show", "DARTS_V2", "--layers", "0"], "layers: got 0; give 1 or more"),
    (["show", "RobNet_free", "--layers", "8"], "layers: got 8; this architecture is of 20 cells"),
    (["genotypes", "--classes", "0"], "classes: got 0; give 1 or more"),
    (["genotypes", "--channels", "x"], "Invalid value for '--channels': 'x' is not a valid integer."),
    (["show"], "Missing argument 'GENOTYPE'."),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"certnas: error: {message}")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_show_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("show", "DARTS_V2", "--out", tmp_path / "file")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"certnas: error: cannot write to {tmp_path / 'file'}")


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps({"normal": [["skip_connect", 2], ["skip_connect", 1]]}))
    result = run("show", path)
    assert result.exit_code == 2
    assert result.stderr == (
        f"certnas: error: genotype '{path}': key 'normal_concat' is missing; a genotype has normal, normal_concat, "
        "reduce, reduce_concat\n"
    )
