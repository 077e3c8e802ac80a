"""Verbose dispatch and autotuning."""

from __future__ import annotations

import json

import numpy as np
import pytest
from harness import random_array, run_python

from convkit import functional as F
from convkit._kernels import dispatch
from convkit.ops import autotune, planner
from convkit.ops.conv_algorithms import BY_NAME, TASKS
from convkit.ops.conv_problem import forward_problem

PROBLEM = forward_problem((2, 16, 9, 9), (8, 16, 3, 3), np.dtype(np.float32), stride=(1, 1),
                          padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)


def test_verbose_prints_one_line_a_problem_with_the_reasons():
    done = run_python("""
        import numpy as np
        from convkit import functional as F
        x, w = np.ones((1, 4, 8, 8), np.float32), np.ones((4, 1, 3, 3), np.float32)
        for _ in range(3):
            F.conv2d(x, w, groups=4)
        F.linear(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), precision="highest")
    """, {"CONVKIT_VERBOSE": "dispatch"})
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("convkit,dispatch,forward,conv n1 c4 8x8 o4 k3x3 s1 p0 d1 g4 "
                               "float32 high,depthwise,")
    assert "float32 highest,direct," in lines[1] and "depthwise: one group" in lines[1]
    assert all(line.endswith(" ms") for line in lines)


def test_nothing_is_printed_unasked():
    done = run_python("""
        import numpy as np
        from convkit import functional as F
        F.linear(np.ones((2, 3), np.float32), np.ones((4, 3), np.float32))
    """)
    assert done.stderr == ""


@pytest.fixture
def tuned(tmp_path):
    """Autotune into a file for one test."""
    path = tmp_path / "choices.json"
    autotune.set_autotune(path)
    yield path
    autotune.set_autotune(False)


def test_choices_are_measured_once_and_kept_in_the_file(tuned, monkeypatch):
    chosen = {task: planner.choose(PROBLEM, task).name for task in TASKS}
    table, = json.loads(tuned.read_text()).values()
    assert table == {f"{task} {PROBLEM.layer}": name for task, name in chosen.items()}
    autotune.set_autotune(tuned)
    monkeypatch.setattr(autotune, "_measure", lambda *a: pytest.fail("measured again"))
    assert {task: planner.choose(PROBLEM, task).name for task in TASKS} == chosen


def test_the_fastest_candidate_is_taken(tuned, monkeypatch):
    able = [name for name, a in BY_NAME.items() if a.refuses(PROBLEM, "forward") is None]
    assert len(able) >= 2
    for favourite in able:
        autotune.set_autotune(True)
        monkeypatch.setattr(autotune, "_seconds", lambda candidate, *rest, favourite=favourite:
                            [0.5 if candidate.name == favourite else 1.0])
        assert planner.choose(PROBLEM, "forward").name == favourite


def test_results_agree_and_a_choice_that_no_longer_fits_is_measured_anew(tuned):
    x, w = random_array((2, 16, 9, 9)), random_array((8, 16, 3, 3))
    y = F.conv2d(x, w, padding=1).data
    np.testing.assert_allclose(y, F.conv2d(x, w, padding=1, algorithm="direct").data,
                               rtol=1e-4, atol=1e-4)
    found = json.loads(tuned.read_text())
    machine = next(iter(found))
    found[machine] = {f"forward {PROBLEM.layer}": "depthwise", "forward nonsense": "magic"}
    tuned.write_text(json.dumps(found))
    autotune.set_autotune(tuned)
    assert planner.choose(PROBLEM, "forward").name != "depthwise"


@pytest.mark.parametrize("text", ["[]", "{\"a\": 3}", "{\"a\": {\"b\": 1}}", "no json", "\xff"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "choices.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"choices.json"):
        autotune.set_autotune(path)
    assert not autotune.enabled()


@pytest.mark.skipif("avx512_bf16" not in dispatch.supported_isas(), reason="no AVX512-BF16")
def test_bfloat16_on_vectors_is_taken_where_it_pays():
    """Under medium alone, where more is multiplied than converted and Winograd is no faster."""
    run_python("""
        import numpy as np
        from convkit.ops import planner
        from convkit.ops.conv_problem import forward_problem
        from test_conv import conv_attrs

        def chosen(before, after, size, kernel=1, stride=1, precision="medium"):
            problem = forward_problem(
                (1, before, size, size), (after, before, kernel, kernel), np.dtype("f"),
                **conv_attrs(stride=stride, padding=kernel // 2), precision=precision)
            return [planner.choose(problem, task).name
                    for task in ("forward", "grad_input", "grad_weight")]

        everywhere = ["bf16"] * 3
        assert chosen(1024, 256, 14) == chosen(256, 512, 56, stride=2) == everywhere
        assert chosen(128, 128, 56, 3, stride=2) == everywhere
        integers = ["winograd_int16"] * 3
        assert chosen(64, 64, 56, 3) == chosen(64, 64, 8, 3) == chosen(256, 256, 14, 3) == integers
        assert chosen(512, 512, 7, 3) == integers
        assert chosen(16, 16, 32, 3) == ["winograd", "winograd", "bf16"]
        assert chosen(24, 144, 56) == chosen(96, 24, 56) == ["bf16", "bf16", "direct"]
        assert chosen(16, 96, 112)[0] == chosen(3, 64, 224, 7, 2)[0] == "bf16"
        assert chosen(16, 32, 32) == ["direct"] * 3
        assert chosen(8, 48, 56) == ["direct"] * 3
        assert "bf16" not in chosen(3, 32, 224, 3, 2)[:2]
        assert not {"bf16"} & {*chosen(1024, 256, 14, precision="high"),
                               *chosen(1024, 256, 14, precision="highest")}
    """, {"CONVKIT_ISA": "avx512_bf16"})
