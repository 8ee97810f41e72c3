#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ashlar {

class ThreadPool;

struct EncodeOptions {
  /// Adds what the vocabulary puts around a text: BOS of the Llama family, a template's tokens.
  bool add_special = false;
  /// Recognises special tokens written out in the text ("<|endoftext|>"). Off, they are plain text,
  /// which is what documents and user input need. Ordinary added tokens are always recognised.
  bool parse_special = false;
  /// Bytes the vocabulary has no token for are left out, as Python's `tokenizers` does. Off, they
  /// are an error.
  bool lossy = false;
};

/// A part of a text whose structure is known, such as a rendered chat.
struct TextPiece {
  std::string text;
  bool special = false;  ///< the name of a special token, where the vocabulary has it
  bool answer = false;   ///< of a chat: what the assistant writes, the end of its turn included
  bool operator==(const TextPiece&) const = default;
};

/// Text to token ids and back. Immutable: one object serves any number of threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of `text`, any bytes; bytes that are not UTF-8 survive a round trip. Throws Error(kData)
  /// for a byte that the vocabulary has no token for, rather than drop it, unless `lossy`.
  virtual std::vector<int32_t> encode(std::string_view text,
                                      const EncodeOptions& options = {}) const = 0;

  /// The same ids, found on the threads of `pool`: the text is cut into parts of about `part_bytes`
  /// where this cannot be seen in the result. Vocabularies for which no such places are known
  /// (docs/tokenizers.md) and short texts are encoded on one thread. Not from inside a task of the
  /// pool.
  virtual std::vector<int32_t> encode_parallel(std::string_view text, ThreadPool& pool,
                                               const EncodeOptions& options = {},
                                               int64_t part_bytes = 1 << 18) const;

  /// Ids of the pieces' joined text, in which only pieces marked special become special tokens: the
  /// rest is plain, whatever is written in it. A marked piece that is no special token of this
  /// vocabulary is plain too. `text_start` false: the pieces continue
  /// a text, so that no space is put in front.
  virtual std::vector<int32_t> encode_pieces(std::span<const TextPiece> pieces,
                                             bool text_start = true) const = 0;

  /// The bytes of a whole sequence. Special tokens are left out unless `keep_special`. Throws
  /// Error(kRequest) for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids, bool keep_special = false) const;

  /// The bytes token `id` adds in the middle of a text. Throws Error(kRequest) as above.
  virtual const std::string& token_bytes(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  /// True when one leading space of a decoded text is the tokenizer's own (Llama family).
  virtual bool strips_leading_space() const = 0;

  /// One more than the largest id.
  virtual int64_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;
  /// Id of a token by its written form, such as "<|endoftext|>".
  virtual std::optional<int32_t> find_token(std::string_view content) const = 0;

  /// What it is, for people: "byte-level BPE, 4096 tokens".
  virtual std::string description() const = 0;
  /// The vocabulary as the text of a Hugging Face `tokenizer.json`: the file itself where it was
  /// read from one.
  virtual const std::string& json() const = 0;
  /// SHA-256 of json(), 64 hex digits: identifies the vocabulary in shards, checkpoints, packages.
  const std::string& hash() const;

 protected:
  std::string hash_;
};

/// Opens a `tokenizer.json`, a llama2.c `.bin`, a SentencePiece `.model`, a GGUF file, or a folder
/// that holds `tokenizer.json` (where `tokenizer_config.json`, if present, names BOS and EOS) or
/// else `tokenizer.model`. Throws Error(kRequest) when there is no
/// such file and Error(kData) for one that is damaged or of a kind that is not supported.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

/// Turns a stream of ids into text that is valid UTF-8 at every moment: bytes of an unfinished
/// character are held back, bytes that can no longer become one appear as U+FFFD.
class StreamDecoder {
 public:
  /// `text_start`: the stream begins a text (a leading space the tokenizer put there is dropped);
  /// false when it continues a prompt. Keeps a reference to `tokenizer`.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool text_start = true);

  /// Text that became complete with `id`; special tokens give none.
  std::string push(int32_t id);
  /// The rest: U+FFFD when a character was left unfinished, else "".
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool strip_;
  std::string pending_;
};

/// `bytes` with every maximal invalid part replaced by U+FFFD (Unicode 15, section 3.9, W3C rule).
/// With `rest`, an unfinished character at the end is moved there instead.
std::string to_valid_utf8(std::string_view bytes, std::string* rest = nullptr);

}  // namespace ashlar
