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

  Node settings() const override { return Node::Map{{"scorer", "train"}, {"compute", "fp32"}}; }

  std::vector<TextScore> score(std::span<const ScoreText> texts) override {
    std::vector<TextScore> out;
    for (const ScoreText& text : texts) out.push_back(score(text));
    return out;
  }

  std::vector<float> logits(std::span<const int32_t> tokens) override {
    const c10::AutoGradMode guard(false);
    const at::Tensor out = model_.forward(parameters_, to_tensor(tokens), options_).contiguous();
    const float* data = out.data_ptr<float>();
    return {data, data + out.numel()};
  }

 private:
  // Behind a marker row i predicts token i itself, else the token after it.
  TextScore score(const ScoreText& text) {
    const c10::AutoGradMode guard(false);
    const Rows kind = text.marker ? Rows::kSame : Rows::kNext;
    const at::Tensor tokens = to_tensor(text.tokens);
    const at::Tensor hidden_TD = model_.hidden(parameters_, tokens, options_, kind).squeeze(0);
    const int64_t shift = text.marker ? 0 : 1, count = tokens.size(1) - text.scored;
    constexpr int64_t kRowsAtOnce = 256;  // bounds the logits in memory
    TextScore score;
    for (int64_t done = 0; done < count; done += kRowsAtOnce) {
      const int64_t rows = std::min(kRowsAtOnce, count - done), first = text.scored + done;
      const at::Tensor logits =
          model_.logits(parameters_, hidden_TD.narrow(0, first - shift, rows), options_);
      const at::Tensor targets = tokens[0].narrow(0, first, rows).unsqueeze(1);
      const at::Tensor log_p = at::log_softmax(logits, 1, at::kDouble).gather(1, targets);
      const at::Tensor best = logits.argmax(1);
      for (int64_t r = 0; r < rows; ++r) {
        score.tokens.push_back({log_p.const_data_ptr<double>()[r],
                                static_cast<int32_t>(best.const_data_ptr<int64_t>()[r])});
      }
    }
    return score;
  }

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
