"""BERT (Devlin et al., 2019), and MiniLM and multilingual E5, which are BERTs."""

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class Bert(Architecture):
    name = "bert"
    attention = "BertSelfAttention"
