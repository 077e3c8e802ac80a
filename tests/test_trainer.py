"""The Trainer: what a step does, records, limits, files, and going on after any stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import resumed_run as run

import convkit as ck
from convkit import data, nn, optim, training
from convkit import functional as F
from convkit.data import augment
from convkit.training import EMA, Callback, Checkpoints, EarlyStopping, Trainer
from convkit.training.state_file import read_state, write_state

CLOCK = {"seconds": 0, "images_per_second": 0}  # figures that differ from run to run


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def unbroken():
    """The weights of the run that nothing stops, and its records."""
    trainer, train, val = run.build(None)
    trainer.fit(train, val, run.EPOCHS)
    assert trainer.step == run.STEPS and trainer.stopped is None
    return run.weights(trainer), trainer.history


def process(folder: Path, *argv: object) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(Path(ck.__file__).parents[1])}
    return subprocess.run([sys.executable, run.__file__, str(folder), *map(str, argv)], env=env,
                          capture_output=True, text=True, timeout=120)


# -- stopped and gone on with ----------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_and_resumed_four_times_gives_the_same_bits(unbroken, tmp_path):
    # Within an epoch, at the end of one, while a file is written, within the last epoch.
    for step in (2, 4, -6, 9):
        done = process(tmp_path, step)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "weights.npz").exists()
        half_written = [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]
        assert len(half_written) == (step < 0)
    done = process(tmp_path)
    assert done.returncode == 0, done.stderr
    same(dict(np.load(tmp_path / "weights.npz")), unbroken[0])


@pytest.mark.parametrize("step", range(1, run.STEPS))
def test_stopped_after_any_step_and_resumed_gives_the_same_bits(unbroken, tmp_path, step):
    trainer, train, val = run.build(tmp_path)
    trainer.fit(train, val, run.EPOCHS, max_steps=step)
    assert trainer.step == step and trainer.stopped == f"{step} steps are done"
    ck.manual_seed(99)  # a process has other random numbers by then
    trainer, train, val = run.build(tmp_path)
    history = trainer.fit(train, val, run.EPOCHS, resume=True)
    same(run.weights(trainer), unbroken[0])
    for ours, theirs in zip(history, unbroken[1], strict=True):
        assert {**ours, **CLOCK} == {**theirs, **CLOCK}


def test_going_on_without_a_file_gives_the_same_bits(unbroken):
    trainer, train, val = run.build(None)
    for step in (3, 8, None):
        trainer.fit(train, val, run.EPOCHS, max_steps=step)
    same(run.weights(trainer), unbroken[0])


def test_ctrl_c_finishes_the_step_saves_and_leaves(unbroken, tmp_path):
    trainer, train, val = run.build(tmp_path, [run.Interrupt(5)])
    before = signal.getsignal(signal.SIGINT)
    trainer.fit(train, val, run.EPOCHS)
    assert trainer.stopped == "interrupted" and trainer.step == 6
    assert signal.getsignal(signal.SIGINT) is before
    trainer, train, val = run.build(tmp_path)
    trainer.fit(train, val, run.EPOCHS, resume=True)
    same(run.weights(trainer), unbroken[0])


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    class Twice(Callback):
        def on_gradients(self, trainer):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    trainer, train, val = run.build(tmp_path, [Twice()])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train, val, 1)
    assert trainer.step == 0


def test_a_list_of_batches_can_be_resumed(tmp_path):
    def make(folder):
        ck.manual_seed(0)
        model = nn.Linear(3, 2)
        return Trainer(model, optim.SGD(model.parameters(), 0.1, momentum=0.9),
                       checkpoints=folder, progress=False)

    rng = np.random.default_rng(1)
    batches = [(ck.Tensor(rng.standard_normal((4, 3)).astype(np.float32)),
                rng.integers(0, 2, 4)) for _ in range(3)]
    whole, broken, resumed = make(None), make(tmp_path), make(tmp_path)
    whole.fit(batches, epochs=2)
    broken.fit(batches, epochs=2, max_steps=4)
    resumed.fit(batches, epochs=2, resume=True)
    np.testing.assert_array_equal(whole.model.weight.data, resumed.model.weight.data)
    resumed.fit(batches, epochs=3)
    assert len(resumed.history) == 3 and resumed.step == 9


@pytest.mark.parametrize("change, error, text", [
    ({"scheduler": None}, ValueError, "the checkpoint has scheduler, this trainer has none"),
    ({"ema": None}, ValueError, "the checkpoint has ema, this trainer has none"),
])
def test_a_checkpoint_of_another_setup_is_refused(tmp_path, change, error, text):
    trainer, train, val = run.build(tmp_path)
    trainer.fit(train, val, max_steps=1)
    trainer, train, val = run.build(tmp_path, **change)
    with pytest.raises(error, match=text):
        trainer.fit(train, val, resume=True)


def test_other_reasons_to_refuse_a_checkpoint(tmp_path):
    trainer, train, val = run.build(tmp_path)
    trainer.fit(train, val, max_steps=1)
    trainer, train, val = run.build(tmp_path)
    trainer.callbacks.clear()
    with pytest.raises(ValueError, match="callbacks that this trainer lacks: EarlyStopping"):
        trainer.fit(train, val, resume=True)
    trainer, train, val = run.build(None)
    with pytest.raises(ValueError, match="needs checkpoints=FOLDER"):
        trainer.fit(train, val, resume=True)
    state = trainer.state_dict()
    del state["rng"], state["position"]
    with pytest.raises(ck.ModelFormatError, match="the checkpoint lacks rng, position"):
        trainer.load_state_dict(state)
    with pytest.raises(ck.ModelFormatError, match="the checkpoint is malformed"):
        trainer.load_state_dict(trainer.state_dict() | {"position": 3})
    with pytest.raises(FileNotFoundError):
        trainer.fit(train, val, resume=tmp_path / "nothing")


# -- steps -----------------------------------------------------------------------------------


def small(**options):
    ck.manual_seed(0)
    model = nn.Linear(3, 2)
    return Trainer(model, optim.SGD(model.parameters(), 0.1), progress=False, **options)


def batches(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [(ck.Tensor(rng.standard_normal((n, 3)).astype(np.float32)), rng.integers(0, 2, n))
            for n in sizes]


def test_accumulated_batches_are_one_batch():
    parts = batches(4, 1, 3, 2)
    joined = [(ck.Tensor(np.concatenate([x.data for x, _ in pair])),
               np.concatenate([t for _, t in pair])) for pair in (parts[:3], parts[3:])]
    one, several = small(), small(accumulate=3)
    one.fit(joined)
    several.fit(parts)
    assert one.step == several.step == 2
    np.testing.assert_allclose(one.model.weight.data, several.model.weight.data, atol=1e-6)
    assert one.history[0]["loss"] == pytest.approx(several.history[0]["loss"], abs=1e-5)


def test_clipping():
    trainer = small(clip_norm=1e-3, clip_value=5e-4)
    before = np.array(trainer.model.weight.data)
    trainer.fit(batches(8))
    step = (before - trainer.model.weight.data) / 0.1
    assert 0 < np.abs(step).max() <= 5.01e-4
    assert np.linalg.norm(step) <= 1.001e-3


def test_a_penalty_pulls_and_is_not_reported():
    plain, pulled = small(), small(penalty=lambda net: nn.l1_penalty(net) * 0.5)
    before = np.array(plain.model.weight.data)
    for trainer in (plain, pulled):
        trainer.fit(batches(8), batches(5))
    np.testing.assert_allclose(pulled.model.weight.data,
                               plain.model.weight.data - 0.1 * 0.5 * np.sign(before), atol=1e-6)
    assert pulled.history[0]["loss"] == plain.history[0]["loss"]
    same_weights = F.cross_entropy(pulled.model(batches(5)[0][0]), batches(5)[0][1]).item()
    assert pulled.history[0]["val_loss"] == pytest.approx(same_weights, rel=1e-6)


def test_units_stay_within_their_bound():
    trainer = small(max_norm=0.25, ema=0.9)
    trainer.fit(batches(8, 8))
    norms = np.linalg.norm(trainer.model.weight.data, axis=1)
    assert norms.max() == pytest.approx(0.25, rel=1e-6)
    again = small(max_norm=10.0)
    again.fit(batches(8, 8))
    assert 0.25 < np.linalg.norm(again.model.weight.data, axis=1).max() < 10


def test_noise_on_weights_is_in_the_gradient_alone():
    trainer = small(weight_noise=0.3)
    model, (x, t) = trainer.model, batches(8)[0]
    before = np.array(model.weight.data)
    ck.manual_seed(7)
    noise = 0.3 * ck.random.generator().standard_normal(model.weight.shape)
    noisy = nn.Linear(3, 2)
    noisy.load_state_dict({"weight": (before + noise).astype(np.float32), "bias": model.bias.data})
    F.cross_entropy(noisy(x), t).backward()
    ck.manual_seed(7)
    trainer.fit([(x, t)])
    np.testing.assert_allclose(model.weight.data, before - 0.1 * noisy.weight.grad.data, atol=1e-6)


def test_schedules_by_step_and_by_epoch():
    for every, rates in (("step", [0.1 / 2, 0.1 / 8]), ("epoch", [0.1, 0.05])):
        trainer = small(schedule_every=every)
        trainer.scheduler = optim.lr_scheduler.StepLR(trainer.optimizer, 1, 0.5)
        seen = []

        class Rates(Callback):
            def on_epoch_end(self, trainer, record, seen=seen):
                seen.append(record["lr"])

        trainer.callbacks.append(Rates())
        trainer.fit(batches(4, 4), epochs=2)
        assert seen == pytest.approx(rates)


def test_a_schedule_may_read_a_figure():
    class Plateau:
        seen = []

        def step(self, figure):
            self.seen.append(figure)

    trainer = small(scheduler=Plateau(), schedule_every="epoch", schedule_monitor="val_loss")
    history = trainer.fit(batches(4), batches(6), epochs=2)
    assert Plateau.seen == [r["val_loss"] for r in history]


def test_average_of_weights():
    trainer = small(ema=0.5)
    model, w = trainer.model, []

    class Keep(Callback):
        def on_step(self, trainer):
            w.append(np.array(model.weight.data, np.float64))

    trainer.callbacks.append(Keep())
    average = np.array(model.weight.data, np.float64)
    trainer.fit(batches(4, 4, 4))
    for t, weight in enumerate(w, 1):
        decay = min(0.5, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weight
    np.testing.assert_allclose(trainer.ema.average["weight"], average, atol=1e-6)
    with trainer.averaged_weights():
        np.testing.assert_array_equal(model.weight.data, trainer.ema.average["weight"])
    np.testing.assert_array_equal(model.weight.data, np.float32(w[-1]))
    other = EMA(nn.Linear(3, 2))
    other.load_state_dict(trainer.ema.state_dict())
    other.copy_to(other.model)
    np.testing.assert_array_equal(other.model.weight.data, trainer.ema.average["weight"])
    with pytest.raises(ValueError, match="average of a network with the same weights"):
        EMA(nn.Linear(3, 3)).load_state_dict(trainer.ema.state_dict())


def test_batch_transform_depends_on_seed_and_batch_alone():
    def draws(seed, epochs):
        seen = []

        def transform(x, t, rng):
            seen.append(rng.random())
            return x, t

        small(batch_transform=transform, seed=seed).fit(batches(2, 2), epochs=epochs)
        return seen

    assert draws(1, 2)[:2] == draws(1, 1) and draws(1, 2) != draws(2, 2)
    assert len(set(draws(1, 2))) == 4


MIXES = {"mixup": augment.MixUp(3, 0.4), "cutmix": augment.CutMix(3),
         "cowmix": augment.CowMix(3, (1, 2)),
         "composed": augment.Compose([augment.RandomCrop(6, 1), augment.MixUp(3, p=0.5)])}


class Seen(nn.Flatten):
    """Flattens, and notes what it saw."""

    def forward(self, x):
        self.inputs = x
        return super().forward(x)


@pytest.mark.parametrize("name", MIXES)
def test_transforms_of_augment_change_batches(name):
    ck.manual_seed(0)
    model, seen = nn.Sequential(Seen(), nn.Linear(72, 3)), []

    def loss(scores, targets):
        seen.append((model[0].inputs.numpy(), np.asarray(targets)))
        return F.cross_entropy(scores, targets)

    Trainer(model, optim.SGD(model.parameters(), 0.1), loss, batch_transform=MIXES[name], seed=5,
            progress=False).fit(run.build(None)[1], epochs=2)
    _, given, _ = run.build(None)
    for place, (x, t) in enumerate(batch for _ in range(2) for batch in given):
        stream = np.random.SeedSequence(5, spawn_key=(2, *divmod(place, len(given))))
        seed = int(np.random.default_rng(stream).integers(2**63))
        images, labels = MIXES[name](x.numpy(), t.numpy(), seed=seed)
        assert not np.array_equal(images, x.numpy())
        np.testing.assert_array_equal(seen[place][0], images)
        np.testing.assert_array_equal(seen[place][1], labels)
    assert len(seen) == place + 1 == 16


def augmented(folder, **transforms):
    """Return the run with byte images that `data.augment` changes, in loader or Trainer."""
    trainer, train, val = run.build(
        folder, batch_transform=transforms.get("batch_transform"))
    images = np.random.default_rng(0).integers(0, 256, (80, 2, 6, 6), np.uint8)
    dataset = data.ImageDataset(images, train.dataset.arrays[1], "abc")
    return trainer, data.DataLoader(dataset, 10, shuffle=True, seed=4, mean=0.5, std=0.25,
                                    transform=transforms.get("transform")), val


@pytest.mark.parametrize("transforms", [
    {"transform": augment.Compose([augment.RandomCrop(6, 1), augment.RandomRotation(20),
                                   augment.GaussianNoise(), augment.MixUp(3)])},
    {"batch_transform": MIXES["cutmix"]},
    {"transform": augment.RandomHorizontalFlip(), "batch_transform": MIXES["cowmix"]},
], ids=["loader", "trainer", "both"])
@pytest.mark.parametrize("step", [2, 7])
def test_an_augmented_run_can_be_resumed(tmp_path, transforms, step):
    """Steps 2 and 7 lie within an epoch of four."""
    def fit(folder, **how):
        trainer, train, val = augmented(folder, **transforms)
        trainer.fit(train, val, run.EPOCHS, **how)
        return trainer

    whole = fit(None)
    broken = fit(tmp_path, max_steps=step)
    assert 0 < broken.batch < 8 and broken.stopped
    ck.manual_seed(99)  # a process has other random numbers by then
    same(run.weights(fit(tmp_path, resume=True)), run.weights(whole))


def test_precision_is_that_of_the_run_only():
    seen = []

    class Look(Callback):
        def on_step(self, trainer):
            seen.append(ck.get_precision())

    small(precision="medium", callbacks=[Look()]).fit(batches(2))
    assert seen == ["medium"] and ck.get_precision() == "high"


def test_a_loss_of_more_than_two_entries():
    def weighted(scores, targets, weights):
        return (F.cross_entropy(scores, targets, reduction="none") * weights).mean()

    ck.manual_seed(0)
    model = nn.Linear(3, 2)
    x, t = batches(4)[0]
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1), weighted, progress=False)
    history = trainer.fit([(x, t, np.zeros(4, np.float32))])
    assert history[0]["loss"] == 0


def test_regression_has_no_accuracy():
    ck.manual_seed(0)
    model = nn.Linear(3, 2)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1), F.mse_loss, progress=False)
    x = np.ones((4, 3), np.float32)
    record, = trainer.fit([(x, np.ones((4, 2), np.float32))])
    assert record["accuracy"] is None and record["loss"] > 0
    assert "accuracy" not in str(trainer.evaluate([(x, np.ones((4, 2), np.float32))]))


# -- the run ---------------------------------------------------------------------------------


def test_records_and_metrics():
    trainer = small(metrics={"share": lambda t, scores: float((t == 1).mean())})
    history = trainer.fit(batches(4, 4), batches(5, seed=1), epochs=2)
    assert list(history[0]) == ["epoch", "step", "lr", "seconds", "images_per_second", "loss",
                                "accuracy", "val_loss", "val_accuracy", "val_share"]
    assert [r["epoch"] for r in history] == [1, 2] and [r["step"] for r in history] == [2, 4]
    expected = training.evaluate(trainer.model, batches(5, seed=1))
    assert history[1]["val_loss"] == expected.loss
    assert history[1]["val_accuracy"] == expected.accuracy
    assert history[1]["val_share"] == float((batches(5, seed=1)[0][1] == 1).mean())
    assert history[1]["loss"] < history[0]["loss"]


def test_pixels_are_counted_and_negative_labels_are_not():
    scores = np.zeros((2, 3, 2, 2), np.float32)
    scores[:, 1] = 1
    labels = np.array([[[1, 1], [0, -100]], [[1, 2], [2, 1]]])
    tally = training.results.Tally()
    tally.add(0.5, scores, labels)
    assert tally.result().accuracy == 4 / 7


def test_callbacks_are_called_in_order():
    calls = []

    class Log(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_") or name == "close":
                calls.append(name)
            return super().__getattribute__(name)

    small(callbacks=[Log()]).fit(batches(2, 2))
    step = ["on_gradients", "on_step", "on_batch_end"]
    assert calls == ["on_fit_start", "on_epoch_start", *step, *step, "on_epoch_end",
                     "on_fit_end", "close"]


def test_time_limit_counts_earlier_sittings(tmp_path):
    class Slow(Callback):
        def on_step(self, trainer):
            time.sleep(0.3)

    trainer, train, val = run.build(tmp_path, [Slow()], time_limit=0.2)
    trainer.fit(train, val, 2)
    assert trainer.step == 1 and trainer.stopped == "the time limit of 0.2 s is reached"
    trainer, train, val = run.build(tmp_path, time_limit=0.2)
    trainer.fit(train, val, 2, resume=True)
    assert trainer.step == 1 and trainer.stopped


def test_trial_run_touches_everything_but_files(tmp_path):
    for wanted, count in ((True, 1), (3, 3)):
        trainer, train, val = run.build(tmp_path, fast_dev_run=wanted, accumulate=1)
        history = trainer.fit(train, val, 50)
        assert trainer.step == count and len(history) == 1 and "val_loss" in history[0]
    assert not list(tmp_path.iterdir())


def test_divergence_leaves_the_weights_of_the_step_before():
    trainer = small()
    x, t = batches(3)[0]
    bad = ck.Tensor(np.full((3, 3), np.nan, np.float32))
    with pytest.raises(FloatingPointError, match="the loss became nan at batch 2"):
        trainer.fit([(x, t), (bad, t)])
    assert trainer.step == 1 and np.isfinite(trainer.model.weight.data).all()


def test_train_epoch_by_hand():
    ck.manual_seed(0)
    model = nn.Linear(3, 2)
    seen = []
    optimizer = optim.SGD(model.parameters(), 0.1)
    result = training.train_epoch(model, batches(4, 2), optimizer, progress=seen.append)
    assert result.samples == 6 and result.batches == 2 == len(seen)
    trainer = small()
    trainer.fit(batches(4, 2))
    np.testing.assert_array_equal(trainer.model.weight.data, model.weight.data)
    assert trainer.history[0]["loss"] == result.loss == seen[-1].loss


# -- early stopping and files ----------------------------------------------------------------


class Figures(Callback):
    """Puts given figures into the records."""

    def __init__(self, *values):
        self.values = values

    def on_epoch_end(self, trainer, record):
        record["val_loss"] = self.values[record["epoch"] - 1]


def test_early_stopping_keeps_the_best_weights():
    stop = EarlyStopping(patience=2, min_delta=0.05)
    kept = []

    class Keep(Callback):
        def on_epoch_end(self, trainer, record):
            kept.append(np.array(trainer.model.weight.data))

    trainer = small(callbacks=[Figures(3.0, 2.0, 1.99, 2.5, 1.0), Keep(), stop])
    trainer.fit(batches(4), epochs=5)
    assert len(trainer.history) == 4 and stop.best == 2.0
    assert stop.best_epoch == 2 and stop.best_step == 2
    assert trainer.stopped == "val_loss did not improve for 2 epochs"
    np.testing.assert_array_equal(trainer.model.weight.data, kept[1])


def test_early_stopping_when_more_is_better():
    stop = EarlyStopping(patience=1, monitor="val_accuracy")
    trainer = small(callbacks=[stop])
    trainer.fit(batches(4), [(x, 1 - t) for x, t in batches(4)], epochs=60)
    best = max(r["val_accuracy"] for r in trainer.history)
    assert stop.best == best and trainer.stopped


def test_a_figure_that_is_not_there():
    with pytest.raises(KeyError, match="expected 'val_loss' among an epoch's figures"):
        small(callbacks=[EarlyStopping()]).fit(batches(4))
    trainer = small(schedule_every="epoch", schedule_monitor="val_loss")
    trainer.scheduler = optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer)
    with pytest.raises(KeyError, match="the schedule reads 'val_loss', which is not among"):
        trainer.fit(batches(4))


@pytest.mark.parametrize("val", [None, []])
def test_data_without_batches_is_refused(val):
    with pytest.raises(ValueError, match="at least one"):
        small().fit([] if val is None else batches(4), val)
    with pytest.raises(ValueError, match="expected a loader with at least one batch, got none"):
        training.evaluate(small().model, [])


def test_data_that_can_be_gone_through_once_does_not_pass_for_several_epochs():
    trainer = small()
    with pytest.raises(ValueError, match="gave no batch in epoch 2"):
        trainer.fit(iter(batches(4, 4)), epochs=2)
    assert len(trainer.history) == 1


def test_losses_and_metrics_that_are_no_numbers():
    with pytest.raises(ValueError, match=r"loss of a batch as one number, got shape \(4,\)"):
        small(loss=lambda y, t: F.cross_entropy(y, t, reduction="none")).fit(batches(4))
    with pytest.raises(ValueError, match=r"metric 'mean' to return one number, got an array of"):
        small(metrics={"mean": lambda t, y: y.mean(0)}).fit(batches(4), batches(4))


def test_files_of_a_run(tmp_path):
    keep = Checkpoints(tmp_path / "new" / "run", every_epochs=1, keep=2)
    trainer = small(callbacks=[Figures(3.0, 1.0, 2.0, 2.5)], checkpoints=keep, ema=0.9)
    trainer.fit(batches(4), epochs=4)
    assert sorted(p.name for p in keep.folder.iterdir()) == [
        "best.safetensors", "epoch-0003.safetensors", "epoch-0004.safetensors",
        "last.safetensors"]
    assert training.read_checkpoint(keep.best)["position"]["epoch"] == 2
    assert training.read_checkpoint(keep.last)["position"]["epoch"] == 4
    other = nn.Linear(3, 2)
    training.load_weights(other, keep.last, averaged=False)
    np.testing.assert_array_equal(other.weight.data, trainer.model.weight.data)
    training.load_weights(other, keep.last)
    np.testing.assert_array_equal(other.weight.data, trainer.ema.average["weight"])


def test_checkpoints_are_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    trainer = small(checkpoints=tmp_path)
    trainer.fit(batches(4))
    tensors = safetensors.load_file(tmp_path / "last.safetensors")
    np.testing.assert_array_equal(tensors["model.weight"], trainer.model.weight.data)


def test_state_files_keep_every_kind_of_value(tmp_path, rng):
    path = tmp_path / "state.safetensors"
    state = {"a": [1, -2.5, None, True, "text"], "b": {0: (1, 2), "x.y": np.arange(3)},
             "b.x": {"y": np.float32([[1, 2]])}, "$": 3, "big": 2**127, "nan": float("nan"),
             "inf": -float("inf"), "flag": np.array([True, False]), "scalar": np.array(3, np.int64),
             "half": np.float16([1.5]), "tensor": ck.Tensor(np.eye(2)), "empty": np.zeros((0, 3))}
    write_state(path, state, "test")
    got = read_state(path, "test")
    assert got["a"] == state["a"] and got["b"][0] == (1, 2) and got["$"] == 3
    assert got["big"] == 2**127 and np.isnan(got["nan"]) and got["inf"] == -np.inf
    for given, back in ((state["b"]["x.y"], got["b"]["x.y"]),
                        (state["b.x"]["y"], got["b.x"]["y"]), (np.eye(2), got["tensor"]),
                        *((state[k], got[k]) for k in ("flag", "scalar", "half", "empty"))):
        assert back.dtype == given.dtype and back.shape == given.shape
        np.testing.assert_array_equal(back, given)
    with pytest.raises(ck.ModelFormatError, match="expected a file of kind 'other', got 'test'"):
        read_state(path, "other")
    with pytest.raises(TypeError, match=r"cannot store 'a\.0': expected arrays"):
        write_state(path, {"a": [object()]}, "test")
    assert read_state(path, "test")["big"] == 2**127  # a failure leaves the old file


def test_a_long_history_can_be_read_back(tmp_path):
    trainer = small(checkpoints=tmp_path)
    trainer.fit(batches(4))
    trainer.history *= 30_000
    trainer.history.append({"epoch": 7, "odd": None, "text": "a", "big": 2**70, "inf": np.inf})
    trainer.checkpoints.save_last(trainer)
    other = small(checkpoints=tmp_path)
    other.fit(batches(4), resume=True)
    assert other.history == trainer.history


def test_damaged_checkpoints_are_refused(tmp_path, rng):
    trainer = small(checkpoints=tmp_path)
    trainer.fit(batches(4))
    path = tmp_path / "last.safetensors"
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content[:rng.integers(1, len(content) + 1)])
        for _ in range(rng.integers(0, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            trainer.load_state_dict(training.read_checkpoint(path))
        except (ck.ModelFormatError, ValueError, RuntimeError):
            pass


@pytest.mark.parametrize("options, text", [
    ({"accumulate": 0}, "expected accumulate of at least 1, got 0"),
    ({"clip_norm": -1}, "expected clip_norm above 0, got -1"),
    ({"max_norm": 0}, "expected max_norm above 0, got 0"),
    ({"weight_noise": -1}, "expected weight_noise above 0, got -1"),
    ({"time_limit": 0}, "expected time_limit above 0, got 0"),
    ({"schedule_every": "day"}, "expected schedule_every 'step' or 'epoch', got 'day'"),
    ({"schedule_monitor": "val_loss"}, "needs schedule_every='epoch'"),
    ({"precision": "best"}, "expected precision 'highest', 'high', 'medium', got 'best'"),
    ({"metrics": {"loss": len}}, r"expected other names of metrics than \['loss'\]"),
    ({"ema": 1.0}, "expected a decay from 0 to below 1, got 1.0"),
])
def test_bad_settings(options, text):
    with pytest.raises(ValueError, match=text):
        small(**options)


@pytest.mark.parametrize("make, text", [
    (lambda: EarlyStopping(0), "expected patience of at least 1, got 0"),
    (lambda: EarlyStopping(mode="up"), "expected mode 'min' or 'max', got 'up'"),
    (lambda: EarlyStopping(min_delta=-1), "expected min_delta of at least 0, got -1"),
    (lambda: Checkpoints("x", keep=0), "expected keep of at least 1, got 0"),
])
def test_bad_settings_of_parts(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_progress_bar(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    ck.manual_seed(0)
    model = nn.Linear(3, 2)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1), progress=True)
    trainer.fit(batches(4, 4))
    assert "epoch 1/1" in capsys.readouterr().err
    small().fit(batches(4, 4))
    quiet = Trainer(model, optim.SGD(model.parameters(), 0.1))
    quiet.fit(batches(4, 4))
    assert capsys.readouterr().err == ""


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"needs tqdm: pip install 'convkit\[train\]'"):
        small().callbacks.append(training.ProgressBar())


def test_data_that_a_loader_shuffles_is_the_same_for_both_kinds_of_run(tmp_path):
    """A run resumed from the last step of an epoch validates and records that epoch once."""
    trainer, train, val = run.build(tmp_path)
    trainer.fit(train, val, 2, max_steps=4)
    assert trainer.batch == len(train) and not trainer.history
    trainer, train, val = run.build(tmp_path)
    trainer.fit(train, val, 1, resume=True)
    assert len(trainer.history) == 1 and trainer.step == 4
    assert isinstance(train, data.DataLoader) and train.state_dict()["epoch"] == 1


@pytest.mark.parametrize("step", [3, 8, 11])
def test_a_sampled_run_can_be_resumed(tmp_path, step):
    labels = np.repeat([0, 1], [30, 10])
    dataset = data.TensorDataset(np.random.default_rng(0).standard_normal((40, 3))
                                 .astype(np.float32), labels)

    def make(folder):
        trainer = small(checkpoints=folder)
        sampler = data.WeightedRandomSampler(np.where(labels, 3.0, 1.0), 40)
        return trainer, data.DataLoader(dataset, 10, sampler=sampler)

    whole, loader = make(None)
    whole.fit(loader, epochs=3)
    broken, loader = make(tmp_path)
    broken.fit(loader, epochs=3, max_steps=step)
    resumed, loader = make(tmp_path)
    resumed.fit(loader, epochs=3, resume=True)
    np.testing.assert_array_equal(whole.model.weight.data, resumed.model.weight.data)


# -- every optimiser and schedule ------------------------------------------------------------

S = optim.lr_scheduler
SCHEDULES = {
    "StepLR": lambda o: S.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [2, 4], 0.5),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 2, 2),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.01, 0.2, 2, 3, "exp_range", 0.9),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.2, 8, three_phase=True),
    "LinearLR": lambda o: S.LinearLR(o, total_iters=3),
    "ConstantLR": lambda o: S.ConstantLR(o, total_iters=3),
    "LambdaLR": lambda o: S.LambdaLR(o, lambda n: 0.9**n),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda n: 1 - 0.1 * n),
    "ReduceLROnPlateau": lambda o: S.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "SequentialLR": lambda o: S.SequentialLR(
        o, [S.LinearLR(o, 0.1, total_iters=2), S.CosineAnnealingLR(o, 6)], [2]),
}
OPTIMIZERS = {
    "plain SGD": lambda p: optim.SGD(p, 0.1),
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, 0.1),
    "AdamW": lambda p: optim.AdamW(p, 0.1, amsgrad=True),
    "Adagrad": lambda p: optim.Adagrad(p, 0.1, lr_decay=0.01),
    "Adadelta": lambda p: optim.Adadelta(p, 0.1),
    "RMSprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
}


def exported(room, base):
    """Return the names of all classes that a package exports, but for their base."""
    classes = {name: getattr(room, name) for name in room.__all__}
    return [name for name, c in classes.items() if isinstance(c, type) and c is not base]


def resumed_like_whole(tmp_path, make_optimizer, make_schedule, **options):
    """Run 8 steps in one go, and 3 and then 5 by way of a file; compare weights and rates."""
    def make(folder):
        ck.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = make_optimizer(model.parameters())
        return Trainer(model, optimizer, scheduler=make_schedule(optimizer),
                       checkpoints=folder, progress=False, **options)

    whole, broken, resumed = make(None), make(tmp_path), make(tmp_path)
    part = batches(4, 4)
    whole.fit(part, part, epochs=4)
    broken.fit(part, part, epochs=4, max_steps=3)
    resumed.fit(part, part, epochs=4, resume=True)
    assert resumed.step == 8
    np.testing.assert_array_equal(whole.model.weight.data, resumed.model.weight.data)
    rates, resumed_rates = ({k: v for k, v in t.optimizer.param_groups[0].items() if k != "params"}
                            for t in (whole, resumed))
    assert rates == resumed_rates
    return whole


@pytest.mark.parametrize("name", exported(S, S.LRScheduler))
def test_every_schedule_can_be_resumed(tmp_path, name):
    resumed_like_whole(tmp_path, OPTIMIZERS["SGD"], SCHEDULES[name])


@pytest.mark.parametrize("name", sorted({*exported(optim, optim.Optimizer), *OPTIMIZERS}))
def test_every_optimiser_can_be_resumed(tmp_path, name):
    resumed_like_whole(tmp_path, OPTIMIZERS[name], SCHEDULES["CosineAnnealingLR"])


def test_a_schedule_that_waits_for_a_plateau_needs_no_settings(tmp_path):
    whole = resumed_like_whole(tmp_path, OPTIMIZERS["SGD"], SCHEDULES["ReduceLROnPlateau"])
    assert whole.schedule_every == "epoch" and whole.history[-1]["lr"] < 0.1
