"""The compiled kernel, where this machine has one."""

import pytest

from service.program.kernel.library import Library, library


@pytest.fixture(scope="session")
def compiled_code() -> Library:
    """Return the compiled code of the kernel; where no compiler could be had its tests are listed as not run."""
    found = library()
    if found is None:
        pytest.skip("no C compiler could be had: the kernel is not compiled")
    return found
