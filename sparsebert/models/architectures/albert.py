"""ALBERT (Lan et al., 2020), whose layers share their weights in groups."""

from sparsebert.models.architectures.architecture import Architecture
from sparsebert.registry import register


@register
class Albert(Architecture):
    name = "albert"
    attention = "AlbertAttention"
    shares_layers = True

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers * self.config.inner_group_num
