#include "train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numbers>

#include "core/base/error.h"
#include "models/model.h"
#include "train/optim/optimizer.h"

namespace ashlar {
namespace {

using at::Tensor;

struct BatchTensors {
  Tensor tokens, targets, weights;
  Tensor begin;  // first token each token may attend to; undefined: all
};

// First position of each position's document.
Tensor segment_begin(const Batch& batch) {
  Tensor begin = at::zeros({batch.rows, batch.context}, at::kInt);
  int32_t* first = begin.data_ptr<int32_t>();
  for (int64_t r = 0; r < batch.rows; ++r) {
    for (int64_t t = 1; t < batch.context; ++t) {
      const int64_t at = r * batch.context + t;
      const bool same = batch.segment_ids[static_cast<size_t>(at)] ==
                        batch.segment_ids[static_cast<size_t>(at - 1)];
      first[at] = same ? first[at - 1] : static_cast<int32_t>(t);
    }
  }
  return begin;
}

BatchTensors tensors_of(const Batch& batch, bool document_mask) {
  const std::vector<int64_t> shape = {batch.rows, batch.context};
  const auto ids = [&](const std::vector<int32_t>& v) {
    return at::from_blob(const_cast<int32_t*>(v.data()), shape, at::kInt).to(at::kLong);
  };
  return {ids(batch.tokens), ids(batch.targets),
          at::from_blob(const_cast<float*>(batch.loss_weight.data()), shape, at::kFloat),
          document_mask ? segment_begin(batch) : Tensor()};
}

double sum(const std::vector<float>& weights) {
  double total = 0;
  for (float w : weights) total += static_cast<double>(w);
  return total;
}

}  // namespace

// All parameters are views of one flat tensor, so that norm, clipping and clearing are single
// passes; gradients likewise.
struct Trainer::State {
  TrainConfig config;
  Model model;
  ForwardOptions options;
  ParameterSet parameters;
  UnitLayout layout;
  Tensor values, gradients;
  std::unique_ptr<Optimizer> optimizer;
  int64_t step = 0;
  int64_t tokens = 0;

  State(const TrainConfig& c, int64_t eos_id)
      : config(c),
        model(c.model),
        options{eos_id, c.precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat, c.z_loss,
                c.block_losses},
        parameters(init_parameters(c.model, c.seed, at::kFloat, c.init)) {
    ASHLAR_CHECK(c.precision != Precision::kAuto && c.threads > 0);
    at::set_num_threads(static_cast<int>(c.threads));
    std::vector<std::pair<size_t, int64_t>> sizes;
    for (size_t i = 0; i < parameters.specs.size(); ++i) {
      sizes.emplace_back(i, parameters.specs[i].numel());
    }
    layout = make_unit_layout("all", sizes, 1);
    values = at::zeros({layout.size}, at::kFloat);
    gradients = at::zeros({layout.size}, at::kFloat);
    for (size_t i = 0; i < parameters.specs.size(); ++i) {
      const Tensor own = part(values, i);
      own.copy_(parameters.tensors[i]);
      parameters.tensors[i] = own.detach().set_requires_grad(true);
      parameters.tensors[i].mutable_grad() = part(gradients, i);
    }
    optimizer = make_optimizer(config.optimizer, parameters.specs, {{unit()}});
  }

  UnitSlice unit() const { return {&layout, {0, layout.size}, values, gradients}; }
  Tensor part(const Tensor& flat, size_t i) const {
    const UnitLayout::Part& p = layout.parts[i];
    return flat.narrow(0, p.offset, p.numel).view(parameters.specs[i].shape);
  }
  float* data(size_t i) const { return values.data_ptr<float>() + layout.parts[i].offset; }
};

Trainer::Trainer(const TrainConfig& config, int64_t eos_id)
    : state_(std::make_unique<State>(config, eos_id)) {}

Trainer::~Trainer() = default;

StepResult Trainer::step(const SampleSource& data) {
  State& s = *state_;
  const int64_t next = s.step + 1, size = s.config.batch_size;
  const int64_t first = s.step * size;
  const Batch batch = data.batch(first, size);
  const double weight = sum(batch.loss_weight);
  require(weight > 0, ErrorCode::kData, "step {}: no target of the batch carries weight", next);
  const BatchTensors all = tensors_of(batch, s.config.document_mask);
  const Tensor weights = all.weights / weight;
  s.gradients.zero_();
  double loss = 0;
  for (int64_t row = 0; row < size; row += s.config.micro_batch) {
    const int64_t rows = std::min(s.config.micro_batch, size - row);
    const auto part = [&](const Tensor& t) {
      return t.defined() ? t.narrow(0, row, rows) : Tensor();
    };
    const Tensor value = s.model.loss(s.parameters, part(all.tokens), part(all.targets),
                                      part(weights), s.options, part(all.begin));
    loss += value.item<double>();
    require(std::isfinite(loss), ErrorCode::kData,
            "step {}: the loss is {}; lower optimizer.lr, raise schedule.warmup_steps or use "
            "precision fp32",
            next, loss);
    torch::autograd::backward({value});
  }
  const at::NoGradGuard no_grad;
  const double norm = at::linalg_vector_norm(s.gradients, 2, {}, false, at::kDouble).item<double>();
  require(std::isfinite(norm), ErrorCode::kData,
          "step {}: the gradient norm is {} at a loss of {}; lower optimizer.lr or use precision "
          "fp32",
          next, norm, loss);
  const double clip = s.config.optimizer.clip;
  if (clip > 0 && norm > clip) s.gradients.mul_(clip / norm);
  const double lr = learning_rate(s.config, next);
  s.optimizer->step({{s.unit()}}, {next, lr, {}});
  s.step = next;
  for (float w : batch.loss_weight) s.tokens += w > 0 ? 1 : 0;
  return {next, loss, lr, norm};
}

ValidationResult Trainer::validate(const SampleSource& data, int64_t rows,
                                   std::optional<double> bytes_per_token) const {
  const State& s = *state_;
  const int64_t length = s.config.model.block_length();
  std::vector<double> loss(static_cast<size_t>(length)), weight(loss.size());
  ValidationResult result;
  rows = rows == 0 ? data.windows() : std::min(rows, data.windows());
  for (int64_t first = 0; first < rows; first += s.config.micro_batch) {
    const Batch batch = data.batch(first, std::min(s.config.micro_batch, rows - first));
    const BatchTensors t = tensors_of(batch, false);
    const Tensor losses =
        s.model.losses(s.parameters, t.tokens, t.targets, t.weights, s.options).contiguous();
    const double* row = losses.data_ptr<double>();
    for (size_t i = 0; i < batch.loss_weight.size(); ++i) {
      // Row t of a sample predicts token t + 1, counted from the sample's first block.
      const auto t_next = static_cast<int64_t>(i) % batch.context + 1;
      const auto position = static_cast<size_t>(t_next % length);
      loss[position] += row[i];
      weight[position] += static_cast<double>(batch.loss_weight[i]);
      result.tokens += batch.loss_weight[i] > 0 ? 1 : 0;
    }
  }
  double total = 0, all = 0;
  for (size_t p = 0; p < loss.size(); ++p) {
    total += loss[p];
    all += weight[p];
    if (length > 1) result.loss_by_position.push_back(loss[p] / weight[p]);
  }
  result.loss = total / all;
  if (bytes_per_token) {
    result.bits_per_byte = result.loss / std::numbers::ln2 / *bytes_per_token;
  }
  return result;
}

void Trainer::set_parameters(
    const std::function<std::vector<float>(const ParameterSpec&)>& values) {
  for (size_t i = 0; i < state_->parameters.specs.size(); ++i) {
    const ParameterSpec& p = state_->parameters.specs[i];
    const std::vector<float> own = values(p);
    ASHLAR_CHECK_EQ(static_cast<int64_t>(own.size()), p.numel());
    std::copy(own.begin(), own.end(), state_->data(i));
  }
}

RunPosition Trainer::position() const {
  const State& s = *state_;
  return {s.step, s.tokens, s.step * s.config.batch_size, s.config.seed, 0};
}

void Trainer::save(Snapshot& snapshot) const {
  const State& s = *state_;
  const auto write = [&](const std::string& group, size_t i, const float* values) {
    const ParameterSpec& p = s.parameters.specs[i];
    snapshot.add(group + p.name, p.shape, 0, {values, static_cast<size_t>(p.numel())});
  };
  for (size_t i = 0; i < s.parameters.specs.size(); ++i) write("parameters/", i, s.data(i));
  for (const OptimizerState& state : s.optimizer->state()) {
    write("optimizer/" + state.name + "/", state.parameter, state.values.data_ptr<float>());
  }
}

void Trainer::load(const CheckpointReader& reader) {
  State& s = *state_;
  const CheckpointManifest& manifest = reader.manifest();
  const auto differs = [&](const char* key, auto now, auto then) {
    require(now == then, ErrorCode::kRequest, "{}: {} is {}, but the run began with {}",
            reader.path().string(), key, now, then);
  };
  require(manifest.spec == s.config.model, ErrorCode::kRequest,
          "{}: the checkpoint is of another model than the configuration's",
          reader.path().string());
  differs("train.seed", s.config.seed, manifest.position.seed);
  differs("train.batch_size", s.config.batch_size * manifest.position.step,
          manifest.position.next_sample);
  differs("the EOS id of the data", s.options.eos_id, manifest.eos_id);
  const auto read = [&](const std::string& group, size_t i, float* values) {
    const ParameterSpec& p = s.parameters.specs[i];
    reader.read(group + p.name, {values, static_cast<size_t>(p.numel())});
  };
  for (size_t i = 0; i < s.parameters.specs.size(); ++i) read("parameters/", i, s.data(i));
  for (const OptimizerState& state : s.optimizer->state()) {
    read("optimizer/" + state.name + "/", state.parameter, state.values.data_ptr<float>());
  }
  s.step = manifest.position.step;
  s.tokens = manifest.position.tokens;
}

int64_t Trainer::parameter_count() const {
  int64_t total = 0;
  for (const ParameterSpec& p : state_->parameters.specs) total += p.numel();
  return total;
}

}  // namespace ashlar
