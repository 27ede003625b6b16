"""How allowed pairs are computed: one result, several speeds."""

from sparsebert.kernels.banded import Banded
from sparsebert.kernels.flex import Flex
from sparsebert.kernels.kernel import (
    KERNELS,
    Context,
    Kernel,
    check_kernel,
    kernel_for,
    kernel_names,
    needs_band,
)
from sparsebert.kernels.reference import Reference
from sparsebert.kernels.segmented import Segmented
