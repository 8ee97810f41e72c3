#include "data/tokenizer/spm_vocabulary.h"

#include <spdlog/spdlog.h>

#include <cmath>

#include "core/base/error.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/score_merges.h"

namespace ashlar {
namespace {

NormalizerStep step(NormalizerStep::Kind kind, std::string from, std::string to) {
  NormalizerStep out;
  out.kind = kind;
  out.from = std::move(from);
  out.to = std::move(to);
  return out;
}

ScoreMerges merges_of(const SpmVocabulary& spm, const std::string& file) {
  std::vector<ScoredPiece> scored;
  scored.reserve(spm.pieces.size());
  for (const SpmVocabulary::Piece& piece : spm.pieces) {
    const bool merges = piece.kind == SpmKind::kNormal;
    require(!merges || std::isfinite(piece.score), ErrorCode::kData,
            "{}: token {}: score is not finite", file, scored.size());
    scored.push_back({piece.score, piece.text, merges});
  }
  return merges_by_score(scored, file);
}

void add_token(const SpmVocabulary::Piece& piece, int32_t id, BpeVocabulary& out) {
  if (piece.kind == SpmKind::kNormal || piece.kind == SpmKind::kByte ||
      piece.kind == SpmKind::kUnused) {
    return;
  }
  AddedToken token;
  token.id = id;
  token.content = piece.text;
  token.special = piece.kind != SpmKind::kUserDefined;
  out.added.push_back(std::move(token));
}

}  // namespace

std::unique_ptr<Tokenizer> make_spm_tokenizer(const SpmVocabulary& spm, const std::string& file) {
  require(!spm.pieces.empty(), ErrorCode::kData, "{}: the vocabulary is empty", file);
  BpeVocabulary out;
  out.description = fmt::format("{} BPE, {} tokens", spm.source, spm.pieces.size());
  for (const SpmVocabulary::Piece& piece : spm.pieces) {
    const auto id = static_cast<int32_t>(out.spelling.size());
    require(!piece.text.empty(), ErrorCode::kData, "{}: token {} is empty", file, id);
    require(next_utf8_run(piece.text, 0).valid &&
                next_utf8_run(piece.text, 0).bytes.size() == piece.text.size(),
            ErrorCode::kData, "{}: token {} is not UTF-8", file, id);
    add_token(piece, id, out);
    out.spelling.push_back(piece.text);
    out.present.push_back(true);
  }
  if (spm.space_prefix) {
    out.normalizers.push_back(step(NormalizerStep::Kind::kPrepend, {}, kWordStart));
  }
  out.normalizers.push_back(step(NormalizerStep::Kind::kReplace, std::string(1, ' '), kWordStart));
  out.decode_from = kWordStart;
  out.decode_to.assign(1, ' ');
  out.strip_leading_space = spm.space_prefix;
  out.bos = spm.bos;
  out.eos = spm.eos;
  if (spm.add_bos && spm.bos) out.prefix = {*spm.bos};
  if (spm.add_eos && spm.eos) out.suffix = {*spm.eos};
  ScoreMerges merges = merges_of(spm, file);
  if (!merges.doubtful.empty()) {
    // Every published tokenizer.json of such a vocabulary has the same limits.
    spdlog::debug("{}: merge ranks may order rare texts differently from scores (token '{}')", file,
                  merges.doubtful);
  }
  out.merges = std::move(merges.strict);
  out.json = write_hf_tokenizer(out);
  out.merges = std::move(merges.shared);
  return std::make_unique<BpeTokenizer>(std::move(out), file);
}

}  // namespace ashlar
