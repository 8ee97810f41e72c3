#include "eval/arm_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/base/error.h"

namespace ashlar {
namespace {

constexpr int kWidth = 900, kHeight = 520;

// Text between single quotes, where gnuplot knows no sign but the quote itself.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') out += '\'';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "'";
}

// One data block: x y low high label.
std::string block(const std::string& name, const std::vector<const EvalRow*>& rows) {
  std::string out = fmt::format("${} << EOD\n", name);
  for (const EvalRow* row : rows) {
    const std::string& budget = row->arm->arm.budget;
    out += fmt::format("{} {} {} {} \"{}\"\n", row->arm->mean_bytes, row->value, row->low,
                       row->high, budget.empty() ? row->arm->arm.codec : budget);
  }
  return out + "EOD\n";
}

std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; ++unit) bytes /= 1024;
  return fmt::format("{} {}", bytes, kUnits[unit]);
}

// A tic at every power of two around the arms' bytes, or at every second or third of many.
std::string tics(const std::vector<const EvalRow*>& rows) {
  const auto [least, most] =
      std::ranges::minmax(rows, {}, [](const EvalRow* row) { return row->arm->mean_bytes; });
  const int low = std::ilogb(least->arm->mean_bytes), high = std::ilogb(most->arm->mean_bytes) + 1;
  const int step = 1 + (high - low) / 10;
  std::string out;
  for (int power = low; power <= high; power += step) {
    const double bytes = std::ldexp(1.0, power);
    out += fmt::format("{}'{}' {}", out.empty() ? "" : ", ", bytes_text(bytes), bytes);
  }
  return "set xtics (" + out + ")\n";
}

// Colours that can be told apart (Okabe & Ito's, without yellow, and darker ones): one for each
// policy; the full cache's is black. Codecs differ in point and dash.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9",
                                    "#7f6000", "#5d3a9b", "#a50026", "#4d9221", "#e69f00"};
constexpr int kPoints[] = {7, 5, 9, 11, 13};

size_t index_in(std::vector<std::string>& known, const std::string& name) {
  const auto found = std::ranges::find(known, name);
  if (found != known.end()) return static_cast<size_t>(found - known.begin());
  known.push_back(name);
  return known.size() - 1;
}

/// The arms of one policy and codec, in the order they were listed: a line.
struct Series {
  std::string name, colour;
  size_t codec = 0;
  std::vector<const EvalRow*> rows;
};

std::vector<Series> series_of(const std::vector<const EvalRow*>& rows) {
  std::vector<std::string> policies, codecs;
  std::vector<Series> out;
  for (const EvalRow* row : rows) {
    const Arm& arm = row->arm->arm;
    const std::string name = arm.policy + ", " + arm.codec;
    auto own = std::ranges::find(out, name, &Series::name);
    if (own == out.end()) {
      const size_t codec = index_in(codecs, arm.codec);
      const std::string colour =
          arm.policy == "none" ? "black"
                               : kColours[index_in(policies, arm.policy) % std::size(kColours)];
      out.push_back({name, colour, codec, {}});
      own = out.end() - 1;
    }
    own->rows.push_back(row);
  }
  return out;
}

// Data blocks and the plot command of one chart; `index` keeps the blocks' names apart.
std::string chart(const std::vector<const EvalRow*>& rows, size_t index) {
  const EvalRow& head = *rows.front();
  std::vector<const EvalRow*> front;
  std::string full, plots;
  for (const EvalRow* row : rows) {
    if (row->arm->pareto) front.push_back(row);
    if (row->arm->arm.full) full = fmt::format("{}", row->value);
  }
  std::ranges::stable_sort(front, {}, [](const EvalRow* row) { return row->arm->mean_bytes; });
  std::string data = block(fmt::format("front{}", index), front);
  const auto add = [&](const std::string& plot) {
    plots += (plots.empty() ? "" : ", \\\n  ") + plot;
  };
  add(fmt::format("$front{} using 1:2 with steps lc rgb '#c8c8c8' lw 5 title 'Pareto front'",
                  index));
  if (!full.empty()) add(full + " with lines dt 3 lc rgb '#606060' title 'full cache'");
  for (const Series& series : series_of(rows)) {
    const std::string name = fmt::format("s{}_{}", index, plots.size());
    data += block(name, series.rows);
    const std::string colour = fmt::format("rgb '{}'", series.colour);
    add(fmt::format("${} using 1:2:3:4 with yerrorlines lc {} dt {} pt {} ps 0.9 title {}", name,
                    colour, 1 + series.codec % 5, kPoints[series.codec % std::size(kPoints)],
                    quoted(series.name)));
    add(fmt::format("'' using 1:2:5 with labels offset 0.9,0.6 left font ',10' tc {} notitle",
                    colour));
  }
  add(fmt::format("$front{} using 1:2 with points pt 6 ps 2 lw 1.5 lc rgb 'black' notitle", index));
  return data + tics(rows) +
         fmt::format("set title {}\nset ylabel {}\nplot {}\n", quoted(head.task),
                     quoted(head.metric +
                            (head.lower_is_better ? " (lower is better)" : " (higher is better)")),
                     plots);
}

}  // namespace

void check_plot_file(const std::string& file) {
  require(file.ends_with(".svg") || file.ends_with(".png"), ErrorCode::kRequest,
          "--plot {}: draws .svg and .png", file);
}

std::string arms_plot(const std::vector<EvalRow>& rows, std::span<const Panel> panels,
                      const std::string& file) {
  check_plot_file(file);
  require(!panels.empty(), ErrorCode::kRequest, "--plot {}: there is nothing to draw", file);
  const auto count = static_cast<int>(panels.size());
  std::string out = fmt::format(
      "set terminal {} size {},{} font 'sans,13' background 'white'\n"
      "set output {}\nset termoption noenhanced\n",
      file.ends_with(".svg") ? "svg" : "pngcairo", kWidth, kHeight * count, quoted(file));
  out +=
      "set logscale x 2\n"
      "set xlabel 'KV cache of a text when it has been read, mean'\n"
      "set grid lc rgb '#dddddd'\nset key outside right top\nset offsets graph 0.02, graph 0.08, "
      "graph 0.08, graph 0.05\n";
  if (count > 1) out += fmt::format("set multiplot layout {},1\n", count);
  for (size_t p = 0; p < panels.size(); ++p) {
    std::vector<const EvalRow*> own;
    for (const EvalRow& row : rows) {
      if (row.arm && row.arm->mean_bytes > 0 && row.task == panels[p].first &&
          row.metric == panels[p].second) {
        own.push_back(&row);
      }
    }
    require(!own.empty(), ErrorCode::kRequest, "--plot {}: {} has no {} to draw", file,
            panels[p].first, panels[p].second);
    out += chart(own, p);
  }
  return out + (count > 1 ? "unset multiplot\n" : "");
}

}  // namespace ashlar
