#include "cli/foresight.h"

#include <algorithm>

#include "core/base/checked.h"
#include "core/base/error.h"

namespace ashlar::cli {
namespace {

PolicyNeeds needs_of_recorder() {
  PolicyNeeds needs;
  needs.reducer = ScoreReducer::kSum;
  needs.per_head = true;
  return needs;
}

/// Drops nothing. Scores begin anew after each step, so they are the sums over its queries: those
/// of the prompt are forgotten, all others recorded.
class FutureRecorder final : public Policy {
 public:
  explicit FutureRecorder(FutureAttention& future) : Policy(needs_of_recorder()), future_(future) {}

  void select(std::span<const LaneView> lanes, std::span<LaneEdit> edits) const override {
    for (size_t i = 0; i < lanes.size(); ++i) {
      const LaneView& lane = lanes[i];
      edits[i].forget = true;
      if (!recording) continue;
      // Nothing was dropped, so the row at position p is the one in slot p.
      ASHLAR_CHECK_EQ(lane.rows(), lane.newest + 1);
      future_.add(lane.group, lane.head, lane.newest, lane.scores);
    }
  }

  bool recording = false;

 private:
  FutureAttention& future_;
};

int64_t governed_heads(std::span<const KvGroup> groups) {
  int64_t heads = 0;
  for (const KvGroup& group : governed_groups(groups)) heads += group.heads;
  return heads;
}

}  // namespace

void check_foresight(const ScoreText& text) {
  const auto n = static_cast<int64_t>(text.tokens.size());
  require(text.prompt >= 0 && text.prompt < n, ErrorCode::kRequest,
          "--kv-policy oracle: knows what the queries behind a prompt attend to, and this text of "
          "{} tokens {}, so no policy acts on what is scored",
          n, text.prompt < 0 ? "is read as one prompt" : "ends with its prompt");
}

std::shared_ptr<const FutureAttention> foresee(Engine& engine, const ScoreText& text,
                                               const CacheOptions& cache, int64_t bytes) {
  check_foresight(text);
  auto future = std::make_shared<FutureAttention>();
  const auto recorder = std::make_shared<FutureRecorder>(*future);
  CacheOptions whole = cache;
  whole.max_bytes = 0;  // a bound on the tested cache, which this is not
  const auto sequence = engine.start(whole, recorder, text.marker);
  const auto tokens = std::span<const int32_t>(text.tokens);
  const auto feed = [&](int64_t begin, int64_t end) {
    const auto piece = tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    const StepItem item{sequence.get(), piece, true, nullptr};
    engine.feed(std::span(&item, 1));
  };
  const bool marker = text.marker || engine.spec().block.has_value();
  if (text.prompt > 0 || marker) feed(0, text.prompt);
  recorder->recording = true;
  // The last token is only predicted, never read. A row is complete with its last token.
  const int64_t last = static_cast<int64_t>(tokens.size()) - 1;
  const int64_t length = engine.spec().block_length();
  const int64_t front = marker ? length : 0;  // the marker's tokens
  const int64_t first_row = (front + text.prompt) / length, rows = (front + last) / length;
  const int64_t moment = 8 * std::max<int64_t>(1, rows * governed_heads(engine.groups()));
  const int64_t moments = std::max<int64_t>(1, bytes / moment);
  const int64_t stride = std::max<int64_t>(1, ceil_div(rows - first_row, moments));
  int64_t at = text.prompt;
  for (int64_t row = first_row; row < rows;) {
    row = std::min(row + stride, rows);
    const int64_t end = row * length - front;
    feed(at, end);
    at = end;
  }
  future->seal();
  return future;
}

}  // namespace ashlar::cli
