"""The masked language model: a small transformer that looks both ways and says, for every place, which word stands there. A masked diffusion
language model is this network and a sampler; the sampler is written in the language (`pipelines/methods/09_igpo.gflow`).

Axes: place (of a canvas: a question and the room for its answer), word (of the vocabulary, the last one being the blank).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradflow.library.catalogue import ModelSpec, primitive
from gradflow.library.language_models import CharacterTokenizer
from gradflow.library.models import transformer_leaves

if TYPE_CHECKING:
    from torch import nn


@primitive("model", vocabulary="int >= 3", layers="int >= 1", width="int >= 1", heads="int >= 1", length="int >= 1")
def masked_lm(vocabulary: int = CharacterTokenizer.SIZE, layers: int = 2, width: int = 64, heads: int = 4, length: int = 64) -> ModelSpec:
    """A small bidirectional transformer over characters, for masked diffusion: words [.., place] -> [.., place, word], logits of its own word.

    The words are the first `vocabulary` symbols of `CharacterTokenizer` and one more, the blank, which it reads and never says: its logit is
    -1e4. Facts: `blank` (its number), `eot` (the word that fills what is behind an answer), `vocabulary` (all words, the blank included).
    Learned positions, so at most `length` places; otherwise the parts, leaves and initial values of `transformer`, with an untied head.
    """
    if width % heads:
        raise ValueError(f"masked_lm: the width {width} does not split into {heads} heads")
    words = vocabulary + 1

    def build(seed: int) -> nn.Module:
        from gradflow.library import causal_models, networks

        return networks.build(lambda: causal_models.MaskedTransformer(words, layers, width, heads, length), seed, causal_models.like_gpt(layers))

    return ModelSpec(
        name="masked_lm",
        leaves=transformer_leaves(words, layers, width, length, tied=False),
        build=build,
        outputs=(("word", words),),
        index_input=True,
        facts={"vocabulary": words, "blank": vocabulary, "eot": 1, "length": length, "layers": layers, "width": width},
        flops_per_row=2.0 * width * (12 * layers * width + words),
    )
