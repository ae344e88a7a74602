"""Measure the rows of docs/results.md and docs/methods.md.

    HASHKILN_DATA=… python benchmarks/results.py [--out FOLDER] [--only NAME...] [--list]

Each line of LINES is a run of `hashkiln benchmark`, in a process of its own, on one thread. FOLDER/NAME.json is written
when all of its cells were measured. Lines whose file exists are skipped, so delete the files that are to be measured
again; --list prints the commands. An interrupted line resumes after its last cell. The rows contain the processor time
of the fits, which other load changes less than time on a clock, the processor, the date, the versions and the commit.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, run

import measure

HASHKILN = Path(sys.executable).with_name("hashkiln")
FOLDER = Path(__file__).parent / "results"
ONE_THREAD = {
    "HASHKILN_EXECUTOR": "inprocess", "HASHKILN_CPUS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
}  # fmt: skip


def each(methods: str, *settings: str) -> str:
    """Return the options that set hyper-parameters of each method.

    >>> each("dch,dsh", "epochs=3")
    '--set dch.epochs=3 --set dsh.epochs=3'
    """
    return " ".join(f"--set {method}.{setting}" for method in methods.split(",") for setting in settings)


FAST = "lsh,super_bit,sklsh,pcah,pca_rr,itq,sh,sph,density_sensitive,itq_cca"  # their fits take seconds
DEEP = "dlbhc,hashnet,dch,dsh,dpsh,dhn,dsdh,ninh,subic"
VIEWS = "prdh,dmhor,dmvh"
# Methods that learn from classes, and from pairs or without labels, are compared with HashNet, DPSH and ITQ on the same
# features: pixels and images, with a third of the epochs of the other lines. Nothing else was tuned.
CLASSES = "hashnet,dpsh,csq,dpn,greedyhash,orthohash,hyp2,mds,dfh,crovca"
MORE = "cnnh,dhln,drsch,dtsh,itdh,sgh"
PAIRS = "idhn,dbdh,lcdsh,dshsd,adsh,bihalf,cibhash,crovca_unsupervised"

CNN_3, CNN_10, CNN_30 = (("network=cnn", f"epochs={epochs}") for epochs in (3, 10, 30))
SHALLOW = "--methods lsh,itq,itq_cca --bits 32"  # beside deep methods
TWO_VIEWS = f"--methods {VIEWS} --bits 32 --protocol labels {each(VIEWS, 'network=cnn+mlp', 'first_view=3072')}"
TWO_VIEWS += " --set prdh.epochs=12 --set dmhor.epochs=25 --set dmvh.epochs=12"
PIXELS = "--bits 32 --seeds 3 --protocol labels --asymmetric --queries 1000"
IMAGES = "--dataset openclipart --bits 32 --seeds 3 --protocol graded --queries 1000"

# File -> options of `hashkiln benchmark`; cheap lines first. The hyper-parameters of dpsh, dsrh, hashnet, dmhor and thc
# on openclipart and wordnet, and the entropy weights of subic, were chosen on a part of the training rows, used as
# queries to the rest (15 %, or 5,000 of MNIST, sampled once by keyed hash or at random), never on the test queries.
# The sample sizes of bre extrapolate from experiments with 2,000 of the training rows as queries.
LINES = {
    "mnist": f"--dataset mnist --methods {FAST} --seeds 3",
    "fashion-mnist": f"--dataset fashion-mnist --methods {FAST} --seeds 3",
    "photosift": "--dataset photosift --methods itq,sh,sph,pcah,lsh,ba,kmh --seeds 3",
    "mnist-seeds": "--dataset mnist --methods ba,fsdh,ksh,sdh --seeds 3",
    "mnist-iterative": "--dataset mnist --methods agh,dgh,dh,kmh,lfh,supervised_dh --seeds 3",
    "fashion-mnist-source": "--dataset fashion-mnist --methods ba,fsdh,kmh,ksh,sdh,sh_bdnn,uh_bdnn --seeds 3",
    "mnist-uh_bdnn": "--dataset mnist --methods uh_bdnn --seeds 3",
    "mnist-sh_bdnn": "--dataset mnist --methods sh_bdnn --seeds 3",
    "photosift-uh_bdnn": "--dataset photosift --methods uh_bdnn --seeds 3",
    "openclipart-shallow": f"--dataset openclipart {SHALLOW} --protocol graded",
    "openclipart-i2t-shallow": f"--dataset openclipart-i2t {SHALLOW} --protocol labels",
    "openclipart-t2i-shallow": f"--dataset openclipart-t2i {SHALLOW} --protocol labels",
    "wordnet-shallow": f"--dataset wordnet-tfidf {SHALLOW} --protocol labels",
    "mnist-deep": f"--dataset mnist --methods {DEEP} --bits 16,32 {each(DEEP, *CNN_3)}"
    " --set subic.units=2 --set ninh.margin=4.0",
    "openclipart-hashnet": "--dataset openclipart --methods hashnet --bits 32 --seeds 3 --protocol graded "
    + each("hashnet", *CNN_30, "lr=0.0003"),
    "openclipart-deep": "--dataset openclipart --methods dpsh,dsrh --bits 32 --protocol graded "
    f"{each('dpsh', *CNN_30)} {each('dsrh', 'network=cnn_skip', 'epochs=20')}",
    "openclipart-i2t-deep": f"--dataset openclipart-i2t {TWO_VIEWS}",
    "openclipart-t2i-deep": f"--dataset openclipart-t2i {TWO_VIEWS}",
    "wordnet-deep": "--dataset wordnet --methods hashnet,thc --bits 32 --protocol labels "
    f"{each('hashnet,thc', 'network=text')} --set hashnet.epochs=3 --set thc.epochs=10 --set thc.tags=2.0",
    "mnist-classes": f"--dataset mnist --methods itq,{CLASSES} {PIXELS} {each(CLASSES, 'epochs=3')}",
    "mnist-pairs": f"--dataset mnist --methods {PAIRS} {PIXELS} {each(PAIRS, 'epochs=3')}",
    "fashion-mnist-classes": f"--dataset fashion-mnist --methods itq,{CLASSES} {PIXELS} {each(CLASSES, 'epochs=3')}",
    "fashion-mnist-pairs": f"--dataset fashion-mnist --methods {PAIRS} {PIXELS} {each(PAIRS, 'epochs=3')}",
    "mnist-more": f"--dataset mnist --methods {MORE} {PIXELS} {each(MORE, 'epochs=3')}",
    "mnist-bre": "--dataset mnist --methods bre --seeds 3",
    "fashion-mnist-bre": "--dataset fashion-mnist --methods bre --seeds 3",
    "openclipart-classes": f"{IMAGES} --methods itq,{CLASSES} {each(CLASSES, *CNN_10)}",
    "openclipart-pairs": f"{IMAGES} --methods {PAIRS} {each(PAIRS, *CNN_10)}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the files")
    parser.add_argument("--only", nargs="+", choices=LINES, metavar="NAME", default=list(LINES), help="names of files")
    parser.add_argument("--list", action="store_true", help="print the commands, and measure nothing")
    options = parser.parse_args()
    if options.list:
        for name in options.only:
            for command in commands(name, Path(f"{name}.json")):
                print("hashkiln", *command)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in options.only if not (options.out / f"{name}.json").exists()]
    if failed := [name for name in missing if not measured(name, options.out)]:
        sys.exit(f"failed: {', '.join(failed)}")


def commands(name: str, file: Path) -> list[list[str]]:
    """Return the commands of hashkiln that measure the rows of a line, and write them to a file."""
    small = ["ingest", "openclipart", "--side", "32"]  # a quarter of the pixels of its images
    return [
        *[small] * ("--dataset openclipart " in LINES[name]),
        ["benchmark", *LINES[name].split(), "--json", str(file)],
    ]


def measured(name: str, folder: Path) -> bool:
    """Return whether all cells of a line were measured; if so, write its file."""
    start, commit, unfinished = time.monotonic(), measure.commit(), folder / f"{name}.unfinished"
    for command in commands(name, unfinished):  # which print progress and errors to stderr
        if run([HASHKILN, *command], env=os.environ | ONE_THREAD, stdout=DEVNULL).returncode:
            unfinished.unlink(missing_ok=True)
            return False
    rows = json.loads(unfinished.read_text())
    for row in rows:
        row["versions"]["commit"] = commit
    unfinished.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")  # one row per line
    unfinished.replace(folder / f"{name}.json")
    fits = sum(row["fit_cpu_seconds"] for row in rows)
    print(f"{name}: {len(rows)} rows, {fits:,.0f} s of fits, {time.monotonic() - start:,.0f} s in all", flush=True)
    return True


if __name__ == "__main__":
    main()
