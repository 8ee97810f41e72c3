#include "train/metrics.h"

#include "core/io/json.h"

namespace ashlar {

void MetricsFile::append(const Node& line) { file_.append(write_json(line) + "\n"); }

}  // namespace ashlar
