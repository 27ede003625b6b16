"""How allowed pairs are computed: one result, several speeds."""

from sparsebert.kernels.choice import KERNELS, prepare

__all__ = ["KERNELS", "prepare"]
