"""No form of convolution is slow beside im2col and a matrix product, in one thread's CPU time.

All forms, and more drawn at random, by ``python benchmarks/forms.py``.
"""

from __future__ import annotations

import os

import pytest
from harness import run_python

LONG = os.environ.get("CONVKIT_LONG_TESTS") == "1"

CHECK = """
import sys
sys.path.insert(0, FOLDER)
import forms
from convkit.ops.conv_algorithms import TASKS

chosen = FORMS
slow = {}
for one in chosen:
    for task in TASKS:
        # Other work on the machine may strike one side: what seems slow is looked at again.
        for rounds in (1, 5, 15):
            found = forms.measure(one, task, rounds, 0.0003)
            if found.ratio >= 0.25:
                break
        else:
            slow[task, found.layer] = round(found.ratio, 2)
assert not slow, slow
print(len(chosen))
"""


def check(forms: str) -> int:
    folder = os.path.join(os.path.dirname(__file__), "..", "benchmarks")
    code = CHECK.replace("FOLDER", repr(folder)).replace("FORMS", forms)
    # NumPy's products on one thread, as convkit's.
    done = run_python(code, {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, timeout=900)
    return int(done.stdout)


def test_every_form_runs_at_a_quarter_of_the_speed_of_im2col_at_least():
    assert check("forms.FORMS if LONG else forms.FORMS[::3]".replace("LONG", str(LONG))) > 25


@pytest.mark.skipif(not LONG, reason="minutes: CONVKIT_LONG_TESTS=1")
def test_forms_drawn_at_random_do_too():
    assert check("forms.random_forms(200, 7)") == 200
