#include "models/model.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "attention/linear.h"
#include "attention/ops.h"
#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

using at::Tensor;

void check_tokens(const Tensor& tokens, int64_t vocabulary) {
  ASHLAR_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong && tokens.numel() > 0);
  // What is on a device was checked before it went there (train/micro_batches.h).
  if (!tokens.is_cpu()) return;
  const Tensor flat = tokens.contiguous();
  const int64_t* id = flat.data_ptr<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    require(id[i] >= 0 && id[i] < vocabulary, ErrorCode::kData,
            "token {} at position {} is outside the vocabulary of {}", id[i], i, vocabulary);
  }
}

// First block each block may attend to, the EOS block in front included. Documents begin at block
// borders, so a block belongs to one of them, whose first block is its own.
Tensor block_begin(const Tensor& begin_BT, int64_t length) {
  ASHLAR_CHECK(begin_BT.scalar_type() == at::kInt && begin_BT.is_contiguous());
  const int64_t batch = begin_BT.size(0), count = begin_BT.size(1);
  const int64_t blocks = count / length + (count % length != 0 ? 1 : 0);
  Tensor out = at::zeros({batch, blocks + 1}, at::kInt);
  const Tensor host = begin_BT.to(at::kCPU);
  const int32_t* first = host.data_ptr<int32_t>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < count; ++t) {
      const int32_t begin = first[b * count + t];
      require(begin % length == 0, ErrorCode::kRequest,
              "a document begins at token {} of its sample, inside a block of {}: a document mask "
              "needs documents padded to blocks (block.pad)",
              begin, length);
      if (t % length != 0) continue;
      // A text that begins the sample also sees the EOS block in front of it.
      out.data_ptr<int32_t>()[b * (blocks + 1) + t / length + 1] =
          static_cast<int32_t>(begin == 0 ? 0 : begin / length + 1);
    }
  }
  return out.to(begin_BT.device());
}

}  // namespace

Model::Model(ModelSpec spec)
    : spec_(std::move(spec)),
      stages_(make_stages(spec_)),
      head_(head_parameter(spec_)),
      ropes_(std::make_unique<RopeTables>()) {
  for (size_t i = 0; i < stages_.size(); ++i) {
    if (stages_[i].name == "global.layers.0") blocks_ = i;
    if (stages_[i].name == "local.context") context_ = i;
  }
}

// Stages [first, last).
StageState Model::run(StageExecutor& executor, const StageInput& input, StageState state,
                      size_t first, size_t last, BlockTrace* trace) const {
  for (size_t i = first; i < last; ++i) {
    if (trace != nullptr && i == blocks_) trace->embedded = state.x;
    if (trace != nullptr && i == context_) trace->states = state.x;
    state = run_stage(executor, i, input, std::move(state));
  }
  return state;
}

// Only what the stage reads goes through the executor: K/V and context that it passes by stay
// outside.
StageState Model::run_stage(StageExecutor& executor, size_t index, const StageInput& input,
                            StageState state) const {
  const Stage& stage = stages_[index];
  std::vector<Tensor> inputs(4);  // x, K, V, context
  inputs[0] = state.x;
  if (stage.group >= 0 && !stage.owner) {
    inputs[1] = state.kv.at(stage.group).k;
    inputs[2] = state.kv.at(stage.group).v;
  }
  if (stage.context) inputs[3] = state.context;
  // By value: the call outlives this pass when it is run again for its gradients.
  const auto body = [&stage, input](std::span<const Tensor> parameters,
                                    std::span<const Tensor> in) {
    StageState own{in[0], {}, in[3]};
    if (in[1].defined()) own.kv[stage.group] = {in[1], in[2]};
    StageState out = stage.run(parameters, input, std::move(own));
    std::vector<Tensor> outputs(4);
    outputs[0] = out.x;
    if (stage.owner && !stage.last_reader) {
      outputs[1] = out.kv.at(stage.group).k;
      outputs[2] = out.kv.at(stage.group).v;
    }
    if (!in[3].defined()) outputs[3] = out.context;
    return outputs;
  };
  std::vector<Tensor> outputs = executor.run({index, stage.parameters, body}, std::move(inputs));
  state.x = std::move(outputs[0]);
  if (outputs[1].defined()) state.kv[stage.group] = {std::move(outputs[1]), std::move(outputs[2])};
  if (stage.last_reader) state.kv.erase(stage.group);
  if (outputs[3].defined()) state.context = std::move(outputs[3]);
  return state;
}

Tensor Model::hidden(const ParameterSet& parameters, const Tensor& tokens,
                     const ForwardOptions& options, Rows rows, const Tensor& begin) const {
  DirectExecutor direct(parameters);
  return hidden(direct, tokens, options, rows, begin, nullptr);
}

Tensor Model::hidden(StageExecutor& executor, const Tensor& tokens, const ForwardOptions& options,
                     Rows rows, const Tensor& begin, BlockTrace* trace) const {
  check_tokens(tokens, spec_.vocab_size);
  require(options.eos_id >= 0 && options.eos_id < spec_.vocab_size, ErrorCode::kRequest,
          "EOS id {} is outside the vocabulary of {}", options.eos_id, spec_.vocab_size);
  const int64_t batch = tokens.size(0), count = tokens.size(1);
  const auto eos = [&](int64_t n) {
    return at::full({batch, n}, options.eos_id, tokens.options());
  };
  StageInput input{tokens, options.eos_id, begin, options.compute, ropes_.get()};
  if (spec_.kind == ModelKind::kDecoder) {
    if (rows == Rows::kSame) {
      ASHLAR_CHECK(!begin.defined());
      input.tokens_BT = at::cat({eos(1), tokens.narrow(1, 0, count - 1)}, 1);
    }
    return run(executor, input, {}, 0, stages_.size(), nullptr).x;
  }
  const int64_t missing = round_up(count, spec_.block->length) - count;
  if (missing > 0) input.tokens_BT = at::cat({tokens, eos(missing)}, 1);
  if (begin.defined()) input.begin = block_begin(begin, spec_.block->length);
  return run(executor, input, {}, 0, stages_.size(), trace)
      .x.narrow(1, rows == Rows::kNext ? 1 : 0, count);
}

Tensor Model::head(const ParameterSet& parameters, const ForwardOptions& options) const {
  return parameters.tensors[head_].to(options.compute);
}

Tensor Model::logits(const ParameterSet& parameters, const Tensor& hidden,
                     const ForwardOptions& options) const {
  const Tensor logits = linear_map(hidden, head(parameters, options));
  const double cap = spec_.logit_softcap;
  return cap > 0 ? at::tanh(logits / cap) * cap : logits;
}

Tensor Model::forward(const ParameterSet& parameters, const Tensor& tokens,
                      const ForwardOptions& options) const {
  return logits(parameters, hidden(parameters, tokens, options, Rows::kNext), options);
}

Tensor Model::score(const ParameterSet& parameters, const Tensor& tokens,
                    const ForwardOptions& options) const {
  const at::NoGradGuard no_grad;
  const Tensor h = hidden(parameters, tokens, options, Rows::kSame);
  return linear_losses(h.reshape({-1, h.size(2)}), head(parameters, options),
                       tokens.reshape({-1}).contiguous(),
                       at::ones({tokens.numel()}, tokens.options().dtype(at::kFloat)),
                       spec_.logit_softcap)
      .neg_()
      .view(tokens.sizes());
}

Tensor Model::losses(const ParameterSet& parameters, const Tensor& tokens, const Tensor& targets,
                     const Tensor& weights, const ForwardOptions& options) const {
  DirectExecutor direct(parameters);
  return losses(direct, tokens, targets, weights, options);
}

Tensor Model::losses(StageExecutor& executor, const Tensor& tokens, const Tensor& targets,
                     const Tensor& weights, const ForwardOptions& options) const {
  const at::NoGradGuard no_grad;
  const auto body = [&](std::span<const Tensor> head, std::span<const Tensor> in) {
    return std::vector{linear_losses(in[0].reshape({-1, in[0].size(2)}),
                                     head[0].to(options.compute),
                                     targets.reshape({-1}).contiguous(),
                                     weights.reshape({-1}).contiguous(), spec_.logit_softcap)};
  };
  return executor
      .run({stages_.size(), {&head_, 1}, body},
           {hidden(executor, tokens, options, Rows::kNext, {}, nullptr)})[0]
      .view(tokens.sizes());
}

Tensor Model::loss(const ParameterSet& parameters, const Tensor& tokens, const Tensor& targets,
                   const Tensor& weights, const ForwardOptions& options,
                   const Tensor& begin) const {
  DirectExecutor direct(parameters);
  return loss(direct, tokens, targets, weights, options, begin);
}

Tensor Model::loss(StageExecutor& executor, const Tensor& tokens, const Tensor& targets,
                   const Tensor& weights, const ForwardOptions& options,
                   const Tensor& begin) const {
  const bool extra = spec_.block.has_value() && options.block_losses.any();
  BlockTrace trace;
  const Tensor h = hidden(executor, tokens, options, Rows::kNext, begin, extra ? &trace : nullptr);
  const Tensor total = head_loss(executor, h, targets, weights, options, options.z_loss);
  if (!extra) return total;
  return total + block_losses(executor, tokens, targets, weights, options, trace);
}

Tensor Model::head_loss(StageExecutor& executor, const Tensor& hidden, const Tensor& targets,
                        const Tensor& weights, const ForwardOptions& options, double z) const {
  const auto body = [this, targets = targets.reshape({-1}).contiguous(),
                     weights = weights.reshape({-1}).contiguous(), compute = options.compute,
                     z](std::span<const Tensor> head, std::span<const Tensor> in) {
    return std::vector{linear_cross_entropy(in[0].reshape({-1, in[0].size(2)}), head[0].to(compute),
                                            targets, weights, {spec_.logit_softcap, z})};
  };
  return executor.run({stages_.size(), {&head_, 1}, body}, {hidden})[0];
}

// Blocks that only fill up the sample count as padding: no target lies in them.
Tensor Model::block_losses(StageExecutor& executor, const Tensor& tokens, const Tensor& targets,
                           const Tensor& weights, const ForwardOptions& options,
                           const BlockTrace& trace) const {
  const BlockLossOptions& extra = options.block_losses;
  const int64_t length = spec_.block->length, count = tokens.size(1) / length * length;
  const int64_t blocks = count / length;
  Tensor total = at::zeros({}, at::kDouble);
  if (blocks == 0) return total;
  const Tensor next = trace.embedded.narrow(1, 1, blocks);
  if (extra.decoding != BlockDecodingLoss::kNone) {
    const Tensor loss = block_decoding_loss(extra.decoding, trace.states.narrow(1, 0, blocks), next,
                                            weighted_blocks(weights.narrow(1, 0, count), length));
    // In proportion to this micro-batch's share of the step.
    total = total + loss.to(at::kDouble) * (weights.sum().to(at::kDouble) * extra.decoding_weight);
  }
  if (extra.auto_encoding_weight > 0 && count > 1) {
    const StageInput input{
        tokens.narrow(1, 0, count), options.eos_id, {}, options.compute, ropes_.get()};
    StageState state;
    // Row j of the token decoder decodes text block j; the row behind the text is not used.
    state.x = at::cat({next, next.narrow(1, blocks - 1, 1)}, 1);
    const Tensor h = run(executor, input, std::move(state), context_, stages_.size(), nullptr)
                         .x.narrow(1, 1, count - 1);
    total = total + head_loss(executor, h, targets.narrow(1, 0, count - 1),
                              weights.narrow(1, 0, count - 1), options, 0) *
                        extra.auto_encoding_weight;
  }
  return total;
}

}  // namespace ashlar
