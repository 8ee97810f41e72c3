#!/usr/bin/env python3
"""Reads what a small run leaves with the readers other people use. Argument: the ashlar binary.

Checkpoints by h5py, packages by safetensors, logits by numpy, metrics by TensorBoard. Also: the wrong
requests of the commands that need the training side.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ASHLAR = os.path.abspath(sys.argv.pop(1))
WORDS = "the of and to in is that it was for on are as with his they at be this from".split()


def ashlar(*arguments):
    return subprocess.run([ASHLAR, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def done(*arguments):
    result = ashlar(*arguments)
    assert result.returncode == 0, result.stderr
    return result


class Run(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        d = cls.dir = pathlib.Path(cls.temporary.name)
        licence = pathlib.Path("LICENSE").read_text()
        rows = [licence[i : i + 800] + " ".join(WORDS[: i % 19]) for i in range(0, len(licence), 200)]
        (d / "text.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        done("tokenizer", "train", "--input", d / "text.jsonl", "--vocab-size", 512, "--output", d / "tokenizer.json")
        done("data", "prepare", "--input", d / "text.jsonl", "--tokenizer", d / "tokenizer.json",
             "--validation-share", 0.2, "--output", d / "data")
        cls.folder = d / "run"
        cls.train = ["train", "configs/smoke/block_cla2.yaml", "--set", f"data.train={d}/data/train",
                     "--set", f"data.validation={d}/data/validation", "--output"]
        done(*cls.train, cls.folder)
        done("export", cls.folder, "--output", d / "package")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def refused(self, status, fragments, *arguments):
        result = ashlar(*arguments)
        self.assertEqual(result.returncode, status, result.stderr)
        line = result.stderr.strip().splitlines()[-1]
        for fragment in fragments:
            self.assertIn(fragment, line)

    def test_h5py_reads_checkpoints_and_safetensors_the_same_weights(self):
        folder = max((self.folder / "checkpoints").iterdir())
        manifest = json.loads((folder / "manifest.json").read_text())
        self.assertEqual(manifest["step"] if "step" in manifest else manifest["position"]["step"], 2)
        tensors = load_file(self.dir / "package" / "model.safetensors")
        with h5py.File(next(folder.glob("*.h5"))) as file:
            for name, values in tensors.items():
                numpy.testing.assert_array_equal(file[f"parameters/{name}"][...], values)
            self.assertEqual(set(file["parameters"]), set(tensors))

    def test_tensorboard_reads_the_metrics(self):
        events = EventAccumulator(str(self.folder / "events"))
        events.Reload()
        logged = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        losses = [row["loss"] for row in logged if "loss" in row]
        tag = next(tag for tag in events.Tags()["scalars"] if tag.endswith("loss") and "valid" not in tag)
        numpy.testing.assert_allclose([e.value for e in events.Scalars(tag)], losses, rtol=1e-6)

    def test_both_scorers_write_the_same_logits(self):
        (self.dir / "tokens.json").write_text(json.dumps(list(range(5, 42))))
        arrays = []
        for scorer in ("train", "engine"):
            out = self.dir / f"{scorer}.npy"
            done("eval", self.folder, "--scorer", scorer, "--task", f"logits:{self.dir}/tokens.json", "--output", out)
            arrays.append(numpy.load(out))
        self.assertEqual(arrays[0].shape, (37, 512))
        self.assertEqual(arrays[0].dtype, numpy.float32)
        self.assertLess(numpy.abs(arrays[0] - arrays[1]).max(), 1e-4)

    def test_perplexity_of_shards_on_both_scorers(self):
        rows = []
        for scorer in ("train", "engine"):
            out = done("eval", self.folder, "--scorer", scorer, "--task", f"ppl:{self.dir}/data/validation", "--json")
            rows.append({r["metric"]: r["value"] for r in json.loads(out.stdout)})
        for metric, value in rows[0].items():
            self.assertAlmostEqual(value, rows[1][metric], delta=1e-5 * value)

    def test_quantized_packages_decode(self):
        out = done("quantize", self.folder, "--recipe", "configs/quantize/w4_kv4.yaml", "--output", self.dir / "w4", "--json")
        self.assertLessEqual({"output", "bytes"}, json.loads(out.stdout).keys())
        for policy in ([], ["--kv-policy", "streaming", "--kv-budget", 24], ["--kv-policy", "h2o", "--kv-budget", 24]):
            out = done("generate", self.dir / "w4", "--prompt", "the of and to in is that", "--max-tokens", 40, "--json", *policy)
            self.assertGreater(json.loads(out.stdout)["kv_bytes"], 0)

    def test_inspect_knows_every_kind(self):
        for path, kind in ((self.folder, "checkpoint"), (self.dir / "package", "package"),
                           (self.dir / "data" / "train", "token_shards"), (self.dir / "tokenizer.json", "tokenizer")):
            row = json.loads(done("inspect", path, "--json").stdout)
            self.assertTrue(row["valid"])
            self.assertEqual(row["kind"], kind)

    def test_wrong_requests(self):
        d = self.dir
        self.refused(2, ["exists"], *self.train, self.folder)
        self.refused(2, ["unknown key"], *self.train, d / "x", "--set", "train.stepz=3")
        self.refused(2, ["model.decoder"], "train", "configs/smoke/decoder_gqa.yaml", "--set", "model.decoder.layers=0",
                     "--output", d / "x")
        self.refused(2, ["none.yaml"], "train", d / "none.yaml", "--output", d / "x")
        self.refused(2, ["none.txt"], "data", "prepare", "--input", d / "none.txt", "--tokenizer", d / "tokenizer.json",
                     "--output", d / "x")
        self.refused(2, ["none.json"], "data", "prepare", "--input", d / "text.jsonl", "--tokenizer", d / "none.json",
                     "--output", d / "x")
        self.refused(2, ["weights.bits"], "quantize", self.folder, "--recipe", self.recipe("weights: {bits: 7}\n"),
                     "--output", d / "x")
        self.refused(2, ["--format hf"], "export", self.folder, "--type", "f16", "--output", d / "x")
        self.assertFalse(any(p.name.startswith("x") for p in d.iterdir()))

    def recipe(self, text):
        path = self.dir / "recipe.yaml"
        path.write_text(text)
        return path

    def test_damaged_checkpoints_are_refused(self):
        copy = self.dir / "damaged"
        subprocess.run(["cp", "-r", self.folder, copy], check=True)
        file = next(max((copy / "checkpoints").iterdir()).glob("*.h5"))
        file.write_bytes(file.read_bytes()[:-10])
        result = ashlar("export", copy, "--output", self.dir / "y")
        self.assertNotEqual(result.returncode, 0)
        self.assertFalse((self.dir / "y").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
