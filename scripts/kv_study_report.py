#!/usr/bin/env python3
"""Tables and charts of scripts/kv-study --all: FOLDER/report.md and FOLDER/TASK.svg from FOLDER/results.

Items of all seeds are pooled. Intervals are 95 % bootstrap intervals of two levels: seeds are drawn with replacement, then
the items of each; all arms share the draws, so differences are paired. Only the standard library is used; gnuplot draws.
"""

import json
import math
import operator
import pathlib
import random
import re
import shutil
import subprocess
import sys

SHARES = (50, 25, 12.5, 6.25)
RESAMPLES = 1000
PAIRS = {"kvcrush": "kvcrush-alone", "kvcrush-h2o": "kvcrush-h2o-alone", "kvcrush-scissorhands": "kvcrush-scissorhands-alone",
         "kvcrush-age": "kvcrush-age-alone",
         "kvcrush-short": "kvcrush-short-alone"}
# Task -> (what is measured, numerator and denominator of an item's values, exp).
METRICS = {
    "novels": ("perplexity", lambda v: (v[0], v[1])),
    "text": ("answers", lambda v: (v[0], 1)),
    "needles": ("answers", lambda v: (v[0], 1)),
    "passkey": ("answers", lambda v: (v[0], 1)),
    "mqar": ("questions", lambda v: (v[1], v[2])),
    "variables": ("names", lambda v: (v[1], v[2])),
    "copy": ("tokens", lambda v: (v[1], v[2])),
}
ORDER = ("mqar", "mqar-32", "needles", "variables", "variables-asked", "novels", "needles-1", "passkey", "passkey-unasked", "copy",
         "text-needles", "text-passkey", "text-needles-asked", "text-passkey-asked")
COLOURS = ("#999999", "#e69f00", "#56b4e9", "#8b4513", "#009e73", "#7fc97f", "#cc79a7", "#b8860b", "#0072b2", "#d55e00", "#ff7f50",
           "#8b0000", "#9467bd", "#000000", "#17becf", "#bcbd22", "#e377c2")


def read_items(path):
    """(policy, rows or None) -> [(values, bytes)] in order of items."""
    out = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "item" in row:
            arm = re.search(r"\[(\S+)(?: (\d+))? \S+\]$", row["task"])  # a run of one arm has no label
            policy, rows = arm.groups() if arm else ("none", None)
            out.setdefault((policy, rows and int(rows)), {})[row["item"]] = (
                row["values"], max(row["kv_bytes"], row["kv_prompt_bytes"]))
    return {key: [items[i] for i in sorted(items)] for key, items in out.items()}


class Task:
    """All arms of a task: pooled values and their resamples. An arm is (name, place of the share), the full cache
    ('full', 0); a codec, which keeps all rows, (name, None)."""

    def __init__(self, folder):
        self.name = folder.name
        self.unit, measure = METRICS.get(self.name) or METRICS[self.name.partition("-")[0]]
        self.perplexity = self.unit == "perplexity"
        self.items, self.rows, self.sizes = {}, {}, []
        seeds = sorted(folder.glob("seed-*/arms.json"), key=lambda p: int(p.parent.name.split("-")[1]))
        for seed in seeds:
            read, size = {}, None
            for arm, place in json.loads(seed.read_text()).items():
                if place["file"] not in read:
                    read[place["file"]] = read_items(seed.parent / place["file"].replace(".json", ".items.jsonl"))
                here = read[place["file"]]
                if ("full", 0) not in self.items or size is None:
                    self.add(("full", 0), here["none", None], measure)
                    size = len(here["none", None])
                if "policy" not in place:
                    self.add((arm, None), here["none", None], measure)
                for at, rows in enumerate(place.get("rows", ())):
                    if rows:
                        self.rows[arm, at] = rows
                        self.add((arm, at), here[place["policy"], rows], measure)
            self.sizes.append(size)
        for key, items in self.items.items():
            if len(items) != sum(self.sizes):
                raise SystemExit(f"{folder}: {key} has {len(items)} items, the full cache {sum(self.sizes)}")
        self.resample()

    def add(self, key, items, measure):
        self.items.setdefault(key, []).extend((*measure(values), size) for values, size in items)

    def value(self, numerator, denominator):
        ratio = numerator / denominator
        return math.exp(ratio) if self.perplexity else 100 * ratio

    def resample(self):
        draw, begins = random.Random(1), [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        columns = {key: ([i[0] for i in items], [i[1] for i in items]) for key, items in self.items.items()}
        self.values = {key: self.value(sum(n), sum(d)) for key, (n, d) in columns.items()}
        self.seed_values = [self.value(*(sum(column[begin:begin + size]) for column in columns["full", 0]))
                            for begin, size in zip(begins, self.sizes)]
        self.bytes = {key: sum(i[2] for i in items) / len(items) for key, items in self.items.items()}
        self.samples = {key: [] for key in columns}
        for _ in range(RESAMPLES):
            weights = [0] * sum(self.sizes)
            for seed in draw.choices(range(len(self.sizes)), k=len(self.sizes)):
                for item in draw.choices(range(self.sizes[seed]), k=self.sizes[seed]):
                    weights[begins[seed] + item] += 1
            for key, (n, d) in columns.items():
                self.samples[key].append(self.value(sum(map(operator.mul, n, weights)), sum(map(operator.mul, d, weights))))

    def interval(self, key):
        return percentiles(self.samples[key])

    def compared(self, key, other, relative):
        """key − other, or 100 · (key / other − 1), with its interval. Of a perplexity the sign is turned: more is better."""
        def one(a, b):
            if relative and b == 0:
                return 0.0 if a == 0 else math.inf
            difference = 100 * (a / b - 1) if relative else a - b
            return -difference if self.perplexity else difference
        return one(self.values[key], self.values[other]), percentiles(list(map(one, self.samples[key], self.samples[other])))

    def share(self, key):
        return 100 * self.bytes[key] / self.bytes["full", 0]

    def front(self):
        """Arms such that no other is as good in fewer bytes, or better in as many."""
        sign = -1 if self.perplexity else 1
        points = [(self.bytes[key], sign * self.values[key], key) for key in self.items]
        return {key for size, value, key in points
                if not any((s < size and v >= value) or (s <= size and v > value) for s, v, _ in points)}

    def arms(self):
        return list(dict.fromkeys(name for name, at in self.items if name != "full" and at is not None))

    def codecs(self):
        return [name for name, at in self.items if at is None]


def percentiles(values):
    ordered = sorted(values)
    return ordered[int(0.025 * len(ordered))], ordered[min(len(ordered) - 1, int(0.975 * len(ordered)))]


def number(value):
    return f"{value:.2f}" if abs(value) < 99.995 else f"{value:.1f}"


def with_interval(value, interval, signed=False):
    show = (lambda x: f"{x:+.2f}") if signed else number
    return f"{show(value)} ({show(interval[0])} – {show(interval[1])})"


def cell(task, key, front):
    return with_interval(task.values[key], task.interval(key)) + f"; {task.share(key):.1f} %" + (" *" if key in front else "")


def task_table(task):
    front = task.front()
    lines = [f"Full cache: {with_interval(task.values['full', 0], task.interval(('full', 0)))}, "
             f"{task.bytes['full', 0]:,.0f} bytes. By seed: {', '.join(map(number, task.seed_values))}.", "",
             "| | " + " | ".join(f"{share:g} %" for share in SHARES) + " |", "|---" * 5 + "|"]
    for arm in task.arms():
        cells = []
        for at in range(len(SHARES)):
            key = (arm, at)
            cells.append("–" if key not in task.items else cell(task, key, front))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    if task.codecs():
        lines += ["", "All rows, in codes: " + ", ".join(f"{codec} {cell(task, (codec, None), front)}" for codec in task.codecs()) + "."]
    return lines


def crush_table(task):
    lines = ["| scorer | share | KVCrush − the scorer alone | KVCrush beside the full cache, % |", "|---|---|---|---|"]
    for arm, alone in PAIRS.items():
        for at, share in enumerate(SHARES):
            if (arm, at) in task.items and (alone, at) in task.items:
                lines.append(f"| {arm.partition('-')[2] or 'snapkv'} | {share:g} % | "
                             f"{with_interval(*task.compared((arm, at), (alone, at), False), True)} | "
                             f"{with_interval(*task.compared((arm, at), ('full', 0), True), True)} |")
    return lines if len(lines) > 2 else []


def summary(tasks):
    """At 25 %: beside the full cache in percent; KVCrush with two scorers, each also minus that scorer alone."""
    lines = ["| task | texts | full cache | oracle | KVCrush | − snapkv alone | KVCrush by h2o | − h2o alone |", "|---" * 8 + "|"]
    for task in tasks:
        def beside(arm, other=None):
            if (arm, 1) not in task.items or other and (other, 1) not in task.items:
                return "–"
            return with_interval(*task.compared((arm, 1), (other, 1) if other else ("full", 0), other is None), True)
        cells = [beside("oracle"), beside("kvcrush"), beside("kvcrush", "kvcrush-alone"), beside("kvcrush-h2o"),
                 beside("kvcrush-h2o", "kvcrush-h2o-alone")]
        lines.append(f"| {task.name} | {len(task.items['full', 0])} | {number(task.values['full', 0])} | " + " | ".join(cells) + " |")
    return lines


def chart(task, path):
    """One line an arm over the share of bytes."""
    arms = [arm for arm in task.arms() if not arm.endswith("-alone") and any((arm, at) in task.items for at in range(4))]
    data = path.with_suffix(".dat")
    blocks = ["\n".join(f"{task.share((arm, at)):.3f} {task.values[arm, at]:.4f}" for at in range(4) if (arm, at) in task.items)
              for arm in arms]
    if task.codecs():
        blocks.append("\n".join(f"{task.share((codec, None)):.3f} {task.values[codec, None]:.4f} {codec}" for codec in task.codecs()))
    data.write_text("\n\n\n".join(blocks) + "\n")
    axis = "perplexity (lower is better)" if task.perplexity else f"{task.unit} right, %"
    full = task.values["full", 0]
    plots = [f"'{data}' index {i} with linespoints lw 1.5 lc rgb '{COLOURS[i % len(COLOURS)]}' pt {i % 12 + 4} ps 0.7 title '{arm}'"
             for i, arm in enumerate(arms)]
    if task.codecs():
        plots.append(f"'{data}' index {len(arms)} using 1:2:3 with labels rotate by -60 left offset 0.2,-0.5 font ',9' "
                     "point pt 7 ps 0.6 title 'all rows, in codes'")
    script = (f"set terminal svg size 860,480 font 'sans,12' background 'white'\nset output '{path}.part'\n"
              "set xlabel 'bytes of the cache, % of the full one'\nset logscale x 2\nset xtics (3.125, 6.25, 12.5, 25, 50)\n"
              f"set ylabel '{axis}'\nset title '{task.name}'\nset grid lc rgb '#dddddd'\nset key outside right maxcols 1 font 'sans,10'\n"
              f"plot {full} with lines dt 2 lc rgb 'black' title 'full cache', " + ", ".join(plots) + "\n")
    subprocess.run(["gnuplot"], input=script, text=True, check=True)
    pathlib.Path(f"{path}.part").rename(path)
    data.unlink()


def main(folder):
    tasks = [Task(path) for path in (folder / "results" / name for name in ORDER) if any(path.glob("seed-*/arms.json"))]
    if not tasks:
        raise SystemExit(f"{folder}: no results")
    lines = summary(tasks)
    for task in tasks:
        lines += ["", f"## {task.name}", "", *task_table(task)]
        extra = crush_table(task)
        lines += ["", *extra] if extra else []
        if shutil.which("gnuplot"):
            chart(task, folder / f"{task.name}.svg")
    part = folder / "report.md.part"
    part.write_text("\n".join(lines) + "\n")
    part.rename(folder / "report.md")
    print("\n".join(lines))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
