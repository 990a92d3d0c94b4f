"""Images are found, checked by content and handed over whole; whatever is damaged or missing is named."""

import gzip
import hashlib
import io
import re
import shutil
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pooch
import pytest
import requests
from PIL import Image

from ncbook import images
from ncbook.images import CIFAR10_CLASSES, DataError, load_images, stratified_subset

GOLDEN_SUBSET = [0, 3, 5, 12, 14, 15, 26, 27]
GOLDEN_DIGITS = [2, 7, 9, 0, 5, 6, 0, 1, 7, 1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no folder of the user's, and no network."""

    def unreachable(*_):
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.delenv("NCBOOK_DATA", raising=False)
    monkeypatch.setattr(images, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", unreachable)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    load_images.cache_clear()
    yield tmp_path / "cache"
    load_images.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that NCBOOK_DATA names."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("NCBOOK_DATA", str(folder))
    return folder


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def mnist(monkeypatch):
    """File -> content of an MNIST of three training and two test images, whose checksums pass for the known ones."""
    contents, pixels = {}, np.random.default_rng(1).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for split, rows, labels in (("train", slice(0, 3), [5, 0, 4]), ("t10k", slice(3, 5), [7, 2])):
        contents[f"{split}-images-idx3-ubyte"] = struct.pack(">4i", 0x803, len(labels), 28, 28) + pixels[rows].tobytes()
        contents[f"{split}-labels-idx1-ubyte"] = struct.pack(">2i", 0x801, len(labels)) + bytes(labels)
    for name, known in images._IDX_SETS.items():
        monkeypatch.setitem(images._IDX_SETS, name, known._replace(md5={file: md5(content) for file, content in contents.items()}))
    return contents


def assert_is(loaded, contents, source):
    assert loaded.source == source
    assert loaded.train_images.shape == (3, 1, 28, 28) and loaded.train_images.dtype == np.uint8
    assert loaded.train_labels.tolist() == [5, 0, 4] and loaded.test_labels.tolist() == [7, 2]
    assert loaded.train_labels.dtype == loaded.test_labels.dtype == np.int64
    assert loaded.train_images.tobytes() == contents["train-images-idx3-ubyte"][16:]
    assert loaded.test_images.tobytes() == contents["t10k-images-idx3-ubyte"][16:]


def lay_out(folder, contents, compressed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (folder / f"{file}.gz" if compressed else folder / file).write_bytes(gzip.compress(content, 1) if compressed else content)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name, place", [("mnist", "mnist"), ("fashion_mnist", "fashion-mnist")])
def test_idx_files_are_read_compressed_or_not(folder, mnist, name, place, compressed):
    lay_out(folder / place, mnist, compressed)
    assert_is(load_images(name), mnist, name)


def test_what_all_share_cannot_be_written_to(folder, mnist):
    lay_out(folder / "mnist", mnist)
    assert load_images("mnist") is load_images("mnist")
    with pytest.raises(ValueError, match="read-only"):
        load_images("mnist").train_labels[0] = 1


@pytest.mark.parametrize("damage", ["truncated", "altered"])
@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_idx_file_is_refused_by_name(folder, mnist, damage, compressed):
    lay_out(folder / "mnist", mnist, compressed)
    (path,) = (folder / "mnist").glob("t10k-images*")
    content = path.read_bytes()
    path.write_bytes(content[:-40] if damage == "truncated" else content[:400] + bytes([content[400] ^ 1]) + content[401:])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} is refused, .*replace it by a sound copy"):
        load_images("mnist")


def test_no_file_and_no_network_says_what_to_fetch_and_where_to_put_it(cache, mnist, folder, monkeypatch):
    with pytest.raises(DataError) as refused:
        load_images("mnist")
    for word in (*(f"{file}.gz" for file in mnist), str(folder / "mnist"), "NCBOOK_DATA", "ConnectionError", "digits"):
        assert word in str(refused.value)
    monkeypatch.delenv("NCBOOK_DATA")
    with pytest.raises(DataError, match=re.escape(str(cache / "fashion-mnist"))):
        load_images("fashion_mnist")
    with pytest.raises(DataError, match=r"fetch cifar-10-binary\.tar\.gz elsewhere and put"):
        load_images("cifar10")


def serve(monkeypatch, contents, left=99):
    """A network that serves `contents`, breaking off within a file after `left` whole ones. Gives the list of what was asked for."""
    asked = []

    def download(self, url, temporary, client):
        asked.append(url)
        content = contents[url.rpartition("/")[2]]
        with open(temporary, "wb") as file:
            file.write(content[: None if len(asked) <= left else len(content) // 2])
        if len(asked) > left:
            raise requests.exceptions.ChunkedEncodingError("broken off")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    return asked


def test_download_goes_on_where_it_was_interrupted_and_leaves_no_half_file(cache, mnist, monkeypatch):
    served = {f"{file}.gz": gzip.compress(content) for file, content in mnist.items()}
    serve(monkeypatch, served, left=2)
    with pytest.raises(DataError, match="ChunkedEncodingError"):
        load_images("mnist")
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"}
    asked = serve(monkeypatch, served)
    assert_is(load_images("mnist"), mnist, "mnist")
    assert [url.rpartition("/")[2] for url in asked] == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    load_images.cache_clear()
    assert_is(load_images("mnist"), mnist, "mnist")
    assert len(asked) == 2


def test_download_of_other_content_is_refused(cache, mnist, monkeypatch):
    serve(monkeypatch, {f"{file}.gz": gzip.compress(content + b"x") for file, content in mnist.items()})
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz .*https://\S+ \(its content is truncated or altered"):
        load_images("mnist")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_ncbook_data_must_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NCBOOK_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="NCBOOK_DATA names .*nowhere, which is no folder"):
        load_images("cifar10")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'emnist' is no set of images: choose one of mnist, fashion_mnist, cifar10, digits"):
        load_images("emnist")


def python_2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and its NumPy wrote it (protocol 2, byte strings)."""
    rows = struct.pack("<H", len(pixels))
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01M" + rows + b"M\x00\x0c\x86" + dtype + b"\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x06labels" + numbers + b"U\x04data" + array + state + b"u."


@pytest.fixture
def official(monkeypatch):
    """Folder -> file -> content of a CIFAR-10 of two images a batch in both official versions, and its pixels and labels."""
    pixels = np.random.default_rng(2).integers(0, 256, (6, 2, 3072), dtype=np.uint8)
    labels = np.arange(12).reshape(6, 2) % 10
    version = {"cifar-10-batches-bin": {}, "cifar-10-batches-py": {}}
    for file, rows, numbers in zip(images._CIFAR10_PYTHON_MD5, pixels, labels.tolist(), strict=True):
        version["cifar-10-batches-bin"][f"{file}.bin"] = b"".join(bytes([n]) + row.tobytes() for n, row in zip(numbers, rows, strict=True))
        version["cifar-10-batches-py"][file] = python_2_pickle(rows, numbers)
    for known, files in zip((images._CIFAR10_BINARY_MD5, images._CIFAR10_PYTHON_MD5), version.values(), strict=True):
        for file, content in files.items():
            monkeypatch.setitem(known, file, md5(content))
    return version, pixels.reshape(12, 3, 32, 32), labels.ravel()


def pack(archive, files, mode="w:gz"):
    with tarfile.open(archive, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "version, archive", [("cifar-10-batches-bin", "cifar-10-binary.tar.gz"), ("cifar-10-batches-py", "cifar-10-python.tar.gz")]
)
@pytest.mark.parametrize("packed", [True, False])
def test_official_cifar10_in_both_versions(folder, official, version, archive, packed):
    versions, pixels, labels = official
    files = {f"{version}/{file}": content for file, content in versions[version].items()}
    pack(folder / archive, files | {f"{version}/readme.html": b"<p>"})
    if not packed:
        shutil.unpack_archive(folder / archive, folder, filter="data")
        (folder / archive).unlink()
    loaded = load_images("cifar10")
    assert loaded.source == "cifar10"
    assert np.array_equal(loaded.train_images, pixels[:10]) and np.array_equal(loaded.test_images, pixels[10:])
    assert np.array_equal(loaded.train_labels, labels[:10]) and np.array_equal(loaded.test_labels, labels[10:])


def test_official_cifar10_is_downloaded_once(cache, official, monkeypatch, tmp_path):
    versions, pixels, _ = official
    pack(tmp_path / "served", versions["cifar-10-batches-bin"])
    asked = serve(monkeypatch, {"cifar-10-binary.tar.gz": (tmp_path / "served").read_bytes()})
    for _ in range(2):
        load_images.cache_clear()
        assert np.array_equal(load_images("cifar10").train_images, pixels[:10])
    assert len(asked) == 1 and [path.name for path in cache.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_damaged_official_cifar10_is_refused_by_name(folder, official):
    files = official[0]["cifar-10-batches-bin"]
    archive = folder / "cifar-10-binary.tar.gz"
    altered = files["data_batch_3.bin"][:-1] + b"\x00\x00"
    for wrong, reason in (
        ({"data_batch_3.bin": altered}, r"data_batch_3\.bin: its content is truncated or altered"),
        ({"test_batch.bin": None}, r"it lacks test_batch\.bin"),
    ):
        pack(archive, {file: content for file, content in (files | wrong).items() if content})
        with pytest.raises(DataError, match=f"^{re.escape(str(archive))} is refused, {reason}"):
            load_images("cifar10")
    pack(archive, files)
    archive.write_bytes(archive.read_bytes()[:-9_000])
    with pytest.raises(DataError, match=f"^{re.escape(str(archive))} is refused, "):
        load_images("cifar10")


def test_a_pickle_runs_no_code(folder, official, monkeypatch, tmp_path):
    """Not even one whose checksum is right."""
    files = official[0]["cifar-10-batches-py"] | {"test_batch": b"cpathlib\nPath\n(S'" + str(tmp_path / "made").encode() + b"'\ntR."}
    monkeypatch.setitem(images._CIFAR10_PYTHON_MD5, "test_batch", md5(files["test_batch"]))
    pack(folder / "cifar-10-python.tar.gz", files)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is refused, it asks for pathlib\.Path"):
        load_images("cifar10")


@pytest.fixture
def jpegs(monkeypatch):
    """Name -> JPEG of two training images and one test image a class: class k is grey of brightness 20 k + 10 with a red corner."""
    monkeypatch.setattr(images, "_CIFAR10_PER_CLASS", {"train": 2, "test": 1})
    files = {}
    for number, label in reversed(list(enumerate(CIFAR10_CLASSES))):
        picture = np.full((32, 32, 3), 20 * number + 10, np.uint8)
        picture[:8, 24:] = 255, 0, 0
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
        for name in ("train/{}/0000.jpg", "train/{}/0001.jpg", "test/{}/0000.jpg"):
            files[name.format(label)] = buffer.getvalue()
    return files


def assert_is_grey(loaded):
    assert loaded.train_labels.tolist() == np.repeat(range(10), 2).tolist() and loaded.test_labels.tolist() == list(range(10))
    assert loaded.train_images.shape == (20, 3, 32, 32) and loaded.train_images.dtype == np.uint8
    for pixels, label in zip(loaded.train_images.astype(int), loaded.train_labels, strict=True):
        assert np.abs(pixels[:, 16:] - (20 * label + 10)).max() <= 3
        assert np.abs(pixels[:, 2:6, 26:30] - np.array([255, 0, 0])[:, None, None]).max() <= 8


@pytest.mark.parametrize("packed", [True, False])
def test_folder_or_archive_of_jpegs_is_decoded_once_and_marked(cache, folder, jpegs, monkeypatch, packed):
    archive = folder / "cifar10-jpeg.tar.xz"
    pack(archive, jpegs, "w:xz")
    if not packed:
        shutil.unpack_archive(archive, folder / "cifar10-jpeg", filter="data")
        archive.unlink()
    first = load_images("cifar10")
    assert_is_grey(first)
    assert first.source == "cifar10 (images)"
    (kept,) = cache.glob("decoded/*")
    load_images.cache_clear()
    with monkeypatch.context() as context:
        context.setattr(Image, "open", None)
        assert all(np.array_equal(one, other) for one, other in zip(load_images("cifar10"), first, strict=True))
    np.savez(kept, **dict(zip(first._fields, (255 - first.train_images, *first[1:4]), strict=False)), sha256=np.load(kept)["sha256"])
    load_images.cache_clear()
    assert_is_grey(load_images("cifar10"))
    kept.write_bytes(kept.read_bytes()[:5_000])
    load_images.cache_clear()
    assert_is_grey(load_images("cifar10"))


def test_quality_is_claimed_for_the_known_archive_alone(folder, jpegs, monkeypatch):
    archive = folder / "cifar10-jpeg.tar.xz"
    pack(archive, jpegs, "w:xz")
    monkeypatch.setattr(images, "_CIFAR10_JPEG_Q75", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert load_images("cifar10").source == "cifar10 (jpeg q75)"
    pack(archive, jpegs | {"train/cat/0001.jpg": jpegs["train/dog/0001.jpg"]}, "w:xz")
    load_images.cache_clear()
    assert load_images("cifar10").source == "cifar10 (images)"


def test_originals_come_before_jpegs(folder, official, jpegs):
    pack(folder / "cifar10-jpeg.tar.xz", jpegs, "w:xz")
    pack(folder / "cifar-10-binary.tar.gz", official[0]["cifar-10-batches-bin"])
    assert load_images("cifar10").source == "cifar10"


def test_damaged_jpegs_are_refused_by_name(cache, folder, jpegs):
    archive = folder / "cifar10-jpeg.tar.xz"
    large = io.BytesIO()
    Image.new("RGB", (40, 32)).save(large, "JPEG")
    for wrong, reason in (
        ({"train/cat/0001.jpg": jpegs["train/cat/0001.jpg"][:-300]}, r"train/cat/0001\.jpg is no sound JPEG image"),
        ({"train/cat/0001.jpg": b"nothing"}, r"train/cat/0001\.jpg is no sound JPEG image"),
        ({"test/dog/0000.jpg": large.getvalue()}, r"test/dog/0000\.jpg is 40x32 pixels large instead of 32x32"),
        ({"test/frog/0001.jpg": jpegs["test/frog/0000.jpg"]}, "test/frog holds 2 images instead of 1"),
    ):
        pack(archive, jpegs | wrong, "w:xz")
        with pytest.raises(DataError, match=f"^{re.escape(str(archive))} is refused, {reason}"):
            load_images("cifar10")
    pack(archive, jpegs, "w:xz")
    content = archive.read_bytes()
    for damaged in (content[:-100], content[:200] + bytes([content[200] ^ 1]) + content[201:]):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=f"^{re.escape(str(archive))} is refused, "):
            load_images("cifar10")
    assert not cache.exists()


def test_digits_need_no_file_and_are_split_once_and_for_all():
    digits = load_images("digits")
    assert digits.source == "digits (scikit-learn)"
    assert digits.train_images.shape == (1500, 1, 8, 8) and digits.test_images.shape == (297, 1, 8, 8)
    assert digits.train_images.dtype == np.uint8 and digits.train_images.min() == 0 and digits.train_images.max() == 255
    assert np.bincount(digits.train_labels).tolist() == [150] * 10 and np.bincount(digits.test_labels).min() >= 24
    assert digits.test_labels[:10].tolist() == GOLDEN_DIGITS
    from sklearn.datasets import load_digits

    both = np.concatenate([digits.train_images, digits.test_images]).reshape(-1, 64)
    original = np.round(load_digits().data * 255 / 16)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original.astype(np.uint8)))


def test_subset_is_stratified_sorted_fixed_and_nested():
    labels = np.arange(1_000) % 10
    subset = stratified_subset(labels, 123)
    assert subset[:8].tolist() == GOLDEN_SUBSET
    assert np.array_equal(subset, stratified_subset(labels, 123)) and np.array_equal(subset, np.unique(subset))
    assert np.bincount(labels[subset]).tolist() == [13, 13, 13, 12, 12, 12, 12, 12, 12, 12]
    assert set(subset) < set(stratified_subset(labels, 200))
    assert np.array_equal(stratified_subset(labels, 1_000), np.arange(1_000))
    assert np.bincount(np.array([0, 1, 1, 1])[stratified_subset(np.array([0, 1, 1, 1]), 2, classes=2)]).tolist() == [1, 1]


def test_impossible_subset_says_why():
    labels = np.arange(100) % 10
    for size in (-5, 0, 9):
        with pytest.raises(ValueError, match=f"a subset of {size} points cannot hold all 10 classes"):
            stratified_subset(labels, size)
    with pytest.raises(ValueError, match="101 points needs 11 of class 0, which has 10"):
        stratified_subset(labels, 101)


def test_images_need_no_torch():
    code = "import sys; sys.modules['torch'] = None; from ncbook.images import load_images; load_images('digits')"
    subprocess.run([sys.executable, "-c", code], check=True)
