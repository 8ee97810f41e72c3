find_package(Threads REQUIRED)
find_package(fmt 9.1 REQUIRED)
find_package(spdlog 1.10 REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(yaml-cpp 0.7 REQUIRED)
find_package(OpenSSL 3 REQUIRED COMPONENTS Crypto)
find_package(CLI11 2.1 REQUIRED)
find_package(HDF5 1.10 REQUIRED COMPONENTS C)
find_package(PkgConfig REQUIRED)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(MINIZIP REQUIRED IMPORTED_TARGET minizip)
# The compiled library and its header must agree on its CPPHTTPLIB_ macros, which pkg-config knows.
pkg_check_modules(HTTPLIB REQUIRED IMPORTED_TARGET cpp-httplib)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
find_package(ZLIB REQUIRED)
if(ASHLAR_TESTS)
  find_package(GTest 1.12 REQUIRED)
endif()

# libtorch is the PyPI wheel, unpacked by scripts/setup. Its own CMake files insist on a whole CUDA
# toolkit and on nvToolsExt, so the targets are written by hand.
if(ASHLAR_TORCH)
  if(NOT EXISTS ${ASHLAR_TORCH_ROOT}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "libtorch not found in ${ASHLAR_TORCH_ROOT}: run scripts/setup, "
      "or configure with -DASHLAR_TORCH=OFF for the engine alone")
  endif()
  add_library(ashlar_torch INTERFACE)
  # at::parallel_for is a header: without -fopenmp it runs its body on one thread, and every product inside
  # opens a parallel region of its own. The runtime is the wheel's.
  target_compile_options(ashlar_torch INTERFACE -fopenmp)
  # Behind the system's folders: the wheel ships its own, newer fmt without the library.
  target_compile_options(ashlar_torch INTERFACE "SHELL:-idirafter ${ASHLAR_TORCH_ROOT}/include"
    "SHELL:-idirafter ${ASHLAR_TORCH_ROOT}/include/torch/csrc/api/include")
  target_link_options(ashlar_torch INTERFACE
    "LINKER:--no-as-needed,${ASHLAR_TORCH_ROOT}/lib/libtorch_cpu.so,${ASHLAR_TORCH_ROOT}/lib/libc10.so,${ASHLAR_TORCH_ROOT}/lib/libgomp.so.1,--as-needed"
    "LINKER:-rpath,${ASHLAR_TORCH_ROOT}/lib" "LINKER:--allow-shlib-undefined")
endif()
