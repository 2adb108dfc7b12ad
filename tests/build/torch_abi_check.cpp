// Compiles only while csrc/torch_abi.h declares torch's C functions as torch's own headers do. Neither linked nor run:
// see test_torch_abi.py.
#define USE_CUDA  // torch declares its CUDA functions only then
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include "torch_abi.h"
