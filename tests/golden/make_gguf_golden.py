"""Writes gguf/*.gguf and gguf/golden.json: small random models and one file of blocks, by the Python package `gguf`.

    pip install gguf==0.19.0 numpy==2.4.6
    python tests/golden/make_gguf_golden.py

golden.json holds the SHA-256 of every weight as little-endian fp32 under Hugging Face's names and layout, as the
package's `dequantize` gives it, and what else an import must find.
"""

import hashlib
import importlib.metadata
import json
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFWriter, RopeScalingType, quants

assert importlib.metadata.version("gguf") == "0.19.0"
FOLDER = pathlib.Path(__file__).parent / "gguf"
LEGACY = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
# Offsets of the fp16 factors in a super-block, which random bytes must not turn into infinities.
FACTORS = {Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def sha(values):
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in kept]
    return [chr(b if b in kept else 256 + moved.index(b)) for b in range(256)]


def random_blocks(rng, kind, rows, width):
    """Rows of any bytes, with sensible factors."""
    block, size = GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (rows, width // block, size), dtype=np.uint8)
    offsets = FACTORS.get(kind, [0, 2] if kind in (Type.Q4_1, Type.Q5_1) else [0])
    for at in offsets:
        factors = rng.uniform(-0.02, 0.02, (rows, width // block, 1)).astype(np.float16)
        data[:, :, at : at + 2] = factors.view(np.uint8)
    return data.reshape(rows, -1)


def encode(rng, kind, values):
    """Raw rows of a type; K-quants, which the package cannot make, are random."""
    if kind in FACTORS:
        return random_blocks(rng, kind, *values.shape)
    return quants.quantize(values, kind)


def pair_neighbours(rows, heads):
    """The row order of llama.cpp's converter for W_q and W_k of `llama`."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class Model:
    def __init__(self, name, arch, seed, kind):
        self.name, self.arch, self.kind = name, arch, kind
        self.rng = np.random.default_rng(seed)
        self.writer = GGUFWriter(FOLDER / f"{name}.gguf", arch)
        self.golden = {"tensors": {}}
        self.count = 0

    def tensor(self, hf, gguf, shape, kind=None, order=lambda rows: rows, scale=0.1):
        values = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        kind = Type.F32 if len(shape) == 1 else kind or self.kind(self.count)
        self.count += len(shape) == 2
        raw = encode(self.rng, kind, values)
        self.golden["tensors"][hf] = sha(quants.dequantize(raw, kind).reshape(shape))
        self.write(gguf, order(raw), kind)
        return raw, kind

    def write(self, gguf, raw, kind):
        self.writer.add_tensor(gguf, np.ascontiguousarray(raw), raw_dtype=kind)

    def close(self):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self.golden

    def sizes(self, width, ff, layers, heads, kv, context=128):
        w = self.writer
        w.add_context_length(context)
        w.add_embedding_length(width)
        w.add_block_count(layers)
        w.add_feed_forward_length(ff)
        w.add_head_count(heads)
        w.add_head_count_kv(kv)

    def byte_level(self, pre, merges, special):
        """Bytes, the merges' results, then special tokens."""
        w = self.writer
        tokens = byte_characters() + ["".join(m.split()) for m in merges] + special
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre(pre)
        w.add_token_list(tokens)
        w.add_token_types([1] * (len(tokens) - len(special)) + [3] * len(special))
        w.add_token_merges(merges)
        return len(tokens)

    def sentence_piece(self):
        w = self.writer
        pieces = ["\u2581", "a", "b", "ab", "\u2581ab"]
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        w.add_token_list(tokens)
        w.add_token_scores([0.0] * 259 + [-1e9] * 3 + [0.0, -1.0])
        w.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
        return len(tokens)


def decoder(m, vocab, width, ff, layers, heads, kv, head_dim, *, bias=False, qk_norm=False, tied=False, kinds={}):
    """Llama-shaped: names of Hugging Face on the left, of GGUF on the right."""
    neighbours = m.arch == "llama"
    m.tensor("model.embed_tokens.weight", "token_embd.weight", (vocab, width), kinds.get("embed"))
    for i in range(layers):
        def put(hf, gguf, out, into, count=None):
            order = (lambda rows: pair_neighbours(rows, count)) if neighbours and count else lambda rows: rows
            m.tensor(f"model.layers.{i}.{hf}.weight", f"blk.{i}.{gguf}.weight", (out, into), kinds.get(gguf), order)
            if bias and gguf in ("attn_q", "attn_k", "attn_v"):
                m.tensor(f"model.layers.{i}.{hf}.bias", f"blk.{i}.{gguf}.bias", (out,), None, order)

        m.tensor(f"model.layers.{i}.input_layernorm.weight", f"blk.{i}.attn_norm.weight", (width,), scale=1)
        put("self_attn.q_proj", "attn_q", heads * head_dim, width, heads)
        put("self_attn.k_proj", "attn_k", kv * head_dim, width, kv)
        put("self_attn.v_proj", "attn_v", kv * head_dim, width)
        put("self_attn.o_proj", "attn_output", width, heads * head_dim)
        if qk_norm:
            m.tensor(f"model.layers.{i}.self_attn.q_norm.weight", f"blk.{i}.attn_q_norm.weight", (head_dim,), scale=1)
            m.tensor(f"model.layers.{i}.self_attn.k_norm.weight", f"blk.{i}.attn_k_norm.weight", (head_dim,), scale=1)
        m.tensor(f"model.layers.{i}.post_attention_layernorm.weight", f"blk.{i}.ffn_norm.weight", (width,), scale=1)
        put("mlp.gate_proj", "ffn_gate", ff, width)
        put("mlp.up_proj", "ffn_up", ff, width)
        put("mlp.down_proj", "ffn_down", width, ff)
    m.tensor("model.norm.weight", "output_norm.weight", (width,), scale=1)
    if not tied:
        m.tensor("lm_head.weight", "output.weight", (vocab, width), kinds.get("output"))


def llama_legacy():
    """Every legacy type in turn, SentencePiece, linear RoPE."""
    m = Model("llama_legacy", "llama", 1, lambda i: [*LEGACY, Type.F16, Type.BF16, Type.F32][i % 8])
    w = m.writer
    w.add_name("Tiny Llama")
    m.sizes(32, 64, 2, 4, 2)
    w.add_rope_dimension_count(8)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_scaling_type(RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(4.0)
    vocab = m.sentence_piece()
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_chat_template(CHAT)
    decoder(m, vocab, 32, 64, 2, 4, 2, 8)
    m.golden |= {"start": 1, "stop": [2], "name": "Tiny Llama", "chat_template": CHAT}
    return m.close()


def llama_k():
    """K-quants, Llama 3's RoPE, no tokenizer, tied."""
    m = Model("llama_k", "llama", 2, lambda i: Type.Q4_K)
    w = m.writer
    m.sizes(256, 32, 1, 2, 1, 131072)
    w.add_key_length(32)
    w.add_value_length(32)
    w.add_rope_dimension_count(32)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(500000.0)
    frequency = 1.0 / (np.float32(500000.0) ** (np.arange(0, 32, 2, dtype=np.float32) / np.float32(32)))
    wavelength = 2 * np.pi / frequency.astype(np.float64)
    smooth = np.clip((8192 / wavelength - 1) / 3, 0, 1)
    divisors = np.where(wavelength < 8192 / 4, 1, np.where(wavelength > 8192, 32, 1 / ((1 - smooth) / 32 + smooth)))
    assert {1, 32} < set(divisors)  # and some between
    m.write("rope_freqs.weight", divisors.astype(np.float32), Type.F32)
    kinds = {"embed": Type.Q6_K, "attn_k": Type.Q5_K, "attn_v": Type.Q6_K, "attn_output": Type.Q5_0}
    kinds["ffn_down"] = Type.Q4_0
    decoder(m, 24, 256, 32, 1, 2, 1, 32, tied=True, kinds=kinds)
    m.golden |= {"start": None, "stop": [], "name": "", "chat_template": ""}
    return m.close()


def qwen2():
    """Biases, tied, YaRN."""
    m = Model("qwen2", "qwen2", 3, lambda i: Type.Q8_0)
    w = m.writer
    m.sizes(32, 64, 1, 4, 2, 512)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(1000000.0)
    w.add_rope_scaling_type(RopeScalingType.YARN)
    w.add_rope_scaling_factor(4.0)
    w.add_rope_scaling_orig_ctx_len(128)
    vocab = m.byte_level("qwen2", ["a b", "ab c"], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    w.add_bos_token_id(vocab - 3)
    w.add_eos_token_id(vocab - 1)
    w.add_eot_token_id(vocab - 3)
    decoder(m, vocab, 32, 64, 1, 4, 2, 8, bias=True, tied=True)
    m.golden |= {"start": None, "stop": [vocab - 1, vocab - 3], "name": "", "chat_template": ""}
    return m.close()


def qwen3():
    """QK-norm, heads·head_dim ≠ d_model, BOS in front although the tokenizer's kind has none."""
    m = Model("qwen3", "qwen3", 4, lambda i: Type.Q4_1)
    w = m.writer
    m.sizes(32, 64, 1, 4, 2)
    w.add_key_length(16)
    w.add_value_length(16)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(1000000.0)
    vocab = m.byte_level("qwen2", ["a b"], ["<|endoftext|>"])
    w.add_bos_token_id(vocab - 1)
    w.add_eos_token_id(vocab - 1)
    w.add_add_bos_token(True)
    decoder(m, vocab, 32, 64, 1, 4, 2, 16, qk_norm=True)
    m.golden |= {"start": vocab - 1, "stop": [vocab - 1], "name": "", "chat_template": ""}
    return m.close()


def gptneox():
    """Fused q, k, v as llama.cpp's converter leaves them, parallel residual, partial RoPE."""
    m = Model("gptneox", "gptneox", 5, lambda i: Type.Q8_0)
    w = m.writer
    m.sizes(32, 64, 2, 4, 4)
    w.add_rope_dimension_count(4)
    w.add_layer_norm_eps(1e-5)
    w.add_parallel_residual(True)
    vocab = m.byte_level("gpt-2", ["a b"], ["<|endoftext|>"])
    for name in ("bos", "eos"):
        getattr(w, f"add_{name}_token_id")(vocab - 1)

    def norm(hf, gguf):
        m.tensor(f"{hf}.weight", f"{gguf}.weight", (32,), scale=1)
        m.tensor(f"{hf}.bias", f"{gguf}.bias", (32,))

    def linear(hf, gguf, out, into):
        m.tensor(f"{hf}.weight", f"{gguf}.weight", (out, into))
        m.tensor(f"{hf}.bias", f"{gguf}.bias", (out,))

    m.tensor("model.embed_tokens.weight", "token_embd.weight", (vocab, 32))
    for i in range(2):
        hf, gguf = f"model.layers.{i}", f"blk.{i}"
        norm(f"{hf}.input_layernorm", f"{gguf}.attn_norm")
        for kind in ("weight", "bias"):
            fused = f"{gguf}.attn_qkv.{kind}"
            parts = []
            for p in "qkv":
                values = (m.rng.standard_normal((32, 32) if kind == "weight" else (32,)) * 0.1).astype(np.float32)
                stored = Type.Q8_0 if kind == "weight" else Type.F32
                parts.append(quants.quantize(values, stored))
                m.golden["tensors"][f"{hf}.self_attn.{p}_proj.{kind}"] = sha(quants.dequantize(parts[-1], stored))
            m.write(fused, np.concatenate(parts), stored)
        linear(f"{hf}.self_attn.o_proj", f"{gguf}.attn_output", 32, 32)
        norm(f"{hf}.post_attention_layernorm", f"{gguf}.ffn_norm")
        linear(f"{hf}.mlp.up_proj", f"{gguf}.ffn_up", 64, 32)
        linear(f"{hf}.mlp.down_proj", f"{gguf}.ffn_down", 32, 64)
    norm("model.norm", "output_norm")
    m.tensor("lm_head.weight", "output.weight", (vocab, 32))
    m.golden |= {"start": None, "stop": [vocab - 1], "name": "", "chat_template": ""}
    return m.close()


def blocks():
    """Any bytes in every block type; `source` and its encodings, with edge cases of rounding."""
    rng = np.random.default_rng(6)
    w = GGUFWriter(FOLDER / "blocks.gguf", "blocks")
    golden = {}
    for kind in [*LEGACY, *FACTORS]:
        raw = random_blocks(rng, kind, 3, 512)
        w.add_tensor(f"random.{kind.name}", raw, raw_dtype=kind)
        golden[f"random.{kind.name}"] = sha(quants.dequantize(raw, kind))
    source = rng.standard_normal((4, 64)).astype(np.float32)
    source[0, :32] = 0
    source[0, 32:] = -np.arange(32, dtype=np.float32)  # halves and ties of both roundings
    source[1, :32] = np.tile([127, -127, 0.5, -0.5, 1.5, 2.5, -2.5, 63.5], 4)
    source[1, 32:] *= 1e-7  # a scale that is subnormal or zero in fp16
    source[2, :32] = 1.25  # equal magnitudes: the first decides the sign
    source[2, 1] = -1.25
    source[2, 32:] *= 2e4
    w.add_tensor("source", source)
    for kind in [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, *LEGACY[1:4]]:
        raw = quants.quantize(source[:3] / 4 if kind == Type.F16 else source, kind)
        w.add_tensor(f"source.{kind.name}", raw, raw_dtype=kind)
        golden[f"source.{kind.name}"] = sha(quants.dequantize(raw, kind))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return golden


def main():
    FOLDER.mkdir(exist_ok=True)
    golden = {build.__name__: build() for build in (llama_legacy, llama_k, qwen2, qwen3, gptneox, blocks)}
    (FOLDER / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
