"""Networks by name: parameters, values beside PyTorch, gradients, folding."""

from __future__ import annotations

import numpy as np
import pytest

import convkit as ck
from convkit import functional as F
from convkit import models

PARAMETERS = {"convnet": (1, 98_682), "lenet5": (1, 61_706), "resnet20": (3, 269_722),
              "plain20": (3, 269_722), "resnet32": (3, 464_154), "resnet56": (3, 853_018)}
# Those of 224x224 images are in test_torchvision_names.py.


def images(name: str, rng: np.random.Generator, count: int = 3) -> np.ndarray:
    channels = PARAMETERS[name][0]
    side = 28 if channels == 1 else 32
    return rng.normal(size=(count, channels, side, side)).astype(np.float32)


def make(name: str, **options) -> ck.nn.Module:
    ck.manual_seed(1)
    return models.create(name, in_channels=PARAMETERS[name][0], **options)


def unsettle(model: ck.nn.Module, rng: np.random.Generator) -> None:
    """Give batch norms estimates and weights that folding cannot get right by chance."""
    state = model.state_dict()
    for key, value in state.items():
        shape = np.shape(value)
        if key.endswith("running_mean"):
            state[key] = rng.normal(size=shape).astype(np.float32)
        elif key.endswith("running_var"):
            state[key] = rng.uniform(0.5, 2, size=shape).astype(np.float32)
    model.load_state_dict(state)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    assert sum(p.numel() for p in make(name).parameters()) == PARAMETERS[name][1]


def test_names_are_what_create_takes():
    assert set(PARAMETERS) < set(models.names())
    assert models.names() == sorted(models.names())
    net = models.create("resnet20", num_classes=7, in_channels=1)
    assert net(np.zeros((2, 1, 32, 32), np.float32)).shape == (2, 7)
    with pytest.raises(ValueError, match="unknown model 'resnet200'; did you mean 'resnet20'"):
        models.create("resnet200")
    with pytest.raises(ValueError, match="expected num_classes of at least 1, got 0"):
        models.create("convnet", 0)


@pytest.mark.parametrize("name", ["convnet", "lenet5", "resnet20"])
def test_every_parameter_gets_a_gradient(name, rng):
    model = make(name)
    F.cross_entropy(model(images(name, rng)), np.array([1, 2, 3])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and np.abs(parameter.grad.numpy()).max() > 0, key


@pytest.mark.parametrize("name", ["convnet", "lenet5", "resnet20"])
def test_compiled_network_gives_the_same_and_has_no_batch_norm(name, rng):
    model = make(name)
    unsettle(model, rng)
    x = images(name, rng)
    program = ck.compile(model, (1, *x.shape[1:]))
    assert not [node.op for node in program.graph.nodes if "batch_norm" in node.op]
    model.eval()
    expected = model(x).detach().numpy()
    np.testing.assert_allclose(program(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["convnet", "lenet5", "resnet20"])
def test_a_sample_does_not_depend_on_its_batch_or_threads(name, rng):
    model = make(name).eval()
    x = images(name, rng, 5)
    with ck.threads(1):
        whole = model(x).detach().numpy()
        alone = np.concatenate([model(x[i:i + 1]).detach().numpy() for i in range(5)])
    with ck.threads(2):
        two = model(x).detach().numpy()
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_array_equal(whole, two)


def torch_block(nn, before, after):
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def torch_convnet(torch):
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                *torch_block(nn, 1, 16), nn.MaxPool2d(2), *torch_block(nn, 16, 32),
                nn.MaxPool2d(2), *torch_block(nn, 32, 64), nn.MaxPool2d(2),
                *torch_block(nn, 64, 128), nn.AdaptiveAvgPool2d(1))
            self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(128, 10))

        def forward(self, x):
            return self.classifier(self.features(x))

    return Net()


def torch_resnet20(torch, shortcut="pad"):
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(after)
            self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(after)
            self.stride, self.new = stride, after - before
            if shortcut == "projection" and self.new:
                self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False),
                                              nn.BatchNorm2d(after))

        def forward(self, x):
            out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if shortcut == "none":
                return functional.relu(out)
            if self.new and shortcut == "projection":
                x = self.shortcut(x)
            elif self.new:
                x = x[:, :, ::self.stride, ::self.stride]
                filling = x.new_zeros((len(x), self.new // 2, *x.shape[2:]))
                x = torch.cat([filling, x, filling], 1)
            return functional.relu(out + x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
            self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
            self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            x = functional.relu(self.bn1(self.conv1(x)))
            return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    return Net()


@pytest.mark.parametrize("shortcut", ["pad", "projection", "none"])
def test_shortcuts_beside_pytorch(shortcut, rng, torch):
    """In float64: in float32 a value beside a ReLU's kink can fall to the other side."""
    ours, theirs = models.resnet20(shortcut=shortcut).double(), torch_resnet20(torch, shortcut)
    theirs.double().load_state_dict({key: torch.from_numpy(np.array(value))
                                     for key, value in ours.state_dict().items()})
    x, labels = images("resnet20", rng, 4).astype(np.float64), np.array([3, 1, 4, 1])
    F.cross_entropy(ours(x), labels).backward()
    torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)),
                                      torch.from_numpy(labels)).backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        wanted = other.grad.numpy()
        np.testing.assert_allclose(mine.grad.numpy(), wanted, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("name, build", [("convnet", torch_convnet), ("resnet20", torch_resnet20)])
def test_values_and_gradients_beside_pytorch(name, build, torch):
    # Images that leave no value so close to a ReLU's kink that rounding moves it across.
    rng = np.random.default_rng(1)
    ours, theirs = make(name), build(torch)
    state = {key: np.asarray(value) for key, value in ours.state_dict().items()}
    theirs.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in state.items()})
    x, labels = images(name, rng, 4), np.array([3, 1, 4, 1])
    # Nor, then, that the rounding of tiles does, which is some ten times as large.
    with ck.precision("highest"):
        loss = F.cross_entropy(ours(x), labels)
        loss.backward()
    expected = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)),
                                                 torch.from_numpy(labels))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for (key, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(),
                                       strict=True):
        wanted = other.grad.numpy()
        error = np.abs(mine.grad.numpy() - wanted).max()
        assert error <= 1e-3 * np.abs(wanted).max() + 1e-7, key
    ours.eval()
    theirs.eval()
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(x).detach().numpy(), wanted, rtol=0,
                               atol=1e-4 * np.abs(wanted).max())


def test_shortcuts_of_residual_networks():
    count = {kind: sum(p.numel() for p in models.resnet20(shortcut=kind).parameters())
             for kind in ("pad", "projection", "none")}
    assert count == {"pad": 269_722, "projection": 272_474, "none": 269_722}
    with pytest.raises(ValueError, match="expected shortcut of pad, projection, none, got 'A'"):
        models.resnet20(shortcut="A")


def test_stochastic_depth_leaves_out_blocks_in_training_only(rng):
    ck.manual_seed(0)
    net, x = models.resnet20(stochastic_depth=0.9), images("resnet20", rng, 8)
    drops = [m.drop for m in net.modules() if hasattr(m, "drop")]
    np.testing.assert_allclose(drops, 0.9 * np.arange(1, 10) / 9)
    plain = models.resnet20().eval()
    plain.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(net.eval()(x).data, plain(x).data)
    block = net.train().layer3[2]
    inside = rng.standard_normal((400, 64, 2, 2)).astype(np.float32)
    left_out = (block(inside).data == np.maximum(inside, 0)).all(axis=(1, 2, 3))
    assert left_out.mean() == pytest.approx(0.9, abs=0.05)
    for options in ({"stochastic_depth": 1}, {"stochastic_depth": 0.1, "shortcut": "none"}):
        with pytest.raises(ValueError, match="expected stochastic_depth from 0 to below 1"):
            models.resnet20(**options)
