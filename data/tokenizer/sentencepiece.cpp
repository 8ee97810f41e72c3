#include "data/tokenizer/sentencepiece.h"

#include <cstring>
#include <functional>
#include <string_view>

#include "core/base/error.h"
#include "data/tokenizer/spm_vocabulary.h"
#include "data/tokenizer/unigram_tokenizer.h"

// Field numbers are those of sentencepiece_model.proto. A reader of our own: the library offers the
// pieces and scores but not the trainer's and normalizer's settings, which decide whether we can
// give the same ids at all.

namespace ashlar {
namespace {

constexpr int kFields = 1 << 20;  // of a message: a bound on its entries

struct Field {
  uint32_t number = 0;
  uint32_t wire = 0;       ///< 0 varint, 1 fixed64, 2 bytes, 5 fixed32
  uint64_t value = 0;      ///< of varint and fixed fields
  std::string_view bytes;  ///< of bytes
};

class Message {
 public:
  Message(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  bool next(Field& field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t tag = varint();
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire = static_cast<uint32_t>(tag & 7);
    field.bytes = {};
    if (tag >> 35 != 0 || field.number == 0) damaged("field number");
    if (field.wire == 0) {
      field.value = varint();
    } else if (field.wire == 1 || field.wire == 5) {
      field.value = fixed(field.wire == 1 ? 8 : 4);
    } else if (field.wire == 2) {
      const uint64_t size = varint();
      if (size > bytes_.size() - at_) damaged("length");
      field.bytes = bytes_.substr(at_, size);
      at_ += size;
    } else {
      damaged("wire type");
    }
    return true;
  }

  [[noreturn]] void damaged(const char* what) const {
    fail(ErrorCode::kData, "{}: truncated or not a SentencePiece model: bad {} at byte {}", where_,
         what, at_);
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) damaged("number");
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    damaged("number");
  }
  uint64_t fixed(size_t size) {
    if (bytes_.size() - at_ < size) damaged("number");
    uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + at_, size);
    at_ += size;
    return value;
  }

  std::string_view bytes_;
  const std::string& where_;
  size_t at_ = 0;
};

using OnField = std::function<void(const Field&)>;

void read(std::string_view bytes, const std::string& where, const OnField& on_field) {
  Message message(bytes, where);
  Field field;
  while (message.next(field)) on_field(field);
}

struct Trainer {
  uint64_t type = 1;
  bool byte_fallback = false, suffix = false;
  int64_t bos = 1, eos = 2;
  std::string unknown_surface = UnigramVocabulary().unknown_surface;
};

SpmVocabulary::Piece read_piece(std::string_view bytes, const std::string& where) {
  SpmVocabulary::Piece piece;
  read(bytes, where, [&](const Field& field) {
    if (field.number == 1 && field.wire == 2) piece.text = field.bytes;
    if (field.number == 2 && field.wire == 5) {
      const auto bits = static_cast<uint32_t>(field.value);
      std::memcpy(&piece.score, &bits, sizeof piece.score);
    }
    if (field.number == 3 && field.wire == 0) {
      require(field.value >= 1 && field.value <= 6, ErrorCode::kData, "{}: unknown piece type {}",
              where, field.value);
      piece.kind = static_cast<SpmKind>(field.value);
    }
  });
  return piece;
}

Trainer read_trainer(std::string_view bytes, const std::string& where) {
  Trainer out;
  read(bytes, where, [&](const Field& field) {
    if (field.number == 44 && field.wire == 2) out.unknown_surface = field.bytes;
    if (field.wire != 0) return;
    if (field.number == 3) out.type = field.value;
    if (field.number == 24) out.suffix = field.value != 0;
    if (field.number == 35) out.byte_fallback = field.value != 0;
    if (field.number == 41) out.bos = static_cast<int32_t>(field.value);
    if (field.number == 42) out.eos = static_cast<int32_t>(field.value);
  });
  return out;
}

SpmNormalizerSpec read_normalizer_spec(std::string_view bytes, const std::string& where) {
  SpmNormalizerSpec out;
  read(bytes, where, [&](const Field& field) {
    if (field.number == 2 && field.wire == 2) out.charsmap = field.bytes;
    if (field.number == 3 && field.wire == 0) out.dummy_prefix = field.value != 0;
    if (field.number == 4 && field.wire == 0) out.remove_spaces = field.value != 0;
    if (field.number == 5 && field.wire == 0) out.escape_spaces = field.value != 0;
  });
  return out;
}

void refuse(bool bad, const char* what, const std::string& file) {
  require(!bad, ErrorCode::kData, "{}: {} is not supported", file, what);
}

void check_type(const Trainer& trainer, const std::string& file) {
  constexpr const char* kTypes[] = {"unknown", "Unigram", "BPE", "Word", "Char"};
  require(trainer.type == 1 || trainer.type == 2, ErrorCode::kData,
          "{}: SentencePiece type {} is not supported, only BPE and Unigram", file,
          kTypes[trainer.type < 5 ? trainer.type : 0]);
  refuse(trainer.suffix, "treat_whitespace_as_suffix", file);
}

void check_bpe(const Trainer& trainer, const SpmNormalizerSpec& normalizer,
               const std::string& file) {
  refuse(!trainer.byte_fallback, "a BPE vocabulary without byte_fallback", file);
  refuse(!normalizer.charsmap.empty(),
         "a BPE vocabulary whose normalizer has a character map (other than 'identity')", file);
  refuse(normalizer.remove_spaces, "a BPE vocabulary with remove_extra_whitespaces", file);
  refuse(!normalizer.escape_spaces, "a BPE vocabulary without escape_whitespaces", file);
}

std::optional<int32_t> id_within(int64_t id, size_t tokens, const char* key,
                                 const std::string& file) {
  if (id < 0) return std::nullopt;
  require(id < static_cast<int64_t>(tokens), ErrorCode::kData,
          "{}: {} {} is outside the vocabulary of {}", file, key, id, tokens);
  return static_cast<int32_t>(id);
}

struct Model {
  std::vector<SpmVocabulary::Piece> pieces;
  Trainer trainer;
  SpmNormalizerSpec normalizer, denormalizer;
};

Model read_model(const std::string& bytes, const std::string& file) {
  Model out;
  read(bytes, file, [&](const Field& field) {
    if (field.wire != 2) return;
    if (field.number == 1) {
      require(out.pieces.size() < kFields, ErrorCode::kData, "{}: more than {} tokens", file,
              kFields);
      out.pieces.push_back(read_piece(field.bytes, file));
    }
    if (field.number == 2) out.trainer = read_trainer(field.bytes, file);
    if (field.number == 3) out.normalizer = read_normalizer_spec(field.bytes, file);
    if (field.number == 5) out.denormalizer = read_normalizer_spec(field.bytes, file);
  });
  require(!out.pieces.empty(), ErrorCode::kData, "{}: not a SentencePiece model: no tokens", file);
  return out;
}

std::unique_ptr<Tokenizer> make_unigram(Model model, const std::string& bytes,
                                        const std::string& file) {
  UnigramVocabulary out;
  out.bos = id_within(model.trainer.bos, model.pieces.size(), "bos_id", file);
  out.eos = id_within(model.trainer.eos, model.pieces.size(), "eos_id", file);
  out.pieces = std::move(model.pieces);
  out.normalizer = std::move(model.normalizer);
  out.byte_fallback = model.trainer.byte_fallback;
  out.unknown_surface = model.trainer.unknown_surface;
  out.json = write_unigram_json(out, bytes);
  return std::make_unique<UnigramTokenizer>(std::move(out), file);
}

}  // namespace

std::unique_ptr<Tokenizer> parse_sentencepiece(const std::string& bytes, const std::string& file) {
  Model model = read_model(bytes, file);
  check_type(model.trainer, file);
  refuse(!model.denormalizer.charsmap.empty(), "a denormalizer", file);
  if (model.trainer.type == 1) return make_unigram(std::move(model), bytes, file);
  check_bpe(model.trainer, model.normalizer, file);
  SpmVocabulary spm;
  spm.source = "SentencePiece";
  spm.space_prefix = model.normalizer.dummy_prefix;
  spm.bos = id_within(model.trainer.bos, model.pieces.size(), "bos_id", file);
  spm.eos = id_within(model.trainer.eos, model.pieces.size(), "eos_id", file);
  spm.pieces = std::move(model.pieces);
  return make_spm_tokenizer(spm, file);
}

}  // namespace ashlar
