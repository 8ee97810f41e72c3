#!/usr/bin/env bash
# ashlar-engine links only what the allow-list names: no torch, no HDF5, no CUDA.
set -euo pipefail
engine=$1
allowed='^(linux-vdso|libstdc\+\+|libm|libgcc_s|libc|libpthread|libdl|librt|libfmt|libspdlog|libcrypto|libpcre2-8|libutf8proc|libyaml-cpp|libminizip|libz|ld-linux-x86-64|libasan|libubsan|libtsan)\.so'
libraries=$(ldd "$engine" | awk '{print $1}' | sed 's|.*/||')
bad=$(grep -vE "$allowed" <<<"$libraries" || true)
if [ -n "$bad" ]; then
  echo "ashlar-engine links libraries outside the allow-list:" $bad
  exit 1
fi
echo "$(wc -l <<<"$libraries") libraries, all allowed"
