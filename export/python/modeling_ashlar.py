"""Ashlar's decoders and Block Transformers in plain PyTorch, for evaluation with `transformers`.

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Written from the equations, for clarity and not for speed: no KV cache, no fused attention; every call computes
the whole text. The resolved model description (`config.ashlar["spec"]`) is read layer by layer.

Shapes: B texts, T tokens, D width of a residual stream, H query heads, G key/value heads, E width of a head,
L tokens per block, N blocks, R context rows per block.

A decoder sees exactly the tokens it is given: put the start token (`config.bos_token_id`) in front if the model
was trained with one. A Block Transformer gets one block of start tokens in front of the text by itself.

Papers: RMSNorm 1910.07467, RoPE 2104.09864, YaRN 2309.00071, SwiGLU 2002.05202, squared ReLU 2109.08668,
cross-layer attention 2405.12981, latent attention 2405.04434, Block Transformer 2406.02657.
"""

import math

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_ashlar import AshlarConfig


def one_of(value, *names):
    """A description that says something this file does not know is refused, not guessed at."""
    if value not in names:
        raise ValueError(f"'{value}' is not known: this file computes {', '.join(names)}")
    return value


KNOWN_KEYS = {
    "spec": "kind vocab_size context_length tied_head logit_softcap block stacks",
    "block": "length embedder context pad embedding_dim cls_tokens prefix_length",
    "layer": "norm attention ffn residual kv_owner",
    "attention": "kind heads kv_heads head_dim rope_dim rope_theta rope_scaling window qk_norm sinks bias kv_norm "
    "latent_dim query_latent_dim value_dim",
    "ffn": "kind d_ff bias",
}


def known(part, spec):
    """The same for keys: a later version may describe networks that this file does not compute."""
    for key in spec:
        one_of(key, *KNOWN_KEYS[part].split())
    return spec


def wide(x):
    """Norms and softmax are computed in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        h = wide(x)
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps)
        return (h * wide(self.weight)).to(x.dtype)


class LayerNorm(nn.Module):
    def __init__(self, width, eps, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x):
        h = wide(x)
        h = h - h.mean(-1, keepdim=True)
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps) * wide(self.weight)
        return (h if self.bias is None else h + wide(self.bias)).to(x.dtype)


def make_norm(spec, width):
    if one_of(spec["kind"], "rmsnorm", "layernorm") == "rmsnorm":
        return RmsNorm(width, spec["eps"])
    return LayerNorm(width, spec["eps"], spec["bias"])


def rope_frequencies(spec):
    """Angle per position of every pair, float64 [rope_dim / 2], and the magnitude of cosines and sines."""
    dim, theta = spec["rope_dim"], spec["rope_theta"]
    pair = torch.arange(dim // 2, dtype=torch.float64)
    plain = theta ** (-2.0 * pair / dim)
    scaling = spec.get("rope_scaling") or {"kind": "none"}
    kind = one_of(scaling["kind"], "none", "linear", "llama3", "yarn")
    if kind == "none":
        return plain, 1.0
    factor = scaling["factor"]
    if kind == "linear":
        return plain / factor, 1.0
    original = scaling["original_context"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = original * plain / (2 * math.pi)  # within the original context
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return plain * ((1 - keep) / factor + keep), 1.0

    def dimension(turns):
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(scaling["beta_fast"])), 0)
    high = min(math.ceil(dimension(scaling["beta_slow"])), dim - 1)
    stretched = ((pair - low) / (high - low if high != low else 0.001)).clamp(0, 1)
    return plain * (stretched / factor + 1 - stretched), 0.1 * math.log(factor) + 1


def rotate(x, spec):
    """Turns the first rope_dim dimensions of every head at positions 0..T-1; dimension i pairs with
    i + rope_dim/2. x: [B, T, heads, width]."""
    dim = spec["rope_dim"]
    if dim == 0:
        return x
    frequency, magnitude = rope_frequencies(spec)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequency
    cos, sin = (
        (f(angle) * magnitude).to(device=x.device, dtype=wide(x).dtype)[None, :, None, :] for f in (torch.cos, torch.sin)
    )
    first, second, rest = wide(x).split([dim // 2, dim // 2, x.shape[-1] - dim], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)


def attend(q, k, v, visible, sinks=None):
    """softmax(q·k/√E)·v over visible rows; a sink is one more logit per head that carries no value.
    q: [B, T, H, E], k: [B, S, G, E], v: [B, S, G, V], visible: [T, S] or None; returns [B, T, H·V]."""
    heads, groups = q.shape[2], k.shape[2]
    k, v = (y.repeat_interleave(heads // groups, dim=2).transpose(1, 2) for y in (k, v))
    scores = wide(q.transpose(1, 2) @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])  # [B, H, T, S]
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    if sinks is not None:
        column = wide(sinks)[None, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    p = scores.softmax(-1)[..., : k.shape[2]].to(v.dtype)
    return (p @ v).transpose(1, 2).flatten(2)


def causal_rows(length, window, device):
    """[T, T]: query i sees its own row and the window - 1 before it; window 0: all before it."""
    i = torch.arange(length, device=device)
    distance = i[:, None] - i[None, :]
    seen = distance >= 0
    return seen & (distance < window) if window > 0 else seen


class Attention(nn.Module):
    """Self-attention. Layers that own no K/V read those of their owner."""

    def __init__(self, layer, width, owner):
        super().__init__()
        self.spec = spec = known("attention", layer["attention"])
        self.owner = owner
        self.latent = one_of(spec["kind"], "gqa", "mla") == "mla"
        heads, dim = spec["heads"], spec["head_dim"]
        eps = layer["norm"]["eps"]
        bias = one_of(spec["bias"], "none", "qkv", "all") != "none"
        if owner and spec["kv_norm"] == "separate":
            self.kv_layernorm = make_norm(layer["norm"], width)
        if self.latent:
            self.latent_parts(spec, width, owner, eps)
        else:
            self.q_proj = nn.Linear(width, heads * dim, bias=bias)
            if owner:
                self.k_proj = nn.Linear(width, spec["kv_heads"] * dim, bias=bias)
                self.v_proj = nn.Linear(width, spec["kv_heads"] * dim, bias=bias)
            if spec["qk_norm"]:
                self.q_norm = RmsNorm(dim, eps)
                if owner:
                    self.k_norm = RmsNorm(dim, eps)
        if spec["sinks"]:
            self.sinks = nn.Parameter(torch.zeros(heads))
        value = spec["value_dim"] if self.latent else dim
        self.o_proj = nn.Linear(heads * value, width, bias=spec["bias"] == "all")

    def latent_parts(self, spec, width, owner, eps):
        heads, dim, rope = spec["heads"], spec["head_dim"], spec["rope_dim"]
        rank, latent = spec["query_latent_dim"], spec["latent_dim"]
        if rank > 0:
            self.q_a_proj = nn.Linear(width, rank, bias=False)
            self.q_a_layernorm = RmsNorm(rank, eps)
        self.q_proj = nn.Linear(rank or width, heads * (dim + rope), bias=False)
        if owner:
            self.kv_a_proj_with_mqa = nn.Linear(width, latent + rope, bias=False)
            self.kv_a_layernorm = RmsNorm(latent, eps)
            self.k_b_proj = nn.Linear(latent, heads * dim, bias=False)
            self.v_b_proj = nn.Linear(latent, heads * spec["value_dim"], bias=False)

    def keys_and_values(self, x, h):
        """Of an owner layer; x: the residual stream [B, T, D], h: the query's normalised input."""
        spec = self.spec
        if spec["kv_norm"] == "separate":
            h = self.kv_layernorm(x)
        if not self.latent:
            k, v = (p(h).unflatten(-1, (spec["kv_heads"], spec["head_dim"])) for p in (self.k_proj, self.v_proj))
            if spec["qk_norm"]:
                k = self.k_norm(k)
            return rotate(k, spec), v
        # c = norm(W_c·h); per head k = [W_uk·c, RoPE(W_kr·h)], v = W_uv·c.
        c, shared = self.kv_a_proj_with_mqa(h).split([spec["latent_dim"], spec["rope_dim"]], dim=-1)
        c = self.kv_a_layernorm(c)
        k = self.k_b_proj(c).unflatten(-1, (spec["heads"], spec["head_dim"]))
        shared = rotate(shared[:, :, None], spec).expand(-1, -1, spec["heads"], -1)
        return torch.cat([k, shared], dim=-1), self.v_b_proj(c).unflatten(-1, (spec["heads"], spec["value_dim"]))

    def query(self, h):
        spec = self.spec
        if self.latent and spec["query_latent_dim"] > 0:
            h = self.q_a_layernorm(self.q_a_proj(h))
        q = self.q_proj(h).unflatten(-1, (spec["heads"], -1))
        if self.latent:
            free, turned = q.split([spec["head_dim"], spec["rope_dim"]], dim=-1)
            return torch.cat([free, rotate(turned, spec)], dim=-1)
        return rotate(self.q_norm(q) if spec["qk_norm"] else q, spec)

    def forward(self, h, k, v, causal):
        visible = causal_rows(h.shape[1], self.spec["window"], h.device) if causal else None
        return self.o_proj(attend(self.query(h), k, v, visible, getattr(self, "sinks", None)))


class CrossAttention(nn.Module):
    """Attention of the token decoder to the context rows of its block, without positions."""

    def __init__(self, spec, width):
        super().__init__()
        self.dim = dim = spec["head_dim"]
        bias = spec["bias"] != "none"
        self.q_proj = nn.Linear(width, spec["heads"] * dim, bias=bias)
        self.k_proj = nn.Linear(width, spec["kv_heads"] * dim, bias=bias)
        self.v_proj = nn.Linear(width, spec["kv_heads"] * dim, bias=bias)
        self.o_proj = nn.Linear(spec["heads"] * dim, width, bias=spec["bias"] == "all")

    def forward(self, h, context):
        q, k, v = (
            p(y).unflatten(-1, (-1, self.dim))
            for p, y in ((self.q_proj, h), (self.k_proj, context), (self.v_proj, context))
        )
        return self.o_proj(attend(q, k, v, None))


class FeedForward(nn.Module):
    def __init__(self, spec, width):
        super().__init__()
        self.kind = one_of(known("ffn", spec)["kind"], "swiglu", "gelu", "relu2")
        if self.kind == "swiglu":
            self.gate_proj = nn.Linear(width, spec["d_ff"], bias=spec["bias"])
        self.up_proj = nn.Linear(width, spec["d_ff"], bias=spec["bias"])
        self.down_proj = nn.Linear(spec["d_ff"], width, bias=spec["bias"])

    def forward(self, h):
        up = self.up_proj(h)
        if self.kind == "swiglu":
            return self.down_proj(nn.functional.silu(self.gate_proj(h)) * up)
        if self.kind == "gelu":
            return self.down_proj(nn.functional.gelu(up))
        return self.down_proj(nn.functional.relu(up).square())


class Layer(nn.Module):
    def __init__(self, spec, width, index, cross):
        super().__init__()
        self.residual = one_of(known("layer", spec)["residual"], "sequential", "parallel", "post")
        self.kv_owner = spec["kv_owner"]
        self.input_layernorm = make_norm(spec["norm"], width)
        self.self_attn = Attention(spec, width, self.kv_owner == index)
        if cross:
            self.cross_attn_layernorm = make_norm(spec["norm"], width)
            self.cross_attn = CrossAttention(spec["attention"], width)
        self.post_attention_layernorm = make_norm(spec["norm"], width)
        self.mlp = FeedForward(spec["ffn"], width)

    def forward(self, x, shared, context, causal):
        """x: [B, T, D]; shared: K and V by owner layer, of which an owner adds its own."""
        post = self.residual == "post"
        h = x if post else self.input_layernorm(x)
        if self.self_attn.owner:
            shared[self.kv_owner] = self.self_attn.keys_and_values(x, h)
        attention = self.self_attn(h, *shared[self.kv_owner], causal)
        if post:
            x = self.input_layernorm(x + attention)
            return self.post_attention_layernorm(x + self.mlp(x))
        before = x
        x = x + attention
        parallel = self.residual == "parallel"
        if context is not None:
            x = x + self.cross_attn(self.cross_attn_layernorm(before if parallel else x), context)
        return x + self.mlp(self.post_attention_layernorm(before if parallel else x))


class Stack(nn.Module):
    """One residual stream: its layers and the norm behind them (of the encoder: before them)."""

    def __init__(self, spec, cross=False):
        super().__init__()
        width = spec["d_model"]
        self.layers = nn.ModuleList(Layer(layer, width, i, cross) for i, layer in enumerate(spec["layers"]))
        self.norm = make_norm(spec["final_norm"], width)

    def forward(self, x, context=None, causal=True):
        shared = {}
        for layer in self.layers:
            x = layer(x, shared, context, causal)
        return x


class AshlarForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = AshlarConfig
    base_model_prefix = "ashlar"
    main_input_name = "input_ids"
    _supports_cache_class = False

    def __init__(self, config):
        super().__init__(config)
        self.spec = spec = known("spec", config.spec)
        self.block = block = spec.get("block")
        self.stacks = {stack["role"]: stack for stack in spec["stacks"]}
        for role, stack in self.stacks.items():
            cross = role == "local" and block["context"] == "cross_attention"
            self.add_module(role, Stack(stack, cross))
        if block:
            self.make_block_parts(block)
        self.token_role = "local" if block else "model"
        width = self.stacks[self.token_role]["d_model"]
        self.tokens.embed_tokens = nn.Embedding(spec["vocab_size"], width)
        if not spec["tied_head"]:
            self.lm_head = nn.Linear(width, spec["vocab_size"], bias=False)
        self.post_init()

    def make_block_parts(self, block):
        stack, width = getattr(self, "global"), self.stacks["global"]["d_model"]
        local, length, vocabulary = self.stacks["local"]["d_model"], block["length"], self.spec["vocab_size"]
        one_of(known("block", block)["embedder"], "lookup", "projection", "encoder")
        one_of(block["context"], "prefix", "summation", "cross_attention")
        if block["embedder"] == "lookup":
            stack.embed_tokens = nn.Embedding(vocabulary, width // length)
        elif block["embedder"] == "projection":
            stack.embed_tokens = nn.Embedding(vocabulary, block["embedding_dim"])
            stack.embed_projection = nn.Linear(length * block["embedding_dim"], width)
        else:
            inner, cls = self.stacks["encoder"]["d_model"], block["cls_tokens"]
            self.encoder.embed_tokens = nn.Embedding(vocabulary, inner)
            self.encoder.embed_positions = nn.Embedding(cls + length, inner)
            if cls > 0:
                self.encoder.cls_tokens = nn.Embedding(cls, inner)
            stack.embed_projection = nn.Linear((cls or length) * inner, width)
        rows = block["prefix_length"] if block["context"] == "prefix" else length
        stack.expansion = nn.Linear(width, rows * local)

    @property
    def tokens(self):
        """The stack whose states the head reads."""
        return getattr(self, self.token_role)

    def get_input_embeddings(self):
        return self.tokens.embed_tokens

    def set_input_embeddings(self, value):
        self.tokens.embed_tokens = value

    def get_output_embeddings(self):
        return getattr(self, "lm_head", None)

    def head(self, x):
        x = self.tokens.norm(x)
        weight = self.tokens.embed_tokens.weight if self.spec["tied_head"] else self.lm_head.weight
        logits = x @ weight.T
        cap = self.spec["logit_softcap"]
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    def embed_blocks(self, ids):
        """One vector per block; ids: [B, N, L], returns [B, N, D]."""
        stack, embedder = getattr(self, "global"), self.block["embedder"]
        if embedder == "encoder":
            x = self.encode(ids.flatten(0, 1)).unflatten(0, ids.shape[:2])
        else:
            x = stack.embed_tokens(ids)
        x = x.flatten(2)
        return x if embedder == "lookup" else stack.embed_projection(x)

    def encode(self, ids):
        """The bidirectional encoder over [CLS…, tokens]; ids: [M, L], returns what it says at the CLS tokens,
        or without any at all tokens."""
        cls = self.block["cls_tokens"]
        x = self.encoder.embed_tokens(ids)
        if cls > 0:
            x = torch.cat([self.encoder.cls_tokens.weight.expand(len(ids), -1, -1), x], dim=1)
        x = self.encoder.norm(x + self.encoder.embed_positions.weight)
        x = self.encoder(x, causal=False)
        return x[:, :cls] if cls > 0 else x

    def block_logits(self, ids):
        """Row i predicts the token behind token i, from a block of start tokens, all whole blocks before its
        own and the tokens of its own block before it."""
        length, batch, count = self.block["length"], *ids.shape
        start = self.config.bos_token_id
        if start is None:
            raise ValueError("bos_token_id is missing: a Block Transformer begins with a block of it")
        own = count // length + 1  # blocks with a prediction in them
        text = nn.functional.pad(ids, (0, own * length - count), value=start)
        text = text.unflatten(1, (own, length))  # [B, N, L]
        before = torch.cat([torch.full_like(text[:, :1], start), text[:, :-1]], dim=1)
        stack = getattr(self, "global")
        states = stack.norm(stack(self.embed_blocks(before)))
        context = stack.expansion(states).view(batch * own, -1, self.stacks["local"]["d_model"])
        rows = self.local_states(text.flatten(0, 1), context, start)
        logits = self.head(rows).view(batch, own * length, -1)
        return logits[:, 1 : count + 1]

    def local_states(self, ids, context, start):
        """States that predict each token of each block; ids: [M, L], context: [M, R, D]."""
        kind = self.block["context"]
        if kind == "prefix":
            x = torch.cat([context, self.local.embed_tokens(ids[:, :-1])], dim=1)
            return self.local(x)[:, context.shape[1] - 1 :]
        shifted = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)
        x = self.local.embed_tokens(shifted)
        if kind == "summation":
            return self.local(x + context)
        return self.local(x, context)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(self, input_ids, attention_mask=None, labels=None, logits_to_keep=0, **_):
        """Row i of the logits predicts the token behind token i. Padding may stand behind a text only."""
        if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            raise ValueError("padding in front of a text is not supported: pad on the right")
        if self.block:
            logits = self.block_logits(input_ids)
        else:
            logits = self.head(self.model(self.model.embed_tokens(input_ids)))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                wide(logits[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
            )
        return CausalLMOutput(loss=loss, logits=logits[:, -logits_to_keep:] if logits_to_keep else logits)
