"""BERT and the encoders that differ from it in little."""

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class Albert(Architecture):
    """ALBERT (Lan et al., 2020), whose layers share their weights in groups."""

    name = "albert"
    attention = "AlbertAttention"
    shares_layers = True

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers * self.config.inner_group_num


@register
class Bert(Architecture):
    """BERT (Devlin et al., 2019), and MiniLM and multilingual E5, which are BERTs."""

    name = "bert"
    attention = "BertSelfAttention"


@register
class DistilBert(Architecture):
    """DistilBERT (Sanh et al., 2019), which has no token types."""

    name = "distilbert"
    attention = "DistilBertSelfAttention"
    dropout_name = "attention_dropout"


@register
class Electra(Architecture):
    """ELECTRA (Clark et al., 2020), whose discriminator is a BERT."""

    name = "electra"
    attention = "ElectraSelfAttention"


@register
class ModernBert(Architecture):
    """ModernBERT (Warner et al., 2024), most of whose layers see a window only; positions are rotations."""

    name = "modernbert"
    attention = "ModernBertAttention"
    dropout_name = "attention_dropout"

    @property
    def windows(self) -> dict[int, int]:
        kinds = enumerate(self.config.layer_types)
        return {layer: self.config.sliding_window for layer, kind in kinds if kind == "sliding_attention"}

    def extend_positions(self, length: int) -> None:
        self.config.max_position_embeddings = length  # there is no table


@register
class Roberta(Architecture):
    """RoBERTa (Liu et al., 2019), whose positions start behind its padding's."""

    name = "roberta"
    attention = "RobertaSelfAttention"

    @property
    def reserved(self) -> int:
        return self.config.pad_token_id + 1


@register
class XlmRoberta(Roberta):
    """XLM-RoBERTa (Conneau et al., 2020): a RoBERTa of many languages."""

    name = "xlm-roberta"
    attention = "XLMRobertaSelfAttention"
