"""docs/training.md: its blocks of code run one after the other, its commands too."""

from __future__ import annotations

import pytest
from docs_blocks import blocks, run_commands, run_python

PAGE = "docs/training.md"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    for module in ("sklearn", "matplotlib"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.chdir(tmp_path)


def test_the_code_runs(tmp_path, capsys):
    assert len(blocks(PAGE, "python")) > 5
    names = run_python(PAGE)
    out = capsys.readouterr().out
    assert "as it should" in out and "Conv2d '4': operation 'conv' got" in out
    assert (tmp_path / "report.html").exists() and names["history"][-1]["val_accuracy"] > 0.9


def test_the_commands_run(tmp_path, capsys):
    config, = blocks(PAGE, "toml")
    (tmp_path / "config.toml").write_text(config)
    out = run_commands(PAGE, capsys)
    assert "epoch 3/3" in out[0] and ", f1 0." in out[0] and "stopped 20 steps" in out[-1]
    assert (tmp_path / "train.html").exists() and (tmp_path / "digits.ckit").exists()
    assert (tmp_path / "run-cli" / "epoch-0002.safetensors").exists()
    assert "val_top3" in (tmp_path / "train.csv").read_text().splitlines()[0]
