#include <cstdio>
#include <iostream>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/io/atomic_file.h"
#include "data/tokenizer/hf_json.h"
#include "data/tokenizer/tokenizer.h"

// Many strings through one tokenizer, for comparisons with other libraries
// (tests/python/fuzz_tokenizers.py):
//   tokenizer_stream TOKENIZER < strings > results
// A string is: uint32 flags (1: special tokens written in the text are recognised, 2: the
// vocabulary's own are added, 4: bytes without a token are left out), uint32 size, bytes. Its
// result: uint32 count, int32 ids, uint32 size, the decoded bytes without special tokens;
// 0xffffffff and no ids where the text was refused, with the message as bytes.
//   tokenizer_stream TOKENIZER --json FILE
// writes the tokenizer.json of the vocabulary.
//   tokenizer_stream TOKENIZER --rewrite FILE
// reads a tokenizer.json and writes one anew from what was understood.

namespace ashlar {
namespace {

constexpr uint32_t kRefused = 0xffffffff;

bool get(void* to, size_t size) { return std::fread(to, 1, size, stdin) == size; }
void put(const void* from, size_t size) {
  require(std::fwrite(from, 1, size, stdout) == size, ErrorCode::kResource, "cannot write");
}
void put_size(size_t size) {
  const auto value = static_cast<uint32_t>(size);
  put(&value, sizeof value);
}

void answer(const Tokenizer& tokenizer, ThreadPool& pool, const std::string& text, uint32_t flags) {
  const EncodeOptions options{.add_special = (flags & 2) != 0,
                              .parse_special = (flags & 1) != 0,
                              .lossy = (flags & 4) != 0};
  std::vector<int32_t> ids;
  std::string decoded;
  try {
    ids = tokenizer.encode(text, options);
    for (int64_t part_bytes : {1, 7, 40}) {
      require(tokenizer.encode_parallel(text, pool, options, part_bytes) == ids,
              ErrorCode::kInternal, "parts of {} bytes give other ids", part_bytes);
    }
    decoded = tokenizer.decode(ids);
    put_size(ids.size());
    put(ids.data(), ids.size() * sizeof(int32_t));
  } catch (const Error& error) {
    put_size(kRefused);
    decoded = error.what();
  }
  put_size(decoded.size());
  put(decoded.data(), decoded.size());
}

void run(int argc, char** argv) {
  const std::string mode = argc == 4 ? argv[2] : "";
  require(argc == 2 || mode == "--json" || mode == "--rewrite", ErrorCode::kRequest,
          "usage: tokenizer_stream TOKENIZER [--json FILE | --rewrite FILE]");
  if (mode == "--rewrite") {
    const BpeVocabulary vocabulary = parse_hf_vocabulary(read_file(argv[1]), argv[1]);
    return write_file_atomically(argv[3], write_hf_tokenizer(vocabulary));
  }
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(argv[1]);
  if (argc == 4) return write_file_atomically(argv[3], tokenizer->json());
  ThreadPool pool(1);  // the cuts matter here, not the threads
  uint32_t head[2];
  std::string text;
  while (get(head, sizeof head)) {
    text.resize(head[1]);
    require(get(text.data(), text.size()), ErrorCode::kRequest, "the input ends in a string");
    answer(*tokenizer, pool, text, head[0]);
  }
}

}  // namespace
}  // namespace ashlar

int main(int argc, char** argv) {
  try {
    ashlar::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
