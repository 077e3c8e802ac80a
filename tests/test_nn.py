"""Modules: walking, state, hooks, errors, text; every layer and a training run beside PyTorch."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from harness import assert_same_bits, random_array
from tolerances import assert_close, tolerance

import convkit as ck
from convkit import nn, optim


class Net(nn.Module):
    """A small residual network with everything on it."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.down = nn.Sequential(nn.Conv2d(8, 17, 3, stride=2, padding=1, groups=1), activation())
        self.fc = nn.Linear(17, 5)

    def forward(self, x):
        activation = self.down[1]
        x = activation(self.stem(x))
        x = activation(self.bn(self.conv(x)) + x)
        return self.fc(self.down(x).mean((2, 3)))


def torch_net(torch, activation="ReLU"):
    """Return the same network in PyTorch."""
    activation = getattr(torch.nn, activation)

    class TorchNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.conv = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
            self.bn = torch.nn.BatchNorm2d(8)
            self.down = torch.nn.Sequential(
                torch.nn.Conv2d(8, 17, 3, stride=2, padding=1), activation())
            self.fc = torch.nn.Linear(17, 5)

        def forward(self, x):
            activation = self.down[1]
            x = activation(self.stem(x))
            x = activation(self.bn(self.conv(x)) + x)
            return self.fc(self.down(x).mean((2, 3)))

    return TorchNet()


# -- training -------------------------------------------------------------------------------


# Under `high` values differ by some 4e-6, enough for one close to ReLU's kink to fall on its other
# side now and then and change a whole pixel's gradient; SiLU has no kink.
@pytest.mark.parametrize(("dtype", "precision", "activation", "bounds"), [
    ("float64", "high", "ReLU", (1e-10, 1e-11)),
    ("float32", "highest", "ReLU", (1e-5, 1e-5)),
    ("float32", "high", "SiLU", (1e-4, 1e-4)),
])
def test_twenty_training_steps_are_pytorchs(torch, dtype, precision, activation, bounds):
    theirs = torch_net(torch, activation).to(getattr(torch, dtype))
    ours = Net(getattr(nn, activation)).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    steps = optim.SGD(ours.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3,
                                nesterov=True)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.standard_normal((6, 3, 9, 7)).astype(dtype)
        target = rng.standard_normal((6, 5)).astype(dtype)
        with ck.precision(precision):
            loss = ((ours(x) - target) ** 2).mean()
            steps.zero_grad()
            loss.backward()
        steps.step()
        their_loss = ((theirs(torch.from_numpy(x)) - torch.from_numpy(target)) ** 2).mean()
        reference.zero_grad()
        their_loss.backward()
        reference.step()
    state, their_state = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(their_state)
    for key, value in state.items():
        want = their_state[key].numpy()
        error = np.abs(value.data - want)
        assert (error <= bounds[0] * np.abs(want) + bounds[1] * np.abs(want).max()).all(), key
    ours.eval()
    theirs.eval()
    with ck.no_grad(), torch.no_grad(), ck.precision(precision):
        np.testing.assert_allclose(ours(x).data, theirs(torch.from_numpy(x)).numpy(),
                                   rtol=bounds[0], atol=bounds[0])


def train(threads):
    ck.manual_seed(5)
    net = Net()
    steps = optim.AdamW(net.parameters(), lr=0.01)
    rng = np.random.default_rng(0)
    losses = []
    with ck.threads(threads):
        for _ in range(4):
            x = rng.standard_normal((5, 3, 9, 7)).astype(np.float32)
            loss = (net(x) ** 2).mean()
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.item())
    return losses, [p.data for p in net.parameters()]


def test_training_has_the_same_bits_for_any_number_of_threads():
    first, second, third = train(1), train(2), train(3)
    assert first[0] == second[0] == third[0]
    assert_same_bits(first[1], second[1])
    assert_same_bits(first[1], third[1])


def test_a_sample_has_the_same_bits_alone_and_in_a_batch():
    ck.manual_seed(0)
    net = Net().eval()
    x = random_array((5, 3, 9, 7))
    with ck.no_grad():
        whole = net(x).data
        for i in range(5):
            assert_same_bits(net(x[i:i + 1]).data, whole[i:i + 1])


# -- walking and state ----------------------------------------------------------------------


def test_attributes_are_parameters_buffers_and_modules():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == [
        "stem.weight", "stem.bias", "conv.weight", "bn.weight", "bn.bias", "down.0.weight",
        "down.0.bias", "fc.weight", "fc.bias"]
    assert [n for n, _ in net.named_buffers()] == [
        "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]
    assert [n for n, _ in net.named_modules()] == [
        "", "stem", "conv", "bn", "down", "down.0", "down.1", "fc"]
    assert [n for n, _ in net.named_children()] == ["stem", "conv", "bn", "down", "fc"]
    assert len(list(net.modules())) == 8 and len(list(net.children())) == 5
    assert net.get_submodule("down.0") is net.down[0]
    assert net.conv.bias is None
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'nothing'"):
        _ = net.nothing
    with pytest.raises(AttributeError, match=r"no module 'down\.7'"):
        net.get_submodule("down.7")
    del net.fc
    assert not hasattr(net, "fc") and "fc" not in dir(net)


def test_assignments_are_checked():
    net = Net()
    with pytest.raises(TypeError, match="cannot assign ndarray as parameter 'weight'"):
        net.fc.weight = np.ones(3)
    with pytest.raises(TypeError, match="cannot assign int as module 'fc'"):
        net.fc = 3
    with pytest.raises(KeyError, match="without dots"):
        net.register_buffer("a.b", np.ones(3))
    with pytest.raises(KeyError, match="already has an attribute 'forward'"):
        net.register_parameter("forward", None)
    net.fc.bias = None
    assert "fc.bias" not in net.state_dict()

    class Early(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"must call super\(\).__init__\(\) before"):
        Early()


def test_shared_modules_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.Linear(2, 2)

    net = Twice()
    assert len(list(net.parameters())) == 2
    assert list(net.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    twin = copy.deepcopy(net)
    assert twin.a is twin.b and twin.a is not net.a


def test_modes_types_and_gradients():
    net = Net()
    assert net.training and not net.eval().training and not net.bn.training
    assert net.train().bn.training
    net.double()
    assert {t.dtype for t in net.parameters()} == {np.dtype(np.float64)}
    assert net.bn.running_var.dtype == np.float64 and net.bn.num_batches_tracked.dtype == np.int64
    assert net(np.ones((2, 3, 4, 4))).dtype == np.float64
    net.float().requires_grad_(False)
    assert not net(np.ones((2, 3, 4, 4), np.float32)).requires_grad
    net.requires_grad_()
    net(np.ones((2, 3, 4, 4), np.float32)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert all((p.grad.data == 0).all() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(TypeError, match="expected float32 or float64, got int64"):
        net.to(np.int64)
    with pytest.raises(ValueError, match="True or False, got 'yes'"):
        net.train("yes")


def test_apply_visits_children_first():
    seen = []
    Net().apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Conv2d", "Conv2d", "BatchNorm2d", "Conv2d", "ReLU", "Sequential", "Linear",
                    "Net"]


def test_state_is_loaded_in_place():
    a, b = Net(), Net()
    weight, array = a.stem.weight, a.stem.weight.data
    result = a.load_state_dict(b.state_dict())
    assert result.missing_keys == [] and result.unexpected_keys == []
    assert a.stem.weight is weight and a.stem.weight.data is array
    assert_same_bits([t.data for t in a.state_dict().values()],
                     [t.data for t in b.state_dict().values()])
    a.load_state_dict({k: np.asarray(v, np.float64) for k, v in b.state_dict().items()})
    assert a.stem.weight.dtype == np.float32


def test_state_that_does_not_fit_changes_nothing():
    net = Net()
    before = {k: np.array(v) for k, v in net.state_dict().items()}
    state = {k: np.zeros_like(v) for k, v in before.items()}
    del state["fc.bias"]
    state["extra"] = np.ones(1)
    state["stem.weight"] = np.ones((8, 3, 5, 5))
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    text = str(caught.value)
    assert "state of Net" in text and "missing keys: 'fc.bias'" in text
    assert "unexpected keys: 'extra'" in text
    assert "'stem.weight': expected shape (8, 3, 3, 3), got (8, 3, 5, 5)" in text
    assert_same_bits(list(before.values()), [t.data for t in net.state_dict().values()])
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    del state["stem.weight"]
    result = net.load_state_dict(state, strict=False)
    assert result == (["stem.weight", "fc.bias"], ["extra"])


def test_transient_buffers_stay_out_of_the_state():
    net = Net()
    net.register_buffer("mean", np.ones(3), persistent=False)
    assert "mean" not in net.state_dict() and "mean" in dict(net.named_buffers())
    net.mean = np.zeros(3)
    assert isinstance(net.mean, ck.Tensor)


def test_copies_and_pickles():
    net = Net().eval()
    x = random_array((2, 3, 8, 8))
    want = net(x).data
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_same_bits(twin(x).data, want)
        with ck.no_grad():
            twin.stem.weight.zero_()
        assert_same_bits(net(x).data, want)


# -- hooks, errors, text --------------------------------------------------------------------


def test_forward_hooks():
    layer = nn.ReLU()
    seen = []
    before = layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    after = layer.register_forward_hook(lambda m, args, out: seen.append(args[0].tolist()))
    assert layer(ck.tensor([-1.0, 2.0])).tolist() == [0, 4] and seen == [[-2, 4]]
    with after:
        pass
    before.remove()
    assert layer(ck.tensor([-1.0, 2.0])).tolist() == [0, 2] and len(seen) == 1
    layer.register_forward_hook(lambda m, args, out: out + 1)
    assert layer(ck.tensor([1.0])).tolist() == [2]


def test_errors_name_the_layer():
    net = Net()
    with pytest.raises(ck.ShapeError) as caught:
        net(np.zeros((8, 4, 9, 9), np.float32))
    assert str(caught.value) == (
        "Conv2d 'stem': expected 3 input channels, got x of shape (8, 4, 9, 9)")
    outer = nn.Sequential({"body": nn.Sequential(nn.Identity(), nn.Linear(3, 4))})
    with pytest.raises(ck.ShapeError, match=r"^Linear 'body\.1': expected 3 input features"):
        outer(np.zeros((2, 5), np.float32))
    with pytest.raises(ck.ShapeError, match=r"^BatchNorm2d: expected 8 channels"):
        net.bn(np.zeros((8, 4, 9, 9), np.float32))
    with pytest.raises(ck.ShapeError, match=r"^BatchNorm2d: expected x with 4 axes, got x of"):
        net.bn(np.zeros((8, 4), np.float32))
    with pytest.raises(ck.ShapeError, match=r"^BatchNorm1d: expected more than 1 value"):
        nn.BatchNorm1d(3)(np.zeros((1, 3), np.float32))
    with pytest.raises(ck.DTypeError, match=r"^Conv2d 'stem': expected"):
        net(np.zeros((8, 3, 9, 9), np.int64))


def test_repr_is_pytorchs(torch):
    # Newer versions of PyTorch also print batch norm's bias.
    theirs = repr(torch_net(torch)).replace("TorchNet", "Net")
    assert repr(Net()) == theirs.replace(", bias=True, track", ", track")
    for ours, theirs in [
        (nn.Conv2d(4, 8, 3, 2, 1, 2, 4, False, "reflect"),
         torch.nn.Conv2d(4, 8, 3, 2, 1, 2, 4, False, "reflect")),
        (nn.Conv1d(4, 8, 3, padding="same"), torch.nn.Conv1d(4, 8, 3, padding="same")),
        (nn.ConvTranspose2d(4, 8, 3, 2, 1, 1), torch.nn.ConvTranspose2d(4, 8, 3, 2, 1, 1)),
        (nn.MaxPool2d(3, 2, 1), torch.nn.MaxPool2d(3, 2, 1)),
        (nn.AvgPool2d(3, 2, 1), torch.nn.AvgPool2d(3, 2, 1)),
        (nn.AdaptiveAvgPool2d((1, 1)), torch.nn.AdaptiveAvgPool2d((1, 1))),
        (nn.Flatten(), torch.nn.Flatten()), (nn.PReLU(3), torch.nn.PReLU(3)),
        (nn.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)), (nn.ELU(), torch.nn.ELU()),
        (nn.Softmax(1), torch.nn.Softmax(1)), (nn.Identity(), torch.nn.Identity()),
        (nn.GELU("tanh"), torch.nn.GELU("tanh")),
        (nn.Upsample(scale_factor=2), torch.nn.Upsample(scale_factor=2)),
        (nn.ModuleList([nn.ReLU()]), torch.nn.ModuleList([torch.nn.ReLU()])),
        (nn.ZeroPad2d(1), torch.nn.ZeroPad2d(1)), (nn.MSELoss(), torch.nn.MSELoss()),
    ]:
        assert repr(ours).replace("2.0", "2").replace("'", "") == \
            repr(theirs).replace("2.0", "2").replace("'", "")


# -- containers -----------------------------------------------------------------------------


def test_sequential():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    net.append(nn.Linear(3, 1))
    net.insert(1, nn.Identity())
    assert [type(m).__name__ for m in net] == ["Linear", "Identity", "ReLU", "Linear"]
    assert len(net[1:]) == 3 and isinstance(net[1:], nn.Sequential) and net[-1].out_features == 1
    net[1] = nn.Tanh()
    del net[2]
    assert [n for n, _ in net.named_children()] == ["0", "1", "2"]
    assert net(np.ones((4, 2), np.float32)).shape == (4, 1)
    with pytest.raises(IndexError, match="out of range for 3"):
        _ = net[3]
    with pytest.raises(TypeError, match="expected a Module or None, got int"):
        nn.Sequential(3)


def test_lists_and_dictionaries():
    modules = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    assert len(modules[:2]) == 2 and len(list(modules.parameters())) == 6
    modules.extend([nn.ReLU()])
    assert list(modules.state_dict())[:2] == ["0.weight", "0.bias"]
    table = nn.ModuleDict({"a": nn.ReLU()})
    table["b"] = nn.Linear(1, 1)
    assert list(table) == ["a", "b"] and "b" in table and len(table) == 2
    assert [k for k, _ in table.items()] == list(table.keys())
    del table["a"]
    assert len(list(table.values())) == 1
    params = nn.ParameterList([np.ones(2, np.float32), nn.Parameter(np.ones(3))])
    params.append(np.zeros(1, np.float32))
    assert [n for n, _ in params.named_parameters()] == ["0", "1", "2"] and len(params) == 3
    assert isinstance(params[0], nn.Parameter)


# -- layers beside PyTorch ------------------------------------------------------------------

IMAGE, LINE = (2, 6, 9, 8), (2, 6, 11)
LAYERS = [
    ("Conv2d", (6, 17, 3), {}, IMAGE), ("Conv2d", (6, 4, (3, 2)), {"stride": (2, 1)}, IMAGE),
    ("Conv2d", (6, 6, 3), {"groups": 6, "padding": 1, "bias": False}, IMAGE),
    ("Conv2d", (6, 4, 4), {"padding": "same", "dilation": 2}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": (2, 1), "padding_mode": "reflect"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": 1, "padding_mode": "circular"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": 1, "padding_mode": "replicate"}, IMAGE),
    ("Conv2d", (6, 4, 3), {}, IMAGE[1:]), ("Conv1d", (6, 4, 3), {"padding": 1}, LINE),
    ("Conv1d", (6, 4, 3), {"stride": 2, "groups": 2}, LINE[1:]),
    ("ConvTranspose2d", (6, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}, IMAGE),
    ("ConvTranspose2d", (6, 4, 3), {"groups": 2, "dilation": 2}, IMAGE),
    ("ConvTranspose1d", (6, 4, 4), {"stride": 3}, LINE),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1}, IMAGE),
    ("MaxPool2d", (2,), {"ceil_mode": True}, IMAGE[1:]),
    ("MaxPool1d", (3,), {"dilation": 2}, LINE),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, IMAGE),
    ("AvgPool2d", (3,), {"divisor_override": 5}, IMAGE), ("AvgPool1d", (3,), {}, LINE),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGE), ("AdaptiveAvgPool2d", ((3, None),), {}, IMAGE),
    ("AdaptiveAvgPool1d", (4,), {}, LINE), ("AdaptiveMaxPool2d", ((3, 5),), {}, IMAGE),
    ("AdaptiveMaxPool1d", (4,), {}, LINE),
    ("BatchNorm2d", (6,), {}, IMAGE), ("BatchNorm2d", (6,), {"affine": False}, IMAGE),
    ("BatchNorm2d", (6,), {"momentum": None}, IMAGE),
    ("BatchNorm2d", (6,), {"track_running_stats": False, "eps": 0.1}, IMAGE),
    ("BatchNorm1d", (6,), {"momentum": 0.3}, LINE), ("BatchNorm1d", (6,), {}, (5, 6)),
    ("Linear", (8, 5), {}, IMAGE), ("Linear", (6, 5), {"bias": False}, (6,)),
    ("ReLU", (), {}, IMAGE), ("ReLU6", (), {}, IMAGE), ("Sigmoid", (), {}, IMAGE),
    ("Tanh", (), {}, IMAGE), ("SiLU", (), {}, IMAGE), ("Hardswish", (), {}, IMAGE),
    ("Hardsigmoid", (), {}, IMAGE), ("LeakyReLU", (0.2,), {}, IMAGE), ("ELU", (0.7,), {}, IMAGE),
    ("GELU", (), {}, IMAGE), ("GELU", ("tanh",), {}, IMAGE), ("PReLU", (), {}, IMAGE),
    ("PReLU", (6,), {}, IMAGE), ("Softmax", (1,), {}, IMAGE), ("LogSoftmax", (-1,), {}, IMAGE),
    ("Flatten", (), {}, IMAGE), ("Flatten", (2,), {}, IMAGE), ("Identity", (3,), {}, IMAGE),
    ("Upsample", (), {"scale_factor": 2}, IMAGE), ("Upsample", ((5, 13),), {}, IMAGE),
    ("Upsample", (), {"scale_factor": 1.7, "mode": "bilinear"}, IMAGE),
    ("Upsample", (), {"size": 20, "mode": "linear", "align_corners": True}, LINE),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, IMAGE), ("ConstantPad2d", (1, 2.5), {}, IMAGE),
    ("ReflectionPad2d", (2,), {}, IMAGE), ("ReplicationPad2d", ((1, 2, 3, 4),), {}, IMAGE),
    ("CircularPad2d", (1,), {}, IMAGE),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), LAYERS)
def test_layers_are_pytorchs(torch, name, args, kwargs, shape):
    ours = getattr(nn, name)(*args, **kwargs).double()
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    rng = np.random.default_rng(0)
    state = {k: rng.uniform(0.5, 1.5, v.shape) if v.ndim or v.is_floating_point() else v.numpy()
             for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    theirs.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        array = rng.standard_normal(shape)
        x, t = ck.tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
        y, u = ours(x), theirs(t)
        assert_close(y.data, u.detach().numpy(), tolerance("forward", "float64"), name)
        weights = rng.standard_normal(y.shape)
        y.backward(weights)
        u.backward(torch.from_numpy(weights))
        # PyTorch rounds the slope of hardsigmoid, 1/6, to float32.
        bounds = tolerance("gradient", "float32" if name == "Hardsigmoid" else "float64")
        assert_close(x.grad.data, t.grad.numpy(), bounds, f"{name}: input")
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert_close(p.grad.data, q.grad.numpy(), bounds, key)
        for (key, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            assert_close(p.data, q.numpy(), tolerance("forward", "float64"), key)


INDICES = np.random.default_rng(0).integers(0, 5, (7, 3))
LOSSES = [
    ("MSELoss", {}, (7, 5), "values"), ("MSELoss", {"reduction": "sum"}, (7,), "values"),
    ("MSELoss", {"reduction": "none"}, (7, 5), "values"),
    ("BCEWithLogitsLoss", {}, (7, 5), "values"),
    ("BCEWithLogitsLoss", {"weight": np.arange(1.0, 6), "pos_weight": np.full(5, 2.0)}, (7, 5),
     "values"),
    ("CrossEntropyLoss", {}, (7, 5), INDICES[:, 0]),
    ("CrossEntropyLoss", {"weight": np.arange(1.0, 6), "label_smoothing": 0.1}, (7, 5, 3), INDICES),
    ("CrossEntropyLoss", {"reduction": "none", "ignore_index": 2}, (7, 5), INDICES[:, 0]),
    ("CrossEntropyLoss", {}, (5,), np.array(3)), ("CrossEntropyLoss", {}, (7, 5), "values"),
    ("NLLLoss", {"weight": np.arange(1.0, 6)}, (7, 5), INDICES[:, 1]),
    ("NLLLoss", {"reduction": "sum"}, (7, 5, 3), INDICES),
]


@pytest.mark.parametrize(("name", "kwargs", "shape", "target"), LOSSES)
def test_losses_are_pytorchs(torch, name, kwargs, shape, target):
    rng = np.random.default_rng(1)
    array = rng.standard_normal(shape)
    target = rng.random(shape) if isinstance(target, str) else target
    ours = getattr(nn, name)(**kwargs)
    theirs = getattr(torch.nn, name)(**{
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()})
    x, t = ck.tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
    y, u = ours(x, ck.tensor(target)), theirs(t, torch.from_numpy(target))
    assert_close(y.data, u.detach().numpy(), tolerance("forward", "float64"), name)
    y.sum().backward()
    u.sum().backward()
    assert_close(x.grad.data, t.grad.numpy(), tolerance("gradient", "float64"), name)


def test_output_size_of_transposed_convolution():
    layer = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    x = np.zeros((1, 3, 5, 5), np.float32)
    assert layer(x).shape == (1, 4, 9, 9)
    assert layer(x, output_size=(10, 9)).shape == (1, 4, 10, 9)
    with pytest.raises(ck.ShapeError, match="expected 9 to 10 for an input of 5"):
        layer(x, output_size=(11, 9))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nn.Conv2d(0, 4, 3), ck.ShapeError, "in_channels of at least 1, got 0"),
    (lambda: nn.Conv2d(3, -4, 3), ck.ShapeError, "out_channels of at least 1, got -4"),
    (lambda: nn.Conv2d(3, 4, 0), ck.ShapeError, "kernel_size of at least 1, got 0"),
    (lambda: nn.Conv2d(3, 4, 3, stride=0), ck.ShapeError, "stride of at least 1"),
    (lambda: nn.Conv2d(3, 4, 3, padding=-1), ck.ShapeError, "padding of at least 0, got -1"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ck.ShapeError, "divisible by groups=2, got 3"),
    (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ck.ShapeError, "one integer or 2"),
    (lambda: nn.Conv2d(3, 4, 1.5), TypeError, "kernel_size as integers, got 1.5"),
    (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, "'valid' or 'same', got 'full'"),
    (lambda: nn.Conv2d(3, 4, 3, 2, "same"), ValueError, "not supported for strided"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, "got 'mirror'"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), ValueError, "'zeros' only"),
    (lambda: nn.Linear(3, 0), ck.ShapeError, "out_features of at least 1"),
    (lambda: nn.BatchNorm2d("8"), TypeError, "num_features as an integer, got '8'"),
])
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_dropout(layout):
    array = random_array((8, 16, 10, 9), layout=layout)
    x = ck.Tensor(array, requires_grad=True)
    for layer, axes in ((nn.Dropout(0.3), ()), (nn.Dropout2d(0.3), (2, 3))):
        ck.manual_seed(1)
        y = layer(x)
        dropped = y.data == 0
        assert abs(dropped.mean() - 0.3) < (0.1 if axes else 0.02)
        if axes:
            assert (dropped.all(axes) == dropped.any(axes)).all()
        np.testing.assert_allclose(y.data, np.where(dropped, 0, array / np.float32(0.7)), rtol=1e-6)
        x.grad = None
        y.sum().backward()
        np.testing.assert_array_equal(x.grad.data == 0, dropped)
        ck.manual_seed(1)
        assert_same_bits(layer(x).data, y.data)
        assert layer.eval()(x) is x
    assert (nn.Dropout(1.0)(x).data == 0).all() and nn.Dropout(0.0)(x) is x
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        nn.Dropout(1.5)
    with pytest.raises(ck.ShapeError, match="expected x with 4 axes"):
        nn.Dropout2d()(ck.ones(3, 4))


# -- initialisers ---------------------------------------------------------------------------


def test_seeds_reproduce_initial_weights():
    ck.manual_seed(7)
    a = Net()
    ck.manual_seed(7)
    b = Net()
    assert_same_bits([p.data for p in a.parameters()], [p.data for p in b.parameters()])
    c = Net()
    assert (c.stem.weight.data != a.stem.weight.data).any()


def test_default_bounds_are_pytorchs():
    ck.manual_seed(0)
    layer = nn.Conv2d(16, 64, 3)
    bound = 1 / np.sqrt(16 * 9)
    for p in (layer.weight, layer.bias):
        assert 0.8 * bound < np.abs(p.data).max() <= bound
    assert abs(layer.weight.data.mean()) < 0.02 * bound


@pytest.mark.parametrize(("name", "args", "deviation"), [
    ("kaiming_uniform_", {"nonlinearity": "relu"}, np.sqrt(2 / (20 * 9))),
    ("kaiming_normal_", {"mode": "fan_out", "a": 1}, np.sqrt(1 / (40 * 9))),
    ("xavier_uniform_", {"gain": 2}, 2 * np.sqrt(2 / (60 * 9))),
    ("xavier_normal_", {}, np.sqrt(2 / (60 * 9))),
    ("normal_", {"std": 3.0}, 3.0), ("uniform_", {"a": -1.0}, 2 / np.sqrt(12)),
])
def test_deviation_of_initialisers(name, args, deviation):
    weight = ck.zeros(40, 20, 3, 3)
    generator = np.random.default_rng(0)
    assert getattr(nn.init, name)(weight, generator=generator, **args) is weight
    assert abs(weight.data.std() / deviation - 1) < 0.03


def test_constants_and_gains(torch):
    assert (nn.init.constant_(ck.zeros(3), 2).data == 2).all()
    assert (nn.init.ones_(nn.Parameter(np.zeros(3))).data == 1).all()
    assert (nn.init.zeros_(ck.ones(3)).data == 0).all()
    for name, param in [("relu", None), ("tanh", None), ("leaky_relu", 0.3), ("leaky_relu", None),
                        ("linear", None), ("selu", None), ("sigmoid", None)]:
        assert nn.init.calculate_gain(name, param) == pytest.approx(
            torch.nn.init.calculate_gain(name, param))
    with pytest.raises(ValueError, match="unknown nonlinearity 'softplus'"):
        nn.init.calculate_gain("softplus")
    with pytest.raises(ck.ShapeError, match=r"at least 2 axes, got shape \(3,\)"):
        nn.init.kaiming_uniform_(ck.zeros(3))


def test_making_and_reading_weights_takes_their_memory_once(monkeypatch):
    for name in ("kaiming_uniform_", "uniform_"):  # the numbers drawn take more
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
    size = 4 * 2000 * 1000
    tracemalloc.start()
    try:
        layer = nn.Linear(1000, 2000, bias=False)
        made = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        state = layer.state_dict()
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.shares_memory(state["weight"].data, layer.weight.data)
    assert size <= made < 1.1 * size and read < 1.1 * size
