"""Fitting every shallow method on one core: seconds, and mean average precision of the codes.

    HASHKILN_DATA=… python benchmarks/fit.py [--dataset mnist] [--bits 32] [--methods bre,ksh] [--json FILE]
                                             [--before FILE]

All training rows are read from their shards, in process; the time is that of the process, reading included. `--json`
writes the measured rows. `--before` names such a file, for example of an older version, for comparison.
Relevant are rows that share a label for supervised methods, and the 50 nearest rows for others.
"""

import argparse
import json
import time
from pathlib import Path

import measure

from hashing.bits import pack
from hashing.blas import one_blas_thread
from hashing.deep.method import Deep
from hashing.evaluation.metrics import average_precision
from hashing.mapreduce import Data
from hashing.methods import METHODS, method
from infra.executors import InProcess
from infra.settings import Settings
from workflows.context import Context
from workflows.datasets import ingest
from workflows.evaluation.judge import judge_of
from workflows.ingested import labels_of, training_shards
from workflows.spec import Protocol, Spec


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--methods", help="comma-separated; default: all shallow ones")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    names = (
        options.methods.split(",") if options.methods else [n for n, m in METHODS.items() if not issubclass(m, Deep)]
    )
    before = {row["method"]: row for row in json.loads(options.before.read_text())} if options.before else {}
    executor, settings = InProcess(), Settings()
    dataset = ingest(Spec(dataset=options.dataset), settings)
    vocabulary = labels_of(dataset, executor)
    judges, rows = {}, []
    print(measure.machine(()), "\n")
    print("| method | seconds before | seconds | map before, % | map, % |\n|---|---|---|---|---|")
    for name in names:
        built = method(name)(n_bits=options.bits)
        if built.supervised not in judges:
            protocol = Protocol(relevance="labels" if built.supervised else "neighbours", neighbours=50)
            context = Context(Spec(dataset=dataset.name, protocol=protocol), settings, executor, dataset)
            judges[built.supervised] = judge_of(context, vocabulary)
        judge = judges[built.supervised]
        data = Data(training_shards(dataset, judge.queries.ids if judge.drawn else [], vocabulary), executor)
        with one_blas_thread():
            start = time.process_time()
            function = built.fit(data)
            seconds = time.process_time() - start
        base = Data(dataset.shards("base", vocabulary), executor)
        codes = base.map_rows(lambda batch, function=function: batch._replace(x=pack(function.encode(batch.x))))
        map_ = float(average_precision(judge.histogram(function, list(codes.shards), executor)).mean())
        rows.append({"method": name, "bits": options.bits, "seconds": round(seconds, 2), "map": round(100 * map_, 3)})
        old = before.get(name, {"seconds": "", "map": ""})
        print(f"| {name} | {old['seconds']} | {seconds:.1f} | {old['map']} | {100 * map_:.2f} |", flush=True)
        if options.json:
            options.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
