"""The state that a run depends on: which pages of files are cached, and whether free memory is backed. As bench/bench_pages.h."""
import ctypes
import mmap
import os
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
MADV_HUGEPAGE, MADV_POPULATE_WRITE = 14, 23
PRIME_FACTOR = 2.2  # of the file
COLD_MAX, CACHED_MIN = 0.01, 0.99


def resident(path):
    """The fraction of a file's pages that are in the page cache."""
    n = os.path.getsize(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        at = LIBC.mmap(None, n, 0, mmap.MAP_SHARED, fd, 0)
        pages = (n + 4095) // 4096
        seen = (ctypes.c_ubyte * pages)()
        if at in (None, ctypes.c_void_p(-1).value) or LIBC.mincore(at, n, seen):
            raise OSError(ctypes.get_errno(), f"mincore {path}")
        LIBC.munmap(at, n)
    finally:
        os.close(fd)
    return bytes(seen).count(1) / pages  # mincore sets bit 0 and leaves the others 0


def evict(paths):
    """Drops the files from the page cache; the largest fraction that stayed. Needs no root."""
    for attempt in range(5):
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        left = max(map(resident, paths))
        if left < COLD_MAX:
            return left
        time.sleep(0.2)
    raise SystemExit(f"{100 * left:.1f} % of {paths} stay in the page cache: a process has them mapped")


def fill(paths):
    buffer = bytearray(4 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass
    return min(map(resident, paths))


def available():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable:")) * 1024


def prime(n):
    """Touches memory in huge pages on all cores and gives it back, so that what runs next finds it backed."""
    n = int(min(n, 0.7 * available())) & ~((2 << 20) - 1)
    at = LIBC.mmap(None, n, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    LIBC.madvise(at, n, MADV_HUGEPAGE)
    part = n // os.cpu_count() & ~((2 << 20) - 1)
    threads = [threading.Thread(target=LIBC.madvise, args=(at + i * part, part, MADV_POPULATE_WRITE))
               for i in range(os.cpu_count())]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    LIBC.munmap(at, n)
