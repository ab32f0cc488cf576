"""MNIST, Fashion-MNIST and CIFAR-10 from files that are already on this machine; nothing is downloaded or unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchstone.data.idx import read_idx
from torchstone.data.split import DataSplit
from torchstone.errors import DataError

FASHION = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_CIFAR_RECORD = 1 + 3 * 32 * 32


def mnist(folder: str | Path) -> DataSplit:
    """MNIST: 60,000 and 10,000 handwritten digits, (1, 28, 28) in float32.

    Grey levels in [0, 1] less 0.1307, divided by 0.3081 (mean and standard deviation of the training pixels).

    Args:
        folder: Holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each plain or `.gz`; directly or under MNIST/raw, where torchvision puts them.

    Raises:
        DataError: A file is missing or damaged, or holds something else.
    """
    return _idx_split(Path(folder), "MNIST", 0.1307, 0.3081, tuple("0123456789"))


def fashion_mnist(folder: str | Path) -> DataSplit:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes, (1, 28, 28) in float32.

    Grey levels in [0, 1] less 0.2860, divided by 0.3530. Files as for `mnist`, directly or under FashionMNIST/raw.

    Args:
        folder: Where the files are.

    Raises:
        DataError: A file is missing or damaged, or holds something else.

    Source: Xiao, Rasul & Vollgraf 2017.
    """
    return _idx_split(Path(folder), "FashionMNIST", 0.2860, 0.3530, FASHION)


def cifar10(folder: str | Path) -> DataSplit:
    """CIFAR-10: 50,000 and 10,000 small photographs, (3, 32, 32) in float32.

    Levels in [0, 1] less (0.4914, 0.4822, 0.4465), divided by (0.2470, 0.2435, 0.2616), by channel.

    Args:
        folder: Holds data_batch_1.bin to data_batch_5.bin and test_batch.bin, the *binary version*; directly or under
            cifar-10-batches-bin. The Python version is pickled and not read: unpickling runs whatever a file says.

    Raises:
        DataError: A file is missing or damaged.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    folder = Path(folder)
    fix = "Unpack cifar-10-binary.tar.gz (the binary version, not the pickled Python one) there."
    places = (folder, folder / "cifar-10-batches-bin")
    parts = [_cifar_file(_find(places, (f"data_batch_{number}.bin",), fix)) for number in range(1, 6)]
    test_x, test_y = _cifar_file(_find(places, ("test_batch.bin",), fix))
    train_x, train_y = (torch.cat(each) for each in zip(*parts, strict=True))
    return DataSplit(train_x, train_y, test_x, test_y, CIFAR)


def _idx_split(folder: Path, name: str, mean: float, spread: float, names: tuple[str, ...]) -> DataSplit:
    places = (folder, folder / name / "raw")
    fix = f"Put the four IDX files of {name} there."
    halves = []
    for part in ("train", "t10k"):
        images_at, labels_at = (
            _find(places, (stem, f"{stem}.gz"), fix)
            for stem in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        )
        images, labels = read_idx(images_at), read_idx(labels_at)
        if images.ndim != 3 or images.dtype != torch.uint8 or labels.shape != (len(images),):
            raise DataError(
                f"{images_at.name} and {labels_at.name} must hold images (N, height, width) and labels (N,)",
                f"{tuple(images.shape)} {images.dtype} and {tuple(labels.shape)}",
                f"Take both files from one copy of {name}.",
            )
        x = images[:, None].float().div_(255).sub_(mean).div_(spread)
        halves.append((x, labels.long()))
    (train_x, train_y), (test_x, test_y) = halves
    return DataSplit(train_x, train_y, test_x, test_y, names)


def _cifar_file(path: Path) -> tuple[Tensor, Tensor]:
    """Images and labels of one file: records of a label byte and three planes of 32x32."""
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) == 0 or len(content) % _CIFAR_RECORD:
        raise DataError(
            f"{path} must hold records of {_CIFAR_RECORD} bytes",
            f"{len(content)} bytes",
            "Download it again.",
        )
    records = torch.from_numpy(content).reshape(-1, _CIFAR_RECORD)
    mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    spread = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]
    x = records[:, 1:].reshape(-1, 3, 32, 32).float().div_(255).sub_(mean).div_(spread)
    return x, records[:, 0].long()


def _find(places: tuple[Path, ...], names: tuple[str, ...], fix: str) -> Path:
    """The first of the files that exists."""
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    raise DataError(f"{places[0]} must hold {' or '.join(names)}", "no such file there", fix)
