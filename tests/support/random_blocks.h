#pragma once

#include <array>
#include <cstring>

#include "package/format/k_quants.h"
#include "tests/support/random_model.h"
#include "tests/support/specs.h"

namespace ashlar::test {

inline constexpr std::array kBlockKinds = {BlockKind::kQ4K, BlockKind::kQ5K, BlockKind::kQ6K};

/// Random super-blocks; only the fp16 factors are kept in a sane range.
inline WeightTensor random_blocks(const std::string& name, BlockKind kind, int64_t rows,
                                  int64_t in) {
  const Philox rng(static_cast<uint64_t>(kind) + 5);
  const int64_t each = super_block_bytes(kind);
  auto bytes =
      std::make_shared<std::vector<std::byte>>(static_cast<size_t>(rows * in / kSuperBlock * each));
  for (size_t i = 0; i < bytes->size(); ++i) {
    (*bytes)[i] = static_cast<std::byte>(rng.below(i, 256));
  }
  for (size_t b = 0; b < bytes->size(); b += static_cast<size_t>(each)) {
    const uint16_t d = float_to_half(static_cast<float>(1e-4 * (1 + rng.uniform(b))));
    std::memcpy(bytes->data() + b + (kind == BlockKind::kQ6K ? 208 : 0), &d, 2);
    if (kind != BlockKind::kQ6K) std::memcpy(bytes->data() + b + 2, &d, 2);
  }
  return {name, {rows, in}, BlockTensor{kind, *bytes}, bytes};
}

/// A small tied decoder whose matrices are K-quants of every kind.
inline ModelData random_block_model(uint64_t seed) {
  ModelData model = random_model(
      spec_from_yaml(
          "{kind: decoder, vocab_size: 48, context_length: 64, tied_head: true, decoder: {d_model: "
          "256, layers: 2, attention: {heads: 4, kv_heads: 2, head_dim: 64}, ffn: {d_ff: 512}}}"),
      seed);
  size_t next = 0;
  for (const ParameterSpec& p : parameters(model.spec)) {
    if (!p.is_matrix()) continue;
    model.tensors[p.name] = random_blocks(p.name, kBlockKinds[next++ % 3], p.shape[0], p.shape[1]);
  }
  return model;
}

}  // namespace ashlar::test
