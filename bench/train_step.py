#!/usr/bin/env python3
"""Our whole training step against the same network in plain PyTorch, eager and compiled, in one run.

    scripts/setup --live && scripts/build release --target bench_train_step
    .deps/venv-torch/bin/python bench/train_step.py

The binary writes its weights and its first batch; PyTorch must reach the same loss from them (enlarged, in
double precision) before anything is timed. Then all sides take turns, round by round, so that noise of the
machine hits all of them; a ratio is the median over rounds of (their time / our time) within the round: above
1 means that ours is faster.
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import yaml
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

SHAPES = ("decoder-7M", "decoder-30M", "block-30M")
EPS, THETA = 1e-5, 10000.0  # defaults of the `model:` section


class Attention(nn.Module):
    def __init__(self, width, heads, head_dim):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        q, k, v = (proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
                   for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


def turn(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, width, heads, head_dim, inner):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, eps=EPS)
        self.self_attn = Attention(width, heads, head_dim)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=EPS)
        self.mlp = Mlp(width, inner)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stack(nn.Module):
    def __init__(self, section, vocabulary, table_width, positions):
        super().__init__()
        width, attention = section["d_model"], section["attention"]
        self.embed_tokens = nn.Embedding(vocabulary, table_width)
        self.layers = nn.ModuleList(
            Layer(width, attention["heads"], attention["head_dim"], section["ffn"]["d_ff"])
            for _ in range(section["layers"]))
        self.norm = nn.RMSNorm(width, eps=EPS)
        half = torch.arange(0, attention["head_dim"], 2, dtype=torch.float64) / attention["head_dim"]
        angle = torch.outer(torch.arange(positions, dtype=torch.float64), THETA**-half)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, x):
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Decoder(nn.Module):
    def __init__(self, spec, context, _eos):
        super().__init__()
        section = spec["decoder"]
        self.model = Stack(section, spec["vocab_size"], section["d_model"], context)
        self.lm_head = nn.Linear(section["d_model"], spec["vocab_size"], bias=False)

    def forward(self, tokens, targets):
        logits = self.lm_head(self.model(self.model.embed_tokens(tokens)))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class BlockTransformer(nn.Module):
    """Blocks of L tokens with one block of EOS in front; the state of a block becomes P vectors in front of
    the next block's tokens (arXiv 2406.02657 §2.2)."""

    def __init__(self, spec, context, eos):
        super().__init__()
        block, outer, inner = spec["block"], spec["global"], spec["local"]
        self.length, self.prefix, self.eos = block["length"], block["prefix_length"], eos
        vocabulary, width = spec["vocab_size"], inner["d_model"]
        self.add_module("global", Stack(outer, vocabulary, outer["d_model"] // self.length,
                                        context // self.length + 1))
        getattr(self, "global").add_module("expansion", nn.Linear(outer["d_model"], self.prefix * width))
        self.local = Stack(inner, vocabulary, width, self.prefix + self.length - 1)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens, targets):
        outer = getattr(self, "global")
        batch, count = tokens.shape
        eos = tokens.new_full((batch, self.length), self.eos)
        blocks = outer.embed_tokens(torch.cat((eos, tokens), 1)).view(batch, count // self.length + 1, -1)
        context = outer.expansion(outer(blocks)).view(-1, self.prefix, self.local.embed_tokens.embedding_dim)
        inside = torch.cat((tokens, eos), 1).view(-1, self.length)[:, :-1]
        rows = self.local(torch.cat((context, self.local.embed_tokens(inside).to(context.dtype)), 1))
        # Row P − 1 + r of a block predicts its token r; row i of the text what follows token i.
        hidden = rows[:, self.prefix - 1 :].reshape(batch, -1, rows.shape[-1])[:, 1 : count + 1]
        logits = self.lm_head(hidden)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Theirs:
    """Plain PyTorch: modules, SDPA, clipping, fused AdamW; bf16 is autocast over fp32 weights."""

    def __init__(self, model, tokens, targets, bf16, compiled):
        self.model, self.tokens, self.targets, self.bf16 = model, tokens, targets, bf16
        self.run = torch.compile(model) if compiled else model
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
            lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.run(self.tokens, self.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def time(self, steps):
        took = []
        for _ in range(steps):
            start = time.perf_counter()
            self.step()
            took.append(1e3 * (time.perf_counter() - start))
        return took


class Ours:
    """The binary, stepping when asked."""

    def __init__(self, binary, shape, precision, threads, steps, dump):
        self.process = subprocess.Popen(
            [binary, "--shape", shape, "--precision", precision, "--threads", str(threads), "--steps", str(steps),
             "--on-demand", "--dump", dump], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the binary ended with status {self.process.wait()}")
        return json.loads(line)

    def time(self, _steps):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()["step_ms"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def load(path):
    """The network of the dump in PyTorch with its weights, and the batch."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    spec = yaml.safe_load(about["model"])
    tokens, targets = tensors.pop("tokens").long(), tensors.pop("targets").long()
    kind = Decoder if spec["kind"] == "decoder" else BlockTransformer
    model = kind(spec, tokens.shape[1], int(about["eos_id"]))
    model.load_state_dict(tensors, strict=True)
    check_same_network(copy.deepcopy(model).double(), tokens[:1], targets[:1], about)
    return model, tokens, targets


def check_same_network(model, tokens, targets, about):
    """In double precision with enlarged weights the loss of the first sample is the binary's. RoPE tables are
    rounded to float32 here, so their half unit times the number of layers bounds the relative error."""
    want = float(about["enlarged_loss"])
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(float(about["enlarged"]))
        # The module's cast to float32 before the loss is harmless in training, not in this comparison.
        single, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
        try:
            loss = model(tokens, targets).item()
        finally:
            torch.Tensor.float = single
    layers = sum(isinstance(module, Layer) for module in model.modules())
    bound = layers * torch.finfo(torch.float32).eps * want
    if not abs(loss - want) <= bound:
        sys.exit(f"PyTorch's loss with enlarged weights is {loss}, ours {want} ± {bound}: not the same network")


def compare(options, shape, precision):
    with tempfile.TemporaryDirectory() as folder:
        dump = str(pathlib.Path(folder) / "dump.safetensors")
        ours = Ours(options.binary, shape, precision, options.threads, options.steps, dump)
        model, tokens, targets = load(dump)
    bf16 = precision == "bf16"
    sides = {"ours": ours, "eager": Theirs(copy.deepcopy(model), tokens, targets, bf16, False)}
    if not options.no_compile:
        sides["compile"] = Theirs(model, tokens, targets, bf16, True)
    for side in sides.values():
        side.time(2)  # first steps allocate, and compile
    rounds = []
    names = list(sides)
    for index in range(options.rounds):
        order = names[index % len(names):] + names[: index % len(names)]
        rounds.append({name: statistics.median(sides[name].time(options.steps)) for name in order})
        rounds[-1]["load"] = os.getloadavg()[0]
    ours.close()
    result = {"shape": shape, "precision": precision, "threads": options.threads,
              "parameters": ours.about["parameters"], "loss": ours.about["loss"], "rounds": rounds}
    for name in names:
        result[f"{name}_ms"] = statistics.median(r[name] for r in rounds)
        if name != "ours":
            result[f"ratio_{name}"] = statistics.median(r[name] / r["ours"] for r in rounds)
    return result


def cell(result, key, form):
    return format(result[key], form) if key in result else "–"


def table(results):
    lines = ["| shape | precision | threads | ours ms | eager ms | compile ms | eager / ours | compile / ours | load |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in results:
        load_average = statistics.median(entry["load"] for entry in r["rounds"])
        lines.append(
            f"| {r['shape']} | {r['precision']} | {r['threads']} | {r['ours_ms']:.0f} | {r['eager_ms']:.0f} | "
            f"{cell(r, 'compile_ms', '.0f')} | {r['ratio_eager']:.2f}× | {cell(r, 'ratio_compile', '.2f')}× | "
            f"{load_average:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="build/release/bench_train_step")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), action="append",
                        help="default: fp32, and bf16 where the processor has bf16 products")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps a round and side")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    has_bf16 = "avx512_bf16" in flags or "amx_bf16" in flags
    results = []
    for shape in options.shape or SHAPES:
        for precision in options.precision or (["fp32", "bf16"] if has_bf16 else ["fp32"]):
            results.append(compare(options, shape, precision))
            print(table(results[-1:]).splitlines()[-1], file=sys.stderr)
    print(json.dumps(results, indent=2) if options.json else table(results))


if __name__ == "__main__":
    main()
