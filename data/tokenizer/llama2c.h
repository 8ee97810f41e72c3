#pragma once

#include <memory>
#include <string>

#include "data/tokenizer/tokenizer.h"

namespace ashlar {

/// Reads a llama2.c vocabulary (`tokenizer.bin`): int32 longest piece, then per token f32 score,
/// int32 length, bytes. Ids 0, 1, 2 are <unk>, <s>, </s>; 3 to 258 are the bytes <0x00> to <0xFF>.
///
/// A space is put before non-empty text; the adjacent pair whose joined piece has the highest score
/// merges first, the leftmost on ties. json() says the same as merge ranks; where a vocabulary
/// cannot be ranked without the chance of another result on some text, a warning is logged (the
/// published stories260K vocabulary can). Throws Error(kData) naming `file`.
std::unique_ptr<Tokenizer> parse_llama2c_tokenizer(const std::string& bytes,
                                                   const std::string& file);

}  // namespace ashlar
