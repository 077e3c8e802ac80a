"""Chains of a convolution, a depthwise and a pointwise one: the bits of their layers."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits, run_python
from program_checks import op_by_op

import convkit as ck
from convkit import functional as F
from convkit import nn
from convkit._kernels import dispatch
from convkit._kernels import threads as team


@pytest.fixture(autouse=True)
def small_work_on_several_threads():
    before = team.set_work_per_thread(0)
    # Under "high" a CPU with tiles computes pointwise layers on these.
    with ck.precision("highest"):
        yield
    team.set_work_per_thread(before)


class Block(nn.Module):
    """Widen, filter, narrow, with what MobileNet's blocks may have besides."""

    def __init__(self, cin, wide, cout, *, first=1, kernel=3, stride=1, padding=None, dilation=1,
                 group=1, narrows=True, residual=False, activation=nn.ReLU6):
        super().__init__()
        self.widen = nn.Conv2d(cin, wide, first, stride=2 if first > 1 else 1, padding=first // 2)
        self.filter = nn.Conv2d(wide, wide, kernel, stride=stride,
                                padding=dilation * (kernel // 2) if padding is None else padding,
                                dilation=dilation, groups=wide // group)
        self.narrow = nn.Conv2d(wide, cout, 1) if narrows else nn.Identity()
        self.act, self.residual = activation(), residual

    def forward(self, x):
        y = self.narrow(self.act(self.filter(self.act(self.widen(x)))))
        return y + x if self.residual else y


def program(model, shape):
    ck.manual_seed(0)
    model.eval()
    return ck.compile(model, (1, *shape))


def algorithms(made, x):
    return [node.algorithm for node in made.profile(x, repeats=1).nodes if node.op == "conv"]


def image(batch, shape, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *shape), dtype=np.float32)


CASES = {
    "plain": ((16, 9, 11), {}),
    "two layers": ((16, 9, 11), {"narrows": False}),
    "residual": ((24, 13, 7), {"residual": True, "cout": 24}),
    "stride 2": ((16, 12, 13), {"stride": 2}),
    "stride 2, odd": ((16, 13, 12), {"stride": 2, "narrows": False}),
    "5 taps": ((17, 11, 10), {"kernel": 5, "wide": 40}),
    "5 taps, stride 2": ((17, 11, 10), {"kernel": 5, "stride": 2}),
    "7 taps": ((16, 9, 9), {"kernel": 7}),
    "no padding": ((16, 9, 9), {"padding": 0}),
    "much padding": ((16, 5, 6), {"padding": 3}),
    "dilated": ((16, 19, 15), {"dilation": 3}),
    "image": ((3, 33, 30), {"first": 3, "wide": 32}),
    "image, stride 2": ((3, 33, 31), {"first": 5, "stride": 2, "wide": 48}),
    "one row": ((16, 1, 9), {}),
    "one pixel": ((16, 1, 1), {}),
    "odd channels": ((5, 8, 8), {"wide": 37, "cout": 19}),
    "groups of two": ((16, 10, 9), {"wide": 64, "group": 2}),
    "relu": ((16, 9, 9), {"activation": nn.ReLU}),
    "no activation": ((16, 9, 9), {"activation": nn.Identity}),
    "several strips": ((24, 41, 40), {"wide": 144, "residual": True, "cout": 24}),
    "several strips, stride 2": ((24, 41, 40), {"wide": 144, "stride": 2}),
    "several strips of an image": ((3, 130, 96), {"first": 3, "wide": 64}),
    "several strips, dilated": ((16, 40, 40), {"wide": 144, "dilation": 2, "kernel": 5}),
}


def check(name):
    """Compare a case's Program with its layers one by one."""
    shape, more = CASES[name]
    more = {"wide": 48, "cout": 16, **more}
    ck.manual_seed(1)
    made = program(Block(shape[0], **more), shape)
    x = image(9, shape)
    expected = op_by_op(made.graph, [x], "highest")[0]
    if "group" not in more or dispatch.isa() != "generic":  # which has no kernels for groups
        assert algorithms(made, x).count("chain") == (2 if more.get("narrows", True) else 1)
    for batch in (1, 2, 5, 9):
        for threads in (1, 2, 3, 4):
            with ck.threads(threads):
                assert_same_bits(made(x[:batch]), expected[:batch], f"{batch}, {threads} threads")


@pytest.mark.parametrize("name", CASES)
def test_a_chain_gives_the_bits_of_its_layers(name):
    check(name)


class Adding(Block):
    """A block that adds something before or behind the filter, which a chain cannot."""

    def __init__(self, *args, before, **more):
        super().__init__(*args, **more)
        self.before = before
        self.beside = nn.Conv2d(args[0], args[1], 1)

    def forward(self, x):
        y, beside = self.widen(x), self.beside(x)
        y = self.filter(self.act(y + beside)) if self.before else self.act(self.filter(y) + beside)
        return self.narrow(y)


@pytest.mark.parametrize("narrows", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_what_is_added_within_is_not_lost(before, narrows):
    ck.manual_seed(1)
    made = program(Adding(16, 48, 16, before=before, narrows=narrows), (16, 9, 11))
    x = image(3, (16, 9, 11))
    assert_same_bits(made(x), op_by_op(made.graph, [x], "highest")[0])


@pytest.mark.parametrize("isa", dispatch.supported_isas()[:-1])
def test_a_chain_gives_the_bits_of_its_layers_on_older_processors(isa):
    run_python("""
        import test_chain
        from convkit._kernels import threads

        threads.set_work_per_thread(0)
        for name in test_chain.CASES:
            test_chain.check(name)
    """, {"CONVKIT_ISA": isa})


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("narrows", [True, False])
def test_transposed_depthwise_layers_are_no_part_of_a_chain(stride, narrows):
    """Their kernels read the weights turned by 180 degrees."""
    layers = [nn.Conv2d(15, 64, 3, 2, 1), nn.ConvTranspose2d(64, 64, 3, stride, 1, groups=64)]
    x = image(3, (15, 17, 13))
    made = program(nn.Sequential(*layers, *[nn.Conv2d(64, 16, 1)] * narrows), x.shape[1:])
    assert_same_bits(made(x), op_by_op(made.graph, [x], "highest")[0])


def test_what_is_read_twice_is_no_part_of_a_chain():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(16, 48, 48)

        def forward(self, x):
            b = self.block
            wide = b.act(b.widen(x))
            filtered = b.act(b.filter(wide))
            return b.narrow(filtered) + wide * filtered

    x = image(2, (16, 9, 9))
    made = program(Twice(), x.shape[1:])
    assert "chain" not in algorithms(made, x)
    assert_same_bits(made(x), op_by_op(made.graph, [x], "highest")[0])


def test_what_is_handed_out_is_no_part_of_a_chain():
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(16, 48, 16)

        def forward(self, x):
            b = self.block
            wide = b.act(b.widen(x))
            return wide, b.narrow(b.act(b.filter(wide)))

    x = image(2, (16, 9, 9))
    made = program(Watched(), x.shape[1:])
    assert "chain" not in algorithms(made, x)
    for one, other in zip(made(x), op_by_op(made.graph, [x], "highest"), strict=True):
        assert_same_bits(one, other)


def test_a_chain_writes_into_a_concatenation():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.other = Block(16, 48, 16), nn.Conv2d(16, 16, 1)

        def forward(self, x):
            return F.relu(F.concat([self.other(x), self.block(x)], 1))

    x = image(3, (16, 21, 10))
    made = program(Joined(), x.shape[1:])
    assert algorithms(made, x).count("chain") == 2
    assert_same_bits(made(x), op_by_op(made.graph, [x], "highest")[0])


def test_profile_counts_the_work_of_all_layers_of_a_chain():
    x = image(1, (16, 40, 40))
    made = program(Block(16, 48, 16, activation=nn.Identity), x.shape[1:])
    times = [n for n in made.profile(x).nodes if n.op == "conv"]
    assert [n.seconds > 0 for n in times] == [False, False, True]
    products = 40 * 40 * (16 * 48 + 9 * 48 + 48 * 16)
    assert times[2].gflops * times[2].seconds * 1e9 == pytest.approx(2 * products, rel=0.1)


def test_narrow_blocks_stay_on_vectors_under_medium(run_on_tiles):
    """Tiles take the wide blocks; a narrow one is a chain, as under `high`, and gives its bits."""
    run_on_tiles("""
    import convkit as ck
    from test_chain import Block, algorithms, image

    def made(level, *channels):
        ck.manual_seed(0)
        block = Block(*channels, residual=channels[0] == channels[2]).eval()
        return ck.compile(block, (1, channels[0], 20, 20), precision=level)

    x = image(2, (16, 20, 20))
    narrow = made("medium", 16, 96, 16)
    assert algorithms(narrow, x) == ["chain", "chain", "direct"]
    assert_same_bits(narrow(x), made("high", 16, 96, 16)(x))
    wide = made("medium", 96, 576, 96)
    assert algorithms(wide, image(1, (96, 20, 20))) == ["bf16", "depthwise_bf16", "bf16"]
    # The graph keeps its precision: only this machine's steps differ.
    assert all(node.attrs.get("precision") is None for node in narrow.graph.nodes)
    """)
