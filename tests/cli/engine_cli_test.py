#!/usr/bin/env python3
"""Runs ashlar-engine as a user would: help, good requests, wrong ones. Argument: the binary."""

import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

ENGINE = os.path.abspath(sys.argv.pop(1))


def write_llama2c(folder, context=64):
    """A tiny llama2.c model of random weights (dim 16, FFN 12, 2 layers, 2 heads, vocabulary 300) and tokenizer."""
    rng = random.Random(1)
    dim, ffn, layers, heads, kv_heads, vocab = 16, 12, 2, 2, 1, 300
    floats = vocab * dim + layers * (2 * dim + 2 * dim * dim + 2 * dim * 8 + 3 * dim * ffn) + dim + context * 8
    header = struct.pack("<7i", dim, ffn, layers, heads, kv_heads, vocab, context)
    body = struct.pack(f"<{floats}f", *(rng.gauss(0, 0.3) for _ in range(floats)))
    (folder / "tiny.bin").write_bytes(header + body)
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % b for b in range(256)]
    pieces += [b" "] + [bytes([c]) for c in range(ord("a"), ord("z") + 1)] + [b" t", b"he", b" the"]
    pieces += [b"x%d" % i for i in range(300 - len(pieces))]
    tokenizer = struct.pack("<i", 8)
    for i, piece in enumerate(pieces):
        tokenizer += struct.pack("<fi", float(-i), len(piece)) + piece
    (folder / "tok300.bin").write_bytes(tokenizer)


class EngineCommandLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.dir = pathlib.Path(cls.temporary.name)
        write_llama2c(cls.dir)
        cls.package = cls.dir / "package"
        result = subprocess.run([ENGINE, "import", cls.dir / "tiny.bin", "--output", cls.package, "--json"],
                                capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["output"] == str(cls.package)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_engine(self, *arguments):
        return subprocess.run([ENGINE, *map(str, arguments)], capture_output=True, text=True, timeout=60)

    def refused(self, status, fragments, *arguments):
        """One clear line on stderr, nothing on stdout, the given exit status."""
        result = self.run_engine(*arguments)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        for fragment in fragments:
            self.assertIn(fragment, result.stderr)

    def generate(self, *more):
        return self.run_engine("generate", self.package, "--prompt", "the", "--max-tokens", 12, *more)

    def test_help_shows_every_command_with_an_example(self):
        top = self.run_engine("--help")
        self.assertEqual(top.returncode, 0)
        for command in ("import", "generate", "chat", "eval", "bench", "inspect"):
            self.assertIn(command, top.stdout)
            sub = self.run_engine(command, "--help")
            self.assertEqual(sub.returncode, 0)
            self.assertRegex(sub.stdout, "Examples?:")
        self.assertEqual(self.run_engine("--version").returncode, 0)

    def test_generate_prints_the_text_and_json_says_the_same(self):
        plain = self.generate()
        self.assertEqual(plain.returncode, 0, plain.stderr)
        result = self.generate("--json")
        row = json.loads(result.stdout)
        self.assertEqual(plain.stdout, row["text"] + "\n")
        self.assertLessEqual({"text", "tokens", "prompt_tokens", "tokens_per_second", "kv_bytes"}, row.keys())
        self.assertTrue(row["text"].startswith("the"))

    def test_seeds_codecs_and_policies(self):
        sampled = ["--temperature", 1.0, "--top-k", 50, "--top-p", 0.95, "--json"]
        one = json.loads(self.generate(*sampled, "--seed", 7).stdout)["ids"]
        self.assertEqual(one, json.loads(self.generate(*sampled, "--seed", 7).stdout)["ids"])
        self.assertNotEqual(one, json.loads(self.generate(*sampled, "--seed", 8).stdout)["ids"])
        for policy in ("streaming", "h2o"):
            for budget in ("6", "50%", "4KiB"):
                result = self.generate("--kv-codec", "q4:q8", "--kv-policy", policy, "--kv-budget", budget,
                                       "--kv-sink", 1, "--json")
                self.assertEqual(result.returncode, 0, result.stderr)
        for options in (["scissorhands", "--kv-window", 5, "--kv-drop", "25%", "--kv-by-age", "--kv-layers", "rising:3"],
                        ["snapkv", "--kv-window", 2, "--kv-pool", "max:7"], ["pyramidkv", "--kv-layers", "falling:2"],
                        ["snapstream", "--kv-pool", "none"], ["tova", "--kv-drop", 2], ["keydiff"],
                        ["random", "--kv-seed", 18446744073709551615]):
            result = self.generate("--kv-budget", 8, "--kv-sink", 1, "--json", "--kv-policy", *options)
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_eval_and_bench_and_inspect(self):
        text = self.dir / "text.txt"
        text.write_text("the quick brown fox jumps over the lazy dog " * 4)
        rows = json.loads(self.run_engine("eval", self.package, "--task", f"ppl:{text}", "--context", 32, "--json").stdout)
        self.assertEqual({row["metric"] for row in rows}, {"perplexity", "bits_per_byte"})
        self.assertLessEqual({"task", "metric", "value", "n", "low", "high"}, set(rows[0]))
        tokens, out = self.dir / "tokens.json", self.dir / "logits.npy"
        tokens.write_text("[1, 5, 9]")
        result = self.run_engine("eval", self.package, "--task", f"logits:{tokens}", "--output", out)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(out.stat().st_size % 64, (3 * 300 * 4) % 64)
        rows = json.loads(self.run_engine("bench", self.package, "-p", 8, "-n", 4, "-b", "1,2", "-r", 1, "-o", "json").stdout)
        self.assertEqual([(r["test"], r["batch"]) for r in rows], [("pp8", 1), ("tg4", 1), ("pp8", 2), ("tg4", 2)])
        row = json.loads(self.run_engine("inspect", self.package, "--json").stdout)
        self.assertTrue(row["valid"])
        self.assertEqual(row["kind"], "package")

    def evaluate(self, *arguments):
        result = self.run_engine("eval", self.package, "--threads", 1, "--json", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return {(row["task"], row["metric"]): row for row in json.loads(result.stdout)}

    def test_eval_tasks(self):
        lambada, items = self.dir / "lambada.jsonl", self.dir / "items.jsonl"
        blimp = f"blimp:{pathlib.Path(__file__).parents[1] / 'data/blimp_tiny.zip'}"
        lambada.write_text("".join(json.dumps({"context": "the fox jumps", "continuation": word}) + "\n"
                                   for word in ("over", "he", "the")))
        rows = self.evaluate("--task", f"lambada:{lambada}", "--task", blimp, "--task",
                             "mqar:vocab=300,length=32,pairs=2,n=6", "--batch", 4, "--items", items)
        self.assertEqual(rows[f"lambada:{lambada}", "accuracy"]["n"], 3)
        self.assertEqual(rows[blimp, "accuracy"]["n"], 5)
        self.assertEqual(rows["mqar:vocab=300,length=32,pairs=2,n=6", "token_accuracy"]["n"], 12)
        logged = [json.loads(line) for line in items.read_text().splitlines()]
        self.assertEqual(sum("item" in line for line in logged), 3 + 5 + 6)
        # Resumed: nothing new is logged; batches never change a number.
        again = self.evaluate("--task", f"lambada:{lambada}", "--items", items)
        self.assertEqual(again[f"lambada:{lambada}", "perplexity"]["value"],
                         rows[f"lambada:{lambada}", "perplexity"]["value"])
        self.assertEqual(len(items.read_text().splitlines()), len(logged))
        # A policy acts between the context and the questions, unless the budget holds everything.
        copy = ["--task", "copy:vocab=300,length=24,n=4"]
        full, wide, narrow = (self.evaluate(*copy, *policy)[copy[1], "token_perplexity"] for policy in (
            [], ["--kv-policy", "streaming", "--kv-budget", 64],
            ["--kv-policy", "streaming", "--kv-budget", 12]))
        self.assertEqual(full["value"], wide["value"])
        self.assertNotEqual(full["value"], narrow["value"])
        self.assertLess(narrow["kv_bytes"], full["kv_bytes"])
        for fragments, task in ((["nedles", "needles"], "nedles"), (["lengt", "did you mean 'length'"], "copy:lengt=3"),
                                (["set.jsonl", "no such file"], "choice:set.jsonl"),
                                (["vocabulary has 300", "set vocab"], "mqar"), (["set length"], "copy:vocab=300")):
            self.refused(2, [f"--task {task}", *fragments], "eval", self.package, "--task", task)
        self.refused(2, ["--limit", "ppl:"], "eval", self.package, "--limit", 3, "--task", "ppl:x.txt")

    def test_hugging_face_folders(self):
        folder = pathlib.Path(__file__).resolve().parents[1] / "golden/hf/llama_llama3_sharded"
        package = self.dir / "from_hf"
        result = self.run_engine("import", folder, "--output", package)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [json.loads(self.run_engine("inspect", path, "--json").stdout) for path in (folder, package)]
        self.assertEqual([row["kind"] for row in rows], ["huggingface", "package"])
        self.assertEqual(rows[0]["weights_sha256"], rows[1]["weights_sha256"])
        # One shard cut: refused whole, and nothing is left.
        copy = self.dir / "cut"
        shutil.copytree(folder, copy)
        shard = copy / "model-00003-of-00003.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1])
        self.refused(1, ["model-00003-of-00003", "truncated"], "import", copy, "--output", self.dir / "cut_package")
        (copy / "model.safetensors.index.json").unlink()
        (copy / "pytorch_model.bin").write_bytes(b"")
        self.refused(2, ["pytorch_model.bin", "pickle"], "generate", copy, "--prompt", "a")
        self.refused(2, ["exists already"], "import", folder, "--output", package)
        self.assertFalse(any(path.name.startswith("cut_package") for path in self.dir.iterdir()))

    def test_wrong_requests_exit_2(self):
        self.refused(2, ["--help"])
        self.refused(2, ["unknown command 'frobnicate'", "generate"], "frobnicate")
        self.refused(2, ["--promt"], "generate", self.package, "--promt", "x")
        self.refused(2, ["none", "no such file"], "generate", self.dir / "none", "--prompt", "x")
        prompt = ["generate", self.package, "--prompt"]
        self.refused(2, ["context is 64", "shorten the prompt"], *prompt, "x" * 200)
        self.refused(2, ["budget of 5 rows", "sink + recent = 4 + 4"], *prompt, "a", "--kv-policy", "h2o",
                     "--kv-budget", 5, "--kv-sink", 4, "--kv-recent", 4)
        self.refused(2, ["needs a --kv-budget"], *prompt, "a", "--kv-policy", "h2o")
        self.refused(2, ["'lru' is not one of none, streaming, h2o"], *prompt, "a", "--kv-policy", "lru", "--kv-budget", 9)
        tight = ["--kv-budget", 9, "--kv-policy"]
        self.refused(2, ["--kv-window", "h2o", "looks at no window"], *prompt, "a", *tight, "h2o", "--kv-window", 3)
        self.refused(2, ["--kv-pool", "'mean' is not"], *prompt, "a", *tight, "snapkv", "--kv-pool", "mean")
        self.refused(2, ["--kv-window"], *prompt, "a", *tight, "snapkv", "--kv-window", -1)
        self.refused(2, ["--kv-drop", "'0'"], *prompt, "a", *tight, "h2o", "--kv-drop", 0)
        self.refused(2, ["--kv-seed", "draws nothing"], *prompt, "a", *tight, "tova", "--kv-seed", 1)
        self.refused(2, ["oracle", "attention of queries to come"], *prompt, "a", *tight, "oracle")
        self.refused(2, ["q5"], *prompt, "a", "--kv-codec", "q5")
        self.refused(2, ["--temperature"], *prompt, "a", "--temperature", -1)
        self.refused(2, ["--task nonsense"], "eval", self.package, "--task", "nonsense:x")
        self.refused(2, ["exists already"], "import", self.dir / "tiny.bin", "--output", self.package)
        self.refused(2, ["is an Ashlar package already"], "import", self.package, "--output", self.dir / "again")

    def test_damaged_files_exit_1_and_leave_nothing(self):
        whole = (self.dir / "tiny.bin").read_bytes()
        cut = self.dir / "cut.bin"
        for size in (0, 27, 28, 1000, len(whole) - 1):
            cut.write_bytes(whole[:size])
            self.refused(1, ["cut.bin", "truncated"], "import", cut, "--output", self.dir / "out")
        cut.write_bytes(b"GGUF" + whole[4:])
        self.refused(1, ["cut.bin", "not a llama2.c model"], "import", cut, "--output", self.dir / "out")
        self.assertFalse(any(p.name.startswith("out") for p in self.dir.iterdir()))

    def test_damaged_packages_are_refused(self):
        copy = self.dir / "copy"
        subprocess.run(["cp", "-r", self.package, copy], check=True)
        weights = copy / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-100])
        self.refused(1, ["model.safetensors", "truncated"], "generate", copy, "--prompt", "a")
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        self.refused(1, ["weights do not match", "SHA-256"], "inspect", copy)
        weights.write_bytes(whole)
        config = json.loads((copy / "config.json").read_text())
        config["ashlar"]["format_version"] = 2
        (copy / "config.json").write_text(json.dumps(config))
        self.refused(2, ["package format 2 is newer"], "generate", copy, "--prompt", "a")


if __name__ == "__main__":
    unittest.main(verbosity=2)
