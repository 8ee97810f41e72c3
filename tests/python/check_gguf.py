#!/usr/bin/env python3
"""GGUF files written by Ashlar, read and recomputed by the Python package `gguf`. Argument: the ashlar binary.

    pip install gguf==0.19.0
    python tests/python/check_gguf.py build/release/ashlar

The golden models (tests/golden/make_gguf_golden.py) are imported as packages and exported in every type. Both files
have the same layout, so the package's own dequantize and quantize say what each exported byte must be.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np
from gguf import GGMLQuantizationType as Type, GGUFReader, quants

ASHLAR = os.path.abspath(sys.argv.pop(1))
GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "gguf"
MODELS = ["llama_legacy", "llama_k", "qwen2", "qwen3", "gptneox"]
TABLES = ["token_embd.weight", "output.weight"]
# What an export says anew or in more words.
REWRITTEN = {"general.type", "general.file_type", "general.quantization_version"}


def ashlar(*arguments):
    return subprocess.run([ASHLAR, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def done(*arguments):
    result = ashlar(*arguments)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def tensors(path):
    """Name to (type, raw bytes, values)."""
    found = {}
    for t in GGUFReader(path).tensors:
        shape = [int(d) for d in reversed(t.shape)]
        raw = np.asarray(t.data)
        found[t.name] = (t.tensor_type, raw.tobytes(), quants.dequantize(raw, t.tensor_type).reshape(shape))
    return found


def metadata(path):
    return {key: field.contents() for key, field in GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


class Gguf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.dir = pathlib.Path(cls.temporary.name)
        for name in MODELS:
            done("import", GOLDEN / f"{name}.gguf", "--output", cls.dir / name, "--json")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def export(self, model, kind, name):
        path = self.dir / f"{name}-{kind}.gguf"
        result = done("export", model, "--format", "gguf", "--type", kind, "--output", path, "--json")
        written = tensors(path)
        self.assertEqual(result["bytes"], sum(len(raw) for _, raw, _ in written.values()))
        return path, written

    def check(self, written, values, kind):
        self.assertEqual(set(written), set(values))
        for name, (stored, raw, _) in written.items():
            wanted = Type.F32 if values[name].ndim == 1 else kind
            if name == "rope_freqs.weight":  # recomputed, in double: the golden one has fp32's error of theta^x
                np.testing.assert_allclose(np.frombuffer(raw, "<f4"), values[name], 4 * np.log(5e5) * 2.0**-23)
                continue
            if kind == Type.Q4_0 and name in TABLES:
                wanted = Type.Q8_0
            self.assertEqual(stored, wanted, name)
            self.assertEqual(raw, quants.quantize(values[name], wanted).tobytes(), name)

    def test_f16_rounds_once(self):
        for name in MODELS:
            with self.subTest(name):
                values = {n: v for n, (_, _, v) in tensors(GOLDEN / f"{name}.gguf").items()}
                _, written = self.export(self.dir / name, "f16", name)
                self.check(written, values, Type.F16)

    def test_blocks_are_the_packages_own(self):
        for name in MODELS:
            halves, written = self.export(self.dir / name, "f16", f"{name}-again")
            values = {n: v for n, (_, _, v) in written.items()}
            for kind in (Type.Q8_0, Type.Q4_0):
                with self.subTest(name, kind=kind):
                    _, blocks = self.export(halves, kind.name.lower(), f"{name}-blocks")
                    self.check(blocks, values, kind)

    def test_codes_are_kept(self):
        for name in ("qwen2", "gptneox"):
            with self.subTest(name):
                golden = tensors(GOLDEN / f"{name}.gguf")
                _, written = self.export(self.dir / name, "q8_0", f"{name}-kept")
                self.assertEqual({n: raw for n, (_, raw, _) in written.items()},
                                 {n: raw for n, (_, raw, _) in golden.items()})

    def test_metadata_come_back(self):
        for name in MODELS:
            with self.subTest(name):
                wanted = metadata(GOLDEN / f"{name}.gguf")
                path, _ = self.export(self.dir / name, "f16", f"{name}-metadata")
                found = metadata(path)
                scores = "tokenizer.ggml.scores"
                if scores in wanted:  # the order of merges, in other numbers
                    types = wanted["tokenizer.ggml.token_type"]
                    order = [sorted((s, -i) for i, s in enumerate(m[scores]) if types[i] == 1 and s > -1e3)
                             for m in (wanted, found)]
                    self.assertEqual([i for _, i in order[0]], [i for _, i in order[1]][-len(order[0]):])
                begins = found["tokenizer.ggml.add_bos_token"]  # else a package knows no BOS
                for key in set(wanted) - REWRITTEN - {scores} - (set() if begins else {"tokenizer.ggml.bos_token_id"}):
                    self.assertEqual(found.get(key), wanted[key], key)

    def test_wrong_requests(self):
        for fragments, arguments in [
            (["--type belongs to --format hf and --format gguf"], ["--type", "f16"]),
            (["'f32'", "f16, q8_0 or q4_0"], ["--format", "gguf", "--type", "f32"]),
            (["--type q8_0 belongs to --format gguf"], ["--format", "hf", "--type", "q8_0"]),
            (["rounded a second time"], ["--format", "gguf", "--type", "q4_0"]),
        ]:
            result = ashlar("export", self.dir / "qwen2", *arguments, "--output", self.dir / "wrong")
            self.assertEqual(result.returncode, 2, result.stderr)
            for fragment in fragments:
                self.assertIn(fragment, result.stderr.strip().splitlines()[-1])
            self.assertFalse((self.dir / "wrong").exists())


if __name__ == "__main__":
    unittest.main()
