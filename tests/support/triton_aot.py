"""Compiles kernels ahead of time for one device, on a machine that has none.

Modules named on the command line have a function `specs()`; all of them are compiled in one
process, without the interpreter, and what the compiler says of each is printed as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
CAPABILITY = 90
POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True)
class Spec:
    """A kernel in one configuration.

    Attributes:
        name: For messages.
        kernel: A function under `triton.jit`.
        arguments: Parameter name -> what a launch would pass; tensors may be on "meta".
        options: Of the compiler.
    """

    name: str
    kernel: Any
    arguments: Mapping[str, Any]
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    Attributes:
        registers: Registers of a thread.
        spills: Bytes of a thread's stack: what registers could not hold.
        shared: Bytes of shared memory of a program.
        tensor_core: Instructions on tensor cores in the code: "wgmma", "mma" or "".
    """

    registers: int
    spills: int
    shared: int
    tensor_core: str


def compile_all(*modules: str) -> dict[str, Resources]:
    """Compiles the specs of some modules in a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.support.triton_aot", *modules]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: Resources(**own) for name, own in json.loads(done.stdout).items()}


def compile_spec(spec: Spec) -> Resources:
    """Compiles one kernel as a launch with these arguments would."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(spec.kernel.params):
        value = spec.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[(place,)] = "constexpr", value
            continue
        signature[parameter.name] = _type(value)
        for path, leaf in _leaves(value, (place,)):
            if isinstance(leaf, int) and leaf == 1:
                constants[path] = 1
            elif isinstance(leaf, torch.Tensor) or leaf % 16 == 0:
                attributes[path] = [["tt.divisibility", 16]]
    source = ASTSource(spec.kernel, signature, constants, attributes)
    made = compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=dict(spec.options))
    usage = _usage(made.asm["cubin"])
    ptx = made.asm["ptx"]
    core = "wgmma" if "wgmma.mma_async" in ptx else "mma" if "mma.sync" in ptx else ""
    return Resources(usage["REG"], usage["STACK"], made.metadata.shared, core)


def _type(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_type(part) for part in value)
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    if value == 1:
        return "constexpr"
    return "i32" if abs(value) < 2**31 else "i64"


def _leaves(value: Any, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
    if not isinstance(value, tuple):
        if not isinstance(value, float):
            yield path, value
        return
    for place, part in enumerate(value):
        yield from _leaves(part, (*path, place))


def _usage(cubin: bytes) -> dict[str, int]:
    """Registers and stack of the one function in a binary."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(number) for key, number in re.findall(r"(REG|STACK):(\d+)", text)}


def main() -> None:
    """Compiles the specs of the modules named on the command line."""
    found = {}
    for module in sys.argv[1:]:
        for spec in importlib.import_module(module).specs():
            found[spec.name] = asdict(compile_spec(spec))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
