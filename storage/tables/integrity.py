"""Verify parts: against the entry in the table, and against their source shards, encoded again."""

from typing import NamedTuple

import numpy as np

from hashing import bits
from hashing.functions import HashFunction, Precision
from hashing.quantizers.contract import Quantizer

from ..features.shard import FeatureShard
from ..files import filesystem
from .parts import Part, code_array, corrective_array, encode_shard, read_part, repeated_ids
from .source_digest import SOURCE_DIGESTS, update_digest


class SourceComparison(NamedTuple):
    """A part compared with its source shard."""

    problems: list[str]
    bits: int  # number of bits compared
    near: int  # differing bits whose value is within rounding of the threshold; not a problem


def check_part(part: Part, n_bits: int) -> list[str]:
    """Return the problems of a part, one line each: file, size, SHA-256, code width, rows and ids."""
    try:
        if not filesystem.exists(part.url):
            return [f"part {part.url} of {part.size} bytes is missing"]
        table = read_part(part.url, n_bits, part.size, verify=True)
    except (OSError, ValueError) as error:
        return [str(error)]
    problems, ids = [], table["id"].to_numpy()
    if len(ids) != part.rows:
        problems.append(f"expected {part.rows} rows, found {len(ids)}, in {part.url}")
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (part.min_id, part.max_id)
    if (low, high) != (part.min_id, part.max_id):
        problems.append(f"expected ids from {part.min_id} to {part.max_id}, found {low} to {high}, in {part.url}")
    if problem := repeated_ids(ids, part.url):
        problems.append(problem)
    return problems


def restore_part(pair: tuple[Part, FeatureShard], function: HashFunction, folder: str) -> None:
    """Encode a source shard again in the format of a lost part: equal content gives the part its name."""
    part, shard = pair
    for format in reversed(SOURCE_DIGESTS):
        if encode_shard(shard, function, folder, format).url == part.url:
            break


def compare_with_source(
    pair: tuple[Part, FeatureShard], function: HashFunction, precision: Precision = "float32"
) -> SourceComparison:
    """Encode a source shard again, and compare ids, bits and the digest of its content with the part.

    `precision` is that with which the part was encoded. For a part that cannot be read, which `check_part` reports, the
    comparison is empty.
    """
    part, shard = pair
    try:
        table = read_part(part.url, function.n_bits, part.size)
    except (OSError, ValueError):
        return SourceComparison([], 0, 0)
    ids, codes = table["id"].to_numpy(), code_array(table["code"].combine_chunks(), function.n_bits)
    if isinstance(function, Quantizer):
        whole = {name: table[name].combine_chunks() for name in function.correctives}
        values = corrective_array(whole, function.correctives)
    row = wrong = near = other = 0
    metadata = table.schema.metadata or {}
    source_digest, new_digest = SOURCE_DIGESTS[metadata.get(b"hashkiln.format", b"1").decode()]
    content = new_digest()
    try:
        for batch, *_ in shard.read_blocks():
            n = len(batch.ids)
            if not np.array_equal(batch.ids, ids[row : row + n]):
                problem = f"the ids in {part.url} differ from those of {shard.url} from row {row} on"
                return SourceComparison([problem], 0, 0)
            update_digest(content, batch)
            stored = bits.unpack(codes[row : row + n], function.n_bits)
            differing = function.encode(batch.x) != stored
            rows = np.flatnonzero(differing.any(axis=1))
            if len(rows):
                excused = int((differing[rows] & function.undetermined(batch.x[rows], precision)).sum())
                near, wrong = near + excused, wrong + int(differing.sum()) - excused
            if isinstance(function, Quantizer):
                again = [correctives for _, correctives in function.quantized(batch.x)]
                found = values[row : row + n]
                other += int((np.concatenate([found[:0], *again]) != found).any(axis=1).sum())
            row += n
        shard.refuse_change()
    except (OSError, ValueError) as error:
        return SourceComparison([f"cannot compare {part.url} with its source: {error}"], 0, 0)
    problems, compared = [], row * function.n_bits
    if row != len(ids):
        problems.append(f"expected {row} rows, as in {shard.url}, found {len(ids)}, in {part.url}")
    if wrong:
        problems.append(f"{wrong} of {compared} bits in {part.url} differ from the encoding of {shard.url}")
    if other:
        problems.append(f"the correctives of {other} rows in {part.url} differ from the encoding of {shard.url}")
    recorded, actual = metadata.get(f"hashkiln.{source_digest}".encode()), content.digest().hex()
    if recorded and recorded.decode() != actual:
        problems.append(f"expected content of digest {recorded.decode()}, found {actual}, in {shard.url}")
    return SourceComparison(problems, compared, near)
