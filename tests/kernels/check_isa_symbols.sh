#!/usr/bin/env bash
# Code compiled with the flags of one instruction set must not be reachable from anywhere but its
# kernel table: a weak inline function in such an object could be the copy that the linker keeps for
# the whole program, which then dies on an older processor. Arguments: the objects of ashlar_kernels.
set -euo pipefail
checked=0
for object in "$@"; do
  case "$object" in */isa/*) ;; *) continue ;; esac
  checked=$((checked + 1))
  symbols=$(nm --extern-only --defined-only --demangle "$object" | cut -d' ' -f2-)
  others=$(grep -vE '^[BDR] ashlar::k[A-Za-z0-9]+Kernels$' <<<"$symbols" || true)
  if [ -n "$others" ]; then
    printf '%s defines more than its table:\n%s\n' "$object" "$others"
    exit 1
  fi
done
[ "$checked" -eq 4 ] || { echo "expected 4 objects under isa/, saw $checked"; exit 1; }
