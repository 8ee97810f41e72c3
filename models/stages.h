#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "attention/ops.h"
#include "models/spec/spec.h"

namespace ashlar {

/// One owner layer's keys (after RoPE) and values, [rows, positions, G, E].
struct KvPair {
  at::Tensor k;
  at::Tensor v;
};

/// Shared K/V by KvGroup id. A group is in the map from its owner layer to its last reader.
using KvMap = std::map<int64_t, KvPair>;

/// RoPE tables made so far, so that a table is computed once per shape and not once per layer.
class RopeTables {
 public:
  const RopeTable& get(int64_t positions, const RopeSpec& rope, at::ScalarType compute,
                       at::Device device = at::kCPU);

 private:
  struct Entry {
    int64_t positions;
    RopeSpec rope;
    at::ScalarType compute;
    at::Device device;
    RopeTable table;
  };
  std::deque<Entry> entries_;  // references stay valid
};

/// What every stage of one forward pass may read besides its own parameters.
struct StageInput {
  at::Tensor tokens_BT;  ///< int64; for a Block Transformer T is a multiple of L_B
  int64_t eos_id = 0;    ///< fills the block in front of the text (Block Transformer)
  /// First row each row of the sequence stack may attend to, int32: [B, T], of a Block Transformer
  /// [B, M] over blocks. Undefined: everything before.
  at::Tensor begin;
  at::ScalarType compute = at::ScalarType::Float;
  RopeTables* ropes = nullptr;
};

struct StageState {
  at::Tensor x;
  KvMap kv;
  at::Tensor context;  ///< token decoder with cross-attention: [R, L_B, D]
};

/// One step of a model: a pure function (parameters, x, kv_in) → (x, kv_out). Activation
/// checkpointing, gathering of sharded parameters and graphs wrap stages without the model knowing.
struct Stage {
  std::string name;
  /// Indices into parameters(spec), in the order `run` receives them.
  std::vector<size_t> parameters;
  /// What it reads and leaves of the state besides x.
  int64_t group = -1;        ///< KvGroup of its attention; -1: none
  bool owner = false;        ///< makes the group's K/V; otherwise it reads them
  bool last_reader = false;  ///< nobody reads the group behind it
  bool context = false;      ///< reads the context
  std::function<StageState(std::span<const at::Tensor>, const StageInput&, StageState)> run = {};
};

/// The ordered stages of `spec` up to the hidden states the head reads. The last stage of a decoder
/// returns [B, T, D]; that of a Block Transformer [B, T + L_B, D], whose row r predicts token r of
/// the text (row 0 sees only the EOS block, row T everything).
std::vector<Stage> make_stages(const ModelSpec& spec);

/// Index into parameters(spec) of the output matrix: the head, or the token table when tied.
size_t head_parameter(const ModelSpec& spec);

}  // namespace ashlar
