"""The threads of the libraries that work below: one each, since work is shared out above them."""

from __future__ import annotations

import os

import torch
from threadpoolctl import threadpool_limits

_UNREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What a BLAS asks for its number of threads when it is loaded, as SciPy's is late."""


def one_thread_each() -> None:
    """Let PyTorch, and the BLAS of NumPy and SciPy, work on one thread in this process from now on.

    More would wait for one another at each step of an LSTM, and for the threads that share the weeks of a batch
    (`heartnet.model.pieces`): the amnesia profile of the full DeepHeart takes a tenth longer then, and twice as long
    where another program keeps a core busy.
    """
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    for name in _UNREAD:
        os.environ.setdefault(name, "1")
