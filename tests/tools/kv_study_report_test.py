#!/usr/bin/env python3
"""scripts/kv_study_report.py on a made-up study of two seeds, against numbers by hand."""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "kv_study_report.py"


def write(folder, seed, places, arms):
    """`arms`: (file, policy, rows or None) -> [(values, bytes)], as `eval --items` writes them."""
    here = folder / f"seed-{seed}"
    here.mkdir(parents=True)
    (here / "arms.json").write_text(json.dumps(places))
    for (file, policy, rows), items in arms.items():
        alone = sum(other == file for other, _, _ in arms) == 1
        label = "task" if alone else f"task [{policy} {rows} fp32]" if rows else f"task [{policy} fp32]"
        with open(here / f"{file}.items.jsonl", "a") as out:
            out.write(json.dumps({"task": label, "settings": {}}) + "\n")
            for item, (values, size) in reversed(list(enumerate(items))):  # a batch may end in any order
                out.write(json.dumps({"task": label, "item": item, "values": values, "kv_bytes": size,
                                      "kv_prompt_bytes": size - 1, "seconds": 1}) + "\n")


class Report(unittest.TestCase):
    def run_report(self, folder):
        return subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True,
                              env={**os.environ, "PATH": "/nonexistent"})

    def test_tables(self):
        right, wrong = [1, 2, 2, 0.1], [0, 1, 2, 3.0]
        places = {"oracle": {"file": "a.json", "policy": "oracle", "rows": [512, 256, None, None]},
                  "kvcrush": {"file": "b.json", "policy": "kvcrush", "rows": [None, 256, None, None]},
                  "kvcrush-alone": {"file": "c.json", "policy": "kvcrush", "rows": [None, 256, None, None]},
                  "q4": {"file": "d.json"}}
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for seed in (0, 1):
                arms = {(file, "none", None): [(right, 1000)] * 4 for file in "abc"}
                arms |= {("a", "oracle", 512): [(right, 500)] * 4, ("a", "oracle", 256): [(right, 250)] * 4,
                         ("b", "kvcrush", 256): [(right, 240)] * 3 + [(wrong, 240)],
                         ("c", "kvcrush", 256): [(right, 240)] * 2 + [(wrong, 240)] * 2,
                         ("d", "none", None): [(right, 200)] * 2 + [(wrong, 200)] * 2}
                write(folder / "results" / "needles", seed, places, arms)
                nll = {("a", "none", None): [([100 * math.log(10), 100], 1000)] * 2,
                       ("a", "oracle", 512): [([100 * math.log(10.1), 100], 500)] * 2}
                write(folder / "results" / "novels", seed, {"oracle": {"file": "a.json", "policy": "oracle", "rows": [512, None, None, None]}},
                      nll)
            result = self.run_report(folder)
            self.assertEqual(result.returncode, 0, result.stderr)
            text = (folder / "report.md").read_text()
            self.assertEqual(result.stdout, text)
            lines = text.splitlines()
        # 8 items, 6 and 4 of them right; the one item that the two arms disagree on is a quarter of each seed.
        table = next(line for line in lines if line.startswith("| needles | 8 | 100.0 |"))
        self.assertIn("| +0.00 (+0.00 – +0.00) | -25.00 (", table)
        self.assertIn("| +25.00 (", table)
        codes = next(line for line in lines if line.startswith("All rows, in codes: q4 50.00 ("))
        self.assertTrue(codes.endswith("; 20.0 % *."), codes)
        self.assertIn("Full cache: 100.0 (100.0 – 100.0), 1,000 bytes. By seed: 100.0, 100.0.", text)
        self.assertTrue(any(line.startswith("| oracle | 100") and "; 50.0 % |" in line and "; 25.0 % * |" in line and
                            line.endswith("| – | – |") for line in lines), text)
        self.assertTrue(any(line.startswith("| kvcrush | – | 75.00 (") and "; 24.0 % * |" in line for line in lines), text)
        self.assertTrue(any(line.startswith("| kvcrush-alone | – | 50.00 (") and "*" not in line for line in lines), text)
        # A higher perplexity is worse, so its difference is negative.
        self.assertIn("| oracle | 10.10 (10.10 – 10.10); 50.0 % * | – | – | – |", text)
        self.assertIn("Full cache: 10.00 (10.00 – 10.00)", text)

    def test_missing_items(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            self.assertIn("no results", self.run_report(folder).stderr)
            places = {"oracle": {"file": "a.json", "policy": "oracle", "rows": [512, None, None, None]}}
            write(folder / "results" / "needles", 0, places, {("a", "none", None): [([1, 2, 2, 0], 10)] * 4,
                                                              ("a", "oracle", 512): [([1, 2, 2, 0], 5)] * 3})
            result = self.run_report(folder)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("has 3 items, the full cache 4", result.stderr)


if __name__ == "__main__":
    unittest.main()
