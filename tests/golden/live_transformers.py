#!/usr/bin/env python3
"""Compares the binary with Python's transformers on fresh random networks. Argument: the ashlar binary."""

import json
import unittest

import numpy
import torch
import transformers

from live_support import SEED, LiveCase, bound, write_package
from transformers_models import Built, cases, text


class Live(LiveCase):
    def test_every_family_by_the_training_side_and_the_engine(self):
        for index, (name, entry) in enumerate(cases().items()):
            with self.subTest(name):
                built = Built(entry, SEED + index)
                ids = text(SEED + index)[0]
                with torch.no_grad():
                    expected = built.logits(ids[None])[0].numpy()
                package = self.dir / name
                write_package(package, entry["section"],
                              {key: value.float().contiguous() for key, value in built.weights().items()})
                for scorer in ("train", "engine"):
                    result, actual = self.evaluate(package, ids.tolist(), scorer)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    self.agree(actual, expected, bound(built.model.config, expected))

    def test_packages_of_plain_decoders_load_in_transformers(self):
        variants = {
            "plain": [],
            "tied": ["model.tied_head=true"],
            "bias": ["model.decoder.attention.bias=all", "model.decoder.ffn.bias=true"],
            "yarn": ["model.decoder.attention.rope_scaling={kind: yarn, factor: 4, original_context: 32}"],
            "llama3": ["model.decoder.attention.rope_scaling={kind: llama3, factor: 4, original_context: 32}"],
            "linear": ["model.decoder.attention.rope_scaling={kind: linear, factor: 4}"],
        }
        for name, settings in variants.items():
            with self.subTest(name):
                package = self.train(name, *settings)
                model = transformers.AutoModelForCausalLM.from_pretrained(package)
                self.assertEqual(type(model).__name__, "LlamaForCausalLM")
                self.assertEqual(model.dtype, torch.float32)
                tokens = numpy.random.Generator(numpy.random.Philox(SEED)).integers(0, 512, 100).tolist()
                with torch.no_grad():
                    expected = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
                for scorer in ("train", "engine"):
                    result, actual = self.evaluate(package, tokens, scorer)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    # Both sides round: twice the bound.
                    self.agree(actual, expected, 2 * bound(model.config, expected))

    def test_nobody_loads_another_decoder_by_mistake(self):
        for name, setting in {"window": "attention.window=8", "shared": "kv_sharing=cla2",
                              "softcap": "", "gelu": "ffn.kind=gelu"}.items():
            with self.subTest(name):
                package = self.train(name, f"model.decoder.{setting}" if setting else "model.logit_softcap=5.0")
                self.assertNotIn("architectures", json.loads((package / "config.json").read_text()))
                with self.assertRaises(Exception):
                    transformers.AutoModelForCausalLM.from_pretrained(package)


if __name__ == "__main__":
    unittest.main(verbosity=2)
