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
            for budget in ("6", "50%", "5KiB"):
                result = self.generate("--kv-codec", "q4:q8", "--kv-policy", policy, "--kv-budget", budget,
                                       "--kv-sink", 1, "--json")
                self.assertEqual(result.returncode, 0, result.stderr)
        for options in (["scissorhands", "--kv-window", 5, "--kv-drop", "25%", "--kv-by-age", "--kv-layers", "rising:3"],
                        ["snapkv", "--kv-window", 2, "--kv-pool", "max:7"], ["pyramidkv", "--kv-layers", "falling:2"],
                        ["snapstream", "--kv-pool", "none"], ["tova", "--kv-drop", 2], ["keydiff"],
                        ["kvcrush", "--kv-crush", "scorer=h2o,page=2,anchor=random", "--kv-seed", 3, "--kv-drop", 1],
                        ["random", "--kv-seed", 18446744073709551615]):
            result = self.generate("--kv-budget", 8, "--kv-sink", 1, "--json", "--kv-policy", *options)
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_recall(self):
        long = ["generate", self.package, "--prompt", "the quick brown fox jumps over", "--max-tokens", 30, "--json"]
        base = [*long, "--kv-policy", "arkvale", "--kv-sink", 0, "--kv-recent", 1]
        plain = self.run_engine(*base, "--kv-budget", 60)
        self.assertEqual(plain.returncode, 0, plain.stderr)
        self.assertGreater(json.loads(plain.stdout)["kv_backup_bytes"], 0)
        self.assertEqual(json.loads(self.generate("--json").stdout)["kv_backup_bytes"], 0)
        result = self.run_engine(*base, "--kv-budget", 34, "--kv-topk", 16, "--kv-digest", "cuboid_max:8", "--kv-codec", "q4",
                                 "--kv-select-every", 2, "--explain-cache")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue(all(step["kept"] <= 34 for step in json.loads(result.stdout)["explain_cache"]))
        spilled = self.run_engine(*base, "--kv-budget", 60, "--kv-backup-memory", 1, "--kv-backup-folder", self.dir)
        self.assertEqual(spilled.returncode, 0, spilled.stderr)
        self.assertGreater(json.loads(spilled.stdout)["kv_backup_file_bytes"], 0)
        self.assertEqual(json.loads(spilled.stdout)["ids"], json.loads(plain.stdout)["ids"])
        for status, fragments, options in (
                (2, ["--kv-policy arkvale", "must be larger than"], ["--kv-budget", 20]),
                (2, ["--kv-backup-folder", "stay in memory"], ["--kv-budget", 40, "--kv-backup-folder", self.dir]),
                (2, ["--kv-backup-memory", "bytes"], ["--kv-budget", 40, "--kv-backup-memory", "much"]),
                (1, ["/no/such", "No such file"],
                 ["--kv-budget", 40, "--kv-backup-memory", 1, "--kv-backup-folder", "/no/such"]),
                (2, ["--kv-digest", "cuboid_mean"], ["--kv-budget", 40, "--kv-digest", "cube"]),
                (2, ["--kv-fp16-first"], ["--kv-budget", 40, "--kv-codec", "q4", "--kv-fp16-first", 4]),
                (2, ["where layers differ"], ["--kv-budget", "1MiB", "--kv-dense-layers", 1])):
            self.refused(status, fragments, *base, *options)

    def test_zipcache(self):
        long = ["generate", self.package, "--prompt", "the quick brown fox jumps over", "--max-tokens", 24, "--json"]
        rows = {codec: json.loads(self.run_engine(*long, "--kv-codec", *codec.split()).stdout)
                for codec in ("fp16", "zipcache", "zipcache --kv-zip every=16,salient=0.5,probes=0.2,seed=3")}
        fp16, waits, zipped = rows.values()
        # Nothing has become a segment: what fp16 writes.
        self.assertEqual(waits["ids"], fp16["ids"])
        self.assertNotEqual(zipped["kv_bytes"], waits["kv_bytes"])
        explained = self.run_engine(*long, "--kv-codec", "zipcache", "--kv-zip", "every=16", "--explain-cache")
        self.assertEqual(explained.returncode, 0, explained.stderr)
        steps = json.loads(explained.stdout)["explain_cache"]
        self.assertTrue(all(step["evicted"] == 0 for step in steps))
        self.assertLess(min(step["bits"] for step in steps), 12)
        for fragments, options in (
                (["never changes"], ["--kv-codec", "zipcache", "--kv-policy", "h2o", "--kv-budget", 8]),
                (["--kv-codec zipcache:q8"], ["--kv-codec", "zipcache:q8"]),
                (["--kv-zip every=5", "only the codec zipcache"], ["--kv-codec", "q4", "--kv-zip", "every=5"]),
                (["--kv-zip", "0 to 1"], ["--kv-codec", "zipcache", "--kv-zip", "salient=2"]),
                (["--kv-fp16-newest"], ["--kv-codec", "zipcache", "--kv-fp16-newest", 4])):
            self.refused(2, fragments, *long, *options)

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

    def chat(self, text, *more):
        return subprocess.run([ENGINE, "chat", self.package, "--chat-template", "llama2", "--max-tokens", "4", "--json",
                               *map(str, more)], input=text, capture_output=True, text=True, timeout=60)

    def test_chat_goes_on_in_another_process(self):
        talks = self.dir / "talks"
        talks.mkdir()
        file = talks / "talk.session"

        def rows(result):
            self.assertEqual(result.returncode, 0, result.stderr)
            return [{key: value for key, value in json.loads(line).items() if "second" not in key}
                    for line in result.stdout.splitlines()]
        whole = rows(self.chat("he\nthe\n", "--kv-codec", "q8"))
        parts = [rows(self.chat(text, "--kv-codec", "q8", "--session", file)) for text in ("he\n", "the\n")]
        self.assertEqual(whole, parts[0] + parts[1])
        before = file.read_bytes()
        for status, fragments, damaged, more in (
                (2, ["talk.session", "another model, cache or policy"], before, ["--kv-codec", "q4"]),
                (2, ["--system", "began with another one"], before, ["--kv-codec", "q8", "--system", "the"]),
                (1, ["talk.session", "damaged"], before[:-1] + bytes([before[-1] ^ 1]), ["--kv-codec", "q8"]),
                (1, ["talk.session"], before[:len(before) // 2], ["--kv-codec", "q8"])):
            file.write_bytes(damaged)
            result = self.chat("he\n", "--session", file, *more)
            self.assertEqual((result.returncode, result.stdout), (status, ""), result.stderr)
            self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
            for fragment in fragments:
                self.assertIn(fragment, result.stderr)
            self.assertEqual(list(talks.iterdir()), [file])
            self.assertEqual(file.read_bytes(), damaged)
        file.write_bytes(before)
        self.refused(2, ["talk.session", "only `chat` goes on with"], "generate", self.package, "--prompt", "he", "--kv-codec",
                     "q8", "--session", file)

    def test_eval_shares_beginnings(self):
        choices, items, again = self.dir / "choices.jsonl", self.dir / "shared.jsonl", self.dir / "again.jsonl"
        context = "the quick brown fox jumps over the lazy dog and then"
        choices.write_text("".join(json.dumps({"query": f"{context} {end}", "choices": ["rests", "runs", "sleeps"], "gold": 0})
                                   + "\n" for end in ("it", "he", "she")))
        task = ["--task", f"choice:{choices}", "--items"]

        def kept(rows, *without):
            return {key: {k: v for k, v in row.items() if k not in ("seconds", *without)} for key, row in rows.items()}
        for batch in (1, 3, 8):
            plain, shared = self.evaluate(*task[:2], "--batch", batch), self.evaluate(*task[:2], "--batch", batch,
                                                                                      "--kv-share", "1MiB")
            self.assertEqual(kept(plain, "kv_shared_tokens"), kept(shared, "kv_shared_tokens"))
            self.assertEqual({row["kv_shared_tokens"] for row in plain.values()}, {0})
            # Eight of nine texts find at least two pages of 16 rows, of which one is the marker's.
            for row in shared.values():
                self.assertGreaterEqual(row["kv_shared_tokens"], 8 * 31)
        # A log keeps the counts; it goes on without sharing, too.
        logged = self.evaluate(*task, items, "--kv-share", "1MiB")
        self.assertEqual(kept(logged), kept(self.evaluate(*task, items)))
        self.assertEqual(sum(json.loads(line).get("kv_shared_tokens", 0) for line in items.read_text().splitlines()),
                         next(iter(logged.values()))["kv_shared_tokens"])
        # Logs of earlier versions know no such number.
        again.write_text("".join(json.dumps({k: v for k, v in json.loads(line).items() if k != "kv_shared_tokens"}) + "\n"
                                 for line in items.read_text().splitlines()))
        self.assertEqual(kept(logged, "kv_shared_tokens"), kept(self.evaluate(*task, again), "kv_shared_tokens"))
        said = self.run_engine("eval", self.package, *task[:2], "--kv-share", "1MiB")
        self.assertIn("tokens of common beginnings were not read again", said.stderr)
        base = ["eval", self.package, *task[:2], "--kv-share"]
        self.refused(2, ["--kv-share", "--kv-policy h2o", "share no pages", "scores"], *base, "1MiB", "--kv-policy", "h2o", "--kv-budget", 12)
        self.refused(2, ["arm 'tova 12", "--kv-share"], *base, "1MiB", "--kv-policy", "none", "tova", "--kv-budget", 12)
        self.refused(2, ["--kv-share", "'1XB'"], *base, "1XB")
        self.refused(2, ["--kv-share", "one text"], "eval", self.package, "--task", "logits:x.json", "--kv-share", "1MiB")

    def test_eval_compares_caches(self):
        task, items = "copy:vocab=300,length=24,n=5", self.dir / "arms.jsonl"
        lists = ["--kv-policy", "none", "h2o,streaming", "--kv-budget", "50%", "30%", "--kv-codec", "fp16,q4", "--kv-sink", 1]
        result = self.run_engine("eval", self.package, "--threads", 1, "--json", "--task", task, *lists, "--items", items,
                                 "--fidelity")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = json.loads(result.stdout)
        arms = {(row["policy"], row["budget"], row["codec"]): row for row in rows
                if (row["task"], row["metric"]) == (task, "token_perplexity")}
        self.assertEqual(len(arms), 2 + 2 * 2 * 2)
        full = arms["none", None, "fp16"]
        self.assertEqual((full["kv_share"], full["difference"], full["relative_high"]), (1, 0, 0))
        for (policy, budget, codec), row in arms.items():
            cache = ["--kv-policy", policy, "--kv-codec", codec, "--kv-sink", 1] + (["--kv-budget", budget] if budget else [])
            alone = self.evaluate("--task", task, *cache)[task, "token_perplexity"]
            for key in ("value", "low", "high", "n", "kv_bytes", "kv_prompt_bytes", "policy", "budget", "codec"):
                if policy == "none" and key == "kv_prompt_bytes":
                    continue  # alone it reads the whole text as one prompt
                self.assertEqual(row[key], alone[key], (key, policy, budget, codec))
            self.assertEqual(row["settings"], alone["settings"] | {"weights_sha256": row["settings"]["weights_sha256"]})
            self.assertAlmostEqual(row["kv_share"], row["kv_mean_bytes"] / full["kv_mean_bytes"])
            self.assertAlmostEqual(row["difference"], row["value"] - full["value"])
            self.assertLessEqual(row["difference_low"], row["difference_high"])
            beaten = any(o["value"] <= row["value"] and o["kv_mean_bytes"] <= row["kv_mean_bytes"] and
                         (o["value"] < row["value"] or o["kv_mean_bytes"] < row["kv_mean_bytes"]) for o in arms.values())
            self.assertEqual(row["pareto"], not beaten)
        masses = {(row["policy"], row["budget"], row["codec"]): row["value"] for row in rows if row["metric"] == "retained_mass"}
        self.assertEqual(masses["none", None, "q4"], 1)
        self.assertLess(masses["h2o", "30%", "fp16"], masses["h2o", "50%", "fp16"])
        # Resumed, nothing is scored again; the table says what the rows say.
        lines = items.read_text()
        again = self.run_engine("eval", self.package, "--threads", 1, "--task", task, *lists, "--items", items, "--fidelity")
        self.assertEqual(items.read_text(), lines)
        self.assertIn("token_perplexity, lower is better", again.stdout)
        self.assertIn(f"| h2o | 30% | q4 | {arms['h2o', '30%', 'q4']['value']:.4f} |", again.stdout)
        # Without a full cache in the lists it is added.
        result = self.run_engine("eval", self.package, "--task", task, "--json", "--kv-policy", "streaming", "--kv-budget", 12, 20)
        self.assertIn("full cache (no policy) is added", result.stderr)
        self.assertEqual([row["policy"] for row in json.loads(result.stdout)][::3], ["none", "streaming", "streaming"])
        # What is said to policies is not meant for it, listed or added.
        for policies in (["kvcrush"], ["none", "kvcrush"]):
            result = self.run_engine("eval", self.package, "--task", task, "--json", "--kv-policy", *policies, "--kv-budget", 14, 20,
                                     "--kv-drop", 2, "--kv-crush", "ratio=0.5", "--kv-recent", 2)
            self.assertEqual(result.returncode, 0, result.stderr)
            rows = {(row["policy"], row["budget"]): row for row in json.loads(result.stdout)}
            self.assertEqual(set(rows), {("none", None), ("kvcrush", "14"), ("kvcrush", "20")})
            self.assertNotIn("kv_drop", rows["none", None]["settings"])
            self.assertIn("kv_drop", rows["kvcrush", "14"]["settings"])
        arms = ["eval", self.package, "--task", task, "--kv-policy", "none", "h2o", "--kv-budget"]
        self.refused(2, ["item 0 of 24 tokens", "arm 'h2o 10% fp32' cannot be", "budget of 3 rows"], *arms, "50%", "10%")
        self.refused(2, ["arm 'h2o 3 fp32' cannot be"], *arms, 3)
        self.refused(2, ["50% is given twice"], *arms, "50%", "50%")
        self.refused(2, ["'x' is no positive amount"], *arms, "50%", "x")
        self.refused(2, ["logits", "one arm"], "eval", self.package, "--task", "logits:x.json", *arms[4:], 12)
        self.refused(2, ["none h2o", "streaming"], "eval", self.package, "--task", "ppl:x.txt", *arms[4:], 12)
        for values in (["none,,h2o"], ["none,h2o,"], [",none"], ["none", ""]):
            self.refused(2, ["--kv-policy", "lists an empty value"], *arms[:5], *values, "--kv-budget", 12)
        self.refused(2, ["--kv-budget: '12,'", "lists an empty value"], *arms, "12,")
        # A model behind a list is one more value of it.
        for lists in (["--task", task, "--kv-policy", "none", "h2o"], ["--kv-codec", "q4", "--task", task],
                      ["--task", task, "--kv-policy", "h2o", "--kv-budget", "50%"]):
            self.refused(2, ["model is required", f"taken for a value of {[o for o in lists if o.startswith('--')][-1]}",
                             "comes first"], "eval", *lists, self.package)
        self.refused(2, ["model is required, and comes first"], "eval", "--task", task, "--kv-policy", "none")
        # One arm has nothing beside it, and says so.
        result = self.run_engine("eval", self.package, "--task", task, "--json", "--kv-policy", "h2o", "--kv-budget", 12)
        self.assertIn("one arm is compared with nothing", result.stderr)
        self.assertEqual({row["kv_share"] for row in json.loads(result.stdout)}, {None})

    def test_eval_with_an_oracle(self):
        arms = ["--kv-policy", "none", "oracle", "random", "--kv-budget", "40%", 100, "--kv-sink", 1, "--json"]
        result = self.run_engine("eval", self.package, "--task", "mqar:vocab=300,length=40,pairs=8,n=4", "--fidelity", *arms)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = {(row["policy"], row["budget"], row["metric"]): row for row in json.loads(result.stdout)}
        self.assertEqual(rows["oracle", "100", "token_perplexity"]["value"], rows["none", None, "token_perplexity"]["value"])
        self.assertEqual(rows["oracle", "100", "kl"]["value"], 0)
        mass = {policy: rows[policy, "40%", "retained_mass"]["value"] for policy in ("oracle", "random")}
        self.assertGreater(mass["oracle"], mass["random"])
        whole = ["eval", self.package, "--kv-policy", "oracle", "--kv-budget", 12, "--task"]
        self.refused(2, ["oracle", "sliding protocol reads each window as one prompt"], *whole, f"ppl:{ENGINE}")
        self.refused(2, ["oracle", "logits are read without one"], *whole, f"logits:{self.ids()}", "--output", self.dir / "l.npy")
        self.refused(2, ["oracle", "`eval`, which reads its texts twice"], "bench", self.package, "-p", 8, "-n", 8, *whole[2:6])

    def test_kv_study(self):
        script, output = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "kv-study", self.dir / "study"
        environment = {**os.environ, "ENGINE": ENGINE, "KV_STUDY_CODEC": "q4"}
        def study(*arguments):
            return subprocess.run([script, *map(str, arguments)], capture_output=True, text=True, env=environment)
        long = self.dir / "long"
        long.mkdir()
        write_llama2c(long, context=320)
        imported = self.run_engine("import", long / "tiny.bin", "--tokenizer", long / "tok300.bin", "--output", long / "package")
        self.assertEqual(imported.returncode, 0, imported.stderr)
        refused = study(self.package)
        self.assertEqual((refused.returncode, "needs MODEL and OUTPUT" in refused.stderr), (2, True))
        failed = self.dir / "failed"
        self.assertEqual((study(self.dir / "absent", failed).returncode, list(failed.iterdir())), (2, []))
        result = study(long / "package", output, "mqar:vocab=300,length=280,pairs=64,n=2")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [row for row in json.loads(next(output.glob("*.json")).read_text()) if row["metric"] == "token_perplexity"]
        self.assertEqual(len(rows), 1 + 11 * 4)
        self.assertEqual({row["codec"] for row in rows}, {"q4"})
        self.assertLessEqual({"random", "oracle", "snapstream", "kvcrush", "pyramidkv"}, {row["policy"] for row in rows})
        self.assertEqual(result.stdout, next(output.glob("*.md")).read_text())
        self.assertIn("| oracle | 6.25% | q4 |", result.stdout)

    def ids(self):
        path = self.dir / "oracle_ids.json"
        path.write_text("[1, 2, 3, 4]")
        return path

    def test_eval_plot(self):
        plot, arms = self.dir / "arms.svg", ["--kv-policy", "none", "streaming", "--kv-budget", 12, 16]
        base = ["eval", self.package, "--task", "copy:vocab=300,length=24,n=3"]
        self.refused(2, ["--plot", ".svg and .png"], *base, *arms, "--plot", self.dir / "arms.pdf")
        self.refused(2, ["--plot", "list several"], *base, "--plot", plot)
        environment = {**os.environ, "PATH": "/nonexistent"}
        result = subprocess.run([ENGINE, *map(str, [*base, *arms, "--plot", plot])], capture_output=True, text=True, env=environment)
        self.assertEqual(result.returncode, 2)
        self.assertIn("gnuplot, which cannot be started here: install it", result.stderr)
        if shutil.which("gnuplot") is None:
            self.skipTest("gnuplot is not installed")
        result = self.run_engine(*base, *arms, "--plot", plot)
        self.assertEqual(result.returncode, 0, result.stderr)
        picture = plot.read_text()
        for part in ("<svg", "accuracy (higher is better)", "streaming, fp32", "Pareto front", "full cache", "</svg>"):
            self.assertIn(part, picture)
        self.refused(2, ["--plot", "no such folder"], *base, *arms, "--plot", self.dir / "no" / "where.svg")

    def explained(self, *more):
        result = self.generate("--explain-cache", "--json", *more)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_explain_cache(self):
        plain = json.loads(self.generate("--json").stdout)
        for codec, policy in (("fp16", []), ("q4", ["streaming", 6]), ("q4:q8", ["h2o", 6])):
            cache = ["--kv-codec", codec, "--kv-sink", 1]
            cache += ["--kv-policy", policy[0], "--kv-budget", policy[1]] if policy else []
            row = self.explained(*cache)
            self.assertEqual(row["ids"], json.loads(self.generate(*cache, "--json").stdout)["ids"])
            story = row.pop("explain_cache")
            self.assertEqual(set(row), set(plain))
            steps, groups = max(s["step"] for s in story) + 1, {s["group"] for s in story}
            self.assertEqual(steps, row["tokens"])  # the prompt, and every token but the last, which is not read
            self.assertEqual([(s["step"], s["group"], s["lane"]) for s in story],
                             [(step, group, 0) for step in range(steps) for group in sorted(groups)])
            fed = 1 + row["prompt_tokens"]  # and the start token
            for group in groups:
                gone = 0
                for step, one in enumerate(s for s in story if s["group"] == group):
                    self.assertEqual(set(one), {"step", "group", "lane", "kept", "evicted", "recalled", "bits"})
                    gone += one["evicted"]
                    self.assertEqual(one["kept"] + gone, fed + step)
                    self.assertEqual(one["recalled"], 0)
                    self.assertLessEqual(one["kept"], policy[1] if policy else 64)
                    self.assertTrue(4 <= one["bits"] <= 32)
                self.assertEqual(gone > 0, bool(policy))
        # Raw rows are 32 bits; full pages have the codec's.
        self.assertEqual(self.explained()["explain_cache"][0]["bits"], 32)
        long = self.run_engine("generate", self.package, "--prompt", "the quick brown fox jumps", "--max-tokens", 20,
                               "--kv-codec", "q4", "--kv-policy", "streaming", "--kv-budget", 20, "--explain-cache")
        self.assertEqual(long.returncode, 0, long.stderr)
        picture = long.stdout[long.stdout.index("group 0 lane 0 |"):].splitlines()
        self.assertTrue(all(len(line) <= 80 for line in picture), picture)
        self.assertRegex(picture[0], r"^group 0 lane 0 \|####\.+#*r+ *\| +20 of \d+, [\d.]+ bits$")
        self.assertIn("  #  kept, coded as q4", picture)
        self.assertIn("  .  evicted, or left behind by a window", picture)

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
