"""Values that Programs hold as bfloat16 between tile convolutions.

Checks run in child interpreters with products of bfloat16 (see tile_runs.py).
"""

from __future__ import annotations

START = """
    import math
    import convkit as ck
    import convkit.functional as F
    from convkit.infer import Program, trace
    from convkit.infer.fusing import nodes_done_before
    from convkit.infer.narrowing import narrow_values
    from convkit.infer.lowering import Lowering
    from convkit.infer.passes import run_pipeline
    from program_checks import bfloat16, check_bits, cut_finely, op_by_op

    def conv(x, filters, size=1, seed=0, groups=1, **more):
        fan = x.shape[1] // groups * size * size
        weight = random_array((filters, fan // size ** 2, size, size), seed=seed)
        return F.conv2d(x, weight / np.float32(math.sqrt(fan)), random_array((filters,), seed=7),
                        groups=groups, **more)

    def emitted(graph, precision):
        lowering = Lowering(graph, precision, 1)
        lowering.run()
        return lowering._emitted

    def made(model, shape, precision="medium"):
        graph = run_pipeline(trace(model, shape))
        program = Program(graph, precision=precision, threads=2)
        names = {node.outputs[0]: node.op for node in graph.nodes}
        narrow = narrow_values(graph, precision, nodes_done_before(graph))
        return graph, program, sorted([names[v] for v in narrow])
"""


def test_what_tile_convolutions_alone_read_is_narrow(run_on_bfloat16):
    run_on_bfloat16(START + """
    def chained(x):
        x = F.max_pool2d(F.relu(conv(x, 40, 3, stride=2, padding=1)), 3, 2, 1)
        return conv(F.silu(conv(x, 64)), 48, 3, padding=1)

    def residual(x):
        x = F.relu(conv(x, 64))
        return conv(F.relu(conv(F.relu(conv(x, 32)), 64) + x), 32)

    def read_otherwise(x):
        a, b, c = conv(x, 64), conv(x, 64, seed=1), conv(x, 64, seed=2)
        pooled = F.max_pool2d(a, 2)
        return conv(a, 32), pooled, conv(b, 32), F.avg_pool2d(b, 2), c, conv(c, 32)

    def few_channels(x):
        return conv(conv(x, 4), 3)

    for model, want in ((chained, ["conv", "max_pool", "silu"]), (residual, ["conv"] * 3),
                        (read_otherwise, []), (few_channels, [])):
        for precision in ("medium", "high"):
            _, program, narrow = made(model, (1, 32, 20, 21), precision)
            assert narrow == (want if precision == "medium" else []), (model, precision, narrow)
    """)


def test_layers_with_a_precision_of_their_own(run_on_bfloat16):
    run_on_bfloat16(START + """
    def first_in_full(x):
        return conv(conv(x, 64, precision="highest"), 64)

    def second_in_full(x):
        return conv(conv(x, 64), 64, precision="highest")

    def both_plain(x):
        return conv(conv(x, 64, precision="medium"), 64, precision="medium")

    for model, count in ((first_in_full, 0), (second_in_full, 0), (both_plain, 1)):
        graph, program, narrow = made(model, (1, 32, 9, 9), "high" if count else "medium")
        assert len(narrow) == count, (model, narrow)
        check_bits(program, graph, program.precision)
    """)


def test_programs_have_the_bits_of_their_operations_rounded_between(run_on_bfloat16):
    run_on_bfloat16(START + """
    def geometry(x):
        x = F.max_pool2d(conv(x, 41, 3, stride=2, padding=1), 3, 2, 1)     # odd, negative too
        x = F.silu(conv(x, 64, 3, padding=2, dilation=2))
        x = conv(F.relu6(conv(x, 96, 3, padding=1, groups=2)), 80)
        x = conv(F.leaky_relu(conv(x, 33)), 72, 1, stride=2)
        return conv(x, 40, 3, padding=1)

    def blocks(x):
        x = F.max_pool2d(F.relu(conv(x, 64, 7, stride=2, padding=3)), 2)
        for seed in range(3):
            inner = F.relu(conv(F.relu(conv(x, 32, seed=seed)), 48, 3, padding=1))
            x = F.relu(conv(inner, 64, seed=seed) + x)
        return conv(F.relu(conv(x, 20) + conv(x, 20, seed=1)), 40)

    def one_axis(x):
        x = F.max_pool1d(F.conv1d(x, random_array((40, 32, 3)) / 9, padding=1), 3, 1, 1)
        return F.conv1d(x, random_array((32, 40, 1)) / 9)

    for model, shape, count in ((geometry, (1, 32, 25, 22), 7), (blocks, (1, 3, 24, 25), 13),
                                (one_axis, (1, 32, 50), 2)):
        graph, program, narrow = made(model, shape)
        assert len(narrow) == count, narrow
        check_bits(program, graph, "medium")
        rng = np.random.default_rng(3)
        x = rng.standard_normal((5, *shape[1:])).astype("f")
        whole = program(x)
        for threads in (1, 3):
            assert_same_bits(Program(graph, precision="medium", threads=threads)(x), whole)
        assert_same_bits(np.concatenate([program(x[i:i + 1]) for i in range(5)]), whole)
        with cut_finely(2, 2):
            assert_same_bits(Program(graph, precision="medium", threads=2)(x), whole)
    """)


def test_infinities_nan_and_the_ends_of_the_range_pass(run_on_bfloat16):
    run_on_bfloat16(START + """
    def copied(x):     # each convolution gives what it reads; the third's reduction is odd
        def same(x, filters):
            return F.conv2d(x, np.eye(filters, x.shape[1], dtype="f")[:, :, None, None])
        return same(same(same(same(x, 36), 33), 32), 36)

    x = np.zeros((2, 36, 6, 7), "f")
    values = [np.inf, -np.inf, np.nan, -np.nan, 3.4028235e38, -3.4028235e38, 3.39e38, 1e-40, -0.0,
              2.0 ** -126, 1 + 2.0 ** -8, 1 + 3 * 2.0 ** -8, -1e30]
    with np.errstate(all="ignore"):
        x[0, 0].flat[:len(values)] = values
        x[1, 31].flat[3:3 + len(values)] = values[::-1]
    graph, program, narrow = made(copied, (1, 36, 6, 7))
    assert len(narrow) == 3, narrow
    y = program(x)
    finite = np.isfinite(x).all(1)
    assert (np.isfinite(y).all(1) == finite).all() and (~finite).sum() == 8
    for n, c in ((0, 0), (1, 31)):
        assert not np.isfinite(y[n, c][~finite[n]]).any()
        assert np.array_equal(y[n, c][finite[n]], bfloat16(x[n, c])[finite[n]])
    with np.errstate(all="ignore"):
        assert np.array_equal(y, op_by_op(graph, [x], "medium")[0], equal_nan=True)
    """)


def test_largest_values_of_windows_are_those_of_floats(run_on_bfloat16):
    run_on_bfloat16(START + """
    def pooled(x):
        n = x.shape[1]
        x = F.conv2d(x, np.eye(n, dtype="f")[:, :, None, None])
        x = F.max_pool2d(x, (3, 2), (2, 1), (1, 1), ceil_mode=True)
        return F.conv2d(x, np.eye(n, dtype="f")[:, :, None, None])

    rng = np.random.default_rng(0)
    for channels in (16, 32, 40, 70):
        x = bfloat16(rng.standard_normal((2, channels, 9, 8)).astype("f"))
        x[0, 0, 4, 4] = np.nan
        x[1, 1] = -np.abs(x[1, 1])
        graph, program, narrow = made(pooled, (1, channels, 9, 8))
        assert narrow == ["conv", "max_pool"], narrow
        want = F.max_pool2d(ck.tensor(x), (3, 2), (2, 1), (1, 1), ceil_mode=True).numpy()
        got = program(x)
        spoilt = np.isnan(want[0]).any(0)
        assert spoilt.any() and np.isnan(got[0, 0][spoilt]).all()
        got[0][:, spoilt] = want[0][:, spoilt] = 0
        assert np.array_equal(got, want)
    """)


def test_results_past_the_caches(run_on_bfloat16):
    run_on_bfloat16(START + """
    for filters in (48, 64):    # half a line beyond the last whole one, and whole lines
        def model(x):
            return conv(F.relu(conv(conv(x, filters, seed=1), 64)), 16, seed=2)

        graph, program, narrow = made(model, (1, 32, 182, 182))
        assert narrow == ["conv", "conv"]
        x = random_array((2, 32, 182, 182))
        assert_same_bits(program(x), op_by_op(graph, [x], "medium", 2)[0])
    """)


def test_residuals_are_added_where_they_lie(run_on_bfloat16):
    run_on_bfloat16(START + """
    def blocks(x):
        first = x = F.relu(conv(x, 72))
        for seed in range(3):
            x = F.relu(conv(conv(x, 96, seed=seed), 72, seed=seed) + x)
        return x, conv(conv(x, 96), 72) + first

    def read_again(x):
        x = conv(x, 72)
        y = conv(conv(x, 96), 72) + x
        return conv(y, 32) + conv(x, 32)

    def of_itself(x):
        x = conv(x, 72)
        return conv(conv(x, 72) + x, 32)

    def of_a_view(x):
        x = conv(x, 72)
        flat = F.flatten(x, 1)
        return conv(conv(x, 96), 72) + x, flat

    for model, places in ((blocks, 1), (read_again, 0), (of_itself, 0), (of_a_view, 0)):
        for precision in ("high", "medium") if dispatch.has_tiles() else ("medium",):
            for side in (7, 13):        # 49 pixels are four blocks of 13, of which one overlaps
                graph, program, _ = made(model, (1, 32, side, side), precision)
                check_bits(program, graph, precision)
            steps = [e for e in emitted(graph, precision) if len(e.operands) == 4]
            same = [e for e in steps if e.operands[2] is e.operands[3]]
            assert len(same) == places, (model, precision, len(same))
    """)


def test_steps_that_are_done_again_add_no_residual_twice(run_on_tiles):
    """A transform that cannot bear an infinity has a segment done once more from its beginning."""
    run_on_tiles(START + """
    def model(x):
        x = conv(x, 72)
        x = conv(conv(x, 96), 72) + x
        return F.conv2d(x, random_array((24, 72, 3, 3)) / np.float32(19), padding=1,
                        algorithm="winograd")

    graph = run_pipeline(trace(model, (1, 32, 9, 9)))
    x = random_array((5, 32, 9, 9))
    x[1, 0, 0, 0] = x[4, 3, 8, 8] = np.inf
    want = op_by_op(graph, [x], "high")[0]
    assert 0 < np.isnan(want).sum() < want[1].size
    with cut_finely(2, 1):
        program = Program(graph, precision="high", threads=2)
        steps = [e for e in emitted(graph, "high") if len(e.operands) == 4]
        assert [e.operands[2] is e.operands[3] for e in steps] == [False, False, True, False]
        assert np.array_equal(program(x), want, equal_nan=True)
    """)


def test_memory_halves_and_error_stays(run_on_bfloat16):
    run_on_bfloat16(START + """
    from convkit import models

    x = random_array((2, 3, 64, 64))
    model = models.resnet18(num_classes=10)
    with ck.no_grad():
        for _ in range(3):
            model(ck.tensor(random_array((8, 3, 64, 64), seed=1)))
    model.eval()
    want = ck.compile(model, (1, 3, 64, 64), precision="highest")(x)
    wide, narrow = (ck.compile(model, (1, 3, 64, 64), precision=p) for p in ("high", "medium"))
    wide(x)
    assert error(narrow(x), want) < 0.02, error(narrow(x), want)
    small, large = (p._lowered.arena[0] for p in (narrow, wide))
    assert small < 0.6 * large, (small, large)
    """)
