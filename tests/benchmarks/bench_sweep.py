"""Speed of a sweep: stacks, one process per core, against the loop most people write.

Two sweeps can be measured: `exp1`, the 44 networks of Experiment 1 for four seeds, and `mlp`, part two's 784-512x5-10 on 12,000 images of
MNIST with three weight decays for three seeds. One round trains, one after the other on the same machine, (a) the networks of one seed for
an epoch the ordinary way (stock modules, `DataLoader`, PyTorch's default threads) and (b) those of all seeds for an epoch as the sweep
trains them, in float32 or with bfloat16 products. The ratio of a round is seeds * a / b, with (a) in float32; for bfloat16 there is a
second one, to (a) under autocast, so that what precision gains is seen apart from what stacks gain. A run's measurements are left out on
both sides, compilation and start-up too. For `mlp` the matrix products of (b) are timed with nothing around them as well: what is left to be
gained.

    python -m tests.benchmarks.bench_sweep exp1|mlp [--dtype float32|bf16] [--rounds 5] [--save book/bench.json]
"""

import argparse
import dataclasses
import json
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from ncbook import data, models
from ncbook.executor import hardware, plan, worker_environment
from ncbook.experiments import exp1_specs
from ncbook.fn.experiments import BASELINE, fn_weight_decay_specs
from ncbook.kernels import linear
from ncbook.spec import RunSpec
from ncbook.store import Store
from ncbook.sweep import cores
from ncbook.train import StackTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))
import plain  # noqa: E402

EPOCHS = 3000
UNRECORDED = 1001  # epochs done, after which the next one is not measured


def exp1(seeds: list[int]) -> list[RunSpec]:
    return exp1_specs([2, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64], ["resnet1d", "cnn1d"], ["sgd", "adam"], EPOCHS, seeds, 0.2, 0)


def mlp(seeds: list[int]) -> list[RunSpec]:
    runs = fn_weight_decay_specs([1e-5, 1e-4, 1e-3], "mnist", 12_000, EPOCHS - 1, EPOCHS, seeds)  # cross-entropy, as the plain loop
    return [dataclasses.replace(run, model=dataclasses.replace(BASELINE.model, width=512), stop=None) for run in runs]


SWEEPS = {"exp1": (exp1, 4), "mlp": (mlp, 3)}
"""The specs of each sweep for given seeds, and how many seeds are measured."""


def plain_epoch(spec, dtype: str) -> float:
    """Seconds of one epoch of one network, after a few batches to warm up."""
    points = data.load(spec.data)
    loader = DataLoader(TensorDataset(points.x_train, points.y_noisy), batch_size=spec.batch_size, shuffle=True)
    torch.manual_seed(spec.seed)
    network = plain.build(spec.model, points.x_train.shape[1:])
    optimizer, _ = plain.optimizer(spec, network)

    def train(batches):
        for x, y in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                loss = cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()

    train([batch for _, batch in zip(range(3), loader)])
    began = time.perf_counter()
    train(loader)
    return time.perf_counter() - began


_trainers: list[StackTrainer] = []


def build(stacks, dtype: str) -> None:
    """In a worker: its stacks, each with one epoch behind it, so that everything is compiled."""
    torch.set_num_threads(1)
    for stack in stacks:
        trainer = StackTrainer(stack.specs, dtype=dtype)
        trainer.epoch = UNRECORDED
        trainer.run_epoch()
        _trainers.append(trainer)


def stacked_epoch() -> tuple[float, float]:
    """In a worker: seconds of one epoch of all its stacks, and its peak memory in MB."""
    began = time.perf_counter()
    for trainer in _trainers:
        trainer.epoch = UNRECORDED
        trainer.run_epoch()
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def products_epoch() -> float:
    """In a worker: seconds of the matrix products in one epoch of all its stacks of MLPs, forward and backward, and of nothing else."""
    seconds = 0.0
    for trainer in _trainers:
        spec, layers = trainer.specs[0], [m for m in trainer.model.modules() if isinstance(m, models.Linear)]
        kind = torch.bfloat16 if trainer.dtype == "bf16" else torch.float32
        sides = []
        for layer in layers:
            weight = layer.weight.to(kind)
            x, y = (torch.randn(len(weight), spec.batch_size, units).to(kind) for units in (weight.shape[2], weight.shape[1]))
            sides += [(x, weight), (y.mT, x.mT), (y, weight.mT)][: 2 if layer is layers[0] else 3]
        began = time.perf_counter()
        for _ in range(spec.data.subset // spec.batch_size):
            for left, right in sides:
                linear(left, right)
        seconds += time.perf_counter() - began
    return seconds


def shares(stacks, parts):
    """The stacks dealt out longest first, each to the part with the least so far."""
    loads = [[] for _ in range(parts)]
    for stack in stacks:
        min(loads, key=lambda load: sum(s.cost for s in load)).append(stack)
    return loads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", choices=SWEEPS)
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32", help="precision of the stacks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="put the result into this JSON file, in place of any of this processor")
    options = parser.parse_args()

    make, seeds = SWEEPS[options.sweep]
    specs = make(list(range(seeds)))
    singles = [spec for spec in specs if spec.seed == 0]
    processes = cores()
    with tempfile.TemporaryDirectory() as empty:
        loads = shares(plan(specs, Store(own=empty, published=empty), device="cpu", dtype=options.dtype).stacks(), processes)
    context = multiprocessing.get_context("spawn")
    workers = [ProcessPoolExecutor(1, context) for _ in loads]
    with worker_environment():
        for future in [worker.submit(build, load, options.dtype) for worker, load in zip(workers, loads)]:
            future.result()

    rounds = []
    for number in range(1, options.rounds + 1):
        one_by_one = seeds * sum(plain_epoch(spec, "float32") for spec in singles)
        began = time.perf_counter()
        ended = [future.result() for future in [worker.submit(stacked_epoch) for worker in workers]]
        stacked = time.perf_counter() - began
        rounds.append({"plain_seconds": one_by_one, "stacked_seconds": stacked, "ratio": one_by_one / stacked})
        if options.dtype == "bf16":
            rounds[-1]["plain_bf16_seconds"] = seeds * sum(plain_epoch(spec, "bf16") for spec in singles)
        if options.sweep == "mlp":
            rounds[-1]["products_seconds"] = max(future.result() for future in [worker.submit(products_epoch) for worker in workers])
        print(
            f"round {number}: one by one {one_by_one:.1f} s, stacked {stacked:.1f} s per epoch of {len(specs)} networks: "
            f"{one_by_one / stacked:.2f}",
            flush=True,
        )
    for worker in workers:
        worker.shutdown()

    ratios = [r["ratio"] for r in rounds]
    result = {
        "date": date.today().isoformat(),
        "hardware": hardware("cpu"),
        "cores": processes,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "networks": len(specs),
        "seeds": seeds,
        "dtype": options.dtype,
        "plain_threads": torch.get_num_threads(),
        "rounds": [{name: round(value, 3) for name, value in r.items()} for r in rounds],
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "peak_memory_mb": {
            "one_by_one": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "stacked": round(sum(m for _, m in ended)),
        },
    }
    memory = result["peak_memory_mb"]
    print(f"ratio {result['ratio_median']} (median of {len(rounds)}; {result['ratio_min']} to {result['ratio_max']})")
    if options.dtype == "bf16":
        result["ratio_bf16_median"] = round(statistics.median(r["plain_bf16_seconds"] / r["stacked_seconds"] for r in rounds), 2)
        print(f"to the plain loop under autocast {result['ratio_bf16_median']} (median)")
    if options.sweep == "mlp":
        result["limit_median"] = round(statistics.median(r["plain_seconds"] / r["products_seconds"] for r in rounds), 2)
        print(f"with the stacks' matrix products and nothing else the ratio would be {result['limit_median']} (median)")
    print(f"peak memory: one by one {memory['one_by_one']} MB, stacked {memory['stacked']} MB in {processes} processes")
    if options.save:
        result["commit"] = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        saved = json.loads(options.save.read_text(encoding="utf-8")) if options.save.exists() else {}
        name = options.sweep if options.dtype == "float32" else f"{options.sweep}_{options.dtype}"
        others = [other for other in saved.get(name, []) if other["hardware"] != result["hardware"]]
        options.save.write_text(json.dumps(saved | {name: [result, *others]}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
