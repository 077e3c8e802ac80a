"""Preprocessing against its formulas, and in model files."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import convkit
from convkit import data, nn
from convkit.cli import main
from convkit.data import preprocess as P
from convkit.errors import DTypeError, ModelFormatError, ShapeError

SHAPE = (3, 4, 5)


@pytest.fixture
def photos(rng):
    mixed = rng.normal(size=(60, 400)) @ rng.random((400, 400)) / 60
    images = mixed.T[:, :60].reshape(400, *SHAPE) * np.array([1, 0.5, 2])[:, None, None]
    low, high = images.min(), images.max()
    return ((images - low) / (high - low)).astype(np.float32)


def groups(images, per):
    return np.moveaxis(images.astype(np.float64), 1, 0).reshape(
        images.shape[1] if per == "channel" else 1, -1)


@pytest.mark.parametrize("per", ["channel", "dataset"])
def test_scaling(photos, per):
    centred = groups(P.Center(per).fit(photos)(photos), per)
    np.testing.assert_allclose(centred.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(centred.std(axis=1), groups(photos, per).std(axis=1), rtol=1e-5)
    normal = groups(P.Normalize(per).fit(photos)(photos), per)
    np.testing.assert_allclose(normal.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=1), 1, rtol=1e-5)
    unit = groups(P.MinMax(per).fit(photos)(photos), per)
    np.testing.assert_allclose(unit.min(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(unit.max(axis=1), 1, atol=1e-6)
    flat = np.full((4, *SHAPE), 0.5, np.float32)
    for step in (P.Normalize(per), P.MinMax(per), P.Center(per)):
        assert (step.fit(flat)(flat) == 0).all()


@pytest.mark.parametrize("per, parts", [("dataset", 1), ("channel", 3)])
def test_whitening(photos, per, parts):
    values = photos.reshape(400, parts, -1).astype(np.float64)
    white = P.PCAWhitening(per, eps=1e-9).fit(photos)(photos)
    still = P.ZCAWhitening(per, eps=1e-9).fit(photos)(photos)
    assert white.shape == still.shape == photos.shape
    for got in (white, still):
        for g in range(parts):
            part = got.reshape(400, parts, -1)[:, g]
            np.testing.assert_allclose(np.cov(part.T, bias=True), np.eye(part.shape[1]), atol=5e-3)
    for g in range(parts):
        spread, vectors = np.linalg.eigh(np.cov(values[:, g].T, bias=True))
        matrix = vectors @ np.diag((spread + 1e-9) ** -0.5) @ vectors.T
        np.testing.assert_allclose(still.reshape(400, parts, -1)[:, g],
                                   (values[:, g] - values[:, g].mean(0)) @ matrix, atol=5e-3)


def test_few_components(photos):
    few = P.PCAWhitening(components=7).fit(photos)
    all_ = P.PCAWhitening().fit(photos)
    assert few(photos).shape == (400, 7)
    np.testing.assert_allclose(few(photos), all_(photos).reshape(400, -1)[:, :7], atol=1e-3)
    with pytest.raises(ShapeError, match="expected at most 60 components, got 61"):
        P.PCAWhitening(components=61).fit(photos)


STEPS = [P.Center, P.Normalize, P.MinMax, P.PCAWhitening, P.ZCAWhitening]


@pytest.mark.parametrize("kind", STEPS)
def test_a_sample_does_not_depend_on_its_batch(photos, kind):
    step = kind().fit(photos[:300])
    whole = step(photos)
    for i in (0, 17, 399):
        np.testing.assert_array_equal(step(photos[i:i + 1])[0], whole[i])
    with convkit.threads(1):
        np.testing.assert_array_equal(step(photos), whole)


@pytest.mark.parametrize("kind", STEPS)
def test_model_files_keep_it(photos, tmp_path, kind):
    prepare = P.Pipeline([P.Center(), kind()]).fit(photos)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 4))
    convkit.save(model, tmp_path / "net.ckit", input_shape=(1, *SHAPE),
                 metadata=prepare.metadata())
    program = convkit.load(tmp_path / "net.ckit")
    np.testing.assert_array_equal(program.preprocessing(photos), prepare(photos))
    images = (photos * 255).astype(np.uint8)
    np.testing.assert_array_equal(program.preprocessing(images), prepare(images))
    assert program(program.preprocessing(images)).shape == (400, 4)


@pytest.mark.parametrize("per", ["channel", "dataset"])
@pytest.mark.parametrize("kind", STEPS)
def test_a_layer_of_it_goes_into_the_program(photos, tmp_path, kind, per):
    prepare = P.Pipeline([P.Center(), kind(per)]).fit(photos)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
                        nn.Linear(80, 4)).eval()
    whole = nn.Sequential(prepare.module(), net)
    assert list(whole.state_dict()) == [f"1.{name}" for name in net.state_dict()]
    np.testing.assert_array_equal(whole[0](photos).data, prepare(photos))
    convkit.save(whole, tmp_path / "net.ckit", input_shape=(1, *SHAPE))
    want = net(convkit.Tensor(prepare(photos))).data
    np.testing.assert_allclose(convkit.load(tmp_path / "net.ckit")(photos), want, rtol=1e-4,
                               atol=1e-4)
    images = (photos * 255).astype(np.uint8)
    program = convkit.compile(whole, (1, *SHAPE), image=True, layout="NCHW")
    np.testing.assert_allclose(program(images), net(convkit.Tensor(prepare(images))).data,
                               rtol=1e-3, atol=1e-3)


def test_moments_are_those_of_all_blocks(photos, monkeypatch):
    from convkit.data.preprocess import whitening

    whole = P.ZCAWhitening().fit(photos).arrays
    monkeypatch.setattr(whitening, "BLOCK", 37)
    parts = P.ZCAWhitening().fit(photos).arrays
    np.testing.assert_allclose(parts["variances"], whole["variances"], rtol=1e-5)
    np.testing.assert_allclose(parts["mean"], whole["mean"], rtol=1e-6)


def test_the_command_predicts_with_it(photos, tmp_path, capsys):
    prepare = P.Pipeline([P.ZCAWhitening()]).fit(photos)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 4))
    convkit.save(model, tmp_path / "net.ckit", input_shape=(1, *SHAPE),
                 metadata=prepare.metadata())
    np.save(tmp_path / "x.npy", photos[:1])
    assert main(["predict", str(tmp_path / "net.ckit"), str(tmp_path / "x.npy"), "--json"]) == 0
    (got,), = [json.loads(capsys.readouterr().out)]
    scores = convkit.load(tmp_path / "net.ckit")(prepare(photos[:1]))[0].astype(np.float64)
    want = np.exp(scores) / np.exp(scores).sum()
    for row in got:
        assert row["probability"] == pytest.approx(want[int(row["label"])], rel=1e-4)


def test_what_train_writes_is_read_too():
    entry = {"channels": 1, "height": 2, "width": 2, "mean": [0.5], "std": [0.25]}
    pipeline = P.Pipeline.from_metadata({"preprocessing": entry})
    np.testing.assert_allclose(pipeline(np.full((1, 1, 2, 2), 0.75, np.float32)), 1)
    assert P.Pipeline.from_metadata({}) is None


def broken(change):
    prepare = P.Pipeline([P.Normalize()]).fit(np.random.default_rng(0).random((3, *SHAPE)))
    metadata = copy.deepcopy(prepare.metadata())
    change(metadata["preprocessing"])
    return metadata


@pytest.mark.parametrize("change, text", [
    (lambda e: e.update(more=1), "expected image and steps"),
    (lambda e: e.update(image=[3, 4]), "image as three sizes"),
    (lambda e: e.update(image=[3, 4, 0]), "image as three sizes"),
    (lambda e: e.update(image=[True, 4, 5]), "image as three sizes"),
    (lambda e: e.update(image=[2, 4, 5]), r"expected mean of shape \(2,\)"),
    (lambda e: e.update(steps=[e["steps"][0]] * 17), "at most 16 steps"),
    (lambda e: e.update(steps=["Normalize"]), "expected a step of Center"),
    (lambda e: e["steps"][0].update(kind="os.system"), "expected a step of Center"),
    (lambda e: e["steps"][0].update(more=1), "expected the fields per, mean, std"),
    (lambda e: e["steps"][0].update(per=1), "expected per as str"),
    (lambda e: e["steps"][0].update(per="pixel"), "expected per of channel, dataset"),
    (lambda e: e["steps"][0].update(mean=[0, 0, 0]), "expected shape and float32"),
    (lambda e: e["steps"][0]["mean"].update(shape=[1 << 40]), "expected a shape"),
    (lambda e: e["steps"][0]["mean"].update(shape=[1 << 20, 1 << 20]), "expected 1099511627776"),
    (lambda e: e["steps"][0]["mean"].update(float32="AAAA"), "expected 3 numbers"),
    (lambda e: e["steps"][0]["mean"].update(float32="!" * 16), "not base64"),
    (lambda e: e["steps"][0]["mean"].update(float32="AADAfwAAwH8AAMB/"), "expected finite"),
    (lambda e: e["steps"][0]["std"].update(float32="A" * 16), "expected std above 0"),
])
def test_damaged_metadata_is_refused(change, text):
    with pytest.raises(ModelFormatError, match=text):
        P.Pipeline.from_metadata(broken(change))


def test_too_much_for_a_file_is_said(monkeypatch, photos):
    monkeypatch.setattr("convkit.data.preprocess.step.MAX_VALUES", 3599)
    prepare = P.Pipeline([P.ZCAWhitening()]).fit(photos)
    with pytest.raises(ValueError, match=r"3600 numbers are too many .* use fewer components"):
        prepare.metadata()
    P.Pipeline([P.ZCAWhitening(components=59)]).fit(photos).metadata()


def test_loader_preprocesses(photos):
    dataset = data.ImageDataset((photos * 255).astype(np.uint8), np.arange(400) % 2, "ab")
    prepare = P.Pipeline([P.ZCAWhitening()]).fit(dataset.images)
    (images, _), = data.DataLoader(dataset, 400, preprocess=prepare)
    np.testing.assert_array_equal(images.numpy(), prepare(dataset.images))
    with pytest.raises(ValueError, match="either preprocess or mean and std"):
        data.DataLoader(dataset, mean=0.5, preprocess=prepare)


def test_what_does_not_fit_is_said(photos):
    with pytest.raises(RuntimeError, match="has not learned yet"):
        P.Center()(photos)
    prepare = P.Pipeline([P.Center()]).fit(photos)
    with pytest.raises(ShapeError, match=r"expected images of shape \(3, 4, 5\), got \(3, 4, 4\)"):
        prepare(photos[..., :4])
    with pytest.raises(DTypeError, match="got int64"):
        prepare(photos.astype(int))
    with pytest.raises(ShapeError, match=r"\(N, C, H, W\), got \(3, 4, 5\)"):
        prepare(photos[0])
    with pytest.raises(ShapeError, match="at least one image"):
        P.Center().fit(photos[:0])
    with pytest.raises(ValueError, match="expected per of channel, dataset, got 'pixel'"):
        P.Center("pixel")
