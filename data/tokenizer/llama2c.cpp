#include "data/tokenizer/llama2c.h"

#include <spdlog/spdlog.h>

#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/score_merges.h"

namespace ashlar {
namespace {

constexpr int32_t kFirstPiece = 259;  // after <unk>, <s>, </s> and 256 bytes
constexpr int32_t kLongestPiece = 1024;

std::vector<ScoredPiece> read_pieces(const std::string& data, const std::string& file) {
  size_t at = 0;
  const auto take = [&](void* out, size_t size, size_t id) {
    require(data.size() - at >= size, ErrorCode::kData, "{}: truncated at token {}", file, id);
    std::memcpy(out, data.data() + at, size);
    at += size;
  };
  int32_t longest = 0;
  take(&longest, sizeof longest, 0);
  require(longest > 0 && longest <= kLongestPiece, ErrorCode::kData,
          "{}: not a llama2.c vocabulary: longest piece {}", file, longest);
  std::vector<ScoredPiece> pieces;
  while (at < data.size()) {
    const size_t id = pieces.size();
    ScoredPiece piece;
    int32_t length = 0;
    take(&piece.score, sizeof piece.score, id);
    take(&length, sizeof length, id);
    // Special tokens are stored with line breaks around them that the longest piece leaves out.
    require(length >= 0 && length <= longest + 2, ErrorCode::kData, "{}: token {}: length {}", file,
            id, length);
    require(std::isfinite(piece.score), ErrorCode::kData, "{}: token {}: score is not finite", file,
            id);
    piece.bytes.resize(static_cast<size_t>(length));
    take(piece.bytes.data(), piece.bytes.size(), id);
    piece.merges = id >= static_cast<size_t>(kFirstPiece);
    pieces.push_back(std::move(piece));
  }
  require(pieces.size() > static_cast<size_t>(kFirstPiece), ErrorCode::kData,
          "{}: {} tokens, expected more than {}", file, pieces.size(), kFirstPiece);
  for (int32_t id = 3; id < kFirstPiece; ++id) {
    const std::string expected = fmt::format("<0x{:02X}>", id - 3);
    require(pieces[static_cast<size_t>(id)].bytes == expected, ErrorCode::kData,
            "{}: token {}: expected {}", file, id, expected);
  }
  pieces[0].bytes = "<unk>";
  pieces[1].bytes = "<s>";
  pieces[2].bytes = "</s>";
  return pieces;
}

}  // namespace

std::unique_ptr<Tokenizer> parse_llama2c_tokenizer(const std::string& bytes,
                                                   const std::string& file) {
  const std::vector<ScoredPiece> pieces = read_pieces(bytes, file);
  const ScoreMerges merges = merges_by_score(pieces, file);
  if (!merges.doubtful.empty()) {
    spdlog::warn(
        "{}: merge ranks cannot express the order of scores exactly (token '{}'): "
        "tokenizer.json may split rare texts differently",
        file, to_valid_utf8(merges.doubtful));
  }
  BpeVocabulary vocabulary;
  vocabulary.description = fmt::format("llama2.c vocabulary, {} tokens", pieces.size());
  for (const ScoredPiece& piece : pieces) {
    vocabulary.spelling.push_back(piece.bytes);
    vocabulary.present.push_back(true);
  }
  for (int32_t id = 0; id < 3; ++id) {
    AddedToken token;
    token.id = id;
    token.content = pieces[static_cast<size_t>(id)].bytes;
    token.special = true;
    vocabulary.added.push_back(std::move(token));
  }
  NormalizerStep prepend;
  prepend.kind = NormalizerStep::Kind::kPrepend;
  prepend.to = " ";
  vocabulary.normalizers.push_back(std::move(prepend));
  vocabulary.strip_leading_space = true;
  vocabulary.prefix = {1};
  vocabulary.bos = 1;
  vocabulary.eos = 2;
  vocabulary.merges = merges.strict;
  vocabulary.json = write_hf_tokenizer(vocabulary);
  vocabulary.merges = merges.shared;
  return std::make_unique<BpeTokenizer>(std::move(vocabulary), file);
}

}  // namespace ashlar
