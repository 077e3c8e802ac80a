"""``convkit train`` with files of options, checkpoints, logs, limits and reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import convkit as ck
from convkit import data, training
from convkit.cli import main
from convkit.cli.augmentation import augmentation
from convkit.cli.options import duration

FAST = ["--batch-size", "500", "--model", "lenet5"]


def run(capsys, *argv: object) -> tuple[int, str, str]:
    code = main(["train", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def constants(path) -> list[bytes]:
    return [c.array.tobytes() for c in ck.load(path).graph.constants.values()]


def test_a_file_of_options(tmp_path, capsys):
    file = tmp_path / "run.toml"
    logs = [str(tmp_path / "log.jsonl"), str(tmp_path / "log.csv")]
    file.write_text(f"""
model = "lenet5"
epochs = 7
batch_size = 500
[training]
lr = 0.02
clip-norm = 2.0
ema = 0.5
accumulate = 2
validation = 0.25
[results]
log = {json.dumps(logs)}
quiet = false
""")
    code, out, err = run(capsys, file, "--set", "epochs=3", "--set", "grey=true", "--epochs", 2,
                         "--output", tmp_path / "net.ckit")
    assert code == 0, err
    assert "epoch 2/2" in out and "validation " in out  # the command line goes before --set
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[-1]["step"] == 6  # 3,000 images in batches of 500, two to a step
    assert lines[0]["lr"] < 0.02
    assert (tmp_path / "log.csv").read_text().startswith("epoch,step,lr")
    assert ck.load(tmp_path / "net.ckit").metadata["training"]["epochs"] == 2


@pytest.mark.parametrize("setting, argument, left", [
    ([], [], ["1.csv", "2.csv"]),
    (["log={}/3.csv", "log={}/4.jsonl"], [], ["3.csv", "4.jsonl"]),
    ([], ["--log", "{}/5.csv"], ["5.csv"]),
    (["log={}/3.csv"], ["--log", "{}/5.csv"], ["5.csv"]),
    (["log="], [], []),
])
def test_lists_of_a_file_are_replaced_by_what_wins_over_it(tmp_path, capsys, setting, argument,
                                                           left):
    file, folder = tmp_path / "run.toml", tmp_path / "logs"
    folder.mkdir()
    file.write_text(f"log = {json.dumps([f'{folder}/1.csv', f'{folder}/2.csv'])}")
    given = [part for text in setting for part in ("--set", text.format(folder))]
    given += [text.format(folder) for text in argument]
    code, _, err = run(capsys, file, *given, *FAST, "--epochs", 1,
                       "--output", tmp_path / "net.ckit")
    assert code == 0, err
    assert sorted(path.name for path in folder.iterdir()) == left


@pytest.mark.parametrize("content, argv, text", [
    ("epoch = 3", [], "unknown option 'epoch'; did you mean 'epochs'?"),
    ("epochs = 0", [], "argument --epochs: expected a number of at least 1, got 0"),
    ("epochs = true", [], "epochs: expected a value, got True"),
    ("quiet = 1", [], "quiet: expected true or false, got 1"),
    ("epochs = [1, 2]", [], "epochs: expected a value, got [1, 2]"),
    ("lr = 1\n[a]\nlr = 2", [], "'lr' appears twice"),
    ("lr = = 2", [], "not valid TOML"),
    ("config = 'x'", [], "unknown option 'config'"),
    ("", ["--set", "epochs"], "--set epochs: expected KEY=VALUE"),
    ("", ["--set", "model=vgg"], "unknown model 'vgg'"),
    ("", ["--patience", "3"], "--patience needs --validation SHARE"),
    ("", ["--optimizer", "adam", "--momentum", "0.5"], "--momentum is for sgd and rmsprop, not"),
    ("", ["--optimizer", "adam", "--nesterov"], "--nesterov is for sgd, not for adam"),
    ("", ["--schedule", "one-cycle", "--warmup", "0.1"], "--warmup does not go with"),
    ("", ["--schedule", "plateau"], "--schedule plateau needs --validation SHARE"),
    ("", ["--max-norm", "0"], "argument --max-norm: expected a number above 0, got 0"),
    ("", ["--augment", "flop"], "--augment: unknown word 'flop'; did you mean 'flip'?"),
    ("", ["--augment", "flip,noise"], "--augment noise: expected noise=VALUE"),
    ("", ["--augment", "crop=2.5"], "--augment crop=2.5: expected a whole number of pixels"),
    ("", ["--augment", "crop=inf"], "--augment crop=inf: expected a finite number, got inf"),
    ("", ["--augment", "scale=1"], "--augment scale=1: expected a share from 0 to below 1"),
    ("", ["--augment", "flip=2"], "--augment flip=2: expected"),
    ("", ["--augment", "flip=0.1:0.2"], "--augment flip=0.1:0.2: expected one number"),
    ("", ["--augment", "short-side=20:40"], "expected short_side of at least 28"),
    ("", ["--augment", "lighting"], "expected images of shape (N, 3, H, W), got (4000, 1, 28"),
    ("", ["--resume"], "--resume and --save-every need --checkpoints FOLDER"),
    ("", ["--log", "x.txt"], "expected a name that ends in .jsonl or .csv"),
    ("", ["--report", "/nowhere/x.html"], "there is no folder /nowhere"),
    ("", ["--time-limit", "soon"], "expected a time such as 90s, 10m or 1h30m, got soon"),
    ("", ["--ema", "1"], "expected a number from 0 to below 1, got 1"),
])
def test_wrong_options(tmp_path, capsys, content, argv, text):
    file = tmp_path / "run.toml"
    file.write_text(content)
    code, out, err = run(capsys, file, *argv, "--quiet")
    assert code == 2 and text in err and out == "" and "Traceback" not in err


def test_a_file_that_is_not_there(capsys):
    code, _, err = run(capsys, "/nowhere/run.toml")
    assert code == 1 and "/nowhere/run.toml: No such file" in err


@pytest.mark.parametrize("options, rates", [
    (["--optimizer", "rmsprop", "--momentum", 0.5, "--schedule", "step", "--lr", 0.01],
     [0.01, 0.01, 0.001, 1e-4]),
    (["--schedule", "none", "--warmup", 0.5, "--nesterov", "--lr", 0.2, "--no-decay-all"],
     [0.002, 0.101, 0.2, 0.2]),
    (["--optimizer", "adagrad", "--schedule", "cosine", "--warmup", 0.25, "--lr", 0.1],
     [0.001, 0.1, 0.075, 0.025]),
    (["--schedule", "exponential", "--lr", 0.1, "--l1", 1e-5, "--max-norm", 2],
     [0.1, 0.1 * 0.01**0.25, 0.01, 0.1 * 0.01**0.75]),
    (["--schedule", "plateau", "--lr", 1e-6, "--validation", 0.5, "--weight-noise", 1e-4,
      "--decay-all", "--epochs", 6], [1e-6] * 4 + [1e-7] * 2),
    (["--optimizer", "adadelta", "--schedule", "one-cycle"], None),
])
def test_optimisers_and_schedules(tmp_path, capsys, options, rates):
    code, _, err = run(capsys, "--batch-size", 2000, "--model", "lenet5", "--epochs", 4, *options,
                       "--accumulate", 2, "--log", tmp_path / "log.jsonl",
                       "--output", tmp_path / "net.ckit")
    assert code == 0, err
    seen = [json.loads(line)["lr"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    if rates is None:
        assert seen[0] == pytest.approx(1 / 25) and max(seen) > 0.5 and seen[-1] < 1e-3
    else:
        assert seen == pytest.approx(rates)


def test_penalties_bounds_and_noise_reach_the_weights(tmp_path, capsys):
    def trained(*options):
        assert run(capsys, *FAST, "--epochs", 1, "--schedule", "none", "--optimizer", "sgd",
                   *options, "--output", tmp_path / "net.ckit")[0] == 0
        return constants(tmp_path / "net.ckit")

    plain = trained()
    for options in (["--l1", 1e-3], ["--max-norm", 0.1], ["--weight-noise", 0.1], ["--decay-all"]):
        assert trained(*options) != plain, options


def test_augmentation(tmp_path, capsys):
    def trained(*options):
        before = ck.get_num_threads()
        code, out, err = run(capsys, *FAST, "--epochs", 1, *options,
                             "--output", tmp_path / "net.ckit")
        ck.set_num_threads(before)
        assert code == 0, err
        return out, constants(tmp_path / "net.ckit")

    everything = ["--augment", "flip, vflip=0.1,crop=2,rotate=10,jitter,noise=0.02",
                  "--augment", "turn,translate,scale,shear,hue,blur,drop,sobel",
                  "--augment", "short-side=32,resized-crop=0.5",
                  "--augment", "erase=0.3,cutout=4,mixup,cutmix,cowmix=0.5"]
    plain, first, again, more_threads = (
        trained(), trained(*everything), trained(*everything), trained(*everything, "--threads", 1))
    assert "loss" in first[0] and "accuracy" not in first[0].split("test  ")[0]
    assert "accuracy" in plain[0].split("test  ")[0]
    assert plain[1] != first[1] == again[1] == more_threads[1]


def test_words_of_augmentation_mean_what_they_say():
    images = data.ImageDataset(np.zeros((2, 3, 8, 10), np.uint8), [0, 1], "ab")
    noise, rotate, short, shorter, resized, area, lighting, sobel = augmentation(
        ["noise=0.02", "rotate=5:10", "short-side=12:16", "short-side=16", "resized-crop",
         "resized-crop=0.2:0.4,lighting=0.3", "sobel=0.5"], images).transforms
    assert (noise.mean, noise.sigma) == (0, (0.02, 0.02)) and rotate.degrees == (-10, -5)
    assert short.short_side == (12, 16) and shorter.short_side == (10, 16)
    assert short.size == resized.size == (8, 10)
    assert resized.scale == (0.08, 1) and area.scale == (0.2, 0.4)
    assert lighting.std == 0.3 and sobel.p == 0.5


@pytest.mark.parametrize("text, seconds", [("90", 90), ("2.5s", 2.5), ("10m", 600),
                                           ("1h30m", 5400), ("1h0m1s", 3601)])
def test_durations(text, seconds):
    assert duration(text) == seconds


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_by_ctrl_c_or_kill_and_resumed_gives_the_same_file(tmp_path, capsys):
    whole, resumed, folder = tmp_path / "a.ckit", tmp_path / "b.ckit", tmp_path / "run"
    options = [*FAST, "--epochs", 3, "--batch-size", 100]
    assert run(capsys, *options, "--output", whole)[0] == 0
    again = [*map(str, options), "--checkpoints", str(folder), "--save-every", "5", "--resume",
             "--output", str(resumed)]
    env = os.environ | {"PYTHONPATH": str(Path(ck.__file__).parents[1])}
    steps = 0
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        child = subprocess.Popen([sys.executable, "-m", "convkit", "train", *again], env=env,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        steps = _wait_for_step(folder / "last.safetensors", steps + 20, child)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
        assert child.returncode == code, err
        assert not resumed.exists()
    assert "last.safetensors; --resume goes on from there" in out and "interrupted" in err
    code, out, err = run(capsys, *again)
    assert code == 0, err
    assert constants(whole) == constants(resumed)


def _wait_for_step(path, step, child) -> int:
    """Wait until a checkpoint of `step` or later is there; return its step."""
    for _ in range(3000):
        if path.exists():
            done = training.read_checkpoint(path)["position"]["step"]
            if done >= step:
                return done
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.01)
    raise AssertionError("no checkpoint came")


def test_trial_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *FAST, "--fast-dev-run", "--validation", 0.1, "--patience", 2,
                         "--checkpoints", tmp_path / "run", "--log", tmp_path / "log.csv")
    assert code == 0, err
    assert "trial   one batch went through training and validation" in out
    assert list(tmp_path.iterdir()) == []


def test_limits_checks_and_precision(tmp_path, capsys):
    code, out, err = run(capsys, *FAST, "--epochs", 50, "--time-limit", 0.01, "--detect-anomaly",
                         "--precision", "highest", "--label-smoothing", 0.1, "--monitor", 1,
                         "--output", tmp_path / "net.ckit")
    assert code == 0, err
    assert "stopped the time limit of 0.01 s is reached" in out and "epoch" not in out


def test_report(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    code, out, err = run(capsys, *FAST, "--epochs", 1, "--output", tmp_path / "net.ckit",
                         "--report", tmp_path / "report.html")
    assert code == 0 and "report  " in out, err
    assert "lenet5 on digits" in (tmp_path / "report.html").read_text()
