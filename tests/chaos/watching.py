"""A watcher in this process over a folder of small versions: what it takes must be whole and ours."""

from service.errors import VersionRefusedError
from service.lifecycle import VersionState
from service.metrics import Metrics
from service.registry import Registry
from service.repository import Repository, check_identity, read_version
from service.settings import Settings
from service.watcher import Watcher
from tests.service.fake_versions import make_version


class Watching:
    """A watcher of model `m`, without TensorFlow; `load` checks every hash.

    Args:
        models_dir: the folder.

    `served` lists the newest version that answered, each time that it was another one.
    """

    def __init__(self, models_dir):
        self.registry = Registry()
        self.served = []
        self.refused = set()
        self.waited_for = set()
        self._watcher = Watcher(
            Repository(models_dir), self.registry, self._load, Metrics(), Settings(models_dir=models_dir)
        )

    def scan(self):
        """Look once; note what was refused or seen without a manifest."""
        self._watcher.scan()
        for model in self.registry.models():
            for status in model.versions:
                if status.rule:
                    self.refused.add((status.version, status.rule))
                if "waiting" in status.reason:
                    self.waited_for.add(status.version)
            newest = max(self.live, default=0)
            if newest != (self.served or [0])[-1]:
                self.served.append(newest)

    @property
    def live(self):
        """The versions that answer."""
        return [each.version for each in self.registry.statuses("m") if each.state is VersionState.AVAILABLE]

    def close(self):
        """Let go of all versions."""
        self.registry.close()

    def _load(self, folder):
        found = read_version(folder.path).manifest
        if found is None:
            raise VersionRefusedError("manifest-missing", "half a version")
        check_identity(found, folder.model, folder.version)
        return make_version(folder.model, folder.version)
