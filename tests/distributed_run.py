"""What the processes of tests/test_distributed.py do: ``distributed_run.py CASE FOLDER``.

The first process writes what a test compares to FOLDER/CASE-SIZE.npz.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import convkit as ck
from convkit import data, distributed, nn, optim, training
from convkit import functional as F

SHARDS = 4  # batches of 6 in each step


def net(norm=True, seed=0):
    ck.manual_seed(seed)
    middle = [nn.BatchNorm2d(8)] if norm else [nn.GroupNorm(2, 8)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), *middle, nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 16, 4))


def samples(count=72):
    rng = np.random.default_rng(5)
    return data.TensorDataset(rng.standard_normal((count, 3, 8, 8), np.float32),
                              rng.integers(0, 4, count))


def state(model):
    return {name: np.array(t.data) for name, t in model.state_dict().items()}


def fit(folder, accumulate, epochs=2, **options):
    """Train with `SHARDS` batches in a step, however many processes there are."""
    model = net(norm=False)
    if distributed.is_initialized():
        ck.manual_seed(100 + distributed.get_rank())
        for p in model.parameters():  # rank 0's weights must come to all
            if distributed.get_rank():
                p.data = p.data + 1
        model = distributed.DistributedDataParallel(model, bucket_cap_mb=0.002)
    dataset = samples()
    sampler = distributed.DistributedSampler(dataset, batch_size=6, accumulate=accumulate)
    loader = data.DataLoader(dataset, 6, sampler=sampler, seed=1)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = training.Trainer(model, optimizer, accumulate=accumulate, clip_norm=1.0,
                               checkpoints=folder, progress=False, ema=0.9, **options)
    trainer.fit(loader, epochs=epochs)
    return trainer


def case_trainer(folder):
    trainer = fit(folder / f"run-{distributed.get_world_size()}",
                  SHARDS // distributed.get_world_size(),
                  callbacks=[training.JSONLinesLog(folder / f"{distributed.get_rank()}.jsonl")])
    everyone = distributed.all_gather_object(state(trainer.model))
    assert all(np.array_equal(a, b) for other in everyone
               for a, b in zip(other.values(), everyone[0].values(), strict=True))
    assert [p.name for p in sorted(folder.glob("*.jsonl"))] == ["0.jsonl"]
    return {**state(trainer.model), "loss": trainer.history[-1]["loss"]}


def case_loop(folder):
    """A loop by hand: each process takes its half of a batch, gradients are means."""
    model = distributed.DistributedDataParallel(net(norm=False), bucket_cap_mb=0.001)
    x, t = samples(16).arrays
    mine = slice(8 * distributed.get_rank(), 8 * distributed.get_rank() + 8)
    F.cross_entropy(model(ck.Tensor(x[mine])), t[mine]).backward()
    got = {name: p.grad.data.copy() for name, p in model.module.named_parameters()}
    with model.no_sync():
        model.zero_grad()
        F.cross_entropy(model(ck.Tensor(x[mine])), t[mine]).backward()
    lone = distributed.all_gather_object(model.module[0].weight.grad.data)
    assert not np.array_equal(lone[0], lone[1])
    return got


def case_unused(folder):
    """Parameters that one process does not use, or none does."""
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x):
            return (self.a if distributed.get_rank() else self.b)(x)

    model = distributed.DistributedDataParallel(Two())
    model(ck.ones(2, 3)).sum().backward()
    inner = model.module
    assert inner.c.weight.grad is None
    return {"a": inner.a.weight.grad.data, "b": inner.b.weight.grad.data}


def case_sync_norm(folder):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    ck.manual_seed(1)
    x, t = samples(10).arrays
    mine = (slice(0, 4), slice(4, 10))[distributed.get_rank()]  # unequal shares
    here = ck.Tensor(x[mine], requires_grad=True)
    y = model(here)
    # The sum over all samples: each process's part of it.
    F.cross_entropy(y, t[mine], reduction="sum").backward()
    grads = distributed.all_gather_object([p.grad.data for p in model.parameters()])
    parts = distributed.all_gather_object((here.grad.data, y.detach().numpy()))
    return {**{f"g{i}": a + b for i, (a, b) in enumerate(zip(*grads, strict=True))},
            "gx": np.concatenate([p[0] for p in parts]),
            "y": np.concatenate([p[1] for p in parts]), **state(model)}


def case_collectives(folder):
    rank = distributed.get_rank()
    t = ck.Tensor(np.arange(5, dtype=np.float64) + rank)
    distributed.all_reduce(t)
    b = ck.Tensor(np.full(3, rank, np.float32))
    distributed.broadcast(b, src=1)
    assert distributed.all_gather_object({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    distributed.barrier()
    return {"sum": t.data, "broadcast": b.data}


def case_stop(folder):
    """One process wants to stop: all do, after the same step."""
    class Stop(training.Callback):
        def on_step(self, trainer):
            if trainer.step == 2 and distributed.get_rank() == 1:
                trainer.stop("enough")

    trainer = fit(folder / "run", 2, epochs=5, callbacks=[Stop()])
    assert trainer.stopped == "enough"
    return {"step": trainer.step}


def case_resume(folder):
    """Stopped and resumed, each process goes on with random numbers of its own."""
    def train(name, epochs, **more):
        model = net(norm=False)
        model = nn.Sequential(*list(model.children())[:-1], nn.Dropout(0.5), model[-1])
        model = distributed.DistributedDataParallel(model)
        ck.manual_seed(7)
        ck.random.jump(distributed.get_rank())
        ck.random.generator().random(distributed.get_rank())  # no stream follows from another
        dataset = samples(24)
        sampler = distributed.DistributedSampler(dataset)
        loader = data.DataLoader(dataset, 6, sampler=sampler, seed=1)
        trainer = training.Trainer(model, optim.SGD(model.parameters(), lr=0.05),
                                   checkpoints=folder / name, progress=False)
        if more.get("resume"):
            ck.manual_seed(99)  # what the checkpoint has is to count
        trainer.fit(loader, epochs=epochs, **more)
        drawn = distributed.all_gather_object(ck.random.generator().random(4))
        assert len({d.tobytes() for d in drawn}) == distributed.get_world_size()
        return {**state(trainer.model), "drawn": np.array(drawn)}

    whole = train("whole", 3)
    train("cut", 1)
    resumed = train("cut", 3, resume=True)
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    return resumed


def case_error(folder):
    """A process raises: mpiexec ends with an error, the other does not hang."""
    if distributed.get_rank() == 1:
        raise ValueError("this process is broken")
    distributed.barrier()


def case_killed(folder):
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def case_lost(folder):
    """A process does something else: the other's time limit passes."""
    if distributed.get_rank() == 1:
        time.sleep(60)
    distributed.barrier()


def main() -> None:
    case, folder = sys.argv[1], Path(sys.argv[2])
    if os.environ.get("PMI_SIZE", os.environ.get("OMPI_COMM_WORLD_SIZE")):
        distributed.init_process_group(timeout=2.0 if case == "lost" else 60.0)
    found = globals()[f"case_{case}"](folder) if distributed.is_initialized() else \
        single(folder)
    if distributed.get_rank() == 0:
        np.savez(folder / f"{case}-{distributed.get_world_size()}.npz", **found)
    distributed.destroy_process_group()


def single(folder):
    trainer = fit(folder / "run-1", SHARDS)
    return {**state(trainer.model), "loss": trainer.history[-1]["loss"]}


if __name__ == "__main__":
    main()
