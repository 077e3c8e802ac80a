"""Worker threads: shared by all callers, bounded in number, there again after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from convkit._kernels import threads as kernel_threads

pytestmark = [
    pytest.mark.skipif(not kernel_threads.have_threads(), reason="no threads on this platform"),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc"),
]

SETUP = """
import os, threading, time
import numpy as np
import convkit as ck
import convkit.functional as F
from convkit._kernels import threads as kernel_threads
kernel_threads.set_work_per_thread(0.0)
rng = np.random.default_rng(0)
x = rng.standard_normal((4, 16, 24, 24)).astype(np.float32)
w = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
def count():
    return len(os.listdir("/proc/self/task"))
def step():
    return F.conv2d(x, w, padding=1).numpy()
before = count()
"""


def run(code: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)], timeout=100, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
                        "CONVKIT_NUM_THREADS": "3"})
    assert result.returncode == 0, result.stderr


def test_64_callers_share_the_workers():
    run("""
        want, wrong, most = step(), [], []
        start = threading.Barrier(64)

        def work():
            start.wait()
            for _ in range(10):
                if step().tobytes() != want.tobytes():
                    wrong.append(1)
            most.append(count())

        callers = [threading.Thread(target=work) for _ in range(64)]
        for t in callers:
            t.start()
        for t in callers:
            t.join()
        assert not wrong
        assert max(most) <= before + 64 + 2, (max(most), before)
        for _ in range(100):  # until the system has taken the callers away
            if count() <= before + 2:
                break
            time.sleep(0.01)
        assert count() <= before + 2
    """)


def test_the_largest_call_says_how_many_there_are():
    run("""
        for n in (2, 5, 3):
            with ck.threads(n):
                for _ in range(50):
                    step()
        assert count() == before + 4, (count(), before)
    """)


def test_a_child_has_workers_of_its_own():
    run("""
        want = step()
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                step()

        others = [threading.Thread(target=busy) for _ in range(3)]
        for t in others:
            t.start()
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                same = all(step().tobytes() == want.tobytes() for _ in range(5))
                os._exit(0 if same and count() == 3 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        stop.set()
        for t in others:
            t.join()
        assert step().tobytes() == want.tobytes()
    """)


def test_workers_leave_signals_to_the_program():
    run("""
        import signal
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(threading.current_thread()))
        others = set(os.listdir("/proc/self/task"))
        step()
        workers = set(os.listdir("/proc/self/task")) - others
        assert workers
        for task in workers:
            fields = dict(line.split(":", 1) for line in
                          open(f"/proc/self/task/{task}/status").read().splitlines())
            assert int(fields["SigBlk"], 16) >> (signal.SIGUSR1 - 1) & 1
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        assert seen == [threading.main_thread()]
    """)
