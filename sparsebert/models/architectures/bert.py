"""BERT and the encoders that differ from it in little."""

from torch import nn

from sparsebert.errors import InputError
from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class Albert(Architecture):
    """ALBERT (Lan et al., 2020), whose layers share their weights in groups."""

    name = "albert"
    attention = "AlbertAttention"
    between = "AlbertAttention"
    shares_layers = True

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers * self.config.inner_group_num

    def keep_layers(self, count: int) -> None:
        kinds = self.config.num_hidden_groups * self.config.inner_group_num
        if kinds > 1 and count < self.config.num_hidden_layers:
            raise InputError(
                f"layers={count} can't be, since this ALBERT has {kinds} layers that differ; leave it out"
            )
        super().keep_layers(count)


@register
class Bert(Architecture):
    """BERT (Devlin et al., 2019), and MiniLM and multilingual E5, which are BERTs."""

    name = "bert"
    attention = "BertSelfAttention"
    between = "BertAttention"


@register
class DistilBert(Architecture):
    """DistilBERT (Sanh et al., 2019), which has no token types."""

    name = "distilbert"
    attention = "DistilBertSelfAttention"
    dropout_name = "attention_dropout"

    @property
    def ends_of_attention(self) -> list[nn.Module]:
        return [module.sa_layer_norm for module in self.model.modules() if hasattr(module, "sa_layer_norm")]

    @property
    def weights_of_feed_forward(self) -> int:
        return 2 * self.config.dim * self.config.hidden_dim


@register
class Electra(Architecture):
    """ELECTRA (Clark et al., 2020), whose discriminator is a BERT."""

    name = "electra"
    attention = "ElectraSelfAttention"
    between = "ElectraAttention"


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

    def keep_layers(self, count: int) -> None:
        super().keep_layers(count)
        self.config.layer_types = self.config.layer_types[:count]

    @property
    def weights_of_feed_forward(self) -> int:
        return 3 * self.config.hidden_size * self.config.intermediate_size  # there is a gate

    def extend_positions(self, length: int) -> None:
        self.config.max_position_embeddings = length  # there is no table


@register
class Roberta(Architecture):
    """RoBERTa (Liu et al., 2019), whose positions start behind its padding's."""

    name = "roberta"
    attention = "RobertaSelfAttention"
    between = "RobertaAttention"

    @property
    def reserved(self) -> int:
        return self.config.pad_token_id + 1


@register
class XlmRoberta(Roberta):
    """XLM-RoBERTa (Conneau et al., 2020): a RoBERTa of many languages."""

    name = "xlm-roberta"
    attention = "XLMRobertaSelfAttention"
    between = "XLMRobertaAttention"
