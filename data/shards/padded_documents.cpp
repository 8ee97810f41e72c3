#include "data/shards/padded_documents.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"
#include "core/base/rng.h"

namespace ashlar {
namespace {

constexpr uint64_t kPadStream = 0x706164;  // "pad": keeps these draws apart from others

}  // namespace

PaddedDocuments::PaddedDocuments(const ShardSet& shards, const PaddingOptions& options,
                                 uint64_t seed)
    : shards_(shards), options_(options), seed_(seed) {
  ASHLAR_CHECK_GE(options.block, 1);
  require(shards.samples() == 0 && shards.eos_id().has_value(), ErrorCode::kRequest,
          "{}: documents can be padded only in a stream of tokens that names its EOS",
          shards.folder().string());
  eos_ = *shards.eos_id();
  sources_ = shards.document_starts();
  starts_.push_back(0);
  sources_.push_back(shards.total_tokens());
  for (size_t d = 0; d + 1 < sources_.size(); ++d) {
    const int64_t length = front(static_cast<int64_t>(d)) + sources_[d + 1] - sources_[d];
    starts_.push_back(checked_add(starts_.back(), round_up(length, options_.block), "tokens"));
  }
}

int64_t PaddedDocuments::front(int64_t document) const {
  const auto block = static_cast<uint64_t>(options_.block);
  const uint64_t pads = Philox(seed_, kPadStream).below(static_cast<uint64_t>(document), block);
  return static_cast<int64_t>(pads) + (options_.start_block ? options_.block : 0);
}

void PaddedDocuments::read(int64_t first, std::span<int32_t> tokens, std::span<float> weights,
                           std::span<int64_t> documents) const {
  const int64_t last = first + static_cast<int64_t>(tokens.size());
  ASHLAR_CHECK(first >= 0 && last <= total_tokens());
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), first);
  std::fill(tokens.begin(), tokens.end(), eos_);
  std::fill(weights.begin(), weights.end(), 0.0F);
  for (auto d = static_cast<int64_t>(after - starts_.begin()) - 1; first < last; ++d) {
    const int64_t end = std::min(last, start(d + 1));
    const size_t out = tokens.size() - static_cast<size_t>(last - first);
    std::fill_n(documents.begin() + static_cast<std::ptrdiff_t>(out), end - first, d);
    // The part of the document's text that falls into [first, end).
    const int64_t text = start(d) + front(d);
    const int64_t length = sources_[static_cast<size_t>(d) + 1] - sources_[static_cast<size_t>(d)];
    const int64_t begin = std::max(first, text), stop = std::min(end, text + length);
    if (begin < stop) {
      const auto at = out + static_cast<size_t>(begin - first);
      const auto count = static_cast<size_t>(stop - begin);
      const int64_t source = sources_[static_cast<size_t>(d)] + begin - text;
      shards_.read(source, tokens.subspan(at, count));
      shards_.read_loss_weights(source, weights.subspan(at, count));
    }
    first = end;
  }
}

}  // namespace ashlar
