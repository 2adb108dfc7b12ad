"""Grid mixers: what can stand where a transformer on a dense map has attention, behind one interface.

    mixer(x (B, H, W, C)) -> (B, H, W, C)

A map is an image, or a scene seen from above; every cell is a token. As with the token mixers of `layers.mixers`, a
mixer is the part that looks across cells and nothing else, without the residual connection: `create_grid_mixer`. A
block puts it to use, followed by a perceptron: `create_grid_block`, the layer of pre-norm transformers for all of them
but sMLP, which begins with a norm of its own.

Weights of `smlp` and `permutator` belong to rows and columns: they are built for one size of the map. The others take
any; windows that do not fill the map are filled up with cells that nobody sees.
"""

from pctransformer.layers.grid_mixers.registry import (
    GridMixerInfo,
    create_grid_block,
    create_grid_mixer,
    grid_mixer_info,
    list_grid_mixers,
)

__all__ = ["GridMixerInfo", "create_grid_block", "create_grid_mixer", "grid_mixer_info", "list_grid_mixers"]
