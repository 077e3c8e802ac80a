"""Logs of runs: what is in them, and that resumed runs repeat nothing."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import resumed_run as run

from convkit import training
from convkit.training import Callback, CSVLog, JSONLinesLog


def without_seconds(lines):
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def read(path):
    return without_seconds(json.loads(line) for line in path.read_text().splitlines())


def test_json_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("an older run's\n")
    trainer, train, val = run.build(None, [JSONLinesLog(path, every_steps=2)])
    history = trainer.fit(train, val, 2)
    lines = read(path)
    assert [line["event"] for line in lines] == ["step", "step", "epoch"] * 2
    assert [line["step"] for line in lines] == [2, 4, 4, 6, 8, 8]
    assert [{k: v for k, v in line.items() if k != "event"} for line in lines[2::3]] == \
        without_seconds(history)
    assert lines[0]["lr"] > lines[1]["lr"] > 0


def test_a_killed_run_repeats_nothing(tmp_path):
    class Die(Callback):
        def on_step(self, trainer):
            if trainer.step == 7:
                raise RuntimeError("gone")

    whole, path = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    trainer, train, val = run.build(None, [JSONLinesLog(whole, 1)])
    trainer.fit(train, val, 2)
    checkpoints = training.Checkpoints(tmp_path, every_steps=3)
    trainer, train, val = run.build(tmp_path, [JSONLinesLog(path, 1), Die()],
                                    checkpoints=checkpoints)
    with pytest.raises(RuntimeError, match="gone"):
        trainer.fit(train, val, 2)
    assert read(path)[-1]["step"] == 7  # the checkpoint is of step 6
    trainer, train, val = run.build(tmp_path, [JSONLinesLog(path, 1)], checkpoints=checkpoints)
    trainer.fit(train, val, 2, resume=True)
    assert read(path) == read(whole)


def test_numbers_that_json_lacks(tmp_path):
    class Odd(Callback):
        def on_epoch_end(self, trainer, record):
            record["odd"], record["exact"] = float("nan"), np.float32(0.5)

    trainer, train, val = run.build(None, [Odd(), JSONLinesLog(tmp_path / "log")])
    trainer.fit(train, val)
    last = read(tmp_path / "log")[-1]
    assert last["odd"] is None and last["exact"] == 0.5


def test_csv(tmp_path):
    class More(Callback):
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                record["more"] = "a, b"

    path = tmp_path / "log.csv"
    trainer, train, val = run.build(tmp_path, [More(), CSVLog(path)])
    trainer.fit(train, val, 1)
    trainer, train, val = run.build(tmp_path, [More(), CSVLog(path)])
    history = trainer.fit(train, val, 2, resume=True)
    rows = list(csv.DictReader(path.open(newline="")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[1]["more"] == "a, b" and rows[0]["more"] == ""
    assert float(rows[1]["val_loss"]) == history[1]["val_loss"]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    from tensorboardX.proto.event_pb2 import Event

    trainer, train, val = run.build(None, [training.TensorBoardLog(tmp_path, every_steps=1)])
    history = trainer.fit(train, val, 2)
    file, = tmp_path.iterdir()
    content, scalars, at = file.read_bytes(), {}, 0
    while at < len(content):  # length (8 bytes), its check (4), the event, its check (4)
        length = int.from_bytes(content[at:at + 8], "little")
        event = Event.FromString(content[at + 12:at + 12 + length])
        for value in event.summary.value:
            scalars[value.tag, event.step] = value.simple_value
        at += length + 16
    assert scalars["epoch/val_loss", 8] == pytest.approx(history[1]["val_loss"], rel=1e-6)
    assert {step for tag, step in scalars if tag == "step/loss"} == set(range(1, 9))


def test_a_missing_tensorboard_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"needs tensorboardX: pip install "
                                          r"'convkit\[tensorboard\]'"):
        training.TensorBoardLog(tmp_path)


def test_bad_settings():
    with pytest.raises(ValueError, match="expected every_steps of at least 1, got 0"):
        JSONLinesLog("x", every_steps=0)
