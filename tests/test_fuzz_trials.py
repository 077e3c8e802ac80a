"""Random networks, calls and expressions by fixed seeds, and the machinery that judges them."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace

import numpy as np
import pytest
from fuzz import expressions, functions, networks, trials
from fuzz.calls import Call
from fuzz.layers import Layer, Network
from fuzz.steps import Expression, Step

import convkit as ck
from convkit.infer import Program

# Cases of each subject: some seconds.
SUBJECTS = {"networks": 10, "training": 16, "int8": 8, "open_sizes": 10, "functions": 200,
            "gradients": 40, "expressions": 24, "feeding": 10, "optimising": 6}


@pytest.mark.parametrize("name", SUBJECTS)
def test_random_cases(name):
    subject = importlib.import_module(f"fuzz.{name}")
    absent = trials.missing(subject)
    if absent:
        pytest.skip(absent)
    report = trials.search(subject, range(1000, 1000 + SUBJECTS[name]))
    assert not report.failures, "\n".join(report.failures)
    assert report.judged > SUBJECTS[name] // 2, report.aside


class Broken:
    """A subject with a network that fails where it holds a ReLU."""

    NEEDS = ()

    @staticmethod
    def draw(seed):
        shape = (2, 4, 4)
        names = ["Sigmoid", "Tanh", "ReLU", "Tanh"] if seed == 3 else ["Tanh"]
        return Network(seed, 2, shape, tuple(Layer(n, (), shape, shape) for n in names))

    @staticmethod
    def judge(network):
        if network.seed == 1:
            raise trials.SetAside("nothing to say")
        if any(layer.name == "ReLU" for layer in network.layers):
            trials.close("result", np.ones(3), np.zeros(3), 1e-3)


def test_failures_are_told_by_seed_and_made_small():
    report = trials.search(Broken, range(5))
    assert (report.judged, report.aside) == (4, {"nothing to say": [1]})
    assert len(report.failures) == 1
    assert report.failures[0].startswith("seed 3: result: off by")
    assert report.failures[0].endswith("x (1, 2, 4, 4): ReLU()")


def test_errors_tell_their_place(monkeypatch):
    monkeypatch.setattr(Broken, "judge", staticmethod(lambda network: {}["nothing"]))
    report = trials.search(Broken, range(3), most=2)
    assert report.judged == 2 and len(report.failures) == 2
    assert "KeyError: 'nothing' (" in report.failures[0]


def test_time_is_bounded():
    assert trials.search(Broken, range(10**9), seconds=0.05).judged > 1


def test_the_command_tells_cases_and_failures(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["broken.py", "--seeds", "0", "5"])
    assert trials.main(Broken) == 1
    said = capsys.readouterr().out
    assert said.startswith("4 cases from seed 0 on") and "1 failed" in said
    assert "1 set aside (nothing to say), the first of seed 1" in said and "ReLU()" in said


# ---- each subject finds what is wrong ------------------------------------------------------------


def failure(subject, case):
    with pytest.raises(trials.Failure) as caught, np.errstate(all="ignore"):
        subject.judge(case)
    return str(caught.value)


def wrong(monkeypatch, owner, name, change=lambda y: y * 1.01):
    """Let a function's result be changed."""
    right = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **options: change(right(*args, **options)))


def layer(name, *args, gives=(2, 6, 6), **options):
    return Layer(name, args, (2, 6, 6), gives, options)


CONVOLUTION = Network(1, 2, (2, 6, 6), (layer("Conv2d", 2, 3, 3, padding=1, gives=(3, 6, 6)),))


def test_wrong_layers_are_found(monkeypatch, torch):
    wrong(monkeypatch, ck.functional, "relu")
    gate = Network(1, 2, (2, 6, 6), (layer("Residual", (layer("Tanh"),), True),))
    assert re.search(r"layers at '\w+': off by (9.9|1.0)", failure(networks, gate))


def test_wrong_files_are_found(monkeypatch, torch):
    wrong(monkeypatch, ck, "load", lambda program: lambda x: program(x) + 1e-6)
    assert ".ckit file: other bits" in failure(networks, CONVOLUTION)


def test_wrong_gradients_are_found(monkeypatch, torch):
    from fuzz import training

    backward = ck.Tensor.backward
    monkeypatch.setattr(ck.Tensor, "backward",
                        lambda self, gradient: backward(self, gradient * np.float32(1.1)))
    assert "gradient of the input" in failure(training, CONVOLUTION)


def test_wrong_bytes_are_found(monkeypatch):
    from fuzz import int8

    wrong(monkeypatch, ck, "quantize", lambda program: Altered(program))
    assert "int8, samples alone: other bits" in failure(int8, CONVOLUTION)


class Altered:
    """A Program whose result depends on the batch."""

    def __init__(self, program):
        self.program = program

    def __call__(self, x):
        return self.program(x) * np.float32(1 + 1e-3 * len(x))


def test_wrong_sizes_are_found(monkeypatch):
    from fuzz import open_sizes

    wrong(monkeypatch, ck, "compile", lambda program: lambda x: program(x)[..., :-1])
    assert "expected (2, 3, " in failure(open_sizes, CONVOLUTION)


def test_wrong_ways_to_feed_are_found(monkeypatch):
    from fuzz import feeding

    case = feeding.Feeding(1, (CONVOLUTION, replace(CONVOLUTION, seed=2)), "dict", "float32")
    feeding.judge(case)
    run = Program.run

    def forgets_names(self, x, out=None):
        if isinstance(x, dict):
            x = tuple(x.values())
        return run(self, x, out)

    monkeypatch.setattr(Program, "run", forgets_names)
    assert "a dict turned round, output 0: other bits" in failure(feeding, case)


def test_wrong_updates_are_found(monkeypatch, torch):
    from fuzz import optimising

    network = Network(3, 2, (2, 6, 6), (*CONVOLUTION.layers, Layer(
        "BatchNorm2d", (3,), (3, 6, 6), (3, 6, 6))))
    optimising.judge(network)
    state_dict = ck.optim.Optimizer.state_dict
    monkeypatch.setattr(ck.optim.Optimizer, "state_dict", lambda self: {
        **state_dict(self), "state": {}})
    found = [n for n in range(8) if _fails(optimising, replace(network, seed=n))]
    assert found


def _fails(subject, case):
    try:
        subject.judge(case)
    except AssertionError as wrong:
        assert "resumed: " in str(wrong)
        return True
    return False


def test_wrong_functions_are_found(monkeypatch, torch):
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    call = Call("relu", (x,), {})
    functions.judge(call)
    wrong(monkeypatch, ck.functional, "relu")
    assert "result 0: off by 1.00e-02" in failure(functions, call)
    monkeypatch.setattr(ck.functional, "relu", lambda x: x > 0)
    assert "types ['bool'], expected ['float32']" in failure(functions, call)
    assert "PyTorch refuses" in failure(functions, Call("relu", (x > 0,), {}))


def test_wrong_tensors_are_found(monkeypatch, torch):
    from fuzz import gradients

    expression = Expression(3, ((2, 3), (3,)), (Step("add", (0, 1), ()), Step("tanh", (2,), ())))
    gradients.judge(expression)
    wrong(monkeypatch, ck.Tensor, "tanh", lambda y: y.detach())
    assert "gradient of v0: missing" in failure(gradients, expression)


def test_wrong_programs_are_found(monkeypatch):
    expression = Expression(4, ((3, 4, 4),), (Step("exp", (0,), ()), Step("flip", (1, ), (1,))))
    expressions.judge(expression)
    wrong(monkeypatch, ck, "compile", lambda program: lambda *x: program(*x) * 1.01)
    assert "Program, output 0: off by 1.00e-02" in failure(expressions, expression)


def test_smaller_expressions_stay_whole():
    steps = (Step("exp", (0,), ()), Step("neg", (0,), ()), Step("add", (1, 2), ()),
             Step("tanh", (1,), ()))
    expression = Expression(5, ((3, 4),), steps)
    assert expression.results() == [3, 4]
    smaller = [str(e) for e in expression.smaller()]
    assert smaller[-2:] == [
        "v0 (3, 4): v1 = exp(v0); v2 = neg(v0); v3 = tanh(v1)",
        "v0 (3, 4): v1 = exp(v0); v2 = neg(v0); v3 = add(v1, v2)"]
