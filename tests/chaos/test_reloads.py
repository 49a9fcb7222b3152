"""Hundreds of reloads: what a version took is given back, to the last thread and descriptor."""

import operator

import numpy as np
import psutil
import pytest

from tests.chaos.ramp_versions import MODEL
from tests.end_to_end.clients import RestClient

WARM = 20
MIB = 1 << 20
LONG = [pytest.mark.chaos, pytest.mark.timeout(3600)]


def footprint(process):
    """Return a process' own memory (USS: what would be free if it ended), threads and descriptors."""
    return process.memory_full_info().uss, process.num_threads(), process.num_fds()


def has_let_go(server, version):
    """Whether a server has ended every version but this one."""
    states = {number: state for number, (state, _) in server.versions(MODEL).items()}
    return states.pop(version) == "AVAILABLE" and set(states.values()) <= {"END"}


@pytest.mark.parametrize(
    ("num_reloads", "engine"),
    [(6, "program"), pytest.param(500, "program", marks=LONG), pytest.param(500, "tensorflow", marks=LONG)],
)
def test_nothing_grows_when_versions_are_reloaded(  # noqa: PLR0913  (fixtures)
    num_reloads, engine, serve, ramps, tmp_path, wait_until, report
):
    """After the warm ones: no thread and no descriptor more, and less than 2 MiB more, here and over there."""
    models_dir = tmp_path / "models"
    ramps.publish(models_dir, 1)
    server = serve(models_dir, "--engine", engine)
    serving = psutil.Process(server.process.pid)
    (loading,) = serving.children()
    asker = RestClient(server.address("rest"), ramps.rows, MODEL, raw=True)
    warm = min(WARM, num_reloads // 2)
    history = []
    for version in range(2, warm + num_reloads + 2):
        ramps.publish(models_dir, version)
        wait_until(lambda wanted=version: asker.ask()[0] == wanted, 60.0)
        if version > 2:
            ramps.remove(models_dir, version - 2)
        wait_until(lambda wanted=version: has_let_go(server, wanted))
        if version > warm:
            history.append([footprint(process) for process in (serving, loading)])
    asker.close()
    (first_serving, first_loading) = history[0]
    for process, first in zip((serving, loading), history[0], strict=True):
        wait_until(lambda process=process, first=first: all(map(operator.le, footprint(process)[1:], first[1:])))
    last_serving, last_loading = (footprint(process) for process in (serving, loading))
    growth = [last[0] - first[0] for first, last in ((first_serving, last_serving), (first_loading, last_loading))]
    middle = np.array([[serving[0], loading[0]] for serving, loading in history[len(history) // 5 :]])
    slopes = [np.polyfit(np.arange(len(middle)), middle[:, side], 1)[0] * num_reloads for side in (0, 1)]
    report(
        reloads=num_reloads,
        engine=engine,
        mib=[round(value[0] / MIB, 1) for value in (last_serving, last_loading)],
        growth_mib=[round(value / MIB, 2) for value in growth],
        fitted_growth_mib=[round(float(value) / MIB, 2) for value in slopes],
        threads=(first_serving[1], last_serving[1], first_loading[1], last_loading[1]),
        descriptors=(first_serving[2], last_serving[2], first_loading[2], last_loading[2]),
    )
    if num_reloads > WARM:
        assert growth[0] < 2 * MIB
        assert growth[1] < 2 * MIB  # it reads no version itself
