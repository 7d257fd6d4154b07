#include <algorithm>
#include <cmath>
#include <iterator>

#include "shallowpi/base/text.h"
#include "shallowpi/data/tokenizer.h"

namespace shallowpi {
namespace {

// What Python's str.strip() takes away, in UTF-8.
constexpr std::string_view kPythonSpaces[] = {
    " ",      "\t",     "\n",     "\v",     "\f",     "\r",     "\x1c",   "\x1d",   "\x1e",   "\x1f",
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
    "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

std::string_view python_strip(std::string_view text) {
  const auto last = std::end(kPythonSpaces);
  const auto at_begin = [&] {
    return std::find_if(kPythonSpaces, last, [&](std::string_view space) { return text.starts_with(space); });
  };
  const auto at_end = [&] {
    return std::find_if(kPythonSpaces, last, [&](std::string_view space) { return text.ends_with(space); });
  };
  for (auto space = at_begin(); space != last; space = at_begin()) text.remove_prefix(space->size());
  for (auto space = at_end(); space != last; space = at_end()) text.remove_suffix(space->size());
  return text;
}

// openpi models/tokenizer.py: prompt.strip().replace("_", " ").replace("\n", " ").
std::string clean(const std::string& text) {
  std::string cleaned(python_strip(text));
  for (char& c : cleaned)
    if (c == '_' || c == '\n') c = ' ';
  return cleaned;
}

std::string state_text(const std::vector<float>& state, std::size_t dims) {
  std::vector<std::int64_t> bins;
  for (std::size_t dim = 0; dim < dims; ++dim)
    bins.push_back(state_bin(dim < state.size() ? state[dim] : 0.0));
  return join(bins, " ");
}

}  // namespace

bool is_blank(std::string_view text) {
  return python_strip(text).empty();
}

std::int64_t state_bin(double value) {
  // np.digitize(value, np.linspace(-1, 1, 257)[:-1]) - 1, in exact arithmetic: the edges are k / 128, and
  // scaling by 128 does not round (adding 1 first would).
  if (!(value < 1.0)) return 255;
  if (value < -1.0) return -1;
  return static_cast<std::int64_t>(std::floor(value * 128.0)) + 128;
}

std::vector<std::string> prompt_parts(const PolicySpec& spec, const std::string& text,
                                      const std::vector<float>& state) {
  if (spec.prompt_mode == PromptMode::kLeRobotPi0) return {text.ends_with('\n') ? text : text + "\n"};
  if (prompt_reads_state(spec.prompt_mode)) {
    const std::size_t dims = spec.prompt_mode == PromptMode::kPi05StatePadded32 ? 32 : state.size();
    return {str("Task: ", clean(text), ", State: ", state_text(state, dims), ";\nAction: ")};
  }
  return {clean(text), "\n"};  // apart, as openpi does, so that the newline never merges with the text
}

std::vector<std::int64_t> encode_prompt(const Tokenizer& tokenizer, const PolicySpec& spec,
                                        const std::string& text, const std::vector<float>& state) {
  std::vector<std::int64_t> ids{tokenizer.bos()};
  for (const std::string& part : prompt_parts(spec, text, state)) {
    const std::vector<std::int64_t> pieces = tokenizer.encode(part);
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }
  return ids;
}

}  // namespace shallowpi
