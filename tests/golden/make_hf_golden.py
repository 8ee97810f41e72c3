#!/usr/bin/env python3
"""Writes tests/golden/hf/*: tiny folders as `transformers` saves them, and what it computes from them.

Each folder is what `save_pretrained` writes (config.json and generation_config.json in the library's own
spelling, safetensors in one file or in shards), and `expected.safetensors` beside it: token ids [T] and the
logits of the stored weights, computed in float64. Run with scripts/setup --live's Python:

    .deps/venv-torch/bin/python tests/golden/make_hf_golden.py
"""

import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

from transformers_models import DERIVED, EPS, Built, attention, case, cases, decoder, neox, text

SEED = 20261121
LENGTH = 16


def folders():
    """Name: case, type of the weights, size of a shard."""
    known = cases()
    layer_norm = {"kind": "layernorm", "eps": EPS}
    pythia = case(
        "gpt_neox",
        decoder(norm=layer_norm, residual="parallel", ffn={"kind": "gelu", "bias": True},
                attention_section={"heads": 2, "head_dim": 8, "rope_dim": 4, "rope_theta": 100.0, "bias": "all"}),
        {"layer_norm_eps": EPS, "head_dim": DERIVED, "hidden_act": "gelu", "use_parallel_residual": True}, neox,
        rope={"partial_rotary_factor": 0.5})
    windows = case("qwen2", decoder(layers=3, attention_section=attention(bias="qkv")),
                   {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1})
    return {
        "llama_llama3_sharded": (known["llama_llama3"], torch.float32, "8KB"),
        "llama_tied_bf16": (known["llama_tied"], torch.bfloat16, "5GB"),
        "llama_yarn_bias_f16": (case(
            "llama", decoder(attention_section=attention(bias="all", head_dim=8), ffn={"bias": True}),
            {"attention_bias": True, "mlp_bias": True},
            rope={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8, "beta_fast": 1.0,
                  "beta_slow": 0.05}), torch.float16, "5GB"),
        "mistral_window": (known["mistral_window"], torch.float32, "5GB"),
        "qwen2_windows": (windows, torch.bfloat16, "5GB"),
        "qwen3": (known["qwen3"], torch.float32, "5GB"),
        "gpt_neox_parallel": (pythia, torch.float32, "5GB"),
        "gpt_neox_sequential": (known["neox_sequential"], torch.float16, "5GB"),
    }


def write(folder, entry, dtype, shard, seed):
    built = Built(entry, seed)
    ids = text(seed)[0][:LENGTH]
    with torch.no_grad():
        for value in built.model.parameters():
            value.copy_(value.to(dtype))
        logits = built.logits(ids[None])[0]
    # Last, because it rounds the frequencies of RoPE as well.
    built.model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    assert logits.dtype == torch.float64
    save_file({"tokens": ids.to(torch.int32), "logits": logits}, folder / "expected.safetensors",
              metadata={"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]})
    for file in folder.iterdir():
        file.chmod(0o644)


def main():
    torch.set_num_threads(1)
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "hf")
    shutil.rmtree(root, ignore_errors=True)
    for index, (name, (entry, dtype, shard)) in enumerate(folders().items()):
        write(root / name, entry, dtype, shard, SEED + index)


if __name__ == "__main__":
    main()
