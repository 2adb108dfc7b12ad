"""Token mixers: what can stand where a transformer has attention, behind one interface.

    mixer(tokens (P, K, C), valid (P, K) | None) -> (P, K, C)

Tokens come as P patches of K in the order of a space-filling curve: a cloud of sampled patches is one patch of tokens,
a serialized cloud is cut into many. `valid` is True where a token is real. What stands at padding never reaches real
tokens, and zeros come out there.

What is a mixer, and what a block? Papers on attention-free networks publish whole blocks, and these differ in more than
how tokens mix: MLP-Mixer keeps the transformer's two halves, feed-forward-only turns them round, ResMLP replaces
LayerNorm and scales each half, gMLP has no second half, PCT has no LayerNorm. Compared as they are, all of that would
be compared at once. So a mixer is the part that looks across tokens and nothing else, without the residual connection
and the norm in front of it: `create_mixer`. A block puts it to use: an `EncoderLayer` of `layers.transformer`, made of
`TokenMixing` and `ChannelMixing`. `pre_norm_layer` gives every mixer the same surroundings, those of a pre-norm
transformer; `create_block` gives each the surroundings it was published in. Norms that are part of how tokens mix (over
the tokens in feed-forward-only, inside gMLP's gate) belong to the mixer.

Weights of `mlp_mixer`, `feed_forward_only`, `resmlp` and `gmlp` belong to places in the sequence: they are built for
one K, need no position code, and take `num_heads` for different weights in different groups of channels. The others
take any K.

On dense maps the same is done by `pctransformer.layers.grid_mixers`.
"""

from pctransformer.layers.mixers.registry import MixerInfo, create_block, create_mixer, list_mixers, mixer_info

__all__ = ["MixerInfo", "create_block", "create_mixer", "list_mixers", "mixer_info"]
