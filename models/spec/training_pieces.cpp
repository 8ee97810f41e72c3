#include "models/spec/training_pieces.h"

#include <algorithm>
#include <cmath>

#include "core/base/glob.h"
#include "models/spec/attention_kind.h"
#include "models/spec/parameters.h"

namespace ashlar {
namespace {

double real(int64_t value) { return static_cast<double>(value); }

bool is_final_norm(ParameterRole role) {
  return role == ParameterRole::kFinalNorm || role == ParameterRole::kFinalNormBias;
}

bool is_expansion(ParameterRole role) {
  return role == ParameterRole::kExpansion || role == ParameterRole::kExpansionBias;
}

// Elements of linear maps and of the rest, of the parameters that `belongs` picks.
template <typename Belongs>
void count(const std::vector<ParameterSpec>& specs, TrainingPiece& piece, Belongs belongs) {
  for (const ParameterSpec& p : specs) {
    if (!belongs(p)) continue;
    (p.is_linear() ? piece.linear : piece.rest) += real(p.numel());
  }
}

class PieceBuilder {
 public:
  PieceBuilder(const ModelSpec& spec, const RunShape& run)
      : spec_(spec),
        run_(run),
        specs_(parameters(spec)),
        flops_(training_flops(spec, run.context)),
        bytes_((run.bf16 ? 2.0 : 4.0) * real(run.context) * real(run.micro_batch)) {}

  std::vector<TrainingPiece> build() {
    if (spec_.stacks.size() > 2) add_stack(2);
    add_stack(0);
    if (spec_.stacks.size() > 1) add_stack(1);
    add_head();
    recompute();
    return std::move(pieces_);
  }

 private:
  void add_stack(size_t index) {
    const StackSpec& stack = spec_.stacks[index];
    const bool decoder = spec_.kind == ModelKind::kDecoder;
    const std::string name(stack_name(stack.role));
    TrainingPiece embed;
    embed.name = decoder ? "embed" : index == 1 ? "local.context" : name + ".embed";
    count(specs_, embed, [&](const ParameterSpec& p) {
      if (is_expansion(p.role)) return index == 1;
      return p.layer < 0 && p.stack == static_cast<int64_t>(index) && !is_final_norm(p.role) &&
             p.role != ParameterRole::kHead;
    });
    const double positions = positions_per_token(spec_, stack);
    embed.flops_per_token = 2 * embed.linear / (spec_.block ? real(spec_.block->length) : 1);
    pieces_.push_back(std::move(embed));
    const double attention = flops_.part(name).attention / real(std::ssize(stack.layers));
    for (int64_t l = 0; l < std::ssize(stack.layers); ++l) {
      TrainingPiece piece;
      piece.name = layer_prefix(stack, l);
      count(specs_, piece, [&](const ParameterSpec& p) {
        return p.stack == static_cast<int64_t>(index) && p.layer == l;
      });
      piece.activations = layer_elements(spec_, stack, l) * positions * bytes_;
      piece.inputs = input_elements(stack, l) * positions * bytes_;
      piece.flops_per_token = 2 * piece.linear * positions + attention;
      pieces_.push_back(std::move(piece));
    }
    count(specs_, pieces_.back(), [&](const ParameterSpec& p) {
      return p.layer < 0 && p.stack == static_cast<int64_t>(index) && is_final_norm(p.role);
    });
  }

  // The stream, and K and V where the layer makes them for others.
  static double input_elements(const StackSpec& stack, int64_t index) {
    const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
    double sum = real(stack.d_model);
    if (layer.kv_owner != index) return sum;
    KvGroup group;
    attention_kind(layer.attention.kind).cache(layer.attention, group);
    return sum + real(group.heads * (group.key_dim + group.value_dim));
  }

  void add_head() {
    TrainingPiece head;
    head.name = "head";
    count(specs_, head, [](const ParameterSpec& p) { return p.role == ParameterRole::kHead; });
    head.activations = 4.0 * real(spec_.token_stack().d_model) * bytes_;
    head.flops_per_token = 2.0 * real(spec_.vocab_size) * real(spec_.token_stack().d_model);
    pieces_.push_back(std::move(head));
  }

  void recompute() {
    for (const std::string& glob : run_.recompute) {
      for (size_t i = 0; i + 1 < pieces_.size(); ++i) {
        if (glob_match(glob, pieces_[i].name)) pieces_[i].recompute = true;
      }
    }
  }

  const ModelSpec& spec_;
  const RunShape& run_;
  std::vector<ParameterSpec> specs_;
  Flops flops_;
  double bytes_;  // of one element of every position of a micro-batch
  std::vector<TrainingPiece> pieces_;
};

}  // namespace

double layer_elements(const ModelSpec& spec, const StackSpec& stack, int64_t index) {
  const LayerSpec& layer = stack.layers[static_cast<size_t>(index)];
  const AttentionSpec& a = layer.attention;
  const bool owner = layer.kv_owner == index;
  int64_t sum = (layer.residual == ResidualKind::kParallel ? 3 : 4) * stack.d_model;
  if (owner && a.separate_kv_norm) sum += stack.d_model;
  sum += attention_kind(a.kind).saved_elements(a, owner);
  sum += (layer.ffn.gated() ? 3 : 2) * layer.ffn.d_ff;
  double total = real(sum);
  if (spec.has_cross_attention(stack)) {
    const BlockSpec& b = *spec.block;
    total += real(2 * stack.d_model + 2 * a.heads * a.head_dim) +
             real(2 * a.kv_heads * a.head_dim * b.context_rows()) / real(b.local_positions());
  }
  return total;
}

double positions_per_token(const ModelSpec& spec, const StackSpec& stack) {
  if (!spec.block) return 1;
  const BlockSpec& b = *spec.block;
  const int64_t positions = stack.role == StackRole::kGlobal    ? 1
                            : stack.role == StackRole::kEncoder ? b.cls_tokens + b.length
                                                                : b.local_positions();
  return real(positions) / real(b.length);
}

std::vector<TrainingPiece> training_pieces(const ModelSpec& spec, const RunShape& run,
                                           int64_t shards) {
  std::vector<TrainingPiece> pieces = PieceBuilder(spec, run).build();
  // train/dist/unit_layout.h: slices are whole blocks.
  const double block = 4096.0 * real(shards);
  const auto padded = [&](double n) { return std::ceil(n / block) * block; };
  for (TrainingPiece& piece : pieces) {
    // In fp32 both lie in one unit.
    if (!run.bf16) {
      piece.rest = padded(piece.elements()) - piece.linear;
    } else {
      piece.linear = padded(piece.linear);
      piece.rest = padded(piece.rest);
    }
  }
  return pieces;
}

}  // namespace ashlar
