#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Texts of several fields as ranks leave them in the store.

namespace ashlar {

/// Fields joined by the unit separator (0x1f), which is taken out of the fields.
std::string encode_record(const std::vector<std::string>& fields);
/// Throws Error(kIo) unless `text` has `count` fields: then another program writes to the store.
std::vector<std::string> decode_record(const std::string& text, size_t count);
/// Throws Error(kIo) unless `field` is a whole number.
int64_t record_number(const std::string& field);

}  // namespace ashlar
