#!/usr/bin/env python3
"""Trains the models of the study of cache policies and evaluates all arms at equal bytes (scripts/kv-study --all).

Every step leaves a file and is skipped when that file is there. Only the standard library is used.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARES = (0.5, 0.25, 0.125, 0.0625)
# Configurations of a model, each trained from the one before.
CHAIN = {
    "pairs": ("recall_short", "recall_medium", "recall_long", "pairs"),
    "needles": ("recall_short", "recall_medium", "recall_long", "needles_256", "needles", "needles_more"),
    "passkey": ("recall_short", "recall_medium", "recall_long", "passkey"),
    "novels": ("novels_short", "novels"),
}

# Arms: name -> (policy, options). What drops in bulk drops 8 rows at once, so that it holds what the others hold.
BULK = ("--kv-drop", "8")


BY_AGE = ("--kv-by-age",)  # of scissorhands' counts: divided by the queries that could have counted


def crush(scorer, ratio, *more):
    return ("kvcrush", BULK + ("--kv-crush", f"scorer={scorer},ratio={ratio}") + more)


ARMS = {
    "random": ("random", ("--kv-seed", "{seed}")),
    "streaming": ("streaming", ()),
    "h2o": ("h2o", ()),
    "scissorhands": ("scissorhands", BULK),
    "scissorhands-age": ("scissorhands", BULK + BY_AGE),
    "snapkv": ("snapkv", ()),
    "pyramidkv": ("pyramidkv", ()),
    "tova": ("tova", ()),
    "keydiff": ("keydiff", ()),
    "snapstream": ("snapstream", ()),
    "kvcrush": crush("snapkv", 0.25),
    "kvcrush-alone": crush("snapkv", 0),
    "kvcrush-h2o": crush("h2o", 0.25),
    "kvcrush-h2o-alone": crush("h2o", 0),
    "kvcrush-scissorhands": crush("scissorhands", 0.25),
    "kvcrush-scissorhands-alone": crush("scissorhands", 0),
    "kvcrush-age": crush("scissorhands", 0.25, *BY_AGE),
    "kvcrush-age-alone": crush("scissorhands", 0, *BY_AGE),
    "arkvale": ("arkvale", ()),  # recalls pages from a backup that its bytes do not count
    "oracle": ("oracle", ()),
}

ALL = tuple(ARMS)  # of a task that names no others

# What one query alone decides, as TOVA does, but for each head.
ONE = {"snapkv-one": ("snapkv", ("--kv-window", "1"))}
ARMS |= ONE

# For numbers of many tokens: the last eight queries score, and what they look at stays with its neighbours.
SHORT = {
    "snapkv-short": ("snapkv", ("--kv-window", "8", "--kv-pool", "max:15")),
    "kvcrush-short": ("kvcrush", BULK + ("--kv-window", "8", "--kv-crush", "page=16,ratio=0.25")),
    "kvcrush-short-alone": ("kvcrush", BULK + ("--kv-window", "8", "--kv-crush", "page=16,ratio=0")),
}
ARMS |= SHORT

# Codecs that keep every row, in fewer bits.
CODECS = ("fp16", "q8", "q4", "q3", "q2", "zipcache")

# Tasks: model, `--task` (of texts: with {seed} and {n}), tokens of a text, texts per seed, further
# options, arms (all).
IDS = "vocab=512,seed={seed},n={n}"
NEEDLE = "length=1016,key_length=1,value_length=1"
PASSKEY = "length=1016,key_length=1,value_length=5"
FEW = ("random", "streaming", "h2o", "snapkv", "tova", "keydiff", "kvcrush", "kvcrush-alone", "arkvale", "oracle")
TASKS = {
    "mqar": dict(model="pairs", task=f"mqar:length=1024,pairs=64,{IDS}", length=1024, n=20),
    "mqar-32": dict(model="pairs", task=f"mqar:length=1024,pairs=32,{IDS}", length=1024, n=8),
    "needles": dict(model="needles", task=f"needles_ids:{NEEDLE},keys=8,{IDS}", length=1016, n=24),
    "variables": dict(model="needles", task=f"variables_ids:length=1016,hops=4,{IDS}", length=1016, n=12),
    "needles-1": dict(model="needles", task=f"needles_ids:{NEEDLE},keys=1,{IDS}", length=1016, n=16),
    # With the question in before policies act, as in the papers' tasks. (An answer of one token is decided by the question's
    # last row, before any policy acts: of needles of one id this would say nothing.)
    "passkey": dict(model="passkey", task=f"needles_ids:{PASSKEY},keys=1,query_aware=true,{IDS}", length=1016, n=16,
                    arms=(*ALL, *ONE)),
    "passkey-unasked": dict(model="passkey", task=f"needles_ids:{PASSKEY},keys=1,{IDS}", length=1016, n=16),
    "variables-asked": dict(model="needles", task=f"variables_ids:query_aware=true,length=1016,hops=4,{IDS}", length=1016, n=12),
    "copy": dict(model="pairs", task="copy:vocab=512,length=64,seed={seed},n={n}", length=129, n=40),
    "novels": dict(model="novels", task="ppl:{novels}", length=1024, n=12,
                   options=("--protocol", "streaming", "--context", "1024", "--prompt", "896")),
    "text-needles": dict(model="smollm", task="needles:config=multikey_1,length=1024,seed={seed},n={n}", length=1024, n=1, arms=FEW),
    "text-passkey": dict(model="smollm", task="passkey:length=1024,seed={seed},n={n}", length=1024, n=1, arms=FEW),
    "text-needles-asked": dict(model="smollm", task="needles:query_aware=true,config=multikey_1,length=1024,seed={seed},n={n}", length=1024,
                               n=2, arms=(*FEW, *SHORT)),
    "text-passkey-asked": dict(model="smollm", task="passkey:query_aware=true,length=1024,seed={seed},n={n}", length=1024, n=2,
                               arms=(*FEW, *SHORT)),
}


class Refused(SystemExit):
    """The request was wrong: status 2."""


class Study:
    def __init__(self, arguments):
        self.arguments, self.output = arguments, arguments.output
        self.quiet = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads))
        self.output.mkdir(parents=True, exist_ok=True)

    def say(self, text):
        print(f"kv-study: {text}", file=sys.stderr, flush=True)

    def program(self, *command, log=None, output=None):
        """Runs a program; its output goes to a file that exists only when the program ended well."""
        part = output.with_name(output.name + ".part") if output else None
        with open(part or os.devnull, "w") as out, open(log or os.devnull, "a") as errors:
            status = subprocess.run([*map(str, command)], stdout=out, stderr=errors, env=self.quiet).returncode
        if status != 0:
            raise (Refused if status == 2 else SystemExit)(f"kv-study: {' '.join(map(str, command))} ended with {status}" + (f"; see {log}" if log else ""))
        if part:
            part.rename(output)

    # Models

    def configs(self, family, seed):
        """The family's configurations with another seed of weights and data, and their folder."""
        folder = self.output / "configs" / f"{family}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("common", *CHAIN[family]):
            text = (ROOT / "configs" / "tasks" / f"{name}.yaml").read_text()
            (folder / f"{name}.yaml").write_text(re.sub(r"\bseed: (\d+)", lambda match: f"seed: {int(match[1]) + 40 * seed}", text))
        return folder

    def train(self, family, seed):
        package = self.output / "models" / f"{family}-{seed}"
        data = self.novels_data() if family == "novels" else None
        if package.exists():
            return package
        folder, runs, before = self.configs(family, seed), self.output / "runs", []
        more = ["--set", f"train.threads={self.arguments.threads}"]
        if data:
            more += ["--set", f"data.train={data / 'train'}", "--set", f"data.validation={data / 'validation'}"]
        for name in CHAIN[family]:
            run = runs / f"{name}-{seed}"
            if not (run / "done").exists():
                self.say(f"training {name}, seed {seed}")
                shutil.rmtree(run, ignore_errors=True)
                begin = time.time()
                self.program(self.arguments.ashlar, "train", folder / f"{name}.yaml", *more, *before, "--output", run,
                             log=self.output / f"{name}-{seed}.log")
                (run / "done").write_text(f"{time.time() - begin:.0f}\n")
            before = ["--init", run]
        package.parent.mkdir(exist_ok=True)
        self.program(self.arguments.ashlar, "export", run, "--format", "package", "--output", package)
        return package

    def novels_data(self):
        """Shards to train on and to validate on; of each of the first novels of the validation texts (seeds) a part."""
        data = self.output / "data"
        data.mkdir(exist_ok=True)
        train, validation = self.arguments.novels
        threads = ("--threads", self.arguments.threads)
        if not (data / "tokenizer.json").exists():
            self.program(self.arguments.ashlar, "tokenizer", "train", "--input", train, "--vocab-size", 2048, *threads,
                         "--output", data / "tokenizer.json")
        inputs = {"train": train, "validation": validation}
        for seed, novel in enumerate(lines_of(validation)[:self.arguments.seeds]):
            # From behind the first chapter's beginning: one segment of 1,024 tokens to count bytes, or n.
            for segments in (1, TASKS["novels"]["n"]):
                (data / f"novel-{seed}-{segments}.txt").write_text(json.loads(novel)["text"][20000:20000 + 3300 * segments])
        for name, path in inputs.items():
            if not (data / name).exists():
                self.program(self.arguments.ashlar, "data", "prepare", "--input", path, "--tokenizer", data / "tokenizer.json",
                             *threads, "--output", data / name)
        return data

    def model(self, family, seed):
        """The package of a seed; there may be fewer trained models than seeds of data."""
        if family == "smollm":
            return self.arguments.smollm
        return self.train(family, 0 if family == "novels" else seed % self.arguments.models)

    # Arms at equal bytes

    def eval(self, model, task, policies, budgets, options, output, *more):
        rows = ("--kv-budget", *budgets) if budgets else ()
        self.program(self.arguments.engine, "eval", model, "--task", task, "--kv-policy", "none", *policies, *rows, *options,
                     "--threads", self.arguments.threads, "--json", *more, log=self.output / "eval.log", output=output)
        return json.loads(output.read_text())

    def spelled(self, task, seed, n):
        return task["task"].format(seed=1000 + seed, n=n, novels=self.output / "data" / f"novel-{seed}-{n}.txt")

    def arms(self, task):
        return task.get("arms", ALL)

    def budgets(self, name, task):
        """Rows of every arm for every share, such that all arms take the same bytes.

        The bytes are those of `random` with that share of the text's rows: pages that are not full, and tables, but no
        scores. Every other arm has the most rows, a few more than `random` where it can, with which its cache is no larger,
        when the prompt is in and when the text has been read. Bytes do not depend on what a text says, so one text tells. An
        arm that cannot do with so few has null.
        """
        file = self.output / "budgets" / f"{name}.json"
        if file.exists():
            return json.loads(file.read_text())
        file.parent.mkdir(exist_ok=True)
        rows = [int(task["length"] * share) for share in SHARES]
        sizes = self.sizes(name, task, "random", rows)
        found, seen, limits = {"random": rows}, {}, [sizes[row] for row in rows]
        for arm in self.arms(task):
            policy, options = ARMS[arm]
            key = (policy, tuple(option.replace("ratio=0.25", "ratio=0") for option in options))  # the same bytes
            if arm not in found and key not in seen:
                tried = {row - cut for row in rows for cut in range(-16, max(33, row // 8), max(4, row // 64))}
                sizes = self.sizes(name, task, arm, tried)
                fits = [[row for row, size in sizes.items() if size <= limit] for limit in limits]
                seen[key] = [max(f, default=None) for f in fits]
            found.setdefault(arm, seen.get(key))
        file.write_text(json.dumps(found, indent=1) + "\n")
        return found

    def sizes(self, name, task, arm, rows):
        """Budget in rows -> bytes of the cache, of those of `rows` that the arm can do with."""
        self.say(f"{name}: bytes of {arm}")
        policy, options = ARMS[arm]
        rows = sorted(row for row in rows if row >= 8)
        while rows:
            try:
                result = self.eval(self.model(task["model"], 0), self.spelled(task, 0, 1), [policy], rows, filled(options, 0),
                                   self.output / "probe.json", *task.get("options", ()), "--bootstrap", "0")
            except Refused:  # the fewest may be too few for what the policy protects
                rows = rows[1:]
                continue
            return {int(row["budget"]): max(row["kv_bytes"], row["kv_prompt_bytes"]) for row in result if row["budget"]}
        return {}

    def score(self, name, task, seed):
        """All arms of a task on the texts of a seed. Arms with the same options and rows are read together."""
        folder = self.output / "results" / name / f"seed-{seed}"
        if (folder / "arms.json").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        model, groups = self.model(task["model"], seed), {}
        for arm, rows in self.budgets(name, task).items():
            if any(rows):
                groups.setdefault((tuple(rows), ARMS[arm][1]), []).append(arm)
        more = task.get("options", ()) + (("--batch", "4") if "ppl:" not in task["task"] else ())

        def items(label, policies, budgets, options):
            self.say(f"{name}, seed {seed}: {label}")
            result = folder / f"{label.split()[0]}.json"
            if not result.exists():
                self.eval(model, self.spelled(task, seed, task["n"]), policies, budgets, filled(options, seed), result, *more,
                          "--bootstrap", "0", "--items", result.with_suffix(".items.jsonl"))
            return result.name

        places = {}
        for (rows, options), arms in groups.items():
            file = items(" ".join(arms), [ARMS[arm][0] for arm in arms], sorted({row for row in rows if row}, reverse=True), options)
            for arm in arms:
                places[arm] = {"file": file, "policy": ARMS[arm][0], "rows": rows}
        for codec in CODECS:
            places[codec] = {"file": items(codec, [], [], ("--kv-codec", codec))}
        (folder / "arms.json").write_text(json.dumps(places, indent=1) + "\n")


def lines_of(path):
    if str(path).endswith(".zst"):
        return subprocess.run(["zstd", "-dc", path], check=True, capture_output=True, text=True).stdout.splitlines(True)
    return pathlib.Path(path).read_text().splitlines(True)


def filled(options, seed):
    return [option.format(seed=seed) for option in options]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of evaluation data and of the random policy")
    parser.add_argument("--models", type=int, default=5, help="seeds of weights and training data of the small models")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--task", action="append", choices=TASKS, help="only these")
    parser.add_argument("--ashlar", default=ROOT / "build/release/ashlar")
    parser.add_argument("--engine", default=ROOT / "build/release/ashlar-engine")
    parser.add_argument("--novels", nargs=2, metavar=("TRAIN", "VALIDATION"), help="novels of the language model: .jsonl or .jsonl.zst, one a line")
    parser.add_argument("--smollm", help="SmolLM2-135M-Instruct, a GGUF or a folder")
    arguments = parser.parse_args()
    study = Study(arguments)
    for name, task in TASKS.items():
        missing = task["model"] in ("novels", "smollm") and not getattr(arguments, task["model"])
        if missing:
            study.say(f"{name} is left out: needs --{task['model']}")
        if missing or arguments.task and name not in arguments.task:
            continue
        for seed in range(task.get("seeds", arguments.seeds)):
            study.score(name, task, seed)
    subprocess.run([sys.executable, ROOT / "scripts/kv_study_report.py", arguments.output], check=True)


if __name__ == "__main__":
    main()
