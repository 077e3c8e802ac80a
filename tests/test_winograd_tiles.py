"""Winograd convolution on bfloat16 tiles: emulated, and natively where there is AMX.

The child's code begins as in test_tiles.py; both fixtures are in conftest.py.
"""

from __future__ import annotations

COMMON = """
    from test_winograd import SPECIAL, convolve64, make_special
    from convkit._kernels import winograd as kernel
    from convkit._kernels.gather import Gathered

    NAME = "winograd_split_bf16"

    def convolve(x, w, top=-1, left=-1, size=None, *, form="split_bf16", threads=1, together=None,
                 **more):
        columns, depth = w.shape[:2]
        packed = kernel.pack(w, 2, 3, 2, columns, depth, 9 * depth, 9, False, form, threads)
        y = np.full((len(x), *(size or x.shape[1:3]), columns), np.nan, np.float32)
        peaks = kernel.run(x, packed, y, top, left, threads=threads, together=together, **more)
        return y, peaks
"""


def test_all_remainders_of_tiles_channels_and_padding(run_on_tiles):
    run_on_tiles(COMMON + """
    for channels, columns in ((1, 1), (16, 17), (31, 33), (33, 31), (48, 70), (96, 20)):
        w = random_array((columns, channels, 3, 3), seed=1)
        for height, width, top, left in ((1, 1, -1, -1), (2, 3, -1, -1), (7, 9, -1, -1),
                                         (12, 5, 0, -2), (13, 22, -2, 0)):
            x = random_array((3, height, width, channels), seed=height)
            size = height - 2 - 2 * top, width - 2 - 2 * left
            if min(size) < 1:
                continue
            y, peaks = convolve(x, w, top, left, size)
            want = convolve64(x, w, top, left, size)
            assert error(y, want) < 1e-5, (channels, columns, height, width, error(y, want))
            largest = np.abs(want).max((1, 2, 3))
            np.testing.assert_allclose(peaks, largest, rtol=1e-4)
    """)


def test_errors_are_below_what_high_allows_and_above_those_of_float32(run_on_tiles):
    run_on_tiles(COMMON + """
    shapes = {"normal": lambda a: a, "after relu": lambda a: np.maximum(a, 0),
              "mean 3": lambda a: a + 3}
    for name, shape in shapes.items():
        for channels in (64, 256, 512):
            x = shape(random_array((1, 14, 14, channels), seed=channels)).astype("f")
            w = random_array((48, channels, 3, 3), seed=1) / np.float32(3 * channels ** 0.5)
            apart = error(convolve(x, w)[0], convolve64(x, w, -1, -1, (14, 14)))
            print(name, channels, apart)
            assert 1e-6 < apart < 9e-6, (name, channels, apart)
    """)


def test_threads_batches_and_ways_through_the_work_change_no_bit(run_on_tiles):
    """Few weights, by blocks of tiles; and many, position by position."""
    run_on_tiles(COMMON + """
    for channels, columns, side, samples in ((40, 70, 13, 21), (512, 520, 5, 3), (300, 288, 30, 2)):
        x = random_array((samples, side, side, channels))
        w = random_array((columns, channels, 3, 3), seed=1)
        want = convolve(x, w)
        assert error(want[0], convolve64(x, w, -1, -1, (side, side))) < 1e-5
        for threads in (1, 2, 3):
            for together in (None, True, False):
                assert_same_bits(want, convolve(x, w, threads=threads, together=together))
        alone = convolve(x[1:2], w)
        assert_same_bits(alone, (want[0][1:2], want[1][1:2]))
    """)


def test_bias_residual_activations_dilation_and_moments(run_on_tiles):
    run_on_tiles(COMMON + """
    from convkit.ops.conv import activation_arguments
    x, w = random_array((2, 11, 14, 40)), random_array((50, 40, 3, 3), seed=1)
    bias, residual = random_array((50,), seed=2), random_array((2, 11, 14, 50), seed=3)
    plain = convolve(x, w)[0]
    for name in (None, "relu", "relu6", "leaky_relu", "silu"):
        got = convolve(x, w, bias=bias, residual=residual, **activation_arguments(name))[0]
        want = plain + bias + residual
        want = {None: want, "relu": np.maximum(want, 0), "relu6": np.clip(want, 0, 6),
                "leaky_relu": np.where(want > 0, want, np.float32(0.01) * want),
                "silu": want / (1 + np.exp(-want))}[name]
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    for d in ((2, 1), (3, 2)):
        got = convolve(x, w, -d[0], -d[1], dilation=d)[0]
        attrs = {**test_conv.conv_attrs(), "dilation": d, "padding": ((d[0],) * 2, (d[1],) * 2)}
        want = reference.conv(x.transpose(0, 3, 1, 2), w, **attrs).transpose(0, 2, 3, 1)
        assert error(got, want) < 1e-5
    gathered = Gathered()
    y = convolve(x, w, gathered=gathered, threads=2)[0]
    assert_same_bits(y, plain)
    mean, squares = gathered.moments(1)[:2]
    np.testing.assert_allclose(np.asarray(mean), y.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    """)


def test_gradients_of_the_input_and_choices(run_on_tiles):
    run_on_tiles(COMMON + """
    def chosen(channels, columns, side, task, level="high", kernel=3, **attrs):
        problem = forward_problem((1, channels, side, side), (columns, channels, kernel, kernel),
                                  np.dtype("f"), precision=level,
                                  **test_conv.conv_attrs(padding=kernel // 2, **attrs))
        return planner.choose(problem, task).name
    for channels, side in ((128, 28), (256, 14), (512, 7)):
        for task in ("forward", "grad_input"):
            assert chosen(channels, channels, side, task) == NAME
            assert chosen(channels, channels, side, task, "highest") != NAME
            assert chosen(channels, channels, side, task, "medium") != NAME
            assert chosen(channels, channels, side, task, stride=2) != NAME
        assert chosen(channels, channels, side, "grad_weight") != NAME
        assert chosen(channels, channels, side, "forward", kernel=5) != NAME
    assert chosen(16, 16, 32, "forward") != NAME
    x, w = random_array((2, 130, 15, 9)), random_array((140, 130, 3, 3), seed=1)
    gy = random_array((2, 140, 15, 9), seed=2)
    attrs = {**test_conv.conv_attrs(padding=1), "algorithm": NAME}
    one, two = (run_op(REGISTRY["conv"], [x, w, None], attrs, [0, 1], gy, n) for n in (1, 2))
    assert_same_bits(one, two)
    want = reference.conv_grad(gy, x, w, None, **test_conv.conv_attrs(padding=1))
    for got, right in zip(one.grads[:2], want, strict=False):
        assert error(got, right) < 1e-5
    """)


def test_values_that_transforms_cannot_bear_come_out_as_in_direct_convolution(run_on_tiles):
    run_on_tiles(COMMON + """
    attrs = test_conv.conv_attrs(padding=1)
    def forward(x, w, algorithm):
        return apply(Conv, x, w, None, **attrs, algorithm=algorithm).data
    for name, (places, scale) in SPECIAL.items():
        x = random_array((3, 16, 12, 11))
        w = random_array((16, 16, 3, 3), seed=1) * np.float32(scale)
        clean = x.copy()
        make_special(x, places)
        y = forward(x, w, NAME)
        assert_same_bits(y[0], forward(x, w, "direct")[0], name)
        assert_same_bits(y[1:], forward(clean, w, NAME)[1:], name)
        assert not np.array_equal(y[1:], forward(x, w, "direct")[1:])
    for value in (np.inf, np.nan, 1e30, 0.0):
        w = random_array((16, 16, 3, 3), seed=1)
        w[...] = value if value in (0.0, 1e30) else w
        w[3, 4, 1, 1] = value
        assert_same_bits(forward(clean, w, NAME), forward(clean, w, "direct"), str(value))
    """)


def test_a_program_runs_it_and_reads_parts_of_wider_pixels(run_on_tiles):
    run_on_tiles(COMMON + """
    import convkit as ck
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Conv2d(128, 128, 3, padding=1) for _ in range(2))
        def forward(self, x):
            return ck.cat([self.one(x), self.two(x).relu()], 1)
    net = Net().eval()
    x = random_array((3, 128, 15, 14))
    program = ck.compile(net, x.shape, precision="high")
    assert NAME in str(program.summary()), program.summary()
    with ck.no_grad(), precision("high"):
        want = net(Tensor(x)).data
    for n in (1, 3):
        assert_same_bits(np.asarray(program.run(x[:n])), want[:n])
    """)
