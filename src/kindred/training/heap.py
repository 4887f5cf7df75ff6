"""Memory that one step frees and the next one takes again, kept in between."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_THRESHOLD = 32 << 20  # of the second; larger blocks are mapped anew each time
SETTINGS = {"GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}  # the user's own


def keep_freed_memory() -> None:
    """Have GNU's malloc keep what is freed, instead of handing it back to the system at every step.

    Otherwise an encoder's activations are new pages at each step, and the system fills every one with zeros first. No
    process gets larger by it than it was at its largest. Other systems' malloc is left alone, as is what the user has set.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and not os.environ.keys() & SETTINGS:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
