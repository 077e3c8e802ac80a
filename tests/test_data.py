"""Data sets, readers of published files, and the loader."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import convkit
from convkit import data
from convkit.data.mnist import read_idx
from convkit.errors import DataFormatError, DTypeError, ShapeError


def loader_threads() -> int:
    return sum(thread.name == "convkit-loader" for thread in threading.enumerate())


def run_code(code: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(Path(convkit.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True,
                          timeout=60)


@pytest.fixture
def photos(rng):
    images = rng.integers(0, 256, (50, 3, 7, 5), dtype=np.uint8)
    return data.ImageDataset(images, np.arange(50) % 4, "abcd")


# -- data sets ---------------------------------------------------------------------------


def test_bundled_digits_are_balanced_real_images():
    train, test = data.digits("train"), data.digits("test")
    assert train.images.shape == (4000, 1, 28, 28) and test.images.shape == (1000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    mean, std = train.statistics()
    assert 0.12 < mean[0] < 0.14 and 0.30 < std[0] < 0.32
    with pytest.raises(ValueError, match="expected split 'train' or 'test', got 'valid'"):
        data.digits("valid")


def test_bundled_digits_come_from_mnist(shared_data):
    for split in ("train", "test"):
        published = {image.tobytes() for image in
                     data.MNIST(shared_data / "mnist", split == "train").images}
        assert all(image.tobytes() in published for image in data.digits(split).images)


def test_licence_is_beside_the_bundled_data():
    folder = Path(data.bundled.__file__).parent
    text = (folder / "LICENSE.txt").read_text()
    assert "CC BY-SA 3.0" in text and "LeCun" in text and "Cortes" in text and "Burges" in text


def test_image_items_are_floats_in_unit_range(photos):
    image, label = photos[-1]
    assert image.dtype == np.float32 and isinstance(label, int) and label == 49 % 4
    np.testing.assert_array_equal(image, photos.images[49].astype(np.float32) / np.float32(255))
    assert photos.images.strides[1] == 1  # channels-last in memory
    assert repr(photos) == "ImageDataset(50 images 3x7x5, 4 classes)"
    with pytest.raises(IndexError, match="index 50 is out of range for 50 samples"):
        photos[50]


def test_image_transform_applies_to_items_and_batches(photos):
    photos.transform = lambda image: image[:, ::-1] * 2
    np.testing.assert_array_equal(photos[3][0], photos.images[3, :, ::-1] / np.float32(255) * 2)
    (images, _), = data.DataLoader(photos, 50)
    np.testing.assert_array_equal(images[3], photos[3][0])


@pytest.mark.parametrize("images, labels, error, text", [
    (np.zeros((2, 1, 3, 3), np.float32), [0, 1], DTypeError, "expected images of uint8"),
    (np.zeros((2, 1, 3, 3), np.uint8), [0.0, 1.0], DTypeError, "integer labels"),
    (np.zeros((2, 3, 3), np.uint8), [0, 1], ShapeError, r"expected images of shape \(N, C, H, W\)"),
    (np.zeros((2, 1, 0, 3), np.uint8), [0, 1], ShapeError, "expected images"),
    (np.zeros((2, 1, 3, 3), np.uint8), [0], ShapeError, r"got \(2, 1, 3, 3\) and \(1,\)"),
    (np.zeros((2, 1, 3, 3), np.uint8), [0, 2], ValueError, "labels from 0 to 1, got 0 to 2"),
    (np.zeros((2, 1, 3, 3), np.uint8), [-1, 1], ValueError, "got -1 to 1"),
])
def test_image_dataset_says_what_does_not_fit(images, labels, error, text):
    with pytest.raises(error, match=text):
        data.ImageDataset(images, labels, ["a", "b"])


def test_statistics_match_numpy(photos):
    values = photos.images.astype(np.float64) / 255
    mean, std = photos.statistics()
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=(0, 2, 3)), rtol=1e-9)


def test_tensor_dataset(rng):
    x, y = rng.normal(size=(9, 4)).astype(np.float32), np.arange(9)
    dataset = data.TensorDataset(x, y)
    assert len(dataset) == 9 and dataset[-2][1] == 7
    (xs, ys), = data.DataLoader(dataset, 9)
    np.testing.assert_array_equal(xs, x)
    np.testing.assert_array_equal(ys, y)
    with pytest.raises(ShapeError, match=r"same number of samples, got shapes \(9, 4\), \(3,\)"):
        data.TensorDataset(x, y[:3])
    with pytest.raises(ShapeError, match="at least one array"):
        data.TensorDataset()


def test_random_split_covers_everything_once(photos):
    parts = data.random_split(photos, [0.8, 0.2], seed=3)
    assert [len(p) for p in parts] == [40, 10]
    assert sorted(np.concatenate([p.indices for p in parts])) == list(range(50))
    again = data.random_split(photos, [40, 10], seed=3)
    np.testing.assert_array_equal(parts[1].indices, again[1].indices)
    other = data.random_split(photos, [40, 10], seed=4)
    assert other[1].indices.tolist() != again[1].indices.tolist()
    (images, labels), = data.DataLoader(parts[1], 10)
    for i in range(10):
        image, label = parts[1][i]
        np.testing.assert_array_equal(images[i], image)
        assert labels[i] == label
    with pytest.raises(ValueError, match=r"sum to 50, got \[40, 11\]"):
        data.random_split(photos, [40, 11])
    with pytest.raises(IndexError, match="out of range for 50 samples"):
        data.Subset(photos, [50])


# -- MNIST and idx -----------------------------------------------------------------------


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return (bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, images: np.ndarray, labels: np.ndarray, stem="train", pack=bytes):
    end = ".gz" if pack is gzip.compress else ""
    (root / f"{stem}-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
    (root / f"{stem}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("below", [".", "MNIST/raw"])
def test_mnist_reads_its_files(tmp_path, rng, pack, below):
    images, labels = rng.integers(0, 256, (6, 28, 28)), np.array([0, 9, 3, 4, 5, 1])
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    write_mnist(folder, images, labels, "t10k", pack)
    dataset = data.MNIST(tmp_path, train=False)
    np.testing.assert_array_equal(dataset.images[:, 0], images)
    np.testing.assert_array_equal(dataset.labels, labels)
    with pytest.raises(FileNotFoundError, match="expected train-images-idx3-ubyte or"):
        data.MNIST(tmp_path, train=True)


def test_published_mnist(shared_data):
    train, test = (data.MNIST(shared_data / "mnist", train) for train in (True, False))
    assert train.images.shape == (60000, 1, 28, 28) and test.images.shape == (10000, 1, 28, 28)
    assert train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def damaged_idx() -> dict[str, tuple[bytes, str]]:
    good = idx(np.zeros((2, 3, 4)))
    huge = bytes([0, 0, 8, 3]) + np.full(3, 2**32 - 1, ">u4").tobytes() + bytes(24)
    return {
        "empty": (b"", "ends early, expected 4 bytes of data, got 0"),
        "no magic": (b"\x89PNG" + good[4:], "no idx file, it starts with 89 50 4e 47"),
        "type": (idx(np.zeros((2, 3, 4)), kind=13), "got type 13 with 3 axes"),
        "axes": (idx(np.zeros(24)), "expected unsigned bytes .* got type 8 with 1 axes"),
        "header cut": (good[:9], "ends early, expected 12 bytes of data, got 5"),
        "data cut": (good[:-1], r"declares 24 bytes|ends early, expected 24 bytes of data, got 23"),
        "data over": (good + b"\0", r"has more than the 24 bytes of shape \(2, 3, 4\)"),
        "sizes": (huge, "more than it can hold"),
    }


@pytest.mark.parametrize("case", damaged_idx())
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_damaged_idx_files(tmp_path, case, pack):
    content, text = damaged_idx()[case]
    path = tmp_path / "file"
    path.write_bytes(pack(content))
    with pytest.raises(DataFormatError, match=text):
        read_idx(path, 3)


def test_damaged_gzip(tmp_path, rng):
    path = tmp_path / "file"
    packed = gzip.compress(idx(rng.integers(0, 256, (20, 28, 28))))
    for broken in (packed[:-9], packed[:40], packed[:5], packed[:10] + bytes(8) + packed[18:],
                   packed[:-8] + bytes(4) + packed[-4:]):
        path.write_bytes(broken)
        with pytest.raises(DataFormatError):
            read_idx(path, 3)


def test_gzip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb"
    small = idx(np.zeros((2, 3, 4)))
    path.write_bytes(gzip.compress(small + bytes(50 << 20)))
    with pytest.raises(DataFormatError, match="has more than the 24 bytes"):
        read_idx(path, 3)
    declared = bytes([0, 0, 8, 3]) + np.array([60000, 4000, 4000], ">u4").tobytes()
    path.write_bytes(gzip.compress(declared))
    with pytest.raises(DataFormatError, match="declares 960000000000 bytes"):
        read_idx(path, 3)


def test_every_cut_of_an_idx_file_is_an_error(tmp_path, rng):
    path = tmp_path / "file"
    for good in (idx(rng.integers(0, 256, (2, 5, 5))),
                 gzip.compress(idx(rng.integers(0, 256, (2, 5, 5))))):
        for length in range(len(good)):
            path.write_bytes(good[:length])
            with pytest.raises(DataFormatError):
                read_idx(path, 3)


def test_mnist_checks_that_labels_fit(tmp_path):
    write_mnist(tmp_path, np.zeros((3, 28, 28)), np.array([1, 2]))
    with pytest.raises(DataFormatError, match="do not fit 2 labels"):
        data.MNIST(tmp_path)
    write_mnist(tmp_path, np.zeros((2, 28, 28)), np.array([1, 10]))
    with pytest.raises(DataFormatError, match="expected labels from 0 to 9, got 10"):
        data.MNIST(tmp_path)
    write_mnist(tmp_path, np.zeros((0, 28, 28)), np.zeros(0))
    with pytest.raises(DataFormatError, match="do not fit"):
        data.MNIST(tmp_path)


# -- CIFAR-10 ----------------------------------------------------------------------------


def test_cifar10_reads_its_files(tmp_path, rng):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    images = rng.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(10, dtype=np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(10, -1)], axis=1)
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(records[2 * i:2 * i + 2].tobytes())
    for root in (tmp_path, folder):
        dataset = data.CIFAR10(root)
        np.testing.assert_array_equal(dataset.images, images)
        np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.classes[3] == "cat"
    with pytest.raises(FileNotFoundError, match=r"expected test_batch\.bin in"):
        data.CIFAR10(tmp_path, train=False)
    for content, text in ((records.tobytes()[:-1], "expected a multiple of 3073 bytes"),
                          (b"", "got 0 bytes"),
                          (b"\x0a" + bytes(3072), "expected labels from 0 to 9, got 10")):
        (folder / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataFormatError, match=text):
            data.CIFAR10(tmp_path, train=False)


# -- folders of images -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, rng):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name in ("dog", "cat"):
        (tmp_path / name / "deep").mkdir(parents=True)
        for path in (tmp_path / name / "1.png", tmp_path / name / "deep" / "2.PNG"):
            image_module.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
        (tmp_path / name / "notes.txt").write_text("no image")
    return tmp_path


def test_image_folder(folder):
    from PIL import Image

    dataset = data.ImageFolder(folder)
    assert dataset.classes == ["cat", "dog"] and dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.images.shape == (4, 3, 6, 8)
    for image, path in zip(dataset.images, dataset.paths, strict=True):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(Image.open(path)))
    grey = data.ImageFolder(folder, size=(4, 4), channels=1)
    assert grey.images.shape == (4, 1, 4, 4)


def test_image_folder_errors(folder, tmp_path):
    from PIL import Image

    Image.new("RGB", (5, 5)).save(folder / "dog" / "3.png")
    with pytest.raises(ShapeError, match=r"got 6x8 in .*1.png and 5x5 in .*3.png"):
        data.ImageFolder(folder)
    (folder / "dog" / "3.png").write_bytes((folder / "dog" / "1.png").read_bytes()[:60])
    with pytest.raises(DataFormatError, match=r"3\.png: cannot be read as an image"):
        data.ImageFolder(folder)
    with pytest.raises(FileNotFoundError, match="expected a folder for each class"):
        data.ImageFolder(folder / "cat" / "deep")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected images .* in .*empty"):
        data.ImageFolder(folder)
    with pytest.raises(FileNotFoundError, match="expected a folder of class folders"):
        data.ImageFolder(folder / "nowhere")
    with pytest.raises(ShapeError, match="expected 1 or 3 channels, got 2"):
        data.load_image(folder / "cat" / "1.png", channels=2)


def test_missing_pillow_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"convkit\[train\]"):
        data.ImageFolder(folder)


def test_load_image_cuts_the_centre(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 200
    image_module.fromarray(pixels).save(tmp_path / "wide.png")
    image = data.load_image(tmp_path / "wide.png", size=(4, 4))
    assert image.shape == (3, 4, 4) and (image == 200).all()


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_grey_of_16_bits_is_scaled_not_cut_off(tmp_path, name):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.arange(0, 2**16, 2**16 // 40, dtype=np.uint16)[:40].reshape(5, 8)
    image_module.fromarray(pixels).save(tmp_path / name)
    for channels in (1, 3):
        image = data.load_image(tmp_path / name, channels=channels)
        np.testing.assert_array_equal(image, np.broadcast_to(pixels >> 8, (channels, 5, 8)))


# -- the loader --------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("drop_last, sizes", [(False, [16, 16, 16, 2]), (True, [16, 16, 16])])
def test_batches_are_stacked_items(photos, prefetch, drop_last, sizes):
    loader = data.DataLoader(photos, 16, drop_last=drop_last, prefetch=prefetch)
    batches = list(loader)
    assert len(loader) == len(sizes) and [len(y) for _, y in batches] == sizes
    position = 0
    for images, labels in batches:
        images, labels = images.numpy(), labels.numpy()
        assert images.dtype == np.float32 and images.strides[1] == 4 and labels.dtype == np.int64
        for image, label in zip(images, labels, strict=True):
            np.testing.assert_array_equal(image, photos[position][0])
            assert label == photos[position][1]
            position += 1


def test_normalised_batches_have_pytorchs_bits(photos, torch):
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    (images, _), = data.DataLoader(photos, 50, mean=mean, std=std)
    expected = torch.from_numpy(photos.images.copy()).to(torch.float32).div(255)
    expected.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])
    np.testing.assert_array_equal(images, expected.numpy())


def test_one_value_normalises_all_channels(photos):
    (images, _), = data.DataLoader(photos, 50, mean=0.5)
    np.testing.assert_array_equal(images, photos.images / np.float32(255) - np.float32(0.5))
    with pytest.raises(ShapeError, match="expected std with 1 or 3 values, got 2"):
        next(iter(data.DataLoader(photos, 50, std=[1, 2])))
    with pytest.raises(ValueError, match="expected std above 0"):
        data.DataLoader(photos, std=0)


def test_shuffling_depends_on_seed_and_epoch_only(photos):
    def orders(seed, prefetch, epochs=3):
        loader = data.DataLoader(photos, 7, shuffle=True, seed=seed, prefetch=prefetch)
        return [[pixel for x, _ in loader for pixel in x.numpy()[:, 0, 0, 0].tolist()]
                for _ in range(epochs)]

    first = orders(5, 0)
    assert orders(5, 2) == first
    assert first[0] != first[1] != first[2]
    assert all(sorted(order) == sorted(first[0]) for order in first)
    assert orders(6, 0)[0] != first[0]


def test_transform_draws_depend_on_the_position_only(photos):
    def shift(images, rng):
        assert images.dtype == np.uint8
        return np.roll(images, int(rng.integers(7)), axis=2)

    def run(prefetch):
        loader = data.DataLoader(photos, 8, shuffle=True, seed=1, prefetch=prefetch,
                                 transform=shift)
        return [x.numpy().tobytes() for _ in range(2) for x, _ in loader]

    assert run(0) == run(3)
    assert len(set(run(0))) == 14


def test_resumed_loader_gives_what_would_have_come(photos):
    def make():
        return data.DataLoader(photos, 8, shuffle=True, seed=9,
                               transform=lambda x, rng: x + rng.integers(9, dtype=np.uint8))

    whole = [x.numpy().tobytes() for loader in [make()] for _ in range(2) for x, _ in loader]
    for stop in (0, 3, 6, 7, 8, 13):
        first = make()
        seen = []
        while len(seen) < stop:
            for x, _ in first:
                seen.append(x.numpy().tobytes())
                if len(seen) == stop:
                    break
        second = data.DataLoader(photos, 8, shuffle=True, seed=1234, transform=first.transform)
        second.load_state_dict(first.state_dict())
        while len(seen) < len(whole):
            seen += [x.numpy().tobytes() for x, _ in second]
        assert seen == whole


def test_a_new_pass_after_leaving_early_starts_the_next_epoch(photos):
    loader = data.DataLoader(photos, 10, shuffle=True, seed=0)
    full = [[y.tolist() for _, y in data_pass] for data_pass in [loader, loader]]
    again = data.DataLoader(photos, 10, shuffle=True, seed=0)
    next(iter(again))
    assert [y.tolist() for _, y in again] == full[1]


def test_manual_seed_fixes_the_order_of_loaders_without_a_seed(photos):
    def labels():
        return [y.tolist() for _, y in data.DataLoader(photos, 10, shuffle=True)]

    convkit.manual_seed(3)
    first, second = labels(), labels()
    convkit.manual_seed(3)
    assert labels() == first != second


def test_bad_states_are_refused(photos):
    loader = data.DataLoader(photos, 8)
    state = loader.state_dict()
    for change, text in (({"batch_size": 4}, "expected batch_size 8 as in this loader, got 4"),
                         ({"samples": 49}, "expected samples 50"),
                         ({"batch": 8}, "expected batch of at most 7, got 8"),
                         ({"epoch": -1}, "expected epoch of at least 0, got -1"),
                         ({"more": 1}, "expected the fields")):
        with pytest.raises(ValueError, match=text):
            loader.load_state_dict(state | change)


@pytest.mark.parametrize("options, error, text", [
    ({"batch_size": 0}, ValueError, "expected batch_size of at least 1, got 0"),
    ({"batch_size": 2.0}, TypeError, "expected batch_size as an int, got 2.0"),
    ({"prefetch": -1}, ValueError, "expected prefetch of at least 0"),
    ({"seed": -1}, ValueError, "expected seed of at least 0"),
    ({"mean": [[1.0]]}, ValueError, "expected mean as finite numbers"),
    ({"std": float("nan")}, ValueError, "expected std as finite numbers"),
])
def test_loader_checks_its_options(photos, options, error, text):
    with pytest.raises(error, match=text):
        data.DataLoader(photos, **options)


def test_plain_python_data_sets_are_stacked():
    class Squares:
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return np.full((2, 3, 4), i, np.float32), i * i

    images, labels = next(iter(data.DataLoader(Squares(), 5)))
    assert images.shape == (5, 2, 3, 4) and images.data.strides[1] == 4
    assert labels.tolist() == [0, 1, 4, 9, 16]
    singles = list(data.DataLoader([1.5, 2.5, 3.5], 2))
    assert [s.tolist() for s in singles] == [[1.5, 2.5], [3.5]]
    with pytest.raises(ShapeError, match=r"expected samples of one shape"):
        list(data.DataLoader([np.zeros(2), np.zeros(3)], 2))
    with pytest.raises(DTypeError, match=r"expected samples of arrays and numbers, got \['str'\]"):
        list(data.DataLoader(["a", "b"], 2))
    with pytest.raises(ShapeError, match="same number of entries"):
        list(data.DataLoader([(1, 2), (1,)], 2))


def test_empty_data_set_has_no_batches():
    empty = data.ImageDataset(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, int), ["a"])
    assert list(data.DataLoader(empty, 4)) == [] and len(data.DataLoader(empty, 4)) == 0


def test_errors_of_the_thread_reach_the_caller():
    class Broken:
        def __len__(self):
            return 10

        def __getitem__(self, i):
            if i == 5:
                raise KeyError("sample 5 is missing")
            return i

    seen = []
    with pytest.raises(KeyError, match="sample 5 is missing"):
        for batch in data.DataLoader(Broken(), 2):
            seen.append(batch.tolist())
    assert seen == [[0, 1], [2, 3]] and loader_threads() == 0


def test_no_thread_stays(photos):
    for _ in data.DataLoader(photos, 5):
        pass
    assert loader_threads() == 0
    for _ in data.DataLoader(photos, 5):
        break
    gc.collect()
    assert loader_threads() == 0
    with contextlib.suppress(ZeroDivisionError):
        for _ in data.DataLoader(photos, 5):
            1 / 0
    gc.collect()
    assert loader_threads() == 0
    batches = iter(data.DataLoader(photos, 5))
    next(batches)
    assert loader_threads() == 1
    batches.close()
    assert loader_threads() == 0 and list(batches) == []


def test_interpreter_ends_with_a_loader_in_use():
    code = ("from convkit import data\n"
            "batches = iter(data.DataLoader(data.digits(), 32))\n"
            "next(batches)\n"
            "print('last line')\n")
    start = time.monotonic()
    done = run_code(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "last line\n", "")
    assert time.monotonic() - start < 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_after_a_fork_old_iterators_say_so_and_new_ones_work():
    code = """if True:
        import os, warnings
        warnings.simplefilter("ignore")
        from convkit import data
        loader = data.DataLoader(data.digits(), 32)
        batches = iter(loader)
        next(batches)
        child = os.fork()
        if child == 0:
            try:
                next(batches)
            except RuntimeError as error:
                print(str(error)[:39], sum(len(y) for _, y in loader), flush=True)
            del batches
            os._exit(0)
        os.waitpid(child, 0)
        print(sum(len(y) for _, y in batches))
    """
    done = run_code(code)
    assert done.stdout == "this iterator was made before a fork an 4000\n3968\n", done.stderr


def test_steady_loading_reuses_memory():
    from convkit._kernels import memory

    loader = data.DataLoader(data.digits(), 100, shuffle=True, mean=0.1, std=0.3)
    for _ in loader:
        pass
    before = memory.stats()["fresh"]
    for _ in loader:
        pass
    assert memory.stats()["fresh"] - before <= 4
