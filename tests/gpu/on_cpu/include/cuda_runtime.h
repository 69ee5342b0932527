#pragma once

#include "cuda_runtime_api.h"
#include "emulator.h"
