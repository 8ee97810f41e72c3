#!/usr/bin/env bash
# Every C++ file of ours is formatted by the pinned clang-format.
set -euo pipefail
cd "$(dirname "$0")/../.."
git -c safe.directory="$PWD" ls-files --cached --others --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' |
  while read -r file; do [ -f "$file" ] && printf '%s\0' "$file"; done |
  xargs -0 clang-format --dry-run --Werror
