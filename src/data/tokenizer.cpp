#include "shallowpi/data/tokenizer.h"

#include <sentencepiece_processor.h>

#include "data/sentencepiece_check.h"
#include "shallowpi/base/error.h"
#include "shallowpi/base/files.h"

// libsentencepiece and LibTorch's libc10 both export a variable of this name: the former an object, the
// latter an int. The program has one of them; where that is the int, the object's constructor overwrites what
// lies behind it, among it the flag by which LibTorch throws or aborts where memory runs out. This one, which
// both take, has room for either.
alignas(64) [[gnu::weak, gnu::visibility("default")]] char FLAGS_minloglevel[256];

namespace shallowpi {
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kMaxModelBytes = 256u << 20;  // PaliGemma's has 4 MB

}  // namespace

struct Tokenizer::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

Tokenizer::Tokenizer(const fs::path& model) : impl_(std::make_unique<Impl>()), path_(model) {
  if (!fs::is_regular_file(model))
    throw UsageError(str("tokenizer ", model.string(), ": there is no such file"));
  const std::string bytes = read_file(model, kMaxModelBytes);
  std::string problem = sentencepiece_problem(bytes);
  if (problem.empty()) {
    const auto status = impl_->processor.LoadFromSerializedProto(bytes);
    if (!status.ok()) problem = status.ToString();
  }
  if (!problem.empty())
    throw CorruptError(str("tokenizer ", model.string(), " is not a SentencePiece model (", problem,
                           "); fetch PaliGemma's again"));
  if (bos() < 0)
    throw CorruptError(str("tokenizer ", model.string(),
                           " has no <bos> piece, which every prompt starts with; use PaliGemma's tokenizer"));
}

Tokenizer::~Tokenizer() = default;

std::vector<std::int64_t> Tokenizer::encode(const std::string& text) const {
  std::vector<int> ids;
  const auto status = impl_->processor.Encode(text, &ids);
  if (!status.ok()) throw Error(str("tokenizer ", path_.string(), ": ", status.error_message()));
  return {ids.begin(), ids.end()};
}

std::int64_t Tokenizer::bos() const {
  return impl_->processor.bos_id();
}

std::int64_t Tokenizer::vocab_size() const {
  return impl_->processor.GetPieceSize();
}

}  // namespace shallowpi
