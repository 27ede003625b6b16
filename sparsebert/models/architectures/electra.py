"""ELECTRA (Clark et al., 2020), whose discriminator is a BERT."""

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class Electra(Architecture):
    name = "electra"
    attention = "ElectraSelfAttention"
