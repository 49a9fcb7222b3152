"""A clock that goes back, or far ahead: versions still go up, none is pruned wrongly, servers go on to the newest."""

import itertools
import os
import random

import pytest

from service.repository import Repository, read_version
from tests.chaos.publishers import fill
from tests.chaos.watching import Watching
from tests.training.small_versions import document
from training import publish
from training.rollback import rollback

LONG = [pytest.mark.chaos, pytest.mark.timeout(1200)]
TIMES = ("1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2026-11-20T03:00:12Z", "2038-01-19T03:14:08Z")
FAR = "9999-12-31T23:59:59Z"
KEEP = 4


class WildClock:
    """Says another time whenever it is asked, back and ahead by years, and gives it to the files too.

    Args:
        seed: of the times.
    """

    def __init__(self, seed):
        self._rng = random.Random(seed)  # noqa: S311
        self.said = []

    def __call__(self):
        """Return a time as a manifest writes it."""
        self.said.append(self._rng.choice([*TIMES, FAR]))
        return self.said[-1]

    def age(self, folder):
        """Let the files and folders below look as if they came from another time."""
        for path in (folder, *folder.rglob("*")):
            seconds = self._rng.randrange(0, 2**33)
            os.utime(path, (seconds, seconds))

    @property
    def num_steps_back(self):
        """How often it went back."""
        return sum(later < earlier for earlier, later in itertools.pairwise(self.said))


def night(models_dir, clock):
    """Publish and prune, as a night does; the clock stands anywhere."""
    with publish.lock(models_dir, "m") as folder:
        with folder.staging() as staged:
            fill(staged)
            clock.age(staged)
            version = folder.publish(staged, lambda *args: {**document(*args), "created": clock()}).version
        return version, folder.prune(KEEP)


def night_by_time(models_dir, clock, number):
    """Number a version by the clock, and remove what looks oldest: both wrong."""
    path = models_dir / "m" / str(number)
    path.mkdir(parents=True)
    clock.age(path)
    oldest = sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime)[:-KEEP]
    for each in oldest:
        each.rmdir()
    return int(clock()[:4]), [int(each.name) for each in oldest]


def is_in_order(given, removed):
    """Whether each number is one more than the last, and only the lowest were removed, each once."""
    gone = [number for numbers in removed for number in numbers]
    return given == list(range(1, len(given) + 1)) and gone == list(range(1, len(gone) + 1))


@pytest.mark.parametrize("nights", [20, pytest.param(200, marks=LONG)])
def test_versions_go_up_and_servers_follow_whatever_the_clock_says(nights, tmp_path, report):
    """Each night takes the next number, the lowest ones go, and the server is at the highest after every look."""
    clock, watching = WildClock(nights), Watching(tmp_path)
    given, removed = [], []
    for number in range(nights):
        if number % 7 == 5:
            to = Repository(tmp_path).versions("m")[0].version
            given.append(rollback(tmp_path, "m", to, prove=lambda *_: None, now=clock).version.version)
        else:
            version, pruned = night(tmp_path, clock)
            given.append(version)
            removed.append(pruned)
        watching.scan()
        assert given[-1] == max(watching.live)
    watching.close()
    assert is_in_order(given, removed)
    assert (set(), set()) == (watching.refused, watching.waited_for)
    folders = Repository(tmp_path).versions("m")
    assert KEEP <= len(folders) <= KEEP + 1
    manifests = [read_version(folder.path).manifest for folder in folders]
    assert clock.said[-len(folders) :] == [found.created for found in manifests]
    assert clock.num_steps_back > nights // 4
    report(nights=nights, steps_back=clock.num_steps_back, highest=given[-1])


def test_version_that_is_older_than_its_parent_by_the_clock_is_a_version_like_any_other(tmp_path):
    """A rollback made in 1970 of a version of 9999: served, champion's number, labelled, and kept by the pruning."""
    for _ in range(2):
        with publish.lock(tmp_path, "m") as folder, folder.staging() as staged:
            fill(staged)
            folder.publish(staged, lambda *args: {**document(*args), "created": FAR})
    publish.label_moves.write(tmp_path / "m", {"stable": 2})
    done = rollback(tmp_path, "m", 1, prove=lambda *_: None, now=lambda: TIMES[0])
    with publish.lock(tmp_path, "m") as folder:
        assert [1, 2] == folder.prune(keep=1)
        assert {"stable": 3} == folder.repository.labels("m")
    watching = Watching(tmp_path)
    watching.scan()
    assert ([3], TIMES[0]) == (watching.live, read_version(done.version.path).manifest.created)
    watching.close()


def test_lock_file_and_leftovers_of_the_future_are_no_hindrance(tmp_path):
    """What a job left when the clock was far ahead is swept all the same, and its lock is free."""
    with publish.lock(tmp_path, "m") as folder, folder.staging() as staged:
        fill(staged)
        folder.publish(staged, document)
    for name in (".lock", ".staging-future"):
        (tmp_path / "m" / name).write_bytes(b"")
        os.utime(tmp_path / "m" / name, (2**33, 2**33))
    with publish.lock(tmp_path, "m") as folder:
        assert {".lock", "1"} == set(os.listdir(folder.path))


def test_numbering_and_pruning_by_the_clock_are_found_out(tmp_path):
    """The check refuses a publisher whose numbers are times, and one that removes what looks oldest."""
    clock = WildClock(1)
    nights = [night_by_time(tmp_path, clock, number) for number in range(1, 13)]
    given, removed = zip(*nights, strict=True)
    assert not is_in_order(list(given), [])
    assert not is_in_order(list(range(1, 13)), removed)
    assert is_in_order([1, 2, 3], [[], [1], [2]])
