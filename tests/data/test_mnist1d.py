import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torchstone.data.mnist1d import mnist1d
from torchstone.errors import SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified
from torchstone.training.fit import fit

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mnist1d.json").read_text())


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.astype("<i4").tobytes()).hexdigest()


@pytest.mark.parametrize(("name", "shuffle_seq"), [("published", False), ("shuffled", True)])
def test_it_is_the_published_data_set(name, shuffle_seq):
    data = mnist1d(shuffle_seq=shuffle_seq, dtype=torch.float64)
    golden = GOLDEN[name]
    for part, x, y in (("", *data.train), ("_test", *data.test)):
        signals = x[:, 0].numpy()
        for row, values in golden["rows"]["x" + part].items():
            assert np.abs(signals[int(row)] - values).max() < 1e-13
        # Every number of every signal, to a millionth; none lies within 1e-12 of where rounding would turn.
        assert digest(np.rint(signals * 1e6)) == golden["micro_sha256"]["x" + part]
        assert digest(y.numpy()) == golden["label_sha256"]["y" + part]
        assert y[:20].tolist() == golden["labels"]["y" + part]


def test_shapes_classes_and_scale():
    data = mnist1d()
    assert data.train_x.shape == (4000, 1, 40)
    assert data.test_x.shape == (1000, 1, 40)
    assert torch.bincount(torch.cat([data.train_y, data.test_y])).tolist() == [500] * 10
    everything = torch.cat([data.train_x, data.test_x]).double()
    assert abs(float(everything.mean())) < 1e-6
    assert abs(float(everything.std(correction=0)) - 1) < 1e-6


def test_the_stream_is_private_and_the_seed_decides():
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002 - the global state is what must not change
    some, same, other = (mnist1d(examples=100, seed=seed, label_noise=0.1) for seed in (7, 7, 8))
    assert before == pickle.dumps(np.random.get_state())  # noqa: NPY002
    assert some.sha256() == same.sha256() != other.sha256()


def test_label_noise_is_recorded():
    clean, noisy = mnist1d(examples=500), mnist1d(examples=500, label_noise=0.15)
    assert torch.equal((clean.train_y != noisy.train_y).nonzero().flatten(), noisy.flipped)
    assert len(noisy.flipped) == 60
    assert torch.equal(clean.train_x, noisy.train_x)


@pytest.mark.parametrize("examples", [0, 5, 101])
def test_classes_must_share_the_examples_equally(examples):
    with pytest.raises(SettingError, match="multiple of 10"):
        mnist1d(examples=examples)


def accuracy(widths: list[int], lr: float, epochs: int) -> float:
    data, generator = mnist1d(), torch.Generator().manual_seed(0)
    model = mlp(widths, generator=generator)

    def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

    fit(model, cross_entropy, *data.train, optimizer=sgd, batch_size=64, epochs=epochs, generator=generator)
    return 1 - mean_over(model, misclassified, *data.test)


def test_linear_and_dense_networks_do_as_well_as_published():
    # Greydanus & Kobak 2024, table 1: logistic regression 32%, multi-layer perceptron 68%.
    assert abs(accuracy([40, 10], 0.005, 20) - 0.32) < 0.04
    assert abs(accuracy([40, 100, 100, 10], 0.05, 30) - 0.68) < 0.05
