"""Programs of one to three inputs, fed in every way there is, beside the layers themselves.

Arrays as tuples, lists and dicts, strided, of float64, with `out`, as bytes of images; results as
an array, a tuple or a dict.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import convkit as ck
from convkit import nn
from fuzz.layers import Network, convkit_library, draw_network, numbers, with_weights
from fuzz.onnx_peer import onnxruntime_result
from fuzz.trials import Failure, SetAside, allowed, close, main, same

NEEDS = ("onnx",)
NAMES = ("image", "other", "third")
CLASSES = 5
BATCH = 3


@dataclass(frozen=True)
class Feeding:
    """Networks, one for each input, and what their classifiers' results become."""

    seed: int
    networks: tuple[Network, ...]
    joined: str  # "sum", "cat", "gate": one result; "tuple", "dict": one of each
    dtype: str

    def smaller(self) -> Iterator[Feeding]:
        """Return the case with fewer or smaller networks."""
        for at, network in enumerate(self.networks):
            if len(self.networks) > 1:
                yield replace(self, networks=self.networks[:at] + self.networks[at + 1:])
            for less in network.smaller():
                yield replace(self, networks=(*self.networks[:at], less, *self.networks[at + 1:]))

    def __str__(self) -> str:
        return f"{self.dtype}, {self.joined} of " + " | ".join(map(str, self.networks))


class Joined(nn.Module):
    """A network of several inputs."""

    def __init__(self, case: Feeding):
        super().__init__()
        self.joined = case.joined
        self.branches = nn.ModuleList([self._classifier(n) for n in case.networks])

    @staticmethod
    def _classifier(network: Network) -> nn.Module:
        axes = len(network.shape) - 1
        pool = getattr(nn, f"AdaptiveAvgPool{axes}d")(1)
        return nn.Sequential(network.build(convkit_library()), pool, nn.Flatten(),
                             nn.Linear(network.gives[0], CLASSES))

    def forward(self, image, other=None, third=None):
        """Return what `joined` says."""
        given = [x for x in (image, other, third) if x is not None]
        made = [branch(x) for branch, x in zip(self.branches, given, strict=True)]
        if self.joined in ("tuple", "dict"):
            named = {f"out_{i}": y for i, y in enumerate(made)}
            return tuple(made) if self.joined == "tuple" else named
        if self.joined == "cat":
            return ck.cat(made, 1)
        total = made[0]
        for y in made[1:]:
            total = total + y if self.joined == "sum" else total * y.sigmoid()
        return total


def draw(seed: int) -> Feeding:
    """Draw one to three networks."""
    rng = random.Random(seed)
    count = rng.choice((1, 2, 2, 3))
    networks = tuple(replace(n, layers=n.layers[:5]) for n in (
        draw_network(10 * seed + i, 2 if i == 0 else None, head=False) for i in range(count)))
    joined = rng.choice(("sum", "cat", "gate", "tuple", "dict"))
    return Feeding(seed, networks, joined, rng.choice(("float32", "float32", "float64")))


def judge(case: Feeding) -> None:
    """Compare Programs fed in every way with the layers."""
    rng = random.Random(case.seed + 6)
    ck.set_num_threads(rng.choice((1, 2)))
    model = Joined(case).eval()
    with_weights(model, case.seed)
    if case.dtype == "float64":
        model.double()
    given = [numbers(n.seed, BATCH, *n.shape).astype(case.dtype) for n in case.networks]
    with ck.no_grad():
        want = _listed(model(*[ck.Tensor(x) for x in given]))
    if not all(np.isfinite(y).all() for y in want):
        raise SetAside("no finite numbers")
    program = _compiled(model, given, rng)
    got = _listed(program.run(tuple(given)))
    bound = allowed("forward") if case.dtype == "float32" else 1e-9
    for number, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        close(f"output {number}", ours, theirs, bound)
    _fed(program, given, got)
    _written(program, given, got)
    _images(case, model, given, rng)
    with tempfile.TemporaryDirectory() as folder:
        _files(program, given, got, Path(folder))


def _compiled(model: Any, given: list[np.ndarray], rng: random.Random) -> Any:
    """Compile from shapes in a list or a dict, or from an example."""
    shapes = [(1, *x.shape[1:]) for x in given]
    if given[0].dtype == np.float64:  # shapes alone mean float32
        return ck.compile(model, example=given if len(given) > 1 else given[0])
    if len(given) == 1:
        return ck.compile(model, shapes[0])
    way = rng.choice(("list", "dict", "example"))
    if way == "example":
        return ck.compile(model, example=given)
    named = dict(zip(NAMES, shapes, strict=False))
    return ck.compile(model, shapes if way == "list" else named)


def _listed(made: Any) -> list[np.ndarray]:
    """Return results as arrays, whatever they are in."""
    if isinstance(made, dict):
        made = tuple(made.values())
    made = made if isinstance(made, tuple) else (made,)
    return [np.asarray(y.data if isinstance(y, ck.Tensor) else y) for y in made]


def _fed(program: Any, given: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Check that the same numbers give the same bits however they come."""
    names = [p.name for p in program.graph.inputs]
    ways = {
        "a list": given, "a dict": dict(zip(names, given, strict=True)),
        "a dict turned round": dict(reversed(list(zip(names, given, strict=True)))),
        "axes turned round in memory": tuple(np.ascontiguousarray(x.T).T for x in given),
        "gaps in memory": tuple(_with_gaps(x) for x in given),
        "memory read backwards": tuple(np.ascontiguousarray(x[..., ::-1])[..., ::-1]
                                       for x in given),
        "read-only arrays": tuple(np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)
                                  for x in given),
        "unaligned arrays": tuple(_unaligned(x) for x in given),
        "tensors": tuple(ck.Tensor(x) for x in given),
    }
    for way, arrays in ways.items():
        if way == "a list" and len(given) == 1:  # which stands for one array
            continue
        _same(way, _listed(program.run(arrays)), want)
    _same("one sample", _listed(program.run(tuple(x[1:2] for x in given))), [y[1:2] for y in want])
    twice = tuple(np.concatenate([x, x]) for x in given)
    _same("twice the batch", _listed(program.run(twice)), [np.concatenate([y, y]) for y in want])


def _with_gaps(x: np.ndarray) -> np.ndarray:
    wide = np.full((*x.shape[:-1], 3 * x.shape[-1]), np.nan, x.dtype)
    wide[..., 1::3] = x
    return wide[..., 1::3]


def _unaligned(x: np.ndarray) -> np.ndarray:
    """Return the numbers one byte beyond where their type wants them."""
    raw = np.empty(x.nbytes + 1, np.uint8)
    out = raw[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def _written(program: Any, given: list[np.ndarray], want: list[np.ndarray]) -> None:
    """Check results written where the caller says, in memory of any order."""
    fresh = program.run(tuple(given))
    for place in (np.empty_like, lambda y: _with_gaps(np.zeros_like(y))):
        if isinstance(fresh, dict):
            out: Any = {k: place(np.asarray(y)) for k, y in fresh.items()}
        elif isinstance(fresh, tuple):
            out = tuple(place(np.asarray(y)) for y in fresh)
        else:
            out = place(np.asarray(fresh))
        _same("out", _listed(program.run(tuple(given), out=out)), want)
        _same("out, as it was handed in", _listed(out), want)


def _images(case: Feeding, model: Any, given: list[np.ndarray], rng: random.Random) -> None:
    """Feed bytes to a network of one image, scaled as said."""
    channels = case.networks[0].shape[0]
    if len(given) > 1 or case.dtype != "float32":
        return
    pixels = np.random.default_rng(case.seed).integers(0, 256, given[0].shape).astype(np.uint8)
    scaling = {"mean": [0.1 * (i + 1) for i in range(channels)],
               "std": [0.2 + 0.01 * i for i in range(channels)]}
    plain = rng.random() < 0.5
    mean, std = ((0.0, 1.0) if plain else
                 (np.array(v).reshape(1, -1, 1, 1) for v in scaling.values()))
    x = ((pixels / 255 - mean) / std).astype(np.float32)
    with ck.no_grad():
        want = _listed(model(ck.Tensor(x)))
    layout = rng.choice((None, "NHWC", "NCHW"))
    program = ck.compile(model, (1, *given[0].shape[1:]), image=True if plain else scaling,
                         layout=layout)
    fed = pixels if layout == "NCHW" else np.moveaxis(pixels, 1, -1)
    for way, array in (("as they lie", fed), ("in one piece", np.ascontiguousarray(fed))):
        for ours, theirs in zip(_listed(program.run(array)), want, strict=True):
            close(f"bytes, layout {layout}, {way}", ours, theirs, 10 * allowed("forward"))


def _files(program: Any, given: list[np.ndarray], want: list[np.ndarray], folder: Path) -> None:
    """Check files, which hold float32 whatever the network had."""
    single = [x.astype(np.float32) for x in given]
    ck.save(program, folder / "a.ckit")
    loaded = ck.load(folder / "a.ckit").run(tuple(single))
    if type(loaded) is not type(program.run(tuple(given))):
        raise Failure("another kind of result after loading")
    if given[0].dtype == np.float32:
        _same(".ckit file", _listed(loaded), want)
    _near(".ckit file", loaded, want)
    ck.io.onnx.save(program, folder / "a.onnx")
    _near("ONNX file read again", ck.compile(ck.io.onnx.load(folder / "a.onnx")).run(tuple(given)),
          want)
    if given[0].dtype == np.float64:  # for which onnxruntime has few operators
        return
    peer = onnxruntime_result(folder / "a.onnx", *given)
    if peer is not None:
        _near("ONNX file in onnxruntime", tuple(peer) if isinstance(peer, list) else peer, want)


def _near(what: str, made: Any, want: list[np.ndarray]) -> None:
    for number, (ours, theirs) in enumerate(zip(_listed(made), want, strict=True)):
        close(f"{what}, output {number}", ours, theirs, 10 * allowed("forward"))


def _same(what: str, got: list[np.ndarray], want: list[np.ndarray]) -> None:
    if len(got) != len(want):
        raise Failure(f"{what}: {len(got)} results, expected {len(want)}")
    for number, arrays in enumerate(zip(got, want, strict=True)):
        same(f"{what}, output {number}", *arrays)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
