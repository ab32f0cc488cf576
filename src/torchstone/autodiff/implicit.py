"""Derivatives of what is only known as the solution of an equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import FunctionMap

Residual = Callable[..., Tensor]
Method = Literal["direct", "gmres"]


def implicit_function(
    residual: Residual,
    z: Tensor,
    *theta: Tensor,
    method: Method = "direct",
    tolerance: float = 1e-10,
    root_tolerance: float = 1e-3,
) -> Tensor:
    r"""The solution z of F(z, theta) = 0 as a differentiable function of theta.

    dz/dtheta = -(dF/dz)^{-1} dF/dtheta; the backward pass solves (dF/dz)^T lambda = g for one lambda and returns
    -lambda^T dF/dtheta. How z was found does not matter and is not differentiated. Differentiable any number of times.

    Cost of a backward pass: "direct" forms dF/dz, n reverse sweeps, and factorises it, O(n^3); "gmres" takes one
    reverse sweep an iteration. Accuracy: an error e in z gives one of O(e) in the gradient.

    Args:
        residual: F(z, *theta), of the shape of z.
        z: A solution, found by any solver; its own graph is not used.
        theta: Tensors that F depends on and that are differentiated.
        method: How the linear system is solved.
        tolerance: Of GMRES, relative to |g|.
        root_tolerance: Largest |F(z)| allowed, relative to 1 + |z|.

    Returns:
        z with the derivative in theta attached.

    Raises:
        SettingError: F does not have the shape of z, or z does not solve the equation.
        NumericalError: dF/dz is singular, or GMRES does not converge.

    >>> a = torch.tensor([2.0], requires_grad=True)
    >>> root = implicit_function(lambda z, a: z * z - a, a.detach().sqrt(), a)
    >>> torch.autograd.grad(root.sum(), a)[0]  # 1 / (2 sqrt(2))
    tensor([0.3536])

    Source: Christianson 1994; Griewank & Walther 2008, chapter 15; Blondel et al. 2022, section 2.
    """
    if method not in ("direct", "gmres"):
        raise SettingError('method must be "direct" or "gmres"', repr(method), "Pick one of them.")
    with torch.no_grad():
        value = residual(z.detach(), *theta)
    if value.shape != z.shape:
        raise SettingError(
            "F(z, theta) must have the shape of z",
            f"{tuple(value.shape)} for {tuple(z.shape)}",
            "Give as many equations as unknowns.",
        )
    error = float(value.norm())
    if not error <= root_tolerance * (1 + float(z.detach().norm())):
        raise SettingError(
            "z must solve F(z, theta) = 0", f"|F| = {error:.3g}", "Iterate longer, or raise root_tolerance."
        )
    return _Implicit.apply(residual, (method, tolerance), z.detach(), *theta)


def fixed_point_function(f: Residual, z: Tensor, *theta: Tensor, **options: Any) -> Tensor:
    """The fixed point z = f(z, theta) as a differentiable function of theta; options as for `implicit_function`."""
    return implicit_function(lambda z, *theta: f(z, *theta) - z, z, *theta, **options)


def argmin_function(objective: Callable[..., Tensor], z: Tensor, *theta: Tensor, **options: Any) -> Tensor:
    """The minimiser of objective(z, theta) as a differentiable function of theta: its gradient in z vanishes.

    Args:
        objective: A scalar, twice differentiable with a regular Hessian at z.
        z: The minimiser.
        theta: What it depends on.
        options: As for `implicit_function`.
    """
    gradient: Any = torch.func.grad(objective)
    return implicit_function(gradient, z, *theta, **options)


class _Implicit(torch.autograd.Function):
    """The identity on z, with the implicit function's derivative in theta."""

    @staticmethod
    def forward(
        ctx: Any, residual: Residual, options: tuple[Method, float], z: Tensor, *theta: Tensor
    ) -> Tensor:
        ctx.residual, ctx.options = residual, options
        output = z.clone()
        ctx.save_for_backward(output, *theta)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        # The saved output carries this very function, so further derivatives flow through z as well.
        z, *theta = ctx.saved_tensors
        (g,) = gradients
        multiplier = _adjoint(ctx.residual, z, tuple(theta), g, *ctx.options)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]

        def of_wanted(*chosen: Tensor) -> Tensor:
            values = list(theta)
            for i, value in zip(wanted, chosen, strict=True):
                values[i] = value
            return ctx.residual(z, *values)

        _, pull, *_ = torch.func.vjp(of_wanted, *(theta[i] for i in wanted))
        parts: list[Tensor | None] = [None] * len(theta)
        for i, part in zip(wanted, pull(-multiplier), strict=True):
            parts[i] = part
        return None, None, None, *parts


def _adjoint(
    residual: Residual, z: Tensor, theta: tuple[Tensor, ...], g: Tensor, method: Method, tolerance: float
) -> Tensor:
    """Lambda with (dF/dz)^T lambda = g, differentiable in z, theta and g."""
    if method == "gmres":
        return _by_gmres(residual, z, theta, g, tolerance)
    jacobian: Any = torch.func.jacrev(residual)(z, *theta)
    matrix = jacobian.reshape(z.numel(), z.numel())
    solution, info = torch.linalg.solve_ex(matrix.T, g.reshape(-1))
    if bool(info) or not bool(solution.isfinite().all()):
        raise _singular("a singular matrix")
    return solution.reshape(z.shape)


def _by_gmres(
    residual: Residual, z: Tensor, theta: tuple[Tensor, ...], g: Tensor, tolerance: float
) -> Tensor:
    from scipy.sparse.linalg import gmres

    def adjoint_residual(lam: Tensor, g: Tensor, z: Tensor, *theta: Tensor) -> Tensor:
        _, pull, *_ = torch.func.vjp(lambda z: residual(z, *theta), z)
        return pull(lam)[0] - g

    with torch.no_grad():
        _, pull, *_ = torch.func.vjp(lambda point: residual(point, *theta), z)
        n, shape = z.numel(), z.shape
        transposed = FunctionMap(
            lambda x: pull(x.reshape(shape))[0].reshape(-1), (n, n), dtype=z.dtype, device=z.device
        )
        right = g.detach().reshape(-1).cpu().numpy()
        found, info = gmres(
            transposed.to_scipy(), right, rtol=tolerance, atol=0.0, restart=min(n, 50), maxiter=200
        )
        lam = torch.from_numpy(found).to(device=z.device, dtype=z.dtype).reshape(shape)
        off = float(adjoint_residual(lam, g, z, *theta).norm() / g.norm()) if bool(g.any()) else 0.0
    if info != 0 and not off <= math.sqrt(tolerance):
        raise _singular(f"a residual of {off:.2g} after GMRES")
    if not torch.is_grad_enabled():
        return lam
    # lambda is itself the solution of an equation, linear in it, which gives the next derivative.
    return implicit_function(
        adjoint_residual, lam, g, z, *theta, method="gmres", tolerance=tolerance, root_tolerance=math.inf
    )


def _singular(got: str) -> NumericalError:
    return NumericalError(
        "The implicit function theorem needs a regular dF/dz at the solution",
        got,
        "The solution is not isolated there, or badly conditioned: regularise the equation.",
    )
