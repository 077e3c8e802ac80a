"""Programs that take images of bytes, with channels last or second, as they come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from graph_checks import check, op_names
from harness import assert_same_bits, check_batch_invariance

import convkit as ck
import convkit.functional as F
from convkit import nn, reference
from convkit.autograd import apply
from convkit.data import preprocess
from convkit.infer import passes, trace
from convkit.infer.image_input import with_images, with_layout
from convkit.ops.op import REGISTRY

RNG = np.random.default_rng(4)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = (1, 3, 13, 11)


def images(n: int = 2, channels: int = 3, height: int = 13, width: int = 11) -> np.ndarray:
    return RNG.integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def model() -> nn.Module:
    ck.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 4, 3)).eval()


def run(net, x) -> np.ndarray:
    with ck.no_grad():
        return net(ck.tensor(np.ascontiguousarray(x, np.float32))).numpy()


def normalized(x: np.ndarray) -> np.ndarray:
    """Return what torchvision's ToTensor and Normalize make of images (N, H, W, C)."""
    floats = x.transpose(0, 3, 1, 2) / 255.0
    return (floats - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))


# -- the operation --------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4, 17])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_image_operation(channels, layout, dtype):
    x = images(3, channels, 70, 65)
    x = x if layout == "NHWC" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    scale, shift = RNG.standard_normal((2, channels)).astype(dtype)

    def op(v, threads=1):
        with ck.threads(threads):
            return apply(REGISTRY["image"], v, scale, shift, layout=layout).data

    got = op(x)
    assert got.dtype == dtype and got.shape == (3, channels, 70, 65)
    want = reference.image(x, scale, shift, layout=layout)
    np.testing.assert_allclose(got, want, rtol=0, atol=np.finfo(dtype).eps * 1000)
    assert_same_bits(got, op(x, 2))
    for n in range(3):
        assert_same_bits(got[n:n + 1], op(x[n:n + 1]))
    assert_same_bits(got, op(x[:, ::-1, ::-1][:, ::-1, ::-1]))


@pytest.mark.parametrize("x, scale, layout, error, message", [
    (images().astype(np.float32), 3, "NHWC", ck.DTypeError, "expected images of uint8"),
    (images()[0], 3, "NHWC", ck.ShapeError, r"expected images of shape \(N, H, W, C\)"),
    (images(), 2, "NHWC", ck.ShapeError, r"expected scale of shape \(3,\)"),
    (images(), 3, "NCHW", ck.ShapeError, r"expected scale of shape \(13,\)"),
    (images(), 3, "HWC", ValueError, "expected layout NHWC or NCHW, got 'HWC'"),
])
def test_wrong_images(x, scale, layout, error, message):
    numbers = np.ones(scale, np.float32)
    with pytest.raises(error, match=message):
        apply(REGISTRY["image"], x, numbers, numbers, layout=layout)


# -- passes ---------------------------------------------------------------------------------


def image_graph(network, shape=SHAPE, image=None):
    return with_images(trace(network, shape), image or {"mean": MEAN, "std": STD})


def compared(step, graph, expected, relative=2e-6):
    """Run a pass on a graph of images, and compare on some."""
    after = step(graph)
    assert op_names(after) == expected
    x = images()
    a, b = ck.infer.Program(graph)(x), ck.infer.Program(after)(x)
    assert np.abs(a - b).max() <= relative * np.abs(a).max()
    return after


def test_the_scale_goes_into_weights_whatever_is_padded():
    w = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = image_graph(lambda x: F.conv2d(x, w, padding=2))
    after = compared(passes.fold_image_scale, graph, ["image", "conv"])
    scale, shift = (after.array(v) for v in after.nodes[0].inputs[1:])
    assert (scale == 1).all()
    np.testing.assert_allclose(shift, -255 * np.float64(MEAN), rtol=1e-6)


@pytest.mark.parametrize("network", [
    lambda x: F.relu(x), lambda x: (lambda y: y + x[:, :, :, :])(F.relu(x)),
    lambda x: F.conv2d(x, np.ones((2, 3, 1, 1), np.float32)) + x[:, :1]])
def test_scales_that_stay(network):
    graph = image_graph(network)
    compared(passes.fold_image_scale, graph, op_names(graph), 0)


def test_normalisation_within_the_model_is_done_on_the_way():
    def network(x):
        x = (x - np.reshape(np.float32(MEAN), (3, 1, 1))) / np.reshape(np.float32(STD), (3, 1, 1))
        return F.sigmoid(x)

    graph = passes.arithmetic_to_affine(image_graph(network, image=True))
    assert op_names(graph) == ["image", "affine", "affine", "sigmoid"]
    graph = compared(passes.merge_into_image, graph, ["image", "sigmoid"])


# -- Programs -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [None, "NHWC", "NCHW"])
def test_a_program_takes_images(layout):
    net = model()
    program = ck.compile(net, SHAPE, image={"mean": MEAN, "std": STD}, layout=layout)
    assert program.image_layout == (layout or "NHWC") and program.max_error.relative < 1e-5
    assert [n.op for n in program.graph.nodes] == ["image", "conv", "conv"]
    x = images()
    given = x.transpose(0, 3, 1, 2) if layout == "NCHW" else x
    want = run(net, normalized(x))
    for form in (given, np.ascontiguousarray(given), given[:, ::-1][:, ::-1]):
        np.testing.assert_allclose(program(form), want, atol=2e-6)
    check_batch_invariance(program, given)
    assert "python" not in program.summary()


def test_floats_are_refused_by_a_program_of_images():
    program = ck.compile(model(), SHAPE, image=True)
    with pytest.raises(ck.DTypeError, match="expected uint8, got float32"):
        program(np.zeros((1, 13, 11, 3), np.float32))
    with pytest.raises(ck.ShapeError, match=r"expected shape \(N, 13, 11, 3\)"):
        program(np.zeros((1, 3, 13, 11), np.uint8))


@pytest.mark.parametrize("step", [
    preprocess.Center, preprocess.Normalize, preprocess.MinMax,
    lambda: preprocess.Normalize(per="dataset")])
def test_a_pipeline_is_folded(step):
    x = images(6)
    pipeline = preprocess.Pipeline([step(), preprocess.Normalize()]).fit(x.transpose(0, 3, 1, 2))
    net = model()
    program = ck.compile(net, SHAPE, image=pipeline)
    want = run(net, pipeline(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(program(x), want, atol=5e-6)


def test_a_file_with_a_pipeline_becomes_one_that_takes_images(tmp_path):
    x = images(6)
    pipeline = preprocess.Pipeline([preprocess.Normalize()]).fit(x.transpose(0, 3, 1, 2))
    plain = ck.compile(model(), SHAPE, metadata={**pipeline.metadata(), "labels": list("abcd")})
    ck.save(plain, tmp_path / "plain.ckit")
    loaded = ck.load(tmp_path / "plain.ckit")
    program = ck.compile(loaded, image=loaded.preprocessing, metadata=loaded.metadata)
    assert program.preprocessing is None and program.labels == list("abcd")
    ck.save(program, tmp_path / "images.ckit")
    again = ck.load(tmp_path / "images.ckit")
    assert again.image_layout == "NHWC" and again.preprocessing is None
    assert_same_bits(again(x), program(x))
    np.testing.assert_allclose(again(x), loaded(loaded.preprocessing(x.transpose(0, 3, 1, 2))),
                               atol=5e-6)


@pytest.mark.parametrize("image, error, message", [
    ({"mean": (1, 2)}, ck.ShapeError, "expected mean of one finite number or 3"),
    ({"std": (1, 0, 1)}, ValueError, "expected std other than 0"),
    ({"mean": math.nan}, ck.ShapeError, "finite"),
    ({"means": 1}, ValueError, "expected mean and std"),
    (False, ValueError, "expected True, a dictionary"),
    (preprocess.Pipeline([preprocess.ZCAWhitening()]), ValueError, "no multiply-add per channel"),
])
def test_wrong_preprocessing(image, error, message):
    with pytest.raises(error, match=message):
        ck.compile(model(), SHAPE, image=image)


def test_networks_without_an_image_input():
    with pytest.raises(ck.ShapeError, match="expected a network with one input"):
        ck.compile(lambda x: F.relu(x), (1, 3), image=True)
    with pytest.raises(ck.ShapeError, match="expected a network with one input"):
        ck.compile(lambda x, y: x + y, [SHAPE, SHAPE], image=True)
    with pytest.raises(ck.ShapeError, match="with channels last"):
        ck.compile(lambda x: F.relu(x), (1, 3), layout="NHWC")
    with pytest.raises(ValueError, match="expected layout"):
        ck.compile(model(), SHAPE, layout="HWC")


def test_images_beside_another_input():
    program = ck.compile(lambda x, y: F.relu(x) + y.reshape(-1, 3, 1, 1), [SHAPE, (1, 3)],
                         image=True)
    x, y = images(), np.ones((2, 3), np.float32)
    np.testing.assert_allclose(program(x, y), x.transpose(0, 3, 1, 2) / 255 + 1, atol=1e-6)


def test_images_of_any_size():
    net = model()
    program = ck.compile(net, (1, 3, (8, 40), (8, 40)), image={"mean": MEAN, "std": STD})
    for h, w in ((8, 40), (21, 9)):
        x = images(2, 3, h, w)
        np.testing.assert_allclose(program(x), run(net, normalized(x)), atol=2e-6)


def test_floats_with_channels_last():
    net = model()
    program = ck.compile(net, SHAPE, layout="NHWC")
    assert str(program.input_shapes["input"] if "input" in program.input_shapes
               else next(iter(program.input_shapes.values()))) == "(N, 13, 11, 3)"
    x = RNG.standard_normal((2, 13, 11, 3)).astype(np.float32)
    np.testing.assert_allclose(program(x), run(net, x.transpose(0, 3, 1, 2)), atol=2e-6)
    graph = trace(net, SHAPE)
    assert with_layout(graph, "NCHW") is graph
    check(passes.remove_dead, with_layout(graph, "NHWC"), ["permute", *op_names(graph)], 0)


def test_onnx_export_of_images():
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs what was exported")
    program = ck.compile(model(), SHAPE, image={"mean": MEAN, "std": STD})
    session = onnxruntime.InferenceSession(
        ck.io.onnx.to_model(program).SerializeToString(), providers=["CPUExecutionProvider"])
    x = images()
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(got, program(x), atol=1e-5)
