# libtorch is the PyPI wheel, unpacked by scripts/setup. Its own CMake files insist on a whole CUDA
# toolkit and on nvToolsExt, so the targets are written by hand.
#
# ASHLAR_TORCH_CUDA=AUTO turns into ON or OFF here; ASHLAR_HAS_TORCH_CUDA is what the folders ask. ON
# takes the wheel with all of its siblings (cuBLAS, cuDNN, NCCL, ...), which libtorch_cuda finds beside
# itself, and needs the CUDA toolkit of AshlarCuda.cmake for the kernels of attention/cuda.
set(ASHLAR_HAS_TORCH_CUDA OFF)
if(ASHLAR_TORCH AND NOT ASHLAR_TORCH_CUDA STREQUAL "OFF")
  file(GLOB ASHLAR_TORCH_WHEELS ${CMAKE_SOURCE_DIR}/.deps/venv-torch/lib/python3.*/site-packages)
  if(NOT ASHLAR_HAS_CUDA)
    set(ASHLAR_TORCH_CUDA_WHY "no CUDA toolkit: install nvcc 13 and configure with ASHLAR_CUDA=ON")
  elseif(NOT EXISTS "${ASHLAR_TORCH_WHEELS}/torch/lib/libtorch_cuda.so"
      OR NOT EXISTS "${ASHLAR_TORCH_WHEELS}/nvidia/nccl/lib/libnccl.so.2")
    set(ASHLAR_TORCH_CUDA_WHY "no whole set of wheels in .deps/venv-torch: run scripts/setup --cuda")
  else()
    set(ASHLAR_HAS_TORCH_CUDA ON)
    set(ASHLAR_TORCH_ROOT ${ASHLAR_TORCH_WHEELS}/torch)
    # One NCCL in the process: the one that libtorch_cuda loads.
    set(ASHLAR_NCCL_INCLUDE ${ASHLAR_TORCH_WHEELS}/nvidia/nccl/include CACHE PATH "Folder of nccl.h")
    set(ASHLAR_NCCL_LIBRARY ${ASHLAR_TORCH_WHEELS}/nvidia/nccl/lib/libnccl.so.2 CACHE FILEPATH "libnccl")
  endif()
  if(NOT ASHLAR_HAS_TORCH_CUDA AND ASHLAR_TORCH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ASHLAR_TORCH_CUDA=ON: ${ASHLAR_TORCH_CUDA_WHY}")
  endif()
endif()
message(STATUS "Ashlar: training on GPUs ${ASHLAR_HAS_TORCH_CUDA} (ASHLAR_TORCH_CUDA=${ASHLAR_TORCH_CUDA})")

if(ASHLAR_TORCH)
  if(NOT EXISTS ${ASHLAR_TORCH_ROOT}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "libtorch not found in ${ASHLAR_TORCH_ROOT}: run scripts/setup, "
      "or configure with -DASHLAR_TORCH=OFF for the engine alone")
  endif()
  set(ASHLAR_TORCH_LIBRARIES ${ASHLAR_TORCH_ROOT}/lib/libtorch_cpu.so ${ASHLAR_TORCH_ROOT}/lib/libc10.so)
  if(ASHLAR_HAS_TORCH_CUDA)
    # Nothing refers to libtorch_cuda by name: loading it registers its kernels.
    list(APPEND ASHLAR_TORCH_LIBRARIES ${ASHLAR_TORCH_ROOT}/lib/libtorch_cuda.so ${ASHLAR_TORCH_ROOT}/lib/libc10_cuda.so)
  endif()
  list(APPEND ASHLAR_TORCH_LIBRARIES ${ASHLAR_TORCH_ROOT}/lib/libgomp.so.1)
  list(JOIN ASHLAR_TORCH_LIBRARIES "," ASHLAR_TORCH_LINK)
  add_library(ashlar_torch INTERFACE)
  # at::parallel_for is a header: without -fopenmp it runs its body on one thread, and every product inside
  # opens a parallel region of its own. The runtime is the wheel's.
  target_compile_options(ashlar_torch INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-fopenmp>")
  # Behind the system's folders: the wheel ships its own, newer fmt without the library.
  target_compile_options(ashlar_torch INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${ASHLAR_TORCH_ROOT}/include>"
    "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${ASHLAR_TORCH_ROOT}/include/torch/csrc/api/include>")
  target_link_options(ashlar_torch INTERFACE
    "LINKER:--no-as-needed,${ASHLAR_TORCH_LINK},--as-needed"
    "LINKER:-rpath,${ASHLAR_TORCH_ROOT}/lib" "LINKER:--allow-shlib-undefined")
endif()
