"""The Triton kernels: right by Triton's interpreter, and compiled for a GPU within its registers and shared memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is installed on Linux x86_64 only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from hashing.hamming import cuda, triton_kernels  # noqa: E402

FOLDER = Path(__file__).parent
POINTERS = dict.fromkeys(["counts", "starts", "positions", "query_rows", "rows"], "*i64") | dict.fromkeys(
    ["planes", "queries", "codes", "label_planes", "query_labels", "radii", "nearer", "ties", "chosen", "tied", "far"],
    "*i32",
)


def test_the_kernels_equal_those_of_the_cpu_by_the_interpreter():
    run = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "interpreted_kernels.py"]
    done = subprocess.run(run, cwd=FOLDER, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def compiled(kernel, types=None, **constants):
    """Return a kernel compiled for compute capability 9.0 as by a launch with these constants."""
    types = {**POINTERS, **(types or {})}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name][0] == "*" or name == "stride"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1, "enable_fp_fusion": True})


def sizes(n_bits, n_cells=0):
    """Return the constants of a launch for codes of n_bits, as cuda.launch and cuda._histogram choose them."""
    n_words = -(-n_bits // 32)
    block = cuda.block_rows(torch.empty((n_words, 0)))
    bins = max(32, min(1 << max(n_cells - 1, 0).bit_length(), cuda.MOST_BINS))
    counts = {"BINS": bins, "ONCE": bins >= n_cells} if n_cells else {}
    return {"W": n_words, "BLOCK": block, "GROUP": cuda.GROUP, **counts}


LAUNCHES = {
    "pairs": lambda: compiled(triton_kernels.pairs, BLOCK=cuda.MOST_ROWS),
    "no grades": lambda: compiled(triton_kernels.histogram, n_grades=1, **sizes(33, 34)),
    "many rows": lambda: compiled(triton_kernels.histogram, {"n": "i64", "stride": "i64"}, **sizes(64, 130)),
}
for width in (20, 64, 256, 1024):
    LAUNCHES |= {
        f"histogram {width}": lambda n=width: compiled(triton_kernels.histogram, n_grades=1, **sizes(n, n + 1)),
        f"labelled {width}": lambda n=width: compiled(triton_kernels.histogram, **sizes(n, 2 * n + 2)),
        f"count {width}": lambda n=width: compiled(triton_kernels.count, TIES=True, **sizes(n)),
        f"collect {width}": lambda n=width: compiled(triton_kernels.collect, {"n": "i64", "stride": "i64"}, **sizes(n)),
    }


@pytest.mark.parametrize("launch", LAUNCHES)
def test_each_kernel_compiles_without_spilling_registers(launch, tmp_path):
    binary = LAUNCHES[launch]()
    (tmp_path / "kernel.cubin").write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    run = subprocess.run([tool, "-res-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True)
    usage = {name: int(value) for name, value in re.findall(r"(\w+):(\d+)", run.stdout + run.stderr)}
    assert usage["REG"] <= 255
    assert (usage["STACK"], usage["LOCAL"]) == (0, 0)
    assert binary.metadata.shared <= 4096  # at least 16 programs share the 227 KiB of a multiprocessor
    assert "popc.b32" in binary.asm["ptx"]
