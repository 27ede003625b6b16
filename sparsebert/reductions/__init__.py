"""Ways to spend less than the encoder does other than by its pattern of attention: tokens that leave.

`reduction` says what every way is; each of the others is one way.
"""

from sparsebert.reductions import adaptive, compressed, lat, ltp  # which register their classes
from sparsebert.reductions.reduction import Reduction, attach_reduction, reduction_name, reduction_text
from sparsebert.registry import REDUCTIONS
