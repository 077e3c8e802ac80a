"""The gradient of the input by a product and its folding, beside direct convolution."""

from __future__ import annotations

import numpy as np
import pytest
from harness import assert_same_bits

from convkit._kernels import threads as team
from convkit.ops import planner
from convkit.ops.conv_algorithms import BY_NAME
from convkit.ops.conv_problem import ConvProblem, forward_problem

IM2COL, DIRECT = BY_NAME["im2col"], BY_NAME["direct"]

# (batch, channels, size, filters, kernel, stride, padding, dilation, groups)
CASES = [
    (3, 1, (9, 8), 6, (5, 5), (1, 1), (2, 2), (1, 1), 1),
    (3, 6, (14, 14), 16, (5, 5), (1, 1), (0, 0), (1, 1), 1),
    (2, 3, (31, 30), 16, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    (2, 3, (17, 16), 8, (3, 3), (3, 2), (1, 0), (1, 1), 1),
    (2, 5, (11, 13), 7, (2, 4), (1, 3), (1, 2), (1, 1), 1),
    (2, 4, (12, 12), 8, (3, 3), (1, 1), (2, 2), (2, 2), 1),
    (2, 4, (12, 13), 8, (3, 3), (2, 1), (3, 1), (3, 1), 1),
    (2, 6, (10, 9), 12, (3, 3), (1, 1), (1, 1), (1, 1), 3),
    (2, 8, (10, 9), 8, (3, 2), (2, 2), (1, 1), (1, 2), 2),
    (1, 17, (6, 5), 19, (1, 3), (1, 1), (0, 1), (1, 1), 1),
    (2, 3, (5, 5), 4, (5, 5), (1, 1), (4, 4), (1, 1), 1),
    (2, 2, (1, 1), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    (2, 2, (9, 9), 3, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    (1, 8, (90, 70), 8, (5, 5), (1, 1), (2, 2), (1, 1), 1),
    (1, 8, (120, 61), 8, (7, 7), (2, 2), (3, 3), (1, 1), 1),
]


@pytest.fixture(autouse=True)
def small_work_on_several_threads():
    before = team.set_work_per_thread(0)
    yield
    team.set_work_per_thread(before)


def problem_of(case, dtype) -> ConvProblem:
    batch, channels, size, filters, kernel, stride, padding, dilation, groups = case
    return forward_problem(
        (batch, channels, *size), (filters, channels // groups, *kernel), np.dtype(dtype),
        stride=stride, padding=tuple((p, p) for p in padding), dilation=dilation, groups=groups,
        precision="highest")


def arrays(problem, dtype):
    rng = np.random.default_rng(0)
    gy = rng.standard_normal((problem.batch, *problem.out_size, problem.out_channels))
    weight = rng.standard_normal((problem.out_channels, problem.in_group, *problem.kernel))
    return gy.astype(dtype), weight.astype(dtype)


def gradient(algorithm, problem, gy, weight, threads=1, bias=None):
    gx = np.full((len(gy), *problem.in_size, problem.in_channels), np.nan, gy.dtype)
    algorithm.grad_input(problem, gy, weight, gx, None, threads, bias=bias)
    return gx


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folding_agrees_with_direct_convolution(case, dtype):
    problem = problem_of(case, dtype)
    gy, weight = arrays(problem, dtype)
    want = gradient(DIRECT, problem_of(case, np.float64), gy.astype(np.float64),
                    weight.astype(np.float64))
    got = gradient(IM2COL, problem, gy, weight)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert error < (5e-7 if dtype == np.float32 else 1e-15)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_threads_and_any_batch_give_the_same_bits(case):
    problem = problem_of(case, np.float32)
    gy, weight = arrays(problem, np.float32)
    gy = np.concatenate([gy] * 3)
    want = gradient(IM2COL, problem, gy, weight)
    for threads in (2, 3, 4):
        assert_same_bits(gradient(IM2COL, problem, gy, weight, threads), want)
    assert_same_bits(gradient(IM2COL, problem, gy[:1], weight, 4), want[:1])


def test_the_bias_of_a_transposed_convolution_is_added():
    problem = problem_of(CASES[2], np.float32)
    gy, weight = arrays(problem, np.float32)
    bias = np.arange(1, 4, dtype=np.float32)
    plain = gradient(IM2COL, problem, gy, weight)
    np.testing.assert_allclose(gradient(IM2COL, problem, gy, weight, 2, bias), plain + bias,
                               rtol=1e-5, atol=1e-4)


def test_an_empty_batch_is_nothing_to_do():
    problem = problem_of((0, *CASES[0][1:]), np.float32)
    gy, weight = arrays(problem, np.float32)
    assert gradient(IM2COL, problem, gy, weight).shape == (0, 9, 8, 1)


def test_few_channels_are_folded():
    assert planner.choose(problem_of(CASES[1], np.float32), "grad_input") is IM2COL
    wide = (8, 64, (28, 28), 64, (3, 3), (1, 1), (1, 1), (1, 1), 1)
    assert planner.choose(problem_of(wide, np.float32), "grad_input") is not IM2COL
