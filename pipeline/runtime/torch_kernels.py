"""What ``torch.compile`` builds lies in a folder that is gone when the work is done."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def kernel_folder(wanted: bool) -> Iterator[None]:
    """Have torch keep its compiled kernels in a temporary folder, and remove that in the end.

    Processes that are started meanwhile use it as well. A folder that the user has named stays.

    Args:
        wanted: something will be compiled.
    """
    if not wanted or FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER]
