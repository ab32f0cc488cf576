import pytest
import torch

from torchstone.data.split import DataSplit
from torchstone.errors import DataError

X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])


def test_its_parts_are_pairs():
    data = DataSplit(X, Y, X[:2], Y[:2], ("a", "b"))
    assert data.train == (X, Y)
    assert len(data.test[0]) == len(data.test[1]) == 2
    assert data.classes == 2
    assert data.flipped.tolist() == []


def test_regression_has_no_classes_and_float_targets():
    assert DataSplit(X, Y.double(), X, Y.double()).classes == 0


def test_the_fingerprint_knows_every_bit_and_every_field():
    base = DataSplit(X, Y, X, Y, ("a", "b"))
    assert base.sha256() == DataSplit(X.clone(), Y.clone(), X, Y, ("a", "b")).sha256()
    negative_zero = X.clone()
    negative_zero[3, 1] = -0.0
    others = [
        DataSplit(negative_zero, Y, X, Y),
        DataSplit(X, Y, negative_zero, Y),
        DataSplit(X, 1 - Y, X, Y),
        DataSplit(X, Y, X, 1 - Y),
        DataSplit(X, Y, X, Y, flipped=torch.tensor([1])),
        DataSplit(X.double(), Y, X.double(), Y),
        DataSplit(X.reshape(4, 2, 1), Y, X.reshape(4, 2, 1), Y),
    ]
    assert len({base.sha256(), *(other.sha256() for other in others)}) == len(others) + 1


def test_the_fingerprint_reads_transposed_tensors_by_value():
    turned = torch.arange(8.0).reshape(2, 4).T
    assert DataSplit(turned, Y, X, Y).sha256() == DataSplit(turned.contiguous(), Y, X, Y).sha256()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((X, Y[:3], X, Y), "train_x and train_y must hold the same number"),
        ((X, Y, X, torch.tensor(1)), "test_x and test_y must hold the same number"),
        ((X[:0], Y[:0], X, Y), "at least one"),
        ((X, Y + 1, X, Y), "train_y must hold class indices from 0 to 1"),
        ((X, Y, X, Y - 1), "test_y must hold class indices"),
        ((X, Y.float(), X, Y), "as int64"),
        ((X, Y, X[:, :1], Y), "must have one shape"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(parts, message):
    with pytest.raises(DataError, match=message):
        DataSplit(*parts, names=("a", "b"))
