"""Tiny random decoders built with the `transformers` library, and how they are written as ours.

A family knows three things: its configuration class, the `model:` section that describes the same network
here, and how one of its state dictionaries (weights or gradients: the map is linear apart from a shift of
norm gains) is re-arranged under our parameter names (models/spec/parameters.h).

transformers computes norms, softmax and RoPE tables in float32 whatever the type of the model.
`double_precision()` replaces float32 by float64 in its modules, so that what is compared is the formula
and not the rounding.
"""

import contextlib
import importlib
import json
import math
import sys

import numpy
import torch
import transformers

# Text of the golden vectors: two rows of TEXT tokens and the token behind them. Longer than every window
# and than the original context of the stretched models.
ROWS, TEXT, VOCAB = 2, 24, 37
DERIVED = object()  # marks a size the family computes itself
EPS = 1e-6  # DeepSeek's latent norms have this one built in


class DoubleTorch:
    """The torch module as seen by transformers' modules: float32 is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def double_precision(family):
    """Inside, transformers computes what it fixes to float32 in float64."""
    importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    names = ("transformers.modeling_rope_utils", f"transformers.models.{family}.modeling_{family}")
    modules = [sys.modules[name] for name in names]
    single = torch.Tensor.float
    for module in modules:
        module.torch = DoubleTorch()
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = single
        for module in modules:
            module.torch = torch


def half_split(rows, rope):
    """Rows of the last `rope` dimensions: neighbours (2i, 2i+1) become (i, i + rope/2)."""
    return torch.cat([rows[..., 0:rope:2, :], rows[..., 1:rope:2, :]], dim=-2)


def plain(state, _config, _shift):
    """Llama's names are ours."""
    return dict(state)


def neox(state, config, _shift):
    """The fused projection holds [q, k, v] of head 0, then of head 1, ..."""
    out = {
        "model.embed_tokens.weight": state["gpt_neox.embed_in.weight"],
        "model.norm.weight": state["gpt_neox.final_layer_norm.weight"],
        "model.norm.bias": state["gpt_neox.final_layer_norm.bias"],
        "lm_head.weight": state["embed_out.weight" if "embed_out.weight" in state else "lm_head.weight"],
    }
    names = {"attention.dense": "self_attn.o_proj", "mlp.dense_h_to_4h": "mlp.up_proj",
             "mlp.dense_4h_to_h": "mlp.down_proj", "input_layernorm": "input_layernorm",
             "post_attention_layernorm": "post_attention_layernorm"}
    heads = config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        theirs, ours = f"gpt_neox.layers.{layer}.", f"model.layers.{layer}."
        for part in ("weight", "bias"):
            for old, new in names.items():
                out[f"{ours}{new}.{part}"] = state[f"{theirs}{old}.{part}"]
            fused = state[f"{theirs}attention.query_key_value.{part}"]
            split = fused.reshape(heads, 3, -1, *fused.shape[1:]).unbind(1)
            for name, value in zip("qkv", split):
                out[f"{ours}self_attn.{name}_proj.{part}"] = value.reshape(-1, *fused.shape[1:])
    return out


def latent(state, config, _shift):
    """DeepSeek: key and value maps are fused per head, and rotated dimensions pair neighbours."""
    heads, nope, rope = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
    out = {}
    for name, value in state.items():
        if name.endswith("q_proj.weight") or name.endswith("q_b_proj.weight"):
            rows = value.reshape(heads, nope + rope, -1)
            rows = torch.cat([rows[:, :nope], half_split(rows[:, nope:], rope)], dim=1)
            out[name.replace("q_b_proj", "q_proj")] = rows.reshape(heads * (nope + rope), -1)
        elif name.endswith("kv_a_proj_with_mqa.weight"):
            rank = config.kv_lora_rank
            out[name] = torch.cat([value[:rank], half_split(value[rank:], rope)])
        elif name.endswith("kv_b_proj.weight"):
            rows = value.reshape(heads, nope + config.v_head_dim, -1)
            out[name.replace("kv_b", "k_b")] = rows[:, :nope].reshape(heads * nope, -1)
            out[name.replace("kv_b", "v_b")] = rows[:, nope:].reshape(heads * config.v_head_dim, -1)
        else:
            out[name] = value
    return out


def gemma(state, config, shift):
    """Norm gains are 1 + weight, and the token table is multiplied by √d."""
    out = {}
    scale = math.sqrt(config.hidden_size)
    for name, value in state.items():
        if name.endswith("norm.weight"):
            value = value + shift
        elif name.endswith("embed_tokens.weight"):
            value = value * scale if shift else value / scale  # a gradient goes the other way
        out[name.replace("pre_feedforward_layernorm", "post_attention_layernorm")] = value
    return out


def nemotron(state, _config, shift):
    """Norm gains are 1 + weight."""
    return {name: value + shift if "norm.weight" in name else value for name, value in state.items()}


def sinks(state, config, shift):
    """gpt-oss: one expert that is always chosen. Its map is another SwiGLU than ours, so its output matrix
    is zero here (`prepare`) and only its output bias acts; the gradients of its matrices are left out."""
    out = {}
    width, inner = config.hidden_size, config.intermediate_size
    for name, value in state.items():
        prefix = name.split(".experts.")[0]
        if name.endswith("experts.down_proj_bias"):
            out[f"{prefix}.down_proj.bias"] = value[0]
            if shift:
                for part, shape in {"gate_proj": (inner, width), "up_proj": (inner, width),
                                    "down_proj": (width, inner)}.items():
                    out[f"{prefix}.{part}.weight"] = torch.zeros(shape, dtype=value.dtype)
                for part in ("gate_proj", "up_proj"):
                    out[f"{prefix}.{part}.bias"] = torch.zeros(inner, dtype=value.dtype)
        elif ".mlp." not in name:
            out[name] = value
    return out


def silence_experts(model):
    for name, value in model.named_parameters():
        if name.endswith("experts.down_proj"):
            value.zero_()


def attention(heads=4, kv_heads=2, head_dim=4, **more):
    return {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "rope_theta": 100.0, **more}


def decoder(layers=2, width=16, hidden=20, norm=None, attention_section=None, ffn=None, **more):
    return {"d_model": width, "layers": layers, "norm": norm or {"kind": "rmsnorm", "eps": EPS},
            "attention": attention_section or attention(), "ffn": {"kind": "swiglu", "d_ff": hidden, **(ffn or {})},
            **more}


def case(family, section, config=None, convert=plain, prepare=None, model=None, rope=None):
    """`section` is our decoder; `config` what the family's configuration says beyond the sizes in it."""
    a = section["attention"]
    values = {
        "vocab_size": VOCAB, "hidden_size": section["d_model"], "intermediate_size": section["ffn"]["d_ff"],
        "num_hidden_layers": section["layers"], "num_attention_heads": a["heads"],
        "num_key_value_heads": a.get("kv_heads", a["heads"]), "head_dim": a["head_dim"],
        "max_position_embeddings": 64, "rms_norm_eps": EPS, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": a["rope_theta"], **(rope or {})},
        "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1, **(config or {}),
    }
    values = {key: value for key, value in values.items() if value is not DERIVED}
    section = {"kind": "decoder", "vocab_size": VOCAB, "context_length": 64, **(model or {}), "decoder": section}
    return {"family": family, "section": section, "config": values, "convert": convert, "prepare": prepare}


def stretched(kind, theirs, **ours):
    """A Llama whose RoPE is stretched eightfold beyond 8 tokens. Larger heads: more frequencies."""
    section = decoder(attention_section=attention(
        heads=2, kv_heads=1, head_dim=12, rope_scaling={"kind": kind, "factor": 8.0, **ours}))
    return case("llama", section, rope={"rope_type": kind, "factor": 8.0, **theirs})


def cases():
    layer_norm = {"kind": "layernorm", "eps": EPS}
    neox_section = dict(norm=layer_norm, attention_section={
        "heads": 2, "head_dim": 8, "rope_dim": 2, "rope_theta": 100.0, "bias": "all"},
        ffn={"kind": "gelu", "bias": True})
    neox_config = {"layer_norm_eps": EPS, "head_dim": DERIVED, "hidden_act": "gelu"}
    mla = {"kind": "mla", "heads": 2, "head_dim": 6, "rope_dim": 4, "latent_dim": 10, "value_dim": 5,
           "rope_theta": 100.0}
    mla_config = {"q_lora_rank": None, "kv_lora_rank": 10, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6,
                  "v_head_dim": 5, "first_k_dense_replace": 2, "head_dim": DERIVED, "num_key_value_heads": 2}
    quarter = {"partial_rotary_factor": 0.25}
    return {
        "llama_mha": case("llama", decoder(attention_section=attention(kv_heads=4))),
        "llama_gqa": case("llama", decoder(layers=3)),
        "llama_tied": case("llama", decoder(), {"tie_word_embeddings": True}, model={"tied_head": True}),
        "llama_bias": case("llama", decoder(attention_section=attention(bias="all"), ffn={"bias": True}),
                           {"attention_bias": True, "mlp_bias": True}),
        "llama_linear": stretched("linear", {}),
        "llama_llama3": stretched("llama3", {"original_max_position_embeddings": 8, "low_freq_factor": 0.25,
                                             "high_freq_factor": 2.0},
                                  original_context=8, low_freq_factor=0.25, high_freq_factor=2.0),
        "llama_yarn": stretched("yarn", {"original_max_position_embeddings": 8, "beta_fast": 1.0,
                                         "beta_slow": 0.05},
                                original_context=8, beta_fast=1.0, beta_slow=0.05),
        "qwen2": case("qwen2", decoder(attention_section=attention(bias="qkv"))),
        "qwen3": case("qwen3", decoder(attention_section=attention(head_dim=6, qk_norm=True))),
        "mistral_window": case("mistral", decoder(attention_section=attention(window=5)), {"sliding_window": 5}),
        "neox_parallel": case("gpt_neox", decoder(residual="parallel", **neox_section),
                              {**neox_config, "use_parallel_residual": True}, neox, rope=quarter),
        "neox_sequential": case("gpt_neox", decoder(**neox_section),
                                {**neox_config, "use_parallel_residual": False}, neox, rope=quarter),
        "nemotron_relu2": case("nemotron", decoder(
            norm=layer_norm, attention_section=attention(head_dim=8, rope_dim=4), ffn={"kind": "relu2"}),
            {"norm_eps": EPS}, nemotron, rope={"partial_rotary_factor": 0.5}),
        "vaultgemma_softcap": case(
            "vaultgemma",
            decoder(attention_section=attention(window=4), overrides=[{"layers": [1], "attention": {"window": 0}}]),
            {"hidden_activation": "silu", "query_pre_attn_scalar": 4, "sliding_window": 4,
             "layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": 3.0,
             "attn_logit_softcapping": None}, gemma, model={"logit_softcap": 3.0}),
        "deepseek_v2": case("deepseek_v2", decoder(attention_section=mla), mla_config, latent),
        "deepseek_v3": case("deepseek_v3", decoder(attention_section={**mla, "query_latent_dim": 7}),
                            {**mla_config, "q_lora_rank": 7, "num_nextn_predict_layers": 0}, latent),
        "gpt_oss_sinks": case(
            "gpt_oss",
            decoder(attention_section=attention(bias="all", sinks=True, window=4), ffn={"bias": True},
                    overrides=[{"layers": [1], "attention": {"window": 0}}]),
            {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"],
             "num_local_experts": 1, "num_experts_per_tok": 1, "attention_bias": True}, sinks, silence_experts),
    }


def fill(model, seed):
    """Random weights in steps of 2^-12, exact in float32 and after any of the maps above: matrices of unit
    output, gains far from 1, biases far from 0."""
    random = numpy.random.Generator(numpy.random.Philox(seed))
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            draw = random.standard_normal(tuple(value.shape))
            if "norm.weight" in name:
                draw = numpy.exp(draw / 2)
            elif value.dim() > 1 and "embed" not in name:
                draw = draw / math.sqrt(value.shape[-1])
            value.copy_(torch.from_numpy(numpy.round(draw * 4096) / 4096))


class Built:
    """One model of a case in float64 with the weights of `seed`."""

    def __init__(self, entry, seed):
        self.entry = entry
        with double_precision(entry["family"]):
            config = transformers.AutoConfig.for_model(entry["family"], **entry["config"])
            self.model = transformers.AutoModelForCausalLM.from_config(
                config, attn_implementation="eager", experts_implementation="eager")
            self.model = self.model.double().eval()
        fill(self.model, seed)
        if entry["prepare"] is not None:
            with torch.no_grad():
                entry["prepare"](self.model)

    def weights(self):
        """Under our names, float64."""
        return self.convert({name: value.detach() for name, value in self.model.named_parameters()}, 1.0)

    def convert(self, state, shift):
        out = self.entry["convert"](state, self.model.config, shift)
        return {name: value.contiguous() for name, value in out.items()}

    def logits(self, tokens):
        with double_precision(self.entry["family"]):
            return self.model(input_ids=tokens, use_cache=False).logits

    def loss_and_gradients(self, tokens, targets):
        """Mean cross-entropy and its gradient under our names."""
        logits = self.logits(tokens)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.model.zero_grad()
        loss.backward()
        gradients = {name: value.grad for name, value in self.model.named_parameters()}
        return logits.detach(), loss.detach(), self.convert(gradients, 0.0)


def text(seed):
    """Token ids [ROWS, TEXT + 1]."""
    random = numpy.random.Generator(numpy.random.Philox(seed + 1000))
    return torch.from_numpy(random.integers(0, VOCAB, (ROWS, TEXT + 1)))


def section_text(entry):
    """The `model:` section: JSON, which is YAML."""
    return json.dumps(entry["section"])
