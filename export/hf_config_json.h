#pragma once

#include "package/format/model_data.h"
#include "package/import/hf_config.h"

namespace ashlar {

/// The family of stock `transformers` keys that describe `spec` (stock_family said so), in the
/// spelling that transformers 4 and 5 read.
Node stock_config(HfFamily family, const ModelSpec& spec);

}  // namespace ashlar
