"""The inner loops of storage.files.parquet_pages, compiled by Numba on first use and cached on disk.

Pages are read-only bytes (n,) uint8. Numba does not check indices, so each loop compares them with the end itself.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LOW, HIGH = np.uint64(0x7F800000), np.uint64(0x7F800000 << 32)  # exponents of two float32 in a word, if not finite


@intrinsic
def load_word(typing, data, at):
    """Return the 8 bytes at data[at], little-endian, as uint64."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        word = ir.IntType(64)
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), word.as_pointer())
        return builder.load(pointer, align=1, typ=word)

    return types.uint64(data, types.intp), codegen


@njit(nogil=True, cache=True)
def all_finite(data):
    """Return whether the float32 values in bytes (4 * n,) are all finite."""
    others = 0
    for i in range(len(data) // 8):  # LLVM vectorizes this form
        word = load_word(data, 8 * i)
        others += (word & LOW == LOW) | (word & HIGH == HIGH)
    if len(data) % 8:
        others += (data[-1] & 127 == 127) & (data[-2] >= 128)
    return others == 0


@njit(nogil=True, inline="always")
def run_header(data, at, stop):
    """Return (header, next position) of a run of the RLE/bit-packed hybrid; header 0, which none has, if it is cut."""
    header = 0
    for shift in range(0, 35, 7):
        if at >= stop:
            return 0, at
        byte = np.int64(data[at])
        at += 1
        header |= (byte & 127) << shift
        if byte < 128:
            return header, at
    return 0, at


@njit(nogil=True, cache=True)
def levels_equal(data, at, stop, width, value, count):
    """Return whether data[at:stop] encodes `count` levels of `width` <= 8 bits that all have this value."""
    expected = np.uint64(0)  # a group of eight levels
    for j in range(8):
        expected |= np.uint64(value) << np.uint64(j * width)
    done = 0
    while done < count:
        header, at = run_header(data, at, stop)
        n = header >> 1
        if n <= 0:
            return False
        if header & 1 == 0:
            if at >= stop or data[at] != value:
                return False
            at += 1
            done += n
            continue
        if n > (stop - at) // width:
            return False
        for _ in range(n):
            group = np.uint64(0)
            for k in range(width):
                group |= np.uint64(data[at + k]) << np.uint64(8 * k)
            at += width
            bits = min(8, max(0, count - done)) * width
            mask = ~np.uint64(0) if bits == 64 else (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
            if (group ^ expected) & mask:
                return False
            done += 8
    return True


@njit(nogil=True, cache=True)
def levels_start_rows(data, at, stop, phase, dim, count):
    """Return whether data[at:stop] encodes `count` repetition levels of rows of `dim` values.

    They are 0 for the first value of a row and 1 for the others. The first level belongs to value `phase` of its row.
    """
    start = 0 if phase == 0 else dim - phase  # of the next row
    done = 0
    while done < count:
        header, at = run_header(data, at, stop)
        n = header >> 1
        if n <= 0:
            return False
        if header & 1 == 0:
            if at >= stop:
                return False
            n = min(n, count - done)
            if data[at] == 1:
                if start < done + n:
                    return False
            elif data[at] == 0 and start == done and (n == 1 or dim == 1):
                start += n * dim
            else:
                return False
            at += 1
            done += n
            continue
        if n > stop - at:
            return False
        for _ in range(n):
            size = min(8, max(0, count - done))
            expected = (1 << size) - 1
            while start < done + size:
                expected &= ~(1 << (start - done))
                start += dim
            if (data[at] ^ expected) & ((1 << size) - 1):
                return False
            at += 1
            done += size
    return True


@njit(nogil=True, cache=True)
def gather(data, state, width, known, dictionary, out):
    """Fill out (n,) float32 with the values of the next n indices, and return whether all of them are valid.

    Parameters
    ----------
    data : runs of indices of `width` bits; width <= 24
    state : (4,) int64, changed: the position of the next run, the indices left in this one, and its value or, with
        the value -1, the bit where its next index begins
    known : number of values in the dictionary
    dictionary : (2^width,) float32, filled up with anything
    """
    at, left, value, bit = state
    mask, done, largest, stop = (1 << width) - 1, 0, 0, len(data)
    while done < len(out):
        if left == 0:
            header, at = run_header(data, at, stop)
            left = header >> 1
            if left <= 0:
                return False
            if header & 1:
                if left > (stop - at) // max(width, 1):
                    return False
                value, bit = -1, 8 * at
                at += left * width
                left *= 8
            else:
                size = (width + 7) // 8
                if size > stop - at:
                    return False
                value = 0
                for k in range(size):
                    value |= np.int64(data[at + k]) << (8 * k)
                at += size
                if value > mask:
                    return False
        n = min(left, len(out) - done)
        if value >= 0:
            largest = max(largest, value)
            out[done : done + n] = dictionary[value]
        elif width == 8:
            start = bit // 8
            for index in data[start : start + n]:
                largest = max(largest, np.int64(index))
            for k in range(n):
                out[done + k] = dictionary[data[start + k]]
            bit += 8 * n
        else:
            for k in range(n):
                first = bit >> 3
                if first + 8 <= stop:
                    word = np.int64(load_word(data, first) >> np.uint64(bit & 7))
                else:
                    word = 0
                    for b in range(first, stop):
                        word |= np.int64(data[b]) << (8 * (b - first))
                    word >>= bit & 7
                index = word & mask
                largest = max(largest, index)
                out[done + k] = dictionary[index]
                bit += width
        done += n
        left -= n
    state[0], state[1], state[2], state[3] = at, left, value, bit
    return largest < known


@njit(nogil=True, cache=True)
def join_streams(data, count, start, out):
    """Fill out (n,) uint32 with values start to start + n, of `count` whose bytes are split into four streams."""
    for block in range(0, len(out), 4096):
        part = out[block : block + 4096]
        first, n = start + block, len(part)
        s0, s1 = data[first : first + n], data[count + first : count + first + n]
        s2, s3 = data[2 * count + first : 2 * count + first + n], data[3 * count + first : 3 * count + first + n]
        for i in range(n):
            low = np.uint32(s0[i]) | np.uint32(s1[i]) << np.uint32(8)
            part[i] = low | np.uint32(s2[i]) << np.uint32(16) | np.uint32(s3[i]) << np.uint32(24)


@njit(nogil=True, cache=True)
def lz4_size(data):
    """Return the number of bytes that a raw LZ4 block decodes to, or -1 if it is cut."""
    at, size, stop = 0, 0, len(data)
    while at < stop:
        token = np.int64(data[at])
        at += 1
        for part in range(2):  # literals, then a match, which the last sequence does not have
            length = token >> 4 if part == 0 else token & 15
            if part == 1:
                at += 2
            if length == 15:
                while True:
                    if at >= stop:
                        return -1
                    more = np.int64(data[at])
                    at += 1
                    length += more
                    if more < 255:
                        break
            if part == 0:
                size += length
                at += length
                if at >= stop:
                    return size if at == stop else -1
            else:
                size += length + 4
    return -1
