"""docs/training.md: its blocks of code run one after the other, its commands too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from convkit.cli import main

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"),
                      re.MULTILINE | re.DOTALL)


def test_the_code_runs(tmp_path, monkeypatch, capsys):
    for module in ("sklearn", "matplotlib"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "docs"}
    code = blocks("python")
    assert len(code) > 5
    for block in code:
        exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert "as it should" in out and "Conv2d '4': operation 'conv' got" in out
    assert (tmp_path / "report.html").exists() and names["history"][-1]["val_accuracy"] > 0.9


def test_the_commands_run(tmp_path, monkeypatch, capsys):
    for module in ("sklearn", "matplotlib"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    monkeypatch.chdir(tmp_path)
    config, = blocks("toml")
    (tmp_path / "config.toml").write_text(config)
    commands, = blocks("bash")
    for line in commands.splitlines():
        argv = shlex.split(line, comments=True)
        assert argv[:2] == ["convkit", "train"]
        assert main(argv[1:]) == 0, capsys.readouterr().err
    assert "epoch 2/2" in capsys.readouterr().out
    assert (tmp_path / "train.html").exists() and (tmp_path / "digits.ckit").exists()
