"""`jax.jit` for what is compiled more than it is computed."""

from functools import partial

import jax

# Without the compiler's slow passes.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
