#!/usr/bin/env python3
"""Hugging Face folders both ways, on fresh random networks. Argument: the ashlar binary.

Folders that `transformers` saves are decoded by both sides of the binary; folders that the binary exports are
loaded by `transformers`, by its own classes where it has one for the network and with our modelling file
(trust_remote_code) for every other.
"""

import json
import pathlib
import unittest

import numpy
import torch
import transformers
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from live_support import SEED, LiveCase, ashlar, done, weights_sha256, write_package
from transformers_models import Built, cases, text

STOCK = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
         "qwen3": "Qwen3ForCausalLM", "gpt_neox": "GPTNeoXForCausalLM"}


def bound(spec, logits):
    """tests/support/logit_bound.h; two sides round."""
    terms = 0
    for stack in spec["stacks"]:
        terms += 2 * stack["d_model"]
        for layer in stack["layers"]:
            attention = layer["attention"]
            terms += 3 * stack["d_model"] + layer["ffn"]["d_ff"] + attention["heads"] * attention["head_dim"]
    return 4 * terms * float(numpy.finfo(numpy.float32).eps) * float(numpy.abs(logits).max())


def spec_of(package):
    return json.loads((package / "config.json").read_text())["ashlar"]["spec"]


def randomise(package, seed):
    """Fresh weights in a package: gains far from 1, biases far from 0."""
    random = numpy.random.Generator(numpy.random.Philox(seed))
    tensors = {}
    for name, value in sorted(load_arrays(package / "model.safetensors").items()):
        draw = random.standard_normal(value.shape)
        if name.endswith("norm.weight"):
            draw = numpy.exp(draw / 2)
        elif value.ndim == 2 and "embed" not in name:
            draw = draw / numpy.sqrt(value.shape[1])
        tensors[name] = draw.astype(numpy.float32)
    save_arrays(tensors, package / "model.safetensors")
    config = json.loads((package / "config.json").read_text())
    config["ashlar"]["weights_sha256"] = weights_sha256({k: torch.from_numpy(v) for k, v in tensors.items()})
    (package / "config.json").write_text(json.dumps(config))


class Folders(LiveCase):
    def load(self, folder, name, **options):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()
        self.assertEqual(type(model).__name__, name)
        return model

    def logits(self, model, ids):
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits[0].numpy()

    def both_sides(self, folder, ids, expected, limit):
        for scorer in ("train", "engine"):
            result, actual = self.evaluate(folder, ids, scorer)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.agree(actual, expected, limit)

    def test_folders_of_every_family_come_in_and_go_out(self):
        for index, (name, entry) in enumerate(cases().items()):
            if entry["family"] not in STOCK:
                continue
            with self.subTest(name):
                built = Built(entry, SEED + index)
                ids = text(SEED + index)[0]
                with torch.no_grad():
                    expected = built.logits(ids[None])[0].numpy()
                folder, out = self.dir / f"in_{name}", self.dir / f"out_{name}"
                built.model.float().save_pretrained(folder, max_shard_size="8KB" if index % 2 else "5GB")
                done("import", folder, "--output", self.dir / f"package_{name}")
                spec = spec_of(self.dir / f"package_{name}")
                self.both_sides(folder, ids.tolist(), expected, bound(spec, expected))
                done("export", folder, "--format", "hf", "--shard-size", "8kB" if index % 2 == 0 else "5GB",
                     "--output", out)
                model = self.load(out, STOCK[entry["family"]])
                self.agree(self.logits(model, ids.tolist()), expected, bound(spec, expected))
                theirs, ours = built.model.state_dict(), model.state_dict()
                self.assertEqual(theirs.keys(), ours.keys())
                for key in theirs:
                    self.assertTrue(torch.equal(theirs[key], ours[key]), key)

    def remote(self, package, ids, expected=None):
        """`package` by our modelling file; without `expected` both of our sides are the measure."""
        spec = spec_of(package)
        out = package.parent / f"{package.name}_hf"
        done("export", package, "--format", "hf", "--output", out)
        model = self.load(out, "AshlarForCausalLM")
        actual = self.logits(model, ids)
        if expected is not None:
            self.agree(actual, expected, bound(spec, expected))
        self.both_sides(package, ids, actual, bound(spec, actual))
        return model

    def test_networks_of_other_families_by_our_modelling_file(self):
        for index, (name, entry) in enumerate(cases().items()):
            if entry["family"] in STOCK:
                continue
            with self.subTest(name):
                built = Built(entry, SEED + index)
                ids = text(SEED + index)[0]
                with torch.no_grad():
                    expected = built.logits(ids[None])[0].numpy()
                package = self.dir / name
                write_package(package, entry["section"],
                              {key: value.float().contiguous() for key, value in built.weights().items()})
                self.remote(package, ids.tolist(), expected)

    def test_every_smoke_configuration(self):
        remote = 0
        for index, config in enumerate(sorted(pathlib.Path("configs/smoke").glob("*_*.yaml"))):
            with self.subTest(config.stem):
                package = self.train(config.stem, config=config)
                randomise(package, SEED + index)
                ids = numpy.random.Generator(numpy.random.Philox(SEED)).integers(0, 512, 61).tolist()
                out = self.dir / f"probe_{config.stem}"
                done("export", package, "--format", "hf", "--output", out)
                if not (out / "modeling_ashlar.py").exists():
                    name = json.loads((out / "config.json").read_text())["architectures"][0]
                    self.assertIn(name, STOCK.values())
                    actual = self.logits(self.load(out, name), ids)
                    self.both_sides(package, ids, actual, bound(spec_of(package), actual))
                    continue
                remote += 1
                model = self.remote(package, ids)
                self.generates(model, ids)
        self.assertGreaterEqual(remote, 25)

    def test_stretched_positions_by_our_modelling_file(self):
        for kind in ("linear, factor: 4", "yarn, factor: 4, original_context: 32",
                     "llama3, factor: 4, original_context: 32"):
            with self.subTest(kind):
                name = kind.split(",")[0]
                package = self.train(name, "model.decoder.kv_sharing=cla2",
                                     f"model.decoder.attention.rope_scaling={{kind: {kind}}}")
                randomise(package, SEED)
                self.remote(package, numpy.random.Generator(numpy.random.Philox(SEED)).integers(0, 512, 100).tolist())

    def generates(self, model, ids):
        """Greedy decoding, which is what evaluation tools do with it, follows the logits."""
        short = torch.tensor([ids[:5]])
        # Without a mask, generate() takes every 0 that the random text holds for padding.
        tokens = model.generate(short, attention_mask=torch.ones_like(short), max_new_tokens=6, do_sample=False,
                                eos_token_id=None, pad_token_id=0)
        for position in range(5, tokens.shape[1]):
            with torch.no_grad():
                self.assertEqual(int(model(tokens[:, :position]).logits[0, -1].argmax()), int(tokens[0, position]))

    def test_types_batches_and_padding(self):
        package = self.train("types", config="configs/smoke/block_cla2.yaml")
        randomise(package, SEED)
        done("export", package, "--format", "hf", "--type", "bf16", "--output", self.dir / "types_bf16")
        half = self.load(self.dir / "types_bf16", "AshlarForCausalLM")
        self.assertEqual(half.dtype, torch.bfloat16)
        model = self.load(self.dir / "types_bf16", "AshlarForCausalLM", dtype=torch.float32)
        ids = torch.arange(3, 33).reshape(2, 15)
        mask = torch.ones_like(ids)
        mask[1, 10:] = 0
        with torch.no_grad():
            both, first = model(ids, attention_mask=mask).logits, model(ids[:1]).logits
            short = model(ids[1:, :10]).logits
        limit = bound(spec_of(package), both.numpy())
        self.agree(both[0].numpy(), first[0].numpy(), limit)
        self.agree(both[1, :10].numpy(), short[0].numpy(), limit)
        with self.assertRaisesRegex(ValueError, "pad on the right"):
            model(ids, attention_mask=mask.flip(1))
        # The engine on the same rounded weights.
        result, ours = self.evaluate(self.dir / "types_bf16", ids[0].tolist(), "engine")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.agree(ours, first[0].numpy(), limit)

    def test_the_tokenizer_comes_along(self):
        line = "Unless required by applicable law or agreed to in writing"
        (self.dir / "line.txt").write_text(line)
        for name in ("decoder_gqa", "block"):
            package = self.train(f"tokens_{name}", config=f"configs/smoke/{name}.yaml")
            done("export", package, "--format", "hf", "--output", self.dir / f"tokens_{name}_hf")
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.dir / f"tokens_{name}_hf",
                                                                   trust_remote_code=True)
            ours = json.loads(done("tokenizer", "encode", "--tokenizer", package, "--input", self.dir / "line.txt",
                                   "--json").stdout)["ids"]
            self.assertEqual(tokenizer.encode(line, add_special_tokens=False), ours)
            self.assertEqual(tokenizer.decode(ours), line)
            start = json.loads((package / "config.json").read_text())["bos_token_id"]
            self.assertEqual(tokenizer.bos_token_id, start)
            # A Block Transformer puts its start tokens in front by itself.
            self.assertEqual(tokenizer.encode(line), ours if name == "block" else [start, *ours])

    def test_the_modelling_file_refuses_what_it_does_not_know(self):
        package = self.train("unknown", "model.decoder.kv_sharing=cla2")
        done("export", package, "--format", "hf", "--output", self.dir / "unknown_hf")
        path = self.dir / "unknown_hf" / "config.json"
        good = path.read_text()
        for key, value in (("kind", "lightning"), ("clip", 3)):
            config = json.loads(good)
            config["ashlar"]["spec"]["stacks"][0]["layers"][1]["attention"][key] = value
            path.write_text(json.dumps(config))
            with self.assertRaisesRegex(ValueError, "is not known"):
                self.load(self.dir / "unknown_hf", "AshlarForCausalLM")

    def test_what_a_folder_cannot_say_is_refused(self):
        package = self.train("codes")
        done("quantize", package, "--recipe", "configs/quantize/w4_kv4.yaml", "--output", self.dir / "codes_w4")
        result = ashlar("export", self.dir / "codes_w4", "--format", "hf", "--output", self.dir / "refused")
        self.assertEqual(result.returncode, 2)
        self.assertIn("export the un", result.stderr)
        self.assertFalse((self.dir / "refused").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
