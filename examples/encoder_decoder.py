"""An encoder-decoder that cleans noisy digits, and what aliasing does to it.

The encoder halves the image twice and the decoder doubles it twice, each in one of several ways:
max pooling with max-unpooling (the decoder puts values back where the maxima were), max
pooling or blurred max pooling with bilinear or transposed-convolution upsampling. A shortcut at
each resolution joins both sides. Printed for each: the peak signal-to-noise ratio of cleaned
test digits, and how far the answer to an image moved by one pixel is from the moved answer:
sampling without a blur before it aliases, so that this is larger (Zhang, "Making Convolutional
Networks Shift-Invariant Again", 2019).

Run it with ``python examples/encoder_decoder.py``; it takes about a minute.
"""

from __future__ import annotations

import argparse

import numpy as np

import convkit as ck
from convkit import data, nn, optim
from convkit import functional as F

NOISE = 0.4
# Down, up.
WAYS = (("max", "unpool"), ("max", "bilinear"), ("max", "transposed"), ("blur", "bilinear"))


def stage(before: int, after: int) -> nn.Sequential:
    """Return convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False),
                         nn.BatchNorm2d(after), nn.ReLU())


class EncoderDecoder(nn.Module):
    """Two levels down and two up.

    Parameters
    ----------
    down : "max" or "blur"
    up : "unpool", "bilinear" or "transposed"
    width : int
        Channels of the first level.
    """

    def __init__(self, down: str = "max", up: str = "bilinear", width: int = 16):
        super().__init__()
        self.encode = nn.ModuleList([stage(1, width), stage(width, 2 * width)])
        self.middle = stage(2 * width, 2 * width)
        self.decode = nn.ModuleList([stage(2 * width, width), stage(width, width)])
        self.raise_ = nn.ModuleList([self._up(up, 2 * width), self._up(up, width)])
        self.last = nn.Conv2d(width, 1, 1)
        self.blur = nn.BlurPool2d(stride=2) if down == "blur" else None
        self.unpool = up == "unpool"

    @staticmethod
    def _up(way: str, channels: int) -> nn.Module:
        if way == "unpool":
            return nn.MaxUnpool2d(2)
        if way == "transposed":
            return nn.ConvTranspose2d(channels, channels, 2, 2)
        return nn.Upsample(scale_factor=2, mode="bilinear")

    def _down(self, x):
        """Return maps of half the size, and where the maxima were."""
        if self.blur is not None:
            # The maximum of every 2x2 window first, then every second one of their blur.
            return self.blur(F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)), None
        return F.max_pool2d(x, 2, return_indices=True)

    def forward(self, x):
        """Return the cleaned images (N, 1, H, W), H and W divisible by 4."""
        kept, places = [], []
        y = x
        for encode in self.encode:
            y = encode(y)
            kept.append(y)
            y, where = self._down(y)
            places.append(where)
        y = self.middle(y)
        for decode, up in zip(self.decode, self.raise_, strict=True):
            where = places.pop()
            y = up(y, where) if self.unpool else up(y)
            y = decode(y + kept.pop())
        return x + self.last(y)


def noisy(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return images with normal noise."""
    return images + NOISE * rng.standard_normal(images.shape, dtype=np.float32)


def train(net: nn.Module, images: np.ndarray, epochs: int) -> None:
    """Train to take the noise away again."""
    optimizer = optim.Adam(net.parameters(), lr=0.003)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for first in range(0, len(order), 50):
            clean = images[order[first:first + 50]]
            optimizer.zero_grad()
            F.mse_loss(net(noisy(clean, rng)), clean).backward()
            optimizer.step()


def quality(net: nn.Module, images: np.ndarray) -> tuple[float, float]:
    """Return the peak signal-to-noise ratio in dB, and the error of moved answers.

    The second is the norm of f(moved x) - moved f(x), away from the border, over that of f(x).
    """
    x = noisy(images, np.random.default_rng(1))
    with ck.no_grad():
        answer = net(x).numpy()
        moved = net(np.roll(x, 1, axis=3)).numpy()
    psnr = -10 * np.log10(np.mean((answer - images) ** 2))
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    difference = (moved - np.roll(answer, 1, axis=3))[inner]
    return float(psnr), float(np.linalg.norm(difference) / np.linalg.norm(answer[inner]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000, help="to train on")
    options = parser.parse_args()
    images = data.digits("train").images[:options.images].astype(np.float32) / 255
    test = data.digits("test").images[:400].astype(np.float32) / 255
    start = -10 * np.log10(np.mean((noisy(test, np.random.default_rng(1)) - test) ** 2))
    print(f"noisy digits: {start:.1f} dB")
    for down, up in WAYS:
        ck.manual_seed(0)
        net = EncoderDecoder(down, up)
        train(net.train(), images, options.epochs)
        psnr, moved = quality(net.eval(), test)
        print(f"down by {down:4}  up by {up:10}  {psnr:.1f} dB  moved by a pixel: {moved:.3f}")


if __name__ == "__main__":
    main()
