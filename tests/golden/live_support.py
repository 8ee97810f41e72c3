"""What the live comparisons with Python's transformers share. Argument of the tests: the ashlar binary.

Packages are written here from docs/formats.md alone, so this is also a second writer of the format. The seed
is drawn anew every time and printed; ASHLAR_SEED=N repeats a run.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy
import torch
import transformers
from safetensors.torch import save_file

transformers.utils.logging.disable_progress_bar()
ASHLAR = os.path.abspath(sys.argv.pop(1))
SEED = int(os.environ.get("ASHLAR_SEED") or int.from_bytes(os.urandom(4), "little"))
NORM = {"kind": "rmsnorm", "eps": 1e-5}
ATTENTION = {"kind": "gqa", "rope_theta": 10000.0, "window": 0, "qk_norm": False, "sinks": False, "bias": "none",
             "kv_norm": "shared"}


def ashlar(*arguments):
    return subprocess.run([ASHLAR, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def done(*arguments):
    result = ashlar(*arguments)
    assert result.returncode == 0, result.stderr
    return result


def resolved(section):
    """The resolved ModelSpec of a decoder's `model:` section, layer by layer."""
    stack = section["decoder"]
    norm = {**NORM, **stack.get("norm", {})}
    norm["bias"] = norm["kind"] == "layernorm"
    layers = []
    for index in range(stack["layers"]):
        attention = {**ATTENTION, **stack["attention"]}
        attention.setdefault("kv_heads", attention["heads"])
        attention.setdefault("rope_dim", attention["head_dim"])
        if attention["kind"] == "mla":
            attention.setdefault("query_latent_dim", 0)
        for override in stack.get("overrides", []):
            if index in override["layers"]:
                attention.update(override["attention"])
        layers.append({"norm": norm, "attention": attention, "ffn": {"bias": False, **stack["ffn"]},
                       "residual": stack.get("residual", "sequential"), "kv_owner": index})
    spec = {"tied_head": False, "logit_softcap": 0, **section}
    del spec["decoder"]
    return {**spec, "stacks": [{"role": "model", "d_model": stack["d_model"], "final_norm": norm, "layers": layers}]}


def weights_sha256(tensors):
    sha = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        sha.update(f"{name} [{','.join(map(str, value.shape))}] F32\n".encode())
        sha.update(value.numpy().tobytes())
    return sha.hexdigest()


def write_package(folder, section, tensors):
    folder.mkdir()
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    ours = {"format_version": 1, "spec": resolved(section), "rotation": {"stacks": []},
            "kv_codec": {"key": "fp32", "value": "fp32"}, "weights_sha256": weights_sha256(tensors)}
    config = {"model_type": "ashlar", "vocab_size": section["vocab_size"], **ids, "ashlar": ours}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(ids))
    save_file(tensors, folder / "model.safetensors")


def bound(config, logits):
    """Roundings of one float32 logit: 2·K·eps·norm on each side that rounds, K = every sum on the longest
    path (tests/support/logit_bound.h). RoPE angles of the engine and the cache's sums are among them."""
    inner = getattr(config, "v_head_dim", None) or getattr(config, "head_dim", 0) or 0
    terms = config.num_hidden_layers * (3 * config.hidden_size + config.intermediate_size
                                        + config.num_attention_heads * max(inner, 1) + logits.shape[0])
    terms += 2 * config.hidden_size
    return 2 * terms * float(numpy.finfo(numpy.float32).eps) * float(numpy.abs(logits).max())


class LiveCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"ASHLAR_SEED={SEED}", file=sys.stderr)
        torch.set_num_threads(1)
        cls.temporary = tempfile.TemporaryDirectory()
        cls.dir = pathlib.Path(cls.temporary.name)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def evaluate(self, package, tokens, scorer):
        file, out = self.dir / "tokens.json", self.dir / "logits.npy"
        file.write_text(json.dumps(tokens))
        out.unlink(missing_ok=True)
        result = ashlar("eval", package, "--scorer", scorer, "--threads", 1, "--kv-codec", "fp32", "--task",
                        f"logits:{file}", "--output", out)
        return result, numpy.load(out) if result.returncode == 0 else None

    def agree(self, actual, expected, limit):
        self.assertEqual(actual.dtype, numpy.float32)
        self.assertEqual(actual.shape, expected.shape)
        error = numpy.abs(actual - expected)
        worst = numpy.unravel_index(error.argmax(), error.shape)
        self.assertLessEqual(error.max(), limit, f"at {worst}: {actual[worst]} for {expected[worst]}")

    def train(self, name, *settings, config="configs/smoke/decoder_gqa.yaml"):
        """A run of two steps of a tiny decoder and its package."""
        folder = self.dir / name
        if not (self.dir / "data").exists():
            rows = [json.dumps({"text": line}) for line in pathlib.Path("LICENSE").read_text().splitlines() if line]
            (self.dir / "text.jsonl").write_text("\n".join(rows * 8) + "\n")
            done("tokenizer", "train", "--input", self.dir / "text.jsonl", "--vocab-size", 512, "--output",
                 self.dir / "tokenizer.json")
            done("data", "prepare", "--input", self.dir / "text.jsonl", "--tokenizer", self.dir / "tokenizer.json",
                 "--validation-share", 0.2, "--output", self.dir / "data")
        folder.mkdir()
        # Steps so large that the weights leave their small initial values: attention then depends on positions.
        settings = ("optimizer.lr=0.2", "train.threads=1", f"data.train={self.dir}/data/train",
                    f"data.validation={self.dir}/data/validation", *settings)
        options = [part for setting in settings for part in ("--set", setting)]
        done("train", config, *options, "--output", folder / "run")
        done("export", folder / "run", "--output", folder / "package")
        return folder / "package"
