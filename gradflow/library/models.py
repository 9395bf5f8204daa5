"""The built-in models: perceptrons, linear models, a convolutional and a recurrent network, and a small transformer.

Each primitive works out names and shapes of its parameters without torch; the modules are in `networks.py` and `causal_models.py`, and are
imported when `build(seed)` is called. A call of a model consumes the trailing axes `inputs` of its argument and adds `outputs`: classifiers
add the axis `class`, a linear map the axis `out`, language models the axis `word`; a single output adds no axis. `flops_per_row` counts the
multiplications and additions of matrix products in one forward call, for one row (one token, for models that read tokens).

`act` is the function between layers; the last layer has none. Pretrained models are in `transformers_models.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradflow.library.catalogue import LeafSpec, ModelSpec, primitive
from gradflow.library.language_models import CharacterTokenizer

if TYPE_CHECKING:
    from torch import nn

ACT = "relu | tanh | sigmoid | gelu | elu | silu"


def axis_of(name: str, size: int) -> tuple[tuple[str, int], ...]:
    """One output adds no axis."""
    return () if size == 1 else ((name, size),)


def linear_leaves(name: str, inputs: int, outputs: int, bias: bool = True) -> tuple[LeafSpec, ...]:
    weight = LeafSpec(f"{name}weight", (outputs, inputs))
    return (weight, LeafSpec(f"{name}bias", (outputs,))) if bias else (weight,)


@primitive("model", widths="int >= 1", act=ACT, dropout="real in [0, 1)", bias="bool | real")
def mlp(*widths: int, act: str = "relu", dropout: float = 0.0, bias: bool | float = True) -> ModelSpec:
    """A perceptron with linear layers between the given widths: `mlp(64, 128, 10)`. [.., feature] -> [.., class].

    Leaves `layers.i.weight` [outputs, inputs] and `layers.i.bias`. `bias`: false for none, a number for where the last layer's bias
    starts. `dropout` acts after each activation, in training mode only. Initial values: uniform within 1 / sqrt(inputs of the layer).
    """
    if len(widths) < 2:
        raise ValueError("mlp needs at least two widths, of what goes in and of what comes out: mlp(64, 10)")
    with_bias = bias is not False
    leaves = [leaf for i, (a, b) in enumerate(zip(widths, widths[1:])) for leaf in linear_leaves(f"layers.{i}.", a, b, with_bias)]

    def build(seed: int) -> nn.Module:
        from gradflow.library import networks

        net = networks.build(lambda: networks.MultilayerPerceptron(widths, act, dropout, with_bias), seed, networks.like_torch)
        if not isinstance(bias, bool):
            dict(net.named_parameters())[leaves[-1].name].data.fill_(bias)
        return net

    return ModelSpec(
        name="mlp",
        leaves=tuple(leaves),
        build=build,
        inputs=(widths[0],),
        outputs=axis_of("class", widths[-1]),
        facts={"inputs": widths[0], "outputs": widths[-1]},
        flops_per_row=2.0 * sum(a * b for a, b in zip(widths, widths[1:])),
    )


def affine(name: str, axis: str, inputs: int, outputs: int, bias: bool, at_zero: bool) -> ModelSpec:
    def build(seed: int) -> nn.Module:
        from gradflow.library import networks

        return networks.build(lambda: networks.Affine(inputs, outputs, bias=bias), seed, networks.zeros if at_zero else networks.like_torch)

    return ModelSpec(
        name=name,
        leaves=linear_leaves("", inputs, outputs, bias),
        build=build,
        inputs=(inputs,),
        outputs=axis_of(axis, outputs),
        facts={"inputs": inputs, "outputs": outputs},
        flops_per_row=2.0 * inputs * outputs,
    )


@primitive("model", inputs="int >= 1", outputs="int >= 1", bias="bool")
def linear(inputs: int, outputs: int = 1, bias: bool = True) -> ModelSpec:
    """A linear map, y = weight x + bias. [.., feature] -> [.., out]; leaves `weight` [outputs, inputs] and `bias` [outputs].

    Initial values: uniform within 1 / sqrt(inputs).
    """
    return affine("linear", "out", inputs, outputs, bias, at_zero=False)


@primitive("model", inputs="int >= 1")
def logistic(inputs: int) -> ModelSpec:
    """Logistic regression: the log-odds of one class. [.., feature] -> [..]; leaves `weight` [1, inputs] and `bias` [1], which start at 0."""
    return affine("logistic", "class", inputs, 1, bias=True, at_zero=True)


@primitive("model", inputs="int >= 1", classes="int >= 1")
def softmax_regression(inputs: int, classes: int) -> ModelSpec:
    """Multinomial logistic regression: scores before the softmax. [.., feature] -> [.., class].

    Leaves `weight` [classes, inputs] and `bias` [classes], which start at 0: a convex problem with one usual starting point.
    """
    return affine("softmax_regression", "class", inputs, classes, bias=True, at_zero=True)


@primitive("model", channels="int[layer] >= 1", classes="int >= 1", size="int >= 1", colors="int >= 1", act=ACT)
def cnn(channels: Sequence[int] = (8, 16), classes: int = 10, size: int = 8, colors: int = 1, act: str = "relu") -> ModelSpec:
    """A small convolutional network for square images of `size` x `size`. [.., row, column] -> [.., class].

    With several colors it reads [.., color, row, column]. One 3x3 convolution of stride 2 and an activation for each entry of `channels`,
    then a linear layer. Leaves `convolutions.i.weight` [out, in, 3, 3], `convolutions.i.bias`, `head.weight`, `head.bias`.
    """
    channels = tuple(channels)
    if not channels:
        raise ValueError("cnn needs at least one number of channels: cnn(channels: [8, 16])")
    leaves: list[LeafSpec] = []
    flops, side = 0.0, size
    for i, (a, b) in enumerate(zip((colors, *channels), channels)):
        leaves += [LeafSpec(f"convolutions.{i}.weight", (b, a, 3, 3)), LeafSpec(f"convolutions.{i}.bias", (b,))]
        side = (side + 1) // 2
        flops += 2.0 * a * b * 9 * side * side
    features = channels[-1] * side * side
    leaves += linear_leaves("head.", features, classes)

    def build(seed: int) -> nn.Module:
        from gradflow.library import networks

        return networks.build(lambda: networks.ConvolutionalNetwork(channels, classes, size, colors, act), seed, networks.like_torch)

    return ModelSpec(
        name="cnn",
        leaves=tuple(leaves),
        build=build,
        inputs=(size, size) if colors == 1 else (colors, size, size),
        outputs=axis_of("class", classes),
        facts={"inputs": colors * size * size, "outputs": classes},
        flops_per_row=flops + 2.0 * features * classes,
    )


@primitive("model", inputs="int >= 1", hidden="int >= 1", outputs="int >= 1", cell="rnn | gru | lstm", per_token="bool")
def rnn(inputs: int, hidden: int, outputs: int, cell: str = "rnn", per_token: bool = False) -> ModelSpec:
    """A recurrent network over tokens. [.., token, feature] -> [.., class], read after the last token.

    `per_token`: one output a token instead, [.., token, feature] -> [.., token, class]; the axis before `feature` is then the one it walks.
    Leaves `cell.weight_ih`, `cell.weight_hh`, `cell.bias_ih`, `cell.bias_hh` as in torch's cells (gates stacked), `head.weight`,
    `head.bias`. The hidden state starts at 0. Initial values: uniform within 1 / sqrt(hidden).
    """
    rows = {"rnn": 1, "gru": 3, "lstm": 4}[cell] * hidden
    shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}

    def build(seed: int) -> nn.Module:
        from gradflow.library import networks

        return networks.build(lambda: networks.RecurrentNetwork(inputs, hidden, outputs, cell, per_token), seed, networks.like_torch)

    return ModelSpec(
        name="rnn",
        leaves=(*(LeafSpec(f"cell.{name}", shape) for name, shape in shapes.items()), *linear_leaves("head.", hidden, outputs)),
        build=build,
        inputs=(inputs,) if per_token else (None, inputs),
        outputs=axis_of("class", outputs),
        facts={"inputs": inputs, "outputs": outputs},
        flops_per_row=2.0 * (rows * (inputs + hidden) + hidden * outputs),
    )


def norm_leaves(name: str, width: int) -> tuple[LeafSpec, ...]:
    return LeafSpec(f"{name}.weight", (width,)), LeafSpec(f"{name}.bias", (width,))


def transformer_leaves(vocabulary: int, layers: int, width: int, length: int, tied: bool) -> tuple[LeafSpec, ...]:
    leaves = [LeafSpec("token.weight", (vocabulary, width)), LeafSpec("position.weight", (length, width))]
    for i in range(layers):
        leaves += norm_leaves(f"blocks.{i}.attention_norm", width)
        leaves += [LeafSpec(f"blocks.{i}.attention.{part}.weight", (width, width)) for part in ("query", "key", "value", "output")]
        leaves += norm_leaves(f"blocks.{i}.mlp_norm", width)
        leaves += [LeafSpec(f"blocks.{i}.mlp.up.weight", (4 * width, width)), LeafSpec(f"blocks.{i}.mlp.down.weight", (width, 4 * width))]
    leaves += norm_leaves("norm", width)
    return tuple(leaves) if tied else (*leaves, LeafSpec("unembed.weight", (vocabulary, width)))


@primitive("model", vocabulary="int >= 3", layers="int >= 1", width="int >= 1", heads="int >= 1", length="int >= 1", tied="bool")
def transformer(
    vocabulary: int = CharacterTokenizer.SIZE, layers: int = 4, width: int = 64, heads: int = 4, length: int = 512, tied: bool = True
) -> ModelSpec:
    """A small causal transformer over characters (GPT-2's form). Ids [.., token] -> [.., token, word]: logits of the token that follows.

    Learned positions, so at most `length` tokens; normalization before each part; linear layers without biases; the head is the embedding
    unless `tied: false`. Leaves `token.weight`, `position.weight`, `blocks.i.attention_norm|mlp_norm.weight|bias`,
    `blocks.i.attention.query|key|value|output.weight`, `blocks.i.mlp.up|down.weight`, `norm.weight|bias`, (`unembed.weight`).
    The module offers `language_models.LanguageModel`; its tokenizer knows the first `vocabulary` symbols of `CharacterTokenizer`.
    Initial values: normal(0.02), what writes into the residual stream divided by sqrt(2 layers).
    """
    if width % heads:
        raise ValueError(f"transformer: the width {width} does not split into {heads} heads")

    def build(seed: int) -> nn.Module:
        from gradflow.library import causal_models, networks

        return networks.build(lambda: causal_models.Transformer(vocabulary, layers, width, heads, length, tied), seed, causal_models.like_gpt(layers))

    return ModelSpec(
        name="transformer",
        leaves=transformer_leaves(vocabulary, layers, width, length, tied),
        build=build,
        outputs=(("word", vocabulary),),
        index_input=True,
        methods=("sample", "score", "attention"),
        facts={"vocabulary": vocabulary, "length": length, "layers": layers, "width": width},
        flops_per_row=2.0 * width * (12 * layers * width + vocabulary),
    )
