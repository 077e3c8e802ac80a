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
    ("", ["--resume"], "--resume needs --checkpoints FOLDER"),
    ("", ["--save-every", "5"], "--save-every needs --checkpoints FOLDER"),
    ("", ["--keep-every", "5"], "--keep-every needs --checkpoints FOLDER"),
    ("", ["--checkpoints", "x", "--keep", "2"], "--keep needs --keep-every N"),
    ("", ["--keep", "0"], "argument --keep: expected a number of at least 1, got 0"),
    ("", ["--metric", "f1"], "--metric needs --validation SHARE"),
    ("", ["--watch", "f1"], "--watch needs --validation SHARE"),
    ("", ["--metric", "f2"], "argument --metric: invalid choice: 'f2'"),
    ("", ["--optimizer", "adam", "--optimizer-option", "beta=1"],
     "--optimizer-option: adam has no setting 'beta'; did you mean 'betas'? known are betas, eps, "
     "amsgrad, maximize"),
    ("", ["--optimizer-option", "lr=1"], "sgd has no setting 'lr'; known are dampening, maximize"),
    ("", ["--optimizer", "adam", "--optimizer-option", "betas=0.9"], "expected two betas"),
    ("", ["--optimizer", "adam", "--optimizer-option", "amsgrad=1"],
     "--optimizer-option amsgrad=1: expected bool"),
    ("[training]\nschedule = 'step'\nschedule-option = ['gamma=x']", [],
     "--schedule-option gamma=x: expected float"),
    ("", ["--schedule-option", "eta_min"], "--schedule-option eta_min: expected float"),
    ("", ["--schedule", "one-cycle", "--schedule-option", "div_factor=0"], "division by zero"),
    ("", ["--schedule", "none", "--schedule-option", "gamma=1"],
     "--schedule-option does not go with --schedule none"),
    ("", ["--schedule", "plateau", "--schedule-every", "step"],
     "--schedule plateau moves on after each epoch"),
    ("", ["--loss-option", "gamma=2"], "cross-entropy has no setting 'gamma'; known are none"),
    ("", ["--loss", "focal", "--label-smoothing", "0.1"],
     "--label-smoothing is for cross-entropy, not for focal"),
    ("", ["--whiten", "zca", "--whiten-option", "eps=x"], "--whiten-option eps=x: expected float"),
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
    (["--schedule", "cosine", "--schedule-every", "epoch", "--lr", 0.1, "--batch-size", 500,
      "--schedule-option", "eta_min=0.02"], [0.1, 0.02 + 0.04 * (1 + 0.5**0.5), 0.06,
                                             0.02 + 0.04 * (1 - 0.5**0.5)]),
    (["--schedule", "step", "--schedule-every", "epoch", "--lr", 0.1, "--schedule-option",
      "milestones=1,3", "--schedule-option", "gamma=0.5"], [0.1, 0.05, 0.05, 0.025]),
    # No accuracy gets three times as good here: the rate falls after every epoch but the first two.
    (["--schedule", "plateau", "--lr", 1e-6, "--validation", 0.5, "--watch", "accuracy",
      "--schedule-option", "patience=0", "--schedule-option", "threshold=2",
      "--schedule-option", "factor=0.5", "--schedule-option", "eps=0"],
     [1e-6, 1e-6, 5e-7, 2.5e-7]),
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


def test_options_reach_the_weights(tmp_path, capsys):
    def trained(*options):
        code, _, err = run(capsys, *FAST, "--epochs", 1, "--batch-size", 2000, "--schedule", "none",
                           *options, "--output", tmp_path / "net.ckit")
        assert code == 0, err
        return constants(tmp_path / "net.ckit")

    adam, rmsprop, focal = (["--optimizer", "adam"], ["--optimizer", "rmsprop"],
                            ["--loss", "focal"])
    for plain, *others in (
            ([], ["--l1", 1e-3], ["--max-norm", 0.1], ["--weight-noise", 0.1], ["--decay-all"],
             ["--optimizer-option", "dampening=0.5"], ["--sampler", "weighted"],
             ["--sampler", "balanced"], ["--loss", "multi-margin"]),
            # Of the digits, each class has as many images until some are held back.
            (["--validation", 0.1], ["--class-weights", "balanced"]),
            (adam, ["--optimizer-option", "betas=0.5,0.9"]),
            (rmsprop, ["--optimizer-option", "centered=true"]),
            (focal, ["--loss-option", "gamma=5"])):
        reference = trained(*plain)
        for options in others:
            assert trained(*plain, *options) != reference, options
    assert trained(*focal, "--loss-option", "gamma=0") == trained()


def test_files_of_epochs_are_kept(tmp_path, capsys):
    code, _, err = run(capsys, *FAST, "--batch-size", 2000, "--epochs", 7, "--checkpoints",
                       tmp_path / "run", "--keep-every", 2, "--keep", 2,
                       "--output", tmp_path / "net.ckit")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.safetensors", "epoch-0004.safetensors", "epoch-0006.safetensors", "last.safetensors"]


def test_metrics_and_what_goes_by_them(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    code, out, err = run(capsys, *FAST, "--epochs", 3, "--lr", 0.02, "--validation", 0.2,
                         "--metric", "f1", "--metric", "recall", "--watch", "top3",
                         "--patience", 3, "--checkpoints", tmp_path / "run",
                         "--log", tmp_path / "log.jsonl", "--output", tmp_path / "net.ckit")
    assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["val_top3"])
    assert f"f1 {lines[0]['val_f1']:.4f}, recall {lines[0]['val_recall']:.4f}, top3" in out
    assert best["val_accuracy"] <= best["val_top3"] <= 1
    kept = training.read_checkpoint(tmp_path / "run" / "best.safetensors")
    assert kept["position"]["epoch"] == best["epoch"]


def test_whitened_images_come_out_of_the_file(tmp_path, capsys):
    for kind in ("pca", "zca"):  # the network learns less of the first
        code, out, err = run(capsys, *FAST, "--epochs", 2, "--whiten", kind, "--whiten-option",
                             "eps=0.1", "--optimizer", "adam", "--output", tmp_path / "net.ckit")
        assert code == 0 and "same class for all 1,000 images" in out, err
        program = ck.load(tmp_path / "net.ckit")
        assert program.metadata["preprocessing"]["mean"] == [0.0]
        assert main(["predict", str(tmp_path / "net.ckit"), "digits", "--json"]) == 0
        accuracy = json.loads(capsys.readouterr().out)["accuracy"]
        assert accuracy == program.metadata["training"]["test_accuracy"]
        assert 784 * 784 in [c.array.size for c in program.graph.constants.values()]
    assert accuracy > 0.5


def test_steps_are_limited_and_dead_relus_counted(tmp_path, capsys):
    code, out, err = run(capsys, "--model", "convnet", "--batch-size", 2000, "--epochs", 2,
                         "--max-steps", 3, "--monitor", 1, "--log", tmp_path / "log.jsonl",
                         "--output", tmp_path / "net.ckit")
    assert code == 0 and "stopped 3 steps are done" in out, err
    record = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert 0 <= record["dead_relu_share"] < 1
    assert any(name.startswith("dead_relu_share/") for name in record)


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
    assert short.short_side == (12, 16) and shorter.short_side == (16, 16)
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


def test_a_report_that_nothing_can_draw_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, out, err = run(capsys, *FAST, "--epochs", 1, "--output", tmp_path / "net.ckit",
                         "--report", tmp_path / "report.html")
    assert code != 0 and "epoch" not in out
    assert "--report needs matplotlib: pip install 'convkit[report]'" in err
    assert list(tmp_path.iterdir()) == []
