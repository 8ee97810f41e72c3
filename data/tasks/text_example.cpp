#include "data/tasks/text_example.h"

#include <algorithm>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int64_t kDefaultLength = 1024;

void append(TaskExample& out, const std::vector<int32_t>& tokens, bool answer) {
  out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
  out.answer.resize(out.tokens.size(), answer ? 1 : 0);
}

}  // namespace

const char* const kNoise =
    "The hills are old. The road is long. The bread is warm. On we walk. Nothing new today.";

std::string hide_in(const std::vector<std::string>& items, const std::vector<std::string>& hay,
                    const char* between, Draws& draws) {
  const int64_t n = std::ssize(items), all = n + std::ssize(hay);
  auto places = draws.distinct(0, all, n);
  std::sort(places.begin(), places.end());
  std::string out;
  size_t item = 0, straw = 0;
  for (int64_t place = 0; place < all; ++place) {
    const bool hidden = item < places.size() && places[item] == place;
    out += hidden ? items[item++] : hay[straw++];
    out += between;
  }
  return out;
}

TaskExample encode_example(const Tokenizer& tokenizer, const TextExample& text) {
  TaskExample out;
  append(out, tokenizer.encode(text.context), false);
  out.context = static_cast<int64_t>(out.tokens.size());
  for (const TextPart& part : text.question) {
    const TextPiece piece{part.text, false};
    append(out, tokenizer.encode_pieces(std::span(&piece, 1), /*text_start=*/false), part.answer);
  }
  return out;
}

void TextTask::read_common(TaskOptions& options) {
  length_ = options.integer("length", kDefaultLength, 1, kMostTaskTokens);
  seed_ = options.seed();
}

void TextTask::finish(TaskOptions& options) {
  options.note("tokenizer_sha256", tokenizer_.hash());
  settings_ = options.finish();
  const int64_t least = std::ssize(encode_example(tokenizer_, build(0, least_units())).tokens);
  if (least > length_) {
    options.refuse("length", fmt::format("{} tokens do not hold the task: example 0 alone takes {}",
                                         length_, least));
  }
}

// The units that fit are sought by interpolation, as tokens grow nearly in proportion to them;
// every second guess halves what is left, in case they do not.
TaskExample TextTask::example(uint64_t index) const {
  const auto tokens_of = [&](int64_t units, TaskExample& out) {
    out = encode_example(tokenizer_, build(index, units));
    return std::ssize(out.tokens);
  };
  int64_t low = least_units();
  TaskExample best;
  int64_t low_tokens = tokens_of(low, best);
  require(low_tokens <= length_, ErrorCode::kRequest,
          "length: {} tokens do not hold the task: example {} alone takes {}", length_, index,
          low_tokens);
  // Doubles until it no longer fits.
  int64_t high = low, high_tokens = low_tokens, step = 8;
  TaskExample candidate;
  while (high_tokens <= length_ && low < most_units()) {
    high = std::min(low + step, most_units());
    high_tokens = tokens_of(high, candidate);
    if (high_tokens > length_) break;
    low = high;
    low_tokens = high_tokens;
    best = candidate;
    step *= 2;
  }
  require(low < most_units(), ErrorCode::kRequest,
          "length: the haystack ends at {} units, {} tokens; {} were asked for", low, low_tokens,
          length_);
  for (bool halve = false; high - low > 1; halve = !halve) {
    const int64_t guess =
        halve ? low + (high - low) / 2
              : low + (length_ - low_tokens) * (high - low) / (high_tokens - low_tokens);
    const int64_t units = std::clamp(guess, low + 1, high - 1);
    const int64_t tokens = tokens_of(units, candidate);
    if (tokens <= length_) {
      low = units;
      low_tokens = tokens;
      best = candidate;
    } else {
      high = units;
      high_tokens = tokens;
    }
  }
  return best;
}

std::vector<TextPart> answer_list(const std::vector<std::string>& items) {
  std::vector<TextPart> out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) {
      const bool last = i + 1 == items.size();
      out.push_back({last ? (items.size() > 2 ? ", and" : " and") : ",", false});
    }
    out.push_back({" " + items[i], true});
  }
  return out;
}

}  // namespace ashlar
