#include "train/micro_batches.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar {
namespace {

using at::Tensor;

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

void check_ids(const std::vector<int32_t>& ids, int64_t vocabulary, const char* what) {
  for (size_t i = 0; i < ids.size(); ++i) {
    require(ids[i] >= 0 && ids[i] < vocabulary, ErrorCode::kData,
            "{} {} at position {} of the batch is outside the vocabulary of {}", what, ids[i], i,
            vocabulary);
  }
}

}  // namespace

BatchTensors tensors_of(const Batch& batch, bool document_mask) {
  const std::vector<int64_t> shape = {batch.rows, batch.context};
  const auto ids = [&](const std::vector<int32_t>& v) {
    return at::from_blob(const_cast<int32_t*>(v.data()), shape, at::kInt).to(at::kLong);
  };
  return {ids(batch.tokens), ids(batch.targets),
          at::from_blob(const_cast<float*>(batch.loss_weight.data()), shape, at::kFloat),
          document_mask ? segment_begin(batch) : Tensor()};
}

BatchTensors tensors_of(const Batch& batch, bool document_mask, int64_t vocabulary,
                        at::Device device) {
  BatchTensors t = tensors_of(batch, document_mask);
  if (device.is_cpu()) return t;
  check_ids(batch.tokens, vocabulary, "token");
  check_ids(batch.targets, vocabulary, "target");
  for (Tensor* tensor : {&t.tokens, &t.targets, &t.weights, &t.begin}) {
    if (!tensor->defined()) continue;
    *tensor = tensor->pin_memory().to(device, tensor->scalar_type(), /*non_blocking=*/true);
  }
  return t;
}

MicroBatches::MicroBatches(int64_t first, int64_t samples, int64_t micro_batch, int64_t rank,
                           int64_t world)
    : first_(first),
      samples_(samples),
      micro_batch_(micro_batch),
      rank_(rank),
      world_(world),
      count_(ceil_div(samples, micro_batch)) {
  ASHLAR_CHECK(samples > 0 && micro_batch > 0 && rank < world);
}

int64_t MicroBatches::passes() const { return ceil_div(count_, world_); }

int64_t MicroBatches::in_pass(int64_t pass) const {
  return std::min(world_, count_ - pass * world_);
}

std::vector<int64_t> MicroBatches::samples(int64_t pass) const {
  const int64_t own = exists(pass) ? number(pass) : rank_ % count_;
  const int64_t begin = own * micro_batch_;
  std::vector<int64_t> out(static_cast<size_t>(std::min(micro_batch_, samples_ - begin)));
  std::iota(out.begin(), out.end(), first_ + begin);
  return out;
}

Batch MicroBatches::read(const SampleSource& source, int64_t pass) const {
  Batch batch = source.batch(samples(pass));
  if (!exists(pass)) std::fill(batch.loss_weight.begin(), batch.loss_weight.end(), 0.0f);
  return batch;
}

}  // namespace ashlar
