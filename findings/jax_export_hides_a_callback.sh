#!/usr/bin/env bash
# jax 0.10.2, CPU backend
#
# A program that works on this machine is lowered for an accelerator that is not here, by
# jax.export.export(f, platforms=["tpu"]) or f.trace(x).lower(lowering_platforms=("tpu",)):
# the way to see today what will compile there tomorrow. Somewhere in it is a callback to
# the host.
#
# Expected: it is lowered, as other programs are; or the error says that callbacks cannot
# be lowered for another platform, and where the callback is.
# Behaviour: exported for the CPU the error names host callbacks. For any other platform
# the same function fails with a message about the *backend*: "the platform for the
# specified backend cpu is different from the lowering platform tpu". It names no callback,
# no operation and no line, and reads as if the machine's backend were wrong; a
# jax.debug.callback deep in a library is enough, and there is no flag to leave it out.
# Output seen:
#   plain, cuda: passed
#   plain, tpu: passed
#   pure_callback, cpu: serialization of host_callbacks is not yet implemented
#   pure_callback, cuda: the platform for the specified backend cpu is different from the lowering platform cuda
#   pure_callback, tpu: the platform for the specified backend cpu is different from the lowering platform tpu
#   debug.callback, cpu: serialization of host_callbacks is not yet implemented
#   debug.callback, cuda: the platform for the specified backend cpu is different from the lowering platform cuda
#   debug.callback, tpu: the platform for the specified backend cpu is different from the lowering platform tpu
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2
cat > "$folder/lower.py" <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

shape = jax.ShapeDtypeStruct((3,), jnp.float32)
programs = {
    "plain": jax.jit(lambda x: 2 * x),
    "pure_callback": jax.jit(lambda x: jax.pure_callback(np.asarray, shape, x)),
    "debug.callback": jax.jit(lambda x: (jax.debug.callback(lambda: None), x)[1]),
}
for name, program in programs.items():
    for platform in ("cpu", "cuda", "tpu"):
        if (name, platform) == ("plain", "cpu"):
            continue
        try:
            jax.export.export(program, platforms=[platform])(shape)
            print(f"{name}, {platform}: passed")
        except Exception as error:
            print(f"{name}, {platform}: {str(error).splitlines()[0]}")
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/lower.py" 2>/dev/null | tee "$folder/output"
diff - "$folder/output" <<'SEEN'
plain, cuda: passed
plain, tpu: passed
pure_callback, cpu: serialization of host_callbacks is not yet implemented
pure_callback, cuda: the platform for the specified backend cpu is different from the lowering platform cuda
pure_callback, tpu: the platform for the specified backend cpu is different from the lowering platform tpu
debug.callback, cpu: serialization of host_callbacks is not yet implemented
debug.callback, cuda: the platform for the specified backend cpu is different from the lowering platform cuda
debug.callback, tpu: the platform for the specified backend cpu is different from the lowering platform tpu
SEEN
