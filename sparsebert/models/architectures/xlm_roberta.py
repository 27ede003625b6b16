"""XLM-RoBERTa (Conneau et al., 2020): a RoBERTa of many languages."""

from sparsebert.models.architectures.roberta import Roberta
from sparsebert.registry import register


@register
class XlmRoberta(Roberta):
    name = "xlm-roberta"
    attention = "XLMRobertaSelfAttention"
