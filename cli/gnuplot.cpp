#include "cli/gnuplot.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "core/base/error.h"

namespace ashlar::cli {

void require_gnuplot(const std::string& option) {
  require(std::system("gnuplot --version >/dev/null 2>&1") == 0, ErrorCode::kRequest,
          "{}: charts are drawn by gnuplot, which cannot be started here: install it (Debian: "
          "gnuplot-nox) or leave the option out",
          option);
}

void run_gnuplot(const std::string& script) {
  // A gnuplot that ends early is an error here, not this program's end.
  const auto before = std::signal(SIGPIPE, SIG_IGN);
  std::FILE* pipe = popen("gnuplot", "w");
  bool good = pipe != nullptr;
  if (good) {
    good = std::fwrite(script.data(), 1, script.size(), pipe) == script.size();
    good = pclose(pipe) == 0 && good;
  }
  std::signal(SIGPIPE, before);
  require(good, ErrorCode::kIo, "gnuplot could not draw the chart");
}

}  // namespace ashlar::cli
