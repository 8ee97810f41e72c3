#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "eval/report.h"

namespace ashlar {

/// One chart: a task and one of its metrics.
using Panel = std::pair<std::string, std::string>;

/// A gnuplot script that draws quality against bytes, one chart above the other: every arm at the
/// mean bytes of a text's cache (binary logarithm) with its 95 % interval, one line for each policy
/// and codec, the Pareto front as steps and rings, the full cache as a dashed line. `file` ends in
/// .svg or .png. `rows` of other metrics are passed over. Throws Error(kRequest) for another ending
/// or a panel without rows.
std::string arms_plot(const std::vector<EvalRow>& rows, std::span<const Panel> panels,
                      const std::string& file);
/// Throws Error(kRequest) unless `file` ends in .svg or .png.
void check_plot_file(const std::string& file);

}  // namespace ashlar
