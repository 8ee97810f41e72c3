#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/bpe_model.h"
#include "data/tokenizer/split_pattern.h"
#include "data/tokenizer/text.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/word_cache.h"

namespace ashlar {

/// U+2581, which stands for a space in vocabularies of the Llama family.
constexpr const char* kWordStart = "\xe2\x96\x81";

class TextCuts;

struct NormalizerStep {
  enum class Kind { kForm, kPrepend, kReplace };
  Kind kind = Kind::kForm;
  NormalForm form = NormalForm::kNfc;
  std::string from;  ///< kReplace
  std::string to;    ///< kReplace, kPrepend
};

struct SplitStep {
  std::string regex;                            ///< the pattern as written; empty: none
  std::shared_ptr<const SplitPattern> pattern;  ///< null: only the prefix space
  bool matches_only = false;                    ///< drops the gaps between matches
  bool prefix_space = false;                    ///< puts a space before a piece without one
};

/// Compiles `regex`; `where` names it in messages.
SplitStep split_step(const std::string& regex, const std::string& where);

/// Llama's pre-tokenizer: spaces become `replacement`, which is also put in front of a piece that
/// does not begin with it.
struct Metaspace {
  enum class Prepend { kAlways, kFirst, kNever };
  std::string replacement;
  Prepend prepend = Prepend::kAlways;  ///< kFirst: only where a text begins
  bool split = true;                   ///< every replacement begins a piece
};

/// Everything a BPE vocabulary is, whatever file it came from.
struct BpeVocabulary {
  std::string description;
  std::string json;
  /// The file's own spelling of each token by id; `present` is false where ids leave a hole.
  std::vector<std::string> spelling;
  std::vector<bool> present;
  std::vector<BpeModel::Merge> merges;
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizers;
  std::vector<SplitStep> splits;       ///< of byte-level vocabularies the last one maps to bytes
  std::optional<Metaspace> metaspace;  ///< instead of splits
  /// Symbols are bytes in GPT-2's alphabet; otherwise characters, and the tokens <0xNN> express
  /// those without a token of their own.
  bool byte_level = false;
  bool ignore_merges = false;  ///< a whole piece that is a token is taken as it is
  std::string decode_from;     ///< decoder's Replace: this text ...
  std::string decode_to;       ///< ... becomes this one
  bool strip_leading_space = false;
  std::vector<int32_t> prefix, suffix;  ///< ids that add_special puts around a text
  std::optional<int32_t> bos, eos;
};

/// Byte-pair encoding in the ways that tokenizer.json can describe: byte-level (GPT-2) or with byte
/// fallback (Llama).
class BpeTokenizer : public Tokenizer {
 public:
  /// Throws Error(kData) naming `file` when the vocabulary cannot express every byte.
  BpeTokenizer(BpeVocabulary vocabulary, const std::string& file);
  ~BpeTokenizer() override;

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::vector<int32_t> encode_parallel(std::string_view text, ThreadPool& pool,
                                       const EncodeOptions& options,
                                       int64_t part_bytes) const override;
  std::vector<int32_t> encode_pieces(std::span<const TextPiece> pieces,
                                     bool text_start) const override;
  const std::string& token_bytes(int32_t id) const override;
  bool is_special(int32_t id) const override;
  bool strips_leading_space() const override { return vocabulary_.strip_leading_space; }
  int64_t vocab_size() const override { return static_cast<int64_t>(vocabulary_.spelling.size()); }
  std::optional<int32_t> bos_id() const override { return vocabulary_.bos; }
  std::optional<int32_t> eos_id() const override { return vocabulary_.eos; }
  std::optional<int32_t> find_token(std::string_view content) const override;
  std::string description() const override { return vocabulary_.description; }
  const std::string& json() const override { return vocabulary_.json; }
  /// Where encode_parallel may cut a text.
  const TextCuts& cuts() const { return *cuts_; }

 private:
  void build_decoder();
  void build_symbols(const std::string& file);
  void find_word_ends();
  void add_added_tokens();
  /// What is in front of a piece of text: nothing, an added token, or text encoded earlier.
  enum class Start { kText, kSegment, kMiddle };
  /// Where ids go, and what is remembered on the way.
  struct Sink {
    std::vector<int32_t>& ids;
    WordCache& cache;
    bool lossy = false;
  };

  std::string normalized(std::string_view text, Start start = Start::kText) const;
  const AddedToken* special_token(std::string_view content) const;
  void encode_plain(std::string_view text, bool plain, Start start, Sink sink) const;
  void encode_segment(std::string_view text, bool plain, Start start, Sink sink) const;
  void pre_tokenize_metaspace(std::string_view text, Start start, Sink sink) const;
  void pre_tokenize(std::string_view text, size_t step, Sink sink) const;
  void encode_words(std::string_view text, Sink sink) const;
  void encode_piece(std::string_view piece, Sink sink) const;
  bool merge_piece(std::string_view piece, bool lossy, std::vector<int32_t>& symbols) const;
  void push_character(std::string_view bytes, bool valid, std::vector<int32_t>& symbols) const;

  BpeVocabulary vocabulary_;
  BpeModel model_;
  AddedTokenFinder raw_tokens_;         ///< searched in the text as it came
  AddedTokenFinder normalized_tokens_;  ///< searched in the normalised text
  std::vector<std::string> bytes_;      ///< decoded form by id
  std::vector<bool> special_;
  std::array<int32_t, 256> byte_ids_{};
  std::unordered_map<std::string, int32_t> id_of_;  ///< by spelling
  mutable WordCaches caches_;
  /// Set where a text without pre-tokenizer may be merged word by word: [b] true when some token
  /// holds U+2581 behind byte b. Elsewhere no merge crosses into a U+2581.
  std::optional<std::array<bool, 256>> joins_word_;
  std::unique_ptr<const TextCuts> cuts_;
};

}  // namespace ashlar
