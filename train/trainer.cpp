#include "train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/base/error.h"
#include "train/trainer_state.h"

namespace ashlar {
namespace {

using at::Tensor;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double weight_of(const Batch& batch) {
  return std::accumulate(batch.loss_weight.begin(), batch.loss_weight.end(), 0.0);
}

int64_t targets_of(const Batch& batch) {
  return std::count_if(batch.loss_weight.begin(), batch.loss_weight.end(),
                       [](float w) { return w > 0; });
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, int64_t eos_id, Communicator& world)
    : Trainer(config, eos_id, world, world) {}

Trainer::Trainer(const TrainConfig& config, int64_t eos_id, Communicator& control,
                 Communicator& tensors)
    : state_(std::make_unique<State>(config, eos_id, control, tensors)) {}

Trainer::Trainer(const TrainConfig& config, int64_t eos_id)
    : alone_(make_single_communicator()),
      alone_tensors_(config.device == DeviceKind::kCuda ? make_cuda_alone(config.device_index)
                                                        : nullptr),
      state_(std::make_unique<State>(config, eos_id, *alone_,
                                     alone_tensors_ ? *alone_tensors_ : *alone_)) {}

Trainer::~Trainer() = default;

Tensor Trainer::State::pass(const BatchTensors& in) {
  runner->begin_pass();
  const Tensor loss = model.loss(*runner, in.tokens, in.targets, in.weights, options, in.begin);
  torch::autograd::backward({loss});
  return loss.detach();
}

Tensor Trainer::State::run_pass(const Batch& batch, double total_weight, bool last,
                                int64_t micro_batches) {
  BatchTensors in = tensors_of(batch, config.document_mask, config.model.vocab_size, device);
  in.weights = in.weights / total_weight;
  // A recording holds nothing that is communicated: all of it comes behind.
  Tensor loss;
  if (graph) loss = graph->run(in, position.step);
  reducer->begin_pass(last, micro_batches);
  if (!graph) loss = pass(in);
  reducer->finish_pass();
  return loss;
}

StepResult Trainer::compute(const SampleSource& data, int64_t vote) {
  State& s = *state_;
  const int64_t size = s.config.batch_size;
  const MicroBatches dealt = s.micro_batches(s.position.next_sample, size);
  const double waited = s.waits.seconds();
  const auto begin = Clock::now();
  std::optional<ScopedSpan> span(std::in_place, s.tracer, "data", "samples");
  std::vector<Batch> batches;
  std::vector<double> weights;
  for (int64_t pass = 0; pass < dealt.passes(); ++pass) {
    batches.push_back(dealt.read(data, pass));
    weights.push_back(weight_of(batches.back()));
    weights.push_back(static_cast<double>(targets_of(batches.back())));
    weights.push_back(static_cast<double>(vote));
  }
  StepResult result;
  result.step = s.position.step + 1;
  result.data_seconds = seconds_since(begin);
  span.reset();
  const MicroBatches ahead = s.micro_batches(s.position.next_sample + size, size);
  for (int64_t pass = 0; pass < ahead.passes(); ++pass) data.prefetch(ahead.samples(pass));

  double weight = 0, tokens = 0;
  const std::vector<double> all = s.by_micro_batch(dealt, weights);
  for (size_t m = 0; m < all.size(); m += 3) {
    weight += all[m];
    tokens += all[m + 1];
    result.vote = std::max(result.vote, static_cast<int64_t>(all[m + 2]));
  }
  require(weight > 0, ErrorCode::kData, "step {}: no target of the batch carries weight",
          result.step);
  s.reducer->begin_step();
  std::vector<Tensor> of_pass;
  for (int64_t pass = 0; pass < dealt.passes(); ++pass) {
    of_pass.push_back(s.run_pass(batches[static_cast<size_t>(pass)], weight,
                                 pass + 1 == dealt.passes(), dealt.in_pass(pass)));
  }
  s.settle();
  std::vector<double> losses;
  for (const Tensor& loss : of_pass) losses.push_back(loss.item<double>());
  const at::NoGradGuard no_grad;
  result.loss = sum(s.by_micro_batch(dealt, losses));
  result.grad_norm = s.gradient_norm();
  result.lr = learning_rate(s.config, result.step);
  result.comm_seconds = s.waits.seconds() - waited;
  s.computed =
      State::Computed{result, static_cast<int64_t>(tokens), s.reducer->take_fingerprints()};
  return result;
}

void Trainer::record_passes(std::unique_ptr<GraphBackend> backend) {
  state_->record_passes(std::move(backend));
}

void Trainer::trace(Tracer* tracer) {
  state_->tracer = tracer;
  state_->runner->trace(tracer);
}

void Trainer::record_fingerprints(bool on) { state_->reducer->record_fingerprints(on); }

void Trainer::overlap_communication(bool on) { state_->waits.overlap(on); }

std::vector<int64_t> Trainer::replay(const SampleSource& data) {
  State& s = *state_;
  ASHLAR_CHECK(s.computed.has_value());
  const std::vector<uint64_t> before = s.computed->fingerprints;
  compute(data);
  ASHLAR_CHECK(!before.empty());
  const int64_t differs = s.computed->fingerprints == before ? 0 : 1;
  std::vector<int64_t> all(static_cast<size_t>(s.world.size()));
  s.world.all_gather(&differs, all.data(), 1, DType::kI64)->wait();
  std::vector<int64_t> ranks;
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r] != 0) ranks.push_back(static_cast<int64_t>(r));
  }
  return ranks;
}

void Trainer::apply() {
  State& s = *state_;
  ASHLAR_CHECK(s.computed.has_value());
  const at::NoGradGuard no_grad;
  const ScopedSpan span(s.tracer, "compute", "optimizer");
  const StepResult& r = s.computed->result;
  const double clip = s.config.optimizer.clip;
  const std::vector<UnitSlice> slices = s.slices();
  if (clip > 0 && r.grad_norm > clip) {
    for (const UnitSlice& slice : slices) slice.gradients.mul_(clip / r.grad_norm);
  }
  const auto gather = [&](size_t unit, const Tensor& slice) {
    Tensor whole = at::empty({s.units[unit]->layout().size}, slice.options());
    const auto work =
        s.shard->all_gather(slice.data_ptr(), whole.data_ptr(), slice.numel(), DType::kF32);
    s.waits.wait(*work);
    return whole;
  };
  s.optimizer->step(slices, {r.step, r.lr, gather});
  if (s.average) s.average->update(slices, r.step);
  for (size_t u = 0; u < s.plan.trained; ++u) s.units[u]->changed();
  skip();
}

void Trainer::skip() {
  State& s = *state_;
  ASHLAR_CHECK(s.computed.has_value());
  s.position.step = s.computed->result.step;
  s.position.tokens += s.computed->tokens;
  s.position.next_sample += s.config.batch_size;
  s.computed.reset();
}

StepResult Trainer::step(const SampleSource& data) {
  const StepResult r = compute(data);
  require(std::isfinite(r.loss), ErrorCode::kData,
          "step {}: the loss is {}; lower optimizer.lr, raise schedule.warmup_steps or use "
          "precision fp32",
          r.step, r.loss);
  require(std::isfinite(r.grad_norm), ErrorCode::kData,
          "step {}: the gradient norm is {} at a loss of {}; lower optimizer.lr or use precision "
          "fp32",
          r.step, r.grad_norm, r.loss);
  apply();
  return r;
}

ParameterNorms Trainer::norms() {
  State& s = *state_;
  ASHLAR_CHECK(s.computed.has_value());
  const ParameterSquares own = parameter_squares(s.slices(), s.specs.size());
  std::vector<double> all = own.values;
  all.insert(all.end(), own.gradients.begin(), own.gradients.end());
  s.control_shard
      ->all_reduce(all.data(), static_cast<int64_t>(all.size()), DType::kF64, ReduceOp::kSum)
      ->wait();
  ParameterNorms out;
  const size_t n = s.specs.size();
  for (size_t i = 0; i < n; ++i) {
    if (s.plan.places[i].unit >= s.plan.trained) continue;
    out.push_back({s.specs[i].name, std::sqrt(all[i]), std::sqrt(all[n + i])});
  }
  return out;
}

void Trainer::swap_average() {
  ASHLAR_CHECK(state_->average.has_value());
  state_->average->swap(state_->slices());
  state_changed();
}

// Of the weights as they are. For every micro-batch: loss and weight by position within a block,
// and targets.
ValidationResult Trainer::State::validate(const SampleSource& data, int64_t rows,
                                          std::optional<double> bytes_per_token) {
  State& s = *this;
  const auto length = static_cast<size_t>(s.config.model.block_length());
  rows = rows == 0 ? data.windows() : std::min(rows, data.windows());
  const MicroBatches dealt = s.micro_batches(0, rows);
  const size_t each = 2 * length + 1;
  std::vector<double> own(each * static_cast<size_t>(dealt.passes()));
  for (int64_t pass = 0; pass < dealt.passes(); ++pass) {
    const Batch batch = dealt.read(data, pass);
    const BatchTensors t = tensors_of(batch, false, s.config.model.vocab_size, s.device);
    const Tensor computed = s.model.losses(*s.runner, t.tokens, t.targets, t.weights, s.options);
    s.settle();
    const Tensor losses = computed.to(at::kCPU).contiguous();
    const double* row = losses.data_ptr<double>();
    double* out = own.data() + each * static_cast<size_t>(pass);
    for (size_t i = 0; i < batch.loss_weight.size(); ++i) {
      // Row t of a sample predicts token t + 1, counted from the sample's first block.
      const size_t position = (i % static_cast<size_t>(batch.context) + 1) % length;
      out[position] += row[i];
      out[length + position] += static_cast<double>(batch.loss_weight[i]);
    }
    out[2 * length] = static_cast<double>(targets_of(batch));
  }
  const std::vector<double> all = s.by_micro_batch(dealt, own);
  std::vector<double> total(each);
  for (size_t i = 0; i < all.size(); ++i) total[i % each] += all[i];
  ValidationResult result;
  double loss = 0, weight = 0;
  for (size_t p = 0; p < length; ++p) {
    loss += total[p];
    weight += total[length + p];
    if (length > 1) result.loss_by_position.push_back(total[p] / total[length + p]);
  }
  result.tokens = static_cast<int64_t>(total[2 * length]);
  result.loss = loss / weight;
  if (bytes_per_token) {
    result.bits_per_byte = result.loss / std::numbers::ln2 / *bytes_per_token;
  }
  return result;
}

ValidationResult Trainer::validate(const SampleSource& data, int64_t rows,
                                   std::optional<double> bytes_per_token) {
  ValidationResult result = state_->validate(data, rows, bytes_per_token);
  if (!state_->average) return result;
  swap_average();
  result.averaged_loss = state_->validate(data, rows, bytes_per_token).loss;
  swap_average();
  return result;
}

RunPosition Trainer::position() const { return state_->position; }

void Trainer::set_next_sample(int64_t next_sample) { state_->position.next_sample = next_sample; }

}  // namespace ashlar
