"""Train what is missing: stacks planned, dealt out to one process per core, checkpointed and stored as they end.

Work is never lost: each run is stored as it ends, and what is unfinished when it is stopped stays as a checkpoint from which the
same call goes on, on the CPU to the same numbers as if it had never stopped; to the same digits if it trains on in the same company.
"""

import dataclasses
import json
import math
import multiprocessing
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from ncbook import __version__, data
from ncbook.images import load_images
from ncbook.spec import IMAGES, RunSpec
from ncbook.store import Run, Store
from ncbook.sweep import SweepArgumentError, SweepError, SweepStopped, cores, distinct, require_arguments
from ncbook.train import StackTrainer, estimate_seconds, stack_key, stack_size

CHECKPOINT_SECONDS = 60
# These take effect only when a process starts: freed memory is kept for the next step instead of going back to the system.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Setting:
    """How runs are to be made. Checkpoints made in another way are neither continued nor overwritten.

    Hardware and libraries may change on the way: a run's provenance names those that it ended with.
    """

    device: str
    dtype: str
    version: str = __version__

    def checkpoint(self, spec: RunSpec) -> str:
        """The name of a run's checkpoint."""
        return "-".join([spec.key, *vars(self).values()])


@dataclass(frozen=True)
class Stack:
    """Runs to train together, all of them at `epoch` when this was planned."""

    specs: tuple[RunSpec, ...]
    epoch: int

    @property
    def cost(self) -> float:
        """Estimated seconds of what is left."""
        return sum(_cost(spec, self.epoch) for spec in self.specs)


@dataclass(frozen=True)
class Plan:
    """What a sweep finds and what it has to do; printed, the cost said beforehand."""

    found: tuple[Run, ...]
    missing: tuple[RunSpec, ...]
    checkpointed: dict[str, int]
    """Key of a missing run -> epoch it has reached."""
    setting: Setting
    jobs: int
    minutes: float | None
    """Estimated wall time; None on a GPU that has made none of the runs found."""

    def __str__(self) -> str:
        total = len(self.found) + len(self.missing)
        runs = f"{total} {'run' if total == 1 else 'runs'}"
        resumed = f" ({len(self.checkpointed)} from a checkpoint)" if self.checkpointed else ""
        if self.minutes is None:
            duration = "for how long is not known yet"
        elif self.minutes < 1:
            duration = "less than a minute"
        else:
            duration = f"about {self.minutes:.0f} {'minute' if self.minutes < 1.5 else 'minutes'}"
        return (
            f"{runs}: {len(self.found)} found, {len(self.missing)} to train{resumed}, {duration} "
            f"({self.setting.device}, {self.setting.dtype}, {self.jobs} {'process' if self.jobs == 1 else 'processes'})."
        )

    def stacks(self) -> list[Stack]:
        """The missing runs in stacks of even size, enough of them to keep all processes busy, the longest first."""
        groups: dict[Any, list[RunSpec]] = {}
        for spec in self.missing:
            groups.setdefault((stack_key(spec), self.checkpointed.get(spec.key, 0)), []).append(spec)
        parts = {
            key: math.ceil(len(specs) / stack_size(specs[0], self.setting.device, self.setting.dtype)) for key, specs in groups.items()
        }
        divisible = [key for key, specs in groups.items() for _ in range(len(specs) - parts[key])]
        for key in divisible[: max(0, self.jobs - sum(parts.values()))]:
            parts[key] += 1
        stacks = [
            Stack(tuple(specs[i] for i in part), key[1])
            for key, specs in groups.items()
            for part in np.array_split(range(len(specs)), parts[key])
        ]
        return sorted(stacks, key=lambda stack: -stack.cost)


def _cost(spec: RunSpec, epoch: int) -> float:
    return estimate_seconds(spec) * (1 - epoch / spec.epochs)


def _setting(device: str, dtype: str) -> Setting:
    if device == "cuda" and not torch.cuda.is_available():
        raise SweepArgumentError("device='cuda': PyTorch sees no GPU here; use device='cpu' or 'auto'.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    require_arguments(device, dtype)
    return Setting(device, dtype)


def hardware(device: str) -> str:
    """The processor's or the GPU's name; of an x86 processor family and model too, as a cloud calls several generations by one name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    said = dict(re.findall(r"^(.+?)\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)) if cpuinfo.exists() else {}
    if "model name" not in said:
        return platform.processor() or platform.machine()
    made = [f"{name.removeprefix('cpu ')} {said[name]}" for name in ("cpu family", "model") if name in said]
    return f"{said['model name']} ({', '.join(made)})" if made else said["model name"]


def plan(
    specs: Iterable[RunSpec], store: Store | None = None, *, device: str = "auto", dtype: str = "float32", jobs: int | None = None
) -> Plan:
    """What `sweep` with the same arguments would find and train.

    The estimate is scaled by how long the runs found took that were made on this hardware in this way.
    Raises `SweepArgumentError` for bad arguments and `StoreError` for a damaged run.
    """
    require_arguments(device, dtype, jobs)
    specs, setting, store = distinct(specs), _setting(device, dtype), store or Store()
    jobs = jobs or (cores() if setting.device == "cpu" else 1)
    found = tuple(store.load(spec.key) for spec in specs if spec.key in store)
    missing = tuple(spec for spec in specs if spec.key not in store)
    checkpointed = {spec.key: state[0] for spec in missing if (state := _resumable(store, spec, setting))}
    here = (setting.device, setting.dtype, hardware(setting.device))
    alike = [run for run in found if (run.provenance["device"], run.provenance["dtype"], run.provenance["hardware"]) == here]
    todo = Plan(found, missing, checkpointed, setting, jobs, None)
    loads = [0.0] * (min(jobs, len(todo.stacks())) or jobs)
    for stack in todo.stacks():
        loads[int(np.argmin(loads))] += stack.cost
    minutes = max(loads) / 60
    if alike:
        minutes *= float(np.median([run.provenance["seconds"] / estimate_seconds(run.spec) for run in alike]))
    known = alike or setting.device == "cpu"
    return dataclasses.replace(todo, jobs=len(loads), minutes=minutes if known else None)


def _resumable(store: Store, spec: RunSpec, setting: Setting) -> tuple[int, dict[str, Any], dict[str, np.ndarray]] | None:
    """(epoch, what is remembered of its making, the trainer's arrays) of a checkpoint made in this way, if there is one."""
    arrays = store.load_checkpoint(setting.checkpoint(spec)) or store.load_checkpoint(spec.key)  # the latter as it was once named
    if arrays is None or "making" not in arrays:
        return None
    making = json.loads(arrays.pop("making").item())
    if making["setting"] != vars(setting):
        return None
    return making["epoch"], making, arrays


def train(todo: Plan, store: Store, max_minutes: float | None = None) -> None:
    """Trains and stores the plan's missing runs, after printing what that costs. Raises as `sweep.train_missing`."""
    deadline = time.time() + 60 * max_minutes if max_minutes else math.inf
    print(todo, flush=True)
    if not todo.missing:
        return
    store.require_writable()
    for name in {spec.data.name for spec in todo.missing}.intersection(IMAGES):
        load_images(name)  # here once: each process would fetch, or complain, by itself
    failures, stopped = _train_stacks(todo, store, deadline)
    left = [spec for spec in todo.missing if spec.key not in store]
    if failures:
        raise SweepError(" ".join(failures) + f" {len(todo.missing) - len(left)} of {len(todo.missing)} runs to train were stored.")
    if left:
        begun = sum(_resumable(store, spec, todo.setting) is not None for spec in left)
        total = len(todo.found) + len(todo.missing)
        raise SweepStopped(
            f"Stopped {stopped}: {total - len(left)} of {total} runs are done, {begun} are checkpointed, {len(left) - begun} not begun; "
            "the same command goes on from there."
        )


@contextmanager
def worker_environment() -> Iterator[None]:
    """Within, processes start with the allocator's settings, and deaf to Ctrl-C: the parent tells them to stop."""
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _train_stacks(todo: Plan, store: Store, deadline: float) -> tuple[list[str], str]:
    """Trains all stacks in worker processes. Returns the failures, a sentence each, and why the rest stopped, if it did."""
    from tqdm import tqdm

    stacks = todo.stacks()
    context = multiprocessing.get_context("spawn")
    progress, stop = context.Queue(), context.Event()
    reason = "when its time was over"
    total = sum(stack.cost for stack in stacks)
    with (
        ProcessPoolExecutor(min(todo.jobs, len(stacks)), context, _start_worker, (progress, stop)) as pool,
        tqdm(total=total, bar_format="{percentage:3.0f}% |{bar}| {elapsed}, {remaining} left{postfix}", mininterval=1) as bar,
    ):
        with worker_environment():
            futures = {pool.submit(_train_stack, stack, todo.setting, store, deadline): stack for stack in stacks}
        pending: set[Future[int]] = set(futures)
        while pending:
            try:
                pending = wait(pending, timeout=0.2).not_done
                bar.update(min(_drain(progress), total - bar.n))
                done = sum(future.result() for future in set(futures) - pending if not future.exception())
                bar.set_postfix_str(f"{done} of {len(todo.missing)} runs", refresh=False)
            except KeyboardInterrupt:
                reason = "by Ctrl-C"
                stop.set()
                bar.write("Stopping at the end of the epoch …", file=bar.fp)
    failures = [_failure(stack, error) for future, stack in futures.items() if (error := future.exception())]
    return list(dict.fromkeys(failures)), reason


def _drain(progress: Any) -> float:
    """The cost reported as done since the last call."""
    done = 0.0
    while True:
        try:
            done += progress.get_nowait()
        except Empty:
            return done


def _failure(stack: Stack, error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return (
            "A process died, and the others were stopped at the end of their epoch: it may have lacked memory (use fewer jobs), or the "
            "calling script lacks `if __name__ == '__main__':`. The same command goes on."
        )
    model, runs = stack.specs[0].model, ", ".join(spec.key for spec in stack.specs)
    return f"Training {model.name} of width {model.width} ({runs}) failed with {type(error).__name__}: {error}".rstrip(".") + "."


_progress: Any
_stop: Any
_ending = threading.Event()
_training = threading.Lock()


def _start_worker(progress: Any, stop: Any) -> None:
    global _progress, _stop
    _progress, _stop = progress, stop
    _end_with_checkpoints()
    torch.set_num_threads(1)
    for precision in (np.float32, np.float64):
        np.finfo(precision)  # numpy keeps it; asked for the first time after the next line, it would warn that its least number is 0
    torch.set_flush_denormal(True)  # what decays to nothing, such as the weights of dead units, would slow every product


def _end_with_checkpoints() -> None:
    """From now on what is in training is checkpointed before this process ends: told to by a signal, or soon after its parent ended."""

    def outlive_no_parent() -> None:
        multiprocessing.parent_process().join()
        _ending.set()

    def end() -> None:
        _ending.wait()
        with _training:
            os._exit(1)  # the queue for which the main thread waits would keep it for good

    for name in ("SIGTERM", "SIGHUP"):  # the latter exists on POSIX alone, and `nohup` has it ignored
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: _ending.set())
    for watch in (outlive_no_parent, end):
        threading.Thread(target=watch, daemon=True).start()


def _stopping(deadline: float) -> bool:
    return _stop.is_set() or _ending.is_set() or time.time() > deadline


_Begun = tuple[RunSpec, dict[str, Any], dict[str, np.ndarray]]  # a run and what `_resumable` found of it but the epoch, empty if nothing


def _train_stack(stack: Stack, setting: Setting, store: Store, deadline: float) -> int:
    """Trains one stack to its end, or to where it is told to stop; returns how many runs it stored.

    Runs train together that are at the same epoch now: since the plan was made, another sweep may have moved some on.
    """
    groups: dict[int, list[_Begun]] = {}
    for spec in stack.specs:
        epoch, making, arrays = _resumable(store, spec, setting) or (0, {}, {})
        if spec.key not in store:  # asked last: a checkpoint that is gone may mean that another sweep has just stored the run
            groups.setdefault(epoch, []).append((spec, making, arrays))
    _progress.put(stack.cost - sum(_cost(spec, epoch) for epoch, group in groups.items() for spec, *_ in group))
    with _training:
        return sum(_train_together(group, setting, store, deadline) for group in groups.values())


def _train_together(begun: list[_Begun], setting: Setting, store: Store, deadline: float) -> int:
    """As `_train_stack`, for runs that are all at one epoch."""
    if _stopping(deadline):
        return 0
    specs, makings, states = zip(*begun)
    new = {
        "setting": vars(setting),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "members": len(specs),
    }
    members = [_Member(spec, new | making) for spec, making in zip(specs, makings)]
    trainer = StackTrainer(specs, device=setting.device, dtype=setting.dtype)
    if any(makings):
        trainer.restore(states)

    kept = reported = before = time.monotonic()
    unreported, left = 0.0, sum(_cost(spec, trainer.epoch) for spec in specs)
    while members:
        trainer.run_epoch()
        now = time.monotonic()
        for member in members:
            member.making["seconds"] += (now - before) / len(members)
        before = now
        unreported += sum(_cost(member.spec, trainer.epoch - 1) - _cost(member.spec, trainer.epoch) for member in members)
        if any(trainer.ended):
            members, trainer = _store_ended(members, trainer, setting, store)
        if not members:
            unreported = left
        if now - reported > 0.5 or not members:
            _progress.put(unreported)
            left -= unreported
            reported, unreported = now, 0.0
        stopping = _stopping(deadline)
        if members and (stopping or now - kept > CHECKPOINT_SECONDS):
            for member, arrays in zip(members, trainer.checkpoint(), strict=True):
                making = {**member.making, "epoch": trainer.epoch}
                _keep(member.spec, {**arrays, "making": np.array(json.dumps(making))}, trainer.epoch, setting, store)
            kept = now
        if stopping:
            break
    return len(specs) - len(members)


def _keep(spec: RunSpec, arrays: dict[str, np.ndarray], epoch: int, setting: Setting, store: Store) -> None:
    """Saves a checkpoint, unless another sweep, training the same run, has come further."""
    further = _resumable(store, spec, setting)
    if spec.key not in store and not (further and further[0] > epoch):
        store.save_checkpoint(setting.checkpoint(spec), arrays)


@dataclass
class _Member:
    """A run in training and what is to be remembered of its making."""

    spec: RunSpec
    making: dict[str, Any]


def _store_ended(members: list[_Member], trainer: StackTrainer, setting: Setting, store: Store) -> tuple[list[_Member], StackTrainer]:
    """Stores the runs that are over; returns the others, and the trainer of their smaller stack."""
    ended, results, states = trainer.ended, trainer.results(), trainer.checkpoint()
    for member, over, result in zip(members, ended, results, strict=True):
        if over:
            if member.spec.key not in store:  # another sweep may have trained it as well, and its run may be in use by now
                provenance = _provenance(member, setting, result)
                store.save(Run(member.spec, provenance, result["epochs"], result["metrics"], result["states"]))
            store.drop_checkpoints(member.spec.key)
    going_on = [i for i, over in enumerate(ended) if not over]
    members = [members[i] for i in going_on]
    if members:
        trainer = StackTrainer([member.spec for member in members], device=setting.device, dtype=setting.dtype)
        trainer.restore([states[i] for i in going_on])
    return members, trainer


def _provenance(member: _Member, setting: Setting, result: dict[str, Any]) -> dict[str, Any]:
    points = data.load(member.spec.data)
    return {
        "device": setting.device,
        "hardware": hardware(setting.device),
        "dtype": setting.dtype,
        "threads": torch.get_num_threads(),
        "stack_members": member.making["members"],
        "started": member.making["started"],
        "seconds": round(member.making["seconds"], 3),
        "versions": {"ncbook": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "parameters": result["parameters"],
        "data": points.source,
        "scale": f"{result['epochs'][-1]:,} epochs, {len(points.x_train):,} training points",
    }
