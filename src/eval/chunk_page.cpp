#include "eval/chunk_page.h"

#include <algorithm>
#include <limits>
#include <set>
#include <sstream>

#include "eval/html.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

using EpisodeId = std::pair<std::int32_t, std::int32_t>;  // source, episode

/// The values of one action dim from a step on.
struct Line {
  std::string style;
  std::int64_t first_step = 0;
  std::vector<float> values;
};

std::vector<float> column(const RobotActions& actions, std::size_t dim) {
  std::vector<float> values;
  for (const std::vector<float>& action : actions) values.push_back(action.at(dim));
  return values;
}

std::string chart(std::size_t dim, const std::vector<Line>& lines) {
  constexpr double kLeft = 70, kWidth = 820, kTop = 8, kHeight = 110;
  float low = std::numeric_limits<float>::infinity(), high = -low;
  std::size_t steps = 2;
  for (const Line& line : lines) {
    const auto [least, most] = std::minmax_element(line.values.begin(), line.values.end());
    low = std::min(low, *least);
    high = std::max(high, *most);
    steps = std::max(steps, static_cast<std::size_t>(line.first_step) + line.values.size());
  }
  const float range = std::max(high - low, 1e-6f);
  const auto y = [&](float value) { return fixed(kTop + kHeight * (high - value) / range, 1); };
  std::ostringstream svg;
  svg << "<svg viewBox=\"0 0 900 " << kTop + kHeight + 14 << "\" role=\"img\" aria-label=\"action " << dim
      << "\"><text x=\"0\" y=\"" << kTop + kHeight / 2 << "\">action " << dim << "</text>";
  for (const float value : {low, high})
    svg << "<line class=\"grid\" x1=\"" << kLeft << "\" x2=\"" << kLeft + kWidth << "\" y1=\"" << y(value)
        << "\" y2=\"" << y(value) << "\"/><text x=\"" << kLeft - 4 << "\" y=\"" << y(value)
        << "\" text-anchor=\"end\">" << fixed(value, 3) << "</text>";
  for (const Line& line : lines) {
    svg << "<polyline class=\"" << line.style << "\" points=\"";
    for (std::size_t i = 0; i < line.values.size(); ++i) {
      const auto step = static_cast<double>(line.first_step) + static_cast<double>(i);
      svg << fixed(kLeft + kWidth * step / static_cast<double>(steps - 1), 1) << ',' << y(line.values[i])
          << ' ';
    }
    svg << "\"/>";
  }
  svg << "</svg>";
  return std::move(svg).str();
}

std::string episode_html(const Dataset& dataset, const std::vector<PolicyReport>& reports, EpisodeId id) {
  const EpisodeFile& file = *dataset.sources().at(static_cast<std::size_t>(id.first)).file;
  const EpisodeInfo& info = file.episodes().at(static_cast<std::size_t>(id.second));
  std::string html = str("<h2>", escaped(file.path().filename().string()), " ", escaped(info.name),
                         "</h2><p>", escaped(info.prompt_at(0)), "</p>");
  for (std::size_t dim = 0; dim < static_cast<std::size_t>(dataset.action_dim()); ++dim) {
    std::vector<Line> lines;
    for (std::size_t policy = 0; policy < reports.size(); ++policy) {
      std::int64_t free_from = 0;  // chunks follow each other: all of them would hide each other
      for (const FrameReport& frame : reports[policy].frames) {
        const bool is_shown = !frame.chunk.empty() && frame.sample.step >= free_from &&
                              EpisodeId{frame.sample.source, frame.sample.episode} == id;
        if (!is_shown) continue;
        lines.push_back({str("p", policy % 6), frame.sample.step, column(frame.chunk, dim)});
        free_from = frame.sample.step + std::ssize(frame.chunk);
      }
    }
    lines.push_back({"demo", 0, column(file.actions(id.second), dim)});  // above the others
    html += chart(dim, lines);
  }
  return html;
}

}  // namespace

std::string chunk_page(const Dataset& dataset, const std::vector<PolicyReport>& reports) {
  constexpr std::size_t kEpisodes = 4;
  std::set<EpisodeId> episodes;
  std::string legend = "<svg viewBox=\"0 0 900 20\">";
  double x = 0;
  const auto add_to_legend = [&](const std::string& style, const std::string& label) {
    legend += str("<polyline class=\"", style, "\" points=\"", x, ",10 ", x + 30, ",10\"/><text x=\"", x + 36,
                  "\" y=\"14\">", escaped(label), "</text>");
    x += 60 + 7.0 * static_cast<double>(label.size());
  };
  add_to_legend("demo", "demonstration");
  for (std::size_t policy = 0; policy < reports.size(); ++policy) {
    const std::vector<FrameReport>& frames = reports[policy].frames;
    if (frames.empty() || frames.front().chunk.empty()) continue;
    add_to_legend(str("p", policy % 6), reports[policy].label);
    for (const FrameReport& frame : frames) episodes.emplace(frame.sample.source, frame.sample.episode);
  }
  std::string body =
      str("<h1>Chunks over demonstrations</h1><p>Robot units, by control step.</p>", legend, "</svg>");
  const std::vector<EpisodeId> all(episodes.begin(), episodes.end());
  const std::size_t shown = std::min(kEpisodes, all.size());
  for (std::size_t i = 0; i < shown; ++i) body += episode_html(dataset, reports, all[i * all.size() / shown]);
  return html_page("Chunks over demonstrations", body);
}

}  // namespace shallowpi
