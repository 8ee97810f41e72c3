#pragma once

#include <string>

#include "package/format/model_data.h"

namespace ashlar::cli {

/// Opens what a command line calls RUN|MODEL: a run or checkpoint folder, or anything `open_model`
/// takes.
ModelData open_run_or_model(const std::string& path);

}  // namespace ashlar::cli
