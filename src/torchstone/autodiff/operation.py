"""One operation of a computation: its value, and how it pulls a Jacobian back to its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Vector = Float[Tensor, " n"]
Jacobian = Float[Tensor, "k m"]


class Operation(ABC):
    """A differentiable function of one or more vectors.

    It knows nothing of what comes before or after it: that is what makes reverse mode local.
    """

    @abstractmethod
    def value(self, *inputs: Tensor) -> Tensor:
        """The output vector (m,) for input vectors (n_1,), (n_2,), ..."""

    @abstractmethod
    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda D_j f(inputs) for each input j.

        Args:
            jacobian: Lambda (k, m), the derivative of the whole computation's k outputs in this operation's output.
            inputs: What `value` was called with.

        Returns:
            One (k, n_j) for each input.
        """

    def operations(self, *inputs: Tensor) -> int:
        """Multiplications and additions of `value`."""
        return sum(vector.numel() for vector in inputs)

    def pull_operations(self, *inputs: Tensor) -> int:
        """Multiplications and additions of `pull` for one row of Lambda."""
        return self.operations(*inputs)


@dataclass(frozen=True, eq=False)
class Affine(Operation):
    """v -> A v + b, with Lambda A as its pull.

    Args:
        weight: A (m, n).
        bias: b (m,), or None for 0.
    """

    weight: Tensor
    bias: Tensor | None = None

    def value(self, *inputs: Tensor) -> Tensor:
        """A v + b."""
        product = self.weight @ inputs[0]
        return product if self.bias is None else product + self.bias

    def pull(self, jacobian: Jacobian, *_: Tensor) -> tuple[Tensor, ...]:
        """Lambda A."""
        return (jacobian @ self.weight,)

    def pull_weight(self, jacobian: Jacobian, *inputs: Tensor) -> Float[Tensor, "k m n"]:
        """Derivative in the entries of A: Lambda[:, i] v_j, so that column j gives Lambda v_j."""
        return jacobian[:, :, None] * inputs[0]

    def operations(self, *_: Tensor) -> int:
        """2 m n, and m for the bias."""
        return 2 * self.weight.numel() + (0 if self.bias is None else self.bias.numel())

    def pull_operations(self, *_: Tensor) -> int:
        """2 m n."""
        return 2 * self.weight.numel()


@dataclass(frozen=True)
class Elementwise(Operation):
    """The same function of every coordinate; its Jacobian is the diagonal matrix of slopes.

    Args:
        function: phi.
        slope: phi', with a value chosen at kinks.
    """

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]

    def value(self, *inputs: Tensor) -> Tensor:
        """phi(u), coordinate by coordinate."""
        return self.function(inputs[0])

    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda D(u)."""
        return (jacobian * self.slope(inputs[0]),)


class Relu(Operation):
    """max(u, 0). Its derivative at 0 does not exist; 0 is PyTorch's choice and every textbook's."""

    def value(self, *inputs: Tensor) -> Tensor:
        """max(u, 0)."""
        return torch.relu(inputs[0])

    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda D(u): columns of active units are kept, the others are 0 whatever Lambda holds."""
        return (torch.where(inputs[0] > 0, jacobian, 0),)


RELU = Relu()
ABSOLUTE = Elementwise(torch.abs, torch.sign)
TANH = Elementwise(torch.tanh, lambda u: 1 - torch.tanh(u).square())
SIGMOID = Elementwise(torch.sigmoid, lambda u: torch.sigmoid(u) * torch.sigmoid(-u))
SOFTPLUS = Elementwise(torch.nn.functional.softplus, torch.sigmoid)
EXP = Elementwise(torch.exp, torch.exp)
SINE = Elementwise(torch.sin, torch.cos)
SQUARE = Elementwise(torch.square, lambda u: 2 * u)


@dataclass(frozen=True, eq=False)
class SquaredLoss(Operation):
    """v -> |v - y|^2 / 2: it scales Lambda by the residual v - y.

    Args:
        target: y (n,).
    """

    target: Tensor

    def value(self, *inputs: Tensor) -> Tensor:
        """Half the squared distance, shape (1,)."""
        return (inputs[0] - self.target).square().sum(0, keepdim=True) / 2

    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda (v - y)^T."""
        return (jacobian * (inputs[0] - self.target),)

    def operations(self, *inputs: Tensor) -> int:
        """3 n."""
        return 3 * inputs[0].numel()


class LogSumExp(Operation):
    """v -> log sum_i exp(v_i), whose gradient is softmax(v)."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Shape (1,)."""
        return inputs[0].logsumexp(0, keepdim=True)

    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda softmax(v)^T."""
        return (jacobian * inputs[0].softmax(0),)


class Add(Operation):
    """The sum of vectors of one size."""

    def value(self, *inputs: Tensor) -> Tensor:
        """v_1 + v_2 + ..."""
        return torch.stack(inputs).sum(0)

    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda, to each."""
        return tuple(jacobian for _ in inputs)


class Multiply(Operation):
    """The product of two vectors, coordinate by coordinate."""

    def value(self, *inputs: Tensor) -> Tensor:
        """U v."""
        return inputs[0] * inputs[1]

    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda diag(v), Lambda diag(u)."""
        return (jacobian * inputs[1], jacobian * inputs[0])


class Apply(Operation):
    """(A, v) -> A v with the matrix as an input too, given as its rows one after another."""

    def value(self, *inputs: Tensor) -> Tensor:
        """A v."""
        return inputs[0].view(-1, inputs[1].numel()) @ inputs[1]

    def pull(self, jacobian: Jacobian, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Lambda_i v_j in A, Lambda A in v."""
        matrix = inputs[0].view(-1, inputs[1].numel())
        return (jacobian[:, :, None] * inputs[1]).flatten(1), jacobian @ matrix

    def operations(self, *inputs: Tensor) -> int:
        """2 m n."""
        return 2 * inputs[0].numel()

    def pull_operations(self, *inputs: Tensor) -> int:
        """3 m n: one for A, two for v."""
        return 3 * inputs[0].numel()
