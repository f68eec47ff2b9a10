"""Multi-head self-attention with separate q, k and v projections, so that heads and their widths can be pruned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Computes what nn.MultiheadAttention does for q = k = v, and loads its weights.

    `head_dim` may differ from width / num_heads once channels are removed.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)
        self.register_load_state_dict_pre_hook(_split_in_projection)

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        """[N, tokens, width] to ([N, tokens, width], no attention weights)."""
        q, k, v = (self._heads(projection(x)) for projection in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[N, tokens, heads x d] to [N, heads, tokens, d]."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)


def with_separate_projections(module: nn.Module) -> nn.Module:
    """Replace every nn.MultiheadAttention of `module` by SelfAttention with the same weights."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                attention = SelfAttention(child.embed_dim, child.num_heads)
                attention.load_state_dict(child.state_dict())
                setattr(parent, name, attention)
    return module


def _split_in_projection(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for leaf in ("weight", "bias"):
        joint = state.pop(f"{prefix}in_proj_{leaf}", None)
        if joint is not None:
            for name, part in zip("qkv", joint.chunk(3), strict=True):
                state[f"{prefix}{name}.{leaf}"] = part
