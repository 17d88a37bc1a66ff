// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one place that states the version; CMake reads these three lines.
#define GRU_VERSION_MAJOR 0
#define GRU_VERSION_MINOR 1
#define GRU_VERSION_PATCH 0
