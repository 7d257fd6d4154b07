#include "shallowpi/base/problems.h"

#include "test_util.h"

namespace shallowpi {
namespace {

using testing::expect_error;

TEST(Problems, TheOnlyOneKeepsItsKind) {
  Problems problems;
  EXPECT_TRUE(problems.attempt([] {}));
  EXPECT_NO_THROW(problems.throw_all("problems"));
  EXPECT_FALSE(problems.attempt([] { throw CorruptError("a is damaged"); }));
  expect_error<CorruptError>([&] { problems.throw_all("problems"); }, "a is damaged");
}

TEST(Problems, SeveralAreListedWithTheCodeOfTheFirst) {
  Problems problems;
  problems.attempt([] { throw CorruptError("a is damaged"); });
  problems.attempt([] { throw UsageError("b is missing"); });
  try {
    problems.throw_all("problems");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCorrupt);
    EXPECT_STREQ(error.what(), "2 problems:\n  a is damaged\n  b is missing");
  }
}

TEST(Problems, LongListsAreCut) {
  Problems problems;
  for (int i = 0; i < 23; ++i) problems.attempt([&] { throw UsageError(str("file ", i)); });
  expect_error<ManyProblems>([&] { problems.throw_all("files cannot be used"); },
                             "23 files cannot be used:", "file 19", "and 3 more");
}

TEST(Problems, OfProblemsAreOneList) {
  Problems outer;
  outer.attempt([] { throw UsageError("a is missing"); });
  EXPECT_FALSE(outer.attempt([] {
    Problems inner;
    for (const char* text : {"b is missing", "c is missing"}) inner.attempt([&] { throw UsageError(text); });
    inner.throw_all("files");
  }));
  expect_error<ManyProblems>([&] { outer.throw_all("problems"); },
                             "3 problems:\n  a is missing\n  b is missing\n  c is missing");
  Problems only;
  only.attempt([&] { outer.throw_all("files"); });
  expect_error<ManyProblems>([&] { only.throw_all("problems"); }, "3 files:");
}

}  // namespace
}  // namespace shallowpi
