"""Runs on disk: one file a run, named by the run's key, readable without pickle and without any model.

A run is found in two places: `published`, the runs that come with the book, and `own`, the user's. Both hold files `<key>.npz` with the
arrays `spec` and `provenance` (JSON text), `epochs`, `metric.<name>` and `state.<epoch>.<parameter>`, the last rounded to half precision,
which halves a run and moves what is measured on its weights, mostly by less than a percent, by several where class means nearly coincide;
metrics keep all their digits. Files appear whole or not at all, whoever else writes at the same time, and equal runs are equal bytes.
"""

import errno
import io
import json
import os
import re
import uuid
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ncbook.spec import RunSpec

FILE_NAME = re.compile(r"[0-9a-f]{20}\.npz")
PROVENANCE = frozenset("device hardware dtype threads stack_members started seconds versions parameters data scale".split())


class StoreError(RuntimeError):
    """A run that cannot be read or written; the message names the file, the reason and the way out."""


class _NotNow(StoreError):
    """A read that failed for want of memory, of open files or of a right, and not by what the file holds."""


@dataclass(frozen=True, eq=False)
class Run:
    """What training a spec gave."""

    spec: RunSpec
    provenance: dict[str, Any]
    """How it was made: the names in `PROVENANCE`; `seconds` is this run's share of its stack's time."""
    epochs: np.ndarray
    """[R] recorded epochs."""
    metrics: dict[str, np.ndarray]
    """Name -> [R] float64, NaN from where the network diverged."""
    states: dict[int, dict[str, np.ndarray]]
    """Epoch -> parameter or buffer -> its values, for the epochs in `spec.snapshots`."""


class Imported(NamedTuple):
    """What came of an import."""

    new: int
    present: int
    refused: list[str]
    """One sentence for each file that is not a sound run."""


def _own_folder() -> Path:
    if folder := os.environ.get("NCBOOK_RUNS"):
        path = Path(folder).expanduser()
        if path.exists() and not path.is_dir():
            raise StoreError(f"NCBOOK_RUNS={folder} is no folder: name the one that is to hold your runs.")
        return path
    import platformdirs

    return Path(platformdirs.user_cache_dir("ncbook")) / "runs"


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes `path`'s place once it is complete."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else the new name could be on the disk before what it names
        os.replace(temporary, path)
    except OSError as error:
        way_out = "make room or choose another place (NCBOOK_RUNS names the store's)"
        raise StoreError(f"{path} cannot be written ({error.strerror}): {way_out}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _rounded(weights: np.ndarray) -> np.ndarray:
    """Weights in half precision; as they are if one is too large for it, or not finite."""
    with np.errstate(over="ignore"):
        half = weights.astype(np.float16)
    return half if weights.dtype.kind == "f" and np.isfinite(half).all() else weights


def _encode(run: Run) -> dict[str, np.ndarray]:
    arrays = {
        f"state.{epoch}.{name}": _rounded(run.states[epoch][name]) for epoch in sorted(run.states) for name in sorted(run.states[epoch])
    }
    arrays |= {f"metric.{name}": np.asarray(run.metrics[name], dtype=np.float64) for name in sorted(run.metrics)}
    # What every run must have comes last: a damaged list of contents loses its end, and an array of the others would not be missed.
    return arrays | {
        "epochs": np.asarray(run.epochs),
        "provenance": np.array(json.dumps(run.provenance, sort_keys=True)),
        "spec": np.array(json.dumps(run.spec.to_dict(), sort_keys=True)),
    }


def _decode(arrays: dict[str, np.ndarray]) -> Run:
    states: dict[int, dict[str, np.ndarray]] = {}
    for label in arrays:
        if label.startswith("state."):
            _, epoch, name = label.split(".", 2)
            values = arrays[label]
            states.setdefault(int(epoch), {})[name] = values.astype(np.float32) if values.dtype == np.float16 else values
    return Run(
        spec=RunSpec.from_dict(json.loads(arrays["spec"].item())),
        provenance=json.loads(arrays["provenance"].item()),
        epochs=arrays["epochs"],
        metrics={label.removeprefix("metric."): values for label, values in arrays.items() if label.startswith("metric.")},
        states=states,
    )


def _fault(run: Run, key: str) -> str | None:
    """Why `run` is not what a run named `key` promises to be."""
    if run.spec.key != key:
        return f"it holds the run {run.spec.key}"
    if missing := sorted(PROVENANCE - set(run.provenance)):
        return f"its provenance lacks {', '.join(missing)}"
    recorded = run.spec.recorded_epochs
    if tuple(run.epochs) != (recorded[: len(run.epochs)] if run.spec.stop and len(run.epochs) else recorded):
        return "its epochs are not those that its spec records"
    if not run.metrics:
        return "it holds no metrics"
    if odd := sorted(name for name, values in run.metrics.items() if values.shape != run.epochs.shape):
        return f"{', '.join(odd)} should have one value for each of the {len(run.epochs)} epochs"
    if set(run.states) != set(run.spec.snapshots):
        return f"it holds the weights of epochs {sorted(run.states)} instead of {list(run.spec.snapshots)}"
    return None


def _unreadable(error: Exception) -> StoreError:
    """The bare reason why a file could not be read: a damaged one makes zip, zlib, NumPy and JSON raise almost anything."""
    lacking = isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    return (_NotNow if lacking else StoreError)(f"it cannot be read, {type(error).__name__}: {error}".rstrip(".: "))


def _not_now(path: Path, reason: Exception) -> StoreError:
    return StoreError(f"{path} is not to be read now ({reason}): mend that, with more memory for example, and try again.")


def _read(file: IO[bytes], key: str) -> Run:
    """The run in `file`. Raises `StoreError` with the bare reason if it is not whole, sound and named `key`."""
    if not zipfile.is_zipfile(file):
        raise StoreError("it is no npz file, or only the beginning of one")
    file.seek(0)
    try:
        with np.load(file, allow_pickle=False) as content:
            run = _decode({name: content[name] for name in content.files})
        fault = _fault(run, key)
    except Exception as error:
        raise _unreadable(error) from error
    if fault:
        raise StoreError(fault)
    return run


def _read_path(path: Path) -> Run:
    try:
        with open(path, "rb") as file:
            return _read(file, path.stem)
    except (OSError, _NotNow) as error:
        raise _not_now(path, error) from error
    except StoreError as error:
        raise StoreError(f"{path} is not a sound run ({error}): delete it, then train or import that run again.") from error


def _verified(paths: Iterable[Path]) -> Iterator[tuple[Path, str | None]]:
    for path in paths:
        try:
            _read_path(path)
            yield path, None
        except StoreError as error:
            yield path, str(error)


def _unpack(archive: zipfile.ZipFile, name: str) -> bytes:
    """The file `name` of an export, checked. Raises `StoreError` with the bare reason."""
    if not FILE_NAME.fullmatch(name):
        raise StoreError("a run's file is named by its key, 20 hexadecimal digits and .npz")
    try:
        content = archive.read(name)
    except Exception as error:  # as in `_unreadable`
        raise StoreError(f"it cannot be unpacked, {type(error).__name__}: {error}".rstrip(".")) from error
    _read(io.BytesIO(content), name.removesuffix(".npz"))
    return content


class Store:
    """Runs and checkpoints by key.

    `own` is the folder to write to (default: the environment's NCBOOK_RUNS, else a per-user cache folder), `published` the one that comes
    with the book and that only `publish` writes to. Where a run is in both, the published one counts. Raises `StoreError` if
    NCBOOK_RUNS names a file.
    """

    def __init__(self, own: Path | str | None = None, published: Path | str | None = None) -> None:
        self.own = Path(own) if own else _own_folder()
        self.published = Path(published) if published else Path(__file__).resolve().parent.parent / "book" / "runs"

    def path(self, key: str) -> Path | None:
        """The file that holds the run, None if there is none."""
        return next((path for folder in (self.published, self.own) if (path := folder / f"{key}.npz").is_file()), None)

    def __contains__(self, key: str) -> bool:
        return self.path(key) is not None

    def keys(self) -> list[str]:
        """All runs in both places."""
        return sorted({path.stem for path in self._files() if FILE_NAME.fullmatch(path.name)})

    def _files(self) -> list[Path]:
        return [path for folder in (self.published, self.own) for path in sorted(folder.glob("*.npz"))]

    def _existing(self, key: str) -> Path:
        if path := self.path(key):
            return path
        raise StoreError(f"There is no run {key} in {self.own} or {self.published}: train it with `sweep`, or import it.")

    def load(self, key: str) -> Run:
        """The run, checked. Raises `StoreError` if it is missing or unsound."""
        return _read_path(self._existing(key))

    def require_sound(self, keys: Iterable[str]) -> None:
        """Raises `StoreError`, a line for each, where files of the own folder that hold these runs are unsound."""
        paths = [path for key in keys if (path := self.path(key)) and path.parent == self.own]
        if faults := [fault for _, fault in _verified(paths) if fault]:
            raise StoreError("\n".join(faults))

    def save(self, run: Run) -> None:
        """Puts a run in the own folder. Raises `StoreError` if it is unsound or cannot be written."""
        if fault := _fault(run, run.spec.key):
            raise StoreError(f"The run {run.spec.key} is not sound and was not stored: {fault}.")
        with _replacing(self.own / f"{run.spec.key}.npz") as file:
            np.savez_compressed(file, **_encode(run))  # type: ignore[arg-type]

    def require_writable(self) -> None:
        """Raises `StoreError` if nothing can be put in the own folder."""
        with _replacing(self._checkpoint("writable")):
            pass
        self.drop_checkpoints("writable")

    def verify(self) -> Iterator[tuple[Path, str | None]]:
        """Each run's file in both places, and what is wrong with it (None: nothing)."""
        return _verified(self._files())

    def publish(self, keys: Iterable[str]) -> int:
        """Copies runs from the own folder to the published one, checked, and returns how many were new there."""
        paths = [path for key in keys if (path := self._existing(key)).parent != self.published]
        for path in paths:
            _read_path(path)
        for path in paths:
            with _replacing(self.published / path.name) as file:
                file.write(path.read_bytes())
        return len(paths)

    def export_runs(self, file: Path | str, keys: Iterable[str]) -> int:
        """Packs runs, checked, into one file for `import_runs`; returns how many. Raises `StoreError` where it cannot be written."""
        if not (folder := Path(file).parent).is_dir():
            raise StoreError(f"{file} cannot be written: there is no folder {folder}; make it first, or choose another.")
        paths = [self._existing(key) for key in keys]
        for path in paths:
            _read_path(path)
        with _replacing(Path(file)) as target, zipfile.ZipFile(target, "w") as archive:
            for path in paths:
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
        return len(paths)

    def import_runs(self, file: Path | str) -> Imported:
        """Takes the sound runs of an exported file that are not here yet. Raises `StoreError` if it is no such file."""
        new, present, refused = 0, 0, []
        try:
            archive = zipfile.ZipFile(file)
        except (OSError, zipfile.BadZipFile) as error:
            raise StoreError(f"{file} cannot be imported ({error}): give a file that `export` wrote.") from error
        with archive:
            for name in archive.namelist():
                if FILE_NAME.fullmatch(name) and name.removesuffix(".npz") in self:
                    present += 1
                    continue
                try:
                    content = _unpack(archive, name)
                except StoreError as error:
                    refused.append(f"{name} of {file} was refused: {error}.")
                    continue
                with _replacing(self.own / name) as target:
                    target.write(content)
                new += 1
        return Imported(new, present, refused)

    def _checkpoint(self, name: str) -> Path:
        return self.own / "checkpoints" / f"{name}.npz"

    def save_checkpoint(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the state of an unfinished run; its name begins with the run's key. Raises `StoreError` if it cannot be written."""
        with _replacing(self._checkpoint(name)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def load_checkpoint(self, name: str) -> dict[str, np.ndarray] | None:
        """The state of an unfinished run; None if there is none or, with a warning, if it is damaged.

        Raises `StoreError` where it may be sound and cannot be read now: it is not to be replaced by a run that starts anew.
        """
        path = self._checkpoint(name)
        try:
            with np.load(path, allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        except FileNotFoundError:
            return None
        except Exception as error:
            if isinstance(reason := _unreadable(error), _NotNow):
                raise _not_now(path, reason) from error
            warnings.warn(f"{path} is damaged ({type(error).__name__}) and is ignored: that run starts anew.", stacklevel=2)
            return None

    def drop_checkpoints(self, key: str) -> None:
        """Removes all that `save_checkpoint` kept of a run, if anything."""
        for path in self._checkpoint(key).parent.glob(f"{key}*.npz"):
            path.unlink(missing_ok=True)
