// How a rollout is shown: the table, and one HTML page that needs nothing else.
#include <algorithm>
#include <map>
#include <sstream>

#include "eval/html.h"
#include "eval/rollout_results.h"
#include "eval/statistics.h"
#include "shallowpi/base/text.h"

namespace shallowpi {
namespace {

std::string percent(double rate) {
  return fixed(100 * rate, 1);
}

std::vector<std::string> table_row(const std::string& name, const std::string& task,
                                   const SuccessCount& count) {
  std::vector<std::string> row{name, task};
  for (std::string& cell : success_cells(count)) row.push_back(std::move(cell));
  row.push_back(count.successes > 0 ? fixed(count.steps / double(count.successes), 0) : "-");
  return row;
}

std::string language_of(const RolloutResults& results, const std::pair<std::string, std::int64_t>& task) {
  const auto found = results.episodes.lower_bound({task.first, task.second, 0});
  return found == results.episodes.end() ? "" : found->second.language;
}

/// One bar per task with its Wilson interval.
std::string success_chart(const RolloutResults& results) {
  constexpr int kRow = 26, kLeft = 430, kWidth = 420;
  const auto counts = count_by_task(results);
  const auto x = [](double rate) { return fixed(kLeft + rate * kWidth, 1); };
  std::ostringstream svg;
  const auto height = kRow * static_cast<int>(counts.size()) + 40;
  svg << "<svg viewBox=\"0 0 900 " << height << "\" role=\"img\" aria-label=\"success per task\">";
  for (int tick = 0; tick <= 100; tick += 25)
    svg << "<line class=\"grid\" x1=\"" << x(tick / 100.0) << "\" x2=\"" << x(tick / 100.0)
        << "\" y1=\"10\" y2=\"" << height - 25 << "\"/><text x=\"" << x(tick / 100.0) << "\" y=\""
        << height - 8 << "\" text-anchor=\"middle\">" << tick << " %</text>";
  int y = 12;
  for (const auto& [task, count] : counts) {
    const Interval interval = wilson_interval(count.successes, count.episodes);
    svg << "<text x=\"" << kLeft - 8 << "\" y=\"" << y + 13 << "\" text-anchor=\"end\">"
        << escaped(language_of(results, task).substr(0, 64)) << "</text><rect class=\"bar\" x=\"" << kLeft
        << "\" y=\"" << y << "\" height=\"16\" width=\"" << fixed(count.rate() * kWidth, 1)
        << "\"/><line class=\"whisker\" x1=\"" << x(interval.low) << "\" x2=\"" << x(interval.high)
        << "\" y1=\"" << y + 8 << "\" y2=\"" << y + 8 << "\"/>";
    y += kRow;
  }
  svg << "</svg>";
  return std::move(svg).str();
}

/// When the episodes ended: one dot per episode, green where it succeeded.
std::string steps_chart(const RolloutResults& results) {
  constexpr double kWidth = 860, kHeight = 200, kLeft = 30;
  std::int64_t longest = 1;
  for (const auto& [key, record] : results.episodes) longest = std::max(longest, record.steps);
  std::ostringstream svg;
  svg << "<svg viewBox=\"0 0 900 235\" role=\"img\" aria-label=\"length of the episodes\">";
  for (int quarter = 0; quarter <= 4; ++quarter) {
    const double y = 10 + kHeight * (4 - quarter) / 4;
    svg << "<line class=\"grid\" x1=\"30\" x2=\"890\" y1=\"" << y << "\" y2=\"" << y
        << "\"/><text x=\"26\" y=\"" << y + 4 << "\" text-anchor=\"end\">" << longest * quarter / 4
        << "</text>";
  }
  std::size_t i = 0;
  for (const auto& [key, record] : results.episodes) {
    svg << "<circle class=\"" << (record.success ? "success" : "failure") << "\" r=\"3\" cx=\""
        << fixed(kLeft + kWidth * (double(i++) + 0.5) / double(results.episodes.size()), 1) << "\" cy=\""
        << fixed(10 + kHeight * (1 - double(record.steps) / double(longest)), 1) << "\"><title>"
        << escaped(key.suite) << " task " << key.task << " trial " << key.trial << ": " << record.steps
        << " steps</title></circle>";
  }
  svg << "<text x=\"460\" y=\"230\" text-anchor=\"middle\">episodes in order</text></svg>";
  return std::move(svg).str();
}

std::string html_table(const std::vector<std::string>& header,
                       const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<table><tr>";
  for (const std::string& cell : header) out += "<th>" + escaped(cell) + "</th>";
  for (const auto& row : rows) {
    out += "</tr><tr>";
    for (const std::string& cell : row) out += "<td>" + escaped(cell) + "</td>";
  }
  return out + "</tr></table>";
}

const std::vector<std::string> kHeader = {"suite", "task",          "success",
                                          "%",     "95 % interval", "steps to success"};

std::vector<std::vector<std::string>> table_rows(const RolloutResults& results) {
  std::vector<std::vector<std::string>> rows;
  std::map<std::string, SuccessCount> suites;
  for (const auto& [task, count] : count_by_task(results)) {
    rows.push_back(table_row(task.first, str(task.second, " ", language_of(results, task)), count));
    suites[task.first] += count;
  }
  for (const auto& [suite, count] : suites) rows.push_back(table_row(suite, "all", count));
  if (suites.size() > 1) rows.push_back(table_row("all", "all", count_all(results)));
  return rows;
}

}  // namespace

std::vector<std::string> success_cells(const SuccessCount& count) {
  const Interval interval = wilson_interval(count.successes, count.episodes);
  return {str(count.successes, "/", count.episodes), percent(count.rate()),
          str("[", percent(interval.low), ", ", percent(interval.high), "]")};
}

std::string rollout_table(const RolloutResults& results) {
  return text_table(kHeader, table_rows(results));
}

std::string rollout_html(const RolloutResults& results) {
  const SuccessCount all = count_all(results);
  const Interval interval = wilson_interval(all.successes, all.episodes);
  std::vector<std::vector<std::string>> facts;
  for (const Json* part : {&results.policy, &results.settings, &results.machine})
    for (const auto& [key, value] : part->items())
      facts.push_back({key, value.is_string() ? value.get<std::string>() : value.dump()});
  double milliseconds = 0;
  std::int64_t calls = 0;
  for (const auto& [key, record] : results.episodes) {
    milliseconds += record.policy_ms;
    calls += record.calls;
  }
  facts.push_back({"ms per policy call", fixed(milliseconds / double(std::max<std::int64_t>(calls, 1)), 1)});
  return html_page(
      "Rollout report",
      str("<h1><b>", percent(all.rate()), " %</b> success: ", all.successes, " of ", all.episodes,
          " episodes</h1><p>95 % Wilson interval [", percent(interval.low), ", ", percent(interval.high),
          "].</p><h2>Per task</h2>", success_chart(results), html_table(kHeader, table_rows(results)),
          "<h2>Steps per episode</h2><p>Green: success.</p>", steps_chart(results), "<h2>What was run</h2>",
          html_table({"setting", "value"}, facts)));
}

}  // namespace shallowpi
