#include "cli/train_scorer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include "core/base/cpu.h"
#include "core/base/error.h"
#include "models/model.h"

namespace ashlar::cli {
namespace {

class TrainScorer final : public Scorer {
 public:
  explicit TrainScorer(const ModelData& model) : model_(model.spec) {
    options_.eos_id = marker_token(model);
    for (const ParameterSpec& p : parameters(model.spec)) {
      const std::vector<float> values = to_floats(model.tensor(p.name));
      at::Tensor tensor = at::empty(p.shape, at::kFloat);
      std::copy(values.begin(), values.end(), tensor.data_ptr<float>());
      parameters_.specs.push_back(p);
      parameters_.tensors.push_back(std::move(tensor));
    }
  }

  int64_t vocab_size() const override { return model_.spec().vocab_size; }
  int64_t context_length() const override { return model_.spec().context_length; }

  std::vector<double> token_log_probabilities(std::span<const int32_t> tokens) override {
    if (tokens.empty()) return {};
    const c10::AutoGradMode guard(false);
    const at::Tensor out = model_.score(parameters_, to_tensor(tokens), options_).contiguous();
    const double* data = out.data_ptr<double>();
    return {data, data + out.numel()};
  }

  std::vector<double> continuation_log_probabilities(std::span<const int32_t> tokens) override {
    const c10::AutoGradMode guard(false);
    const auto inputs = tokens.first(tokens.size() - 1), targets = tokens.subspan(1);
    const at::Tensor logits = model_.forward(parameters_, to_tensor(inputs), options_);
    const at::Tensor out =
        at::log_softmax(logits, 2, at::kDouble).gather(2, to_tensor(targets).unsqueeze(2));
    const at::Tensor flat = out.reshape({-1}).contiguous();
    return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
  }

  std::vector<float> logits(std::span<const int32_t> tokens) override {
    const c10::AutoGradMode guard(false);
    const at::Tensor out = model_.forward(parameters_, to_tensor(tokens), options_).contiguous();
    const float* data = out.data_ptr<float>();
    return {data, data + out.numel()};
  }

 private:
  static at::Tensor to_tensor(std::span<const int32_t> tokens) {
    at::Tensor out = at::empty({1, static_cast<int64_t>(tokens.size())}, at::kLong);
    std::copy(tokens.begin(), tokens.end(), out.data_ptr<int64_t>());
    return out;
  }

  Model model_;
  ParameterSet parameters_;
  ForwardOptions options_;
};

}  // namespace

std::unique_ptr<Scorer> make_train_scorer(const ModelData& model, int threads) {
  require(!model.rotation.any_online(), ErrorCode::kRequest,
          "--scorer train: the model needs online rotations, which only the engine performs");
  at::set_num_threads(threads > 0 ? threads : cpu_features().cores);
  return std::make_unique<TrainScorer>(model);
}

}  // namespace ashlar::cli
