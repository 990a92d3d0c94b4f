"""The image data sets: found on disk or downloaded, checked, and handed over as arrays. Knows nothing of models or of PyTorch.

Files are looked for in the folder that the environment variable `NCBOOK_DATA` names, then in the per-user cache; what is in neither is
downloaded into the cache. Every file's *content* is compared with a known MD5, so that it does not matter who compressed it.
"""

import functools
import gzip
import hashlib
import io
import lzma
import os
import pickle
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ncbook.spec import IMAGES

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SUBSET_SEED = 74_011

_UNSOUND = (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)
"""What reading a damaged file raises; `ValueError` where this module itself finds a fault."""

T = TypeVar("T")


class ImageSet(NamedTuple):
    """A data set of images. The arrays are shared by all who load it, hence read-only."""

    train_images: np.ndarray
    """[N, channels, height, width] uint8."""
    train_labels: np.ndarray
    """[N] int64."""
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str
    """Where the images come from, for the provenance of a run."""


class DataError(RuntimeError):
    """A data set that cannot be had; the message names the file, the reason and the way out."""


class _IdxSet(NamedTuple):
    folder: str
    url: str
    md5: dict[str, str]
    """Uncompressed file -> MD5: training images and labels, test images and labels."""


_IDX_SETS = {
    "mnist": _IdxSet(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion_mnist": _IdxSet(
        "fashion-mnist",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}

_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR10_BINARY_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_CIFAR10_PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_CIFAR10_OFFICIAL = {
    "cifar-10-batches-bin": _CIFAR10_BINARY_MD5,
    _CIFAR10_ARCHIVE: _CIFAR10_BINARY_MD5,
    "cifar-10-batches-py": _CIFAR10_PYTHON_MD5,
    "cifar-10-python.tar.gz": _CIFAR10_PYTHON_MD5,
}
_CIFAR10_JPEG = ("cifar10-jpeg", "cifar10-jpeg.tar.xz")
_CIFAR10_PER_CLASS = {"train": 5_000, "test": 1_000}
_CIFAR10_JPEG_Q75 = "49b27def32dbc2508a58bd1b8de4ca50e9b5461a6f0e91ea25b163598ad7f7eb"
"""SHA-256 of the archive that is known to hold all images at JPEG quality 75."""


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("ncbook")) / "data"


def _own_folder() -> Path | None:
    if not (name := os.environ.get("NCBOOK_DATA")):
        return None
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise DataError(f"NCBOOK_DATA names {folder}, which is no folder: correct it or unset it.")
    return folder


def _find(*names: str) -> Path | None:
    """The first of `names` in the user's folder, else the first in the cache."""
    folders = [folder for folder in (_own_folder(), _cache()) if folder]
    return next((folder / name for folder in folders for name in names if (folder / name).exists()), None)


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    """What `reader` gives for `path`. Raises `DataError` that names `path` if it is damaged."""
    try:
        return reader(path)
    except _UNSOUND as error:
        way_out = "replace it by a sound copy, or delete it, and it is fetched anew"
        raise DataError(f"{path} is refused, {str(error) or type(error).__name__}: {way_out}.") from error


def _download(url: str, place: Path, reader: Callable[[Path], T], needed: tuple[str, ...]) -> T:
    """What `reader` gives for the file at `url`, which is then at `place`, whole and sound, or not at all.

    Raises `DataError` if it cannot be had; `needed` are all the files that the data set consists of.
    """
    import pooch

    def checked(url: str, temporary: str, client: pooch.Pooch) -> None:
        pooch.HTTPDownloader(progressbar=sys.stderr.isatty())(url, temporary, client)
        reader(Path(temporary))

    client = pooch.create(place.parent, base_url="", registry={place.name: None}, urls={place.name: url}, retry_if_failed=1)
    try:
        client.fetch(place.name, downloader=checked)
    except _UNSOUND as error:
        reason = type(error).__name__ if isinstance(error, OSError) else error
        folder = (_own_folder() or _cache()) / place.parent.relative_to(_cache())
        raise DataError(
            f"{place.name} is not on this machine and cannot be fetched from {url} ({reason}): fetch {', '.join(needed)} elsewhere and "
            f"put what is missing into {folder} (NCBOOK_DATA names the folder to look in first), or use `digits`, which needs no file."
        ) from error
    return _read(place, reader)


def _check(content: bytes, md5: str) -> None:
    if (found := hashlib.md5(content).hexdigest()) != md5:
        raise ValueError(f"its content is truncated or altered (MD5 {found} instead of {md5})")


def _idx_content(path: Path, md5: str) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    _check(content, md5)
    return content


def _load_idx(name: str) -> ImageSet:
    folder, url, checksums = _IDX_SETS[name]
    needed = tuple(f"{file}.gz" for file in checksums)
    contents = []
    for file, md5 in checksums.items():
        reader = functools.partial(_idx_content, md5=md5)
        if place := _find(f"{folder}/{file}", f"{folder}/{file}.gz"):
            contents.append(_read(place, reader))
        else:
            contents.append(_download(f"{url}{file}.gz", _cache() / folder / f"{file}.gz", reader, needed))
    images = [np.frombuffer(content, np.uint8, offset=16).reshape(-1, 1, 28, 28) for content in contents[::2]]
    labels = [np.frombuffer(content, np.uint8, offset=8).astype(np.int64) for content in contents[1::2]]
    return ImageSet(images[0], labels[0], images[1], labels[1], name)


def _files(place: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The path and the content of every file in a folder or in a tar archive."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file():
                yield PurePosixPath(path.relative_to(place).as_posix()), path.read_bytes()
    else:
        with tarfile.open(place) as archive:
            for member in archive:
                if member.isfile():
                    yield PurePosixPath(member.name), archive.extractfile(member).read()


class _ArraysOnly(pickle.Unpickler):
    """Reads plain values and NumPy arrays as Python 2 wrote them; a pickle can call nothing else."""

    _known = {
        ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__new__,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise ValueError(f"it asks for {module}.{name}, which no batch of images needs")
        return self._known[module, name]


def _batch(file: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one file of the official CIFAR-10, binary or Python version."""
    if file in _CIFAR10_BINARY_MD5:
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        pixels, labels = records[:, 1:], records[:, 0]
    else:
        values = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = values[b"data"], values[b"labels"]
    return pixels.reshape(-1, 3, 32, 32), np.asarray(labels, dtype=np.int64)


def _official_cifar10(place: Path, checksums: dict[str, str]) -> ImageSet:
    """Raises `ValueError` if one of the six files in `checksums` is missing or altered."""
    batches = {}
    for path, content in _files(place):
        if md5 := checksums.get(path.name):
            try:
                _check(content, md5)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            batches[path.name] = _batch(path.name, content)
    if missing := [file for file in checksums if file not in batches]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    *train, test = (batches[file] for file in checksums)
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return ImageSet(images, labels, *test, "cifar10")


def _decode(place: Path) -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels from `train/<class>/NNNN.jpg` and `test/<class>/NNNN.jpg`, sorted by path."""
    from PIL import Image

    images = {}
    for path, content in _files(place):
        split, label, file = ("", "", *path.parts)[-3:]
        if split not in _CIFAR10_PER_CLASS or label not in CIFAR10_CLASSES or path.suffix != ".jpg":
            continue
        try:
            pixels = np.asarray(Image.open(io.BytesIO(content), formats=["JPEG"]).convert("RGB"))
        except OSError as error:
            raise ValueError(f"{path} is no sound JPEG image") from error
        if pixels.shape != (32, 32, 3):
            raise ValueError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels large instead of 32x32")
        images[split, CIFAR10_CLASSES.index(label), file] = pixels
    counts = Counter((split, label) for split, label, _ in images)
    arrays = []
    for split, expected in _CIFAR10_PER_CLASS.items():
        for number, label in enumerate(CIFAR10_CLASSES):
            if counts[split, number] != expected:
                raise ValueError(f"{split}/{label} holds {counts[split, number]:,} images instead of {expected:,}")
        keys = sorted(key for key in images if key[0] == split)
        pixels = np.stack([images[key] for key in keys]).transpose(0, 3, 1, 2)
        arrays += [np.ascontiguousarray(pixels), np.array([label for _, label, _ in keys], dtype=np.int64)]
    return tuple(arrays)


def _sha256(*contents: Any) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _kept(file: Path) -> tuple[np.ndarray, ...] | None:
    """The arrays in `file`, or None if they are not there as they were written."""
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = tuple(content[name] for name in ImageSet._fields[:4])
            return arrays if content["sha256"].item() == _sha256(*arrays) else None
    except (*_UNSOUND, KeyError, zipfile.BadZipFile):
        return None


def _keep(file: Path, arrays: tuple[np.ndarray, ...]) -> None:
    with suppress(OSError):  # without a place to keep them the images are decoded each time
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            complete = Path(scratch) / file.name
            np.savez(complete, **dict(zip(ImageSet._fields, arrays, strict=False)), sha256=_sha256(*arrays))
            os.replace(complete, file)


def _jpeg_cifar10(place: Path) -> ImageSet:
    """The images in a folder or an archive; their pixels are kept in the cache, since decoding them takes long."""
    if place.is_dir():
        identity = _sha256(*(part for path, content in _files(place) for part in (str(path).encode(), content)))
    else:
        identity = _sha256(place.read_bytes())
    file = _cache() / "decoded" / f"cifar10-{identity}.npz"
    arrays = _kept(file)
    if arrays is None:
        arrays = _decode(place)
        _keep(file, arrays)
    return ImageSet(*arrays, "cifar10 (jpeg q75)" if identity == _CIFAR10_JPEG_Q75 else "cifar10 (images)")


def _load_cifar10() -> ImageSet:
    place = _find(*_CIFAR10_OFFICIAL, *_CIFAR10_JPEG)
    if place and place.name in _CIFAR10_JPEG:
        return _read(place, _jpeg_cifar10)
    reader = functools.partial(_official_cifar10, checksums=_CIFAR10_OFFICIAL[place.name if place else _CIFAR10_ARCHIVE])
    if place:
        return _read(place, reader)
    return _download(_CIFAR10_URL + _CIFAR10_ARCHIVE, _cache() / _CIFAR10_ARCHIVE, reader, (_CIFAR10_ARCHIVE,))


def _load_digits() -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train = stratified_subset(labels, IMAGES["digits"])
    test = np.setdiff1d(np.arange(len(labels)), train)
    return ImageSet(images[train], labels[train], images[test], labels[test], "digits (scikit-learn)")


_LOADERS: dict[str, Callable[[], ImageSet]] = {
    **{name: functools.partial(_load_idx, name) for name in _IDX_SETS},
    "cifar10": _load_cifar10,
    "digits": _load_digits,
}


@functools.lru_cache(maxsize=2)
def load_images(name: str) -> ImageSet:
    """The data set `name`: `mnist` or `fashion_mnist` (60,000 and 10,000 images, 1x28x28), `cifar10` (50,000 and 10,000, 3x32x32) or
    `digits` (scikit-learn's 1,797 images, 1x8x8, scaled to 0-255, of which 1,500 are for training).

    Raises `DataError` if a file is damaged, or is neither on this machine nor to be fetched, and `ValueError` for any other name.
    """
    if name not in _LOADERS:
        raise ValueError(f"{name!r} is no set of images: choose one of {', '.join(_LOADERS)}.")
    images = _LOADERS[name]()
    for array in images[:4]:
        array.flags.writeable = False
    return images


def stratified_subset(labels: np.ndarray, size: int, classes: int = 10) -> np.ndarray:
    """[size] sorted indices of a fixed draw from `labels` with equally many of each class; the first classes have the one more that
    may be left over. A larger subset contains the smaller ones.

    Raises `ValueError` if a class would be empty or has too few points.
    """
    if size < classes:
        raise ValueError(f"a subset of {size} points cannot hold all {classes} classes: choose at least {classes}.")
    generator = np.random.default_rng(SUBSET_SEED)
    chosen = []
    for label in range(classes):
        members = generator.permutation(np.flatnonzero(labels == label))
        share = size // classes + (label < size % classes)
        if share > len(members):
            wanting = f"needs {share:,} of class {label}, which has {len(members):,}"
            raise ValueError(f"a subset of {size:,} points {wanting}: choose a smaller one.")
        chosen.append(members[:share])
    return np.sort(np.concatenate(chosen))
