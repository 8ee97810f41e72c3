#include "data/tokenizer/train_bpe.h"

#include <algorithm>
#include <map>
#include <queue>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/base/error.h"
#include "core/base/progress.h"
#include "core/base/threads.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/hf_json.h"

namespace ashlar {
namespace {

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using WordCounts = std::unordered_map<std::string, int64_t, TextHash, std::equal_to<>>;

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& pair) const {
    const uint64_t key = (static_cast<uint64_t>(static_cast<uint32_t>(pair.first)) << 32) |
                         static_cast<uint32_t>(pair.second);
    return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 16);
  }
};

/// A pair with its count and the words it occurs in, as they were when it was queued.
struct Candidate {
  Pair pair;
  int64_t count = 0;
  std::vector<int32_t> words;
};
struct LowerPriority {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.count != b.count ? a.count < b.count : a.pair > b.pair;
  }
};

/// Learns merges. Follows the trainer of `tokenizers` in the two places where the definition of BPE
/// leaves room and its bookkeeping decides: when two pairs spell the same token they share its id,
/// so a pair can be queued again with only the words it newly occurs in; and the count of a merged
/// pair is not reset.
class MergeLearner {
 public:
  MergeLearner(BpeVocabulary& vocabulary, const WordCounts& counts) : vocabulary_(vocabulary) {
    for (size_t id = 0; id < vocabulary.spelling.size(); ++id) {
      id_of_.emplace(vocabulary.spelling[id], static_cast<int32_t>(id));
    }
    std::vector<std::pair<std::string_view, int64_t>> sorted(counts.begin(), counts.end());
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [word, count] : sorted) {
      std::vector<int32_t> symbols;
      for (char c : word) {
        std::string spelling;
        append_utf8(spelling, byte_to_char(static_cast<uint8_t>(c)));
        symbols.push_back(id_of_.at(spelling));
      }
      words_.push_back(std::move(symbols));
      word_counts_.push_back(count);
    }
    for (size_t w = 0; w < words_.size(); ++w) {
      for (size_t i = 0; i + 1 < words_[w].size(); ++i) {
        change({words_[w][i], words_[w][i + 1]}, +1, static_cast<int32_t>(w));
      }
    }
    queue_fresh();
  }

  void run(int64_t vocab_size, int64_t min_frequency) {
    const auto start = static_cast<int64_t>(id_of_.size());
    Progress progress("merges", vocab_size - start);
    while (static_cast<int64_t>(id_of_.size()) < vocab_size && !queue_.empty()) {
      Candidate best = queue_.top();
      queue_.pop();
      const int64_t count = pair_counts_.at(best.pair);
      if (best.count != count) {
        best.count = count;
        queue_.push(std::move(best));
        continue;
      }
      if (count < 1 || count < min_frequency) break;
      merge(best);
      progress.update(static_cast<int64_t>(id_of_.size()) - start);
    }
    keep_last_merge_of_each_pair();
  }

 private:
  void merge(const Candidate& best) {
    const std::string joined = vocabulary_.spelling[static_cast<size_t>(best.pair.first)] +
                               vocabulary_.spelling[static_cast<size_t>(best.pair.second)];
    const auto [entry, fresh] = id_of_.emplace(joined, static_cast<int32_t>(id_of_.size()));
    if (fresh) {
      vocabulary_.spelling.push_back(joined);
      vocabulary_.present.push_back(true);
    }
    merges_.push_back({best.pair, entry->second});
    for (int32_t w : best.words) merge_word(w, best.pair, entry->second);
    queue_fresh();
  }

  void merge_word(int32_t w, Pair pair, int32_t result) {
    std::vector<int32_t>& symbols = words_[static_cast<size_t>(w)];
    size_t out = 0;
    for (size_t i = 0; i < symbols.size(); ++out) {
      const bool here =
          i + 1 < symbols.size() && symbols[i] == pair.first && symbols[i + 1] == pair.second;
      if (!here) {
        symbols[out] = symbols[i++];
        continue;
      }
      if (out > 0) {
        change({symbols[out - 1], pair.first}, -1, w);
        change({symbols[out - 1], result}, +1, w);
      }
      i += 2;
      if (i < symbols.size()) {
        change({pair.second, symbols[i]}, -1, w);
        change({result, symbols[i]}, +1, w);
      }
      symbols[out] = result;
    }
    symbols.resize(out);
  }

  void change(Pair pair, int64_t by, int32_t w) {
    pair_counts_[pair] += by * word_counts_[static_cast<size_t>(w)];
    if (by < 0) return;
    std::vector<int32_t>& where = fresh_[pair];
    if (where.empty() || where.back() != w) where.push_back(w);
  }

  void queue_fresh() {
    for (auto& [pair, words] : fresh_) {
      const int64_t count = pair_counts_.at(pair);
      if (count > 0) queue_.push({pair, count, std::move(words)});
    }
    fresh_.clear();
  }

  void keep_last_merge_of_each_pair() {
    std::map<Pair, size_t> last;
    for (size_t i = 0; i < merges_.size(); ++i) last[merges_[i].first] = i;
    for (size_t i = 0; i < merges_.size(); ++i) {
      const auto& [pair, result] = merges_[i];
      if (last.at(pair) != i) continue;
      vocabulary_.merges.push_back(
          {pair.first, pair.second, static_cast<int32_t>(vocabulary_.merges.size()), result});
    }
  }

  BpeVocabulary& vocabulary_;
  std::unordered_map<std::string, int32_t> id_of_;
  std::vector<std::vector<int32_t>> words_;
  std::vector<int64_t> word_counts_;
  std::unordered_map<Pair, int64_t, PairHash> pair_counts_;
  std::unordered_map<Pair, std::vector<int32_t>, PairHash> fresh_;  ///< to be queued
  std::priority_queue<Candidate, std::vector<Candidate>, LowerPriority> queue_;
  std::vector<std::pair<Pair, int32_t>> merges_;
};

}  // namespace

struct BpeTrainer::State {
  BpeTrainOptions options;
  ThreadPool pool;
  SplitPattern pattern{kGpt2Pattern, "GPT-2 pattern"};
  std::vector<WordCounts> counts;  ///< per thread

  explicit State(const BpeTrainOptions& wanted)
      : options(wanted), pool(wanted.threads), counts(static_cast<size_t>(pool.size())) {}
};

BpeTrainer::BpeTrainer(const BpeTrainOptions& options) : state_(std::make_unique<State>(options)) {
  const int64_t least = 256 + static_cast<int64_t>(options.special_tokens.size());
  require(options.vocab_size >= least && options.vocab_size <= (1 << 24), ErrorCode::kRequest,
          "vocabulary size {}: must be {} to {}", options.vocab_size, least, 1 << 24);
  for (const std::string& token : options.special_tokens) {
    const bool known =
        std::count(options.special_tokens.begin(), options.special_tokens.end(), token) > 1;
    require(token.size() > 1 && !known, ErrorCode::kRequest,
            "special token '{}': must be unique and longer than one byte", token);
  }
}

BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::span<const std::string> documents) {
  state_->pool.parallel_for(static_cast<int64_t>(documents.size()), [&](int64_t index, int thread) {
    WordCounts& counts = state_->counts[static_cast<size_t>(thread)];
    SplitPattern::Pieces pieces(state_->pattern, documents[static_cast<size_t>(index)]);
    std::string_view word;
    bool is_match = false;
    while (pieces.next(word, is_match)) {
      const auto found = counts.find(word);
      if (found != counts.end()) {
        ++found->second;
      } else {
        counts.emplace(std::string(word), 1);
      }
    }
  });
}

std::string BpeTrainer::train() {
  WordCounts counts = std::move(state_->counts[0]);
  for (size_t t = 1; t < state_->counts.size(); ++t) {
    for (const auto& [word, count] : state_->counts[t]) counts[word] += count;
    state_->counts[t].clear();
  }
  BpeVocabulary vocabulary;
  vocabulary.byte_level = true;
  vocabulary.splits.push_back(split_step(kGpt2Pattern, "pre_tokenizer"));
  for (const std::string& content : state_->options.special_tokens) {
    AddedToken token;
    token.id = static_cast<int32_t>(vocabulary.spelling.size());
    token.content = content;
    token.special = true;
    vocabulary.added.push_back(std::move(token));
    vocabulary.spelling.push_back(content);
  }
  // The bytes, in the order of the characters that stand for them.
  std::vector<int32_t> alphabet;
  for (int byte = 0; byte < 256; ++byte)
    alphabet.push_back(byte_to_char(static_cast<uint8_t>(byte)));
  std::sort(alphabet.begin(), alphabet.end());
  for (int32_t character : alphabet) append_utf8(vocabulary.spelling.emplace_back(), character);
  vocabulary.present.assign(vocabulary.spelling.size(), true);

  MergeLearner(vocabulary, counts).run(state_->options.vocab_size, state_->options.min_frequency);
  const auto learned = static_cast<int64_t>(vocabulary.spelling.size());
  require(learned == state_->options.vocab_size, ErrorCode::kRequest,
          "the text supports a vocabulary of {} tokens, {} were asked for: give more text or a "
          "smaller size",
          learned, state_->options.vocab_size);
  return write_hf_tokenizer(vocabulary);
}

}  // namespace ashlar
