# SPDX-License-Identifier: Apache-2.0
import jax

# Parity is tested in float64; tests of JAX's 32-bit default switch it off again.
jax.config.update("jax_enable_x64", True)
# For test_sharding.py; the other tests use the first device.
jax.config.update("jax_num_cpu_devices", 4)
