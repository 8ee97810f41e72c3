#pragma once

// Private to data/tokenizer: the tables of unicode_tables.cpp, written by make_unicode_tables.py.
// Each says a value for every code point from 0 on: a letter A–Z a–f for the value 0 to 31, then
// the length of its run in decimal where that is not 1.

namespace ashlar {

/// General categories of Unicode 16.0, in the order of make_unicode_tables.py.
extern const char* const kCategoryRuns;
/// Bits 0 to 3: not safe in NFC, NFD, NFKC, NFKD. Bit 4: newer than the reference's normal forms.
extern const char* const kNormalFormRuns;
/// 1: a number of the reference's Digits pre-tokenizer that is no \p{N}.
extern const char* const kExtraNumberRuns;

}  // namespace ashlar
