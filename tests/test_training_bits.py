"""Whole training runs: the same bits for any number of threads, and no fresh memory."""

from __future__ import annotations

import hashlib
import resource

import numpy as np
import pytest
from harness import run_python

import convkit as ck
from convkit import data, models, nn, optim, training
from convkit import functional as F
from convkit._kernels import memory


def net():
    ck.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 17, 3, padding=1, bias=False), nn.BatchNorm2d(17), nn.ReLU(),
        nn.Conv2d(17, 17, 3, padding=1, groups=17), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(17, 32, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10))


def stepper(batch=24, make=net, size=16):
    """Return a function that takes one step of training, and the network."""
    rng = np.random.default_rng(1)
    x = ck.Tensor(rng.standard_normal((batch, 3, size, size), np.float32))
    target = rng.integers(0, 10, batch)
    model = make()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optim.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return step, model


def digest(model):
    sums = hashlib.sha256()
    for name, value in model.state_dict().items():
        sums.update(name.encode() + np.ascontiguousarray(value.data).tobytes())
    return sums.hexdigest()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_weights_after_50_steps_do_not_depend_on_the_threads(precision):
    found, start = set(), digest(net())
    for threads in (1, 2, 3, 4):
        with ck.threads(threads), ck.precision(precision):
            step, model = stepper()
            for _ in range(50):
                step()
            found.add(digest(model))
    assert len(found) == 1 and start not in found


def test_resnet20s_weights_after_50_steps_do_not_depend_on_the_threads():
    """The network of the benchmarks, in the default precision, by SGD with momentum."""
    def resnet20():
        ck.manual_seed(0)
        return models.resnet20()

    found = set()
    for threads in (1, 2, 3, 4):
        with ck.threads(threads):
            step, model = stepper(2, resnet20, 32)
            for _ in range(50):
                step()
            found.add(digest(model))
    assert len(found) == 1 and digest(resnet20()) not in found


def test_precisions_are_told_apart_by_the_digest():
    found = set()
    for precision in ("highest", "high"):  # the latter by Winograd
        with ck.precision(precision):
            step, model = stepper()
            step()
            found.add(digest(model))
    assert len(found) == 2


def test_a_steady_step_takes_no_fresh_pages():
    step, _ = stepper(64)
    for _ in range(10):
        step()
    fresh, faults = memory.stats()["fresh"], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    assert memory.stats()["fresh"] == fresh
    assert memory.stats()["held"] <= memory.stats()["bound"]
    # A step's values are some 1,500 pages; the interpreter may take a few of its own.
    assert faults < 20 * 20


def test_the_pool_keeps_within_its_bound():
    before = memory.stats()["bound"]
    try:
        memory.set_bound(1 << 20)
        step, _ = stepper(64)
        for _ in range(3):
            step()
            assert memory.stats()["held"] <= 1 << 20
    finally:
        memory.set_bound(before)


def test_accumulated_steps_are_those_of_the_whole_batch():
    """Unequal batches count by their samples; without batch norm they are one batch cut up."""
    rng = np.random.default_rng(0)
    dataset = data.TensorDataset(rng.standard_normal((20, 3, 8, 8), np.float32),
                                 rng.integers(0, 4, 20))
    weights = []
    for batch, accumulate in ((20, 1), (8, 3)):
        ck.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
        trainer = training.Trainer(model, optim.SGD(model.parameters(), lr=0.1),
                                   accumulate=accumulate, progress=False)
        trainer.fit(data.DataLoader(dataset, batch), epochs=2)
        assert trainer.step == 2
        weights.append([np.array(p.data) for p in model.parameters()])
    for whole, cut in zip(*weights, strict=True):
        np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-6)


def test_a_step_takes_little_more_memory_than_its_values():
    """Neither packed weights nor blocks of the wrong size lie about, nor values nobody reads."""
    run_python("""
    import numpy as np
    import convkit as ck
    from convkit import functional as F, nn, optim
    from convkit._kernels import memory

    def block(before, after):
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after),
                nn.ReLU(), nn.MaxPool2d(2)]

    model = nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), *block(128, 256),
                          nn.Flatten(), nn.Linear(256 * 16, 4))
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, target = ck.ones(4, 3, 64, 64), np.zeros(4, int)
    for _ in range(4):
        before = memory.stats()["used"]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        kept = memory.stats()["used"]
        loss.backward()
        optimizer.step()
    # Of each block: the norm's input, the pool's result and its indices, of one byte.
    values = sum(4 * c * (64 >> i) ** 2 * (4 + 1 + 1 / 4) for i, c in enumerate((32, 64, 128, 256)))
    weights = 4 * sum(p.numel() for p in model.parameters())
    stats = memory.stats()
    assert kept < 1.1 * values + weights, (kept, values, weights)
    assert stats["most"] < 2 * (values + 2 * weights), stats
    assert stats["held"] + stats["used"] < 1.25 * stats["most"], stats
    """)
