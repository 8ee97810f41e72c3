#include "data/tokenizer/llama2c.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "core/base/error.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/hf_json.h"

namespace ashlar {
namespace {

constexpr int32_t kFirstPiece = 259;  // after <unk>, <s>, </s> and 256 bytes
constexpr int32_t kLongestPiece = 1024;

struct Piece {
  float score = 0;
  std::string bytes;
};

std::vector<Piece> read_pieces(const std::string& data, const std::string& file) {
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
  std::vector<Piece> pieces;
  while (at < data.size()) {
    const size_t id = pieces.size();
    Piece piece;
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

/// One way to build a piece from two others.
struct Split {
  int32_t result = 0;
  size_t at = 0;  ///< bytes of the left part
  int32_t left = 0, right = 0;
};

class Ranker {
 public:
  Ranker(const std::vector<Piece>& pieces, const std::string& file) : pieces_(pieces) {
    for (int32_t id = 0; id < static_cast<int32_t>(pieces.size()); ++id) {
      require(ids_.emplace(piece(id), id).second, ErrorCode::kData, "{}: token {}: '{}' twice",
              file, id, to_valid_utf8(piece(id)));
    }
    for (int32_t id = kFirstPiece; id < static_cast<int32_t>(pieces.size()); ++id) find_splits(id);
    // The highest score first; of the splits of one piece the longest left part, because of two
    // overlapping pairs that build the same piece (ab·a and a·ba in "ababa") the left one wins.
    std::stable_sort(splits_.begin(), splits_.end(), [&](const Split& a, const Split& b) {
      if (score(a.result) != score(b.result)) return score(a.result) > score(b.result);
      return a.result != b.result ? a.result < b.result : a.at > b.at;
    });
  }

  /// Pairs that build pieces of equal score share a rank: what llama2.c does.
  std::vector<BpeModel::Merge> shared_ranks() const {
    std::vector<BpeModel::Merge> merges;
    int32_t rank = -1;
    for (size_t i = 0; i < splits_.size(); ++i) {
      const Split& split = splits_[i];
      if (i == 0 || score(split.result) != score(splits_[i - 1].result)) ++rank;
      merges.push_back({split.left, split.right, rank, split.result});
    }
    return merges;
  }

  /// The same as a strict order: what a tokenizer.json can say.
  std::vector<BpeModel::Merge> strict_ranks() const {
    std::vector<BpeModel::Merge> merges = shared_ranks();
    for (size_t i = 0; i < merges.size(); ++i) merges[i].rank = static_cast<int32_t>(i);
    return merges;
  }

  /// The first piece for which the strict order may differ from the shared ranks, or "".
  ///
  /// Take two pairs of one rank that are present at once. Apart, they do not influence each other.
  /// Overlapping (u·v and v·w with uv = vw), the left one must come first in the strict order.
  /// Adjacent (uv next to vw), the one merged first, T, may at once form a better piece with the
  /// nearer half of the other: T·v' or u'·T.
  std::string doubtful() const {
    for (size_t i = 0; i < splits_.size(); ++i) {
      const Split& split = splits_[i];
      const std::string& whole = piece(split.result);
      if (i > 0 && splits_[i - 1].result != split.result &&
          score(splits_[i - 1].result) == score(split.result)) {
        return whole;
      }
      if (!is_split_many_ways(i)) continue;
      // u·v is this split, v·w the mirrored one, listed earlier because its left part is longer.
      const size_t mirror = whole.size() - split.at;
      if (mirror > split.at && has_split(split.result, mirror) &&
          whole.compare(split.at, std::string::npos, whole, 0, mirror) == 0) {
        return whole;
      }
      for (const std::string& joined : {whole + piece(split.left), piece(split.right) + whole}) {
        const auto found = ids_.find(joined);
        if (found != ids_.end() && score(found->second) > score(split.result)) return whole;
      }
    }
    return {};
  }

 private:
  const std::string& piece(int32_t id) const { return pieces_[static_cast<size_t>(id)].bytes; }
  float score(int32_t id) const { return pieces_[static_cast<size_t>(id)].score; }

  void find_splits(int32_t id) {
    const std::string& whole = piece(id);
    for (size_t at = 1; at < whole.size(); ++at) {
      const auto left = ids_.find(whole.substr(0, at)), right = ids_.find(whole.substr(at));
      if (left == ids_.end() || right == ids_.end()) continue;
      if (left->second < kFirstPiece || right->second < kFirstPiece) continue;
      splits_.push_back({id, at, left->second, right->second});
    }
  }
  bool is_split_many_ways(size_t i) const {
    return (i > 0 && splits_[i - 1].result == splits_[i].result) ||
           (i + 1 < splits_.size() && splits_[i + 1].result == splits_[i].result);
  }
  bool has_split(int32_t id, size_t at) const {
    return std::any_of(splits_.begin(), splits_.end(),
                       [&](const Split& s) { return s.result == id && s.at == at; });
  }

  const std::vector<Piece>& pieces_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<Split> splits_;
};

}  // namespace

std::unique_ptr<Tokenizer> parse_llama2c_tokenizer(const std::string& bytes,
                                                   const std::string& file) {
  const std::vector<Piece> pieces = read_pieces(bytes, file);
  const Ranker ranker(pieces, file);
  if (const std::string piece = ranker.doubtful(); !piece.empty()) {
    spdlog::warn(
        "{}: merge ranks cannot express the order of scores exactly (token '{}'): "
        "tokenizer.json may split rare texts differently",
        file, to_valid_utf8(piece));
  }
  BpeVocabulary vocabulary;
  vocabulary.description = fmt::format("llama2.c vocabulary, {} tokens", pieces.size());
  for (const Piece& piece : pieces) {
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
  vocabulary.merges = ranker.strict_ranks();
  vocabulary.json = write_hf_tokenizer(vocabulary);
  vocabulary.merges = ranker.shared_ranks();
  return std::make_unique<BpeTokenizer>(std::move(vocabulary), file);
}

}  // namespace ashlar
