"""DistilBERT (Sanh et al., 2019), which has no token types."""

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class DistilBert(Architecture):
    name = "distilbert"
    attention = "DistilBertSelfAttention"
    dropout_name = "attention_dropout"
