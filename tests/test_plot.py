"""Pictures: what is drawn is what the numbers say."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from harness import random_array, run_python

import convkit as ck
from convkit import functional as F
from convkit import models, nn, optim, training
from convkit.errors import ShapeError
from convkit.nn import activations_by_depth
from convkit.optim import lr_scheduler
from convkit.training import metrics

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.figure import Figure

from convkit import plot
from convkit.plot.images import tiled


def network() -> nn.Sequential:
    ck.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 3))


def image_of(ax, number=0):
    return np.asarray(ax.images[number].get_array())


def test_pictures_are_tiled_with_gaps():
    page = tiled(np.arange(12, dtype=float).reshape(3, 2, 2), 2, fill=-1)
    np.testing.assert_array_equal(page, [[0, 1, -1, 4, 5], [2, 3, -1, 6, 7], [-1] * 5,
                                         [8, 9, -1, -1, -1], [10, 11, -1, -1, -1]])


def test_image_grid_scales_and_names():
    images = random_array((3, 1, 4, 5))
    ax = plot.image_grid(images, ["a", "b", "c"], columns=2)
    page = image_of(ax)
    assert page.shape == (9, 11) and page.min() == 0 and page.max() == 1
    scaled = (images[1, 0] - images.min()) / (images.max() - images.min())
    np.testing.assert_allclose(page[:4, 6:], scaled, rtol=1e-5, atol=1e-6)
    assert [t.get_text() for t in ax.texts] == ["a", "b", "c"]
    bytes_ = np.full((1, 3, 2, 2), 255, np.uint8)
    np.testing.assert_array_equal(image_of(plot.image_grid(bytes_)), np.ones((2, 2, 3)))
    with pytest.raises(ShapeError, match=r"expected images \(N, 1 or 3, H, W\), got shape"):
        plot.image_grid(np.ones((1, 2, 4, 4)))


def test_filters_are_grey_at_zero():
    layer = network()[0]
    weight = np.asarray(layer.weight.data)
    page = image_of(plot.filters(layer, columns=4))
    assert page.shape == (3, 15, 3)
    np.testing.assert_allclose(page[:, 4:7], 0.5 + 0.5 * weight[1].transpose(1, 2, 0)
                               / np.abs(weight[1]).max(), rtol=1e-5)
    assert image_of(plot.filters(np.zeros((2, 7, 3, 3)))).min() == 0.5


def test_feature_maps_are_those_of_the_layer():
    net, image = network(), random_array((3, 6, 6))
    page = image_of(plot.feature_maps(net, image, "1"))
    maps = training.layer_outputs(net, image[None], ["1"])["1"][0]
    first = (maps[0] - maps[0].min()) / (maps[0].max() - maps[0].min())
    np.testing.assert_allclose(page[:4, :4], first, rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match="expected layer '4' to return maps"):
        plot.feature_maps(net, image, "4")


def test_augmentations_stand_beside_their_images():
    images = random_array((2, 1, 3, 3)).clip(0, 1)
    ax = plot.augmentations(images, lambda batch: batch[..., ::-1], count=2)
    page = image_of(ax)
    assert page.shape == (7, 11)
    np.testing.assert_allclose(page[:3, 4:7], page[:3, :3][:, ::-1])
    with pytest.raises(ShapeError, match="expected an augmentation that keeps the shape"):
        plot.augmentations(images, lambda batch: batch[..., :2])


def test_curves_and_missing_keys():
    history = [{"epoch": 1, "loss": 2.0, "val_loss": None}, {"epoch": 2, "loss": 1.0,
                                                             "val_loss": 1.5}]
    ax = plot.curves(history)
    assert [list(line.get_ydata()) for line in ax.lines] == [[2.0, 1.0], [1.5]]
    assert list(ax.lines[1].get_xdata()) == [2]
    with pytest.raises(KeyError, match="no epoch has 'accuracy'; there are epoch, loss, val_loss"):
        plot.curves(history, ["accuracy"])


def test_schedule_draws_what_will_come_and_leaves_it_so():
    optimizer = optim.SGD(network().parameters(), lr=0.4)
    rates = lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    ax = plot.schedule(rates, 5)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.4, 0.4, 0.2, 0.2, 0.1])
    assert optimizer.param_groups[0]["lr"] == 0.4
    np.testing.assert_allclose(plot.schedule(rates, 5).lines[0].get_ydata(),
                               [0.4, 0.4, 0.2, 0.2, 0.1])


def test_range_test_marks_its_suggestion():
    result = training.RangeTest(np.array([1e-3, 1e-2, 1e-1, 1.0]), np.array([2.0, 1.8, 0.5, 4.0]))
    ax = plot.range_test(result)
    assert ax.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [result.suggestion, result.steepest]


def test_landscape_bands_reach_from_lowest_to_highest():
    scapes = [training.Landscape(np.arange(3.0), np.array([1.0, 4.0, 2.0]), np.array([1.0, 2, 3])),
              training.Landscape(np.arange(3.0), np.array([0.5, 3.0, 2.0]), np.array([2.0, 2, 5]))]
    figure = plot.loss_landscape({"with": scapes, "without": scapes[:1]})
    left, right = figure.axes
    heights = left.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == 0.5 and heights.max() == 4.0
    assert right.collections[0].get_paths()[0].vertices[:, 1].max() == 5.0
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["with", "without"]


@pytest.fixture
def scored():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    targets = np.array([0, 0, 1, 1, 2, 2, 2])
    scores = random_array((7, 3)) + 2 * np.eye(3, dtype=np.float32)[targets]
    return targets, scores


def test_confusion_matrix_shows_its_numbers(scored):
    ax = plot.confusion_matrix(*scored, names=["x", "y", "z"], normalize=None)
    matrix = metrics.confusion_matrix(*scored)
    np.testing.assert_array_equal(image_of(ax), matrix)
    written = {t.get_position(): t.get_text() for t in ax.texts}
    assert written == {(j, i): str(int(matrix[i, j])) for i, j in np.argwhere(matrix)}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y", "z"]


def test_roc_and_precision_recall_curves(scored):
    ax = plot.roc(*scored)
    for line, text, (x, y, _) in zip(ax.lines, ax.get_legend().get_texts(),
                                     metrics.roc_curves(*scored), strict=False):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([x, y], 1))
        assert text.get_text().endswith(f"{np.trapezoid(y, x):.3f}")
    ax = plot.precision_recall(*scored)
    for line, (p, r, _) in zip(ax.lines, metrics.precision_recall_curves(*scored), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([r, p], 1))


def test_histograms_say_mean_and_deviation():
    net, x = network(), random_array((4, 3, 6, 6))
    figure = plot.activation_histograms(net, x)
    values = training.layer_outputs(net, x)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:5] == [f"{n}\n{v.mean():.2g} ± {v.std():.2g}" for n, v in values.items()]
    assert sum(p.get_height() for p in figure.axes[0].patches) == values["0"].size
    figure = plot.gradient_histograms(net, F.cross_entropy, x, np.array([0, 1, 2, 0]), ["4", "0"])
    assert len(figure.axes) == 2


def test_activations_by_depth_one_row_each():
    figure = plot.activations_by_depth(["small", "xavier"], layers=3, width=20, samples=30)
    assert len(figure.axes) == 6
    layers = activations_by_depth("xavier", layers=3, width=20, samples=30)
    assert figure.axes[3].get_title() == f"layer 1: {layers[0].std:.2g}"


def test_saliency_and_grad_cam_lie_over_the_image():
    net, image = network(), random_array((3, 6, 6))
    for ax, heat in [
            (plot.saliency(net, image, 1), training.saliency(net, image[None], [1])[0]),
            (plot.grad_cam(net, image, "0", 1), training.grad_cam(net, image[None], "0", [1])[0])]:
        assert image_of(ax).shape == (6, 6, 3)
        np.testing.assert_allclose(image_of(ax, 1), heat, rtol=1e-6)
        assert tuple(ax.images[0].get_extent()) == tuple(ax.images[1].get_extent())


def test_receptive_field_grows():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3))
    ax = plot.receptive_field(net, (1, 1, 16, 16))
    assert list(ax.lines[0].get_ydata()) == [1, 3, 4, 8]


def test_model_graph_draws_every_operation():
    block = models.resnet_cifar.BasicBlock(4, 4)
    ax = plot.model_graph(block, (1, 4, 8, 8))
    words = [t.get_text().split()[0] for t in ax.texts if t.get_text()]
    assert sorted(words) == sorted(["x", "conv", "batch_norm", "relu", "conv", "batch_norm",
                                    "add", "relu"])
    program = ck.compile(block.eval(), (1, 4, 8, 8))
    fewer = [t.get_text() for t in plot.model_graph(program).texts if t.get_text()]
    assert len(fewer) == 1 + len(program.graph.nodes)


def test_axes_and_figures_that_are_given_are_used():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot.image_grid(random_array((2, 1, 3, 3)), ax=right) is right
    assert plot.curves([{"loss": 1.0}], ["loss"], ax=left) is left
    other = Figure()
    assert plot.activations_by_depth(["xavier"], figure=other, layers=2, width=8,
                                     samples=8) is other


def test_nothing_of_matplotlib_is_loaded_before_a_picture():
    code = ("import sys; from convkit import plot; assert 'matplotlib' not in sys.modules; "
            "import numpy as np; plot.image_grid(np.ones((1, 1, 2, 2))); "
            "assert 'matplotlib.pyplot' not in sys.modules")
    run_python(code)


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"a picture needs matplotlib: "
                                          r"pip install 'convkit\[plot\]'"):
        plot.curves([{"loss": 1.0}], ["loss"])
