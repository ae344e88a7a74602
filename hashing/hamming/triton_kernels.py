"""The inner loops of hashing.hamming.cuda, written in Triton and compiled on first use for each width of the codes.

A program holds the codes of BLOCK rows in registers and compares them with GROUP queries, so codes are read from memory
once per GROUP queries, and distances exist only in registers. Codes and labels of n rows are planes (W, stride) int32:
plane w holds word w of every row. Queries are (q, W) int32. Positions are int64.

Sizes that vary from call to call are not specialized: each new value would compile the kernel again.
"""

import triton
import triton.language as tl

FAR = tl.constexpr(1 << 30)  # above every bin


@triton.jit
def popcount(x):
    """Return the number of ones in each int32. LLVM compiles this to one instruction, popc."""
    x = x.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def load_block(planes, stride, n, block, W: tl.constexpr, BLOCK: tl.constexpr):
    """Return the words of the rows of a block, one tensor per plane, and which of the BLOCK rows exist."""
    start = block.to(tl.int64) * BLOCK
    rows = tl.arange(0, BLOCK)
    exist = rows < tl.minimum(n - start, BLOCK).to(tl.int32)
    pointers = planes + start + rows
    words = ()
    for _ in tl.static_range(W):
        words = words + (tl.load(pointers, mask=exist, other=0),)  # noqa: RUF005  # Triton has no unpacking
        pointers += stride  # step by step, because stride times w may exceed int32
    return words, exist


@triton.jit
def distances(words, query, W: tl.constexpr):
    """Return the distances of a block's rows from the query at a pointer."""
    total = popcount(words[0] ^ tl.load(query))
    for w in tl.static_range(1, W):
        total += popcount(words[w] ^ tl.load(query + w))
    return total


@triton.jit(do_not_specialize=["n", "q", "n_bins", "n_words"])
def histogram(
    planes, queries, stride, n, q, label_planes, query_labels, counts, n_bins, n_grades, n_words,
    BINS: tl.constexpr, ONCE: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Add the rows of a block to counts (q, n_grades * n_bins) int64; with ONCE, all bins are counted at once."""
    n_groups = tl.cdiv(q, GROUP)
    block, first = tl.program_id(0) // n_groups, tl.program_id(0) % n_groups * GROUP
    words, exist = load_block(planes, stride, n, block, W, BLOCK)
    label_rows = label_planes + block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bins = tl.arange(0, BINS)
    offset = tl.cast(first, tl.int64)
    queries += offset * W
    query_labels += offset * n_words
    counts += offset * n_grades * n_bins
    for _ in range(first, tl.minimum(first + GROUP, q)):
        cells = distances(words, queries, W)
        if n_grades > 1:
            shared = tl.zeros((BLOCK,), tl.int32)
            labels = label_rows
            for w in range(n_words):
                shared += popcount(tl.load(labels, mask=exist, other=0) & tl.load(query_labels + w))
                labels += stride
            cells += tl.minimum(shared, n_grades - 1) * n_bins
        if ONCE:
            found = tl.histogram(cells, BINS, mask=exist)
            tl.atomic_add(counts + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")
        else:  # windows of BINS bins, each from the lowest remaining bin
            cells = tl.where(exist, cells, FAR)
            least = tl.min(cells)
            while least < FAR:
                inside = cells < least + BINS
                found = tl.histogram(cells - least, BINS, mask=inside)
                tl.atomic_add(counts + least + bins, found.to(tl.int64), mask=found > 0, sem="relaxed")
                cells = tl.where(inside, FAR, cells)
                least = tl.min(cells)
        queries += W
        query_labels += n_words
        counts += n_grades * n_bins


@triton.jit(do_not_specialize=["n", "q"])
def count(
    planes, queries, stride, n, q, radii, nearer, ties,
    TIES: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Write to nearer (q, blocks) int32 the number of rows nearer than radii (q,) int32.

    With TIES, write to ties (q, blocks) the number of rows at exactly the radius.
    """
    n_groups = tl.cdiv(q, GROUP)
    block, first = tl.program_id(0) // n_groups, tl.program_id(0) % n_groups * GROUP
    words, exist = load_block(planes, stride, n, block, W, BLOCK)
    n_blocks = tl.cdiv(n, BLOCK)
    offset = tl.cast(first, tl.int64)
    queries += offset * W
    entry = offset * n_blocks + block
    for i in range(first, tl.minimum(first + GROUP, q)):
        found = distances(words, queries, W)
        radius = tl.load(radii + i)
        tl.store(nearer + entry, tl.sum(((found < radius) & exist).to(tl.int32)))
        if TIES:
            tl.store(ties + entry, tl.sum(((found == radius) & exist).to(tl.int32)))
        queries += W
        entry += n_blocks


@triton.jit(do_not_specialize=["n", "q"])
def collect(
    planes, queries, stride, n, q, radii, chosen, tied, starts, positions, far,
    W: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Write the positions (m,) int64 and distances (m,) int32 of the rows nearer than a radius, and of the first ties.

    The `chosen` rows of a query and a block are written from `starts` (q, blocks) on, in order of position, with the
    first `tied` rows at the radius among them.
    """
    n_groups = tl.cdiv(q, GROUP)
    block, first = tl.program_id(0) // n_groups, tl.program_id(0) % n_groups * GROUP
    words, exist = load_block(planes, stride, n, block, W, BLOCK)
    rows = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    n_blocks = tl.cdiv(n, BLOCK)
    offset = tl.cast(first, tl.int64)
    queries += offset * W
    entry = offset * n_blocks + block
    for i in range(first, tl.minimum(first + GROUP, q)):
        if tl.load(chosen + entry) > 0:
            found = distances(words, queries, W)
            radius = tl.load(radii + i)
            tie = ((found == radius) & exist).to(tl.int32)
            early = (tie > 0) & (tl.cumsum(tie) <= tl.load(tied + entry))
            take = ((found < radius) & exist) | early
            places = tl.load(starts + entry) + tl.cumsum(take.to(tl.int32)) - 1
            tl.store(positions + places, rows, mask=take)
            tl.store(far + places, found, mask=take)
        queries += W
        entry += n_blocks


@triton.jit(do_not_specialize=["m", "n_words"])
def pairs(queries, codes, query_rows, rows, far, m, n_words, BLOCK: tl.constexpr):
    """Write to far (m,) int32 the distances of queries[query_rows[i]] (q, n_words) and codes[rows[i]] (n, n_words)."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exist = places < m
    left = queries + tl.load(query_rows + places, mask=exist, other=0) * n_words
    right = codes + tl.load(rows + places, mask=exist, other=0) * n_words
    total = tl.zeros((BLOCK,), tl.int32)
    for w in range(n_words):
        total += popcount(tl.load(left + w, mask=exist, other=0) ^ tl.load(right + w, mask=exist, other=0))
    tl.store(far + places, total, mask=exist)
