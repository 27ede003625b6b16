"""What the rest of the package asks of an encoder's architecture; the answers here are BERT's."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from sparsebert.errors import InputError
from sparsebert.registry import ARCHITECTURES, Registry

# Known ones that stay out, and why.
_REFUSED = {
    "deberta-v2": "their scores join content and relative position, which no kernel here computes",
    "deberta": "their scores join content and relative position, which no kernel here computes",
    "big_bird": "they have a sparse attention of their own",
    "longformer": "they have a sparse attention of their own",
}


class Architecture:
    """All that is known of one architecture, for one model of it.

    A new one is a subclass in a file of its own that says what differs from BERT, and is registered:
    `sparsebert.register(MyArchitecture)`. Its attention either goes through transformers' AttentionInterface
    or is redirected in `attach`.
    """

    registry: ClassVar[Registry] = ARCHITECTURES
    name: ClassVar[str]  # the `model_type` of its configs
    attention: ClassVar[str]  # the class of its self-attention
    between: ClassVar[str] = ""  # the class whose output a feed-forward part takes, if there is one
    dropout_name: ClassVar[str] = "attention_probs_dropout_prob"  # in its configs
    shares_layers: ClassVar[bool] = False  # one module serves several layers, told apart by their order

    def __init__(self, model: PreTrainedModel):
        self.model, self.config = model, model.config

    # its layers

    @property
    def layers(self) -> int:
        """How many attentions it has."""
        return self.config.num_hidden_layers

    @property
    def heads(self) -> int:
        """Heads of a layer."""
        return self.config.num_attention_heads

    @property
    def modules(self) -> list[nn.Module]:
        """The modules of its self-attention, in the order of their layers."""
        return [module for module in self.model.modules() if type(module).__name__ == self.attention]

    @property
    def ends_of_attention(self) -> list[nn.Module]:
        """The modules whose output, after the sum with their layer's input, goes into feed-forward parts."""
        return [module for module in self.model.modules() if type(module).__name__ == self.between]

    @property
    def windows(self) -> dict[int, int]:
        """The layers that see a window only, and how far it reaches on each side."""
        return {}

    @property
    def dropout(self) -> float:
        """The dropout of attention weights."""
        return getattr(self.config, self.dropout_name)

    def keep_layers(self, count: int) -> None:
        """Drop the layers from `count` on, for a smaller encoder; `InputError` if it has fewer."""
        has = self.config.num_hidden_layers
        if count > has:
            raise InputError(f"layers={count}, and this encoder has {has}; write {has} or fewer")
        for module in self.model.base_model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == has:
                del module[count:]
        self.config.num_hidden_layers = count

    @property
    def weights_of_feed_forward(self) -> int:
        """How many numbers a token is multiplied by in a layer's feed-forward part."""
        return 2 * self.config.hidden_size * self.config.intermediate_size

    def multiply_adds(self, tokens: float, pairs: float, fed: float) -> float:
        """Of a layer with so many tokens and pairs in its attention, and `fed` tokens behind it."""
        width = self.config.hidden_size
        return 4 * tokens * width**2 + 2 * pairs * width + fed * self.weights_of_feed_forward

    # its attention

    def attach(self) -> None:
        """Redirect its attention to `sparsebert.models.sparsified`."""
        self.model.set_attn_implementation("sparsebert")

    def detach(self, implementation: str) -> None:
        """Give it its own attention back, in one of transformers' implementations."""
        self.model.set_attn_implementation(implementation)

    def hand_down(self, shared: object, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Bring what the layers of one forward pass share to them; returns the encoder's arguments."""
        return kwargs | {"sparse": shared}

    def by_offset(self, length: int) -> Float[Tensor, "head offset"] | None:
        """What is added to the scores of each head by key place - query place, -D, ..., D; None: nothing.

        Offsets beyond D, of which there may be some in `length` tokens, have the values of the ends.
        """
        return None

    # its positions

    @property
    def reserved(self) -> int:
        """Rows of the table of positions before that of the first token."""
        return 0

    @property
    def positions(self) -> int:
        """How many tokens it has positions for."""
        return self.config.max_position_embeddings - self.reserved

    @torch.no_grad()
    def extend_positions(self, length: int) -> None:
        """Make it take `length` tokens, more than it does: its position embeddings are repeated."""
        embeddings, rows = self.model.base_model.embeddings, self.reserved + length
        table = embeddings.position_embeddings
        old = table.weight
        tiled = old[self.reserved :].repeat(-(-length // self.positions), 1)[:length]
        table.weight = nn.Parameter(torch.cat([old[: self.reserved], tiled]), requires_grad=old.requires_grad)
        table.num_embeddings = rows
        ids = torch.arange(rows, device=old.device)[None]
        for name, longer in (("position_ids", ids), ("token_type_ids", torch.zeros_like(ids))):
            if hasattr(embeddings, name):
                embeddings.register_buffer(name, longer, persistent=False)
        self.config.max_position_embeddings = rows

    # its inputs

    @property
    def token_types(self) -> int:
        """How many kinds of `token_type_ids` it embeds; 0 if it takes none."""
        table = getattr(self.model.base_model.embeddings, "token_type_embeddings", None)
        return table.num_embeddings if table else 0


def architecture_of(model: PreTrainedModel) -> Architecture:
    """What is known of a model; `InputError` if its architecture is not registered."""
    check_architecture(model.config)
    return ARCHITECTURES[model.config.model_type](model)


def check_architecture(config: PretrainedConfig, of: str = "") -> None:
    """`InputError` if models with such a config can't be used; `of` says whose config it is."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        why = _REFUSED.get(kind, "this architecture is not known here (sparsebert.register adds one)")
        raise InputError(
            f"{of}'{kind}' models cannot be used, since {why}; "
            f"choose one of the architectures {', '.join(ARCHITECTURES)}"
        )
