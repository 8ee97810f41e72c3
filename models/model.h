#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "models/block_losses.h"
#include "models/parameter_set.h"
#include "models/stage_executor.h"
#include "models/stages.h"

namespace ashlar {

struct ForwardOptions {
  /// Start of text: one EOS before a decoder's text when every token is scored, one block of EOS
  /// before a Block Transformer's.
  int64_t eos_id = 0;
  /// Type of activations and products; parameters keep theirs.
  at::ScalarType compute = at::ScalarType::Float;
  double z_loss = 0;                   ///< weight of lse² in `loss`
  BlockLossOptions block_losses = {};  ///< added to `loss` of a Block Transformer
};

/// Which token a row of the result predicts.
enum class Rows {
  kNext,  ///< row i predicts the token after token i: what training and generation use
  kSame,  ///< row i predicts token i itself from the start marker and tokens 0…i−1
};

/// A network without weights: stages plus constant tables. Text of any length ≥ 1 is accepted; a
/// Block Transformer's last block is filled up internally, which causality hides. Not thread-safe.
class Model {
 public:
  explicit Model(ModelSpec spec);

  const ModelSpec& spec() const { return spec_; }
  const std::vector<Stage>& stages() const { return stages_; }

  /// Hidden states the head reads, [B, T, D]. `tokens` int64 [B, T] in [0, V): checked.
  at::Tensor hidden(const ParameterSet& parameters, const at::Tensor& tokens_BT,
                    const ForwardOptions& options, Rows rows,
                    const at::Tensor& begin_BT = {}) const;
  /// The output matrix [V, D] in the compute type.
  at::Tensor head(const ParameterSet& parameters, const ForwardOptions& options) const;
  /// Logits [..., V] of hidden states [..., D].
  at::Tensor logits(const ParameterSet& parameters, const at::Tensor& hidden,
                    const ForwardOptions& options) const;
  /// Logits [B, T, V]; row i predicts the token after token i, for every architecture.
  at::Tensor forward(const ParameterSet& parameters, const at::Tensor& tokens_BT,
                     const ForwardOptions& options) const;
  /// Log-probability of every token, double [B, T], token 0 included: it follows the start marker.
  at::Tensor score(const ParameterSet& parameters, const at::Tensor& tokens_BT,
                   const ForwardOptions& options) const;
  /// weight·(−log p(target)) of every row, double [B, T], without gradients and z-loss.
  at::Tensor losses(const ParameterSet& parameters, const at::Tensor& tokens_BT,
                    const at::Tensor& targets_BT, const at::Tensor& weights_BT,
                    const ForwardOptions& options) const;
  /// Σ weight·loss over rows as a differentiable double scalar; `targets` [B, T] are the tokens
  /// after `tokens`, `weights` fp32 [B, T]. `begin`, int32 [B, T], if defined, is the first token
  /// each token may attend to: documents of a packed batch. A Block Transformer's documents must
  /// begin at block borders.
  at::Tensor loss(const ParameterSet& parameters, const at::Tensor& tokens_BT,
                  const at::Tensor& targets_BT, const at::Tensor& weights_BT,
                  const ForwardOptions& options, const at::Tensor& begin_BT = {}) const;

  // The same with every piece run by `executor`, which holds the parameters.
  at::Tensor losses(StageExecutor& executor, const at::Tensor& tokens_BT,
                    const at::Tensor& targets_BT, const at::Tensor& weights_BT,
                    const ForwardOptions& options) const;
  at::Tensor loss(StageExecutor& executor, const at::Tensor& tokens_BT,
                  const at::Tensor& targets_BT, const at::Tensor& weights_BT,
                  const ForwardOptions& options, const at::Tensor& begin_BT = {}) const;
  /// Index into parameters(spec) of the output matrix, which the loss reads.
  size_t head_index() const { return head_; }

 private:
  /// The block stack's inputs and normalised outputs [B, M, D].
  struct BlockTrace {
    at::Tensor embedded, states;
  };
  at::Tensor hidden(StageExecutor& executor, const at::Tensor& tokens_BT,
                    const ForwardOptions& options, Rows rows, const at::Tensor& begin_BT,
                    BlockTrace* trace) const;
  StageState run(StageExecutor& executor, const StageInput& input, StageState state, size_t first,
                 size_t last, BlockTrace* trace) const;
  StageState run_stage(StageExecutor& executor, size_t index, const StageInput& input,
                       StageState state) const;
  // linear_cross_entropy of hidden states [B, T, D] as a piece of its own.
  at::Tensor head_loss(StageExecutor& executor, const at::Tensor& hidden_BTD,
                       const at::Tensor& targets_BT, const at::Tensor& weights_BT,
                       const ForwardOptions& options, double z) const;
  at::Tensor block_losses(StageExecutor& executor, const at::Tensor& tokens_BT,
                          const at::Tensor& targets_BT, const at::Tensor& weights_BT,
                          const ForwardOptions& options, const BlockTrace& trace) const;

  ModelSpec spec_;
  std::vector<Stage> stages_;
  size_t head_;
  size_t blocks_ = 0, context_ = 0;  // Block Transformer: first stage of each decoder
  std::unique_ptr<RopeTables> ropes_;
};

}  // namespace ashlar
