#!/usr/bin/env python3
"""Checks that every #include between folders is an edge of the design's map.

Each folder listed below is one CMake target; the names behind the colon are what it may use, and what
those may use in turn. `cli`, `bench` and `tests` may use everything.
"""

import pathlib
import re
import subprocess
import sys

MAP = """
core/base:
core/config: core/base
core/io: core/base
core/hdf5: core/base
core/comm: core/base
kernels: core/base
data/tokenizer: core/io
data/tasks: data/tokenizer
data/shards: core/hdf5 data/tasks data/tokenizer
models/spec: core/base
attention: models/spec kernels
models: attention
train/checkpoint: core/hdf5 core/io models/spec core/comm
train/dist: core/comm
train/monitor: core/io
train: models data/shards train/dist train/checkpoint train/monitor core/config
package/format: core/io models/spec data/tokenizer
package/import: package/format kernels
quantize: models data/shards package/format package/import train/checkpoint
export: quantize package/format package/import
engine/policy: kernels package/format core/comm
engine/cache: engine/policy
engine/model: engine/cache
engine/decode: engine/model
engine/serve: engine/decode core/config
eval: data/tasks
eval/ablate: core/config core/io
"""
TORCH_FOLDERS = ("attention", "models", "train", "train/dist")
EVERYTHING = ("cli", "bench", "tests")
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def parse_map(text):
    direct = {}
    for line in text.strip().splitlines():
        name, _, uses = line.partition(":")
        direct[name.strip()] = set(uses.split())
    closed = {}

    def close(name):
        if name not in closed:
            closed[name] = {name}.union(*(close(use) for use in direct[name]))
        return closed[name]

    for name in direct:
        close(name)
    return closed


def folder_of(path, folders):
    """The listed folder that holds `path`, the deepest one."""
    best = None
    for folder in folders:
        if path.startswith(folder + "/") and (best is None or len(folder) > len(best)):
            best = folder
    return best


def violations(files, read):
    closed = parse_map(MAP)
    found = []
    for path in files:
        top = path.split("/")[0]
        if top in EVERYTHING:
            continue
        source = folder_of(path, closed)
        if source is None:
            found.append(f"{path}: lies in no folder of the map")
            continue
        torch_allowed = source in TORCH_FOLDERS
        for number, line in enumerate(read(path).splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, target = match.group(1) == '"', match.group(2)
            if re.match(r"(torch|ATen|c10|caffe2)/", target) and not torch_allowed:
                found.append(f"{path}:{number}: {source} may not use torch ({target})")
            if not quoted and folder_of(target, closed) is None:
                continue
            if "/" not in target:
                found.append(f"{path}:{number}: include \"{target}\" is not relative to the root")
                continue
            used = folder_of(target, closed)
            if used is None and target.split("/")[0] in EVERYTHING:
                found.append(f"{path}:{number}: {source} may not use {target}")
            elif used is not None and used not in closed[source]:
                found.append(f"{path}:{number}: {source} may not use {used} ({target})")
    return found


def self_test():
    """The checker itself must see a forbidden edge."""
    bad = {
        "kernels/x.cpp": '#include "engine/model/engine.h"\n',
        "engine/model/y.cpp": "#include <torch/torch.h>\n",
        "core/base/z.h": '#include "error.h"\n',
    }
    assert len(violations(sorted(bad), bad.get)) == 3, violations(sorted(bad), bad.get)


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    self_test()
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={root}", "ls-files", "--cached", "--others", "--exclude-standard", "*.h", "*.cpp", "*.cu", "*.cuh"],
        cwd=root, check=True, capture_output=True, text=True)
    files = [f for f in listing.stdout.split() if (root / f).exists()]
    found = violations(files, lambda path: (root / path).read_text())
    print("\n".join(found))
    print(f"{len(files)} files, {len(found)} forbidden includes")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
