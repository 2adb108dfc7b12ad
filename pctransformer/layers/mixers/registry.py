"""Token mixers by name. This file imports no torch: names and summaries are there before any mixer is."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
from typing import TYPE_CHECKING, Any, Literal

from pctransformer.errors import did_you_mean

if TYPE_CHECKING:
    from pctransformer.layers.mixers.mixer import Mixer
    from pctransformer.layers.transformer import EncoderLayer

Family = Literal["attention", "external attention", "MLP", "recurrent", "not learnt"]


@dataclasses.dataclass(frozen=True)
class MixerInfo:
    """What is known of a mixer without importing it.

    Attributes:
        name: for `create_mixer`.
        module: file in `pctransformer.layers.mixers`.
        layer: its class there.
        family: what tells how much one token receives from another: attention a comparison of the two, external
            attention a learnt memory with which each is compared, an MLP their places in the sequence, a recurrent
            layer what lies between them; or nothing that is learnt.
        summary: in a few words.
        source: authors, year.
        fixed: whether weights belong to places in the sequence, so that the number of tokens must be known.
        block: the function in `module` that makes the published block; None where that is `pre_norm_layer`.
    """

    name: str
    module: str
    layer: str
    family: Family
    summary: str
    source: str
    fixed: bool = False
    block: str | None = None


_ATTENTION = "Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762"
_PCT = "Guo et al., PCT: Point Cloud Transformer, 2021, arXiv:2012.09688"
_EXTERNAL = "Guo et al., Beyond Self-attention: External Attention using Two Linear Layers, 2021, arXiv:2105.02358"
_MLP_MIXER = "Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision, 2021, arXiv:2105.01601"
_FEED_FORWARD_ONLY = "Melas-Kyriazi, Do You Even Need Attention?, 2021, arXiv:2105.02723"
_RESMLP = "Touvron et al., ResMLP: Feedforward Networks for Image Classification, 2021, arXiv:2105.03404"
_GMLP = "Liu et al., Pay Attention to MLPs, 2021, arXiv:2105.08050"
_RNN = "Elman, Finding Structure in Time, 1990"
_LSTM = "Hochreiter and Schmidhuber, Long Short-Term Memory, 1997"
_SHIFT = "Wu et al., Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions, 2018, arXiv:1711.08141"
_POOL = "Yu et al., MetaFormer Is Actually What You Need for Vision, 2022, arXiv:2111.11418"

_MIXERS = {
    info.name: info
    for info in (
        MixerInfo(
            "self_attention", "self_attention", "SelfAttention", "attention", "tokens attend to each other", _ATTENTION
        ),
        MixerInfo(
            "pct_attention",
            "pct_attention",
            "PCTAttention",
            "attention",
            "self-attention normalised over keys and queries",
            _PCT,
            block="pct_attention_block",
        ),
        MixerInfo(
            "offset_attention",
            "pct_attention",
            "OffsetAttention",
            "attention",
            "the difference between tokens and what they receive",
            _PCT,
            block="offset_attention_block",
        ),
        MixerInfo(
            "external_attention",
            "external_attention",
            "ExternalAttention",
            "external attention",
            "learnt memory slots",
            _EXTERNAL,
        ),
        MixerInfo(
            "multi_head_external_attention",
            "external_attention",
            "MultiHeadExternalAttention",
            "external attention",
            "learnt memory slots, which all heads share",
            _EXTERNAL,
        ),
        MixerInfo(
            "mlp_mixer", "mlp_mixer", "MLPMixer", "MLP", "two linear layers along the tokens", _MLP_MIXER, fixed=True
        ),
        MixerInfo(
            "feed_forward_only",
            "feed_forward_only",
            "FeedForwardOnly",
            "MLP",
            "LayerNorm and two linear layers along the tokens",
            _FEED_FORWARD_ONLY,
            fixed=True,
            block="feed_forward_only_block",
        ),
        MixerInfo(
            "resmlp",
            "resmlp",
            "ResMLP",
            "MLP",
            "one linear layer along the tokens",
            _RESMLP,
            fixed=True,
            block="resmlp_block",
        ),
        MixerInfo(
            "gmlp",
            "gmlp",
            "GMLP",
            "MLP",
            "a perceptron with a gate along the tokens",
            _GMLP,
            fixed=True,
            block="gmlp_block",
        ),
        MixerInfo("rnn", "recurrent", "RNN", "recurrent", "a recurrent layer along the curve, both ways", _RNN),
        MixerInfo("lstm", "recurrent", "LSTM", "recurrent", "long short-term memory along the curve, both ways", _LSTM),
        MixerInfo(
            "shift",
            "shift",
            "Shift",
            "not learnt",
            "groups of channels moved along the curve, then a linear layer",
            _SHIFT,
        ),
        MixerInfo("mean_pool", "mean_pool", "MeanPool", "not learnt", "the mean of all tokens, the floor", _POOL),
    )
}


def list_mixers(pattern: str = "*") -> list[str]:
    """Names of mixers that match a shell pattern, sorted: `list_mixers("*attention*")`."""
    return sorted(fnmatch.filter(_MIXERS, pattern))


def mixer_info(name: str) -> MixerInfo:
    """What is known of a mixer without importing it.

    Raises:
        ValueError: no such mixer; the message names similar ones.
    """
    if name not in _MIXERS:
        raise ValueError(f"no mixer is called {name!r}; {did_you_mean(name, _MIXERS)}")
    return _MIXERS[name]


def create_mixer(name: str, *, dim: int, num_tokens: int | None = None, **options: Any) -> Mixer:
    """Make a token mixer by name: `mixer(tokens (P, K, C), valid (P, K) | None) -> (P, K, C)`.

    Args:
        name: one of `list_mixers()`.
        dim: channels C.
        num_tokens: K; needed by mixers whose weights belong to places in the sequence (`mixer_info(name).fixed`), not
            used by others.
        options: further keyword arguments of the mixer's class, for example `num_heads=4`.

    Raises:
        ValueError: no such mixer, or `num_tokens` is needed and missing.
        TypeError: the mixer has no such option.
    """
    info = mixer_info(name)
    return getattr(_module(info), info.layer)(dim=dim, **_places(info, num_tokens), **options)


def create_block(name: str, *, dim: int, num_tokens: int | None = None, **options: Any) -> EncoderLayer:
    """Make the block that a mixer was published in, with the residual connections and norms that it has there.

    Args:
        name: one of `list_mixers()`. Those that have no block of their own get `pre_norm_layer`.
        dim: channels C.
        num_tokens: see `create_mixer`.
        options: keyword arguments of the block's function; for `pre_norm_layer` of the mixer's class, and
            `mlp_ratio`.

    Raises:
        ValueError, TypeError: as `create_mixer`.
    """
    info = mixer_info(name)
    if info.block is not None:
        return getattr(_module(info), info.block)(dim=dim, **_places(info, num_tokens), **options)
    from pctransformer.layers.transformer import pre_norm_layer

    mlp_ratio = options.pop("mlp_ratio", 4.0)
    return pre_norm_layer(create_mixer(name, dim=dim, num_tokens=num_tokens, **options), dim, mlp_ratio=mlp_ratio)


def _module(info: MixerInfo) -> Any:
    return importlib.import_module(f"pctransformer.layers.mixers.{info.module}")


def _places(info: MixerInfo, num_tokens: int | None) -> dict[str, int]:
    """The argument that only mixers with weights for each place have."""
    if not info.fixed:
        return {}
    if num_tokens is None:
        raise ValueError(f"{info.name} has weights for each place in the sequence: say how many with num_tokens=")
    return {"num_tokens": num_tokens}
