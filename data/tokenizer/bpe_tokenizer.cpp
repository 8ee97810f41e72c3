#include "data/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <charconv>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/io/sha256.h"
#include "data/tokenizer/text_cuts.h"

namespace ashlar {
namespace {

/// NN of "<0xNN>", or -1.
int fallback_byte(const std::string& spelling) {
  if (spelling.size() != 6 || !spelling.starts_with("<0x") || spelling[5] != '>') return -1;
  int value = -1;
  const char* end = spelling.data() + 5;
  const auto result = std::from_chars(spelling.data() + 3, end, value, 16);
  return result.ec == std::errc() && result.ptr == end ? value : -1;
}

std::string replace_all(std::string_view text, const std::string& from, const std::string& to) {
  std::string out;
  size_t done = 0;
  for (size_t at; (at = text.find(from, done)) != std::string_view::npos; done = at + from.size()) {
    out += text.substr(done, at - done);
    out += to;
  }
  out += text.substr(done);
  return out;
}

}  // namespace

SplitStep split_step(const std::string& regex, const std::string& where) {
  SplitStep step;
  step.regex = regex;
  step.pattern = std::make_shared<const SplitPattern>(regex, where);
  return step;
}

BpeTokenizer::BpeTokenizer(BpeVocabulary vocabulary, const std::string& file)
    : vocabulary_(std::move(vocabulary)), model_(vocabulary_.merges) {
  hash_ = sha256_hex(std::as_bytes(std::span(vocabulary_.json)));
  build_decoder();
  build_symbols(file);
  find_word_ends();
  add_added_tokens();
  cuts_ = std::make_unique<const TextCuts>(vocabulary_, joins_word_);
}

BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::add_added_tokens() {
  std::vector<AddedToken> raw, after;
  for (AddedToken token : vocabulary_.added) {
    if (token.normalized) {
      token.content = normalized(token.content);
      after.push_back(std::move(token));
    } else {
      raw.push_back(std::move(token));
    }
  }
  raw_tokens_ = AddedTokenFinder(std::move(raw));
  normalized_tokens_ = AddedTokenFinder(std::move(after));
}

void BpeTokenizer::build_decoder() {
  const size_t n = vocabulary_.spelling.size();
  bytes_.resize(n);
  special_.assign(n, false);
  std::vector<bool> is_added(n, false);
  for (const AddedToken& token : vocabulary_.added) {
    const auto id = static_cast<size_t>(token.id);
    bytes_[id] = token.content;
    special_[id] = token.special;
    is_added[id] = true;
  }
  for (size_t id = 0; id < n; ++id) {
    const std::string& spelling = vocabulary_.spelling[id];
    if (vocabulary_.present[id]) id_of_.emplace(spelling, static_cast<int32_t>(id));
    if (is_added[id]) continue;
    const int byte = vocabulary_.byte_level ? -1 : fallback_byte(spelling);
    if (byte >= 0) {
      bytes_[id] = std::string(1, static_cast<char>(byte));
    } else if (vocabulary_.byte_level) {
      bytes_[id] = alphabet_to_bytes(spelling).value_or(spelling);
    } else if (!vocabulary_.decode_from.empty()) {
      bytes_[id] = replace_all(spelling, vocabulary_.decode_from, vocabulary_.decode_to);
    } else {
      bytes_[id] = spelling;
    }
  }
}

void BpeTokenizer::build_symbols(const std::string& file) {
  byte_ids_.fill(-1);
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelling;
    if (vocabulary_.byte_level) {
      append_utf8(spelling, byte_to_char(static_cast<uint8_t>(byte)));
    } else {
      spelling = fmt::format("<0x{:02X}>", byte);
    }
    const auto found = id_of_.find(spelling);
    // Bytes that its training text lacked are missing from many a byte-level vocabulary (SmolLM2:
    // control characters): a text that has one is refused when it comes. Without printable ASCII it
    // is no byte-level vocabulary.
    const bool printable = byte >= 0x20 && byte < 0x7f;
    if (found == id_of_.end() && vocabulary_.byte_level && !printable) continue;
    require(found != id_of_.end(), ErrorCode::kData, "{}: model.vocab: no token for byte 0x{:02X}",
            file, byte);
    byte_ids_[static_cast<size_t>(byte)] = found->second;
  }
}

const std::string& BpeTokenizer::token_bytes(int32_t id) const {
  require(id >= 0 && id < vocab_size(), ErrorCode::kRequest,
          "token id {} is outside the vocabulary of {}", id, vocab_size());
  return bytes_[static_cast<size_t>(id)];
}

bool BpeTokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
}

std::optional<int32_t> BpeTokenizer::find_token(std::string_view content) const {
  for (const AddedToken& token : vocabulary_.added) {
    if (token.content == content) return token.id;
  }
  const auto found = id_of_.find(std::string(content));
  if (found == id_of_.end()) return std::nullopt;
  return found->second;
}

void BpeTokenizer::encode_plain(std::string_view text, bool plain, Start start, Sink sink) const {
  raw_tokens_.split(text, plain, [&](std::string_view piece, const AddedToken* token) {
    if (token != nullptr) {
      sink.ids.push_back(token->id);
    } else {
      encode_segment(piece, plain, piece.data() == text.data() ? start : Start::kSegment, sink);
    }
  });
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text,
                                          const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (options.add_special) ids = vocabulary_.prefix;
  const WordCaches::Lease cache(caches_);
  encode_plain(text, !options.parse_special, Start::kText, {ids, *cache, options.lossy});
  if (options.add_special) {
    ids.insert(ids.end(), vocabulary_.suffix.begin(), vocabulary_.suffix.end());
  }
  return ids;
}

std::vector<int32_t> BpeTokenizer::encode_parallel(std::string_view text, ThreadPool& pool,
                                                   const EncodeOptions& options,
                                                   int64_t part_bytes) const {
  ASHLAR_CHECK(part_bytes > 0);
  std::vector<size_t> ends;  // of the parts
  for (size_t at = 0; at < text.size();) {
    const size_t wanted = at + static_cast<size_t>(part_bytes);
    at = wanted < text.size() ? cuts_->next(text, wanted) : text.size();
    ends.push_back(at);
  }
  if (ends.size() < 2) return encode(text, options);
  std::vector<std::vector<int32_t>> parts(ends.size());
  pool.parallel_for(static_cast<int64_t>(ends.size()), [&](int64_t index, int) {
    const auto i = static_cast<size_t>(index);
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    const WordCaches::Lease cache(caches_);
    encode_plain(text.substr(begin, ends[i] - begin), !options.parse_special,
                 i == 0 ? Start::kText : Start::kMiddle, {parts[i], *cache, options.lossy});
  });
  std::vector<int32_t> ids;
  if (options.add_special) ids = vocabulary_.prefix;
  for (const std::vector<int32_t>& part : parts) ids.insert(ids.end(), part.begin(), part.end());
  if (options.add_special) {
    ids.insert(ids.end(), vocabulary_.suffix.begin(), vocabulary_.suffix.end());
  }
  return ids;
}

const AddedToken* BpeTokenizer::special_token(std::string_view content) const {
  for (const AddedToken& token : vocabulary_.added) {
    if (token.special && token.content == content) return &token;
  }
  return nullptr;
}

std::vector<int32_t> BpeTokenizer::encode_pieces(std::span<const TextPiece> pieces,
                                                 bool text_start) const {
  std::vector<int32_t> ids;
  const WordCaches::Lease cache(caches_);
  std::string run;  // plain text since the last special token
  Start start = text_start ? Start::kText : Start::kMiddle;
  bool strip = false;
  const auto flush = [&](bool strip_end) {
    std::string_view text = run;
    if (strip) text.remove_prefix(white_space_after(text, 0));
    if (strip_end) text = text.substr(0, white_space_before(text, 0, text.size()));
    if (!text.empty()) encode_plain(text, true, start, {ids, *cache});
    run.clear();
  };
  for (const TextPiece& piece : pieces) {
    const AddedToken* token = piece.special ? special_token(piece.text) : nullptr;
    if (token == nullptr) {
      run += piece.text;
      continue;
    }
    flush(token->lstrip);
    ids.push_back(token->id);
    strip = token->rstrip;
    start = Start::kSegment;
  }
  flush(false);
  return ids;
}

std::string BpeTokenizer::normalized(std::string_view text, Start start) const {
  std::string out(text);
  for (const NormalizerStep& step : vocabulary_.normalizers) {
    switch (step.kind) {
      case NormalizerStep::Kind::kForm:
        out = normalize(out, step.form);
        break;
      case NormalizerStep::Kind::kPrepend:
        if (!out.empty() && start != Start::kMiddle) out.insert(0, step.to);
        break;
      case NormalizerStep::Kind::kReplace:
        out = replace_all(out, step.from, step.to);
        break;
    }
  }
  return out;
}

void BpeTokenizer::encode_segment(std::string_view text, bool plain, Start start, Sink sink) const {
  std::string storage;
  if (!vocabulary_.normalizers.empty()) {
    storage = normalized(text, start);
    text = storage;
  }
  normalized_tokens_.split(text, plain, [&](std::string_view piece, const AddedToken* token) {
    if (token != nullptr) {
      sink.ids.push_back(token->id);
    } else if (vocabulary_.metaspace) {
      pre_tokenize_metaspace(piece, piece.data() == text.data() ? start : Start::kSegment, sink);
    } else {
      pre_tokenize(piece, 0, sink);
    }
  });
}

void BpeTokenizer::pre_tokenize_metaspace(std::string_view text, Start start, Sink sink) const {
  const Metaspace& meta = *vocabulary_.metaspace;
  std::string piece = replace_all(text, " ", meta.replacement);
  const bool prepend = (meta.prepend == Metaspace::Prepend::kAlways && start != Start::kMiddle) ||
                       (meta.prepend == Metaspace::Prepend::kFirst && start == Start::kText);
  if (prepend && !piece.starts_with(meta.replacement)) piece.insert(0, meta.replacement);
  if (!meta.split) return encode_words(piece, sink);
  for (size_t begin = 0; begin < piece.size();) {
    const size_t end = std::min(piece.find(meta.replacement, begin + 1), piece.size());
    encode_piece(std::string_view(piece).substr(begin, end - begin), sink);
    begin = end;
  }
}

void BpeTokenizer::pre_tokenize(std::string_view text, size_t step, Sink sink) const {
  if (step == vocabulary_.splits.size()) {
    return step == 0 ? encode_words(text, sink) : encode_piece(text, sink);
  }
  const SplitStep& split = vocabulary_.splits[step];
  std::string storage;
  if (split.prefix_space && !text.starts_with(' ')) {
    storage.assign(1, ' ');
    storage.append(text);
    text = storage;
  }
  if (split.pattern == nullptr) return pre_tokenize(text, step + 1, sink);
  SplitPattern::Pieces pieces(*split.pattern, text);
  std::string_view piece;
  bool is_match = false;
  while (pieces.next(piece, is_match)) {
    // A gap that is not UTF-8 is not the pattern's to drop.
    if (is_match || !split.matches_only || utf8_at(piece, 0).code_point < 0) {
      pre_tokenize(piece, step + 1, sink);
    }
  }
}

/// A vocabulary of the Llama type looks at a whole text as one piece. Merging it word by word gives
/// the same where no token can reach from one word into the next: all merges are then inside words,
/// and words do not influence each other.
void BpeTokenizer::find_word_ends() {
  if (vocabulary_.byte_level || vocabulary_.ignore_merges || !id_of_.contains(kWordStart)) return;
  std::array<bool, 256> joins{};
  for (const BpeModel::Merge& merge : vocabulary_.merges) {
    for (int32_t id : {merge.left, merge.right}) {  // a byte's spelling is not its text
      if (fallback_byte(vocabulary_.spelling[static_cast<size_t>(id)]) >= 0) return;
    }
    const std::string& text = vocabulary_.spelling[static_cast<size_t>(merge.result)];
    for (size_t at = 0; (at = text.find(kWordStart, at + 1)) != std::string::npos;) {
      joins[static_cast<uint8_t>(text[at - 1])] = true;
    }
  }
  joins_word_ = joins;
}

void BpeTokenizer::encode_words(std::string_view text, Sink sink) const {
  if (!joins_word_) return encode_piece(text, sink);
  size_t begin = 0;
  for (size_t at = 0; (at = text.find(kWordStart, at + 1)) != std::string_view::npos;) {
    if ((*joins_word_)[static_cast<uint8_t>(text[at - 1])]) continue;
    encode_piece(text.substr(begin, at - begin), sink);
    begin = at;
  }
  if (begin < text.size()) encode_piece(text.substr(begin), sink);
}

void BpeTokenizer::push_character(std::string_view bytes, bool valid,
                                  std::vector<int32_t>& symbols) const {
  if (valid) {
    if (const auto found = id_of_.find(std::string(bytes)); found != id_of_.end()) {
      symbols.push_back(found->second);
      return;
    }
  }
  for (char c : bytes) symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
}

void BpeTokenizer::encode_piece(std::string_view piece, Sink sink) const {
  if (piece.size() > WordCache::kLongestWord || piece.empty()) {
    std::vector<int32_t> symbols;
    merge_piece(piece, sink.lossy, symbols);
    sink.ids.insert(sink.ids.end(), symbols.begin(), symbols.end());
    return;
  }
  WordCache::Slot& slot = sink.cache.at(piece);
  if (slot.holds(piece)) {
    for (int32_t id : slot.ids()) sink.ids.push_back(id);
    return;
  }
  thread_local std::vector<int32_t> symbols;
  if (merge_piece(piece, sink.lossy, symbols)) slot.put(piece, symbols);
  sink.ids.insert(sink.ids.end(), symbols.begin(), symbols.end());
}

/// False when bytes were left out.
bool BpeTokenizer::merge_piece(std::string_view piece, bool lossy,
                               std::vector<int32_t>& symbols) const {
  symbols.clear();
  bool complete = true;
  if (vocabulary_.ignore_merges) {
    const auto found =
        id_of_.find(vocabulary_.byte_level ? bytes_to_alphabet(piece) : std::string(piece));
    if (found != id_of_.end()) {
      symbols.push_back(found->second);
      return complete;
    }
  }
  if (vocabulary_.byte_level) {
    for (char c : piece) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      require(id >= 0 || lossy, ErrorCode::kData, "the vocabulary has no token for byte 0x{:02X}",
              static_cast<uint8_t>(c));
      complete &= id >= 0;
      if (id >= 0) symbols.push_back(id);
    }
  } else {
    for (size_t at = 0; at < piece.size();) {
      const Utf8Char c = utf8_at(piece, at);
      push_character(piece.substr(at, static_cast<size_t>(c.length)), c.code_point >= 0, symbols);
      at += static_cast<size_t>(c.length);
    }
  }
  model_.merge(symbols);
  return complete;
}

}  // namespace ashlar
