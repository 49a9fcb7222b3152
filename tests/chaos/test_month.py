"""A month of nights, a fault on every third: unattended, told in full, and what is served never gets worse."""

import itertools

import pytest

from tests.chaos.month import TOLERANCE, Month, flipped, in_square_centimetres, read_only, with_gaps
from tests.end_to_end.conftest import run_training as run_training  # a fixture
from tests.training.local_webhook import webhook
from training import journal, pipeline

LONG = [pytest.mark.chaos, pytest.mark.timeout(900)]
LONG_AGO = "2001-01-01T00:00:00Z"
FULL_NIGHTS, FULL_STEPS, FULL_WEIGHTS = 30, 240, 5
FULL = {
    4: "killed in training", 6: "gaps", 8: "flipped labels", 11: "killed in publishing", 13: "corrupt champion",
    15: "second job", 17: "disk full", 20: "another unit", 22: "clock set back", 24: "worse network", 27: "read only",
}  # fmt: skip
SHORT_NIGHTS, SHORT_STEPS, SHORT_WEIGHTS = 5, 80, 1
SHORT = {2: "flipped labels", 3: "gaps", 4: "read only"}


class Nights:
    """How each kind of night is run, and what the journal must say of it.

    Args:
        month: the job and its data.
        main: runs a command line of training in this process and returns its exit code.
        nursery: forks jobs that can be killed.
        monkeypatch: for clocks and disks.
        wait_until: the fixture.
    """

    def __init__(self, month, main, nursery, monkeypatch, wait_until):
        self.month, self.main, self.nursery = month, main, nursery
        self.monkeypatch, self.wait_until = monkeypatch, wait_until

    def run(self, fault):
        """Run tonight's job with a fault ("" for none); return the outcomes that the journal must have of it."""
        return getattr(self, f"_{fault.replace(' ', '_') or 'plain'}")()

    def _expect(self, code, outcome, *arguments):
        assert code == self.main(*arguments)
        return [outcome]

    def _plain(self):
        return self._expect(0, journal.PUBLISHED, *self.month.tonight())

    def _gaps(self):
        return self._expect(1, journal.FAILED, *self.month.tonight(with_gaps))

    def _flipped_labels(self):
        return self._expect(3, journal.REFUSED, *self.month.tonight(flipped))

    def _another_unit(self):
        return self._expect(3, journal.REFUSED, *self.month.tonight(in_square_centimetres))

    def _worse_network(self):
        return self._expect(3, journal.REFUSED, *self.month.tonight(hidden="[2]", steps=1, rate=1e-4))

    def _corrupt_champion(self):
        self.month.corrupt_newest()
        return self._plain()

    def _clock_set_back(self):
        with self.monkeypatch.context() as patch:
            for module in (pipeline, journal):
                patch.setattr(module, "utc_now", lambda: LONG_AGO)
            outcome = self._plain()
        assert LONG_AGO == self.month.manifest(self.month.versions()[-1])["created"]
        return outcome

    def _read_only(self):
        arguments = self.month.tonight()
        with read_only(self.monkeypatch, self.month.models):
            assert 1 == self.main(*arguments)
        return []  # there is nowhere to write a record; the log and the hook have told

    def _killed_in_training(self):
        job = self.nursery.start(*self.month.tonight(steps=1_000_000))
        self.wait_until(lambda: "train month: step 0 of" in job.said())
        job.kill()
        assert job.wait() < 0
        return [journal.KILLED]

    def _killed_in_publishing(self):
        before = self.month.versions()
        job = self.nursery.start(*self.month.tonight())
        self.wait_until(lambda: self._is_in("publish") or job.has_ended(), 60.0)
        job.kill()
        job.wait()
        assert len(self.month.versions()) - len(before) <= 1
        return [None]  # it may have got as far as the rename, or to its end: either is a night

    def _second_job(self):
        job = self.nursery.start(*self.month.tonight())
        self.wait_until(lambda: self._is_in("train"))
        assert 4 == self.main(*self.month.tonight())
        assert 0 == job.wait(), job.said()
        return [journal.PUBLISHED, journal.LOCKED]

    def _disk_full(self):
        job = self.nursery.start(*self.month.tonight())
        job.limit_files(40_000)
        assert 1 == job.wait(), job.said()
        return [journal.FAILED]

    def _is_in(self, step):
        return self.month.nights()[-1].record.get("step") == step


@pytest.mark.parametrize(
    ("num_nights", "faults", "steps", "num_weights"),
    [
        (SHORT_NIGHTS, SHORT, SHORT_STEPS, SHORT_WEIGHTS),
        pytest.param(FULL_NIGHTS, FULL, FULL_STEPS, FULL_WEIGHTS, marks=LONG),
    ],
    ids=["short", "full"],
)
def test_month_passes_unattended_and_what_is_served_never_gets_worse(  # noqa: PLR0913  (fixtures)
    num_nights, faults, steps, num_weights, tmp_path, run_training, nursery, monkeypatch, wait_until, report
):
    """Whatever befalls single nights, rows grow, no row changes sides, each run is told, and the error stays."""
    with webhook() as (address, taken):
        month = Month(tmp_path, 170, address, steps)
        month.look_at_the_sides(monkeypatch)
        nights = Nights(month, run_training, nursery, monkeypatch, wait_until)
        outcomes, errors, rows, served, weights = [], [], [], [], set()
        try:
            for night in range(1, num_nights + 1):
                if night > 1:
                    month.arrive(9, drift=0.05 * night)
                outcomes += nights.run(faults.get(night, ""))
                version, error = month.server.error(month.test)
                served.append(version)
                errors.append(error)
                newest = month.manifest(month.versions()[-1])
                rows.append(newest["data"]["rows"])
                weights.add(newest["certificate"]["weights_sha256"])
                assert [version] == month.server.live()
        finally:
            month.server.registry.close()
    _check_the_story(month.nights(), outcomes, taken, unrecorded=list(faults.values()).count("read only"))
    assert num_nights - len(faults) <= [document["event"] for _, _, document in taken].count("published")
    assert sorted(set(served)) == list(dict.fromkeys(served))  # forward only
    assert (rows, rows[-1] > rows[0]) == (sorted(rows), True)
    assert month.sides_seen > num_nights // 2
    assert set() == month.trained_on & month.held_out
    assert len(month.held_out) > 30
    assert len(weights) >= num_weights  # nights that only repeat the champion would prove little
    assert max(errors) <= errors[0] + TOLERANCE
    assert max(late - early for early, late in itertools.pairwise(errors)) <= TOLERANCE
    report(
        nights=num_nights,
        runs=len(outcomes),
        faults=len(faults),
        published=len(set(served)),
        weights=len(weights),
        rows=f"{rows[0]} to {rows[-1]}",
        error=f"{errors[0]:.4f} first, {max(errors):.4f} largest, {errors[-1]:.4f} last",
    )


def _check_the_story(found, outcomes, taken, *, unrecorded):
    """Require that the journal has every run with its outcome, its reasons and its report, and that the hook had them.

    Args:
        found: the journal.
        outcomes: what it must say, None for either.
        taken: what the hook was told.
        unrecorded: how many runs failed where no record could be written.
    """
    pairs = list(zip(outcomes, (one.outcome for one in found), strict=True))
    assert [] == [(expected, outcome) for expected, outcome in pairs if expected not in (outcome, None)]
    judged = [one for one in found if one.outcome in {journal.PUBLISHED, journal.REFUSED}]
    assert all((one.path / "report.html").exists() and one.record["gate"]["metric"] == "roc_auc" for one in judged)
    assert all(bool(one.record["reasons"]) == (one.outcome == journal.REFUSED) for one in judged)
    assert all(one.record["error"] for one in found if one.outcome in {journal.FAILED, journal.LOCKED})
    assert {one.record["step"] for one in found if one.outcome == journal.KILLED} <= {"train", "publish", "prune"}
    told = {journal.REFUSED: "refused", journal.FAILED: "failed", journal.LOCKED: "failed"}
    expected = [told[one.outcome] for one in found if one.outcome in told] + ["failed"] * unrecorded
    events = [document["event"] for _, _, document in taken if document["event"] != "published"]
    assert sorted(expected) == sorted(events)
