#include "shallowpi/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "shallowpi/base/manifest.h"
#include "test_util.h"

namespace shallowpi {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;
using testing::write_text;

/// Names in a folder, sorted.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

void fill_two(const fs::path& folder) {
  write_text(folder / "a.txt", "alpha");
  write_text(folder / "deep/b.bin", std::string("\0\1\2", 3));
}

/// The id of a process that has ended.
int dead_pid() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

TEST(ReadFile, GivesAllBytesOrTheReason) {
  const TempDir folder;
  const std::string bytes("a\0b\xff", 4);
  write_text(folder / "x", bytes);
  EXPECT_EQ(read_file(folder / "x"), bytes);
  EXPECT_EQ(read_file(folder / "x", 4), bytes);
  expect_error<IoError>([&] { read_file(folder / "x", 3); }, (folder / "x").string(), "larger than");
  expect_error<IoError>([&] { read_file("/dev/zero", 5'000'000); }, "/dev/zero", "larger than");
  expect_error<IoError>([&] { read_file(folder / "y"); }, (folder / "y").string(), "No such file");
  expect_error<IoError>([&] { read_file(folder.path()); }, folder.path().string(), "directory");
  EXPECT_FALSE(read_file("/proc/self/status").empty());  // claims to have no bytes
}

TEST(ReadFile, MissingFilesAreTheUsersFault) {
  try {
    read_file("/nonexistent/file");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
  }
}

TEST(WriteFileAtomically, ReplacesAndLeavesNothingElse) {
  const TempDir folder;
  write_file_atomically(folder / "x", "one");
  EXPECT_EQ(read_file(folder / "x"), "one");
  write_file_atomically(folder / "x", "two");
  EXPECT_EQ(read_file(folder / "x"), "two");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"x"});
  expect_error<IoError>([&] { write_file_atomically(folder / "missing/x", "one"); }, "missing",
                        "No such file");
}

TEST(WriteFileAtomically, RelativePath) {
  const TempDir folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  write_file_atomically("x", "one");
  fs::current_path(before);
  EXPECT_EQ(read_file(folder / "x"), "one");
}

TEST(WriteFileAtomically, FollowsLinks) {
  const TempDir folder;
  write_text(folder / "real/x", "old");
  fs::create_symlink("real/x", folder / "link");
  fs::create_symlink("link", folder / "second");
  fs::create_symlink("new", folder / "dangling");
  write_file_atomically(folder / "second", "1");
  write_file_atomically(folder / "dangling", "2");
  EXPECT_EQ(read_file(folder / "real/x"), "1");
  EXPECT_EQ(read_file(folder / "new"), "2");
  for (const char* name : {"link", "second", "dangling"}) EXPECT_TRUE(fs::is_symlink(folder / name)) << name;
  fs::create_symlink("loop", folder / "loop");
  expect_error<IoError>([&] { write_file_atomically(folder / "loop", "x"); }, "loop", "links lead nowhere");
  fs::create_directory_symlink("real", folder / "folder");
  expect_error<UsageError>([&] { write_file_atomically(folder / "folder", "x"); }, "is a folder");
}

TEST(WriteFileAtomically, WritesIntoWhatIsNoPlainFile) {
  const TempDir folder;
  const fs::path pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  fs::create_symlink("pipe", folder / "link");
  for (const fs::path& path : {pipe, folder / "link"}) {
    const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);  // so that the writer need not wait
    const FileDescriptor owner(reader, pipe);
    write_file_atomically(path, "bytes");
    char got[16];
    EXPECT_EQ(std::string(got, owner.read(got, sizeof got)), "bytes");
    EXPECT_TRUE(fs::is_fifo(pipe));
  }
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"link", "pipe"}));
  fs::create_symlink("/dev/null", folder / "null");
  write_file_atomically(folder / "null", "bytes");
  EXPECT_TRUE(fs::is_character_file(folder / "null"));
}

TEST(WriteFileAtomically, WritesIntoAnOpenDescriptor) {
  const TempDir folder;
  const FileDescriptor out = open_file(folder / "out", O_WRONLY | O_CREAT);
  out.write("first ");
  write_file_atomically(str("/dev/fd/", out.get()), "second");  // as /dev/stdout
  out.write(" third");
  EXPECT_EQ(read_file(folder / "out"), "first second third");
}

TEST(WriteAtomically, ReplacesALinkToAFolder) {
  const TempDir folder;
  write_text(folder / "old/x", "1");
  write_text(folder / "new/x", "2");
  for (const char* target : {"old", "new"})
    write_atomically(folder / "link",
                     [&](const fs::path& temporary) { fs::create_directory_symlink(target, temporary); });
  EXPECT_EQ(read_file(folder / "link/x"), "2");
  EXPECT_EQ(read_file(folder / "old/x"), "1");
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"link", "new", "old"}));
}

TEST(WriteAtomically, ErrorsOfStdFilesystemAreIoErrors) {
  const TempDir folder;
  const auto fail = [](const fs::path& temporary) { fs::copy_file("/nonexistent", temporary); };
  expect_error<IoError>([&] { write_atomically(folder / "x", fail); }, "cannot write", "nonexistent");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{});
}

TEST(DiscardFolder, LeavesNothing) {
  const TempDir folder;
  publish_folder(folder / "out", fill_two);
  discard_folder(folder / "out");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{});
  expect_error<IoError>([&] { discard_folder(folder / "out"); }, "cannot remove", "out");
}

TEST(TemporaryPath, IsNewAndNotStale) {
  const TempDir folder;
  const fs::path first = temporary_path(folder / "x"), second = temporary_path(folder / "x");
  EXPECT_NE(first, second);
  EXPECT_EQ(first.parent_path(), folder.path());
  write_text(first, "1");
  remove_stale_temporaries(folder.path());
  EXPECT_TRUE(fs::exists(first));
}

TEST(PublishFolder, WritesManifestThatVerifies) {
  const TempDir folder;
  publish_folder(folder / "out/", fill_two);
  EXPECT_EQ(names_in(folder / "out"), (std::vector<std::string>{"a.txt", "deep", "manifest.json"}));
  EXPECT_NE(read_file(folder / "out/manifest.json").find(sha256("alpha")), std::string::npos);
  EXPECT_NO_THROW(verify_manifest(folder / "out"));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
}

TEST(PublishFolder, MakesItsParents) {
  const TempDir dir;
  publish_folder(dir / "a/b/c", [](const fs::path& folder) { write_text(folder / "x", "1"); });
  EXPECT_NO_THROW(verify_manifest(dir / "a/b/c"));
}

TEST(PublishFolder, DoesNotOverwriteUnlessAsked) {
  const TempDir folder;
  publish_folder(folder / "out", fill_two);
  bool called = false;
  expect_error<UsageError>([&] { publish_folder(folder / "out", [&](const fs::path&) { called = true; }); },
                           "exists already");
  EXPECT_FALSE(called);
  publish_folder(
      folder / "out", [](const fs::path& to) { write_text(to / "c", "new"); }, /*replace=*/true);
  EXPECT_EQ(names_in(folder / "out"), (std::vector<std::string>{"c", "manifest.json"}));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
}

TEST(PublishFolder, FilesAndFoldersAreNotSwapped) {
  const TempDir folder;
  write_text(folder / "dir/precious", "x");
  expect_error<UsageError>([&] { write_file_atomically(folder / "dir", "x"); }, "is a folder");
  EXPECT_EQ(read_file(folder / "dir/precious"), "x");
  expect_error<UsageError>([&] { publish_folder(folder / "dir/precious", fill_two, true); },
                           "is not a folder");
  EXPECT_EQ(read_file(folder / "dir/precious"), "x");
}

TEST(PublishFolder, ExceptionLeavesTheOldOne) {
  const TempDir folder;
  publish_folder(folder / "out", fill_two);
  const auto fail = [](const fs::path& to) {
    write_text(to / "c", "new");
    throw CorruptError("no");
  };
  expect_error<CorruptError>([&] { publish_folder(folder / "out", fail, true); }, "no");
  expect_error<CorruptError>([&] { publish_folder(folder / "other", fail); }, "no");
  EXPECT_NO_THROW(verify_manifest(folder / "out"));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
  expect_error<IoError>(
      [&] {
        publish_folder(
            folder / "out", [](const fs::path& to) { fs::copy_file("/nonexistent", to / "x"); }, true);
      },
      "cannot write", "nonexistent");
  expect_error<Error>(
      [&] {
        publish_folder(
            folder / "out", [](const fs::path& to) { fs::create_symlink("/", to / "x"); }, true);
      },
      "only plain files");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
}

TEST(RemoveStaleTemporaries, RemovesOnlyThoseOfTheDead) {
  const TempDir folder;
  const std::string dead = str("step.tmp-", dead_pid(), "-0");
  const std::string live = str("step.tmp-", ::getppid(), "-0");
  const std::string own = str("step.tmp-", ::getpid(), "-999999");  // of a killed process that had our id
  for (const auto& name :
       {dead, live, own, std::string("a.tmp-x"), std::string("a.tmp-"), str("b.tmp-", dead_pid(), "-1z"),
        std::string("c.tmp-99999999999999999999-0")})  // no process id
    write_text(folder / (name + "/file"), "x");
  remove_stale_temporaries(folder.path());
  EXPECT_FALSE(fs::exists(folder / dead));
  EXPECT_FALSE(fs::exists(folder / own));
  EXPECT_TRUE(fs::exists(folder / live));
  EXPECT_EQ(names_in(folder.path()).size(), 5u);
  remove_stale_temporaries(folder.path(), /*locked=*/true);  // so its id is another process's by now
  EXPECT_FALSE(fs::exists(folder / live));
  publish_folder(folder / "out", [&](const fs::path& to) {
    remove_stale_temporaries(folder.path(), /*locked=*/true);  // what is being written stays
    fill_two(to);
  });
  EXPECT_NO_THROW(verify_manifest(folder / "out"));
  EXPECT_NO_THROW(remove_stale_temporaries(folder / "missing"));
}

TEST(FreeDiskBytes, WorksForPathsToCome) {
  const TempDir folder;
  EXPECT_GT(free_disk_bytes(folder.path()), 0u);
  EXPECT_GT(free_disk_bytes(folder / "not/yet/there"), 0u);
  EXPECT_GT(free_disk_bytes("relative/path"), 0u);
}

TEST(ExpandGlobs, SortsAndRemovesRepeats) {
  const TempDir folder;
  for (const char* name : {"b.hdf5", "a.hdf5", "c.txt", "odd[1].hdf5"}) write_text(folder / name, "");
  const auto paths = expand_globs(
      {(folder / "*.hdf5").string(), (folder / "a.hdf5").string(), (folder / "odd[1].hdf5").string()});
  ASSERT_EQ(paths.size(), 3u);
  EXPECT_EQ(paths[0].filename(), "a.hdf5");
  EXPECT_EQ(paths[1].filename(), "b.hdf5");
  EXPECT_EQ(paths[2].filename(), "odd[1].hdf5");
  expect_error<UsageError>([&] { expand_globs({(folder / "*.mp4").string()}); }, "*.mp4", "no file matches");
  expect_error<UsageError>([&] { expand_globs({(folder / "z.hdf5").string()}); }, "z.hdf5", "no such file");
}

TEST(FolderLock, SecondHolderIsRefusedAndToldWhoHoldsIt) {
  const TempDir folder;
  {
    const FolderLock lock(folder / "run");
    expect_error<UsageError>([&] { FolderLock again(folder / "run"); }, "run is in use by process ",
                             str(::getpid()));
  }
  EXPECT_NO_THROW(FolderLock again(folder / "run"));
  expect_error<IoError>([&] { FolderLock lock("/proc/nowhere"); }, "/proc/nowhere");
}

}  // namespace
}  // namespace shallowpi
