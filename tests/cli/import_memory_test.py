#!/usr/bin/env python3
"""A model of 8 GB is imported in less than 2 GB of memory. Argument: ashlar-engine.

The folder is synthetic: two shards of zeros, which take no space on disk until they are written out. It takes
8 GB of the temporary folder (ASHLAR_TMP, default the system's) and a minute; ASHLAR_IMPORT_LAYERS=2 makes it small.
"""

import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess
import sys
import tempfile

ENGINE = os.path.abspath(sys.argv[1])
LAYERS = int(os.environ.get("ASHLAR_IMPORT_LAYERS", 18))
WIDTH, INNER, KV, VOCAB = 4096, 14336, 1024, 32000
LIMIT = 2 << 30


def layer(index):
    prefix = f"model.layers.{index}."
    yield prefix + "input_layernorm.weight", [WIDTH]
    yield prefix + "post_attention_layernorm.weight", [WIDTH]
    for name, shape in {"q_proj": [WIDTH, WIDTH], "k_proj": [KV, WIDTH], "v_proj": [KV, WIDTH],
                        "o_proj": [WIDTH, WIDTH]}.items():
        yield f"{prefix}self_attn.{name}.weight", shape
    for name, shape in {"gate_proj": [INNER, WIDTH], "up_proj": [INNER, WIDTH], "down_proj": [WIDTH, INNER]}.items():
        yield f"{prefix}mlp.{name}.weight", shape


def write_shard(path, tensors):
    header, offset = {}, 0
    for name, shape in tensors:
        size = 2
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return offset


def write_folder(folder):
    config = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": INNER,
              "num_hidden_layers": LAYERS, "num_attention_heads": 32, "num_key_value_heads": 8,
              "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    outer = [("model.embed_tokens.weight", [VOCAB, WIDTH]), ("model.norm.weight", [WIDTH]),
             ("lm_head.weight", [VOCAB, WIDTH])]
    half = LAYERS // 2
    shards = [outer + [t for i in range(half) for t in layer(i)], [t for i in range(half, LAYERS) for t in layer(i)]]
    total, names = 0, {}
    for index, tensors in enumerate(shards):
        name = f"model-{index + 1:05}-of-00002.safetensors"
        total += write_shard(folder / name, tensors)
        names.update({tensor: name for tensor, _ in tensors})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return total


def main():
    with tempfile.TemporaryDirectory(dir=os.environ.get("ASHLAR_TMP")) as temporary:
        folder = pathlib.Path(temporary) / "hf"
        folder.mkdir()
        total = write_folder(folder)
        if shutil.disk_usage(temporary).free < 1.2 * total:
            print(f"skipped: less than {1.2 * total / 1e9:.1f} GB free in {temporary}")
            sys.exit(77)
        result = subprocess.run([ENGINE, "import", folder, "--output", folder.parent / "package", "--json"],
                                capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["bytes"] == total, result.stdout
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
        print(f"{total / 1e9:.2f} GB imported, peak memory {peak / 1e9:.3f} GB")
        assert peak < LIMIT, f"{peak} bytes"


if __name__ == "__main__":
    main()
