"""ModernBERT (Warner et al., 2024), most of whose layers see a window only; its positions are rotations."""

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class ModernBert(Architecture):
    name = "modernbert"
    attention = "ModernBertAttention"
    dropout_name = "attention_dropout"

    @property
    def windows(self) -> dict[int, int]:
        kinds = enumerate(self.config.layer_types)
        return {layer: self.config.sliding_window for layer, kind in kinds if kind == "sliding_attention"}

    def extend_positions(self, length: int) -> None:
        self.config.max_position_embeddings = length  # there is no table
