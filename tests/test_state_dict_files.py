"""Weights by name in safetensors files: to and from PyTorch, and files that are not right."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from harness import random_array

import convkit as ck
from convkit import io, models, nn
from convkit.errors import ModelFormatError


def small(seed: int) -> nn.Module:
    ck.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.array(getattr(v, "data", v)) for name, v in model.state_dict().items()}


def test_a_file_gives_back_what_was_saved(tmp_path):
    path, net = tmp_path / "net.safetensors", small(0)
    io.save_state_dict(net.state_dict(), path)
    found = io.load_state_dict(path)
    assert list(sorted(found)) == sorted(arrays(net))
    for name, value in arrays(net).items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    other = small(1)
    assert not np.array_equal(arrays(other)["0.weight"], arrays(net)["0.weight"])
    assert io.load_weights(other, path) == ([], [])
    x = random_array((2, 3, 4, 4))
    assert other.eval()(x).detach().numpy().tobytes() == net.eval()(x).detach().numpy().tobytes()


@pytest.mark.parametrize("weights, spread", [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_halves_become_float32(tmp_path, weights, spread):
    path, net = tmp_path / "net.safetensors", small(0)
    io.save_state_dict(net.state_dict(), path, weights=weights)
    found = io.load_state_dict(path)
    want = arrays(net)["0.weight"]
    assert found["0.weight"].dtype == np.float32
    np.testing.assert_allclose(found["0.weight"], want, rtol=spread, atol=1e-7)
    assert found["1.num_batches_tracked"].dtype == np.int64


def test_files_of_pytorch_are_read_and_ours_are_read_there(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4),
                                 torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    path = tmp_path / "theirs.safetensors"
    safetensors.save_file(theirs.state_dict(), path)
    ours = small(3).eval()
    io.load_weights(ours, path)
    x = random_array((2, 3, 4, 4))
    want = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(x).detach().numpy(), want, rtol=1e-5, atol=1e-6)
    io.save_state_dict(small(4).state_dict(), tmp_path / "ours.safetensors")
    theirs.load_state_dict(safetensors.load_file(tmp_path / "ours.safetensors"))
    np.testing.assert_array_equal(theirs[0].weight.detach().numpy(),
                                  arrays(small(4))["0.weight"])


def test_the_wrapper_of_data_parallel_is_taken_away(tmp_path):
    path, net = tmp_path / "net.safetensors", small(0)
    io.save_state_dict({f"module.{k}": v for k, v in net.state_dict().items()}, path)
    assert sorted(io.load_state_dict(path)) == sorted(net.state_dict())
    io.save_state_dict({"module.a": np.ones(2), "b": np.ones(2)}, path)
    assert sorted(io.load_state_dict(path)) == ["b", "module.a"]


def test_names_and_shapes_that_do_not_agree_are_all_listed(tmp_path):
    path, net = tmp_path / "net.safetensors", small(0)
    state = arrays(net)
    del state["0.bias"]
    state["3.weight"] = np.ones((5, 16), np.float32)
    state["extra"] = np.ones(1, np.float32)
    io.save_state_dict(state, path)
    other, before = small(1), arrays(small(1))
    with pytest.raises(RuntimeError) as error:
        io.load_weights(other, path)
    for text in ("missing keys: '0.bias'", "unexpected keys: 'extra'",
                 "size mismatch for '3.weight': expected shape (2, 16), got (5, 16)"):
        assert text in str(error.value)
    assert all(np.array_equal(before[k], v) for k, v in arrays(other).items())
    state["3.weight"] = np.ones((2, 16), np.float32)
    missing, unexpected = io.load_weights(other, state, strict=False)
    assert (missing, unexpected) == (["0.bias"], ["extra"])
    assert np.array_equal(arrays(other)["3.weight"], state["3.weight"])


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), pickle.dumps([1], protocol=2),
                                     b"PK\x03\x04" + bytes(60)])
def test_pickles_are_refused_with_the_line_that_converts_them(tmp_path, content):
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"a pickle, not a safetensors file; .*"
                                               r"torch.load\('net.pth', weights_only=True\)"):
        io.load_state_dict(path)


def test_networks_take_weights(tmp_path):
    path = tmp_path / "net.safetensors"
    ck.manual_seed(0)
    net = models.resnet20()
    io.save_state_dict(net.state_dict(), path)
    for other in (models.resnet20(weights=path), models.create("resnet20", weights=path),
                  models.resnet20(weights=net.state_dict())):
        assert np.array_equal(arrays(other)["fc.weight"], arrays(net)["fc.weight"])
    with pytest.raises(RuntimeError, match=r"size mismatch for .fc\.weight."):
        models.resnet20(num_classes=3, weights=path)
    with pytest.raises(FileNotFoundError):
        models.resnet20(weights=tmp_path / "missing.safetensors")
