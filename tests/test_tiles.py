"""The bfloat16 tile kernels: over emulated tile instructions, and natively where there is AMX.

Checks run in child interpreters (tile_runs.py), because emulated kernels stay in use until the
process ends.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def run(run_on_tiles):
    """Return a function that runs code in a child that has tiles."""
    return run_on_tiles


def test_values_gradients_and_threads(run_on_bfloat16):
    run_on_bfloat16("""
    op = REGISTRY["conv"]
    extra = {
        "60 channels": ((2, 60, 9, 8), (40, 60, 3, 3), test_conv.conv_attrs(padding=1)),
        "one row": ((1, 33, 1, 70), (48, 33, 1, 3), test_conv.conv_attrs()),
        "rows of two strips": ((1, 16, 40, 5), (17, 16, 3, 3), test_conv.conv_attrs(padding=1)),
        "strided taps alone": ((2, 33, 11, 14), (40, 33, 1, 1), test_conv.conv_attrs(stride=2)),
        "with padding behind": ((2, 40, 6, 7), (24, 40, 1, 1), {
            **test_conv.conv_attrs(stride=2), "padding": ((0, 1), (0, 2))}),
        "the same in groups": ((1, 64, 9, 7), (32, 32, 1, 1),
                               test_conv.conv_attrs(stride=3, groups=2)),
        "stride 3, dilated": ((1, 20, 23, 24), (16, 20, 3, 3),
                              test_conv.conv_attrs(stride=3, dilation=2, padding=2)),
    }
    for name, (xs, ws, attrs) in {**test_conv.CASES, **extra}.items():
        rng = np.random.default_rng(0)
        x, w, b = (rng.standard_normal(s).astype("f") for s in (xs, ws, (ws[0],)))
        want = reference.conv(x, w, b, **attrs)
        gy = random_array(want.shape, seed=5)
        grads = reference.conv_grad(gy, x, w, b, **attrs)
        for algorithm, bound in BOUNDS.items():
            full = {**attrs, "algorithm": algorithm}
            one, two, three = (run_op(op, [x, w, b], full, [0, 1, 2], gy, n) for n in (1, 2, 3))
            assert_same_bits(one, two, name)
            assert_same_bits(one, three, name)
            for got, right in ((one.outputs[0], want), *zip(one.grads[:2], grads, strict=False)):
                assert got.dtype == np.float32
                assert error(got, right) < bound, (name, algorithm, error(got, right))
    """)


def test_pixels_laid_out_as_tiles(run_on_bfloat16):
    """Long reductions of 1x1 layers: blocks of every size, several strips, columns left over."""
    run_on_bfloat16("""
    op = REGISTRY["conv"]
    sizes = [(1, 1024, 1, 1, 40), (3, 1056, 3, 5, 64), (1, 1024, 7, 7, 16), (2, 1056, 9, 13, 130),
             (1, 2048, 11, 6, 72), (5, 1088, 1, 1, 33)]
    for n, before, height, width, after in sizes:
        x, w = random_array((n, before, height, width)), random_array((after, before, 1, 1), seed=1)
        bias, name = random_array((after,), seed=2), (n, before, height, width, after)
        want = reference.conv(x, w, bias, **test_conv.PLAIN)
        for algorithm, bound in BOUNDS.items():
            full = {**test_conv.PLAIN, "algorithm": algorithm}
            one, two, five = (run_op(op, [x, w, bias], full, [], None, k).outputs[0]
                              for k in (1, 2, 5))
            assert_same_bits(one, two, name)
            assert_same_bits(one, five, name)
            assert error(one, want) < bound, (name, algorithm)
            check_batch_invariance(
                lambda x: apply(Conv, x, w, bias, **full).data, random_array((3, *x.shape[1:])))
            last = (0, before - 1, height - 1, width - 1)
            for value in (np.inf, np.nan):
                special = x.copy()
                special[last] = value
                got = apply(Conv, special, w, bias, **full).data
                assert not np.isfinite(got[0, :, -1, -1]).any()
                got[0, :, -1, -1] = one[0, :, -1, -1]
                assert_same_bits(got, one, "outputs that see no infinity")

        # The same of bfloat16, which is read as it lies unless pixels are pages apart.
        last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        bits = last.view(np.uint32)
        halves = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        packed = tiles.pack(w, 1, after, before, [0], 1, 0, before, 1, "bf16", 1)
        for threads_ in (1, 2):
            for given in (last, halves):
                y = np.empty((n, height, width, after), np.float32)
                tiles.run(given, packed, y, [0], [0], (1, 1), bias=bias, threads=threads_)
                assert_same_bits(y.transpose(0, 3, 1, 2), one, (name, given.dtype))
    """)


def test_split_and_plain_really_differ(run):
    run("""
    x, w = random_array((1, 64, 9, 9)), random_array((32, 64, 3, 3), seed=1)
    attrs = test_conv.conv_attrs(padding=1)
    want = reference.conv(x, w, **attrs)
    plain = apply(Conv, x, w, None, **attrs, algorithm="bf16").data
    split = apply(Conv, x, w, None, **attrs, algorithm="split_bf16").data
    assert error(plain, want) > 1e-4 and error(split, want) < 5e-6
    """)


def test_a_sample_has_the_same_bits_alone_and_in_a_batch(run_on_bfloat16):
    run_on_bfloat16("""
    for name in ("3x3", "1x1", "strided", "first_layer", "grouped"):
        xs, ws, attrs = test_conv.CASES[name]
        w = random_array(ws, seed=1)
        for algorithm in BOUNDS:
            check_batch_invariance(
                lambda x: apply(Conv, x, w, None, **attrs, algorithm=algorithm).data,
                random_array((9, *xs[1:])))
    """)


def test_infinities_nan_huge_and_tiny_values_are_as_in_float32(run_on_bfloat16):
    run_on_bfloat16("""
    attrs = test_conv.conv_attrs(padding=1)
    for channels in (3, 5, 64):
        w = random_array((17, channels, 3, 3), seed=1)
        w[0] = 1.0      # no low part: infinity times zero must not come up
        plain = random_array((1, channels, 9, 9))
        for value in (np.inf, -np.inf, np.nan):
            x = plain.copy()
            x[0, channels - 1, 4, 4] = value
            clean = apply(Conv, plain, w, None, **attrs, algorithm="direct").data
            for algorithm in BOUNDS:
                got = apply(Conv, x, w, None, **attrs, algorithm=algorithm).data
                want = apply(Conv, x, w, None, **attrs, algorithm="direct").data
                np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
                np.testing.assert_array_equal(np.isinf(got) * np.sign(got),
                                              np.isinf(want) * np.sign(want))
                calm = apply(Conv, plain, w, None, **attrs, algorithm=algorithm).data
                kept = np.isfinite(got)
                assert_same_bits(got[kept], calm[kept], "outputs that see no infinity")
        huge = np.full((1, channels, 3, 3), 3.4e38, np.float32)
        small = np.full((4, channels, 1, 1), 1e-36 / channels, np.float32)
        for algorithm, bound in BOUNDS.items():
            got = apply(Conv, huge, small, None, **test_conv.PLAIN, algorithm=algorithm).data
            assert abs(got / 340.0 - 1).max() < 1e-2
    ones = np.ones((2, 8, 1, 1), np.float32)
    x = np.full((1, 8, 2, 2), 0, np.float32)
    x[0, 0] = 3.4028235e38
    tiny = np.full_like(x, 0)
    tiny[0, 0] = 1e-42
    for algorithm, bound in {"split_bf16": 2e-5, "bf16": 4e-3}.items():
        if algorithm not in BOUNDS:
            continue
        got = apply(Conv, x, ones, None, **test_conv.PLAIN, algorithm=algorithm).data
        assert abs(got / np.float32(3.4028235e38) - 1).max() < bound
        got = apply(Conv, tiny, ones, None, **test_conv.PLAIN, algorithm=algorithm).data
        assert (got == 0).all()
    """)


def test_infinite_weights_are_as_in_float32(run):
    run("""
    w = random_array((8, 16, 3, 3), seed=1)
    w[3, 2, 1, 1], w[5, 0, 0, 0] = np.inf, np.nan
    x = random_array((1, 16, 7, 7))
    attrs = test_conv.conv_attrs(padding=1)
    want = apply(Conv, x, w, None, **attrs, algorithm="direct").data
    got = apply(Conv, x, w, None, **attrs, algorithm="split_bf16").data
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    """)


def test_bias_residual_and_activation(run_on_bfloat16):
    run_on_bfloat16("""
    x, w, b = random_array((2, 6, 9, 9)), random_array((20, 6, 3, 3), seed=1), random_array((20,))
    z = random_array((2, 20, 9, 9), seed=3)
    attrs = test_conv.conv_attrs(padding=1)
    for algorithm in BOUNDS:
        sums = apply(Conv, x, w, None, **attrs, algorithm=algorithm).data \\
            + b[:, None, None] + z
        for activation, meaning in (("relu", lambda v: np.maximum(v, 0)),
                                    ("relu6", lambda v: np.clip(v, 0, 6)), (None, lambda v: v)):
            got = apply(Conv, x, w, b, z, **attrs, algorithm=algorithm,
                        activation=activation).data
            assert_same_bits(got, meaning(sums), str(activation))
    """)


def test_what_follows_the_sums_of_any_number_of_columns(run_on_bfloat16):
    """As in NumPy from the sums, rounded where results are bfloat16; nothing beyond is written."""
    run_on_bfloat16("""
    import itertools
    from convkit._kernels import tiles

    def rounded(x):     # to bfloat16, as bits
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)

    def floats(halves):
        return (halves.astype(np.uint32) << 16).view(np.float32)

    x = random_array((1, 5, 7, 32))
    meanings = {0: lambda v: v, 1: lambda v: np.maximum(v, 0),
                2: lambda v: np.minimum(np.maximum(v, np.float32(-0.5)), 2),
                3: lambda v: np.where(v < 0, v * np.float32(-0.5), v)}
    for columns in (1, 8, 16, 17, 24, 31, 32, 40, 56, 64):
        w = random_array((columns, 32, 1, 1), seed=1)
        packed = tiles.pack(w, 1, columns, 32, [0], 1, 0, 32, 1, "bf16", 1)
        shape = (1, 5, 7, columns)
        sums = np.empty(shape, np.float32)
        tiles.run(x, packed, sums, [0], [0], (1, 1))
        given = random_array((columns,), seed=2)
        halves = rounded(random_array(shape, seed=3))
        for bias, residual, activation, narrow in itertools.product(
                (None, given), (None, floats(halves), halves), meanings, (False, True)):
            room = np.full(sums.size + 64, 0x5a5a if narrow else 7,
                           np.uint16 if narrow else np.float32)
            y = room[:sums.size].reshape(shape)
            tiles.run(x, packed, y, [0], [0], (1, 1), bias=bias, residual=residual,
                      activation=activation, alpha=-0.5, beta=2)
            want = sums if bias is None else sums + bias
            if residual is not None:
                want = want + floats(halves)
            want = meanings[activation](want)
            assert_same_bits(y, rounded(want) if narrow else want,
                             f"{columns} {bias is None} {residual is None} {activation} {narrow}")
            assert (room[sums.size:] == room[-1]).all()
    """)


def test_finite_results_stay_finite_as_bfloat16(run_on_bfloat16):
    run_on_bfloat16("""
    from convkit._kernels import tiles

    largest = float(np.finfo(np.float32).max)       # nearer to infinity than to a bfloat16
    halves = {largest: 0x7f7f, -largest: 0xff7f, np.inf: 0x7f80, -np.inf: 0xff80, 1: 0x3f80}
    for columns in (16, 24, 32, 64):
        w = np.zeros((columns, 32, 1, 1), "f")
        packed = tiles.pack(w, 1, columns, 32, [0], 1, 0, 32, 1, "bf16", 1)
        bias = np.resize(np.array(list(halves), "f"), columns)
        y = np.zeros((1, 5, 7, columns), np.uint16)
        tiles.run(np.zeros((1, 5, 7, 32), "f"), packed, y, [0], [0], (1, 1), bias=bias)
        assert (y == np.resize(list(halves.values()), columns)).all(), columns
    """)


def test_rows_of_any_width(run_on_bfloat16):
    """Blocks of positions within rows, two rows at a time, or straddling them: exact sums."""
    run_on_bfloat16("""
    from convkit._kernels import tiles

    def integers(shape, seed):
        return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)

    for width in (*range(1, 31), 43):
        for height, stride, columns in ((6, 1, 32), (5, 1, 16), (9, 2, 56)):
            x, w = integers((2, 12, height, width), width), integers((columns, 12, 3, 3), 1)
            bias = integers((columns,), 2)
            want = reference.conv(x, w, bias, **test_conv.conv_attrs(stride=stride, padding=1))
            y = integers(want.transpose(0, 2, 3, 1).shape, 3)
            want = np.maximum(want.transpose(0, 2, 3, 1) + y, 0).astype("f")
            packed = tiles.pack(w, 1, columns, 12, range(9), 3, 0, 108, 9, "bf16", 1)
            for threads in (1, 2):
                got = y.copy()
                tiles.run(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), packed, got, [-1, 0, 1],
                          [-1, 0, 1], (stride, stride), bias=bias, residual=got, activation=1,
                          threads=threads)
                assert_same_bits(got, want, f"{width} {height} {stride} {columns} {threads}")
    """)


def test_gradients_of_weights_in_parts_and_stages(run_on_bfloat16):
    run_on_bfloat16("""
    # Name: shapes of x and of the weight, attributes.
    problems = {
        "parts": ((7, 16, 32, 33), (16, 16, 3, 3), dict(padding=1)),
        "parts and a stride": ((5, 17, 61, 60), (33, 17, 3, 3), dict(padding=1, stride=2)),
        "a first layer in parts": ((4, 3, 61, 70), (40, 3, 7, 7), dict(padding=3, stride=2)),
        "a first layer, 2 cut off": ((2, 3, 30, 30), (18, 3, 4, 4), dict(stride=3)),
        "one channel": ((3, 1, 40, 40), (6, 1, 5, 5), dict(padding=2)),
        "17 taps": ((2, 18, 3, 40), (20, 18, 1, 17), dict(padding=8)),
        "several stages": ((30, 33, 14, 14), (65, 33, 3, 3), dict(padding=1)),
        "several common stages": ((3, 130, 28, 28), (140, 130, 3, 3), dict(padding=1)),
        "large weights": ((1, 240, 4, 4), (260, 240, 3, 3), dict(padding=1)),
        "large weights of pixels": ((3, 700, 3, 3), (750, 700, 1, 1), dict()),
        "small maps": ((40, 32, 2, 2), (32, 32, 3, 3), dict(padding=1)),
        "a kernel wider than the map": ((3, 32, 2, 2), (16, 32, 5, 5), dict(padding=2)),
        "taps that meet padding only": ((2, 16, 1, 9), (16, 16, 3, 3), dict(padding=1)),
        "pixels, parts": ((9, 33, 21, 20), (48, 33, 1, 1), dict()),
        "pixels, strided": ((9, 33, 20, 21), (48, 33, 1, 1), dict(stride=2)),
        "groups": ((3, 66, 9, 9), (34, 33, 3, 3), dict(padding=1, groups=2)),
        "groups of pixels": ((3, 48, 9, 9), (96, 16, 1, 1), dict(groups=3)),
        "dilated": ((3, 20, 23, 24), (16, 20, 3, 3), dict(padding=2, dilation=3)),
        "dilated by the stride": ((2, 16, 23, 24), (16, 16, 3, 3), dict(dilation=2, stride=2)),
    }
    for name, (xs, ws, more) in problems.items():
        attrs = test_conv.conv_attrs(**more)
        x, w = random_array(xs), random_array(ws, seed=1)
        gy = random_array(reference.conv(x, w, **attrs).shape, seed=2)
        want = reference.conv_grad(gy, x, w, **attrs)[1]
        for algorithm, bound in BOUNDS.items():
            full = {**attrs, "algorithm": algorithm}
            problem = forward_problem(xs, ws, x.dtype, **attrs, precision="high")
            assert planner.choose(problem, "grad_weight", algorithm).name == algorithm
            first, *others = (run_op(REGISTRY["conv"], [x, w, None], full, [1], gy, n).grads[1]
                              for n in (1, 2, 3))
            assert error(first, want) < bound, (name, algorithm, error(first, want))
            for other in others:
                assert_same_bits(first, other, name)
    """)


def test_gradients_of_weights_from_what_is_kept(run_on_bfloat16):
    """The bits of those of the array, whatever is kept of it, which nobody makes."""
    run_on_bfloat16("""
    from convkit._kernels import memory
    from convkit.ops.deferred import NormInput
    from convkit.ops.kept import Remade, Rounded

    def sources(shape):
        x = random_array(shape, seed=4)
        yield Rounded.of(x, 1)
        numbers = tuple(random_array(shape[-1:], seed=i) for i in range(3))
        for rounds in (True, False):
            for kernel in (None, "relu", "relu6"):
                source = NormInput(8 * x, numbers, rounds, True)
                source.values(1)
                yield Remade(source, kernel)

    problems = {
        "parts": ((7, 16, 32, 33), (16, 16, 3, 3), dict(padding=1)),
        "17 channels and a stride": ((5, 17, 61, 60), (33, 17, 3, 1), dict(padding=1, stride=2)),
        "several common stages": ((3, 128, 28, 28), (140, 128, 3, 3), dict(padding=1)),
        "pixels": ((9, 33, 21, 20), (48, 33, 1, 1), dict()),
        "lines of pixels": ((8, 64, 28, 30), (96, 64, 1, 1), dict()),
        "lines, groups and a stride": ((3, 128, 18, 17), (64, 64, 3, 3),
                                       dict(padding=1, stride=2, groups=2)),
        "groups": ((3, 66, 9, 9), (34, 33, 3, 3), dict(padding=1, groups=2)),
    }
    for name, (xs, ws, more) in problems.items():
        attrs = test_conv.conv_attrs(**more)
        for level, algorithm in (("medium", "bf16"), ("high", "split_bf16")):
            if algorithm not in BOUNDS:
                continue
            problem = forward_problem(xs, ws, np.dtype("f"), **attrs, precision=level)
            chosen = planner.choose(problem, "grad_weight", algorithm)
            gy = random_array(problem.y_last, seed=2)
            for kept in sources(problem.x_last):
                want, *got = (np.full(ws, np.nan, "f") for _ in range(4))
                chosen.grad_weight(problem, kept.array(1).reshape(problem.x_last), gy, want, 1)
                if not chosen.reads_kept(problem, kept):
                    assert level == "high" and kept.dtype == np.uint16
                    continue
                type(kept).array, array = None, type(kept).array
                for n, gw in enumerate(got):
                    planner.sum_weights(problem, algorithm, kept, gy, gw, n + 1)
                    assert_same_bits(gw, want, name)
                type(kept).array = array
    """)


def test_gradients_of_weights_from_bfloat16_gradients(run_on_bfloat16):
    """The bits of those from the same numbers in float32, which the plain form does not make."""
    run_on_bfloat16("""
    from convkit.ops.deferred import NormInput
    from convkit.ops.kept import Remade, Rounded

    def inputs(shape):
        rounded = Rounded.of(random_array(shape, seed=4), 1)
        numbers = tuple(random_array(shape[-1:], seed=i) for i in range(3))
        made = NormInput(8 * random_array(shape, seed=5), numbers, True, True)
        made.values(1)
        return rounded.array(1), rounded, Remade(made, "relu")

    def check(problem, ws, algorithm, x, gy, widens):
        halves, array = Rounded.of(gy, 1).halves, Rounded.array
        want, *got = (np.full(ws, np.nan, "f") for _ in range(3))
        planner.sum_weights(problem, algorithm, x, gy, want, 1)
        Rounded.array = array if widens else None
        for n, gw in enumerate(got):
            planner.sum_weights(problem, algorithm, x, halves, gw, n + 1)
            assert_same_bits(gw, want, f"{problem} {algorithm}")
        Rounded.array = array

    problems = (((7, 16, 32, 33), (16, 16, 3, 3), dict(padding=1)),
                ((5, 17, 31, 30), (33, 17, 3, 1), dict(padding=1, stride=2)),
                ((3, 128, 28, 28), (140, 128, 3, 3), dict(padding=1)),
                ((4, 3, 31, 40), (40, 3, 7, 7), dict(padding=3, stride=2)),
                ((9, 33, 21, 20), (49, 33, 1, 1), dict()),
                ((8, 64, 28, 30), (96, 64, 1, 1), dict()),
                ((3, 128, 18, 17), (64, 64, 3, 3), dict(padding=1, stride=2, groups=2)),
                ((3, 66, 9, 9), (34, 33, 3, 3), dict(padding=1, groups=2)),
                ((3, 32, 9, 9), (1, 32, 3, 3), dict(padding=1)))
    for xs, ws, more in problems:
        attrs = test_conv.conv_attrs(**more)
        for level, algorithm in (("medium", "bf16"), ("high", "split_bf16"), ("high", "direct")):
            if level == "high" and not dispatch.has_tiles():
                continue
            problem = forward_problem(xs, ws, np.dtype("f"), **attrs, precision=level)
            gy = Rounded.of(random_array(problem.y_last, seed=2), 1).array(1)
            for x in inputs(problem.x_last):
                check(problem, ws, algorithm, x, gy, level == "high" or xs[1] == 3)
            gy[1, 2, 3, -1] = -np.inf       # which is left to another way
            check(problem, ws, algorithm, x, gy, level == "high" or xs[1] == 3)
    """)


def test_gradients_of_weights_from_what_is_kept_of_other_values(run_on_bfloat16):
    run_on_bfloat16("""
    from convkit.ops.deferred import NormInput
    from convkit.ops.kept import Remade, Rounded

    attrs = test_conv.conv_attrs(padding=1)
    problem = forward_problem((2, 32, 9, 9), (20, 32, 3, 3), np.dtype("f"), **attrs,
                              precision="medium")
    chosen = planner.choose(problem, "grad_weight", "bf16")
    gy, got, want = random_array(problem.y_last), *np.empty((2, 20, 32, 3, 3), "f")
    for value in (np.inf, np.nan):
        x = random_array(problem.x_last)
        x[1, 3, 4, 7] = value
        kept = Rounded.of(x, 1)
        planner.sum_weights(problem, "bf16", kept, gy, got, 1)
        planner.run("grad_weight", problem, "direct", kept.array(1), gy, want, 1)
        np.testing.assert_array_equal(got, want)
    # Numbers of a norm over other channels than the convolution's, and merged taps.
    x = random_array((81, 64))
    numbers = tuple(random_array((64,), seed=i) for i in range(3))
    assert not chosen.reads_kept(problem, Remade(NormInput(x, numbers, False, True), None))
    problem = forward_problem((2, 3, 9, 9), (20, 3, 3, 3), x.dtype, **attrs, precision="medium")
    assert not chosen.reads_kept(problem, Rounded.of(x, 1))
    """)


def test_gradients_of_weights_of_infinite_and_extreme_values(run_on_bfloat16):
    run_on_bfloat16("""
    attrs = test_conv.conv_attrs(padding=1)
    ones = np.ones((20, 32, 3, 3), np.float32)
    x, gy = random_array((2, 32, 9, 9)), random_array((2, 20, 9, 9), seed=2)

    def gradient(x, gy, algorithm):
        return run_op(REGISTRY["conv"], [x, ones, None], {**attrs, "algorithm": algorithm}, [1],
                      gy, 2).grads[1]

    for value in (np.inf, -np.inf, np.nan, 3.4e38):
        for where in range(2):
            arrays = [x.copy(), gy.copy()]
            arrays[where][1, 7, 3, 4] = value
            want = gradient(*arrays, "direct")
            for algorithm in BOUNDS:
                np.testing.assert_array_equal(gradient(*arrays, algorithm), want)
    # Factors so large and so small that their products are ordinary, and so that they are not.
    for a, b in ((1e30, 1e-29), (1e-36, 1e30), (1e-18, 1e-18), (1e20, 1e17), (1e20, 1e20)):
        arrays = x * np.float32(a), gy * np.float32(b)
        want = gradient(*arrays, "direct")
        for algorithm, bound in BOUNDS.items():
            got = gradient(*arrays, algorithm)
            finite = np.isfinite(want)
            np.testing.assert_array_equal(np.isfinite(got), finite)
            if finite.all():
                assert error(got.astype("d"), want.astype("d")) < bound, (a, b, algorithm)
    for algorithm in BOUNDS:
        assert (gradient(x, 0 * gy, algorithm) == 0).all()
    """)


def test_weights_are_packed_alike_however_their_taps_lie(run):
    """Taps side by side, as in a convolution's weight, and each tap by itself."""
    run("""
    for columns, depth, kernel, taps in ((60, 64, (3, 3), range(9)), (25, 32, (3, 3), (4, 1, 7)),
                                         (31, 96, (1, 7), range(6, -1, -1)),
                                         (32, 32, (4, 4), range(16)), (20, 64, (5, 5), range(25)),
                                         (20, 48, (3, 3), range(9))):
        area = kernel[0] * kernel[1]
        weight = random_array((columns, depth, area))
        for turned in (False, True):
            own = np.ascontiguousarray(weight.swapaxes(0, 1)) if turned else weight
            apart = np.ascontiguousarray(weight.transpose(2, 0, 1))
            steps = (area, depth * area)[::-1]
            if turned:
                steps = (area, columns * area)
            for merged in (1, 3):
                if len(taps) % merged:
                    continue
                for form in ("bf16", "split_bf16"):
                    got = tiles.pack(own, 1, columns, depth, list(taps), merged, 0, *steps, form, 2)
                    want = tiles.pack(apart, 1, columns, depth, [t * columns * depth for t in taps],
                                      merged, 0, depth, 1, form, 1)
                    assert_same_bits(np.asarray(got.array), np.asarray(want.array), str(kernel))
    for value in (np.inf, np.nan):
        own = random_array((40, 32, 9))
        own[37, 31, 8] = value
        assert not tiles.pack(own, 1, 40, 32, list(range(9)), 3, 0, 288, 9, "split_bf16", 1).finite
        assert tiles.pack(own[:37], 1, 37, 32, list(range(9)), 3, 0, 288, 9, "bf16", 1).finite
    """)


def test_linear_and_transposed_layers_take_tiles_for_their_weights(run):
    run("""
    for op, shapes, attrs in (("linear", ((70, 300), (200, 300)), {}),
                              ("conv_transpose", ((2, 96, 9, 9), (96, 65, 3, 3)), dict(
                                  stride=(2, 2), padding=((1, 1), (1, 1)), output_padding=(0, 0),
                                  dilation=(1, 1), groups=1))):
        x, w = (random_array(s, seed=i) for i, s in enumerate(shapes))
        grads = {}
        for level in ("highest", "high", "medium"):
            with precision(level):
                out = apply(REGISTRY[op], x, w, None, **attrs)
                gy = random_array(out.shape, seed=7)
                grads[level] = run_op(REGISTRY[op], [x, w, None], attrs, [1], gy, 1).grads[1]
        fine, coarse = (error(grads[level], grads["highest"]) for level in ("high", "medium"))
        assert 1e-7 < fine < 1e-5 < 1e-4 < coarse < 1e-2, (op, fine, coarse)
    """)


def test_precision_decides_and_linear_profits(run):
    run("""
    def chosen(level, task="forward", **attrs):
        problem = forward_problem((1, 64, 9, 9), (64, 64, 3, 3), np.dtype(np.float32),
                                  **test_conv.conv_attrs(padding=1, **attrs), precision=level)
        return planner.choose(problem, task).name
    assert chosen("high") == chosen("high", "grad_input") == "winograd_split_bf16"
    assert chosen("medium") == "bf16"
    assert "bf16" not in chosen("highest") and "bf16" not in chosen("highest", "grad_weight")
    assert chosen("high", "grad_weight", stride=2) == "split_bf16"
    assert chosen("high", "grad_weight") == "winograd"
    assert chosen("medium", "grad_weight") == "bf16"

    def of_channels(before, after, kernel, stride, size, task, level):
        problem = forward_problem((1, before, size, size), (after, before, kernel, kernel),
                                  np.dtype("f"), precision=level, **test_conv.conv_attrs(
                                      padding=kernel // 2, stride=stride))
        return planner.choose(problem, task).name
    for level, name in (("high", "split_bf16"), ("medium", "bf16")):
        assert of_channels(3, 16, 3, 1, 32, "forward", level) != name
        assert of_channels(3, 64, 7, 2, 224, "forward", level) == name
        # Conversions for four phases of few channels; for pixels of few.
        assert of_channels(16, 32, 3, 2, 32, "grad_input", level) == ("direct" if level == "high"
                                                                      else name)
        assert of_channels(24, 144, 1, 1, 56, "grad_input", level) == "direct"
        assert of_channels(64, 256, 1, 1, 56, "grad_input", level) == name
        assert of_channels(64, 256, 1, 1, 56, "forward", level) == name
        assert of_channels(64, 128, 3, 2, 56, "grad_input", level) == name
    assert of_channels(32, 64, 3, 2, 16, "grad_input", "high") == "winograd"
    for before, after, size in ((16, 96, 112), (144, 24, 56), (32, 192, 28)):
        assert of_channels(before, after, 1, 1, size, "forward", "high") == "direct"
        assert of_channels(before, after, 1, 1, size, "forward", "medium") == "bf16"
    assert of_channels(32, 64, 3, 2, 16, "grad_input", "medium") == "bf16"
    def of_features(before, after):
        problem = forward_problem((1, before, 1, 1), (after, before, 1, 1), np.dtype("f"),
                                  precision="high", **test_conv.conv_attrs())
        return planner.choose(problem, "forward").name
    assert of_features(400, 120) == "direct" and of_features(1000, 300) == "split_bf16"
    x, w = random_array((37, 1000)), random_array((300, 1000), seed=1)
    exact = x.astype("d") @ w.T.astype("d")
    errors = {}
    for level in ("highest", "high", "medium"):
        with precision(level):
            errors[level] = error(apply(REGISTRY["linear"], x, w, None).data, exact)
    assert errors["highest"] < 1e-6 < errors["high"] < 1e-5 < errors["medium"] < 1e-2, errors
    """)


def test_byte_products_are_exact(run):
    run("""
    from test_int8 import PROBLEMS, check_sums, finished
    from convkit._kernels import int8
    assert int8.form() == "tiles"
    for problem in PROBLEMS:
        check_sums(problem)
        check_sums(problem, extreme=True)
    assert finished() == finished(vnni=False)
    """)


def test_programs_give_the_bits_of_single_operations(run):
    run("""
    from program_checks import check_bits, strided_branches
    from convkit import functional as F
    from convkit.infer import Program, run_pipeline, trace

    def model(x):
        joined, up = strided_branches(x, 48, 32)
        weights = random_array((40, 32 * 64), seed=9) / np.float32(9)
        bias = random_array((40,), seed=40) / np.float32(9)
        return F.linear(F.flatten(F.relu(up + x), 1), weights, bias), joined

    graph = run_pipeline(trace(model, (1, 32, 8, 8)))
    used = set()
    for chosen in ("high", "medium"):
        program = Program(graph, precision=chosen, threads=2)
        check_bits(program, graph, chosen)
        used |= set(program._lowered.algorithms.values())
    assert not program._lowered.python
    assert used >= {"split_bf16", "bf16"}, used
    """)


def test_the_emulation_stops_at_what_the_processor_refuses(run):
    done = run("""
    if not library:
        raise SystemExit(3)
    table = ctypes.c_void_p.from_address(address("ck_table_amx_tile"))
    configure = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)(table.value)
    configure(16, 32)
    configure(17, 32)
    """, check=False)
    assert done.returncode == 3 or "raw[" in done.stderr or "rows <= 16" in done.stderr


def test_moments_are_gathered_strip_by_strip(run_on_bfloat16):
    run_on_bfloat16("""
    import test_gathered_moments as gathered
    for _, shape, outputs, more in gathered.PROBLEMS:
        attrs = gathered.attributes(**more)
        if attrs["groups"] * 4 > shape[1] and shape[1] > 1:
            continue
        x, weight = gathered.make("", shape, outputs, attrs, "float32")
        for algorithm in BOUNDS:
            y, alone = gathered.convolve(x, weight, attrs, algorithm=algorithm)
            gathered.check_moments(y, alone, gathered.BOUND["float32"], f"{algorithm} {shape}")
            _, together = gathered.convolve(x, weight, attrs, 3, algorithm=algorithm)
            assert_same_bits(alone, together)
    """)


def test_results_past_the_caches(run_on_bfloat16):
    """From 16 MB (vectors: 4) on they are stored so, where channels of a group are whole lines."""
    run_on_bfloat16("""
    from convkit import functional as F

    for groups, filters in ((1, 48), (1, 80), (2, 64), (2, 80)):
        x = random_array((2, 64, 190, 190))
        w, b = random_array((filters, 64 // groups, 1, 1), seed=1), random_array((filters,))
        for level in ("high", "medium"):
            with precision(level):
                far = F.conv2d(Tensor(x), Tensor(w), Tensor(b), groups=groups).numpy()
                near = F.conv2d(Tensor(x[:1, :, :8].copy()), Tensor(w), Tensor(b),
                                groups=groups).numpy()
            assert_same_bits(far[:1, :, :8], near, (groups, filters, level))
    """)


def test_max_pooling_of_bfloat16_with_places(run):
    """Values, places and rounded gradients are those of the same numbers in float32."""
    run("""
    from convkit._kernels import norm, pool
    from convkit.ops.pool import _adaptive_windows, _max_windows

    def floats(halves):
        return halves.astype(np.uint32).__lshift__(16).view(np.float32)

    def pooled(x, gy, h, w, n):
        taken = pool.index_dtype(h.taps, w.taps)
        y, index, gx = np.empty_like(gy), np.empty(gy.shape, taken), np.empty_like(x)
        pool.max_forward(x, y, index, h.axis, w.axis, w.taps, n)
        pool.max_backward(gy, index, gx, h.axis, w.axis, w.taps, n)
        return y, index, gx

    def check(shape, h, w, x):
        size = shape[0], h.axis.targets, w.axis.targets, shape[3]
        gy = rng.integers(0, 1 << 16, size).astype(np.uint16)
        gy[(gy & 0x7f80) == 0x7f80] = 0x7f7f    # NaN would hide what it is added to; 0x7b00 makes
        gy[gy < 0x1000] = 0x7b00                # a finite sum that would round to infinity
        want = pooled(floats(x), floats(gy), h, w, 1)
        narrow = np.empty(shape, np.uint16)
        norm.narrow(want[2], narrow, 1)
        for n in (1, 2):
            y, index, gx = pooled(x, gy, h, w, n)
            assert_same_bits(floats(y), want[0], shape)
            assert_same_bits(index, want[1], shape)
            assert_same_bits(gx, narrow, shape)

    rng = np.random.default_rng(0)
    few = np.array([0, 0x8000, 0x3f80, 0xbf80, 0x7f80, 0xff80, 0x7fc1, 0xffc2, 1, 0x8001, 0x80],
                   np.uint16)
    windows = [  # of each axis: size, windows, kernel, stride, padding, dilation
        ((9, 5, 3, 2, 1, 1), (11, 6, 3, 2, 1, 1)), ((8, 4, 2, 2, 0, 1), (9, 4, 2, 2, 0, 1)),
        ((7, 7, 3, 1, 1, 1), (7, 5, 4, 1, 1, 1)), ((5, 3, 2, 4, 2, 4), (13, 5, 3, 2, 1, 2))]
    for h, w in [*windows, ((20, 1, 20, 1, 0, 1), (17, 3, 15, 1, 0, 1))]:
        for channels in (1, 31, 32, 33, 64, 70):
            shape = (2, h[0], w[0], channels)
            for x in (rng.integers(0, 1 << 16, shape), rng.integers(0, 0x7f00, shape),
                      rng.choice(few, shape), rng.choice(few[few <= 0x3f80], shape)):
                check(shape, _max_windows(*h), _max_windows(*w), x.astype(np.uint16))
    shape = (3, 7, 19, 40)
    check(shape, _adaptive_windows(7, 3), _adaptive_windows(19, 8),
          rng.integers(0, 0x7f00, shape).astype(np.uint16))
    """)
