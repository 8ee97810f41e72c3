// Quality against bytes as Markdown.

#include <fmt/format.h>

#include "eval/report.h"

namespace ashlar {
namespace {

std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 3; ++unit) bytes /= 1024;
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string share_text(const std::optional<double>& share) {
  return share ? fmt::format("{:.1f} %", 100 * *share) : "–";
}

// Beside the full cache: in percent where that can be said, else in the metric's unit.
std::string difference_text(const ArmFigures& figures) {
  if (!figures.difference) return "–";
  if (figures.arm.full) return "is it";
  if (const auto& r = figures.difference->relative) {
    return fmt::format("{:+.2f} % ({:+.2f} to {:+.2f})", 100 * r->value, 100 * r->low,
                       100 * r->high);
  }
  const Interval& a = figures.difference->absolute;
  return fmt::format("{:+.4f} ({:+.4f} to {:+.4f})", a.value, a.low, a.high);
}

std::string line_of(const EvalRow& row) {
  const ArmFigures& f = *row.arm;
  return fmt::format("| {} | {} | {} | {:.4f} | {:.4f} – {:.4f} | {} | {} | {} | {} | {} |\n",
                     f.arm.policy, f.arm.budget.empty() ? "–" : f.arm.budget, f.arm.codec,
                     row.value, row.low, row.high, difference_text(f),
                     bytes_text(f.mean_prompt_bytes), bytes_text(f.mean_bytes), share_text(f.share),
                     f.pareto ? "●" : "");
}

}  // namespace

std::string arms_to_markdown(const std::vector<EvalRow>& rows) {
  std::string out;
  std::vector<bool> written(rows.size(), false);
  for (size_t first = 0; first < rows.size(); ++first) {
    const EvalRow& head = rows[first];
    if (written[first] || !head.arm) continue;
    out += fmt::format("{}**{}**: {}, {} is better, n = {}\n\n", out.empty() ? "" : "\n", head.task,
                       head.metric, head.lower_is_better ? "lower" : "higher", head.n);
    out +=
        "| policy | budget | codec | value | 95 % interval | beside the full cache | KV, prompt | "
        "KV, end | share | front |\n|---|---|---|---|---|---|---|---|---|---|\n";
    for (size_t i = first; i < rows.size(); ++i) {
      if (!rows[i].arm || rows[i].task != head.task || rows[i].metric != head.metric) continue;
      out += line_of(rows[i]);
      written[i] = true;
    }
  }
  return out +
         "\nKV: mean bytes of a text's cache as resident, when the prompt is in and at the end of "
         "the text; share: of the full cache's at the end; ●: no other arm is as good in fewer "
         "bytes, or better in as many. Differences are paired: the same resampled items.\n";
}

}  // namespace ashlar
