"""How allowed pairs are computed: one result, several speeds."""

from sparsebert.kernels.choice import KERNELS, kernel_for

__all__ = ["KERNELS", "kernel_for"]
