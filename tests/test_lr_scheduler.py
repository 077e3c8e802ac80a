"""Schedules step by step beside PyTorch's, and put back to where they were."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from convkit import optim
from convkit.nn import Parameter
from convkit.optim import lr_scheduler

STEPS = 24
SCHEDULES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [9, 4, 4, 15], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("PolynomialLR", {"total_iters": 11, "power": 1.7}),
    ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 4, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.1, "total_iters": 9}),
    ("ConstantLR", {"factor": 0.2, "total_iters": 4}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS}),
    ("OneCycleLR", {"max_lr": [0.5, 0.9], "epochs": 3, "steps_per_epoch": STEPS // 3,
                    "pct_start": 0.4, "anneal_strategy": "linear", "three_phase": True}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS, "cycle_momentum": False,
                    "div_factor": 10.0, "final_div_factor": 50.0}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.4, "step_size_up": 4}),
    ("CyclicLR", {"base_lr": [0.01, 0.02], "max_lr": [0.4, 0.3], "step_size_up": 3,
                  "step_size_down": 5, "mode": "triangular2", "base_momentum": [0.7, 0.6],
                  "max_momentum": 0.95}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.4, "step_size_up": 5, "mode": "exp_range",
                  "gamma": 0.97, "cycle_momentum": False}),
    ("MultiplicativeLR", {"lr_lambda": lambda step: 1 - 0.02 * step}),
]


def make(module, parameter, name="SGD", **settings):
    """Return an optimiser of two groups, of convkit's or PyTorch's."""
    if name == "SGD":
        settings = {"momentum": 0.9, **settings}
    return getattr(module, name)([{"params": [parameter()]}, {"params": [parameter()], "lr": 0.3}],
                                 lr=0.1, **settings)


def ours(name="SGD"):
    return make(optim, lambda: Parameter(np.ones(1)), name)


def figures(optimizer):
    """Return every group's rate and momentum."""
    return [(g["lr"], g["betas"][0] if "betas" in g else g["momentum"])
            for g in optimizer.param_groups]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "args"), SCHEDULES)
def test_rates_are_pytorchs(torch, name, args, optimizer):
    mine = ours(optimizer)
    theirs = make(torch.optim, lambda: torch.zeros(1), optimizer)
    schedule = getattr(lr_scheduler, name)(mine, **args)
    reference = getattr(torch.optim.lr_scheduler, name)(theirs, **args)
    for _ in range(STEPS):
        np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-9, atol=1e-15)
        assert schedule.get_last_lr() == [g["lr"] for g in mine.param_groups]
        theirs.step()
        reference.step()
        schedule.step()


@pytest.mark.parametrize(("name", "args"), SCHEDULES)
def test_put_back_gives_the_same_bits(name, args):
    first, second = ours(), ours()
    schedule = getattr(lr_scheduler, name)(first, **args)
    for _ in range(9):
        schedule.step()
    resumed = getattr(lr_scheduler, name)(second, **args)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.load_state_dict(copy.deepcopy(schedule.state_dict()))
    for _ in range(9):
        assert figures(first) == figures(second)
        schedule.step()
        resumed.step()


CHAINS = [
    [("LinearLR", {"start_factor": 0.1, "total_iters": 5}), ("ExponentialLR", {"gamma": 0.9})],
    [("ExponentialLR", {"gamma": 0.9}), ("LinearLR", {"start_factor": 0.1, "total_iters": 5})],
    [("ConstantLR", {"factor": 0.2, "total_iters": 4}), ("CosineAnnealingLR", {"T_max": 7})],
    [("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.01}), ("StepLR", {"step_size": 3})],
    [("MultiStepLR", {"milestones": [4, 9]}), ("PolynomialLR", {"total_iters": 12})],
    [("MultiplicativeLR", {"lr_lambda": lambda step: 1 - 0.02 * step}),
     ("StepLR", {"step_size": 4, "gamma": 0.5}), ("LinearLR", {})],
    [("LambdaLR", {"lr_lambda": lambda step: 1 / (1 + step)}), ("StepLR", {"step_size": 2})],
    [("LinearLR", {"start_factor": 0.1}), ("ReduceLROnPlateau", {"patience": 2})],
]


def chain(module, optimizer, parts):
    return [getattr(module, name)(optimizer, **args) for name, args in parts]


def step_in_turn(schedules, figure):
    for schedule in schedules:
        schedule.step(*[figure] * ("Plateau" in type(schedule).__name__))


@pytest.mark.parametrize("parts", CHAINS, ids=lambda parts: "-".join(name for name, _ in parts))
def test_schedules_stepped_in_turn_are_pytorchs(torch, parts):
    """They go together, and all that they are is in their states and the optimiser's."""
    mine, theirs = ours(), make(torch.optim, lambda: torch.zeros(1))
    schedules = chain(lr_scheduler, mine, parts)
    references = chain(torch.optim.lr_scheduler, theirs, parts)
    for step in range(STEPS):
        np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-9, atol=1e-15,
                                   err_msg=str(step))
        theirs.step()
        step_in_turn(references, 1.0)
        step_in_turn(schedules, 1.0)
        if step == 7:
            saved = copy.deepcopy([x.state_dict() for x in (mine, *schedules)])
            resumed = chain(lr_scheduler, again := ours(), parts)
            for x, state in zip((again, *resumed), saved, strict=True):
                x.load_state_dict(state)
        elif step > 7:
            step_in_turn(resumed, 1.0)
            assert figures(again) == figures(mine)


def test_rates_that_were_set_are_gone_on_from(torch):
    mine, theirs = ours(), make(torch.optim, lambda: torch.zeros(1))
    schedule = lr_scheduler.StepLR(mine, 2, 0.5)
    reference = torch.optim.lr_scheduler.StepLR(theirs, 2, 0.5)
    for step in range(6):
        if step == 3:
            mine.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 7.0
        theirs.step()
        reference.step()
        schedule.step()
    np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-12)
    assert mine.param_groups[0]["lr"] == 1.75


def test_states_without_rates_set_their_own():
    """As saved before schedules could be chained."""
    schedule = lr_scheduler.StepLR(ours(), 2, 0.5)
    state = {k: v for k, v in schedule.state_dict().items() if k != "lrs"}
    resumed = lr_scheduler.StepLR(mine := ours(), 2, 0.5)
    resumed.load_state_dict({**state, "last_epoch": 4})
    assert figures(mine)[0][0] == 0.025


def sequence(module, optimizer):
    """Return a warm-up, a fall, and steps, one after the other."""
    parts = [module.LinearLR(optimizer, 0.1, total_iters=4),
             module.CosineAnnealingLR(optimizer, 8), module.StepLR(optimizer, 2, 0.5)]
    return module.SequentialLR(optimizer, parts, [4, 12])


def test_sequence_is_pytorchs(torch):
    mine, theirs = ours(), make(torch.optim, lambda: torch.zeros(1))
    schedule = sequence(lr_scheduler, mine)
    reference = sequence(torch.optim.lr_scheduler, theirs)
    for step in range(STEPS):
        np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-9, atol=1e-15,
                                   err_msg=str(step))
        theirs.step()
        reference.step()
        schedule.step()
    again = ours()
    resumed = sequence(lr_scheduler, again)
    resumed.load_state_dict(copy.deepcopy(schedule.state_dict()))
    for _ in range(5):
        assert figures(again) == figures(mine)
        resumed.step()
        schedule.step()


def test_lambdas_are_pytorchs(torch):
    mine, theirs = ours(), make(torch.optim, lambda: torch.zeros(1))
    factors = [lambda t: 0.9 ** t, lambda t: 1 / (1 + t)]
    schedule = lr_scheduler.LambdaLR(mine, factors)
    reference = torch.optim.lr_scheduler.LambdaLR(theirs, factors)
    for _ in range(10):
        np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-12)
        theirs.step()
        reference.step()
        schedule.step()
    resumed = lr_scheduler.LambdaLR(again := ours(), factors)
    resumed.load_state_dict(schedule.state_dict())
    assert figures(again) == figures(mine)


def test_warm_restarts_take_fractions_of_epochs(torch):
    mine, theirs = ours(), make(torch.optim, lambda: torch.zeros(1))
    schedule = lr_scheduler.CosineAnnealingWarmRestarts(mine, 3, 2)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, 3, 2)
    for epoch in np.arange(0, 12, 0.25):
        schedule.step(float(epoch))
        reference.step(float(epoch))
        np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("args", [
    {}, {"mode": "max", "factor": 0.5}, {"threshold_mode": "abs", "threshold": 0.05},
    {"patience": 1, "cooldown": 3, "min_lr": [0.02, 0.05]}, {"patience": 0, "eps": 0.05}])
@pytest.mark.parametrize("sign", [1, -1])
def test_plateaus_are_pytorchs(torch, args, sign):
    args = {"patience": 2, **args}
    mine, theirs = ours(), make(torch.optim, lambda: torch.zeros(1))
    schedule = lr_scheduler.ReduceLROnPlateau(mine, **args)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **args)
    rng = np.random.default_rng(5)
    for step in range(60):
        figure = sign * (1 / (1 + step) + 0.1 * rng.random())
        if step == 20:
            figure = float("nan")
        schedule.step(figure)
        reference.step(figure)
        np.testing.assert_allclose(figures(mine), figures(theirs), rtol=1e-12, err_msg=str(step))
        if step == 30:
            state = copy.deepcopy(schedule.state_dict())
            schedule = lr_scheduler.ReduceLROnPlateau(mine)
            schedule.load_state_dict(state)
    assert mine.param_groups[0]["lr"] < 0.1


@pytest.mark.parametrize(("name", "args", "message"), [
    ("StepLR", {"step_size": 0}, "step_size of at least 1, got 0"),
    ("StepLR", {"step_size": 2, "gamma": -0.5}, "gamma of at least 0, got -0.5"),
    ("MultiStepLR", {"milestones": [2], "gamma": -1}, "gamma of at least 0, got -1"),
    ("ExponentialLR", {"gamma": -0.9}, "gamma of at least 0, got -0.9"),
    ("ExponentialLR", {"gamma": float("nan")}, "gamma of at least 0, got nan"),
    ("CyclicLR", {"base_lr": 1, "max_lr": 2, "mode": "exp_range", "gamma": -1},
     "gamma of at least 0, got -1"),
    ("PolynomialLR", {"power": -1}, "power of at least 0, got -1"),
    ("CosineAnnealingWarmRestarts", {"T_0": 0}, "T_0 of at least 1"),
    ("LinearLR", {"start_factor": 0}, "start_factor above 0 and at most 1, got 0"),
    ("LinearLR", {"end_factor": 2}, "end_factor from 0 to 1, got 2"),
    ("ConstantLR", {"factor": -1}, "factor from 0 to 1"),
    ("LambdaLR", {"lr_lambda": [abs]}, "expected 2 functions, one for each group, got 1"),
    ("OneCycleLR", {"max_lr": 1}, "expected total_steps, or epochs and steps_per_epoch"),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 5, "pct_start": 2}, "pct_start from 0 to 1"),
    ("OneCycleLR", {"max_lr": [1], "total_steps": 5}, "expected 2 values of max_lr, got 1"),
    ("CyclicLR", {"base_lr": [1], "max_lr": 2}, "expected 2 values of base_lr, got 1"),
    ("CyclicLR", {"base_lr": 1, "max_lr": 2, "mode": "x"}, "expected mode 'triangular'"),
    ("CyclicLR", {"base_lr": 1, "max_lr": 2, "step_size_up": 0}, "step sizes above 0"),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 5, "anneal_strategy": "x"}, "'cos' or 'linear'"),
    ("ReduceLROnPlateau", {"factor": 1.0}, "a factor below 1, got"),
    ("ReduceLROnPlateau", {"mode": "x"}, "'min' or 'max'"),
    ("SequentialLR", {"schedulers": [], "milestones": []}, "one milestone fewer"),
])
def test_bad_settings(name, args, message):
    with pytest.raises(ValueError, match=message):
        getattr(lr_scheduler, name)(ours(), **args)


def test_bad_sequences():
    optimizer = ours()
    part = lr_scheduler.StepLR(optimizer, 3)
    with pytest.raises(ValueError, match="rising milestones"):
        lr_scheduler.SequentialLR(optimizer, [part] * 3, [5, 2])
    with pytest.raises(ValueError, match="need no figures, got ReduceLROnPlateau"):
        lr_scheduler.SequentialLR(
            optimizer, [part, lr_scheduler.ReduceLROnPlateau(optimizer)], [2])
    with pytest.raises(TypeError, match="expected an Optimizer, got int"):
        lr_scheduler.StepLR(3, 3)


def test_one_cycle_ends():
    schedule = lr_scheduler.OneCycleLR(ours(), 1.0, total_steps=3)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="expected at most 3 steps, got 4"):
        schedule.step()
