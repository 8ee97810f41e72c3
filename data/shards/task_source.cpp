#include "data/shards/task_source.h"

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {

TaskSource::TaskSource(std::unique_ptr<TaskGenerator> task, int64_t context,
                       const TaskSourceOptions& options)
    : task_(std::move(task)),
      context_(context),
      options_(options),
      order_(static_cast<uint64_t>(std::max<int64_t>(1, options.examples)), options.seed) {
  require(task_->max_tokens() <= context, ErrorCode::kRequest,
          "examples of up to {} tokens do not fit a context of {}", task_->max_tokens(), context);
  ASHLAR_CHECK(options.eos >= 0 && options.eos < task_->vocab_size());
}

int64_t TaskSource::windows() const {
  return options_.examples > 0 ? options_.examples : int64_t{1} << 62;
}

Batch TaskSource::batch(std::span<const int64_t> samples) const {
  Batch out(samples, context_);
  std::fill(out.tokens.begin(), out.tokens.end(), options_.eos);
  std::fill(out.targets.begin(), out.targets.end(), options_.eos);
  const size_t front = options_.marker ? 1 : 0, shift = 1 - front;  // target t is token t + shift
  for (size_t row = 0; row < samples.size(); ++row) {
    auto index = static_cast<uint64_t>(samples[row]);
    if (const auto n = static_cast<uint64_t>(options_.examples); n > 0) {
      index = order_(index / n, index % n);
    }
    const TaskExample example = task_->example(index);
    const size_t begin = row * static_cast<size_t>(context_);
    const size_t inputs = std::min(example.tokens.size(), static_cast<size_t>(context_) - front);
    std::copy_n(example.tokens.begin(), inputs,
                out.tokens.begin() + static_cast<std::ptrdiff_t>(begin + front));
    for (size_t t = shift; t < example.tokens.size(); ++t) {
      out.targets[begin + t - shift] = example.tokens[t];
      out.loss_weight[begin + t - shift] = static_cast<float>(example.answer[t]);
    }
  }
  return out;
}

}  // namespace ashlar
