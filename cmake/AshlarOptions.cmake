option(ASHLAR_TESTS "Build the tests" ON)
option(ASHLAR_TORCH "Build the training side (needs libtorch under .deps or ASHLAR_TORCH_ROOT)" ON)
set(ASHLAR_CUDA AUTO CACHE STRING "CUDA kernels: AUTO (when nvcc is found), ON or OFF")
set_property(CACHE ASHLAR_CUDA PROPERTY STRINGS AUTO ON OFF)
set(ASHLAR_NCCL AUTO CACHE STRING "Collectives between GPUs: AUTO (when CUDA and nccl.h are found), ON or OFF")
set_property(CACHE ASHLAR_NCCL PROPERTY STRINGS AUTO ON OFF)
set(ASHLAR_TORCH_CUDA OFF CACHE STRING "Training on GPUs: ON, OFF or AUTO (when scripts/setup --cuda has run and nvcc is found)")
set_property(CACHE ASHLAR_TORCH_CUDA PROPERTY STRINGS AUTO ON OFF)
set(ASHLAR_SANITIZE "" CACHE STRING "Sanitizers, such as address,undefined or thread")
set(ASHLAR_TORCH_ROOT ${CMAKE_SOURCE_DIR}/.deps/site/torch CACHE PATH "Folder of the unpacked torch wheel")

find_program(ASHLAR_CCACHE ccache)
if(ASHLAR_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_PCH_EXTSUM=true ${ASHLAR_CCACHE})
endif()

# Warnings are errors for our own code. No -march: kernels carry their own flags, the rest is portable.
# (CUDA sources get theirs in kernels/CMakeLists.txt: nvcc takes other options.)
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Werror;-fno-math-errno;-fno-trapping-math;-ffp-contract=off>")
if(ASHLAR_SANITIZE)
  # Undefined behaviour is a failure, not a line in a log.
  add_compile_options(
    "$<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=${ASHLAR_SANITIZE};-fno-sanitize-recover=all;-fno-omit-frame-pointer>")
  add_link_options(-fsanitize=${ASHLAR_SANITIZE})
  if(ASHLAR_SANITIZE MATCHES thread)  # GCC 12 then sees overflows in std::vector::insert
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wno-stringop-overflow>")
  endif()
endif()
