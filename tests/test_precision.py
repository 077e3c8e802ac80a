"""The precision setting: where it can be said, what it reaches, and its errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from harness import random_array

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit.ops import planner


@pytest.fixture
def seen(monkeypatch):
    """Record the precision and task of every problem that reaches the planner."""
    calls = []
    real = planner.prepared

    def spy(task, problem, *arguments, **more):
        calls.append((task, problem.precision))
        return real(task, problem, *arguments, **more)

    made = planner.steps

    def spy_steps(b, task, problem, *arguments, **more):
        calls.append((task, problem.precision))
        return made(b, task, problem, *arguments, **more)

    monkeypatch.setattr(planner, "prepared", spy)
    monkeypatch.setattr(planner, "steps", spy_steps)
    return calls


def test_high_is_the_default_and_a_block_changes_it_for_this_thread_alone():
    assert ck.get_precision() == "high"
    elsewhere = []
    with ck.precision("medium"):
        assert ck.get_precision() == "medium"
        thread = threading.Thread(target=lambda: elsewhere.append(ck.get_precision()))
        thread.start()
        thread.join()
        with ck.precision("highest"):
            assert ck.get_precision() == "highest"
        assert ck.get_precision() == "medium"
    assert ck.get_precision() == "high"
    assert elsewhere == ["high"]


def test_the_process_setting_reaches_other_threads():
    ck.set_precision("highest")
    try:
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(ck.get_precision()))
        thread.start()
        thread.join()
        assert elsewhere == ["highest"]
    finally:
        ck.set_precision("high")


@pytest.mark.parametrize("name", ["low", "", None, 3, "HIGH"])
def test_unknown_precisions_are_refused(name):
    with pytest.raises(ValueError, match="expected precision 'highest', 'high', 'medium', got"):
        ck.set_precision(name)
    with pytest.raises(ValueError, match="expected precision"), ck.precision(name):
        pass
    if name is not None:
        with pytest.raises(ValueError, match="expected precision"):
            F.linear(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), precision=name)
    assert ck.get_precision() == "high"


def test_backward_has_the_precision_of_its_forward(seen):
    x = ck.tensor(random_array((2, 3, 6, 6)), requires_grad=True)
    layer = nn.Conv2d(3, 4, 3)
    with ck.precision("highest"):
        loss = layer(x).sum()
    loss.backward()
    assert seen == [("forward", "highest"), ("grad_weight", "highest"), ("grad_input", "highest")]


def test_a_call_can_say_its_own(seen):
    x, w = random_array((1, 3, 6, 6)), random_array((3, 3, 3, 3))
    F.conv2d(x, w, precision="medium")
    F.conv_transpose2d(x, w, precision="highest")
    F.linear(x, random_array((2, 6)), precision="medium")
    F.conv2d(x, w)
    assert [p for _, p in seen] == ["medium", "highest", "medium", "high"]


def test_a_program_keeps_its_own_and_a_file_none(tmp_path, seen):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    program = ck.compile(model, (1, 3, 6, 6), precision="highest")
    with ck.precision("medium"):
        later = ck.compile(model, (1, 3, 6, 6))
    assert (program.precision, later.precision) == ("highest", "medium")
    ck.save(program, tmp_path / "m.ckit")
    assert ck.load(tmp_path / "m.ckit").precision == "high"
    program, loaded = (ck.load(tmp_path / "m.ckit", precision=p) for p in ("highest", "medium"))
    seen.clear()
    x = random_array((2, 3, 6, 6))
    with ck.precision("high"):
        program.run(x)
        loaded.run(x)
    assert seen == [("forward", "highest")] * 2 + [("forward", "medium")] * 2
    with pytest.raises(ValueError, match="expected precision"):
        ck.compile(model, (1, 3, 6, 6), precision="int4")


def test_highest_is_plain_float32_arithmetic_for_every_layer_form():
    problem = F.conv2d(random_array((1, 64, 12, 12)), random_array((64, 64, 3, 3)),
                       precision="highest")
    direct = F.conv2d(random_array((1, 64, 12, 12)), random_array((64, 64, 3, 3)),
                      algorithm="direct")
    np.testing.assert_array_equal(problem.data, direct.data)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_in_medium_with_float32_weights(threads):
    """Losses follow those of float32 without any scaling; weights and gradients stay float32."""
    from convkit import nn, optim

    def losses(precision):
        ck.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
                              nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(),
                              nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        rng = np.random.default_rng(0)
        x = ck.Tensor(rng.standard_normal((16, 3, 12, 12)).astype(np.float32))
        target = rng.integers(0, 4, 16)
        found = []
        with ck.precision(precision), ck.threads(threads):
            for _ in range(12):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), target)
                loss.backward()
                assert all(p.dtype == p.grad.dtype == np.float32 for p in model.parameters())
                optimizer.step()
                found.append(loss.item())
        return np.array(found)

    reference, medium = losses("highest"), losses("medium")
    assert reference[-1] < 0.9 * reference[0]
    np.testing.assert_allclose(medium, reference, rtol=0.03)
