import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from torchstone.data.image_files import cifar10, fashion_mnist, mnist
from torchstone.errors import DataError

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def put_idx(folder: Path, *, zipped: bool = False) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count in (("train", 6), ("t10k", 4)):
        arrays[f"{part}-images-idx3-ubyte"] = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = RNG.integers(0, 10, count, dtype=np.uint8)
    for name, array in arrays.items():
        content = idx(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return arrays


@pytest.mark.parametrize(
    ("load", "below", "mean", "spread"),
    [
        (mnist, "", 0.1307, 0.3081),
        (mnist, "MNIST/raw", 0.1307, 0.3081),
        (fashion_mnist, "FashionMNIST/raw", 0.286, 0.353),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_found_and_standardised(tmp_path, load, below, mean, spread, zipped):
    arrays = put_idx(tmp_path / below, zipped=zipped)
    data = load(tmp_path)
    assert data.train_x.shape == (6, 1, 28, 28)
    assert len(data.names) == 10
    levels = (data.test_x[:, 0].double() * spread + mean) * 255
    assert levels.numpy() == pytest.approx(arrays["t10k-images-idx3-ubyte"], abs=1e-3)
    assert data.train_y.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    assert data.train_y.dtype == torch.int64


def test_a_missing_file_and_the_place_are_named(tmp_path):
    put_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz.*Put the four"
    ):
        mnist(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        fashion_mnist(tmp_path / "nowhere")


def test_images_and_labels_must_belong_together(tmp_path):
    arrays = put_idx(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(idx(arrays[images.name][:5]))
    with pytest.raises(DataError, match=r"must hold images .* one copy of MNIST"):
        mnist(tmp_path)
    images.write_bytes(idx(arrays["train-labels-idx1-ubyte"]))
    with pytest.raises(DataError, match="must hold images"):
        mnist(tmp_path)


def test_labels_past_the_classes_are_refused(tmp_path):
    put_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(6, dtype=np.uint8) + 10))
    with pytest.raises(DataError, match="class indices from 0 to 9"):
        mnist(tmp_path)


def put_cifar(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = RNG.integers(0, 256, (3, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())
        files[name] = records
    return files


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar_records_are_labels_and_planes(tmp_path, below):
    files = put_cifar(tmp_path / below)
    data = cifar10(tmp_path)
    assert data.train_x.shape == (15, 3, 32, 32)
    assert data.names[6] == "frog"
    third = files["data_batch_3.bin"]
    assert data.train_y[6:9].tolist() == third[:, 0].tolist()
    # Byte 1 + 1024 c + 32 i + j is channel c, row i, column j.
    blue = third[1, 1 + 2 * 1024 + 32 * 5 + 7] / 255
    assert float(data.train_x[7, 2, 5, 7]) == pytest.approx((blue - 0.4465) / 0.2616, abs=1e-5)
    assert len(data.test_x) == 3


def test_the_pickled_version_is_not_read(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(DataError, match="binary version, not the pickled Python one"):
        cifar10(tmp_path)


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(3074)])
def test_cifar_files_must_hold_whole_records(tmp_path, content):
    put_cifar(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match="records of 3073 bytes"):
        cifar10(tmp_path)
