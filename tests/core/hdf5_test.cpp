#include "core/hdf5/hdf5.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstring>
#include <fstream>
#include <numeric>

#include "core/base/rng.h"
#include "tests/support/files.h"

// libhdf5 1.10.8 leaks on its own error paths; that we close what we open is checked below.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace ashlar {
namespace {

using test::expect_error;
using test::TempDir;

template <typename T>
void round_trip(const std::filesystem::path& path, const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  std::vector<T> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<T>(i * 37 - 11));
  H5File out = H5File::create(path);
  out.write<T>("a/b/values", shape, std::span<const T>(values));
  out.close();
  const H5File in = H5File::open(path);
  EXPECT_EQ(in.datasets(), std::vector<std::string>{"a/b/values"});
  const H5Dataset info = in.dataset("a/b/values");
  EXPECT_EQ(info.shape, shape);
  EXPECT_EQ(info.dtype, h5_dtype<T>());
  EXPECT_EQ(info.elements, n);
  EXPECT_EQ(in.read<T>("a/b/values"), values);
}

TEST(Hdf5, RoundTripsEveryTypeAndShape) {
  const TempDir dir;
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{}, {1}, {0}, {257}, {3, 5}, {2, 3, 7}, {4, 0, 2}}) {
    round_trip<uint8_t>(dir / "f.h5", shape);
    round_trip<uint16_t>(dir / "f.h5", shape);
    round_trip<uint32_t>(dir / "f.h5", shape);
    round_trip<int32_t>(dir / "f.h5", shape);
    round_trip<int64_t>(dir / "f.h5", shape);
    round_trip<float>(dir / "f.h5", shape);
    round_trip<double>(dir / "f.h5", shape);
  }
}

TEST(Hdf5, StreamedRowsAreContiguousAndMappable) {
  const TempDir dir;
  std::vector<uint16_t> values(3 * 1001);
  std::iota(values.begin(), values.end(), uint16_t{7});
  for (int64_t step : {1, 13, 1001}) {
    H5File out = H5File::create(dir / "s.h5");
    H5Writer writer = out.stream("data", DType::kU16, {1001, 3});
    for (int64_t row = 0; row < 1001; row += step) {
      const int64_t rows = std::min<int64_t>(step, 1001 - row);
      writer.append(std::span<const uint16_t>(values).subspan(static_cast<size_t>(row * 3),
                                                              static_cast<size_t>(rows * 3)));
    }
    writer.finish();
    out.close();
    const H5File in = H5File::open(dir / "s.h5");
    EXPECT_EQ(in.read<uint16_t>("data"), values);
    std::vector<uint16_t> middle(2 * 3);
    in.read_rows<uint16_t>("data", 500, 2, middle);
    EXPECT_EQ(middle, std::vector<uint16_t>(values.begin() + 1500, values.begin() + 1506));
    const H5Dataset info = in.dataset("data");
    ASSERT_TRUE(info.offset.has_value());
    EXPECT_EQ(*info.offset % 64, 0);
    const std::string raw = test::read_text(dir / "s.h5");
    EXPECT_EQ(std::memcmp(raw.data() + *info.offset, values.data(), values.size() * 2), 0);
  }
}

TEST(Hdf5, SameContentGivesTheSameFile) {
  const TempDir dir;
  for (const char* name : {"x.h5", "y.h5"}) {
    H5File out = H5File::create(dir / name);
    const std::vector<int32_t> values{1, 2, 3};
    out.write<int32_t>("g/h/v", {3}, std::span<const int32_t>(values));
    out.set_attribute("", "n", int64_t{3});
    out.close();
  }
  EXPECT_EQ(test::read_text(dir / "x.h5"), test::read_text(dir / "y.h5"));
}

TEST(Hdf5, AttributesOfRootGroupAndDataset) {
  const TempDir dir;
  H5File out = H5File::create(dir / "a.h5");
  const std::vector<float> values{1.5F};
  out.write<float>("group/v", {1}, std::span<const float>(values));
  for (const std::string object : {"", "group", "group/v"}) {
    out.set_attribute(object, "int", int64_t{-5});
    out.set_attribute(object, "int", int64_t{1} << 53);  // replaces
    out.set_attribute(object, "double", 0.1);
    out.set_attribute(object, "text", std::string("ключ"));
    out.set_attribute(object, "empty", std::string());
  }
  out.close();
  const H5File in = H5File::open(dir / "a.h5");
  for (const std::string object : {"", "group", "group/v"}) {
    EXPECT_EQ(in.integer_attribute(object, "int"), int64_t{1} << 53);
    EXPECT_EQ(in.number_attribute(object, "double"), 0.1);
    EXPECT_EQ(in.text_attribute(object, "text"), "ключ");
    EXPECT_EQ(in.text_attribute(object, "empty"), "");
    EXPECT_FALSE(in.has_attribute(object, "none"));
  }
  expect_error(ErrorCode::kData, {"a.h5", "attribute 'none' of 'group'", "missing"},
               [&] { in.integer_attribute("group", "none"); });
  expect_error(ErrorCode::kData, {"attribute 'text'", "expected an integer"},
               [&] { in.integer_attribute("", "text"); });
  expect_error(ErrorCode::kData, {"attribute 'int'", "expected a text"},
               [&] { in.text_attribute("", "int"); });
}

TEST(Hdf5, RefusesWhatIsNotThere) {
  const TempDir dir;
  expect_error(ErrorCode::kRequest, {"gone.h5", "no such file"},
               [&] { H5File::open(dir / "gone.h5"); });
  expect_error(ErrorCode::kRequest, {"not a file"}, [&] { H5File::open(dir.path()); });
  test::write_text(dir / "text.h5", "not hdf5 at all");
  expect_error(ErrorCode::kData, {"text.h5", "not an HDF5 file"},
               [&] { H5File::open(dir / "text.h5"); });
  expect_error(ErrorCode::kIo, {"cannot create"},
               [&] { H5File::create(dir / "missing" / "f.h5"); });

  H5File out = H5File::create(dir / "f.h5");
  const std::vector<uint16_t> values{1, 2};
  out.write<uint16_t>("data", {2}, std::span<const uint16_t>(values));
  out.close();
  const H5File in = H5File::open(dir / "f.h5");
  EXPECT_TRUE(in.has_dataset("data"));
  EXPECT_FALSE(in.has_dataset("data/x"));
  EXPECT_FALSE(in.has_dataset("nothing"));
  expect_error(ErrorCode::kData, {"f.h5", "dataset 'nothing'", "not in the file"},
               [&] { in.dataset("nothing"); });
  expect_error(ErrorCode::kData, {"f.h5", "dataset 'data'", "holds U16, expected I32"},
               [&] { in.read<int32_t>("data"); });
  std::vector<uint16_t> three(3);
  expect_error(ErrorCode::kData, {"dataset 'data'", "rows 0 to 3 of 2"},
               [&] { in.read_rows<uint16_t>("data", 0, 3, three); });
}

TEST(Hdf5, TruncatedAtEveryLengthIsAnErrorOrHarmless) {
  const TempDir dir;
  H5File out = H5File::create(dir / "whole.h5");
  std::vector<uint32_t> values(2000);
  std::iota(values.begin(), values.end(), 0u);
  out.write<uint32_t>("data", {2000}, std::span<const uint32_t>(values));
  out.close();
  const std::string raw = test::read_text(dir / "whole.h5");
  for (size_t length = 0; length < raw.size(); length += 97) {
    test::write_text(dir / "cut.h5", raw.substr(0, length));
    expect_error(ErrorCode::kData, {"cut.h5"}, [&] { H5File::open(dir / "cut.h5"); });
  }
}

// Flips bytes: whatever the file then claims, the answer is one Error line or data of the right
// size, never a crash and never an allocation the file cannot back. Damage to metadata is found by
// its checksums; damage to the raw data is not HDF5's to find.
TEST(Hdf5, DamagedMetadataNeverAllocatesByItsWord) {
  const TempDir dir;
  H5File out = H5File::create(dir / "whole.h5");
  const std::vector<uint16_t> values(300, 9);
  out.write<uint16_t>("group/data", {300}, std::span<const uint16_t>(values));
  out.set_attribute("", "text", std::string("hello"));
  out.close();
  const std::string raw = test::read_text(dir / "whole.h5");
  const Philox random(5);
  int refused = 0;
  for (uint64_t trial = 0; trial < 600; ++trial) {
    std::string damaged = raw;
    for (uint64_t k = 0; k < 1 + trial % 3; ++k) {
      damaged[random.below(trial * 8 + k, damaged.size())] =
          static_cast<char>(trial % 2 == 0 ? 0xff : random.below(trial * 8 + 4 + k, 256));
    }
    test::write_text(dir / "bad.h5", damaged);
    try {
      const H5File in = H5File::open(dir / "bad.h5");
      for (const std::string& name : in.datasets()) {
        EXPECT_EQ(in.dataset(name).bytes, 600);
        in.read<uint16_t>(name);
      }
      if (in.has_attribute("", "text")) in.text_attribute("", "text");
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(refused, 50);
  EXPECT_EQ(H5Fget_obj_count(static_cast<hid_t>(H5F_OBJ_ALL), H5F_OBJ_ALL), 0);
}

/// A foreign file with one dataset made by `properties` and `type`.
void foreign(const std::filesystem::path& path, hid_t type, std::vector<hsize_t> dims,
             const std::function<void(hid_t)>& properties) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
  const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
  properties(plist);
  const hid_t data = H5Dcreate2(file, "data", type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
  ASSERT_GE(data, 0);
  H5Lcreate_soft("/data", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external("other.h5", "/data", file, "external", H5P_DEFAULT, H5P_DEFAULT);
  H5Dclose(data);
  H5Pclose(plist);
  H5Sclose(space);
  H5Fclose(file);
}

TEST(Hdf5, HostileClaimsAreRefused) {
  const TempDir dir;
  const auto path = dir / "evil.h5";
  const auto refuse = [&](const std::vector<std::string>& why) {
    const H5File in = H5File::open(path);
    std::vector<std::string> all = why;
    all.push_back("evil.h5: dataset 'data': ");
    expect_error(ErrorCode::kData, all, [&] { in.read<uint16_t>("data"); });
  };
  // Shapes that no file of that size can hold: nothing was ever written.
  foreign(path, H5T_STD_U16LE, {hsize_t{1} << 40}, [](hid_t) {});
  refuse({"its shape needs 2199023255552 bytes", "stores 0"});
  foreign(path, H5T_STD_U16LE, {hsize_t{1} << 40}, [](hid_t plist) {
    const hsize_t chunk = 1024;
    H5Pset_chunk(plist, 1, &chunk);
    H5Pset_deflate(plist, 1);
  });
  refuse({"its shape needs 2199023255552 bytes", "stores 0"});
  foreign(path, H5T_STD_U16LE, {hsize_t{1} << 31, hsize_t{1} << 31}, [](hid_t plist) {
    const hsize_t chunk[2] = {16, 16};
    H5Pset_chunk(plist, 2, chunk);
  });
  refuse({"overflows"});
  // Data that lies elsewhere, and element types that are not numbers.
  foreign(path, H5T_STD_U16LE, {4},
          [](hid_t plist) { H5Pset_external(plist, "/etc/passwd", 0, 8); });
  refuse({"other files"});
  foreign(path, H5T_STD_REF_OBJ, {4}, [](hid_t) {});
  refuse({"element type"});
  const H5File in = H5File::open(path);
  expect_error(ErrorCode::kData, {"'soft'", "links are not followed"}, [&] { in.dataset("soft"); });
  expect_error(ErrorCode::kData, {"'external'", "links are not followed"},
               [&] { in.dataset("external"); });
}

TEST(Hdf5, ReadsForeignLayoutsAndByteOrder) {
  const TempDir dir;
  const auto path = dir / "chunked.h5";
  std::vector<uint16_t> values(1000);
  std::iota(values.begin(), values.end(), uint16_t{250});
  foreign(path, H5T_STD_U16BE, {1000}, [](hid_t plist) {
    const hsize_t chunk = 128;
    H5Pset_chunk(plist, 1, &chunk);
    H5Pset_deflate(plist, 4);
  });
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  const hid_t data = H5Dopen2(file, "data", H5P_DEFAULT);
  ASSERT_GE(H5Dwrite(data, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  H5Dclose(data);
  H5Fclose(file);
  const H5File in = H5File::open(path);
  EXPECT_FALSE(in.dataset("data").offset.has_value());
  EXPECT_EQ(in.read<uint16_t>("data"), values);
}

}  // namespace
}  // namespace ashlar
