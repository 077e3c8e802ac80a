"""The same values, to rounding, from every instruction set; the choice by CONVKIT_ISA."""

from __future__ import annotations

import numpy as np
import pytest
from harness import run_python
from tolerances import Tolerance, assert_close

from convkit._kernels import dispatch

NAMES = ("generic", "avx2", "avx512", "avx512_bf16", "amx")

# One instruction set's rounding beside another's: twice what each may err.
BOUNDS = Tolerance(1e-4, 4e-5)

CHILD = """
    import numpy as np
    from cases import all_cases
    from convkit import reference
    from convkit._kernels import dispatch, threads
    from harness import check_op, random_array, run_op
    from convkit.ops.op import REGISTRY

    threads.set_work_per_thread(0.0)
    print(dispatch.isa())
    results = {}
    seen = dict.fromkeys(REGISTRY, 0)
    for case in all_cases(seed=3, wide=True):
        seen[case.name] += 1
        if seen[case.name] > LIMIT or "fused" in case.tag:
            continue
        check_op(case.name, case.inputs, case.attrs, kind=case.kind, gradcheck=False,
                 layouts=["channels_last"])
        inputs = [a.astype(np.float32) if a is not None and a.dtype.kind == "f" else a
                  for a in case.inputs]
        op = REGISTRY[case.name]
        y = run_op(op, inputs, case.attrs, (), None).outputs[0]
        gy = random_array(y.shape)
        grads = getattr(reference, case.name + "_grad")(gy, *inputs, **case.attrs)
        wanted = [i for i, g in enumerate(grads) if g is not None]
        run = run_op(op, inputs, case.attrs, wanted, gy)
        for i, a in enumerate([*run.outputs, *run.grads]):
            if a is not None:
                results[f"{case} {i}"] = a
    np.savez(OUT, **results)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return, per instruction set, every result of a sample of operations."""
    folder = tmp_path_factory.mktemp("isa")
    found = {}
    for name in dispatch.supported_isas():
        out = folder / f"{name}.npz"
        code = CHILD.replace("LIMIT", "12").replace("OUT", repr(str(out)))
        done = run_python(code, {"CONVKIT_ISA": name})
        assert done.stdout.strip() == name
        found[name] = np.load(out)
    return found


def test_every_instruction_set_agrees_with_the_reference(results):
    assert list(results) == [name for name in NAMES if name in results]
    assert len(results["generic"].files) > 200


def test_instruction_sets_agree_with_each_other(results):
    base = results["generic"]
    for name, other in results.items():
        assert other.files == base.files
        for key in base.files:
            assert_close(other[key], base[key], BOUNDS, f"{key}: {name} beside generic")


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_used_or_refused(name):
    code = "from convkit._kernels import dispatch; print(dispatch.isa())"
    done = run_python(code, {"CONVKIT_ISA": name.upper()}, check=False)
    if name in dispatch.supported_isas():
        assert done.stdout.strip() == name
    else:
        assert done.returncode != 0
        assert f"ImportError: CONVKIT_ISA={name} asked for, but this CPU" in done.stderr


@pytest.mark.parametrize("name", ["sse9", "avx", "512", "generic,avx2"])
def test_an_unknown_set_is_an_import_error(name):
    done = run_python("import convkit", {"CONVKIT_ISA": name}, check=False)
    assert done.returncode == 1
    assert (f"ImportError: CONVKIT_ISA={name!r} is not an instruction set; expected one of "
            "generic, avx2, avx512, avx512_bf16, amx") in done.stderr


def test_an_empty_value_means_the_best():
    code = "from convkit._kernels import dispatch; print(dispatch.isa())"
    assert run_python(code, {"CONVKIT_ISA": ""}).stdout == run_python(code).stdout
