"""Augmentation against what each transform means in NumPy, Pillow, colorsys and torchvision."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

import convkit
from convkit import data
from convkit.data import augment as A
from convkit.data.augment import base, geometry
from convkit.errors import DTypeError, ShapeError

LIGHTING = (np.array([0.2, 0.02, 0.005]), np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2)[0])

# Every transform with its settings, and the channels it takes.
EVERY = {
    "pad": lambda: A.Pad(3, padding_mode="symmetric"),
    "crop": lambda: A.RandomCrop((20, 18), padding=4),
    "reflect": lambda: A.RandomCrop(21, padding=5, padding_mode="reflect"),
    "centre": lambda: A.CenterCrop((11, 14)),
    "ten": lambda: A.TenCrop(15),
    "horizontal": lambda: A.RandomHorizontalFlip(),
    "vertical": lambda: A.RandomVerticalFlip(),
    "quarters": lambda: A.RandomRotation90(),
    "rotation": lambda: A.RandomRotation(30, fill=7),
    "affine": lambda: A.RandomAffine(20, (0.1, 0.2), (0.8, 1.2), (-10, 10, -5, 5)),
    "translation": lambda: A.RandomTranslation((0.2, 0.1)),
    "scale": lambda: A.RandomScale((0.6, 1.4), padding_mode="edge"),
    "shear": lambda: A.RandomShear(25, fill=7),
    "nearest": lambda: A.RandomAffine(20, interpolation="nearest", padding_mode="edge"),
    "resize": lambda: A.Resize((9, 31)),
    "resized crop": lambda: A.RandomResizedCrop(17),
    "short side": lambda: A.RandomShortSideCrop(16, (16, 40)),
    "jitter": lambda: A.ColorJitter(0.4, 0.4, 0.4, 0.2),
    "grey": lambda: A.RandomGrayscale(0.5),
    "drop": lambda: A.RandomChannelDrop(),
    "lighting": lambda: A.PCALighting(*LIGHTING),
    "erasing": lambda: A.RandomErasing(value=3),
    "cutout": lambda: A.Cutout(9, holes=2),
    "noise": lambda: A.GaussianNoise(0.02, (0.0, 0.2)),
    "blur": lambda: A.GaussianBlur(7),
    "sobel": lambda: A.Sobel(),
    "one of": lambda: A.OneOf([A.Sobel(), A.RandomHue(0.3), A.RandomRotation(9)], [1, 2, 3]),
    "apply": lambda: A.RandomApply([A.GaussianBlur(3), A.RandomRotation(9)], 0.5),
    "compose": lambda: A.Compose([A.RandomCrop(23, padding=2), A.RandomHorizontalFlip(),
                                  A.RandomApply([A.RandomRotation(9)]), A.ColorJitter(0.3),
                                  A.GaussianNoise()]),
}
MIXES = {"mixup": lambda: A.MixUp(5, 0.3, p=0.7), "cutmix": lambda: A.CutMix(5, p=0.7),
         "cowmix": lambda: A.CowMix(5, (1.0, 4.0), p=0.7)}


def photos(rng, count=9, channels=3, size=(23, 23), dtype=np.uint8):
    images = rng.integers(0, 256, (count, channels, *size), dtype=np.uint8)
    return images if dtype == np.uint8 else images.astype(np.float32) / np.float32(255)


def draws(count=1, seed=0):
    return A.Draws(seed, 0, np.arange(count))


# -- the same bits ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", [*EVERY, *MIXES])
def test_bits_do_not_depend_on_threads_or_batch(rng, name, dtype):
    images, labels, transform = photos(rng, dtype=dtype), np.arange(9) % 5, (EVERY | MIXES)[name]()
    found = []
    for threads in (1, 2, 3):
        with convkit.threads(threads):
            found.append(transform(images, labels, seed=3, epoch=2, indices=np.arange(100, 109)))
    one, soft = found[0]
    assert one.dtype == dtype and np.moveaxis(one, -3, -1).flags.c_contiguous
    for other, other_labels in found[1:]:
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(soft, other_labels)
    for i in (1, 4, 8):  # with the one before it, which is what it is mixed with
        part = slice(i if name in EVERY else i - 1, i + 1)
        few, few_labels = transform(images[part], labels[part], seed=3, epoch=2,
                                    indices=np.arange(100, 109)[part])
        np.testing.assert_array_equal(few[-1], one[i])
        np.testing.assert_array_equal(few_labels[-1], soft[i])


@pytest.mark.parametrize("name", EVERY)
def test_a_single_image_is_a_batch_of_one(rng, name):
    images, transform = photos(rng, 1), EVERY[name]()
    alone = transform(images[0], seed=3, epoch=2, indices=100)
    np.testing.assert_array_equal(alone, transform(images, seed=3, epoch=2, indices=[100])[0])


@pytest.mark.parametrize("name", [*EVERY, *MIXES])
def test_seed_and_epoch_change_what_is_random(rng, name):
    images, transform = photos(rng), (EVERY | MIXES)[name]()
    before = images.copy()
    first = transform(images, seed=1)
    np.testing.assert_array_equal(first, transform(images, seed=1))
    np.testing.assert_array_equal(images, before)
    fixed = name in ("pad", "centre", "ten", "resize", "sobel")
    for other in (transform(images, seed=2), transform(images, seed=1, epoch=1)):
        assert np.array_equal(first, other) == fixed


def test_random_words_are_philox():
    """numbers of the authors' known-answer test: Philox4x32-10 of zeros."""
    from convkit._kernels import augment as kernels

    got = kernels.uniforms((0, 0), np.zeros(1, np.int64), 0, 4)[0] * 2.0**32
    assert [int(v) for v in got] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_uniform_and_beta_draws_are_distributed_as_they_say(rng):
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    many = draws(20000)
    assert stats.kstest(many.uniform(3)[:, 2], "uniform").pvalue > 1e-3
    for alpha in (0.2, 1.0, 4.0):
        assert stats.kstest(many.beta(alpha), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert not np.array_equal(many.child(0).uniform(1), many.child(1).uniform(1))


# -- geometry ----------------------------------------------------------------------------------


def by_definition(image, matrix, size, border="constant", fill=0.0):
    """Bilinear samples of one image (H, W), pixel by pixel, in float64."""
    height, width = image.shape
    out = np.zeros(size)

    def value(y, x):
        if border == "edge":
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        return float(image[y, x]) if 0 <= y < height and 0 <= x < width else fill

    for row in range(size[0]):
        for column in range(size[1]):
            x, y = matrix @ np.array([column, row, 1.0])
            i, j = int(np.floor(y)), int(np.floor(x))
            a, b = y - i, x - j
            out[row, column] = ((1 - a) * ((1 - b) * value(i, j) + b * value(i, j + 1))
                                + a * ((1 - b) * value(i + 1, j) + b * value(i + 1, j + 1)))
    return out


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("border", ["constant", "edge"])
def test_warp_is_bilinear_interpolation(rng, channels, border):
    images = rng.random((2, 7, 6, channels), np.float32)
    matrices = np.array([[[0.8, -0.5, 1.3], [0.4, 0.9, -1.7]], [[1.1, 0, -0.4], [0, -1, 6]]])
    got = geometry.sample(images, matrices, (5, 9), geometry.Sampling("bilinear", border, 0.25))
    for n in range(2):
        for c in range(channels):
            want = by_definition(images[n, :, :, c], matrices[n], (5, 9), border, 0.25)
            np.testing.assert_allclose(got[n, :, :, c], want, atol=2e-6)


def test_flips_and_turns_move_pixels_exactly(rng):
    images = photos(rng, size=(6, 4))
    np.testing.assert_array_equal(A.RandomHorizontalFlip(1)(images), images[..., ::-1])
    np.testing.assert_array_equal(A.RandomVerticalFlip(1)(images), images[:, :, ::-1])
    for k in range(4):
        np.testing.assert_array_equal(A.RandomRotation90([k])(images),
                                      np.rot90(images, k, axes=(2, 3)))
    square = photos(rng, 40, size=(5, 5))
    turned = A.RandomRotation90()(square, seed=0)
    found = {next(k for k in range(4) if np.array_equal(np.rot90(a, k, (1, 2)), b))
             for a, b in zip(square, turned, strict=True)}
    assert found == {0, 1, 2, 3}
    with pytest.raises(ShapeError, match=r"expected square images .* got 6x4"):
        A.RandomRotation90()(images)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
def test_padding_is_numpys(rng, mode):
    images = photos(rng, 2, 3, (5, 4))
    got = A.Pad((1, 2, 3, 3), padding_mode=mode)(images)
    np.testing.assert_array_equal(
        got, np.pad(images, ((0, 0), (0, 0), (2, 3), (1, 3)), mode=mode))


def test_random_crops_are_windows_of_the_padded_image(rng):
    images = photos(rng, 60, 2, (6, 5))
    crops = A.RandomCrop((4, 5), padding=(1, 2))(images, seed=4)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 5), axis=(2, 3))
    places = set()
    for n in range(60):
        same = (windows[n] == crops[n, :, None, None]).all(axis=(0, 3, 4))
        assert same.any()
        places.add(tuple(np.argwhere(same)[0]))
    assert len(places) > 10
    with pytest.raises(ShapeError, match="at least 9x9 to crop, got 6x5"):
        A.RandomCrop(9)(images)


def test_ten_crops(rng):
    image = photos(rng, 1, 3, (9, 8))
    ten = A.TenCrop((4, 6))(image)[0]
    assert ten.shape == (10, 3, 4, 6)
    for crops, whole in ((ten[:5], image[0]), (ten[5:], image[0, :, :, ::-1])):
        wanted = [whole[:, :4, :6], whole[:, :4, -6:], whole[:, -4:, :6], whole[:, -4:, -6:],
                  whole[:, 2:6, 1:7]]
        for got, want in zip(crops, wanted, strict=True):
            np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(A.FiveCrop((4, 6))(image)[0], ten[:5])


@pytest.mark.parametrize("angle, move, scale, shear", [
    (33.0, (0, 0), 1.0, (0, 0)), (-140.0, (3, -2), 1.4, (12, 0)), (0.0, (0, 0), 0.6, (20, -15)),
    (25.0, (1, 4), 1.1, (10, -20))])
def test_affine_is_the_product_of_its_parts(angle, move, scale, shear):
    """T C R S K C^-1, as torchvision's documentation has it, maps input to output."""
    a, (sx, sy) = np.radians(angle), np.radians(shear)
    rotate = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    along_x = np.array([[1, -np.tan(sx), 0], [0, 1, 0], [0, 0, 1]])
    along_y = np.array([[1, 0, 0], [-np.tan(sy), 1, 0], [0, 0, 1]])

    def shift(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])

    forward = (shift(*move) @ shift(8, 10) @ rotate @ np.diag([scale, scale, 1])
               @ along_y @ along_x @ shift(-8, -10))
    got = A.affine.inverse(np.array([a]), np.array([move], float), np.array([scale]),
                           np.array([sx]), np.array([sy]), (21, 17))[0]
    np.testing.assert_allclose(np.vstack([got, [0, 0, 1]]) @ forward, np.eye(3), atol=1e-12)


def test_rotation_turns_counter_clockwise(rng):
    images = photos(rng, 2, 3, (9, 9))
    got = A.RandomRotation((90, 90))(images)
    assert np.abs(got.astype(int) - np.rot90(images, 1, (2, 3))).max() <= 1


@pytest.mark.parametrize("border", ["constant", "edge"])
def test_translations_are_whole_pixels_within_their_shares(rng, border):
    images = photos(rng, 300, 3, (20, 30))
    transform = A.RandomTranslation((0.2, 0.1), border, 9 if border == "constant" else 0)
    moved = transform(images, seed=6)
    extra = {"constant_values": 9} if border == "constant" else {}
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (6, 6)), border, **extra)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (20, 30), axis=(2, 3))
    places = [np.argwhere((windows[n] == moved[n, :, None, None]).all(axis=(0, 3, 4)))
              for n in range(300)]
    assert all(len(found) == 1 for found in places)
    down, right = np.concatenate(places).T
    assert set(down) == set(range(5)) and set(right) == set(range(13))
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2
    np.testing.assert_array_equal(transform(images, seed=6), moved)
    assert not np.array_equal(transform(images, seed=7), moved)


def tangent(degrees):
    return np.tan(np.radians(degrees))


# Scale and shear with one value to draw, and the matrix from output to input (row, column).
ABOUT_THE_CENTRE = {
    "smaller": (A.RandomScale, (0.7, 0.7), np.eye(2) / 0.7),
    "larger": (A.RandomScale, (1.6, 1.6), np.eye(2) / 1.6),
    "along x": (A.RandomShear, (20, 20), np.array([[1, 0], [tangent(20), 1]])),
    "along y": (A.RandomShear, (0, 0, -15, -15), np.array([[1, tangent(-15)], [0, 1]])),
    "both": (A.RandomShear, (12, 12, 8, 8),
             np.array([[1, 0], [tangent(12), 1]]) @ np.array([[1, tangent(8)], [0, 1]])),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("border", ["constant", "edge"])
@pytest.mark.parametrize("name", ABOUT_THE_CENTRE)
def test_scale_and_shear_are_scipys(rng, name, border, dtype):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    make, limits, matrix = ABOUT_THE_CENTRE[name]
    images, fill = photos(rng, 2, 3, (15, 12), dtype), 40 if dtype == np.uint8 else 0.25
    got = make(limits, padding_mode=border, fill=fill)(images)
    centre = np.array([14, 11]) / 2
    mode = {"constant": "grid-constant", "edge": "nearest"}[border]
    for n, c in np.ndindex(2, 3):
        want = ndimage.affine_transform(images[n, c].astype(np.float64), matrix,
                                        centre - matrix @ centre, order=1, mode=mode, cval=fill)
        np.testing.assert_allclose(got[n, c], want, atol=0.51 if dtype == np.uint8 else 3e-6)


@pytest.mark.parametrize("make, limits, place", [
    (lambda: A.RandomScale((0.6, 1.4)), (0.6, 1.4), lambda m: 1 / m[:, 0, 0]),
    (lambda: A.RandomShear(25), (-25, 25), lambda m: np.degrees(np.arctan(m[:, 0, 1]))),
    (lambda: A.RandomShear((5, 10)), (5, 10), lambda m: np.degrees(np.arctan(m[:, 0, 1]))),
    (lambda: A.RandomShear((0, 0, -8, 3)), (-8, 3), lambda m: np.degrees(np.arctan(m[:, 1, 0]))),
])
def test_scale_and_shear_are_drawn_evenly(make, limits, place):
    """About the centre of 21 x 17 pixels, evenly over the range, and nothing but what is named."""
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    matrices, size = make().maps(draws(4000), (21, 17))
    assert size == (21, 17)
    np.testing.assert_allclose(matrices @ [8, 10, 1], np.tile([8, 10], (4000, 1)), atol=1e-12)
    values = place(matrices)
    assert limits[0] <= values.min() and values.max() <= limits[1]
    assert stats.kstest(values, stats.uniform(limits[0], limits[1] - limits[0]).cdf).pvalue > 1e-3
    linear = np.round(matrices[:, :, :2], 12).reshape(-1, 4)
    assert (np.ptp(linear, axis=0) > 0).sum() == (2 if isinstance(make(), A.RandomScale) else 1)
    np.testing.assert_array_equal(matrices, make().maps(draws(4000), (21, 17))[0])
    assert not np.array_equal(matrices, make().maps(draws(4000, seed=1), (21, 17))[0])


def test_a_composition_resamples_once(rng):
    images = photos(rng, 4, dtype=np.float32)
    there = A.RandomRotation((30, 30))
    back = A.RandomRotation((-30, -30))
    twice = back(there(images))
    once = A.Compose([there, back])(images)
    np.testing.assert_allclose(once, images, atol=1e-5)
    assert np.abs(twice - images).max() > 0.1
    parts = [A.RandomCrop(23, padding=3), A.RandomHorizontalFlip(), A.RandomAffine(10)]
    assert len(A.Compose(parts)._stages) == 1
    assert len(A.Compose([*parts, A.Sobel(), A.RandomVerticalFlip()])._stages) == 3
    assert len(A.Compose([A.RandomCrop(23, padding=3, padding_mode="reflect"),
                          A.RandomAffine(10)])._stages) == 2
    assert len(A.Compose([*parts, A.RandomApply([A.RandomRotation(5)], 0.5)])._stages) == 1


def test_a_run_of_crops_and_flips_copies_what_single_steps_copy(rng):
    images = photos(rng)
    steps = [A.RandomCrop(25, padding=4), A.RandomHorizontalFlip(), A.RandomRotation90()]
    stream = A.Draws(5, 1, np.arange(9))
    want = images
    for place, step in enumerate(steps):
        want, _ = step.batch(want, None, stream.child(place))
    np.testing.assert_array_equal(A.Compose(steps)(images, seed=5, epoch=1), want)


# -- resize ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 31), (46, 5), (23, 23), (1, 1), (70, 64)])
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_is_pytorchs(rng, torch, size, antialias):
    images = photos(rng, 2, 3, dtype=np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(images), size, mode="bilinear", antialias=antialias).numpy()
    np.testing.assert_allclose(A.Resize(size, antialias=antialias)(images), want, atol=2e-6)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(images), size, mode="nearest-exact").numpy()
    np.testing.assert_array_equal(A.Resize(size, "nearest")(images), want)


def test_resize_is_pillows_to_a_unit(rng):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    images = photos(rng, 1, 3, (37, 29))
    for size in ((12, 50), (80, 7)):
        want = np.asarray(image_module.fromarray(images[0].transpose(1, 2, 0)).resize(
            size[::-1], image_module.Resampling.BILINEAR)).transpose(2, 0, 1)
        got = A.Resize(size)(images)[0]
        assert np.abs(got.astype(int) - want).max() <= 1
    assert A.Resize(10)(images).shape == (1, 3, 12, 10)


def test_resized_crop_scales_its_box(rng):
    images = photos(rng, 6, 3, dtype=np.float32)
    transform = A.RandomResizedCrop((8, 10))
    got = transform(images, seed=8)
    for n, (top, left, h, w) in enumerate(transform.boxes(draws(6, 8), (23, 23))):
        box = images[n:n + 1, :, top:top + h, left:left + w]
        np.testing.assert_allclose(got[n:n + 1], A.Resize((8, 10))(box), atol=1e-6)
        assert 0.04 < h * w / 23**2 <= 1 and 0.5 < w / h < 2
    with pytest.raises(ValueError, match="expected scale as"):
        A.RandomResizedCrop(8, scale=(0.5, 1.5))


def test_short_side_crop_is_resize_then_crop(rng):
    images = photos(rng, 8, 3, (23, 30), np.float32)
    got = A.RandomShortSideCrop(12, (15, 15))(images, seed=1)
    whole = A.Resize(15)(images)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (12, 12), axis=(2, 3))
    for n in range(8):
        apart = np.abs(windows[n] - got[n, :, None, None]).max(axis=(0, 3, 4))
        assert apart.min() < 1e-5


# -- colour ------------------------------------------------------------------------------------


def grey(image):
    return 0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.7])
def test_brightness_contrast_saturation(rng, factor):
    images = photos(rng, 2, dtype=np.float32)
    for transform, want in (
            (A.RandomBrightness, lambda x: x * factor),
            (A.RandomContrast, lambda x: factor * x + (1 - factor) * grey(x).mean()),
            (A.RandomSaturation, lambda x: factor * x + (1 - factor) * grey(x))):
        got = transform((factor, factor))(images)
        wanted = np.stack([want(x.astype(np.float64)) for x in images]).clip(0, 1)
        np.testing.assert_allclose(got, wanted, atol=2e-6)
        bytes_ = transform((factor, factor))((images * 255).astype(np.uint8))
        assert np.abs(bytes_ - wanted * 255).max() < 1.5


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.13, 0.5])
def test_hue_is_colorsys(rng, turn):
    images = photos(rng, 1, 3, (8, 7), np.float32)
    images[0, :, 0] = images[0, :1, 0]  # grey pixels
    images[0, :, 1, 0] = 0
    got = A.RandomHue((turn, turn))(images)[0]
    for y in range(8):
        for x in range(7):
            h, s, v = colorsys.rgb_to_hsv(*images[0, :, y, x].astype(float))
            want = colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)
            np.testing.assert_allclose(got[:, y, x], want, atol=3e-6)


def test_jitter_applies_its_steps_in_some_order(rng):
    images = photos(rng, 40, dtype=np.float32)
    got = A.ColorJitter((0.5, 0.5), (2, 2))(images, seed=3)
    first = A.RandomContrast((2, 2))(A.RandomBrightness((0.5, 0.5))(images))
    second = A.RandomBrightness((0.5, 0.5))(A.RandomContrast((2, 2))(images))
    apart = [np.abs(got - other).max(axis=(1, 2, 3)) < 1e-5 for other in (first, second)]
    assert (apart[0] | apart[1]).all() and 5 < apart[0].sum() < 35


def test_grey_and_dropped_channels(rng):
    images = photos(rng, 30, dtype=np.float32)
    got = A.RandomGrayscale(1)(images)
    np.testing.assert_allclose(got, np.stack([[grey(x)] * 3 for x in images]), atol=1e-6)
    dropped = A.RandomChannelDrop(1)(images, seed=0)
    zero = (dropped == 0).all(axis=(2, 3))
    assert (zero.sum(axis=1) == 1).all() and zero.any(axis=0).all()
    share = (A.RandomGrayscale(0.3)(photos(rng, 300, size=(2, 2)), seed=1)
             == A.RandomGrayscale(1)(photos(rng, 300, size=(2, 2)), seed=1)).mean()
    assert 0 <= share < 1
    one = photos(rng, 3, 1)
    np.testing.assert_array_equal(A.RandomGrayscale(1)(one), one)
    with pytest.raises(ShapeError, match="expected images of 1 or 3 channels, got 2"):
        A.ColorJitter(0.1)(photos(rng, 1, 2))


def test_lighting_moves_along_principal_components(rng):
    mixed = rng.normal(size=(3, 3)) * [0.1, 0.04, 0.01]
    images = (0.5 + rng.normal(size=(20, 9, 9, 3)) @ mixed.T).transpose(0, 3, 1, 2)
    images = images.astype(np.float32)
    values, vectors = A.color_components(images)
    pixels = images.transpose(0, 2, 3, 1).reshape(-1, 3)
    np.testing.assert_allclose(np.cov(pixels.T, bias=True) @ vectors, vectors * values, atol=1e-6)
    flat = np.full((2000, 3, 1, 1), 0.5, np.float32)
    moved = (A.PCALighting(values, vectors, 2.0)(flat, seed=0) - 0.5)[:, :, 0, 0] @ vectors
    np.testing.assert_allclose(moved.std(axis=0), 2.0 * values, rtol=0.1)
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=0.2 * values.max())


# -- erasing, noise, filters -------------------------------------------------------------------


def test_erased_rectangles(rng):
    images = np.full((200, 3, 20, 30), 9, np.uint8)
    erased = A.RandomErasing(0.5, value=(1, 2, 3))(images, seed=0)
    changed = (erased != images).all(axis=1)
    assert 60 < changed.any(axis=(1, 2)).sum() < 140
    for mask, image in zip(changed, erased, strict=True):
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = image[:, rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
            assert (box == np.array([1, 2, 3])[:, None, None]).all()
            assert 0.01 < mask.sum() / 600 < 0.36
    cut = A.Cutout(7)(images, seed=0)
    areas = (cut == 0).all(axis=1).sum(axis=(1, 2))
    assert areas.max() == 49 and areas.min() < 49 and areas.min() >= 12


def test_noise_is_normal_and_clipped(rng):
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    zeros = np.zeros((3, 3, 51, 47), np.float32)
    noise = A.GaussianNoise(0.5, 0.25, clip=False)(zeros, seed=0)
    assert stats.kstest(noise.ravel(), stats.norm(0.5, 0.25).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(noise.reshape(3, -1))[0, 1]) < 0.05
    flat = noise.transpose(0, 2, 3, 1).ravel()
    assert all(abs(np.corrcoef(flat[:-k], flat[k:])[0, 1]) < 0.05 for k in (1, 2, 16, 32))
    clipped = A.GaussianNoise(0.5, 0.25)(zeros, seed=0)
    np.testing.assert_array_equal(clipped, noise.clip(0, 1))
    bytes_ = A.GaussianNoise(0.5, 0.25)(zeros.astype(np.uint8), seed=0)
    assert np.abs(bytes_ - clipped * 255).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("kernel, sigma", [(1, 1.0), (5, 0.8), (9, 3.0)])
def test_blur_is_the_formula(rng, kernel, sigma):
    images = photos(rng, 2, 3, (6, 11), np.float32)
    k = np.arange(kernel) - kernel // 2
    weight = np.exp(-k**2 / (2 * sigma**2))
    weight /= weight.sum()
    want = images.astype(np.float64)
    for axis in (2, 3):
        pads = [(0, 0)] * 4
        pads[axis] = (kernel // 2, kernel // 2)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(want, pads, mode="reflect"), kernel, axis=axis)
        want = windows @ weight
    np.testing.assert_allclose(A.GaussianBlur(kernel, sigma)(images), want, atol=1e-6)


def test_sobel_is_scipys(rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    images = photos(rng, 2, 3, (6, 5), np.float32)
    got = A.Sobel()(images)
    for n, c in np.ndindex(2, 3):
        gx, gy = (ndimage.sobel(images[n, c].astype(np.float64), axis=a, mode="nearest")
                  for a in (1, 0))
        np.testing.assert_allclose(got[n, c], np.hypot(gx, gy) / 4, atol=1e-6)


# -- mixes and labels ----------------------------------------------------------------------------


def test_mixup_mixes_labels_as_images(rng):
    images = np.arange(9, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 4, 4), np.float32)
    labels = np.arange(9)
    mixed, soft = A.MixUp(9, 0.5)(images, labels, seed=1)
    assert soft.dtype == np.float32 and soft.shape == (9, 9)
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], soft @ np.arange(9), atol=1e-5)
    assert (np.count_nonzero(soft, axis=1) == 2).any()
    _, twice = A.MixUp(9, 0.5)(images, soft, seed=1)
    np.testing.assert_allclose(twice.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("make", [lambda: A.CutMix(9), lambda: A.CowMix(9, (1, 3))])
def test_pasted_areas_are_the_labels_shares(rng, make):
    images = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 16, 12), np.uint8)
    mixed, soft = make()(images, np.arange(9), seed=2)
    for n in range(9):
        counts = np.bincount(mixed[n, 0].ravel(), minlength=9) / (16 * 12)
        np.testing.assert_allclose(soft[n], counts, atol=1e-6)
        assert set(np.unique(mixed[n])) <= {n, (n - 1) % 9}
    assert (np.count_nonzero(soft, axis=1) == 2).sum() > 4


def test_cow_masks_have_the_share_and_patches(rng):
    transform = A.CowMix(2, (3, 3), (0.3, 0.3))
    masks = transform.masks(draws(40), (32, 32))
    assert abs(masks.mean() - 0.3) < 0.04
    changes = np.abs(np.diff(masks.astype(int), axis=2)).mean()
    assert 0.01 < changes < 0.15  # pixels alone would change in 42 % of places


def test_mixed_labels_train(rng):
    images, labels = photos(rng, 6, dtype=np.float32), np.arange(6) % 5
    _, soft = A.CutMix(5)(images, labels, seed=0)
    scores = convkit.tensor(rng.normal(size=(6, 5)).astype(np.float32), requires_grad=True)
    loss = convkit.functional.cross_entropy(scores, convkit.tensor(soft))
    loss.backward()
    log = scores.data - np.log(np.exp(scores.data).sum(1, keepdims=True))
    np.testing.assert_allclose(loss.item(), -(soft * log).sum(1).mean(), rtol=1e-5)


# -- compositions ----------------------------------------------------------------------------------


def test_random_apply_and_one_of_choose_by_image(rng):
    images = photos(rng, 300, 3, (4, 4))
    flipped = images[..., ::-1]
    for inner in ([A.RandomHorizontalFlip(1)], [A.RandomGrayscale(0), A.RandomHorizontalFlip(1)]):
        got = A.RandomApply(inner, 0.3)(images, seed=1)
        done = (got == flipped).all(axis=(1, 2, 3))
        assert (done | (got == images).all(axis=(1, 2, 3))).all()
        assert 0.2 < done.mean() < 0.4
    got, labels = A.OneOf([A.RandomHorizontalFlip(1), A.RandomVerticalFlip(1)], [3, 1])(
        images, np.arange(300), seed=2)
    assert 0.65 < (got == flipped).all(axis=(1, 2, 3)).mean() < 0.85
    np.testing.assert_array_equal(labels, np.arange(300))
    with pytest.raises(ShapeError, match="expected transforms that leave labels as they are"):
        A.RandomApply([A.MixUp(300)], 0.5)(images, np.arange(300), seed=0)
    with pytest.raises(ShapeError, match="expected transforms that give images of one size"):
        A.RandomApply([A.Resize(2)], 0.5)(images, seed=0)


# -- the loader ------------------------------------------------------------------------------------


def test_loader_transforms_by_sample_and_epoch(rng):
    images, labels = photos(rng, 30, 3, (8, 8)), np.arange(30) % 4
    dataset = data.ImageDataset(images, labels, "abcd")
    transform = A.Compose([A.RandomCrop(8, padding=2), A.RandomHorizontalFlip(),
                           A.ColorJitter(0.3, 0.3)])

    def run(batch, prefetch, threads, shuffle=False):
        with convkit.threads(threads):
            loader = data.DataLoader(dataset, batch, shuffle, seed=7, prefetch=prefetch,
                                     transform=transform, mean=0.5, std=0.25)
            return [np.concatenate([x.numpy() for x, _ in loader]) for _ in range(2)]

    first = run(7, 0, 1)
    for other in (run(7, 3, 2), run(30, 0, 2)):
        np.testing.assert_array_equal(first, other)
    assert not np.array_equal(*first)
    shuffled = np.concatenate([run(7, 0, 1, True)[0].reshape(30, -1), first[0].reshape(30, -1)])
    assert len(np.unique(shuffled, axis=0)) == 30  # the same images in another order
    direct = transform(images, seed=7, epoch=1)
    np.testing.assert_array_equal(
        first[1], (direct / np.float32(255) - np.float32(0.5)) / np.float32(0.25))


def test_a_sample_drawn_twice_is_augmented_anew(rng):
    dataset = data.ImageDataset(photos(rng, 2, 3, (8, 8)), [0, 1], "ab")
    sampler = data.WeightedRandomSampler([1.0, 0.0], 40)
    loader = data.DataLoader(dataset, 8, sampler=sampler, seed=0,
                             transform=A.GaussianNoise(sigma=0.2))
    drawn = np.concatenate([x.numpy() for x, _ in loader]).reshape(40, -1)
    assert len(np.unique(drawn, axis=0)) == 40


def test_loader_gives_soft_labels_and_crops(rng):
    dataset = data.ImageDataset(photos(rng, 10, 3, (8, 8)), np.arange(10) % 4, "abcd")
    (images, soft), = data.DataLoader(dataset, 10, seed=0, transform=A.MixUp(4))
    assert images.shape == (10, 3, 8, 8) and soft.shape == (10, 4)
    (crops, _), = data.DataLoader(dataset, 10, transform=A.TenCrop(6), mean=[0, 0, 0.5])
    assert crops.shape == (10, 10, 3, 6, 6) and crops.numpy().dtype == np.float32
    np.testing.assert_array_equal(
        crops.numpy()[:, 0, 2], dataset.images[:, 2, :6, :6] / np.float32(255) - np.float32(0.5))


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("call, error, text", [
    (lambda: A.Sobel()(np.zeros((1, 3, 4, 4))), DTypeError, "uint8 or float32, got float64"),
    (lambda: A.Sobel()(np.zeros((4, 4), np.uint8)), ShapeError, r"\(N, C, H, W\), got \(4, 4\)"),
    (lambda: A.Sobel()(np.zeros((2, 3, 0, 4), np.uint8)), ShapeError, r"got \(2, 3, 0, 4\)"),
    (lambda: A.Sobel()(np.zeros((2, 3, 4, 4), np.uint8), indices=[1]), ShapeError,
     "expected indices for 2 images, got 1"),
    (lambda: A.Pad(1, fill=300)(np.zeros((1, 1, 2, 2), np.uint8)), ValueError, "from 0 to 255"),
    (lambda: A.Pad(1, fill=(1, 2))(np.zeros((1, 1, 2, 2), np.uint8)), ShapeError, "1 or 1 values"),
    (lambda: A.Pad(-1), ValueError, "expected padding"),
    (lambda: A.Pad(1, padding_mode="wrap"), ValueError, "expected padding_mode of constant"),
    (lambda: A.RandomHorizontalFlip(1.5), ValueError, "expected p from 0 to 1, got 1.5"),
    (lambda: A.RandomRotation(-3), ValueError, "expected degrees of at least 0"),
    (lambda: A.RandomAffine(0, interpolation="cubic"), ValueError, "expected interpolation"),
    (lambda: A.RandomAffine(0, translate=(2, 0)), ValueError, "expected translate"),
    (lambda: A.RandomAffine(0, shear=(-95, 95)), ValueError, "expected shear"),
    (lambda: A.GaussianBlur(4), ValueError, "expected kernel_size as an odd int, got 4"),
    (lambda: A.ColorJitter(hue=0.7), ValueError, "expected hue"),
    (lambda: A.MixUp(3, alpha=0), ValueError, "expected alpha above 0"),
    (lambda: A.MixUp(3)(np.zeros((2, 1, 2, 2), np.uint8), [0, 3]), ValueError,
     "expected labels from 0 to 2, got 0 to 3"),
    (lambda: A.MixUp(3)(np.zeros((2, 1, 2, 2), np.uint8), [[0.5, 0.5]] * 2), ShapeError,
     "probabilities"),
    (lambda: A.OneOf([A.Sobel()], [-1]), ValueError, "expected p as 1 shares"),
    (lambda: A.Compose([np.flip]), TypeError, "expected transforms of convkit.data.augment"),
])
def test_what_does_not_fit_is_said(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1)])
@pytest.mark.parametrize("name", ["rotation", "jitter", "noise", "blur", "sobel", "erasing",
                                  "cutout", "resize", "resized crop", "reflect"])
def test_tiny_images_and_empty_batches(rng, name, size):
    transform = EVERY[name]() if name != "reflect" else A.Pad(7, padding_mode="reflect")
    out = transform(photos(rng, 2, 3, size), seed=0)
    assert len(out) == 2
    assert len(transform(photos(rng, 0, 3, size), seed=0)) == 0


def test_far_maps_stay_inside_of_the_image(rng):
    images = rng.random((1, 4, 4, 3), np.float32)
    for far in (1e300, -1e300, 5e9):
        matrix = np.array([[[1.0, 0.5, far], [0.0, 1.0, -far]]])
        got = geometry.sample(images, matrix, (3, 3), geometry.Sampling("bilinear", "constant", 2))
        assert (got == 2).all()
    with pytest.raises(ValueError, match="finite affine maps"):
        geometry.sample(images, np.full((1, 2, 3), np.nan), (3, 3), geometry.Sampling())
    assert base.pair(3, "size") == (3, 3)
