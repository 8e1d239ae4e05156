"""A GPT-NeoX directory as GGUF, for llama.cpp: it writes f16 matrices, and f32 vectors as llama.cpp wants them.

The published converters do not read a configuration as transformers 5 writes it, so this is one of our own, on the gguf package.
"""
import json
import os

import gguf
import numpy as np
from safetensors import safe_open

F16 = 1  # llama.cpp's file type "mostly f16"


def tensors_of(model):
    """Name and array (f16 or f32) of every tensor, one at a time."""
    for name in sorted(n for n in os.listdir(model) if n.endswith(".safetensors")):
        with safe_open(os.path.join(model, name), framework="np") as f:
            for key in f.keys():
                yield key, f.get_tensor(key)


def split_heads(x, n_heads):
    """Rows of q, k and v of each head in turn -> all of q, then all of k, then all of v."""
    parts = x.reshape(n_heads, 3, x.shape[0] // n_heads // 3, *x.shape[1:])
    return np.concatenate([parts[:, i].reshape(-1, *x.shape[1:]) for i in range(3)])


NAMES = {"gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output"}
LAYER_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "attention.query_key_value": "attn_qkv",
               "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}


def name_of(key):
    """llama.cpp's name, or None for what it computes itself (rotary tables, masks)."""
    stem, kind = key.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    layer, part = stem.removeprefix("gpt_neox.layers.").split(".", 1)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}" if part in LAYER_NAMES else None


def add_tokenizer(writer, model, vocab):
    with open(os.path.join(model, "tokenizer.json")) as f:
        tokenizer = json.load(f)
    tokens = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    types = {i: gguf.TokenType.NORMAL for i in tokens}
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(i, f"[PAD{i}]") for i in range(vocab)])
    writer.add_token_types([types.get(i, gguf.TokenType.UNUSED) for i in range(vocab)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def convert(model, path):
    with open(os.path.join(model, "config.json")) as f:
        c = json.load(f)
    heads = c["num_attention_heads"]
    head = c["hidden_size"] // heads
    rotary = c.get("rotary_pct") or c.get("rope_parameters", {}).get("partial_rotary_factor", 0.25)
    w = gguf.GGUFWriter(path, "gptneox", use_temp_file=True)
    w.add_name(os.path.basename(model))
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_rope_dimension_count(int(rotary * head))
    w.add_head_count(heads)
    w.add_parallel_residual(c.get("use_parallel_residual", True))
    w.add_layer_norm_eps(c["layer_norm_eps"])
    w.add_file_type(F16)
    add_tokenizer(w, model, c["vocab_size"])
    for key, x in tensors_of(model):
        name = name_of(key)
        if name is None:
            continue
        if "attn_qkv" in name:
            x = split_heads(x, heads)
        w.add_tensor(name, np.ascontiguousarray(x.astype(np.float16 if x.ndim == 2 else np.float32)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
