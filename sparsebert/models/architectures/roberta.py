"""RoBERTa (Liu et al., 2019), whose positions start behind its padding's."""

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class Roberta(Architecture):
    name = "roberta"
    attention = "RobertaSelfAttention"

    @property
    def reserved(self) -> int:
        return self.config.pad_token_id + 1
