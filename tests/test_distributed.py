"""Training on several processes: started by mpiexec, two on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from distributed_run import net, samples, state

import convkit as ck
from convkit import distributed, nn
from convkit import functional as F
from convkit.distributed.group import tree_sum
from convkit.training.results import Tally
from convkit.training.run_state import go_on_with
from convkit.training.update import Update

SCRIPT = Path(__file__).with_name("distributed_run.py")
ROOT = Path(ck.__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def mpiexec():
    """Return the start of a command line for so many processes."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    found = shutil.which("mpiexec", path=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip("mpiexec is not installed (pip install mpich)")
    more = ("--oversubscribe",) if b"Open MPI" in subprocess.run(
        [found, "--version"], capture_output=True, check=False).stdout else ()
    return lambda n: [found, *more, "-n", str(n), sys.executable]


def start(command, **options):
    # Tests' own launcher must not be seen as the processes'.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI_", "OMPI_"))}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPT.parent)]),
            "CONVKIT_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120,
                          check=False, **options)


def run(mpiexec, case, folder, processes=2):
    command = [sys.executable] if processes == 1 else mpiexec(processes)
    done = start([*command, SCRIPT, case, folder])
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(np.load(folder / f"{case}-{processes}.npz"))


def test_the_same_bits_for_one_two_and_four_processes(mpiexec, tmp_path):
    one = run(mpiexec, "trainer", tmp_path, 1)
    two = run(mpiexec, "trainer", tmp_path)
    four = run(mpiexec, "trainer", tmp_path, 4)
    for name in one:
        if name != "loss":
            assert np.array_equal(one[name], two[name]), name
            assert np.array_equal(one[name], four[name]), name
    np.testing.assert_allclose([two["loss"], four["loss"]], one["loss"], rtol=1e-12)
    assert not np.array_equal(one["0.weight"], net(norm=False)[0].weight.data)
    # Checkpoints are the first process's, and have the network's own names.
    assert sorted(p.name for p in (tmp_path / "run-2").iterdir()) == [
        "best.safetensors", "last.safetensors"]


def test_gradients_of_a_loop_by_hand_are_means(mpiexec, tmp_path):
    got = run(mpiexec, "loop", tmp_path)
    model = net(norm=False)
    x, t = samples(16).arrays
    for part in (slice(0, 8), slice(8, 16)):
        (F.cross_entropy(model(ck.Tensor(x[part])), t[part]) * 0.5).backward()
    for name, p in model.named_parameters():
        assert np.array_equal(got[name], p.grad.data), name


def test_parameters_without_gradients(mpiexec, tmp_path):
    got = run(mpiexec, "unused", tmp_path)
    assert np.array_equal(got["a"], [[1, 1, 1]]) and np.array_equal(got["b"], [[1, 1, 1]])


def test_synchronised_batch_norm_is_that_of_the_whole_batch(mpiexec, tmp_path):
    got = run(mpiexec, "sync_norm", tmp_path)
    model = net()
    x, t = samples(10).arrays
    x = ck.Tensor(x, requires_grad=True)
    y = model(x)
    F.cross_entropy(y, t, reduction="sum").backward()
    close = {"rtol": 2e-5, "atol": 2e-6}
    np.testing.assert_allclose(got["y"], y.detach().numpy(), **close)
    np.testing.assert_allclose(got["gx"], x.grad.data, **close)
    for i, p in enumerate(model.parameters()):
        np.testing.assert_allclose(got[f"g{i}"], p.grad.data, rtol=2e-4, atol=2e-5)
    for name, value in state(model).items():
        np.testing.assert_allclose(got[name], value, **close)
    # Without the other process's samples it is something else.
    alone = net()
    assert np.abs(alone(ck.Tensor(x.data[:4])).detach().numpy() - got["y"][:4]).max() > 1e-3


def test_collectives(mpiexec, tmp_path):
    got = run(mpiexec, "collectives", tmp_path)
    assert np.array_equal(got["sum"], 2 * np.arange(5) + 1)
    assert np.array_equal(got["broadcast"], [1, 1, 1])


def test_all_processes_stop_together(mpiexec, tmp_path):
    assert run(mpiexec, "stop", tmp_path)["step"] == 2


@pytest.mark.parametrize("processes", [2, 4])
def test_a_resumed_run_goes_on_with_every_processs_random_numbers(mpiexec, tmp_path, processes):
    run(mpiexec, "resume", tmp_path, processes)


def test_more_processes_than_a_checkpoint_had_draw_numbers_of_their_own():
    ck.manual_seed(3)
    streams = [ck.random.get_state()]
    ck.random.jump(1)
    streams.append(ck.random.get_state())
    drawn = set()
    for rank in range(5):
        ck.manual_seed(0)
        go_on_with(streams, rank)
        drawn.add(ck.random.generator().random())
    assert len(drawn) == 5


@pytest.mark.parametrize("case, text", [
    ("error", "ValueError: this process is broken"), ("killed", ""),
    ("lost", "rank 0 of 2 waited 2 s for the others")])
def test_a_lost_process_is_an_error_and_no_hang(mpiexec, tmp_path, case, text):
    begun = time.monotonic()
    done = start([*mpiexec(2), SCRIPT, case, tmp_path])
    assert done.returncode != 0
    assert text in done.stderr
    assert time.monotonic() - begun < 30


def test_the_command_line(mpiexec, tmp_path):
    done = start([*mpiexec(2), "-m", "convkit", "train", "--data", "digits", "--epochs", "1",
                  "--model", "lenet5", "--batch-size", "64", "--validation", "0.1",
                  "--checkpoints", "run", "--output", "net.ckit", "--log", "log.jsonl"],
                 cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("saved   net.ckit") == done.stdout.count("epoch 1/1") == 1
    assert ck.load(tmp_path / "net.ckit") and (tmp_path / "run" / "last.safetensors").exists()
    broken = start([*mpiexec(2), "-m", "convkit", "train", "--data", "nowhere"], cwd=tmp_path)
    assert broken.returncode != 0 and "error" in broken.stderr
    alone = start([*mpiexec(2), "-m", "convkit", "train", "--data", "digits", "--sampler",
                   "balanced"], cwd=tmp_path)
    assert alone.returncode != 0 and "--sampler balanced is for one process" in alone.stderr


# -- what needs no MPI ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_batches_are_summed_as_processes_are(count):
    """Accumulation adds in the order of `tree_sum`, whole or cut into runs of 1, 2, 4."""
    rng = np.random.default_rng(count)
    values = [rng.standard_normal(50).astype(np.float32) for _ in range(count)]
    p = ck.nn.Parameter(np.zeros(50, np.float32))
    update = Update(ck.optim.SGD([p], 0.1), accumulate=count)
    for value in values:
        update.add((p * ck.Tensor(value)).sum(), 1)
    update.average()
    got = p.grad.data * np.float32(count) if count > 1 else p.grad.data
    expected = tree_sum([v.copy() for v in values])
    scaled = expected * np.float32(1 / count) if count > 1 else expected
    assert np.array_equal(p.grad.data, scaled)
    np.testing.assert_allclose(got, np.sum(values, 0), rtol=1e-4, atol=1e-5)
    for run_length in (1, 2, 4):
        if count % run_length == 0:
            parts = [tree_sum([v.copy() for v in values[i:i + run_length]])
                     for i in range(0, count, run_length)]
            assert np.array_equal(tree_sum(parts), expected)


@pytest.mark.parametrize("samples, ranks, batch, accumulate", [
    (48, 2, 4, 1), (48, 2, 4, 3), (50, 2, 4, 2), (51, 4, 3, 1), (3, 4, 1, 1)])
def test_samplers_share_out_an_epoch(samples, ranks, batch, accumulate):
    shares = [distributed.DistributedSampler(range(samples), ranks, r, batch_size=batch,
                                             accumulate=accumulate) for r in range(ranks)]
    drawn = [s.draw(np.random.default_rng(3)) for s in shares]
    assert [len(d) for d in drawn] == [len(s) for s in shares] == [-(-samples // ranks)] * ranks
    assert set(np.concatenate(drawn)) == set(range(samples))
    order = np.random.default_rng(3).permutation(samples)
    step = ranks * batch * accumulate
    for start_ in range(0, samples // step * step, step):
        whole = [d[start_ // ranks:][:batch * accumulate] for d in drawn]
        assert np.array_equal(np.concatenate(whole), order[start_:start_ + step])


def test_samplers_turns_are_pytorchs(torch):
    from torch.utils.data.distributed import DistributedSampler

    for count, drop in ((10, False), (11, False), (11, True)):
        for rank in range(3):
            own = distributed.DistributedSampler(range(count), 3, rank, shuffle=False,
                                                 drop_last=drop)
            other = DistributedSampler(range(count), 3, rank, shuffle=False, drop_last=drop)
            assert list(own.draw(np.random.default_rng())) == list(other)


def test_bad_arguments():
    with pytest.raises(ValueError, match="a rank from 0 to 1, got 2"):
        distributed.DistributedSampler(range(4), 2, 2)
    with pytest.raises(ValueError, match="at least one sample for each of 5"):
        distributed.DistributedSampler(range(4), 5, 0, drop_last=True)
    with pytest.raises(RuntimeError, match="init_process_group"):
        distributed.DistributedDataParallel(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="backend 'mpi', got 'nccl'"):
        distributed.init_process_group("nccl")
    assert distributed.get_rank() == 0 and distributed.get_world_size() == 1
    assert not distributed.is_launched()


def test_sync_norm_alone_is_batch_norm():
    plain, sync = net(), nn.SyncBatchNorm.convert_sync_batchnorm(net())
    assert isinstance(sync[1], nn.SyncBatchNorm) and sync.state_dict().keys() == \
        plain.state_dict().keys()
    x = ck.Tensor(samples(6).arrays[0])
    assert np.array_equal(plain(x).data, sync(x).data)
    assert np.array_equal(plain.eval()(x).data, sync.eval()(x).data)


def test_post_accumulate_hooks_come_once_when_a_gradient_is_final(torch):
    w = ck.nn.Parameter(np.ones(2, np.float32))
    v = torch.ones(2, requires_grad=True)
    seen, other = [], []
    remove = w.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.data.copy()))
    v.register_post_accumulate_grad_hook(lambda p: other.append(p.grad.clone()))
    ((w * 2).sum() + (w * w).sum()).backward()
    ((v * 2).sum() + (v * v).sum()).backward()
    assert len(seen) == len(other) == 1 and np.array_equal(seen[0], other[0].numpy())
    ck.checkpoint(lambda t: t * w + t * w, ck.ones(2)).sum().backward()
    assert len(seen) == 2 and np.array_equal(seen[1], [6, 6])
    remove()
    (w * 2).sum().backward()
    assert len(seen) == 2
    with pytest.raises(RuntimeError, match="leaf tensor"):
        (w * 2).register_post_accumulate_grad_hook(print)


def test_gradients_come_while_backward_goes_on():
    """The last layers' gradients are announced before the first layers' exist."""
    layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    seen = []
    layers[1].weight.register_post_accumulate_grad_hook(
        lambda p: seen.append(layers[0].weight.grad is None))
    layers(ck.ones(2, 3)).sum().backward()
    assert seen == [True]


def test_tallies_are_joined():
    parts = []
    for share in (slice(0, 3), slice(3, 10)):
        tally = Tally()
        scores = np.eye(4, dtype=np.float32)[np.arange(10) % 4][share]
        tally.add(0.5 * len(scores), scores, (np.arange(10) % 3)[share])
        parts.append(tally.state_dict())
    result = Tally.joined(parts).result()
    assert result.samples == 10 and result.loss == pytest.approx((3 * 1.5 + 7 * 3.5) / 10)
