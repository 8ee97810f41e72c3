#include "cli/run_model.h"

#include "export/checkpoint_model.h"
#include "package/import/open_model.h"

namespace ashlar::cli {

ModelData open_run_or_model(const std::string& path) {
  return is_checkpoint(path) ? model_from_checkpoint(path) : open_model(path);
}

}  // namespace ashlar::cli
